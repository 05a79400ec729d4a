"""The command line is a contract: what is on stdout, what is on stderr, and the exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from typer.testing import CliRunner
from typer.testing import Result as Outcome

import euston.simulate  # noqa: F401  (the module, patched below by its name in sys.modules)
from euston.cli import app
from euston.errors import SimulationError
from euston.result import Result
from euston.scenario import Scenario

ROOT = Path(__file__).parents[2]
EXAMPLE = str(ROOT / "examples" / "two-jobs.yaml")
COMMANDS = ("simulate", "compare", "net", "validate", "schema", "catalog", "doctor", "reproduce")


def run(*arguments: str | Path) -> Outcome:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def small(**parts: Any) -> str:
    """A scenario of eight accelerators as YAML (JSON is YAML 1.2)."""
    site = {"name": "m", "accelerator": "h100-sxm", "hosts": 1, "fabric": {"kind": "clos", "nic": "400 Gb/s"}}
    job = {
        "name": "a",
        "kind": "training",
        "model": {"layers": 4, "hidden": 4096, "heads": 32, "kv_heads": 8, "ffn": 14336, "vocab": 32000},
        "parallel": {"tensor": 8, "sequence": True},
        "batch": {"global": 4, "sequence": 4096},
    }
    return json.dumps({"version": 1, "name": "small", "sites": [site], "jobs": [job | parts]})


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Result:
    """A result handed out in place of a simulation."""
    result = Result(
        kind="training",
        scalars={"step_time": 2.0, "mfu": 0.42, "tflops_per_accelerator": 415.0},
        units={"step_time": "s", "mfu": "1", "tflops_per_accelerator": "TFLOP/s"},
        tables={
            "breakdown": pl.DataFrame(
                {"kind": ["compute", "bubble"], "seconds": [1.5, 0.5], "share": [0.75, 0.25]}
            ),
            "reference": pl.DataFrame(
                {
                    "quantity": ["mfu"],
                    "published": [0.4],
                    "ours": [0.42],
                    "error": [0.05],
                    "source": ["Table 4"],
                }
            ),
            "sweep": pl.DataFrame(
                {
                    "virtual": [1, 2],
                    "step_time": [2.5, 2.0],
                    "tflops_per_accelerator": [332.0, 415.0],
                    "mfu": [0.336, 0.42],
                    "fits": [True, False],
                }
            ),
        },
        meta={"title": "A [red]title[/red] \x1b[31m", "assumptions": [{"where": "x", "kind": "default"}]},
    )

    def simulate(source: Scenario, *, seed: int | None = None, progress: Any = None) -> Result:
        assert isinstance(source, Scenario)
        progress("working")
        result.meta["seed"] = seed
        return result

    monkeypatch.setattr(sys.modules["euston.simulate"], "simulate", simulate)
    return result


def test_help_names_every_command() -> None:
    outcome = run("--help")
    assert outcome.exit_code == 0
    for command in COMMANDS:
        assert command in outcome.stdout
        assert run(command, "--help").exit_code == 0
    assert run("--version").stdout.startswith("euston ")


def test_help_imports_nothing_heavy() -> None:
    """`euston --help` answers at once because of what it does not import."""
    code = "import sys, euston.cli; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"numba", "scipy", "polars", "plotly", "numpy", "pydantic", "jinja2", "ruamel"} & set(loaded)


def test_simulate_prints_what_a_person_wants(fake: Result) -> None:
    outcome = run("simulate", EXAMPLE)
    assert outcome.exit_code == 0
    lines = [line.rstrip() for line in outcome.stdout.splitlines()]
    assert (
        lines[0] == "A [red]title[/red] \N{REPLACEMENT CHARACTER}[31m"
    )  # neither markup nor escapes of the file
    table = {line.split("  ")[0]: line.split() for line in lines if line}
    assert table["Step time"][-2:] == ["2", "s"]
    assert table["MFU"] == ["MFU", "42.0", "%", "40.0", "%", "+5.0", "%"]
    assert table["Compute"][1:5] == ["1.5", "s", "75.0", "%"]
    assert any(line.split()[:3] == ["1", "2.5", "s"] for line in lines)
    assert any(line.endswith("does not fit") for line in lines)
    assert "1 input is assumed, defaulted, transferred or recalled; the report lists it." in lines
    assert outcome.stderr == ""


def test_simulate_json_is_alone_on_stdout(fake: Result, tmp_path: Path) -> None:
    report = tmp_path / "r.html"
    outcome = run(
        "simulate", EXAMPLE, "--json", "--seed", "7", "--report", report, "--save", tmp_path / "saved"
    )
    assert outcome.exit_code == 0
    document = json.loads(outcome.stdout)
    assert document["version"] == 1
    assert document["scalars"]["step_time"] == 2.0
    assert document["meta"]["seed"] == 7
    assert report.read_bytes().startswith(b"<!DOCTYPE html>")
    assert Result.load(tmp_path / "saved").step_time == 2.0


def test_quiet_prints_nothing(fake: Result, tmp_path: Path) -> None:
    outcome = run("simulate", EXAMPLE, "--quiet", "--report", tmp_path / "r.json")
    assert (outcome.exit_code, outcome.stdout, outcome.stderr) == (0, "", "")
    assert (tmp_path / "r.json").exists()


def test_messages_about_files_go_to_stderr(fake: Result, tmp_path: Path) -> None:
    outcome = run("simulate", EXAMPLE, "--report", tmp_path / "r.json", "--report", tmp_path / "r.html")
    assert outcome.stderr == f"report: {tmp_path / 'r.json'}\nreport: {tmp_path / 'r.html'}\n"


def test_failing_while_running_is_exit_code_1(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(*_: object, **__: object) -> Result:
        raise SimulationError("rank 3 waits for itself")

    monkeypatch.setattr(sys.modules["euston.simulate"], "simulate", fail)
    outcome = run("simulate", EXAMPLE, "--report", tmp_path / "r.html", "--json")
    assert outcome.exit_code == 1
    assert outcome.stdout == ""
    assert outcome.stderr == f"error: {EXAMPLE}: rank 3 waits for itself\n"
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_is_130_and_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> Result:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["euston.simulate"], "simulate", interrupted)
    outcome = run("simulate", EXAMPLE)
    assert (outcome.exit_code, outcome.stdout, outcome.stderr) == (
        130,
        "",
        "interrupted; nothing was written\n",
    )


def test_bad_input_is_exit_code_2_and_one_line(tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text(small(parallel={"tensor": 3}))
    place = f"{bad}:1:{bad.read_text().index('tensor')}"
    cases = [
        (
            ("simulate", bad),
            f"{place}: `jobs[0].parallel.tensor`: 3 does not divide 32 heads; nearest 2 or 4",
        ),
        (("simulate", tmp_path / "no.yaml"), f"{tmp_path / 'no.yaml'}: no such file"),
        (
            ("simulate", EXAMPLE, "--report", "r.pdf"),
            "r.pdf: no report format has this suffix; use .html, .perfetto.json.gz, .json",
        ),
        (("catalog", "show", "h10"), "unknown catalogue entry 'h10'; did you mean 'h100-sxm'?"),
        (
            ("catalog", "list", "acelerators"),
            "unknown kind of catalogue entry 'acelerators'; did you mean 'accelerators'?",
        ),
        (("reproduce",), None),
        (("reproduce", "trainin"), "unknown study 'trainin'; did you mean 'training'?"),
    ]
    for arguments, message in cases:
        outcome = run(*arguments)
        assert outcome.exit_code == 2, arguments
        assert outcome.stdout == ""
        assert outcome.stderr.startswith("error: ")
        assert outcome.stderr.count("\n") == 1
        if message is not None:
            assert outcome.stderr == f"error: {message}\n"
    assert list(tmp_path.iterdir()) == [bad]


def test_usage_errors_are_exit_code_2() -> None:
    for arguments in (
        ("simulate",),
        ("simulate", EXAMPLE, "--nope"),
        ("simulat",),
        ("simulate", EXAMPLE, "--seed", "-1"),
    ):
        outcome = run(*arguments)
        assert outcome.exit_code == 2, arguments
        assert outcome.stdout == ""


def test_a_truncated_result_is_bad_input(fake: Result, tmp_path: Path) -> None:
    folder = fake.save(tmp_path / "saved")
    text = (folder / "result.json").read_text()
    (folder / "result.json").write_text(text[: len(text) // 2])
    outcome = run("compare", folder, folder)
    assert outcome.exit_code == 2
    assert outcome.stdout == ""
    assert outcome.stderr.startswith(f"error: `{folder / 'result.json'}`: is truncated or corrupt")


def test_a_model_that_does_not_fit(tmp_path: Path) -> None:
    big = tmp_path / "big.yaml"
    big.write_text(small(model="llama3-70b"))
    outcome = run("simulate", big, "--report", tmp_path / "r.html", "--save", tmp_path / "saved")
    assert outcome.exit_code == 2
    assert outcome.stdout == ""
    assert "does not fit: needs" in outcome.stderr
    assert list(tmp_path.iterdir()) == [big]


def test_fidelities_of_later_versions_say_so(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(small()[:-1] + ', "run": {"network": "packet"}}')
    assert run("validate", file).exit_code == 2
    outcome = run("simulate", file)
    assert outcome.exit_code == 2
    assert "`run.network`: packet is not in this version" in outcome.stderr


def test_a_training_job_in_queues(tmp_path: Path) -> None:
    """One job alone in its queue: nothing changes."""
    file = tmp_path / "s.yaml"
    times = []
    for policy in ("max_min", "per_job"):
        file.write_text(small()[:-1] + f', "policies": {{"allocation": "{policy}"}}}}')
        outcome = run("simulate", file, "--json")
        assert outcome.exit_code == 0, outcome.stderr
        times.append(json.loads(outcome.stdout)["scalars"]["step_time"])
    assert times[0] == pytest.approx(times[1], rel=1e-9)


def test_a_small_job_end_to_end(tmp_path: Path) -> None:
    """The printed step time is the saved one, and its parts add up to it."""
    file = tmp_path / "s.yaml"
    file.write_text(small())
    outcome = run("simulate", file, "--json", "--save", tmp_path / "saved", "--report", tmp_path / "r.html")
    assert outcome.exit_code == 0, outcome.stderr
    document = json.loads(outcome.stdout)
    saved = Result.load(tmp_path / "saved")
    assert document["scalars"]["step_time"] == saved.step_time
    assert sum(row["seconds"] for row in document["tables"]["breakdown"]) == pytest.approx(saved.step_time)
    compared = json.loads(run("compare", tmp_path / "saved", file, "--json").stdout)
    assert {row["ratio"] for row in compared["rows"] if row["ratio"] is not None} == {1.0}
    table = run("compare", tmp_path / "saved", file).stdout
    assert "b against a" in table
    assert "+0.0 %" in table


def test_validate_reports_every_problem(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text(small())
    bad.write_text("version: 1\nsites: 3\njbos: []\n")
    outcome = run("validate", good, bad)
    assert outcome.exit_code == 2
    assert outcome.stdout == f"{good}: valid; 1 job on 1 site of 8 accelerators\n"
    assert outcome.stderr == f"error: {bad}:3:1: `jbos`: unknown key; did you mean 'jobs'?\n"
    files = json.loads(run("validate", good, bad, "--json").stdout)["files"]
    assert [file["valid"] for file in files] == [True, False]
    assert run("validate", good, "--quiet").stdout == ""


def test_schema_is_json() -> None:
    assert json.loads(run("schema").stdout)["title"] == "euston scenario"


def test_catalogue_list_and_show() -> None:
    assert "  h100-sxm  (" in run("catalog", "list", "accelerator").stdout
    listed = json.loads(run("catalog", "list", "--json").stdout)["catalog"]
    assert {"accelerators", "models", "fabrics"} <= set(listed)
    shown = run("catalog", "show", "accelerators", "h100").stdout
    assert "989 TFLOP/s" in shown
    assert "[1] " in shown
    entry = json.loads(run("catalog", "show", "h100", "--json").stdout)["entries"][0]
    assert entry["values"]["peak.bf16"] == 989e12
    assert entry["sources"]["peak.bf16"]
    assert run("catalog", "check").exit_code == 0


def test_a_user_catalogue(tmp_path: Path) -> None:
    from euston import catalog

    try:
        outcome = run("catalog", "list", "--catalog", tmp_path / "none")
        assert outcome.exit_code == 2
        assert outcome.stderr.startswith("error: ")
    finally:
        catalog.reset()


def test_doctor() -> None:
    facts = json.loads(run("doctor", "--json").stdout)
    assert facts["machine"]["cores"] >= 1
    assert set(facts["numba_cache"]) == {"path", "writable"}
    assert "kernel cache" in run("doctor").stdout


def test_reproduce_prints_rows_and_summary(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import euston.studies as studies

    scores = {"n": 1, "coverage": 0.5, "mape": 0.1, "median": 0.1, "p90": 0.1, "bias": -0.1}
    outcome = {
        "rows": [
            {"id": "53", "quantity": "s/iteration", "published": 10.0, "ours": 9.0, "error": -0.1},
            {"id": "54", "quantity": "s/iteration", "published": 3.0, "ours": None, "reason": "moe"},
        ],
        "summary": {**scores, "by": {"model": {"dense": scores}}},
    }  # fmt: skip
    asked: dict[str, Any] = {}

    def fake_run(
        name: str, *, data: Path | None = None, seed: int = 0, progress: Any = None
    ) -> dict[str, Any]:
        asked.update(name=name, data=data, seed=seed)
        return outcome

    monkeypatch.setattr(studies, "names", lambda: ["training"])
    monkeypatch.setattr(studies, "run", fake_run)
    assert run("reproduce", "--list").stdout == "training\n"
    mine = tmp_path / "mine.csv"
    mine.write_text("a,b\n")
    printed = run("reproduce", "training", "--data", mine, "--seed", "3")
    assert asked == {"name": "training", "data": mine, "seed": 3}
    assert "-10.0 %" in printed.stdout
    assert "model: dense" in printed.stdout
    assert printed.stderr == "running training\n"
    assert json.loads(run("reproduce", "training", "--json").stdout) == outcome
    missing = run("reproduce", "training", "--data", tmp_path / "no.csv")
    assert (missing.exit_code, missing.stderr) == (
        2,
        f"error: {tmp_path / 'no.csv'}: no such file or folder\n",
    )


def test_completion_is_there() -> None:
    outcome = subprocess.run(
        [sys.executable, "-c", "from euston.cli import main; main()", "--show-completion", "bash"],
        capture_output=True,
        text=True,
        env={"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1", "PATH": "/usr/bin:/bin"},
        check=False,
    )
    assert outcome.returncode == 0, outcome.stderr
    assert "complete" in outcome.stdout
