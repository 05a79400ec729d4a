"""What a campaign leaves behind: intervals of time, events, and where the seconds went."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Event", "Interval", "KINDS", "Outcome"]

KINDS = (
    "productive", "degraded", "checkpoint", "flap", "lost", "detection", "waiting", "queue", "restart",
)  # fmt: skip
"""Where time goes: steps kept, what a degraded cluster adds to them, checkpoints, steps held up by flaps,
steps thrown away, failures not yet understood, no host to restart on, the scheduler's queue, the restart."""


@dataclass
class Interval:
    """From ``start`` to ``end`` seconds the job did one kind of thing; ``state`` numbers the cluster's."""

    start: float
    end: float
    kind: str
    state: int


@dataclass
class Event:
    """One failure and what it cost."""

    time: float
    component: str
    host: int
    effect: str
    action: str
    lost_seconds: float = 0.0
    lost_tokens: float = 0.0
    down_seconds: float = 0.0


@dataclass
class Outcome:
    """One finished campaign.

    Attributes
    ----------
    wall, exposure : float
        Seconds in all, and those in which failures could strike.
    tokens, steps : float
        Kept.
    seconds : dict of str to float
        By kind, see `KINDS`; they sum to ``wall``.
    step_energy, stepping : float
        Joules and seconds of all steps, kept or not.
    interruptions : int
        Events after which the job restarted.
    curve : list of (seconds, tokens kept)
    """

    wall: float = 0.0
    exposure: float = 0.0
    tokens: float = 0.0
    steps: float = 0.0
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(KINDS, 0.0))
    step_energy: float = 0.0
    stepping: float = 0.0
    interruptions: int = 0
    finished: bool = False
    states: list[tuple[int, int, float, float]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    intervals: list[Interval] = field(default_factory=list)
    curve: list[tuple[float, float]] = field(default_factory=list)

    @property
    def ettr(self) -> float:
        """Productive share of the wall-clock time, in [0, 1]."""
        return min(1.0, self.seconds["productive"] / self.wall) if self.wall > 0 else 0.0

    def spend(self, start: float, seconds: float, kind: str, state: int) -> None:
        """Add an interval, joined to the one before where it goes on."""
        last = self.intervals[-1] if self.intervals else None
        if last is not None and (last.kind, last.state) == (kind, state):
            last.end = start + seconds
        else:
            self.intervals.append(Interval(start, start + seconds, kind, state))

    def lose(self, seconds: float) -> None:
        """Call the last ``seconds`` of running lost."""
        index, left = len(self.intervals) - 1, seconds
        while index >= 0 and left > 1e-9:
            found = self.intervals[index]
            if found.kind in ("productive", "degraded"):
                length = found.end - found.start
                if length <= left + 1e-9:
                    found.kind = "lost"
                else:
                    cut = found.end - left
                    self.intervals.insert(index + 1, Interval(cut, found.end, "lost", found.state))
                    found.end = cut
                left -= length
            index -= 1
