"""Which packets are lost: independently, in bursts, or as a trace says; for runtime and simulator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from euston.errors import ConfigError
from euston.registry import Registry

__all__ = ["LOSS", "GilbertElliott", "Iid", "LossModel", "LossProcess", "Trace"]


class LossProcess(Protocol):
    """The state of one flow's losses: successive calls go on where the last ended."""

    def lost(self, packets: int) -> NDArray[np.bool_]:
        """Which of the next packets are lost, bool[packets]."""


class LossModel(Protocol):
    """A frozen description of losses."""

    @property
    def rate(self) -> float:
        """Share of packets lost in the long run."""

    def start(self, seed: int) -> LossProcess:
        """A process of its own: the same seed gives the same losses."""


def _probability(name: str, value: float, *, open_below: bool = False) -> None:
    if not (0 <= value <= 1) or (open_below and value == 0):
        least = "above 0" if open_below else "from 0"
        raise ConfigError(f"`{name}`: {value} is no probability {least} to 1")


@dataclass(frozen=True)
class Iid:
    """Every packet is lost with the same probability."""

    loss: float = 0.01

    def __post_init__(self) -> None:
        _probability("loss", self.loss)

    @property
    def rate(self) -> float:
        """The probability."""
        return self.loss

    def start(self, seed: int) -> LossProcess:
        """See `LossModel.start`."""
        return _IidProcess(self.loss, np.random.Generator(np.random.Philox(seed)))


@dataclass
class _IidProcess:
    loss: float
    rng: np.random.Generator

    def lost(self, packets: int) -> NDArray[np.bool_]:
        return self.rng.random(packets) < self.loss


@dataclass(frozen=True)
class GilbertElliott:
    """A two-state Markov chain: losses come in bursts (Gilbert 1960, Elliott 1963).

    Parameters
    ----------
    worsen : float
        Probability per packet of going from the good to the bad state (p).
    recover : float
        Probability per packet of going back (r): bad spells last 1/r packets on average.
    good, bad : float
        Probability of loss in either state (1 - k and 1 - h in the literature).
    """

    worsen: float = 0.001
    recover: float = 0.1
    good: float = 0.0
    bad: float = 1.0

    def __post_init__(self) -> None:
        _probability("worsen", self.worsen, open_below=True)
        _probability("recover", self.recover, open_below=True)
        _probability("good", self.good)
        _probability("bad", self.bad)

    @classmethod
    def of(cls, loss: float, burst: float) -> GilbertElliott:
        """With a mean loss and a mean length of bursts in packets, all of a burst lost."""
        _probability("loss", loss, open_below=True)
        if loss == 1 or burst < 1 or loss / (1 - loss) / burst > 1:
            raise ConfigError(f"`burst`: bursts of {burst} packets cannot make a loss of {loss}")
        return cls(loss / (1 - loss) / burst, 1 / burst)

    @property
    def rate(self) -> float:
        """Stationary mix of the two states' losses."""
        bad = self.worsen / (self.worsen + self.recover)
        return bad * self.bad + (1 - bad) * self.good

    def start(self, seed: int) -> LossProcess:
        """See `LossModel.start`; the first state is drawn from the stationary mix."""
        spells, drops = (
            np.random.Generator(np.random.Philox(s)) for s in np.random.SeedSequence(seed).spawn(2)
        )
        return _GilbertProcess(
            self, spells, drops, bool(spells.random() < self.worsen / (self.worsen + self.recover))
        )


@dataclass
class _GilbertProcess:
    model: GilbertElliott
    spells: np.random.Generator
    drops: np.random.Generator
    bad: bool
    left: int = 0
    """Packets that the present spell still holds; 0: to be drawn."""

    def lost(self, packets: int) -> NDArray[np.bool_]:
        m, filled = self.model, 0
        state = np.empty(packets, bool)
        while filled < packets:
            if self.left == 0:
                self.left = int(self.spells.geometric(m.recover if self.bad else m.worsen))
            take = min(self.left, packets - filled)
            state[filled : filled + take] = self.bad
            filled, self.left = filled + take, self.left - take
            if self.left == 0:
                self.bad = not self.bad
        return self.drops.random(packets) < np.where(state, m.bad, m.good)


@dataclass(frozen=True)
class Trace:
    """Losses as recorded, over and over.

    Parameters
    ----------
    losses : tuple of bool
        Whether packet 0, 1, ... is lost. Each process starts at a packet drawn from its seed.
    """

    losses: tuple[bool, ...]

    def __post_init__(self) -> None:
        if not self.losses:
            raise ConfigError("`losses`: a trace needs one packet at least")

    @property
    def rate(self) -> float:
        """Share of lost packets in the trace."""
        return sum(self.losses) / len(self.losses)

    def start(self, seed: int) -> LossProcess:
        """See `LossModel.start`."""
        where = int(np.random.Generator(np.random.Philox(seed)).integers(len(self.losses)))
        return _TraceProcess(np.asarray(self.losses, bool), where)


@dataclass
class _TraceProcess:
    losses: NDArray[np.bool_]
    at: int

    def lost(self, packets: int) -> NDArray[np.bool_]:
        which = (self.at + np.arange(packets)) % self.losses.size
        self.at = (self.at + packets) % self.losses.size
        return self.losses[which]


_HERE = "euston.collectives.loss"

LOSS = Registry(
    "collectives.loss",
    {"iid": f"{_HERE}:Iid", "gilbert_elliott": f"{_HERE}:GilbertElliott", "trace": f"{_HERE}:Trace"},
    kind="loss model",
)
