"""The error of a mean that was made of what arrived: expected, by the aggregation rule, from shares received.

Gradients of different workers are taken as independent and of one length: the worst case, as what is missing
cannot be guessed from the others. A code adds its own error, which is independent of everything.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from euston.collectives.aggregation import AggregationRule

__all__ = ["expected_nmse"]

PACKETS = 64
"""Packets of a shard that are drawn."""


def expected_nmse(
    rule: AggregationRule,
    received: NDArray[np.float64],
    inclusion: NDArray[np.float64],
    *,
    vnmse: float = 0.0,
    seed: int = 0,
) -> float:
    """E||mean made - mean||^2 / E||x||^2 at a receiver, over shards, receivers and packets.

    Parameters
    ----------
    rule : AggregationRule
    received : float64[2, n, n]
        Share of packets that came, ``[stage, receiver, sender]``, 1 on the diagonal (less for a rank that
        took no part). Packets of different senders are taken as lost independently.
    inclusion : float64[n]
        Probability of each sender's packets, for rules that weigh by it.
    vnmse : float
        Of the code, without loss; 0 for none.

    Notes
    -----
    A result that never comes leaves a receiver with its own vector: an error of (n - 1) / n.
    """
    n = received.shape[1]
    rng = np.random.Generator(np.random.Philox(seed))
    came = rng.random((n, PACKETS, n)) < received[0][:, None, :]  # owner, packet, sender
    count = came.sum(axis=2)
    scale = rule.scale(inclusion)
    divisor = rule.divisor(np.maximum(count, 1).ravel(), n).reshape(count.shape)
    weight = came * scale / divisor[..., None]
    off = weight - 1.0 / n
    missing = n - count
    if rule.fill == "own":  # the owner's vector stands in for each that is missing
        own = np.arange(n)
        off[own, :, own] += (missing / divisor)[own]
    error = (off**2).sum(axis=2)
    if rule.fill == "previous":  # gradients of the step before: independent of these
        error += missing / divisor**2
    # a rank's own part is not coded
    coded = weight * (1 - np.eye(n)[:, None, :])
    error += vnmse * (coded**2).sum(axis=2)
    length = ((weight**2).sum(axis=2) + missing / divisor**2 * (rule.fill != "nothing")).mean(axis=1)
    result = error.mean(axis=1) + vnmse * length  # the result is coded once more
    share = received[1]  # receiver, owner
    at = share * result + (1 - share) * (n - 1) / n
    np.fill_diagonal(at, error.mean(axis=1))
    return float(at.mean())
