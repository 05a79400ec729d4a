"""A whole iteration: folding changes nothing, time is accounted for, bytes are the closed-form volumes.

Oracles: the same program unfolded, the bubble formulas of SC'21 (arXiv:2104.04473), and volumes per rank.
"""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from euston import catalog
from euston.clock import TransferTable, execute
from euston.cluster import Parallel, Placement, Site
from euston.collectives.network_rates import SCALE_OUT_STEP_LATENCY
from euston.devices import GPU
from euston.errors import ConfigError, EustonError
from euston.fabrics import LinkKind, clos
from euston.models import Transformer
from euston.network import Columns
from euston.network.balancing.ecmp import Ecmp
from euston.network.balancing.spray import Spray
from euston.training import (
    Conditions,
    HostFault,
    LinkFault,
    SoftwareProfile,
    TrainingJob,
    job_result,
    order,
    run_iteration,
)
from euston.training.costs import ChunkCost, Costs, costs
from euston.training.write import write_iteration

MODEL = Transformer(
    name="small", layers=8, hidden=2048, heads=16, kv_heads=16, head_dim=128, ffn=8192, vocab=32000,
    gated=False, norm="layernorm", positions="learned", max_positions=2048, biases=True, tied=False,
)  # fmt: skip
H100 = catalog.accelerator("h100-sxm")
DEVICE = GPU(H100)


def site(hosts=16, per_host=4, *, oversubscription=(1.0, 1.0), nic=50e9):
    fabric = clos(
        hosts, per_host, nic=nic, hosts_per_tor=2, tors_per_pod=4, aggs_per_pod=2, cores_per_agg=2,
        oversubscription=oversubscription, scale_up=450e9,
    )  # fmt: skip
    return Site("test", H100, hosts, per_host, fabric)


def job(name="job", **changes):
    parallel = Parallel(tensor=4, sequence=True, pipeline=4, data=4, sharding="zero1")
    values = {
        "global_batch": 32, "micro_batch": 1, "sequence": 2048, "software": SoftwareProfile(), "name": name,
    }  # fmt: skip
    parallel = changes.pop("parallel", parallel)
    if parallel.virtual > 1:
        values["schedule"] = "interleaved"
    return TrainingJob(MODEL, parallel, **(values | changes))


def run(what, where=None, conditions=None, first_host=0):
    where = where or site()
    placed = (what, Placement(what.parallel, where.accelerators_per_host, first_host=first_host))
    return run_iteration([placed], where, [DEVICE], conditions or Conditions())


def link(where, kind, number=0):
    return int(np.flatnonzero(where.fabric.kind == kind)[number])


def both(what, where, conditions):
    on = run(what, where, replace(conditions, folding=True))
    off = run(what, where, replace(conditions, folding=False))
    return on, off


def assert_equal(on, off, where):
    a, b = job_result(on, 0, where), job_result(off, 0, where)
    for name in ("step_time", "bubble_fraction", "exposed_communication_fraction"):
        assert a.scalars[name] == pytest.approx(b.scalars[name], rel=1e-9, abs=1e-12), name
    np.testing.assert_allclose(on.row_bytes, off.row_bytes, rtol=1e-9)
    mine, theirs = a.tables["stages"], b.tables["stages"]
    for column in ("compute", "tensor", "pipeline", "data", "bubble", "optimizer"):
        np.testing.assert_allclose(mine[column], theirs[column], rtol=1e-7, atol=1e-9, err_msg=column)


