"""WCMP and traffic engineering: paths are used in given proportions (Zhou et al., EuroSys 2014).

The proportions are those of the capacities, or a table that an optimiser has written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from euston.errors import ConfigError, RouteError, at, unknown
from euston.fabrics import Fabric
from euston.network.balancing._paths import on_paths
from euston.network.balancing.base import PathChoice, PathMode, Spread
from euston.network.balancing.spray import MANY_ENTROPIES, sprayed

__all__ = ["Wcmp"]

_ARROW = "->"


@dataclass(frozen=True)
class Wcmp:
    """Given fractions of every flow on every path.

    Parameters
    ----------
    weights : mapping
        Nothing: paths in proportion to the capacity they have. Else two kinds of entries. A link with its
        weight, ``tor_up/p0/t0/a1: 3``: switches split what they forward by the weights of their next hops on
        live shortest paths; links not named weigh 1, links of weight 0 are drained. A pair with the weights
        of its paths by number, ``tor/p0/t0 -> tor/p1/t0: [3, 1, 0, 0]`` (first and last switch of path 0, or
        two endpoints): flows of the pair use these paths and no others; what crosses a dead link is left out.
    """

    weights: Mapping[str, float | Sequence[float]] = field(default_factory=dict)
    name: ClassVar[str] = "wcmp"

    def __post_init__(self) -> None:
        for key, value in self.weights.items():
            where = f"weights.{key}"
            pair, several = _ARROW in key, isinstance(value, Sequence)
            if pair != several:
                want = "a list of weights, one per path" if pair else "one weight"
                raise ConfigError(at(where, f"{value!r} does not fit the key; it needs {want}"))
            numbers = list(value) if isinstance(value, Sequence) else [value]
            if not all(isfinite(w) and w >= 0 for w in numbers):
                raise ConfigError(at(where, f"{value!r}: weights must be finite and 0 or more"))
            if pair and not sum(numbers) > 0:
                raise ConfigError(at(where, "at least one path needs a weight above 0"))

    @property
    def packet(self) -> PathChoice:
        """A random path for every packet.

        Raises
        ------
        ConfigError
            Where there is a table: packets choose among equal paths.
        """
        if self.weights:
            raise ConfigError(
                "`policies.balancing.weights`: packets take equal paths; use run.network: fluid"
            )
        return PathChoice(PathMode.OBLIVIOUS, MANY_ENTROPIES)

    def check(self, fabric: Fabric, where: str = "policies.balancing") -> None:
        """Refuse links and nodes that ``fabric`` does not have.

        Raises
        ------
        ConfigError
            Naming the first such entry. (`spread` refuses lists that do not fit the paths of their pair.)
        """
        nodes: dict[str, int] = {}
        for key in self.weights:
            place = f"{where}.weights.{key}"
            if _ARROW not in key:
                try:
                    fabric.link_index(key)
                except ValueError as error:
                    raise ConfigError(at(place, str(error))) from None
                continue
            nodes = nodes or _nodes(fabric)
            for name in _ends(key):
                if name not in nodes:
                    raise ConfigError(at(place, unknown("node", name, nodes)))

    def spread(
        self,
        fabric: Fabric,
        src: NDArray[np.int32],
        dst: NDArray[np.int32],
        *,
        alive: NDArray[np.bool_] | None,
        capacity: NDArray[np.float64],
        split: NDArray[np.bool_] | None = None,
    ) -> Spread:
        """Single links wherever there is a table; see `Balancing.spread`."""
        if not self.weights:
            return sprayed(fabric, src, dst, adaptive=True, alive=alive, capacity=capacity, split=split)
        live = np.ones(fabric.links, bool) if alive is None else alive
        divided = np.diff(fabric.bundle_start) > 1
        if split is not None:
            divided |= split
        entry = self._entry_of(fabric, src, dst)
        table = list(self.weights.values())
        parts = []
        for i in np.unique(entry[entry >= 0]):
            who = np.flatnonzero(entry == i)
            weight = np.atleast_1d(np.asarray(table[i], np.float64))
            found = _path_count(fabric, src[who[:1]], dst[who[:1]])
            if found != weight.size:
                key = f"policies.balancing.weights.{list(self.weights)[i]}"
                raise ConfigError(at(key, f"{weight.size} weights for {found} paths"))
            parts.append((who, _on_table(fabric, src[who], dst[who], weight, live, divided)))
        rest = np.flatnonzero(entry < 0)
        if rest.size or not parts:
            parts.append((rest, self._by_links(fabric, src[rest], dst[rest], live, divided)))
        return _in_order(parts, src.size, divided)

    def _entry_of(self, fabric: Fabric, src: NDArray[np.int32], dst: NDArray[np.int32]) -> NDArray[np.int64]:
        """Number of the table's entry for each flow, endpoints before switches; -1 for none."""
        out = np.full(src.size, -1)
        pairs = [(i, *_ends(key)) for i, key in enumerate(self.weights) if _ARROW in key]
        if not pairs:
            return out
        nodes = _nodes(fabric)
        paths = fabric.route(src, dst, np.zeros(src.size, np.uint64))
        end = np.maximum((paths >= 0).sum(axis=1) - 1, 0)
        first, last = fabric.link_dst[paths[:, 0]], fabric.link_src[paths[np.arange(src.size), end]]
        for a_of, b_of in ((first, last), (src, dst)):
            for i, a, b in pairs:
                out[(a_of == nodes.get(a, -1)) & (b_of == nodes.get(b, -1)) & (src != dst)] = i
        return out

    def _by_links(
        self,
        fabric: Fabric,
        src: NDArray[np.int32],
        dst: NDArray[np.int32],
        live: NDArray[np.bool_],
        divided: NDArray[np.bool_],
    ) -> Spread:
        weight = np.ones(fabric.links)
        for key, value in self.weights.items():
            if not isinstance(value, Sequence):
                weight[fabric.link_index(key)] = value
        found = fabric.spread(src, dst, alive=live & (weight > 0), split=divided)
        row = np.where(
            found.row < fabric.bundles,
            fabric.bundle_start[np.minimum(found.row, fabric.bundles - 1)],
            found.row - fabric.bundles,
        )
        flow = np.repeat(np.arange(src.size), np.diff(found.ptr))
        return Spread(found.ptr, found.row, _split_by_switch(fabric, flow, row, weight), divided)


