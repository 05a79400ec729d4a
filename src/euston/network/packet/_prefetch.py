"""A hint to the processor: a row of an array will be read soon.

A run of a thousand hosts touches more packets per round trip than a second-level cache holds, and rings show
which ones come next; fetching them ahead hides the wait. It changes no result.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import config, types
from numba.core import cgutils
from numba.extending import intrinsic

__all__ = ["prefetch"]

if config.DISABLE_JIT:

    def prefetch(array: Any, row: Any, offset: int) -> None:
        """Nothing: Python has no such hint."""

else:

    @intrinsic
    def prefetch(typingctx, array, row, offset):  # type: ignore[no-untyped-def]
        """Begin to load the cache line ``offset`` bytes into a row."""

        def code(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            view = context.make_array(signature.args[0])(context, builder, arguments[0])
            stride = cgutils.unpack_tuple(builder, view.strides)[0]
            byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
            at = builder.gep(
                builder.bitcast(view.data, byte),
                [builder.add(builder.mul(stride, arguments[1]), arguments[2])],
            )
            kind = ir.FunctionType(ir.VoidType(), [byte, word, word, word])
            hint = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
            builder.call(hint, [at, word(0), word(3), word(1)])  # to read, keep, data
            return context.get_dummy_value()

        return types.void(array, types.int64, types.int64), code
