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

__all__ = ["pack", "pack_group", "unpack", "unpack_group"]

_helper = njit(cache=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
_kernel = njit(cache=True, no_cfunc_wrapper=True, nogil=True)


@_helper
def pack_group(code, bits, lanes, out, o):  # type: ignore[no-untyped-def]
    """``code[:32 * lanes]`` (uint32) into ``out[o:o + lanes * bits]`` (uint32)."""
    shift = np.uint32(0)
    for width in (1, 2, 4, 8):
        if not bits & width:
            continue
        per_word = 32 // width
        for row in range(width):
            i, at = row * per_word * lanes, o + row * lanes
            if lanes == 8:
                if width == 1:
                    pack1(code, i, shift, out, at)
                elif width == 2:
                    pack2(code, i, shift, out, at)
                elif width == 4:
                    pack4(code, i, shift, out, at)
                else:
                    pack8(code, i, shift, out, at)
                continue
            for lane in range(lanes):
                word = np.uint32(0)
                for k in range(per_word):
                    part = (code[i + k * lanes + lane] >> shift) & np.uint32((1 << width) - 1)
                    word |= part << np.uint32(width * k)
                out[at + lane] = word
        o += width * lanes
        shift += np.uint32(width)


@_helper
def unpack_group(words, o, bits, lanes, code):  # type: ignore[no-untyped-def]
    """The inverse of `pack_group`."""
    code[: 32 * lanes] = np.uint32(0)
    shift = np.uint32(0)
    for width in (1, 2, 4, 8):
        if not bits & width:
            continue
        per_word = 32 // width
        for row in range(width):
            i, at = row * per_word * lanes, o + row * lanes
            if lanes == 8:
                if width == 1:
                    unpack1(words, at, shift, code, i)
                elif width == 2:
                    unpack2(words, at, shift, code, i)
                elif width == 4:
                    unpack4(words, at, shift, code, i)
                else:
                    unpack8(words, at, shift, code, i)
                continue
            for lane in range(lanes):
                for k in range(per_word):
                    part = (words[at + lane] >> np.uint32(width * k)) & np.uint32((1 << width) - 1)
                    code[i + k * lanes + lane] |= part << shift
        o += width * lanes
        shift += np.uint32(width)


@_kernel
def _pack_all(codes, bits, out):  # type: ignore[no-untyped-def]
    code, o = np.zeros(GROUP, np.uint32), 0
    for i in range(0, codes.size, GROUP):
        given = min(GROUP, codes.size - i)
        lanes = (given + 31) // 32
        for j in range(32 * lanes):
            code[j] = codes[i + j] if j < given else np.uint32(0)
        pack_group(code, bits, lanes, out, o)
        o += bits * lanes


@_kernel
def _unpack_all(words, bits, codes):  # type: ignore[no-untyped-def]
    code, o = np.zeros(GROUP, np.uint32), 0
    for i in range(0, codes.size, GROUP):
        given = min(GROUP, codes.size - i)
        lanes = (given + 31) // 32
        unpack_group(words, o, bits, lanes, code)
        for j in range(given):
            codes[i + j] = code[j]
        o += bits * lanes


def _words(n: int, bits: int) -> int:
    if not 1 <= bits <= 8:
        raise ConfigError(f"`bits`: {bits}; 1 to 8 can be packed")
    return -(-n // 32) * bits


def pack(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Pack codes below ``2**bits``: 4 bytes for every 32 codes and bit, the last 32 padded with zeros.

    Raises
    ------
    ConfigError
        ``bits`` outside 1 to 8, or a code that does not fit.
    """
    out = np.zeros(_words(codes.size, bits), np.uint32)
    if codes.size and int(codes.max()) >> bits:
        raise ConfigError(f"`codes`: {int(codes.max())} does not fit into {bits} bits")
    _pack_all(codes, bits, out)
    return out.view(np.uint8)


def unpack(packed: NDArray[np.uint8], n: int, bits: int) -> NDArray[np.uint8]:
    """The `n` codes that `pack` packed."""
    if packed.size != 4 * _words(n, bits):
        raise ConfigError(
            f"`packed`: {packed.size} bytes; {n} codes of {bits} bits take {4 * _words(n, bits)}"
        )
    codes = np.zeros(n, np.uint8)
    _unpack_all(packed.view(np.uint32), bits, codes)
    return codes
