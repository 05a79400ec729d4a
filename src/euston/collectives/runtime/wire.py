"""What a datagram looks like, and the kernels that write many of them and take many in.

Little-endian, 32 bytes, then the payload::

    magic u16 | kind u8 | stage u8 | token u32 | src u16 | bucket u16 | seq u32 | index u32 | d u32 |
    bytes u16 | codec u8 | tail u8 | stage time u32

``token`` is drawn for each group, so that what strangers send is dropped; ``seq`` counts exchanges; ``index``
is the packet's number in its shard; ``d`` the coordinates of the whole vector (ranks that disagree are told
so). ``tail``: the lowest bit marks the last hundredth of a shard, the upper four say how many senders at once
the sender can take. ``stage time``: microseconds that it thinks a whole stage takes. Segments of one system
call have equal length (UDP_SEGMENT), a multiple of four bytes, so that payloads are aligned float32.
"""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = [
    "BAD", "CONTROL", "DATA", "DONE", "DUPLICATE", "FRESH", "HEADER", "LATE", "MAGIC", "NACK", "OTHER_SIZE",
    "SKIP", "STATS", "compile_kernels", "control", "divide", "fill", "finite", "head", "same", "take",
]  # fmt: skip

MAGIC = 0xE057
HEADER = 32
DATA, NACK, DONE, SKIP, CONTROL = 0, 1, 2, 3, 4
KIND, STAGE, TOKEN, SRC, BUCKET, SEQ = 2, 3, 4, 8, 10, 12
INDEX, D, BYTES, CODEC, TAIL, TIME = 16, 20, 24, 26, 27, 28
"""Offsets of the fields."""

FRESH, DUPLICATE, LATE, BAD, OTHER_SIZE, STATS = 0, 1, 2, 3, 4, 5
"""Counters of `take`: packets that were new, seen before, of a closed stage, malformed, of another size."""


