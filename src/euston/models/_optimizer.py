"""The kernels of one optimiser step: passes over the rank's parameters, gradients and Adam state."""

from __future__ import annotations

import math

from euston.errors import ConfigError

from ._settings import Precision, choice, positive
from .operator import Kernel, Operator
from .recipes import recipe

#: Passes of mixed-precision Adam with FP32 main gradients: bytes (read, written) per parameter, 58 in all.
PASSES: tuple[tuple[str, Kernel, int, int], ...] = (
    ("unscale", "optimizer", 4, 4),  # gradient / loss scale, with the test for infinities
    ("gradient_norm", "optimizer", 4, 0),
    ("clip", "optimizer", 4, 4),
    ("adam", "optimizer", 16, 12),  # gradient, master, m, v -> master, m, v
    ("parameter_cast", "cast", 4, 2),  # FP32 master -> 16 bit
    ("zero_gradients", "optimizer", 0, 4),
)


def operators(parameters: float, shard: int, precision: Precision) -> tuple[Operator, ...]:
    """Passes over `parameters` of one rank, of whose optimiser state it holds 1 / `shard`.

    Sharding divides every pass but the cast, which fills the rank's whole 16-bit copy: 52 / shard + 6 bytes
    per parameter. A low-precision recipe adds the weights' cast, once per step; ``fp32`` has
    no cast.

    Raises
    ------
    ConfigError
        For a negative or infinite number of parameters, or a `shard` below 1.
    """
    positive("shard", shard)
    choice("precision", precision, Precision)
    if not 0 <= parameters < math.inf:
        raise ConfigError(f"`parameters`: {parameters!r} must be a finite number of at least 0")
    passes = [p for p in PASSES if not (precision == "fp32" and p[1] == "cast")]
    moved: list[tuple[str, Kernel, float, float]] = [*passes]
    low = recipe(precision)
    if low is not None:
        moved.append(("weight_cast", "cast", low.cast_read, low.cast_write))
    found = []
    for name, kernel, read, written in moved:
        count = parameters if kernel == "cast" else parameters / shard
        shape = (math.ceil(count), 1)
        found.append(
            Operator(name, "memory", "step", shape, 0.0, read * count, written * count, "fp32", kernel=kernel)
        )
    return tuple(found)
