"""Bounded stages: how long a receiver waits, and when it stops early. Runtime and simulator share the object.

After OptiReduce (Warraich et al., NSDI 2025). A stage ends at the latest after ``t_B``: the 95th percentile
of stages that waited for everything. It ends earlier once every sender still missing has begun its last
packets and nothing has come for a share x of ``t_C``, the smoothed median over nodes of what a whole stage
takes; x grows while too much is lost and shrinks while nothing is. It also ends when every sender has begun
and nothing has come for all of t_C: last packets are lost like others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

import numpy as np

from euston.errors import ConfigError

__all__ = ["Bounded", "Timeouts"]


@dataclass(frozen=True)
class Bounded:
    """Settings of bounded stages.

    Parameters
    ----------
    t_b : float, optional
        Seconds after which a stage ends whatever is missing; measured over ``warm_up`` exchanges that wait
        for everything unless said.
    warm_up : int
        Exchanges that measure t_B.
    percentile : float
        Of their stage times, over all nodes.
    margin : float
        What that percentile is multiplied by.
    smoothing : float
        Weight of the past in t_C.
    early, most_early : float
        Share x of t_C that an idle receiver waits at first, and at most.
    floor : float
        Seconds that no early end comes before: threads that wait for a core are no loss.
    low, high : float
        Loss below which x shrinks by a hundredth, and above which it doubles.
    repair : "nack" | "none"
        Whether a receiver asks an owner once more for missing packets of a result.
    max_loss, patience : float, int
        An exchange that lost more than this share, so many times in a row, is an error.
    """

    t_b: float | None = None
    warm_up: int = 20
    percentile: float = 95.0
    margin: float = 1.0
    smoothing: float = 0.95
    early: float = 0.10
    most_early: float = 0.50
    floor: float = 0.005
    low: float = 1e-4
    high: float = 1e-3
    repair: str = "nack"
    max_loss: float = 0.5
    patience: int = 5

    def __post_init__(self) -> None:
        if self.t_b is not None and not self.t_b > 0:
            raise ConfigError(f"`t_b`: {self.t_b} s must be more than 0")
        if self.warm_up < 1:
            raise ConfigError(f"`warm_up`: {self.warm_up}; at least 1 exchange")
        if self.repair not in ("nack", "none"):
            raise ConfigError(f"`repair`: {self.repair!r}; nack or none")
        for name, low, high in (
            ("percentile", 0, 100), ("smoothing", 0, 1), ("early", 0, 1), ("most_early", self.early, 1),
            ("low", 0, 1), ("high", self.low, 1), ("max_loss", 0, 1),
        ):  # fmt: skip
            value = getattr(self, name)
            if not low <= value <= high:
                raise ConfigError(f"`{name}`: {value} must be from {low} to {high}")
        if not (self.margin > 0 and self.floor > 0) or self.patience < 1:
            raise ConfigError("`margin`, `floor`, `patience`: must be more than 0")


@dataclass
class Timeouts:
    """The state that goes with `Bounded`.

    Attributes
    ----------
    t_b : float or None
        None while it is being measured.
    t_c : float
        0 before the first stage; the median of the first ``warm_up`` stages, smoothed from then on.
    x : float
        Share of t_C.
    """

    settings: Bounded = field(default_factory=Bounded)
    t_b: float | None = None
    t_c: float = 0.0
    x: float = 0.0
    whole: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.t_b, self.x = self.settings.t_b, self.settings.early

    @property
    def idle(self) -> float:
        """Seconds without news after which a stage whose senders are all at their ends is over."""
        scale = self.t_c or self.t_b or math.inf  # t_B is the only time known before the first stage
        return max(self.x * scale, self.settings.floor)

    @property
    def silence(self) -> float:
        """Seconds without news after which a stage whose senders have all begun is over."""
        return max(self.t_c, self.settings.floor) if self.t_c else math.inf

    def estimate(self, elapsed: float, received: float) -> float:
        """What a whole stage would have taken: the time, or the time over the share that came."""
        return elapsed if received >= 1 else elapsed / max(received, 1e-3)

    def stage(self, elapsed: float, received: float, others: Sequence[float] = ()) -> None:
        """Note a stage: seconds, share of packets that came (a float, never a division of integers), and the
        estimates that other nodes told.
        """
        s = self.settings
        typical = median([self.estimate(elapsed, received), *others])
        if len(self.first) < s.warm_up:
            # the very first stages wait for threads, caches and lost packets: a mean would remember that
            self.first.append(typical)
            self.t_c = median(self.first)
        else:
            self.t_c = s.smoothing * self.t_c + (1 - s.smoothing) * typical
        loss = 1.0 - received
        if loss > s.high:
            self.x = min(2 * self.x, s.most_early)
        elif loss < s.low:
            self.x = max(self.x - 0.01, 0.01)

    def warm(self, elapsed: float) -> float | None:
        """Note a stage that waited for everything; this node's percentile once there are enough."""
        self.whole.append(elapsed)
        if len(self.whole) < 2 * self.settings.warm_up:
            return None
        return float(np.percentile(self.whole, self.settings.percentile)) * self.settings.margin
