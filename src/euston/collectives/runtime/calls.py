"""System calls from compiled code: many datagrams sent and taken in without coming back to Python.

Linux on 64-bit little-endian machines, where a `msghdr` is seven words. ``sendmsg`` and ``recvmsg`` are the C
library's, found by name when the kernels are linked. Whatever a kernel cannot do itself (no room to send, a
packet that is no data of this exchange) ends it, and the caller goes on.
"""

from __future__ import annotations

import socket
import struct
import sys
from typing import Any, NamedTuple

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

from euston.collectives.runtime import wire

__all__ = ["AVAILABLE", "Buffers", "address_bytes", "compile_calls", "drain", "push"]

AVAILABLE = sys.platform.startswith("linux") and sys.maxsize > 2**32 and sys.byteorder == "little"
"""Whether this machine's `msghdr` is the one that is written here."""

_sendmsg = types.ExternalFunction("sendmsg", types.intp(types.int32, types.uintp, types.int32))
_recvmsg = types.ExternalFunction("recvmsg", types.intp(types.int32, types.uintp, types.int32))

DONTWAIT, NOSIGNAL = 0x40, 0x4000
SOL_SOCKET, RXQ_OVFL, SOL_UDP, UDP_GRO = 1, 40, 17, 104
CONTROL = 256
EMPTY, OTHER, BLOCKED = 0, 1, 2
"""How a kernel ends: nothing more to do, something that Python must look at, no room to send."""
LENGTH, SEGMENT, AT, SOME, FRESH, DROPPED = 0, 1, 2, 3, 4, 5
"""Words of ``Buffers.state``: of the buffer received; whether anything came, new data; datagrams dropped."""


