"""Traffic matrices: who sends to whom, fixed or drawn, reproducible by seed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from euston.errors import ConfigError, nearest, unknown
from euston.fabrics import Fabric, NodeKind
from euston.seeds import stream

__all__ = ["MATRICES", "Matrix", "matrix", "racks"]

Endpoints = NDArray[np.int32]
Draw = Callable[[Endpoints, np.random.Generator], Endpoints]
Likelihood = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float64]]


@dataclass(frozen=True, eq=False)
class Matrix:
    """Who sends to whom.

    Attributes
    ----------
    kind : str
    endpoints : int
    share : float64[endpoints]
        Share of all flows that each endpoint starts; sums to 1.
    src, dst : int32[P]
        The pairs of a matrix with fixed pairs; none for one whose destinations are drawn.
    about : dict
        Parameters in force, for the result.
    """

    kind: str
    endpoints: int
    share: NDArray[np.float64]
    src: Endpoints
    dst: Endpoints
    about: dict[str, Any] = field(default_factory=dict)
    sample: Draw | None = field(default=None, repr=False)
    likelihood: Likelihood | None = field(default=None, repr=False)

    def sources(self, flows: int, generator: np.random.Generator) -> Endpoints:
        """Endpoints that start ``flows`` flows drawn one by one, int32[flows]."""
        edge = np.cumsum(self.share)
        at = np.searchsorted(edge, generator.random(flows) * edge[-1], side="right")
        return np.minimum(at, self.endpoints - 1).astype(np.int32)

    def destinations(self, src: Endpoints, generator: np.random.Generator) -> Endpoints:
        """A destination for a flow of each of ``src``, int32[F], never the source itself."""
        if self.sample is not None:
            return self.sample(src, generator)
        order = np.argsort(self.src, kind="stable")
        first = np.searchsorted(self.src[order], np.arange(self.endpoints + 1))
        count = np.diff(first)[src]
        if (count == 0).any():
            raise ConfigError(f"`{self.kind}`: endpoint {int(src[count == 0][0])} sends nothing here")
        pick = (generator.random(src.size) * count).astype(np.int64)
        return self.dst[order[first[src] + pick]]

    def pairs(self, seed: int = 0, flows: int | None = None) -> tuple[Endpoints, Endpoints]:
        """One round: every fixed pair once, or ``flows`` drawn ones (by default one per sending endpoint)."""
        if self.sample is None and flows is None:
            return self.src, self.dst
        generator = stream(seed, "matrix", self.kind, "round")
        if flows is None:
            src = np.flatnonzero(self.share > 0).astype(np.int32)
        else:
            src = self.sources(flows, generator)
        return src, self.destinations(src, generator)

    def expected(self, most: int = 2**18) -> tuple[Endpoints, Endpoints, NDArray[np.float64]]:
        """Pairs and the share of the flows that each is expected to carry; the shares sum to 1.

        Fixed pairs as they are. Of drawn ones all pairs where they are at most ``most``, else evenly spaced
        ones of every source, weighted by their likelihood.
        """
        if self.likelihood is None:
            weight = np.full(self.src.size, 1.0 / max(1, self.src.size))
            return self.src, self.dst, weight
        n = self.endpoints
        each = max(1, min(n - 1, most // n))
        offset = 1 + np.arange(each) * (n - 1) // each
        src = np.repeat(np.arange(n), each)
        dst = (src + np.tile(offset, n)) % n
        likely = self.likelihood(src, dst).reshape(n, each)
        total = likely.sum(axis=1, keepdims=True)
        part = np.divide(likely, total, out=np.full((n, each), 1.0 / each), where=total > 0)
        return src.astype(np.int32), dst.astype(np.int32), (part * self.share[:, None]).ravel()


def matrix(
    kind: str, endpoints: int | Fabric, *, seed: int = 0, where: str = "pattern", **options: Any
) -> Matrix:
    """A matrix by name.

    Parameters
    ----------
    kind : str
        One of `MATRICES`.
    endpoints : int or Fabric
        Their number, or a fabric, which also tells which endpoints share a rack.
    seed : int
        For what is drawn at random.
    options
        Parameters of that kind, see the functions of this file.

    Raises
    ------
    ConfigError
        Unknown kind or option (with the nearest), parameters that do not fit the number of endpoints.
    """
    if kind not in MATRICES:
        raise ConfigError(f"`{where}`: {unknown('traffic matrix', kind, MATRICES)}")
    make = MATRICES[kind]
    n = endpoints.endpoints if isinstance(endpoints, Fabric) else endpoints
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or not 2 <= n < 2**31:
        raise ConfigError(f"`{where}`: {n} endpoints; traffic needs 2 or more")
    parameters = list(inspect.signature(make).parameters)[2:]
    for name in options:
        if name not in parameters:
            guess = nearest(name, parameters)
            takes = ", ".join(parameters) or "no parameter"
            hint = f"did you mean {guess!r}?" if guess else f"it takes {takes}"
            raise ConfigError(f"`{where}.{name}`: no parameter of {kind!r}; {hint}")
    if "rack" in parameters and "rack" not in options and isinstance(endpoints, Fabric):
        options["rack"] = racks(endpoints)
    return make(int(n), stream(seed, "matrix", kind), **options)


def racks(fabric: Fabric) -> NDArray[np.int32]:
    """Number of the first switch above each endpoint, from 0, int32[endpoints]."""
    e = np.arange(fabric.endpoints)
    path = fabric.route(e, (e + 1) % e.size, np.zeros(e.size, np.uint64), network="scale_out")
    node = fabric.link_dst[path[:, 0]]
    behind = fabric.node_kind[node] == NodeKind.NIC
    if path.shape[1] > 1:
        node = np.where(behind, fabric.link_dst[path[:, 1]], node)
    return np.unique(node, return_inverse=True)[1].astype(np.int32)


# ---- fixed pairs -------------------------------------------------------------------------------------------


def _fixed(kind: str, n: int, src: ArrayLike, dst: ArrayLike, **about: Any) -> Matrix:
    s, d = np.asarray(src, np.int32), np.asarray(dst, np.int32)
    share = np.bincount(s, minlength=n) / max(1, s.size)
    return Matrix(kind, n, share, s, d, about)


def permutation(n: int, generator: np.random.Generator) -> Matrix:
    """A random derangement: everyone sends to one other and receives from one; all are equally likely."""
    identity = np.arange(n)
    drawn = generator.permutation(n)
    while (drawn == identity).any():  # a share 1/e of all permutations has no fixed point
        drawn = generator.permutation(n)
    return _fixed("permutation", n, identity, drawn)


def incast(
    n: int, generator: np.random.Generator, senders: int | None = None, receiver: int | None = None
) -> Matrix:
    """``senders`` endpoints (all others by default), drawn at random, send to ``receiver`` (drawn)."""
    to = _one(generator, n, receiver, "receiver")
    others = np.delete(np.arange(n), to)
    chosen = _some(generator, others, senders, "senders")
    return _fixed("incast", n, chosen, np.full(chosen.size, to), senders=int(chosen.size), receiver=to)


def outcast(
    n: int, generator: np.random.Generator, receivers: int | None = None, sender: int | None = None
) -> Matrix:
    """``sender`` (drawn) sends to ``receivers`` endpoints (all others by default), drawn at random."""
    of = _one(generator, n, sender, "sender")
    others = np.delete(np.arange(n), of)
    chosen = _some(generator, others, receivers, "receivers")
    return _fixed("outcast", n, np.full(chosen.size, of), chosen, receivers=int(chosen.size), sender=of)


def stride(n: int, generator: np.random.Generator, stride: int = 1) -> Matrix:
    """Endpoint i sends to i + ``stride``, around."""
    if not isinstance(stride, int | np.integer) or stride % n == 0:
        raise ConfigError(f"`stride`: {stride} sends every flow of {n} endpoints to its own source")
    e = np.arange(n)
    return _fixed("stride", n, e, (e + stride) % n, stride=int(stride))


def ring(n: int, generator: np.random.Generator) -> Matrix:
    """Endpoint i sends to i + 1, around."""
    e = np.arange(n)
    return _fixed("ring", n, e, (e + 1) % n)


def tornado(n: int, generator: np.random.Generator, dims: Sequence[int] | None = None) -> Matrix:
    """Almost half-way round in every dimension, the worst for minimal routing (Dally & Towles 2004).

    Along a dimension of k endpoints the distance is ceil(k/2) - 1. ``dims``: sizes of the dimensions, the
    first the slowest; one dimension by default.
    """
    shape = (n,) if dims is None else tuple(int(d) for d in dims)
    if int(np.prod(shape)) != n or min(shape) < 1:
        raise ConfigError(f"`dims`: {list(shape)} make {int(np.prod(shape))} endpoints; there are {n}")
    shift = [(k + 1) // 2 - 1 for k in shape]
    if not any(shift):
        raise ConfigError(f"`dims`: {list(shape)} are too short; a tornado needs a dimension of 3 or more")
    at = np.unravel_index(np.arange(n), shape)
    to = tuple((x + s) % k for x, s, k in zip(at, shift, shape, strict=True))
    return _fixed("tornado", n, np.arange(n), np.ravel_multi_index(to, shape), dims=list(shape))


def all_to_all(n: int, generator: np.random.Generator) -> Matrix:
    """Every ordered pair, nearest first: round k holds i to i + k."""
    if n > 2**14:
        raise ConfigError(f"`all_to_all`: {n * (n - 1):,} pairs are too many; use uniform, or a collective")
    k = np.repeat(np.arange(1, n), n)
    src = np.tile(np.arange(n), n - 1)
    return _fixed("all_to_all", n, src, (src + k) % n)


# ---- drawn destinations ------------------------------------------------------------------------------------


def uniform(n: int, generator: np.random.Generator) -> Matrix:
    """Any other endpoint, all equally likely."""

    def draw(src: Endpoints, rng: np.random.Generator) -> Endpoints:
        to = rng.integers(0, n - 1, src.size)
        return (to + (to >= src)).astype(np.int32)

    return _drawn("uniform", n, draw, lambda src, dst: np.ones(src.size))


def rack_skew(
    n: int, generator: np.random.Generator, local: float = 0.5, rack: int | ArrayLike | None = None
) -> Matrix:
    """A share ``local`` of the flows stays in the rack, the others leave it; both uniform.

    ``rack``: endpoints per rack, or the rack of each endpoint; a fabric tells it when given.
    """
    share = _share("local", local)
    members = _Racks(n, rack)
    alone, everywhere = members.size[members.of] < 2, members.size[members.of] == n
    if share > 0 and alone.any():
        raise ConfigError(f"`local`: endpoint {int(np.argmax(alone))} is alone in its rack; use local: 0")
    if share < 1 and everywhere.any():
        raise ConfigError("`local`: there is only one rack; use local: 1")

    def draw(src: Endpoints, rng: np.random.Generator) -> Endpoints:
        stay = rng.random(src.size) < share
        u = rng.random(src.size)
        first, size, place = members.first[members.of[src]], members.size[members.of[src]], members.place[src]
        inside = (u * (size - 1)).astype(np.int64)
        inside = first + inside + (inside >= place - first)
        outside = (u * (n - size)).astype(np.int64)
        outside += np.where(outside >= first, size, 0)
        return members.order[np.where(stay, inside, outside)]

    def likelihood(src: NDArray[np.int64], dst: NDArray[np.int64]) -> NDArray[np.float64]:
        size = members.size[members.of[src]]
        same = members.of[src] == members.of[dst]
        return np.where(same, share / np.maximum(1, size - 1), (1 - share) / np.maximum(1, n - size))

    return _drawn("rack_skew", n, draw, likelihood, local=share, racks=int(members.size.size))


def hot_rack(
    n: int,
    generator: np.random.Generator,
    share: float = 0.5,
    hot: int | None = None,
    rack: int | ArrayLike | None = None,
) -> Matrix:
    """A share of everyone's flows goes into one rack (``hot``, drawn by default), the rest anywhere."""
    part = _share("share", share)
    members = _Racks(n, rack)
    target = _one(generator, members.size.size, hot, "hot")
    first, size = int(members.first[target]), int(members.size[target])
    if size == 1 and part > 0:
        raise ConfigError("`rack`: the hot rack has one endpoint, which cannot send to itself; use incast")

    def draw(src: Endpoints, rng: np.random.Generator) -> Endpoints:
        inside, place = members.of[src] == target, members.place[src]
        to_hot = rng.random(src.size) < part
        u = rng.random(src.size)
        heated = (u * np.where(inside, size - 1, size)).astype(np.int64) + first
        heated += inside & (heated >= place)
        anywhere = (u * (n - 1)).astype(np.int64)
        anywhere += anywhere >= place
        return members.order[np.where(to_hot, heated, anywhere)]

    def likelihood(src: NDArray[np.int64], dst: NDArray[np.int64]) -> NDArray[np.float64]:
        there = np.where(members.of[src] == target, size - 1, size)
        return (1 - part) / (n - 1) + np.where(members.of[dst] == target, part / np.maximum(1, there), 0.0)

    return _drawn("hot_rack", n, draw, likelihood, share=part, hot=target, racks=int(members.size.size))


