"""Folding changes nothing: the quotient's rates against the full system's; and what splits when."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from euston.network.columns import Columns
from euston.network.fluid import max_min
from euston.network.folding import Folding, fold


class Pod:
    """Replicas of hosts behind leaves: rings inside a replica, one reduction ring per host across replicas.

    Rows: for replica r and host h an up link, a down link (NICs), then an up and a down trunk per leaf. The
    leaf of host (r, h) is ``r // per_leaf``. Columns: replica r's ring over its hosts, two half rings, and
    for each h a ring over the replicas (owner -1).
    """

    def __init__(self, replicas: int = 8, hosts: int = 4, per_leaf: int = 2, trunk: float = 2.0) -> None:
        self.replicas, self.hosts, self.per_leaf = replicas, hosts, per_leaf
        self.leaves = -(-replicas // per_leaf)
        nics = replicas * hosts
        self.rows = 2 * nics + 2 * self.leaves
        self.capacity = np.concatenate((np.ones(2 * nics), np.full(2 * self.leaves, trunk)))
        use: list[dict[int, float]] = []
        owner: list[int] = []
        label: list[int] = []
        for r in range(replicas):
            for ring, part in enumerate((range(hosts), range(hosts // 2), range(hosts // 2, hosts))):
                use.append({row: 1.0 for h in part for row in (self.up(r, h), self.down(r, h))})
                owner.append(r)
                label.append(int(ring > 0))
        for h in range(hosts):
            across: dict[int, float] = {}
            for r in range(replicas):
                across |= {self.up(r, h): 1.0, self.down(r, h): 1.0}
            for leaf in range(self.leaves):
                across |= {2 * nics + leaf: 1.0, 2 * nics + self.leaves + leaf: 1.0}
            use.append(across)
            owner.append(-1)
            label.append(2)
        self.owner, self.label = np.array(owner, np.int32), np.array(label)
        self.columns = of(use, self.rows)

    def up(self, replica: int, host: int) -> int:
        return 2 * (replica * self.hosts + host)

    def down(self, replica: int, host: int) -> int:
        return self.up(replica, host) + 1

    def fold(self, owner_label: NDArray[np.int64] | None = None) -> Folding:
        return fold(
            self.columns, row_label=self.capacity, column_label=self.label,
            owner=self.owner, owner_label=owner_label,
        )  # fmt: skip


def of(use: list[dict[int, float]], rows: int) -> Columns:
    return Columns.from_entries(
        np.repeat(np.arange(len(use)), [len(u) for u in use]),
        np.array([r for u in use for r in u], np.int32),
        np.array([a for u in use for a in u.values()]),
        columns=len(use),
        rows=rows,
    )


def same_rates(
    columns: Columns, capacity: NDArray[np.float64], folding: Folding, **per_column: NDArray[np.float64]
) -> None:
    """Oracle: the unfolded system. Compares every flow's rate and every row's load."""
    full = max_min(columns, capacity, **per_column)
    first = np.unique(folding.column_class, return_index=True)[1]
    small = max_min(
        folding.columns, capacity[folding.row_representative], **{k: v[first] for k, v in per_column.items()}
    )
    np.testing.assert_allclose(small.rate[folding.column_class], full.rate, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(folding.unfold(small.load()), full.load(), rtol=1e-9, atol=1e-12)
    assert small.certificate() < 1e-9


@pytest.mark.nojit
def test_a_regular_structure_folds_to_its_kinds() -> None:
    """Counted by hand: whole rings, half rings, rings across; NICs and trunks; one kind of replica."""
    pod = Pod()
    folding = pod.fold()
    assert len(folding.columns) == 3
    assert folding.columns.rows == 2
    assert folding.owner_count.tolist() == [8]
    assert folding.owner_representative.tolist() == [0]
    assert folding.ratio == len(pod.columns) / 3
    same_rates(pod.columns, pod.capacity, folding)


def test_the_quotient_counts_what_one_row_feels() -> None:
    """A NIC carries a whole ring, a half ring and a ring across; a trunk all rings across."""
    folding = Pod(hosts=4).fold()
    dense = np.zeros((folding.columns.rows, len(folding.columns)))
    for c in range(len(folding.columns)):
        rows, values = folding.columns.column(c)
        dense[rows, c] = values
    assert dense.tolist() == [[1.0, 1.0, 1.0], [0.0, 0.0, 4.0]]


@pytest.mark.parametrize("capacity", [0.5, 0.0], ids=["slow link", "failed link"])
def test_one_bad_nic_splits_its_replica_off(capacity: float) -> None:
    pod = Pod()
    pod.capacity[pod.up(5, 1)] = capacity
    folding = pod.fold()
    # The other replicas are told apart by nothing: every ring across crosses all of them alike.
    assert sorted(folding.owner_count.tolist()) == [1, 7]
    assert (np.flatnonzero(folding.owner_class == folding.owner_class[5]) == [5]).all()
    # Host 1's ring across crosses it, host 0's meets its half ring, hosts 2 and 3 stay alike.
    across = folding.column_class[pod.owner < 0]
    assert len(set(across.tolist())) == 3
    assert across[2] == across[3]
    same_rates(pod.columns, pod.capacity, folding)


def test_a_slow_trunk_changes_nobody_elses_class() -> None:
    pod = Pod()
    pod.capacity[-1] = 0.25
    folding = pod.fold()
    assert folding.owner_count.tolist() == [8]  # every ring across crosses every trunk alike
    assert folding.columns.rows == 3
    same_rates(pod.columns, pod.capacity, folding)


def test_a_slow_owner_splits_itself_only() -> None:
    """A straggling replica has its own times, though its columns use links like everybody's."""
    pod = Pod(replicas=16)
    slow = np.zeros(16, np.int64)
    slow[3] = 1
    folding = pod.fold(slow)
    assert sorted(folding.owner_count.tolist()) == [1, 15]
    assert folding.owner_class[3] != folding.owner_class[0]
    own = folding.column_class[pod.owner == 3]
    assert not np.isin(own, folding.column_class[pod.owner != 3]).any()
    assert len(folding.columns) == 5  # two kinds of rings twice, and the rings across
    same_rates(pod.columns, pod.capacity, folding)


