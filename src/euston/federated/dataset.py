"""Text to a folder of tokens with a licence manifest, split by the hash of each document; and that folder
read.

A folder holds ``manifest.json``, ``tokenizer.json`` and per source ``<name>.train.bin`` and
``<name>.val.bin`` (little-endian uint16 or uint32 tokens).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from euston.errors import ConfigError, TraceError
from euston.federated.config import FederationConfig
from euston.federated.corpus import BUILTIN, Document, Source, open_source
from euston.federated.partition import heterogeneity, partition
from euston.federated.stream import TokenStream, Windows
from euston.federated.tokenizer import Bytes, Tokenizer, load_tokenizer, train_bpe

__all__ = ["DataSet", "build", "builtin"]

VALIDATION = 0.05
"""Share of documents (by hash of their names) that nobody trains on."""

Tokens = NDArray[Any]


@dataclass(frozen=True)
class DataSet:
    """Tokens of several sources, those to train on and those never seen.

    Attributes
    ----------
    sources : tuple of str
    train, validation : tuple of integer arrays
        One each per source.
    tokenizer : Tokenizer
    manifest : dict
        What `build` wrote: per source version, licence, hashes, bytes and tokens.
    """

    sources: tuple[str, ...]
    train: tuple[Tokens, ...]
    validation: tuple[Tokens, ...]
    tokenizer: Tokenizer
    manifest: dict[str, Any]

    @classmethod
    def load(cls, folder: str | Path) -> DataSet:
        """Map the files of a folder into memory.

        Raises
        ------
        TraceError
            No such folder, or files that do not fit its manifest.
        """
        root = Path(folder)
        try:
            manifest = json.loads((root / "manifest.json").read_text(encoding="utf-8"))
            names = [str(entry["name"]) for entry in manifest["sources"]]
            kind: np.dtype[Any] = np.dtype({"uint16": "<u2", "uint32": "<u4"}[manifest["dtype"]])
            arrays = []
            for entry, name in zip(manifest["sources"], names, strict=True):
                for part in ("train", "val"):
                    path = root / f"{Path(name).name}.{part}.bin"
                    count = int(entry[f"{part}_tokens"])
                    if path.stat().st_size != count * kind.itemsize:
                        raise TraceError(
                            f"`{path.name}`: {path.stat().st_size} bytes where the manifest says "
                            f"{count * kind.itemsize}; build the data again"
                        )
                    arrays.append(np.memmap(path, kind, "r") if count else np.empty(0, kind))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise TraceError(f"`{root}`: is no data folder of `euston photon data build`: {error}") from None
        return cls(
            tuple(names),
            tuple(arrays[::2]),
            tuple(arrays[1::2]),
            load_tokenizer(root / "tokenizer.json"),
            manifest,
        )

    def digest(self) -> str:
        """SHA-256 that tells two data sets apart."""
        parts = [[e["name"], e["train_sha256"], e["val_sha256"]] for e in self.manifest["sources"]]
        return sha256(json.dumps(parts).encode()).hexdigest()

    def check(self, config: FederationConfig) -> None:
        """Refuse a model with another vocabulary."""
        if config.model.vocab != self.tokenizer.vocab:
            raise ConfigError(
                f"`model.vocab`: {config.model.vocab}, the data's tokenizer has {self.tokenizer.vocab} tokens"
            )

    def deal(self, config: FederationConfig) -> tuple[Windows, list[NDArray[np.int64]]]:
        """The windows there are, and those of each client."""
        windows = Windows(self.train, config.local.sequence)
        return windows, partition(config.partition, windows.counts, config.clients, config.seed)

    def streams(self, config: FederationConfig, client: int) -> list[TokenStream]:
        """Streams of a client, one per island: its windows dealt in turn."""
        self.check(config)
        windows, dealt = self.deal(config)
        own, islands = dealt[client], config.islands
        return [
            TokenStream(windows, own[i::islands], config.seed, client * islands + i) for i in range(islands)
        ]

    def all_streams(self, config: FederationConfig, client: int) -> list[TokenStream]:
        """Streams of a client that owns all of this text, one per island."""
        self.check(config)
        windows, islands = Windows(self.train, config.local.sequence), config.islands
        own = np.arange(len(windows), dtype=np.int64)
        return [
            TokenStream(windows, own[i::islands], config.seed, client * islands + i) for i in range(islands)
        ]

    def heterogeneity(self, config: FederationConfig) -> float:
        """Mean Jensen-Shannon divergence of the clients' unigrams, bits."""
        windows, dealt = self.deal(config)
        return heterogeneity(windows, dealt, self.tokenizer.vocab)


def builtin(folder: str | Path, most: int = 2_000_000, tokenizer: str = "bytes") -> DataSet:
    """The data set that needs no download: this Python's own library, docstrings and help topics.

    Built once in `folder`; at most `most` bytes of each source.
    """
    root = Path(folder)
    if not (root / "manifest.json").exists():
        build(BUILTIN, root, tokenizer=tokenizer, most=most, validation=0.1)
    return DataSet.load(root)


