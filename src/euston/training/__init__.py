"""Training jobs in time: the job, its stages and schedule, the memory it takes."""

from .analytic import analyse
from .analytic_result import analytic_result
from .conditions import Conditions, HostFault, LinkFault
from .iteration import Composed, Iteration, JobRun, collect, compose, run_iteration
from .job import SoftwareProfile, TrainingJob, software
from .memory import Fit, fits, memory, require_fit
from .mixed import host_speeds, relative_speed
from .outcome import job_result, job_scalars, link_table, model_flops
from .schedule import StageOrder, in_flight, order, stage_order
from .stages import Stages, place
from .wiring import Wiring, wire

__all__ = [
    "Composed",
    "collect",
    "compose",
    "Conditions",
    "analyse",
    "analytic_result",
    "HostFault",
    "Iteration",
    "JobRun",
    "LinkFault",
    "job_result",
    "job_scalars",
    "link_table",
    "model_flops",
    "run_iteration",
    "Fit",
    "SoftwareProfile",
    "StageOrder",
    "Stages",
    "TrainingJob",
    "fits",
    "host_speeds",
    "in_flight",
    "memory",
    "order",
    "place",
    "relative_speed",
    "require_fit",
    "Wiring",
    "software",
    "stage_order",
    "wire",
]
