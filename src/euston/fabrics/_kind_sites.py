"""The kind ``sites`` of descriptions: whole sites, each described as a fabric of its own, joined by a WAN."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from euston.errors import BadInput, FabricError
from euston.fabrics.compose import compose
from euston.fabrics.fabric import Fabric
from euston.fabrics.kinds import Described, build
from euston.fabrics.wan import wan

__all__ = ["sites_kind"]

_PLACE = re.compile(r"`([^`]+)`: (.*)", re.DOTALL)


def sites_kind(
    sites: Mapping[str, Described],
    *,
    cables: Iterable[Sequence[Any]],
    tunnels: int = 4,
    weights: Sequence[float] | None = None,
    gateways: int = 1,
    gateway_bandwidth: str | float | None = None,
    scale_up: str | float | None = None,
    name: str = "sites",
) -> Fabric:
    """Sites joined by a WAN into one fabric; the last hosts of each stand for its gateway.

    Parameters
    ----------
    sites : mapping of str to mapping
        Sites of the WAN by name: kind and keys of a fabric, with its hosts and accelerators_per_host.
    cables : iterable of (a, b, bandwidth, round-trip time)
        Two sites, bandwidth each way, and the time there and back.
    tunnels : int
        Most tunnels of a pair of sites.
    weights : sequence of float, optional
        Parts of a pair's traffic on its shortest tunnel, the next, ...; equal when left out.
    gateways : int
        Hosts of each site that stand for its gateway.
    gateway_bandwidth : str or float, optional
        Bandwidth of a site's gateway towards the site, over all its ports; that of its NICs when left out.
    scale_up : str or float, optional
        Scale-up bandwidth of an accelerator at sites that say none.
    """
    net = wan(cables, tunnels=tunnels, weights=weights)
    made = {}
    for site, description in sites.items():
        values = dict(description)
        kind = str(values.pop("kind", ""))
        hosts, each = (values.pop(key, None) for key in ("hosts", "accelerators_per_host"))
        try:
            made[site] = build(
                kind, values, hosts=hosts, accelerators_per_host=each, name=site, scale_up=scale_up
            )
        except BadInput as error:
            place = _PLACE.fullmatch(str(error))
            where, words = (f".{place[1]}", place[2]) if place else ("", str(error))
            raise FabricError(f"`sites.{site}{where}`: {words}") from None
    return compose(made, net, gateways=gateways, gateway_bandwidth=gateway_bandwidth, name=name)
