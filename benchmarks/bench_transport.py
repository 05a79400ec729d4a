"""All-reduce over loopback: ours over UDP, Gloo and a TCP ring of our own, by turns in the same processes.

    python benchmarks/bench_transport.py [--quick]

Four processes, jumbo frames. Without loss, 16 and 64 MB: median bus bandwidth, 2(n-1)/n times the bytes over
the time of the slowest rank. With 1 % loss by the same socket filter on every receiver: median and 99th
percentile of ours and of the TCP ring. One JSON line per case in the form of the others; `baseline_cpu_s` is
missing, because wall times of several processes are compared (in ``work``).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from typing import Any

import numpy as np

from _harness import versions

RANKS = 4
SIZES = (16 << 20, 64 << 20)
LOSS, MTU = 0.01, 9000
#: Exchanges before the first that counts, for all ways: bounds are measured meanwhile.
WARM_UP = 12


def _rank(
    rank: int, folder: str, port: int, sizes: tuple[int, ...], repeats: int, loss: float, out: Any
) -> None:
    import torch
    import torch.distributed as dist

    from euston.collectives.bounded import Bounded
    from euston.collectives.runtime import FolderStore, UdpGroup
    from euston.collectives.runtime.tcp_ring import TcpRing

    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=RANKS)
    store = FolderStore(folder)
    bounded = Bounded(t_b=20.0, floor=20.0) if loss == 0 else Bounded(warm_up=WARM_UP)
    with (
        UdpGroup(rank, RANKS, store, bounded=bounded, mtu=MTU, socket_loss=loss) as group,
        TcpRing(rank, RANKS, store, socket_loss=loss) as ring,
    ):
        for size in sizes:
            x = torch.ones(size // 4)
            array = x.numpy()
            ways = {"udp": lambda: group.all_reduce(array), "tcp_ring": lambda: ring.all_reduce(array)}  # noqa: B023
            if loss == 0:
                ways["gloo"] = lambda: dist.all_reduce(x)  # noqa: B023
            for turn in range(repeats + WARM_UP):
                for name, way in ways.items():
                    x.fill_(1.0)
                    dist.barrier()
                    start = time.perf_counter()
                    report = way()
                    taken = torch.tensor([time.perf_counter() - start])
                    dist.all_reduce(taken, dist.ReduceOp.MAX)
                    if rank == 0 and turn >= WARM_UP:
                        lost = report.loss if name == "udp" else 0.0
                        out.put((size, name, float(taken), float(array[0]), lost))
        out.put(None)
        dist.barrier()
    dist.destroy_process_group()


def measure(sizes: tuple[int, ...], repeats: int, loss: float) -> dict[tuple[int, str], dict[str, Any]]:
    """Seconds of every turn by size and way."""
    context = multiprocessing.get_context("spawn")
    out = context.Queue()
    port = 20_000 + os.getpid() % 20_000
    with tempfile.TemporaryDirectory() as folder:
        ranks = [
            context.Process(target=_rank, args=(r, folder, port, sizes, repeats, loss, out))
            for r in range(RANKS)
        ]
        for one in ranks:
            one.start()
        found: dict[tuple[int, str], dict[str, Any]] = {}
        ended = 0
        while ended < RANKS:
            item = out.get(timeout=600)
            if item is None:
                ended += 1
                continue
            size, name, seconds, value, lost = item
            case = found.setdefault((size, name), {"seconds": [], "value": value, "lost": []})
            case["seconds"].append(seconds)
            case["lost"].append(lost)
        for one in ranks:
            one.join(30)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="all-reduce over loopback: UDP, Gloo, TCP ring")
    parser.add_argument("--quick", action="store_true", help="few repeats, the small size only")
    parser.add_argument("--list", action="store_true", help="name the cases and stop")
    parser.add_argument("--repeat", type=int, default=30)
    options, _ = parser.parse_known_args()
    names = [
        f"all-reduce, {RANKS} processes, {s >> 20} MB, loss {loss:g}" for loss in (0.0, LOSS) for s in SIZES
    ]
    if options.list:
        print("\n".join(names))
        return
    sizes, repeats = (SIZES[:1], 5) if options.quick else (SIZES, options.repeat)
    for loss in (0.0, LOSS):
        found = measure(sizes, repeats, loss)
        for size in sizes:
            work: dict[str, Any] = {"bytes": size, "ranks": RANKS, "repeats": repeats}
            for (s, name), case in found.items():
                if s != size:
                    continue
                seconds = sorted(case["seconds"])
                bus = 2 * (RANKS - 1) / RANKS * size / statistics.median(seconds)
                work[name] = {
                    "median_s": statistics.median(seconds),
                    "p99_s": seconds[min(len(seconds) - 1, int(np.ceil(0.99 * len(seconds))) - 1)],
                    "bus_bytes_per_s": bus,
                    "mean_loss": statistics.mean(case["lost"]),
                }
            case_name = f"all-reduce, {RANKS} processes, {size >> 20} MB, loss {loss:g}"
            print(json.dumps({"case": case_name, "work": work, "versions": versions()}))
            sys.stdout.flush()


if __name__ == "__main__":
    main()
