"""Outer optimisers: what the aggregator does with the mean of its sites' models. Plain NumPy on slices of
one vector.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from euston.federated.config import OuterConfig

__all__ = ["Outer"]

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]


class Outer:
    """FedAvg, FedAvgM (heavy ball), Nesterov as ``torch.optim.SGD(nesterov=True)`` takes it, FedAdam.

    With the pseudo-gradient ``g = theta - mean``: fedavg ``theta - lr g``; heavyball ``m = mu m + g``,
    ``theta - lr m``; nesterov ``m = mu m + g``, ``theta - lr (g + mu m)`` (DiLoCo, Douillard et al. 2023,
    arXiv 2311.08105); adam as Flower's FedAdam: Reddi et al. 2021, with Kingma & Ba's bias correction
    counted from 2.

    Attributes
    ----------
    momentum, second : float32[parameters]
        State; each fragment has its own part.
    counts : int64[fragments]
        Steps each fragment has made.
    """

    def __init__(self, config: OuterConfig, size: int, fragments: int = 1) -> None:
        self.config = config
        self.momentum = np.zeros(size if config.kind != "fedavg" else 0, np.float32)
        self.second = np.zeros(size if config.kind == "adam" else 0, np.float32)
        self.counts = np.zeros(fragments, np.int64)

    def step(self, theta: Floats, mean: Doubles, slices: Sequence[slice], fragment: int = 0) -> None:
        """Move the fragment's part of `theta` in place, given the mean model (float64, whole vector)."""
        self.counts[fragment] += 1
        for s in slices:
            theta[s] = self._moved(theta[s].astype(np.float64), mean[s], s, int(self.counts[fragment]))

    def _moved(self, theta: Doubles, mean: Doubles, s: slice, count: int) -> Doubles:
        c = self.config
        if c.kind == "fedavg":  # written so that lr 1 gives the mean itself, to the last bit
            return (1.0 - c.lr) * theta + c.lr * mean
        g = theta - mean
        if c.kind == "adam":
            m = c.momentum * self.momentum[s] - (1.0 - c.momentum) * g
            v = c.beta2 * self.second[s] + (1.0 - c.beta2) * g * g
            self.momentum[s], self.second[s] = m, v
            scale = np.sqrt(1.0 - c.beta2 ** (count + 1.0)) / (1.0 - c.momentum ** (count + 1.0))
            return theta + c.lr * scale * m / (np.sqrt(v) + c.tau)
        m = c.momentum * self.momentum[s] + g
        self.momentum[s] = m
        return theta - c.lr * (g + c.momentum * m if c.kind == "nesterov" else m)
