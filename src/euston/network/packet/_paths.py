"""Path choice: the entropy value of every packet, and what its ACK or NACK teaches.

An entropy value (EV) is what a header offers to the switches' hash. Modes (`balancing.base.PathMode`):

ECMP: one EV per queue pair, each carries an equal part of the message, in turns (one after the other where
the receiver takes packets in order only). OBLIVIOUS: a new random order of all
EVs each round. ROUND_ROBIN: in order from a random start. FLOWLET: a new EV after a silent gap (LetFlow).
ADAPTIVE: the EV, of two random ones, with the shorter queue behind the first switch. UGAL: the same between
a minimal and a Valiant path, queues times hops. REPS: EVs whose packets
came back unmarked, each once, else random; frozen after a timeout (arXiv 2407.21625). BITMAP: all in turn,
passing over those with a penalty. MIXED: recycled good EVs first, else BITMAP. Penalties and the freezing
rules are those of `uec_mp.cpp` and `buffer_reps.cpp` in uet-htsim @40ccb05.
"""

from __future__ import annotations  # noqa: I001 - the layout's names in rows

import numpy as np

from euston.network.balancing.base import PathMode
from euston.network.packet._events import below, helper, inlined, mix
from euston.network.packet._layout import (
    K_ENTROPIES, K_GAP, K_HOPS, K_MODE, K_RECEIVER, K_RECYCLE, L_BYTES, N_BACK, N_BACK_N, N_FORWARD,
    N_FORWARD_N, N_PACKETS, RNG_PATH, RNG_SALT, R_IN_ORDER, S_EV, S_EXPLORE, S_FLOW, S_FROZEN, S_LAST_SENT,
    S_MIX, S_NEXT, S_RECYCLED, S_RECYCLED_AT,
)  # fmt: skip

ECMP, OBLIVIOUS, ROUND_ROBIN, FLOWLET, ADAPTIVE, REPS, BITMAP, MIXED, UGAL = np.array(list(PathMode))

GOOD, ECN, CUT, SILENT = np.arange(4)  # what became of a packet
THERE, BACK = np.arange(2)
PENALTY = np.array([0, 1, 4, 15])  # uec_mp.cpp
MOST = np.int64(15)
ZERO = np.int64(0)
REPS_BUFFER = np.int64(8)  # buffer_reps.cpp: repsBufferSize
REPS_FREEZE = np.int64(10**10)  # ps; exit_freeze_after
REPS_EXPLORE = np.int64(16)  # uec_mp.cpp: packets that explore after a freeze
BACKWARD = np.uint64(0x5851F42D4C957F2D)
S20 = np.uint64(20)


@inlined
def path(net, st, flow, ev, back):  # type: ignore[no-untyped-def]
    """Where in ``net.hop`` the path of an entropy value begins, there (0) or back (1)."""
    plan = st.flow
    first, n = plan[flow, N_FORWARD], plan[flow, N_FORWARD_N]
    if back:
        first, n = plan[flow, N_BACK], plan[flow, N_BACK_N]
    row = np.int64(ev)
    if n == 1:
        row = np.int64(0)
    elif n > 0 and net.config[K_MODE] in (ROUND_ROBIN, UGAL):  # in order: a hash would meet some twice
        row = np.int64(ev) % n
    elif n > 0:
        key = (np.uint64(flow) << S20) ^ np.uint64(ev) ^ np.uint64(st.counter[RNG_SALT])
        if back:
            key ^= BACKWARD
        row = np.int64(mix(key) % np.uint64(n))
    return (first + row) * net.config[K_HOPS]


@helper
def begin(net, st, s):  # type: ignore[no-untyped-def]
    """A flow starts in slot ``s``: nothing is known about paths."""
    n, slot = net.config[K_ENTROPIES], st.slot
    for ev in range(n):
        st.paths[s, ev] = 0
    slot[s, S_EV] = 0
    slot[s, S_MIX] = below(st.counter, RNG_PATH, n)
    slot[s, S_RECYCLED] = 0
    slot[s, S_RECYCLED_AT] = 0
    slot[s, S_FROZEN] = 0
    slot[s, S_EXPLORE] = 0


