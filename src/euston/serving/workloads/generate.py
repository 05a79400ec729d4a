"""Requests made up: independent ones, shared prefixes, conversations and agents with tools."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from euston.errors import ConfigError
from euston.seeds import stream
from euston.serving.requests import Requests
from euston.serving.workloads.arrivals import arrival_times
from euston.serving.workloads.lengths import Empirical, Lengths

__all__ = [
    "Arrivals",
    "agents",
    "at_least",
    "closed_loop",
    "conversations",
    "independent",
    "shared_prefix",
]


@dataclass(frozen=True)
class Arrivals:
    """When requests or sessions begin.

    Attributes
    ----------
    rate : float
        Mean per second.
    kind : str
        One of `euston.serving.workloads.ARRIVALS`.
    settings : dict
        Of that process.
    """

    rate: float
    kind: str = "poisson"
    settings: dict[str, float] | None = None

    def draw(self, n: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """The first n, float64[n] s."""
        return arrival_times(self.kind, n, self.rate, rng, **(self.settings or {}))


def at_least(name: str, value: float, least: float) -> None:
    """Refuse a setting below its least value, nan too."""
    if not value >= least:
        raise ConfigError(f"`{name}`: {value} must be {least} or more")


def independent(
    n: int, arrivals: Arrivals, prompt: Lengths | Empirical, answer: Lengths | None = None, *, seed: int = 0
) -> Requests:
    """Requests that share nothing.

    Parameters
    ----------
    prompt, answer : Lengths
        Or one `Empirical` for both, which keeps long prompts with their answers.
    """
    if isinstance(prompt, Empirical):
        if answer is not None:
            raise ConfigError("`answer`: a trace gives prompts and answers together; leave it out")
        tokens, out = prompt.pairs(n, stream(seed, "lengths"))
    elif answer is None:
        raise ConfigError("`answer`: is missing; give a distribution of lengths")
    else:
        tokens, out = prompt.draw(n, stream(seed, "prompts")), answer.draw(n, stream(seed, "answers"))
    return Requests.of(
        arrivals.draw(n, stream(seed, "arrivals")), tokens, out, meta={"generator": "independent"}
    )


def closed_loop(requests: Requests, concurrency: int, *, think_s: float = 0.0) -> Requests:
    """The same requests from ``concurrency`` users who wait for each answer, and think.

    Without thinking at most so many are in the system and the next comes when one ends. With it each user
    asks every ``concurrency``-th request, ``think_s`` after the answer before it.

    Raises
    ------
    ConfigError
        Fewer than one user, a negative time, requests that wait for others already.
    """
    at_least("concurrency", concurrency, 1)
    at_least("think_s", think_s, 0)
    n = len(requests)
    if requests.after.size:
        raise ConfigError("`concurrency`: these requests wait for each other already")
    start = replace(requests, arrival_s=np.zeros(n))
    if think_s == 0:
        return replace(start, concurrency=concurrency)
    ptr = np.concatenate(
        (np.zeros(min(n, concurrency) + 1, np.int64), 1 + np.arange(max(n - concurrency, 0)))
    )
    return replace(
        start,
        after_ptr=ptr,
        after=np.arange(max(n - concurrency, 0), dtype=np.int32),
        think_s=np.where(np.arange(n) < concurrency, 0.0, think_s),
    )


def shared_prefix(
    n: int,
    arrivals: Arrivals,
    *,
    groups: int,
    system: int,
    question: Lengths,
    answer: Lengths,
    block_size: int = 16,
    seed: int = 0,
) -> Requests:
    """Requests of ``groups`` applications, each with a system prompt of its own before every question.

    Parameters
    ----------
    groups, system : int
        Applications, and tokens of their system prompts.
    """
    at_least("groups", groups, 1)
    at_least("system", system, 0)
    at_least("block_size", block_size, 1)
    group = stream(seed, "groups").integers(0, groups, n)
    tokens = system + question.draw(n, stream(seed, "questions"))
    full, common = tokens // block_size, system // block_size
    ptr = np.concatenate(([0], np.cumsum(full)))
    owner = np.repeat(np.arange(n), full)
    place = np.arange(ptr[-1]) - ptr[:-1][owner]
    own = groups * common + np.cumsum(place >= common) - 1
    ids = np.where(place < common, group[owner] * common + place, own)
    return Requests.of(
        arrivals.draw(n, stream(seed, "arrivals")), tokens, answer.draw(n, stream(seed, "answers")),
        klass=group % 256, block_ids=ids, blocks_ptr=ptr, block_size=block_size if ids.size else 0,
        meta={"generator": "shared_prefix", "groups": groups},
    )  # fmt: skip


class _Sessions:
    """Gathers requests of sessions; sorted by the session's beginning, calls in their order."""

    def __init__(self, block_size: int) -> None:
        self.block_size = block_size
        self.names = 0
        self.begin: list[float] = []
        self.rows: list[tuple[int, int, int, int, float]] = []  # session, turn, prompt, answer, think
        self.blocks: list[NDArray[np.int64]] = []
        self.before: list[tuple[int, ...]] = []

    def fresh(self, blocks: int) -> NDArray[np.int64]:
        """New names."""
        self.names += blocks
        return np.arange(self.names - blocks, self.names)

    def grown(self, context: NDArray[np.int64], tokens: int) -> NDArray[np.int64]:
        """Names of a context that has grown to ``tokens`` tokens: full blocks stay what they were."""
        full = tokens // self.block_size
        return np.concatenate((context[:full], self.fresh(max(full - context.size, 0))))

    def add(
        self, session: int, turn: int, prompt: int, answer: int, think: float,
        blocks: NDArray[np.int64], before: tuple[int, ...],
    ) -> int:  # fmt: skip
        """One call; its number."""
        self.rows.append((session, turn, prompt, answer, think))
        self.blocks.append(blocks)
        self.before.append(before)
        return len(self.rows) - 1

    def requests(self, begin: NDArray[np.float64], meta: dict[str, Any]) -> Requests:
        session, turn, prompt, answer, think = (np.asarray(c) for c in zip(*self.rows, strict=True))
        after = [number for numbers in self.before for number in numbers]
        ids = np.concatenate(self.blocks)
        return Requests.of(
            begin[session], prompt, answer, session=session, turn=turn, think_s=think,
            named_tok=prompt + answer if ids.size else prompt,
            block_ids=ids, blocks_ptr=np.concatenate(([0], np.cumsum([b.size for b in self.blocks]))),
            block_size=self.block_size if ids.size else 0,
            after=after, after_ptr=np.concatenate(([0], np.cumsum([len(b) for b in self.before]))), meta=meta,
        )  # fmt: skip


