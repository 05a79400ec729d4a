"""Which kinds of layers a model has, in order: what mixes tokens and what follows it.

A layer is a *mixer* (attention over everything before, attention over a sliding window, a state-space scan,
or none) and a *feed-forward* network (dense, mixture of experts, or none). Two short strings, repeated over
the layers, say which: ``mixers="SSSSSA"`` is Gemma 3, ``mixers="MMMMAMMM", ffns="FE"`` is Jamba.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import cycle, islice
from typing import TYPE_CHECKING, Literal

from euston.errors import ConfigError

if TYPE_CHECKING:
    from ._transformer import Transformer

__all__ = ["FFNS", "MIXERS", "LayerKind", "check", "layer_kinds"]

Mixer = Literal["attention", "sliding", "mamba", "none"]
FeedForward = Literal["dense", "moe", "none"]

MIXERS: dict[str, Mixer] = {"A": "attention", "S": "sliding", "M": "mamba", "-": "none"}
FFNS: dict[str, FeedForward] = {"F": "dense", "E": "moe", "-": "none"}


@dataclass(frozen=True, slots=True)
class LayerKind:
    """One kind of layer; equal kinds cost the same."""

    mixer: Mixer = "attention"
    ffn: FeedForward = "dense"

    @property
    def attends(self) -> bool:
        """Whether it has attention of either sort."""
        return self.mixer in ("attention", "sliding")

    def __str__(self) -> str:
        parts = [part for part in (self.mixer, self.ffn) if part != "none"]
        return "+".join(parts)


def _letters(pattern: str, layers: int) -> list[str]:
    return list(islice(cycle(pattern), layers))


def layer_kinds(model: Transformer) -> tuple[LayerKind, ...]:
    """The kind of every layer of the main model."""
    mixers = _letters(model.mixers, model.layers)
    if model.ffns:
        ffns = _letters(model.ffns, model.layers)
    else:
        first = model.layers if model.moe is None else model.moe.first_dense_layers
        ffns = ["F"] * first + ["E"] * (model.layers - first)
    return tuple(LayerKind(MIXERS[m], FFNS[f]) for m, f in zip(mixers, ffns, strict=True))


def check(model: Transformer) -> None:
    """Refuse unknown letters, and letters that name what the model does not describe."""
    for key, known in (("mixers", MIXERS), ("ffns", FFNS)):
        pattern = getattr(model, key)
        if not isinstance(pattern, str) or (key == "mixers" and not pattern):
            raise ConfigError(f"`model.{key}`: {pattern!r} must be letters of {' '.join(known)}")
        wrong = next((letter for letter in pattern if letter not in known), None)
        if wrong is not None:
            meanings = ", ".join(f"{letter} {word}" for letter, word in known.items())
            raise ConfigError(f"`model.{key}`: {wrong!r} is no kind of layer; known: {meanings}")
    kinds = set(layer_kinds(model))
    for needed, present, key in (
        (any(k.mixer == "sliding" for k in kinds), model.window > 0, "window"),
        (any(k.mixer == "mamba" for k in kinds), model.mamba is not None, "mamba"),
        (any(k.ffn == "moe" for k in kinds), model.moe is not None, "moe"),
    ):
        if needed and not present:
            raise ConfigError(f"`model.{key}`: is missing, and some layers need it")
    if LayerKind("none", "none") in kinds:
        raise ConfigError("`model.ffns`: a layer has neither a mixer nor a feed-forward network")
