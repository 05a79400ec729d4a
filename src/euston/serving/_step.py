"""Seconds of one step from the arrays of a ``StepTime``: the same helpers in the engine and on their own."""

from __future__ import annotations

import numpy as np
from numba import njit

from euston.serving._state import NUMBER, bare

# The head of a table; then eleven parts, each (offset from the table's start, length).
(
    FIXED, CHUNK_FIXED, DECODE_FIXED, SKEW, CPU_FIXED, CPU_SEQUENCE, CPU_TOKEN, OVERLAP, SEND_FIXED,
    SEND_TOKEN,    DRAFT_FIXED, DRAFT_SEQUENCE, NETWORK,
) = NUMBER[:13]  # fmt: skip
HEAD = 16
(
    TOKENS,
    COMM,
    SEQUENCES,
    GROUP,
    PREFILL_NEW,
    PREFILL_CTX,
    PREFILL_RATE,
    DECODE_N,
    DECODE_CTX,
    DECODE_RATE,
    MIXED,
) = NUMBER[16:38:2]
PARTS = 38


@bare
def curve(t, at, part, x):  # type: ignore[no-untyped-def]
    """Value at the whole number ``x``; beyond the end the last slope goes on."""
    n = np.int64(t[at + part + 1])
    if n == 0:
        return 0.0
    first = at + np.int64(t[at + part])
    if x < n:
        return t[first + x]
    last = t[first + n - 1]
    if n == 1:
        return last
    return last + (x - n + 1) * (last - t[first + n - 2])


@bare
def knot(t, first, n, x):  # type: ignore[no-untyped-def]
    """The interval of a rising axis in which ``x`` lies, and how far: 0 to 1, held at the ends."""
    if n == 1 or x <= t[first]:
        return np.int64(0), 0.0
    if x >= t[first + n - 1]:
        return n - 2, 1.0
    low, high = np.int64(0), n - 1
    while high - low > 1:
        middle = (low + high) >> 1
        if t[first + middle] <= x:
            low = middle
        else:
            high = middle
    return low, (x - t[first + low]) / (t[first + low + 1] - t[first + low])


@bare
def surface(t, at, part, x, y):  # type: ignore[no-untyped-def]
    """Bilinear in the logarithms of ``x`` and ``y`` (the axes are kept as logarithms)."""
    nx, ny = np.int64(t[at + part + 1]), np.int64(t[at + part + 3])
    if nx == 0:
        return 0.0
    z = at + np.int64(t[at + part + 4])
    j, u = knot(t, at + np.int64(t[at + part]), nx, np.log2(max(x, 1.0)))
    k, v = knot(t, at + np.int64(t[at + part + 2]), ny, np.log2(max(y, 1.0)))
    j2, k2 = min(j + 1, nx - 1), min(k + 1, ny - 1)
    low = t[z + j * ny + k] * (1 - v) + t[z + j * ny + k2] * v
    high = t[z + j2 * ny + k] * (1 - v) + t[z + j2 * ny + k2] * v
    return low * (1 - u) + high * u


@bare
def chunk_seconds(t, at, new, context):  # type: ignore[no-untyped-def]
    """Attention of ``new`` prompt tokens that see ``context`` earlier ones and each other causally."""
    pairs = new * context + 0.5 * new * (new + 1.0)
    return t[at + CHUNK_FIXED] + pairs * surface(t, at, PREFILL_NEW, float(new), float(context))


@bare
def decode_seconds(t, at, count, total, longest):  # type: ignore[no-untyped-def]
    """Attention of ``count`` decoding sequences with ``total`` tokens of context, the longest ``longest``."""
    if count == 0:
        return 0.0
    mean = total / count
    rate = surface(t, at, DECODE_N, float(count), mean)
    return t[at + DECODE_FIXED] + rate * count * (mean + t[at + SKEW] * (longest - mean))


@bare
def together(t, at, chunks, decode, count):  # type: ignore[no-untyped-def]
    """Attention of a step: chunks and decodes in one call take longer than one after the other."""
    if chunks > 0 and count > 0:
        factor = curve(t, at, MIXED, count)
        if factor > 0:
            return factor * (chunks + decode)
    return chunks + decode


@bare
def gpu_seconds(t, at, tokens, samples, attention, drafts):  # type: ignore[no-untyped-def]
    """Accelerator time of a step of ``tokens`` tokens; ``drafts``: seconds of drafting."""
    compute = curve(t, at, TOKENS, tokens) + curve(t, at, SEQUENCES, samples) + attention
    comm = curve(t, at, COMM, tokens) * t[at + NETWORK]
    hidden = t[at + OVERLAP] * min(compute, comm)
    return t[at + FIXED] + compute + comm - hidden + drafts


@bare
def draft_seconds(t, at, draft, count):  # type: ignore[no-untyped-def]
    """Drafting ``draft`` tokens for each of ``count`` sequences."""
    if draft == 0 or count == 0:
        return 0.0
    return draft * (t[at + DRAFT_FIXED] + t[at + DRAFT_SEQUENCE] * count)


@bare
def cpu_seconds(t, at, tokens, sequences):  # type: ignore[no-untyped-def]
    """Scheduling, preparing inputs, sampling and detokenising on the host."""
    return t[at + CPU_FIXED] + t[at + CPU_SEQUENCE] * sequences + t[at + CPU_TOKEN] * tokens


@njit(cache=True, no_cfunc_wrapper=True)
def evaluate(t, new, context, decode, draft):  # type: ignore[no-untyped-def]
    """One step, entry by entry: chunks of ``new`` tokens on ``context`` ones, then contexts that decode.

    float64[7]: fixed, tokens, prefill attention, decode attention, sequences, communication, CPU.
    """
    out = np.zeros(8)
    at = np.int64(0)
    tokens, total, longest = np.int64(0), 0.0, 0.0
    for j in range(new.size):
        tokens += new[j]
        out[2] += chunk_seconds(t, at, float(new[j]), float(context[j]))
    for j in range(decode.size):
        tokens += 1 + draft
        total += decode[j]
        longest = max(longest, float(decode[j]))
    out[0] = t[FIXED]
    out[1] = curve(t, at, TOKENS, tokens)
    out[3] = decode_seconds(t, at, decode.size, total, longest)
    out[4] = curve(t, at, SEQUENCES, new.size + decode.size)
    out[5] = curve(t, at, COMM, tokens) * t[NETWORK]
    out[6] = cpu_seconds(t, at, tokens, new.size + decode.size)
    drafts = draft_seconds(t, at, draft, decode.size)
    attention = together(t, at, out[2], out[3], decode.size)
    if attention > 0:
        out[2:4] *= attention / (out[2] + out[3])
    out[7] = gpu_seconds(t, at, tokens, new.size + decode.size, attention, drafts)
    return out
