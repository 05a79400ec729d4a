"""What a serving engine adds to its kernels: host time per step, CUDA-graph sizes, kinds of collectives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from euston import catalog
from euston.devices.interconnect import Implementation

__all__ = ["EngineSoftware", "engine_software"]


@dataclass(frozen=True)
class EngineSoftware:
    """An inference engine's own costs and habits.

    Attributes
    ----------
    name : str
    cpu_fixed, cpu_sequence, cpu_token : float
        Host seconds per step, per sequence in it and per token of it. See `asynchronous`.
    asynchronous : bool
        Whether they hide behind the accelerator's (the longer counts) or add to them.
    graph_tokens : int
        Largest step replayed from a CUDA graph; sizes below are padded (see `padded`), larger ones launch
        kernel by kernel. 0: no graphs.
    launch : float
        Host seconds per kernel of a step that is not replayed.
    all_reduce : str
        Implementation inside a scale-up domain of switches (`euston.devices.interconnect`).
    """

    name: str = "none"
    cpu_fixed: float = 0.0
    cpu_sequence: float = 0.0
    cpu_token: float = 0.0
    asynchronous: bool = False
    graph_tokens: int = 512
    launch: float = 6e-6
    all_reduce: Implementation = "custom-graph"

    def padded(self, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """Tokens that a step of so many computes: the next captured size, 1, 2, 4, then in 8s, then in 16s.

        vLLM's default list of capture sizes (vllm/config/vllm.py, ``cudagraph_capture_sizes``).
        """
        t = np.asarray(tokens, np.int64)
        eights, sixteens = -(-t // 8) * 8, -(-t // 16) * 16
        small = np.where(t <= 2, t, np.where(t <= 4, 4, np.where(t <= 256, eights, sixteens)))
        return np.where(t <= self.graph_tokens, np.minimum(small, max(self.graph_tokens, 1)), t)

    def bare(self) -> EngineSoftware:
        """The same without host time."""
        from dataclasses import replace

        return replace(self, cpu_fixed=0.0, cpu_sequence=0.0, cpu_token=0.0)


def engine_software(name: str) -> EngineSoftware:
    """An engine of the catalogue (``euston catalog list engines``), or ``"none"``: no host time.

    Raises
    ------
    CatalogError
        For an unknown name; the nearest is offered.
    """
    if name == "none":
        return EngineSoftware()
    found = catalog.entry("engines", name)
    v = found.values
    return EngineSoftware(
        name=found.name,
        cpu_fixed=v.get("cpu_fixed", 0.0),
        cpu_sequence=v.get("cpu_sequence", 0.0),
        cpu_token=v.get("cpu_token", 0.0),
        asynchronous=v.get("asynchronous", False),
        graph_tokens=v.get("graph_tokens", 512),
        launch=v.get("launch", 6e-6),
        all_reduce=cast(Implementation, v.get("all_reduce", "nccl")),
    )