def test_columns_of_one_owner_that_meet_trouble_take_the_owner_along() -> None:
    """Two rings of a replica share no link; when one is slow, the other's times change too."""
    use = [{2 * o + i: 1.0} for o in range(6) for i in range(2)]
    capacity = np.ones(12)
    capacity[4] = 0.5  # owner 2, first ring
    columns = of(use, 12)
    folding = fold(
        columns, row_label=capacity, column_label=np.zeros(12, np.int64),
        owner=np.repeat(np.arange(6, dtype=np.int32), 2),
    )  # fmt: skip
    assert sorted(folding.owner_count.tolist()) == [1, 5]
    assert len(folding.columns) == 3
    alone = fold(columns, row_label=capacity, column_label=np.zeros(12, np.int64))
    assert len(alone.columns) == 2
    same_rates(columns, capacity, folding)


@pytest.mark.parametrize("trunk", [0.5, 1.0, 4.0])
def test_oversubscription(trunk: float) -> None:
    pod = Pod(replicas=12, hosts=6, per_leaf=3, trunk=trunk)
    same_rates(pod.columns, pod.capacity, pod.fold())


def test_uneven_leaves_split_by_how_many_share_them() -> None:
    """Seven flows on leaves of 3, 3 and 1: two kinds of trunk, two kinds of flow."""
    leaf = np.array([0, 0, 0, 1, 1, 1, 2])
    columns = of([{3 + i: 1.0, int(leaf[i]): 0.5} for i in range(7)], 10)
    capacity = np.ones(10)
    folding = fold(columns, row_label=capacity, column_label=np.zeros(7, np.int64))
    assert folding.column_class.tolist() == [0, 0, 0, 0, 0, 0, 1]
    assert folding.columns.coefficient.tolist().count(1.5) == 1
    same_rates(columns, capacity, folding)


