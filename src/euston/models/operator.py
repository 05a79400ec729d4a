"""One piece of computation as data: what a kernel multiplies, reads and writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Kernel", "Kind", "Operator", "Part", "Phase"]

Kind = Literal["gemm", "grouped_gemm", "attention", "scan", "memory"]
Phase = Literal["forward", "backward", "recompute", "step"]
Part = Literal["layer", "embedding", "head", "prediction", "encoder"]
Kernel = Literal[
    "gemm",
    "moe",
    "attention",
    "attention_decode",
    "attention_unfused",
    "mla_prefill",
    "mla_decode",
    "scan",
    "conv",
    "router",
    "permute",
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
    kind : "gemm" | "grouped_gemm" | "attention" | "scan" | "memory"
        Which pricing rule applies.
    phase : "forward" | "backward" | "recompute" | "step"
        Where in an iteration it runs.
    shape : tuple
        Of one call on this rank, by kind and kernel:

        - gemm: (m, n, k), output m x n;
        - grouped_gemm, kernel ``moe``: (rows, n, k, experts, busiest): `experts` local experts with weights
          n x k each, `rows` rows over all of them, `busiest` rows on the fullest one (balanced: rows /
          experts; 0 rows are allowed). A backward to the weights has the same shape. An MoE layer has two:
          gate and up together, (rows, 2 ffn, hidden, ...), and down, (rows, hidden, ffn, ...);
        - attention, kernel ``attention`` (and ``attention_unfused``): (batch, sequence, heads, KV heads, head
          size), every query of a sequence against its keys; not `causal` for an encoder. Batch is fractional
          only where a sequence is split over context-parallel ranks. With a sixth number, (batch, new, heads,
          KV heads, head size, cached), a chunk of `new` queries follows `cached` tokens and sees them all;
        - attention, kernel ``attention_decode``: (batch, context, heads, KV heads, head size): one new query
          per sequence against `context` tokens (their mean over the batch);
        - attention, kernel ``mla_prefill``: (batch, sequence, heads, KV rank, rotary size[, cached]);
          ``mla_decode``: (batch, context, heads, KV rank, rotary size), the absorbed form;
        - scan: (batch, sequence, heads, head size, state, chunk), Mamba-2's SSD;
        - memory: (rows, columns).
    flops : float
        Matrix FLOPs the kernel does, all calls together (element-wise arithmetic is not counted).
    bytes_read, bytes_written : float
        Bytes between the accelerator and its memory, all calls together, each tensor once.
    dtype : str
        Type of the inputs: ``"bf16"``, ``"fp16"``, ``"fp32"``, ``"fp8"`` (one scale per tensor),
        ``"fp8-block"`` (scales per 128), ``"mxfp8"``, ``"nvfp4"`` (or ``"fp4"``) or ``"int8"``.
    calls : int
        Equal launches this operator stands for.
    kernel : str
        Kind of kernel, which decides the memory bandwidth it reaches.
    causal : bool
        Attention only: masked products are skipped, so `flops` counts half of the square.
    layer : "layer" | "embedding" | "head" | "prediction" | "encoder"
        The part of the model it belongs to.
    bytes_single : float
        Of the bytes, those that its kernels load and store one element at a time: a framework's own
        element-wise operations where an operand is strided or broadcast.
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
    bytes_single: float = 0.0

    @property
    def bytes(self) -> float:
        """Bytes read and written."""
        return self.bytes_read + self.bytes_written
