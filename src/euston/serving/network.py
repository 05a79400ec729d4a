"""Hand-overs on the fluid network: each is one flow, max-min fair with all others, from rank to rank."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from euston.clock.conductor import Message
from euston.errors import ConfigError, SimulationError
from euston.network.columns import Columns
from euston.network.incremental import Incremental
from euston.serving.engine import Arrived, Handover

__all__ = ["Handovers"]

# Flows that end closer together than this (relative) end at one moment: float dust.
_DUST = 1e-12


class Handovers:
    """The component ``network`` beside `Serving`: exact rates after every start and end.

    Parameters
    ----------
    columns : Columns
        Usage vectors of the pairs of ranks that exchange KV.
    capacity : float64[rows]
        Bytes/s.
    column : int[R, R]
        Column of the pair (source, target); -1: they share memory, nothing has to travel.
    slots : int
        Most hand-overs at one time.
    """

    def __init__(
        self,
        columns: Columns,
        capacity: ArrayLike,
        column: ArrayLike,
        *,
        slots: int = 4096,
        name: str = "network",
    ) -> None:
        self.name = name
        self._column = np.asarray(column, np.int64)
        square = self._column.ndim == 2 and self._column.shape[0] == self._column.shape[1]
        if not square or self._column.max(initial=-1) >= len(columns):
            raise ConfigError(f"column must be a square table of numbers below {len(columns)}, one per pair")
        self._flows = Incremental(columns, capacity, slots)
        self._left = np.full(slots, np.inf)
        self._rate = np.zeros(slots)
        self._note: dict[int, tuple[str, Handover]] = {}
        self._now, self._next = 0.0, np.inf
        self.bytes, self.count = 0.0, 0

    def next_time(self) -> float:
        """When the next hand-over has sent its last byte, inf: none is under way."""
        return self._next

    def _until(self, time: float) -> None:
        moving = self._rate > 0
        self._left[moving] -= self._rate[moving] * (time - self._now)
        self._now = time

    def _ends(self) -> NDArray[np.float64]:
        with np.errstate(divide="ignore", invalid="ignore"):
            wait = np.maximum(self._left, 0.0) / self._rate
        return self._now + np.where(self._rate > 0, wait, np.inf)

    def _renew(self) -> None:
        self._rate = self._flows.rate
        self._next = float(self._ends().min())

    def advance(self, until: float, inbox: Sequence[Message] = ()) -> list[Message]:
        """Take new hand-overs, run up to ``until`` or right after the first that end.

        Raises
        ------
        SimulationError
            For a message that is no `Handover`.
        """
        out: list[Message] = []
        begun: list[tuple[str, Handover]] = []
        for message in inbox:
            said = message.payload
            if not isinstance(said, Handover):
                raise SimulationError(f"{self.name} does not understand {said!r}")
            self.bytes += said.size
            self.count += 1
            if self._column[said.source, said.target] < 0:
                out.append(Message(message.time + said.latency, message.sender, Arrived(said.ticket)))
            else:
                begun.append((message.sender, said))
        if begun:
            self._until(inbox[-1].time)
            columns = [self._column[said.source, said.target] for _, said in begun]
            for slot, entry in zip(self._flows.change(column=columns).tolist(), begun, strict=True):
                self._left[slot] = entry[1].size
                self._note[slot] = entry
            self._renew()
        while not out and self._next <= until and self._next < np.inf:
            time = self._next
            done = np.flatnonzero(self._ends() <= time + _DUST * (time - self._now))
            self._until(time)
            for slot in done.tolist():
                sender, said = self._note.pop(slot)
                out.append(Message(time + said.latency, sender, Arrived(said.ticket)))
            self._left[done] = np.inf
            self._flows.change(close=done)
            self._renew()
        return out
