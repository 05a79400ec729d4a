"""A small data set and federations of a few thousand parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from euston.federated import DataSet, FederationConfig, LocalConfig, build
from euston.federated.corpus import Document, Source
from euston.models import Transformer

WORDS = {
    "north": "the river runs past stone and water under the old bridge ",
    "south": "0123456789 + 42 = 17 * 3 - 99 / 7 ; x := y ",
}


def _source(name: str) -> Source:
    def documents() -> Iterator[Document]:
        words = WORDS[name].split()
        for i in range(60):
            text = " ".join(words[(i * 7 + j * (1 + i % 5)) % len(words)] for j in range(60))
            yield Document(f"{name}/{i}", f"{i} {text}")

    return Source(name, "1", "CC0-1.0", documents)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("data") / "set"
    build([_source("north"), _source("south")], where, validation=0.1)
    return where


@pytest.fixture(scope="session")
def data(folder: Path) -> DataSet:
    return DataSet.load(folder)


@pytest.fixture(scope="session")
def federation() -> Callable[..., FederationConfig]:
    model = Transformer(
        "tiny", layers=2, hidden=8, heads=2, vocab=257, gated=False, norm="layernorm", positions="learned",
        max_positions=16, tied=True, biases=True,
    )  # fmt: skip
    base = FederationConfig(
        model, clients=3, rounds=4, evaluate_every=100, evaluate_tokens=500,
        local=LocalConfig(steps=4, batch=2, sequence=16, lr=5e-3, warmup=3),
    )  # fmt: skip

    def make(**changes: Any) -> FederationConfig:
        return base.with_(**changes)

    return make
