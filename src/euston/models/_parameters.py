"""How many parameters a transformer has: in all, per layer, and its own share of one rank."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from euston.errors import ConfigError

from ._kinds import LayerKind
from ._settings import Settings, choice, positive
from .operator import Part

if TYPE_CHECKING:
    from ._transformer import Transformer


def norm_width(model: Transformer) -> int:
    """Parameters of one norm over the hidden size: a scale, and a shift for layer norm."""
    return model.hidden * (2 if model.norm == "layernorm" else 1)


def attention_matrices(model: Transformer) -> int:
    """Weights multiplied with in one layer's attention (no norms, no biases)."""
    h, a = model.hidden, model.heads
    if model.mla is None:
        # query, key, value; output projection
        return h * (a + 2 * model.kv_heads) * model.head_dim + a * model.head_dim * h
    mla = model.mla
    query_head = mla.nope_dim + mla.rope_dim
    query = h * mla.query_rank + mla.query_rank * a * query_head if mla.query_rank else h * a * query_head
    key_value = h * (mla.kv_rank + mla.rope_dim) + mla.kv_rank * a * (mla.nope_dim + mla.value_dim)
    return query + key_value + a * mla.value_dim * h


def _attention_rest(model: Transformer) -> int:
    """Biases, sinks and inner norms of one layer's attention."""
    if model.mla is not None:
        return model.mla.query_rank + model.mla.kv_rank  # RMSNorm on both compressed vectors
    rest = 2 * model.head_dim if model.qk_norm else 0
    if model.biases or model.qkv_biases or model.attention_biases:
        rest += (model.heads + 2 * model.kv_heads) * model.head_dim
    if model.sinks:
        rest += model.heads
    return rest + (model.hidden if model.biases or model.attention_biases else 0)


def mamba_matrices(model: Transformer) -> int:
    """Weights multiplied with in one state-space mixer."""
    m, h = model.mamba, model.hidden
    if m is None:
        return 0
    if m.version == 2:
        return h * (2 * m.inner + 2 * m.groups * m.state + m.heads) + m.inner * h
    small = m.time_rank + 2 * m.state
    return h * 2 * m.inner + m.inner * small + m.time_rank * m.inner + m.inner * h


def _mamba_rest(model: Transformer) -> int:
    """Convolution with its bias, the scan's own vectors and the inner norm."""
    m = model.mamba
    assert m is not None
    if m.version == 2:
        channels = m.inner + 2 * m.groups * m.state
        return channels * (m.conv + 1) + 3 * m.heads + m.inner
    norms = m.time_rank + 2 * m.state if m.time_norms else 0
    # convolution and bias, bias of the step size, A over the state, D
    return m.inner * (m.conv + 1) + m.inner + m.inner * m.state + m.inner + norms


def ffn_matrices(model: Transformer, kind: LayerKind, active: bool) -> int:
    """Weights multiplied with in the feed-forward network (or router and experts) of a kind of layer."""
    per_width = (3 if model.gated else 2) * model.hidden
    moe = model.moe
    if kind.ffn == "none":
        return 0
    if kind.ffn == "dense" or moe is None:
        return per_width * model.ffn
    routed = (moe.top_k if active else moe.experts) * moe.ffn
    shared = moe.shared_experts * moe.shared_ffn
    gate = model.hidden if moe.shared_gate else 0
    return per_width * (routed + shared) + model.hidden * moe.experts + gate


def _ffn_rest(model: Transformer, kind: LayerKind, active: bool) -> int:
    """Biases of the feed-forward network."""
    moe, up = model.moe, 2 if model.gated else 1
    if kind.ffn == "moe" and moe is not None:
        rest = moe.experts if moe.router_bias else 0
        if moe.expert_biases:
            rest += (moe.top_k if active else moe.experts) * (up * moe.ffn + model.hidden)
        return rest
    return up * model.ffn + model.hidden if model.biases and kind.ffn == "dense" else 0


def _norms(model: Transformer, kind: LayerKind) -> int:
    """Norms before (and, with `post_norms`, after) each of mixer and feed-forward network."""
    count = int(kind.mixer != "none") + int(kind.ffn != "none")
    return count * (2 if model.post_norms else 1) * norm_width(model)


