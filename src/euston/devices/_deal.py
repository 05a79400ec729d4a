"""How the collector of the packaged MoE tables dealt tokens to experts: what its rows really computed.

Its rows name a number of tokens, a degree of expert parallelism and a distribution; time depends on the rows
and experts of the rank it ran. This follows the collector's own procedure (ai-dynamo/aiconfigurator, vLLM MoE
collector): power-law shares per expert, rounded; the busiest rank first; tokens' expert lists from the sorted
assignments, in which a repeated expert counts once and the lowest free ones fill up.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

#: The collector averages ten draws; eight of ours have the same mean within the noise of its rows.
DRAWS = 8
Counts = NDArray[np.int64]


class Dealt(NamedTuple):
    """Of the measured rank: rows, experts touched, and rows when each expert's are padded to tiles of 128."""

    rows: float
    touched: float
    padded: float


@lru_cache(maxsize=8192)
def deal(tokens: int, experts: int, top_k: int, ranks: int, alpha: float) -> Dealt:
    """Mean of what the collector's measured rank computed; ``alpha`` 0 is its balanced deal."""
    if alpha == 0.0:
        return _summary([_balanced(tokens, experts, top_k)[: experts // ranks]])
    rng = np.random.Generator(np.random.Philox(key=1))
    draws = [_power_law(rng, tokens, experts, top_k, ranks, alpha) for _ in range(DRAWS)]
    return _summary([counts[: experts // ranks] for counts in draws])


def tile_rows(each: float) -> float:
    """Rows of a tile, by the rows per touched expert (see `euston.devices._moe.TILE_ROWS`)."""
    return 128.0 if each > 64 else 64.0 if each > 16 else 16.0


def _summary(draws: list[Counts]) -> Dealt:
    rows = float(np.mean([counts.sum() for counts in draws]))
    touched = float(np.mean([(counts > 0).sum() for counts in draws]))
    tile = tile_rows(rows / max(touched, 1e-9))
    padded = float(np.mean([(np.ceil(counts / tile) * tile).sum() for counts in draws]))
    return Dealt(rows, touched, padded)


def _balanced(tokens: int, experts: int, top_k: int) -> Counts:
    stride = -(-experts // top_k)
    token, place = np.arange(tokens)[:, None], np.arange(top_k)[None]
    first = token if tokens >= stride else (token * stride / tokens).astype(np.int64)
    return np.bincount(((first + place * stride) % experts).ravel(), minlength=experts)


def _power_law(
    rng: np.random.Generator, tokens: int, experts: int, top_k: int, ranks: int, alpha: float
) -> Counts:
    low, high = (1.0, tokens * 0.8) if tokens * top_k > experts else (0.01, 2.0)
    power = 1.0 - alpha
    shares = ((high**power - low**power) * rng.random(experts) + low**power) ** (1.0 / power)
    counts = np.round(shares / shares.sum() * tokens * top_k).astype(np.int64)
    missing = tokens * top_k - int(counts.sum())
    order = np.argsort(-counts)
    for i in range(abs(missing)):
        if missing > 0:
            counts[order[i % experts]] += 1
        else:
            last = order[::-1][i % experts]
            counts[last if counts[last] > 0 else int(np.argmax(counts))] -= 1
    groups = counts.reshape(ranks, experts // ranks).copy()
    busiest = int(groups.sum(axis=1).argmax())
    groups[[0, busiest]] = groups[[busiest, 0]]
    counts = groups.ravel()
    order = np.argsort(-counts, kind="stable")
    chosen = np.zeros((tokens, experts), dtype=np.bool_)
    chosen[np.arange(tokens)[:, None], np.repeat(order, counts[order]).reshape(top_k, tokens).T] = True
    short = top_k - chosen.sum(axis=1)
    for token in np.nonzero(short)[0]:
        free = np.nonzero(~chosen[token])[0]
        chosen[token, free[: short[token]]] = True
    result: Counts = chosen.sum(axis=0)
    return result