def build(
    sources: Sequence[str | Source],
    folder: str | Path,
    *,
    tokenizer: str = "bytes",
    most: int = 0,
    validation: float = VALIDATION,
    progress: Callable[[str], None] = lambda _: None,
) -> DataSet:
    """Read sources, split, tokenise, write.

    Parameters
    ----------
    sources : sequence of str or Source
        Words as `open_source` takes them.
    folder : path
        Must not exist yet, or be empty.
    tokenizer : str
        ``bytes``, ``bpe:VOCAB`` (trained on the training part), or the path of a tokenizer.json.
    most : int
        Bytes to take of each source; 0: all.
    validation : float
        Share of documents held out. Documents are assigned by the hash of source and name, so that the same
        document is on the same side in every build. Paragraphs of a held-out document that also stand in
        the training part are removed from the former.

    Raises
    ------
    ConfigError
        No text, two sources of one name, or a folder that is in use.
    """
    root = Path(folder)
    if root.exists() and any(root.iterdir()):
        raise ConfigError(f"`{root}`: is not empty; choose another folder")
    if not 0.0 < validation < 1.0:
        raise ConfigError(f"`validation`: {validation} must lie between 0 and 1")
    opened = [source if isinstance(source, Source) else open_source(source) for source in sources]
    names = [source.name for source in opened]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice or not names:
        raise ConfigError(f"`source`: {twice!r} is given twice" if twice else "`source`: give at least one")
    texts = []
    for source in opened:
        progress(f"reading {source.name}")
        texts.append(_split(source, most, validation))
    chosen = _tokenizer(tokenizer, (document.text for train, _ in texts for document in train))
    kind = "uint16" if chosen.vocab <= 1 << 16 else "uint32"
    root.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{root.name}-", dir=root.parent))
    try:
        entries = []
        for source, (train, held) in zip(opened, texts, strict=True):
            progress(f"writing {source.name}")
            entry: dict[str, Any] = {
                "name": source.name,
                "version": source.version,
                "licence": source.licence,
            }
            for part, documents in (("train", train), ("val", held)):
                data = _tokens(documents, chosen).astype("<u2" if kind == "uint16" else "<u4")
                (beside / f"{source.name}.{part}.bin").write_bytes(data.tobytes())
                entry |= {
                    f"{part}_documents": len(documents),
                    f"{part}_bytes": sum(len(d.text.encode()) for d in documents),
                    f"{part}_tokens": int(data.size),
                    f"{part}_sha256": sha256(data.tobytes()).hexdigest(),
                }
            entries.append(entry)
        chosen.save(beside / "tokenizer.json")
        manifest = {"version": 1, "dtype": kind, "tokenizer": chosen.digest(), "sources": entries}
        (beside / "manifest.json").write_text(
            json.dumps(manifest, indent=1, ensure_ascii=False), encoding="utf-8"
        )
        with contextlib.suppress(FileNotFoundError):
            root.rmdir()
        os.replace(beside, root)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    return DataSet.load(root)


def _split(source: Source, most: int, validation: float) -> tuple[list[Document], list[Document]]:
    """Documents to train on and held out, up to `most` bytes, the paragraphs they share only in the
    former.
    """
    train: list[Document] = []
    held: list[Document] = []
    size, limit = 0, int(validation * 2**32)
    for document in source.documents():
        if not document.text.strip():
            continue
        name = f"{source.name}\0{document.name}".encode()
        side = held if int.from_bytes(sha256(name).digest()[:4], "big") < limit else train
        side.append(document)
        size += len(document.text.encode())
        if most and size >= most:
            break
    if len(train) + len(held) > 1 and (
        not held or not train
    ):  # few documents: the one with the smallest hash
        together = sorted(train + held, key=lambda d: sha256(f"{source.name}\0{d.name}".encode()).digest())
        held, train = together[:1], together[1:]
    if not held and train:  # a single document: its end is held out
        cut = train[0].text.rfind("\n", 0, int(len(train[0].text) * (1 - validation))) + 1
        if cut:
            held = [Document(train[0].name + "#end", train[0].text[cut:])]
            train = [Document(train[0].name, train[0].text[:cut])]
    if not train:
        raise ConfigError(
            f"`source`: {source.name} holds no text that can be split into training and validation"
        )
    seen = {hash_ for document in train for hash_ in _paragraphs(document.text)}
    unseen = []
    for document in held:
        kept = [p for p in document.text.split("\n\n") if _hash(p) not in seen]
        if any(p.strip() for p in kept):
            unseen.append(Document(document.name, "\n\n".join(kept)))
    return train, unseen


def _hash(paragraph: str) -> bytes:
    return sha256(paragraph.strip().encode()).digest()[:12]


def _paragraphs(text: str) -> Iterator[bytes]:
    for paragraph in text.split("\n\n"):
        if paragraph.strip():
            yield _hash(paragraph)


def _tokenizer(word: str, texts: Iterator[str]) -> Tokenizer:
    if word == "bytes":
        return Bytes()
    kind, _, size = word.partition(":")
    if kind == "bpe" and size.isdigit():
        return train_bpe(texts, int(size))
    if Path(word).is_file():
        return load_tokenizer(Path(word))
    raise ConfigError(
        f"`tokenizer`: {word!r}; use bytes, bpe:VOCAB (bpe:4096) or the path of a tokenizer.json"
    )


def _tokens(documents: Sequence[Document], tokenizer: Tokenizer) -> NDArray[np.uint32]:
    end = np.array([tokenizer.vocab - 1], np.uint32)
    parts = [part for document in documents for part in (tokenizer.encode(document.text), end)]
    return np.concatenate(parts) if parts else np.empty(0, np.uint32)
