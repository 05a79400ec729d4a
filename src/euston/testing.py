"""Conformance tests that a third party's plug-in can run too: learn one room and you know all of them.

No room imports this module.
"""

from __future__ import annotations

from contextlib import suppress
from typing import cast

import numpy as np
from numpy.typing import NDArray

from euston.collectives import Algorithm, group_of
from euston.collectives.base import COLLECTIVES
from euston.compression import Codec, NonFinite, StepKey
from euston.compression import Payload as CodecPayload
from euston.errors import ConfigError, EustonError, RouteError
from euston.fabrics import Fabric, LinkKind, NodeKind, clos
from euston.network.allocation import AllocationPolicy, Allocator, Place, QueuePlan, TransferInfo
from euston.network.allocation.base import MAX_QUEUES
from euston.network.balancing import (
    Balancing,
    ChoosesAtStart,
    PathChoice,
    PathMode,
    Spread,
    StartRule,
    delivered,
)

__all__ = ["PolicyError", "check_policy"]


class PolicyError(EustonError):
    """A policy breaks its room's contract; the message says which part of it."""


def check_policy(policy: object) -> None:
    """Check a policy against its room's protocol.

    Parameters
    ----------
    policy : Balancing, AllocationPolicy, Codec or collective Algorithm
        Other kinds of policies follow with their rooms.

    Raises
    ------
    PolicyError
        Naming the promise that is broken.
    """
    if hasattr(policy, "spread"):
        _check_balancing(cast(Balancing, policy))
        return
    if hasattr(policy, "begin"):
        _check_allocation(cast(AllocationPolicy, policy))
        return
    if hasattr(policy, "expected_vnmse"):
        _check_codec(cast(Codec, policy))
        return
    if hasattr(policy, "messages"):
        _check_algorithm(cast(Algorithm, policy))
        return
    raise PolicyError(
        f"{policy!r} is no policy that this version knows; a balancing policy has `spread`, an allocation "
        "policy `begin`, a codec `expected_vnmse`, a collective algorithm `messages`"
    )


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
    with suppress(ConfigError):  # settings that packets do not know
        packet = policy.packet
        known = isinstance(packet, PathChoice) and packet.mode in list(PathMode)
        _require(
            known and 1 <= packet.entropies <= 2**16 and 0 <= packet.gap < np.inf,
            policy,
            "`packet` must be a `PathChoice`",
        )
    share = delivered(policy, fabric)
    _require(
        share.shape == (fabric.links,) and (share > 0).all() and (share <= 1).all(),
        policy,
        "`delivered` must be a share of every link, above 0 and at most 1",
    )
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
    _check_candidates(policy, fabric, src, dst, None)
    _check_candidates(policy, fabric, src, dst, alive)
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
    nodes = fabric.node_kind.size
    for f in range(n):
        s = slice(spread.ptr[f], spread.ptr[f + 1])
        rows = np.bincount(spread.row[s], weights=spread.fraction[s], minlength=fabric.rows)
        load = fabric.link_load(np.asarray(rows, np.float64))
        gained = np.bincount(fabric.link_dst, weights=load, minlength=nodes)
        gained = gained - np.bincount(fabric.link_src, weights=load, minlength=nodes)
        switch = fabric.node_kind > NodeKind.NIC  # a NIC may stand for its endpoint
        _require(
            np.allclose(gained[switch], 0.0, atol=1e-9),
            policy,
            "what a flow brings into a switch must leave it again",
        )


def _check_candidates(
    policy: Balancing,
    fabric: Fabric,
    src: NDArray[np.int32],
    dst: NDArray[np.int32],
    alive: NDArray[np.bool_] | None,
) -> None:
    if not isinstance(policy, ChoosesAtStart):
        return
    capacity = np.array(fabric.capacity) if alive is None else np.where(alive, fabric.capacity, 0.0)
    found = policy.candidates(fabric, src, dst, alive=alive, capacity=capacity)
    if found is None:
        return
    n = src.size
    many = np.diff(found.ptr)
    _require(
        found.ptr.shape == (n + 1,) and (many >= 1).all() and found.spread.ptr.size == found.ptr[-1] + 1,
        policy,
        "`candidates` must hold one path or more of each flow",
    )
    flow = np.repeat(np.arange(n), many)
    _check_spread(policy, fabric, src[flow], dst[flow], found.spread, alive)
    _require(
        found.rule in list(StartRule) and found.gap >= 0,
        policy,
        "candidates need a `StartRule` and a gap >= 0",
    )
    key = src.astype(np.int64) * fabric.endpoints + dst
    pairs = np.unique(np.stack((key, found.pair), axis=1), axis=0)
    _require(
        pairs.shape[0] == np.unique(key).size == np.unique(found.pair).size,
        policy,
        "`pair` must be equal for flows between the same endpoints, and for no others",
    )
    usual = policy.spread(fabric, src, dst, alive=alive, capacity=capacity)
    for f in range(n):
        first = slice(found.spread.ptr[found.ptr[f]], found.spread.ptr[found.ptr[f] + 1])
        own = slice(usual.ptr[f], usual.ptr[f + 1])
        _require(
            sorted(found.spread.row[first]) == sorted(usual.row[own]),
            policy,
            "a flow's first candidate must be what `spread` gives it",
        )


