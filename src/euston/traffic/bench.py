"""Speed of the network engines on this machine: the cases of `euston net bench`.

The full comparison, against baselines and other simulators, is in ``benchmarks/``; this is what a user can
run without the source.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from euston.fabrics import Fabric, clos3
from euston.network import Columns, FlowResult, Flows, Incremental, max_min
from euston.network.balancing.ecmp import Ecmp
from euston.network.balancing.mixed import Mixed
from euston.network.balancing.spray import Spray
from euston.network.transport.nscc import Nscc
from euston.seeds import stream
from euston.traffic.fluid import FluidSettings
from euston.traffic.load import burst
from euston.traffic.matrices import matrix
from euston.traffic.run import run_flows

__all__ = ["cases"]

Case = Callable[[int], dict[str, Any]]


def cases(full: bool = False) -> dict[str, Case]:
    """Cases by name: each takes a seed and gives CPU seconds, first-call seconds, work and a check value."""
    found: dict[str, Case] = {
        "full solve, 16,384 hosts, 16,384 flows, hashed": lambda s: _solve(16_384, s),
        "full solve, 16,384 hosts, 65,536 flows, hashed": lambda s: _solve(65_536, s),
        "repair after a flow leaves and one comes, 1 flow per host": lambda s: _repair(16_384, 2000, s),
        "permutation with random sizes, 16,384 hosts, to completion": _permutation,
        "ring all-reduce of 16,384 ranks, one flow per edge, folded": lambda s: _ring(16_384, s),
        "packets: NSCC, 128 hosts, 2 MB permutation": lambda s: _packets(128, s),
    }
    if full:
        found |= {
            "full solve, 16,384 hosts, 262,144 flows, hashed": lambda s: _solve(262_144, s),
            "ring all-reduce of 131,072 ranks, one flow per edge, folded": lambda s: _ring(131_072, s),
            "packets: NSCC, 1,024 hosts, 2 MB permutation": lambda s: _packets(1024, s),
        }
    return found


def _fabric(hosts: int) -> Fabric:
    """Three tiers at full bisection: 16 hosts to a ToR (4 in small ones), 16 ToRs and aggs to a pod."""
    ports = 16 if hosts >= 1024 else 4
    return clos3(
        hosts, 1, nic="100 Gb/s", hosts_per_tor=ports, tors_per_pod=ports, aggs_per_pod=ports,
        cores_per_agg=ports,
    )  # fmt: skip


def _measured(call: Callable[[], tuple[dict[str, float], float]]) -> dict[str, Any]:
    """The second call, CPU; the first holds compilation."""
    begun = time.perf_counter()
    call()
    first = time.perf_counter() - begun
    cpu, wall = time.process_time(), time.perf_counter()
    work, check = call()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return {
        "cpu_s": cpu,
        "wall_s": wall,
        "first_call_s": first,
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "work": work,
        "check": check,
    }


def _hashed(flows: int, seed: int, hosts: int = 16_384) -> tuple[Fabric, Columns]:
    fabric = _fabric(hosts)
    src, dst = (np.concatenate(ends) for ends in zip(
        *(matrix("permutation", hosts, seed=seed + k).pairs(seed + k) for k in range(max(1, flows // hosts))),
        strict=True,
    ))  # fmt: skip
    spread = Ecmp(seed=seed).spread(fabric, src, dst, alive=None, capacity=fabric.capacity)
    return fabric, Columns(spread.ptr, spread.row, spread.fraction, fabric.rows)


def _solve(flows: int, seed: int) -> dict[str, Any]:
    fabric, columns = _hashed(flows, seed)
    capacity = fabric.row_capacity(split=np.ones(fabric.bundles, bool))
    capacity = np.minimum(capacity, fabric.row_capacity())

    def call() -> tuple[dict[str, float], float]:
        found = max_min(columns, capacity)
        return {"flows": flows}, float(found.rate.sum())

    return _measured(call)


def _repair(flows: int, events: int, seed: int) -> dict[str, Any]:
    fabric, columns = _hashed(flows, seed)
    capacity = np.minimum(fabric.row_capacity(split=np.ones(fabric.bundles, bool)), fabric.row_capacity())
    rates = Incremental(columns, capacity, flows)
    slots = rates.change(column=np.arange(flows, dtype=np.int32))
    order = stream(seed, "bench").permutation(flows)

    def call() -> tuple[dict[str, float], float]:
        for k in range(events):
            gone = order[k % flows]
            rates.change(close=[slots[gone]])
            slots[gone] = rates.change(column=[gone])[0]
        return {"events": 2 * events}, float(events)

    found = _measured(call)
    return {**found, "us_per_event": found["cpu_s"] / (2 * events) * 1e6}


def _outcome(result: FlowResult) -> tuple[dict[str, float], float]:
    return {"flows": len(result.flows), "events": result.stats["events"]}, result.makespan


def _permutation(seed: int) -> dict[str, Any]:
    fabric = _fabric(16_384)
    sizes = {"distribution": "uniform", "low": 1e6, "high": 3e6}
    flows = burst(matrix("permutation", fabric, seed=seed), sizes, seed=seed).flows
    return _measured(
        lambda: _outcome(run_flows(flows, fabric, balancing=Ecmp(seed=seed), settings=FluidSettings()))
    )


def _ring(ranks: int, seed: int) -> dict[str, Any]:
    fabric = _fabric(ranks)
    whole = 2 * (ranks - 1) * 2**30 // ranks  # of a 1 GiB all-reduce, per edge (Patarasuk & Yuan 2009)
    flows = burst(matrix("ring", ranks, seed=seed), whole, seed=seed).flows
    return _measured(lambda: _outcome(run_flows(flows, fabric, balancing=Spray())))


def _packets(hosts: int, seed: int) -> dict[str, Any]:
    fabric = _fabric(hosts)
    pairs = matrix("permutation", hosts, seed=seed).pairs(seed)
    flows = Flows.of(*pairs, 2_000_000)

    def call() -> tuple[dict[str, float], float]:
        result = run_flows(flows, fabric, network="packet", balancing=Mixed(), transport=Nscc(), seed=seed)
        work, check = _outcome(result)
        return {**work, "data_packets": result.stats["data_packets"]}, check

    found = _measured(call)
    return {**found, "events_per_s": found["work"]["events"] / found["cpu_s"]}
