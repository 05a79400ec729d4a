"""Eight-lane building blocks of the codec kernels, written as LLVM vector instructions.

LLVM's loop vectoriser does not find these patterns from scalar loops: butterflies whose operands it cannot
prove apart, exchanges inside a register, searches in a table held in registers. Measured on the block
Hadamard transform, the explicit form is 1.3 to 2 times as fast. ``<8 x float>`` is portable IR: one AVX
register, two of SSE or NEON.

Every block works on element offsets of contiguous arrays, checks nothing, and has a plain twin that runs
when ``NUMBA_DISABLE_JIT=1``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from llvmlite.binding import get_host_cpu_features
from numba import config, types
from numba.extending import intrinsic

__all__ = [
    "LANES", "dequantise1", "dequantise2", "dequantise3", "dequantise4", "hadamard64_signed",
    "pack1", "pack2", "pack4", "pack8", "quantise1", "quantise2", "quantise3", "quantise4",
    "radix2", "radix4", "radix8", "signed_hadamard64", "unpack1", "unpack2", "unpack4", "unpack8",
]  # fmt: skip

LANES = 8

_I32, _I64 = ir.IntType(32), ir.IntType(64)
_VI, _VF = ir.VectorType(_I32, LANES), ir.VectorType(ir.FloatType(), LANES)

_INTP = types.intp


def _const(value: int | list[int]) -> ir.Constant:
    return ir.Constant(_VI, value if isinstance(value, list) else [value & 0xFFFFFFFF] * LANES)


def _splat(builder: Any, scalar: Any, kind: Any) -> Any:
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), scalar, ir.Constant(_I32, 0))
    return builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined), ir.Constant(_VI, [0] * LANES))


def _data(context: Any, builder: Any, signature: Any, args: Any, k: int) -> Any:
    """The data pointer of array argument `k`."""
    return context.make_array(signature.args[k])(context, builder, args[k]).data


def _at(builder: Any, base: Any, offset: Any, kind: Any) -> Any:
    return builder.bitcast(builder.gep(base, [offset]), kind.as_pointer())


def _butterflies(builder: Any, rows: list[Any]) -> list[Any]:
    """The Hadamard transform across `rows`, a power of two of vectors."""
    step = 1
    while step < len(rows):
        out = list(rows)
        for k in range(len(rows)):
            if not k & step:
                out[k] = builder.fadd(rows[k], rows[k | step])
                out[k | step] = builder.fsub(rows[k], rows[k | step])
        rows, step = out, 2 * step
    return rows


def _radix(n: int) -> Callable[..., None]:
    """A butterfly over `n` vectors: ``source[i + k s] -> target[j + k t]``, k < n."""

    @intrinsic
    def compiled(typing, source, i, s, target, j, t):  # type: ignore[no-untyped-def]
        def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
            def place(array: int, k: int) -> Any:
                away = builder.mul(args[array + 2], ir.Constant(_I64, k))
                base = _data(context, builder, signature, args, array)
                return _at(builder, base, builder.add(args[array + 1], away), _VF)

            rows = [builder.load(place(0, k), align=4) for k in range(n)]
            for k, row in enumerate(_butterflies(builder, rows)):
                builder.store(row, place(3, k), align=4)
            return context.get_dummy_value()

        return types.void(source, _INTP, _INTP, target, _INTP, _INTP), codegen

    def plain(source, i, s, target, j, t):  # type: ignore[no-untyped-def]
        rows = np.stack([source[i + k * s : i + k * s + LANES] for k in range(n)])
        step = 1
        while step < n:
            pair = rows.reshape(-1, 2, step, LANES)
            rows = np.stack([pair[:, 0] + pair[:, 1], pair[:, 0] - pair[:, 1]], axis=1).reshape(n, LANES)
            step *= 2
        for k in range(n):
            target[j + k * t : j + k * t + LANES] = rows[k]

    return plain if config.DISABLE_JIT else compiled


radix2, radix4, radix8 = _radix(2), _radix(4), _radix(8)


def _hadamard64(signs_first: bool) -> Callable[..., None]:
    """The transform of 64 values with signs before or after it; see `signed_hadamard64`."""

    @intrinsic
    def compiled(typing, x, i, words, w, shift, scale, y, j, sums):  # type: ignore[no-untyped-def]
        def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
            def place(array: int, offset: Any, kind: Any, k: int) -> Any:
                base = _data(context, builder, signature, args, array)
                return _at(builder, base, builder.add(offset, ir.Constant(_I64, LANES * k)), kind)

            up, factor = _splat(builder, args[4], _VI), _splat(builder, args[5], _VF)

            def signed(row: Any, k: int) -> Any:
                word = builder.load(place(2, args[3], _VI, k), align=4)
                sign = builder.and_(builder.shl(word, up), _const(0x80000000))
                flipped = builder.bitcast(builder.xor(builder.bitcast(row, _VI), sign), _VF)
                return builder.fmul(flipped, factor)

            rows = [builder.load(place(0, args[1], _VF, k), align=4) for k in range(LANES)]
            if signs_first:
                squares = [builder.fmul(row, row) for row in rows]
                while len(squares) > 1:
                    half = len(squares) // 2
                    squares = [builder.fadd(squares[k], squares[k + half]) for k in range(half)]
                total = place(8, ir.Constant(_I64, 0), _VF, 0)
                builder.store(builder.fadd(builder.load(total, align=4), squares[0]), total, align=4)
                rows = [signed(row, k) for k, row in enumerate(rows)]
            rows = _butterflies(builder, rows)
            for step in (1, 2, 4):  # the three levels inside a register: partner plus or minus oneself
                minus = _const([0x80000000 if lane & step else 0 for lane in range(LANES)])
                partner = _const([lane ^ step for lane in range(LANES)])
                for k in range(LANES):
                    swapped = builder.shuffle_vector(rows[k], ir.Constant(_VF, ir.Undefined), partner)
                    negated = builder.bitcast(builder.xor(builder.bitcast(rows[k], _VI), minus), _VF)
                    rows[k] = builder.fadd(swapped, negated)
            for k, row in enumerate(rows):
                builder.store(row if signs_first else signed(row, k), place(6, args[7], _VF, k), align=4)
            return context.get_dummy_value()

        return types.void(x, _INTP, words, _INTP, types.uint32, types.float32, y, _INTP, sums), codegen

    def plain(x, i, words, w, shift, scale, y, j, sums):  # type: ignore[no-untyped-def]
        sign = (words[w : w + 64] << shift) & np.uint32(0x80000000)
        rows = x[i : i + 64].copy()
        if signs_first:
            squares = (rows * rows).reshape(8, LANES)
            while len(squares) > 1:
                squares = squares[: len(squares) // 2] + squares[len(squares) // 2 :]
            sums[:LANES] += squares[0]
            rows = (rows.view(np.uint32) ^ sign).view(np.float32) * scale
        for step in (8, 16, 32, 1, 2, 4):
            pair = rows.reshape(-1, 2, step)
            rows = np.stack([pair[:, 0] + pair[:, 1], pair[:, 0] - pair[:, 1]], axis=1).ravel()
        y[j : j + 64] = rows if signs_first else (rows.view(np.uint32) ^ sign).view(np.float32) * scale

    return plain if config.DISABLE_JIT else compiled


signed_hadamard64, hadamard64_signed = _hadamard64(True), _hadamard64(False)
"""``signed_hadamard64(x, i, words, w, shift, scale, y, j, sums)``: ``y[j:j + 64] = scale * H D x[i:i + 64]``.

