"""Faults on the network of a job, in time and space: what splits, what waits, what is refused.

Oracles: hand-made rates of spread flows, the same fault unfolded, a fault from the start.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from euston.catalog import accelerator
from euston.cluster import Parallel, Placement, Site, place
from euston.collectives.network_rates import SCALE_OUT_EFFICIENCY
from euston.devices import GPU
from euston.errors import ConfigError, RouteError, SimulationError
from euston.fabrics import LinkKind, clos
from euston.models import Transformer
from euston.network.balancing import Balancing
from euston.network.balancing.ecmp import Ecmp
from euston.network.balancing.oblivious import Oblivious
from euston.network.balancing.spray import Spray
from euston.training import Conditions, HostFault, Iteration, LinkFault, TrainingJob, run_iteration, wire

MODEL = Transformer("tiny", layers=8, hidden=1024, heads=16, vocab=32000, ffn=2816)
H100 = accelerator("h100-sxm")
SHARDED = Parallel(tensor=4, sequence=True, pipeline=2, data=8, sharding="zero2")


def make_site(hosts: int = 16, oversubscription: tuple[float, float] = (1, 1), nic: float = 12.5e9) -> Site:
    fabric = clos(
        hosts, 4, nic=nic, hosts_per_tor=2, tors_per_pod=4, aggs_per_pod=2, cores_per_agg=2,
        oversubscription=oversubscription, scale_up=450e9,
    )  # fmt: skip
    return Site("test", H100, hosts, 4, fabric)


SITE = make_site()


def run(parallel: Parallel, conditions: Conditions, site: Site = SITE, **changes: object) -> Iteration:
    job = TrainingJob(MODEL, parallel, global_batch=4 * parallel.data, sequence=2048, **changes)  # type: ignore[arg-type]
    placed = [(job, place(parallel, site))]
    return run_iteration(placed, site, [GPU(H100)], conditions)


def fault(name: str, factor: float, at: float = 0.0, until: float = np.inf, site: Site = SITE) -> LinkFault:
    return LinkFault(site.fabric.link_index(name), factor, at, until)


def assert_folding_changes_nothing(
    parallel: Parallel, conditions: Conditions, site: Site = SITE, **changes: object
) -> tuple[Iteration, Iteration]:
    """Both runs, the folded one first; every operation of every class ends at the same time."""
    on, off = (run(parallel, replace(conditions, folding=f), site, **changes) for f in (True, False))
    a, b = on.jobs[0], off.jobs[0]
    for k, replica in enumerate(a.representative):
        np.testing.assert_allclose(
            on.run.end[a.index[k]], off.run.end[b.index[replica]], rtol=1e-9, atol=1e-12
        )
    np.testing.assert_allclose(on.row_bytes, off.row_bytes, rtol=1e-9)
    assert a.replicas.sum() == parallel.data
    return on, off


CASES = {
    "a spread uplink slows down and recovers": Conditions(
        links=(fault("tor_up/p0/t0/a1", 0.25, 0.004, 0.02),)
    ),
    "a hashed uplink slows down": Conditions(Ecmp(qps=2), links=(fault("tor_up/p0/t0/a1", 0.25, 0.004),)),
    "two faults of one link overlap": Conditions(
        links=(fault("tor_up/p0/t0/a1", 0.25, 0, 0.02), fault("tor_up/p0/t0/a1", 0.5, 0.01, 0.03))
    ),
    "a core link": Conditions(links=(fault("agg_down/p1/a0/c1", 0.1, 0.003, 0.02),)),
    "a NIC fails and comes back": Conditions(links=(fault("nic_up/h5/n2", 0.0, 0.004, 0.02),)),
    "an accelerator's scale-up link": Conditions(links=(fault("scale_up_out/h5/g2", 0.5, 0.004, 0.02),)),
    "two hosts, one for a while": Conditions(hosts=(HostFault(5, 0.7, 0.004, 0.012), HostFault(9, 0.8))),
    "nothing shared": Conditions(links=(fault("nic_up/h5/n2", 0.5),), contention=False),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    "parallel",
    [SHARDED, Parallel(tensor=2, pipeline=2, data=16, sharding="zero3")],
    ids=["one replica per host", "two per host"],
)
def test_folding_changes_nothing_whatever_happens_when(case: str, parallel: Parallel) -> None:
    on, off = assert_folding_changes_nothing(parallel, CASES[case])
    if not isinstance(CASES[case].balancing, Ecmp):  # hashing makes every replica another
        assert on.jobs[0].replicas.size < off.jobs[0].replicas.size


def test_folding_changes_nothing_on_64_hosts() -> None:
    site = make_site(64, (2, 4))
    conditions = Conditions(
        links=(fault("tor_up/p3/t1/a0", 0.0, site=site), fault("nic_down/h40/n1", 0.5, 0.01, site=site)),
        hosts=(HostFault(17, 0.9),),
    )
    parallel = Parallel(tensor=4, sequence=True, pipeline=4, virtual=2, data=16, sharding="zero2")
    on, _ = assert_folding_changes_nothing(parallel, conditions, site, schedule="interleaved")
    assert 1 < on.jobs[0].replicas.size < 16


# ---- rates, by hand ----------------------------------------------------------------------------------------


def nic_seconds(conditions: Conditions, site: Site = SITE) -> float:
    """Length of the first gather of parameters of a job whose replicas lie on two leaves of one pod."""
    job = TrainingJob(MODEL, Parallel(tensor=4, data=4, sharding="zero2"), global_batch=4, sequence=2048)
    placed = [(job, Placement(job.parallel, 4))]
    done = run_iteration(placed, site, [GPU(H100)], conditions).run
    gathers = np.flatnonzero(done.program.label == done.program.labels.index("parameters"))
    return float(done.end[gathers[0]] - done.start[gathers[0]])


def test_oblivious_spray_waits_for_the_slow_link_of_a_bundle() -> None:
    """Four ring edges leave leaf 0, half of each on each of its two uplinks (50 GB/s each). At a hundredth
    an uplink carries 0.5 GB/s; each edge needs half its rate there: 0.25 GB/s instead of the NIC's 10."""
    alone = nic_seconds(Conditions())
    latency = 3 * 14e-6  # steps between four hosts
    moved = (alone - latency) * 12.5e9 * SCALE_OUT_EFFICIENCY
    slow = fault("tor_up/p0/t0/a1", 0.01)
    for at in (0.0, 1e-9):
        seconds = nic_seconds(Conditions(links=(replace(slow, at=at),)))
        assert seconds == pytest.approx(latency + moved / 0.25e9, rel=1e-6), at


