"""DiLoCo's outer optimiser as a Flower strategy, for people who have their own Flower app. Imports flwr."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from numpy.typing import NDArray

from euston.federated.config import OuterConfig
from euston.federated.outer import Outer

__all__ = ["NesterovOuter"]


class NesterovOuter(FedAvg):
    """FedAvg whose mean is a pseudo-gradient for Nesterov momentum, as ``torch.optim.SGD(nesterov=True)``
    takes it.

    Flower's own FedAvgM is heavy-ball momentum only. Clients reply with their parameters, as for FedAvg.

    Parameters
    ----------
    lr, momentum : float
        DiLoCo: 0.7 and 0.9 (Douillard et al. 2023, arXiv 2311.08105).
    kwargs
        As for Flower's FedAvg.
    """

    def __init__(self, lr: float = 0.7, momentum: float = 0.9, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._config = OuterConfig("nesterov", lr, momentum)
        self._outer: Outer | None = None
        self._arrays: dict[str, NDArray[np.float32]] = {}

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Remember what is sent, then as FedAvg."""
        self._arrays = {name: np.asarray(array.numpy(), np.float32) for name, array in arrays.items()}
        messages: Iterable[Message] = super().configure_train(server_round, arrays, config, grid)
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Mean of the replies, then the outer step."""
        mean, metrics = super().aggregate_train(server_round, replies)
        if mean is None:
            return mean, metrics
        names = list(self._arrays)
        theta = np.concatenate([self._arrays[name].ravel() for name in names])
        average = np.concatenate([mean[name].numpy().astype(np.float64).ravel() for name in names])
        if self._outer is None:
            self._outer = Outer(self._config, theta.size)
        self._outer.step(theta, average, [slice(0, theta.size)])
        moved, start = {}, 0
        for name in names:
            shape = self._arrays[name].shape
            size = int(np.prod(shape, dtype=np.int64))
            moved[name] = Array(theta[start : start + size].reshape(shape))
            start += size
        return ArrayRecord(moved), metrics
