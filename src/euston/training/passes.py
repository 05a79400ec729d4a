"""What one pass does, step by step: compute, what runs beside it, and what it then waits for."""

from __future__ import annotations

from typing import NamedTuple

from euston.training.communication import ChunkTraffic
from euston.training.costs import ChunkCost
from euston.training.job import TrainingJob
from euston.training.schedule_split import BACKWARD, FORWARD, INPUT_GRADIENT, WEIGHT_GRADIENT

__all__ = ["LABEL", "Step", "merged", "steps"]

LABEL = {
    FORWARD: "forward",
    BACKWARD: "backward",
    INPUT_GRADIENT: "backward",
    WEIGHT_GRADIENT: "weight gradient",
}

Uses = dict[str, float]
"""Uses of a collective by kind: tensor, context, expert."""


class Step(NamedTuple):
    """Compute of so many seconds by label, collectives beside it, and collectives behind both.

    The next step begins when all of them are done.
    """

    compute: tuple[tuple[str, float], ...]
    beside: Uses
    path: Uses


def steps(kind: int, cost: ChunkCost, traffic: ChunkTraffic, job: TrainingJob) -> list[Step]:
    """The steps of one pass of a chunk."""
    label = LABEL[kind]
    if kind == WEIGHT_GRADIENT:
        return [Step(((label, cost.weight_gradient),), {}, {})]
    if kind == FORWARD:
        seconds, attention, gemm = cost.forward, traffic.attention_forward, traffic.gemm_forward
        on_path, beside = cost.tensor_forward, 0.0
        context, expert = traffic.context_forward, traffic.expert_forward
    else:
        seconds, attention, gemm = cost.backward, traffic.attention_backward, traffic.gemm_backward
        on_path, beside = cost.tensor_backward, cost.tensor_hidden
        context, expert = traffic.context_backward, traffic.expert_backward
        if kind == INPUT_GRADIENT:
            seconds -= cost.weight_gradient
            gemm = max(0.0, gemm - cost.weight_gradient)
            # The input gradient's collective has no weight gradient to hide behind any more.
            if job.software.tensor_backward_overlap:
                moved = beside / 2.0 if job.parallel.sequence else beside
                on_path, beside = on_path + moved, beside - moved
    found = []
    if attention > 0.0 and context > 0.0:  # ring attention: each part's attention hides the next part's way
        attention = min(attention, seconds)
        found.append(Step(((label, attention),), {"context": context}, {}))
        seconds -= attention
        context = 0.0
    pieces = job.parallel.tensor
    if gemm > 0.0 and on_path > 0.0:
        # A product and its collective in t pieces: all but the first of one beside all but the last of the
        # other.
        hidden = (pieces - 1) / pieces
        gemm = min(gemm * hidden, seconds)
        found.append(Step(((label, gemm),), {"tensor": on_path * hidden}, {}))
        seconds -= gemm
        on_path -= on_path * hidden
    path = {"context": context, "tensor": on_path, "expert": expert}
    found.append(
        Step(
            ((label, seconds),),
            {"tensor": beside} if beside else {},
            {name: uses for name, uses in path.items() if uses > 0.0},
        )
    )
    return found


def merged(first: list[Step], second: list[Step]) -> list[Step]:
    """Two passes of different micro-batches at once: the all-to-alls of each run beside the other's compute.

    Tensor- and context-parallel collectives stay where they are, on the path of their own compute.
    """
    compute = tuple(part for step in (*first, *second) for part in step.compute)
    beside: Uses = {}
    path: Uses = {}
    for step in (*first, *second):
        for name, uses in step.beside.items():
            beside[name] = beside.get(name, 0.0) + uses
        for name, uses in step.path.items():
            where = beside if name == "expert" else path
            where[name] = where.get(name, 0.0) + uses
    return [Step(compute, beside, path)]
