"""Allocation policies: where transfers go, what plans mean on links and rows, and what flows get.

Oracles: closed forms of shares on one link and in an incast; policies broken on purpose for the
conformance test.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from typing import ClassVar

import numpy as np
import pytest

from euston.errors import ConfigError
from euston.fabrics import Fabric, clos
from euston.network.allocation import (
    ALLOCATION,
    Allocator,
    Place,
    QueuePlan,
    Static,
    TransferInfo,
    assign,
    assign_flows,
)
from euston.network.allocation.max_min import MaxMin
from euston.network.allocation.per_job import PerJob
from euston.network.allocation.static_queues import StaticQueues
from euston.network.allocation.strict_priority import StrictPriority
from euston.network.allocation.weighted import Weighted
from euston.network.columns import ColumnsBuilder
from euston.network.flows import Flows
from euston.network.fluid import max_min
from euston.network.hierarchical import hierarchical_max_min
from euston.testing import PolicyError, check_policy

JOBS, KINDS = ("a", "b"), ("data", "pipeline")
FABRIC = clos(8, 1, nic=50e9, hosts_per_tor=4, tors_per_pod=2, aggs_per_pod=2, scale_up=450e9)


def one_link(allocator: Allocator, jobs: Sequence[str], kinds: Sequence[str] = ()) -> list[float]:
    """Rates of flows of these jobs and kinds that share one link of 12, under the allocator."""
    kinds = kinds or ["data"] * len(jobs)
    places = assign(
        allocator,
        jobs=JOBS,
        job=[JOBS.index(job) for job in jobs],
        kinds=KINDS,
        kind=[KINDS.index(kind) for kind in kinds],
    )
    builder = ColumnsBuilder(1)
    column = [builder.add({0: 1.0}) for _ in jobs]
    return hierarchical_max_min(
        builder.build(),
        [12.0],
        column=column,
        queue=places.queue,
        phi=allocator.plan.weights,
        weight=places.factor,
        priority=places.priority,
    ).rate.tolist()


# ---- what jobs get -----------------------------------------------------------------------------------------


def test_the_default_is_plain_max_min() -> None:
    """Marks are not looked at; the same rates as without any policy, bit for bit."""
    allocator = MaxMin().begin(FABRIC, JOBS, KINDS)
    flows = Flows.of([0, 1, 2], [4, 5, 6], 1000, queue=[0, 3, 7], priority=[2, 1, 0], weight=[1.0, 2.0, 3.0])
    places = assign_flows(allocator, flows)
    assert places.plain
    assert (places.on(flows).weight == flows.weight).all()
    assert (places.on(flows).queue == 0).all()
    assert one_link(allocator, ["a", "a", "b"]) == [4.0, 4.0, 4.0]
    assert allocator.plan.queues == 1
    assert ALLOCATION.names()[0] == "max_min"


def test_weights_are_per_flow_so_many_flows_win() -> None:
    """a: 1, b: 2, but a opens four flows: 12/6 each, so a gets 8."""
    assert one_link(Weighted({"b": 2.0}).begin(FABRIC, JOBS, KINDS), ["a"] * 4 + ["b"]) == [2.0] * 4 + [4.0]


def test_a_queue_per_job_undoes_many_flows() -> None:
    """a: 1, b: 3: 3 and 9 whatever a opens; what b does not use would be a's."""
    allocator = PerJob({"b": 3.0}).begin(FABRIC, JOBS, KINDS)
    assert one_link(allocator, ["a"] * 4 + ["b"]) == [0.75] * 4 + [9.0]
    assert one_link(allocator, ["a"] * 4) == [3.0] * 4
    assert one_link(PerJob().begin(FABRIC, JOBS, KINDS), ["a", "a", "b"]) == [3.0, 3.0, 6.0]


def test_strict_levels_and_those_not_named() -> None:
    levels = StrictPriority({"b": 0, "a/pipeline": 1}).begin(FABRIC, JOBS, KINDS)
    assert one_link(levels, ["a", "a"], ["data", "pipeline"]) == [0.0, 12.0]
    assert one_link(levels, ["a", "b"], ["pipeline", "data"]) == [0.0, 12.0]
    marked = StrictPriority().begin(FABRIC, JOBS, KINDS)
    assert marked.place(TransferInfo(priority=5)) == Place(priority=5)


