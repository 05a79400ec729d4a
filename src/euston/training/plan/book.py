"""Prices and bytes that many plans share, each worked out once."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import fields, replace
from functools import lru_cache
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from euston.cluster import Parallel, Site
from euston.cluster.parallel import Sharding
from euston.devices import GPU
from euston.models import LayerKind, RankShare
from euston.training._closed_form import optimizer_seconds, step_in_closed_form
from euston.training.analytic import Estimate, Floats, Links, Uses, numbers, pass_table, uses
from euston.training.communication import ChunkTraffic
from euston.training.costs import ChunkCost, UnitCosts, unit_costs
from euston.training.job import Recompute, TrainingJob
from euston.training.job import Schedule as ScheduleName
from euston.training.memory import (
    ALLOCATOR_FACTOR,
    COMMUNICATION_BUFFERS,
    dropped_bytes,
    layer_bytes,
    loss_bytes,
    training_states,
    workspace_bytes,
)
from euston.training.plan.space import Layout
from euston.training.schedule import stage_order
from euston.training.skew import SPEED_SPREAD
from euston.training.stages import Stages, place

__all__ = ["Book", "Need"]


_TRAFFIC = tuple(item.name for item in fields(ChunkTraffic))


class Need(NamedTuple):
    """Bytes that the fullest stage needs, which stage, and what it has."""

    bytes: float
    stage: int
    capacity: float

    @property
    def ok(self) -> bool:
        """Whether it fits."""
        return self.bytes <= self.capacity


class _Priced(NamedTuple):
    """Under one layout within a stage: prices, uses of collectives, bytes of parts."""

    job: TrainingJob
    units: UnitCosts
    uses: Uses


class _Chunk(NamedTuple):
    """What one chunk of the model holds: layers by kind, and whether its ends."""

    counts: tuple[tuple[LayerKind, int], ...]
    embedding: bool
    head: bool


class _Shape(NamedTuple):
    """A model cut into p x v chunks: passes and parameters of each, and its distinct stages."""

    stages: Stages
    passes: Floats
    parameters: Floats
    experts: Floats
    layers: NDArray[np.int64]


class _Kept(NamedTuple):
    """Activations and temporary bytes of a stage at its peak."""

    activations: float
    temporary: float


class Book:
    """Prices and bytes of a job's plans on a site."""

    def __init__(
        self, job: TrainingJob, site: Site, device: GPU, accelerators: int, spread: float = SPEED_SPREAD
    ) -> None:
        self.template, self.site, self.device = job, site, device
        self.accelerators, self.spread = accelerators, spread
        self.links = Links.of(site)
        self._units: dict[tuple[object, ...], UnitCosts] = {}
        self._priced: dict[tuple[object, ...], _Priced] = {}
        self._shapes: dict[tuple[object, ...], _Shape] = {}
        self._kept: dict[tuple[object, ...], _Kept] = {}
        self._bytes: dict[tuple[object, ...], float] = {}
        self._shares: dict[tuple[object, ...], dict[object, RankShare]] = {}
        self._stages: dict[tuple[int, int, bool], Stages] = {}
        self._states: dict[tuple[object, ...], tuple[float, float]] = {}
        self._numbers: dict[tuple[int, str], tuple[Floats, Floats, float, float]] = {}
        self._maps: dict[tuple[int, int, bool], list[list[_Chunk]]] = {}
        self._firsts: dict[tuple[int, int, bool], list[int]] = {}

    # ---- jobs ----------------------------------------------------------------------------------------------

    def job(self, plan: Layout) -> TrainingJob:
        """The plan as a job."""
        t = self.template
        parallel = Parallel(
            tensor=plan.tensor, sequence=plan.tensor > 1 and t.software.sequence_parallel,
            context=plan.context, expert=plan.expert, pipeline=plan.pipeline, virtual=plan.virtual,
            data=plan.data, sharding=cast(Sharding, plan.sharding), order=t.parallel.order,
            expert_tensor=1 if plan.expert > 1 and plan.tensor > 1 else 0,
        )  # fmt: skip
        return replace(
            t, parallel=parallel, micro_batch=plan.micro, schedule=cast(ScheduleName, plan.schedule),
            recompute=cast(Recompute, plan.recompute), stages=None, work=None, images=None,
        )  # fmt: skip

    def _within(self, plan: Layout) -> _Priced:
        """Prices under what the plan does within a stage; how far its groups reach is the layout's."""
        key = (plan.tensor, plan.context, plan.expert, plan.micro, plan.recompute)
        where = (*key, plan.pipeline, plan.data, plan.schedule)
        if where not in self._priced:
            job = self.job(plan)
            if key not in self._units:
                self._units[key] = unit_costs(job, self.device, speed_spread=self.spread)
            units = self._units[key]
            traffic = units.communication
            one = uses(
                job, self.links, units.collective, traffic.context, traffic.expert, units.pipeline_bytes
            )
            self._priced[where] = _Priced(job, units, one)
        return self._priced[where]

    def stages(self, plan: Layout) -> Stages:
        """The model's layers on the plan's stages."""
        both = plan.schedule == "dualpipe"
        key = (plan.pipeline, plan.virtual, both)
        if key not in self._stages:
            once = place(self.template.model.layers, plan.pipeline, plan.virtual, slots=self.template.slots)
            self._stages[key] = once.doubled() if both else once
        return self._stages[key]

    def _shape(self, plan: Layout) -> _Shape:
        priced = self._within(plan)
        key = (id(priced), plan.pipeline, plan.virtual, plan.schedule)
        found = self._shapes.get(key)
        if found is None:
            found = self._shapes[key] = self._cut(priced, plan)
        return found

    def _chunks(self, plan: Layout, stages: Stages) -> list[list[_Chunk]]:
        """What every (stage, chunk) holds."""
        key = (plan.pipeline, plan.virtual, stages.both_ways)
        if key not in self._maps:
            kinds = self.template.model.layer_kinds
            rows: list[list[_Chunk]] = []
            for s in range(stages.pipeline):
                row = []
                for c in range(stages.virtual):
                    first = stages.first_layer(s, c)
                    counts = Counter(kinds[first : first + stages.layers[s][c]])
                    row.append(
                        _Chunk(tuple(counts.items()), stages.has_embedding(s, c), stages.has_head(s, c))
                    )
                rows.append(row)
            self._maps[key] = rows
            seen: dict[tuple[_Chunk, ...], int] = {}
            for s, row in enumerate(rows):
                seen.setdefault(tuple(row), s)
            self._firsts[key] = list(seen.values())
        return self._maps[key]

    def _cut(self, priced: _Priced, plan: Layout) -> _Shape:
        stages = self.stages(plan)
        rows = self._chunks(plan, stages)
        numbers = {chunk: i for i, chunk in enumerate(dict.fromkeys(one for row in rows for one in row))}
        found = [_priced_chunk(priced.units, chunk) for chunk in numbers]
        where = np.array([[numbers[chunk] for chunk in row] for row in rows])
        passes = pass_table(priced.job, priced.uses, found, where)
        parameters = np.array([float(cost.parameters) for cost, _ in found])[where]
        experts = np.array([float(cost.expert_parameters) for cost, _ in found])[where]
        return _Shape(stages, passes, parameters, experts, stages.array())

    # ---- time ----------------------------------------------------------------------------------------------

    def estimate(self, plan: Layout) -> Estimate:
        """The plan's step in closed form."""
        priced, shape = self._within(plan), self._shape(plan)
        key = (id(priced), plan.sharding)
        found = self._numbers.get(key)
        if found is None:
            found = self._numbers[key] = self._number(plan, priced)
        number, data, dense_shards, expert_shards = found
        sizes, spent = priced.units.optimizer
        optimizer = optimizer_seconds(
            shape.parameters, shape.experts, dense_shards, expert_shards, sizes, spent
        )
        return Estimate(
            *step_in_closed_form(
                number, shape.passes, shape.parameters, shape.experts, optimizer, shape.layers, data
            )
        )

    def _number(self, plan: Layout, priced: _Priced) -> tuple[Floats, Floats, float, float]:
        """What the closed form needs of a plan but its chunks, and how many ranks share its state."""
        job = self.job(plan)
        number, data = numbers(job, priced.uses, self.links)
        if plan.sharding == "none":
            return number, data, 1.0, 1.0
        copies = 2 if plan.schedule == "dualpipe" else 1
        return number, data, float(job.parallel.shard_degree * copies), float(job.expert_data * copies)

    def joules(self, plan: Layout, found: Estimate) -> float:
        """Energy of a step: what passes draw, and the idle power of what waits."""
        units = self._within(plan).units
        model, job = self.template.model, self._within(plan).job
        m = job.global_batch // (plan.data * plan.micro)
        once = sum(units.joules[kind] * n for kind, n in model.kind_counts.items())
        once += units.joules["embedding"] + units.joules["head"]
        world = self.accelerators
        waiting = max(0.0, found.step_time - found.compute - found.optimizer)
        idle = self.site.accelerator.idle_power or 0.0
        return once * m * (world // plan.pipeline) + waiting * idle * world

    # ---- memory --------------------------------------------------------------------------------------------

    def need(self, plan: Layout, job: TrainingJob | None = None) -> Need:
        """Bytes of the plan's fullest stage, as `euston.training.memory` reckons them."""
        job = job or self.job(plan)
        stages = self.stages(plan)
        capacity = float(self.site.accelerator.memory_bytes)
        buffers = COMMUNICATION_BUFFERS if job.parallel.world > 1 else 0.0
        self._chunks(plan, stages)
        # of equal stages the first one holds most micro-batches
        worst = (-1.0, 0)
        for s in self._firsts[plan.pipeline, plan.virtual, stages.both_ways]:
            states, gathered = self._of_states(plan, job, stages, s)
            kept = self._keep(plan, job, stages, s)
            total = states + kept.activations + kept.temporary + gathered + buffers
            worst = max(worst, (total * ALLOCATOR_FACTOR, -s))
        return Need(worst[0], -worst[1], capacity)

    def _of_states(self, plan: Layout, job: TrainingJob, stages: Stages, stage: int) -> tuple[float, float]:
        """Training state of a stage, and what ZeRO-3 has whole at once."""
        key = (
            plan.tensor, plan.context, plan.expert, plan.pipeline, plan.virtual, stages.both_ways, stage,
            plan.sharding, plan.data,
        )  # fmt: skip
        if key not in self._states:
            units = self._units_of(plan, job, stages, stage)
            states, gathered = training_states(job, units, 1 + stages.both_ways)
            self._states[key] = (states.total, gathered)
        return self._states[key]

    def _keep(self, plan: Layout, job: TrainingJob, stages: Stages, stage: int) -> _Kept:
        m, p = job.micro_batches, plan.pipeline
        # the pattern repeats: what a stage holds at most, it holds in its first few rounds
        m = m if m <= 3 * p else 2 * p + m % p
        key = (
            plan.tensor, plan.context, plan.expert, plan.micro, plan.recompute, p, plan.virtual,
            plan.schedule, m, stage,
        )  # fmt: skip
        found = self._kept.get(key)
        if found is None:
            found = self._kept[key] = self._peak(plan, job, stages, stage, m)
        return found

    def _part(self, plan: Layout, job: TrainingJob, name: str, kind: object = None) -> float:
        key = (plan.tensor, plan.context, plan.expert, plan.micro, plan.recompute, name, kind)
        if key not in self._bytes:
            model, tensor, sequence = job.model, job.parallel.tensor, job.parallel.sequence
            found = {
                "layer": lambda: layer_bytes(job, kind, job.recompute),  # type: ignore[arg-type]
                "dropped": lambda: dropped_bytes(job, kind),  # type: ignore[arg-type]
                "embedding": lambda: model.embedding_activation_bytes(
                    job.tokens, tensor, sequence, job.software.dropout
                ),
                "head": lambda: model.head_activation_bytes(job.tokens, tensor, sequence),
                "logits": lambda: model.logits_bytes(job.tokens, tensor),
                "workspace": lambda: workspace_bytes(job),
            }[name]()
            self._bytes[key] = float(found)
        return self._bytes[key]

    def _share(self, plan: Layout, job: TrainingJob, part: str, kind: object = None) -> RankShare:
        key = (plan.tensor, plan.expert, job.expert_tensor)
        known = self._shares.setdefault(key, {})
        if (part, kind) not in known:
            known[part, kind] = job.model.rank_share(
                part, plan.tensor, kind=kind, expert_parallel=plan.expert, expert_tensor=job.expert_tensor  # type: ignore[arg-type]
            )  # fmt: skip
        return known[part, kind]

    def _units_of(self, plan: Layout, job: TrainingJob, stages: Stages, stage: int) -> tuple[RankShare, ...]:
        """Parameters of a rank of a stage, unit by unit."""
        row, model = self._chunks(plan, stages)[stage], job.model
        units = [
            share
            for here in row
            for kind, n in here.counts
            for share in [self._share(plan, job, "layer", kind)] * n
        ]
        first = any(here.embedding for here in row)
        if first:
            units.append(self._share(plan, job, "embedding"))
        if any(here.head for here in row):
            head = self._share(plan, job, "head")
            if first and model.tied:
                learned = model.max_positions * model.hidden if model.positions == "learned" else 0
                head = RankShare(head.dense - self._share(plan, job, "embedding").dense + learned, 0)
            units.append(head)
            units += [self._share(plan, job, "prediction")] * model.prediction_layers
        return tuple(units)

    def _peak(self, plan: Layout, job: TrainingJob, stages: Stages, stage: int, m: int) -> _Kept:
        model, row = job.model, self._chunks(plan, stages)[stage]
        saved, logits = np.zeros(len(row)), np.zeros(len(row))
        dropped = 0.0
        for c, here in enumerate(row):
            for kind, n in here.counts:
                saved[c] += n * self._part(plan, job, "layer", kind)
                dropped = max(dropped, self._part(plan, job, "dropped", kind))
            if here.embedding:
                saved[c] += self._part(plan, job, "embedding")
            if here.head:
                heads = 1 + model.prediction_layers
                saved[c] += heads * self._part(plan, job, "head")
                extra = self._part(plan, job, "layer", model.layer_kinds[-1])
                saved[c] += model.prediction_layers * (extra + 4.0 * job.tokens * model.hidden)
                logits[c] = heads * self._part(plan, job, "logits")
        chunk, sign, backward = _passes(plan.schedule, plan.pipeline, plan.virtual, m, stage, job.ahead)
        held = _during(sign, backward, saved[chunk])
        of_logits = np.zeros_like(held)
        if logits.any():
            kept, running = loss_bytes(job, logits)
            of_logits = _during(sign, backward, kept[chunk]) + (running - kept)[chunk]
        work = np.where(backward, dropped, 0.0)
        top = int(np.argmax(held + of_logits + work))
        temporary = float(of_logits[top] + work[top]) + self._part(plan, job, "workspace")
        return _Kept(float(held[top]), temporary)


def _during(sign: Floats, backward: NDArray[np.bool_], weight: Floats) -> Floats:
    """Held while each pass runs, its own bytes included."""
    step = sign * weight
    after = np.cumsum(step)
    return np.where(backward, after - step, after)


@lru_cache(maxsize=4096)
def _passes(
    schedule: str, pipeline: int, virtual: int, m: int, stage: int, ahead: int
) -> tuple[NDArray[np.int32], Floats, NDArray[np.bool_]]:
    order = stage_order(schedule, pipeline, virtual, m, stage, ahead=ahead)
    return order.chunk, np.asarray(order.held, np.float64), order.is_backward


def _priced_chunk(units: UnitCosts, chunk: _Chunk) -> tuple[ChunkCost, ChunkTraffic]:
    """Layers of some kinds, with an embedding or a head, as one chunk."""
    parts = [(units.layers[kind][0], n) for kind, n in chunk.counts]
    parts += [(units.embedding, 1)] if chunk.embedding else []
    parts += [(units.head, 1)] if chunk.head else []

    def total(name: str) -> float:
        return math.fsum(getattr(part, name) * n for part, n in parts)

    cost = ChunkCost(
        sum(n for _, n in chunk.counts), total("forward"), total("backward"), total("recompute"),
        total("tensor_forward"), total("tensor_backward"), total("tensor_hidden"),
        int(total("parameters")), total("weight_gradient"), int(total("expert_parameters")),
    )  # fmt: skip
    traffic = [(units.layers[kind][1], n) for kind, n in chunk.counts]
    sums = (math.fsum(getattr(one, name) * n for one, n in traffic) for name in _TRAFFIC)
    return cost, ChunkTraffic(*sums)