@helper
def _turn(config, slot, count, s):  # type: ignore[no-untyped-def]
    """The counter of entropy values goes on; a new random order every round."""
    n = config[K_ENTROPIES]
    slot[s, S_EV] += 1
    if slot[s, S_EV] == n:
        slot[s, S_EV] = 0
        slot[s, S_MIX] = below(count, RNG_PATH, n)


@helper
def _current(config, slot, s):  # type: ignore[no-untyped-def]
    """The entropy value under the counter: an xor permutes a power of two, else a shift does."""
    n = config[K_ENTROPIES]
    if n & (n - 1) == 0:
        return slot[s, S_EV] ^ slot[s, S_MIX]
    return (slot[s, S_EV] + slot[s, S_MIX]) % n


@helper
def _bitmap(config, slot, paths, count, s):  # type: ignore[no-untyped-def]
    """The next value without a penalty; the first one passed over is forgiven one point."""
    n = config[K_ENTROPIES]
    ev = _current(config, slot, s)
    tried = np.int64(0)
    while paths[s, ev] > 0:
        if tried == 0:
            paths[s, ev] -= 1
        tried += 1
        if tried > n:
            break
        _turn(config, slot, count, s)
        ev = _current(config, slot, s)
    _turn(config, slot, count, s)
    return ev


@helper
def _keep(config, slot, paths, s, ev, size):  # type: ignore[no-untyped-def]
    """A good value goes into the ring of the last ``size``, a power of two, behind the values' penalties."""
    paths[s, config[K_ENTROPIES] + (slot[s, S_RECYCLED_AT] & (size - 1))] = ev
    slot[s, S_RECYCLED_AT] += 1
    slot[s, S_RECYCLED] = min(size, slot[s, S_RECYCLED] + 1)


@helper
def _kept(config, slot, paths, s, ago, size):  # type: ignore[no-untyped-def]
    """The value that was kept ``ago`` values ago."""
    return np.int64(paths[s, config[K_ENTROPIES] + ((slot[s, S_RECYCLED_AT] - ago) & (size - 1))])


@helper
def _reps(config, slot, paths, count, s):  # type: ignore[no-untyped-def]
    """REPS: ring of the last 8 good values; S_EV counts the fresh ones, S_MIX walks it while frozen."""
    n = config[K_ENTROPIES]
    held, fresh = slot[s, S_RECYCLED], slot[s, S_EV]
    if slot[s, S_EXPLORE] > 0:
        slot[s, S_EXPLORE] -= 1
        return below(count, RNG_PATH, n)
    if slot[s, S_FROZEN] > 0 and held > 0:
        at = slot[s, S_MIX] % held
        slot[s, S_MIX] = at + 1
        if fresh > 0:
            slot[s, S_EV] = fresh - 1
        return np.int64(paths[s, n + at])
    if fresh == 0:
        return below(count, RNG_PATH, n)
    slot[s, S_EV] = fresh - 1
    return _kept(config, slot, paths, s, fresh, REPS_BUFFER)


@helper
def _adaptive(net, st, s):  # type: ignore[no-untyped-def]
    """The better of two random values: the one with less data waiting behind the first switch."""
    n, flow = net.config[K_ENTROPIES], st.slot[s, S_FLOW]
    a, b = below(st.counter, RNG_PATH, n), below(st.counter, RNG_PATH, n)
    to_a, to_b = net.hop[path(net, st, flow, a, THERE) + 1], net.hop[path(net, st, flow, b, THERE) + 1]
    if to_a < 0 or to_b < 0:
        return a
    return b if st.link[to_b, L_BYTES] < st.link[to_a, L_BYTES] else a


@helper
def _cost(net, st, pos):  # type: ignore[no-untyped-def]
    """UGAL's measure of a path: data waiting behind the first switch, times hops between switches."""
    at, hops = np.int64(net.hop[pos + 1]), np.int64(-2)
    while net.hop[pos] >= 0:
        hops += 1
        pos += 1
    return st.link[at, L_BYTES] * max(hops, ZERO) if at >= 0 else ZERO


