"""What happens after a failure: detection, the queue, the restart, spare hosts, shrinking."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from euston.errors import ConfigError

__all__ = ["Fleet", "Recovery"]


@dataclass(frozen=True)
class Recovery:
    """How a job comes back.

    Attributes
    ----------
    detection : float
        Seconds from a crash until it is noticed and understood.
    queue : float
        Seconds in the scheduler's queue, per restart.
    reschedule, warm_up : float
        Seconds to place the job again, and from the loaded checkpoint to the usual speed.
    spares : int
        Hosts that wait beside the job.
    elastic : "none" | "batch" | "keep"
        Without a host to take a lost one's place: wait for repair; go on with fewer replicas and a smaller
        batch; go on with fewer replicas and the same batch.
    fails_during_restart : bool
        Whether failures strike while the job is down (it starts over then), or only while it runs.
    """

    detection: float = 600.0
    queue: float = 0.0
    reschedule: float = 60.0
    warm_up: float = 120.0
    spares: int = 0
    elastic: Literal["none", "batch", "keep"] = "none"
    fails_during_restart: bool = True

    def restart(self, load: float) -> float:
        """Seconds from a crash until the job works again, with ``load`` seconds to load the checkpoint."""
        return self.detection + self.queue + self.reschedule + load + self.warm_up


class Fleet:
    """Hosts of a job: how many serve, stand by, are in repair.

    Raises
    ------
    ConfigError
        For a negative number of spares.
    """

    def __init__(self, needed: int, spares: int) -> None:
        if spares < 0:
            raise ConfigError(f"`spares`: {spares} is negative")
        self.total = needed + spares
        self.broken = 0

    @property
    def usable(self) -> int:
        """Hosts not in repair."""
        return self.total - self.broken

    def fail(self, hosts: int) -> None:
        """So many hosts go to repair."""
        self.broken = min(self.total, self.broken + hosts)

    def repaired(self, hosts: int) -> None:
        """So many come back."""
        self.broken = max(0, self.broken - hosts)
