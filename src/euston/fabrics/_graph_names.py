"""Names of switches and of the links between them: ``"g3.s2"`` and ``"global/g3.s2/g5.s1"``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from euston.errors import FabricError, unknown
from euston.fabrics._graph_tables import BUNDLE, TO, Graph
from euston.fabrics.structure import LinkKind

__all__ = ["Coordinates", "Labels", "LinkNames", "Names"]


class Labels(Protocol):
    """What the switches of a family are called."""

    def text(self, switch: int) -> str:
        """Label of a switch."""

    def number(self, text: str) -> int:
        """Switch of a label; -1 for none."""

    def all(self) -> list[str]:
        """Every label."""


@dataclass(frozen=True)
class Coordinates:
    """Mixed radix: ``"x1.y2.z3"``, slowest coordinate first."""

    letters: tuple[str, ...]
    sizes: tuple[int, ...]

    def text(self, switch: int) -> str:
        """Label of a switch."""
        parts = []
        for letter, size in zip(reversed(self.letters), reversed(self.sizes), strict=True):
            switch, digit = divmod(switch, size)
            parts.append(f"{letter}{digit}")
        return ".".join(reversed(parts))

    def number(self, text: str) -> int:
        """Switch of a label; -1 for none."""
        parts = text.split(".")
        if len(parts) != len(self.sizes):
            return -1
        index = 0
        for part, letter, size in zip(parts, self.letters, self.sizes, strict=True):
            digits = part[len(letter) :]
            if part[: len(letter)] != letter or not (digits.isascii() and digits.isdigit()):
                return -1
            if int(digits) >= size or digits != str(int(digits)):
                return -1
            index = index * size + int(digits)
        return index

    def all(self) -> list[str]:
        """Every label."""
        return [self.text(i) for i in range(int(np.prod(self.sizes)))]


@dataclass(frozen=True)
class Names:
    """Labels given one by one."""

    names: tuple[str, ...]

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.names)}

    def text(self, switch: int) -> str:
        """Label of a switch."""
        return self.names[switch]

    def number(self, text: str) -> int:
        """Switch of a label; -1 for none."""
        return self._numbers.get(text, -1)

    def all(self) -> list[str]:
        """Every label."""
        return list(self.names)


@dataclass(frozen=True, eq=False)
class LinkNames:
    """``kind/from/to``, and ``/c2`` behind it for cable 2 of a trunk."""

    graph: Graph
    kind: NDArray[np.uint8]
    labels: Labels

    @cached_property
    def words(self) -> dict[str, int]:
        """First words of the names of the links there are, and their kinds."""
        return {LinkKind(int(kind)).name.lower(): int(kind) for kind in np.unique(self.kind)}

    def name(self, link: int) -> str:
        """Outside name of a link."""
        switch = int(np.searchsorted(self.graph.ptr, link, side="right")) - 1
        ends = f"{self.labels.text(switch)}/{self.labels.text(int(self.graph.link[link, TO]))}"
        cables = self._trunk(link)
        cable = f"/c{link - cables[0]}" if len(cables) > 1 else ""
        return f"{LinkKind(int(self.kind[link])).name.lower()}/{ends}{cable}"

    def index(self, name: str) -> int:
        """Number of a link; `FabricError` with what would be right for an unknown one."""
        word, *parts = name.split("/")
        if len(parts) not in (2, 3):
            raise FabricError(f"unknown link {name!r}; links are called like {self.name(0)!r}")
        ends = []
        for part in parts[:2]:
            switch = self.labels.number(part)
            if switch < 0:
                raise FabricError(f"unknown link {name!r}: {unknown('switch', part, self.labels.all())}")
            ends.append(switch)
        links = self.graph.link[self.graph.ptr[ends[0]] : self.graph.ptr[ends[0] + 1], TO]
        found = (self.graph.ptr[ends[0]] + np.flatnonzero(links == ends[1])).tolist()
        if not found:
            there = ", ".join(self.labels.text(int(v)) for v in np.unique(links)[:8])
            raise FabricError(f"unknown link {name!r}: {parts[0]} is joined to {there}")
        if self.kind[found[0]] != self.words[word]:
            raise FabricError(f"unknown link {name!r}; did you mean {self.name(found[0])!r}?")
        if len(found) == 1 and len(parts) == 2:
            return int(found[0])
        for link in found:
            if self.name(link) == name:
                return int(link)
        raise FabricError(f"unknown link {name!r}; did you mean {self.name(found[-1])!r}?")

    def _trunk(self, link: int) -> Sequence[int]:
        bundle = self.graph.link[:, BUNDLE]
        first = int(np.searchsorted(bundle, bundle[link], side="left"))
        return range(first, int(np.searchsorted(bundle, bundle[link], side="right")))
