"""The engine's state: a few stacked arrays, the names of their columns, integer enums.

Columns are unsigned, for which no negative index has to be thought of; enums are NumPy integers (plain ones
are literal types to numba, each tried on its own). Both keep the first call short.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

LINE = np.arange(64, dtype=np.uintp)
NUMBER = np.arange(64)

# Kernels that make no arrays do without reference counts.
bare = njit(cache=True, no_cpython_wrapper=True, no_cfunc_wrapper=True, _nrt=False, error_model="numpy")
# What every step goes through is written out where it is called: handing over the state costs 150 ns a call.
inlined = njit(
    inline="always", no_cpython_wrapper=True, no_cfunc_wrapper=True, _nrt=False, error_model="numpy"
)

NONE = NUMBER[0] - 1

# Work.req, int32[n, 16]: what every step looks at. KEPT: blocks already offered to the cache; HIT: first
# blocks that were found there; NAMED: blocks that have names.
IN, OUT, COMPUTED, KNOWN, BLOCKS, HIT, NAMED, KEPT, STATE, RANK, POOL, PREEMPTED, KLASS = LINE[:13]
REQ = 16
# Work.aux, int32[n, 16]: D_...: what a prefill rank still holds until the hand-over is done.
PENDING, OUTCOME, HITS, D_RANK, D_BLOCKS, D_HIT, D_KEPT, TICKET, JOBS, IMAGES, TIER_HITS = LINE[:11]
# Of its images: EMBED says where they are; MADE, NAMES: while they are encoded, the tokens that it had given
# before and the names of its prompt's blocks (KNOWN and NAMED are those of the images then).
ORDER_SEQ, RETRIES, MADE, EMBED, NAMES = LINE[11:16]
AUX = 16
# Work.when, float64[n, 8]
W_ARRIVAL, W_SCHEDULED, W_FIRST, W_LAST, W_ADMISSION, W_WORST, W_PREFILL, W_D_ADMISSION = LINE[:8]
WHEN = 8

# They are encoded; wait for room at the rank of their prompt; have it.
EM_MADE, EM_WAITS, EM_HOLDS = NUMBER[1:4]

# States of a request.
ST_OUTSIDE, ST_WAITING, ST_RUNNING, ST_LOADING, ST_LOADED, ST_SWAPPED, ST_HANDED, ST_ENDED, ST_HELD = NUMBER[
    :9
]
# Outcomes, as in ``result.Outcome``.
OC_OPEN, OC_DONE, OC_TOO_LONG, OC_TOO_LARGE, OC_REFUSED = NUMBER[:5]

# Trace.fix_i int64[n + 1, 5], Trace.fix_f float64[n, 5]
X_IDS, X_SUCC, X_TOKENS, X_SESSION, X_IMAGES = LINE[:5]
Y_ARRIVE, Y_THINK, Y_PRIORITY, Y_PREDICTED, Y_DEADLINE = LINE[:5]

# Fleet.pool_i int64[P, 48]
P_FIRST, P_RANKS, P_GROUP, P_PP, P_SHAPE, P_ORDER, P_BUDGET, P_SEQS, P_BLOCK, P_CHUNKED, P_LONG = LINE[:11]
P_RESERVE, P_SWAP, P_PREFIX, P_EVICT, P_LEN, P_SPEC, P_MARK, P_ASYNC, P_ROUTER, P_TABLE, P_RATIO = LINE[11:22]
P_OVERLAP, P_RULE, P_NEXT, P_INDEX, P_RING, P_RING_N, P_TURN, P_QUEUE_CAP, P_ACCEPT, P_CLASSES = LINE[22:32]
P_LAYERS, P_TIERS, P_ADMIT, P_ENCODES, P_HANDS, P_FIRST_HERE, P_LAYERWISE, P_NETWORK, P_HELD, P_DEST = LINE[
    32:42
]
# P_IDS: which column of Trace.fix_i says where the names of its blocks are.
P_ALIVE, P_STATION, P_REFUSE, P_ROOM, P_ASKING, P_IDS = LINE[42:48]
POOL_I = 48
# Fleet.pool_f float64[P, 32]
F_DELAY, F_MATCH, F_QUEUE, F_KV, F_ABS, F_REL, F_THRESHOLD, F_OVERLAP, F_TEMPERATURE, F_BOUND = LINE[:10]
F_BYTES, F_SWAP_RATE, F_COST_A, F_COST_B, F_TOKEN_S, F_INDEX_CAP, F_EMBED, F_IMAGE_TOKENS = LINE[10:18]
F_LATENCY, F_PER_BLOCK, F_RATE, F_VTC_IN, F_VTC_OUT, F_TTL, F_ENCODE = LINE[18:25]
POOL_F = 32

# Shapes of a step, orders of a queue, what is reserved at admission, eviction, routers, tier admission.
SH_MIXED, SH_DECODE_FIRST, SH_PREFILL_FIRST, SH_WHOLE, SH_STATIC = NUMBER[:5]
OR_FCFS, OR_PRIORITY, OR_SJF, OR_EDF, OR_FAIR = NUMBER[:5]
RS_NEED, RS_PROMPT, RS_ALL = NUMBER[:3]
EV_LRU, EV_LFU, EV_FIFO, EV_GDSF = NUMBER[:4]
(RT_RANDOM, RT_ROUND_ROBIN, RT_REQUESTS, RT_TOKENS, RT_TWO, RT_SESSION, RT_PREFIX, RT_KV, RT_SLO) = NUMBER[:9]
TA_BACK, TA_THROUGH, TA_SECOND = NUMBER[:3]

# Fleet.rank_i int64[R, 32]
R_POOL, R_ALIVE, R_FREE, R_RUN, R_WAIT, R_LOAD, R_REQ, R_TOK, R_CAP, R_BASE, R_ROOT, R_UNIT, R_HOLDS = LINE[
    :13
]
R_STEPS, R_PREFILL, R_DECODE, R_HIT, R_PREEMPT, R_PEAK, R_EVICTED, R_RECOMPUTED, R_EMITTED = LINE[13:22]
# R_ROOM: images whose embeddings still find room.
R_SWAPPED, R_LOADED, R_PREFILLING, R_ROOM = LINE[22:26]
RANK_I = 32
A_DOWN, A_UP, A_DRAIN = NUMBER[:3]
# Fleet.unit_i int64[U, 4], Fleet.unit_f float64[U, 4]; Fleet.slot_i int64[S, 2], one per batch in flight
U_POOL, U_RANK, U_SLOT, U_KICKED = LINE[:4]
U_BUSY_S, U_FREE_AT, U_SWAP, U_LOAD = LINE[:4]
S_SEQ, S_UNIT = LINE[:2]
# Fleet.run int32[.., 4]: request, tokens under way, slot, whether it decodes
N_REQ, N_TOK, N_SLOT, N_DECODES = LINE[:4]

# Cache.node int32[N, 8], Cache.node_f float64[N, 3], Cache.home int64[H, 8]
C_HOME, C_REF, C_PREV, C_NEXT, C_COUNT, C_CHAIN, C_FREQ, C_DEPTH = LINE[:8]
K_KEY, K_SEQ, K_CREATOR = LINE[:3]
H_HEAD, H_TAIL, H_SIZE, H_CAP, H_ANON, H_ROOT, H_UP, H_LOGS = LINE[:8]

# Kinds of events.
E_DONE, E_RELEASE, E_STATION, E_LOADED, E_ENTER, E_DOWN, E_UP, E_DRAIN, E_STAGE = NUMBER[:9]
# Heap columns: time, sequence, kind, of what. Log columns: time, kind, rank, two values.
B_TIME, B_SEQ, B_KIND, B_ID = LINE[:4]
L_LOAD, L_STORED, L_REMOVED = NUMBER[:3]

# Loads.station_f float64[K, 4], station_i int64[K, 4]; job_i int32[J, 4], job_f float64[J, 2]
T_V, T_SINCE, T_RATE, T_LATENCY = LINE[:4]
T_ACTIVE, T_HEAD, T_WAIT, T_LAST, T_MOST, T_SEQ = LINE[:6]
J_REQ, J_NEXT, J_TICKET = LINE[:3]
TICKETS = 2**21
J_END, J_DELAY = LINE[:2]

# Counters.
(
    I_HEAP, I_SEQ, I_ARRIVAL, I_KICKED, I_OUT, I_NODE, I_NODES, I_LOG, I_LOGGED, I_FRONT, I_ADMISSION,
    I_INSIDE, I_FIFO, I_FIFO_END, I_LIMIT, I_EVENTS, I_JOB, I_DONE, I_REFUSED, I_TICKET, I_SEED,
    I_RECORD, I_HELD, I_FREE_NODES, I_SLACK, I_STEPS, I_TRANSFERS, I_FREE_JOBS, I_STAMP,
    I_CHANGE, I_CHANGED,
) = LINE[:31]  # fmt: skip
COUNTERS = 40
# Clock.now: now, the gap whose bin is remembered, bytes handed over and loaded, the gateway's token bucket
Q_NOW, Q_GAP, Q_HANDED, Q_LOADED, Q_BUCKET, Q_BUCKET_AT, Q_BUCKET_RATE, Q_BUCKET_MOST, Q_BIN = LINE[:9]

# Bins of the histogram of gaps between tokens: 256 per octave from 1 us on (0.27 % wide).
BINS, PER_OCTAVE, FIRST_GAP = 8192, 256.0, 1e-6

# What ``advance`` ended with.
QUIET, GROW, CHANGE = NUMBER[:3]


class Trace(NamedTuple):
    """What is asked."""

    fix_i: np.ndarray
    fix_f: np.ndarray
    ids: np.ndarray  # int64 names of blocks, then of images (whose order within a request may change)
    succ: np.ndarray  # int32 who waits for a request
    order: np.ndarray  # int32 requests that wait for nobody, by arrival


class Work(NamedTuple):
    """Requests under way."""

    req: np.ndarray
    aux: np.ndarray
    when: np.ndarray
    link: np.ndarray  # int32[n, 3] queues as pairing heaps: child, sibling, previous
    key: np.ndarray  # float64[n, 3]
    fifo: np.ndarray  # int32[n] outside, when the loop is closed
    hist: np.ndarray  # int64[bins]
    tokens: np.ndarray  # float64 time of every token, or empty


class Fleet(NamedTuple):
    """Pools, their ranks, units (ranks that step together) and slots (micro-batches in flight)."""

    pool_i: np.ndarray
    pool_f: np.ndarray
    table: np.ndarray  # step times of all pools, acceptance rates
    rank_i: np.ndarray
    unit_i: np.ndarray
    unit_f: np.ndarray
    slot_i: np.ndarray
    stage: np.ndarray  # float64[slots] when a pipeline stage is free
    run: np.ndarray
    root: np.ndarray  # int64 roots of queues; one per rank, or per rank and class
    served: np.ndarray  # float64 virtual token counters of the classes of a rank
    kicked: np.ndarray  # int32 units that may start


class Cache(NamedTuple):
    """Named blocks on ranks, in tiers, and what routers know of them; the log that routers read late."""

    node: np.ndarray
    key: np.ndarray  # int64[N] name, -1: a run of free blocks without one
    node_f: np.ndarray
    link: (
        np.ndarray
    )  # int32[N, 3] heap of free blocks; entries of the router's index: previous and next holder
    bucket: np.ndarray  # int32 hash table
    home: np.ndarray
    home_f: np.ndarray
    log: np.ndarray  # float64[L, 5]
    i: np.ndarray  # counters, shared by all
    now: np.ndarray


class Loads(NamedTuple):
    """Stations that share a bandwidth: stores of the tiers, ranks that hand over."""

    station_i: np.ndarray
    station_f: np.ndarray
    job_i: np.ndarray
    job_f: np.ndarray


class Clock(NamedTuple):
    """Events, counters, what is told to the outside, and what routers see."""

    heap: np.ndarray
    out: np.ndarray  # float64[O, 6] time, request, source, destination, bytes, ticket
    i: np.ndarray
    now: np.ndarray
    seen: np.ndarray  # float64[R, 8] requests, tokens, blocks as routers see them; scratch; whether up
    ring: np.ndarray  # int64[.., 2] consistent hashing


class State(NamedTuple):
    """Everything."""

    trace: Trace
    work: Work
    fleet: Fleet
    cache: Cache
    loads: Loads
    clock: Clock
