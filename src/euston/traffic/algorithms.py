"""Collective algorithms as waves of messages between ranks 0 to n-1; no fabric and no time in here.

An algorithm is a list of chains that run beside each other; a chain is a list of waves. In a chain a rank
sends in a wave only what it held after the wave before (see `euston.traffic.programs`). Buffers are cut into
whole bytes, so that the parts add up exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from euston.errors import ConfigError, unknown

__all__ = ["ALGORITHMS", "Chain", "Wave", "chains", "tree_parents"]


class Wave(NamedTuple):
    """Messages that may be under way at the same time: int64[m] ranks and bytes."""

    src: NDArray[np.int64]
    dst: NDArray[np.int64]
    bytes: NDArray[np.int64]


@dataclass(frozen=True)
class Chain:
    """Waves that follow each other.

    Attributes
    ----------
    waves : tuple of Wave
    pipelined : bool
        The waves carry pieces of one stream, so that as many bytes may flow along each edge at once (edges).
        False where a wave needs all of the one before, as in halving and doubling.
    """

    waves: tuple[Wave, ...]
    pipelined: bool = True


def parts(total: int, n: int) -> NDArray[np.int64]:
    """Whole bytes of ``total`` in n parts that differ by at most one, int64[n]."""
    return total // n + (np.arange(n) < total % n).astype(np.int64)


def _ring_waves(n: int, total: int, passes: int, back: bool) -> tuple[Wave, ...]:
    """Rank i sends part i - k in step k, of passes x (n-1) steps (Patarasuk & Yuan 2009)."""
    size = parts(total, n)
    i = np.arange(n)
    step = -1 if back else 1
    return tuple(Wave(i, (i + step) % n, size[(i - step * k) % n]) for k in range(passes * (n - 1)))


def ring(kind: str, n: int, total: int) -> list[Chain]:
    """One ring: reduce-scatter, all-gather, or both after each other."""
    passes = {"all_reduce": 2, "reduce_scatter": 1, "all_gather": 1}[kind]
    return [Chain(_ring_waves(n, total, passes, False))]


def bidirectional_ring(kind: str, n: int, total: int) -> list[Chain]:
    """Two rings in opposite directions, half of the buffer each."""
    passes = {"all_reduce": 2, "reduce_scatter": 1, "all_gather": 1}[kind]
    one, other = parts(total, 2).tolist()
    return [Chain(_ring_waves(n, one, passes, False)), Chain(_ring_waves(n, other, passes, True))]


def _exchange(
    kind: str, n: int, total: int, peer: Callable[[int], NDArray[np.int64]], what: str
) -> list[Chain]:
    """Recursive exchange with ``peer(step)``: halves in the reduce-scatter, the same backwards to gather."""
    steps = n.bit_length() - 1
    if 1 << steps != n or n > 2**14:
        raise ConfigError(f"`ranks`: {what} needs a power of two up to 2^14; there are {n}. Use ring")
    i = np.arange(n)
    size = parts(total, n).astype(np.float64)
    # after step s, rank r answers for the blocks that it passes on in later steps: its own in the end
    mine = np.eye(n, dtype=np.float32)
    doubling: list[Wave] = []
    halving: list[Wave] = []
    for s in reversed(range(steps)):
        to = peer(s)
        holds = (mine @ size).astype(np.int64)
        doubling.append(Wave(i, to, holds))
        halving.append(Wave(i, to, holds[to]))
        mine = np.maximum(mine, mine[to])
    halving.reverse()
    waves = {"reduce_scatter": halving, "all_gather": doubling, "all_reduce": halving + doubling}[kind]
    return [Chain(tuple(waves), pipelined=False)]


def halving_doubling(kind: str, n: int, total: int) -> list[Chain]:
    """Recursive halving, then doubling: log2 n exchanges of M/2, M/4, ... each way (Rabenseifner 2004)."""
    i = np.arange(n)
    return _exchange(kind, n, total, lambda s: i ^ (n >> (s + 1)), "halving-doubling")


def swing(kind: str, n: int, total: int) -> list[Chain]:
    """Exchanges with the rank (1 - (-2)^(s+1)) / 3 away, for rings and tori (De Sensi et al., NSDI 2024)."""
    i = np.arange(n)

    def peer(s: int) -> NDArray[np.int64]:
        away = (1 - (-2) ** (s + 1)) // 3
        return np.where(i % 2 == 0, i + away, i - away) % n

    return _exchange(kind, n, total, peer, "swing")


def tree_parents(n: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Parents of two trees, -1 at the root; inner ranks of one are leaves of the other (Sanders et al. 2009).

    The first is the binary tree over the trailing zeros of the rank, the second its mirror image (n even) or
    the same shifted by one rank (n odd), as in NCCL's ``trees.cc``.
    """
    r = np.arange(n)
    low = r & -r
    up = (r ^ low) | (low << 1)
    one = np.where(r == 0, -1, np.where(up >= n, r ^ low, up))
    if n % 2 == 0:
        two = np.where(one[::-1] < 0, -1, n - 1 - one[::-1])
    else:
        before = one[(r - 1) % n]
        two = np.where(before < 0, -1, (before + 1) % n)
    return one, two


