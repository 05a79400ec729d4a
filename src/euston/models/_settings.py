"""How a model is run, as far as its operators and activations depend on it: one checked, hashable value."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from typing import Any, Literal, get_args

from euston.errors import ConfigError, unknown

Precision = Literal["bf16", "fp16", "fp8", "fp32"]
Attention = Literal["flash", "unfused"]
Recompute = Literal["none", "selective", "full"]
Accumulation = Literal["fused-fp32", "autograd-fp16", "unfused-fp32", "none"]


@dataclass(frozen=True)
class Settings:
    """Arguments of `Transformer.operators` and `activation_bytes`, which document them."""

    tokens: int
    sequence: int
    tensor_parallel: int = 1
    sequence_parallel: bool = False
    precision: Precision = "bf16"
    attention: Attention = "flash"
    recompute: Recompute = "none"
    grad_accumulation: Accumulation = "fused-fp32"
    dropout: bool = False

    def __post_init__(self) -> None:
        for key in ("tokens", "sequence", "tensor_parallel"):
            positive(key, getattr(self, key))
        choice("precision", self.precision, Precision)
        choice("attention", self.attention, Attention)
        choice("recompute", self.recompute, Recompute)
        choice("grad_accumulation", self.grad_accumulation, Accumulation)
        if self.sequence_parallel and self.tokens % self.tensor_parallel:
            raise ConfigError(
                f"`tokens`: sequence parallelism splits {self.tokens} tokens over tensor_parallel = "
                f"{self.tensor_parallel}; choose a multiple or sequence_parallel=False"
            )

    @property
    def width(self) -> int:
        """Bytes of one activation outside the GEMMs (FP8 training keeps them in BF16)."""
        return 4 if self.precision == "fp32" else 2

    @property
    def split_tokens(self) -> int:
        """Tokens that norms, residuals and dropout work on."""
        return self.tokens // self.tensor_parallel if self.sequence_parallel else self.tokens


def positive(key: str, value: object) -> None:
    """Refuse what is not an integer of at least 1."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise ConfigError(f"`{key}`: {value!r} must be a positive integer")


def choice(key: str, value: object, kind: Any) -> None:
    """Refuse a word outside a Literal, offering the nearest."""
    choices = get_args(kind)
    if value not in choices:
        raise ConfigError(f"`{key}`: {unknown(key.replace('_', ' '), str(value), choices)}")
