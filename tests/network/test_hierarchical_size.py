"""Hierarchical max-min rates at size and as executors call the kernel.

Oracles: weighted max-min where every flow has a queue of its own or there is but one, max-min on what higher
levels leave, and the two-level certificate.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from euston.errors import ConfigError
from euston.network._fill import AUTO, CAPACITY
from euston.network._hierarchical_kernel import fill_queues
from euston.network.columns import Columns, ColumnsBuilder
from euston.network.fluid import max_min
from euston.network.hierarchical import QueueAllocation, hierarchical_max_min

# ---- oracle: weighted max-min ------------------------------------------------------------------------------


def random_columns(rng: np.random.Generator, flows: int, rows: int, length: int = 4) -> Columns:
    row = rng.permuted(np.tile(np.arange(rows), (flows, 1)), axis=1)[:, :length]
    return Columns.from_entries(
        np.repeat(np.arange(flows), length),
        row.astype(np.int32).ravel(),
        np.ones(flows * length),
        columns=flows,
        rows=rows,
    )


@pytest.mark.parametrize("seed", range(3))
def test_queues_of_one_flow_are_weighted_max_min(seed: int) -> None:
    """A queue per flow, weights equal everywhere, every use 1: the queue's weight is the flow's."""
    rng = np.random.default_rng(seed)
    columns = random_columns(rng, 150, 40)
    capacity, weight = rng.uniform(1, 3, 40), rng.uniform(1, 5, 150)
    cap = np.where(rng.random(150) < 0.2, rng.uniform(0.01, 0.2, 150), np.inf)
    apart = hierarchical_max_min(columns, capacity, queue=np.arange(150), phi=weight, rate_cap=cap)
    together = max_min(columns, capacity, weight=weight, rate_cap=cap)
    np.testing.assert_allclose(apart.rate, together.rate, rtol=1e-11)


@pytest.mark.parametrize("queue", [0, 3])
def test_one_queue_and_level_is_exactly_max_min(queue: int) -> None:
    """Bit for bit: the same kernel does it."""
    rng = np.random.default_rng(0)
    columns = random_columns(rng, 3000, 1500)
    capacity, weight, cap = rng.uniform(1, 2, 1500), rng.uniform(1, 3, 3000), rng.uniform(0.05, 2, 3000)
    plain = max_min(columns, capacity, weight=weight, rate_cap=cap)
    same = hierarchical_max_min(
        columns,
        capacity,
        queue=np.full(3000, queue),
        phi=[1.0, 2.0, 3.0, 4.0],
        weight=weight,
        rate_cap=cap,
        priority=np.full(3000, 7),
    )
    assert (same.rate == plain.rate).all()
    assert (same.bottleneck == plain.bottleneck).all()
    assert same.certificate() == plain.certificate()


def test_levels_are_max_min_on_what_is_left() -> None:
    """Oracle: `max_min` level by level on the capacity that those before leave."""
    rng = np.random.default_rng(4)
    columns = random_columns(rng, 400, 150)
    capacity, level = rng.uniform(1, 2, 150), rng.integers(0, 3, 400)
    cap = np.where(level == 0, 0.02, np.inf)
    answer = hierarchical_max_min(
        columns, capacity, queue=np.zeros(400, int), phi=[1.0], rate_cap=cap, priority=level
    )
    left, rate = capacity.copy(), np.zeros(400)
    for one in range(3):
        mine = np.flatnonzero(level == one)
        rate[mine] = max_min(columns, left, column=mine, rate_cap=cap[mine]).rate
        amount = np.zeros(400)
        amount[mine] = rate[mine]
        left = np.maximum(left - columns.load(amount), 0.0)
        left[left < 1e-9] = 0.0
    np.testing.assert_allclose(answer.rate, rate, rtol=1e-11, atol=1e-13)
    assert answer.certificate() < 1e-9
    assert (answer.rate == 0).any()


# ---- at size -----------------------------------------------------------------------------------------------


def big(seed: int = 0, per_row: bool = True) -> QueueAllocation:
    rng = np.random.default_rng(seed)
    flows, rows, queues = 2000, 800, 5
    columns = Columns.from_entries(
        np.repeat(np.arange(flows), 4),
        rng.integers(0, rows, flows * 4).astype(np.int32),
        rng.choice([1.0, 1.0, 0.5, 1 / 3], flows * 4),
        columns=flows,
        rows=rows,
    )
    capacity = rng.uniform(1, 2, rows)
    capacity[rng.integers(0, rows, 5)] = 0.0
    return hierarchical_max_min(
        columns,
        capacity,
        queue=rng.integers(0, queues, flows),
        phi=rng.uniform(1, 4, (rows if per_row else 1, queues)),
        weight=rng.uniform(1, 3, flows),
        rate_cap=rng.uniform(0.02, 1, flows),
        priority=rng.integers(0, 2, flows),
    )


@pytest.mark.parametrize("per_row", [False, True])
def test_certificate_at_size(per_row: bool) -> None:
    answer = big(per_row=per_row)
    assert answer.settled
    assert answer.certificate() < 1e-9
    assert (answer.bottleneck == -1).any()
    assert (answer.bottleneck >= 0).any()


@pytest.mark.parametrize(
    "what", ["higher", "lower", "all lower", "queues exchanged", "not a number", "negative", "called capped"]
)
def test_a_spoiled_allocation_has_a_bad_certificate(what: str) -> None:
    answer = big()
    rate, bottleneck = answer.rate.copy(), answer.bottleneck.copy()
    held = np.flatnonzero((bottleneck >= 0) & (rate > 1e-3))
    match what:
        case "higher":
            rate[held[0]] *= 1.01
        case "lower":
            rate[held[0]] *= 0.99
        case "all lower":
            rate *= 0.999
        case "queues exchanged":
            f = held[0]
            other = (bottleneck == bottleneck[f]) & (answer.queue != answer.queue[f]) & (rate > 0)
            g = np.flatnonzero(other)[0]
            rate[f] += 0.01 * rate[g]
            rate[g] *= 0.99
        case "not a number":
            rate[held[0]] = np.nan
        case "negative":
            rate[held[0]] = -1.0
        case "called capped":
            bottleneck[held[0]] = -1
    assert not replace(answer, rate=rate, bottleneck=bottleneck).certificate() < 1e-4


@pytest.mark.parametrize("seed", range(3))
def test_order_of_flows_rows_and_queues_does_not_matter(seed: int) -> None:
    rng = np.random.default_rng(seed)
    flows, rows = 300, 120
    row = np.argsort(rng.random((flows, rows)), axis=1)[:, :4]
    capacity, phi, queue = rng.uniform(1, 2, rows), rng.uniform(1, 4, 4), rng.integers(0, 4, flows)

    def rates(f: np.ndarray, r: np.ndarray, q: np.ndarray) -> np.ndarray:
        place, named = np.argsort(r), np.argsort(q)
        columns = Columns.from_entries(
            np.repeat(np.arange(flows), 4),
            place[row[f]].astype(np.int32).ravel(),
            np.ones(4 * flows),
            columns=flows,
            rows=rows,
        )
        return hierarchical_max_min(columns, capacity[r], queue=named[queue[f]], phi=phi[q]).rate

    usual = rates(np.arange(flows), np.arange(rows), np.arange(4))
    order = rng.permutation(flows)
    moved = rates(order, rng.permutation(rows), rng.permutation(4))
    np.testing.assert_allclose(moved, usual[order], rtol=1e-10)


# ---- the kernel as executors call it -----------------------------------------------------------------------


def test_kernel_solves_a_subset_puts_capacities_back_and_starts_warm() -> None:
    whole = big(per_row=False)
    slots = whole.rate.size
    rng = np.random.default_rng(1)
    live = rng.permutation(slots)[:1500]
    rows = np.full((6, whole.columns.rows), 123.0)
    rows[CAPACITY] = whole.capacity

    def call(live: np.ndarray, rate: np.ndarray, held: np.ndarray, warm: bool) -> int:
        return fill_queues(
            live, live.size, whole.column, whole.weight, whole.rate_cap, whole.queue, whole.priority,
            whole.columns.ptr, whole.columns.row, whole.columns.coefficient, rows, whole.phi, rate, held,
            int(AUTO), 1e-13, warm,
        )  # fmt: skip

    rate, held = np.full(slots, -5.0), np.full(slots, -9)
    before = live.copy()
    cold = call(live, rate, held, False)
    assert cold > 0
    assert (live == before).all()
    assert (rows[CAPACITY] == whole.capacity).all()
    assert (rows[4:] == 123.0).all()
    out = np.setdiff1d(np.arange(slots), live)
    assert (rate[out] == -5.0).all()
    assert (held[out] == -9).all()
    alone = hierarchical_max_min(
        whole.columns, whole.capacity, column=whole.column[live], queue=whole.queue[live], phi=whole.phi,
        weight=whole.weight[live], rate_cap=whole.rate_cap[live], priority=whole.priority[live],
    )  # fmt: skip
    assert (alone.rate == rate[live]).all()
    # One flow gone: from the old rates fewer answers lead to the same new ones.
    fresh, fresh_held = rate.copy(), held.copy()
    assert call(live[1:], rate, held, True) < call(live[1:], fresh, fresh_held, False)
    np.testing.assert_allclose(rate[live[1:]], fresh[live[1:]], rtol=1e-9)


# ---- bad input ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"capacity": [1.0]}, "capacity has shape"),
        ({"capacity": [1.0, np.nan]}, "capacity of row 1"),
        ({"queue": [0, 2]}, "queue of flow 1 is 2; there are weights of 2"),
        ({"queue": [-1, 0]}, "queue of flow 0"),
        ({"queue": [0]}, "queue has shape"),
        ({"phi": [1.0, 0.0]}, "queue weight 1 is 0.0"),
        ({"phi": [[1.0, 1.0]] * 3}, r"phi has shape \(3, 2\)"),
        ({"phi": np.zeros((1, 0))}, "phi has shape"),
        ({"weight": [1.0, np.inf]}, "weight of flow 1"),
        ({"rate_cap": [0.0, 1.0]}, "rate_cap of flow 0"),
        ({"priority": [0, -1]}, "priority of flow 1"),
        ({"column": [0, 2]}, "column of flow 1"),
        ({"tol": -1.0}, "tol is"),
    ],
)
def test_bad_input_is_named(bad: dict[str, object], words: str) -> None:
    builder = ColumnsBuilder(2)
    builder.add({0: 1.0})
    builder.add({1: 1.0})
    arguments: dict[str, object] = {"capacity": [1.0, 1.0], "queue": [0, 1], "phi": [1.0, 2.0], **bad}
    with pytest.raises(ConfigError, match=words):
        hierarchical_max_min(builder.build(), **arguments)  # type: ignore[arg-type]
