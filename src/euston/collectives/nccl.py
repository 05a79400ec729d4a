"""Which algorithm and protocol NCCL would take: the one with the least latency + bytes / bandwidth.

Constants of NCCL's own cost model (tuning.cc and topo.h, 2.2x), in its three protocols LL, LL128 and Simple:
latencies at the start, per step over NVLink and per step over the network; bandwidths as parts of the ring's.
None is fitted here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from euston.collectives.base import Group, Hop
from euston.collectives.in_network import EFFICIENCY
from euston.errors import ConfigError

__all__ = ["PROTOCOLS", "Choice", "choose", "link_rate", "options"]

PROTOCOLS = ("LL", "LL128", "Simple")

# Microseconds: before the first step; per step inside a host; per step over the network.
_BASE = {"ring": (6.6, 14.0, 8.4), "tree": (6.8, 14.0, 8.4)}
_INSIDE = {"ring": (0.6, 1.9, 3.4), "tree": (0.6, 1.25, 4.0)}
_BETWEEN = {"ring": (2.7, 4.0, 14.0), "tree": (5.0, 8.5, 14.0)}
_NVLS = 25.0
_PLATEAU = 1.4  # a ring over hosts with Simple, from 64 KiB for every 16 ranks on

# Part of the ring's bandwidth; LL also ends at so many bytes/s inside one Hopper host.
_SHARE = (0.5, 0.92, 1.0)
_LL_MOST = 141e9
_TREE = 0.92

# Trees fall short of the model at medium sizes: factors for 64 B, 128 B, ... (tuning.cc).
_TREE_SHORT = (
    (1.0, 1.0, 1.0, 1.0, 0.9, 0.8, 0.7, 0.7, 0.7, 0.7, 0.6, 0.5, 0.4, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
    (1.0, 1.0, 1.0, 1.0, 1.0, 0.9, 0.8, 0.8, 0.8, 0.7, 0.6, 0.6, 0.6, 0.5, 0.6, 0.6, 0.7, 0.7, 0.8, 0.9, 0.9),
    (0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.8, 0.7, 0.6, 0.6, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.6, 0.6, 0.7, 0.8,
     0.9),
)  # fmt: skip

# NVLink bandwidth that NCCL reckons with over the datasheet's, by generation: 20.0 of 25 GB/s per link
# (sm80), 20.6 of 25 (sm90), 40.1 of 50 (sm100) (topo.h).
LINK_SHARE = {"ampere": 20.0 / 25.0, "hopper": 20.6 / 25.0, "blackwell": 40.1 / 50.0}
NVLS_MORE_THAN = {"hopper": 4, "blackwell": 5}
"""Ranks above which the in-switch reduction was seen to be chosen (stas00/ml-engineering, network)."""


def link_rate(scale_up_bandwidth: float, generation: str) -> float:
    """Bytes/s of a rank's scale-up links that NCCL reckons with."""
    return scale_up_bandwidth * LINK_SHARE[generation]


@dataclass(frozen=True)
class Choice:
    """An algorithm, its protocol, and what the model says they take.

    Attributes
    ----------
    latency : float
        Seconds, all steps included.
    base, inside, between : float
        Seconds before the first step, and of each step inside a domain and between domains.
    share : float
        Part of the links' rate that the protocol reaches.
    seconds : float
        For the bytes asked for.
    """

    algorithm: str
    protocol: str
    latency: float
    base: float
    inside: float
    between: float
    share: float
    seconds: float

    def applied(self, group: Group) -> Group:
        """The group with the protocol's latencies and rates."""
        hops = (
            Hop(self.inside, group.inside.rate * self.share),
            Hop(self.between, group.between.rate * self.share),
        )
        return Group(group.ranks, group.domain, *hops, group.tag)


def options(collective: str, group: Group, nbytes: float, generation: str = "hopper") -> list[Choice]:
    """Every choice there is with its time, the quickest first.

    Parameters
    ----------
    group : Group
        ``inside.rate``: what `link_rate` says; ``between.rate``: of the NIC of each rank.
    generation : "ampere" | "hopper" | "blackwell"
        Ampere has no reduction in the switch.

    Raises
    ------
    ConfigError
        When a rate is missing, or for a collective that it does not model.
    """
    n, domains = len(group), group.domains
    if collective not in ("all_reduce", "all_gather", "reduce_scatter"):
        raise ConfigError(f"`algorithm`: NCCL's model has no choice for {collective}; name an algorithm")
    if not math.isfinite(group.inside.rate if domains < n else group.between.rate):
        raise ConfigError("`algorithm`: auto needs the rates of messages; give `inside` and `between`")
    if generation not in LINK_SHARE:
        raise ConfigError(f"`generation`: {generation!r} is none of {', '.join(LINK_SHARE)}")
    passes = 2 if collective == "all_reduce" else 1
    steps, far = passes * (n - 1), passes * (domains - 1)
    local = n / domains
    ring = group.inside.rate if domains == 1 else group.between.rate * local
    if 1 < domains < n:
        ring = min(ring, group.inside.rate)
    found = []
    for p, protocol in enumerate(PROTOCOLS):
        rate = ring * _SHARE[p]
        if protocol == "LL" and domains == 1:
            rate = min(rate, _LL_MOST)
        for algorithm in ("ring", "tree") if collective == "all_reduce" else ("ring",):
            inside, between = _INSIDE[algorithm][p] * 1e-6, _BETWEEN[algorithm][p] * 1e-6
            base = _BASE[algorithm][p] * 1e-6
            share = rate / ring
            if algorithm == "ring":
                latency = base + (steps - far) * inside + far * between
                if protocol == "Simple" and domains > 1 and nbytes >= n / 16 * 65536 and passes == 2:
                    latency *= _PLATEAU
                seconds = latency + nbytes * steps / n / rate
            else:
                latency = base + 2 * ((local - 1) * inside + math.log2(domains) * between)
                short = _TREE_SHORT[p]
                at = max(0, int(math.log2(max(nbytes / 64, 1.0))))
                share *= _TREE * (short[at] if at < len(short) else 1.0)
                seconds = latency + nbytes * 2 / (ring * share)
            found.append(Choice(algorithm, protocol, latency, base, inside, between, share, seconds))
    if collective == "all_reduce" and generation in EFFICIENCY and local > NVLS_MORE_THAN[generation]:
        found.append(_in_network(group, nbytes, generation))
    return sorted(found, key=lambda choice: choice.seconds)


def _in_network(group: Group, nbytes: float, generation: str) -> Choice:
    """M + M/g through the switch; over several domains, at the same time, shards on the rails."""
    domains = group.domains
    g = len(group) // domains
    base = _NVLS * 1e-6
    between = _BETWEEN["ring"][2] * 1e-6
    rate = group.inside.rate * EFFICIENCY[generation]
    if domains == 1:
        return Choice("in-network", "Simple", base, base, 0.0, 0.0, 1.0, base + nbytes * (1 + 1 / g) / rate)
    latency = base + 2 * (domains - 1) * between
    rails = 2 * (domains - 1) / domains * nbytes / g / group.between.rate
    seconds = latency + max(nbytes * (1 + 1 / g) / rate, rails)
    return Choice("in-network", "Simple", latency, base, 0.0, between, 1.0, seconds)


def choose(collective: str, group: Group, nbytes: float, generation: str = "hopper") -> Choice:
    """The quickest of `options`."""
    return options(collective, group, nbytes, generation)[0]
