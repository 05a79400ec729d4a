"""All plans of a job: which fit, how long a step of each takes, what it costs, and which nobody beats."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from euston.errors import ConfigError
from euston.training.job import TrainingJob
from euston.training.plan.book import Book
from euston.training.plan.space import Choices, Layout, layouts

__all__ = ["Plan", "Rejected", "Search", "pareto", "search"]


class Plan(NamedTuple):
    """A plan that fits: seconds, dollars and joules of a step, bytes of its fullest stage."""

    layout: Layout
    step_time: float
    cost: float
    energy: float
    memory: float
    bubble: float
    communication: float


class Rejected(NamedTuple):
    """A plan that cannot run, and why; ``memory`` where that is the reason."""

    layout: Layout
    reason: str
    memory: float


@dataclass
class Search:
    """What a search found.

    Attributes
    ----------
    plans : list of Plan
        Fastest first.
    rejected : list of Rejected
    front : list of int
        Plans that no other beats in time, cost and energy at once.
    finished : bool
        False after an interruption; then it is what was found until then.
    """

    plans: list[Plan] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    front: list[int] = field(default_factory=list)
    finished: bool = True

    @property
    def looked_at(self) -> int:
        """Plans looked at."""
        return len(self.plans) + len(self.rejected)


GIB = float(2**30)
EVERY = 500
"""Plans between two words to the user."""


def search(
    job: TrainingJob,
    book: Book,
    choices: Choices,
    *,
    price: float = 0.0,
    host_power: float = 0.0,
    pue: float = 1.0,
    tell: Callable[[str], None] = lambda _: None,
) -> Search:
    """Look at every plan.

    Parameters
    ----------
    price : float
        Dollars per accelerator and second.
    host_power : float
        Watts of a host beside its accelerators, by accelerator.
    pue : float
        Facility power over IT power.

    Notes
    -----
    A keyboard interrupt ends the search and keeps what was found.
    """
    out = Search()
    world = book.accelerators
    try:
        for layout, reason in layouts(job, world, book.links.domain, choices):
            if reason:
                out.rejected.append(Rejected(layout, reason, 0.0))
            else:
                _look(layout, book, out, price * world, host_power * world, pue)
            if out.looked_at % EVERY == 0:
                tell(f"{out.looked_at} plans, {len(out.plans)} fit")
    except KeyboardInterrupt:
        out.finished = False
    out.plans.sort(key=lambda plan: (plan.step_time, plan.layout))
    out.front = pareto([(plan.step_time, plan.cost, plan.energy) for plan in out.plans])
    return out


def _look(layout: Layout, book: Book, out: Search, price: float, watts: float, pue: float) -> None:
    job = book.job(layout)
    try:
        job.check(book.accelerators)
    except ConfigError as error:
        out.rejected.append(Rejected(layout, str(error).replace("`jobs[0].", "`"), 0.0))
        return
    need = book.need(layout, job)
    if not need.ok:
        short = need.bytes - need.capacity
        reason = (
            f"memory: needs {need.bytes / GIB:.1f} of {need.capacity / GIB:.1f} GiB on stage {need.stage}, "
            f"{short / GIB:.1f} GiB too much"
        )
        out.rejected.append(Rejected(layout, reason, need.bytes))
        return
    found = book.estimate(layout)
    seconds = found.step_time
    joules = (book.joules(layout, found) + watts * seconds) * pue
    out.plans.append(
        Plan(
            layout, seconds, price * seconds, joules, need.bytes, found.bubble / seconds,
            (found.communication + found.data) / seconds,
        )
    )  # fmt: skip


def pareto(values: Sequence[Iterable[float]]) -> list[int]:
    """Rows that no other row beats: at most as large everywhere, and smaller somewhere. In order of columns.

    Parameters
    ----------
    values : (n, k) array-like
        Smaller is better.
    """
    table: NDArray[np.float64] = np.array([list(row) for row in values], np.float64)
    if table.size == 0:
        return []
    order = np.lexsort(table.T[::-1])
    front: list[int] = []
    kept = np.empty((0, table.shape[1]))
    for i in order:
        row = table[i]
        beaten = (kept <= row).all(1) & (kept < row).any(1)
        if not beaten.any():
            front.append(int(i))
            kept = np.vstack((kept, row))
    return front
