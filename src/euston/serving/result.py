"""What came of a run: per-request times and counts, gaps between tokens, counters per rank."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray

from euston.serving import _state as k
from euston.serving.requests import Requests

__all__ = ["Outcome", "ServingResult"]

_F = NDArray[np.float64]
_I = NDArray[np.int64]


class Outcome(IntEnum):
    """What became of a request."""

    OPEN = 0
    """It never arrived, or was not finished when the run ended (no replica was up, the horizon came)."""
    DONE = 1
    TOO_LONG = 2
    """Refused: prompt + answer exceed ``max_model_len``."""
    TOO_LARGE = 3
    """Refused: prompt + answer need more KV blocks than a rank has, or more images than an encoder holds."""
    REFUSED = 4
    """Refused by admission: token bucket, full queue, predicted lateness."""


@dataclass(frozen=True)
class ServingResult:
    """The log of a run; n requests, R ranks.

    Attributes
    ----------
    requests : Requests
    arrival, scheduled, first, last : float64[n]
        Seconds at which a request came in, was first scheduled, gave its first and its last token; nan where
        it did not. For refused ones ``last`` is when they were refused.
    tokens : int32[n]
        Tokens given.
    hits : int32[n]
        Prompt tokens found in the cache at first admission (those from lower tiers included), once a request.
    tier_hits : int32[n]
        Of these, tokens loaded from lower tiers.
    preemptions, retries : int32[n]
        Times thrown out for want of blocks; times restarted because a replica died.
    worst_gap : float64[n]
        Longest gap between two tokens of the request.
    rank : int32[n]
        Where it ended.
    outcome : int32[n]
        `Outcome`.
    gap_counts : int64[bins]
        Histogram of gaps between tokens, see `gap_quantile`; the first bin holds those below 1 us.
    token_times : float64[total out_tok] or empty
        Time of every token, request by request, when the run recorded them.
    ranks : dict of int64[R]
        Counters of each rank: steps, prefill_tokens, decode_tokens, hit_tokens, preemptions,
        recomputed_tokens, evicted_blocks, swapped_blocks, loaded_tokens, peak_blocks, blocks, used_blocks,
        emitted_tokens, held_images (embeddings of prompts that are not computed yet).
    busy : float64[U]
        Seconds that each unit (ranks that step together) spent in steps.
    end : float64
        Seconds at which the last event happened.
    events, steps, transfers : int
    handed_bytes, loaded_bytes : float
        Bytes handed over between pools (before overlap), loaded from lower tiers.
    """

    requests: Requests
    arrival: _F
    scheduled: _F
    first: _F
    last: _F
    tokens: NDArray[np.int32]
    hits: NDArray[np.int32]
    tier_hits: NDArray[np.int32]
    preemptions: NDArray[np.int32]
    retries: NDArray[np.int32]
    worst_gap: _F
    rank: NDArray[np.int32]
    outcome: NDArray[np.int32]
    gap_counts: _I
    token_times: _F
    ranks: dict[str, _I]
    busy: _F
    end: float
    events: int
    steps: int
    transfers: int
    handed_bytes: float
    loaded_bytes: float

    @property
    def done(self) -> NDArray[np.bool_]:
        """Requests that were served to their end."""
        return np.asarray(self.outcome == Outcome.DONE)

    @property
    def ttft(self) -> _F:
        """Seconds from arrival to the first token (waiting included), nan where there was none."""
        return self.first - self.arrival

    @property
    def tpot(self) -> _F:
        """Mean seconds between a request's tokens: (last - first) / (tokens - 1); nan for a single token."""
        with np.errstate(divide="ignore", invalid="ignore"):
            mean = (self.last - self.first) / (self.tokens - 1)
        return np.where(self.done & (self.tokens > 1), mean, np.nan)

    @property
    def e2e(self) -> _F:
        """Seconds from arrival to the last token, nan where there was none."""
        return np.where(self.done, self.last - self.arrival, np.nan)

    def gaps(self) -> _F:
        """Every gap between two tokens of a request, from recorded token times (else empty)."""
        if not self.token_times.size:
            return self.token_times
        gap = np.diff(self.token_times)
        inside = np.ones(gap.size, bool)
        inside[np.cumsum(self.requests.out_tok)[:-1] - 1] = False
        found = gap[inside]
        return found[np.isfinite(found)]

    def gap_quantile(self, q: ArrayLike) -> _F:
        """Quantiles of the gaps between tokens (ITL) from the histogram: exact to its bins, 0.27 % wide."""
        total = int(self.gap_counts.sum())
        share = np.atleast_1d(np.asarray(q, np.float64))
        if total == 0:
            return np.full(share.shape, np.nan)
        at = np.searchsorted(np.cumsum(self.gap_counts), np.maximum(share * total, 1e-9))
        middle = k.FIRST_GAP * 2.0 ** ((at - 0.5) / k.PER_OCTAVE)
        return np.where(at == 0, 0.0, middle)

    def __repr__(self) -> str:
        done = int(self.done.sum())
        return (
            f"ServingResult({done:,} of {len(self.requests):,} requests done in {self.end:.6g} s; "
            f"{self.steps:,} steps, {self.events:,} events)"
        )
