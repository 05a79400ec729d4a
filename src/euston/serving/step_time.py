"""StepTime: how long one step of an engine takes, as arrays that the engine's kernel reads.

A jitted function can not be handed to a kernel, so a provider (roofline, measured tables, calibrated) fills
these arrays once per pool. One step of T tokens in B sequences costs on the accelerator

    fixed + tokens[T] + sequences[B'] + attention + communication[T] - overlap * min(compute, communication)

where B' counts the sequences that sample a token, and attention is a sum over the prompt's chunks
``chunk_fixed + pairs(n, c) * prefill_rate(n, c)`` with ``pairs = n c + n (n + 1) / 2`` (n new tokens, c
cached ones), plus ``decode_fixed + decode_rate(count, mean) * count * (mean + skew * (longest - mean))`` for
those that decode, the sum times ``mixed[count]`` in a step that has both. Rates, not latencies, are
interpolated (bilinear in the logarithms, held at the ends), so that a table of a few knots follows the
quadratic exactly. Curves over whole numbers are dense: padding to CUDA-graph sizes, wave quantisation and
expert skew are written into them as they are; beyond the end the last slope goes on.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from euston.errors import ConfigError
from euston.serving import _step as k

__all__ = ["Rate", "StepTime", "StepTimeProvider", "dense"]

_Array = NDArray[np.float64]


def dense(knots: ArrayLike, seconds: ArrayLike) -> _Array:
    """A curve over the whole numbers 0 to ``knots[-1]`` through the given points, straight in between.

    Raises
    ------
    ConfigError
        When the knots do not rise from 0 or more, or are not as many as the seconds.
    """
    x, y = np.asarray(knots, np.float64), np.asarray(seconds, np.float64)
    if x.ndim != 1 or x.shape != y.shape or not x.size or x[0] < 0 or (np.diff(x) <= 0).any():
        raise ConfigError("a curve needs rising token counts from 0 on and as many seconds")
    return np.interp(np.arange(int(x[-1]) + 1), x, y)


@dataclass(frozen=True)
class Rate:
    """A rate over two axes, bilinear in their logarithms.

    Attributes
    ----------
    x : float64[a]
        New tokens of a chunk, or sequences that decode; rising, >= 1.
    y : float64[b]
        Cached tokens before the chunk (0 counts as 1), or mean context; rising, >= 1.
    seconds : float64[a, b]
        Seconds per (query, key) pair, or per cached token.
    """

    x: _Array
    y: _Array
    seconds: _Array

    @classmethod
    def flat(cls, seconds: float) -> Rate:
        """The same rate everywhere."""
        return cls(np.ones(1), np.ones(1), np.full((1, 1), float(seconds)))

    def __post_init__(self) -> None:
        x, y = (np.asarray(a, np.float64) for a in (self.x, self.y))
        z = np.asarray(self.seconds, np.float64)
        rising = all(a.ndim == 1 and a.size and a[0] >= 1 and (np.diff(a) > 0).all() for a in (x, y))
        if not rising or z.shape != (x.size, y.size):
            raise ConfigError("a rate needs two rising axes from 1 on and a table of their lengths")
        if not (np.isfinite(z).all() and (z >= 0).all()):
            raise ConfigError("a rate must be finite and >= 0 seconds everywhere")


def _none() -> _Array:
    return np.zeros(0)


@dataclass(frozen=True)
class StepTime:
    """Seconds of one step of one rank (all its accelerators together).

    Attributes
    ----------
    fixed : float
        Seconds of every step on the accelerator, whatever is in it.
    tokens : float64[T + 1]
        Compute that depends on the step's tokens: GEMMs, norms, experts, embeddings; by number of tokens.
    communication : float64[T + 1]
        Collectives by number of tokens; scaled by what the fabric gives when it is shared.
    sequences : float64[B + 1]
        Logits and sampling, by number of sequences that sample.
    prefill, decode : Rate
        Attention; see the module.
    mixed : float64[B + 1]
        What attention of a step with chunks and decodes takes over the sum of both, by sequences that decode
        (one call for both is tiled for the chunks); empty: 1.
    chunk_fixed, decode_fixed, skew : float
    cpu_fixed, cpu_sequence, cpu_token : float
        Host seconds per step, per sequence, per token; the engine adds them or hides the smaller of the two.
    overlap : float
        Share of the smaller of compute and communication that the larger hides (two-batch overlap): 0 to 1.
    group : float64[G + 1]
        Seconds that depend on the tokens of all ranks that step together (experts shared by DP attention).
    send_fixed, send_token : float
        Seconds to hand activations to the next pipeline stage.
    draft_fixed, draft_sequence : float
        Seconds of drafting one token (a small model, an extra head), for the step and for each sequence.
    provenance : tuple of str
        Where the numbers come from, worst first.
    """

    tokens: _Array
    prefill: Rate = field(default_factory=lambda: Rate.flat(0.0))
    decode: Rate = field(default_factory=lambda: Rate.flat(0.0))
    fixed: float = 0.0
    communication: _Array = field(default_factory=_none)
    sequences: _Array = field(default_factory=_none)
    group: _Array = field(default_factory=_none)
    mixed: _Array = field(default_factory=_none)
    chunk_fixed: float = 0.0
    decode_fixed: float = 0.0
    skew: float = 0.0
    cpu_fixed: float = 0.0
    cpu_sequence: float = 0.0
    cpu_token: float = 0.0
    overlap: float = 0.0
    send_fixed: float = 0.0
    send_token: float = 0.0
    draft_fixed: float = 0.0
    draft_sequence: float = 0.0
    provenance: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("tokens", "communication", "sequences", "group", "mixed"):
            values = np.asarray(getattr(self, name), np.float64)
            if values.ndim != 1 or not (np.isfinite(values).all() and (values >= 0).all()):
                raise ConfigError(f"step time: {name} must be finite seconds >= 0, by whole numbers")
            object.__setattr__(self, name, values)
        for name in (
            "fixed", "chunk_fixed", "decode_fixed", "skew", "cpu_fixed", "cpu_sequence", "cpu_token",
            "overlap", "send_fixed", "send_token", "draft_fixed", "draft_sequence",
        ):  # fmt: skip
            value = getattr(self, name)
            if not 0 <= value < np.inf:
                raise ConfigError(f"step time: {name} is {value}; it must be a number >= 0")
        if self.overlap > 1:
            raise ConfigError(f"step time: overlap is {self.overlap}; it must be 0 to 1")
        first = self.fixed + self.cpu_fixed + (self.tokens[1:2].sum() if self.tokens.size > 1 else 0.0)
        if not first > 0:
            raise ConfigError("step time: a step of one token takes no time; give fixed or tokens")

    def packed(self) -> _Array:
        """The table that the kernel reads: a head, then the curves and rates one after the other."""
        axes = [np.log2(axis) for rate in (self.prefill, self.decode) for axis in (rate.x, rate.y)]
        parts = [
            self.tokens, self.communication, self.sequences, self.group,
            axes[0], axes[1], np.ravel(self.prefill.seconds),
            axes[2], axes[3], np.ravel(self.decode.seconds), self.mixed,
        ]  # fmt: skip
        head = np.zeros(k.PARTS)
        head[:13] = (
            self.fixed, self.chunk_fixed, self.decode_fixed, self.skew, self.cpu_fixed, self.cpu_sequence,
            self.cpu_token, self.overlap, self.send_fixed, self.send_token, self.draft_fixed,
            self.draft_sequence, 1.0,
        )  # fmt: skip
        at = k.PARTS
        for j, part in enumerate(parts):
            head[k.HEAD + 2 * j : k.HEAD + 2 * j + 2] = at, part.size
            at += part.size
        return np.concatenate([head, *parts])

    def breakdown(
        self, new: ArrayLike = (), context: ArrayLike = (), decode: ArrayLike = (), *, draft: int = 0
    ) -> dict[str, float]:
        """Seconds of one step by part.

        Parameters
        ----------
        new, context : int64[a]
            Chunks of prompts: new tokens, and tokens cached before them. Each is taken to sample.
        decode : int64[b]
            Context of each sequence that decodes, its new token included.
        draft : int
            Tokens drafted for each of them.
        """
        n, c, d = (np.asarray(a, np.int64).ravel() for a in (new, context, decode))
        if n.shape != c.shape:
            raise ConfigError("new and context must be of one length, one pair per chunk")
        words = ("fixed", "tokens", "prefill", "decode", "sequences", "communication", "cpu", "gpu")
        return dict(zip(words, k.evaluate(self.packed(), n, c, d, draft).tolist(), strict=True))

    def seconds(
        self,
        new: ArrayLike = (),
        context: ArrayLike = (),
        decode: ArrayLike = (),
        *,
        draft: int = 0,
        asynchronous: bool = True,
    ) -> float:
        """Seconds of one step; the host's are hidden behind the accelerator's when ``asynchronous``."""
        part = self.breakdown(new, context, decode, draft=draft)
        both = (part["gpu"], part["cpu"])
        return max(both) if asynchronous else sum(both)

    def slowed(self, factor: float) -> StepTime:
        """The same with every time ``factor`` times as long."""
        if not 0 < factor < np.inf:
            raise ConfigError(f"factor is {factor}; it must be positive")
        numbers = {
            name: getattr(self, name) * factor
            for name in (
                "tokens", "communication", "sequences", "group", "fixed", "chunk_fixed", "decode_fixed",
                "cpu_fixed", "cpu_sequence", "cpu_token", "send_fixed", "send_token", "draft_fixed",
                "draft_sequence",
            )
        }  # fmt: skip
        rates = {
            name: replace(getattr(self, name), seconds=getattr(self, name).seconds * factor)
            for name in ("prefill", "decode")
        }
        return replace(self, **numbers, **rates)


class StepTimeProvider(Protocol):
    """What prices a pool's steps: roofline, measured tables, calibrated."""

    def step_time(self) -> StepTime:
        """The arrays."""
