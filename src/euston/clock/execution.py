"""What came out of an execution: when operations ran, what held them up, and what crossed the network."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from euston.clock.program import Program

__all__ = ["Execution"]


@dataclass(frozen=True)
class Execution:
    """What happened.

    Attributes
    ----------
    start, end : float64[N]
        Seconds at which each operation started and ended.
    blocker : int32[N]
        The dependency (or stream predecessor) that ended last before the operation could start, -1 for none.
    row_bytes : float64[rows]
        Bytes carried by each row.
    column_bytes : float64[C]
        Bytes that one member of each column's flows carried.
    makespan : float
        Seconds until the last operation ended.
    events, solves, repaired, full, unsettled : int
        Events handled, max-min repairs, flows whose rate they touched in all, repairs that had to solve a
        whole connected part, and solves of queues whose shares did not settle.
    """

    program: Program
    start: NDArray[np.float64]
    end: NDArray[np.float64]
    blocker: NDArray[np.int32]
    row_bytes: NDArray[np.float64]
    column_bytes: NDArray[np.float64]
    makespan: float
    events: int
    solves: int
    repaired: int
    full: int
    unsettled: int

    def __repr__(self) -> str:
        return (
            f"Execution({len(self.program):,} operations in {self.makespan:.6g} s; "
            f"{self.events:,} events, {self.solves:,} solves)"
        )
