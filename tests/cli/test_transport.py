"""`euston transport`: what is printed is JSON or a table, bad input is one line and exit code 2."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from euston.cli._app import app

RUN = CliRunner()


def run(*words):
    return RUN.invoke(app, ["transport", *words])


def test_plan_says_what_to_do_and_what_not():
    fast = run(
        "plan", "--size", "40 MB", "--workers", "8", "--bandwidth", "800 Gb/s", "--codec", "eden:4", "--json"
    )
    found = json.loads(fast.stdout)
    assert fast.exit_code == 0 and found["best"] == "none"
    assert found["advice"][0].startswith("do not compress here")
    slow = run("plan", "--size", "4 MB", "--workers", "8", "--bandwidth", "10 Mb/s", "--codec", "eden:1")
    assert slow.exit_code == 0 and "use eden:1" in slow.stdout


def test_bench_lists_rates():
    found = json.loads(run("bench", "--size", "1 MB", "--codec", "eden:2", "--json").stdout)
    assert found["rows"][0]["codec"] == "eden:2" and found["copy"] > 0 < found["rows"][0]["encode"]


@pytest.mark.slow
def test_reduce_over_real_sockets():
    words = (
        "--ranks",
        "2",
        "--size",
        "200 kB",
        "--steps",
        "6",
        "--loss",
        "0.02",
        "--bound",
        "500 ms",
        "--json",
    )
    done = run("reduce", *words)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert len(found["ranks"]) == 2 and found["summary"]["nmse"] < 0.2


PLAN = ("plan", "--size", "1 GB", "--bandwidth", "1 Gb/s", "--workers")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("plan", "--size", "1", "--workers", "8", "--bandwidth", "1 Gb/s"), "has no unit"),
        (
            ("plan", "--size", "1 GB", "--workers", "1", "--bandwidth", "1 Gb/s", "--codec", "none"),
            "`workers`: 1",
        ),
        ((*PLAN, "4", "--codec", "edn"), "'eden'"),
        (("bench", "--codec", "eden:four"), "write a name and bits"),
        (("bench", "--codec", "fp16:4"), "fp16 has no bits to choose"),
        (("reduce", "--codec", "edn"), "'eden'"),
        (("reduce", "--ranks", "0"), "at least 1"),
        (("reduce", "--loss", "2"), "`--loss`: 2"),
    ],
)
def test_bad_input(words, message):
    done = run(*words)
    assert done.exit_code == 2 and message in done.stderr and "Traceback" not in done.output