def _transfers(fabric: Fabric) -> list[TransferInfo]:
    """Forty transfers of three owners with the links that they may use."""
    rng = np.random.default_rng(1)
    src = rng.integers(0, fabric.endpoints, 40).astype(np.int32)
    dst = ((src + rng.integers(1, fabric.endpoints, 40)) % fabric.endpoints).astype(np.int32)
    found = []
    for i in range(src.size):
        pair = src[i : i + 1], dst[i : i + 1]
        links = np.unique([fabric.route(*pair, np.full(1, choice, np.uint64)) for choice in range(4)])
        found.append(
            TransferInfo(
                number=i,
                job=("a", "b", "")[i % 3],
                kind=("data", "pipeline")[i % 2],
                bytes=float(rng.integers(1, 10**8)),
                src=pair[0],
                dst=pair[1],
                links=links[links >= 0].astype(np.int32),
            )
        )
    return found


def _play(
    policy: AllocationPolicy, allocator: Allocator, fabric: Fabric, transfers: list[TransferInfo]
) -> list[object]:
    """All that the policy answers while transfers start, one each millisecond, and end some time later."""
    last = np.random.default_rng(2).integers(1, 20, len(transfers)).tolist()
    events = [(i, False, i) for i in range(len(transfers))]
    events += [(i + lasts, True, i) for i, lasts in enumerate(last)]
    queues = allocator.plan.queues
    said: list[object] = [_plan(policy, allocator.plan, queues, fabric, set())]
    running: set[int] = set()
    wake = np.inf
    for ms, ends, i in sorted(events):
        time, transfer = ms * 1e-3, transfers[i]
        if wake <= time:
            plan = allocator.replan(wake)
            wake = np.inf
            said.append(None if plan is None else _plan(policy, plan, queues, fabric, running))
        if ends:
            running.discard(i)
            answer = allocator.ended(time, transfer)
        else:
            said.append(_placed(policy, allocator.place(transfer), queues))
            running.add(i)
            answer = allocator.started(time, transfer)
        _require(answer >= time, policy, "`started` and `ended` must answer with a time from now on, or inf")
        wake = min(wake, answer)
        said.append(answer)
    return said


def _placed(policy: AllocationPolicy, place: Place, queues: int) -> tuple[float, ...]:
    inside = 0 <= place.queue < queues and 0 <= place.priority < MAX_QUEUES
    _require(inside, policy, "`place` must give a queue that the plan has and a priority of 0 to 255")
    _require(0 < place.factor < np.inf, policy, "the factor of a place must be positive and finite")
    return tuple(place)


def _plan(
    policy: AllocationPolicy, plan: QueuePlan, queues: int, fabric: Fabric, running: set[int]
) -> tuple[object, ...]:
    _require(isinstance(plan, QueuePlan), policy, "a plan must be a `QueuePlan`")
    _require(plan.queues == queues, policy, "the number of queues must not change during a run")
    _require((plan.links < fabric.links).all(), policy, "a plan names a link that is not there")
    _require(set(plan.moves) <= running, policy, "only running transfers may move")
    moves = sorted((who, _placed(policy, place, queues)) for who, place in plan.moves.items())
    return plan.weights.tolist(), plan.links.tolist(), plan.link_weights.tolist(), moves


