"""The network engine: full solves, repairs per event, whole runs, folded collectives, a 405B step, packets.

Flows are random over ECMP paths of a three-tier Clos of 16,384 hosts (98,304 directed links) unless a case
says otherwise. `check` is a number that must not change; `work` says how much was done, so that `cpu_s` divided by
`work["events"]` is the cost of an event.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from _harness import Outcome, case, main

if TYPE_CHECKING:
    from euston.fabrics import Fabric
    from euston.network import Columns, FlowResult

HOSTS, NIC = 16_384, 12.5e9


@cache
def _fabric(hosts: int = HOSTS) -> Fabric:
    from euston.fabrics import clos

    if hosts == HOSTS:
        return clos(HOSTS, 1, nic=NIC, hosts_per_tor=32, tors_per_pod=16, aggs_per_pod=32, cores_per_agg=16)
    return clos(hosts, 1, nic=NIC, hosts_per_tor=16, tors_per_pod=8, aggs_per_pod=16, cores_per_agg=8)


@cache
def _columns(flows: int, seed: int = 0) -> Columns:
    """Columns of random flows, hashed to paths; a permutation when there is one per host."""
    from euston.network import Columns
    from euston.network.balancing.ecmp import Ecmp

    rng, fabric = np.random.default_rng(seed), _fabric()
    src = np.arange(flows) % HOSTS
    dst = rng.permutation(HOSTS) if flows == HOSTS else (src + rng.integers(1, HOSTS, flows)) % HOSTS
    apart = src != dst
    out = Ecmp(seed=seed).spread(
        fabric, src[apart].astype(np.int32), dst[apart].astype(np.int32), alive=None, capacity=fabric.capacity
    )
    n = int(apart.sum())
    return Columns.from_entries(
        np.repeat(np.arange(n), np.diff(out.ptr)), out.row, out.fraction, columns=n, rows=fabric.rows
    )


def _solve(flows: int, method: Any) -> Outcome:
    from euston.network import max_min

    fabric, columns = _fabric(), _columns(flows)
    capacity = np.where(np.isfinite(_rows()), _rows(), np.inf)
    answer = max_min(columns, capacity, method=method)
    assert fabric.rows == columns.rows
    return Outcome(work={"flows": float(len(columns))}, check=float(answer.rate.sum()))


@cache
def _rows() -> np.ndarray:
    fabric = _fabric()
    return fabric.row_capacity(None, np.diff(fabric.bundle_start) > 1)


for _flows in (HOSTS, 4 * HOSTS, 16 * HOSTS):
    case(f"full solve, {_flows:,} flows", baseline=lambda n=_flows: _solve(n, "rounds"))(
        lambda n=_flows: _solve(n, "auto")
    )


def _events(per_host: int, tol: float, events: int = 500) -> Outcome:
    """Remove a random flow, add another; the setup is solved outside by the first call's cache."""
    from euston.network import Incremental, max_min

    flows = per_host * HOSTS
    columns = _columns(flows + 5 * HOSTS, 1)
    net = Incremental(columns, _rows(), flows, tol=tol)
    active = list(net.change(column=np.arange(flows)))
    rng = np.random.default_rng(2)
    touched = net.touched
    for i in range(events):
        j = int(rng.integers(flows))
        (active[j],) = net.change(close=[active[j]], column=[flows + i])
    state = net.allocation() if tol else None
    error = 0.0
    if state is not None:
        exact = max_min(columns, _rows(), column=state.column)
        error = float(np.abs(state.rate / exact.rate - 1).max())
    moved = (net.touched - touched) / max(events, 1)
    return Outcome(
        work={"events": float(events), "moved_per_event": moved, "worst_rate_error": error},
        check=float(net.rate.sum()),
    )


case("build and 0 events, 1 flow per host")(lambda: _events(1, 0.0, 0))
case("build and 500 events, 1 flow per host")(lambda: _events(1, 0.0))
case("build and 0 events, 4 flows per host")(lambda: _events(4, 0.0, 0))
case("build and 500 events, 4 flows per host, exact")(lambda: _events(4, 0.0))
case("build and 500 events, 4 flows per host, tol 1e-3")(lambda: _events(4, 1e-3))


def _run(hosts: int, per_host: int, name: str) -> Outcome:
    from euston.network import Flows
    from euston.network.balancing import BALANCING
    from euston.traffic.fluid import run_fluid

    rng = np.random.default_rng(1)
    n = hosts * per_host
    src = np.arange(n) % hosts
    dst = rng.permutation(hosts) if per_host == 1 else (src + rng.integers(1, hosts, n)) % hosts
    apart = src != dst
    flows = Flows.of(src[apart], dst[apart], rng.integers(1_000_000, 3_000_000, n)[apart])
    return _outcome(run_fluid(flows, _fabric(hosts), BALANCING.get(name)()))


