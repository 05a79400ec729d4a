"""Tensors of the decoder by name and shape, and fragments of them: known without torch, so also to a
simulator.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import prod

from euston.compression import CODECS
from euston.errors import ConfigError, at
from euston.models import Transformer

__all__ = ["Flat", "check_model", "fragments_of", "parameter_shapes"]

_REFUSED = ("moe", "mla", "mamba", "vision")


def check_model(model: Transformer) -> None:
    """Refuse what the decoder does not compute.

    Raises
    ------
    ConfigError
        Naming the field.
    """
    for name in _REFUSED:
        if getattr(model, name) is not None:
            raise ConfigError(
                at(f"model.{name}", "the federated trainer has dense decoders only; leave it out")
            )
    for name, plain in (
        ("qkv_biases", False),
        ("attention_biases", False),
        ("sinks", False),
        ("post_norms", False),
        ("window", 0),
        ("prediction_layers", 0),
        ("mixers", "A"),
    ):
        if getattr(model, name) != plain:
            raise ConfigError(at(f"model.{name}", f"the federated trainer knows only {plain!r}"))
    if model.positions == "rotary" and model.head_dim % 2:
        raise ConfigError(at("model.head_dim", f"{model.head_dim} is odd; rotary positions turn pairs"))


def parameter_shapes(model: Transformer) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every parameter of the decoder, in the order of the flat vector.

    Embedding first, then layer by layer, then the last norm and (where not tied) the head. Their sizes add
    up to ``model.parameters()``.
    """
    check_model(model)
    h, a, kv, d = model.hidden, model.heads, model.kv_heads, model.head_dim
    shapes: dict[str, tuple[int, ...]] = {"embedding.weight": (model.vocab, h)}
    if model.positions == "learned":
        shapes["positions.weight"] = (model.max_positions, h)

    def norm(name: str, width: int) -> None:
        shapes[f"{name}.weight"] = (width,)
        if model.norm == "layernorm":
            shapes[f"{name}.bias"] = (width,)

    def linear(name: str, rows: int, columns: int) -> None:
        shapes[f"{name}.weight"] = (rows, columns)
        if model.biases:
            shapes[f"{name}.bias"] = (rows,)

    for i in range(model.layers):
        at_ = f"blocks.{i}"
        norm(f"{at_}.norm1", h)
        linear(f"{at_}.attention.qkv", (a + 2 * kv) * d, h)
        linear(f"{at_}.attention.out", h, a * d)
        if model.qk_norm:
            shapes[f"{at_}.attention.query_norm.weight"] = (d,)
            shapes[f"{at_}.attention.key_norm.weight"] = (d,)
        norm(f"{at_}.norm2", h)
        linear(f"{at_}.feed_forward.up", model.ffn * (2 if model.gated else 1), h)
        linear(f"{at_}.feed_forward.down", h, model.ffn)
    norm("norm", h)
    if not model.tied:
        shapes["head.weight"] = (model.vocab, h)
    return shapes


def fragments_of(model: Transformer, count: int, pattern: str = "strided") -> tuple[tuple[str, ...], ...]:
    """Names of parameters by fragment. Embedding, positions, last norm and head go with fragment 0."""
    if not 1 <= count <= model.layers:
        raise ConfigError(at("sync.fragments", f"{count} is not between 1 and the {model.layers} layers"))
    parts: list[list[str]] = [[] for _ in range(count)]
    for name in parameter_shapes(model):
        if name.startswith("blocks."):
            i = int(name.split(".")[1])
            part = i % count if pattern == "strided" else i * count // model.layers
        else:
            part = 0
        parts[part].append(name)
    return tuple(tuple(part) for part in parts)


@dataclass(frozen=True)
class Flat:
    """The model as one float32 vector: where each tensor lies, and which tensors make a fragment.

    Attributes
    ----------
    names : tuple of str
    shapes : tuple of tuple of int
    fragments : tuple of tuple of int
        Indices of tensors by fragment.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    fragments: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, model: Transformer, fragments: int = 1, pattern: str = "strided") -> Flat:
        """Layout of a model in `fragments` parts."""
        shapes = parameter_shapes(model)
        index = {name: i for i, name in enumerate(shapes)}
        parts = tuple(tuple(index[n] for n in part) for part in fragments_of(model, fragments, pattern))
        return cls(tuple(shapes), tuple(shapes.values()), parts)

    @cached_property
    def slices(self) -> tuple[slice, ...]:
        """Where each tensor lies in the flat vector."""
        found, start = [], 0
        for shape in self.shapes:
            found.append(slice(start, start + prod(shape)))
            start += prod(shape)
        return tuple(found)

    @property
    def size(self) -> int:
        """Parameters."""
        return self.slices[-1].stop

    def fragment_slices(self, fragment: int) -> list[slice]:
        """Runs of the flat vector that make a fragment, tensor by tensor."""
        return [self.slices[i] for i in self.fragments[fragment]]

    def payload_bytes(self, fragment: int, codec: str) -> int:
        """Exact bytes of a fragment's update: every tensor encoded for itself."""
        return sum(_encoded(codec, s.stop - s.start) for s in self.fragment_slices(fragment))


@lru_cache(maxsize=4096)
def _encoded(codec: str, size: int) -> int:
    from euston.federated.coding import codec_of

    return int(codec_of(codec).bytes(size)) if codec in CODECS else 0