def mixer_matrices(model: Transformer, kind: LayerKind) -> int:
    """Weights multiplied with in the mixer of a kind of layer."""
    if kind.attends:
        return attention_matrices(model)
    return mamba_matrices(model) if kind.mixer == "mamba" else 0


def of_kind(model: Transformer, kind: LayerKind, active: bool = False) -> int:
    """Parameters of a layer of a kind with its norms."""
    rest = _attention_rest(model) if kind.attends else _mamba_rest(model) if kind.mixer == "mamba" else 0
    ffn = ffn_matrices(model, kind, active) + _ffn_rest(model, kind, active)
    return mixer_matrices(model, kind) + rest + ffn + _norms(model, kind)


def layer(model: Transformer, index: int, active: bool = False) -> int:
    """Parameters of layer `index` with its norms."""
    if not 0 <= index < model.layers:
        raise ConfigError(f"`layer`: {index} is outside 0 ... {model.layers - 1}")
    return of_kind(model, model.layer_kinds[index], active)


def prediction(model: Transformer, active: bool = False) -> int:
    """A multi-token-prediction layer's own parameters: a layer, two norms, the projection, a final norm."""
    h = model.hidden
    return of_kind(model, model.layer_kinds[-1], active) + 3 * norm_width(model) + 2 * h * h


def total(
    model: Transformer, active: bool = False, embedding: bool = True, prediction_layers: bool = False
) -> int:
    """Parameters of the whole model."""
    matrix = model.vocab * model.hidden
    positions = model.max_positions * model.hidden if model.positions == "learned" else 0
    layers = sum(of_kind(model, kind, active) * n for kind, n in model.kind_counts.items())
    ends = matrix + norm_width(model)  # logits, final norm
    if embedding:
        ends += positions + (0 if model.tied else matrix)
    if prediction_layers:
        ends += model.prediction_layers * prediction(model, active)
    if model.vision is not None:
        ends += model.vision.parameters(model.hidden)
    return layers + ends


def in_matrix_products(model: Transformer) -> int:
    """Active parameters a token is multiplied with, logits included: the N of 6N."""
    layers = sum(
        (mixer_matrices(model, kind) + ffn_matrices(model, kind, True)) * n
        for kind, n in model.kind_counts.items()
    )
    return layers + model.vocab * model.hidden


# -- one rank
# ------------------------------------------------------------------------------------


class RankShare(NamedTuple):
    """Parameters of one rank: those every data-parallel replica has, and its share of the experts.

    Experts shard over the expert data-parallel ranks, the rest over all data-parallel ones.
    """

    dense: int
    experts: int

    @property
    def total(self) -> int:
        """Both."""
        return self.dense + self.experts


