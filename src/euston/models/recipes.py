"""Low-precision recipes as data: the type each GEMM multiplies in, and what casting its operands moves.

A recipe covers the linear layers; attention, norms, router, embedding and logits stay in 16 bit. Activations
and gradients are cast once per GEMM input: the kernel reads 16 bit and writes the low-precision copy, and a
second one along the other dimension that the backward GEMMs need (a transpose where scales are per tensor, a
second quantisation where they are per block).

Launches are those of NVIDIA Transformer Engine 2.x: `multi_tensor_quantize` casts a list of tensors in one
kernel under delayed scaling and loops over them under every other recipe; current scaling clears, reduces,
scales and casts.
"""

from __future__ import annotations

from dataclasses import dataclass

from euston.errors import ConfigError, unknown

__all__ = ["RECIPES", "Recipe", "recipe"]


@dataclass(frozen=True)
class Recipe:
    """One recipe.

    Attributes
    ----------
    gemm : str
        Type of the linear layers' GEMMs, a dtype of the accelerator.
    element : float
        Bytes per element of an operand, its share of the block scales included.
    cast_read, cast_write : float
        Bytes per element that casting one operand reads and writes, both copies.
    weight_copies : float
        Bytes per parameter of the cast weights a rank keeps beside the 16-bit ones.
    launches : int
        Kernels that casting one operand takes: with a scale of the tensor itself, clearing and finding the
        largest magnitude and turning it into a scale come first.
    one_kernel_for_experts : bool
        Whether the operands of all local experts are cast by one kernel, or one after the other.
    source : str
    """

    gemm: str
    element: float
    cast_read: float
    cast_write: float
    weight_copies: float
    launches: int
    one_kernel_for_experts: bool
    source: str


_TE = "NVIDIA Transformer Engine documentation, Using FP8 and FP4: "
RECIPES: dict[str, Recipe] = {
    "fp8": Recipe(
        "fp8", 1.0, 2.0, 2.0, 2.0, 1, True,
        _TE + "delayed scaling, one scale per tensor from earlier steps; FP8 copy and its transpose",
    ),
    "fp8-current": Recipe(
        "fp8", 1.0, 4.0, 2.0, 2.0, 4, False,
        _TE + "current scaling, the tensor is read once more for its largest magnitude",
    ),
    "fp8-block": Recipe(
        "fp8-block", 1.0 + 4 / 128, 2.0, 2.0 + 8 / 128, 2.0, 1, False,
        "DeepSeek-V3 (arXiv:2412.19437) section 3.3.2: FP32 scales per 1 x 128 of activations "
        "and 128 x 128 of weights",
    ),
    "mxfp8": Recipe(
        "mxfp8", 1.0 + 1 / 32, 2.0, 2.0 + 2 / 32, 2.0 + 2 / 32, 1, False,
        "OCP Microscaling specification 1.0: one 8-bit scale per 32 elements; "
        + _TE + "both directions are quantised",
    ),
    "nvfp4": Recipe(
        "nvfp4", 0.5 + 1 / 16, 4.0, 1.0 + 2 / 16, 1.0 + 2 / 16, 4, False,
        "NVIDIA, Pretraining LLMs with NVFP4 (arXiv:2509.25149): 8-bit scale per 16 elements and one "
        "per tensor (a second read for the largest magnitude); all three GEMMs of a linear layer in FP4",
    ),
}  # fmt: skip


def recipe(precision: str) -> Recipe | None:
    """The recipe of a precision; None for 16 and 32 bit."""
    if precision in ("bf16", "fp16", "fp32"):
        return None
    if precision not in RECIPES:
        raise ConfigError(
            f"`precision`: {unknown('precision', precision, ['bf16', 'fp16', 'fp32', *RECIPES])}"
        )
    return RECIPES[precision]