@njit(cache=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def _put(out, at, value, width):  # type: ignore[no-untyped-def]
    for b in range(width):
        out[at + b] = (value >> (8 * b)) & 255


@njit(cache=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def _get(data, at, width):  # type: ignore[no-untyped-def]
    value = 0
    for b in range(width):
        value |= int(data[at + b]) << (8 * b)
    return value


@njit(cache=True, no_cfunc_wrapper=True, nogil=True)
def head(out, at, kind, stage, token, src, bucket, seq, index, d, size, codec, tail, micro):  # type: ignore[no-untyped-def]
    """Write one header."""
    _put(out, at, MAGIC, 2)
    out[at + KIND], out[at + STAGE] = kind, stage
    _put(out, at + TOKEN, token, 4)
    _put(out, at + SRC, src, 2)
    _put(out, at + BUCKET, bucket, 2)
    _put(out, at + SEQ, seq, 4)
    _put(out, at + INDEX, index, 4)
    _put(out, at + D, d, 4)
    _put(out, at + BYTES, size, 2)
    out[at + CODEC], out[at + TAIL] = codec, tail
    _put(out, at + TIME, micro, 4)


@njit(cache=True, no_cfunc_wrapper=True, nogil=True)
def fill(  # type: ignore[no-untyped-def]
    out, out32, segment, data, data32, ptr, which, first, count, stage, token, src, bucket, seq, d, codec,
    incast, micro,
):  # fmt: skip
    """Write packets ``which[first : first + count]`` of ``data`` into segments; bytes used.

    ``ptr``: int64[packets + 1], where packets start in ``data``. The last segment may be shorter. ``out32``
    and ``data32`` are the same as 32-bit words (the latter up to its last whole one).
    """
    packets = ptr.size - 1
    at = 0
    for k in range(count):
        p = which[first + k]
        size = ptr[p + 1] - ptr[p]
        tail = 1 if p >= packets - 1 - packets // 100 else 0
        head(
            out, at, DATA, stage, token, src, bucket, seq, p, d, size, codec, tail | incast << 4, micro
        )  # fmt: skip
        if (ptr[p] | size | at) & 3:
            out[at + HEADER : at + HEADER + size] = data[ptr[p] : ptr[p + 1]]
        else:
            words = size >> 2
            into, of = out32[(at + HEADER) >> 2 :], data32[ptr[p] >> 2 :]
            for j in range(words):
                into[j] = of[j]
        at += segment if k + 1 < count else HEADER + size
    return at


@njit(cache=True, no_cfunc_wrapper=True, nogil=True)
def control(out, kind, stage, token, src, bucket, seq, d, missing, count):  # type: ignore[no-untyped-def]
    """Write a control packet with ``count`` runs (start, length) of packet numbers; bytes used."""
    head(out, 0, kind, stage, token, src, bucket, seq, 0, d, 8 * count, 0, 0, 0)
    for k in range(count):
        _put(out, HEADER + 8 * k, missing[k, 0], 4)
        _put(out, HEADER + 8 * k + 4, missing[k, 1], 4)
    return HEADER + 8 * count


@njit(cache=True, no_cfunc_wrapper=True, nogil=True)
def take(  # type: ignore[no-untyped-def]
    data, data32, length, segment, at, seq, d, codec, token, keep, open_, got, have, tail, ptr, base,
    staged, staged32, total, count, mine, scale, told, stats, stop,
):  # fmt: skip
    """Take in the segments of one received buffer from ``at`` on.

    Data packets of exchange ``seq`` are placed; it stops before anything else (control packets, other
    exchanges) and says what: ``stop = (kind, stage, src, seq, size, d, bucket)``.

    ``keep``: bool[packets received], which segments survive injected loss, by position in the buffer.
    ``open_``: bool[2] stages that still take packets. ``got``: uint8[2, n, P] what has come. ``have``:
    int64[2, n]. ``tail``: bool[2, n] that a sender's last hundredth has begun to come.
    ``ptr``: int64[2, n, P + 1] byte offsets of packets in each sender's shard, ``base``: int64[2, n] where
    the shard lies in ``staged`` (uint8). Where ``total`` is not empty, stage 0 is added up on arrival:
    ``total`` float32[shard], which a packet's first arrival initialises from our own values ``mine``
    float32[shard]; ``count`` int64[P], ours included; ``scale`` float32[n + 2], a sender's weight, then our
    own, then what the sum of all is multiplied by when the last has come, which is the mean then and written
    to ``mine``, too. ``told``: int64[2, n], what senders say of themselves:
    incast and microseconds per stage. ``data32`` and ``staged32`` are the same as float32.

    Returns the offset that it has come to; ``length`` when all is taken.
    """
    summing, senders = total.size > 0, got.shape[1]
    while at + HEADER <= length:
        size_here = min(segment, length - at)
        k = at // segment
        if not keep[k]:
            at += segment
            continue
        if _get(data, at, 2) != MAGIC or _get(data, at + TOKEN, 4) != token:
            stats[BAD] += 1
            at += segment
            continue
        kind, stage = np.int64(data[at + KIND]), np.int64(data[at + STAGE])
        src, size = _get(data, at + SRC, 2), _get(data, at + BYTES, 2)
        number = _get(data, at + SEQ, 4)
        if src >= got.shape[1] or stage > 1 or HEADER + size > size_here:
            stats[BAD] += 1
            at += segment
            continue
        if kind != DATA or number != seq:
            stop[0], stop[1], stop[2], stop[3], stop[4] = kind, stage, src, number, size
            stop[5], stop[6] = _get(data, at + D, 4), _get(data, at + BUCKET, 2)
            return at
        if _get(data, at + D, 4) != d or data[at + CODEC] != codec:
            stats[OTHER_SIZE] += 1
            stop[7] = src
            at += segment
            continue
        index = _get(data, at + INDEX, 4)
        if index >= got.shape[2] or ptr[stage, src, index + 1] - ptr[stage, src, index] != size or size == 0:
            stats[BAD] += 1
            at += segment
            continue
        if not open_[stage]:
            stats[LATE] += 1
            at += segment
            continue
        if got[stage, src, index]:
            stats[DUPLICATE] += 1
            at += segment
            continue
        got[stage, src, index] = 1
        have[stage, src] += 1
        stats[FRESH] += 1
        if data[at + TAIL] & 1:
            tail[stage, src] = True
        if stage == 1:
            tail[0, src] = True  # who sends results has sent its parts
        told[0, src], told[1, src] = data[at + TAIL] >> 4, _get(data, at + TIME, 4)
        start = ptr[stage, src, index]
        if summing and stage == 0:
            first, words = start // 4, size // 4
            values = data32[(at + HEADER) // 4 : (at + HEADER) // 4 + words]
            into, own = total[first : first + words], mine[first : first + words]
            factor, ours, whole = scale[src], scale[senders], scale[senders + 1]
            if count[index] == 1:
                for j in range(words):
                    into[j] = ours * own[j] + factor * values[j]
            else:
                for j in range(words):
                    into[j] += factor * values[j]
            count[index] += 1
            if count[index] == senders:
                for j in range(words):
                    into[j] *= whole
                    own[j] = into[j]
        else:
            to = base[stage, src] + start
            if (to | size | at) & 3:
                staged[to : to + size] = data[at + HEADER : at + HEADER + size]
            else:
                place, come = staged32[to >> 2 :], data32[(at + HEADER) >> 2 :]
                for j in range(size >> 2):
                    place[j] = come[j]
        at += segment
    return length


@njit(cache=True, no_cfunc_wrapper=True, nogil=True)
def same(data, length, segment, at, seq, keep):  # type: ignore[no-untyped-def]
    """End of the run of data packets of exchange ``seq`` that begins at ``at``; lost ones end it, too."""
    while (
        at + HEADER <= length
        and keep[at // segment]
        and data[at + KIND] == DATA
        and _get(data, at + SEQ, 4) == seq
    ):
        at += segment
    return min(at, length)


@njit(cache=True, no_cfunc_wrapper=True, nogil=True)
def divide(total, words, count, senders, fill, factor, ours, mine):  # type: ignore[no-untyped-def]
    """Sums to means, where not all ``senders`` have come; packets of ``words`` coordinates.

    ``total``, ``count``, ``mine``: see `take`; ``mine`` gets the mean, too. ``fill``: float32[P], how often
    our own values stand for missing ones. ``factor``: float32[P]. ``ours``: our own weight.
    """
    for p in range(count.size):
        if count[p] == senders:
            continue
        first = p * words
        last = min(first + words, total.size)
        a, b, f = total[first:last], mine[first:last], factor[p]
        old, own = np.float32(1.0), fill[p]
        if count[p] == 1:  # nobody's came: there is no sum yet
            old, own = np.float32(0.0), fill[p] + ours
            a[:] = 0.0
        for j in range(last - first):
            a[j] = (old * a[j] + own * b[j]) * f
            b[j] = a[j]


@njit(cache=True, no_cfunc_wrapper=True, nogil=True)
def finite(x):  # type: ignore[no-untyped-def]
    """Whether there is neither NaN nor Inf: all bits of such exponents are set. ``x``: float32 as uint32."""
    found = np.uint32(0)
    for j in range(x.size):
        found |= np.uint32((x[j] & np.uint32(0x7F800000)) == np.uint32(0x7F800000))
    return found == 0


def compile_kernels() -> None:
    """Compile everything, or read it from the cache: an exchange must not wait for that."""
    data = np.zeros(2 * HEADER + 8, np.uint8)
    data32, ptr, which = data.view(np.float32), np.array([0, 4], np.int64), np.zeros(1, np.int64)
    head(data, 0, DATA, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    fill(data, data32, 36, data.copy(), data32.copy(), ptr, which, 0, 1, 0, 0, 0, 0, 0, 1, 0, 1, 0)
    control(data.copy(), NACK, 0, 0, 0, 0, 0, 1, np.zeros((1, 2), np.int64), 1)
    take(
        data, data32, 36, 36, 0, 0, 1, 0, 0, np.ones(1, np.bool_), np.ones(2, np.bool_),
        np.zeros((2, 1, 1), np.uint8), np.zeros((2, 1), np.int64), np.zeros((2, 1), np.bool_),
        np.zeros((2, 1, 2), np.int64), np.zeros((2, 1), np.int64), np.zeros(4, np.uint8),
        np.zeros(1, np.float32), np.zeros(0, np.float32), np.zeros(1, np.int64), np.zeros(0, np.float32),
        np.ones(3, np.float32), np.zeros((2, 1), np.int64),
        np.zeros(STATS, np.int64), np.zeros(8, np.int64),
    )  # fmt: skip
    same(data, 36, 36, 0, 0, np.ones(1, np.bool_))
    ones = np.ones(1, np.float32)
    divide(data32.copy(), 1, np.ones(1, np.int64), 0, ones, ones, ones[0], data32.copy())
    finite(data32.view(np.uint32))
