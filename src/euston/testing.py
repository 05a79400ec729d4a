"""Conformance tests that a third party's plug-in can run too: learn one room and you know all of them.

No room imports this module.
"""

from __future__ import annotations

from typing import cast

import numpy as np
from numpy.typing import NDArray

from euston.errors import EustonError, RouteError
from euston.fabrics import Fabric, LinkKind, clos
from euston.network.balancing import Balancing, Spread

__all__ = ["PolicyError", "check_policy"]


class PolicyError(EustonError):
    """A policy breaks its room's contract; the message says which part of it."""


def check_policy(policy: object) -> None:
    """Check a policy against its room's protocol.

    Parameters
    ----------
    policy : Balancing
        Other kinds of policies follow with their rooms.

    Raises
    ------
    PolicyError
        Naming the promise that is broken.
    """
    if hasattr(policy, "spread"):
        _check_balancing(cast(Balancing, policy))
        return
    raise PolicyError(f"{policy!r} is no policy that this version knows; a balancing policy has `spread`")


def _require(condition: object, policy: object, message: str) -> None:
    if not condition:
        raise PolicyError(f"{type(policy).__name__}: {message}")


def _small_fabric() -> Fabric:
    return clos(
        16, 2, nic=50e9, hosts_per_tor=2, tors_per_pod=2, aggs_per_pod=2, cores_per_agg=2, scale_up=450e9
    )


def _check_balancing(policy: Balancing) -> None:
    fabric = _small_fabric()
    _require(isinstance(policy.name, str) and policy.name, policy, "`name` must be a non-empty text")
    rng = np.random.default_rng(0)
    src = rng.integers(0, fabric.endpoints, 64).astype(np.int32)
    dst = ((src + rng.integers(1, fabric.endpoints, 64)) % fabric.endpoints).astype(np.int32)
    capacity = np.array(fabric.capacity)
    whole = policy.spread(fabric, src, dst, alive=None, capacity=capacity)
    _check_spread(policy, fabric, src, dst, whole, None)
    again = policy.spread(fabric, src, dst, alive=None, capacity=capacity)
    same = (whole.row.tolist(), whole.fraction.tolist()) == (again.row.tolist(), again.fraction.tolist())
    _require(same, policy, "the same call must give the same answer twice (seeded, no hidden state)")
    # One of two uplinks of the first ToR is dead: its flows must find the other.
    dead = int(np.flatnonzero(fabric.kind == LinkKind.TOR_UP)[0])
    alive = np.ones(fabric.links, bool)
    alive[dead] = False
    broken = policy.spread(fabric, src, dst, alive=alive, capacity=np.where(alive, capacity, 0.0))
    _check_spread(policy, fabric, src, dst, broken, alive)
    # Links of one bundle will change one by one: nobody may use the bundle as a whole.
    split = np.zeros(fabric.bundles, bool)
    split[fabric.bundle[dead]] = True
    named = policy.spread(fabric, src, dst, alive=None, capacity=capacity, split=split)
    _check_spread(policy, fabric, src, dst, named, None)
    heard = named.split[split].all() and not (named.row == fabric.bundle[dead]).any()
    _require(heard, policy, "a bundle of `split` must be used link by link")
    # An endpoint cut off: an error that names the pair, never a path.
    alone = np.array([src[0]], np.int32), np.array([dst[0]], np.int32)
    links = fabric.route(*alone, np.zeros(1, np.uint64))[0]
    alive = np.ones(fabric.links, bool)
    alive[links[0]] = False
    try:
        policy.spread(fabric, *alone, alive=alive, capacity=np.where(alive, capacity, 0.0))
    except RouteError:
        return
    _require(False, policy, "a pair without a live path must raise RouteError")


def _check_spread(
    policy: Balancing,
    fabric: Fabric,
    src: NDArray[np.int32],
    dst: NDArray[np.int32],
    spread: Spread,
    alive: NDArray[np.bool_] | None,
) -> None:
    n = src.size
    _require(spread.ptr.shape == (n + 1,), policy, f"`ptr` must have {n + 1} entries for {n} flows")
    _require((spread.fraction > 0).all(), policy, "fractions must be positive")
    _require((spread.row < fabric.bundles + fabric.links).all(), policy, "a row does not exist")
    bundle = np.where(
        spread.row < fabric.bundles, spread.row, fabric.bundle[np.maximum(spread.row - fabric.bundles, 0)]
    )
    single = spread.row >= fabric.bundles
    _require(spread.split[bundle[single]].all(), policy, "a single link is used in a bundle not marked split")
    lone = np.diff(fabric.bundle_start)[bundle] == 1
    _require(
        (~spread.split[bundle[~single & ~lone]]).all(),
        policy,
        "a whole bundle is used though it is marked split",
    )
    if alive is not None:
        used = spread.row[single] - fabric.bundles
        _require(alive[used].all(), policy, "a dead link is used")
    kind = fabric.kind[fabric.bundle_start[:-1]][bundle]
    flow = np.repeat(np.arange(n), np.diff(spread.ptr))
    for tier in np.unique(kind):
        total = np.bincount(flow[kind == tier], weights=spread.fraction[kind == tier], minlength=n)
        crossed = total > 0
        _require(
            np.allclose(total[crossed], 1.0, atol=1e-9),
            policy,
            f"fractions of a flow on tier {LinkKind(int(tier)).name} must sum to 1",
        )
    ends = np.bincount(flow[kind == LinkKind.NIC_UP], minlength=n)
    _require((ends[src != dst] >= 1).all(), policy, "a flow must leave through a NIC")
