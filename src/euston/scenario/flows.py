"""Traffic jobs of a scenario as flows on a fabric, all jobs in one list."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from euston.errors import BadInput, ConfigError, at
from euston.fabrics import Fabric
from euston.network import Flows
from euston.scenario.model import Scenario
from euston.scenario.traffic import (
    CollectiveFlows,
    FileFlows,
    PatternFlows,
    PipelineFlows,
    TrafficSection,
    size_file,
)
from euston.seeds import stream
from euston.traffic.io import read_flows
from euston.traffic.jobs import on_off, pipeline
from euston.traffic.load import burst, open_loop
from euston.traffic.matrices import Matrix, matrix, racks
from euston.traffic.programs import NESTED
from euston.traffic.sizes import size_distribution
from euston.traffic.traffic import Collective, Traffic

__all__ = ["JobTraffic", "job_traffic", "traffic_of"]

LOGARITHMIC = ("halving_doubling", "tree", "swing")
MOST_MESSAGES = 2**25


@dataclass(frozen=True, eq=False)
class JobTraffic:
    """The flows of all traffic jobs.

    Attributes
    ----------
    traffic : Traffic
        One list; ``about`` by job name.
    jobs : tuple of str
    job : int32[F]
        Job of each flow.
    """

    traffic: Traffic
    jobs: tuple[str, ...]
    job: NDArray[np.int32]


def traffic_of(s: Scenario, fabric: Fabric) -> JobTraffic:
    """Flows of all jobs of ``s``, which are traffic.

    Raises
    ------
    BadInput
        With the place in the scenario, or in the file of flows.
    """
    return _joined([job.name for job in s.jobs], [job_traffic(s, i, fabric) for i in range(len(s.jobs))])


def job_traffic(s: Scenario, number: int, fabric: Fabric) -> Traffic:
    """Flows of job ``number`` between endpoints of ``fabric``."""
    section = s.jobs[number]
    assert isinstance(section, TrafficSection)
    where = f"jobs[{number}].flows"
    g = fabric.accelerators_per_host
    hosts = np.array(s.hosts_of(number), np.int64)
    ends = (hosts[:, None] * g + np.arange(g)).ravel()
    given = section.flows
    seed = getattr(given, "seed", None)
    if seed is None:
        seed = int(stream(s.run.seed, "job", section.name).integers(2**53))
    if isinstance(given, FileFlows):
        made = Traffic(_from_file(s.folder / given.file, given, ends, where), {"file": given.file})
    elif isinstance(given, PatternFlows):
        made = _placed(where, lambda: _pattern(s, given, fabric, ends, seed))
    elif isinstance(given, CollectiveFlows):
        values = given.model_dump()
        kind, size = values.pop("collective"), int(values.pop("bytes"))
        factors = {int(k): v for k, v in values.pop("slow").items()}
        if max(factors, default=0) >= ends.size:
            raise ConfigError(at(f"{where}.slow", f"{max(factors)}; the job has 0 to {ends.size - 1}"))
        slow = {int(ends[k]): v for k, v in factors.items()}
        _few_enough(given, hosts.size if given.algorithm in NESTED else ends.size, where)
        grid = ends.reshape(-1, g) if g > 1 else ends
        made = _placed(
            where, lambda: on_off(grid, size, collective=kind, slow=slow, **values | {"seed": seed})
        )
    else:
        assert isinstance(given, PipelineFlows)
        values = given.model_dump()
        stages, size = values.pop("stages"), int(values.pop("bytes"))
        if ends.size % stages:
            raise ConfigError(
                at(f"{where}.stages", f"{ends.size} accelerators do not divide into {stages} stages")
            )
        made = _placed(where, lambda: pipeline(ends.reshape(stages, -1), size, **values))
    return replace(made, flows=_marked(made.flows, section))


def _few_enough(given: CollectiveFlows, ranks: int, where: str) -> None:
    """Refuse rings and direct exchanges whose messages would not fit memory, before they are written."""
    rounds = given.iterations * given.channels if given.form == "steps" else 1
    if given.algorithm not in LOGARITHMIC and 2 * ranks**2 * rounds > MOST_MESSAGES:
        raise ConfigError(
            at(
                where,
                f"{given.collective} of {ranks:,} ranks takes {2 * ranks**2 * rounds:,} messages, at most "
                f"{MOST_MESSAGES:,}; use hierarchical or halving_doubling, fewer ranks or iterations, or a "
                "pattern such as ring",
            )
        )


def _placed(where: str, make: Callable[[], Traffic]) -> Traffic:
    """What ``make`` gives; its errors name the place in the scenario."""
    try:
        return make()
    except BadInput as error:
        message = str(error)
        if message.startswith("`"):
            key, _, rest = message[1:].partition("`")
            renamed = {"on": "load_on", "ranks": "", "pattern": "pattern"}.get(key, key)
            place = f"{where}.{renamed}" if renamed.isidentifier() else where
            raise ConfigError(f"`{place}`{rest}") from None
        raise ConfigError(at(where, message)) from None


def _from_file(path: Path, given: FileFlows, ends: NDArray[np.int64], where: str) -> Flows:
    try:
        flows = read_flows(path, format=given.format)
    except BadInput as error:
        raise type(error)(at(f"{where}.file", str(error).replace("`", ""))) from None
    worst = np.maximum(flows.src, flows.dst)
    if worst.max() >= ends.size:
        flow = int(np.argmax(worst >= ends.size))
        raise ConfigError(
            at(
                f"{where}.file",
                f"flow {flow} of {path.name} names endpoint {worst[flow]}; the job has 0 to {ends.size - 1}",
            )
        )
    return replace(flows, src=ends[flows.src].astype(np.int32), dst=ends[flows.dst].astype(np.int32))


def _pattern(s: Scenario, given: PatternFlows, fabric: Fabric, ends: NDArray[np.int64], seed: int) -> Traffic:
    options: dict[str, Any] = given.parameters
    if given.pattern in ("rack_skew", "hot_rack"):
        options["rack"] = racks(fabric)[ends]
    found = matrix(given.pattern, int(ends.size), seed=seed, **options)
    lifted = found if ends.size == fabric.endpoints else _lifted(found, ends, fabric.endpoints)
    sizes = size_distribution(_size_spec(s, given.bytes))
    if given.load is None:
        return burst(
            lifted, sizes, rounds=given.rounds, period=given.period, jitter=given.jitter, flows=given.flows,
            seed=seed,
        )  # fmt: skip
    assert given.duration is not None
    return open_loop(
        fabric, lifted, sizes, load=given.load, duration=given.duration, arrivals=given.arrivals,
        sigma=given.sigma, on=given.load_on, seed=seed,
    )  # fmt: skip


def _size_spec(s: Scenario, spec: Any) -> Any:
    """``spec`` with its file, if it names one, relative to the scenario."""
    file = size_file(spec)
    return spec if file is None else {"distribution": "file", "file": str(s.folder / file)}


def _lifted(small: Matrix, ends: NDArray[np.int64], endpoints: int) -> Matrix:
    """A matrix over some endpoints as one over all, in which the others are silent."""
    share = np.zeros(endpoints)
    share[ends] = small.share
    local = np.full(endpoints, -1, np.int64)
    local[ends] = np.arange(ends.size)
    draw, likely = small.sample, small.likelihood
    out = ends.astype(np.int32)

    def sample(src: NDArray[np.int32], generator: np.random.Generator) -> NDArray[np.int32]:
        assert draw is not None
        return out[draw(local[src].astype(np.int32), generator)]

    def likelihood(src: NDArray[np.int64], dst: NDArray[np.int64]) -> NDArray[np.float64]:
        assert likely is not None
        known = (local[src] >= 0) & (local[dst] >= 0)
        found = np.zeros(src.size)
        found[known] = likely(local[src[known]], local[dst[known]])
        return found

    drawn = draw is not None
    return Matrix(
        small.kind, endpoints, share, out[small.src], out[small.dst], small.about,
        sample if drawn else None, likelihood if drawn else None,
    )  # fmt: skip


def _marked(flows: Flows, section: TrafficSection) -> Flows:
    """Flows with what the job says about all of them."""
    values: dict[str, Any] = {
        name: np.full(len(flows), value, getattr(flows, name).dtype)
        for name in ("weight", "queue", "priority")
        if (value := getattr(section, name)) is not None
    }
    if section.rate_cap is not None:
        values["rate_cap"] = np.minimum(flows.rate_cap, section.rate_cap)
    if section.start:
        values["start"] = flows.start + section.start
    return replace(flows, **values) if values else flows


def _joined(names: Sequence[str], parts: Sequence[Traffic]) -> JobTraffic:
    """One list of all flows; groups of several jobs carry the job's name."""
    counts = np.array([len(part) for part in parts])
    job = np.repeat(np.arange(len(parts), dtype=np.int32), counts)
    if len(parts) == 1:
        return JobTraffic(parts[0], tuple(names), job)
    flows = [part.flows for part in parts]
    before = np.cumsum(counts) - counts
    tags: list[str] = []
    group, after_ptr, after = [], [np.zeros(1, np.int64)], []
    collectives: list[Collective] = []
    for name, part, first in zip(names, parts, before.tolist(), strict=True):
        f = part.flows
        group.append(np.where(f.group >= 0, f.group + len(tags), -1))
        tags += [f"{name}: {tag}" for tag in f.tags]
        known = part.collectives or tuple(Collective(tag, "send", "", 2, 0) for tag in f.tags)
        collectives += [replace(c, name=f"{name}: {c.name}") for c in known]
        after_ptr.append(f.after_ptr[1:] + after_ptr[-1][-1])
        after.append(f.after + np.int32(first))
    every = {
        name: np.concatenate([getattr(f, name) for f in flows])
        for name in ("src", "dst", "bytes", "start", "delay", "weight", "queue", "priority", "rate_cap")
    }
    joined = Flows(
        **every,
        after_ptr=np.concatenate(after_ptr),
        after=np.concatenate(after).astype(np.int32),
        group=np.concatenate(group).astype(np.int32),
        tags=tuple(tags),
    )
    about = {"jobs": {name: part.about for name, part in zip(names, parts, strict=True)}}
    some = any(part.collectives for part in parts)
    return JobTraffic(Traffic(joined, about, tuple(collectives) if some else ()), tuple(names), job)
