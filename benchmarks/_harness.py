"""Measures benchmark cases, each in a fresh process, and prints one JSON line per case.

A benchmark file names its cases and ends by calling `main`:

    from _harness import Outcome, case, main

    @case("ring of 1,024", baseline=slow_way)
    def ring() -> Outcome:
        ...
        return Outcome(work={"transfers": 1024}, check=total_seconds)

    if __name__ == "__main__":
        main()

A line holds `case`, `cpu_s` and `wall_s` (the smallest of `--repeat` calls after the first; CPU time counts
child processes too), `first_call_s` (wall time of the first call: imports, JIT compilation or its cache),
`peak_rss_bytes` (the larger of the process and its largest child), `work` (what was done), `check` (a value
that tests verify at a smaller size; it must be equal in every call), `baseline_cpu_s` (the same work done by
the baseline, or null) and `versions` (and the machine and the date).
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import importlib.metadata
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

PACKAGES = ("euston", "numpy", "numba", "llvmlite", "scipy", "polars")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What one call of a case did."""

    work: dict[str, float]
    """Counts of what was done: operations, events, bytes..."""
    check: float
    """A value that shows that the right thing was done."""


@dataclasses.dataclass(frozen=True)
class Case:
    """One named thing to measure."""

    name: str
    call: Callable[[], Outcome]
    baseline: Callable[[], Outcome] | None
    repeat: int | None
    long: bool


CASES: dict[str, Case] = {}


def case(
    name: str,
    *,
    baseline: Callable[[], Outcome] | None = None,
    repeat: int | None = None,
    long: bool = False,
) -> Callable[[Callable[[], Outcome]], Callable[[], Outcome]]:
    """Register a function as a case.

    Parameters
    ----------
    name
        What the JSON line is called; unique in its file.
    baseline
        The same work done the plain way or by another library; measured in a process of its own.
    repeat
        Calls after the first one; default: `--repeat`.
    long
        `--quick` leaves it out.
    """

    def register(call: Callable[[], Outcome]) -> Callable[[], Outcome]:
        if name in CASES:
            raise ValueError(f"two cases are named {name!r}")
        CASES[name] = Case(name, call, baseline, repeat, long)
        return call

    return register


def cpu_seconds() -> float:
    """CPU time of this process and of its finished children."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def peak_rss_bytes() -> int:
    """The largest resident size of this process or of any finished child."""
    unit = 1 if sys.platform == "darwin" else 1024
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return max(resource.getrusage(each).ru_maxrss for each in who) * unit


def processor() -> str:
    """What the processor calls itself, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [text.partition(":")[2].strip() for text in lines if text.startswith("model name")]
    return names[0] if names else platform.processor()


def versions() -> dict[str, str]:
    """Versions, the machine and the date, for whoever compares two lines."""
    found = {
        "date": datetime.date.today().isoformat(),
        "machine": platform.machine(),
        "processor": processor(),
        "cpus": str(os.cpu_count()),
        "python": platform.python_version(),
    }
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def timed(call: Callable[[], Outcome]) -> tuple[Outcome, float, float]:
    """One call: what it did, its wall time and its CPU time."""
    wall, cpu = time.perf_counter(), cpu_seconds()
    outcome = call()
    return outcome, time.perf_counter() - wall, cpu_seconds() - cpu


def measure(call: Callable[[], Outcome], repeat: int) -> dict[str, Any]:
    """Call once for the first-call time, then `repeat` times; the smallest times stand (noise only adds)."""
    first = timed(call)
    later = [timed(call) for _ in range(repeat)]
    for outcome, _, _ in later:
        if outcome.check != first[0].check:
            raise SystemExit(
                f"the check changed from call to call: {first[0].check!r}, then {outcome.check!r}"
            )
    calls = later or [first]
    return {
        "cpu_s": round(min(cpu for _, _, cpu in calls), 6),
        "wall_s": round(min(wall for _, wall, _ in calls), 6),
        "first_call_s": round(first[1], 6),
        "peak_rss_bytes": peak_rss_bytes(),
        "work": first[0].work,
        "check": first[0].check,
    }


def in_fresh_process(name: str, part: str, repeat: int, environment: dict[str, str]) -> dict[str, Any]:
    """Measure one part (`case` or `baseline`) of a case in a process of its own."""
    arguments = [sys.executable, sys.argv[0], "--child", part, "--case", name, "--repeat", str(repeat)]
    done = subprocess.run(arguments, env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{name} ({part}) ended with exit code {done.returncode}")
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


def line(chosen: Case, repeat: int, cold: bool) -> dict[str, Any]:
    """The JSON line of one case."""
    with tempfile.TemporaryDirectory() as empty:
        # An empty cache folder makes numba compile everything again, as on a machine that never ran euston.
        environment = {"NUMBA_CACHE_DIR": empty} if cold else {}
        measured = in_fresh_process(chosen.name, "case", repeat, environment)
    plain = None
    if chosen.baseline is not None:
        plain = in_fresh_process(chosen.name, "baseline", repeat, {})["cpu_s"]
    name = f"{chosen.name} (no JIT cache)" if cold else chosen.name
    return {"case": name, **measured, "baseline_cpu_s": plain, "versions": versions()}


def main() -> None:
    """The command line of a benchmark file."""
    parser = argparse.ArgumentParser(description="One JSON line per case; method: benchmarks/README.md")
    parser.add_argument("--case", help="only this case")
    parser.add_argument("--list", action="store_true", help="name the cases and stop")
    parser.add_argument("--repeat", type=int, default=3, help="calls after the first (default 3)")
    parser.add_argument("--cold", action="store_true", help="with an empty JIT cache")
    parser.add_argument(
        "--quick", action="store_true", help="without the long cases, one call after the first"
    )
    parser.add_argument("--child", choices=["case", "baseline"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case is not None and options.case not in CASES:
        unknown_case(options.case)
    if options.list:
        print("\n".join(CASES))
        return
    if options.child is not None:
        chosen = CASES[options.case]
        call = chosen.call if options.child == "case" else chosen.baseline
        assert call is not None
        print(json.dumps(measure(call, options.repeat)))
        return
    for name, chosen in CASES.items():
        wanted = not (options.quick and chosen.long) if options.case is None else options.case == name
        if wanted:
            repeat = 1 if options.quick else options.repeat if chosen.repeat is None else chosen.repeat
            print(json.dumps(line(chosen, repeat, options.cold)), flush=True)


def unknown_case(name: str) -> NoReturn:
    """Say which cases there are, and stop with exit code 2."""
    print(f"unknown case {name!r}; there are: {', '.join(CASES)}", file=sys.stderr)
    raise SystemExit(2)