def test_a_table_of_queues_and_the_closest_name() -> None:
    """``job/kind`` beats the job, which beats the kind; who is not named stays where it is marked."""
    policy = StaticQueues(
        weights=(1.0, 2.0, 3.0), queues={"a/data": 0, "a": 1, "data": 2}, priorities={"pipeline": 1}
    )
    allocator = policy.begin(FABRIC, JOBS, KINDS)
    place = {(job, kind): allocator.place(TransferInfo(job=job, kind=kind)) for job in JOBS for kind in KINDS}
    assert place == {
        ("a", "data"): Place(0, 0),
        ("a", "pipeline"): Place(1, 1),
        ("b", "data"): Place(2, 0),
        ("b", "pipeline"): Place(0, 1),
    }
    assert allocator.place(TransferInfo(queue=2, priority=4)) == Place(2, 4)
    assert one_link(allocator, ["a", "b"]) == [3.0, 9.0]


def test_places_of_a_flow_list_by_its_tags() -> None:
    flows = Flows.of([0, 1, 2], [4, 5, 6], 1000, group=[1, -1, 0], tags=["data", "pipeline"], queue=[0, 1, 0])
    allocator = StaticQueues(queues={"pipeline": 5}).begin(FABRIC, ("",), ("data", "pipeline"))
    assert assign_flows(allocator, flows).on(flows).queue.tolist() == [5, 1, 0]


def test_places_are_asked_for_once_per_kind() -> None:
    asked = Counter[str]()

    def place(transfer: TransferInfo) -> Place:
        asked[f"{transfer.job}/{transfer.kind}"] += 1
        return Place()

    n = 10_000
    places = assign(
        Static(QueuePlan(), place), jobs=JOBS, job=np.arange(n) % 2, kinds=KINDS, kind=np.arange(n) // 2 % 2
    )
    assert places.queue.size == n
    assert sum(asked.values()) == len(asked) == 4


# ---- plans -------------------------------------------------------------------------------------------------


def test_plan_on_links_and_rows() -> None:
    """A bundle has the weights of its links; one whose links differ must be split."""
    fabric = clos(
        16, 2, nic=50e9, hosts_per_tor=2, tors_per_pod=2, aggs_per_pod=2, cores_per_agg=2, scale_up=450e9
    )
    alone = fabric.link_index("nic_up/h0/n0")
    first = fabric.link_index("tor_up/p0/t0/a0")
    plan = QueuePlan(np.array([1.0, 1.0]), np.array([alone, first]), np.array([[1.0, 3.0], [4.0, 4.0]]))
    per_link = plan.per_link(fabric.links)
    assert per_link[[alone, first]].tolist() == [[1.0, 3.0], [4.0, 4.0]]
    rows = plan.on_rows(fabric)
    assert rows.shape == (fabric.rows, 2)
    assert (rows[fabric.bundles :] == per_link).all()
    assert rows[fabric.bundle[alone]].tolist() == [1.0, 3.0]
    assert not plan.split(fabric).any()  # 4:4 is 1:1
    uneven = QueuePlan(np.ones(2), np.array([first]), np.array([[4.0, 5.0]])).split(fabric)
    assert np.flatnonzero(uneven).tolist() == [fabric.bundle[first]]
    assert QueuePlan(np.array([1.0, 2.0])).on_rows(fabric).tolist() == [[1.0, 2.0]]
    assert not QueuePlan().split(fabric).any()


