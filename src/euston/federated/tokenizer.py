"""Text to token numbers: bytes by default, byte-level BPE trained here through the `tokenizers` library."""

from __future__ import annotations

import json
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from euston.errors import ConfigError, MissingExtra, TraceError

__all__ = ["Bpe", "Bytes", "Tokenizer", "load_tokenizer", "train_bpe"]

_MAX_FILE = 64 * 2**20


class Tokenizer(Protocol):
    """Text to numbers and back; the last number of the vocabulary ends a document."""

    @property
    def vocab(self) -> int:
        """Size of the vocabulary, the end of a document included."""

    def encode(self, text: str) -> NDArray[np.uint32]:
        """Numbers of a document, without its end."""

    def decode(self, tokens: Iterable[int]) -> str:
        """Text again; what is no valid UTF-8 is replaced."""

    def byte_lengths(self) -> NDArray[np.int64]:
        """int64[vocab]: bytes of text that each token stands for (0 for the end of a document)."""

    def digest(self) -> str:
        """SHA-256 of what it does."""

    def save(self, path: Path) -> None:
        """Write it as JSON."""


class Bytes:
    """One token per byte of UTF-8; 256 ends a document."""

    vocab = 257

    def encode(self, text: str) -> NDArray[np.uint32]:
        """See `Tokenizer.encode`."""
        return np.frombuffer(text.encode("utf-8", "replace"), np.uint8).astype(np.uint32)

    def decode(self, tokens: Iterable[int]) -> str:
        """See `Tokenizer.decode`."""
        return bytes(t for t in tokens if t < 256).decode("utf-8", "replace")

    def byte_lengths(self) -> NDArray[np.int64]:
        """See `Tokenizer.byte_lengths`."""
        return np.array([1] * 256 + [0], np.int64)

    def digest(self) -> str:
        """See `Tokenizer.digest`."""
        return sha256(b"bytes").hexdigest()

    def save(self, path: Path) -> None:
        """See `Tokenizer.save`."""
        path.write_text(json.dumps({"version": 1, "kind": "bytes"}), encoding="utf-8")


def _library() -> Any:
    try:
        import tokenizers
    except ModuleNotFoundError:
        raise MissingExtra("tokenizers", "train") from None
    return tokenizers


class Bpe:
    """Byte-level BPE of the `tokenizers` library; its vocabulary's last entry is the end of a document."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._made = _library().Tokenizer.from_str(text)
        self.vocab = int(self._made.get_vocab_size())

    def encode(self, text: str) -> NDArray[np.uint32]:
        """See `Tokenizer.encode`."""
        return np.array(self._made.encode(text, add_special_tokens=False).ids, np.uint32)

    def decode(self, tokens: Iterable[int]) -> str:
        """See `Tokenizer.decode`."""
        return str(self._made.decode([t for t in tokens if t < self.vocab - 1]))

    def byte_lengths(self) -> NDArray[np.int64]:
        """See `Tokenizer.byte_lengths`; a byte-level token has one character per byte."""
        lengths = [len(self._made.id_to_token(i)) for i in range(self.vocab - 1)]
        return np.array([*lengths, 0], np.int64)

    def digest(self) -> str:
        """See `Tokenizer.digest`."""
        canonical = json.dumps(json.loads(self._text), sort_keys=True)
        return sha256(canonical.encode()).hexdigest()

    def save(self, path: Path) -> None:
        """See `Tokenizer.save`."""
        made = {"version": 1, "kind": "bpe", "tokenizer": json.loads(self._text)}
        path.write_text(json.dumps(made, ensure_ascii=False), encoding="utf-8")


def train_bpe(texts: Iterable[str], vocab: int) -> Bpe:
    """Train a byte-level BPE of `vocab` entries, the end of a document included.

    Raises
    ------
    ConfigError
        Fewer than 257 entries, or text that does not yield so many.
    MissingExtra
        `tokenizers` is not installed.
    """
    if vocab < 257:
        raise ConfigError(
            f"`tokenizer`: bpe:{vocab} is below the 256 bytes and the end of a document; use bpe:512"
        )
    library = _library()
    made = library.Tokenizer(library.models.BPE())
    made.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=vocab - 1,
        initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(texts, trainer)
    have = int(made.get_vocab_size())
    made.add_special_tokens(["<|end|>"])
    if int(made.get_vocab_size()) != have + 1 or made.token_to_id("<|end|>") != have:
        raise ConfigError("`tokenizer`: the text holds '<|end|>' itself; remove it")
    return Bpe(made.to_str())


def load_tokenizer(path: Path) -> Tokenizer:
    """Read what `save` wrote.

    Raises
    ------
    TraceError
        A file that is no tokenizer.
    """
    try:
        if path.stat().st_size > _MAX_FILE:
            raise TraceError(f"`{path.name}`: is larger than 64 MiB; a tokenizer is smaller")
        values = json.loads(path.read_text(encoding="utf-8"))
        kind = values["kind"]
        if kind == "bytes":
            return Bytes()
        if kind == "bpe":
            return Bpe(json.dumps(values["tokenizer"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TraceError(f"`{path.name}`: is no tokenizer file: {error}") from None
    raise TraceError(f"`{path.name}`: unknown kind {kind!r}; known: bytes, bpe")