def split_vocab(model: Transformer, tensor_parallel: int) -> int:
    """Rows of the vocabulary one rank holds, padded up."""
    return -(-model.vocab // tensor_parallel)


def split_heads(model: Transformer, tensor_parallel: int) -> tuple[int, int]:
    """Query and KV heads of one rank; KV heads are replicated where there are fewer than ranks."""
    positive("tensor_parallel", tensor_parallel)
    t = tensor_parallel
    if model.heads % t:
        raise ConfigError(f"`tensor_parallel`: {t} does not divide {model.heads} heads")
    if model.kv_heads % t and t % model.kv_heads:
        raise ConfigError(
            f"`tensor_parallel`: {t} neither divides {model.kv_heads} KV heads nor is a multiple of them"
        )
    return model.heads // t, max(1, model.kv_heads // t)


def _divided(what: str, value: int, ranks: int, key: str = "tensor_parallel") -> int:
    if value % ranks:
        raise ConfigError(f"`{key}`: {ranks} does not divide {what} = {value}")
    return value // ranks


def split_ffn(model: Transformer, tensor_parallel: int) -> int:
    """Inner width of one rank's feed-forward network."""
    return _divided("ffn", model.ffn, tensor_parallel)


def split_expert(model: Transformer, expert_tensor: int) -> int:
    """Inner width of a routed expert on one of the ranks that share it."""
    assert model.moe is not None
    return _divided("moe.ffn", model.moe.ffn, expert_tensor, "expert_tensor")


def split_shared(model: Transformer, tensor_parallel: int) -> int:
    """Inner width of one rank's share of the shared experts, taken together."""
    assert model.moe is not None
    width = model.moe.shared_experts * model.moe.shared_ffn
    return _divided("shared experts' width", width, tensor_parallel)


def local_experts(model: Transformer, expert_parallel: int, redundant: int = 0) -> int:
    """Routed experts of one expert-parallel rank, its share of ``redundant`` copies among them."""
    assert model.moe is not None
    return _divided("experts", model.moe.experts + redundant, expert_parallel, "expert_parallel")


def rank(model: Transformer, part: Part, settings: Settings, kind: LayerKind) -> RankShare:
    """Parameters of `part` on one rank."""
    choice("part", part, Part)
    t = settings.tensor_parallel
    h = model.hidden
    if part == "embedding":
        positions = model.max_positions * h if model.positions == "learned" else 0
        return RankShare(split_vocab(model, t) * h + positions, 0)
    if part == "head":
        return RankShare(split_vocab(model, t) * h + norm_width(model), 0)
    if part == "encoder":
        return RankShare(model.vision.parameters(h) if model.vision else 0, 0)
    if part == "prediction":
        own = _rank_layer(model, settings, kind)
        projected = h // t if h % t == 0 else h
        return RankShare(own.dense + 3 * norm_width(model) + 2 * h * projected, own.experts)
    return _rank_layer(model, settings, kind)


def _rank_layer(model: Transformer, settings: Settings, kind: LayerKind) -> RankShare:
    t = settings.tensor_parallel
    mixer = (
        _rank_attention(model, t) if kind.attends else _rank_mamba(model, t) if kind.mixer == "mamba" else 0
    )
    count = mixer + _norms(model, kind)
    h, up = model.hidden, 2 if model.gated else 1
    if kind.ffn == "dense":
        ffn = split_ffn(model, t)
        count += h * (up + 1) * ffn
        if model.biases:
            count += up * ffn + h  # the bias of ffn_down is not split
    if kind.ffn != "moe" or model.moe is None:
        return RankShare(count, 0)
    moe = model.moe
    count += h * moe.experts + (moe.experts if moe.router_bias else 0) + (h if moe.shared_gate else 0)
    if moe.shared_experts:
        count += h * (up + 1) * split_shared(model, t)
    inner = split_expert(model, settings.expert_tensor)
    one = h * (up + 1) * inner + (up * inner + h if moe.expert_biases else 0)
    return RankShare(count, local_experts(model, settings.expert_parallel) * one)


def _rank_attention(model: Transformer, t: int) -> int:
    heads, kv_heads = split_heads(model, t)
    h, d = model.hidden, model.head_dim
    if model.mla is not None:
        mla = model.mla
        query_head = mla.nope_dim + mla.rope_dim
        query = (
            h * mla.query_rank + mla.query_rank * (heads * query_head + 1)
            if mla.query_rank
            else h * heads * query_head
        )
        down = h * (mla.kv_rank + mla.rope_dim) + mla.kv_rank
        return query + down + mla.kv_rank * heads * (mla.nope_dim + mla.value_dim) + heads * mla.value_dim * h
    qkv = (heads + 2 * kv_heads) * d
    count = h * (qkv + heads * d) + (2 * d if model.qk_norm else 0) + (heads if model.sinks else 0)
    if model.biases or model.qkv_biases or model.attention_biases:
        count += qkv
    return count + (h if model.biases or model.attention_biases else 0)


def _rank_mamba(model: Transformer, t: int) -> int:
    m, h = model.mamba, model.hidden
    assert m is not None
    heads, groups = m.split(t)
    if m.version == 2:
        inner = heads * m.head_dim
        channels = inner + 2 * groups * m.state
        return h * (inner + channels + heads) + inner * h + channels * (m.conv + 1) + 3 * heads + inner
    small = m.time_rank + 2 * m.state
    matrices = h * 2 * heads + heads * small + m.time_rank * heads + heads * h
    return matrices + heads * (m.conv + 3 + m.state) + (small if m.time_norms else 0)
