"""Bits per byte and perplexity on held-out windows: fixed by a seed, per source and their plain mean."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from euston.federated.config import FederationConfig
from euston.federated.dataset import DataSet
from euston.federated.decoder import Decoder
from euston.federated.layout import Flat
from euston.federated.stream import Windows

__all__ = ["Evaluator", "Score"]


@dataclass(frozen=True)
class Score:
    """Held-out quality.

    Attributes
    ----------
    bits_per_byte : dict of str to float
        By source. Independent of the tokenizer.
    bytes : int
        Bytes scored, over all sources.
    loss : float
        Nats per token over all sources.
    """

    bits_per_byte: dict[str, float]
    bytes: int
    loss: float

    @property
    def macro(self) -> float:
        """Mean over sources of bits per byte."""
        return sum(self.bits_per_byte.values()) / len(self.bits_per_byte)

    @property
    def perplexity(self) -> float:
        """Per byte: 2 to the `macro`."""
        return math.pow(2.0, self.macro)


class Evaluator:
    """Scores flat parameter vectors on the same windows each time.

    Parameters
    ----------
    config : FederationConfig
    data : DataSet
    tokens : int
        About how many tokens to score, shared evenly by the sources.
    part : int
        0 and 1 are two disjoint halves of the windows: choose on one, report on the other.
    """

    def __init__(self, config: FederationConfig, data: DataSet, tokens: int = 0, part: int = 0) -> None:
        data.check(config)
        self.config, self.data = config, data
        self.layout = Flat.of(config.model)
        self.decoder = Decoder(config.model)
        self.lengths = data.tokenizer.byte_lengths()
        width = config.local.sequence + 1
        each = max(1, (tokens or config.evaluate_tokens) // width // len(data.sources))
        self.windows: dict[str, NDArray[np.int64]] = {}
        for s, (name, held) in enumerate(zip(data.sources, data.validation, strict=True)):
            windows = Windows([held], config.local.sequence)
            random = np.random.Generator(np.random.Philox(np.random.SeedSequence((0xE7A1, s))))
            chosen = random.permutation(len(windows))[part::2][:each]
            if chosen.size:
                self.windows[name] = np.stack([windows[int(w)] for w in np.sort(chosen)]).astype(np.int64)
        if not self.windows:
            from euston.errors import ConfigError

            raise ConfigError(
                f"`local.sequence`: no held-out text is {width} tokens long; use shorter sequences"
            )

    @torch.no_grad()
    def score(self, flat: NDArray[np.float32], batch: int = 32) -> Score:
        """Score one model."""
        values = torch.from_numpy(np.ascontiguousarray(flat))
        for parameter, s in zip(self.decoder.parameters(), self.layout.slices, strict=True):
            parameter.copy_(values[s].view(parameter.shape))
        bits, total_bytes, total_nats, total_tokens = {}, 0, 0.0, 0
        for name, windows in self.windows.items():
            nats = 0.0
            for first in range(0, len(windows), batch):
                some = torch.from_numpy(windows[first : first + batch])
                nats += float(self.decoder.loss(some, "none").double().sum())
            size = int(self.lengths[windows[:, 1:]].sum())
            bits[name] = nats / math.log(2.0) / max(1, size)
            total_bytes, total_nats = total_bytes + size, total_nats + nats
            total_tokens += windows[:, 1:].size
        return Score(bits, total_bytes, total_nats / total_tokens)
