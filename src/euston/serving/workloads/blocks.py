"""Names of token blocks: from token ids, for smaller blocks, and how often an infinite cache would hit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from euston.errors import ConfigError
from euston.serving.requests import Requests

LARGEST_ID = 2**40
"""Names are below it, see `Requests`."""

__all__ = ["PrefixHits", "name_tokens", "prefix_hits", "renumber", "with_block_size"]


def renumber(ids: ArrayLike) -> NDArray[np.int64]:
    """Names counted from 0 in order of first appearance; equal ones stay equal."""
    values = np.asarray(ids)
    _, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    rank = np.empty(first.size, np.int64)
    rank[np.argsort(first, kind="stable")] = np.arange(first.size)
    return rank[inverse]


def name_tokens(
    sequences: Sequence[Sequence[int]], block_size: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Names of the full blocks of token sequences: equal exactly where all tokens up to their end are.

    Returns
    -------
    ptr : int64[n + 1]
    ids : int64[ptr[-1]]
    """
    known: dict[tuple[int, bytes], int] = {}
    ids: list[int] = []
    ptr = np.zeros(len(sequences) + 1, np.int64)
    for i, sequence in enumerate(sequences):
        tokens = np.asarray(sequence, np.int64)
        parent = -1
        for start in range(0, tokens.size - block_size + 1, block_size):
            key = parent, tokens[start : start + block_size].tobytes()
            parent = known.setdefault(key, len(known))
            ids.append(parent)
        ptr[i + 1] = len(ids)
    return ptr, np.asarray(ids, np.int64)


def with_block_size(requests: Requests, block_size: int) -> Requests:
    """The same requests with names for smaller blocks: block k of a block named i is ``i * parts + k``.

    Raises
    ------
    ConfigError
        When ``block_size`` does not divide the trace's.
    """
    own = requests.block_size
    if own in (0, block_size):
        return requests
    if block_size < 1 or own % block_size:
        raise ConfigError(
            f"`block_size`: {block_size} does not divide the trace's blocks of {own} tokens; "
            f"nearest {_divisor(own, block_size)}"
        )
    parts = own // block_size
    ids = requests.block_ids
    if ids.max(initial=0) >= LARGEST_ID // parts:
        ids = renumber(ids)
    fine = (ids[:, None] * parts + np.arange(parts)).ravel()
    return replace(requests, block_ids=fine, blocks_ptr=requests.blocks_ptr * parts, block_size=block_size)


def _divisor(own: int, wanted: int) -> int:
    divisors = [d for d in range(1, own + 1) if own % d == 0]
    return min(divisors, key=lambda d: abs(d - wanted))


@dataclass(frozen=True)
class PrefixHits:
    """What an infinite cache that everybody shares would have found.

    Attributes
    ----------
    hits, blocks : int
        Blocks found, and blocks looked up.
    """

    hits: int
    blocks: int

    @property
    def share(self) -> float:
        """Hits / blocks."""
        return self.hits / self.blocks if self.blocks else 0.0


def prefix_hits(requests: Requests, *, partial: bool = False) -> PrefixHits:
    """Count hits beforehand, request after request, from the first block on without a gap.

    Parameters
    ----------
    partial : bool
        Whether a partial last block may match. Engines match full blocks only.
    """
    n, owner = len(requests), np.repeat(np.arange(len(requests)), np.diff(requests.blocks_ptr))
    place = np.arange(owner.size) - requests.blocks_ptr[:-1][owner]
    if not partial:
        full = place < (requests.named_tok // max(requests.block_size, 1))[owner]
        owner, place, ids = owner[full], place[full], requests.block_ids[full]
    else:
        ids = requests.block_ids
    _, first, inverse = np.unique(ids, return_index=True, return_inverse=True)
    seen = owner[first][inverse] < owner
    # length of the run of hits from each request's first block: the first miss ends it
    end = np.full(n, np.iinfo(np.int64).max)
    np.minimum.at(end, owner[~seen], place[~seen])
    return PrefixHits(int((place < end[owner]).sum()), int(owner.size))
