"""Routing rules of switch graphs: which paths between two switches may be used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from euston.errors import FabricError, unknown
from euston.fabrics._host_side import whole_number

__all__ = ["Routing", "RoutingKind", "routing_rule"]

RoutingKind = Literal["minimal", "valiant", "ugal", "detour", "k_shortest"]


@dataclass(frozen=True)
class Routing:
    """Which paths between two switches may be used.

    Attributes
    ----------
    kind : str
        ``minimal``: the least-cost paths. ``valiant``: a least-cost path to a switch (or group) picked at
        random, then one from there (Valiant 1982). ``ugal``: even numbers minimal, odd ones Valiant, so that
        numbers ``2 i`` and ``2 i + 1`` are a pair to decide between (`euston.fabrics.ugal`). ``detour``: also
        paths of one hop more. ``k_shortest``: the shortest loop-free paths, up to two hops above the least.
    paths : int
        Most paths of a pair under ``k_shortest``; else 0.
    intermediates : int
        Switches (or groups) a pair may turn at under ``valiant`` and ``ugal``; 0 for all.
    """

    kind: RoutingKind = "minimal"
    paths: int = 0
    intermediates: int = 0

    @property
    def excess(self) -> int:
        """Hops above the least that paths may have."""
        return {"detour": 1, "k_shortest": 2}.get(self.kind, 0)

    @property
    def turns(self) -> bool:
        """Whether paths may turn at an intermediate."""
        return self.kind in ("valiant", "ugal")


def routing_rule(
    kind: str, allowed: tuple[RoutingKind, ...], paths: int = 0, intermediates: int | None = None
) -> Routing:
    """Checked `Routing`; `FabricError` names the parameter."""
    known = [name for name in get_args(RoutingKind) if name in allowed]
    if kind not in known:
        raise FabricError(f"`routing`: {unknown('rule', str(kind), known)}")
    most = whole_number("paths", paths) if kind == "k_shortest" else 0
    turns = 0 if intermediates is None else whole_number("intermediates", intermediates)
    if turns and kind not in ("valiant", "ugal"):
        raise FabricError(f"`intermediates`: {kind} paths have none; use it with valiant or ugal")
    return Routing(kind, most, turns)  # type: ignore[arg-type]
