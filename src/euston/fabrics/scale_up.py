"""Scale-up networks by themselves: accelerators on planes of switches (NVL72, CloudMatrix384)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from euston.errors import FabricError
from euston.fabrics._clos_structure import ClosStructure, Radix
from euston.fabrics._host_side import whole_number
from euston.fabrics.clos import clos
from euston.fabrics.fabric import Fabric
from euston.fabrics.structure import LinkKind, Network, NodeKind, Spread

__all__ = ["scale_up"]

_KINDS = np.array(
    [0, 1, LinkKind.SCALE_UP_OUT, LinkKind.SCALE_UP_IN, LinkKind.SCALE_UP_RISE, LinkKind.SCALE_UP_FALL],
    np.uint8,
)


@dataclass(frozen=True)
class ScaleUpStructure(ClosStructure):
    """A Clos whose pods are scale-up domains: it has no other network, whichever is asked for."""

    words: tuple[str, ...] = (
        "", "", "scale_up_out", "scale_up_in", "scale_up_rise", "scale_up_fall", "", "",
    )  # fmt: skip

    def describe(self) -> list[str]:
        """Lines that tell a person the shape."""
        s = self.shape
        size = min(s.endpoints, s.tors_per_pod * s.hosts_per_tor * s.accelerators)
        lines = [f"  {self.pods} scale-up domain{'s' * (self.pods > 1)} of {size} accelerators"]
        second = f" below {s.aggs // s.planes} of a second tier" if s.aggs else ""
        switches = f"{s.tors_per_pod} switch{'es' * (s.tors_per_pod > 1)}"
        lines.append(f"  {s.planes} plane{'s' * (s.planes > 1)}, each of {switches} of a domain{second}")
        return lines

    def _radix(self, block: int) -> Radix:
        letters = {"p": "d", "t": "s", "n": "g", "a": "t"}
        return tuple((letters.get(letter, letter), size) for letter, size in super()._radix(block))

    def node_name(self, node: int) -> str:
        """Outside name of a node that is not an endpoint."""
        tier, _, place = super().node_name(node).partition("/")
        return f"scale_up{1 if tier == 'tor' else 2}/{place}"

    def domains(self) -> NDArray[np.int32]:
        """Number of each endpoint's domain, int32[endpoints]."""
        s = self.shape
        size = s.tors_per_pod * s.hosts_per_tor * s.accelerators
        return (np.arange(s.endpoints) // size).astype(np.int32)

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
        return super().route(src, dst, choice, "scale_out", alive, whole)

    def spread(
        self,
        src: NDArray[np.int32],
        dst: NDArray[np.int32],
        network: Network,
        weight: NDArray[np.float64],
        irregular: NDArray[np.bool_],
        split: NDArray[np.bool_],
    ) -> tuple[Spread | None, int]:
        """All live paths at once; see `Fabric.spread`. ``split`` grows in place."""
        return super().spread(src, dst, "scale_out", weight, irregular, split)

    def live_scale_up_paths(
        self,
        src: NDArray[np.int32],
        dst: NDArray[np.int32],
        alive: NDArray[np.bool_],
        whole: NDArray[np.bool_],
    ) -> NDArray[np.int64]:
        """How many live paths each pair has."""
        return self.live_paths(src, dst, alive, whole)

    def why_unreachable(self, src: int, dst: int, network: Network, alive: NDArray[np.bool_]) -> str:
        """Half a sentence for `RouteError`."""
        if self._apart(src, dst):
            return "they are in different scale-up domains"
        return super().why_unreachable(src, dst, "scale_out", alive)


def scale_up(
    hosts: int,
    accelerators_per_host: int = 8,
    *,
    bandwidth: str | float,
    planes: int = 1,
    hosts_per_domain: int | None = None,
    hosts_per_switch: int | None = None,
    spines: int = 0,
    oversubscription: float = 1.0,
    latency: str | float = "500 ns",
    buffer: str | float = 0.0,
    name: str = "scale_up",
) -> Fabric:
    """Accelerators on switch planes and nothing else; every plane takes an equal part of their bandwidth.

    An NVL72 has 18 planes of one switch, a CloudMatrix384 7 planes, each of a switch per host and 16 above
    these. Flows spread over all live planes. Whichever network is asked for, this is the one there is.

    Parameters
    ----------
    hosts, accelerators_per_host : int
        Endpoint ``g`` of host ``h`` is number ``h * accelerators_per_host + g``.
    bandwidth : str or float
        Of one accelerator per direction, over all planes.
    planes : int
        Networks side by side, which meet nowhere else.
    hosts_per_domain : int, optional
        Hosts of one scale-up domain; all when left out. Nothing joins domains.
    hosts_per_switch : int, optional
        Hosts on one switch of each plane; those of a domain when left out.
    spines : int
        Switches above these in each plane of a domain; 0 where one switch holds a domain.
    oversubscription : float
        Down : up bandwidth of a switch below the spines.
    latency : str or float
        Of each link, either direction. The default is an assumption, not a measurement.
    buffer : str or float
        Bytes of every switch queue; 0: not described.

    Raises
    ------
    FabricError, UnitError
        Naming the parameter.
    """
    hosts = whole_number("hosts", hosts)
    domain = hosts if hosts_per_domain is None else whole_number("hosts_per_domain", hosts_per_domain)
    below = domain if hosts_per_switch is None else whole_number("hosts_per_switch", hosts_per_switch)
    if domain % below:
        near = max(1, round(domain / below))
        raise FabricError(
            f"`hosts_per_switch`: {below} does not divide the {domain} hosts of a domain; {near} switches "
            f"would hold {-(-domain // near)} each"
        )
    if below < domain and not whole_number("spines", spines, 0):
        raise FabricError(f"`spines`: 0, but {domain // below} switches of a domain must reach each other")
    made = clos(
        hosts,
        accelerators_per_host,
        nic=bandwidth,
        hosts_per_tor=below,
        tors_per_pod=domain // below,
        aggs_per_pod=spines if below < domain else 0,
        oversubscription=(oversubscription, 1.0),
        planes=planes,
        nic_latency=latency,
        tor_latency=latency,
        buffer=buffer,
        name=name,
        pods_apart=True,
    )
    base = made.structure
    assert isinstance(base, ClosStructure)
    switch = made.node_kind != NodeKind.ENDPOINT
    return replace(
        made,
        node_kind=np.where(switch, NodeKind.SCALE_UP_SWITCH, made.node_kind).astype(np.uint8),
        kind=_KINDS[made.kind],
        structure=ScaleUpStructure(base.shape, base.hosts, base.oversubscription),
    )
