"""Writes one training iteration of one data-parallel replica as a program.

Streams per pipeline stage: compute, tensor (collectives beside compute), forward and backward sends.
Data-parallel collectives are shared operations: every replica meets in them (see ``Program.replicate``).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from euston.clock import Program, ProgramBuilder
from euston.collectives.network_rates import SCALE_OUT_STEP_LATENCY
from euston.training.costs import Costs
from euston.training.job import TrainingJob
from euston.training.schedule import order
from euston.training.stages import Stages

__all__ = ["Slots", "Template", "write_iteration"]


@dataclass(frozen=True)
class Slots:
    """Numbers of the transfers that a replica's program names.

    ``tensor``, ``forward``, ``backward``: one per stage, in this order, each replica's own.
    ``gather``, ``scatter``: one per (stage, chunk), shared by all replicas.
    """

    pipeline: int
    virtual: int

    def tensor(self, stage: int) -> int:
        """A stage's tensor-parallel collective."""
        return stage

    def forward(self, stage: int) -> int:
        """Activations to the next stage."""
        return self.pipeline + stage

    def backward(self, stage: int) -> int:
        """Gradients to the stage before."""
        return 2 * self.pipeline + stage

    @property
    def own(self) -> int:
        """How many belong to each replica."""
        return 3 * self.pipeline

    def gather(self, stage: int, chunk: int) -> int:
        """Parameters of a chunk, all-gathered."""
        return self.own + stage * self.virtual + chunk

    def scatter(self, stage: int, chunk: int) -> int:
        """Gradients of a chunk, reduced."""
        return self.own + (self.pipeline + stage) * self.virtual + chunk

    @property
    def total(self) -> int:
        """How many numbers there are."""
        return self.own + 2 * self.pipeline * self.virtual


@dataclass(frozen=True)
class Template:
    """A replica's program and which of its parts all replicas share."""

    program: Program
    shared: NDArray[np.bool_]
    shared_stream: NDArray[np.bool_]
    compute_stream: tuple[int, ...]


def write_iteration(job: TrainingJob, stages: Stages, cost: Costs) -> Template:
    """The program of one optimiser step.

    Parameters
    ----------
    job, stages, cost
        What runs, where its layers are, and what each pass costs.

    Returns
    -------
    Template
        One replica's operations; shared ones are the data-parallel collectives and the end of the step.
    """
    return _Writer(job, stages, cost).write()


