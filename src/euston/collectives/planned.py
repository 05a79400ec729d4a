"""One collective, planned: an algorithm by name or NCCL's choice, as transfers or message by message."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from euston.clock import ProgramBuilder
from euston.collectives.base import Algorithm, Group, Message, Stage
from euston.collectives.in_network import EFFICIENCY, InNetwork
from euston.collectives.nccl import Choice, choose
from euston.collectives.write import write_messages, write_stages
from euston.errors import ConfigError
from euston.network import Transfer

__all__ = ["Collective", "collective", "write_collective"]

Detail = Literal["transfer", "steps"]


@dataclass(frozen=True)
class Collective:
    """What to send.

    Attributes
    ----------
    stages : list of Stage
        Transfers that follow each other; empty when `steps` are given.
    messages : list of Message
        Every message, on request.
    choice : Choice, optional
        What NCCL's model said, with ``algorithm="auto"``.
    """

    kind: str
    algorithm: str
    stages: list[Stage]
    messages: list[Message]
    base_latency: float = 0.0
    choice: Choice | None = None

    @property
    def transfers(self) -> list[Transfer]:
        """All transfers, in order."""
        if self.messages:
            return [message.transfer for message in self.messages]
        return [transfer for stage in self.stages for transfer in stage.transfers]


def collective(
    kind: str,
    group: Group,
    buffer_bytes: float,
    algorithm: str | Algorithm = "auto",
    *,
    detail: Detail = "transfer",
    generation: str = "hopper",
) -> Collective:
    """Plan a collective over a group.

    Parameters
    ----------
    kind : "all_reduce" | "all_gather" | "reduce_scatter" | "all_to_all"
    buffer_bytes : float
        The full buffer M in the convention of nccl-tests.
    algorithm : str or Algorithm
        A name of the registry ``ALGORITHMS``, an object, or "auto": what NCCL's cost model says, with its
        protocol's latencies and rates.
    detail : "transfer" | "steps"
    generation : "ampere" | "hopper" | "blackwell"
        Of the accelerator, for "auto".

    Raises
    ------
    ConfigError
        For an unknown algorithm, one that does not do the collective, or a size that is none.
    """
    from euston.collectives import ALGORITHMS

    if not 0 <= buffer_bytes < float("inf"):
        raise ConfigError(f"`buffer_bytes`: {buffer_bytes} is not a size; bytes, zero or more")
    if detail not in ("transfer", "steps"):
        raise ConfigError(f"`detail`: {detail!r} is neither transfer nor steps")
    choice, base = None, 0.0
    if algorithm == "auto" and kind == "all_to_all":
        algorithm = "two-level" if 1 < group.domains < len(group) else "direct"
    if algorithm == "auto":
        choice = choose(kind, group, buffer_bytes, generation)
        group, base = choice.applied(group), choice.base
        algorithm = choice.algorithm
        if algorithm == "in-network":
            algorithm = InNetwork(EFFICIENCY[generation])
    found: Algorithm = ALGORITHMS.get(algorithm)() if isinstance(algorithm, str) else algorithm
    messages = found.messages(kind, group, buffer_bytes) if detail == "steps" else []
    stages = [] if detail == "steps" else found.stages(kind, group, buffer_bytes)
    return Collective(kind, found.name, stages, messages, base, choice)


def write_collective(
    builder: ProgramBuilder,
    table: list[Transfer],
    planned: Collective,
    *,
    label: str = "",
    after: tuple[int, ...] = (),
) -> int:
    """Append a planned collective to a program; returns the operation that ends it."""
    name = label or planned.kind
    if planned.base_latency:
        after = (builder.wait(planned.base_latency, label=name, after=after),)
    if planned.messages:
        return write_messages(builder, table, planned.messages, label=name, after=after)
    return write_stages(builder, table, planned.stages, label=name, after=after)
