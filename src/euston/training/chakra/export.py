"""A simulated training step as Chakra traces, one per rank.

A node is an operation of the step's program on one rank: compute, the collectives of a pass, a send and its
receive. `data_deps` are the program's dependencies, `ctrl_deps` the order of its streams. A collective stands
in the traces of all its members under one ``comm_tag`` and ``pg_name``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from euston.clock import Kind
from euston.cluster import Placement
from euston.errors import ConfigError
from euston.training.chakra.groups import Groups
from euston.training.chakra.model import VERSION, CollectiveType, Node, NodeType, Trace, Value
from euston.training.chakra.write import write_trace
from euston.training.iteration import Iteration, JobRun
from euston.training.slots import UNIT

__all__ = ["ExportLimits", "export", "traces"]

_SHARED = ("gather", "scatter", "copy", "expert_gather", "expert_scatter")
_LANE = {"gather": "data", "scatter": "data", "copy": "copy"}
_POINT = {"forward": 1, "backward": -1}


@dataclass(frozen=True)
class ExportLimits:
    """Most ranks and nodes that are written."""

    ranks: int = 1024
    nodes: int = 3_000_000


class _Op(NamedTuple):
    """One operation of a unit's program, as far as traces need it."""

    kind: str  # compute, a kind of transfers, barrier or norm
    stages: tuple[int, ...]  # that have a node of it, the first of them its own
    deps: tuple[int, ...]
    before: int  # on its stream, -1 for none


