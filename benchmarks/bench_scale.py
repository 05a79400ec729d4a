"""A step of Llama 3 405B on 131,072 accelerators, replicas folded into classes and each on its own.

The layout is the demo's (8-way tensor, 16 stages, 16 micro-batches per replica) with 1,024 replicas. Folded
it runs with the demo's 8 chunks per stage too; unfolded with one, because memory grows with replicas times
operations. The `check` of the cases with one chunk is the same number: folding changes nothing.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from _harness import Outcome, case, main

if TYPE_CHECKING:
    from euston.cluster import Site
    from euston.training import Iteration

HOSTS = 16_384


@cache
def _site() -> Site:
    from euston.catalog import accelerator
    from euston.cluster import Site
    from euston.fabrics import clos

    fabric = clos(
        HOSTS, 8, nic="400 Gb/s", hosts_per_tor=2, tors_per_pod=192, aggs_per_pod=8, cores_per_agg=16,
        oversubscription=(1, 7), scale_up="450 GB/s",
    )  # fmt: skip
    return Site("scale", accelerator("h100-sxm"), HOSTS, 8, fabric)


def _step(virtual: int, folding: bool) -> Iteration:
    from euston.cluster import Parallel, place
    from euston.devices import GPU
    from euston.models import transformer
    from euston.training import Conditions, TrainingJob, run_iteration, software

    site = _site()
    parallel = Parallel(
        tensor=8, sequence=True, pipeline=16, virtual=virtual, data=HOSTS // 16, sharding="zero2"
    )
    job = TrainingJob(
        transformer("llama3-405b"),
        parallel,
        global_batch=16 * parallel.data,
        sequence=8192,
        schedule="interleaved" if virtual > 1 else "1f1b",
        software=software("llama3-2024"),
    )
    return run_iteration(
        [(job, place(parallel, site))], site, [GPU(site.accelerator)], Conditions(folding=folding)
    )


def _outcome(iteration: Iteration) -> Outcome:
    job = iteration.jobs[0]
    work = {
        "accelerators": float(job.job.parallel.world),
        "replicas": float(job.replicas.sum()),
        "replica_classes": float(job.replicas.size),
        "operations": float(len(iteration.run.program)),
        "events": float(iteration.run.events),
        "columns_solved": float(iteration.classes),
    }
    return Outcome(work=work, check=job.step_time)


@case("131,072 accelerators, folded, 8 chunks per stage")
def folded() -> Outcome:
    return _outcome(_step(8, True))


@case("131,072 accelerators, folded, 1 chunk per stage")
def folded_plain() -> Outcome:
    return _outcome(_step(1, True))


@case("131,072 accelerators, every replica on its own, 1 chunk per stage", repeat=1)
def unfolded() -> Outcome:
    return _outcome(_step(1, False))


if __name__ == "__main__":
    main()