@helper
def _ugal(net, st, s):  # type: ignore[no-untyped-def]
    """UGAL-L: a minimal path (even number) unless a Valiant one (odd) costs less; no bias."""
    flow = st.slot[s, S_FLOW]
    pairs = abs(st.flow[flow, N_FORWARD_N]) >> 1
    if pairs == 0:
        return ZERO
    minimal, other = 2 * below(st.counter, RNG_PATH, pairs), 2 * below(st.counter, RNG_PATH, pairs) + 1
    direct = _cost(net, st, path(net, st, flow, minimal, THERE))
    return minimal if direct <= _cost(net, st, path(net, st, flow, other, THERE)) else other


@helper
def _other(config, slot, paths, count, packets, s, now):  # type: ignore[no-untyped-def]
    """The next value in the modes that look at nothing but the slot."""
    n, mode = config[K_ENTROPIES], config[K_MODE]
    if mode in (MIXED, BITMAP):
        return _bitmap(config, slot, paths, count, s)
    if mode == OBLIVIOUS:
        ev = _current(config, slot, s)
        _turn(config, slot, count, s)
        return ev
    if mode == ROUND_ROBIN:
        slot[s, S_EV] += 1
        return (slot[s, S_EV] + slot[s, S_MIX]) % n
    if mode == REPS:
        return _reps(config, slot, paths, count, s)
    if mode == FLOWLET:
        if now - slot[s, S_LAST_SENT] > config[K_GAP]:
            slot[s, S_MIX] = below(count, RNG_PATH, n)
        return slot[s, S_MIX]
    if config[K_RECEIVER] & R_IN_ORDER:  # go-back-N must see one path at a time
        return min(n - 1, slot[s, S_NEXT] * n // packets)
    return slot[s, S_NEXT] % n


@inlined
def choose(net, st, s, now):  # type: ignore[no-untyped-def]
    """The entropy value of the next packet of slot ``s``."""
    slot, mode = st.slot, net.config[K_MODE]
    if net.config[K_ENTROPIES] == 1:
        return np.int64(0)
    held = slot[s, S_RECYCLED]
    if mode == MIXED and held > 0:
        slot[s, S_RECYCLED] = held - 1
        return _kept(net.config, slot, st.paths, s, held, net.config[K_RECYCLE])
    if mode == ADAPTIVE:
        return _adaptive(net, st, s)
    if mode == UGAL:
        return _ugal(net, st, s)
    packets = st.flow[slot[s, S_FLOW], N_PACKETS]
    return _other(net.config, slot, st.paths, st.counter, packets, s, now)


@helper
def learn(config, slot, paths, s, ev, what, now):  # type: ignore[no-untyped-def]
    """What became of a packet with entropy value ``ev``."""
    mode = config[K_MODE]
    if mode in (MIXED, BITMAP):
        if what != GOOD:
            paths[s, ev] = min(MOST, np.int64(paths[s, ev]) + PENALTY[what])
        elif mode == MIXED:
            _keep(config, slot, paths, s, ev, config[K_RECYCLE])
    elif mode == REPS:
        if what == SILENT and slot[s, S_FROZEN] == 0 and slot[s, S_EXPLORE] == 0:
            slot[s, S_FROZEN] = now + REPS_FREEZE
            slot[s, S_MIX] = 0
        if 0 < slot[s, S_FROZEN] < now:
            slot[s, S_FROZEN] = 0
            slot[s, S_RECYCLED] = 0
            slot[s, S_RECYCLED_AT] = 0
            slot[s, S_EV] = 0
            slot[s, S_EXPLORE] = REPS_EXPLORE
        if what == GOOD:
            _keep(config, slot, paths, s, ev, REPS_BUFFER)
            slot[s, S_EV] = min(REPS_BUFFER, slot[s, S_EV] + 1)