The sign of value k is bit ``31 - shift`` of ``words[w + k]`` (uint32). ``sums`` (float32[8]) grows by the
squares of x, by lane. ``hadamard64_signed`` flips and scales after the transform (``scale * D H x``) and
leaves the sums.
"""


# AVX2 looks up eight values by eight indices in one instruction, elsewhere a tree of selections does.
# Measured for `quantise4`: 12.9 against 7.5 GB/s. Both give the same bits.
_PERMUTES = (
    not config.CPU_NAME
    and not config.CPU_FEATURES
    and bool(config.ENABLE_AVX)
    and bool(get_host_cpu_features().get("avx2"))
)


def _permute(builder: Any, values: Any, index: Any) -> Any:
    """``values[index]`` of two vectors of eight, by AVX2's permutation (it reads the lowest three bits)."""
    name = "llvm.x86.avx2.permps"
    function = builder.module.globals.get(name)
    if function is None:
        function = ir.Function(builder.module, ir.FunctionType(_VF, [_VF, _VI]), name)
    return builder.call(function, [values, index])


def _search(builder: Any, magnitude: Any, thresholds: list[Any], bits: int) -> list[Any]:
    """Binary search of `magnitude` among sorted `thresholds`: masks of the index bits, highest first."""
    masks: list[Any] = []
    for level in range(bits - 1, -1, -1):
        candidates = [thresholds[(2 * u + 1) * (1 << level) - 1] for u in range(1 << (bits - 1 - level))]
        masks.append(builder.fcmp_ordered(">", magnitude, _choose(builder, candidates, masks)))
    return masks


def _choose(builder: Any, values: list[Any], masks: list[Any]) -> Any:
    """The value whose index has the bits `masks`, highest first."""
    for mask in masks:
        half = len(values) // 2
        values = [builder.select(mask, values[half + u], values[u]) for u in range(half)]
    return values[0]


