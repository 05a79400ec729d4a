"""Who gets which text: windows of several sources dealt to clients, every window to exactly one.

iid, by source, Dirichlet over sources (Hsu et al. 2019, arXiv 1909.06335), partly own, or of skewed size; and
how different the clients' texts have become.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from euston.errors import ConfigError
from euston.federated.config import PartitionConfig
from euston.federated.stream import Windows

__all__ = ["heterogeneity", "partition"]

Numbers = NDArray[np.int64]


def partition(config: PartitionConfig, sources: Sequence[int], clients: int, seed: int = 0) -> list[Numbers]:
    """Deal windows to clients.

    Parameters
    ----------
    config : PartitionConfig
    sources : sequence of int
        Windows of each source; they are numbered through, source after source.
    clients, seed : int

    Returns
    -------
    list of int64[n_k]
        Ascending window numbers of each client; disjoint, and together all there are.

    Raises
    ------
    ConfigError
        Fewer windows than clients, or an lda draw that leaves a client without any (10 draws are tried).
    """
    total = int(sum(sources))
    if total < clients:
        raise ConfigError(
            f"`partition`: {total} windows for {clients} clients; use shorter sequences or more text"
        )
    random = np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, 0xDEA1))))
    starts = np.concatenate(([0], np.cumsum(sources)))
    by_source = [
        random.permutation(np.arange(starts[s], starts[s + 1], dtype=np.int64)) for s in range(len(sources))
    ]
    if config.kind == "lda":
        dealt = _lda(by_source, clients, config.alpha, random)
    elif config.kind == "by_source":
        dealt = _own(by_source, clients, 1.0, random)
    elif config.kind == "mixed":
        dealt = _own(by_source, clients, config.own, random)
    else:
        pool = random.permutation(np.concatenate(by_source))
        if config.kind == "iid":
            shares = np.ones(clients)
        else:
            shares = random.lognormal(0.0, config.sigma, clients)
        dealt = _split(pool, shares)
    empty = [k for k, windows in enumerate(dealt) if not windows.size]
    if empty:
        raise ConfigError(
            f"`partition`: {config.kind} leaves client {empty[0]} without text; use fewer clients, "
            "a larger alpha, shorter sequences or another seed"
        )
    return [np.sort(windows) for windows in dealt]


def _split(pool: Numbers, shares: NDArray[np.float64]) -> list[Numbers]:
    """Cut a pool in proportion; where there is enough, everybody with a share above 0 gets at least one."""
    cuts = np.round(np.cumsum(shares) / shares.sum() * pool.size).astype(np.int64)
    if pool.size >= shares.size and (shares > 0).all():
        for k in range(cuts.size):  # forwards: at least one each; backwards: leave one for each that follows
            cuts[k] = max(cuts[k], (cuts[k - 1] if k else 0) + 1)
        for k in range(cuts.size - 1, -1, -1):
            cuts[k] = min(cuts[k], pool.size - (cuts.size - 1 - k))
    return [np.asarray(part) for part in np.split(pool, cuts[:-1])]


def _lda(
    by_source: Sequence[Numbers], clients: int, alpha: float, random: np.random.Generator
) -> list[Numbers]:
    for _ in range(10):
        dealt: list[list[Numbers]] = [[] for _ in range(clients)]
        for windows in by_source:
            shares = random.dirichlet(np.full(clients, alpha))
            cuts = np.round(np.cumsum(shares) * windows.size).astype(np.int64)
            for k, part in enumerate(np.split(windows, cuts[:-1])):
                dealt[k].append(part)
        joined = [np.concatenate(parts) for parts in dealt]
        if all(part.size for part in joined):
            break
    return joined


def _own(
    by_source: Sequence[Numbers], clients: int, own: float, random: np.random.Generator
) -> list[Numbers]:
    """Client k owns source k mod S; several owners share it evenly, a client may own several. The rest is
    pooled.
    """
    count = len(by_source)
    dealt: list[list[Numbers]] = [[] for _ in range(clients)]
    rest = []
    for s, windows in enumerate(by_source):
        owners = [k for k in range(clients) if k % count == s] or [s % clients]
        kept = round(own * windows.size)
        for k, part in zip(owners, _split(windows[:kept], np.ones(len(owners))), strict=True):
            dealt[k].append(part)
        rest.append(windows[kept:])
    pool = random.permutation(np.concatenate(rest))
    for k, part in enumerate(_split(pool, np.ones(clients))):
        dealt[k].append(part)
    return [np.concatenate(parts) for parts in dealt]


def heterogeneity(windows: Windows, dealt: Sequence[Numbers], vocab: int) -> float:
    """How different the clients' texts are: mean Jensen-Shannon divergence of their unigrams, in bits.

    Each client against the mean of all, so 0 for equal texts and log2(clients) at most.
    """
    rows = []
    for own in dealt:
        count = np.zeros(vocab)
        for w in own:
            count += np.bincount(windows[int(w)], minlength=vocab)
        rows.append(count / count.sum())
    p = np.array(rows)
    mean = p.mean(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(p > 0, p * np.log2(p / mean), 0.0)
    return float(terms.sum(axis=1).mean())