def _outcome(run: FlowResult) -> Outcome:
    work = {"flows": float(len(run.flows)), "events": run.stats["events"], "fold": run.meta["fold_ratio"]}
    return Outcome(work=work, check=run.makespan)


for _hosts, _per, _name in (
    (HOSTS, 1, "ecmp"), (HOSTS, 1, "spray"), (1024, 4, "ecmp"), (1024, 4, "spray"), (1024, 16, "ecmp"),
    (1024, 16, "spray"),
):  # fmt: skip
    case(f"{_hosts:,} hosts x {_per} random flows of 1-3 MB to completion, {_name}, exact", repeat=1)(
        lambda h=_hosts, p=_per, b=_name: _run(h, p, b)
    )


@cache
def _large() -> Fabric:
    from euston.fabrics import clos

    return clos(
        16_384, 8, nic="400 Gb/s", hosts_per_tor=2, tors_per_pod=192, aggs_per_pod=8, cores_per_agg=16,
        oversubscription=(1, 7), scale_up="450 GB/s",
    )  # fmt: skip


@case("131,072-rank ring, folded", repeat=1)
def ring() -> Outcome:
    from euston.network import Flows
    from euston.network.balancing.spray import Spray
    from euston.traffic.fluid import run_fluid

    e = np.arange(131_072)
    return _outcome(run_fluid(Flows.of(e, np.roll(e, -1), 64_000_000), _large(), Spray()))


@case("131,072-rank hierarchical all-reduce, folded", repeat=1)
def hierarchical() -> Outcome:
    """Rings inside hosts, on eight rails, inside hosts again; an edge waits for both edges at its ends."""
    from euston.network import Flows
    from euston.network.balancing.spray import Spray
    from euston.traffic.fluid import run_fluid

    e = np.arange(131_072).reshape(-1, 8)
    inside = np.stack((e.ravel(), np.roll(e, -1, axis=1).ravel()))
    rails = np.stack((e.ravel(), np.roll(e, -1, axis=0).ravel()))
    n = e.size
    src, dst = np.concatenate((inside, rails, inside), axis=1)
    size = np.repeat([7_000_000, 2_000_000, 7_000_000], n)
    after = [()] * n + [(i,) for i in range(2 * n)]
    return _outcome(run_fluid(Flows.of(src, dst, size, after=after), _large(), Spray()))


@case("131,072-rank all-to-all, counted", repeat=1)
def all_to_all() -> Outcome:
    from euston.collectives import all_to_all as count

    found = count(_large(), np.arange(131_072), 1000.0)
    return Outcome(work={"pairs": float(found.pairs)}, check=found.seconds(_large().row_capacity()))


@case("405B step on 16,384 GPUs with hashed ECMP, exact", repeat=1)
def step() -> Outcome:
    from pathlib import Path

    from euston import scenario
    from euston.assemble import device, prepare
    from euston.training import run_iteration

    s = scenario.load(Path(__file__).parents[1] / "examples" / "llama3-405b-16k.yaml")
    ecmp = type(s.policies.balancing).model_validate({"kind": "ecmp"})
    s = s.model_copy(update={"policies": s.policies.model_copy(update={"balancing": ecmp})})
    ready = prepare(s)
    devices = [device(ready.site.accelerator, job) for job, _ in ready.jobs]
    run = run_iteration(ready.jobs, ready.site, devices, ready.conditions)
    return Outcome(work={"events": float(run.run.events)}, check=run.jobs[0].step_time)


@case("packets: 1,024 hosts, 2 MB permutation, 200 Gb/s, NSCC", repeat=1)
def packets() -> Outcome:
    from euston.fabrics import clos
    from euston.network import Flows
    from euston.network.packet import run_packets

    fabric = clos(1024, 1, nic=25e9, hosts_per_tor=16, tors_per_pod=8, aggs_per_pod=16, cores_per_agg=8)
    dst = np.random.default_rng(0).permutation(1024)
    src = np.flatnonzero(dst != np.arange(1024))
    run = run_packets(Flows.of(src, dst[src], 2_000_000), fabric, seed=1)
    return Outcome(work={"events": run.stats["events"]}, check=run.makespan)


if __name__ == "__main__":
    main()
