"""The benchmark harness prints the agreed line, and refuses a case whose answer changes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

HARNESS = Path(__file__).resolve().parents[2] / "benchmarks"
KEYS = [
    "case",
    "cpu_s",
    "wall_s",
    "first_call_s",
    "peak_rss_bytes",
    "work",
    "check",
    "baseline_cpu_s",
    "versions",
]

FILE = """
from _harness import Outcome, case, main
import itertools, time
count = itertools.count()

def plain():
    return Outcome(work={"sums": 1}, check=6.0)

@case("sum", baseline=plain)
def fast():
    time.sleep(0.05 if next(count) == 0 else 0.0)
    return Outcome(work={"sums": 1}, check=float(sum(range(4))))

@case("unsteady")
def unsteady():
    return Outcome(work={}, check=float(next(count)))

if __name__ == "__main__":
    main()
"""


def bench(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "bench_tiny.py").write_text(FILE, encoding="utf-8")
    command = [sys.executable, "-c", RUNNER.format(harness=str(HARNESS)), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)


RUNNER = """
import os, runpy, sys
os.environ["PYTHONPATH"] = {harness!r}
sys.path.insert(0, {harness!r})
sys.argv[0] = "bench_tiny.py"
runpy.run_path("bench_tiny.py", run_name="__main__")
"""


def test_one_line_with_the_agreed_keys(tmp_path: Path) -> None:
    done = bench(tmp_path, "--case", "sum", "--repeat", "2")
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    figures = json.loads(line)
    assert list(figures) == KEYS
    assert figures["case"] == "sum" and figures["check"] == 6.0 and figures["work"] == {"sums": 1}
    assert figures["first_call_s"] >= 0.05  # the first call sleeps that long
    assert figures["baseline_cpu_s"] is not None
    assert figures["peak_rss_bytes"] > 1_000_000


def test_a_changing_answer_is_an_error(tmp_path: Path) -> None:
    done = bench(tmp_path, "--case", "unsteady")
    assert done.returncode == 1
    assert "the check changed from call to call" in done.stderr


def test_unknown_case(tmp_path: Path) -> None:
    done = bench(tmp_path, "--case", "sun")
    assert done.returncode == 2
    assert "unknown case 'sun'; there are: sum, unsteady" in done.stderr