def _drawn(kind: str, n: int, sample: Draw, likelihood: Likelihood, **about: Any) -> Matrix:
    none = np.zeros(0, np.int32)
    return Matrix(kind, n, np.full(n, 1.0 / n), none, none, about, sample, likelihood)


class _Racks:
    """Endpoints sorted by rack: rack r holds ``order[first[r]:first[r] + size[r]]``; ``place`` inverts it."""

    def __init__(self, n: int, rack: int | ArrayLike | None) -> None:
        if rack is None:
            raise ConfigError("`rack`: is missing; give the endpoints per rack, or a fabric")
        given = np.asarray(rack)
        if given.ndim == 0:
            if not np.issubdtype(given.dtype, np.integer) or given < 1:
                raise ConfigError(f"`rack`: {rack!r} endpoints per rack; a whole number above 0 is needed")
            given = np.arange(n) // int(given)
        if given.shape != (n,):
            raise ConfigError(f"`rack`: {given.size} racks for {n} endpoints; give one per endpoint")
        self.of = np.unique(given, return_inverse=True)[1].astype(np.int64)
        self.order = np.argsort(self.of, kind="stable").astype(np.int32)
        self.size = np.bincount(self.of)
        self.first = np.cumsum(self.size) - self.size
        self.place = np.empty(n, np.int64)
        self.place[self.order] = np.arange(n)


