"""Steps of Llama 3 405B that fold and that do not, and one ring all-reduce: the speed bars of training."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from _harness import Outcome, case, main

if TYPE_CHECKING:
    from euston.cluster import Site
    from euston.fabrics import Fabric
    from euston.training import Iteration


@cache
def _site(hosts: int) -> Site:
    from euston.catalog import accelerator
    from euston.cluster import Site
    from euston.fabrics import clos

    fabric = clos(
        hosts, 8, nic="400 Gb/s", hosts_per_tor=2, tors_per_pod=192, aggs_per_pod=8, cores_per_agg=16,
        oversubscription=(1, 7), scale_up="450 GB/s",
    )  # fmt: skip
    return Site("scale", accelerator("h100-sxm"), hosts, 8, fabric)


def _step(hosts: int, jitter: float) -> Iteration:
    from euston.cluster import Parallel, place
    from euston.devices import GPU
    from euston.models import transformer
    from euston.training import Conditions, TrainingJob, run_iteration, software

    site = _site(hosts)
    parallel = Parallel(tensor=8, sequence=True, pipeline=16, virtual=8, data=hosts // 16, sharding="zero2")
    job = TrainingJob(
        transformer("llama3-405b"), parallel, global_batch=16 * parallel.data, sequence=8192,
        schedule="interleaved", software=software("llama3-2024"),
    )  # fmt: skip
    placed = [(job, place(parallel, site))]
    return run_iteration(placed, site, [GPU(site.accelerator)], Conditions(jitter=jitter))


def _outcome(found: Iteration) -> Outcome:
    part = found.jobs[0]
    work = {
        "accelerators": float(part.job.parallel.world),
        "replica_classes": float(part.replicas.size),
        "operations": float(len(found.run.program)),
        "events": float(found.run.events),
    }
    return Outcome(work=work, check=part.step_time)


@case("405B on 16,384 accelerators, folded")
def folded() -> Outcome:
    return _outcome(_step(2048, 0.0))


@case("405B on 16,384 accelerators, each with a speed of its own")
def jittered() -> Outcome:
    return _outcome(_step(2048, 0.01))


@case("405B on 131,072 accelerators, folded")
def large() -> Outcome:
    return _outcome(_step(16_384, 0.0))


@cache
def _fabric(hosts: int) -> Fabric:
    from euston.fabrics import clos

    return clos(
        hosts, 1, nic="400 Gb/s", hosts_per_tor=32, tors_per_pod=16, aggs_per_pod=16, cores_per_agg=16
    )


@case("ring all-reduce of 64 MiB on 4,096 ranks")
def ring() -> Outcome:
    import numpy as np

    from euston.clock import ProgramBuilder, TransferTable, execute
    from euston.collectives import Hop, collective, group_of, write_collective
    from euston.network import Transfer, Transfers, lower
    from euston.network.balancing.spray import Spray

    fabric = _fabric(4096)
    planned = collective("all_reduce", group_of(np.arange(4096), between=Hop(5e-6)), 64 * 2**20, "ring")
    builder, table = ProgramBuilder(), list[Transfer]()
    write_collective(builder, table, planned)
    low = lower(Transfers.of(table), fabric, Spray())
    transfers = TransferTable(
        low.ptr, low.column, low.size, low.weight, low.rate_cap, low.transfers.latency,
        np.zeros(len(table)), low.binding,
    )  # fmt: skip
    run = execute(builder.build(), transfers, low.capacity)
    return Outcome(work={"ranks": 4096.0, "events": float(run.events)}, check=run.makespan)


if __name__ == "__main__":
    main()