class Buffers(NamedTuple):
    """Memory that the kernels work in: one set for each thread that sends or receives.

    ``message`` int64[2, 7]: what is sent, what is received. ``parts`` int64[k, 2]: addresses and lengths, the
    last one of the receiving buffer. ``heads`` uint8[batch * 32]. ``out`` uint8: where packets of unequal
    size are put together. ``data``, ``data32``: the receiving buffer. ``control`` uint8. ``state`` int64[8].
    """

    message: NDArray[np.int64]
    parts: NDArray[np.int64]
    heads: NDArray[np.uint8]
    out: NDArray[np.uint8]
    out32: NDArray[np.float32]
    data: NDArray[np.uint8]
    data32: NDArray[np.float32]
    control: NDArray[np.uint8]
    state: NDArray[np.int64]
    keep: NDArray[np.bool_]

    @classmethod
    def of(cls, data: NDArray[np.uint8], data32: NDArray[np.float32], batch: int, segment: int) -> Buffers:
        """For buffers of ``batch`` segments, received into ``data``."""
        out = np.empty(batch * segment // 4 * 4 + 4, np.uint8)
        return cls(
            np.zeros((2, 7), np.int64), np.zeros((2 * batch + 1, 2), np.int64),
            np.zeros(batch * wire.HEADER, np.uint8), out, out.view(np.float32), data, data32,
            np.zeros(CONTROL, np.uint8), np.zeros(8, np.int64),
            np.ones(data.size // wire.HEADER + 1, np.bool_),
        )  # fmt: skip


def address_bytes(address: tuple[Any, ...]) -> NDArray[np.uint8]:
    """A socket address as the kernel wants it."""
    host, port = str(address[0]), int(address[1])
    if ":" in host:
        flow, scope = (int(address[2]), int(address[3])) if len(address) > 3 else (0, 0)
        text = struct.pack("=H", socket.AF_INET6) + struct.pack(">HI", port, flow)
        text += socket.inet_pton(socket.AF_INET6, host.partition("%")[0]) + struct.pack("=I", scope)
    else:
        text = struct.pack("=H", socket.AF_INET) + struct.pack(">H", port) + socket.inet_aton(host) + bytes(8)
    return np.frombuffer(text, np.uint8).copy()


@njit(cache=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def _word(data, at):  # type: ignore[no-untyped-def]
    value = 0
    for b in range(4):
        value |= int(data[at + b]) << (8 * b)
    return value


@njit(cache=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def _receive(fd, b):  # type: ignore[no-untyped-def]
    """Take a buffer; its length, 0 when there is none. Notes its segments' length and the kernel's drops."""
    message, last = b.message[1], b.parts.shape[0] - 1
    b.parts[last, 0], b.parts[last, 1] = b.data.ctypes.data, b.data.size
    message[0], message[1] = 0, 0
    message[2], message[3] = b.parts[last].ctypes.data, 1
    message[4], message[5], message[6] = b.control.ctypes.data, b.control.size, 0
    length = _recvmsg(fd, message.ctypes.data, DONTWAIT)
    if length <= 0:
        return 0
    segment, at = length, 0
    end = message[5]
    while at + 16 <= end:  # length (8), level (4), kind (4), value
        size, level, kind = _word(b.control, at), _word(b.control, at + 8), _word(b.control, at + 12)
        if size < 16:
            break
        if level == SOL_UDP and kind == UDP_GRO:
            segment = _word(b.control, at + 16)
        elif level == SOL_SOCKET and kind == RXQ_OVFL:
            b.state[DROPPED] = _word(b.control, at + 16)
        at += (size + 7) & ~7
    b.state[LENGTH], b.state[SEGMENT] = length, max(segment, 1)
    return length


@njit(cache=True, no_cfunc_wrapper=True, nogil=True)
def drain(  # type: ignore[no-untyped-def]
    fd, b, seq, d, codec, token, open_, got, have, tail, ptr, base, staged, staged32, total, count, mine,
    scale, told, stats, stop, heard, newest,
):  # fmt: skip
    """Take in everything that has come for exchange ``seq``; see `wire.take` for the arguments.

    Returns EMPTY, or OTHER with the place of a packet that is something else in ``b.state``; the caller deals
    with that buffer from there on.
    """
    while True:
        length = _receive(fd, b)
        if length == 0:
            return EMPTY
        b.state[SOME] = 1
        if length < wire.HEADER:
            continue
        segment, before = b.state[SEGMENT], stats[wire.FRESH]
        at = wire.take(
            b.data, b.data32, length, segment, 0, seq, d, codec, token, b.keep, open_, got, have, tail, ptr,
            base, staged, staged32, total, count, mine, scale, told, stats, stop,
        )  # fmt: skip
        if stats[wire.FRESH] > before:
            b.state[FRESH] = 1
            src = int(b.data[wire.SRC]) | int(b.data[wire.SRC + 1]) << 8
            if src < heard.size:  # the first packet of a buffer may be a forged one
                heard[src] += 1
                newest[src] = max(newest[src], seq)
        if at + wire.HEADER <= length or stop[7] >= 0:
            b.state[AT] = at
            return OTHER


@njit(cache=True, no_cfunc_wrapper=True, nogil=True)
def push(  # type: ignore[no-untyped-def]
    fd, b, address, batch, segment, data, data32, shard, first, last, stage, src, bucket, incast, micro,
    seq, d, codec, token, open_, got, have, tail, ptr, base, staged, staged32, total, count, mine,
    scale, told, stats, stop, heard, newest,
):  # fmt: skip
    """Send packets ``first`` to ``last`` of ``data``, and take in what comes after each buffer.

    ``shard``: int64[packets + 1], where packets start in ``data``. Packets as large as a segment are sent
    from where they lie. Returns how it ended and the packet to go on with.
    """
    message, heads = b.message[0], b.heads
    packets = shard.size - 1
    while first < last:
        many = min(batch, last - first)
        whole = True
        for k in range(many):
            size = shard[first + k + 1] - shard[first + k]
            whole = whole and (size == segment - wire.HEADER or k == many - 1)
        if whole:
            start = data.ctypes.data
            for k in range(many):
                p = first + k
                size = shard[p + 1] - shard[p]
                mark = 1 if p >= packets - 1 - packets // 100 else 0
                wire.head(
                    heads, k * wire.HEADER, wire.DATA, stage, token, src, bucket, seq, p, d, size, codec,
                    mark | incast << 4, micro,
                )  # fmt: skip
                b.parts[2 * k, 0], b.parts[2 * k, 1] = heads.ctypes.data + k * wire.HEADER, wire.HEADER
                b.parts[2 * k + 1, 0], b.parts[2 * k + 1, 1] = start + shard[p], size
            message[3] = 2 * many
        else:
            which = np.arange(first, first + many)
            used = wire.fill(
                b.out, b.out32, segment, data, data32, shard, which, 0, many, stage, token, src, bucket, seq,
                d, codec, incast, micro,
            )  # fmt: skip
            b.parts[0, 0], b.parts[0, 1] = b.out.ctypes.data, used
            message[3] = 1
        message[0], message[1] = address.ctypes.data, address.size
        message[2] = b.parts.ctypes.data
        if _sendmsg(fd, message.ctypes.data, DONTWAIT | NOSIGNAL) < 0:
            return BLOCKED, first
        first += many
        ended = drain(
            fd, b, seq, d, codec, token, open_, got, have, tail, ptr, base, staged, staged32, total, count,
            mine, scale, told, stats, stop, heard, newest,
        )  # fmt: skip
        if ended != EMPTY:
            return ended, first
    return EMPTY, first


def compile_calls() -> None:
    """Compile everything, or read it from the cache: an exchange must not wait for that."""
    data = np.zeros(64, np.uint8)
    b = Buffers.of(data, data.view(np.float32), 1, 64)
    some = (
        0, 1, 0, 0, np.ones(2, np.bool_), np.zeros((2, 1, 1), np.uint8), np.zeros((2, 1), np.int64),
        np.zeros((2, 1), np.bool_), np.zeros((2, 1, 2), np.int64), np.zeros((2, 1), np.int64),
        np.zeros(4, np.uint8), np.zeros(1, np.float32), np.zeros(0, np.float32), np.zeros(1, np.int64),
        np.zeros(0, np.float32), np.ones(3, np.float32), np.zeros((2, 1), np.int64),
        np.zeros(wire.STATS, np.int64), np.zeros(8, np.int64), np.zeros(1, np.int64), np.zeros(1, np.int64),
    )  # fmt: skip
    drain(-1, b, *some)
    push(
        -1, b, np.zeros(16, np.uint8), 1, 64, data, data.view(np.float32), np.zeros(2, np.int64), 0, 0, 0, 0,
        0, 1, 0, *some,
    )  # fmt: skip
