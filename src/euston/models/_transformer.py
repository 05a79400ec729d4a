"""A decoder-only transformer as a small immutable description; the files beside work out what it costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from euston.errors import ConfigError, unknown

from . import _dense, _flops, _optimizer, _parameters, memory
from ._settings import Accumulation, Attention, Precision, Recompute, Settings
from .operator import Operator, Part

__all__ = ["MLA", "MoE", "Transformer"]


@dataclass(frozen=True)
class MoE:
    """Mixture of experts in the place of the feed-forward network.

    Attributes
    ----------
    experts, top_k : int
        Routed experts per layer, and how many of them each token visits.
    ffn : int
        Inner width of one routed expert.
    shared_experts, shared_ffn : int
        Experts that every token visits, and the inner width of one of them.
    first_dense_layers : int
        Layers at the start that keep a dense feed-forward network of the model's own width.
    router_bias : bool
        One selection bias per routed expert (DeepSeek-V3's auxiliary-loss-free balancing).
    """

    experts: int
    top_k: int
    ffn: int
    shared_experts: int = 0
    shared_ffn: int = 0
    first_dense_layers: int = 0
    router_bias: bool = False


@dataclass(frozen=True)
class MLA:
    """Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434).

    Attributes
    ----------
    query_rank : int
        Width of the compressed query; 0 where queries are not compressed.
    kv_rank : int
        Width of the compressed key and value, which is what a cache holds beside the rotary key.
    nope_dim, rope_dim : int
        Size of a query or key head without and with rotary position.
    value_dim : int
        Size of a value head.
    """

    query_rank: int
    kv_rank: int
    nope_dim: int
    rope_dim: int
    value_dim: int


@dataclass(frozen=True)
class Transformer:
    """A decoder-only transformer.

    Attributes
    ----------
    name : str
    layers, hidden, heads, vocab : int
    kv_heads : int
        Key/value heads; default: as many as `heads` (multi-head attention).
    head_dim : int
        Size of a head; default hidden / heads (under MLA: its query head).
    ffn : int
        Inner width of the feed-forward network; default 4 * hidden.
    gated : bool
        Three matrices (SwiGLU) or two (GELU).
    norm : "rmsnorm" | "layernorm"
    positions : "rotary" | "learned"
        A learned table has `max_positions` rows.
    biases : bool
        Biases on every linear layer but router and logits.
    qkv_biases : bool
        Biases on query, key and value only (Qwen2).
    tied : bool
        Input embedding and logits share one matrix.
    qk_norm : bool
        RMSNorm over each query and key head (Qwen3).
    moe, mla
        Mixture of experts, latent attention. Such models are counted (parameters, FLOPs), not simulated.

    Raises
    ------
    ConfigError
        On construction, for a size that is not a positive integer or does not divide.

    Examples
    --------
    >>> Transformer("tiny", layers=2, hidden=64, heads=4, vocab=100, ffn=160).parameters()
    107328
    """

    name: str
    layers: int
    hidden: int
    heads: int
    vocab: int
    kv_heads: int = 0
    head_dim: int = 0
    ffn: int = 0
    gated: bool = True
    norm: Literal["rmsnorm", "layernorm"] = "rmsnorm"
    positions: Literal["rotary", "learned"] = "rotary"
    max_positions: int = 0
    biases: bool = False
    qkv_biases: bool = False
    tied: bool = False
    qk_norm: bool = False
    moe: MoE | None = None
    mla: MLA | None = None

    def __post_init__(self) -> None:
        for key in ("layers", "hidden", "heads", "vocab"):
            self._integer(key, getattr(self, key), 1)
        for key in ("kv_heads", "head_dim", "ffn", "max_positions"):
            self._integer(key, getattr(self, key), 0)
        if not self.head_dim and self.mla is None and self.hidden % self.heads:
            raise self._error(
                "heads",
                f"{self.heads} does not divide hidden = {self.hidden}; choose a divisor or give head_dim",
            )
        own_head = self.hidden // self.heads
        if self.mla is not None:
            own_head = self.mla.nope_dim + self.mla.rope_dim
        object.__setattr__(self, "kv_heads", self.kv_heads or self.heads)
        object.__setattr__(self, "head_dim", self.head_dim or own_head)
        object.__setattr__(self, "ffn", self.ffn or 4 * self.hidden)
        if self.heads % self.kv_heads:
            raise self._error("kv_heads", f"{self.kv_heads} does not divide heads = {self.heads}")
        self._choice("norm", self.norm, ("rmsnorm", "layernorm"))
        self._choice("positions", self.positions, ("rotary", "learned"))
        if self.positions == "learned" and not self.max_positions:
            raise self._error("max_positions", "0 rows of learned positions; give the longest sequence")
        if self.moe is not None:
            self._check_moe(self.moe)
        if self.mla is not None:
            for field in fields(self.mla):
                low = 0 if field.name in ("query_rank", "rope_dim") else 1
                self._integer(f"mla.{field.name}", getattr(self.mla, field.name), low)

    def _check_moe(self, moe: MoE) -> None:
        for field in fields(moe):
            if field.name != "router_bias":
                low = 1 if field.name in ("experts", "top_k", "ffn") else 0
                self._integer(f"moe.{field.name}", getattr(moe, field.name), low)
        if moe.top_k > moe.experts:
            raise self._error("moe.top_k", f"{moe.top_k} is more than the {moe.experts} experts")
        if moe.first_dense_layers > self.layers:
            raise self._error(
                "moe.first_dense_layers", f"{moe.first_dense_layers} is more than {self.layers} layers"
            )

    def _integer(self, key: str, value: object, low: int) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            kind = "a positive integer" if low else "zero or a positive integer"
            raise self._error(key, f"{value!r} must be {kind}")

    def _choice(self, key: str, value: str, choices: tuple[str, ...]) -> None:
        if value not in choices:
            raise self._error(key, unknown(key, value, choices))

    def _error(self, key: str, message: str) -> ConfigError:
        return ConfigError(f"`model.{key}`: {message}")

    # -- what it holds
    # ------------------------------------------------------------------------------------------

    def parameters(self, active: bool = False, embedding: bool = True) -> int:
        """Number of parameters, exact.

        Parameters
        ----------
        active : bool
            Count only the experts one token visits.
        embedding : bool
            False leaves out the input embedding and learned positions, which are looked up and never
            multiplied (a tied matrix stays: the logits multiply by it).
        """
        return _parameters.total(self, active=active, embedding=embedding)

    def layer_parameters(self, layer: int | None = None, active: bool = False) -> int:
        """Parameters of layer `layer`, counted from 0; default the last one (with the experts, if any)."""
        return _parameters.layer(self, self.layers - 1 if layer is None else layer, active=active)

    def rank_parameters(self, part: Part = "layer", tensor_parallel: int = 1) -> int:
        """Parameters of one layer, the embedding or the head that one tensor-parallel rank holds.

        Matrices are split, norms and row-parallel biases replicated, KV heads replicated where there are
        fewer than ranks, the vocabulary padded up. The head of a tied model counts its own copy of the
        matrix, which is what a last pipeline stage holds; a single stage holds it once. Dense models only
        (ConfigError otherwise).
        """
        return _parameters.rank(self, part, tensor_parallel)

    # -- what it computes
    # ---------------------------------------------------------------------------------------

    def flops_per_token(
        self,
        sequence: int,
        convention: Literal["causal", "full", "hardware"] = "causal",
        recompute: Recompute = "full",
    ) -> float:
        """FLOPs of training (forward and backward) per token at `sequence` tokens, by a named convention.

        ``causal``: 6N + 6*L*a*d*s; ``full``: 6N + 12*L*a*d*s, with N the active parameters in matrix
        products, logits included, embedding look-up not. ``hardware``: ``full`` plus what `recompute`
        repeats; ``"full"`` gives the formula of Narayanan et al. (SC'21). `recompute` has no effect on the
        other conventions.
        """
        return _flops.per_token(self, sequence, convention, recompute)

    def operators(
        self,
        tokens: int,
        sequence: int,
        *,
        part: Part = "layer",
        tensor_parallel: int = 1,
        sequence_parallel: bool = False,
        precision: Precision = "bf16",
        attention: Attention = "flash",
        recompute: Recompute = "none",
        grad_accumulation: Accumulation = "fused-fp32",
        dropout: bool = False,
    ) -> list[Operator]:
        """Kernels of one part of the model for one micro-batch on one tensor-parallel rank.

        Parameters
        ----------
        tokens : int
            Tokens of the micro-batch on this rank (micro-batch * sequence / context-parallel ranks).
        sequence : int
            Tokens each query may attend to.
        part : "layer" | "embedding" | "head"
            One layer; embedding and positions; or final norm, logits and loss.
        tensor_parallel, sequence_parallel
            Matrices are split over the ranks; with `sequence_parallel` so are norms, residuals and dropout.
        precision : "bf16" | "fp16" | "fp8" | "fp32"
            fp8: the layers' GEMMs and their casts; attention and logits stay BF16.
        attention : "flash" | "unfused"
            One causal kernel, or two batched products over the full square with softmax (and dropout)
            between.
        recompute : "none" | "selective" | "full"
            Adds operators of phase ``"recompute"``: the whole layer again, or scores, softmax, dropout and
            values (nothing under flash attention, which recomputes inside its backward).
        grad_accumulation : "fused-fp32" | "autograd-fp16" | "unfused-fp32" | "none"
            How the micro-batch's weight gradient reaches the accumulated one: 8, 6, 10 or 0 bytes per weight.
        dropout : bool
            Dropout after attention, feed-forward and embedding, and on unfused attention scores.

        Returns
        -------
        list of Operator
            Forward in order, then recompute, then backward in reverse order.

        Raises
        ------
        ConfigError
            Where `tensor_parallel` does not divide what it splits, and for MoE and MLA models, which are
            counted only.
        """
        settings = Settings(
            tokens=tokens,
            sequence=sequence,
            tensor_parallel=tensor_parallel,
            sequence_parallel=sequence_parallel,
            precision=precision,
            attention=attention,
            recompute=recompute,
            grad_accumulation=grad_accumulation,
            dropout=dropout,
        )
        return list(_dense.operators(self, part, settings))

    def optimizer_operators(
        self, parameters: float, shard: int = 1, precision: Precision = "bf16"
    ) -> list[Operator]:
        """Kernels of one Adam step over a rank's `parameters`, optimiser state sharded `shard` ways.

        58 bytes per parameter, 52 / shard + 6 when sharded; FP8 adds the weights' cast. See
        `_optimizer.operators`.
        """
        return list(_optimizer.operators(parameters, shard, precision))

    # -- what it keeps
    # ------------------------------------------------------------------------------------------

    def activation_bytes(
        self,
        tokens: int,
        sequence: int,
        tensor_parallel: int = 1,
        sequence_parallel: bool = False,
        attention: Attention = "flash",
        recompute: Recompute = "none",
        dropout: bool = False,
        precision: Precision = "bf16",
    ) -> float:
        """Bytes one layer keeps for its backward, per micro-batch and rank. See `euston.models.memory`."""
        settings = Settings(
            tokens=tokens,
            sequence=sequence,
            tensor_parallel=tensor_parallel,
            sequence_parallel=sequence_parallel,
            precision=precision,
            attention=attention,
            recompute=recompute,
            dropout=dropout,
        )
        return memory.layer_activations(self, settings)

    def embedding_activation_bytes(
        self, tokens: int, tensor_parallel: int = 1, sequence_parallel: bool = False, dropout: bool = False
    ) -> float:
        """Bytes the embedding keeps for its backward: the dropout mask, one byte per element."""
        share = tensor_parallel if sequence_parallel else 1
        return tokens * self.hidden / share if dropout else 0.0

    def head_activation_bytes(
        self,
        tokens: int,
        tensor_parallel: int = 1,
        sequence_parallel: bool = False,
        precision: Precision = "bf16",
    ) -> float:
        """Bytes the head keeps beside the logits: input and output of the final norm."""
        settings = Settings(tokens, tokens, tensor_parallel, sequence_parallel, precision)
        return 2 * settings.width * settings.split_tokens * self.hidden

    def logits_bytes(self, tokens: int, tensor_parallel: int = 1, precision: Precision = "bf16") -> float:
        """Bytes of the logits while the loss is computed: as multiplied, and in FP32 for the softmax."""
        settings = Settings(tokens, tokens, tensor_parallel, False, precision)
        return tokens * _parameters.split_vocab(self, tensor_parallel) * (settings.width + 4)

    # -- where it comes from
    # ------------------------------------------------------------------------------------

    @classmethod
    def from_hf_config(cls, config: Any, name: str | None = None) -> Transformer:
        """See `euston.models.from_hf_config`."""
        from .hf import from_hf_config

        return from_hf_config(config, name)

    @classmethod
    def from_values(cls, name: str, values: Mapping[str, Any]) -> Transformer:
        """Build from a table as catalogue files hold it, with tables ``moe`` and ``mla`` inside.

        Keys that describe no shape (``published_*``) are left alone.
        """
        own = {f.name for f in fields(cls)} - {"name"}
        shape = {key: value for key, value in values.items() if key in own}
        try:
            for key, kind in (("moe", MoE), ("mla", MLA)):
                if key in shape:
                    shape[key] = kind(**shape[key])
            return cls(name, **shape)
        except TypeError as error:
            raise ConfigError(f"`models.{name}`: is incomplete or misspelt ({error})") from None
