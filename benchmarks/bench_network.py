"""The network engine: full solves, repairs per event, whole runs, folded collectives, a 405B step, packets.

Solves and repairs are on a three-tier Clos of 16,384 hosts (98,304 directed links of 100 Gb/s) with paths
picked at random (ECMP). Divide `cpu_s` by `work["events"]` for the cost of an event, and the other way round
for events per second. Fabrics, flows, paths and the rates before the first event are made before the first
call ends and are no part of `cpu_s`; lowering, routing, folding and solving of whole runs are.
"""

from __future__ import annotations

import dataclasses
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from _harness import Outcome, case, main

if TYPE_CHECKING:
    from collections.abc import Callable

    from euston.fabrics import Fabric
    from euston.network import Allocation, Columns, FlowResult, Flows, Incremental
    from euston.network.balancing import Spread

HOSTS = 16_384
RANKS = 131_072
DEMO = Path(__file__).resolve().parents[1] / "examples" / "llama3-405b-16k.yaml"


@cache
def _fabric(hosts: int, nic: str = "100 Gb/s") -> Fabric:
    """Three tiers at full bisection, one NIC per host; 1,024 hosts are the fat tree k = 16."""
    from euston.fabrics import clos3, fat_tree

    if hosts == 1024:
        return fat_tree(16, nic=nic)
    return clos3(hosts, 1, nic=nic, hosts_per_tor=16, tors_per_pod=16, aggs_per_pod=16, cores_per_agg=16)


