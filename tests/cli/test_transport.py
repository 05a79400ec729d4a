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
            "`--workers`: 1",
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


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("plan --size 0B --workers 4 --bandwidth 1Gb/s", "`--size`"),
        ("plan --size 1MB --workers 1 --bandwidth 1Gb/s", "`--workers`"),
        ("plan --size 1MB --workers 4 --bandwidth 0Gb/s", "`--bandwidth`"),
        ("plan --size 1MB --workers 4 --bandwidth 1Gb/s --cores 0", "`--cores`"),
        ("plan --size 1MB --workers 4 --bandwidth 1Gb/s --error nan", "`--error`"),
        ("reduce --mtu 50", "`--mtu`"),
        ("reduce --rule mean", "aggregation rule 'mean'"),
        ("reduce --ranks 9999", "`--ranks`"),
        ("reduce --loss 0.1 --burst nan", "`--burst`"),
        ("bench --size 3B", "`--size`"),
    ],
)
def test_bad_input_is_said_before_anything_runs(words, said):
    done = run(*words.split())
    assert done.exit_code == 2 and said in done.stderr and "starting" not in done.stderr


def test_sums_are_made_wide_enough_for_the_workers():
    words = "plan --size 1MB --workers 100 --bandwidth 1Gb/s --codec thc:4 --json"
    rows = json.loads(run(*words.split()).stdout)["rows"]
    row = next(one for one in rows if one["codec"] == "thc:4")
    assert row["ratio"] == pytest.approx((4 + 16) / 2 / 32, rel=0.1)