def test_adaptive_spray_avoids_the_slow_link() -> None:
    """Weighed by capacity, the flows go over the other uplink, which alone is as fast as the NICs need."""
    slow = (fault("tor_up/p0/t0/a1", 0.01),)
    assert nic_seconds(Conditions(Spray(adaptive=True), slow)) == pytest.approx(nic_seconds(Conditions()))


@pytest.mark.parametrize("at", [None, 0.0, 1e-9])
def test_the_penalty_of_random_spraying_narrows_what_is_between_switches(at: float | None) -> None:
    """A hundredth of two uplinks of 50 GB/s for four ring edges: 0.25 GB/s each. With one of the uplinks at
    half of that, from the start or a moment later, each edge needs half its rate there: 0.125 GB/s."""
    alone, latency = nic_seconds(Conditions()), 3 * 14e-6
    moved = (alone - latency) * 12.5e9 * SCALE_OUT_EFFICIENCY
    links = () if at is None else (fault("tor_up/p0/t0/a1", 0.5, at),)
    seconds = nic_seconds(Conditions(Oblivious(penalty=0.99), links))
    assert seconds == pytest.approx(latency + moved / (0.25e9 if at is None else 0.125e9), rel=1e-6)
    assert nic_seconds(Conditions(Oblivious())) == alone


@pytest.mark.parametrize("name", ["nic_up/h0/n1", "nic_down/h1/n1"])
@pytest.mark.parametrize("at", [0.0, 1e-9])
def test_a_slow_nic_delivers_its_share_whenever_it_slows_down(name: str, at: float) -> None:
    """The ring of its rank runs at 0.8 of half the NIC, from the start or as good as from the start."""
    alone, latency = nic_seconds(Conditions()), 3 * 14e-6
    seconds = nic_seconds(Conditions(links=(fault(name, 0.5, at),)))
    assert seconds - latency == pytest.approx(2 * (alone - latency), rel=1e-6)


def test_a_link_that_recovers_is_used_at_its_full_rate() -> None:
    """Half the rate until the fault ends, the full one after it: by hand."""
    alone, latency = nic_seconds(Conditions()), 3 * 14e-6
    transfer = alone - latency
    seconds = nic_seconds(Conditions(links=(fault("nic_up/h0/n1", 0.5, until=transfer / 2),)))
    assert seconds == pytest.approx(latency + transfer * 1.25, rel=1e-9)


def test_of_two_faults_of_a_link_the_worse_counts() -> None:
    both = Conditions(links=(fault("nic_up/h0/n1", 0.25, 0, 5), fault("nic_up/h0/n1", 0.5, 2, 7)))
    link = both.links[0].link
    share = [both.capacity(SITE.fabric, t)[link] / SITE.fabric.capacity[link] for t in (0, 2, 5, 7)]
    assert share == [0.25, 0.25, 0.5, 1.0]
    assert both.times() == [0.0, 2, 5, 7]
    assert both.floor(SITE.fabric)[link] == 0.25 * SITE.fabric.capacity[link]