def _pairs(hosts: int, per_host: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A random permutation for one flow per host, else random ends, never equal; int32[F]."""
    rng = np.random.default_rng(seed)
    src = np.tile(np.arange(hosts, dtype=np.int32), per_host)
    if per_host > 1:
        return src, ((src + rng.integers(1, hosts, src.size)) % hosts).astype(np.int32)
    order = rng.permutation(hosts).astype(np.int32)
    dst = np.empty_like(src)
    dst[order] = np.roll(order, 1)  # one circle: nobody sends to itself
    return src, dst


# ---- solves and repairs ------------------------------------------------------------------------------------


@cache
def _system(per_host: int, more: int = 0) -> tuple[Columns, np.ndarray]:
    """Columns of hashed flows and the capacity of every row; ``more`` flows with random ends at the end."""
    from euston.network import Columns
    from euston.network.balancing.ecmp import Ecmp

    fabric = _fabric(HOSTS)
    src, dst = _pairs(HOSTS, per_host)
    if more:
        extra = _pairs(HOSTS, -(-more // HOSTS) + 1, seed=1)
        chosen = np.random.default_rng(2).permutation(extra[0].size)[:more]
        src, dst = np.concatenate((src, extra[0][chosen])), np.concatenate((dst, extra[1][chosen]))
    spread = Ecmp(connections="flow").spread(fabric, src, dst, alive=None, capacity=fabric.capacity)
    return Columns(spread.ptr, spread.row, spread.fraction, fabric.rows), fabric.row_capacity(
        None, spread.split
    )


def _solve(per_host: int, method: Any) -> Outcome:
    from euston.network import max_min

    columns, capacity = _system(per_host)
    found = max_min(columns, capacity, method=method)
    work = {
        "flows": len(columns),
        "rounds": found.rounds,
        "pops": found.pops,
        "certificate": _proof(per_host),
    }
    # The rates of the methods are equal to rounding: the check is, in whole bytes/s per flow.
    return Outcome(work, check=float(np.round(found.rate.mean())))


@cache
def _proof(per_host: int) -> float:
    """The worst relative violation of optimality of the default method's rates."""
    from euston.network import max_min

    return max_min(*_system(per_host)).certificate()


for _per_host in (1, 4, 16):
    _flows = f"{_per_host * HOSTS:,} flows on {HOSTS:,} hosts"
    case(f"full solve, {_flows}", baseline=partial(_solve, _per_host, "heap"))(
        partial(_solve, _per_host, "auto")
    )
    case(f"full solve, {_flows}, rounds only", long=True)(partial(_solve, _per_host, "rounds"))


@cache
def _replay() -> Callable[..., None]:
    """A kernel that removes flow after flow and adds another each time, with a repair after every step.

    `Incremental.change` checks its arguments in Python, which costs more than a small repair; these are the
    kernels behind it. Not cached on disk: numba would not notice that they have changed.
    """
    from numba import njit

    from euston.network._repair import component
    from euston.network.incremental import _change, _finish

    @njit
    def replay(net, slot, column, none, no_number):  # type: ignore[no-untyped-def]
        one = np.ones(1)
        for j in range(slot.size):
            this = slot[j : j + 1]
            if not _change(net, this, none, none, no_number, no_number, none, no_number):
                component(net, None)
            _finish(net)
            if not _change(net, none, this, column[j : j + 1], one, one * np.inf, none, no_number):
                component(net, None)
            _finish(net)

    return replay  # type: ignore[no-any-return]


@cache
def _started(per_host: int, more: int, tol: float) -> Incremental:
    """All but the last ``more`` flows, solved."""
    from euston.network import Incremental

    columns, capacity = _system(per_host, more)
    rates = Incremental(columns, capacity, per_host * HOSTS, tol=tol)
    rates.change(column=np.arange(per_host * HOSTS))
    return rates


def _repairs(per_host: int, swaps: int, tol: float) -> Outcome:
    """``swaps`` random flows leave one by one, and after each a random one comes: two events, two repairs."""
    from euston.network import _net as k

    start = _started(per_host, swaps, tol)
    net = type(start._net)(*(array.copy() for array in start._net))
    slots = np.random.default_rng(3).permutation(per_host * HOSTS)[:swaps].astype(np.int64)
    columns = per_host * HOSTS + np.arange(swaps, dtype=np.int64)
    _replay()(net, slots, columns, np.zeros(0, np.int64), np.zeros(0))
    rate = net.flow[:, k.RATE]
    before, after = start._net.n, net.n
    work = {
        "events": 2 * swaps,
        "moved_per_event": float(after[k.N_TOUCHED] - before[k.N_TOUCHED]) / (2 * swaps),
        "full_solves": float(after[k.N_FULL] - before[k.N_FULL]),
        **_error(per_host, swaps, rate.tobytes(), net.flow_i[:, k.COLUMN].tobytes()),
    }
    return Outcome(work, check=float(rate.sum()))


@cache
def _error(per_host: int, swaps: int, rate: bytes, column: bytes) -> dict[str, float]:
    """Rates after the last event against a full solve; the same every time, and so done once."""
    exact = _solved(per_host, swaps, np.frombuffer(column, np.int64)).rate
    error = np.abs(np.frombuffer(rate) / exact - 1)
    return {
        "largest_rate_error": float(error.max()),
        "rate_error_p99": float(np.quantile(error, 0.99)),
        "rate_error_mean": float(error.mean()),
    }


def _solved(per_host: int, more: int, column: np.ndarray) -> Allocation:
    from euston.network import max_min

    return max_min(*_system(per_host, more), column=column)


case("repair per event, 1 flow per host, exact")(partial(_repairs, 1, 10_000, 0.0))
case("repair per event, 4 flows per host, exact")(partial(_repairs, 4, 200, 0.0))
case("repair per event, 4 flows per host, tol 1e-3")(partial(_repairs, 4, 1000, 1e-3))


# ---- whole runs --------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class DModK:
    """Static routing by digits of the destination: nobody collides on the way down (Gomez et al., 2007).

    On fabrics of `_fabric`: ``width`` hosts to a ToR, ToRs and aggs to a pod, cores to an agg.
    """

    width: int
    name: ClassVar[str] = "d_mod_k"

    def spread(
        self, fabric: Fabric, src: Any, dst: Any, *, alive: Any, capacity: Any, split: Any = None
    ) -> Spread:
        """See `Balancing.spread`."""
        from euston.network.balancing._paths import on_paths

        n = self.width
        agg, core, near = dst % n, dst // n % n, src // n**2 == dst // n**2
        choice = np.where(near, agg, agg * n + core).astype(np.uint64)
        links = fabric.route(src, dst, choice, alive=alive)
        return on_paths(fabric, links, np.arange(src.size + 1), np.ones(src.size), split)


def _policy(name: str, hosts: int) -> Any:
    from euston.network.balancing import BALANCING

    return DModK(8 if hosts == 1024 else 16) if name == "d_mod_k" else BALANCING.get(name)()


@cache
def _messages(hosts: int, per_host: int) -> Flows:
    """Random sizes of 1 to 3 MB."""
    from euston.network import Flows

    src, dst = _pairs(hosts, per_host)
    return Flows.of(src, dst, np.random.default_rng(4).integers(1_000_000, 3_000_001, src.size))


def _outcome(*runs: FlowResult) -> Outcome:
    work = {
        "flows": sum(len(run.flows) for run in runs),
        "events": sum(run.stats["events"] for run in runs),
        "repaired_per_solve": sum(run.stats.get("repaired", 0.0) for run in runs)
        / max(1.0, sum(run.stats.get("solves", 0.0) for run in runs)),
        "fold_ratio": runs[0].meta["fold_ratio"],
    }
    return Outcome(work, check=float(sum(run.makespan for run in runs)))


def _completion(hosts: int, per_host: int, balancing: str, tol: float = 0.0) -> Outcome:
    from euston.traffic.fluid import FluidSettings, run_fluid

    settings = FluidSettings(tol=tol)
    return _outcome(
        run_fluid(_messages(hosts, per_host), _fabric(hosts), _policy(balancing, hosts), settings=settings)
    )


for _name in ("ecmp", "spray", "d_mod_k"):
    case(f"permutation of {HOSTS:,} hosts, 1-3 MB, to completion, {_name}")(
        partial(_completion, HOSTS, 1, _name)
    )
for _per_host in (4, 16):
    for _name in ("ecmp", "spray", "d_mod_k"):
        case(
            f"1,024 hosts x {_per_host} random flows, 1-3 MB, to completion, {_name}",
            repeat=1 if _per_host == 16 else None,
        )(partial(_completion, 1024, _per_host, _name))
case("1,024 hosts x 16 random flows, 1-3 MB, to completion, ecmp, tol 1e-3", repeat=1)(
    partial(_completion, 1024, 16, "ecmp", 1e-3)
)


# ---- collectives of 131,072 ranks --------------------------------------------------------------------------


@cache
def _cluster() -> Fabric:
    """16,384 hosts of 8 accelerators, a NIC each, three tiers."""
    from euston.fabrics import clos

    return clos(
        RANKS // 8, 8, nic="400 Gb/s", hosts_per_tor=16, tors_per_pod=64, aggs_per_pod=16, cores_per_agg=64,
        scale_up="450 GB/s",
    )  # fmt: skip


@cache
def _rings(across: bool, collective: str, buffer: int) -> Flows:
    """One flow per edge: rings inside hosts, or on each of the 8 rails."""
    from euston.collectives import ring_bytes, ring_edges
    from euston.network import Flows

    ranks = np.arange(RANKS).reshape(-1, 8)
    groups = ranks.T if across else ranks
    src, dst = ring_edges(groups)
    return Flows.of(src.ravel(), dst.ravel(), round(ring_bytes(collective, groups.shape[1], buffer)))


@cache
def _one_ring(buffer: int) -> Flows:
    from euston.collectives import ring_bytes, ring_edges
    from euston.network import Flows

    src, dst = ring_edges(np.arange(RANKS))
    return Flows.of(src.ravel(), dst.ravel(), round(ring_bytes("all_reduce", RANKS, buffer)))


def _fluid(flows: Flows, folding: bool) -> FlowResult:
    from euston.network.balancing.spray import Spray
    from euston.traffic.fluid import FluidSettings, run_fluid

    return run_fluid(flows, _cluster(), Spray(), settings=FluidSettings(folding=folding))


def _ring(folding: bool) -> Outcome:
    return _outcome(_fluid(_one_ring(2**30), folding))


case(f"ring all-reduce of {RANKS:,} ranks, folded", baseline=partial(_ring, False))(partial(_ring, True))


def _hierarchical(folding: bool) -> Outcome:
    """Reduce-scatter inside hosts, all-reduce on rails, all-gather inside hosts; stages do not overlap."""
    inside = [_rings(False, collective, 2**30) for collective in ("reduce_scatter", "all_gather")]
    rails = _rings(True, "all_reduce", 2**30 // 8)
    return _outcome(*(_fluid(flows, folding) for flows in (inside[0], rails, inside[1])))


case(f"hierarchical all-reduce of {RANKS:,} ranks, folded", baseline=partial(_hierarchical, False))(
    partial(_hierarchical, True)
)


@case(f"all-to-all of {RANKS:,} ranks, pairs counted")
def all_to_all() -> Outcome:
    from euston.collectives import all_to_all

    fabric = _cluster()
    found = all_to_all(fabric, np.arange(RANKS), 2**30 / RANKS)
    work = {"pairs": found.pairs, "rows": found.columns.row.size}
    return Outcome(work, check=found.seconds(fabric.row_capacity()))


# ---- a training step, and packets --------------------------------------------------------------------------


@case("405B step on 16,384 accelerators, hashed ECMP, exact", repeat=1)
def step() -> Outcome:
    """Reading the scenario, building the site and the program, lowering, running."""
    from euston import scenario
    from euston.assemble import device
    from euston.runs.training import prepare
    from euston.training import run_iteration

    s = scenario.load(DEMO)
    ecmp = type(s.policies.balancing).model_validate({"kind": "ecmp"})
    s = s.model_copy(update={"policies": s.policies.model_copy(update={"balancing": ecmp})})
    ready = prepare(s)
    devices = [device(ready.site.accelerator, job) for job, _ in ready.jobs]
    found = run_iteration(ready.jobs, ready.site, devices, ready.conditions)
    work = {
        "operations": len(found.run.program),
        "events": found.run.events,
        "replica_classes": float(found.jobs[0].replicas.size),
        "columns_solved": found.classes,
    }
    return Outcome(work, check=found.jobs[0].step_time)


def _packets(hosts: int) -> Outcome:
    from euston.network import Flows
    from euston.network.balancing.mixed import Mixed
    from euston.network.packet import run_packets
    from euston.network.transport.nscc import Nscc

    found = run_packets(
        Flows.of(*_pairs(hosts, 1), 2_000_000),
        _fabric(hosts, "200 Gb/s"),
        transport=Nscc(),
        balancing=Mixed(),
        seed=1,
    )
    work = {name: found.stats[name] for name in ("events", "data_packets", "retransmitted")}
    return Outcome({"flows": hosts, **work}, check=found.makespan)


case("packets with NSCC, 1,024 hosts, 2 MB permutation, 200 Gb/s")(partial(_packets, 1024))


if __name__ == "__main__":
    main()