def conversations(
    sessions: int,
    arrivals: Arrivals,
    *,
    turns: Lengths,
    question: Lengths,
    answer: Lengths,
    think_s: float | tuple[float, float] = (10.0, 60.0),
    system: int = 0,
    block_size: int = 16,
    seed: int = 0,
) -> Requests:
    """Users who talk: the prompt of a turn is everything said before and a new question.

    Parameters
    ----------
    turns : Lengths
        Turns of a session.
    think_s : float or (float, float)
        Time between an answer and the next question: of all, or median and 99th percentile of a lognormal.
    system : int
        Tokens of a system prompt that all sessions share.
    """
    at_least("sessions", sessions, 1)
    begin, count = (
        arrivals.draw(sessions, stream(seed, "arrivals")),
        turns.draw(sessions, stream(seed, "turns")),
    )
    total = int(count.sum())
    asked, said = question.draw(total, stream(seed, "questions")), answer.draw(total, stream(seed, "answers"))
    pause = _think("think_s", total, think_s, stream(seed, "think"))
    made = _Sessions(block_size)
    shared = made.fresh(system // block_size)
    k = 0
    for session in range(sessions):
        before: tuple[int, ...] = ()
        context, tokens = shared, system
        for turn in range(int(count[session])):
            prompt = tokens + int(asked[k])
            tokens = prompt + int(said[k])
            context = made.grown(context, tokens)
            before = (
                made.add(session, turn, prompt, int(said[k]), pause[k] if turn else 0.0, context, before),
            )
            k += 1
    return made.requests(begin, {"generator": "conversations", "sessions": sessions})


def agents(
    sessions: int,
    arrivals: Arrivals,
    *,
    calls: float,
    task: Lengths,
    observation: Lengths,
    answer: Lengths,
    tool_s: float | tuple[float, float] = (1.0, 20.0),
    system: int = 0,
    fan_out: int = 1,
    fan_out_share: float = 0.0,
    limit: int = 0,
    compacted: int = 0,
    block_size: int = 16,
    seed: int = 0,
) -> Requests:
    """Agents that call a model in a loop: think, use a tool, read what it says, until done.

    Parameters
    ----------
    calls : float
        Mean calls of a session (geometric).
    task, observation, answer : Lengths
        Tokens of the first prompt, of what a tool gives back, of each answer.
    tool_s : float or (float, float)
        Time of a tool: of all, or median and 99th percentile of a lognormal.
    system : int
        Tokens of the prompt that all agents share.
    fan_out, fan_out_share : int, float
        With that probability a call is followed by so many parallel sub-agents (one call each, on the same
        context), which the next call waits for and reads.
    limit, compacted : int
        A context beyond ``limit`` tokens is summarised to ``compacted``: what was cached of it is lost. 0:
        no limit.
    """
    at_least("sessions", sessions, 1)
    at_least("calls", calls, 1)
    at_least("fan_out", fan_out, 1)
    if not 0 <= fan_out_share <= 1:
        raise ConfigError(f"`fan_out_share`: {fan_out_share} must be 0 to 1")
    if limit and not 0 < compacted < limit:
        raise ConfigError(f"`compacted`: {compacted} must be more than 0 and less than limit {limit}")
    begin = arrivals.draw(sessions, stream(seed, "arrivals"))
    count = stream(seed, "calls").geometric(1 / calls, sessions)
    forks = stream(seed, "fan out").random(int(count.sum())) < fan_out_share
    total = int(count.sum()) + fan_out * int(forks.sum())
    given, said = observation.draw(total, stream(seed, "tools")), answer.draw(total, stream(seed, "answers"))
    first, pause = (
        task.draw(sessions, stream(seed, "tasks")),
        _think("tool_s", total, tool_s, stream(seed, "tool times")),
    )
    made = _Sessions(block_size)
    shared = made.fresh(system // block_size)
    k = number = 0
    for session in range(sessions):
        before: tuple[int, ...] = ()
        context, tokens, fresh = shared, system, int(first[session])
        for turn in range(int(count[session])):
            if limit and tokens + fresh > limit and turn:
                context, tokens = made.fresh(compacted // block_size), compacted
            prompt = tokens + fresh
            tokens = prompt + int(said[k])
            context = made.grown(context, tokens)
            think = pause[k] if turn else 0.0
            call = made.add(session, turn, prompt, int(said[k]), think, context, before)
            before, fresh = (call,), int(given[k])
            k += 1
            if forks[number] and turn + 1 < int(count[session]):
                subs = []
                for _ in range(fan_out):
                    asked, out = tokens + int(given[k]), int(said[k])
                    own = made.grown(context, asked + out)
                    subs.append(made.add(session, turn, asked, out, pause[k], own, (call,)))
                    fresh += out
                    k += 1
                before = tuple(subs)
            number += 1
    return made.requests(begin, {"generator": "agents", "sessions": sessions})


def _think(
    name: str, n: int, seconds: float | tuple[float, float], rng: np.random.Generator
) -> NDArray[np.float64]:
    """The same time for all, or lognormal ones by median and 99th percentile, float64[n]."""
    given = np.asarray(seconds)
    if given.dtype.kind not in "iuf" or given.shape not in ((), (2,)):
        raise ConfigError(f"`{name}`: {seconds!r} is neither seconds nor [median, 99th percentile]")
    median, p99 = np.broadcast_to(given, (2,)).tolist()
    if not 0 <= median <= p99 < np.inf:
        raise ConfigError(f"`{name}`: median {median:g} and 99th percentile {p99:g} must rise from 0")
    if median == 0:
        return np.zeros(n)
    return median * np.exp(np.log(p99 / median) / 2.3263478740408408 * rng.standard_normal(n))
