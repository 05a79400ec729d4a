"""The loop of post-training.

Oracles: closed forms at constant rates (a synchronous step is the longest answer, reward, update and push;
an asynchronous one the slower of its pools; the mean of a maximum by its order statistics), a plain event
loop over a heap written here, equal on random configurations, and conservation of trajectories and tokens.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from itertools import count

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from euston.errors import ConfigError
from euston.post_training import Plan, Reward, Run, Shape, Trajectory, draw, post_train
from euston.serving import Deployment, Engine, Pool, StepTime
from euston.serving.workloads.lengths import Fixed, Lognormal, Uniform

TAU = 0.0137


def pool(tau: float = TAU, replicas: int = 1, **engine: int) -> Deployment:
    """Every step takes ``tau``, whatever is in it."""
    given_ = {"num_blocks": 10**6, "max_num_seqs": 4096, "max_num_batched_tokens": 2**20, **engine}
    return Deployment((Pool(Engine(**given_), StepTime(np.zeros(1), fixed=tau), replicas),))  # type: ignore[arg-type]


def of_lengths(lengths: Sequence[int]) -> Iterator[Trajectory]:
    for i in count():
        yield Trajectory(i, i, 10, [lengths[i % len(lengths)]])


# -- closed forms ----------------------------------------------------------------------------------------


def test_synchronous_step_is_longest_answer_reward_update_and_push() -> None:
    lengths = [5, 90, 17, 300, 20, 41, 7, 8]
    plan = Plan("synchronous", 4, 6, push=0.7)
    run = post_train(plan, of_lengths(lengths), pool(), lambda _: 2.5, Reward(0.25))
    clock = 0.0
    for k, record in enumerate(run.records):
        clock += (0.7 if k else 0.0) + max(lengths[4 * (k % 2) : 4 * (k % 2) + 4]) * TAU + 0.25 + 2.5
        assert record.end == pytest.approx(clock, rel=1e-12)
        assert record.staleness == (0, 0, 0, 0)
    assert run.rollout_busy == pytest.approx(3 * (300 + 41) * TAU)


def test_colocated_pools_pay_the_switch_both_ways() -> None:
    split = Plan("synchronous", 4, 5, push=0.5)
    shared = Plan("synchronous", 4, 5, push=0.5, switch=3.0, colocated=True)
    ends = [post_train(p, of_lengths([50]), pool(), lambda _: 2.0, Reward()).end for p in (split, shared)]
    assert ends[1] - ends[0] == pytest.approx(3.0 * (5 + 4))  # into training 5 times, back 4 times
    with pytest.raises(ConfigError, match="colocated"):
        Plan("asynchronous", 4, 5, colocated=True)


@pytest.mark.parametrize("update", [0.5, 4.0])
def test_one_step_off_takes_the_longer_of_both(update: float) -> None:
    run = post_train(
        Plan("one_step_off", 8, 9, push=0.3), of_lengths([100]), pool(), lambda _: update, Reward()
    )
    ends = np.array([record.end for record in run.records])
    # generation and push take turns; training fills the gap where it is shorter
    assert np.diff(ends)[3:] == pytest.approx(np.full(5, max(100 * TAU + 0.3, update)), rel=1e-9)
    assert {s for record in run.records[1:] for s in record.staleness} == {1}


@pytest.mark.parametrize(("update", "slots"), [(30.0, 64), (0.2, 16)])
def test_asynchronous_rate_is_that_of_the_slower_pool(update: float, slots: int) -> None:
    length, batch = 200, 32
    plan = Plan("asynchronous", batch, 40, lag=6, push=0.0, concurrency=slots)
    run = post_train(plan, of_lengths([length]), pool(), lambda _: update, Reward())
    trained = [record.end for record in run.records]
    rate = batch * 20 / (trained[-1] - trained[-21])
    generated = slots / (length * TAU)
    assert rate == pytest.approx(min(batch / update, generated), rel=0.02)


def test_long_tail_by_order_statistics() -> None:
    """The mean of the largest of n uniform numbers on (0, 1) is n / (n + 1)."""
    for n in (2, 8, 32):
        run = post_train(
            Plan("synchronous", n, 150),
            draw(Shape(Fixed(4), Uniform(1000, 0.0)), 3),
            pool(),
            lambda _: 1.0,
            Reward(),
        )
        took = np.mean([record.ready - record.begin for record in run.records]) / (1000 * TAU)
        assert took == pytest.approx(n / (n + 1), abs=3 * np.sqrt(n / (n + 1) ** 2 / (n + 2) / 150) + 1e-3)


def test_partial_rollouts_cut_the_tail() -> None:
    shape = Shape(Fixed(4), Lognormal(100, 3000, 4000))
    whole, part = (
        post_train(Plan("synchronous", 32, 20, oversample=o), draw(shape, 1), pool(), lambda _: 1.0, Reward())
        for o in (1.0, 1.5)
    )
    assert part.end < 0.6 * whole.end
    assert max(s for record in part.records for s in record.staleness) > 0  # the tail is carried over


def test_asynchronous_without_lag_is_synchronous() -> None:
    shape = Shape(Fixed(40), Lognormal(80, 900, 2000), group=2)
    runs = [
        post_train(
            Plan(mode, 16, 8, push=0.4), draw(shape, 5), pool(replicas=2), lambda b: 0.1 * len(b), Reward(0.2)
        )
        for mode in ("synchronous", "asynchronous")
    ]
    assert [r.end for r in runs[0].records] == pytest.approx([r.end for r in runs[1].records], rel=1e-12)


# -- the plain event loop --------------------------------------------------------------------------------


def plain(
    plan: Plan, lengths: Sequence[int], tau: float, update: float, reward: float
) -> list[tuple[float, list[int]]]:
    """(end of update, staleness) of every update: one replica whose every step gives a token to everybody."""
    events: list[tuple[float, int, str, int]] = []
    order = count()

    def at(time: float, what: str, who: int = 0) -> None:
        heapq.heappush(events, (time, next(order), what, who))

    version = started = trained = 0
    epoch = 0  # ticks of an earlier epoch are void
    left: dict[int, int] = {}
    born: dict[int, int] = {}
    buffer: list[tuple[float, int]] = []
    busy = False
    out: list[tuple[float, list[int]]] = []
    lag = {"synchronous": 0, "one_step_off": 1}.get(plan.mode, plan.lag)
    batches = plan.mode != "asynchronous"
    generating, batch_number = False, 0

    def feed(now: float) -> None:
        nonlocal started, generating, batch_number, epoch
        if batches:
            # batch k may begin when the pool is empty and update k - 1 - lag is done
            if left or batch_number >= plan.steps or trained < batch_number - lag or generating:
                return
            for _ in range(plan.batch):
                left[started] = lengths[started % len(lengths)]
                started += 1
            batch_number += 1
            generating = True
        else:
            while started < (version + lag + 1) * plan.batch:
                left[started] = lengths[started % len(lengths)]
                started += 1
        epoch += 1
        at(now + tau, "tick", epoch)

    in_pool = 0  # version of the weights in the pool
    feed(0.0)
    while len(out) < plan.steps:
        now, _, what, who = heapq.heappop(events)
        if what == "tick" and who == epoch and left:
            for one in list(left):
                born.setdefault(one, in_pool if batches else version)
                left[one] -= 1
                if not left[one]:
                    del left[one]
                    at(now + reward, "rewarded", one)
            if left:
                at(now + tau, "tick", epoch)
            elif batches:
                generating = False
                wanted = max(0, batch_number - lag)
                if batch_number < plan.steps and trained >= wanted:
                    at(now + (plan.push if wanted > in_pool else 0.0), "go", wanted)
                    generating = True
        elif what == "go":
            generating, in_pool = False, who
            feed(now)
        elif what == "rewarded":
            buffer.append((now, who))
        elif what == "trained":
            busy = False
            trained += 1
            if batches:
                wanted = max(0, batch_number - lag)
                if not left and not generating and batch_number < plan.steps and trained >= wanted:
                    at(now + (plan.push if wanted > in_pool else 0.0), "go", wanted)
                    generating = True
            else:
                version += 1
                epoch += 1
                at(now + plan.push, "pushed")
                busy = True  # the pool and the trainer wait for the push
        elif what == "pushed":
            busy = False
            feed(now)
        buffer.sort()
        if not busy and len(buffer) >= plan.batch and not (events and events[0][0] <= now):
            batch = [one for _, one in buffer[: plan.batch]]
            del buffer[: plan.batch]
            busy = True
            mine = trained if batches else version
            out.append((now + update, sorted(mine - born[one] for one in batch)))
            at(now + update, "trained")
    return out


@settings(max_examples=40, deadline=None)
@given(
    mode=st.sampled_from(["synchronous", "one_step_off", "asynchronous"]),
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=11),
    batch=st.integers(1, 7),
    lag=st.integers(0, 3),
    update=st.floats(0.05, 1.3),
    push=st.floats(1e-6, 0.4),  # at 0 a push and a verdict may tie, and either order is right
    reward=st.sampled_from([0.0, 0.0931]),
)
def test_equal_to_the_plain_event_loop(
    mode: str, lengths: list[int], batch: int, lag: int, update: float, push: float, reward: float
) -> None:
    update, push = update * 1.0000371, push * 1.0000731  # no ties with the pool's ticks
    plan = Plan(mode, batch, 7, lag=lag if mode == "asynchronous" else 0, push=push)
    run = post_train(plan, of_lengths(lengths), pool(), lambda _: update, Reward(reward))
    expected = plain(plan, lengths, TAU, update, reward)
    assert [record.end for record in run.records] == pytest.approx([end for end, _ in expected], rel=1e-9)
    assert [sorted(record.staleness) for record in run.records] == [stale for _, stale in expected]


# -- properties ------------------------------------------------------------------------------------------


def conserved(run: Run) -> None:
    trained = [one for record in run.records for one in record.trajectories]
    assert len({one.number for one in trained}) == len(trained)
    assert len(trained) + len(run.left) + len(run.dropped) == run.started
    every = [*trained, *run.left, *run.dropped]
    assert {one.number for one in every} == set(range(run.started))
    assert sum(one.generated for one in every) == run.sampled
    for one in trained:
        assert one.generated == sum(one.outputs)
        assert np.isfinite(one.ended)


@settings(max_examples=30, deadline=None)
@given(
    mode=st.sampled_from(["synchronous", "one_step_off", "asynchronous"]),
    oversample=st.sampled_from([1.0, 1.3, 2.0]),
    lag=st.integers(0, 3),
    drop=st.booleans(),
    replicas=st.integers(1, 3),
    turns=st.integers(1, 4),
    group=st.integers(1, 4),
    slots=st.sampled_from([0, 5]),
    workers=st.sampled_from([0, 2]),
    seed=st.integers(0, 99),
)
def test_trajectories_and_tokens_are_conserved_and_bounds_hold(
    mode: str,
    oversample: float,
    lag: int,
    drop: bool,
    replicas: int,
    turns: int,
    group: int,
    slots: int,
    workers: int,
    seed: int,
) -> None:
    shape = Shape(
        Uniform(60, 0.0),
        Lognormal(20, 200, 300),
        group,
        Uniform(turns, 0.0),
        Uniform(30, 0.0),
        tool_seconds=0.3,
        most=600,
    )
    plan = Plan(
        mode, 8, 5, lag=lag if mode == "asynchronous" else 0, push=0.2,
        oversample=1.0 if mode == "asynchronous" else oversample, concurrency=slots, seed=seed,
        drop=drop and mode == "asynchronous",
    )  # fmt: skip
    run = post_train(
        plan,
        draw(shape, seed),
        pool(replicas=replicas, num_blocks=200),
        lambda b: 0.01 * len(b),
        Reward(0.05, workers),
    )
    conserved(run)
    assert len(run.records) == 5
    for k, record in enumerate(run.records):
        assert record.begin <= record.ready <= record.train < record.end
        assert all(s >= 0 for s in record.staleness)
        if mode == "asynchronous":
            assert not drop or max(record.staleness) <= lag
            # of trajectories in order of number, those begun at version v are below (v + lag + 1) batches
            assert all(
                one.number < (k - s + lag + 1) * 8 + len(run.dropped)
                for one, s in zip(record.trajectories, record.staleness, strict=True)
            )
    ends = [record.end for record in run.records]
    assert ends == sorted(ends)
    assert run.trained == pytest.approx(5 * 0.08)
    assert 0 < run.rollout_busy <= replicas * (run.end + 1e-9)


@settings(max_examples=100, deadline=None)
@given(st.integers(2, 400), st.integers(1, 4), st.integers(0, 50))
def test_cut_trajectories_are_those_that_would_be_longer(most: int, turns: int, seed: int) -> None:
    """Oracle: the same draws without a bound."""
    shape = Shape(Uniform(90, 0.0), Uniform(90, 0.0), 2, Fixed(turns), Uniform(40, 0.0), 1.0, most)
    whole = Shape(shape.prompt, shape.response, 2, shape.turns, shape.observation, 1.0)
    for one, longer, _ in zip(draw(shape, seed), draw(whole, seed), range(20), strict=False):
        assert one.cut == (longer.tokens > most)
        assert one.tokens == min(longer.tokens, most) or (one.cut and one.tokens < most)
        assert len(one.outputs) == len(one.observations) + 1 == len(one.tools) + 1


def test_tools_are_waited_for() -> None:
    """One agent by itself: its answers, its tools, nothing else."""
    one = Trajectory(0, 0, 10, [20, 30, 5], [7, 9], [1.25, 0.5])
    run = post_train(Plan("synchronous", 1, 1), iter([one]), pool(), lambda _: 1.0, Reward())
    assert run.records[0].ready == pytest.approx(55 * TAU + 1.75, rel=1e-9)


def test_an_interrupted_agent_goes_on_where_it_was() -> None:
    """A push in the middle of a tool call neither shortens nor lengthens the call."""
    agent = Trajectory(1, 1, 10, [20, 30], [7], [4.0])
    short = Trajectory(0, 0, 10, [25])
    rest = (Trajectory(i, i, 10, [1000]) for i in count(2))
    source = iter([short, agent, *(next(rest) for _ in range(20))])
    plan = Plan("asynchronous", 1, 2, lag=1, push=0.0)
    run = post_train(plan, source, pool(), lambda _: 1.0, Reward())
    assert run.records[0].trajectories[0].number == 0
    assert run.records[1].trajectories[0].number == 1
    # its first answer, the whole call, its second answer
    assert run.records[1].ready == pytest.approx(20 * TAU + 4.0 + 30 * TAU, rel=1e-3)


def test_groups_share_the_prompt_and_a_pool_that_is_too_small_is_refused() -> None:
    step = StepTime(np.arange(4001) * 1e-3, fixed=1e-3)
    engine = Engine(10**5, max_num_seqs=256, max_num_batched_tokens=4000)
    deployment = Deployment((Pool(engine, step, 1),))
    times = []
    for group in (1, 8):
        shape = Shape(Fixed(1600), Fixed(2), group)
        run = post_train(Plan("synchronous", 8, 1), draw(shape, 0), deployment, lambda _: 1.0, Reward())
        times.append(run.records[0].ready)
    assert times[1] < 0.5 * times[0]
    tiny = Deployment((Pool(Engine(4), StepTime(np.zeros(1), fixed=TAU), 1),))
    with pytest.raises(ConfigError, match="does not fit the rollout pool"):
        post_train(Plan("synchronous", 1, 1), of_lengths([500]), tiny, lambda _: 1.0, Reward())
