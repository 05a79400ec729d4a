"""Who sends to whom inside groups of ranks: rings that use every NIC, and all pairs."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Edges", "channel_rings", "domains", "pairs", "rail_pairs", "rings", "ring_in_order"]

Ints = NDArray[np.int32]


class Edges(NamedTuple):
    """Members of one coupled transfer per group: ``src``, ``dst`` int32[groups, edges].

    ``share`` is the part of what a rank sends that one of its edges carries: 1 / rings, or 1 / peers.
    """

    src: Ints
    dst: Ints
    share: float


def domains(domain: Ints) -> NDArray[np.int64]:
    """Distinct values in each row of int32[groups, n], int64[groups]."""
    ordered = np.sort(domain, axis=1)
    return np.asarray(1 + (ordered[:, 1:] != ordered[:, :-1]).sum(axis=1), np.int64)


def channel_rings(group: Ints, domain: Ints) -> tuple[Ints, Ints, int]:
    """Edges of the rings over ``group`` (int32[n]), and the number of rings.

    With g ranks in every scale-up domain there are g rings that visit domain after domain, each entering and
    leaving through another rank, so that all NICs of a host carry an equal part (NCCL's channels). With one
    rank per domain, or unequal numbers, there is one ring in rank order.
    """
    order = np.argsort(domain, kind="stable")
    members = group[order]
    _, counts = np.unique(domain, return_counts=True)
    g = int(counts[0])
    if counts.size == 1 or g == 1 or (counts != g).any():
        ring = members if counts.size > 1 and (counts == counts[0]).all() else group
        return ring, np.roll(ring, -1), 1
    local = members.reshape(-1, g)
    found = np.stack([np.roll(local, -k, axis=1).reshape(-1) for k in range(g)])
    return found.reshape(-1), np.roll(found, -1, axis=1).reshape(-1), g


def rings(groups: Ints, domain_of: Ints) -> Edges:
    """Rings over every group, int32[groups, n].

    A group inside one scale-up domain is one ring in rank order. Groups that span domains use all their NICs,
    see `channel_rings`; if groups differ in how they span them, each is one ring.
    """
    domain = domain_of[groups]
    if not (domain == domain[:, :1]).all():
        found = [channel_rings(group, where) for group, where in zip(groups, domain, strict=True)]
        if len({n for _, _, n in found}) == 1:
            return Edges(
                np.stack([src for src, _, _ in found]),
                np.stack([dst for _, dst, _ in found]),
                1.0 / found[0][2],
            )
    return ring_in_order(groups)


def ring_in_order(groups: Ints) -> Edges:
    """One ring per group: every rank sends to the next one."""
    return Edges(groups, np.roll(groups, -1, axis=1), 1.0)


def pairs(groups: Ints) -> Edges:
    """Every rank of a group sends to every other."""
    n = groups.shape[1]
    src, dst = np.nonzero(~np.eye(n, dtype=bool))
    return Edges(groups[:, src], groups[:, dst], 1.0 / max(n - 1, 1))


def rail_pairs(groups: Ints, domain_of: Ints) -> tuple[Edges | None, Edges | None]:
    """Pairs between scale-up domains and pairs inside them, for an all-to-all in two hops.

    Between domains a rank sends to the ranks of the same number in the other domains (its rail), which pass
    on what is for others; None where groups lie in one domain. Where groups lie differently on domains, or
    unevenly, there are no rails: all pairs stand in the first place, and None in the second.
    """
    domain = domain_of[groups]
    # Position of the first rank of the same domain: equal rows are equal patterns.
    label = (domain[:, :, None] == domain[:, None, :]).argmax(axis=2)
    pattern = label[0]
    _, counts = np.unique(pattern, return_counts=True)
    if counts.size == 1 and (label == pattern).all():
        return None, pairs(groups)
    if (label != pattern).any() or (counts != counts[0]).any():
        return pairs(groups), None
    number = np.array([int((pattern[:i] == pattern[i]).sum()) for i in range(pattern.size)])
    same = pattern[:, None] == pattern[None, :]
    rail = (number[:, None] == number[None, :]) & ~same
    inside = same & ~np.eye(pattern.size, dtype=bool)
    src, dst = np.nonzero(rail)
    out = Edges(groups[:, src], groups[:, dst], 1.0 / (counts.size - 1))
    if counts[0] == 1:
        return out, None
    src, dst = np.nonzero(inside)
    return out, Edges(groups[:, src], groups[:, dst], 1.0 / (int(counts[0]) - 1))
