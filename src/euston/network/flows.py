"""Flows: a list of messages between endpoints, with start times and dependencies, for every engine.

`Flows` is the flat form of transfers whose members are followed one by one; the fluid engine and the packet
engine take the same object and both answer with a `FlowResult`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from euston.errors import ConfigError
from euston.fabrics import Fabric

__all__ = ["MAX_FLOW_BYTES", "FlowResult", "Flows"]

MAX_FLOW_BYTES = 2**40
"""Largest flow: a terabyte is a mistake in a unit, not a message."""


@dataclass(frozen=True, eq=False)
class Flows:
    """F messages as flat arrays; build them with `Flows.of`.

    Attributes
    ----------
    src, dst : int32[F]
        Endpoints, never equal.
    bytes : int64[F]
        Payload, 1 to 2^40.
    start : float64[F]
        Earliest start in seconds.
    after_ptr, after : int64[F + 1], int32[...]
        Flow ``f`` waits for the ends of flows ``after[after_ptr[f]:after_ptr[f + 1]]``.
    delay : float64[F]
        Seconds between the last of those ends and this start (computation).
    weight : float64[F]
        Max-min weight.
    queue : int32[F]
        Switch queue of weighted fair queueing.
    priority : int32[F]
        Strict priority level; 0 goes first.
    rate_cap : float64[F]
        Bytes/s on the wire.
    group : int32[F]
        Index into ``tags`` (a collective, a job), -1 for none.
    tags : tuple of str
    """

    src: NDArray[np.int32]
    dst: NDArray[np.int32]
    bytes: NDArray[np.int64]
    start: NDArray[np.float64]
    after_ptr: NDArray[np.int64]
    after: NDArray[np.int32]
    delay: NDArray[np.float64]
    weight: NDArray[np.float64]
    queue: NDArray[np.int32]
    priority: NDArray[np.int32]
    rate_cap: NDArray[np.float64]
    group: NDArray[np.int32]
    tags: tuple[str, ...] = ()

    def __len__(self) -> int:
        return int(self.src.size)

    def __repr__(self) -> str:
        return f"Flows({len(self):,} flows, {int(self.bytes.sum()):,} bytes)"

    @classmethod
    def of(
        cls,
        src: ArrayLike,
        dst: ArrayLike,
        bytes_: ArrayLike,
        *,
        start: ArrayLike = 0.0,
        after: Sequence[Sequence[int]] | None = None,
        delay: ArrayLike = 0.0,
        weight: ArrayLike = 1.0,
        queue: ArrayLike = 0,
        priority: ArrayLike = 0,
        rate_cap: ArrayLike = np.inf,
        group: ArrayLike = -1,
        tags: Sequence[str] = (),
        where: str = "flows",
    ) -> Flows:
        """Checked flows; scalars stand for all of them.

        Parameters
        ----------
        after : sequence of F sequences of int, optional
            Flows that must end first.
        where : str
            What messages call the place, e.g. a file.

        Raises
        ------
        ConfigError
            Naming the first flow that is wrong: equal ends, no or too many bytes, times or weights that are
            not, dependencies on flows that do not exist or on each other.
        """
        s = np.atleast_1d(np.asarray(src))
        n = s.size
        values: dict[str, NDArray[Any]] = {}
        for name, given, dtype in (
            ("src", src, np.int64), ("dst", dst, np.int64), ("bytes", bytes_, np.float64),
            ("start", start, np.float64), ("delay", delay, np.float64), ("weight", weight, np.float64),
            ("queue", queue, np.int64), ("priority", priority, np.int64),
            ("rate_cap", rate_cap, np.float64), ("group", group, np.int64),
        ):  # fmt: skip
            array = np.atleast_1d(np.asarray(given))
            if array.size not in (1, n) or array.ndim != 1:
                raise ConfigError(f"`{where}`: {name} has shape {array.shape}; there are {n} flows")
            try:
                values[name] = np.array(np.broadcast_to(array, (n,)), dtype)
            except (ValueError, TypeError, OverflowError):
                raise ConfigError(f"`{where}`: {name} must be numbers") from None
        v = values

        def refuse(bad: NDArray[np.bool_], name: str, want: str) -> None:
            if bad.any():
                i = int(np.flatnonzero(bad)[0])
                raise ConfigError(f"`{where}`: flow {i}: {name} is {v[name][i]:.15g}; {want}")

        top = np.iinfo(np.int32).max
        for name in ("src", "dst"):
            refuse((v[name] < 0) | (v[name] > top), name, "it must be the number of an endpoint")
        refuse(v["src"] == v["dst"], "dst", "a flow to its own source moves nothing; leave it out")
        size = v["bytes"]
        refuse(
            ~((size >= 1) & (size <= MAX_FLOW_BYTES)), "bytes", "it must be between 1 and 2^40 (1.0995e12)"
        )
        refuse(size != np.floor(size), "bytes", "it must be a whole number")
        for name in ("start", "delay"):
            refuse(~((v[name] >= 0) & (v[name] < np.inf)), name, "it must be seconds >= 0")
        refuse(~((v["weight"] > 0) & (v["weight"] < np.inf)), "weight", "it must be positive and finite")
        refuse(~(v["rate_cap"] > 0), "rate_cap", "it must be positive bytes/s")
        for name in ("queue", "priority"):
            refuse((v[name] < 0) | (v[name] > 255), name, "it must be 0 to 255")
        refuse((v["group"] < -1) | (v["group"] >= len(tags)), "group", f"there are {len(tags)} tags")
        lists = after if after is not None else [()] * n
        if len(lists) != n:
            raise ConfigError(f"`{where}`: after has {len(lists)} entries; there are {n} flows")
        counts = np.array([len(a) for a in lists], np.int64)
        flat = np.array([i for a in lists for i in a], np.int64)
        owner = np.repeat(np.arange(n), counts)
        wrong = (flat < 0) | (flat >= n) | (flat == owner)
        if wrong.any():
            at = int(np.flatnonzero(wrong)[0])
            raise ConfigError(
                f"`{where}`: flow {owner[at]} comes after flow {flat[at]}; it must name another of the "
                f"{n} flows, from 0"
            )
        made = cls(
            src=v["src"].astype(np.int32),
            dst=v["dst"].astype(np.int32),
            bytes=size.astype(np.int64),
            start=v["start"],
            after_ptr=np.concatenate(([0], np.cumsum(counts))).astype(np.int64),
            after=flat.astype(np.int32),
            delay=v["delay"],
            weight=v["weight"],
            queue=v["queue"].astype(np.int32),
            priority=v["priority"].astype(np.int32),
            rate_cap=v["rate_cap"],
            group=v["group"].astype(np.int32),
            tags=tuple(tags),
        )
        made._acyclic(where)
        return made

    def _acyclic(self, where: str) -> None:
        """Peel flows off whose predecessors are gone; what stays waits for itself."""
        open_ = np.diff(self.after_ptr)
        if not open_.any():
            return
        owner = np.repeat(np.arange(len(self), dtype=np.int64), open_)
        order = np.argsort(self.after, kind="stable")
        waits, starts = owner[order], np.searchsorted(self.after[order], np.arange(len(self) + 1))
        ready = list(np.flatnonzero(open_ == 0))
        done = 0
        while ready:
            f = ready.pop()
            done += 1
            for g in waits[starts[f] : starts[f + 1]]:
                open_[g] -= 1
                if open_[g] == 0:
                    ready.append(g)
        if done < len(self):
            stuck = int(np.flatnonzero(open_ > 0)[0])
            raise ConfigError(f"`{where}`: flow {stuck} waits for itself through `after`; break the circle")

    def check(self, fabric: Fabric, where: str = "flows") -> None:
        """Refuse endpoints that ``fabric`` does not have.

        Raises
        ------
        ConfigError
            Naming the first such flow.
        """
        worst = np.maximum(self.src, self.dst)
        outside = worst >= fabric.endpoints
        if outside.any():
            i = int(np.flatnonzero(outside)[0])
            raise ConfigError(
                f"`{where}`: flow {i} names endpoint {worst[i]}; {fabric.name!r} has 0 to "
                f"{fabric.endpoints - 1}"
            )

    def predecessors(self, flow: int) -> NDArray[np.int32]:
        """Flows that must end before ``flow`` starts."""
        return self.after[self.after_ptr[flow] : self.after_ptr[flow + 1]]

    def table(self) -> pl.DataFrame:
        """One line per flow: ``flow, src, dst, bytes, start, after, delay, weight, queue, priority, ...``."""
        after = [
            " ".join(map(str, self.after[a:b].tolist()))
            for a, b in zip(self.after_ptr[:-1], self.after_ptr[1:], strict=True)
        ]
        tags = [self.tags[g] if g >= 0 else "" for g in self.group.tolist()]
        return pl.DataFrame(
            {
                "flow": np.arange(len(self)),
                "src": self.src,
                "dst": self.dst,
                "bytes": self.bytes,
                "start": self.start,
                "after": after,
                "delay": self.delay,
                "weight": self.weight,
                "queue": self.queue,
                "priority": self.priority,
                "rate_cap": self.rate_cap,
                "tag": tags,
            }
        )


@dataclass(frozen=True, eq=False)
class FlowResult:
    """What became of flows, from either engine.

    Attributes
    ----------
    start, end : float64[F]
        Seconds at which a flow could start and at which it ended; nan for what never did. ``meta["ends"]``
        says what an end is.
    link_bytes : float64[L]
        Bytes on the wire of every link.
    stats : dict of str to float
        Counters: events, retransmitted, trims, drops, marks, pauses, ...
    tables : dict of str to DataFrame
    meta : dict
        fidelity, tol, seed, fold_ratio, wall_s, settings in force.
    arrived : float64[F], optional
        Payload that has arrived, where an engine says it: less than all of flows without an end, and of flows
        that ended with bounded loss.
    """

    flows: Flows
    start: NDArray[np.float64]
    end: NDArray[np.float64]
    link_bytes: NDArray[np.float64]
    stats: dict[str, float] = field(default_factory=dict)
    tables: dict[str, pl.DataFrame] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)
    arrived: NDArray[np.float64] | None = None

    @property
    def delivered(self) -> NDArray[np.float64]:
        """Payload that has arrived, float64[F]; all of finished flows and nothing of others unless known."""
        if self.arrived is not None:
            return self.arrived
        return np.where(self.finished, self.flows.bytes, 0).astype(np.float64)

    @property
    def finished(self) -> NDArray[np.bool_]:
        """Which flows ended, bool[F]."""
        return np.isfinite(self.end)

    @property
    def completion(self) -> NDArray[np.float64]:
        """Seconds from a flow's start to its end, float64[F]; nan for unfinished ones."""
        return self.end - self.start

    @property
    def makespan(self) -> float:
        """Seconds until the last finished flow ended; 0 when none did."""
        return float(np.max(self.end, where=self.finished, initial=0.0))

    def __repr__(self) -> str:
        done = int(self.finished.sum())
        return f"FlowResult({done:,} of {len(self.flows):,} flows in {self.makespan:.6g} s)"
