"""Programs: what is known beforehand, as flat arrays of operations with dependencies.

A stream is an in-order queue, like a CUDA stream: its operations start in the order in which they were
written. Stream order is therefore one more dependency and the executor needs no scheduler (decision 0002).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from euston.errors import ConfigError
from euston.network.columns import Columns

__all__ = ["Choices", "Kind", "Program", "ProgramBuilder", "QueueTable", "TransferTable"]


class Kind(IntEnum):
    """What an operation does."""

    COMPUTE = 0
    TRANSFER = 1
    WAIT = 2
    JOIN = 3


@dataclass(frozen=True)
class Choices:
    """Columns that are found while the program runs: candidates at a flow's start, other routes later.

    Attributes
    ----------
    count : int32[F]
        Flow ``k`` of the table has candidates ``column[k]`` to ``column[k] + count[k] - 1``.
    pair : int32[F]
        Equal for flows between the same two endpoints.
    rule : int
        A `network.balancing.StartRule`.
    gap : float
        Seconds of silence of a pair after which it may choose again, for the rules that wait for one.
    seed : int
    routes : int32[E, C]
        While routes ``e`` hold, column ``routes[e, c]`` stands for ``c``; -1: it has none. Routes 0 hold at
        the start, a `RouteEvent` brings others.
    """

    count: NDArray[np.int32]
    pair: NDArray[np.int32]
    routes: NDArray[np.int32]
    rule: int = 0
    gap: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class QueueTable:
    """Weighted queues and strict levels of the flows of a table (`network.allocation`).

    Attributes
    ----------
    queue, priority : int64[F]
    weights : float64[1 or rows, Q]
        Weights of the queues, for all rows or for each.
    """

    queue: NDArray[np.int64]
    priority: NDArray[np.int64]
    weights: NDArray[np.float64]


@dataclass(frozen=True)
class TransferTable:
    """Lowered transfers: the flows that each intent becomes on the fluid engine.

    Transfer ``i`` owns flows ``ptr[i]:ptr[i + 1]``; it ends ``latency[i]`` seconds after its last byte.

    Attributes
    ----------
    ptr : int64[T + 1]
    column : int32[F]
        Usage vector of each flow.
    size : float64[F]
        Bytes that one member of the flow carries.
    weight, rate_cap : float64[F]
        Max-min weight; largest rate in bytes/s.
    latency : float64[T]
        Seconds added once after the last byte.
    slow_share : float64[T]
        Share of its speed that a stream loses while the transfer runs on its SMs.
    names : sequence of str
        Names for messages, one per transfer (may be empty: transfers are then called by number).
    choices : Choices, optional
        Columns that are decided while the program runs.
    queues : QueueTable, optional
        Queues and levels; without them all flows share one.
    """

    ptr: NDArray[np.int64]
    column: NDArray[np.int32]
    size: NDArray[np.float64]
    weight: NDArray[np.float64]
    rate_cap: NDArray[np.float64]
    latency: NDArray[np.float64]
    slow_share: NDArray[np.float64]
    columns: Columns
    names: Sequence[str] = ()
    choices: Choices | None = None
    queues: QueueTable | None = None

    def __len__(self) -> int:
        return int(self.ptr.size - 1)

    @classmethod
    def units(cls, columns: Columns, column: ArrayLike | None = None) -> TransferTable:
        """Transfers of one byte on each of ``column`` (int[T]; every column unless said), without latency."""
        which = np.arange(len(columns)) if column is None else np.asarray(column)
        n = which.size
        linkless = np.diff(columns.ptr)[which] == 0
        cap = np.where(linkless, 1e18, np.inf)
        ptr = np.arange(n + 1, dtype=np.int64)
        return cls(
            ptr, which.astype(np.int32), np.ones(n), np.ones(n), cap, np.zeros(n), np.zeros(n), columns
        )

    def name(self, i: int) -> str:
        """A name for messages."""
        return self.names[i] if i < len(self.names) else f"transfer {i}"


@dataclass(frozen=True)
class Program:
    """Operations in time as flat arrays.

    Attributes
    ----------
    kind : uint8[N]
        ``Kind`` of each operation.
    stream : int32[N]
        The in-order queue it runs on, -1 for none.
    work : float64[N]
        Seconds at speed 1 (compute), seconds (wait), back-to-back repeats of the transfer (transfer; each
        repeat costs its bytes and its latency; may be fractional), 0 for a join.
    transfer : int32[N]
        Row of the transfer table, -1 for other kinds.
    dep_ptr, dep : int64[N + 1], int32[E]
        Operation ``i`` waits for ``dep[dep_ptr[i]:dep_ptr[i + 1]]`` (and for its predecessor on the stream).
    label : int32[N]
        Index into ``labels``.
    micro_batch, chunk : int32[N]
        For people and timelines; -1 where they mean nothing.
    slows, slow_count : int32[N]
        The streams that a transfer slows while it runs, by its ``slow_share``: the first (-1 for none), and
        how many from there on.
    notify : bool[N]
        Whether the end of the operation is told to the outside.
    streams : tuple of str
        Stream names; ``stream_count`` says how many equal real streams each stands for (folding).
    """

    kind: NDArray[np.uint8]
    stream: NDArray[np.int32]
    work: NDArray[np.float64]
    transfer: NDArray[np.int32]
    dep_ptr: NDArray[np.int64]
    dep: NDArray[np.int32]
    label: NDArray[np.int32]
    micro_batch: NDArray[np.int32]
    chunk: NDArray[np.int32]
    slows: NDArray[np.int32]
    slow_count: NDArray[np.int32]
    notify: NDArray[np.bool_]
    labels: tuple[str, ...]
    streams: tuple[str, ...]
    stream_count: NDArray[np.int64]

    def __len__(self) -> int:
        return int(self.kind.size)

    def __repr__(self) -> str:
        counts = f"{len(self.streams):,} streams, {self.dep.size:,} dependencies"
        return f"Program({len(self):,} operations, {counts})"

    def replicate(
        self,
        copies: int,
        *,
        shared: NDArray[np.bool_],
        shared_stream: NDArray[np.bool_],
        transfer_of: NDArray[np.int32],
        count: NDArray[np.int64],
        prefix: tuple[str, ...],
    ) -> tuple[Program, NDArray[np.int64]]:
        """The program of ``copies`` replicas that meet in the ``shared`` operations.

        Parameters
        ----------
        shared : bool[N]
            Operations that exist once: they wait for their dependencies in every copy, and slow what they
            slow in every copy.
        shared_stream : bool[S]
            Streams that exist once; they hold shared operations only, the others none.
        transfer_of : int32[copies, T]
            Transfer of each copy for each transfer number used here (shared operations use copy 0's).
        count : int64[copies]
            How many equal real replicas each copy stands for.
        prefix : tuple of str
            Put before the stream names of each copy.

        Returns
        -------
        program : Program
        index : int64[copies, N]
            Where operation ``i`` of copy ``k`` is in the new program.
        """
        n, k = len(self), copies
        times = np.where(shared, 1, k)
        offset = np.concatenate(([0], np.cumsum(times)))
        index = offset[:-1] + np.where(shared, 0, np.arange(k)[:, None])
        origin = np.repeat(np.arange(n), times)
        copy = np.arange(offset[-1]) - offset[origin]
        stream_times = np.where(shared_stream, 1, k)
        stream_offset = np.concatenate(([0], np.cumsum(stream_times)))[:-1]
        stream = self.stream[origin]
        own = np.where(shared_stream, 0, 1)
        new_stream = np.where(stream >= 0, stream_offset[stream] + own[stream] * copy, -1)
        slows = self.slows[origin]
        new_slows = np.where(slows >= 0, stream_offset[slows] + own[slows] * copy, -1)
        everywhere = np.where(shared[origin], stream_times[slows], 1)
        transfer = self.transfer[origin]
        moved = transfer_of[copy, np.maximum(transfer, 0)]
        # Edges: a shared operation waits for every copy of a dependency, any other for its own copy's.
        target = np.repeat(np.arange(n), np.diff(self.dep_ptr))
        edge_times = np.where(shared[target], np.where(shared[self.dep], 1, k), k)
        edge = np.repeat(np.arange(self.dep.size), edge_times)
        at = np.arange(edge.size) - np.repeat(np.cumsum(edge_times) - edge_times, edge_times)
        edge_target = index[np.where(shared[target[edge]], 0, at), target[edge]]
        edge_source = index[np.where(shared[self.dep[edge]], 0, at), self.dep[edge]]
        order = np.argsort(edge_target, kind="stable")
        dep_ptr = np.searchsorted(edge_target[order], np.arange(offset[-1] + 1))
        program = Program(
            kind=self.kind[origin],
            stream=new_stream.astype(np.int32),
            work=self.work[origin],
            transfer=np.where(transfer >= 0, moved, -1).astype(np.int32),
            dep_ptr=dep_ptr.astype(np.int64),
            dep=edge_source[order].astype(np.int32),
            label=self.label[origin],
            micro_batch=self.micro_batch[origin],
            chunk=self.chunk[origin],
            slows=new_slows.astype(np.int32),
            slow_count=np.where(slows >= 0, everywhere * self.slow_count[origin], 0).astype(np.int32),
            notify=self.notify[origin],
            labels=self.labels,
            streams=tuple(
                name if one else p + name
                for name, one in zip(self.streams, shared_stream, strict=True)
                for p in (prefix[:1] if one else prefix)
            ),
            stream_count=np.concatenate(
                [[c] if one else c * count for c, one in zip(self.stream_count, shared_stream, strict=True)]
                or [np.zeros(0)]
            ).astype(np.int64),
        )
        return program, index

    @staticmethod
    def concatenate(programs: Sequence[Program]) -> tuple[Program, NDArray[np.int64]]:
        """Programs side by side, and the number of each one's first operation."""
        offset = np.cumsum([0] + [len(p) for p in programs]).astype(np.int64)
        streams = np.cumsum([0] + [len(p.streams) for p in programs])
        edges = np.cumsum([0] + [p.dep.size for p in programs])
        names = {name: i for i, name in enumerate(dict.fromkeys(n for p in programs for n in p.labels))}

        def shift(name: str, by: NDArray[np.int64]) -> NDArray[np.int32]:
            parts = [
                np.where(getattr(p, name) >= 0, getattr(p, name) + b, -1)
                for p, b in zip(programs, by, strict=False)
            ]
            return np.concatenate(parts).astype(np.int32)

        def plain(name: str) -> NDArray[Any]:
            return np.concatenate([getattr(p, name) for p in programs])

        whole = Program(
            kind=plain("kind"),
            stream=shift("stream", streams),
            work=plain("work"),
            transfer=plain("transfer"),
            dep_ptr=np.concatenate(
                [p.dep_ptr[:-1] + e for p, e in zip(programs, edges, strict=False)] + [edges[-1:]]
            ),
            dep=shift("dep", offset),
            label=np.concatenate(
                [np.array([names[n] for n in p.labels], np.int32)[p.label] for p in programs]
            ),
            micro_batch=plain("micro_batch"),
            chunk=plain("chunk"),
            slows=shift("slows", streams),
            slow_count=plain("slow_count"),
            notify=plain("notify"),
            labels=tuple(names),
            streams=tuple(s for p in programs for s in p.streams),
            stream_count=plain("stream_count"),
        )
        return whole, offset[:-1]

    def with_end(self, label: str = "end") -> Program:
        """The same program with one more operation, the last: a join that tells when all others are done."""
        n = len(self)
        leads_on = np.zeros(n, bool)
        leads_on[self.dep] = True
        queued = np.argsort(self.stream, kind="stable")
        followed = (self.stream[queued[1:]] == self.stream[queued[:-1]]) & (self.stream[queued[1:]] >= 0)
        leads_on[queued[:-1][followed]] = True
        last = np.flatnonzero(~leads_on).astype(np.int32)
        names = self.labels if label in self.labels else (*self.labels, label)

        def plus(name: str, value: float) -> NDArray[Any]:
            values = getattr(self, name)
            return np.append(values, np.array([value]).astype(values.dtype))

        return replace(
            self,
            kind=plus("kind", Kind.JOIN),
            work=plus("work", 0.0),
            dep_ptr=plus("dep_ptr", self.dep.size + last.size),
            dep=np.concatenate((self.dep, last)),
            label=plus("label", names.index(label)),
            slow_count=plus("slow_count", 0),
            notify=plus("notify", True),
            labels=names,
            stream=plus("stream", -1),
            transfer=plus("transfer", -1),
            micro_batch=plus("micro_batch", -1),
            chunk=plus("chunk", -1),
            slows=plus("slows", -1),
        )

    def describe(self, i: int) -> str:
        """One operation in words, for messages."""
        where = self.streams[self.stream[i]] if self.stream[i] >= 0 else "no stream"
        return f"operation {i} ({self.labels[self.label[i]]} on {where})"


@dataclass
class ProgramBuilder:
    """Writes a program operation by operation with the four words ``compute, send, wait, join``.

    Every word returns the number of the operation, to be named in later ``after=`` lists.

    Examples
    --------
    >>> b = ProgramBuilder()
    >>> gpu = b.stream("gpu 0")
    >>> a = b.compute(gpu, 1.0, label="forward")
    >>> c = b.compute(gpu, 2.0, label="backward", after=[a])
    >>> len(b.build())
    2
    """

    _kind: list[int] = field(default_factory=list)
    _stream: list[int] = field(default_factory=list)
    _work: list[float] = field(default_factory=list)
    _transfer: list[int] = field(default_factory=list)
    _dep_count: list[int] = field(default_factory=list)
    _dep: list[int] = field(default_factory=list)
    _label: list[int] = field(default_factory=list)
    _micro_batch: list[int] = field(default_factory=list)
    _chunk: list[int] = field(default_factory=list)
    _slows: list[int] = field(default_factory=list)
    _notify: list[bool] = field(default_factory=list)
    _labels: dict[str, int] = field(default_factory=dict)
    _streams: list[str] = field(default_factory=list)
    _stream_count: list[int] = field(default_factory=list)

    def stream(self, name: str, *, count: int = 1) -> int:
        """A new in-order stream that stands for ``count`` equal real ones."""
        self._streams.append(name)
        self._stream_count.append(count)
        return len(self._streams) - 1

    def compute(
        self,
        stream: int,
        seconds: float,
        *,
        label: str,
        after: Iterable[int] = (),
        micro_batch: int = -1,
        chunk: int = -1,
        notify: bool = False,
    ) -> int:
        """Work on a stream: ``seconds`` at speed 1."""
        return self._add(Kind.COMPUTE, stream, seconds, -1, label, after, micro_batch, chunk, notify)

    def send(
        self,
        transfer: int,
        *,
        label: str,
        stream: int = -1,
        after: Iterable[int] = (),
        repeats: float = 1.0,
        micro_batch: int = -1,
        chunk: int = -1,
        slows: int = -1,
        notify: bool = False,
    ) -> int:
        """A transfer of the table, ``repeats`` times; on a stream it blocks what is queued behind it."""
        if not -1 <= slows < len(self._streams):
            raise ConfigError(f"{label!r} slows stream {slows}; there are {len(self._streams)}")
        i = self._add(Kind.TRANSFER, stream, repeats, transfer, label, after, micro_batch, chunk, notify)
        self._slows[i] = slows
        return i

    def wait(self, seconds: float, *, label: str, after: Iterable[int] = (), stream: int = -1) -> int:
        """A delay that no speed changes."""
        return self._add(Kind.WAIT, stream, seconds, -1, label, after, -1, -1, False)

    def join(self, after: Iterable[int], *, label: str = "join", notify: bool = False) -> int:
        """The moment when all of ``after`` are done."""
        return self._add(Kind.JOIN, -1, 0.0, -1, label, after, -1, -1, notify)

    def _add(
        self,
        kind: Kind,
        stream: int,
        work: float,
        transfer: int,
        label: str,
        after: Iterable[int],
        micro_batch: int,
        chunk: int,
        notify: bool,
    ) -> int:
        i = len(self._kind)
        if not 0 <= work < np.inf:
            raise ConfigError(f"{label!r} has {work!r} seconds (or repeats); it must be a number >= 0")
        if not -1 <= stream < len(self._streams):
            raise ConfigError(f"{label!r} names stream {stream}; there are {len(self._streams)}")
        needs = list(after)
        for d in needs:
            if not 0 <= d < i:
                raise ConfigError(
                    f"{label!r} (operation {i}) depends on operation {d}, which is not written yet"
                )
        self._dep.extend(needs)
        self._kind.append(kind)
        self._stream.append(stream)
        self._work.append(work)
        self._transfer.append(transfer)
        self._dep_count.append(len(needs))
        self._label.append(self._labels.setdefault(label, len(self._labels)))
        self._micro_batch.append(micro_batch)
        self._chunk.append(chunk)
        self._slows.append(-1)
        self._notify.append(notify)
        return i

    def build(self) -> Program:
        """The program as arrays."""
        return Program(
            kind=np.array(self._kind, np.uint8),
            stream=np.array(self._stream, np.int32),
            work=np.array(self._work, np.float64),
            transfer=np.array(self._transfer, np.int32),
            dep_ptr=np.concatenate(([0], np.cumsum(self._dep_count))).astype(np.int64),
            dep=np.array(self._dep, np.int32),
            label=np.array(self._label, np.int32),
            micro_batch=np.array(self._micro_batch, np.int32),
            chunk=np.array(self._chunk, np.int32),
            slows=np.array(self._slows, np.int32),
            slow_count=(np.array(self._slows, np.int32) >= 0).astype(np.int32),
            notify=np.array(self._notify, np.bool_),
            labels=tuple(self._labels),
            streams=tuple(self._streams),
            stream_count=np.array(self._stream_count, np.int64),
        )
