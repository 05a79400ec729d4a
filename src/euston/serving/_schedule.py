"""One step of a rank: who is in the batch, how long it takes, what it yields.

The running requests first, in order of admission, then new ones; all out of one budget of tokens. When a
request finds no block for its next tokens the last one running is thrown out (its KV is computed again later,
or swapped) and nobody is admitted in that step. This is vLLM's scheduler (V1); the other schedulers differ in
the order of the queue, in what is reserved at admission and in the order of the phases.
"""

from __future__ import annotations

import numpy as np

from euston.serving._admit import admit, take_blocks
from euston.serving._loads import keep_names, leave_room, release
from euston.serving._queue import FRONT, emit, end, enqueue, peek, rank_key
from euston.serving._random import uniform
from euston.serving._route import hand_on
from euston.serving._state import (
    BLOCKS,
    COMPUTED,
    F_BYTES,
    F_ENCODE,
    F_SWAP_RATE,
    F_VTC_OUT,
    I_SEED,
    IMAGES,
    IN,
    KEPT,
    KLASS,
    KNOWN,
    N_DECODES,
    N_REQ,
    N_SLOT,
    N_TOK,
    NAMED,
    OC_DONE,
    OR_EDF,
    OR_FAIR,
    OR_PRIORITY,
    OR_SJF,
    ORDER_SEQ,
    OUT,
    P_ACCEPT,
    P_BLOCK,
    P_BUDGET,
    P_ENCODES,
    P_FIRST_HERE,
    P_HANDS,
    P_LONG,
    P_ORDER,
    P_PREFIX,
    P_SHAPE,
    P_SPEC,
    P_SWAP,
    P_TABLE,
    PREEMPTED,
    R_BASE,
    R_CAP,
    R_DECODE,
    R_EMITTED,
    R_FREE,
    R_PEAK,
    R_POOL,
    R_PREEMPT,
    R_PREFILL,
    R_PREFILLING,
    R_REQ,
    R_ROOT,
    R_RUN,
    R_STEPS,
    R_SWAPPED,
    R_UNIT,
    SH_DECODE_FIRST,
    SH_PREFILL_FIRST,
    SH_STATIC,
    ST_SWAPPED,
    ST_WAITING,
    STATE,
    U_SWAP,
    X_TOKENS,
    bare,
    inlined,
)
from euston.serving._step import (
    chunk_seconds,
    cpu_seconds,
    decode_seconds,
    draft_seconds,
    gpu_seconds,
    together,
)

PAD = np.arange(3)[2]  # ``N_DECODES`` of a finished request whose static batch still runs


@bare
def throw_out(s, rank, pool, slot, at):  # type: ignore[no-untyped-def]
    """The running request at place ``at`` loses its blocks; tokens that it had been given in this step."""
    fleet, req, rank_i = s.fleet, s.work.req, s.fleet.rank_i
    base = rank_i[rank, R_BASE]
    r = np.int64(fleet.run[at, N_REQ])
    given = np.int64(fleet.run[at, N_TOK])
    last = base + rank_i[rank, R_RUN] - 1
    for j in range(at, last):
        for k in range(4):
            fleet.run[j, k] = fleet.run[j + 1, k]
    rank_i[rank, R_RUN] -= 1
    rank_i[rank, R_PREEMPT] += 1
    req[r, PREEMPTED] += 1
    if fleet.pool_i[pool, P_SWAP]:
        blocks = np.int64(req[r, BLOCKS])
        rank_i[rank, R_SWAPPED] += blocks
        fleet.unit_f[rank_i[rank, R_UNIT], U_SWAP] += (
            blocks
            * fleet.pool_i[pool, P_BLOCK]
            * fleet.pool_f[pool, F_BYTES]
            / fleet.pool_f[pool, F_SWAP_RATE]
        )
        release(s, r)
        req[r, STATE] = ST_SWAPPED
    else:
        release(s, r)
        req[r, COMPUTED] = 0
        req[r, STATE] = ST_WAITING
    enqueue(fleet, s.work, s.trace.fix_f, s.clock.i, rank, r, FRONT)
    return given


@bare
def victim(s, rank, pool, slot):  # type: ignore[no-untyped-def]
    """Place of the running request that goes first: the last one, or the one with the largest key; -1: none.

    Requests of other micro-batches, on their way through the pipeline, stay.
    """
    fleet, rank_i = s.fleet, s.fleet.rank_i
    base, order = rank_i[rank, R_BASE], fleet.pool_i[pool, P_ORDER]
    ordered = order in (OR_PRIORITY, OR_SJF, OR_EDF)
    best, most, seq = np.int64(-1), -np.inf, np.int64(-1)
    for at in range(base + rank_i[rank, R_RUN] - 1, base - 1, -1):
        if fleet.run[at, N_TOK] > 0 and fleet.run[at, N_SLOT] != slot:
            continue
        if not ordered:
            return np.int64(at)
        r = np.int64(fleet.run[at, N_REQ])
        key = rank_key(s.trace.fix_f, s.work.when, r, order)
        mine = np.int64(s.work.aux[r, ORDER_SEQ])
        if key > most or (key == most and mine > seq):
            best, most, seq = np.int64(at), key, mine
    return best


