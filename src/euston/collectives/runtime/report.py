"""What one exchange was like at a rank."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["ReduceReport"]


@dataclass(frozen=True, eq=False)
class ReduceReport:
    """What one exchange was like at this rank.

    Attributes
    ----------
    seq : int
    seconds : float
    stages : (float, float)
        Seconds of both stages.
    received : float64[2, ranks]
        Share of each rank's packets that came, by stage; 1 where none were due.
    contributors : float
        Mean number of ranks in a packet of our shard.
    bytes : int
        Payload sent.
    lost_results : int
        Packets of results that never came: our own values stand there.
    dropped : int
        Datagrams that the kernel dropped, as it has told since the group was made.
    injected : int
        Packets dropped by injected losses in this exchange.
    duplicates, late, bad : int
        Packets ignored: seen before, of a closed stage or an exchange that is over, malformed or forged.
    resent : int
        Packets sent again because somebody asked.
    absent : tuple of int
        Ranks that were not waited for.
    skipped : bool
        Some rank had NaN or Inf: nobody uses this exchange, the vector is to be thrown away.
    behind : int
        Exchanges by which the others are ahead; then nothing was exchanged.
    t_b, t_c : float
        The bounds after it; t_b nan while it is being measured.
    """

    seq: int
    seconds: float
    stages: tuple[float, float]
    received: NDArray[np.float64]
    contributors: float
    bytes: int
    lost_results: int
    dropped: int
    injected: int
    duplicates: int
    late: int
    bad: int
    resent: int
    absent: tuple[int, ...]
    skipped: bool
    behind: int
    t_b: float
    t_c: float

    @property
    def loss(self) -> float:
        """Share of all packets due that did not come."""
        return 1.0 - float(self.received.mean())
