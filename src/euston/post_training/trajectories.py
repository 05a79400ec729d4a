"""Trajectories: what one prompt's sample asks of the rollout pool, turn by turn, and how far it has come."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from euston.errors import ConfigError
from euston.seeds import stream

__all__ = ["Lengths", "Shape", "Trajectory", "draw"]


class Lengths(Protocol):
    """A distribution of numbers of tokens (`euston.serving.workloads.LENGTHS`)."""

    def draw(self, n: int, rng: np.random.Generator, /) -> NDArray[np.int64]:
        """Tokens, int64[n], at least 1."""


@dataclass(frozen=True)
class Shape:
    """What trajectories look like.

    Attributes
    ----------
    prompt, response : Lengths
        Tokens of a prompt, and of the answer of one turn.
    group : int
        Samples of each prompt (GRPO); they share the prompt's KV.
    turns : Lengths, optional
        Turns of an agent; one unless given.
    observation : Lengths, optional
        Tokens that a tool gives back.
    tool_seconds : float
        Mean of an exponential latency of a tool call.
    most : int
        Longest context; what would be longer ends there.
    """

    prompt: Lengths
    response: Lengths
    group: int = 1
    turns: Lengths | None = None
    observation: Lengths | None = None
    tool_seconds: float = 0.0
    most: int = 1 << 20

    def __post_init__(self) -> None:
        if self.group < 1 or self.most < 2 or not 0 <= self.tool_seconds < np.inf:
            raise ConfigError("trajectories need group >= 1, most >= 2 tokens and tool_seconds >= 0")


@dataclass
class Trajectory:
    """One sample and how far it has come.

    Attributes
    ----------
    number, group : int
        Its own number, and that of its prompt.
    prompt : int
    outputs, observations : list of int
        Tokens of every turn's answer; what comes back after each but the last.
    tools : list of float
        Seconds of the tool call after each turn but the last.
    turn, done : int
        Turn it is in, and tokens of its answer that are there.
    ready : float
        Second from which it can go on (a tool runs until then).
    version : int
        Of the weights that gave its first token, -1 before.
    ended : float
        Second of its last token, nan before.
    cut : bool
        Whether the longest context ended it, or its prompt already.
    """

    number: int
    group: int
    prompt: int
    outputs: list[int]
    observations: list[int] = field(default_factory=list)
    tools: list[float] = field(default_factory=list)
    turn: int = 0
    done: int = 0
    ready: float = 0.0
    version: int = -1
    ended: float = np.nan
    cut: bool = False

    @property
    def generated(self) -> int:
        """Tokens sampled so far."""
        return sum(self.outputs[: self.turn]) + self.done

    @property
    def context(self) -> int:
        """Tokens before the next one."""
        return self.prompt + self.generated + sum(self.observations[: self.turn])

    @property
    def tokens(self) -> int:
        """All its tokens at its end, prompt and observations among them."""
        return self.prompt + sum(self.outputs) + sum(self.observations)


def draw(shape: Shape, seed: int) -> Iterator[Trajectory]:
    """Trajectories without end, the samples of a prompt one after the other; a random stream per prompt."""
    number = 0
    group = 0
    while True:
        rng = stream(seed, "rollouts", group)
        asked = int(shape.prompt.draw(1, rng)[0])
        prompt = min(asked, shape.most - 1)
        for _ in range(shape.group):
            turns = 1 if shape.turns is None else int(shape.turns.draw(1, rng)[0])
            outputs = [int(n) for n in shape.response.draw(turns, rng)]
            seen = [0] * (turns - 1)
            if shape.observation is not None and turns > 1:
                seen = [int(n) for n in shape.observation.draw(turns - 1, rng)]
            tools = [float(t) for t in rng.exponential(1.0, turns - 1) * shape.tool_seconds]
            one = _cut(Trajectory(number, group, prompt, outputs, seen, tools), shape.most)
            one.cut = one.cut or asked > prompt
            yield one
            number += 1
        group += 1


def _cut(one: Trajectory, most: int) -> Trajectory:
    """The trajectory up to the longest context."""
    left = most - one.prompt
    for turn, tokens in enumerate(one.outputs):
        if tokens >= left:
            one.cut = tokens > left or turn < len(one.outputs) - 1
            one.outputs = [*one.outputs[:turn], left]
            break
        left -= tokens
        if turn == len(one.outputs) - 1:
            break
        if one.observations[turn] >= left:
            one.cut = True
            one.outputs = one.outputs[: turn + 1]
            break
        left -= one.observations[turn]
    turns = len(one.outputs)
    one.observations, one.tools = one.observations[: turns - 1], one.tools[: turns - 1]
    return one
