"""Nodes of a trace as plain data, with the numbers of the Chakra schema (mlcommons/chakra et_def.proto)."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

__all__ = ["VERSION", "CollectiveType", "Node", "NodeType", "Trace", "Value"]

VERSION = "0.0.4"
"""Schema version that is written."""

Value = bool | int | float | str | bytes | tuple[bool | int | float | str | bytes, ...]
"""Value of an attribute."""


class NodeType(IntEnum):
    """What a node does."""

    INVALID = 0
    METADATA = 1
    MEM_LOAD = 2
    MEM_STORE = 3
    COMP = 4
    COMM_SEND = 5
    COMM_RECV = 6
    COMM_COLL = 7
    STORAGE = 8
    BATCH = 9
    CHECKPOINT = 10


class CollectiveType(IntEnum):
    """Value of a collective's ``comm_type``."""

    ALL_REDUCE = 0
    REDUCE = 1
    ALL_GATHER = 2
    GATHER = 3
    SCATTER = 4
    BROADCAST = 5
    ALL_TO_ALL = 6
    REDUCE_SCATTER = 7
    REDUCE_SCATTER_BLOCK = 8
    BARRIER = 9


@dataclass(frozen=True)
class Node:
    """One operation of one rank.

    Attributes
    ----------
    seconds : float
        How long it took; the schema's whole microseconds, unless the writer left an exact number.
    start : float
        When it began, likewise.
    """

    id: int
    name: str
    type: int
    ctrl_deps: tuple[int, ...] = ()
    data_deps: tuple[int, ...] = ()
    start: float = 0.0
    seconds: float = 0.0
    attributes: dict[str, Value] = field(default_factory=dict)

    @property
    def deps(self) -> tuple[int, ...]:
        """All it waits for."""
        return self.ctrl_deps + self.data_deps

    def whole(self, name: str, default: int = 0) -> int:
        """An attribute as a whole number."""
        value = self.attributes.get(name, default)
        return int(value) if isinstance(value, int | float) else default

    @property
    def kind(self) -> str:
        """The name of its type."""
        return NodeType(self.type).name if self.type in list(NodeType) else f"type {self.type}"


@dataclass(frozen=True)
class Trace:
    """The nodes of one rank, in the file's order.

    Attributes
    ----------
    rank : int
        From the metadata or the file's name; -1 where neither says.
    dropped : int
        Dependencies on nodes that are not there, which were left out when the file was read.
    """

    rank: int
    version: str
    nodes: tuple[Node, ...]
    metadata: dict[str, Value] = field(default_factory=dict)
    dropped: int = 0
