"""What would make a job fit: single changes tried one by one, the mildest first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from euston.cluster.parallel import Sharding
from euston.errors import ConfigError

from .job import TrainingJob

_SHARDING: tuple[Sharding, ...] = ("none", "zero1", "zero2", "zero3")


def _changes(job: TrainingJob) -> Iterator[tuple[str, TrainingJob]]:
    """(what to write, the changed job), from what costs least time to what costs most."""
    parallel = job.parallel
    if parallel.tensor > 1 and not parallel.sequence:
        yield "parallel.sequence: true", replace(job, parallel=replace(parallel, sequence=True))
    if parallel.data * parallel.context > 1:
        for level in _SHARDING[_SHARDING.index(parallel.sharding) + 1 :]:
            yield f"parallel.sharding: {level}", replace(job, parallel=replace(parallel, sharding=level))
    if job.recompute == "none" and job.software.attention == "unfused":
        yield "recompute: selective", replace(job, recompute="selective")
    if job.micro_batch > 1:
        half = job.micro_batch // 2
        yield f"batch.micro: {half}", replace(job, micro_batch=half)
    if parallel.virtual > 1:
        plain = replace(parallel, virtual=1)
        yield "parallel.virtual: 1 (schedule 1f1b)", replace(job, parallel=plain, schedule="1f1b")
    if job.recompute != "full":
        yield "recompute: full", replace(job, recompute="full")
    if parallel.data % 2 == 0:
        wider = replace(parallel, tensor=2 * parallel.tensor, data=parallel.data // 2)
        yield f"parallel.tensor: {wider.tensor} (data {wider.data})", replace(job, parallel=wider)
        deeper = replace(parallel, pipeline=2 * parallel.pipeline, data=parallel.data // 2)
        yield f"parallel.pipeline: {deeper.pipeline} (data {deeper.data})", replace(job, parallel=deeper)


def advice(job: TrainingJob, need: Callable[[TrainingJob], float], needed: float, capacity: float) -> str:
    """The first single change that fits, else the one that saves most; "" where nothing saves anything.

    Parameters
    ----------
    need : callable
        Bytes that a job needs on its worst stage.
    needed, capacity : float
        Bytes the job needs now and bytes there are.
    """
    best = ("", needed)
    for text, changed in _changes(job):
        try:
            changed.check()
        except ConfigError:
            continue
        size = need(changed)
        if size <= capacity:
            return f"`{text}` would fit with {size / 2**30:.1f} GiB"
        if size < best[1]:
            best = (text, size)
    if not best[0]:
        return "no single change of the layout helps"
    return f"`{best[0]}` saves most but still needs {best[1] / 2**30:.1f} GiB"
