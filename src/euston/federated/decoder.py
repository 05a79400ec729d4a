"""The decoder that a federation trains, readable from top to bottom: a pre-norm GPT or Llama block by choice.

Built from the same `euston.models.Transformer` that the simulator prices; parameter names and order are those
of `euston.federated.layout.parameter_shapes`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from euston.federated.layout import check_model
from euston.models import Transformer

__all__ = ["Decoder"]


def _norm(model: Transformer, width: int) -> nn.Module:
    return nn.LayerNorm(width) if model.norm == "layernorm" else nn.RMSNorm(width, eps=1e-5)


def _rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotary positions on (batch, heads, tokens, head_dim), halves paired (Su et al. 2021, arXiv
    2104.09864).
    """
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), dim=-1)


class Attention(nn.Module):
    """Causal self-attention, with fewer key/value heads than query heads where the model says so."""

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = model.heads, model.kv_heads, model.head_dim
        self.qkv = nn.Linear(
            model.hidden, (self.heads + 2 * self.kv_heads) * self.head_dim, bias=model.biases
        )
        self.out = nn.Linear(self.heads * self.head_dim, model.hidden, bias=model.biases)
        if model.qk_norm:
            self.query_norm = nn.RMSNorm(self.head_dim, eps=1e-5)
            self.key_norm = nn.RMSNorm(self.head_dim, eps=1e-5)
        self.normed = model.qk_norm

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor] | None) -> Tensor:
        """(batch, tokens, hidden) -> the same shape."""
        batch, tokens, _ = x.shape
        sizes = [n * self.head_dim for n in (self.heads, self.kv_heads, self.kv_heads)]
        q, k, v = (
            part.view(batch, tokens, -1, self.head_dim).transpose(1, 2)
            for part in self.qkv(x).split(sizes, dim=-1)
        )
        if self.normed:
            q, k = self.query_norm(q), self.key_norm(k)
        if turn is not None:
            q, k = _rotate(q, *turn), _rotate(k, *turn)
        y = functional.scaled_dot_product_attention(
            q, k, v, is_causal=True, enable_gqa=self.kv_heads != self.heads
        )
        mixed: Tensor = self.out(y.transpose(1, 2).reshape(batch, tokens, -1))
        return mixed


class FeedForward(nn.Module):
    """Two matrices with GELU, or three with a SiLU gate (gate and up are one matrix)."""

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.gated = model.gated
        self.up = nn.Linear(model.hidden, model.ffn * (2 if model.gated else 1), bias=model.biases)
        self.down = nn.Linear(model.ffn, model.hidden, bias=model.biases)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, hidden) -> the same shape."""
        x = self.up(x)
        if self.gated:
            gate, x = x.chunk(2, dim=-1)
            x = functional.silu(gate) * x
        else:
            x = functional.gelu(x)
        mixed: Tensor = self.down(x)
        return mixed


class Block(nn.Module):
    """Norm, attention, norm, feed-forward network, each added to the residual stream."""

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.norm1 = _norm(model, model.hidden)
        self.attention = Attention(model)
        self.norm2 = _norm(model, model.hidden)
        self.feed_forward = FeedForward(model)

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor] | None) -> Tensor:
        """(batch, tokens, hidden) -> the same shape."""
        x = x + self.attention(self.norm1(x), turn)
        return x + self.feed_forward(self.norm2(x))


class Decoder(nn.Module):
    """A decoder-only language model.

    Parameters
    ----------
    model : Transformer
        Its shape; a dense decoder (see `euston.federated.layout.check_model`).
    seed : int
        Of the initial parameters: N(0, 0.02), the projections back into the residual stream smaller by
        ``sqrt(2 * layers)`` (GPT-2).

    Raises
    ------
    ConfigError
        A model of another kind.
    """

    def __init__(self, model: Transformer, seed: int = 0) -> None:
        super().__init__()
        check_model(model)
        self.model = model
        self.embedding = nn.Embedding(model.vocab, model.hidden)
        if model.positions == "learned":
            self.positions = nn.Embedding(model.max_positions, model.hidden)
        self.blocks = nn.ModuleList(Block(model) for _ in range(model.layers))
        self.norm = _norm(model, model.hidden)
        if not model.tied:
            self.head = nn.Linear(model.hidden, model.vocab, bias=False)
        self._turns: dict[int, tuple[Tensor, Tensor]] = {}
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                back = name.endswith(("attention.out.weight", "feed_forward.down.weight"))
                scale = 0.02 / math.sqrt(2 * model.layers) if back else 0.02
                with torch.no_grad():
                    parameter.normal_(0.0, scale, generator=generator)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def _turn(self, tokens: int, device: torch.device) -> tuple[Tensor, Tensor] | None:
        if self.model.positions != "rotary":
            return None
        if tokens not in self._turns:
            half = self.model.head_dim // 2
            frequency = 10_000.0 ** (-torch.arange(half, dtype=torch.float32) / half)
            angle = torch.arange(tokens, dtype=torch.float32)[:, None] * frequency
            self._turns[tokens] = (angle.cos().to(device), angle.sin().to(device))
        return self._turns[tokens]

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits (batch, tokens, vocab) of int64 (batch, tokens)."""
        x = self.embedding(tokens)
        if self.model.positions == "learned":
            x = x + self.positions.weight[: tokens.shape[1]]
        turn = self._turn(tokens.shape[1], tokens.device)
        for block in self.blocks:
            x = block(x, turn)
        x = self.norm(x)
        return functional.linear(x, self.embedding.weight if self.model.tied else self.head.weight)

    def loss(self, windows: Tensor, reduction: str = "mean") -> Tensor:
        """Cross-entropy in nats of each next token of int64 (batch, tokens + 1)."""
        logits = self(windows[:, :-1])
        return functional.cross_entropy(
            logits.float().flatten(0, 1), windows[:, 1:].flatten(), reduction=reduction
        )
