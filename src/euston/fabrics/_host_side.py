"""The host side of fabrics whose switches form a graph: accelerators, scale-up domains, NICs and their names.

Link numbers: scale-up out and in of every endpoint (where there is a scale-up network), then up and down of
every NIC; what joins the switches follows. Each of these is a bundle of one link under its own number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from euston import units
from euston.errors import FabricError, unknown
from euston.fabrics.structure import LinkKind, NodeKind

__all__ = ["HostOptions", "HostSide", "HostTiming", "host_side", "whole_number"]

_KINDS = ("scale_up_out", "scale_up_in", "nic_up", "nic_down")


class HostOptions(TypedDict, total=False):
    """Options that all builders of switch graphs share.

    Attributes
    ----------
    hosts : int
        Hosts, switch after switch; all that fit when left out.
    accelerators_per_host : int
        1 when left out. Endpoint ``g`` of host ``h`` is number ``h * accelerators_per_host + g``.
    nics_per_host : int
        One per accelerator when left out; else endpoint ``g`` uses NIC ``g * nics // accelerators``. All NICs
        of a host hang on one switch.
    scale_up : str or float
        Bandwidth of one accelerator into the scale-up network per direction; no such network when left out.
    hosts_per_domain : int
        Hosts on one scale-up switch; 1 when left out.
    scale_up_latency, nic_latency : str or float
        Per link, either direction; 500 ns, an assumption and not a measurement.
    buffer : str or float
        Bytes of every switch queue; 0 (not described) when left out.
    name : str
        Of the fabric; the builder's own name when left out.
    """

    hosts: int
    accelerators_per_host: int
    nics_per_host: int
    scale_up: str | float | None
    hosts_per_domain: int
    scale_up_latency: str | float
    nic_latency: str | float
    buffer: str | float
    name: str


def whole_number(what: str, value: int, least: int = 1) -> int:
    """``value`` as an int; `FabricError` for what is no whole number, or below ``least``."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise FabricError(f"`{what}`: {value!r} is not a whole number")
    if value < least:
        raise FabricError(f"`{what}`: {value} is too few; it must be {least} or more")
    return int(value)


