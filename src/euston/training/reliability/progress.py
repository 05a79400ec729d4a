"""How far a job has come: steps done, checkpoints taken, what a rollback throws away; all in closed form.

Between two events nothing changes, so any number of steps and checkpoints is one piece of arithmetic.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

__all__ = ["Lost", "Progress"]


@dataclass
class _Piece:
    """Steps in a row that took the same time and gave the same tokens."""

    steps: float
    seconds: float
    tokens: float


@dataclass(frozen=True)
class Lost:
    """What a rollback threw away."""

    steps: float
    seconds: float
    tokens: float


class _Saved:
    """Checkpoints at multiples of ``every`` steps, each safe ``write`` seconds after it was taken."""

    def __init__(self, every: int, write: float) -> None:
        self.every, self.write = every, write
        self.recent: deque[tuple[float, int]] = deque(maxlen=3)

    def take(self, now: float, step: int) -> None:
        if step % self.every == 0:
            self.recent.append((now, step))

    def newest(self, now: float, limit: float) -> int:
        """The last step that is safe by ``now`` and not beyond ``limit``."""
        for taken, step in reversed(self.recent):
            if step <= limit and taken + self.write <= now + 1e-9:
                return step
        if self.recent:
            limit = min(limit, self.recent[0][1] - self.every)
        return max(0, math.floor(limit / self.every) * self.every)

    def forget(self, beyond: int) -> None:
        self.recent = deque([s for s in self.recent if s[1] <= beyond], maxlen=3)


class Progress:
    """Position of a job in steps.

    Parameters
    ----------
    every : int
        Steps between checkpoints.
    stall : float
        Seconds a checkpoint stops the job; it counts as taken at its end.
    write : float
        Seconds from there until it is safe in storage.
    storage_every : int
        Only every so many checkpoints go to storage; the others stay in memory, safe at once.
    """

    def __init__(self, every: int, stall: float, write: float, storage_every: int = 0) -> None:
        self.every, self.stall = every, stall
        self.base, self.part = 0, 0.0  # the last checkpoint's step, and steps since
        self.pending = 0.0  # seconds of stall still to come
        self.held = 0.0  # seconds a flap still holds the step up
        self.checkpoint_seconds = self.flap_seconds = 0.0
        self._pieces: list[_Piece] = []
        self._storage = _Saved(every * max(1, storage_every), write)
        self._memory = _Saved(every, 0.0) if storage_every else None

    @property
    def steps(self) -> float:
        """Steps done and kept."""
        return self.base + self.part

    @property
    def tokens(self) -> float:
        """Tokens of those."""
        return math.fsum(p.steps * p.tokens for p in self._pieces)

    @property
    def seconds(self) -> float:
        """Seconds that the kept steps took, without checkpoints."""
        return math.fsum(p.steps * p.seconds for p in self._pieces)

    def hold(self, seconds: float) -> None:
        """Hold the step under way up: a link is away and comes back."""
        self.held += seconds

    def time_for(self, steps: float, step_seconds: float) -> float:
        """Seconds until ``steps`` more steps are done, checkpoints on the way included."""
        crossed = math.ceil((self.part + steps) / self.every - 1e-9) - 1
        return self.held + self.pending + steps * step_seconds + max(0, crossed) * self.stall

    def run(self, now: float, seconds: float, step_seconds: float, tokens: float) -> None:
        """Go on from ``now`` for so many seconds."""
        left = seconds
        used = min(left, self.held)
        self.held -= used
        self.flap_seconds += used
        left -= used
        left = self._finish_stall(now + seconds - left, left)
        if left <= 0:
            return
        done = 0.0
        to_boundary = (self.every - self.part) * step_seconds
        if left >= to_boundary:
            done += self.every - self.part
            left -= to_boundary
            self._boundary(now + seconds - left)
            cycle = self.stall + self.every * step_seconds
            whole = int(left // cycle)
            if whole > 1:  # all but the last cycle in one go; the last ones leave their times behind
                skip = whole - 1
                begin = now + seconds - left
                self._skip(begin, skip, cycle)
                done += skip * self.every
                left -= skip * cycle
            while True:
                left = self._finish_stall(now + seconds - left, left)
                if left < self.every * step_seconds:
                    break
                done += self.every
                left -= self.every * step_seconds
                self._boundary(now + seconds - left)
        if self.pending <= 0 and left > 0:
            more = left / step_seconds
            self.part += more
            done += more
        self._add(done, step_seconds, tokens)

    def _finish_stall(self, now: float, left: float) -> float:
        if self.pending <= 0:
            return left
        used = min(left, self.pending)
        self.pending -= used
        self.checkpoint_seconds += used
        if self.pending <= 0:
            self._taken(now + used)
        return left - used

    def _boundary(self, now: float) -> None:
        self.base += self.every
        self.part = 0.0
        self.pending = self.stall
        if self.stall <= 0:
            self._taken(now)

    def _taken(self, now: float) -> None:
        self._storage.take(now, self.base)
        if self._memory is not None:
            self._memory.take(now, self.base)

    def _skip(self, begin: float, cycles: int, cycle: float) -> None:
        """So many cycles of stall and steps, from the start of a stall to the start of one."""
        start = self.base
        reach = 3 * self._storage.every // self.every
        for i in range(max(0, cycles - reach), cycles):
            self.base = start + i * self.every
            self._taken(begin + i * cycle + self.stall)
        self.base = start + cycles * self.every
        self.checkpoint_seconds += cycles * self.stall
        self.pending = self.stall
        if self.stall <= 0:
            self._taken(begin + cycles * cycle)

    def _add(self, steps: float, seconds: float, tokens: float) -> None:
        if steps <= 0:
            return
        last = self._pieces[-1] if self._pieces else None
        if last is not None and (last.seconds, last.tokens) == (seconds, tokens):
            last.steps += steps
        else:
            self._pieces.append(_Piece(steps, seconds, tokens))

    def safe(self, now: float, *, limit: float = math.inf, storage: bool = False) -> int:
        """The step a restart at ``now`` goes back to, not beyond ``limit``; ``storage``: memory is lost."""
        taken = self.base - (self.every if self.pending > 0 else 0)  # the one under way is no help yet
        limit = min(limit, float(taken))
        found = self._storage.newest(now, limit)
        if self._memory is not None and not storage:
            found = max(found, self._memory.newest(now, limit))
        return found

    def storage_only(self, limit: float) -> bool:
        """Whether memory holds no checkpoint as old as ``limit``: it keeps the newest three."""
        recent = self._memory.recent if self._memory is not None else None
        return recent is not None and not any(step <= limit for _, step in recent)

    def rollback(self, step: int) -> Lost:
        """Throw away everything after ``step``."""
        left = self.steps - step
        lost = [0.0, 0.0, 0.0]
        while left > 1e-12 and self._pieces:
            piece = self._pieces[-1]
            gone = min(left, piece.steps)
            piece.steps -= gone
            left -= gone
            for i, value in enumerate((1.0, piece.seconds, piece.tokens)):
                lost[i] += gone * value
            if piece.steps <= 1e-12:
                self._pieces.pop()
        self.base, self.part, self.pending, self.held = step, 0.0, 0.0, 0.0
        self._storage.forget(step)
        if self._memory is not None:
            self._memory.forget(step)
        return Lost(*lost)