def export(
    iteration: Iteration,
    placement: Placement,
    folder: Path,
    *,
    number: int = 0,
    ranks: Sequence[int] | None = None,
    prefix: str = "trace",
    limits: ExportLimits | None = None,
) -> list[Path]:
    """Write ``<prefix>.<rank>.et`` for every rank of a job, and the groups in ``<prefix>.groups.json``.

    Parameters
    ----------
    iteration : Iteration
        Run without folding, so that every replica has its own times.
    ranks : sequence of int, optional
        All of the job unless given.

    Raises
    ------
    ConfigError
        More ranks or nodes than the limits, a folded iteration, or a folder that cannot be written.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        files = []
        groups: dict[str, list[int]] = {}
        for trace in traces(iteration, placement, number=number, ranks=ranks, limits=limits, groups=groups):
            path = folder / f"{prefix}.{trace.rank}.et"
            write_trace(trace, path)
            files.append(path)
        named = folder / f"{prefix}.groups.json"
        named.write_text(json.dumps(groups), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written ({error.strerror or error})") from None
    return files


def traces(
    iteration: Iteration,
    placement: Placement,
    *,
    number: int = 0,
    ranks: Sequence[int] | None = None,
    limits: ExportLimits | None = None,
    groups: dict[str, list[int]] | None = None,
) -> list[Trace]:
    """The traces of a job; ``groups`` is filled with the ranks of every process group."""
    limits = limits or ExportLimits()
    part = iteration.jobs[number]
    world = part.job.parallel.world
    wanted = list(range(world)) if ranks is None else sorted(set(ranks))
    if wanted and not 0 <= wanted[0] <= wanted[-1] < world:
        raise ConfigError(f"--ranks: {wanted[-1]} is not one of the job's; they are 0 to {world - 1}")
    if (part.replicas != 1).any():
        raise ConfigError("a folded step has no times of single replicas; run it with `run.folding: false`")
    writer = _Writer(iteration, part, placement)
    each = max(len(writer.of_stage(s)) for s in range(part.stages.pipeline))
    if len(wanted) > limits.ranks or len(wanted) * each > limits.nodes:
        raise ConfigError(
            f"{len(wanted):,} ranks with up to {each:,} nodes each are too many (at most {limits.ranks:,} "
            f"ranks and {limits.nodes:,} nodes); name some with --ranks"
        )
    found = [writer.trace(rank) for rank in wanted]
    if groups is not None:
        groups.update(writer.groups.named)
    return found


class _Writer:
    def __init__(self, iteration: Iteration, part: JobRun, placement: Placement) -> None:
        self.run, self.part, self.table = iteration.run, part, iteration.table
        self.p, self.v = part.stages.pipeline, part.stages.virtual
        self.both = part.stages.both_ways
        job_number = list(iteration.jobs).index(part)
        self.routes = iteration.wiring.jobs[job_number].routes
        self.groups = Groups(part.job.parallel, placement, self.routes.grid, self.both)
        self.ops = self._ops()
        self.stage_ops: dict[int, list[int]] = {}

    # -- what a unit's operations are --------------------------------------------------------------------

    def _ops(self) -> list[_Op]:
        t = self.part.template.program
        joined: dict[int, tuple[int, ...]] = {}  # joins are replaced by what they wait for
        last: dict[int, int] = {}
        found: list[_Op] = []
        norm_waits = {
            int(d)
            for i in np.flatnonzero(t.kind == Kind.WAIT)
            for d in t.dep[t.dep_ptr[i] : t.dep_ptr[i + 1]]
        }
        for i in range(len(t)):
            raw = t.dep[t.dep_ptr[i] : t.dep_ptr[i + 1]].tolist()
            deps = tuple(dict.fromkeys(j for d in raw for j in joined.get(d, (d,))))
            kind = int(t.kind[i])
            if kind == Kind.JOIN and i not in norm_waits:
                joined[i] = deps
                found.append(_Op("join", (), deps, -1))
                continue
            stream = int(t.stream[i])
            before = last.get(stream, -1) if stream >= 0 else -1
            if stream >= 0:
                last[stream] = i
            name, stages = self._kind(i, kind)
            found.append(_Op(name, stages, deps, before))
        return found

    def _kind(self, i: int, kind: int) -> tuple[str, tuple[int, ...]]:
        t = self.part.template.program
        if kind == Kind.JOIN:
            return "barrier", tuple(range(self.p))
        if kind == Kind.WAIT:
            return "norm", tuple(range(self.p))
        s = int(self.part.template.stage[i])
        if kind == Kind.COMPUTE:
            return "compute", (s,)
        slot = int(t.transfer[i])
        own = len(UNIT) * self.p
        if slot >= own:
            name = _SHARED[(slot - own) // (self.p * self.v)]
            return name, tuple(dict.fromkeys((s, self.p - 1 - s))) if self.both else (s,)
        name, s = UNIT[slot // self.p], slot % self.p
        if name in _POINT:
            return name, (s, (s + _POINT[name]) % self.p)
        return name, (s, self.p - 1 - s) if name == "tied" else (s,)

    def of_stage(self, s: int) -> list[int]:
        """Operations with a node on the ranks of a stage."""
        if s not in self.stage_ops:
            self.stage_ops[s] = [i for i, op in enumerate(self.ops) if s in op.stages]
        return self.stage_ops[s]

    # -- one rank ----------------------------------------------------------------------------------------

    def trace(self, rank: int) -> Trace:
        u, s = self.groups.unit_and_stage(rank)
        nodes = [self._node(rank, u, s, i) for i in self.of_stage(s)]
        job = self.part.job
        metadata: dict[str, Value] = {
            "writer": "euston",
            "job": job.name,
            "ranks": job.parallel.world,
            "step_seconds": float(self.part.step_time),
            "stage": s,
        }
        return Trace(rank, VERSION, tuple(nodes), metadata)

    def _node(self, rank: int, u: int, s: int, i: int) -> Node:
        op = self.ops[i]
        t = self.part.template.program
        at = int(self.part.index[u, i])
        start, end = float(self.run.start[at]), float(self.run.end[at])
        here = set(op.stages)
        receives = op.kind in _POINT and s == op.stages[1] and s != op.stages[0]
        data = () if receives else tuple(d + 1 for d in op.deps if s in self.ops[d].stages)
        before = op.before
        queued = before >= 0 and not receives and s in self.ops[before].stages and before + 1 not in data
        ctrl = (before + 1,) if queued else ()
        label = t.labels[int(t.label[i])]
        attributes: dict[str, Value] = {"is_cpu_op": False}
        if t.micro_batch[i] >= 0:
            attributes["micro_batch"] = int(t.micro_batch[i])
        if t.chunk[i] >= 0:
            attributes["chunk"] = int(t.chunk[i])
        kind = NodeType.COMP
        if op.kind != "compute":
            kind, more = self._communication(rank, op, i, at, receives, here)
            attributes |= more
        return Node(i + 1, label, int(kind), ctrl, data, start, end - start, attributes)

    def _communication(
        self, rank: int, op: _Op, i: int, at: int, receives: bool, here: set[int]
    ) -> tuple[NodeType, dict[str, Value]]:
        found: dict[str, Value] = {"comm_tag": i}
        if op.kind in ("barrier", "norm"):
            kind = CollectiveType.BARRIER if op.kind == "barrier" else CollectiveType.ALL_REDUCE
            return NodeType.COMM_COLL, found | {
                "comm_type": int(kind),
                "comm_size": 0 if op.kind == "barrier" else 4,
                "wire_bytes": 0.0,
                "pg_name": self.groups.world(),
            }
        repeats = float(self.run.program.work[at])
        transfer = int(self.run.program.transfer[at])
        flows = slice(int(self.table.ptr[transfer]), int(self.table.ptr[transfer + 1]))
        size = self.table.size[flows]
        if op.kind in _POINT:
            wire = float(size.sum()) * repeats
            peer = self.groups.peer(rank, op.stages[0] if receives else op.stages[1])
            src, dst = (peer, rank) if receives else (rank, peer)
            kind_ = NodeType.COMM_RECV if receives else NodeType.COMM_SEND
            return kind_, found | {
                "comm_size": round(wire),
                "wire_bytes": wire,
                "comm_src": src,
                "comm_dst": dst,
            }
        collective, lane_name = self._collective(op.kind)
        lane = self.routes.lanes.get(lane_name) or self.routes.lanes["expert_inside"]
        stage = op.stages[0]
        wire = self._wire(lane_name, size, stage) * repeats
        name, _ = self.groups.of(lane_name, rank)
        n = max(2, lane.ranks)
        # the whole buffer of a ring: Patarasuk & Yuan 2009; of an all-to-all, what a rank sends and keeps
        factor = 2 * (n - 1) / n if collective == CollectiveType.ALL_REDUCE else (n - 1) / n
        found |= {
            "comm_type": int(collective),
            "comm_size": round(wire / factor),
            "wire_bytes": wire,
            "pg_name": name,
            "uses": repeats,
        }
        if op.kind == "tensor" and collective == CollectiveType.ALL_GATHER:
            found["in_turns_with"] = int(CollectiveType.REDUCE_SCATTER)
        return NodeType.COMM_COLL, found

    def _wire(self, lane_name: str, size: NDArray[np.float64], stage: int) -> float:
        """Bytes that one rank sends, from those that members of the flows carry."""
        lanes = self.routes.lanes
        if lane_name == "expert" and size.size == 2:
            return float(
                size[0] / lanes["expert"].share[stage] + size[1] / lanes["expert_inside"].share[stage]
            )
        lane = lanes.get(lane_name) or lanes["expert_inside"]
        return float(size.sum() / lane.share[stage])

    def _collective(self, kind: str) -> tuple[CollectiveType, str]:
        job = self.part.job
        if kind == "tensor":
            # with sequence parallelism gathers and scatters in turns, which cost a ring the same
            gathers = job.parallel.sequence
            return (CollectiveType.ALL_GATHER if gathers else CollectiveType.ALL_REDUCE), "tensor"
        if kind == "context":
            passed = job.software.context != "ulysses"
            return (CollectiveType.ALL_GATHER if passed else CollectiveType.ALL_TO_ALL), "context"
        if kind == "expert":
            return CollectiveType.ALL_TO_ALL, "expert"
        if kind == "tied":
            return CollectiveType.ALL_REDUCE, "tied"
        reduce = (
            CollectiveType.ALL_REDUCE if job.parallel.sharding == "none" else CollectiveType.REDUCE_SCATTER
        )
        lane = _LANE.get(kind, "expert_data")
        if kind == "copy":
            return CollectiveType.ALL_REDUCE, lane
        return (CollectiveType.ALL_GATHER if kind.endswith("gather") else reduce), lane
