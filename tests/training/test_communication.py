"""Context- and expert-parallel traffic, HSDP, DualPipe: bytes on links, who waits, and folding.

Oracles: volumes by hand (the table of collectives per layer), a Monte-Carlo draw of routings, exposure by
hand on made-up costs, and the same job unfolded.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from euston.catalog import accelerator
from euston.clock import TransferTable, execute
from euston.cluster import Parallel, Placement, Site, place
from euston.devices import GPU
from euston.errors import ConfigError
from euston.fabrics import LinkKind, clos
from euston.models import MoE, Transformer
from euston.network import Columns
from euston.training import (
    Conditions,
    HostFault,
    Iteration,
    SoftwareProfile,
    TrainingJob,
    job_result,
    run_iteration,
)
from euston.training.communication import ChunkTraffic, Communication, Exchange, distinct_groups
from euston.training.costs import ChunkCost, Costs
from euston.training.routes import grid
from euston.training.schedule import order
from euston.training.write import Slots, write_iteration

DENSE = Transformer("dense", layers=4, hidden=1024, heads=16, kv_heads=4, head_dim=64, vocab=32000, ffn=2816)
EXPERTS = replace(DENSE, name="experts", moe=MoE(experts=16, top_k=2, ffn=512))
H100 = accelerator("h100-sxm")
DEVICE = GPU(H100)
SEQUENCE, MICRO_BATCHES = 2048, 4


def make_site(hosts: int, per_host: int = 4) -> Site:
    fabric = clos(hosts, per_host, nic=12.5e9, hosts_per_tor=2, aggs_per_pod=2, scale_up=450e9)
    return Site("test", H100, hosts, per_host, fabric)


def make_job(model: Transformer, parallel: Parallel, m: int = MICRO_BATCHES, **changes: Any) -> TrainingJob:
    job = TrainingJob(model, parallel, global_batch=m * parallel.data, sequence=SEQUENCE, **changes)
    job.check()
    return job


def run(job: TrainingJob, site: Site | None = None, conditions: Conditions | None = None) -> Iteration:
    where = site or make_site(job.parallel.world // 4)
    return run_iteration([(job, place(job.parallel, where))], where, [DEVICE], conditions or Conditions())


def carried(found: Iteration, kind: LinkKind) -> np.ndarray:
    site = make_site(found.jobs[0].job.parallel.world // 4)
    return site.fabric.link_load(found.row_bytes)[site.fabric.kind == kind]


def sent_by(found: Iteration, label: str) -> float:
    """Bytes that one member of the labelled transfers of the first class carried in all."""
    program, table = found.run.program, found.table
    ops = found.jobs[0].index[0]
    mine = ops[program.label[ops] == program.labels.index(label)]
    flows = np.add.reduceat(table.size, table.ptr[:-1])
    return float((flows[program.transfer[mine]] * program.work[mine]).sum())


# ---- context parallelism -----------------------------------------------------------------------------------

KV = 2 * 2 * 4 * 64  # bytes of keys and values of one token and layer


@pytest.mark.parametrize(
    ("algorithm", "sent"),
    [
        ("ring", 3 * KV * SEQUENCE / 4 * 3),  # three steps forward, twice that back
        ("all_gather", 3 * KV * SEQUENCE / 4 * 2),  # gathered, and its gradient scattered
        # q and the output have 16 heads, k and v 4: (16 + 16 + 4 + 4) * 64 * 2 bytes, each way, 3/4 leave
        ("ulysses", 2 * 40 * 64 * SEQUENCE / 4 * 3 / 4 * 2),
    ],
)
def test_what_context_parallel_ranks_send(algorithm: str, sent: float) -> None:
    """4 ranks on 4 hosts, so that every byte leaves by a NIC; volumes per layer and micro-batch."""
    parallel = Parallel(tensor=4, context=4)
    job = make_job(DENSE, parallel, software=SoftwareProfile(context=algorithm))  # type: ignore[arg-type]
    found = run(job)
    # Keys and values are split over the tensor-parallel ranks, as are the reduced gradients.
    gradients = 2 * 3 / 4 * 4 * found.jobs[0].cost.chunks[0][0].parameters
    expected = sent / 4 * 4 * MICRO_BATCHES + gradients
    np.testing.assert_allclose(carried(found, LinkKind.NIC_UP), expected, rtol=1e-9)


def play(job: TrainingJob, cost: ChunkCost, traffic: ChunkTraffic, seconds: dict[str, float]) -> float:
    """The step of a made-up chunk; a use of a collective takes the given seconds by kind."""
    exchange = Exchange(0.0, 1.0, 0.0, 0.0, "measured")
    found = Communication(((traffic,),), exchange, exchange)
    costs = Costs(((cost,),), None, (0.0,), 0.0, pl.DataFrame(), 0.0, 0.0, found)
    template = write_iteration(job, job.place(), costs)
    slots = Slots(1, 1)
    n = slots.total
    latency = np.zeros(n)
    for kind, value in seconds.items():
        latency[slots.own_of(kind, 0)] = value
    nothing = Columns(np.zeros(2, np.int64), np.zeros(0, np.int32), np.zeros(0), 1)
    table = TransferTable(
        np.arange(n + 1), np.zeros(n, np.int32), np.zeros(n), np.ones(n), np.ones(n), latency, np.zeros(n),
        nothing,
    )  # fmt: skip
    return float(execute(template.program, table, [1.0]).makespan)


ONE = TrainingJob(DENSE, Parallel(), global_batch=1, sequence=SEQUENCE)


@given(st.floats(0, 3), st.floats(0, 3))
@settings(max_examples=30, deadline=None)
def test_a_ring_hides_behind_attention_only(attention: float, ring: float) -> None:
    """max(attention, ring) + the rest, forward (5 s) and backward (9 s); gathered it would be the sum."""
    cost = ChunkCost(1, 5.0, 9.0, 0.0, 0.0, 0.0, 0.0, 1)
    traffic = ChunkTraffic(1.0, 2.0, attention_forward=attention, attention_backward=attention)
    found = play(ONE, cost, traffic, {"context": ring})
    hidden = 5.0 + max(0.0, ring - attention) + 9.0 + max(0.0, 2 * ring - attention)
    whole = 5.0 + ring + 9.0 + 2 * ring
    assert found == pytest.approx(hidden if attention > 0 else whole)


@given(st.floats(0.01, 3), st.floats(0, 3), st.sampled_from([2, 4, 8]))
@settings(max_examples=30, deadline=None)
def test_collectives_in_pieces_hide_behind_their_products(gemm: float, comm: float, t: int) -> None:
    """Exposed: comm - min(comm, GEMM) (t - 1)/t."""
    job = replace(ONE, parallel=Parallel(tensor=t))
    cost = ChunkCost(1, 5.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1)
    found = play(job, cost, ChunkTraffic(gemm_forward=gemm), {"tensor": comm})
    norm = 2 * int(np.ceil(np.log2(t))) * 14e-6
    assert found - norm == pytest.approx(5.0 + comm - min(comm, gemm) * (t - 1) / t)


# ---- experts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("experts", "groups", "k", "limit"), [(64, 8, 6, 0), (256, 8, 8, 4), (16, 4, 2, 0)])
def test_distinct_groups_of_uniform_routing(experts: int, groups: int, k: int, limit: int) -> None:
    """Against 4,000 drawn routings: experts of `limit` random groups, k of them."""
    rng = np.random.default_rng(0)
    each = experts // groups
    counts = []
    for _ in range(4000):
        among = rng.choice(groups, limit or groups, replace=False)
        pool = np.concatenate([np.arange(g * each, (g + 1) * each) for g in among])
        counts.append(np.unique(rng.choice(pool, k, replace=False) // each).size)
    error = 3 * np.std(counts) / np.sqrt(len(counts))
    assert distinct_groups(experts, groups, k, limit) == pytest.approx(np.mean(counts), abs=error)


def test_what_experts_on_other_hosts_receive() -> None:
    """8 ranks on 2 hosts: a token crosses once if one of its experts is there; inside it goes to each."""
    job = make_job(EXPERTS, Parallel(data=8, expert=8))
    found = run(job)
    layers = sum(kind.ffn == "moe" for kind in EXPERTS.layer_kinds)
    token = 2 * EXPERTS.hidden
    uses = 4 * layers * MICRO_BATCHES  # dispatch and combine, forward and backward
    across = distinct_groups(16, 2, 2) / 2 * token * SEQUENCE
    inside = 2 * token * SEQUENCE * 3 / 4
    chunk = found.jobs[0].cost.chunks[0][0]
    dense = chunk.parameters - chunk.expert_parameters
    rings = 4  # of the dense gradients; each leaves a host once
    nic = uses * across + 2 * 7 / 8 * 4 * dense / rings
    np.testing.assert_allclose(carried(found, LinkKind.NIC_UP), nic, rtol=1e-9)
    local = uses * inside + (rings - 1) * 2 * 7 / 8 * 4 * dense / rings
    np.testing.assert_allclose(carried(found, LinkKind.SCALE_UP_OUT), local, rtol=1e-9)


def test_direct_all_to_alls_cross_once_per_expert_and_fp8_halves_the_way_there() -> None:
    direct = SoftwareProfile(expert_all_to_all="direct")
    narrow = SoftwareProfile(expert_dispatch="fp8")
    usual, more, less = (
        run(make_job(EXPERTS, Parallel(data=8, expert=8), software=sw))
        for sw in (SoftwareProfile(), direct, narrow)
    )
    flows = [sent_by(found, "expert") for found in (usual, more, less)]
    assert flows[1] > flows[0]
    assert flows[2] / flows[0] == pytest.approx((1 + 4 / 128 + 2) / 4)


def test_experts_are_reduced_over_their_replicas_only() -> None:
    """16 ranks, 4 experts groups of 4: expert gradients move 2 * 3/4, dense ones 2 * 15/16."""
    found = run(make_job(EXPERTS, Parallel(data=16, expert=4)))
    chunk = found.jobs[0].cost.chunks[0][0]
    up, nic = carried(found, LinkKind.SCALE_UP_OUT), carried(found, LinkKind.NIC_UP)
    dense = chunk.parameters - chunk.expert_parameters
    layers = sum(kind.ffn == "moe" for kind in EXPERTS.layer_kinds)
    all_to_all = 4 * layers * MICRO_BATCHES * 2 * 2 * EXPERTS.hidden * SEQUENCE * 3 / 4
    gradients = 4 * (2 * 15 / 16 * dense + 2 * 3 / 4 * chunk.expert_parameters)
    assert (up.sum() + nic.sum()) / 16 == pytest.approx(gradients + all_to_all, rel=1e-9)


def test_groups_of_replicas_that_meet_in_experts_are_one_unit() -> None:
    placement = Placement(Parallel(tensor=2, data=8, pipeline=2, expert=4), 4)
    units = grid(placement.parallel, placement)
    assert units.endpoint.shape == (2, 2, 8)
    assert units.expert is not None
    for u in range(2):
        for s in range(2):
            assert set(units.expert[u, s].ravel()) == set(units.endpoint[u, s])
    apart = Placement(Parallel(tensor=4, data=4, expert=4, expert_tensor=1), 4)
    assert grid(apart.parallel, apart).endpoint.shape == (4, 1, 4)  # an expert group is one host


def test_an_all_to_all_waits_for_the_slowest_of_its_unit() -> None:
    """One slow host of four: its unit of two hosts is slow, the other waits only at the end."""
    job = make_job(EXPERTS, Parallel(data=16, expert=8))
    usual, slow = run(job), run(job, conditions=Conditions(hosts=(HostFault(0, 0.5),)))
    cost = usual.jobs[0].cost.chunks[0][0]
    more = slow.jobs[0].step_time - usual.jobs[0].step_time
    assert more == pytest.approx((cost.forward + cost.backward) * MICRO_BATCHES, rel=0.15)
    assert slow.jobs[0].replicas.tolist() == [1, 1]


# ---- both ways, split, hybrid ------------------------------------------------------------------------------


def test_dualpipe_hides_all_to_alls_that_1f1b_exposes() -> None:
    parallel = Parallel(pipeline=4, data=8, expert=8, sharding="zero1")
    plain, both = (
        job_result(run(make_job(EXPERTS, parallel, m=16, schedule=name)), 0, make_site(8))  # type: ignore[arg-type]
        for name in ("1f1b", "dualpipe")
    )
    exposed = [
        dict(r.tables["breakdown"].select("kind", "seconds").iter_rows())["expert"] for r in (plain, both)
    ]
    assert exposed[1] < 0.7 * exposed[0]
    assert both.step_time < plain.step_time


def test_dualpipe_holds_every_stage_twice_and_reduces_over_both() -> None:
    """Parameters of stages r and p - 1 - r on every rank; gradients over twice the ranks."""
    parallel = Parallel(pipeline=4, data=2)
    once, twice = (run(make_job(DENSE, parallel, m=8, schedule=name)) for name in ("1f1b", "dualpipe"))  # type: ignore[arg-type]
    held = [sum(c.parameters for c in row) for row in once.jobs[0].cost.chunks]
    both = [sum(c.parameters for c in row) for row in twice.jobs[0].cost.chunks]
    assert both == [a + b for a, b in zip(held, held[::-1], strict=True)]
    pipeline = 2 * 3 * 2 * 8 * 2 * SEQUENCE * DENSE.hidden  # both replicas, all boundaries, both directions
    up, nic = carried(twice, LinkKind.SCALE_UP_OUT), carried(twice, LinkKind.NIC_UP)
    # Rings of 4: each of the 4 ranks of every pair of stages sends 2 * 3/4 of what it holds.
    assert up.sum() + nic.sum() == pytest.approx(sum(both) * 2 * 2 * 3 / 4 * 4 + pipeline, rel=1e-9)


def test_hybrid_sharding_gathers_inside_and_reduces_across() -> None:
    """HSDP over 4 of 16: gathers stay in a host, NICs carry 2 * 3/4 of a quarter of the gradients."""
    found = run(make_job(DENSE, Parallel(data=16, sharding="zero3", shard=4)))
    parameters = found.jobs[0].cost.chunks[0][0].parameters
    np.testing.assert_allclose(
        carried(found, LinkKind.NIC_UP), MICRO_BATCHES * 2 * 3 / 4 * 4 * parameters / 4, rtol=1e-9
    )
    inside = MICRO_BATCHES * (2 * 2 * 3 / 4 + 4 * 3 / 4) * parameters
    np.testing.assert_allclose(carried(found, LinkKind.SCALE_UP_OUT), inside, rtol=1e-9)


def test_tied_embeddings_are_added_up_between_the_ends() -> None:
    tied = replace(DENSE, tied=True)
    found = run(make_job(tied, Parallel(tensor=4, pipeline=4)))
    assert sent_by(found, "embedding") == 4 * tied.vocab * tied.hidden / 4


OVERLAP = SoftwareProfile(expert_overlap=True)


@pytest.mark.parametrize(
    ("pipeline", "virtual", "m"), [(1, 1, 8), (4, 1, 16), (2, 2, 8), (4, 2, 16), (4, 3, 12)]
)
def test_pairs_that_overlap_do_not_wait_for_each_other(pipeline: int, virtual: int, m: int) -> None:
    """Oracle: pairs run jointly, one after the other, on plain lists, as long as a forward and a backward.

    So steady stages never stall: a step takes the plain interleaved step's time and at most one more pair on
    every stage.
    """
    last = pipeline * virtual - 1

    def makespan(ahead: int, paired: bool) -> float:
        todo, ready, at, clock = [], {}, [0] * pipeline, [0.0] * pipeline
        for stage in order("interleaved" if virtual > 1 else "1f1b", pipeline, virtual, m, ahead=ahead):
            columns = (stage.is_backward, stage.chunk, stage.micro_batch)
            passes = list(zip(*(c.tolist() for c in columns), strict=True))
            parts, i = [], 0
            while i < len(passes):
                two = passes[i : i + 2]
                joint = paired and len(two) == 2 and not two[0][0] and two[1][0] and two[0][2] != two[1][2]
                parts.append(passes[i : i + 1 + joint])
                i += 1 + joint
            todo.append(parts)
        left = sum(map(len, todo))
        while left:
            for s in range(pipeline):
                while at[s] < len(todo[s]):
                    part = todo[s][at[s]]
                    needs = []
                    for back, c, b in part:
                        place = c * pipeline + s
                        if back:
                            needs.append((True, place + 1, b) if place < last else (False, place, b))
                        elif place:
                            needs.append((False, place - 1, b))
                    if any(need not in ready for need in needs):
                        break
                    clock[s] = max([clock[s], *(ready[need] for need in needs)])
                    clock[s] += sum((2.0 if back else 1.0) / virtual for back, _, _ in part)
                    for back, c, b in part:
                        ready[back, c * pipeline + s, b] = clock[s]
                    at[s] += 1
                    left -= 1
        return max(clock)

    plain = makespan(0, False)
    if pipeline > 1 and virtual == 1:  # why plain 1F1B has no such pairs
        assert makespan(0, True) > 1.5 * plain
    else:
        assert plain <= makespan(1, True) <= plain + (pipeline + 1) * 3.0 / virtual


def test_overlapped_experts_never_lengthen_a_step() -> None:
    """Without a pipeline and interleaved the exchanges hide; in plain 1F1B nothing changes."""

    def seconds(p: int, v: int, software: SoftwareProfile) -> float:
        parallel = Parallel(pipeline=p, virtual=v, data=8, expert=8)
        schedule = "interleaved" if v > 1 else "1f1b"
        job = make_job(EXPERTS, parallel, m=16, software=software, schedule=schedule)
        return run(job).jobs[0].step_time

    for p, v in ((1, 1), (2, 2)):
        assert seconds(p, v, OVERLAP) < seconds(p, v, SoftwareProfile())
    assert seconds(2, 1, OVERLAP) == seconds(2, 1, SoftwareProfile())


CASES = {
    "experts over replicas": (EXPERTS, Parallel(pipeline=2, data=16, expert=8, sharding="zero1"), {}),
    "experts and tensor": (EXPERTS, Parallel(tensor=2, sequence=True, data=16, expert=8), {}),
    "whole experts": (
        EXPERTS, Parallel(tensor=2, sequence=True, context=2, data=8, expert=8, expert_tensor=1), {}
    ),
    "experts and zero3": (EXPERTS, Parallel(data=32, expert=8, sharding="zero3"), {}),
    "context ring": (DENSE, Parallel(tensor=2, sequence=True, context=4, data=4, sharding="zero2"), {}),
    "ulysses": (
        DENSE, Parallel(tensor=4, context=4, data=2), {"software": SoftwareProfile(context="ulysses")}
    ),
    "hybrid": (DENSE, Parallel(data=32, sharding="zero3", shard=8), {}),
    "both ways": (EXPERTS, Parallel(pipeline=4, data=8, expert=4), {"schedule": "dualpipe", "m": 8}),
    "zero bubble": (DENSE, Parallel(tensor=2, pipeline=4, data=4), {"schedule": "zb-h2", "m": 8}),
    "overlapped experts": (
        EXPERTS, Parallel(pipeline=2, virtual=2, data=16, expert=8),
        {"software": SoftwareProfile(expert_overlap=True), "schedule": "interleaved"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("slow", [False, True], ids=["equal", "a slow host"])
@pytest.mark.parametrize("case", CASES)
def test_folding_changes_nothing_and_time_is_accounted_for(case: str, slow: bool) -> None:
    model, parallel, changes = CASES[case]
    job = make_job(model, parallel, **changes)
    faults = Conditions(hosts=(HostFault(1, 0.7),) if slow else ())
    on, off = (run(job, conditions=replace(faults, folding=f)) for f in (True, False))
    assert on.jobs[0].step_time == pytest.approx(off.jobs[0].step_time, rel=1e-9)
    np.testing.assert_allclose(on.row_bytes, off.row_bytes, rtol=1e-9)
    result = job_result(on, 0, make_site(parallel.world // 4))
    stages = result.tables["stages"].drop("stage", "layers", "chunks", "parameters_per_rank").to_numpy()
    assert (stages >= -1e-12).all()
    np.testing.assert_allclose(stages.sum(axis=1), on.jobs[0].step_time, rtol=1e-7)


# ---- refusals ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parallel", "match"),
    [
        ({"shard": 3, "data": 8, "sharding": "zero3"}, "nearest 2 or 4"),
        ({"shard": 4, "data": 8}, "zero1, zero2 or zero3"),
        ({"expert_tensor": 3, "tensor": 4}, "nearest 2 or 4"),
        ({"shard": -1, "data": 8}, "not a whole number"),
    ],
)
def test_layouts_that_do_not_divide(parallel: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        Parallel(**parallel)


def test_dualpipe_with_zero3_is_refused() -> None:
    with pytest.raises(ConfigError, match="use zero1 or zero2"):
        make_job(DENSE, Parallel(pipeline=2, data=2, sharding="zero3"), m=8, schedule="dualpipe")


def test_work_of_micro_batches_is_checked() -> None:
    with pytest.raises(ConfigError, match="2 numbers for 4 micro-batches"):
        make_job(DENSE, Parallel(), work=(1.0, 1.0))
