"""Updates of several sites to one mean: folded in client order at a server, or moved around a ring for
real.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from euston.compression import StepKey
from euston.federated.coding import codec_of, decode, encode

__all__ = ["Mean", "OrderedFold", "ring_mean"]

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
T = TypeVar("T")


@dataclass
class Mean:
    """A weighted mean that takes one vector at a time: memory for one model, however many sites there are."""

    size: int
    weight: float = 0.0
    count: int = 0
    total: Doubles = field(init=False)

    def __post_init__(self) -> None:
        self.total = np.zeros(self.size)

    def fold(self, vector: Floats, weight: float) -> None:
        """Add one vector."""
        self.total += vector.astype(np.float64) * weight
        self.weight += weight
        self.count += 1

    def value(self) -> Doubles:
        """The mean, float64."""
        return self.total / self.weight


class OrderedFold(Generic[T]):
    """Hands replies on in the order of clients, whatever the order of arrival: sums come out the same.

    A reply waits only for clients before it that may still answer.
    """

    def __init__(self, clients: Sequence[int], take: Callable[[T], None]) -> None:
        self._open = sorted(clients)
        self._held: dict[int, T | None] = {}
        self._take = take

    def offer(self, client: int, reply: T | None) -> None:
        """A reply, or None for a client that will not answer."""
        self._held[client] = reply
        while self._open and self._open[0] in self._held:
            self._hand(self._open.pop(0))

    def close(self) -> None:
        """Nobody else will answer."""
        for client in self._open:
            if client in self._held:
                self._hand(client)
        self._open = []

    def _hand(self, client: int) -> None:
        reply = self._held.pop(client)
        if reply is not None:
            self._take(reply)


def ring_mean(
    vectors: Sequence[Floats], weights: Sequence[float], codec: str, key: StepKey
) -> tuple[list[Floats], list[int]]:
    """Weighted mean by a ring all-reduce, hop by hop, each hop through the codec (sums are fp32, as in
    INTELLECT-1).

    Returns
    -------
    list of float32[n]
        What each member ends with: equal, to the bit.
    list of int
        Bytes each member sent.
    """
    k, n = len(vectors), vectors[0].size
    share = np.asarray(weights, np.float64) / float(np.sum(weights))
    held = [(v.astype(np.float64) * w).astype(np.float32) for v, w in zip(vectors, share, strict=True)]
    sent = [0] * k
    if k == 1:
        return held, sent
    cuts = np.linspace(0, n, k + 1).astype(int)
    pieces = [slice(int(a), int(b)) for a, b in pairwise(cuts)]

    def hop(member: int, piece: slice, step: int) -> Floats:
        if piece.start == piece.stop:
            return np.empty(0, np.float32)
        tag = StepKey(key.job, key.step, key.bucket, member * 4096 + step)
        data = encode(codec, held[member], [piece], tag)
        sent[member] += sum(blob.nbytes for blob in data)
        out = np.empty(n, np.float32)
        decode(codec, data, [piece], out, tag)
        return out[piece]

    for step in range(k - 1):  # reduce-scatter
        moving = [(m, pieces[(m - step) % k]) for m in range(k)]
        values = [hop(m, piece, step) for m, piece in moving]
        for (m, piece), value in zip(moving, values, strict=True):
            held[(m + 1) % k][piece] += value
    for m in range(k):  # the owner of a finished piece codes it once and keeps what the others will decode
        piece = pieces[(m + 1) % k]
        before = sent[m]
        held[m][piece] = hop(m, piece, k - 1)
        sent[m] = before  # nothing has moved
    for step in range(k - 1):  # all-gather: finished pieces are passed on as they are
        moving = [(m, pieces[(m + 1 - step) % k]) for m in range(k)]
        for m, piece in moving:
            sent[m] += _coded_bytes(codec, piece)
            held[(m + 1) % k][piece] = held[m][piece]
    return held, sent


def _coded_bytes(codec: str, piece: slice) -> int:
    size = piece.stop - piece.start
    return int(codec_of(codec).bytes(size)) if size else 0
