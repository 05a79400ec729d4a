"""Accelerators of different kinds in one job: how fast each host is next to the kind that prices the job."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from euston.cluster import Site
from euston.devices import GPU
from euston.errors import ConfigError
from euston.training.costs import costs
from euston.training.job import TrainingJob

__all__ = ["host_speeds", "relative_speed"]


def relative_speed(job: TrainingJob, device: GPU, other: GPU) -> float:
    """How many times as fast ``other`` computes the job's passes as ``device`` does.

    One number for forward and backward of all stages: the ratio of their seconds per step. Links of other
    kinds of hosts are the fabric's business.
    """
    stages = job.place()
    spent = [
        sum(chunk.forward + chunk.backward for row in costs(job, stages, gpu).chunks for chunk in row)
        for gpu in (device, other)
    ]
    return spent[0] / spent[1]


def host_speeds(job: TrainingJob, site: Site, device: GPU, others: Mapping[int, GPU]) -> NDArray[np.float64]:
    """Speed of every host of a site whose hosts in ``others`` have other accelerators, float64[hosts].

    For `Conditions.host_speed`; ``device`` prices the job.

    Raises
    ------
    ConfigError
        For a host that the site does not have.
    """
    speeds = np.ones(site.hosts)
    known: dict[str, float] = {}
    for host, gpu in others.items():
        if not 0 <= host < site.hosts:
            raise ConfigError(
                f"`hosts`: host {host} does not exist; site {site.name!r} has 0 to {site.hosts - 1}"
            )
        name = gpu.accelerator.name
        if name not in known:
            known[name] = relative_speed(job, device, gpu)
        speeds[host] = known[name]
    return speeds
