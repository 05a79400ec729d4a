"""Parts a transformer may have beside plain attention and MLP, as small immutable descriptions."""

from __future__ import annotations

from dataclasses import dataclass

from euston.errors import ConfigError

__all__ = ["MLA", "Mamba", "MoE", "VisionEncoder"]


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
    expert_biases : bool
        Biases on the experts' matrices (gpt-oss).
    clamped : bool
        Both halves of a gated activation's input are clamped (gpt-oss).
    shared_gate : bool
        A gate of `hidden` weights on the shared expert (Qwen2-MoE).
    """

    experts: int
    top_k: int
    ffn: int
    shared_experts: int = 0
    shared_ffn: int = 0
    first_dense_layers: int = 0
    router_bias: bool = False
    expert_biases: bool = False
    clamped: bool = False
    shared_gate: bool = False


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
class Mamba:
    """A state-space mixer: Mamba-2's SSD (arXiv:2405.21060), or Mamba's selective scan (arXiv:2312.00752).

    Attributes
    ----------
    heads, head_dim : int
        Their product is the inner width; Mamba (version 1) has no heads: write one head of the inner width.
    state : int
        Size of the state per channel.
    groups : int
        Heads share the input and output matrices B and C within a group (version 2).
    conv : int
        Taps of the short convolution.
    chunk : int
        Tokens per chunk of the SSD algorithm.
    version : 1 | 2
    time_rank : int
        Version 1: width that the step size is projected through.
    time_norms : bool
        Version 1: RMSNorm on step size, B and C (Jamba).
    """

    heads: int
    head_dim: int
    state: int
    groups: int = 1
    conv: int = 4
    chunk: int = 256
    version: int = 2
    time_rank: int = 0
    time_norms: bool = False

    @property
    def inner(self) -> int:
        """Channels of the scan."""
        return self.heads * self.head_dim

    def split(self, tensor_parallel: int) -> tuple[int, int]:
        """Heads (channels in version 1) and groups of one rank; groups are replicated where they are few."""
        count = self.heads if self.version == 2 else self.inner
        if count % tensor_parallel:
            raise ConfigError(
                f"`tensor_parallel`: {tensor_parallel} does not divide the {count} heads of the scan"
            )
        return count // tensor_parallel, max(1, self.groups // tensor_parallel)


@dataclass(frozen=True)
class VisionEncoder:
    """A vision transformer whose patches become tokens of the decoder (bidirectional attention).

    Attributes
    ----------
    layers, hidden, heads, ffn : int
    patch : int
        Edge of a patch in pixels.
    merge : int
        Edge of the square of patches that the projector joins into one token (Qwen2-VL: 2).
    frames : int
        Frames a patch spans (Qwen2-VL: 2).
    positions : int
        Rows of a learned position table, 0 for rotary.
    class_token : bool
        One more token per image, dropped after the encoder (CLIP).
    pre_norm, post_norm : bool
        A norm before the first and after the last layer (CLIP).
    unused_layers : int
        Layers at the end whose output the decoder does not take (LLaVA: 1); counted, not run.
    projector : int
        Inner width of the projector's two matrices: hidden * merge**2 -> projector -> decoder.
    projector_norm : bool
    gated : bool
        Three matrices in the MLP; else two.
    """

    layers: int
    hidden: int
    heads: int
    ffn: int
    patch: int
    merge: int = 1
    frames: int = 1
    positions: int = 0
    class_token: bool = False
    pre_norm: bool = False
    post_norm: bool = False
    unused_layers: int = 0
    projector: int = 0
    projector_norm: bool = False
    gated: bool = False

    @property
    def head_dim(self) -> int:
        """Size of a head."""
        return self.hidden // self.heads

    @property
    def pixels(self) -> int:
        """Numbers in a patch: three colours, all frames."""
        return 3 * self.frames * self.patch**2

    def parameters(self, decoder_hidden: int) -> int:
        """Weights, biases, norms and positions of the encoder and its projector."""
        h, up = self.hidden, (2 if self.gated else 1) * self.ffn
        # query, key, value, output with biases; two layer norms; the MLP with biases
        layer = 4 * h * h + 4 * h + 4 * h + h * up + up + self.ffn * h + h
        count = self.layers * layer + self.pixels * h + self.positions * h + (h if self.class_token else 0)
        count += 2 * h * (int(self.pre_norm) + int(self.post_norm) + int(self.projector_norm))
        joined = h * self.merge**2
        return count + (joined + 1) * self.projector + (self.projector + 1) * decoder_hidden

    def patches(self, height: int, width: int) -> int:
        """Patches of an image of so many pixels, the class token included."""
        return (height // self.patch) * (width // self.patch) + int(self.class_token)

    def tokens(self, patches: int) -> int:
        """Tokens that so many patches of one image become in the decoder."""
        return (patches - int(self.class_token)) // self.merge**2