class _Writer:
    def __init__(self, job: TrainingJob, stages: Stages, cost: Costs) -> None:
        self.job, self.stages, self.cost = job, stages, cost
        self.p, self.v, self.m = stages.pipeline, stages.virtual, job.micro_batches
        self.slots = Slots(self.p, self.v)
        self.b = ProgramBuilder()
        b, stage = self.b, range(self.p)
        self.compute = [b.stream(f"stage {s} compute") for s in stage]
        self.tensor = [b.stream(f"stage {s} tensor") for s in stage]
        self.ahead = [b.stream(f"stage {s} forward sends") for s in stage]
        self.back = [b.stream(f"stage {s} backward sends") for s in stage]
        self.data = [b.stream(f"stage {s} data") for s in stage]
        self.shared: list[int] = []
        self.sharding = job.parallel.sharding
        self.replicated = job.parallel.data > 1
        self.gather_each_pass = self.replicated and self.sharding == "zero3" and job.reshard_after_forward
        # Units: pieces of a chunk, gathered and run one after the other. ZeRO-3 gathers layer by layer.
        self.units = [
            [max(1, stages.layers[s][c]) if self.gather_each_pass else 1 for c in range(self.v)]
            for s in stage
        ]
        self.last_compute: list[list[int]] = [[] for _ in stage]  # end of each unit, for prefetch depth 1

    # -- pieces ------------------------------------------------------------------------------------------

    def _share(self, op: int) -> int:
        self.shared.append(op)
        return op

    def _collective(
        self, slot: Callable[[int, int], int], s: int, c: int, label: str, after: list[int]
    ) -> int:
        units = self.units[s][c]
        return self._share(
            self.b.send(
                slot(s, c), label=label, stream=self.data[s], after=after, repeats=1.0 / units, chunk=c
            )
        )

    def _pass(self, s: int, c: int, mb: int, backward: bool, after: list[int]) -> int:
        """One micro-batch through one chunk; returns the operation that ends it."""
        b, cost = self.b, self.cost.chunks[s][c]
        name = "backward" if backward else "forward"
        seconds = cost.backward if backward else cost.forward
        on_path = cost.tensor_backward if backward else cost.tensor_forward
        beside = cost.tensor_hidden if backward else 0.0
        units = self.units[s][c]
        end = -1
        for _ in range(units):
            needs = list(after) if end < 0 else [end]
            if self.gather_each_pass:
                done = self.last_compute[s]
                prefetch = [done[-2]] if len(done) >= 2 else []
                needs.append(self._collective(self.slots.gather, s, c, "parameters", prefetch))
            hidden = []
            if beside:
                hidden = [
                    b.send(
                        self.slots.tensor(s), label="tensor", stream=self.tensor[s], after=needs,
                        repeats=beside / units, micro_batch=mb, chunk=c, slows=self.compute[s],
                    )
                ]  # fmt: skip
            end = b.compute(
                self.compute[s], seconds / units, label=name, after=needs, micro_batch=mb, chunk=c
            )
            if on_path or hidden:
                end = b.send(
                    self.slots.tensor(s), label="tensor", stream=self.compute[s], after=[end, *hidden],
                    repeats=on_path / units, micro_batch=mb, chunk=c,
                )  # fmt: skip
            self.last_compute[s].append(end)
            if backward and self.gather_each_pass:
                self.scattered[s].append(self._collective(self.slots.scatter, s, c, "gradients", [end]))
        return end

    def _send(self, s: int, c: int, mb: int, backward: bool, after: int) -> int:
        slot = self.slots.backward(s) if backward else self.slots.forward(s)
        overlap = self.job.software.p2p_overlap
        own = self.back[s] if backward else self.ahead[s]
        return self.b.send(
            slot, label="pipeline", stream=own if overlap else self.compute[s], after=[after], micro_batch=mb,
            chunk=c, slows=self.compute[s] if overlap else -1,
        )  # fmt: skip

    # -- the whole ---------------------------------------------------------------------------------------

    def write(self) -> Template:
        p, v = self.p, self.v
        self.scattered: list[list[int]] = [[] for _ in range(p)]
        gathered: dict[tuple[int, int], int] = {}
        once = self.replicated and self.sharding != "none" and not self.gather_each_pass
        if once:
            for c in range(v):
                for s in range(p):
                    gathered[s, c] = self._collective(self.slots.gather, s, c, "parameters", [])
        if once and not self.job.software.data_overlap:
            for s in range(p):
                everything = [gathered[s, c] for c in range(v)]
                for c in range(v):
                    gathered[s, c] = everything[-1]
        self._passes(gathered)
        ends = self._reduce()
        self._finish(ends)
        b = self.b.build()
        shared = np.zeros(len(b), bool)
        shared[self.shared] = True
        shared_stream = np.zeros(len(b.streams), bool)
        shared_stream[self.data] = True
        return Template(b, shared, shared_stream, tuple(self.compute))

    def _passes(self, gathered: dict[tuple[int, int], int]) -> None:
        """Every stage's passes in its own order; a pass is written once what it receives is written."""
        p, v = self.p, self.v
        orders = order(self.job.schedule, p, v, self.m)
        at = [0] * p
        arrived: dict[tuple[bool, int, int, int], int] = {}
        self.last_backward: dict[tuple[int, int], int] = {}
        forward_end: dict[tuple[int, int, int], int] = {}
        left = sum(len(o.is_backward) for o in orders)
        while left:
            moved = False
            for s in range(p):
                steps = orders[s]
                while at[s] < len(steps.is_backward):
                    i = at[s]
                    backward, c, mb = (
                        bool(steps.is_backward[i]),
                        int(steps.chunk[i]),
                        int(steps.micro_batch[i]),
                    )
                    first = (c == v - 1 and s == p - 1) if backward else (c == 0 and s == 0)
                    key = (backward, s, c, mb)
                    if not first and key not in arrived:
                        break
                    after = [] if first else [arrived.pop(key)]
                    if backward:
                        after.append(forward_end.pop((s, c, mb)))
                    elif (s, c) in gathered:
                        after.append(gathered[s, c])
                    end = self._pass(s, c, mb, backward, after)
                    if backward:
                        self.last_backward[s, c] = end
                        target = (s - 1, c) if s > 0 else (p - 1, c - 1)
                    else:
                        forward_end[s, c, mb] = end
                        target = (s + 1, c) if s < p - 1 else (0, c + 1)
                    if 0 <= target[1] < v:
                        sent = end if p == 1 else self._send(s, c, mb, backward, end)
                        arrived[backward, target[0], target[1], mb] = sent
                    at[s] += 1
                    left -= 1
                    moved = True
            assert moved, "the schedule deadlocks"

    def _reduce(self) -> list[int]:
        """Reduce every chunk's gradients after its last backward; returns what the step's end waits for."""
        p, v = self.p, self.v
        if not self.replicated:
            return [self.last_backward[s, c] for s in range(p) for c in range(v)]
        if self.gather_each_pass:
            return [ops[-1] for ops in self.scattered]
        ends = []
        for s in range(p):
            for c in reversed(range(v)):
                # Without overlap the reduction waits for the stage's whole backward.
                after = self.last_backward[s, c if self.job.software.data_overlap else 0]
                ends.append(self._collective(self.slots.scatter, s, c, "gradients", [after]))
        return ends

    def _finish(self, ends: list[int]) -> None:
        """Gradient norm over everybody (a latency), then the optimiser on every stage."""
        b = self.b
        world = self.job.parallel.world
        all_done = self._share(b.join(ends, label="gradients"))
        hops = 2 * math.ceil(math.log2(world)) if world > 1 else 0
        norm = self._share(b.wait(hops * SCALE_OUT_STEP_LATENCY, label="gradient norm", after=[all_done]))
        for s in range(self.p):
            b.compute(self.compute[s], self.cost.optimizer[s], label="optimizer", after=[norm])
