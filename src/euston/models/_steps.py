"""The links of a layer's chain: bandwidth-bound kernels, linear layers, norms and residuals.

Every `Step` is what runs forward, what runs backward, and which module of selective recompute it belongs to;
the files beside string them together. Bytes are those of fused kernels: each tensor read or written once per
kernel. T are the micro-batch's tokens, t the tensor-parallel ranks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from ._settings import Settings
from .operator import Kernel, Operator, Phase

__all__ = ["Step", "cast", "gemm", "linear", "memory", "norm", "residual"]

#: Operations of the host alone for each part of a grouped GEMM's input, beside its kernels: a split and two
#: allocations (NVIDIA/TransformerEngine issue 1499 names them as the cost of GroupedLinear beyond its GEMMs).
HOST_OPERATIONS = 3


@dataclass(frozen=True)
class Step:
    """One link: operators forward and backward, and the module whose recompute repeats the forward ones."""

    forward: tuple[Operator, ...]
    backward: tuple[Operator, ...]
    module: str = ""

    def within(self, module: str) -> Step:
        """The same link as part of a module."""
        return replace(self, module=module)


def memory(
    name: str,
    kernel: Kernel,
    settings: Settings,
    rows: float,
    columns: int,
    forward: tuple[float, float],
    backward: tuple[float, float],
    *,
    module: str = "",
    calls: tuple[int, int] = (1, 1),
    single: tuple[float, float] = (0.0, 0.0),
) -> Step:
    """A bandwidth-bound kernel; `forward` and `backward` are bytes (read, written) per element.

    `calls`: launches forward and backward, where the work is not one kernel. `single`: of the bytes forward
    and backward, those moved one element at a time (`Operator.bytes_single`).
    """

    def one(phase: Phase, per_element: tuple[float, float]) -> Operator:
        read, written = (rows * columns * b for b in per_element)
        return Operator(
            name,
            "memory",
            phase,
            (math.ceil(rows), columns),
            0.0,
            float(read),
            float(written),
            settings.dtype,
            calls=calls[phase == "backward"],
            kernel=kernel,
            bytes_single=float(rows * columns * single[phase == "backward"]),
        )

    return Step((one("forward", forward),), (one("backward", backward),), module)


def gemm(name: str, phase: Phase, m: int, n: int, k: int, element: float, out: int, dtype: str) -> Operator:
    """One product m x k by k x n."""
    read, written = (m * k + k * n) * element, m * n * out
    return Operator(name, "gemm", phase, (m, n, k), 2.0 * m * n * k, float(read), float(written), dtype)


def cast(
    name: str, settings: Settings, phase: Phase, rows: float, columns: int, tensors: int = 1
) -> tuple[Operator, ...]:
    """The kernels that cast a GEMM's input to the recipe's type, both copies; none in 16 bit.

    `tensors`: parts of the input that a grouped GEMM multiplies apart, each with its own view and two new
    tensors unless the whole iteration is replayed from a graph.
    """
    recipe = settings.recipe
    if recipe is None:
        return ()
    moved = (recipe.cast_read, recipe.cast_write)
    calls = recipe.launches
    if tensors > 1 and not recipe.one_kernel_for_experts and settings.graphs != "full":
        calls = tensors * (recipe.launches + HOST_OPERATIONS)
    step = memory(name, "cast", settings, rows, columns, moved, moved, calls=(calls, calls))
    return step.forward if phase == "forward" else step.backward


def linear(
    name: str,
    settings: Settings,
    outputs: int,
    inputs: int,
    *,
    tokens: int | None = None,
    low_precision: bool = True,
) -> Step:
    """y[T, outputs] = x[T, inputs] @ W.T, with dgrad [T, inputs, outputs] and wgrad [outputs, inputs, T]."""
    rows = settings.tokens if tokens is None else tokens
    out = settings.width
    recipe = settings.recipe if low_precision else None
    element, dtype = (out, settings.dtype) if recipe is None else (recipe.element, recipe.gemm)
    forward: tuple[Operator, ...] = (gemm(name, "forward", rows, outputs, inputs, element, out, dtype),)
    backward: tuple[Operator, ...] = (
        gemm(f"{name}_dgrad", "backward", rows, inputs, outputs, element, out, dtype),
        gemm(f"{name}_wgrad", "backward", outputs, inputs, rows, element, out, dtype),
    )
    if recipe is not None:
        forward = cast(f"{name}_input_cast", settings, "forward", rows, inputs) + forward
        backward = cast(f"{name}_gradient_cast", settings, "backward", rows, outputs) + backward
    return Step(forward, backward)


def norm(name: str, settings: Settings, rows: float, columns: int) -> Step:
    """RMSNorm or layer norm over rows."""
    e = settings.width
    # forward x -> y; backward dy, x -> dx
    return memory(name, "norm", settings, rows, columns, (e, e), (2 * e, e), module="layernorm")


def residual(name: str, settings: Settings, hidden: int) -> Step:
    """Residual add (with dropout and bias in the same kernel) and, backward, the sum of the two gradients."""
    e, rows = settings.width, settings.split_tokens
    mask = 1 if settings.dropout else 0
    step = memory(name, "add", settings, rows, hidden, (2 * e, e + mask), (2 * e, e))
    if not settings.dropout:
        return step
    drop = memory(f"{name}_dropout", "dropout", settings, rows, hidden, (0, 0), (e + 1, e))
    # the gradients are summed where the residual branches off, i.e. after the branch's own backward
    return Step(step.forward, (*drop.backward, *step.backward))
