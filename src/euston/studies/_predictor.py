"""Seconds per iteration of many training jobs, each by the cheapest path that gives the executed step's time.

A step of many micro-batches is periodic once its pipeline is full: one more period of p micro-batches (the
schedule's group) adds the same time every time. So two short steps are executed, `WARM_UP` and one more
periods long, and what the last period added is added for all the others. `test_predictor` compares with steps
executed whole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

from euston.assemble import device, fabric
from euston.catalog import Accelerator
from euston.cluster import Site, place
from euston.devices import GPU
from euston.scenario import build
from euston.scenario.fabrics import FabricSection
from euston.scenario.sites import SiteSection
from euston.training import TrainingJob, Wiring, run_iteration

from ._facts import Machines

__all__ = ["Predicted", "Predictor"]

#: Periods until a step is steady: the pipeline fills in one, drains in another, reductions overlap a third.
WARM_UP = 3


class Predicted(NamedTuple):
    """Seconds of one iteration, and with the second kernel table in place of the sustained-rate cap.

    The second is the first scaled by how a short step changes.
    """

    seconds: float
    profile: float

    @property
    def band(self) -> tuple[float, float]:
        """The model's own uncertainty: both, in order."""
        return min(self), max(self)


class Predictor:
    """Predicts jobs, with the sites, devices, routes and predictions of one run kept."""

    def __init__(self) -> None:
        self.sites: dict[tuple[Any, ...], Site] = {}
        self.devices: dict[tuple[str, ...], GPU] = {}
        self.found: dict[tuple[Any, ...], Predicted] = {}

    def predict(self, job: TrainingJob, accelerator: Accelerator, machines: Machines) -> Predicted:
        """Seconds of one iteration, with the default prices and with the second kernel table's."""
        key = (job, accelerator.name, machines)
        if key not in self.found:
            site = self._site(accelerator, job.parallel.world, machines)
            placement = place(job.parallel, site)
            kept: list[Wiring] = []  # routes depend on neither prices nor micro-batches

            done: dict[tuple[TrainingJob, int], float] = {}

            def step(job: TrainingJob, pricer: GPU) -> float:
                if (job, id(pricer)) not in done:
                    known = kept[0] if kept else None
                    iteration = run_iteration([(job, placement)], site, [pricer], wiring=known)
                    kept[:] = [iteration.wiring]
                    done[job, id(pricer)] = iteration.jobs[0].step_time
                return done[job, id(pricer)]

            capped, profile = (self._device(accelerator, job, gemms) for gemms in GEMM_SOURCES)
            seconds, short = _steady(job, capped, step)
            self.found[key] = Predicted(seconds, seconds * step(short, profile) / step(short, capped))
        return self.found[key]

    def _site(self, accelerator: Accelerator, world: int, machines: Machines) -> Site:
        per_host = machines.accelerators_per_host
        hosts = -(-world // per_host)
        key = (accelerator.name, hosts, machines)
        if key not in self.sites:
            values = dict(machines.values)
            if "hosts_per_domain" in values:
                values["hosts_per_domain"] = segment(hosts, values["hosts_per_domain"])
            section = SiteSection(
                name="site", accelerator=accelerator.name, hosts=hosts, accelerators_per_host=per_host,
                fabric=FabricSection(preset=machines.fabric, **values),
            )  # fmt: skip
            built = fabric(build.fabric_values(section), section, accelerator)
            self.sites[key] = Site("site", accelerator, hosts, per_host, built)
        return self.sites[key]

    def _device(self, accelerator: Accelerator, job: TrainingJob, gemms: str) -> GPU:
        key = (accelerator.name, job.software.attention_kernel, job.software.cuda_graphs, gemms)
        if key not in self.devices:
            self.devices[key] = device(accelerator, job, gemm_source=gemms)
        return self.devices[key]


#: Whose GEMM rates: the kernel table under the sustained-rate cap, and the second, older kernel table.
GEMM_SOURCES = ("table+cap", "profile")


def _steady(
    job: TrainingJob, pricer: GPU, step: Callable[[TrainingJob, GPU], float]
) -> tuple[float, TrainingJob]:
    """Seconds of a step, and the shortest job that was executed for it."""
    period = job.parallel.pipeline * (2 if job.schedule == "dualpipe" else 1)
    least = WARM_UP * period
    periods, rest = divmod(job.micro_batches - least, period)
    if periods < 2 or job.work is not None:
        return step(job, pricer), job
    each = job.parallel.data * job.micro_batch
    # the odd micro-batches of a last, shorter period stay in both
    short = replace(job, global_batch=each * (least + rest))
    longer = replace(job, global_batch=each * (least + rest + period))
    first, second = step(short, pricer), step(longer, pricer)
    return second + (periods - 1) * (second - first), short


def segment(hosts: int, most: int) -> int:
    """Hosts of a job in each scale-up domain: equal parts, as large as the domain allows.

    A job on racks of 18 hosts takes 16 of each when it needs 64: NeMo's launcher asks Slurm for segments of
    the largest divisor up to 18.
    """
    return max(n for n in range(1, most + 1) if hosts % n == 0)
