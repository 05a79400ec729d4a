"""Bounded exchanges over real sockets and in simulated time, by the same bounds: seconds per exchange.

    python benchmarks/runtime_against_simulation.py [--steps 120] [--quick]

Three processes exchange 1.2 MB again and again while packets are lost in process, under several losses and
floors of the idle time. The simulator is told two numbers, measured beforehand with nothing lost and with
other sizes (0.6 and 4.8 MB, medians): the seconds of an exchange without bytes, and bytes/s. Every packet is
examined for loss then, too (one in 10^9 goes): that is a slower way through the receiver. One JSON line each,
and the largest deviation at the end. On a machine that others use the sockets take longer: see the load.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from functools import partial
from typing import Any

import numpy as np

RANKS, D, WARM = 3, 300_000, 5
SIZES = (150_000, 1_200_000)
CASES: tuple[tuple[float, float], ...] = (
    (0.01, 0.02),
    (0.03, 0.02),
    (0.05, 0.02),
    (0.01, 0.05),
    (0.03, 0.05),
    (0.05, 0.05),
)


def _exchanges(group: Any, d: int, steps: int) -> list[float]:
    """When each exchange ended, from the end of the last one to get warm."""
    x, ends = np.ones(d, np.float32), []
    for _ in range(WARM + steps):
        group.all_reduce(x)
        ends.append(time.monotonic())
    return ends[WARM - 1 :]


def sockets(d: int, steps: int, **settings: Any) -> np.ndarray:
    """Seconds from the end of one exchange to that of the next, of the last rank each time."""
    from euston.collectives.runtime.local import run_ranks

    ends = run_ranks(RANKS, partial(_exchanges, d=d, steps=steps), timeout=240.0, **settings)
    return np.diff(np.max(ends, axis=0))


def calibrate(steps: int) -> tuple[float, float]:
    """(seconds without bytes, bytes/s) of an exchange, from two sizes without loss."""
    from euston.collectives.bounded import Bounded
    from euston.collectives.bounded_exchange import simulate_exchanges
    from euston.collectives.loss import Iid

    bounded = Bounded(t_b=5.0, floor=1.0)
    small, large = (float(np.median(sockets(d, steps, bounded=bounded, loss=Iid(1e-9)))) for d in SIZES)
    sizes = [simulate_exchanges(bounded, ranks=RANKS, d=d, rate=1.0).bytes for d in SIZES]
    rate = (sizes[1] - sizes[0]) / (large - small)
    return max(small - sizes[0] / rate, 0.0), rate


def main() -> None:
    parser = argparse.ArgumentParser(description="bounded exchanges: sockets against simulation")
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--quick", action="store_true", help="one case, few steps")
    options = parser.parse_args()
    if options.quick:
        options.steps = 15
    from euston.collectives.bounded import Bounded
    from euston.collectives.bounded_exchange import simulate_exchanges
    from euston.collectives.loss import Iid

    overhead, rate = calibrate(options.steps)
    print(json.dumps({"overhead_s": round(overhead, 5), "bytes_per_s": round(rate), "load": os.getloadavg()}))
    worst = 0.0
    for loss, floor in CASES[:1] if options.quick else CASES:
        bounded = Bounded(t_b=1.0, floor=floor)
        real = float(sockets(D, options.steps, bounded=bounded, loss=Iid(loss)).mean())
        made = simulate_exchanges(
            bounded, ranks=RANKS, d=D, rate=rate, loss=loss, overhead=overhead, together=False,
            steps=10 * options.steps,
        )  # fmt: skip
        simulated = float(made.seconds[WARM:].mean())
        off = simulated / real - 1.0
        worst = max(worst, abs(off))
        print(
            json.dumps(
                {
                    "loss": loss, "floor_s": floor, "sockets_s": round(real, 4),
                    "simulated_s": round(simulated, 4), "deviation": round(off, 3),
                }
            ),
            flush=True,
        )  # fmt: skip
    print(json.dumps({"largest_deviation": round(worst, 3), "load": os.getloadavg()}))


if __name__ == "__main__":
    main()