def _quantise_row(bits: int) -> Callable[..., None]:
    """Sign and nearest centroid of 32 coordinates; see `quantise4`."""
    half = 1 << (bits - 1)

    @intrinsic
    def compiled(typing, y, i, scale, table, code, j, sums):  # type: ignore[no-untyped-def]
        def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
            def place(array: int, offset: Any, kind: Any) -> Any:
                return _at(builder, _data(context, builder, signature, args, array), offset, kind)

            def entry(k: int) -> Any:
                address = builder.gep(_data(context, builder, signature, args, 3), [ir.Constant(_I64, k)])
                return _splat(builder, builder.load(address), _VF)

            def eight(k: int) -> Any:
                return builder.load(place(3, ir.Constant(_I64, k), _VF), align=4)

            def bits_of(masks: list[Any]) -> Any:
                index = _const(0)
                for bit, mask in zip(range(len(masks) - 1, -1, -1), masks, strict=True):
                    index = builder.or_(index, builder.select(mask, _const(1 << bit), _const(0)))
                return index

            permutes = _PERMUTES and bits == 4
            if permutes:  # the last of three levels has four thresholds, every other one
                centroids, none = eight(half - 1), ir.Constant(_VF, ir.Undefined)
                last = builder.shuffle_vector(eight(0), none, _const([0, 2, 4, 6] * 2))
                upper = [entry(1), entry(3), entry(5)]
            else:
                table = [entry(k) for k in range(2 * half - 1)]
            factor = _splat(builder, args[2], _VF)
            products: list[Any] = []
            squares: list[Any] = []
            for row in range(4):
                away = ir.Constant(_I64, LANES * row)
                z = builder.load(place(0, builder.add(args[1], away), _VF), align=4)
                raw = builder.bitcast(builder.fmul(z, factor), _VI)
                magnitude = builder.bitcast(builder.and_(raw, _const(0x7FFFFFFF)), _VF)
                sign = builder.shl(builder.lshr(raw, _const(31)), _const(bits - 1))
                if permutes:
                    masks = _search(builder, magnitude, upper, 2)
                    threshold = _permute(builder, last, bits_of(masks))
                    masks.append(builder.fcmp_ordered(">", magnitude, threshold))
                    index = bits_of(masks)
                    centroid = _permute(builder, centroids, index)
                else:
                    masks = _search(builder, magnitude, table[: half - 1], bits - 1)
                    index, centroid = bits_of(masks), _choose(builder, table[half - 1 :], masks)
                code = place(4, builder.add(args[5], away), _VI)
                builder.store(builder.or_(index, sign), code, align=4)
                products.append(builder.fmul(centroid, magnitude))
                squares.append(builder.fmul(centroid, centroid))
            for k, terms in enumerate((products, squares)):
                total = builder.fadd(builder.fadd(terms[0], terms[1]), builder.fadd(terms[2], terms[3]))
                target = place(6, ir.Constant(_I64, LANES * k), _VF)
                builder.store(builder.fadd(builder.load(target, align=4), total), target, align=4)
            return context.get_dummy_value()

        return types.void(y, _INTP, types.float32, table, code, _INTP, sums), codegen

    def plain(y, i, scale, table, code, j, sums):  # type: ignore[no-untyped-def]
        z = y[i : i + 4 * LANES] * scale
        magnitude = np.abs(z)
        index = np.searchsorted(table[: half - 1], magnitude)
        code[j : j + 4 * LANES] = index + np.where(np.signbit(z), half, 0)
        centroid = table[half - 1 + index]
        for k, terms in enumerate((centroid * magnitude, centroid * centroid)):
            rows = terms.reshape(4, LANES)
            sums[LANES * k : LANES * (k + 1)] += (rows[0] + rows[1]) + (rows[2] + rows[3])

    return plain if config.DISABLE_JIT else compiled


quantise1, quantise2, quantise3, quantise4 = (_quantise_row(bits) for bits in (1, 2, 3, 4))
"""``quantise4(y, i, scale, table, code, j, sums)``: ``code[j:j + 32]`` of ``z = scale y[i:i + 32]``.

A code is the index of the centroid nearest to |z|, plus ``2**(bits - 1)`` where z is negative. `table` holds
the ``2**(bits - 1) - 1`` thresholds, then the centroids. ``sums`` (float32[16]) grows by c |z| and by c^2.
"""


