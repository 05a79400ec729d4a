"""Equal accelerators are not equally fast, and a synchronous step runs at the pace of the slowest.

Under a power limit each chip settles at its own clock. Five clusters of 2018-2022, over 90 % of their GPUs
measured: compute-bound run times spread by 8 % between the whiskers of the box plot (Sinha et al., SC'22,
arXiv:2208.11035). Whiskers of a normal distribution are 5.4 standard deviations apart, so one is 1.5 % of the
median; chips beyond the whiskers are outliers that an operator replaces.
"""

from __future__ import annotations

from statistics import NormalDist

__all__ = ["SPEED_SPREAD", "slowest"]

#: Standard deviation of the time of compute-bound kernels between equal accelerators, share of the median.
SPEED_SPREAD = 0.015
#: Range of what is plausible, for reports.
SPEED_SPREAD_RANGE = (0.005, 0.02)
#: Where the whiskers of a normal distribution's box plot end, in standard deviations.
WHISKER = 2.698


def slowest(accelerators: int, spread: float = SPEED_SPREAD) -> float:
    """Time of the slowest of so many accelerators over the median one's, 1 for a single one.

    The expected maximum of n normal values, by Blom's approximation, and never beyond the whisker.
    """
    if accelerators < 2 or spread == 0.0:
        return 1.0
    expected = NormalDist().inv_cdf((accelerators - 0.375) / (accelerators + 0.25))
    return 1.0 + spread * min(expected, WHISKER)
