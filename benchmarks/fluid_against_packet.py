"""How far the fluid engine is from the packet engine, on fabrics that neither was tuned on.

    python benchmarks/fluid_against_packet.py            # a table in Markdown, for docs/how-far-to-trust.md
    python benchmarks/fluid_against_packet.py --json     # one JSON line per case

The packet engine follows uet-htsim, whose reference runs are fat trees and one leaf-spine of 16 to 128 hosts;
a dragonfly, a HyperX and a Jellyfish are other wiring with other path lengths and fewer equal paths. Errors
are of every flow's goodput, fluid over packet less one: plus means that the fluid engine is too optimistic.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

from euston import scenario
from euston.runs.traffic import compare_traffic

FABRICS: dict[str, dict[str, Any]] = {
    "dragonfly, 72 hosts": {"kind": "dragonfly", "a": 4, "p": 2, "h": 2, "nic": "200 Gb/s"},
    "HyperX 4x4, 64 hosts": {
        "kind": "hyperx", "dims": [4, 4], "hosts_per_switch": 4, "nic": "200 Gb/s", "link": "200 Gb/s",
    },
    "Jellyfish 24 x 6, 96 hosts": {
        "kind": "jellyfish", "switches": 24, "degree": 6, "hosts_per_switch": 4, "nic": "200 Gb/s",
    },
    "fat tree k=8, 128 hosts": {"kind": "fat_tree", "k": 8, "nic": "200 Gb/s"},
}  # fmt: skip
TRAFFIC: dict[str, dict[str, Any]] = {
    "permutation, 2 MB": {"pattern": "permutation", "bytes": "2 MB"},
    "permutation, 20 MB": {"pattern": "permutation", "bytes": "20 MB"},
    "incast of 15, 1 MB": {"pattern": "incast", "senders": 15, "receiver": 0, "bytes": "1 MB"},
    "all to all, 64 kB": {"pattern": "all_to_all", "bytes": "64 kB"},
    "web search, 30 % load": {"pattern": "uniform", "bytes": "websearch", "load": 0.3, "duration": "1 ms"},
}
BALANCING: dict[str, Any] = {"mixed": {"kind": "mixed", "entropies": 64}, "ecmp": {"kind": "ecmp"}}


def measure(fabric: str, traffic: str, balancing: str, seed: int) -> dict[str, Any]:
    """One comparison."""
    data = {
        "version": 1,
        "sites": [{"name": "dc", "accelerators_per_host": 1, "fabric": FABRICS[fabric]}],
        "jobs": [{"name": "flows", "kind": "traffic", "flows": TRAFFIC[traffic]}],
        "policies": {"balancing": BALANCING[balancing]},
        "run": {"seed": seed},
    }
    begun = time.perf_counter()
    scalars = compare_traffic(scenario.loads(json.dumps(data))).scalars
    kept = ("makespan_error", "goodput_bias", *(f"goodput_error_{what}" for what in ("mean", "p90", "worst")))
    return {
        "fabric": fabric,
        "traffic": traffic,
        "balancing": balancing,
        "wall_s": time.perf_counter() - begun,
        **{name: scalars[name] for name in ("flows", *kept)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="fluid against packet")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if not options.json:
        print("| fabric | traffic | paths | flows | makespan | goodput: bias | mean error | 90th | worst |")
        print("|---|---|---|---|---|---|---|---|---|")
    for fabric in FABRICS:
        for traffic in TRAFFIC:
            for balancing in BALANCING:
                row = measure(fabric, traffic, balancing, options.seed)
                if options.json:
                    print(json.dumps(row), flush=True)
                    continue
                signed = [row["makespan_error"], row["goodput_bias"]]
                plain = [row[f"goodput_error_{what}"] for what in ("mean", "p90", "worst")]
                shown = [f"{100 * v:+.0f} %" for v in signed] + [f"{100 * v:.0f} %" for v in plain]
                cells = [fabric, traffic, balancing, f"{row['flows']:,.0f}", *shown]
                print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