@inlined
def go_on(s, rank, pool, slot, budget, phase):  # type: ignore[no-untyped-def]
    """The running requests get their next tokens: all (phase -1), those that decode (1), the others (0).

    Budget left, whether somebody was thrown out, whether to stop.
    """
    fleet, req, rank_i, pool_i = s.fleet, s.work.req, s.fleet.rank_i, s.fleet.pool_i
    base, block, long = rank_i[rank, R_BASE], pool_i[pool, P_BLOCK], pool_i[pool, P_LONG]
    draft, names = pool_i[pool, P_SPEC], pool_i[pool, P_PREFIX]
    thrown, at = False, base
    while at < base + rank_i[rank, R_RUN] and budget > 0:
        r = np.int64(fleet.run[at, N_REQ])
        if fleet.run[at, N_TOK] > 0:  # on its way already
            at += 1
            continue
        if fleet.run[at, N_DECODES] == PAD:
            fleet.run[at, N_TOK] = 1
            fleet.run[at, N_SLOT] = slot
            at += 1
            continue
        computed = np.int64(req[r, COMPUTED])
        left = np.int64(req[r, KNOWN]) - computed
        decodes = left == 1
        if (phase == 1 and not decodes) or (phase == 0 and decodes):
            at += 1
            continue
        n = left
        if decodes:
            n += draft
        if long > 0:
            n = min(n, long)
        n = min(n, budget)
        need, itself = np.int64(0), False
        if computed + n > np.int64(req[r, BLOCKS]) * block:
            need = (computed + n + block - 1) // block - np.int64(req[r, BLOCKS])
        while need > rank_i[rank, R_FREE]:
            out = victim(s, rank, pool, slot)
            if out < 0:
                break
            thrown = True
            itself = out == at
            budget += throw_out(s, rank, pool, slot, out)
            if itself:
                break
            if out < at:
                at -= 1
        if itself:
            return budget, thrown, True
        if need > rank_i[rank, R_FREE]:  # all others are on their way: wait for them
            at += 1
            continue
        if need > 0:
            take_blocks(s, r, rank, pool, np.int64(0), np.int64(0), need)
        if names and req[r, KEPT] < req[r, NAMED]:
            keep_names(s, r, rank, pool, min(computed + n, np.int64(req[r, KNOWN])))
        fleet.run[at, N_TOK] = n
        fleet.run[at, N_SLOT] = slot
        fleet.run[at, N_DECODES] = decodes
        budget -= n
        at += 1
    return budget, thrown, False


@inlined
def schedule(s, rank, slot):  # type: ignore[no-untyped-def]
    """Form a batch; whether somebody was thrown out."""
    rank_i, pool_i = s.fleet.rank_i, s.fleet.pool_i
    pool = rank_i[rank, R_POOL]
    budget, shape = pool_i[pool, P_BUDGET], pool_i[pool, P_SHAPE]
    head = peek(s.fleet, s.work, rank)
    swapped = head >= 0 and s.work.req[head, STATE] == ST_SWAPPED
    empty = rank_i[rank, R_RUN] == 0
    thrown, joined, stop = False, np.int64(0), False
    for turn in range(4):
        if turn == 1 or turn == 2:
            # All that run; or those that decode, then the others.
            phase = 2 - turn if shape == SH_DECODE_FIRST else -1
            if stop or joined > 0 or (turn == 2 and shape != SH_DECODE_FIRST):
                continue
            budget, more, stop = go_on(s, rank, pool, slot, budget, phase)
            thrown = thrown or more
        else:
            # New prompts have a step of their own before anything else (V0), or come last. A static batch
            # begins with an empty house; whoever is swapped out comes back before new prompts.
            skip = (turn == 0) != (shape == SH_PREFILL_FIRST and not swapped)
            if skip or thrown or (shape == SH_STATIC and not empty):
                continue
            more_joined, budget = admit(s, rank, slot, budget)
            joined += more_joined
    return thrown


