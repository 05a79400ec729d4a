"""How a model is run, as far as its operators and activations depend on it: one checked, hashable value."""

from __future__ import annotations

from dataclasses import dataclass, field
from numbers import Integral
from typing import Any, Literal, get_args

from euston.errors import ConfigError, unknown

from .balance import Balance
from .recipes import Recipe, recipe

Precision = Literal["bf16", "fp16", "fp32", "fp8", "fp8-current", "fp8-block", "mxfp8", "nvfp4"]
Attention = Literal["flash", "unfused"]
Recompute = Literal["none", "selective", "full"]
Graphs = Literal["none", "partial", "full"]
Loss = Literal["in-place", "pytorch", "fused"]
Dispatcher = Literal["alltoall", "deepep", "hybridep"]
ActivationKernel = Literal["fused", "compiled"]
RotaryKernel = Literal["fused", "eager"]
QkvSplit = Literal["views", "copies"]
Accumulation = Literal["fused-fp32", "fused-bf16", "autograd-fp16", "unfused-fp32", "none"]

#: What selective recompute can repeat, in Megatron-Core's words.
RECOMPUTE_MODULES = ("core_attn", "layernorm", "mla_up_proj", "moe_act", "mlp")


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
    expert_parallel: int = 1
    expert_tensor: int = 1
    balance: Balance = field(default_factory=Balance)
    graphs: Graphs = "none"
    modules: tuple[str, ...] = ("core_attn",)
    loss: Loss = "in-place"
    dispatcher: Dispatcher = "alltoall"
    expert_padding: bool = False
    activation_kernel: ActivationKernel = "fused"
    rotary_kernel: RotaryKernel = "fused"
    qkv_split: QkvSplit = "views"

    def __post_init__(self) -> None:
        for key in ("tokens", "sequence", "tensor_parallel", "expert_parallel", "expert_tensor"):
            positive(key, getattr(self, key))
        if self.tensor_parallel % self.expert_tensor:
            raise ConfigError(
                f"`expert_tensor`: {self.expert_tensor} does not divide tensor_parallel "
                f"= {self.tensor_parallel}"
            )
        choice("precision", self.precision, Precision)
        choice("attention", self.attention, Attention)
        choice("recompute", self.recompute, Recompute)
        choice("grad_accumulation", self.grad_accumulation, Accumulation)
        choice("graphs", self.graphs, Graphs)
        choice("loss", self.loss, Loss)
        choice("dispatcher", self.dispatcher, Dispatcher)
        choice("activation_kernel", self.activation_kernel, ActivationKernel)
        choice("rotary_kernel", self.rotary_kernel, RotaryKernel)
        choice("qkv_split", self.qkv_split, QkvSplit)
        for module in self.modules:
            if module not in RECOMPUTE_MODULES:
                raise ConfigError(f"`recompute_modules`: {unknown('module', module, RECOMPUTE_MODULES)}")
        if self.sequence_parallel and self.tokens % self.tensor_parallel:
            raise ConfigError(
                f"`tokens`: sequence parallelism splits {self.tokens} tokens over tensor_parallel = "
                f"{self.tensor_parallel}; choose a multiple or sequence_parallel=False"
            )

    @property
    def recipe(self) -> Recipe | None:
        """The low-precision recipe of the linear layers, if any."""
        return recipe(self.precision)

    @property
    def dtype(self) -> str:
        """Type outside a recipe's GEMMs."""
        return self.precision if self.recipe is None else "bf16"

    def keeps(self, module: str) -> bool:
        """Whether the activations that `module` would make again are kept."""
        return self.recompute == "none" or (self.recompute == "selective" and module not in self.modules)

    @property
    def width(self) -> int:
        """Bytes of one activation outside the GEMMs (recipes keep them in BF16)."""
        return 4 if self.precision == "fp32" else 2

    @property
    def split_tokens(self) -> int:
        """Tokens that norms, residuals and dropout work on."""
        return self.tokens // self.tensor_parallel if self.sequence_parallel else self.tokens

    @property
    def routed_tokens(self) -> float:
        """Tokens whose dispatch this rank takes part in.

        Ranks that share each expert (expert tensor parallelism) see the same tokens; the rest of the
        tensor-parallel ranks have their own part of the micro-batch.
        """
        return self.tokens * self.expert_tensor / self.tensor_parallel


def positive(key: str, value: object) -> None:
    """Refuse what is not an integer of at least 1."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise ConfigError(f"`{key}`: {value!r} must be a positive integer")


def choice(key: str, value: object, kind: Any) -> None:
    """Refuse a word outside a Literal, offering the nearest."""
    choices = get_args(kind)
    if value not in choices:
        raise ConfigError(f"`{key}`: {unknown(key.replace('_', ' '), str(value), choices)}")
