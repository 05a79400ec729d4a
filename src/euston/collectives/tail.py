"""All-reduces when transfers have a tail: the time of a scheme in units of one transfer of the whole buffer.

Every transfer takes its bytes over the bandwidth, times X: lognormal with median 1 and a given ratio of its
99th to its 50th percentile. What a scheme makes of it depends on who waits for whom, and on what a draw
stands for:

- a *stream* goes on for the whole all-reduce in small slices (NCCL's rings and trees): a slow link is slow
  throughout and sets the pace of everything behind it;
- *messages* are shards that each draw anew (Gloo, transpose all-reduce): slow ones average out as far as the
  scheme's waiting lets them.

The times are means over independent draws, found by simulation of the recurrences below. For very many nodes
maxima are drawn by inverse transform, not over the nodes one by one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from euston.errors import ConfigError, unknown

__all__ = ["SCHEMES", "BoundedStage", "Tail", "bounded_stage", "scheme_time"]

_Z99 = float(ndtri(0.99))


@dataclass(frozen=True)
class Tail:
    """Lognormal with median 1.

    Parameters
    ----------
    p99_over_p50 : float
        1 is no tail.
    """

    p99_over_p50: float

    def __post_init__(self) -> None:
        if not (self.p99_over_p50 >= 1 and math.isfinite(self.p99_over_p50)):
            raise ConfigError(
                f"`p99_over_p50`: {self.p99_over_p50}; the 99th percentile is at least the median"
            )

    @property
    def sigma(self) -> float:
        """Standard deviation of the logarithm."""
        return math.log(self.p99_over_p50) / _Z99

    @property
    def mean(self) -> float:
        """Mean."""
        return math.exp(self.sigma**2 / 2)

    def sample(self, rng: np.random.Generator, *shape: int) -> NDArray[np.float64]:
        """Independent draws of a shape."""
        return np.exp(self.sigma * rng.standard_normal(shape))

    def largest(self, rng: np.random.Generator, n: int, *shape: int) -> NDArray[np.float64]:
        """Draws of the largest of n, without drawing n: the quantile of U^(1/n)."""
        # near 1 the complement keeps the digits: 1 - U^(1/n) = -expm1(log(U) / n)
        above = -np.expm1(np.log(rng.random(shape)) / n)
        return np.exp(-self.sigma * ndtri(above))


def barrier_ring(n: int, tail: Tail, rng: np.random.Generator, draws: int) -> NDArray[np.float64]:
    """2(n-1) steps of one shard, everybody waiting for everybody after each."""
    return tail.largest(rng, n, draws, 2 * (n - 1)).sum(axis=1) / n


def message_ring(n: int, tail: Tail, rng: np.random.Generator, draws: int) -> NDArray[np.float64]:
    """The same steps where a node waits for its neighbour's message only (Gloo's ring)."""
    done = np.zeros((draws, n))
    for _ in range(2 * (n - 1)):
        done = np.maximum(done, np.roll(done, 1, axis=1)) + tail.sample(rng, draws, n)
    return np.asarray(done.max(axis=1) / n)


def stream_ring(n: int, tail: Tail, rng: np.random.Generator, draws: int) -> NDArray[np.float64]:
    """A ring of slices that never stops: the slowest of its n links sets the rate (NCCL's ring)."""
    return 2 * (n - 1) / n * tail.largest(rng, n, draws)


def stream_tree(n: int, tail: Tail, rng: np.random.Generator, draws: int) -> NDArray[np.float64]:
    """Two binary trees with half of the buffer each, up and down (NCCL's tree, Sanders et al. 2009).

    A node is inner in one tree and a leaf in the other: it sends the buffer twice in all, and the slowest of
    the 2(n-1) edges sets the rate.
    """
    return 2 * tail.largest(rng, 2 * (n - 1), draws)


def bcube(n: int, tail: Tail, rng: np.random.Generator, draws: int) -> NDArray[np.float64]:
    """Halving and doubling between pairs (Gloo's BCube with base 2); n a power of two."""
    steps = n.bit_length() - 1
    if 1 << steps != n:
        raise ConfigError(f"`nodes`: {n} is no power of two, which bcube needs")
    done = np.zeros((draws, n))
    sizes = [2.0 ** -(k + 1) for k in range(steps)]
    for k in [*range(steps), *reversed(range(steps))]:
        mate = np.arange(n) ^ (1 << k)
        sent = np.maximum(done, done[:, mate]) + sizes[k] * tail.sample(rng, draws, n)
        done = np.maximum(sent, sent[:, mate])
    return np.asarray(done.max(axis=1))


def transpose(n: int, tail: Tail, rng: np.random.Generator, draws: int) -> NDArray[np.float64]:
    """Two stages of n-1 shards sent one after the other, a barrier after each (transpose all-reduce)."""
    return np.asarray(_stages(n, tail, rng, draws).max(axis=2).sum(axis=1))


def bounded_transpose(n: int, tail: Tail, rng: np.random.Generator, draws: int) -> NDArray[np.float64]:
    """The same, each stage closed when the median node is done (OptiReduce's adaptive timeout)."""
    return np.asarray(np.median(_stages(n, tail, rng, draws), axis=2).sum(axis=1))


def _stages(n: int, tail: Tail, rng: np.random.Generator, draws: int) -> NDArray[np.float64]:
    """Time of every node in both stages, float64[draws, 2, n]."""
    return np.asarray(tail.sample(rng, draws, 2, n, n - 1).sum(axis=3) / n)


SCHEMES: dict[str, Callable[[int, Tail, np.random.Generator, int], NDArray[np.float64]]] = {
    "barrier_ring": barrier_ring,
    "message_ring": message_ring,
    "stream_ring": stream_ring,
    "stream_tree": stream_tree,
    "bcube": bcube,
    "transpose": transpose,
    "bounded_transpose": bounded_transpose,
}
"""Draws of each scheme's time, float64[draws], by name."""


def scheme_time(scheme: str, nodes: int, tail: Tail, *, seed: int = 0, draws: int = 4000) -> float:
    """Mean time of an all-reduce in units of (bytes of the buffer / bandwidth).

    Raises
    ------
    ConfigError
        An unknown scheme, fewer than two nodes, bcube on no power of two.
    """
    if scheme not in SCHEMES:
        raise ConfigError(f"`scheme`: {unknown('scheme', scheme, SCHEMES)}")
    if nodes < 2:
        raise ConfigError(f"`nodes`: {nodes}; an all-reduce needs 2")
    rng = np.random.Generator(np.random.Philox(seed))
    return float(SCHEMES[scheme](nodes, tail, rng, draws).mean())


@dataclass(frozen=True)
class BoundedStage:
    """A stage that is closed at a deadline.

    Attributes
    ----------
    time : float
        Mean duration: until the last transfer is done or the deadline, in units of one transfer.
    loss : float
        Mean share of bytes that had not arrived by then.
    closed : float
        Share of stages that the deadline closed.
    """

    time: float
    loss: float
    closed: float


def bounded_stage(
    transfers: int, tail: Tail, deadline: float, *, seed: int = 0, draws: int = 4000
) -> BoundedStage:
    """Statistics of a stage of parallel transfers with a deadline, in units of one transfer's median.

    A transfer that would take X > deadline has delivered deadline / X of its bytes. For many transfers the
    loss is taken per transfer and the time from the largest, so that 10^5 workers cost what 10 do.

    Raises
    ------
    ConfigError
        No transfer, or a deadline that is not above 0.
    """
    if transfers < 1:
        raise ConfigError(f"`transfers`: {transfers}; at least 1")
    if not deadline > 0:
        raise ConfigError(f"`deadline`: {deadline} must be more than 0")
    rng = np.random.Generator(np.random.Philox(seed))
    largest = tail.largest(rng, transfers, draws)
    return BoundedStage(
        float(np.minimum(largest, deadline).mean()),
        _expected_loss(tail.sigma, deadline),
        float((largest > deadline).mean()),
    )


def _expected_loss(sigma: float, deadline: float) -> float:
    """E[max(0, 1 - deadline / X)] for lognormal X with median 1: as a put option on 1 / X."""
    if sigma == 0:
        return max(0.0, 1.0 - deadline)
    from scipy.special import ndtr

    a = -math.log(deadline) / sigma
    # P(X > t) - t E[1/X; X > t], and 1/X is lognormal with the same sigma
    return float(ndtr(a) - deadline * math.exp(sigma**2 / 2) * ndtr(a - sigma))
