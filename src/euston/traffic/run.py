"""Flows on either network engine, told the same things: one call whose answer says which engine gave it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from euston.errors import ConfigError, SimulationError, unknown
from euston.fabrics import Fabric
from euston.network import FlowResult, Flows
from euston.network._stuck import never_end
from euston.network.allocation import AllocationPolicy, Assignment, QueuePlan, assign_flows
from euston.network.allocation.max_min import MaxMin
from euston.network.balancing import Balancing
from euston.network.balancing.ecmp import Ecmp
from euston.network.balancing.spray import Spray
from euston.network.faults import LinkFault, capacity_at, change_times
from euston.network.packet import Fault, PacketEngine, PacketSettings
from euston.network.transport import Transport
from euston.network.transport.nscc import Nscc
from euston.traffic.decomposition import DecomposedSettings, run_decomposed
from euston.traffic.fluid import FluidSettings, run_fluid

__all__ = ["NETWORKS", "NetworkFidelity", "framing", "one_path_or_all", "packet_faults", "run_flows"]

NetworkFidelity = Literal["fluid", "packet", "decomposed"]
NETWORKS: tuple[NetworkFidelity, ...] = ("fluid", "packet", "decomposed")
"""Engines that run flows."""

_SETTINGS = {"fluid": FluidSettings, "packet": PacketSettings, "decomposed": DecomposedSettings}
FIRST_STEP = 20e-6  # simulated seconds


def run_flows(
    flows: Flows,
    fabric: Fabric,
    *,
    network: str = "fluid",
    balancing: Balancing | None = None,
    transport: Transport | None = None,
    allocation: AllocationPolicy | None = None,
    jobs: Sequence[str] = ("",),
    job: ArrayLike = 0,
    faults: Sequence[LinkFault] = (),
    settings: FluidSettings | PacketSettings | DecomposedSettings | None = None,
    seed: int = 0,
    until: float = np.inf,
    progress: Callable[[str], None] | None = None,
) -> FlowResult:
    """Run flows to their ends, or to ``until`` seconds.

    Parameters
    ----------
    network : "fluid" | "packet" | "decomposed"
    balancing : Balancing
        When left out `Spray`, or `Ecmp` under a packet transport whose receivers want packets in order and
        where flows are decomposed, which knows nothing else.
    transport : Transport
        Of the packet engine, `Nscc` when left out. The others take its packet and header sizes only
        (unless ``settings`` give them), so that all move the same bytes on the wire.
    allocation : AllocationPolicy
        Who is in which queue of every link; one queue for all when left out, whatever flows are marked with.
    jobs, job : sequence of str, int[F] or int
        Names of jobs and the job of each flow, for policies that tell jobs apart.
    faults : sequence of LinkFault
    settings : FluidSettings, PacketSettings or DecomposedSettings
        Of that engine.
    progress : callable, optional
        Told how far the packet engine is.

    Raises
    ------
    RouteError, SimulationError
        Pairs without a path; flows that never end, with their names.
    ConfigError
        Endpoints, policies or settings that cannot be.
    """
    if network not in NETWORKS:
        raise ConfigError(f"`network`: {unknown('network engine', network, NETWORKS)}")
    kind = _SETTINGS[network]
    if settings is not None and not isinstance(settings, kind):
        raise ConfigError(f"`settings`: {type(settings).__name__} is not for {network}; use {kind.__name__}")
    policy = one_path_or_all(network, transport) if balancing is None else balancing
    if network == "fluid":
        if settings is None and transport is not None:
            settings = framing(transport)
        assert not isinstance(settings, PacketSettings | DecomposedSettings)
        result = run_fluid(
            flows,
            fabric,
            policy,
            faults=faults,
            settings=settings,
            allocation=allocation,
            jobs=jobs,
            job=job,
            seed=seed,
            until=until,
        )
        result.meta["until"] = None if until == np.inf else until
        return result
    if network == "decomposed":
        assert not isinstance(settings, FluidSettings | PacketSettings)
        if settings is None and transport is not None:
            settings = DecomposedSettings(transport.mtu, transport.header)
        _decomposable(policy, allocation, faults, until)
        return run_decomposed(flows, fabric, settings=settings, seed=seed)
    assert not isinstance(settings, FluidSettings | DecomposedSettings)
    settings = PacketSettings() if settings is None else settings
    flows.check(fabric)
    alive = capacity_at(fabric, faults, 0.0) > 0
    if not alive.all():  # a pair that is apart from the start is an error before anything runs
        fabric.route(flows.src, flows.dst, np.zeros(len(flows), np.uint64), network="auto", alive=alive)
    places, plan = _placed(flows, fabric, allocation or MaxMin(), jobs, job)
    placed = places.on(flows)
    weights = {q: float(w) for q, w in enumerate(plan.weights.tolist())}
    settings = replace(settings, queue_weights={**weights, **settings.queue_weights})
    engine = PacketEngine(
        placed,
        fabric,
        transport=Nscc() if transport is None else transport,
        balancing=policy,
        settings=settings,
        seed=seed,
        faults=packet_faults(fabric, faults),
    )
    _advance(engine, until, progress or (lambda _: None))
    result = engine.result()
    result.meta["until"] = None if until == np.inf else until
    if until == np.inf and not result.finished.all():
        started, gone = np.isfinite(result.start), int(result.stats["given_up"])
        why = (
            f"{gone:,} given up after {settings.retries} timeouts in a row" if gone else "a pause never ends"
        )
        raise SimulationError(never_end(flows, fabric, result.finished, started, why))
    return result


def _advance(engine: PacketEngine, until: float, tell: Callable[[str], None]) -> None:
    """Run to ``until`` in steps of about a second of ours, so that Ctrl-C is heard between them."""
    step = FIRST_STEP
    while (next_ := engine.next_time()) <= until and next_ < np.inf:
        begun = time.perf_counter()
        engine.advance(min(until, next_ + step))
        took = time.perf_counter() - begun
        step *= 2.0 if took < 0.5 else 0.5 if took > 2.0 else 1.0
        tell(f"packets: {engine.now * 1e6:,.0f} us simulated")


def one_path_or_all(network: str, transport: Transport | None) -> Balancing:
    """The balancing where nobody says one: spraying, but one path for what throws away what overtakes."""
    in_order = network == "packet" and transport is not None and getattr(transport, "in_order", False)
    return Ecmp() if in_order or network == "decomposed" else Spray()


def _decomposable(
    policy: Balancing, allocation: AllocationPolicy | None, faults: Sequence[LinkFault], until: float
) -> None:
    """Refuse what links that know nothing of each other cannot have."""
    wrong = {
        "policies.balancing": policy.name != "ecmp" and f"{policy.name!r}; every flow is hashed to one path",
        "policies.allocation": allocation is not None
        and not isinstance(allocation, MaxMin)
        and f"{allocation.name!r}; a link has one queue",
        "faults": bool(faults) and "links do not change",
        "run.until": until < np.inf and "all flows are run to their ends",
    }
    for where, why in wrong.items():
        if why:
            raise ConfigError(
                f"`{where}`: {why} where flows are decomposed; use run.network: fluid or packet"
            )


def framing(transport: Transport) -> FluidSettings:
    """Fluid settings under which a flow puts the same bytes on the wire as under ``transport``."""
    return FluidSettings(mtu=transport.mtu - transport.header, header=transport.header)


def packet_faults(fabric: Fabric, faults: Sequence[LinkFault]) -> list[Fault]:
    """The same faults as the packet engine takes them: what changes at each moment, by factor."""
    if not faults:
        return []
    found: list[Fault] = []
    before = fabric.capacity
    for moment in change_times(faults):
        now = capacity_at(fabric, faults, moment)
        changed = np.flatnonzero(now != before)
        factor = now[changed] / fabric.capacity[changed]
        found += [
            Fault(moment, tuple(changed[factor == value].tolist()), float(value))
            for value in np.unique(factor)
        ]
        before = now
    return found


def _placed(
    flows: Flows,
    fabric: Fabric,
    allocation: AllocationPolicy,
    jobs: Sequence[str],
    job: ArrayLike,
) -> tuple[Assignment, QueuePlan]:
    """Places of the flows and the plan of the queues."""
    if allocation.dynamic:
        raise ConfigError(
            f"`policies.allocation`: {allocation.name!r} plans while flows run, which the packet engine does "
            "not follow in this version; use run.network: fluid, or a policy that is decided beforehand"
        )
    allocator = allocation.begin(fabric, jobs, (*flows.tags, ""))
    plan = allocator.plan
    if plan.links.size:
        raise ConfigError(
            "`policies.allocation`: the packet engine gives every link the same weights in this version; "
            "use run.network: fluid for weights of single links"
        )
    return assign_flows(allocator, flows, jobs=jobs, job=job), plan
