"""DRIVE: one bit per coordinate, the sign after a rotation.

Vargaftik, Ben Basat, Portnoy, Mendelson, Ben-Itzhak & Mitzenmacher, "DRIVE: One-bit Distributed Mean
Estimation", NeurIPS 2021. It is EDEN at one bit: vNMSE pi/2 - 1 unbiased (scale ||y||_2^2 / ||y||_1), 1 -
2/pi with the scale of the least error.
"""

from __future__ import annotations

from dataclasses import dataclass

from euston.compression.eden import Eden
from euston.errors import ConfigError

__all__ = ["Drive"]


@dataclass(frozen=True)
class Drive(Eden):
    """DRIVE. Parameters as for `Eden`, the bits excepted."""

    bits: float = 1
    name: str = "drive"

    def __post_init__(self) -> None:
        if self.bits != 1:
            raise ConfigError(
                f"`drive.bits`: {self.bits}; DRIVE sends signs, one bit each (EDEN sends more or less)"
            )
        super().__post_init__()
