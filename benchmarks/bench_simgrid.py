"""The same flows through SimGrid: completion times must agree, and how much less CPU time ours take.

    apt-get install python3-simgrid      # Debian; any Python that can `import simgrid` will do
    python benchmarks/bench_simgrid.py [--python /usr/bin/python3]

1,024 hosts (the fat tree k = 16, 100 Gb/s) with 4 random flows of 1 to 3 MB each, hashed to single paths.
SimGrid runs what `euston.traffic.write_simgrid` exports, under the `SETTINGS` of `euston.traffic.simgrid`,
which turn its correction factors off, on links without latency, so that it solves plain max-min rates;
ours run without headers, and path latencies are taken off their ends.

One JSON line as of the other benchmarks, the baseline being SimGrid's simulation without reading its platform
or Python's start, and one with the settings and the differences. Without SimGrid: one line that says so.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from functools import cache
from typing import Any

import numpy as np

from _harness import Outcome, measure, versions

HOSTS, PER_HOST = 1024, 4
NAME = f"{HOSTS:,} hosts x {PER_HOST} random flows, 1-3 MB, to completion, against SimGrid"
TOLERANCE, GOAL = 1e-3, 100.0


@cache
def _problem() -> tuple[Any, Any, Any, Any]:
    from euston.fabrics import fat_tree
    from euston.network import Flows
    from euston.network.balancing.ecmp import Ecmp

    rng = np.random.default_rng(4)
    src = np.tile(np.arange(HOSTS, dtype=np.int32), PER_HOST)
    dst = ((src + rng.integers(1, HOSTS, src.size)) % HOSTS).astype(np.int32)
    fabric, policy = fat_tree(16, nic="100 Gb/s"), Ecmp()
    flows = Flows.of(src, dst, rng.integers(1_000_000, 3_000_001, src.size))
    choice = policy.choices(fabric, src, dst, np.zeros(src.size, np.int32))
    return flows, fabric, policy, fabric.route(src, dst, choice)


@cache
def _settings() -> Any:
    from euston.traffic.fluid import FluidSettings

    return FluidSettings(header=0)


def _ours() -> tuple[Outcome, np.ndarray]:
    from euston.network import Columns
    from euston.traffic.fluid import path_latency, run_fluid

    flows, fabric, policy, paths = _problem()
    found = run_fluid(flows, fabric, policy, settings=_settings())
    whose, hop = np.nonzero(paths >= 0)
    rows = fabric.bundles + paths[whose, hop]
    columns = Columns.from_entries(whose, rows, np.ones(whose.size), columns=len(flows), rows=fabric.rows)
    work = {"flows": len(flows), "events": found.stats["events"]}
    return Outcome(work, found.makespan), found.end - path_latency(flows, fabric, _settings(), columns)


def _simgrid(python: str) -> dict[str, Any]:
    """What SimGrid says, in a process of a Python that has it."""
    from euston.traffic import write_simgrid

    flows, fabric, _, paths = _problem()
    with tempfile.TemporaryDirectory() as folder:
        write_simgrid(flows, fabric, folder, paths=paths)
        done = subprocess.run(
            [python, f"{folder}/run.py"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            check=True,
        )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="ours against SimGrid; method: benchmarks/README.md")
    parser.add_argument("--python", default="/usr/bin/python3", help="a Python that can import simgrid")
    parser.add_argument("--repeat", type=int, default=3, help="calls after the first (default 3)")
    parser.add_argument("--quick", action="store_true", help="one call after the first")
    parser.add_argument("--list", action="store_true", help="name the case and stop")
    options, _ = parser.parse_known_args()  # `make bench` gives all files the same arguments
    if options.list:
        print(NAME)
        return
    try:
        probe = subprocess.run([options.python, "-c", "import simgrid"], capture_output=True).returncode
    except OSError:
        probe = 1
    if probe:
        print(f"skipped: {options.python} has no simgrid (Debian: apt-get install python3-simgrid)")
        return
    repeat = 1 if options.quick else options.repeat
    measured = measure(lambda: _ours()[0], repeat)
    theirs = [_simgrid(options.python) for _ in range(max(1, repeat))]
    slow = min(t["run_cpu_s"] for t in theirs)
    print(json.dumps({"case": NAME, **measured, "baseline_cpu_s": round(slow, 6), "versions": versions()}))
    report(measured["cpu_s"], slow, theirs[0])


def report(ours: float, slow: float, theirs: dict[str, Any]) -> None:
    """The second line; exit code 1 when completion times differ."""
    from euston.traffic.simgrid import SETTINGS

    end, other = _ours()[1], np.array(theirs["ends"])
    difference = np.abs(end / other - 1)
    print(
        json.dumps(
            {
                "simgrid_settings": SETTINGS,
                "simgrid_load_cpu_s": theirs["load_cpu_s"],
                "simgrid_makespan": float(other.max()),
                "makespan": float(end.max()),
                "largest_relative_difference": float(difference.max()),
                "tolerance": TOLERANCE,
                "cpu_ratio": slow / ours,
                "cpu_ratio_goal": GOAL,
            }
        )
    )
    if not difference.max() <= TOLERANCE:
        sys.exit(f"completion times differ by up to {difference.max():.3g}; at most {TOLERANCE} is agreed")


if __name__ == "__main__":
    main()