WHERE = site()
SLIM = site(oversubscription=(2.0, 4.0))
CASES = {
    "nothing wrong": (WHERE, Conditions()),
    "one slow NIC": (WHERE, Conditions(links=(LinkFault(link(WHERE, LinkKind.NIC_UP, 9), 0.5),))),
    "two slow NICs": (
        WHERE,
        Conditions(
            links=(
                LinkFault(link(WHERE, LinkKind.NIC_UP, 9), 0.5),
                LinkFault(link(WHERE, LinkKind.NIC_DOWN, 3), 0.3),
            )
        ),
    ),
    "a failed uplink": (WHERE, Conditions(links=(LinkFault(link(WHERE, LinkKind.TOR_UP, 5), 0.0),))),
    "a failed core link": (WHERE, Conditions(links=(LinkFault(link(WHERE, LinkKind.AGG_UP, 1), 0.0),))),
    "hashed ECMP": (WHERE, Conditions(balancing=Ecmp())),
    "hashed ECMP, 4 queue pairs": (WHERE, Conditions(balancing=Ecmp(qps=4, seed=3))),
    "oversubscription": (SLIM, Conditions()),
    "oversubscription and a slow NIC": (
        SLIM,
        Conditions(links=(LinkFault(link(SLIM, LinkKind.NIC_UP, 2), 0.5),)),
    ),
    "a slow host": (WHERE, Conditions(hosts=(HostFault(3, 0.8),))),
    "a host slow for a while": (WHERE, Conditions(hosts=(HostFault(6, 0.5, 0.01, 0.05),))),
    "a NIC slow for a while": (
        WHERE,
        Conditions(links=(LinkFault(link(WHERE, LinkKind.NIC_UP, 9), 0.1, 0.005, 0.1),)),
    ),
    "adaptive spray, a slow uplink": (
        WHERE,
        Conditions(balancing=Spray(adaptive=True), links=(LinkFault(link(WHERE, LinkKind.TOR_UP, 5), 0.5),)),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_folding_changes_nothing(case):
    where, conditions = CASES[case]
    what = job(parallel=Parallel(tensor=4, sequence=True, pipeline=4, data=4, sharding="zero1"))
    on, off = both(what, where, conditions)
    assert_equal(on, off, where)
    if case == "nothing wrong":
        assert on.jobs[0].replicas.size < off.jobs[0].replicas.size
    if case == "a slow host":
        assert 1 < on.jobs[0].replicas.size < 4, "one straggler splits only what it touches"


@pytest.mark.parametrize("sharding", ["none", "zero1", "zero2", "zero3"])
@pytest.mark.parametrize(
    ("pipeline", "virtual", "schedule"),
    [(1, 1, "1f1b"), (4, 1, "1f1b"), (4, 2, "interleaved"), (4, 1, "gpipe")],
)
def test_folding_changes_nothing_for_any_sharding_and_schedule(sharding, pipeline, virtual, schedule):
    parallel = Parallel(
        tensor=4, sequence=True, pipeline=pipeline, virtual=virtual, data=16 // pipeline, sharding=sharding
    )
    on, off = both(job(parallel=parallel, schedule=schedule), SLIM, Conditions())
    assert_equal(on, off, SLIM)


@pytest.mark.parametrize(
    "parallel",
    [
        Parallel(tensor=8, sequence=True, pipeline=2, data=4),  # tensor groups across hosts
        Parallel(tensor=1, pipeline=2, data=32, sharding="zero1"),  # replicas inside hosts: several rings
        Parallel(tensor=2, pipeline=2, data=16),
        Parallel(tensor=4, pipeline=1, data=16),
        Parallel(tensor=4, pipeline=16, data=1)
        if MODEL.layers >= 16
        else Parallel(tensor=4, pipeline=8, data=2),
    ],
)
def test_folding_changes_nothing_for_any_layout(parallel):
    on, off = both(job(parallel=parallel, global_batch=64), SLIM, Conditions())
    assert_equal(on, off, SLIM)


def test_two_jobs_on_one_fabric_fold_alike():
    where = site(32, oversubscription=(4.0, 1.0))
    a, b = (
        job("a"),
        job("b", parallel=Parallel(tensor=4, sequence=True, pipeline=2, data=8, sharding="zero2")),
    )
    placed = [(a, Placement(a.parallel, 4)), (b, Placement(b.parallel, 4, first_host=16))]
    runs = [run_iteration(placed, where, [DEVICE] * 2, Conditions(folding=f)) for f in (True, False)]
    for i in range(2):
        assert runs[0].jobs[i].step_time == pytest.approx(runs[1].jobs[i].step_time, rel=1e-9)
    with pytest.raises(ConfigError, match="same accelerators"):
        run_iteration(
            [placed[0], (b, Placement(b.parallel, 4, first_host=8))], where, [DEVICE] * 2, Conditions()
        )


def bare(pipeline, virtual, schedule, micro_batches, forward, backward):
    """Makespan of a pipeline whose stages cost the given seconds per chunk and whose transfers are free."""
    parallel = Parallel(tensor=1, pipeline=pipeline, virtual=virtual, data=1)
    layers = (1,) * (pipeline * virtual)
    what = TrainingJob(
        replace(MODEL, layers=pipeline * virtual), parallel, global_batch=micro_batches, sequence=2048,
        schedule=schedule, stages=layers,
    )  # fmt: skip
    chunk = [
        [ChunkCost(1, forward[s], backward[s], 0, 0, 0, 0, 1) for _ in range(virtual)]
        for s in range(pipeline)
    ]
    cost = Costs(tuple(map(tuple, chunk)), None, (0.0,) * pipeline, 0.0, pl.DataFrame(), 0.0, 0.0)
    program = write_iteration(what, what.place(), cost).program
    n = int(program.transfer.max(initial=0)) + 1
    nothing = Columns(np.zeros(2, np.int64), np.zeros(0, np.int32), np.zeros(0), 1)
    table = TransferTable(
        ptr=np.arange(n + 1), column=np.zeros(n, np.int32), size=np.zeros(n), weight=np.ones(n),
        rate_cap=np.ones(n), latency=np.zeros(n), slow_share=np.zeros(n), columns=nothing,
    )  # fmt: skip
    norm = 2 * np.ceil(np.log2(pipeline)) * SCALE_OUT_STEP_LATENCY
    return execute(program, table, [1.0]).makespan - norm


@pytest.mark.parametrize(("p", "m"), [(2, 2), (4, 8), (8, 8), (4, 12)])
def test_bubbles_emerge_as_the_formulas_say(p, m):
    """Oracle: equal stages have a bubble of (p-1)(F+B), divided by v when interleaved (SC'21)."""
    f, b = 1.0, 2.0
    for schedule in ("1f1b", "gpipe"):
        time = bare(p, 1, schedule, m, [f] * p, [b] * p)
        assert time == pytest.approx((m + p - 1) * (f + b), rel=1e-12), schedule
    for v in (2, 4):
        if m % p == 0:
            time = bare(p, v, "interleaved", m, [f / v] * p, [b / v] * p)
            assert time == pytest.approx((m + (p - 1) / v) * (f + b), rel=1e-12), v


def test_unequal_stages_against_a_plain_simulator():
    """Oracle: a plain-Python relaxation of 1F1B's dependencies."""
    rng = np.random.default_rng(1)
    for p, m in ((2, 3), (4, 6), (5, 4)):
        f, b = rng.uniform(0.5, 2, p), rng.uniform(0.5, 2, p)
        done: dict[tuple[bool, int, int], float] = {}
        orders = order("1f1b", p, 1, m)
        at, clock = [0] * p, [0.0] * p
        while any(at[s] < 2 * m for s in range(p)):
            for s in range(p):
                while at[s] < 2 * m:
                    back, mb = bool(orders[s].is_backward[at[s]]), int(orders[s].micro_batch[at[s]])
                    need = (True, s + 1, mb) if back else (False, s - 1, mb)
                    edge = (back and s == p - 1) or (not back and s == 0)
                    if not edge and need not in done:
                        break
                    clock[s] = max(clock[s], 0.0 if edge else done[need]) + (b[s] if back else f[s])
                    done[back, s, mb] = clock[s]
                    at[s] += 1
        assert bare(p, 1, "1f1b", m, f, b) == pytest.approx(max(clock), rel=1e-12)


def test_time_is_accounted_for():
    for conditions in (Conditions(), CASES["a slow host"][1]):
        result = job_result(run(job(), WHERE, conditions), 0, WHERE)
        stages = result.tables["stages"]
        parts = stages.select("compute", "tensor", "pipeline", "data", "optimizer", "bubble")
        assert (parts.to_numpy() >= -1e-12).all()
        np.testing.assert_allclose(parts.to_numpy().sum(axis=1), result.step_time, rtol=1e-9)
        assert sum(result.tables["breakdown"]["seconds"]) == pytest.approx(result.step_time, rel=1e-9)
        assert 0 < result.mfu <= result.hfu * 1.001 <= 1


def test_bytes_are_the_closed_form_volumes():
    what = job(parallel=Parallel(tensor=4, sequence=True, pipeline=4, data=4, sharding="none"))
    done = run(what)
    fabric = WHERE.fabric
    row_kind = fabric.kind[fabric.bundle_start[:-1]]
    carried = done.row_bytes[: fabric.bundles]
    m, activations = what.micro_batches, 2 * what.tokens * MODEL.hidden
    hops = 2 * (what.parallel.pipeline - 1) * m * what.parallel.data * activations
    gradients = sum(
        2 * (4 - 1) / 4 * 4 * chunk.parameters * 4 * 4
        for stage in done.jobs[0].cost.chunks
        for chunk in stage
    )  # 2(d-1)/d of 4-byte gradients, by 4 tensor ranks of 4 replicas
    sent = carried[row_kind == LinkKind.NIC_UP].sum()
    assert sent == pytest.approx(hops + gradients, rel=1e-9)
    for up, down in ((LinkKind.NIC_UP, LinkKind.NIC_DOWN), (LinkKind.TOR_UP, LinkKind.TOR_DOWN)):
        assert carried[row_kind == up].sum() == pytest.approx(carried[row_kind == down].sum(), rel=1e-9)


def test_overlap_hides_what_it_can():
    exposed = {}
    for overlap in (False, True):
        software = SoftwareProfile(p2p_overlap=overlap, data_overlap=overlap)
        result = job_result(run(job(software=software)), 0, WHERE)
        exposed[overlap] = result
    assert exposed[True].step_time < exposed[False].step_time
    share = {o: r.exposed_communication_fraction for o, r in exposed.items()}
    assert share[True] < share[False]


@pytest.mark.parametrize("nic", [10e9, 25e9, 50e9])
def test_faster_nics_never_hurt(nic):
    assert run(job(), site(nic=nic * 2)).jobs[0].step_time <= run(job(), site(nic=nic)).jobs[0].step_time * (
        1 + 1e-9
    )


def test_same_bits_twice_and_permuted_hosts():
    first, again = run(job(), SLIM), run(job(), SLIM)
    assert first.jobs[0].step_time == again.jobs[0].step_time
    np.testing.assert_array_equal(first.row_bytes, again.row_bytes)
    flat = site(16, oversubscription=(1.0, 1.0))
    what = job()
    hosts = np.arange(16).reshape(4, 4)[:, [2, 0, 3, 1]].ravel()  # replicas trade places, stages stay
    moved = [(what, Placement(what.parallel, 4, hosts=hosts.tolist()))]
    other = run_iteration(moved, flat, [DEVICE], Conditions())
    assert other.jobs[0].step_time == pytest.approx(run(what, flat).jobs[0].step_time, rel=1e-9)


def test_without_contention_nothing_is_slower():
    contended = run(job(), SLIM, Conditions(balancing=Ecmp())).jobs[0].step_time
    alone = run(job(), SLIM, Conditions(balancing=Ecmp(), contention=False)).jobs[0].step_time
    assert alone <= contended * (1 + 1e-9)


def test_a_link_that_dies_for_good_names_what_is_stuck():
    dead = Conditions(links=(LinkFault(link(WHERE, LinkKind.NIC_UP, 4), 0.0, at=0.004),))
    with pytest.raises(EustonError, match=r"dead|no capacity"):
        run(job(), WHERE, dead)


def test_a_dead_nic_from_the_start_has_no_path():
    dead = Conditions(links=(LinkFault(link(WHERE, LinkKind.NIC_UP, 4), 0.0),))
    with pytest.raises(EustonError, match="h1/g0"):
        run(job(), WHERE, dead)


def test_korthikanti_layer_times():
    """22B layer on 8 A100 (arXiv:2205.05198, Table 4), with and without sequence parallelism."""
    from euston import models, training

    a100 = GPU(catalog.accelerator("a100-sxm-80gb"))
    for sequence, forward, backward in ((True, 7.2, 11.8), (False, 7.7, 11.9)):
        what = TrainingJob(
            models.transformer("gpt-22b"),
            Parallel(tensor=8, sequence=sequence),
            global_batch=4, micro_batch=4, sequence=2048, precision="fp16",
            software=training.software("megatron-2022"),
        )  # fmt: skip
        cost = costs(what, what.place(), a100, speed_spread=0.0)
        chunk, one = cost.chunks[0][0], cost.collective.seconds
        layer = 48
        ends = 2 * one * 0.5  # embedding and head collectives are counted on this chunk too
        ours = (chunk.forward + (chunk.tensor_forward * one - ends)) / layer
        assert ours * 1e3 == pytest.approx(forward, rel=0.10)
        back = chunk.backward + chunk.tensor_backward * one - ends
        assert back / layer * 1e3 == pytest.approx(backward, rel=0.10)
