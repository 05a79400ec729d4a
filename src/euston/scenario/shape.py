"""Parts of a model written out in a scenario: experts and latent attention."""

from __future__ import annotations

from pydantic import Field

from euston.scenario._base import Count, Flag, Section, Whole

__all__ = ["MlaSection", "MoeSection"]


class MoeSection(Section):
    """Mixture of experts in the place of the feed-forward network."""

    experts: Count = Field(description="Routed experts per layer.")
    top_k: Count = Field(description="Experts that each token visits.")
    ffn: Count = Field(description="Inner width of one routed expert.")
    shared_experts: Whole = Field(default=0, description="Experts that every token visits.")
    shared_ffn: Whole = Field(default=0, description="Inner width of one of them.")
    first_dense_layers: Whole = Field(default=0, description="Layers at the start without experts.")
    router_bias: Flag = Field(default=False, description="One selection bias per routed expert.")
    shared_gate: Flag = Field(default=False, description="A gate on the shared expert.")


class MlaSection(Section):
    """Multi-head latent attention (DeepSeek-V2)."""

    query_rank: Whole = Field(description="Width of the compressed query; 0: not compressed.")
    kv_rank: Count = Field(description="Width of the compressed key and value.")
    nope_dim: Count = Field(description="Size of a query or key head without rotary position.")
    rope_dim: Whole = Field(description="Size of its rotary part.")
    value_dim: Count = Field(description="Size of a value head.")
