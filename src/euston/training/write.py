"""Writes one training iteration of one unit of a job as a program.

Streams per pipeline stage: compute; tensor, context and expert collectives beside compute; sends to the next
and to the previous stage; data-parallel collectives. Data-parallel collectives are shared operations: every
unit (a replica, or those that meet in expert all-to-alls) meets in them (see ``Program.replicate``). Those
that overlap with compute are cut into pieces, as frameworks do by layers (FSDP) or buckets (Megatron-LM).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from euston.clock import Program, ProgramBuilder
from euston.collectives.network_rates import SCALE_OUT_STEP_LATENCY
from euston.errors import SimulationError
from euston.training.communication import ChunkTraffic
from euston.training.costs import Costs
from euston.training.job import TrainingJob
from euston.training.passes import Step, merged, steps
from euston.training.schedule import order
from euston.training.schedule_split import FORWARD, INPUT_GRADIENT, WEIGHT_GRADIENT
from euston.training.slots import Slots
from euston.training.stages import Stages

__all__ = ["Slots", "Template", "write_iteration"]

BUCKET_PARAMETERS, BUCKET_PARAMETERS_PER_RANK = 40_000_000, 1_000_000

Pass = tuple[int, int, int]
"""(kind, chunk, micro-batch)."""


@dataclass(frozen=True)
class Template:
    """A unit's program, which of its parts all units share, and pieces per [stage][chunk] of data.

    ``stage`` int32[N] is the pipeline stage of each operation, -1 for those of none. ``rolling``: stages end
    their step one after the other and begin the next one so; a step lasts as long as the longest of them.
    """

    program: Program
    shared: NDArray[np.bool_]
    shared_stream: NDArray[np.bool_]
    compute_stream: tuple[int, ...]
    pieces: list[list[int]]
    stage: NDArray[np.int32]
    rolling: bool = False


def write_iteration(job: TrainingJob, stages: Stages, cost: Costs) -> Template:
    """The program of one optimiser step.

    Parameters
    ----------
    job, stages, cost
        What runs, where its layers are, and what each pass costs.

    Returns
    -------
    Template
        One unit's operations; shared ones are the data-parallel collectives and the end of the step.
    """
    return _Writer(job, stages, cost).write()


class _Writer:
    def __init__(self, job: TrainingJob, stages: Stages, cost: Costs) -> None:
        self.job, self.stages, self.cost = job, stages, cost
        self.p, self.v, self.m = stages.pipeline, stages.virtual, job.micro_batches
        self.slots = Slots(self.p, self.v)
        self.b = ProgramBuilder()
        self.stream_stage: list[int] = []
        stage = range(self.p)
        self.compute = [self._stream(s, "compute") for s in stage]
        found = cost.communication
        kinds = ["tensor"]
        kinds += ["context"] if found and found.context else []
        kinds += ["expert"] if found and found.expert else []
        self.beside = {kind: [self._stream(s, kind) for s in stage] for kind in kinds}
        self.ahead = [self._stream(s, "forward sends") for s in stage]
        self.back = [self._stream(s, "backward sends") for s in stage]
        self.data = [self._stream(s, "data") for s in stage]
        p = job.parallel
        ranks = p.data * p.context * (1 + stages.both_ways)
        self.sharding = p.sharding
        self.replicated = ranks > 1
        self.copied = bool(p.shard) and p.shard < ranks
        self.apart = p.experts_apart and p.expert_data * (1 + stages.both_ways) > 1
        self.copies = [self._stream(s, "copy") for s in stage] if self.copied else []
        self.experts = [self._stream(s, "expert data") for s in stage] if self.apart else []
        self.shared: list[int] = []
        self.overlap = job.software.data_overlap
        # ZeRO-3 gathers parameters for each pass; else a sharded optimiser gathers them once per step.
        each = self.replicated and self.sharding == "zero3" and job.reshard_after_forward
        self.gather_each_pass = each
        self.gather_once = self.replicated and self.sharding != "none" and not each
        self.pieces = [[self._pieces(s, c) for c in range(self.v)] for s in stage]
        self.reduced: list[list[int]] = [[] for _ in stage]  # reductions of gradients
        # Both ways: by (stage of the model, copy), pieces that wait for the other copy's gradients.
        self.ready: dict[tuple[int, int], list[list[int]]] = {}
        self.gathered: dict[tuple[int, int], list[list[int]]] = {}  # of parameters, once per step
        self.passes = self._order()
        self.first_forward, self.last_gradient = self._ends()
        # ZeRO-3: chunk of every piece that a stage will run, gathers issued, ends of pieces that ran.
        self.to_run = [
            [
                c
                for part in parts
                for kind, c, _ in part
                if kind != WEIGHT_GRADIENT
                for _ in range(self.pieces[s][c])
            ]
            for s, parts in enumerate(self.passes)
        ]
        self.issued: list[list[list[int]]] = [[] for _ in stage]
        self.ran: list[list[int]] = [[] for _ in stage]
        self.steps: dict[tuple[int, int, int], list[Step]] = {}

    def _stream(self, stage: int, name: str) -> int:
        self.stream_stage.append(stage)
        return self.b.stream(f"stage {stage} {name}")

    # -- the order ---------------------------------------------------------------------------------------

    def _order(self) -> list[list[tuple[Pass, ...]]]:
        """Of every stage the passes in order, one or two at a time."""
        out = []
        virtual = 1 if self.stages.both_ways else self.v
        for steps_ in order(self.job.schedule, self.p, virtual, self.m, ahead=self.job.ahead):
            kind, chunk, micro_batch, paired = (column.tolist() for column in steps_)
            passes: list[Pass] = list(zip(kind, chunk, micro_batch, strict=True))
            parts: list[tuple[Pass, ...]] = []
            i = 0
            while i < len(passes):
                two = paired[i] or self._overlaps(passes[i : i + 2])
                parts.append(tuple(passes[i : i + 1 + two]))
                i += 1 + two
            out.append(parts)
        return out

    def _overlaps(self, two: list[Pass]) -> bool:
        """Whether a forward and the backward behind it run at once, for the sake of their all-to-alls."""
        if not self.job.passes_overlap or len(two) < 2:
            return False
        (first, _, one), (second, _, other) = two
        return first == FORWARD and second not in (FORWARD, WEIGHT_GRADIENT) and one != other

    def _ends(self) -> tuple[set[tuple[int, Pass]], set[tuple[int, Pass]]]:
        """(stage, pass) of every chunk's first forward and last gradient."""
        first: dict[tuple[int, int], Pass] = {}
        last: dict[tuple[int, int], Pass] = {}
        for s, parts in enumerate(self.passes):
            for one in (one for part in parts for one in part):
                if one[0] == FORWARD:
                    first.setdefault((s, one[1]), one)
                elif one[0] != INPUT_GRADIENT:
                    last[s, one[1]] = one
        return {(s, one) for (s, _), one in first.items()}, {(s, one) for (s, _), one in last.items()}

    # -- data-parallel collectives -----------------------------------------------------------------------

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

    def _share(self, slot: int, label: str, stream: int, after: list[int], c: int) -> int:
        slows = self.compute[self.stream_stage[stream]]  # of every unit
        op = self.b.send(slot, label=label, stream=stream, after=after, chunk=c, slows=slows)
        self.shared.append(op)
        return op

    def _gather(self, s: int, c: int, after: list[int]) -> list[int]:
        """Parameters of one piece, of experts apart from the rest."""
        slots = self.slots
        done = [self._share(slots.gather(s, c), "parameters", self.data[s], after, c)]
        if self.apart and self.cost.chunks[s][c].expert_parameters:
            done.append(self._share(slots.expert_gather(s, c), "parameters", self.experts[s], after, c))
        return done

    def _reduce(self, s: int, c: int, after: list[int]) -> None:
        """Gradients of one piece; both copies of a stage meet where it is held twice."""
        if self.stages.both_ways:
            me = self.stages.model_stage(s, c)
            ready = self.ready.get((me, 1 - c))
            if not ready:
                self.ready.setdefault((me, c), []).append(after)
                return
            after = after + ready.pop(0)
        slots = self.slots
        done = [self._share(slots.scatter(s, c), "gradients", self.data[s], after, c)]
        if self.copied:
            done.append(self._share(slots.copy(s, c), "gradients", self.copies[s], done, c))
        if self.apart and self.cost.chunks[s][c].expert_parameters:
            done.append(self._share(slots.expert_scatter(s, c), "gradients", self.experts[s], after, c))
        self.reduced[s].append(self.b.join(done, label="gradients") if len(done) > 1 else done[0])
        if len(done) > 1:
            self.shared.append(self.reduced[s][-1])

    def _gather_ahead(self, s: int) -> list[int]:
        """ZeRO-3: the gather for the piece to be run now.

        That of the next piece is issued with it, before this piece's reduction: one communicator runs them
        in this order (PyTorch FSDP's backward prefetch).
        """
        issued, now = self.issued[s], len(self.ran[s])
        after = self.ran[s][-1:] + ([] if self.overlap else self.reduced[s][-1:])
        while len(issued) < min(now + (2 if self.overlap else 1), len(self.to_run[s])):
            issued.append(self._gather(s, self.to_run[s][len(issued)], after))
        return issued[now]

    # -- passes ------------------------------------------------------------------------------------------

    def _of(self, s: int, kind: int, c: int) -> list[Step]:
        key = (s, kind, c)
        if key not in self.steps:
            found = self.cost.communication
            traffic = found.chunks[s][c] if found else ChunkTraffic()
            self.steps[key] = steps(kind, self.cost.chunks[s][c], traffic, self.job)
        return self.steps[key]

    def _step(self, s: int, step: Step, needs: list[int], share: float, c: int, mb: int) -> int:
        """A share of one step; returns the operation that ends it."""
        b, slots, stream = self.b, self.slots, self.compute[s]
        hidden = [
            b.send(
                slots.own_of(kind, s), label=kind, stream=self.beside[kind][s], after=needs,
                repeats=uses * share, micro_batch=mb, chunk=c, slows=stream,
            )
            for kind, uses in step.beside.items()
        ]  # fmt: skip
        end = -1
        for label, seconds in step.compute:
            end = b.compute(stream, seconds * share, label=label, after=needs, micro_batch=mb, chunk=c)
            needs = [end]
        path = step.path or dict.fromkeys(list(step.beside)[:1], 0.0)  # of none: the moment when all are done
        for i, (kind, uses) in enumerate(path.items()):
            end = b.send(
                slots.own_of(kind, s), label=kind, stream=stream, after=[end, *hidden] if i == 0 else [end],
                repeats=uses * share, micro_batch=mb, chunk=c,
            )  # fmt: skip
        return end

    def _run(self, s: int, part: tuple[Pass, ...], after: list[int]) -> int:
        """One pass, or two at once; returns the operation that ends them."""
        kind, c, mb = part[0]
        todo = self._of(s, kind, c)
        if len(part) > 1:
            todo = merged(todo, self._of(s, part[1][0], part[1][1]))
        work = self.job.work
        amount = 1.0 if work is None else work[mb]
        waits = [self.gathered.pop((s, one[1]), []) for one in part if (s, one) in self.first_forward]
        reduces = [
            one[1]
            for one in part
            if one[0] not in (FORWARD, INPUT_GRADIENT)
            and (
                self.gather_each_pass or (self.replicated and self.overlap and (s, one) in self.last_gradient)
            )
        ]
        cut = len(part) == 1 and (self.gather_each_pass or any(waits) or bool(reduces))
        pieces = self.pieces[s][c] if cut else 1
        end = -1
        for piece in range(pieces):
            needs = list(after) if end < 0 else [end]
            for gathers in waits:
                if gathers:
                    found = gathers[piece : piece + 1] if cut and self.overlap else gathers
                    needs += [op for one in found for op in one]
            if self.gather_each_pass and kind != WEIGHT_GRADIENT:
                needs += self._gather_ahead(s)
            for step in todo:
                end = self._step(s, step, needs, amount / pieces, c, mb)
                needs = [end]
            if self.gather_each_pass and kind != WEIGHT_GRADIENT:
                self.ran[s].append(end)
            for chunk in reduces:
                for _ in range(1 if cut else self.pieces[s][chunk]):
                    self._reduce(s, chunk, [end])
        return end

    def _send(self, s: int, c: int, mb: int, onward: bool, after: int) -> int:
        slot = self.slots.forward(s) if onward else self.slots.backward(s)
        overlap = self.job.sends_overlap
        own = self.ahead[s] if onward else self.back[s]
        work = self.job.work
        return self.b.send(
            slot, label="pipeline", stream=own if overlap else self.compute[s], after=[after], micro_batch=mb,
            chunk=c, slows=self.compute[s] if overlap else -1, repeats=1.0 if work is None else work[mb],
        )  # fmt: skip

    # -- the whole ---------------------------------------------------------------------------------------

    def write(self) -> Template:
        if self.gather_once:
            self._gather_all()
        self._passes()
        self._finish(self._reduce_rest())
        b = self.b.build()
        shared = np.zeros(len(b), bool)
        shared[self.shared] = True
        shared_stream = np.zeros(len(b.streams), bool)
        shared_stream[[*self.data, *self.copies, *self.experts]] = True
        stage = np.where(b.stream >= 0, np.array([*self.stream_stage, -1], np.int32)[b.stream], -1)
        rolling = self.job.schedule == "zb-h2"
        return Template(
            b, shared, shared_stream, tuple(self.compute), self.pieces, stage.astype(np.int32), rolling
        )

    def _gather_all(self) -> None:
        """Parameters once per step, in the order in which chunks need them."""
        met: dict[int, list[list[int]]] = {}
        for c in range(self.v):
            for s in range(self.p):
                me = self.stages.model_stage(s, c)
                if me not in met:  # a stage that is held twice is gathered once, by all who hold it
                    met[me] = [self._gather(s, c, []) for _ in range(self.pieces[s][c])]
                self.gathered[s, c] = met[me]
        if not self.overlap:  # nothing runs before a stage has all its parameters
            for s in range(self.p):
                whole = [one for c in range(self.v) for one in self.gathered[s, c]]
                for c in range(self.v):
                    self.gathered[s, c] = whole[-1:] if not self.apart else whole

    def _next(self, s: int, c: int, kind: int) -> tuple[int, int, bool] | None:
        """(stage, chunk) that a pass's result goes to, and whether on the way to the next rank."""
        step = 1 if kind == FORWARD else -1
        if self.stages.both_ways:
            to = s + (step if c == 0 else -step)
            return (to, c, to > s) if 0 <= to < self.p else None
        to, chunk = s + step, c
        if not 0 <= to < self.p:
            to, chunk = to % self.p, c + step
        return (to, chunk, step > 0) if 0 <= chunk < self.v else None

    def _passes(self) -> None:
        """Every stage's passes in its own order; a pass is written once what it receives is written."""
        p, last = self.p, self.p * (1 if self.stages.both_ways else self.v) - 1
        at = [0] * p
        arrived: dict[tuple[bool, int, int, int], int] = {}
        self.last_end: dict[tuple[int, int], int] = {}
        ended: dict[tuple[int, int, int], int] = {}  # the pass that the next one of a micro-batch needs
        left = sum(map(len, self.passes))
        while left:
            before = left
            for s in range(p):
                parts = self.passes[s]
                while at[s] < len(parts):
                    part = parts[at[s]]
                    needs: list[tuple[bool, int, int, int]] = []
                    for kind, c, mb in part:
                        entry = 0 if kind == FORWARD else last
                        if kind != WEIGHT_GRADIENT and self.stages.model_stage(s, c) != entry:
                            needs.append((kind != FORWARD, s, c, mb))
                    if any(key not in arrived for key in needs):
                        break
                    after = [arrived.pop(key) for key in needs]
                    after += [ended[s, c, mb] for kind, c, mb in part if kind != FORWARD]
                    end = self._run(s, part, after)
                    for kind, c, mb in part:
                        ended[s, c, mb] = end
                        if kind == WEIGHT_GRADIENT:
                            self.last_end[s, c] = end
                            continue
                        if kind != FORWARD:
                            self.last_end[s, c] = end
                        to = self._next(s, c, kind)
                        if to is not None:
                            sent = end if p == 1 else self._send(s, c, mb, to[2], end)
                            arrived[kind != FORWARD, to[0], to[1], mb] = sent
                    at[s] += 1
                    left -= 1
            if left == before:
                raise SimulationError(
                    f"`jobs`: {self.job.name}'s schedule {self.job.schedule} deadlocks: every stage waits "
                    "for another"
                )

    def _reduce_rest(self) -> list[list[int]]:
        """What each stage's end waits for; gradients that were not reduced beside the backward are now."""
        stage = range(self.p)
        if not self.replicated:
            return [[self.last_end[s, c] for c in range(self.v)] for s in stage]
        if not (self.overlap or self.gather_each_pass):
            whole = [max(self.last_end[s, c] for c in range(self.v)) for s in stage]  # a stage's last pass
            for s in stage:
                for c in reversed(range(self.v)):
                    self._reduce(s, c, [whole[s]])
        if self.stages.both_ways:
            return [self.reduced[s][-1:] + self.reduced[self.p - 1 - s][-1:] for s in stage]
        return [ops[-1:] for ops in self.reduced]

    def _finish(self, ends: list[list[int]]) -> None:
        """Gradient norm over everybody (a latency), then the optimiser on every stage.

        ZB-H2 does not wait for the norm: the optimiser goes ahead and is undone if the norm was bad
        (arXiv:2401.10241, section 4), so that stages go on one after the other.
        """
        b = self.b
        world = self.job.parallel.world
        if self.job.schedule == "zb-h2":
            for s in range(self.p):
                b.compute(self.compute[s], self.cost.optimizer[s], label="optimizer", after=ends[s])
            return
        tied = self._tied(ends)
        all_done = b.join([op for one in ends for op in one] + tied, label="gradients")
        hops = 2 * math.ceil(math.log2(world)) if world > 1 else 0
        norm = b.wait(hops * SCALE_OUT_STEP_LATENCY, label="gradient norm", after=[all_done])
        self.shared += [all_done, norm]
        for s in range(self.p):
            b.compute(self.compute[s], self.cost.optimizer[s], label="optimizer", after=[norm])

    def _tied(self, ends: list[list[int]]) -> list[int]:
        """First and last stage add up the gradients of an embedding that is also the output matrix."""
        if not self.job.model.tied or self.p == 1 or self.stages.both_ways:
            return []
        after = [*ends[0], *ends[-1]]
        return [self.b.send(self.slots.tied(0), label="embedding", stream=self.ahead[0], after=after)]