def _share(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ConfigError(f"`{name}`: {value!r} is not a share between 0 and 1")
    return float(value)


def _one(generator: np.random.Generator, n: int, given: int | None, name: str) -> int:
    drawn = int(generator.integers(n))
    if given is None:
        return drawn
    if isinstance(given, bool) or not isinstance(given, int | np.integer) or not 0 <= given < n:
        raise ConfigError(f"`{name}`: {given!r} does not exist; there are 0 to {n - 1}")
    return int(given)


def _some(
    generator: np.random.Generator, others: NDArray[np.int64], count: int | None, name: str
) -> NDArray[np.int64]:
    if count is None:
        return others
    if isinstance(count, bool) or not isinstance(count, int | np.integer) or not 1 <= count <= others.size:
        raise ConfigError(f"`{name}`: {count!r}; between 1 and {others.size} others can take part")
    return np.sort(generator.permutation(others)[:count])


MATRICES: dict[str, Callable[..., Matrix]] = {
    "uniform": uniform,
    "permutation": permutation,
    "incast": incast,
    "outcast": outcast,
    "stride": stride,
    "ring": ring,
    "tornado": tornado,
    "all_to_all": all_to_all,
    "rack_skew": rack_skew,
    "hot_rack": hot_rack,
}
"""Names of the matrices and the functions that make them."""
