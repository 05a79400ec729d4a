"""A vision encoder's kernels and activations: patches through a bidirectional transformer and a projector."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ._attention import flash
from ._feed_forward import activation, mlp
from ._settings import Settings
from ._steps import Step, linear, norm, residual

if TYPE_CHECKING:
    from ._parts import VisionEncoder

__all__ = ["activations", "encoder"]


def _settings(settings: Settings, patches: int) -> Settings:
    """A micro-batch's patches in the place of its tokens; images do not attend to each other."""
    return replace(settings, sequence=patches, tensor_parallel=1, sequence_parallel=False, recompute="none")


def encoder(
    encoder: VisionEncoder, decoder_hidden: int, settings: Settings, patches: int
) -> tuple[list[Step], list[Step]]:
    """(one layer's steps, the steps around the layers) of `settings.tokens` patches, `patches` per image."""
    s = _settings(settings, patches)
    h = encoder.hidden
    layer = [
        norm("encoder_attention_norm", s, s.tokens, h),
        linear("encoder_qkv", s, 3 * h, h),
        flash(s, encoder.heads, encoder.heads, encoder.head_dim, causal=False),
        linear("encoder_attention_output", s, h, h),
        residual("encoder_attention_residual", s, h),
        norm("encoder_ffn_norm", s, s.tokens, h),
        *mlp("encoder_ffn", s, h, encoder.ffn, encoder.gated),
        residual("encoder_ffn_residual", s, h),
    ]
    around = [linear("encoder_patches", s, h, encoder.pixels, low_precision=False)]
    tokens = max(1, s.tokens // encoder.merge**2)
    inside = replace(s, tokens=tokens, sequence=tokens)
    if encoder.projector_norm:
        around.append(norm("encoder_projector_norm", s, s.tokens, h))
    projector = [
        linear("encoder_projector_up", inside, encoder.projector, h * encoder.merge**2),
        activation("encoder_projector_activation", inside, tokens, encoder.projector, False),
        linear("encoder_projector_down", inside, decoder_hidden, encoder.projector),
    ]
    return layer, [*around, *projector]


def activations(encoder: VisionEncoder, settings: Settings) -> float:
    """Bytes the encoder keeps for its backward: per layer as in a decoder layer without gate."""
    element, h = settings.width, encoder.hidden
    gated = 3 if encoder.gated else 2
    layer = element * (4 * h + 4 * h + gated * encoder.ffn) + 4 * encoder.heads
    ran = encoder.layers - encoder.unused_layers
    return float(settings.tokens * (ran * layer + element * encoder.pixels))
