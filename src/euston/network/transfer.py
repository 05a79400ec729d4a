"""Transfers: what moves, said once for every fidelity.

The packet engine and the testbed take the members as they are; the fluid engine lowers them to columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from euston.errors import ConfigError

__all__ = ["Tag", "Transfer", "Transfers"]


@dataclass(frozen=True)
class Tag:
    """Whose transfer it is and what for; ``role`` tells apart transfers that must not fold into one."""

    job: str = ""
    kind: str = ""
    role: int = 0


@dataclass(frozen=True)
class Transfer:
    """An intent to move bytes between endpoints.

    A member inside a scale-up domain uses the scale-up network, any other the scale-out network under the
    balancing policy.

    Parameters
    ----------
    src, dst : int32[M]
        Endpoints of the members.
    bytes : float64[M] or float
        Bytes of each member.
    coupled : bool
        Members advance together (a ring, a balanced all-to-all); otherwise the transfer ends with its last.
    weight : float
        Max-min weight.
    queue : int
        Switch queue, for allocation policies.
    rate_cap : float
        Bytes/s that one member (the largest) may reach.
    latency : float
        Seconds added once after the last byte.
    """

    src: NDArray[np.int32]
    dst: NDArray[np.int32]
    bytes: NDArray[np.float64]
    coupled: bool = True
    weight: float = 1.0
    queue: int = 0
    rate_cap: float = np.inf
    latency: float = 0.0
    tag: Tag = field(default_factory=Tag)

    def __post_init__(self) -> None:
        src = np.atleast_1d(np.asarray(self.src, np.int32))
        dst = np.atleast_1d(np.asarray(self.dst, np.int32))
        size = np.broadcast_to(np.asarray(self.bytes, np.float64), src.shape)
        if src.shape != dst.shape or src.ndim != 1:
            raise ConfigError(f"transfer {self.tag.kind!r}: {src.size} sources but {dst.size} destinations")
        if not (np.isfinite(size).all() and (size >= 0).all() and (size <= 2.0**50).all()):
            raise ConfigError(f"transfer {self.tag.kind!r}: member bytes must be numbers between 0 and 2^50")
        if not 0 < self.weight < np.inf or not self.rate_cap > 0 or not 0 <= self.latency < np.inf:
            raise ConfigError(
                f"transfer {self.tag.kind!r}: weight and rate_cap must be positive, latency finite; "
                f"got {self.weight}, {self.rate_cap}, {self.latency}"
            )
        object.__setattr__(self, "src", src)
        object.__setattr__(self, "dst", dst)
        object.__setattr__(self, "bytes", np.ascontiguousarray(size))


@dataclass(frozen=True)
class Transfers:
    """Many transfers as flat arrays: transfer ``i`` owns members ``ptr[i]:ptr[i + 1]``.

    Per-transfer arrays have length T, member arrays length M; the meanings are those of ``Transfer``.
    """

    ptr: NDArray[np.int64]
    src: NDArray[np.int32]
    dst: NDArray[np.int32]
    bytes: NDArray[np.float64]
    coupled: NDArray[np.bool_]
    weight: NDArray[np.float64]
    rate_cap: NDArray[np.float64]
    latency: NDArray[np.float64]
    owner: NDArray[np.int32]
    role: NDArray[np.int64]
    kind: NDArray[np.int32]
    kinds: tuple[str, ...]

    def __len__(self) -> int:
        return int(self.ptr.size - 1)

    @classmethod
    def of(cls, transfers: Sequence[Transfer], *, owner: Sequence[int] | None = None) -> Transfers:
        """The flat form of a list."""
        kinds = {name: i for i, name in enumerate(dict.fromkeys(t.tag.kind for t in transfers))}
        sizes = [t.src.size for t in transfers]
        empty: list[NDArray[np.float64]] = [np.zeros(0)]
        return cls(
            ptr=np.concatenate(([0], np.cumsum(sizes))).astype(np.int64),
            src=np.concatenate([t.src for t in transfers] or empty).astype(np.int32),
            dst=np.concatenate([t.dst for t in transfers] or empty).astype(np.int32),
            bytes=np.concatenate([t.bytes for t in transfers] or empty),
            coupled=np.array([t.coupled for t in transfers], bool),
            weight=np.array([t.weight for t in transfers], np.float64),
            rate_cap=np.array([t.rate_cap for t in transfers], np.float64),
            latency=np.array([t.latency for t in transfers], np.float64),
            owner=np.full(len(transfers), -1, np.int32) if owner is None else np.asarray(owner, np.int32),
            role=np.array([t.tag.role for t in transfers], np.int64),
            kind=np.array([kinds[t.tag.kind] for t in transfers], np.int32),
            kinds=tuple(kinds),
        )

    @classmethod
    def uniform(
        cls,
        src: ArrayLike,
        dst: ArrayLike,
        bytes_: float | ArrayLike,
        *,
        kind: str,
        owner: ArrayLike | int = -1,
        role: ArrayLike | int = 0,
        coupled: bool = True,
        weight: float = 1.0,
        rate_cap: float = np.inf,
        latency: float = 0.0,
    ) -> Transfers:
        """T transfers of m members each: ``src``, ``dst`` are int32[T, m], ``bytes_`` float or float64[T]."""
        s, d = np.asarray(src, np.int32), np.asarray(dst, np.int32)
        if s.ndim != 2 or s.shape != d.shape:
            raise ConfigError(
                f"transfers {kind!r}: src and dst must be equal [T, m] arrays, got {s.shape}, {d.shape}"
            )
        t, m = s.shape
        size = np.repeat(np.broadcast_to(np.asarray(bytes_, np.float64), (t,)), m)
        if not (np.isfinite(size).all() and (size >= 0).all()):
            raise ConfigError(f"transfers {kind!r}: bytes must be numbers >= 0")
        return cls(
            ptr=np.arange(t + 1, dtype=np.int64) * m,
            src=s.ravel(),
            dst=d.ravel(),
            bytes=size,
            coupled=np.full(t, coupled),
            weight=np.full(t, float(weight)),
            rate_cap=np.full(t, float(rate_cap)),
            latency=np.full(t, float(latency)),
            owner=np.broadcast_to(np.asarray(owner, np.int32), (t,)).copy(),
            role=np.broadcast_to(np.asarray(role, np.int64), (t,)).copy(),
            kind=np.zeros(t, np.int32),
            kinds=(kind,),
        )

    @classmethod
    def concatenate(cls, parts: Sequence[Transfers]) -> Transfers:
        """One table; transfer numbers of part ``i`` are shifted by the lengths of the parts before."""
        kinds = {name: i for i, name in enumerate(dict.fromkeys(k for p in parts for k in p.kinds))}
        offsets = np.cumsum([0] + [p.src.size for p in parts])
        return cls(
            ptr=np.concatenate(
                [p.ptr[:-1] + o for p, o in zip(parts, offsets, strict=False)] + [offsets[-1:]]
            ),
            kind=np.concatenate([np.array([kinds[k] for k in p.kinds], np.int32)[p.kind] for p in parts]),
            kinds=tuple(kinds),
            **{
                name: np.concatenate([getattr(p, name) for p in parts])
                for name in (
                    "src", "dst", "bytes", "coupled", "weight", "rate_cap", "latency", "owner", "role",
                )
            },
        )  # fmt: skip
