"""Requests and a deployment become the kernel's state; stores that run full are made larger."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from euston.errors import ConfigError
from euston.serving import _state as k
from euston.serving._index import V_UP
from euston.serving._kernel import rehash
from euston.serving._random import uniform
from euston.serving.deployment import (
    EVICTIONS,
    ROUTERS,
    TIER_ADMISSIONS,
    Deployment,
    Engine,
    Pool,
)
from euston.serving.requests import Requests

__all__ = ["build", "grow"]

# shape of a step, order of the queue, what admission reserves
_PRESETS: dict[str, tuple[Any, Any, Any]] = {
    "vllm_v1": (k.SH_MIXED, k.OR_FCFS, k.RS_NEED),
    "sarathi": (k.SH_DECODE_FIRST, k.OR_FCFS, k.RS_PROMPT),
    "prefill_first": (k.SH_PREFILL_FIRST, k.OR_FCFS, k.RS_PROMPT),
    "orca": (k.SH_MIXED, k.OR_FCFS, k.RS_ALL),
    "static": (k.SH_STATIC, k.OR_FCFS, k.RS_ALL),
    "priority": (k.SH_MIXED, k.OR_PRIORITY, k.RS_NEED),
    "sjf": (k.SH_MIXED, k.OR_SJF, k.RS_NEED),
    "edf": (k.SH_MIXED, k.OR_EDF, k.RS_NEED),
    "fair": (k.SH_MIXED, k.OR_FAIR, k.RS_NEED),
}
_UNLIMITED = 2**40
_POINTS = 64  # virtual nodes of a replica on the ring of consistent hashing
_I64 = np.int64


def _plain(function: Any) -> Any:
    """The Python body of a kernel helper."""
    return getattr(function, "py_func", function)


def _trace(requests: Requests) -> k.Trace:
    n = len(requests)
    fix_i = np.zeros((n + 1, 5), _I64)
    fix_f = np.zeros((n, 5))
    fix_i[:, k.X_IDS] = requests.blocks_ptr
    ids = requests.block_ids
    if requests.image_ids.size:
        fix_i[0, k.X_IMAGES], fix_i[1:, k.X_IMAGES] = ids.size, ids.size + np.cumsum(requests.n_images)
        ids = np.concatenate((ids, requests.image_ids))
    owner = np.repeat(np.arange(n), np.diff(requests.after_ptr))
    by_target = np.argsort(requests.after, kind="stable")
    fix_i[1:, k.X_SUCC] = np.cumsum(np.bincount(requests.after, minlength=n)[:n])
    fix_i[1:, k.X_TOKENS] = np.cumsum(requests.out_tok)
    fix_i[:n, k.X_SESSION] = requests.session
    fix_f[:, k.Y_ARRIVE] = requests.arrival_s
    fix_f[:, k.Y_THINK] = requests.think_s
    fix_f[:, k.Y_PRIORITY] = requests.priority
    fix_f[:, k.Y_PREDICTED] = requests.predicted_out
    fix_f[:, k.Y_DEADLINE] = requests.deadline_s
    roots = np.flatnonzero(np.diff(requests.after_ptr) == 0)
    return k.Trace(
        fix_i, fix_f, np.require(ids, _I64, ["C", "W"]),
        owner[by_target].astype(np.int32), roots.astype(np.int32),
    )  # fmt: skip


def _work(requests: Requests, block: int, ratio: int, record: bool) -> k.Work:
    n = len(requests)
    req = np.zeros((n, k.REQ), np.int32)
    aux = np.zeros((n, k.AUX), np.int32)
    req[:, k.IN] = req[:, k.KNOWN] = requests.in_tok
    req[:, k.OUT] = requests.out_tok
    req[:, k.KLASS] = requests.klass
    req[:, k.RANK] = -1
    if requests.block_size:
        named = np.diff(requests.blocks_ptr) * ratio
        req[:, k.NAMED] = np.minimum(named, requests.named_tok // block)
    aux[:, k.PENDING] = np.diff(requests.after_ptr)
    aux[:, k.HITS] = -1
    aux[:, k.D_RANK] = -1
    aux[:, k.IMAGES] = requests.n_images
    when = np.full((n, k.WHEN), np.inf)
    when[:, k.W_ARRIVAL] = np.nan
    when[:, k.W_LAST] = np.nan
    when[:, k.W_WORST] = 0.0
    return k.Work(
        req, aux, when, np.full((n, 3), -1, np.int32), np.zeros((n, 2)), np.zeros(n, np.int32),
        np.zeros(k.BINS, _I64), np.full(int(requests.out_tok.sum()) if record else 0, np.nan),
    )  # fmt: skip


def _prefill_token_seconds(pool: Pool) -> float:
    """Seconds of one prompt token in a full step: what routers and load-or-recompute reckon with."""
    curve = pool.step.tokens
    full = min(pool.engine.max_num_batched_tokens, max(curve.size - 1, 1))
    step = pool.step.breakdown([full], [0])
    return max(step["gpu"] - step["prefill"], 0.0) / full


def _pool_row(
    pool: Pool, dep: Deployment, index: int, first: int, ratio: int, classes: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    e, r = pool.engine, pool.router
    row, real = np.zeros(k.POOL_I, _I64), np.zeros(k.POOL_F)
    shape, order, reserve = _PRESETS[e.scheduler]
    whole = e.scheduler in ("orca", "static")
    encodes = pool.role == "encode"
    values: dict[Any, Any] = {
        k.P_FIRST: first, k.P_RANKS: pool.replicas, k.P_GROUP: pool.lockstep, k.P_PP: pool.pipeline,
        k.P_SHAPE: shape, k.P_ORDER: order,
        k.P_RESERVE: k.RS_PROMPT if encodes else reserve,
        k.P_BUDGET: _UNLIMITED if whole else e.max_num_batched_tokens, k.P_SEQS: e.max_num_seqs,
        k.P_BLOCK: pool.image_tokens if encodes else e.block_size,
        k.P_CHUNKED: e.chunked and not whole and e.scheduler != "prefill_first",
        k.P_LONG: e.long_prefill_threshold, k.P_SWAP: e.preemption == "swap",
        k.P_PREFIX: e.prefix_cache, k.P_IDS: k.X_IMAGES if encodes else k.X_IDS, k.P_LEN: e.max_model_len,
        k.P_EVICT: EVICTIONS.index(e.eviction) if e.prefix_cache else k.EV_FIFO,
        k.P_SPEC: 0 if e.speculation is None else e.speculation.draft,
        k.P_MARK: int(e.margin * e.num_blocks), k.P_ASYNC: e.asynchronous,
        k.P_ROUTER: ROUTERS.index(r.policy), k.P_RATIO: 1 if encodes else ratio,
        k.P_OVERLAP: pool.load_overlap,
        k.P_RULE: pool.load_if_faster, k.P_NEXT: index + 1 if index + 1 < len(dep.pools) else -1,
        k.P_INDEX: r.policy in ("prefix_aware", "kv_aware", "slo_aware"), k.P_QUEUE_CAP: r.queue_cap,
        k.P_CLASSES: classes if e.scheduler == "fair" else 1, k.P_LAYERS: pool.layers,
        k.P_ADMIT: TIER_ADMISSIONS.index(pool.tier_admission), k.P_ENCODES: encodes,
        k.P_HANDS: pool.role == "prefill", k.P_FIRST_HERE: dep.transport.first_token == "prefill",
        k.P_LAYERWISE: dep.transport.layerwise, k.P_NETWORK: dep.transport.network == "fluid",
        k.P_ALIVE: pool.replicas, k.P_REFUSE: r.refuse, k.P_ROOM: _room(pool, dep),
    }  # fmt: skip
    for column, value in values.items():
        row[column] = value
    token = _prefill_token_seconds(pool)
    block = int(row[k.P_BLOCK])
    pair = float(np.median(pool.step.prefill.seconds))
    reals: dict[Any, float] = {
        k.F_DELAY: dep.information_delay, k.F_MATCH: r.match, k.F_QUEUE: r.queue, k.F_KV: r.kv,
        k.F_ABS: r.absolute, k.F_REL: r.relative, k.F_OVERLAP: r.overlap, k.F_TEMPERATURE: r.temperature,
        k.F_BOUND: r.bound, k.F_BYTES: pool.kv_bytes_per_token, k.F_SWAP_RATE: e.swap_bandwidth,
        k.F_COST_A: token * block, k.F_COST_B: pair * block * block, k.F_TOKEN_S: token,
        k.F_INDEX_CAP: r.index_blocks, k.F_EMBED: pool.embedding_bytes, k.F_IMAGE_TOKENS: pool.image_tokens,
        k.F_LATENCY: dep.transport.latency, k.F_PER_BLOCK: dep.transport.per_block,
        k.F_RATE: pool.bandwidth or dep.transport.bandwidth,
        k.F_VTC_IN: e.fair_weights[0], k.F_VTC_OUT: e.fair_weights[1],
        k.F_TTL: r.ttl, k.F_ENCODE: 0.0 if encodes else pool.image_seconds,
    }  # fmt: skip
    for column, value in reals.items():
        real[column] = value
    return row, real


def _room(pool: Pool, dep: Deployment) -> int:
    """Images whose embeddings a rank of a pool holds."""
    each = dep.pools[0].image_tokens if dep.pools[0].role == "encode" else 1
    return max(1, pool.embedding_tokens // each) if pool.embedding_tokens else _UNLIMITED


def _acceptance(e: Engine, classes: int) -> NDArray[np.float64]:
    if e.speculation is None:
        return np.zeros(0)
    given = np.atleast_2d(np.asarray(e.speculation.acceptance, np.float64))
    if not ((given >= 0) & (given <= 1)).all() or given.shape[0] not in (1, classes):
        raise ConfigError(
            f"speculation.acceptance must be chances 0 to 1, one row or one for each of {classes} classes"
        )
    if given.shape[1] not in (1, e.speculation.draft):
        raise ConfigError(f"speculation.acceptance needs 1 or {e.speculation.draft} chances per row")
    return np.ravel(np.broadcast_to(given, (classes, e.speculation.draft)))


def _ring(first: int, replicas: int) -> NDArray[np.int64]:
    """Points of the replicas on the ring, sorted."""
    draw = _plain(uniform)
    with np.errstate(over="ignore"):
        points = [
            (int(draw(1, rank, j) * 2**53), rank)
            for rank in range(first, first + replicas)
            for j in range(_POINTS)
        ]
    return np.array(sorted(points), _I64).reshape(-1, 2)


def _ratio(requests: Requests, dep: Deployment) -> int:
    block = next(p for p in dep.pools if p.role != "encode").engine.block_size
    named = any(p.engine.prefix_cache for p in dep.pools if p.role != "encode")
    if not requests.block_size or not named:
        return 1
    if requests.block_size % block:
        raise ConfigError(
            f"engine.block_size {block} does not divide the {requests.block_size} tokens that one block id "
            "of the requests names; choose a divisor"
        )
    return requests.block_size // block


def build(requests: Requests, dep: Deployment, *, seed: int, record: bool) -> k.State:
    """The kernel's state at time 0."""
    n, pools, ranks = len(requests), len(dep.pools), dep.ranks
    block = next(p for p in dep.pools if p.role != "encode").engine.block_size
    ratio = _ratio(requests, dep)
    classes = int(requests.klass.max(initial=0)) + 1
    if (requests.n_images > 0).any() and dep.pools[0].role == "encode" and pools < 2:
        raise ConfigError("an 'encode' pool needs a pool behind it")
    rows, reals, tables, rings = [], [], [], []
    rank_i = np.zeros((ranks, k.RANK_I), _I64)
    units: list[tuple[int, int, int, int]] = []
    slots: list[tuple[int, int]] = []
    roots, places, first, at, ring_at = 0, 0, 0, 0, 0
    stores: list[tuple[int, float, float, int]] = []  # capacity, bandwidth, latency, concurrency
    up = np.full(ranks, -1, _I64)
    chain: list[int] = []  # next store of each store
    for j, pool in enumerate(dep.pools):
        row, real = _pool_row(pool, dep, j, first, ratio, classes)
        table, accept = pool.step.packed(), _acceptance(pool.engine, classes)
        row[k.P_TABLE], row[k.P_ACCEPT] = at, at + table.size
        at += table.size + accept.size
        tables += [table, accept]
        ring = (
            _ring(first, pool.replicas)
            if pool.router.policy == "session_affinity"
            else np.zeros((0, 2), _I64)
        )
        row[k.P_RING], row[k.P_RING_N] = ring_at, ring.shape[0]
        ring_at += ring.shape[0]
        rings.append(ring)
        mine = np.arange(first, first + pool.replicas)
        queues = int(row[k.P_CLASSES])
        rank_i[mine, k.R_POOL] = j
        rank_i[mine, k.R_CAP] = rank_i[mine, k.R_FREE] = pool.engine.num_blocks
        rank_i[mine, k.R_ROOM] = row[k.P_ROOM]
        rank_i[mine, k.R_BASE] = places + np.arange(pool.replicas) * pool.engine.max_num_seqs
        rank_i[mine, k.R_ROOT] = roots + np.arange(pool.replicas) * queues
        rank_i[mine, k.R_UNIT] = len(units) + np.arange(pool.replicas) // pool.lockstep
        places += pool.replicas * pool.engine.max_num_seqs
        roots += pool.replicas * queues
        for u in range(pool.replicas // pool.lockstep):
            units.append((j, first + u * pool.lockstep, len(slots), 0))
            slots += [(-1, len(units) - 1)] * pool.pipeline
        before: list[int] | None = None
        for tier in pool.tiers:
            start = len(stores)
            count = -(-pool.replicas // tier.ranks)
            stores += [(tier.blocks, tier.bandwidth, tier.latency, tier.concurrency)] * count
            chain += [-1] * count
            here = [start + i // tier.ranks for i in range(pool.replicas)]
            for i, store in enumerate(here):
                if before is None:
                    up[first + i] = ranks + store
                else:
                    chain[before[i]] = ranks + store
            before = here
        rows.append(row)
        reals.append(real)
        first += pool.replicas
    pool_i = np.stack(rows)
    pool_i[:, k.P_TIERS] = ranks
    pool_i[:, k.P_STATION] = len(stores)
    pool_i[:, k.P_HELD] = roots + np.arange(pools)
    pool_i[:, k.P_ASKING] = roots + pools
    rank_i[:, k.R_ALIVE] = k.A_UP
    fleet = k.Fleet(
        pool_i, np.stack(reals), np.concatenate(tables), rank_i, np.array(units, _I64).reshape(-1, 4),
        np.zeros((len(units), 4)), np.array(slots, _I64).reshape(-1, 2), np.zeros(len(slots)),
        np.zeros((places, 4), np.int32), np.full(roots + pools + ranks, -1, _I64),
        np.zeros(roots + pools),
        np.zeros(2 * len(units) + 64, np.int32),
    )  # fmt: skip
    counters, now = np.zeros(k.COUNTERS, _I64), np.zeros(16)
    now[k.Q_GAP] = -1.0
    now[k.Q_BUCKET] = now[k.Q_BUCKET_MOST] = dep.admission_burst
    now[k.Q_BUCKET_RATE] = dep.admission_rate
    cache = _cache(dep, pool_i, up, stores, chain, counters, now)
    # the clock of a station that is infinitely fast would not go on
    out = [min(pool.bandwidth or dep.transport.bandwidth, 1e30) for pool in dep.pools]
    senders = [
        (0, rate, 0.0, 2**31) for rate, pool in zip(out, dep.pools, strict=True) for _ in range(pool.replicas)
    ]
    stations = np.array([*stores, *senders], np.float64).reshape(-1, 4)
    station_i = np.full((len(stations), 6), -1, _I64)
    station_i[:, k.T_ACTIVE] = 0
    station_i[:, k.T_MOST] = stations[:, 3]
    station_f = np.zeros((len(stations), 4))
    station_f[:, k.T_RATE], station_f[:, k.T_LATENCY] = stations[:, 1], stations[:, 2]
    seqs = max(p.engine.max_num_seqs * p.lockstep for p in dep.pools)
    # What one event can use up: nodes of a unit's blocks and what they push down, entries of an index, jobs.
    named = int(np.diff(requests.blocks_ptr).max(initial=0)) * ratio + int(requests.n_images.max(initial=0))
    largest = max(p.engine.num_blocks * p.lockstep for p in dep.pools)
    # Embeddings of any number of requests may set out at once.
    pictures = int((requests.n_images > 0).sum()) if dep.pools[0].role == "encode" else 0
    counters[k.I_SLACK] = (
        pictures + largest * (2 if stores else 1) + 2 * named + seqs * ((len(stores) > 0 and 4) or 1) + 64
    )
    counters[k.I_SEED], counters[k.I_RECORD], counters[k.I_LIMIT] = seed, record, requests.concurrency
    counters[k.I_NODE] = counters[k.I_JOB] = -1
    seen = np.zeros((ranks, 8))
    seen[:, V_UP] = 1.0
    state = k.State(
        _trace(requests),
        _work(requests, block, ratio, record),
        fleet,
        cache,
        k.Loads(station_i, station_f, np.zeros((0, 3), np.int32), np.zeros((0, 2))),
        k.Clock(
            np.zeros((4 * (n + len(slots) + ranks) + 4096, 4)), np.zeros((2 * seqs + pictures + 64, 7)),
            counters, now, seen, np.concatenate(rings),
        ),
    )  # fmt: skip
    return _furnish(grow(state), dep)


def _cache(
    dep: Deployment,
    pool_i: NDArray[np.int64],
    up: NDArray[np.int64],
    stores: list[tuple[int, float, float, int]],
    chain: list[int],
    i: NDArray[np.int64],
    now: NDArray[np.float64],
) -> k.Cache:
    ranks = up.size
    homes = 2 * ranks + len(stores) + len(dep.pools)
    home = np.full((homes, 8), -1, _I64)
    home[:, k.H_SIZE] = home[:, k.H_ANON] = home[:, k.H_LOGS] = 0
    home[:ranks, k.H_UP] = up
    for j, store in enumerate(stores):
        home[ranks + j, k.H_CAP], home[ranks + j, k.H_UP] = store[0], chain[j]
    for row in pool_i:
        mine = slice(row[k.P_FIRST], row[k.P_FIRST] + row[k.P_RANKS])
        home[mine, k.H_LOGS] = row[k.P_INDEX] and row[k.P_ROUTER] != k.RT_PREFIX and row[k.P_PREFIX]
    return k.Cache(
        np.zeros((0, 8), np.int32), np.zeros(0, _I64), np.zeros((0, 3)), np.zeros((0, 3), np.int32),
        np.full(16, -1, np.int32), home, np.zeros(homes), np.zeros((0, 5)), i, now,
    )  # fmt: skip


def _furnish(state: k.State, dep: Deployment) -> k.State:
    """All blocks are free at first: one run per rank whose cache has names."""
    cache, i = state.cache, state.clock.i
    for rank, row in enumerate(state.fleet.rank_i):
        pool = state.fleet.pool_i[row[k.R_POOL]]
        if not pool[k.P_PREFIX]:
            continue
        if pool[k.P_EVICT] != k.EV_LRU:
            cache.home[rank, k.H_ANON] = row[k.R_CAP]
            continue
        x = i[k.I_NODES]
        i[k.I_NODES] += 1
        i[k.I_FREE_NODES] -= 1
        cache.key[x] = -1
        cache.node[x] = 0
        cache.node[x, [k.C_PREV, k.C_NEXT]] = -1
        cache.node[x, k.C_HOME], cache.node[x, k.C_COUNT] = rank, row[k.R_CAP]
        cache.home[rank, [k.H_HEAD, k.H_TAIL]] = x
    return state


def _more(array: NDArray[Any], rows: int, fill: float = 0) -> NDArray[Any]:
    """A copy with at least ``rows`` rows; new pages cost memory only when they are written."""
    if array.shape[0] >= rows:
        return array
    new = np.zeros((rows, *array.shape[1:]), array.dtype)
    new[: array.shape[0]] = array
    if fill:
        new[array.shape[0] :] = fill
    return new


def grow(state: k.State) -> k.State:
    """The same state with room for at least one more event in every store."""
    i, c, t = state.clock.i, state.cache, state.loads
    slack = int(i[k.I_SLACK])
    ranks = state.fleet.rank_i.shape[0]
    want = slack + 2 * int(i[k.I_LOGGED] - i[k.I_LOG])
    if i[k.I_FREE_NODES] < want:
        size = 2 * c.node.shape[0] + 2 * want + ranks
        i[k.I_FREE_NODES] += size - c.node.shape[0]
        c = c._replace(
            node=_more(c.node, size),
            key=_more(c.key, size),
            node_f=_more(c.node_f, size),
            link=_more(c.link, size),
        )
        buckets = 1 << int(size).bit_length()
        if buckets > c.bucket.size:
            c = c._replace(bucket=np.full(buckets, -1, np.int32))
            rehash(c)
    lines = int(i[k.I_LOGGED])
    if lines + 2 * slack > c.log.shape[0]:
        live = c.log[int(i[k.I_LOG]) : lines]
        log = np.zeros((4 * slack + 4 * live.shape[0], 5))
        log[: live.shape[0]] = live
        i[k.I_LOG], i[k.I_LOGGED] = 0, live.shape[0]
        c = c._replace(log=log)
    if i[k.I_FREE_JOBS] < slack:
        old = t.job_i.shape[0]
        size = 2 * old + slack + 64
        t = t._replace(job_i=_more(t.job_i, size), job_f=_more(t.job_f, size))
        t.job_i[old : size - 1, k.J_NEXT] = np.arange(old + 1, size)
        t.job_i[size - 1, k.J_NEXT] = i[k.I_JOB]
        i[k.I_JOB] = old
        i[k.I_FREE_JOBS] += size - old
    clock = state.clock
    if 2 * i[k.I_HEAP] > clock.heap.shape[0]:
        clock = clock._replace(heap=_more(clock.heap, 2 * clock.heap.shape[0]))
    return state._replace(cache=c, loads=t, clock=clock)
