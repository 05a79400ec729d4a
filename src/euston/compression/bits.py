"""Bit packing: groups of 256 codes of 1 to 8 bits as 32-bit words, exactly ``bits`` bits per code.

A width that is no power of two is split into planes of 1, 2, 4 and 8 bits (3 = 1 + 2), lowest bits first.
In a plane of w bits, a row of eight words holds 256 / w codes: code ``8 k + lane`` of the row sits in word
`lane` at bit ``w k``, so that packing is a shift and an or of whole vectors. A last group of fewer codes
has fewer words per row (a group of 32 n codes has n). Words are little-endian.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from euston.compression._vector import pack1, pack2, pack4, pack8, unpack1, unpack2, unpack4, unpack8
from euston.compression.layout import GROUP
from euston.errors import ConfigError

__all__ = ["look_up", "pack", "pack_group", "pack_groups", "unpack", "unpack_group", "unpack_groups"]

_helper = njit(cache=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
_kernel = njit(cache=True, no_cfunc_wrapper=True, nogil=True)


@_helper
def _pack_short(code, bits, lanes, out, o):  # type: ignore[no-untyped-def]
    """`pack_group` of fewer than eight lanes."""
    shift, width = 0, 1
    while width <= bits:
        if bits & width:
            per_word = 32 // width
            for w in range(width * lanes):
                first = w // lanes * per_word * lanes + w % lanes
                word = np.uint32(0)
                for k in range(per_word):
                    part = (code[first + k * lanes] >> np.uint32(shift)) & np.uint32((1 << width) - 1)
                    word |= part << np.uint32(width * k)
                out[o + w] = word
            o += width * lanes
            shift += width
        width *= 2


@_helper
def _unpack_short(words, o, bits, lanes, code):  # type: ignore[no-untyped-def]
    """`unpack_group` of fewer than eight lanes."""
    shift, width = 0, 1
    while width <= bits:
        if bits & width:
            per_word = 32 // width
            for w in range(width * lanes):
                first = w // lanes * per_word * lanes + w % lanes
                for k in range(per_word):
                    part = (words[o + w] >> np.uint32(width * k)) & np.uint32((1 << width) - 1)
                    code[first + k * lanes] |= part << np.uint32(shift)
            o += width * lanes
            shift += width
        width *= 2


@_helper
def pack_group(code, bits, lanes, out, o):  # type: ignore[no-untyped-def]
    """``code[:32 * lanes]`` (uint32) into ``out[o:o + lanes * bits]`` (uint32)."""
    if lanes < 8:
        _pack_short(code, bits, lanes, out, o)
        return
    shift = np.uint32(0)
    if bits & 1:
        pack1(code, 0, shift, out, o)
        o += 8
        shift += np.uint32(1)
    if bits & 2:
        for row in range(2):
            pack2(code, 128 * row, shift, out, o + 8 * row)
        o += 16
        shift += np.uint32(2)
    if bits & 4:
        for row in range(4):
            pack4(code, 64 * row, shift, out, o + 8 * row)
    elif bits & 8:
        for row in range(8):
            pack8(code, 32 * row, shift, out, o + 8 * row)


@_helper
def unpack_group(words, o, bits, lanes, code):  # type: ignore[no-untyped-def]
    """The inverse of `pack_group`."""
    code[: 32 * lanes] = np.uint32(0)
    if lanes < 8:
        _unpack_short(words, o, bits, lanes, code)
        return
    shift = np.uint32(0)
    if bits & 1:
        unpack1(words, o, shift, code, 0)
        o += 8
        shift += np.uint32(1)
    if bits & 2:
        for row in range(2):
            unpack2(words, o + 8 * row, shift, code, 128 * row)
        o += 16
        shift += np.uint32(2)
    if bits & 4:
        for row in range(4):
            unpack4(words, o + 8 * row, shift, code, 64 * row)
    elif bits & 8:
        for row in range(8):
            unpack8(words, o + 8 * row, shift, code, 32 * row)


@_kernel
def pack_groups(codes, first, last, width, word, extra, out):  # type: ignore[no-untyped-def]
    """Pack groups ``first <= g < last`` of a layout; `codes` (uint8) begins with group `first`.

    ``extra``: words between a group's place and its codes.
    """
    code = np.zeros(GROUP, np.uint32)
    for g in range(first, last):
        at = (g - first) * GROUP
        lanes = min(GROUP, codes.size - at) // 32
        part = codes[at : at + 32 * lanes]
        for j in range(part.size):
            code[j] = part[j]
        pack_group(code, np.int64(width[g]), lanes, out, word[g] + extra)


@_kernel
def unpack_groups(words, first, last, width, word, extra, codes):  # type: ignore[no-untyped-def]
    """The inverse of `pack_groups`."""
    code = np.zeros(GROUP, np.uint32)
    for g in range(first, last):
        at = (g - first) * GROUP
        lanes = min(GROUP, codes.size - at) // 32
        part = codes[at : at + 32 * lanes]
        unpack_group(words, word[g] + extra, np.int64(width[g]), lanes, code)
        for j in range(part.size):
            part[j] = code[j]


@_kernel
def look_up(codes, table, scale, values):  # type: ignore[no-untyped-def]
    """``values = table[codes]`` times the scale of the group."""
    for g in range(scale.size):
        part = values[g * GROUP : min(values.size, (g + 1) * GROUP)]
        code = codes[g * GROUP : min(values.size, (g + 1) * GROUP)]
        factor = scale[g]
        for j in range(part.size):
            part[j] = table[code[j]] * factor


def _places(n: int, bits: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Width and word of each group of `n` codes packed on their own."""
    if not 1 <= bits <= 8:
        raise ConfigError(f"`bits`: {bits}; 1 to 8 can be packed")
    groups = -(-n // GROUP)
    return np.full(groups, bits, np.uint8), np.arange(groups, dtype=np.int64) * (GROUP // 32 * bits)


def pack(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Pack codes below ``2**bits``: 4 bytes for every 32 codes and bit, the last 32 padded with zeros.

    Raises
    ------
    ConfigError
        ``bits`` outside 1 to 8, or a code that does not fit.
    """
    width, word = _places(codes.size, bits)
    if codes.size and int(codes.max()) >> bits:
        raise ConfigError(f"`codes`: {int(codes.max())} does not fit into {bits} bits")
    padded = np.zeros(-(-codes.size // 32) * 32, np.uint8)
    padded[: codes.size] = codes
    out = np.zeros(padded.size // 32 * bits, np.uint32)
    pack_groups(padded, 0, width.size, width, word, 0, out)
    return out.view(np.uint8)


def unpack(packed: NDArray[np.uint8], n: int, bits: int) -> NDArray[np.uint8]:
    """The `n` codes that `pack` packed.

    Raises
    ------
    ConfigError
        Another number of bytes than `n` codes take.
    """
    width, word = _places(n, bits)
    codes = np.zeros(-(-n // 32) * 32, np.uint8)
    if packed.size != codes.size // 8 * bits:
        raise ConfigError(
            f"`packed`: {packed.size} bytes; {n} codes of {bits} bits take {codes.size // 8 * bits}"
        )
    unpack_groups(np.ascontiguousarray(packed).view(np.uint32), 0, width.size, width, word, 0, codes)
    return codes[:n]
