"""Rewards: each finished trajectory is looked at by one of so many verifiers, in order."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

from euston.errors import ConfigError

__all__ = ["Reward"]


@dataclass
class Reward:
    """Verifiers.

    Attributes
    ----------
    seconds : float
        Of one trajectory.
    workers : int
        Verifiers; 0: as many as there are trajectories.
    """

    seconds: float = 0.0
    workers: int = 0
    _free: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not 0 <= self.seconds < float("inf") or self.workers < 0:
            raise ConfigError("a reward takes seconds >= 0 and has workers >= 0")
        self._free = [0.0] * self.workers

    def take(self, ended: float) -> float:
        """When the reward of a trajectory that ended then is there; calls come in order of ``ended``."""
        if not self.workers:
            return ended + self.seconds
        begin = max(ended, heapq.heappop(self._free))
        heapq.heappush(self._free, begin + self.seconds)
        return begin + self.seconds

    def copy(self) -> Reward:
        """The same verifiers at the same moment."""
        other = Reward(self.seconds, self.workers)
        other._free = list(self._free)
        return other
