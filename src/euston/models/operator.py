"""One piece of computation as data: what a kernel multiplies, reads and writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Kernel", "Kind", "Operator", "Part", "Phase"]

Kind = Literal["gemm", "attention", "memory"]
Phase = Literal["forward", "backward", "recompute", "step"]
Part = Literal["layer", "embedding", "head"]
Kernel = Literal[
    "gemm",
    "attention",
    "attention_unfused",
    "norm",
    "activation",
    "rotary",
    "add",
    "softmax",
    "dropout",
    "cross_entropy",
    "embedding",
    "accumulate",
    "optimizer",
    "cast",
]


@dataclass(frozen=True, slots=True)
class Operator:
    """One kernel of one micro-batch on one rank (hashable: equal operators cost the same).

    Attributes
    ----------
    name : str
        What it does in the model, e.g. ``"qkv"``, ``"ffn_down_wgrad"``; unique within its part and phase.
    kind : "gemm" | "attention" | "memory"
        Which pricing rule applies.
    phase : "forward" | "backward" | "recompute" | "step"
        Where in an iteration it runs.
    shape : tuple
        Of one call. gemm: (m, n, k), output m x n. attention: (batch, sequence, heads, KV heads, head size)
        of this rank; batch is fractional only where a sequence is split over context-parallel ranks. memory:
        (rows, columns).
    flops : float
        Matrix FLOPs the kernel does, all calls together (element-wise arithmetic is not counted).
    bytes_read, bytes_written : float
        Bytes between the accelerator and its memory, all calls together, each tensor once.
    dtype : str
        Type of the inputs: ``"bf16"``, ``"fp16"``, ``"fp8"`` or ``"fp32"``.
    calls : int
        Equal launches this operator stands for.
    kernel : str
        Kind of kernel, which decides the memory bandwidth it reaches.
    causal : bool
        Attention only: masked products are skipped, so `flops` counts half of the square.
    layer : "layer" | "embedding" | "head"
        The part of the model it belongs to.
    """

    name: str
    kind: Kind
    phase: Phase
    shape: tuple[float, ...]
    flops: float
    bytes_read: float
    bytes_written: float
    dtype: str
    calls: int = 1
    kernel: Kernel = "gemm"
    causal: bool = False
    layer: Part = "layer"

    @property
    def bytes(self) -> float:
        """Bytes read and written."""
        return self.bytes_read + self.bytes_written