def test_weights_of_named_links() -> None:
    allocator = StaticQueues(weights=(1, 1), links={"tor_up/*": (3, 1), "nic_up/h0/n0": (1, 5)}).begin(
        FABRIC, JOBS, KINDS
    )
    found = allocator.plan.per_link(FABRIC.links)
    for link in range(FABRIC.links):
        name = FABRIC.link_name(link)
        want = (
            [3.0, 1.0] if name.startswith("tor_up/") else [1.0, 5.0] if name == "nic_up/h0/n0" else [1.0, 1.0]
        )
        assert found[link].tolist() == want


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: QueuePlan(np.array([1.0, 0.0])), "queue weights must be positive"),
        (lambda: QueuePlan(np.ones((2, 2))), "queue weights have shape"),
        (lambda: QueuePlan(np.ones(257)), "1 to 256 queues"),
        (lambda: QueuePlan(np.ones(2), np.array([1]), np.ones((1, 3))), r"need \(1, 2\)"),
        (lambda: QueuePlan(np.ones(1), np.array([1, 1]), np.ones((2, 1))), "each once"),
        (lambda: Weighted({"a": 0.0}), "`weights.a`: 0.0"),
        (lambda: PerJob({"a": inf}), "`weights.a`: inf"),
        (lambda: StrictPriority({"a": -1}), "`levels.a`: -1"),
        (lambda: StaticQueues(weights=()), "`weights`: 0 queues"),
        (lambda: StaticQueues(weights=(1.0, -1.0)), "weights must be positive"),
        (lambda: StaticQueues(weights=(1.0,), queues={"a": 1}), "`queues.a`: 1; `weights` has queues 0 to 0"),
        (lambda: StaticQueues(links={"x": (1.0,)}), "`links.x`: 1 weights"),
        (lambda: StaticQueues(priorities={"a": 256}), "`priorities.a`: 256"),
    ],
)
def test_settings_that_make_no_sense(make: object, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make()  # type: ignore[operator]


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        (Weighted({"pipelin": 2.0}), "`weights.pipelin`: .*did you mean 'pipeline'"),
        (Weighted({"a/dat": 2.0}), "`weights.a/dat`: .*did you mean 'a/data'"),
        (PerJob({"data": 2.0}), "`weights.data`: unknown job 'data'; known: a, b"),
        (StrictPriority({"c": 0}), "`levels.c`: unknown job or kind"),
        (StaticQueues(queues={"aa": 1}), "`queues.aa`: "),
        (StaticQueues(weights=(1.0,), links={"nic_up/h9/n0": (1.0,)}), "`links.nic_up/h9/n0`: "),
        (StaticQueues(weights=(1.0,), links={"core_*": (1.0,)}), r"`links.core_\*`: "),
    ],
)
def test_settings_that_fit_no_job_or_link(policy: object, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        policy.begin(FABRIC, JOBS, KINDS)  # type: ignore[attr-defined]


def test_places_that_are_not_there() -> None:
    allocator = StaticQueues(weights=(1.0, 1.0)).begin(FABRIC, JOBS, KINDS)
    with pytest.raises(ConfigError, match="marked for queue 2; `weights` has queues 0 to 1"):
        allocator.place(TransferInfo(queue=2))
    with pytest.raises(ConfigError, match="unknown job 'c'"):
        PerJob().begin(FABRIC, JOBS, KINDS).place(TransferInfo(job="c"))
    with pytest.raises(ConfigError, match="there is no queue 1"):
        assign(Static(QueuePlan(), lambda _: Place(1)), jobs=("a",), job=0, kinds=("x",), kind=0)


# ---- a policy that plans while transfers come and go -------------------------------------------------------


@dataclass
class _Ports:
    """Per link: who crosses it; a queue's weight there is one more than its flows there."""

    jobs: Sequence[str]
    window: float
    plan: QueuePlan = field(init=False)
    crossing: dict[int, Counter[str]] = field(default_factory=dict)
    running: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.plan = QueuePlan(np.ones(2))

    def place(self, transfer: TransferInfo) -> Place:
        return Place(self.jobs.index(transfer.job) % 2)

    def _count(self, time: float, transfer: TransferInfo, by: int) -> float:
        for link in transfer.links.tolist():
            self.crossing.setdefault(link, Counter())[transfer.job] += by
        return (np.floor(time / self.window) + 1) * self.window

    def started(self, time: float, transfer: TransferInfo) -> float:
        self.running[transfer.number] = transfer.job
        return self._count(time, transfer, 1)

    def ended(self, time: float, transfer: TransferInfo) -> float:
        del self.running[transfer.number]
        return self._count(time, transfer, -1)

    def replan(self, time: float) -> QueuePlan:
        busy = {link: +count for link, count in self.crossing.items() if +count}
        weights = np.ones((len(busy), 2))
        for line, count in zip(weights, busy.values(), strict=True):
            for job, flows in count.items():
                line[self.jobs.index(job) % 2] += flows
        first = min(self.running, default=None)
        moves = {} if first is None else {first: Place(1)}
        return QueuePlan(np.ones(2), np.array(list(busy), np.int32), weights, moves)


@dataclass(frozen=True)
class PortWeights:
    """Plans link by link from who crosses it, at most once per window: the shape of a Saba controller."""

    window: float = 5e-3
    name: ClassVar[str] = "port_weights"
    dynamic: ClassVar[bool] = True

    def begin(self, fabric: Fabric, jobs: Sequence[str], kinds: Sequence[str]) -> Allocator:
        return _Ports(jobs, self.window)


@pytest.mark.parametrize("name", ALLOCATION.names())
def test_registered_policies_conform(name: str) -> None:
    check_policy(ALLOCATION.get(name)())


def test_policies_with_settings_conform() -> None:
    check_policy(PerJob({"b": 3.0}))
    check_policy(Weighted({"a": 2.0, "data": 3.0}))
    check_policy(StrictPriority({"a": 0, "b/data": 2}))
    check_policy(StaticQueues((1.0, 2.0), {"a": 1}, {"b": 1}, {"tor_up/*": (5.0, 1.0)}))


def test_a_dynamic_policy_conforms() -> None:
    check_policy(PortWeights())


class _Static(MaxMin):
    """Says that it is not dynamic and is."""

    def begin(self, fabric: Fabric, jobs: Sequence[str], kinds: Sequence[str]) -> Allocator:  # type: ignore[override]
        return _Ports(jobs, 5e-3)


_KEPT = _Ports(("a", "b", ""), 5e-3)


class _Memory(PortWeights):
    """One controller for all runs."""

    def begin(self, fabric: Fabric, jobs: Sequence[str], kinds: Sequence[str]) -> Allocator:
        return _KEPT


class _Outside(MaxMin):
    def begin(self, fabric: Fabric, jobs: Sequence[str], kinds: Sequence[str]) -> Static:
        return Static(QueuePlan(), lambda transfer: Place(1))


class _BySize(MaxMin):
    def begin(self, fabric: Fabric, jobs: Sequence[str], kinds: Sequence[str]) -> Static:
        return Static(QueuePlan(np.ones(2)), lambda transfer: Place(int(transfer.bytes > 5e7)))


class _Late(PortWeights):
    def begin(self, fabric: Fabric, jobs: Sequence[str], kinds: Sequence[str]) -> Allocator:
        made = _Ports(jobs, 5e-3)
        made.ended = lambda time, transfer: time - 1.0  # type: ignore[method-assign]
        return made


class _Ghost(PortWeights):
    def begin(self, fabric: Fabric, jobs: Sequence[str], kinds: Sequence[str]) -> Allocator:
        made = _Ports(jobs, 5e-3)
        made.replan = lambda time: QueuePlan(np.ones(2), moves={99: Place()})  # type: ignore[method-assign]
        return made


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        (_Static(), "nothing to plan"),
        (_Memory(), "start afresh"),
        (_Outside(), "a queue that the plan has"),
        (_BySize(), "by job, kind and marks alone"),
        (_Late(), "a time from now on"),
        (_Ghost(), "only running transfers may move"),
    ],
)
def test_broken_policies_are_caught(policy: object, words: str) -> None:
    with pytest.raises(PolicyError, match=words):
        check_policy(policy)


def test_per_job_shares_hold_at_every_link_of_a_fabric() -> None:
    """An incast of two jobs, 6 flows against 1: per flow 6:1, per job 1:1, whatever the first links do."""
    src = np.array([0, 1, 2, 3, 4, 5, 6], np.int32)
    links = FABRIC.route(src, np.full(7, 7, np.int32), np.arange(7, dtype=np.uint64))
    builder = ColumnsBuilder(FABRIC.links)
    column = [builder.add({int(link): 1.0 for link in path if link >= 0}) for path in links]
    columns, jobs = builder.build(), ("many", "one")
    plain = max_min(columns, FABRIC.capacity, column=column).rate
    np.testing.assert_allclose(plain, 50e9 / 7, rtol=1e-12)
    allocator = PerJob().begin(FABRIC, jobs, ("",))
    places = assign(allocator, jobs=jobs, job=[0] * 6 + [1], kinds=("",), kind=0)
    fair = hierarchical_max_min(
        columns, FABRIC.capacity, column=column, queue=places.queue, phi=allocator.plan.weights
    )
    np.testing.assert_allclose(fair.rate, [25e9 / 6] * 6 + [25e9], rtol=1e-12)
    assert fair.certificate() < 1e-12