# ---- failures ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("balancing", [Spray(), Ecmp(qps=8)], ids=["spray", "ecmp"])
@pytest.mark.parametrize("until", [np.inf, 0.01], ids=["for good", "for a while"])
def test_a_failure_that_only_new_routes_could_heal_is_refused(balancing: Balancing, until: float) -> None:
    conditions = Conditions(balancing, links=(fault("tor_up/p0/t0/a1", 0.0, 0.004, until),))
    with pytest.raises(ConfigError) as error:
        run(SHARDED, conditions)
    assert str(error.value) == (
        "`faults`: tor_up/p0/t0/a1 fails 0.004 s into the step while flows use it that have other paths, and "
        "this version does not re-route them in the middle of a step; let it fail from the start "
        "(`at: 0 s`) or keep a `factor` above 0"
    )


def test_a_failure_after_the_step_changes_nothing() -> None:
    late = Conditions(links=(fault("tor_up/p0/t0/a1", 0.0, 1e3),))
    assert run(SHARDED, late).jobs[0].step_time == pytest.approx(run(SHARDED, Conditions()).jobs[0].step_time)


def test_a_failure_of_a_link_that_nobody_uses_changes_nothing() -> None:
    site = make_site(32)
    idle = Conditions(links=(fault("tor_up/p3/t0/a1", 0.0, 0.004, site=site),))
    assert run(SHARDED, idle, site).jobs[0].step_time == run(SHARDED, Conditions(), site).jobs[0].step_time


def test_a_dead_nic_stops_the_job_and_says_who_waits() -> None:
    with pytest.raises(SimulationError, match=r"training (replica|stage) \d+ .*a link on their path is dead"):
        run(SHARDED, Conditions(links=(fault("nic_up/h5/n2", 0.0, 0.004),)))
    with pytest.raises(RouteError, match=r"h5/g2 -> .*nic_up/h5/n2 is down"):
        run(SHARDED, Conditions(links=(fault("nic_up/h5/n2", 0.0),)))


def test_a_dead_uplink_from_the_start_is_routed_around() -> None:
    """Nothing crosses it, and the links beside it carry what it had."""
    fabric = SITE.fabric
    dead = fault("tor_up/p0/t0/a1", 0.0)
    before, after = (
        fabric.link_load(run(SHARDED, c).row_bytes) for c in (Conditions(), Conditions(links=(dead,)))
    )
    other = fabric.link_index("tor_up/p0/t0/a0")
    assert after[dead.link] == 0.0
    assert after[other] == pytest.approx(before[other] + before[dead.link], rel=1e-12)


# ---- wiring as a thing -------------------------------------------------------------------------------------


def test_a_wiring_serves_every_number_of_chunks() -> None:
    parallel = replace(SHARDED, virtual=2)
    conditions = CASES["a spread uplink slows down and recovers"]
    plain = [(SHARDED, place(SHARDED, SITE))]
    wiring = wire(plain, SITE, conditions)
    job = TrainingJob(MODEL, parallel, global_batch=32, sequence=2048, schedule="interleaved")
    placed = [(job, place(parallel, SITE))]
    reused = run_iteration(placed, SITE, [GPU(H100)], conditions, wiring=wiring)
    fresh = run_iteration(placed, SITE, [GPU(H100)], conditions)
    assert np.array_equal(reused.run.end, fresh.run.end)
    other = replace(job, parallel=replace(SHARDED, tensor=2, data=16), schedule="1f1b")
    with pytest.raises(ConfigError, match="was made for jobs of another layout"):
        run_iteration([(other, place(other.parallel, SITE))], SITE, [GPU(H100)], conditions, wiring=wiring)


def test_every_link_is_accounted_for() -> None:
    """Conservation: what goes up at a tier comes down at it, and less goes up the higher it is."""
    site = make_site(32, (1, 4))
    done = run(replace(SHARDED, data=16), Conditions(Ecmp(qps=4)), site)
    load = site.fabric.link_load(done.row_bytes)

    def total(kind: LinkKind) -> NDArray[np.float64]:
        return load[site.fabric.kind == kind].sum()

    pairs = [
        (LinkKind.SCALE_UP_OUT, LinkKind.SCALE_UP_IN), (LinkKind.NIC_UP, LinkKind.NIC_DOWN),
        (LinkKind.TOR_UP, LinkKind.TOR_DOWN), (LinkKind.AGG_UP, LinkKind.AGG_DOWN),
    ]  # fmt: skip
    for up, down in pairs:
        assert total(up) == pytest.approx(total(down), rel=1e-12)
        assert total(up) > 0
    assert total(LinkKind.NIC_UP) >= total(LinkKind.TOR_UP) >= total(LinkKind.AGG_UP)
