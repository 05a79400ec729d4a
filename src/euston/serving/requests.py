"""Requests: what is asked of a serving cluster, as frozen columns.

A request arrives at ``arrival_s``, or ``think_s`` seconds after the last of the requests named in ``after``
has ended, whichever is later: chains make users and conversations, several names make the join of an agent's
fan-out. ``concurrency`` closes the loop for all of them: at most so many are in the system, the others wait
outside in order of arrival (how most published benchmark tables are made).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from euston.errors import ConfigError

__all__ = ["Requests"]

_DTYPES: dict[str, Any] = {
    "arrival_s": np.float64, "in_tok": np.int32, "out_tok": np.int32, "session": np.int64, "turn": np.int32,
    "klass": np.uint8, "n_images": np.int16, "priority": np.float64, "deadline_s": np.float64,
    "predicted_out": np.float64, "named_tok": np.int32, "think_s": np.float64,
}  # fmt: skip

# Keys of blocks are kept as floats in logs of events, exact below this.
_LARGEST_ID = 2**40


@dataclass(frozen=True)
class Requests:
    """n requests in order of arrival (ties keep their order).

    Parameters
    ----------
    arrival_s : float64[n]
        Seconds at which the request is sent, at the earliest.
    in_tok, out_tok : int32[n]
        Tokens of the prompt (the images' included) and of the answer, both >= 1.
    session : int64[n]
        Conversation or agent session; the request's own number where none is given.
    turn : int32[n]
    klass : uint8[n]
        Class (the brief's ``class``): client of the fair scheduler, row of acceptance rates, SLO class.
    n_images : int16[n]
    image_ids : int64[sum of n_images] or empty
        Names of the requests' images, one request after the other, between 0 and 2^40; an encoder that holds
        one need not encode it. A request names an image once; empty: all differ.
    blocks_ptr : int64[n + 1]
    block_ids : int64[m]
        Names of token blocks, CSR: ids ``block_ids[blocks_ptr[i]:blocks_ptr[i + 1]]`` of request i, one per
        ``block_size`` tokens from its first token on. Equal ids mean equal tokens *up to and including* that
        block (hashes of chains), between 0 and 2^40.
    block_size : int
        Tokens per block of the names; 0 where nothing is named.
    named_tok : int32[n]
        Tokens that the ids describe: only blocks that lie wholly inside match or are kept. ``in_tok`` by
        default (a partial last block then never matches); prompt + answer where a later turn repeats both.
    priority : float64[n]
        Smaller goes first, for the priority scheduler.
    deadline_s : float64[n]
        Seconds after arrival by which the first token is due, for EDF and SLO-aware routing; inf: none.
    predicted_out : float64[n]
        What SJF believes the answer's length to be; ``out_tok`` by default.
    after_ptr : int64[n + 1]
    after : int32[k]
        Requests that must have ended before: ``after[after_ptr[i]:after_ptr[i + 1]]`` of request i.
    think_s : float64[n]
        Seconds between the end of the last of them and the request (a user thinks, a tool runs).
    concurrency : int
        Most requests in the system; 0: no limit. A request's arrival is then when it was let in.

    Raises
    ------
    ConfigError
        For columns of different lengths, tokens < 1, ids that are missing or out of range, unsorted arrivals,
        a request that waits for itself.
    """

    arrival_s: NDArray[np.float64]
    in_tok: NDArray[np.int32]
    out_tok: NDArray[np.int32]
    session: NDArray[np.int64]
    turn: NDArray[np.int32]
    klass: NDArray[np.uint8]
    n_images: NDArray[np.int16]
    blocks_ptr: NDArray[np.int64]
    block_ids: NDArray[np.int64]
    block_size: int
    named_tok: NDArray[np.int32]
    priority: NDArray[np.float64]
    deadline_s: NDArray[np.float64]
    predicted_out: NDArray[np.float64]
    after_ptr: NDArray[np.int64]
    after: NDArray[np.int32]
    think_s: NDArray[np.float64]
    concurrency: int = 0
    image_ids: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    meta: Mapping[str, Any] = field(default_factory=dict)
    """Where the requests come from: words for reports, nothing that decides."""

    @classmethod
    def of(
        cls,
        arrival_s: ArrayLike,
        in_tok: ArrayLike,
        out_tok: ArrayLike,
        *,
        block_ids: ArrayLike = (),
        blocks_ptr: ArrayLike | None = None,
        block_size: int = 0,
        after: ArrayLike = (),
        after_ptr: ArrayLike | None = None,
        concurrency: int = 0,
        image_ids: ArrayLike = (),
        meta: Mapping[str, Any] | None = None,
        **columns: ArrayLike,
    ) -> Requests:
        """Requests from the columns at hand; the others take their defaults. See the class for each."""
        arrival = np.atleast_1d(np.asarray(arrival_s, np.float64))
        n = arrival.size
        unknown = sorted(set(columns) - set(_DTYPES))
        if unknown:
            raise ConfigError(f"requests have no column {unknown[0]!r}; there are {', '.join(_DTYPES)}")
        defaults: dict[str, Any] = {
            "session": np.arange(n), "turn": 0, "klass": 0, "n_images": 0, "priority": 0.0,
            "deadline_s": np.inf, "predicted_out": out_tok, "named_tok": in_tok, "think_s": 0.0,
        }  # fmt: skip
        given = {**defaults, **columns, "in_tok": in_tok, "out_tok": out_tok}
        made: dict[str, Any] = {}
        for name, value in given.items():
            try:
                wide = np.broadcast_to(np.asarray(value), (n,))
            except ValueError as error:
                raise ConfigError(f"requests: column {name} must be {n} numbers") from error
            made[name] = np.ascontiguousarray(wide, _DTYPES[name])
        empty = np.zeros(n + 1, np.int64)
        return cls(
            arrival_s=arrival,
            block_ids=np.ascontiguousarray(block_ids, np.int64),
            blocks_ptr=empty if blocks_ptr is None else np.ascontiguousarray(blocks_ptr, np.int64),
            block_size=block_size,
            after=np.ascontiguousarray(after, np.int32),
            after_ptr=empty if after_ptr is None else np.ascontiguousarray(after_ptr, np.int64),
            concurrency=concurrency,
            image_ids=np.ascontiguousarray(image_ids, np.int64),
            meta=dict(meta or {}),
            **made,
        )

    def __post_init__(self) -> None:
        n = self.arrival_s.size
        for name, dtype in _DTYPES.items():
            column = np.ascontiguousarray(getattr(self, name), dtype)
            if column.shape != (n,):
                raise ConfigError(f"requests: column {name} has {column.size} values; there are {n} requests")
            object.__setattr__(self, name, column)
        for name in ("blocks", "after"):
            ptr = getattr(self, f"{name}_ptr")
            size = (self.block_ids if name == "blocks" else self.after).size
            if ptr.shape != (n + 1,) or ptr[0] != 0 or ptr[-1] != size or (np.diff(ptr) < 0).any():
                raise ConfigError(f"requests: {name}_ptr must be {n + 1} rising numbers from 0 to {size}")
        for name in ("in_tok", "out_tok"):
            low = np.flatnonzero(getattr(self, name) < 1)
            if low.size:
                raise ConfigError(
                    f"requests[{low[0]}]: {name} is {getattr(self, name)[low[0]]}; it must be at least 1"
                )
        if not (np.isfinite(self.arrival_s).all() and (np.diff(self.arrival_s) >= 0).all()):
            raise ConfigError("requests: arrival_s must be finite and in rising order; sort them (stable)")
        if n and self.arrival_s[0] < 0:
            raise ConfigError(f"requests[0]: arrival_s is {self.arrival_s[0]}; it must be at least 0")
        if not ((self.think_s >= 0) & np.isfinite(self.think_s)).all():
            raise ConfigError("requests: think_s must be numbers >= 0")
        self._check_names(n)
        self._check_images(n)
        self._check_after(n)

    def _check_names(self, n: int) -> None:
        if self.block_ids.size == 0:
            return
        if self.block_size < 1:
            raise ConfigError(
                "requests: block_ids are given; block_size must be the tokens that one id names"
            )
        if self.block_ids.min() < 0 or self.block_ids.max() >= _LARGEST_ID:
            raise ConfigError("requests: block_ids must be between 0 and 2^40; number the distinct hashes")
        named = np.diff(self.blocks_ptr) * self.block_size
        short = np.flatnonzero((named > 0) & (named < self.named_tok // self.block_size * self.block_size))
        if short.size:
            i = int(short[0])
            raise ConfigError(
                f"requests[{i}]: {named[i] // self.block_size} block_ids of {self.block_size} tokens do not "
                f"describe named_tok = {self.named_tok[i]}"
            )

    def _check_images(self, n: int) -> None:
        names = self.image_ids
        if names.size == 0:
            return
        if names.shape != (int(self.n_images.sum()),):
            raise ConfigError(
                f"requests: image_ids names {names.size} images; n_images has {int(self.n_images.sum())}"
            )
        if names.min() < 0 or names.max() >= _LARGEST_ID:
            raise ConfigError("requests: image_ids must be between 0 and 2^40; number the distinct images")
        owner = np.repeat(np.arange(n), self.n_images)
        order = np.lexsort((names, owner))
        same = np.flatnonzero((np.diff(names[order]) == 0) & (np.diff(owner[order]) == 0))
        if same.size:
            k = int(order[same[0]])
            raise ConfigError(f"requests[{owner[k]}]: image {names[k]} stands twice; name and count it once")

    def _check_after(self, n: int) -> None:
        if self.concurrency < 0:
            raise ConfigError(f"requests: concurrency is {self.concurrency}; it must be 0 (none) or more")
        if self.after.size == 0:
            return
        owner = np.repeat(np.arange(n), np.diff(self.after_ptr))
        if self.after.min() < 0 or (bad := np.flatnonzero(self.after >= owner)).size:
            i = int(owner[bad[0]]) if self.after.min() >= 0 else int(owner[np.argmin(self.after)])
            raise ConfigError(f"requests[{i}]: after may name only requests before it, 0 to {i - 1}")

    def __len__(self) -> int:
        return int(self.arrival_s.size)

    def head(self, n: int) -> Requests:
        """The first ``n`` requests; none of them waits for a later one."""
        n = min(n, len(self))
        cut = {name: getattr(self, name)[:n] for name in _DTYPES}
        return replace(
            self,
            **cut,
            blocks_ptr=self.blocks_ptr[: n + 1],
            block_ids=self.block_ids[: self.blocks_ptr[n]],
            after_ptr=self.after_ptr[: n + 1],
            after=self.after[: self.after_ptr[n]],
            image_ids=self.image_ids[: int(cut["n_images"].sum())],
        )

    def scaled(self, *, rate: float = 1.0, tokens: float = 1.0) -> Requests:
        """The same, ``rate`` times as fast, with ``tokens`` times as many tokens (names then drop)."""
        if not (0 < rate < np.inf and 0 < tokens < np.inf):
            raise ConfigError(f"requests: rate and tokens must be positive; got {rate} and {tokens}")
        changed = replace(self, arrival_s=self.arrival_s / rate, think_s=self.think_s / rate)
        if tokens == 1.0:
            return changed
        size = {
            name: np.maximum(np.rint(getattr(self, name) * tokens), 1).astype(np.int32)
            for name in ("in_tok", "out_tok")
        }
        return replace(
            changed,
            **size,
            named_tok=size["in_tok"],
            predicted_out=self.predicted_out * tokens,
            blocks_ptr=np.zeros(len(self) + 1, np.int64),
            block_ids=np.zeros(0, np.int64),
            block_size=0,
        )

    def __repr__(self) -> str:
        names = [f.name for f in fields(self) if f.name == "concurrency" and self.concurrency]
        closed = f", at most {self.concurrency} at a time" if names else ""
        return (
            f"Requests({len(self):,}; {int(self.in_tok.sum()):,} tokens in, "
            f"{int(self.out_tok.sum()):,} out{closed})"
        )
