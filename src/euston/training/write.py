"""Writes one training iteration of one data-parallel replica as a program.

Streams per pipeline stage: compute, tensor (collectives beside compute), forward and backward sends.
Data-parallel collectives are shared operations: every replica meets in them (see ``Program.replicate``).
Those that overlap with compute are cut into pieces, as frameworks do by layers (FSDP) or buckets
(Megatron-LM).
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

BUCKET_PARAMETERS, BUCKET_PARAMETERS_PER_RANK = 40_000_000, 1_000_000


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
    """A replica's program, which of its parts all replicas share, and pieces per [stage][chunk] of data."""

    program: Program
    shared: NDArray[np.bool_]
    shared_stream: NDArray[np.bool_]
    compute_stream: tuple[int, ...]
    pieces: list[list[int]]


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
        self.overlap = job.software.data_overlap
        # ZeRO-3 gathers parameters for each pass; else a sharded optimiser gathers them once per step.
        each = self.replicated and self.sharding == "zero3" and job.reshard_after_forward
        self.gather_each_pass = each
        self.gather_once = self.replicated and self.sharding != "none" and not each
        self.pieces = [[self._pieces(s, c) for c in range(self.v)] for s in stage]
        self.reduced: list[list[int]] = [[] for _ in stage]  # reductions of gradients
        self.gathered: dict[tuple[int, int], list[int]] = {}  # of parameters, once per step
        # Passes of every stage as (backward, chunk, micro-batch).
        self.passes: list[list[tuple[bool, int, int]]] = [
            list(zip(*(column.tolist() for column in steps), strict=True))
            for steps in order(job.schedule, self.p, self.v, self.m)
        ]
        # ZeRO-3: chunk of every piece that a stage will run, gathers issued, ends of pieces that ran.
        self.to_run = [[c for _, c, _ in self.passes[s] for _ in range(self.pieces[s][c])] for s in stage]
        self.issued: list[list[int]] = [[] for _ in stage]
        self.ran: list[list[int]] = [[] for _ in stage]

    # -- pieces ------------------------------------------------------------------------------------------

    def _pieces(self, s: int, c: int) -> int:
        """Collectives that the data-parallel traffic of a chunk is cut into."""
        layers = max(1, self.stages.layers[s][c])
        if self.gather_each_pass:
            return layers
        if not self.overlap:
            return 1
        # Megatron-LM's bucket: max(40 M, 1 M x data-parallel size) parameters, and here whole layers.
        bucket = max(BUCKET_PARAMETERS, BUCKET_PARAMETERS_PER_RANK * self.job.parallel.data)
        return min(layers, max(1, round(self.cost.chunks[s][c].parameters / bucket)))

    def _collective(
        self, slot: Callable[[int, int], int], s: int, c: int, label: str, after: list[int]
    ) -> int:
        op = self.b.send(slot(s, c), label=label, stream=self.data[s], after=after, chunk=c)
        self.shared.append(op)
        return op

    def _pass(self, s: int, c: int, mb: int, backward: bool, after: list[int]) -> int:
        """One micro-batch through one chunk; returns the operation that ends it."""
        b, cost = self.b, self.cost.chunks[s][c]
        name = "backward" if backward else "forward"
        seconds = cost.backward if backward else cost.forward
        on_path = cost.tensor_backward if backward else cost.tensor_forward
        beside = cost.tensor_hidden if backward else 0.0
        gathered = self.gathered.get((s, c), []) if not backward and mb == 0 else []
        reduces = backward and (
            self.gather_each_pass or (self.replicated and self.overlap and mb == self.m - 1)
        )
        pieces = self.pieces[s][c] if self.gather_each_pass or gathered or reduces else 1
        end = -1
        for piece in range(pieces):
            needs = list(after) if end < 0 else [end]
            if gathered:
                needs.append(gathered[piece if self.overlap else -1])
            elif self.gather_each_pass:
                needs.append(self._gather_ahead(s))
            hidden = []
            if beside:
                hidden = [
                    b.send(
                        self.slots.tensor(s), label="tensor", stream=self.tensor[s], after=needs,
                        repeats=beside / pieces, micro_batch=mb, chunk=c, slows=self.compute[s],
                    )
                ]  # fmt: skip
            end = b.compute(
                self.compute[s], seconds / pieces, label=name, after=needs, micro_batch=mb, chunk=c
            )
            if on_path or hidden:
                end = b.send(
                    self.slots.tensor(s), label="tensor", stream=self.compute[s], after=[end, *hidden],
                    repeats=on_path / pieces, micro_batch=mb, chunk=c,
                )  # fmt: skip
            self.ran[s].append(end)
            if reduces:
                self.reduced[s].append(self._collective(self.slots.scatter, s, c, "gradients", [end]))
        return end

    def _gather_ahead(self, s: int) -> int:
        """ZeRO-3: the gather for the piece to be run now.

        That of the next piece is issued with it, before this piece's reduction: one communicator runs them
        in this order (PyTorch FSDP's backward prefetch).
        """
        issued, now = self.issued[s], len(self.ran[s])
        after = self.ran[s][-1:] + ([] if self.overlap else self.reduced[s][-1:])
        while len(issued) < min(now + (2 if self.overlap else 1), len(self.to_run[s])):
            chunk = self.to_run[s][len(issued)]
            issued.append(self._collective(self.slots.gather, s, chunk, "parameters", after))
        return issued[now]

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
        if self.gather_once:
            for c in range(self.v):
                for s in range(self.p):
                    self.gathered[s, c] = [
                        self._collective(self.slots.gather, s, c, "parameters", [])
                        for _ in range(self.pieces[s][c])
                    ]
            if not self.overlap:  # nothing runs before a stage has all its parameters
                for s in range(self.p):
                    for c in range(self.v):
                        self.gathered[s, c] = self.gathered[s, self.v - 1]
        self._passes()
        self._finish(self._reduce())
        b = self.b.build()
        shared = np.zeros(len(b), bool)
        shared[self.shared] = True
        shared_stream = np.zeros(len(b.streams), bool)
        shared_stream[self.data] = True
        return Template(b, shared, shared_stream, tuple(self.compute), self.pieces)

    def _passes(self) -> None:
        """Every stage's passes in its own order; a pass is written once what it receives is written."""
        p, v = self.p, self.v
        at = [0] * p
        arrived: dict[tuple[bool, int, int, int], int] = {}
        self.last_backward: dict[tuple[int, int], int] = {}
        forward_end: dict[tuple[int, int, int], int] = {}
        left = sum(map(len, self.passes))
        while left:
            moved = False
            for s in range(p):
                steps = self.passes[s]
                while at[s] < len(steps):
                    backward, c, mb = steps[at[s]]
                    first = (c == v - 1 and s == p - 1) if backward else (c == 0 and s == 0)
                    key = (backward, s, c, mb)
                    if not first and key not in arrived:
                        break
                    after = [] if first else [arrived.pop(key)]
                    if backward:
                        after.append(forward_end.pop((s, c, mb)))
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
        """What the step's end waits for; gradients that were not reduced beside the backward are now."""
        stage = range(self.p)
        if not self.replicated:
            return [self.last_backward[s, c] for s in stage for c in range(self.v)]
        if not (self.overlap or self.gather_each_pass):
            for s in stage:
                for c in reversed(range(self.v)):
                    whole = self.last_backward[s, 0]  # a stage's last pass
                    self.reduced[s].append(self._collective(self.slots.scatter, s, c, "gradients", [whole]))
        return [ops[-1] for ops in self.reduced]

    def _finish(self, ends: list[int]) -> None:
        """Gradient norm over everybody (a latency), then the optimiser on every stage."""
        b = self.b
        world = self.job.parallel.world
        all_done = b.join(ends, label="gradients")
        hops = 2 * math.ceil(math.log2(world)) if world > 1 else 0
        norm = b.wait(hops * SCALE_OUT_STEP_LATENCY, label="gradient norm", after=[all_done])
        self.shared += [all_done, norm]
        for s in range(self.p):
            b.compute(self.compute[s], self.cost.optimizer[s], label="optimizer", after=[norm])
