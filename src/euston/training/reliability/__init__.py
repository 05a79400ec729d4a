"""Weeks of training on parts that fail: failures, checkpoints, restarts, and what they leave of the time."""

from .campaign import Campaign, run_campaign, run_repeats
from .checkpoint import BYTES_PER_PARAMETER, Checkpoint, CheckpointCost
from .closed_form import daly, ettr_exact, ettr_first_order, segment_time, young
from .laws import Exponential, Law, Mixture, Weibull, bathtub
from .modes import Effect, Mode, Population, effect_of, modes, population_of_hosts
from .outcome import campaign_result
from .rates import COMPONENTS, mean_lifetimes, named_laws
from .record import KINDS, Event, Interval, Outcome
from .recovery import Recovery
from .states import Fault, FixedSteps, SimulatedSteps, State, Step, StepModel

__all__ = [
    "BYTES_PER_PARAMETER",
    "COMPONENTS",
    "KINDS",
    "Campaign",
    "Checkpoint",
    "CheckpointCost",
    "Effect",
    "Event",
    "Exponential",
    "Fault",
    "FixedSteps",
    "Interval",
    "Law",
    "Mixture",
    "Mode",
    "Outcome",
    "Population",
    "Recovery",
    "SimulatedSteps",
    "State",
    "Step",
    "StepModel",
    "Weibull",
    "bathtub",
    "campaign_result",
    "daly",
    "effect_of",
    "ettr_exact",
    "ettr_first_order",
    "mean_lifetimes",
    "modes",
    "named_laws",
    "population_of_hosts",
    "run_campaign",
    "run_repeats",
    "segment_time",
    "young",
]