def _check_allocation(policy: AllocationPolicy) -> None:
    fabric = _small_fabric()
    _require(isinstance(policy.name, str) and policy.name, policy, "`name` must be a non-empty text")
    _require(isinstance(policy.dynamic, bool), policy, "`dynamic` must be true or false")
    jobs, kinds = ("a", "b", ""), ("data", "pipeline")
    transfers = _transfers(fabric)
    said = _play(policy, policy.begin(fabric, jobs, kinds), fabric, transfers)
    # Another run in between, stopped half way, must leave no trace.
    half = policy.begin(fabric, jobs, kinds)
    for transfer in transfers[:7]:
        half.place(transfer)
        half.started(0.0, transfer)
    again = _play(policy, policy.begin(fabric, jobs, kinds), fabric, transfers)
    _require(said == again, policy, "`begin` must start afresh: the same run must give the same answers")
    if policy.dynamic:
        return
    _require(
        all(answer == np.inf for answer in said if isinstance(answer, float)),
        policy,
        "a policy that is not dynamic has nothing to plan: `started` and `ended` answer inf",
    )
    allocator = policy.begin(fabric, jobs, kinds)
    for transfer in transfers:
        bare = TransferInfo(job=transfer.job, kind=transfer.kind)
        _require(
            allocator.place(transfer) == allocator.place(bare),
            policy,
            "a policy that is not dynamic places by job, kind and marks alone",
        )


def _check_codec(codec: Codec) -> None:
    _require(isinstance(codec.name, str) and codec.name, codec, "`name` must be a non-empty text")
    d, steps = 5000, 20
    fed_back = codec.unbiased or codec.expected_vnmse(d) < 1.0
    _require(fed_back, codec, "it must be unbiased, or err by less than the vector itself")
    x = np.random.default_rng(0).standard_normal(d).astype(np.float32)
    error, mean = 0.0, np.zeros(d)
    for step in range(steps):
        key = StepKey(job=7, step=step)
        payload = codec.encode(x, key)
        _require(len(bytes(payload)) == codec.bytes(d), codec, "`bytes` must say the exact size of a payload")
        got = codec.decode(payload)
        _require(got.dtype == np.float32 and got.shape == (d,), codec, "`decode` must give float32[d]")
        error += float(((got - x) ** 2).sum() / (x**2).sum()) / steps
        mean += got / steps
    more = error > 1.15 * codec.expected_vnmse(d) + 1e-12
    _require(not more, codec, f"it errs by {error:.4g}, more than it says")
    if codec.unbiased:
        left = float(((mean - x) ** 2).sum() / (x**2).sum())
        near = left <= 1.5 * error / steps + 1e-12
        _require(near, codec, "`unbiased`: the mean of decodings must approach x")
    again = CodecPayload.empty(codec, d, key)
    for j in range(len(payload)):
        again.place(j, payload.packet(j))
    _require((codec.decode(again) == got).all(), codec, "packets placed one by one must decode to the same")
    same = bytes(codec.encode(x, key)) == bytes(codec.encode(x.copy(), key))
    _require(same or codec.name == "power_sgd", codec, "the same vector and key must give the same bytes")
    nothing = codec.decode(payload, np.zeros(len(payload), np.bool_), lost="zero")
    _require(not nothing.any(), codec, "no packets and `lost='zero'` must decode to zero")
    zero = codec.decode(codec.encode(np.zeros(d, np.float32), key))
    _require(not zero.any(), codec, "zero must decode to zero")
    x[d // 2] = np.nan
    try:
        codec.encode(x, StepKey(name="layer.weight"))
    except NonFinite as refused:
        _require("layer.weight" in str(refused), codec, "the refusal of NaN must name the bucket")
    else:
        raise PolicyError(f"{type(codec).__name__}: NaN must be refused")


def _check_algorithm(algorithm: Algorithm) -> None:
    """Transfers and messages move the same bytes between the same ranks, and nothing waits for itself."""
    group, size = group_of(np.arange(8), np.arange(8) // 4), 8e6
    _require(algorithm.collectives, algorithm, "names no collective that it does")
    for kind in COLLECTIVES:
        if kind not in algorithm.collectives:
            refused = False
            try:
                algorithm.stages(kind, group, size)
            except ConfigError:
                refused = True
            _require(refused, algorithm, f"does {kind}, which it does not name")
            continue
        sums = np.zeros((2, 8, 8))
        for stage in algorithm.stages(kind, group, size):
            for transfer in stage.transfers:
                np.add.at(sums[0], (transfer.src, transfer.dst), transfer.bytes)
        for i, message in enumerate(algorithm.messages(kind, group, size)):
            np.add.at(sums[1], (message.transfer.src, message.transfer.dst), message.transfer.bytes)
            later = [n for n in (*message.after_sent, *message.after_arrival) if not 0 <= n < i]
            _require(not later, algorithm, f"{kind}: message {i} waits for {later}, which is not before it")
        _require(
            np.allclose(sums[0], sums[1], rtol=1e-9), algorithm, f"{kind}: messages and transfers differ"
        )
        _require(sums[0].sum() > 0, algorithm, f"{kind}: moves nothing")
