"""What the Clos family knows in closed form: names, the reverse link, routes, bisection."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from euston.errors import FabricError, unknown
from euston.fabrics import _clos_hash, _routes
from euston.fabrics._routes import RAIL_PODS, Shape
from euston.fabrics.structure import LinkKind, Network, Spread, SwitchWord

__all__ = ["ClosStructure"]

Radix = tuple[tuple[str, int], ...]
"""Letters of a name with the number of values of each."""

_NETWORK = {"scale_out": _routes.SCALE_OUT, "scale_up": _routes.SCALE_UP, "auto": _routes.AUTO}


def _mixed(index: int, radix: Radix) -> str:
    """Digits of ``index`` in a mixed radix, slowest first: ``"p0/t3/a5"``."""
    parts = []
    for letter, size in reversed(radix):
        index, digit = divmod(index, size)
        parts.append(f"{letter}{digit}")
    return "/".join(reversed(parts))


# The kernels' own arithmetic, here on whole arrays. (Without the JIT it is a plain function already.)
_locate = getattr(_routes.locate, "py_func", _routes.locate)


@dataclass(frozen=True)
class ClosStructure:
    """Closed forms of one Clos fabric (implements `euston.fabrics.Structure`)."""

    shape: Shape
    hosts: int
    oversubscription: tuple[float, ...]
    words: tuple[str, ...] = tuple(LinkKind(k).name.lower() for k in range(8))
    """First words of the names of links, block by block."""

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

    def _radix(self, block: int) -> Radix:
        s = self.shape
        planes = (("plane", s.planes),) if s.planes > 1 else ()
        aggs = ("a", max(1, s.aggs // s.planes))
        if block <= LinkKind.SCALE_UP_IN:
            ports = (("plane", s.scale_up),) if s.scale_up > 1 else ()
            return (("h", self.hosts), ("g", s.accelerators), *ports)
        if block <= LinkKind.NIC_DOWN:
            return (("h", self.hosts), ("n", s.nics), *planes)
        if block <= LinkKind.TOR_DOWN:
            return (("p", self.pods), ("t", s.tors_per_pod), *planes, aggs)
        return (("p", self.pods), *planes, aggs, ("c", s.cores))

    # ---- names -----------------------------------------------------------------------------------------

    def describe(self) -> list[str]:
        """Lines that tell a person the shape."""
        s = self.shape
        lines = []
        if s.scale_up:
            planes = f" on {s.scale_up} planes" if s.scale_up > 1 else ""
            lines.append(f"  scale-up domain of {s.hosts_per_domain * s.accelerators} accelerators{planes}")
        if s.nics < s.accelerators:
            lines.append(f"  {s.nics} NICs per host, shared by {s.accelerators} accelerators")
        if s.planes > 1:
            lines.append(f"  {s.planes} planes, one port of every NIC on each; of each plane:")
        if s.rail:
            rails = s.nics * (s.hosts_per_domain if s.rail == RAIL_PODS else 1)
            lines.append(f"  segments of {s.hosts_per_tor} hosts with {rails} rails: {s.tors} leaves")
        else:
            lines.append(f"  {s.tors} ToRs of {s.hosts_per_tor} hosts")
        if s.aggs:
            ratio = f"{self.oversubscription[0]:g}:1"
            pods = "1 pod" if self.pods == 1 else f"{self.pods} pods"
            aggs = s.aggs // s.planes
            lines.append(f"  {pods} of {s.tors_per_pod} ToRs and {aggs} aggs, oversubscribed {ratio}")
        if s.cores:
            ratio = f"{self.oversubscription[1]:g}:1"
            aggs = s.aggs // s.planes
            lines.append(f"  {aggs * s.cores} cores in {aggs} planes, oversubscribed {ratio}")
        elif self.pods > 1:
            lines.append("  nothing joins the pods" + (": each is a rail" if s.rail == RAIL_PODS else ""))
        return lines

    def node_name(self, node: int) -> str:
        """Outside name of a node that is not an endpoint."""
        s = self.shape
        index = node - s.endpoints
        nics = self.hosts * s.nics if s.nics < s.accelerators else 0
        if index < nics:
            return _mixed(index, (("h", self.hosts), ("n", s.nics)))
        index -= nics
        domains = -(-self.hosts // s.hosts_per_domain) * s.scale_up
        if index < domains:
            domain, plane = divmod(index, s.scale_up)
            return f"scale_up/d{domain}" + (f"/plane{plane}" if s.scale_up > 1 else "")
        index -= domains
        pod, tor, *planes, agg = self._radix(LinkKind.TOR_UP)
        if index < s.tors * s.planes:
            return "tor/" + _mixed(index, (pod, tor, *planes))
        index -= s.tors * s.planes
        if index < self.pods * s.aggs:
            return "agg/" + _mixed(index, (pod, *planes, agg))
        return "core/" + _mixed(index - self.pods * s.aggs, (*planes, agg, ("c", s.cores)))

    def link_name(self, link: int) -> str:
        """Outside name of a link."""
        first = self._first()
        block = int(np.searchsorted(first, link, side="right")) - 1
        return f"{self.words[block]}/{_mixed(link - first[block], self._radix(block))}"

    def link_index(self, name: str) -> int:
        """Number of a link; `FabricError` with the nearest name for an unknown one."""
        first = self._first()
        blocks = {self.words[k]: k for k in range(8) if first[k + 1] > first[k]}
        word, *parts = str(name).split("/")
        if word not in blocks:
            raise FabricError(unknown("link kind", word, blocks))
        block = blocks[word]
        radix = self._radix(block)
        shaped = len(parts) == len(radix) and all(
            part.startswith(letter) and part[len(letter) :].isascii() and part[len(letter) :].isdigit()
            for part, (letter, _) in zip(parts, radix, strict=False)
        )
        if not shaped:
            example = self.link_name(first[block])
            raise FabricError(f"unknown link {name!r}; links of this kind are called like {example!r}")
        digits = [int(part[len(letter) :]) for part, (letter, _) in zip(parts, radix, strict=True)]
        index = 0
        nearest = 0
        for digit, (_, size) in zip(digits, radix, strict=True):
            index = index * size + digit
            nearest = nearest * size + min(digit, size - 1)
        in_range = all(digit < size for digit, (_, size) in zip(digits, radix, strict=True))
        count = first[block + 1] - first[block]
        if not in_range or index >= count:
            guess = self.link_name(first[block] + min(nearest, count - 1))
            raise FabricError(f"unknown link {name!r}; did you mean {guess!r}?")
        return first[block] + index

    def reverse(self) -> NDArray[np.int32]:
        """The link that runs the other way, int32[L]."""
        first = self._first()
        order = [np.arange(first[k ^ 1], first[(k ^ 1) + 1], dtype=np.int32) for k in range(8)]
        return np.concatenate(order)

    def bisection_bandwidth(self, capacity: NDArray[np.float64]) -> float:
        """Half of the smallest tier that traffic between the halves must climb, bytes/s.

        Where nothing joins the pods, each is halved.
        """
        s = self.shape
        tiers = [capacity[s.nic_up0 : s.nic_down0].sum()]
        if s.aggs and (min(s.tors, s.tors_per_pod) > 1 or (s.cores and self.pods > 1)):
            tiers.append(capacity[s.tor_up0 : s.tor_down0].sum())
        if s.cores and self.pods > 1:
            tiers.append(capacity[s.agg_up0 : s.agg_down0].sum())
        return float(min(tiers)) / 2

    # ---- paths -----------------------------------------------------------------------------------------

    @property
    def diameter(self) -> int:
        """Links of the longest shortest path."""
        s = self.shape
        if s.cores and self.pods > 1:
            return 6
        return 4 if s.aggs and min(s.tors, s.tors_per_pod) > 1 else 2

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
            return self._whole_bundles(src, dst, split)
        failed, ptr, row, fraction = _routes.spread(
            self.shape, src, dst, _NETWORK[network], weight, irregular, split
        )
        return (Spread(ptr, row, fraction, split), -1) if failed < 0 else (None, int(failed))

    # Where nothing is broken the answers are arithmetic on whole arrays; the kernels are for what is broken.

    def _inside(self, src: NDArray[np.int32], dst: NDArray[np.int32], alive: NDArray[np.bool_]) -> bool:
        """Whether every pair shares a scale-up domain of one plane and its two links live."""
        s = self.shape
        domain = s.accelerators * s.hosts_per_domain
        return bool(
            s.scale_up == 1
            and (src // domain == dst // domain).all()
            and alive[s.out0 + src].all()
            and alive[s.in0 + dst].all()
        )

    def _whole_bundles(
        self, src: NDArray[np.int32], dst: NDArray[np.int32], split: NDArray[np.bool_]
    ) -> tuple[Spread | None, int]:
        s = self.shape
        nic, tor, pod = _locate(s, src.astype(np.int64))
        to_nic, to_tor, to_pod = _locate(s, dst.astype(np.int64))
        rows = np.stack(
            [
                s.nic_up_bundle0 + nic,
                s.tor_up_bundle0 + tor,
                s.agg_up_bundle0 + pod,
                s.agg_down_bundle0 + to_pod,
                s.tor_down_bundle0 + to_tor,
                s.nic_down_bundle0 + to_nic,
            ],
            axis=1,
        )
        moves, leaves, crosses = src != dst, tor != to_tor, pod != to_pod
        apart = (crosses & (s.cores == 0)) | (leaves & (s.aggs == 0))
        if apart.any():
            return None, int(np.argmax(apart))
        used = np.stack([moves, leaves, crosses, crosses, leaves, moves], axis=1)
        ptr = np.concatenate(([0], np.cumsum(used.sum(axis=1)))).astype(np.int64)
        return Spread(ptr, rows[used].astype(np.int32), np.ones(int(ptr[-1])), split), -1

    def hashed_choice(
        self,
        src: NDArray[np.int32],
        dst: NDArray[np.int32],
        word: SwitchWord,
        alive: NDArray[np.bool_],
        whole: NDArray[np.bool_],
    ) -> NDArray[np.uint64]:
        """The ToR hashes to an agg and that agg to a core; see `euston.fabrics.structure.HashesPerSwitch`."""
        return _clos_hash.hashed_choice(self.shape, self._first_tor, src, dst, word, alive, whole)

    def live_paths(
        self,
        src: NDArray[np.int32],
        dst: NDArray[np.int32],
        alive: NDArray[np.bool_],
        whole: NDArray[np.bool_],
    ) -> NDArray[np.int64]:
        """How many live paths each pair has; see `euston.fabrics.structure.CountsPaths`."""
        return _clos_hash.live_paths(self.shape, src, dst, alive, whole)

    def live_scale_up_paths(
        self,
        src: NDArray[np.int32],
        dst: NDArray[np.int32],
        alive: NDArray[np.bool_],
        whole: NDArray[np.bool_],
    ) -> NDArray[np.int64]:
        """How many live paths each pair has within its scale-up domain."""
        return _clos_hash.live_scale_up_paths(self.shape, src, dst, alive)

    def injection_bandwidth(self, capacity: NDArray[np.float64]) -> NDArray[np.float64]:
        """Bytes/s of all ports of each endpoint's NIC, shared with others on it, float64[endpoints]."""
        s = self.shape
        nic, _, _ = _locate(s, np.arange(s.endpoints))
        rate = capacity[s.nic_up0 : s.nic_down0].reshape(-1, s.planes).sum(axis=1)
        return np.asarray(rate[nic] / np.bincount(nic)[nic])

    @property
    def rails(self) -> int:
        """Number of rails; 0 where NICs do not hang on rails."""
        s = self.shape
        return (0, s.nics, s.nics * s.hosts_per_domain)[s.rail]

    @property
    def rail_unit(self) -> int:
        """Accelerators that together have one NIC on every rail."""
        s = self.shape
        return s.accelerators * (s.hosts_per_domain if s.rail == RAIL_PODS else 1)

    @property
    def _first_tor(self) -> int:
        """Node number of ToR 0; the aggs follow the ToRs."""
        s = self.shape
        nics = self.hosts * s.nics if s.nics < s.accelerators else 0
        return s.endpoints + nics + -(-self.hosts // s.hosts_per_domain) * s.scale_up

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
            ports = [s.out0 + src * s.scale_up, s.in0 + dst * s.scale_up]
            planes = s.scale_up
        else:
            if self._apart(src, dst):
                return "nothing joins their " + ("rails" if s.rail == RAIL_PODS else "pods")
            ports = [s.nic_up0 + self._nic(src) * s.planes, s.nic_down0 + self._nic(dst) * s.planes]
            planes = s.planes
        for port in ports:
            if not alive[port : port + planes].any():
                name = self.link_name(port)
                if planes > 1:
                    name = f"every plane of {name.rpartition('/')[0]}"
                return f"{name} is down"
        return "every shortest path crosses a link that is down"

    def _apart(self, src: int, dst: int) -> bool:
        """Whether two endpoints are on parts of the fabric that nothing joins."""
        s = self.shape
        _, tor, pod = _locate(s, np.array([src, dst]))
        return bool(tor[0] != tor[1] and (not s.aggs or (pod[0] != pod[1] and not s.cores)))

    def _nic(self, endpoint: int) -> int:
        host, g = divmod(endpoint, self.shape.accelerators)
        return host * self.shape.nics + g * self.shape.nics // self.shape.accelerators
