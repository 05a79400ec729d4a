"""What the Clos family knows in closed form: names, the reverse link, routes, bisection."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from euston.errors import FabricError, unknown
from euston.fabrics import _routes
from euston.fabrics._routes import Shape
from euston.fabrics.structure import LinkKind, Network, Spread

__all__ = ["ClosStructure"]

_NETWORK = {"scale_out": _routes.SCALE_OUT, "scale_up": _routes.SCALE_UP, "auto": _routes.AUTO}
_LETTERS = ("hg", "hg", "hn", "hn", "pta", "pta", "pac", "pac")


def _mixed(index: int, letters: str, sizes: Iterable[int]) -> str:
    """Digits of ``index`` in the mixed radix ``sizes``, slowest first: ``"p0/t3/a5"``."""
    parts = []
    for letter, size in zip(reversed(letters), reversed(list(sizes)), strict=True):
        index, digit = divmod(index, size)
        parts.append(f"{letter}{digit}")
    return "/".join(reversed(parts))


@dataclass(frozen=True)
class ClosStructure:
    """Closed forms of one Clos fabric (implements `euston.fabrics.Structure`)."""

    shape: Shape
    hosts: int
    oversubscription: tuple[float, ...]

    @property
    def pods(self) -> int:
        """Number of pods, the last of which need not be full."""
        return -(-self.shape.tors // self.shape.tors_per_pod)

    @property
    def links(self) -> int:
        """Number of links."""
        return self.shape.agg_down0 + self.pods * self.shape.aggs * self.shape.cores

    def _first(self) -> list[int]:
        s = self.shape
        host = [s.out0, s.in0, s.nic_up0, s.nic_down0]
        return [*host, s.tor_up0, s.tor_down0, s.agg_up0, s.agg_down0, self.links]

    def _sizes(self, kind: int) -> tuple[int, ...]:
        s = self.shape
        if kind <= LinkKind.SCALE_UP_IN:
            return (self.hosts, s.accelerators)
        if kind <= LinkKind.NIC_DOWN:
            return (self.hosts, s.nics)
        if kind <= LinkKind.TOR_DOWN:
            return (self.pods, s.tors_per_pod, s.aggs)
        return (self.pods, s.aggs, s.cores)

    # ---- names -----------------------------------------------------------------------------------------

    def describe(self) -> list[str]:
        """Lines that tell a person the shape."""
        s = self.shape
        lines = []
        if s.scale_up:
            lines.append(f"  scale-up domain of {s.hosts_per_domain * s.accelerators} accelerators")
        if s.nics < s.accelerators:
            lines.append(f"  {s.nics} NICs per host, shared by {s.accelerators} accelerators")
        if s.rail:
            lines.append(f"  segments of {s.hosts_per_tor} hosts with {s.nics} rails: {s.tors} leaves")
        else:
            lines.append(f"  {s.tors} ToRs of {s.hosts_per_tor} hosts")
        if s.aggs:
            ratio = f"{self.oversubscription[0]:g}:1"
            pods = "1 pod" if self.pods == 1 else f"{self.pods} pods"
            lines.append(f"  {pods} of {s.tors_per_pod} ToRs and {s.aggs} aggs, oversubscribed {ratio}")
        if s.cores:
            ratio = f"{self.oversubscription[1]:g}:1"
            lines.append(f"  {s.aggs * s.cores} cores in {s.aggs} planes, oversubscribed {ratio}")
        return lines

    def node_name(self, node: int) -> str:
        """Outside name of a node that is not an endpoint."""
        s = self.shape
        index = node - s.endpoints
        nics = self.hosts * s.nics if s.nics < s.accelerators else 0
        if index < nics:
            return _mixed(index, "hn", (self.hosts, s.nics))
        index -= nics
        domains = -(-self.hosts // s.hosts_per_domain) if s.scale_up else 0
        if index < domains:
            return f"scale_up/d{index}"
        index -= domains
        if index < s.tors:
            return "tor/" + _mixed(index, "pt", (self.pods, s.tors_per_pod))
        index -= s.tors
        if index < self.pods * s.aggs:
            return "agg/" + _mixed(index, "pa", (self.pods, s.aggs))
        return "core/" + _mixed(index - self.pods * s.aggs, "ac", (s.aggs, s.cores))

    def link_name(self, link: int) -> str:
        """Outside name of a link."""
        first = self._first()
        kind = int(np.searchsorted(first, link, side="right")) - 1
        place = _mixed(link - first[kind], _LETTERS[kind], self._sizes(kind))
        return f"{LinkKind(kind).name.lower()}/{place}"

    def link_index(self, name: str) -> int:
        """Number of a link; `FabricError` with the nearest name for an unknown one."""
        first = self._first()
        kinds = {LinkKind(k).name.lower(): k for k in range(8) if first[k + 1] > first[k]}
        word, *parts = str(name).split("/")
        if word not in kinds:
            raise FabricError(unknown("link kind", word, kinds))
        kind = kinds[word]
        letters, sizes = _LETTERS[kind], self._sizes(kind)
        shaped = len(parts) == len(letters) and all(
            part[:1] == letter and part[1:].isascii() and part[1:].isdigit()
            for part, letter in zip(parts, letters, strict=False)
        )
        if not shaped:
            example = self.link_name(first[kind])
            raise FabricError(f"unknown link {name!r}; links of this kind are called like {example!r}")
        digits = [int(part[1:]) for part in parts]
        index = 0
        nearest = 0
        for digit, size in zip(digits, sizes, strict=True):
            index = index * size + digit
            nearest = nearest * size + min(digit, size - 1)
        in_range = all(digit < size for digit, size in zip(digits, sizes, strict=True))
        count = first[kind + 1] - first[kind]
        if not in_range or index >= count:
            guess = self.link_name(first[kind] + min(nearest, count - 1))
            raise FabricError(f"unknown link {name!r}; did you mean {guess!r}?")
        return first[kind] + index

    def reverse(self) -> NDArray[np.int32]:
        """The link that runs the other way, int32[L]."""
        first = self._first()
        order = [np.arange(first[k ^ 1], first[(k ^ 1) + 1], dtype=np.int32) for k in range(8)]
        return np.concatenate(order)

    def bisection_bandwidth(self, capacity: NDArray[np.float64]) -> float:
        """Half of the smallest tier that traffic between the halves must climb, bytes/s."""
        s = self.shape
        tiers = [capacity[s.nic_up0 : s.nic_down0].sum()]
        if s.tors > 1:
            tiers.append(capacity[s.tor_up0 : s.tor_down0].sum())
        if self.pods > 1:
            tiers.append(capacity[s.agg_up0 : s.agg_down0].sum())
        return float(min(tiers)) / 2

    # ---- paths -----------------------------------------------------------------------------------------

    @property
    def diameter(self) -> int:
        """Links of the longest shortest path."""
        return 6 if self.pods > 1 else 4 if self.shape.tors > 1 else 2

    def route(
        self,
        src: NDArray[np.int32],
        dst: NDArray[np.int32],
        choice: NDArray[np.uint64],
        network: Network,
        alive: NDArray[np.bool_],
        whole: NDArray[np.bool_],
    ) -> tuple[NDArray[np.int32], int]:
        """One live path per flow; see `Fabric.route`."""
        out = np.full((src.size, self.diameter), -1, np.int32)
        if network == "scale_up" and self._inside(src, dst, alive):
            moves = src != dst
            out[moves, 0] = self.shape.out0 + src[moves]
            out[moves, 1] = self.shape.in0 + dst[moves]
            return out, -1
        failed = _routes.route(self.shape, src, dst, choice, _NETWORK[network], alive, whole, out)
        return out, int(failed)

    def spread(
        self,
        src: NDArray[np.int32],
        dst: NDArray[np.int32],
        network: Network,
        weight: NDArray[np.float64],
        irregular: NDArray[np.bool_],
        split: NDArray[np.bool_],
    ) -> tuple[Spread | None, int]:
        """All live shortest paths at once; see `Fabric.spread`. ``split`` grows in place."""
        if network == "scale_out" and not irregular.any() and not split.any() and (weight > 0).all():
            return self._whole_bundles(src, dst, split), -1
        failed, ptr, row, fraction = _routes.spread(
            self.shape, src, dst, _NETWORK[network], weight, irregular, split
        )
        return (Spread(ptr, row, fraction, split), -1) if failed < 0 else (None, int(failed))

    # Where nothing is broken the answers are arithmetic on whole arrays; the kernels are for what is broken.

    def _inside(self, src: NDArray[np.int32], dst: NDArray[np.int32], alive: NDArray[np.bool_]) -> bool:
        """Whether every pair shares a scale-up domain and its two links live."""
        s = self.shape
        domain = s.accelerators * s.hosts_per_domain
        return bool(
            s.scale_up
            and (src // domain == dst // domain).all()
            and alive[s.out0 + src].all()
            and alive[s.in0 + dst].all()
        )

    def _whole_bundles(
        self, src: NDArray[np.int32], dst: NDArray[np.int32], split: NDArray[np.bool_]
    ) -> Spread:
        s = self.shape

        def locate(endpoint: NDArray[np.int32]) -> tuple[NDArray[np.int64], ...]:
            host, g = np.divmod(endpoint.astype(np.int64), s.accelerators)
            position = g * s.nics // s.accelerators
            tor = host // s.hosts_per_tor
            if s.rail:
                tor = tor * s.nics + position
            return host * s.nics + position, tor, tor // s.tors_per_pod

        nic, tor, pod = locate(src)
        to_nic, to_tor, to_pod = locate(dst)
        rows = np.stack(
            [
                s.nic_up0 + nic,
                s.tor_up_bundle0 + tor,
                s.agg_up_bundle0 + pod,
                s.agg_down_bundle0 + to_pod,
                s.tor_down_bundle0 + to_tor,
                s.nic_down0 + to_nic,
            ],
            axis=1,
        )
        moves, leaves, crosses = src != dst, tor != to_tor, pod != to_pod
        used = np.stack([moves, leaves, crosses, crosses, leaves, moves], axis=1)
        ptr = np.concatenate(([0], np.cumsum(used.sum(axis=1)))).astype(np.int64)
        return Spread(ptr, rows[used].astype(np.int32), np.ones(int(ptr[-1])), split)

    def why_unreachable(self, src: int, dst: int, network: Network, alive: NDArray[np.bool_]) -> str:
        """Half a sentence for `RouteError`."""
        s = self.shape
        domain = s.accelerators * s.hosts_per_domain
        within = bool(s.scale_up) and src // domain == dst // domain
        if network == "scale_up" and not s.scale_up:
            return "this fabric has no scale-up network"
        if network == "scale_up" and not within:
            return "they are in different scale-up domains"
        if within and network != "scale_out":
            ends = (s.out0 + src, s.in0 + dst)
        else:
            ends = (s.nic_up0 + self._nic(src), s.nic_down0 + self._nic(dst))
        for link in ends:
            if not alive[link]:
                return f"{self.link_name(link)} is down"
        return "every shortest path crosses a link that is down"

    def _nic(self, endpoint: int) -> int:
        host, g = divmod(endpoint, self.shape.accelerators)
        return host * self.shape.nics + g * self.shape.nics // self.shape.accelerators