def test_random_columns_do_not_fold() -> None:
    """Hashed paths: nothing equal is found, and nothing is invented."""
    rng = np.random.default_rng(3)
    n = 600
    columns = of([{int(r): 1.0 for r in rng.choice(500, 5, replace=False)} for _ in range(n)], 500)
    capacity = np.ones(500)
    folding = fold(columns, row_label=capacity, column_label=np.zeros(n, np.int64))
    assert folding.ratio < 1.02
    same_rates(columns, capacity, folding)


def test_labels_are_respected() -> None:
    """Equal usage, different sizes: no common class; and a label's value does not matter, only equality."""
    columns = of([{0: 1.0}] * 6, 1)
    for label in ([0, 0, 1, 1, 1, 0], [-7, -7, 2**40, 2**40, 2**40, -7]):
        folding = fold(columns, row_label=np.ones(1), column_label=np.array(label))
        assert folding.column_class.tolist() == [0, 0, 1, 1, 1, 0]
        assert folding.columns.column(0)[1].tolist() == [3.0]


def test_coefficients_tell_columns_apart() -> None:
    columns = of([{0: 1.0, 1: 0.5}, {0: 0.5, 1: 1.0}, {0: 1.0, 1: 0.5}], 2)
    folding = fold(columns, row_label=np.ones(2), column_label=np.zeros(3, np.int64))
    assert folding.column_class.tolist() == [0, 1, 0]


def test_unused_rows_and_empty_columns() -> None:
    columns = of([{1: 1.0}, {}, {3: 1.0}, {}], 5)
    folding = fold(columns, row_label=np.ones(5), column_label=np.zeros(4, np.int64))
    assert folding.column_class.tolist() == [0, 1, 0, 1]
    assert folding.row_class.tolist() == [-1, 0, -1, 0, -1]
    assert folding.unfold(np.array([7.0])).tolist() == [0.0, 7.0, 0.0, 7.0, 0.0]
    nothing = fold(of([], 2), row_label=np.ones(2), column_label=np.zeros(0, np.int64))
    assert len(nothing.columns) == 0
    assert nothing.unfold(np.zeros(0)).tolist() == [0.0, 0.0]


def test_classes_do_not_depend_on_the_run() -> None:
    a, b = Pod().fold(), Pod().fold()
    assert (a.column_class == b.column_class).all()
    assert (a.row_class == b.row_class).all()


@pytest.mark.nojit
@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1))
def test_quotient_equals_full_system(seed: int) -> None:
    """Oracle: the full system. Random regular structures, a few defects, weights and caps by label."""
    rng = np.random.default_rng(seed)
    pod = Pod(
        replicas=int(rng.integers(2, 12)), hosts=2 * int(rng.integers(1, 4)),
        per_leaf=int(rng.integers(1, 5)), trunk=float(rng.choice([0.5, 1.0, 3.0])),
    )  # fmt: skip
    for _ in range(rng.integers(0, 4)):
        pod.capacity[rng.integers(pod.rows)] = rng.choice([0.0, 0.3, 0.9])
    folding = pod.fold(rng.choice([0, 0, 0, 1], pod.replicas))
    weight = rng.choice([1.0, 2.0, 0.5], 3)[pod.label]
    cap = rng.choice([np.inf, 0.4, 0.2], 3)[pod.label]
    same_rates(pod.columns, pod.capacity, folding, weight=weight, rate_cap=cap)
    # Owners of a class own columns of the same classes.
    kinds = [sorted(folding.column_class[pod.owner == r].tolist()) for r in range(pod.replicas)]
    for r in range(pod.replicas):
        assert kinds[r] == kinds[folding.owner_representative[folding.owner_class[r]]]
    assert folding.owner_count.sum() == pod.replicas