def _dequantise_row(bits: int) -> Callable[..., None]:
    """Eight signed centroids from their codes; see `dequantise4`."""
    half = 1 << (bits - 1)

    @intrinsic
    def compiled(typing, code, j, table, y, i):  # type: ignore[no-untyped-def]
        def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
            entries = _data(context, builder, signature, args, 2)
            source = _at(builder, _data(context, builder, signature, args, 0), args[1], _VI)
            index = builder.load(source, align=4)
            if _PERMUTES and bits == 4:
                eight = _at(builder, entries, ir.Constant(_I64, 0), _VF)
                centroid = _permute(builder, builder.load(eight, align=4), index)
            else:
                centroids = [
                    _splat(builder, builder.load(builder.gep(entries, [ir.Constant(_I64, k)])), _VF)
                    for k in range(half)
                ]
                masks = [
                    builder.icmp_unsigned("!=", builder.and_(index, _const(1 << place)), _const(0))
                    for place in range(bits - 2, -1, -1)
                ]
                centroid = _choose(builder, centroids, masks)
            sign = builder.shl(builder.lshr(index, _const(bits - 1)), _const(31))
            value = builder.bitcast(builder.xor(builder.bitcast(centroid, _VI), sign), _VF)
            builder.store(
                value, _at(builder, _data(context, builder, signature, args, 3), args[4], _VF), align=4
            )
            return context.get_dummy_value()

        return types.void(code, _INTP, table, y, _INTP), codegen

    def plain(code, j, table, y, i):  # type: ignore[no-untyped-def]
        index = code[j : j + LANES]
        value = table[index % np.uint32(half)]
        y[i : i + LANES] = np.where(index >= half, -value, value)

    return plain if config.DISABLE_JIT else compiled


dequantise1, dequantise2, dequantise3, dequantise4 = (_dequantise_row(bits) for bits in (1, 2, 3, 4))
"""``dequantise4(code, j, table, y, i)``: ``y[i:i + 8]`` from the codes ``code[j:j + 8]`` of `quantise4`;
`table` holds the ``2**(bits - 1)`` centroids."""


def _pack_row(width: int) -> Callable[..., None]:
    per_word = 32 // width

    @intrinsic
    def compiled(typing, code, i, shift, out, o):  # type: ignore[no-untyped-def]
        def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
            base, down = _data(context, builder, signature, args, 0), _splat(builder, args[2], _VI)
            word = _const(0)
            for k in range(per_word):
                place = builder.add(args[1], ir.Constant(_I64, LANES * k))
                part = builder.lshr(builder.load(_at(builder, base, place, _VI), align=4), down)
                part = builder.and_(part, _const((1 << width) - 1))
                word = builder.or_(word, builder.shl(part, _const(width * k)))
            target = _at(builder, _data(context, builder, signature, args, 3), args[4], _VI)
            builder.store(word, target, align=4)
            return context.get_dummy_value()

        return types.void(code, _INTP, types.uint32, out, _INTP), codegen

    def plain(code, i, shift, out, o):  # type: ignore[no-untyped-def]
        part = (code[i : i + LANES * per_word].reshape(per_word, LANES) >> shift) & np.uint32(
            (1 << width) - 1
        )
        places = np.arange(0, 32, width, dtype=np.uint32)[:, None]
        out[o : o + LANES] = np.bitwise_or.reduce(part << places, axis=0)

    return plain if config.DISABLE_JIT else compiled


def _unpack_row(width: int) -> Callable[..., None]:
    per_word = 32 // width

    @intrinsic
    def compiled(typing, words, o, shift, code, i):  # type: ignore[no-untyped-def]
        def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
            source = _at(builder, _data(context, builder, signature, args, 0), args[1], _VI)
            word, up = builder.load(source, align=4), _splat(builder, args[2], _VI)
            base = _data(context, builder, signature, args, 3)
            for k in range(per_word):
                part = builder.and_(builder.lshr(word, _const(width * k)), _const((1 << width) - 1))
                place = _at(builder, base, builder.add(args[4], ir.Constant(_I64, LANES * k)), _VI)
                before = builder.load(place, align=4)
                builder.store(builder.or_(before, builder.shl(part, up)), place, align=4)
            return context.get_dummy_value()

        return types.void(words, _INTP, types.uint32, code, _INTP), codegen

    def plain(words, o, shift, code, i):  # type: ignore[no-untyped-def]
        places = np.arange(0, 32, width, dtype=np.uint32)[:, None]
        part = (words[o : o + LANES] >> places) & np.uint32((1 << width) - 1)
        code[i : i + LANES * per_word] |= (part << shift).ravel()

    return plain if config.DISABLE_JIT else compiled


pack1, pack2, pack4, pack8 = (_pack_row(width) for width in (1, 2, 4, 8))
"""``pack4(code, i, shift, out, o)``: bits ``shift..shift + 4`` of 256 / 4 codes (uint32) into the eight words
``out[o:o + 8]``; code ``i + 8 k + lane`` lands in word `lane` at bit ``4 k``."""

unpack1, unpack2, unpack4, unpack8 = (_unpack_row(width) for width in (1, 2, 4, 8))
"""``unpack4(words, o, shift, code, i)``: the inverse of `pack4`; ors into `code`."""
