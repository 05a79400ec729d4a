"""The loop of post-training: rollouts, reward, update, push, in batches or asynchronously.

In batches: batch k is generated under weights that are at most ``lag`` updates behind those that train on it
(0: synchronous, 1: one step off). Asynchronously: the pool never stops but for a push; how many trajectories
may have been started is bounded by the version, ``started <= (version + lag + 1) * batch`` (AReaL,
arXiv:2505.24298, equation 3), and what is under way at a push goes on under the new weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from euston.errors import ConfigError
from euston.post_training.reward import Reward
from euston.post_training.rollout import Episode
from euston.post_training.trajectories import Trajectory
from euston.serving import Deployment

__all__ = ["Plan", "Record", "Run", "asynchronous", "in_batches", "post_train"]

Update = Callable[[Sequence[Trajectory]], float]
"""Seconds of one update on these trajectories."""


@dataclass(frozen=True)
class Plan:
    """How the loop runs.

    Attributes
    ----------
    mode : "synchronous" | "one_step_off" | "asynchronous"
    batch : int
        Trajectories of one update.
    steps : int
        Updates.
    lag : int
        Asynchronous: most updates that generation runs ahead of training.
    push : float
        Seconds of a push of the weights, during which nobody generates.
    switch : float
        Colocated: seconds from generating to training on the same accelerators, and again back.
    colocated : bool
        Both take turns on the same accelerators; synchronous only.
    oversample : float
        In batches: so many times a batch is under way; the first to end make the batch, the rest goes on in
        the next one (partial rollouts). 1: all are waited for.
    concurrency : int
        Most requests in the pool at one time; 0: no limit.
    drop : bool
        Asynchronous: what was begun more than ``lag`` updates ago is dropped and replaced, so that the bound
        holds for every trajectory and not for the mean alone; else long ones are trained on when they end.
    """

    mode: str
    batch: int
    steps: int
    lag: int = 0
    push: float = 0.0
    switch: float = 0.0
    colocated: bool = False
    oversample: float = 1.0
    concurrency: int = 0
    drop: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.mode not in ("synchronous", "one_step_off", "asynchronous"):
            raise ConfigError(f"`mode`: {self.mode!r} is none of synchronous, one_step_off, asynchronous")
        if self.batch < 1 or self.steps < 1 or self.lag < 0:
            raise ConfigError("`batch` and `steps` must be at least 1, `lag` at least 0")
        if self.colocated and self.mode != "synchronous":
            raise ConfigError(
                f"`colocated`: {self.mode} generates and trains at the same time; give each its accelerators"
            )
        if self.oversample < 1 or (self.mode == "asynchronous" and self.oversample != 1):
            raise ConfigError("`oversample`: is of batches, and at least 1")
        if self.drop and self.mode != "asynchronous":
            raise ConfigError("`drop`: is of asynchronous; batches have their lag by themselves")


@dataclass(frozen=True)
class Record:
    """One update.

    Attributes
    ----------
    begin, ready, train, end : float
        Seconds: generation of its batch began (asynchronous: the version that is trained was there), the
        batch was complete, training began, training ended.
    trajectories : tuple of Trajectory
        Trained on.
    staleness : tuple of int
        Updates between the weights that began each trajectory and those that train on it.
    """

    begin: float
    ready: float
    train: float
    end: float
    trajectories: tuple[Trajectory, ...]
    staleness: tuple[int, ...]


@dataclass
class Run:
    """What happened.

    Attributes
    ----------
    records : list of Record
    end : float
        Second at which the weights of the last update were there.
    rollout_busy : float
        Seconds in which ranks of the pool computed, added up over ranks.
    trained : float
        Seconds of training.
    pushes : int
    started, sampled : int
        Trajectories let in, and tokens sampled.
    left : list of Trajectory
        Let in and not trained on, as they are at the end.
    dropped : list of Trajectory
        Too old, as they were when they were dropped.
    """

    records: list[Record] = field(default_factory=list)
    end: float = 0.0
    rollout_busy: float = 0.0
    trained: float = 0.0
    pushes: int = 0
    started: int = 0
    sampled: int = 0
    left: list[Trajectory] = field(default_factory=list)
    dropped: list[Trajectory] = field(default_factory=list)


def post_train(
    plan: Plan, source: Iterator[Trajectory], deployment: Deployment, update: Update, reward: Reward
) -> Run:
    """Run the loop of a plan."""
    if plan.mode == "asynchronous":
        return asynchronous(plan, source, deployment, update, reward)
    return in_batches(plan, source, deployment, update, reward)


def in_batches(
    plan: Plan, source: Iterator[Trajectory], deployment: Deployment, update: Update, reward: Reward
) -> Run:
    """Synchronous and one step off: a batch is generated under one version of the weights."""
    lag = 1 if plan.mode == "one_step_off" else 0
    run = Run()
    under_way = max(plan.batch, round(plan.batch * plan.oversample))
    carried: list[Trajectory] = []  # begun, not ended
    spare: list[tuple[float, Trajectory]] = []  # ended beside the last of a batch
    trained = [0.0]  # end of every update; of none at the start
    generated = 0.0  # when the pool is free
    pushed = 0  # version in the pool
    for step in range(plan.steps):
        version = max(0, step - lag)
        begin = max(generated, trained[version])
        if version > pushed:
            begin += plan.push + (plan.switch if plan.colocated else 0.0)
            run.pushes += 1
            pushed = version
        fresh = list(islice(source, max(0, under_way - len(carried) - len(spare))))
        run.started += len(fresh)
        episode = Episode(
            [*carried, *fresh], deployment, begin=begin, concurrency=plan.concurrency, seed=plan.seed + step
        )
        need = plan.batch - len(spare)
        generated = begin
        if need > 0:
            if need < len(episode.work):
                generated = _peek(episode).ends(need)[-1][0]
                episode.advance(generated)
            else:
                episode.advance(np.inf)
                generated = episode.ends(need)[-1][0]
        ended = sorted([*spare, *episode.ended()], key=_in_order)
        busy, tokens = episode.close(version)
        run.rollout_busy += busy
        run.sampled += tokens
        batch = [one for _, one in ended[: plan.batch]]
        spare = ended[plan.batch :]
        over = {one.number for _, one in ended}
        carried = [one for one in episode.work if one.number not in over]
        ready = max(begin, *(reward.take(when) for when, _ in ended[: plan.batch]))
        train = max(ready, trained[-1])
        if plan.colocated:
            train += plan.switch
        seconds = update(batch)
        run.trained += seconds
        staleness = tuple(step - one.version for one in batch)
        run.records.append(Record(begin, ready, train, train + seconds, tuple(batch), staleness))
        trained.append(train + seconds)
    run.end = trained[-1]
    run.left = [*(one for _, one in spare), *carried]
    return run


def _peek(episode: Episode) -> Episode:
    """The same episode from its start: how it goes on does not depend on who looks."""
    return Episode(
        episode.work,
        episode.deployment,
        begin=episode.begin,
        concurrency=episode.requests.concurrency,
        seed=episode.seed,
    )


def asynchronous(
    plan: Plan, source: Iterator[Trajectory], deployment: Deployment, update: Update, reward: Reward
) -> Run:
    """Both pools always at work: a push interrupts what is under way, which then goes on."""
    run = Run()
    under_way: list[Trajectory] = []
    buffer: list[tuple[float, Trajectory]] = []  # with the second at which the reward is there
    now = 0.0
    for version in range(plan.steps):
        if plan.drop:
            old = {one.number for one in _live(buffer, under_way) if 0 <= one.version < version - plan.lag}
            run.dropped += [one for one in _live(buffer, under_way) if one.number in old]
            buffer = [pair for pair in buffer if pair[1].number not in old]
            under_way = [one for one in under_way if one.number not in old]
        allowed = (version + plan.lag + 1) * plan.batch + len(run.dropped)
        fresh = list(islice(source, allowed - run.started))
        run.started += len(fresh)
        episode = Episode(
            [*under_way, *fresh],
            deployment,
            begin=now,
            concurrency=plan.concurrency,
            seed=plan.seed + version,
        )
        train, batch = _batch(episode, buffer, plan.batch, reward)
        seconds = update(batch)
        end = train + seconds
        episode.advance(end)
        done = [(reward.take(when), one) for when, one in episode.ended()]
        busy, tokens = episode.close(version)
        run.rollout_busy += busy
        run.sampled += tokens
        taken = {one.number for one in batch}
        over = {one.number for _, one in done}
        buffer = [pair for pair in [*buffer, *done] if pair[1].number not in taken]
        under_way = [one for one in episode.work if one.number not in over]
        run.trained += seconds
        staleness = tuple(version - one.version for one in batch)
        run.records.append(Record(now, train, train, end, tuple(batch), staleness))
        now = end + plan.push
        run.pushes += 1
    run.end = run.records[-1].end
    run.left = _live(buffer, under_way)
    return run


def _live(buffer: Sequence[tuple[float, Trajectory]], under_way: Sequence[Trajectory]) -> list[Trajectory]:
    return [*(one for _, one in buffer), *under_way]


def _in_order(pair: tuple[float, Trajectory]) -> tuple[float, int]:
    return pair[0], pair[1].number


def _batch(
    episode: Episode, buffer: Sequence[tuple[float, Trajectory]], count: int, reward: Reward
) -> tuple[float, list[Trajectory]]:
    """When a batch of rewards is there, and whose: looked up ahead of the episode."""
    found = list(buffer)
    if len(found) < count:
        verifiers = reward.copy()
        found += [(verifiers.take(when), one) for when, one in _peek(episode).ends(count - len(found))]
    found = sorted(found, key=_in_order)[:count]
    return max(episode.begin, found[-1][0]), [one for _, one in found]
