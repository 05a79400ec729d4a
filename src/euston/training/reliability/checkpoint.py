"""What a checkpoint costs: bytes, the stall, the time until it is safe, the time to load it, how often."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from euston.errors import ConfigError
from euston.training.reliability.closed_form import daly, young

__all__ = ["BYTES_PER_PARAMETER", "Checkpoint", "CheckpointCost"]

BYTES_PER_PARAMETER = 14.0
"""2 of the 16-bit parameter, 12 of Adam's FP32 master copy and two moments; gradients are not saved."""


@dataclass(frozen=True)
class Checkpoint:
    """How a job saves its state.

    Attributes
    ----------
    mode : "sync" | "async" | "memory"
        The job waits for the file system; it waits for the copy to host memory, written out behind its back;
        it waits for the copy to a peer's memory, and writes every ``storage_every``-th one out.
    interval : float or "young" or "daly"
        Seconds of work between checkpoints.
    rank_bandwidth, file_system_bandwidth, copy_bandwidth, peer_bandwidth : float
        Bytes/s of one rank to storage, of all of them together, of one accelerator to its host's memory, of
        one rank to a peer's memory.
    stall, write, load : float, optional
        Seconds, in place of what sizes and bandwidths say.
    """

    mode: Literal["sync", "async", "memory"] = "async"
    interval: float | Literal["young", "daly"] = "daly"
    bytes_per_parameter: float = BYTES_PER_PARAMETER
    rank_bandwidth: float = 2e9
    file_system_bandwidth: float = 1e12
    copy_bandwidth: float = 25e9
    peer_bandwidth: float = 25e9
    storage_every: int = 10
    stall: float | None = None
    write: float | None = None
    load: float | None = None

    def cost(self, parameters: float, ranks: int) -> CheckpointCost:
        """Seconds and bytes for a model on so many ranks, each of which writes its share once."""
        size = parameters * self.bytes_per_parameter
        storage = max(size / (ranks * self.rank_bandwidth), size / self.file_system_bandwidth)
        copy = size / ranks / self.copy_bandwidth
        if self.mode == "sync":
            stall, write = storage, 0.0
        elif self.mode == "async":
            stall, write = copy, storage
        else:
            stall, write = max(copy, size / ranks / self.peer_bandwidth), storage
        return CheckpointCost(
            size,
            stall if self.stall is None else self.stall,
            write if self.write is None else self.write,
            storage if self.load is None else self.load,
            max(copy, size / ranks / self.peer_bandwidth) if self.mode == "memory" else None,
        )

    def seconds_between(self, cost: CheckpointCost, rate: float) -> float:
        """The interval in seconds of work, for ``rate`` failures per second.

        Raises
        ------
        ConfigError
            For an interval that is not positive, or `young` and `daly` where there is no stall or no failure.
        """
        if isinstance(self.interval, str):
            if cost.stall <= 0 or rate <= 0:
                raise ConfigError(
                    f"`checkpoint.interval`: {self.interval} needs a stall and failures; give seconds"
                )
            best = young(cost.stall, rate) if self.interval == "young" else daly(cost.stall, rate)
            return max(best, cost.stall)
        if not 0 < self.interval < math.inf:
            raise ConfigError(f"`checkpoint.interval`: {self.interval} must be above 0 seconds")
        return self.interval


@dataclass(frozen=True)
class CheckpointCost:
    """Bytes of a checkpoint; seconds of stall, until it is safe in storage, and to load it again.

    ``memory_load`` is how long it takes from a peer's memory, None where there is none.
    """

    bytes: float
    stall: float
    write: float
    load: float
    memory_load: float | None = None
