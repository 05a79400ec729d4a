"""Serving: clusters of inference engines in time."""

from euston.serving.autoscale import Autoscaler, Scaling
from euston.serving.deployment import (
    EVICTIONS,
    ROUTERS,
    SCHEDULERS,
    Deployment,
    Engine,
    Pool,
    Router,
    Speculation,
    Tier,
    Transport,
)
from euston.serving.engine import Arrived, Handover, Network, Replica, Serving, serve
from euston.serving.network import Handovers
from euston.serving.requests import Requests
from euston.serving.result import Outcome, ServingResult
from euston.serving.step_time import Rate, StepTime, StepTimeProvider, dense

__all__ = [
    "EVICTIONS",
    "ROUTERS",
    "SCHEDULERS",
    "Arrived",
    "Autoscaler",
    "Deployment",
    "Engine",
    "Handover",
    "Handovers",
    "Network",
    "Outcome",
    "Pool",
    "Rate",
    "Replica",
    "Requests",
    "Router",
    "Scaling",
    "Serving",
    "ServingResult",
    "Speculation",
    "StepTime",
    "StepTimeProvider",
    "Tier",
    "Transport",
    "dense",
    "serve",
]