def double_tree(kind: str, n: int, total: int, chunks: int = 8) -> list[Chain]:
    """Two complementary trees, half of the buffer each: reduce to the root, then broadcast, by chunks."""
    if kind != "all_reduce":
        raise ConfigError(f"`algorithm`: double_tree is an all-reduce, not a {kind}; use ring")
    return [
        Chain(tuple(_tree_waves(parent, half, chunks)))
        for parent, half in zip(tree_parents(n), parts(total, 2).tolist(), strict=True)
        if half
    ]


def _tree_waves(parent: NDArray[np.int64], total: int, chunks: int) -> list[Wave]:
    n = parent.size
    height, depth = np.zeros(n, np.int64), np.zeros(n, np.int64)
    for r in range(n):
        at, d = r, 0
        while parent[at] >= 0:
            d += 1
            at = int(parent[at])
            height[at] = max(height[at], d)
        depth[r] = d
    size = parts(total, min(chunks, total))
    child = np.flatnonzero(parent >= 0)
    top = int(height.max())
    # chunk c leaves a rank upwards at time c + height, and reaches it downwards at time c + top + depth
    time = [(height[child] + c, child, parent[child], size[c]) for c in range(size.size)]
    time += [(depth[child] - 1 + top + c, parent[child], child, size[c]) for c in range(size.size)]
    when = np.concatenate([t for t, *_ in time])
    src, dst = np.concatenate([s for _, s, *_ in time]), np.concatenate([d for _, _, d, _ in time])
    much = np.concatenate([np.full(t.size, b) for t, _, _, b in time])
    waves = []
    for t in range(int(when.max(initial=-1)) + 1):
        now = when == t
        waves.append(Wave(src[now], dst[now], much[now]))
    return waves


def direct(kind: str, n: int, total: int) -> list[Chain]:
    """All-to-all with everyone at once; part j of the buffer goes to rank j."""
    size = parts(total, n)
    k = np.repeat(np.arange(1, n), n)
    src = np.tile(np.arange(n), n - 1)
    dst = (src + k) % n
    return [Chain((Wave(src, dst, size[dst]),))]


def shifted(kind: str, n: int, total: int) -> list[Chain]:
    """All-to-all in n - 1 rounds: rank i sends to i + k in round k."""
    size = parts(total, n)
    i = np.arange(n)
    return [Chain(tuple(Wave(i, (i + k) % n, size[(i + k) % n]) for k in range(1, n)), pipelined=False)]


ALGORITHMS: dict[str, dict[str, Callable[..., list[Chain]]]] = {
    "all_reduce": {
        "ring": ring,
        "bidirectional_ring": bidirectional_ring,
        "halving_doubling": halving_doubling,
        "double_tree": double_tree,
        "swing": swing,
    },
    "reduce_scatter": {
        "ring": ring,
        "bidirectional_ring": bidirectional_ring,
        "halving_doubling": halving_doubling,
        "swing": swing,
    },
    "all_gather": {
        "ring": ring,
        "bidirectional_ring": bidirectional_ring,
        "halving_doubling": halving_doubling,
        "swing": swing,
    },
    "all_to_all": {"direct": direct, "shifted": shifted},
}
"""Flat algorithms of each collective; the first is the default."""


def chains(kind: str, algorithm: str | None, n: int, total: int) -> list[Chain]:
    """Chains of a flat collective of ``total`` bytes over n ranks.

    Raises
    ------
    ConfigError
        Unknown names, a number of ranks the algorithm cannot do, or fewer bytes than parts.
    """
    if kind not in ALGORITHMS:
        raise ConfigError(unknown("collective", kind, ALGORITHMS))
    known = ALGORITHMS[kind]
    name = next(iter(known)) if algorithm is None else algorithm
    if name not in known:
        raise ConfigError(unknown(f"algorithm of {kind}", name, known))
    if n < 2:
        raise ConfigError(f"`ranks`: a collective needs 2 or more; there is {n}")
    found = known[name](kind, n, total)
    if any((wave.bytes < 1).any() for chain in found for wave in chain.waves):
        raise ConfigError(
            f"`bytes`: {total} bytes leave parts without a byte among {n} ranks; send {2 * n} or more"
        )
    return found