def _ends(key: str) -> tuple[str, str]:
    a, _, b = key.partition(_ARROW)
    return a.strip(), b.strip()


def _nodes(fabric: Fabric) -> dict[str, int]:
    return {fabric.node_name(i): i for i in range(fabric.node_kind.size)}


def _path_count(fabric: Fabric, src: NDArray[np.int32], dst: NDArray[np.int32]) -> int:
    """Paths of one pair on the intact fabric: after how many numbers they begin again (0: too many)."""
    for width in (64, 1024, 16_384, 262_144):
        many = np.arange(width, dtype=np.uint64)
        paths = fabric.route(np.repeat(src, width), np.repeat(dst, width), many)
        again = np.flatnonzero((paths[1:] == paths[0]).all(axis=1))
        if again.size:
            return int(again[0]) + 1
    return 0


def _on_table(
    fabric: Fabric,
    src: NDArray[np.int32],
    dst: NDArray[np.int32],
    weight: NDArray[np.float64],
    live: NDArray[np.bool_],
    divided: NDArray[np.bool_],
) -> Spread:
    """Flows on numbered paths of the intact fabric, by weight; what crosses a dead link is left out."""
    number = np.flatnonzero(weight > 0)
    n = number.size
    choice = np.tile(number.astype(np.uint64), src.size)
    links = fabric.route(np.repeat(src, n), np.repeat(dst, n), choice)
    whole = (live[links] | (links < 0)).all(axis=1).reshape(src.size, n)
    share = np.where(whole, weight[number], 0.0)
    total = share.sum(axis=1)
    if (total == 0).any():
        f = int(np.flatnonzero(total == 0)[0])
        raise RouteError(
            f"{fabric.endpoint_name(int(src[f]))} -> {fabric.endpoint_name(int(dst[f]))}: every path with a "
            "weight crosses a link that is down"
        )
    keep = whole.ravel()
    ptr = np.concatenate(([0], np.cumsum(whole.sum(axis=1))))
    return on_paths(fabric, links[keep], ptr, (share / total[:, None]).ravel()[keep], divided)


def _split_by_switch(
    fabric: Fabric, flow: NDArray[np.int64], link: NDArray[np.int64], weight: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Share of its flow on each (flow, link) entry when every node splits by the weights of its links.

    Raises
    ------
    ConfigError
        Where the paths of a flow turn back on themselves, as paths that are not shortest may.
    """
    nodes = int(fabric.node_kind.size)
    ends = np.concatenate((flow * nodes + fabric.link_src[link], flow * nodes + fabric.link_dst[link]))
    ids = np.unique(ends, return_inverse=True)[1].ravel()
    tail, head = ids[: link.size], ids[link.size :]
    count = int(ids.max(initial=-1)) + 1
    ratio = weight[link] / np.bincount(tail, weights=weight[link], minlength=count)[tail]
    source = np.zeros(count + 1)  # where a flow begins: its entries stand in path order
    source[tail[np.unique(flow, return_index=True)[1]]] = 1.0
    # Endpoints that share a NIC: what comes back to it has arrived.
    head = np.where(source[head] == 1.0, count, head)
    fraction = np.zeros(link.size)
    for _ in range(int(np.bincount(flow).max(initial=0)) + 1):
        inflow = source + np.bincount(head, weights=fraction, minlength=count + 1)
        before, fraction = fraction, inflow[tail] * ratio
        if np.array_equal(before, fraction):
            return fraction
    raise ConfigError(
        "`policies.balancing.weights`: weights of links need shortest paths, and paths of this fabric turn "
        "back; give weights per pair"
    )


def _in_order(
    parts: list[tuple[NDArray[np.int64], Spread]], flows: int, divided: NDArray[np.bool_]
) -> Spread:
    """Spreads of some flows each as one of all, in the flows' order."""
    flow = np.concatenate([np.repeat(who, np.diff(s.ptr)) for who, s in parts])
    order = np.argsort(flow, kind="stable")
    ptr = np.concatenate(([0], np.cumsum(np.bincount(flow, minlength=flows))))
    return Spread(
        ptr=ptr.astype(np.int64),
        row=np.concatenate([s.row for _, s in parts])[order],
        fraction=np.concatenate([s.fraction for _, s in parts])[order],
        split=divided,
    )
