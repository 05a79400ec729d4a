"""Ring and hierarchical collectives against closed forms, and one transfer against its single steps.

Oracles: the alpha-beta forms of Patarasuk & Yuan (2009): a ring all-reduce takes 2(n-1)(alpha + M / (n B)).
"""

import numpy as np
import pytest

from euston.clock import ProgramBuilder, TransferTable, execute
from euston.collectives import (
    hierarchical_all_reduce,
    ring,
    ring_bytes,
    ring_in_steps,
    ring_steps,
    write_ring_in_steps,
    write_stages,
)
from euston.errors import ConfigError
from euston.fabrics import clos
from euston.network import Transfers, lower
from euston.network.balancing.spray import Spray

NIC, NVLINK = 50e9, 450e9
PASSES = {"all_reduce": 2, "all_gather": 1, "reduce_scatter": 1}


def fabric(hosts=8, per_host=4, oversubscription=(1.0, 1.0)):
    return clos(
        hosts,
        per_host,
        nic=NIC,
        hosts_per_tor=2,
        aggs_per_pod=2,
        scale_up=NVLINK,
        oversubscription=oversubscription,
    )


def run(builder, table, where):
    """Makespan and bytes per row of a program whose transfers are ``table`` on a fabric."""
    low = lower(Transfers.of(table), where, Spray())
    flows = low.column.size
    transfers = TransferTable(
        ptr=low.ptr,
        column=low.column,
        size=low.size,
        weight=low.weight,
        rate_cap=np.where(np.isfinite(low.rate_cap), low.rate_cap, 1e18),
        latency=low.transfers.latency,
        slow_share=np.zeros(len(low.ptr) - 1),
        columns=low.columns,
    )
    assert flows == low.size.size
    return execute(builder.build(), transfers, low.capacity)


def one(transfer, where):
    builder = ProgramBuilder()
    builder.send(0, label="ring")
    return run(builder, [transfer], where)


@pytest.mark.parametrize("collective", PASSES)
@pytest.mark.parametrize("n", [2, 3, 8])
def test_ring_time_is_the_closed_form(collective, n):
    group = np.arange(n) * 4  # one rank on each host: the NICs are the bottleneck
    size, alpha = 1e9, 5e-6
    transfer = ring(collective, group, size, step_latency=alpha)
    steps = PASSES[collective] * (n - 1)
    assert ring_steps(collective, n) == steps
    assert ring_bytes(collective, n, size) == pytest.approx(steps * size / n)
    expected = steps * (alpha + size / n / NIC)
    assert one(transfer, fabric(hosts=n)).makespan == pytest.approx(expected, rel=1e-12)


def test_ring_inside_a_host_uses_the_scale_up_network():
    done = one(ring("all_reduce", np.arange(4), 1e9), fabric())
    assert done.makespan == pytest.approx(2 * 3 / 4 * 1e9 / NVLINK, rel=1e-12)


@pytest.mark.parametrize("collective", PASSES)
@pytest.mark.parametrize("oversubscription", [(1.0, 1.0), (4.0, 1.0)])
def test_one_coupled_transfer_equals_its_single_steps(collective, oversubscription):
    """Equal hosts: every step moves M/n on every edge, whether summed or step by step, contended or not."""
    where = fabric(oversubscription=oversubscription)
    group, size, alpha = np.arange(8) * 4, 8e8, 3e-6
    whole = one(ring(collective, group, size, step_latency=alpha), where)
    builder, table = ProgramBuilder(), []
    steps = ring_in_steps(collective, group, size, step_latency=alpha)
    write_ring_in_steps(builder, table, steps, label="ring")
    single = run(builder, table, where)
    assert single.makespan == pytest.approx(whole.makespan, rel=1e-9)
    np.testing.assert_allclose(single.row_bytes, whole.row_bytes, rtol=1e-9)


def test_hierarchical_all_reduce_is_the_sum_of_its_stages():
    hosts, g, size = 8, 4, 1e9
    ranks = np.arange(hosts * g).reshape(hosts, g)
    builder, table = ProgramBuilder(), []
    stages = hierarchical_all_reduce(ranks, size, scale_up_latency=1e-6, scale_out_latency=4e-6)
    write_stages(builder, table, stages, label="all-reduce")
    done = run(builder, table, fabric())
    inside = (g - 1) * 1e-6 + (g - 1) / g * size / NVLINK
    rails = 2 * (hosts - 1) * 4e-6 + 2 * (hosts - 1) / hosts * size / g / NIC
    assert done.makespan == pytest.approx(2 * inside + rails, rel=1e-12)


def test_stages_are_a_program_and_not_one_summed_column():
    """Summing the stages would let scale-up and scale-out overlap: the summed bound is strictly lower."""
    ranks = np.arange(32).reshape(8, 4)
    builder, table = ProgramBuilder(), []
    write_stages(builder, table, hierarchical_all_reduce(ranks, 1e9), label="all-reduce")
    done = run(builder, table, fabric())
    busiest = 2 * 7 / 8 * 1e9 / 4 / NIC
    assert done.makespan > busiest * 1.05


def test_hierarchical_beats_a_flat_ring_through_one_nic_per_host():
    ranks = np.arange(32).reshape(8, 4)
    builder, table = ProgramBuilder(), []
    write_stages(builder, table, hierarchical_all_reduce(ranks, 1e9), label="all-reduce")
    flat = one(ring("all_reduce", ranks.ravel(), 1e9), fabric())
    assert run(builder, table, fabric()).makespan < flat.makespan / 2


def test_degenerate_shapes():
    assert [s.name for s in hierarchical_all_reduce([[0, 1, 2, 3]], 1e6)] == [
        "reduce_scatter inside hosts",
        "all_gather inside hosts",
    ]
    assert [s.name for s in hierarchical_all_reduce([[0], [4]], 1e6)] == ["all_reduce on rails"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ring("all_reduce", [1], 1e6), "a ring needs at least 2 different endpoints"),
        (lambda: ring("all_reduce", [1, 1], 1e6), "a ring needs at least 2 different endpoints"),
        (lambda: ring("all_redcue", [1, 2], 1e6), "did you mean 'all_reduce'"),
        (lambda: hierarchical_all_reduce([1, 2], 1e6), r"\[hosts, ranks per host\]"),
    ],
)
def test_bad_groups_are_named(call, message):
    with pytest.raises(ConfigError, match=message):
        call()
