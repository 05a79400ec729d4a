"""Hand-overs on the fluid network: each is one transfer from rank to rank, max-min fair with all others.

They are guests of an executor, so whatever else it runs (steps of training, say) shares the links with them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from euston.clock import Executor, ProgramBuilder, TransferTable
from euston.clock.conductor import Message
from euston.errors import ConfigError, SimulationError
from euston.network.columns import Columns
from euston.serving.engine import Arrived, Handover

__all__ = ["Handovers"]


class Handovers:
    """The component ``network`` beside one or more `Serving`: exact rates after every start and end.

    Parameters
    ----------
    executor : Executor
        With guests; its table has one transfer of one byte for every pair of ranks that exchange KV.
    transfer : mapping of str to int[R, R]
        By the name of a `Serving`, the transfer of each pair (source, target) of its ranks; -1: they share
        memory, nothing has to travel.
    parts : mapping of str to int[R, R], optional
        Into how many equal members a `Serving` cuts a hand-over of each pair; 1 unless said.
    ended : callable, optional
        Told (time, operation) of the executor's own operations that notify.

    Attributes
    ----------
    bytes, count
        Handed over so far.
    seconds : dict of str to list of float
        By sender, from the start of each hand-over that has ended to its last byte.
    """

    def __init__(
        self,
        executor: Executor,
        transfer: Mapping[str, ArrayLike],
        *,
        parts: Mapping[str, ArrayLike] | None = None,
        ended: Callable[[float, int], None] | None = None,
        name: str = "network",
    ) -> None:
        self.name = name
        self.executor = executor
        self._transfer: dict[str, NDArray[np.int64]] = {}
        self._parts: dict[str, NDArray[np.float64]] = {}
        most = len(executor.transfers)
        for sender, given in transfer.items():
            table = np.asarray(given, np.int64)
            if table.ndim != 2 or table.shape[0] != table.shape[1] or table.max(initial=-1) >= most:
                raise ConfigError(f"transfer must be a square table of numbers below {most}, one per pair")
            self._transfer[sender] = table
            shares = np.ones(table.shape) if parts is None else np.asarray(parts[sender], np.float64)
            self._parts[sender] = np.broadcast_to(shares, table.shape)
        self._ended = ended
        self._note: dict[int, tuple[str, Handover, float]] = {}
        self.seconds: dict[str, list[float]] = {sender: [] for sender in self._transfer}
        self.bytes, self.count = 0.0, 0

    @classmethod
    def alone(
        cls,
        columns: Columns,
        capacity: ArrayLike,
        column: ArrayLike,
        *,
        parts: ArrayLike = 1,
        slots: int = 4096,
    ) -> Handovers:
        """Hand-overs of the component ``serving`` with nothing beside them.

        Parameters
        ----------
        columns : Columns
            Usage vectors of the pairs of ranks.
        capacity : float64[rows]
            Bytes/s.
        column : int[R, R]
            Column of each pair (source, target), -1: nothing has to travel.
        parts : int or int[R, R]
            Equal members of each pair's hand-over; the columns are those of all members together.
        slots : int
            Most hand-overs at one time.
        """
        executor = Executor(ProgramBuilder().build(), TransferTable.units(columns), capacity, guests=slots)
        return cls(executor, {"serving": column}, parts={"serving": parts})

    def next_time(self) -> float:
        """When something happens on the network next, inf: nothing will."""
        return self.executor.next_time()

    def advance(self, until: float, inbox: Sequence[Message] = ()) -> list[Message]:
        """Take new hand-overs, run up to ``until`` or right after the first that end.

        Raises
        ------
        SimulationError
            For a message that is no `Handover`, or from nobody known.
        """
        out: list[Message] = []
        executor = self.executor
        for message in inbox:
            said, sender = message.payload, message.sender
            if not isinstance(said, Handover) or sender not in self._transfer:
                raise SimulationError(f"{self.name} does not understand {said!r} of {sender!r}")
            self.bytes += said.size
            self.count += 1
            transfer = int(self._transfer[sender][said.source, said.target])
            if transfer < 0:
                out.append(Message(message.time + said.latency, sender, Arrived(said.ticket), self.name))
            else:
                part = self._parts[sender][said.source, said.target]
                op = executor.post(message.time, transfer, said.size / part)
                self._note[op] = sender, said, message.time
        while not out and executor.next_time() <= until and executor.next_time() < np.inf:
            for time, op in executor.run(until):
                if op in self._note:
                    sender, said, begun = self._note.pop(op)
                    self.seconds[sender].append(time - begun)
                    out.append(Message(time + said.latency, sender, Arrived(said.ticket), self.name))
                elif self._ended is not None:
                    self._ended(time, op)
        return out
