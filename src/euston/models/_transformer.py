"""A decoder-only transformer as a small immutable description; the files beside work out what it costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Literal

from euston.errors import ConfigError, unknown

from . import _flops, _kinds, _layer, _optimizer, _parameters, _vision, memory
from ._kinds import LayerKind
from ._parameters import RankShare
from ._parts import MLA, Mamba, MoE, VisionEncoder
from ._settings import (
    Accumulation,
    ActivationKernel,
    Attention,
    Dispatcher,
    Graphs,
    Loss,
    Precision,
    QkvSplit,
    Recompute,
    RotaryKernel,
    Settings,
)  # fmt: skip
from .balance import Balance
from .operator import Operator, Part

__all__ = ["MLA", "Mamba", "MoE", "Transformer", "VisionEncoder"]


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
    positions : "rotary" | "learned" | "none"
        A learned table has `max_positions` rows.
    biases : bool
        Biases on every linear layer but router and logits.
    qkv_biases : bool
        Biases on query, key and value only (Qwen2).
    tied : bool
        Input embedding and logits share one matrix.
    qk_norm : bool
        RMSNorm over each query and key head (Qwen3).
    attention_biases : bool
        Biases on query, key, value and attention's output only (gpt-oss).
    sinks : bool
        One learned score per head beside the keys' (gpt-oss).
    post_norms : bool
        A norm after attention and after the feed-forward network too (Gemma 2 and 3).
    mixers, ffns : str
        Kinds of layers, a letter each, repeated over the layers. Mixers: A attention, S attention over a
        sliding window, M state-space scan, - none. Feed-forward networks: F dense, E experts, - none; ""
        makes it dense in the first `moe.first_dense_layers` layers, experts after. See `layer_kinds`.
    window : int
        Keys that a query of a sliding layer sees.
    prediction_layers : int
        Multi-token-prediction layers trained beside the model (DeepSeek-V3), of the last layer's kind.
        `parameters` leaves them out unless told otherwise; FLOPs count them.
    moe, mla, mamba, vision
        Mixture of experts, latent attention, state-space mixer, vision encoder.

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
    positions: Literal["rotary", "learned", "none"] = "rotary"
    max_positions: int = 0
    biases: bool = False
    qkv_biases: bool = False
    tied: bool = False
    qk_norm: bool = False
    attention_biases: bool = False
    sinks: bool = False
    post_norms: bool = False
    mixers: str = "A"
    ffns: str = ""
    window: int = 0
    prediction_layers: int = 0
    moe: MoE | None = None
    mla: MLA | None = None
    mamba: Mamba | None = None
    vision: VisionEncoder | None = None

    def __post_init__(self) -> None:
        for key in ("layers", "hidden", "heads", "vocab"):
            self._integer(key, getattr(self, key), 1)
        for key in ("kv_heads", "head_dim", "ffn", "max_positions", "window", "prediction_layers"):
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
        self._choice("positions", self.positions, ("rotary", "learned", "none"))
        if self.positions == "learned" and not self.max_positions:
            raise self._error("max_positions", "0 rows of learned positions; give the longest sequence")
        if self.moe is not None:
            self._check_moe(self.moe)
        if self.mla is not None:
            for field in fields(self.mla):
                low = 0 if field.name in ("query_rank", "rope_dim") else 1
                self._integer(f"mla.{field.name}", getattr(self.mla, field.name), low)
        if self.mamba is not None:
            for name in ("heads", "head_dim", "state", "groups", "conv", "chunk"):
                self._integer(f"mamba.{name}", getattr(self.mamba, name), 1)
            if self.mamba.version not in (1, 2):
                raise self._error("mamba.version", f"{self.mamba.version!r} must be 1 or 2")
        if self.vision is not None:
            for name in ("layers", "hidden", "heads", "ffn", "patch", "merge", "frames", "projector"):
                self._integer(f"vision.{name}", getattr(self.vision, name), 1)
        _kinds.check(self)

    def _check_moe(self, moe: MoE) -> None:
        for field in fields(moe):
            if field.name not in ("router_bias", "expert_biases", "clamped", "shared_gate"):
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

    @cached_property
    def layer_kinds(self) -> tuple[LayerKind, ...]:
        """The kind of every layer, length `layers`; equal kinds cost the same."""
        return _kinds.layer_kinds(self)

    @cached_property
    def kind_counts(self) -> dict[LayerKind, int]:
        """How many layers there are of each kind, in order of first appearance."""
        return dict(Counter(self.layer_kinds))

    def parameters(
        self, active: bool = False, embedding: bool = True, prediction_layers: bool = False
    ) -> int:
        """Number of parameters, exact.

        Parameters
        ----------
        active : bool
            Count only the experts one token visits.
        embedding : bool
            False leaves out the input embedding and learned positions, which are looked up and never
            multiplied (a tied matrix stays: the logits multiply by it).
        prediction_layers : bool
            Count multi-token-prediction layers too (they share embedding and head).
        """
        return _parameters.total(
            self, active=active, embedding=embedding, prediction_layers=prediction_layers
        )

    def layer_parameters(self, layer: int | None = None, active: bool = False) -> int:
        """Parameters of layer `layer`, counted from 0; default the last one (with the experts, if any)."""
        return _parameters.layer(self, self.layers - 1 if layer is None else layer, active=active)

    def rank_parameters(
        self,
        part: Part = "layer",
        tensor_parallel: int = 1,
        *,
        kind: LayerKind | None = None,
        expert_parallel: int = 1,
        expert_tensor: int | None = None,
    ) -> int:
        """Parameters of one layer, the embedding or the head that one rank holds; see `rank_share`."""
        return self.rank_share(
            part, tensor_parallel, kind=kind, expert_parallel=expert_parallel, expert_tensor=expert_tensor
        ).total

    def rank_share(
        self,
        part: Part = "layer",
        tensor_parallel: int = 1,
        *,
        kind: LayerKind | None = None,
        expert_parallel: int = 1,
        expert_tensor: int | None = None,
    ) -> RankShare:
        """Parameters of a part that one rank holds, (dense, experts) apart.

        Matrices are split, norms and row-parallel biases replicated, KV heads replicated where there are
        fewer than ranks, the vocabulary padded up; the encoder is whole on every rank. Experts are dealt to
        `expert_parallel` ranks and each split over `expert_tensor` (default: as `tensor_parallel`). The head
        of a tied model counts its own copy of the matrix, which is what a last pipeline stage holds; a single
        stage holds it once. `kind`: of which layer, default the last.
        """
        settings = Settings(
            1, 1, tensor_parallel, expert_parallel=expert_parallel,
            expert_tensor=tensor_parallel if expert_tensor is None else expert_tensor,
        )  # fmt: skip
        return _parameters.rank(self, part, settings, kind or self.layer_kinds[-1])

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
        products, logits included, embedding look-up not; a sliding layer counts its window, a state-space
        layer the products of its chunks, and multi-token-prediction layers are included. ``hardware``:
        ``full`` plus what `recompute` repeats; ``"full"`` gives the formula of Narayanan et al. (SC'21).
        `recompute` has no effect on the other conventions.
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
        kind: LayerKind | None = None,
        expert_parallel: int = 1,
        expert_tensor: int | None = None,
        balance: Balance | None = None,
        graphs: Graphs = "none",
        recompute_modules: tuple[str, ...] = ("core_attn",),
        loss: Loss = "in-place",
        dispatcher: Dispatcher = "alltoall",
        expert_padding: bool = False,
        activation_kernel: ActivationKernel = "fused",
        rotary_kernel: RotaryKernel = "fused",
        qkv_split: QkvSplit = "views",
    ) -> list[Operator]:
        """Kernels of one part of the model for one micro-batch on one tensor-parallel rank.

        Parameters
        ----------
        tokens : int
            Tokens of the micro-batch on this rank (micro-batch * sequence / context-parallel ranks).
        sequence : int
            Tokens each query may attend to.
        part : "layer" | "embedding" | "head" | "prediction"
            One layer; embedding and positions; final norm, logits and loss; or one multi-token-prediction
            layer with its own pass through the head.
        tensor_parallel, sequence_parallel
            Matrices are split over the ranks; with `sequence_parallel` so are norms, residuals and dropout.
        precision : "bf16" | "fp16" | "fp32" | "fp8" | "fp8-current" | "fp8-block" | "mxfp8" | "nvfp4"
            A recipe (`euston.models.recipes`) casts the layers' GEMMs; attention and logits stay BF16.
        attention : "flash" | "unfused"
            One causal kernel, or two batched products over the full square with softmax (and dropout)
            between.
        recompute : "none" | "selective" | "full"
            Adds operators of phase ``"recompute"``: the whole layer again, or what `recompute_modules` make.
            Its default, scores, softmax, dropout and values, is nothing under flash attention, which
            recomputes inside its backward.
        grad_accumulation : "fused-fp32" | "fused-bf16" | "autograd-fp16" | "unfused-fp32" | "none"
            How the micro-batch's weight gradient reaches the accumulated one: 8, 6, 10 or 0 bytes per weight.
        dropout : bool
            Dropout after attention, feed-forward and embedding, and on unfused attention scores.
        kind : LayerKind, optional
            Which of `layer_kinds`; default the last layer's.
        expert_parallel, expert_tensor : int
            Ranks that experts are dealt to, and that share each (default: as `tensor_parallel`).
        balance : Balance, optional
            How unevenly tokens fall on experts; operators are those of the rank with most.
        graphs : "none" | "partial" | "full"
            Whether the small kernels of routers and dispatches are replayed from a recorded graph.
        loss : "in-place" | "pytorch" | "fused"
            Cross entropy over FP32 logits, 40 bytes each, or by one kernel over 16-bit ones, 10 bytes.
        dispatcher : "alltoall" | "deepep" | "hybridep"
            Whether rows are sorted by expert after the all-to-all and back, or arrive token by token.
        expert_padding : bool
            In 8 and 4 bit the rows of each expert are copied to a multiple of 16 or 32, and back.
        activation_kernel : "fused" | "compiled"
            A gated activation's backward moves each tensor once, or as often as a compiler's kernels do.
        rotary_kernel : "fused" | "eager"
            One kernel, or one after the other as PyTorch runs the formula.
        qkv_split : "views" | "copies"
            Kernels read queries, keys and values where their projection wrote them, or from copies; their
            gradients are put together by a copy then.

        Returns
        -------
        list of Operator
            Forward in order, then recompute, then backward in reverse order.

        Raises
        ------
        ConfigError
            Where a degree does not divide what it splits.
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
            expert_parallel=expert_parallel,
            expert_tensor=tensor_parallel if expert_tensor is None else expert_tensor,
            balance=balance or Balance(),
            graphs=graphs,
            modules=recompute_modules,
            loss=loss,
            dispatcher=dispatcher,
            expert_padding=expert_padding,
            activation_kernel=activation_kernel,
            rotary_kernel=rotary_kernel,
            qkv_split=qkv_split,
        )
        return list(_layer.operators(self, part, settings, kind or self.layer_kinds[-1]))

    def encoder_operators(
        self,
        images: float,
        patches: int,
        *,
        precision: Precision = "bf16",
        recompute: Recompute = "none",
        grad_accumulation: Accumulation = "fused-fp32",
    ) -> list[Operator]:
        """Kernels of the whole vision encoder and projector for `images` of `patches` patches each.

        Attention is bidirectional within an image; every tensor-parallel rank runs the whole encoder.
        """
        settings = Settings(
            max(1, round(images * patches)), patches, precision=precision, recompute=recompute,
            grad_accumulation=grad_accumulation,
        )  # fmt: skip
        return list(_layer.encoder_operators(self, settings, patches))

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
        *,
        kind: LayerKind | None = None,
        expert_parallel: int = 1,
        expert_tensor: int | None = None,
        balance: Balance | None = None,
        recompute_modules: tuple[str, ...] = ("core_attn",),
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
            expert_parallel=expert_parallel,
            expert_tensor=tensor_parallel if expert_tensor is None else expert_tensor,
            balance=balance or Balance(),
            modules=recompute_modules,
        )
        return memory.layer_activations(self, settings, kind or self.layer_kinds[-1])

    def encoder_activation_bytes(
        self, images: float, patches: int, recompute: Recompute = "none", precision: Precision = "bf16"
    ) -> float:
        """Bytes the vision encoder keeps for `images` of `patches` patches each."""
        if self.vision is None:
            return 0.0
        tokens = max(1, round(images * patches))
        settings = Settings(tokens, patches, recompute=recompute, precision=precision)
        return _vision.activations(self.vision, settings)

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
        """Build from a table as catalogue files hold it, with tables ``moe``, ``mla``, ... inside.

        Keys that describe no shape (``published_*``) are left alone.
        """
        own = {f.name for f in fields(cls)} - {"name"}
        shape = {key: value for key, value in values.items() if key in own}
        try:
            for key, kind in (("moe", MoE), ("mla", MLA), ("mamba", Mamba), ("vision", VisionEncoder)):
                if key in shape:
                    shape[key] = kind(**shape[key])
            return cls(name, **shape)
        except TypeError as error:
            raise ConfigError(f"`models.{name}`: is incomplete or misspelt ({error})") from None