@dataclass(frozen=True, eq=False)
class HostSide:
    """Hosts and what they hang on.

    Attributes
    ----------
    hosts, accelerators, nics : int
        Hosts; accelerators and NICs of each.
    hosts_per_domain : int
        Hosts on one scale-up switch; 0 where there is no scale-up network.
    host_switch : int32[hosts]
        Switch (0 to n - 1) of each host.
    """

    hosts: int
    accelerators: int
    nics: int
    hosts_per_domain: int
    host_switch: NDArray[np.int32]

    @property
    def endpoints(self) -> int:
        """Number of accelerators."""
        return self.hosts * self.accelerators

    @property
    def domains(self) -> int:
        """Number of scale-up switches."""
        return -(-self.hosts // self.hosts_per_domain) if self.hosts_per_domain else 0

    @property
    def first(self) -> list[int]:
        """First link of each kind, and the number of links."""
        up = self.endpoints if self.hosts_per_domain else 0
        nics = self.hosts * self.nics
        return [0, up, 2 * up, 2 * up + nics, 2 * up + 2 * nics]

    @property
    def node_counts(self) -> dict[NodeKind, int]:
        """Nodes of each kind, in the order of their numbers; NICs only where accelerators share them."""
        shared = self.hosts * self.nics if self.nics < self.accelerators else 0
        return {
            NodeKind.ENDPOINT: self.endpoints,
            NodeKind.NIC: shared,
            NodeKind.SCALE_UP_SWITCH: self.domains,
        }

    def ends(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Nodes at both ends of every link, int64 each."""
        counts = list(self.node_counts.values())
        first_switch = sum(counts)
        e, n = np.arange(self.endpoints), np.arange(self.hosts * self.nics)
        domain = self.accelerators * self.hosts_per_domain
        port = n + counts[0] if counts[1] else n
        switch = first_switch + self.host_switch[n // self.nics].astype(np.int64)
        pairs = [(port, switch)]
        if domain:
            pairs.insert(0, (e, counts[0] + counts[1] + e // domain))
        src = [end for low, high in pairs for end in (low, high)]
        dst = [end for low, high in pairs for end in (high, low)]
        return np.concatenate(src), np.concatenate(dst)

    def kinds(self) -> NDArray[np.uint8]:
        """`LinkKind` of every link."""
        return np.repeat(np.arange(4, dtype=np.uint8), np.diff(self.first))

    def reverse(self) -> NDArray[np.int32]:
        """The link that runs the other way, int32[links]."""
        first = self.first
        return np.concatenate([np.arange(first[k ^ 1], first[(k ^ 1) + 1], dtype=np.int32) for k in range(4)])

    # ---- places ----------------------------------------------------------------------------------------

    def nic(self, endpoint: NDArray[np.int32]) -> NDArray[np.int64]:
        """NIC of each endpoint, int64[F]."""
        host, g = np.divmod(endpoint.astype(np.int64), self.accelerators)
        return host * self.nics + g * self.nics // self.accelerators

    def switch(self, endpoint: NDArray[np.int32]) -> NDArray[np.int32]:
        """Switch of each endpoint, int32[F]."""
        return self.host_switch[endpoint // self.accelerators]

    def within(self, src: NDArray[np.int32], dst: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Whether both ends share a scale-up domain, bool[F]."""
        domain = self.accelerators * self.hosts_per_domain
        if not domain:
            return np.zeros(src.size, bool)
        return np.asarray(src // domain == dst // domain)

    # ---- names -----------------------------------------------------------------------------------------

    def node_name(self, node: int) -> str:
        """Outside name of a NIC or a scale-up switch."""
        counts = list(self.node_counts.values())
        index = node - counts[0]
        if index < counts[1]:
            host, n = divmod(index, self.nics)
            return f"h{host}/n{n}"
        return f"scale_up/d{index - counts[1]}"

    def link_name(self, link: int) -> str:
        """``"nic_up/h17/n3"``, ``"scale_up_in/h0/g2"``."""
        first = self.first
        kind = int(np.searchsorted(first, link, side="right")) - 1
        host, index = divmod(link - first[kind], self.accelerators if kind < LinkKind.NIC_UP else self.nics)
        return f"{_KINDS[kind]}/h{host}/{'g' if kind < LinkKind.NIC_UP else 'n'}{index}"

    @property
    def words(self) -> list[str]:
        """First words of the names of the links there are."""
        first = self.first
        return [word for kind, word in enumerate(_KINDS) if first[kind + 1] > first[kind]]

    def link_index(self, name: str) -> int:
        """Number of a link whose first word is one of ``words``; `FabricError` with the nearest name."""
        word, *parts = name.split("/")
        kind = _KINDS.index(word)
        each = self.accelerators if kind < LinkKind.NIC_UP else self.nics
        first = self.first[kind]
        letters = "hg" if kind < LinkKind.NIC_UP else "hn"
        digits = [
            int(part[1:])
            for part, letter in zip(parts, letters, strict=False)
            if part[:1] == letter and part[1:].isascii() and part[1:].isdigit()
        ]
        if len(parts) != 2 or len(digits) != 2:
            example = self.link_name(first)
            raise FabricError(f"unknown link {name!r}; links of this kind are called like {example!r}")
        host, index = min(digits[0], self.hosts - 1), min(digits[1], each - 1)
        if [host, index] != digits:
            guess = self.link_name(first + host * each + index)
            raise FabricError(f"unknown link {name!r}; did you mean {guess!r}?")
        return first + host * each + index

    def describe(self) -> list[str]:
        """Lines that tell a person the shape."""
        lines = []
        if self.hosts_per_domain:
            lines.append(f"  scale-up domain of {self.hosts_per_domain * self.accelerators} accelerators")
        if self.nics < self.accelerators:
            lines.append(f"  {self.nics} NICs per host, shared by {self.accelerators} accelerators")
        return lines


@dataclass(frozen=True)
class HostTiming:
    """Rates, latencies and queues of the host side, SI."""

    nic: float
    scale_up: float
    nic_latency: float
    scale_up_latency: float
    buffer: int
    name: str


def host_side(
    builder: str,
    nic: str | float,
    hosts_per_switch: NDArray[np.int64] | int,
    switches: int,
    options: HostOptions,
    *,
    ports: str | None = None,
) -> tuple[HostSide, HostTiming]:
    """Check the shared options of a builder and hang its hosts on the switches.

    Parameters
    ----------
    builder : str
        Name of the fabric when the options give none.
    hosts_per_switch : int or int64[switches]
        Hosts below each switch; with ``ports`` the NIC ports below each switch.
    ports : str, optional
        Name of the parameter that counts NIC ports.

    Raises
    ------
    FabricError, UnitError
        Naming the option.
    """
    for key in options:
        if key not in HostOptions.__annotations__:
            raise FabricError(f"`{builder}`: {unknown('option', key, HostOptions.__annotations__)}")
    acc = whole_number("accelerators_per_host", options.get("accelerators_per_host", 1))
    nics = whole_number("nics_per_host", options.get("nics_per_host", acc))
    if nics > acc:
        raise FabricError(
            f"`nics_per_host`: {nics} NICs for {acc} accelerators; give {acc} NICs their bandwidth"
        )
    room = np.broadcast_to(np.asarray(hosts_per_switch, np.int64), (switches,))
    if ports is not None:
        odd = room[room % nics != 0]
        if odd.size:
            near = max(1, round(int(odd[0]) / nics)) * nics
            raise FabricError(
                f"`{ports}`: {odd[0]} NIC ports do not hold whole hosts of {nics} NICs; nearest {near}"
            )
        room = room // nics
    most = int(room.sum())
    hosts = whole_number("hosts", options.get("hosts", most))
    if hosts > most:
        raise FabricError(f"`hosts`: {hosts} hosts do not fit; the switches hold {most}")
    if hosts * acc >= 2**31:
        raise FabricError(f"`hosts`: {hosts * acc:,} accelerators are too many; at most {2**31 - 1:,}")
    host_switch = np.repeat(np.arange(switches, dtype=np.int32), room)[:hosts]
    rate = options.get("scale_up")
    per_domain = whole_number("hosts_per_domain", options.get("hosts_per_domain", 1))
    side = HostSide(hosts, acc, nics, 0 if rate is None else per_domain, host_switch)
    timing = HostTiming(
        nic=units.bandwidth(nic, positive=True, where="nic"),
        scale_up=0.0 if rate is None else units.bandwidth(rate, positive=True, where="scale_up"),
        nic_latency=units.duration(options.get("nic_latency", "500 ns"), where="nic_latency"),
        scale_up_latency=units.duration(options.get("scale_up_latency", "500 ns"), where="scale_up_latency"),
        buffer=int(units.data(options.get("buffer", 0.0), where="buffer")),
        name=options.get("name", builder),
    )
    return side, timing