@inlined
def price(s, rank, slot):  # type: ignore[no-untyped-def]
    """A batch that was formed: its requests, tokens, seconds on the accelerator and on the host."""
    fleet, req, rank_i, pool_i = s.fleet, s.work.req, s.fleet.rank_i, s.fleet.pool_i
    base = rank_i[rank, R_BASE]
    table, at = fleet.table, pool_i[rank_i[rank, R_POOL], P_TABLE]
    tokens, requests, samples, decodes, drafted = np.int64(0), 0, 0, 0, np.int64(0)
    total, most, attention, encoding, behind = np.int64(0), np.int64(0), 0.0, 0.0, np.int64(0)
    for j in range(base, base + rank_i[rank, R_RUN]):
        n = np.int64(fleet.run[j, N_TOK])
        r = np.int64(fleet.run[j, N_REQ])
        computed, known = np.int64(req[r, COMPUTED]), np.int64(req[r, KNOWN])
        if n == 0 or fleet.run[j, N_SLOT] != slot:
            if known - computed > 1:
                behind += known - computed - n
            continue
        requests += 1
        tokens += n
        if fleet.run[j, N_DECODES] > 0:
            decodes += 1
            samples += 1
            drafted = max(drafted, n - 1)
            context = computed + n
            total += context
            most = max(most, context)
        else:
            attention += chunk_seconds(table, at, float(n), float(computed))
            if computed == 0:  # images stand before the text
                encoding += s.work.aux[r, IMAGES] * s.fleet.pool_f[rank_i[rank, R_POOL], F_ENCODE]
            rank_i[rank, R_PREFILL] += n
            if computed + n >= known:
                samples += 1
            else:
                behind += known - computed - n
    rank_i[rank, R_PREFILLING] = behind
    if requests == 0:
        return tokens, requests, 0.0, 0.0
    rank_i[rank, R_STEPS] += 1
    rank_i[rank, R_DECODE] += decodes
    rank_i[rank, R_PEAK] = max(rank_i[rank, R_PEAK], rank_i[rank, R_CAP] - rank_i[rank, R_FREE])
    decoding = decode_seconds(table, at, decodes, float(total), float(most))
    attention = together(table, at, attention, decoding, decodes)
    drafts = draft_seconds(table, at, drafted, decodes)
    gpu = gpu_seconds(table, at, tokens, samples, attention, drafts + encoding)
    return tokens, requests, gpu, cpu_seconds(table, at, tokens, requests)


@bare
def accepted(s, r, pool, drafted):  # type: ignore[no-untyped-def]
    """How many of the drafted tokens the model takes: sampled, one after the other until one is refused."""
    at = s.fleet.pool_i[pool, P_ACCEPT] + s.work.req[r, KLASS] * s.fleet.pool_i[pool, P_SPEC]
    for j in range(drafted):
        u = uniform(s.clock.i[I_SEED], r, np.int64(s.work.req[r, KNOWN]) * 64 + j)
        if u >= s.fleet.table[at + j]:
            return np.int64(j)
    return drafted


@inlined
def finish(s, rank, slot):  # type: ignore[no-untyped-def]
    """The step of a rank is over: tokens come out, requests end or move on."""
    fleet, work, req, rank_i, pool_i = s.fleet, s.work, s.work.req, s.fleet.rank_i, s.fleet.pool_i
    pool, base = rank_i[rank, R_POOL], rank_i[rank, R_BASE]
    m = rank_i[rank, R_RUN]
    static = pool_i[pool, P_SHAPE] == SH_STATIC
    keep, alive = base, np.int64(0)
    for at in range(base, base + m):
        r, n = np.int64(fleet.run[at, N_REQ]), np.int64(fleet.run[at, N_TOK])
        mode = np.int64(fleet.run[at, N_DECODES])
        stays = True
        if n == 0 or fleet.run[at, N_SLOT] != slot:
            pass
        elif mode == PAD:
            n = np.int64(0)
        else:
            computed, known = np.int64(req[r, COMPUTED]) + n, np.int64(req[r, KNOWN])
            n = np.int64(0)
            req[r, COMPUTED] = computed
            if computed >= known and pool_i[pool, P_ENCODES]:
                stays = False
                hand_on(s, r, rank, pool)
            elif computed >= known:
                if mode == 0 or known == np.int64(req[r, IN]):
                    leave_room(s, r, rank)
                goal = np.int64(req[r, IN]) + req[r, OUT]
                emitted = np.int64(1)
                if mode == 1 and computed > known:
                    emitted += accepted(s, r, pool, computed - known)
                emitted = min(emitted, goal - known)
                if pool_i[pool, P_HANDS] and not pool_i[pool, P_FIRST_HERE]:
                    emitted = np.int64(0)
                else:
                    emit(work, s.clock.now, s.clock.i, s.trace.fix_i[r, X_TOKENS], r, emitted)
                    req[r, COMPUTED] = known + emitted - 1
                    rank_i[rank, R_EMITTED] += emitted
                    if pool_i[pool, P_ORDER] == OR_FAIR:
                        queue = rank_i[rank, R_ROOT] + req[r, KLASS]
                        fleet.served[queue] += fleet.pool_f[pool, F_VTC_OUT] * emitted
                if known + emitted >= goal:
                    if static:
                        mode = np.int64(PAD)
                    else:
                        stays = False
                        release(s, r)
                    rank_i[rank, R_REQ] -= 1
                    leave_room(s, r, rank)
                    end(s, r, OC_DONE)
                elif pool_i[pool, P_HANDS]:
                    stays = False
                    hand_on(s, r, rank, pool)
        if stays:
            if mode != PAD:
                alive += 1
            fleet.run[keep, N_REQ] = r
            fleet.run[keep, N_TOK] = n
            fleet.run[keep, N_SLOT] = fleet.run[at, N_SLOT]
            fleet.run[keep, N_DECODES] = mode
            keep += 1
    rank_i[rank, R_RUN] = keep - base
    if static and alive == 0:
        for at in range(base, keep):
            release(s, np.int64(fleet.run[at, N_REQ]))
        rank_i[rank, R_RUN] = 0
