"""Schedules whose backward passes are split, or that run through the pipeline both ways at once.

A backward pass is two things: the gradient of the input, which the stage before waits for, and the gradient
of the weights, for which nobody waits until the step. Split schedules run them as passes of their own:

- ``zb-h1``: as 1F1B, with stage r's weight gradients r micro-batches late; activations of at most p
  micro-batches are held (Qi et al., arXiv:2401.10241, figure 3).
- ``zb-h2``: twice the forwards ahead, weight gradients 2r late; at most 2p - 1 are held. Without a
  synchronisation of all stages before the optimiser no bubble is left where F = B = W (the same paper).
- ``dualpipe``: micro-batches enter at both ends; a rank holds stages r (chunk 0) and p - 1 - r (chunk 1).
  Most forwards run together with a backward of the other direction, so that the transfers of one hide
  behind the compute of the other (DeepSeek-V3, arXiv:2412.19437, section 3.2.1; the authors' DualPipe code).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "BACKWARD",
    "FORWARD",
    "INPUT_GRADIENT",
    "SPLIT",
    "WEIGHT_GRADIENT",
    "StageOrder",
    "split_in_flight",
    "split_order",
]

SPLIT = ("zb-h1", "zb-h2", "dualpipe")

FORWARD, BACKWARD, INPUT_GRADIENT, WEIGHT_GRADIENT = range(4)
"""Kinds of passes; a BACKWARD is both gradients at once."""


class StageOrder(NamedTuple):
    """The passes of one stage in the order it runs them.

    Attributes
    ----------
    kind : uint8[N]
        FORWARD, BACKWARD (both gradients), INPUT_GRADIENT or WEIGHT_GRADIENT.
    chunk : int32[N]
        Which of the stage's chunks; chunk c of stage r is virtual stage ``c * pipeline + r`` of the model
        (DualPipe: chunk 1 is the model's stage ``pipeline - 1 - r``).
    micro_batch : int32[N]
        Micro-batch number, 0-based. DualPipe: the second half of them enters at the last stage.
    paired : bool[N]
        The pass runs together with the one behind it.
    """

    kind: NDArray[np.uint8]
    chunk: NDArray[np.int32]
    micro_batch: NDArray[np.int32]
    paired: NDArray[np.bool_]

    @property
    def is_backward(self) -> NDArray[np.bool_]:
        """False for a forward pass, bool[N]."""
        return np.asarray(self.kind != FORWARD, np.bool_)

    @property
    def held(self) -> NDArray[np.float64]:
        """What a pass adds to the micro-batches held: 1 forward, -1 when its weight gradient is done."""
        ends = (self.kind == BACKWARD) | (self.kind == WEIGHT_GRADIENT)
        return np.where(self.kind == FORWARD, 1.0, np.where(ends, -1.0, 0.0))


def split_in_flight(schedule: str, pipeline: int, micro_batches: int, stage: int) -> int:
    """Bound on the (chunk, micro-batch) pairs whose activations a stage holds at once."""
    if schedule == "zb-h1":
        return min(micro_batches, pipeline)
    if schedule == "zb-h2":
        return min(micro_batches, 2 * pipeline - 1)
    return pipeline + 1


def split_order(schedule: str, pipeline: int, micro_batches: int, stage: int) -> StageOrder:
    """The order of one stage (0-based) of a split schedule."""
    if schedule == "dualpipe":
        return _dualpipe(pipeline, micro_batches, stage)
    times = 1 if schedule == "zb-h1" else 2
    return _zero_bubble(micro_batches, times * (pipeline - stage - 1), times * stage)


def _order(passes: list[tuple[int, int, int, bool]]) -> StageOrder:
    """Columns of (kind, chunk, micro-batch, paired)."""
    kind, chunk, micro_batch, paired = zip(*passes, strict=True)
    return StageOrder(
        np.array(kind, np.uint8),
        np.array(chunk, np.int32),
        np.array(micro_batch, np.int32),
        np.array(paired, np.bool_),
    )


def _zero_bubble(micro_batches: int, ahead: int, late: int) -> StageOrder:
    """``ahead`` forwards before the first backward, weight gradients ``late`` micro-batches behind."""
    m = micro_batches
    ahead = min(ahead, m)
    passes = [(FORWARD, 0, i, False) for i in range(ahead)]
    for i in range(m):
        if ahead + i < m:
            passes.append((FORWARD, 0, ahead + i, False))
        passes.append((INPUT_GRADIENT, 0, i, False))
        if i >= late:
            passes.append((WEIGHT_GRADIENT, 0, i - late, False))
    passes += [(WEIGHT_GRADIENT, 0, i, False) for i in range(max(m - late, 0), m)]
    return _order(passes)


class _BothWays:
    """Writes one rank's DualPipe: ``near`` is the direction whose first stages are on this rank's side."""

    def __init__(self, pipeline: int, micro_batches: int, rank: int) -> None:
        self.mirrored = rank >= pipeline // 2
        self.half = micro_batches // 2
        self.passes: list[tuple[int, int, int, bool]] = []
        self.done = {(kind, chunk): 0 for kind in (FORWARD, BACKWARD) for chunk in (0, 1)}
        self.late: list[tuple[int, int]] = []  # weight gradients that are still to be computed

    def _next(self, kind: int, far: bool) -> tuple[int, int]:
        """(chunk, micro-batch) of the next pass of that kind in that direction."""
        chunk = int(far != self.mirrored)
        number = self.done[kind, chunk]
        self.done[kind, chunk] += 1
        return chunk, number + chunk * self.half

    def forward(self, far: bool = False, *, paired: bool = False) -> None:
        chunk, number = self._next(FORWARD, far)
        self.passes.append((FORWARD, chunk, number, paired))

    def backward(self, far: bool = False, *, split: bool = False) -> None:
        chunk, number = self._next(BACKWARD, far)
        self.passes.append((INPUT_GRADIENT if split else BACKWARD, chunk, number, False))
        if split:
            self.late.append((chunk, number))

    def weights(self) -> None:
        chunk, number = self.late.pop(0)
        self.passes.append((WEIGHT_GRADIENT, chunk, number, False))

    def both(self, far: bool) -> None:
        """A forward of one direction with a backward of the other."""
        self.forward(far, paired=True)
        self.backward(not far)


def _dualpipe(pipeline: int, micro_batches: int, rank: int) -> StageOrder:
    """The eight steps of the authors' schedule for one rank."""
    out = _BothWays(pipeline, micro_batches, rank)
    depth = min(rank, pipeline - 1 - rank)  # ranks between this one and its end of the pipeline
    inner = pipeline // 2 - depth - 1  # and the middle
    middle = inner == 0
    for _ in range(2 * inner):
        out.forward()
    for _ in range(depth + 1):
        out.forward()
        out.forward(True)
    for _ in range(inner):
        out.backward(True, split=True)
        out.weights()
        out.forward(True)
    for i in range(micro_batches // 2 - pipeline + depth + 1):
        if i == 0 and middle:  # the backward waits for a forward of the same moment: they cannot overlap
            out.forward()
            out.backward(True)
        else:
            out.both(False)
        out.both(True)
    for _ in range(inner):
        out.backward(True)
        out.both(True)
    split = False
    for i in range(depth + 1):
        split = split or (i == (depth + 1) // 2 and depth % 2 == 1)
        out.backward(True, split=split)
        split = split or (i == (depth + 1) // 2 and depth % 2 == 0)
        out.backward(split=split)
    for _ in range(inner):
        out.weights()
        out.backward(split=True)
    while out.late:
        out.weights()
    return _order(out.passes)
