"""Scenario files: one description of sites, jobs and policies, validated before anything runs."""

from euston.scenario._check import check
from euston.scenario._files import dump, from_data, load, loads, schema, with_place, yaml_text
from euston.scenario._problems import ScenarioError
from euston.scenario.allocation import AllocationSection
from euston.scenario.fabrics import FabricSection
from euston.scenario.jobs import (
    AssumptionSection,
    BatchSection,
    HfSection,
    ParallelSection,
    PlacementSection,
    ReferenceSection,
    ShapeSection,
    TrainingSection,
)
from euston.scenario.model import FaultSection, PoliciesSection, RunSection, Scenario
from euston.scenario.policies import BalancingSection
from euston.scenario.sites import PowerSection, SiteSection

__all__ = [
    "AllocationSection",
    "AssumptionSection",
    "BalancingSection",
    "BatchSection",
    "FabricSection",
    "FaultSection",
    "HfSection",
    "ParallelSection",
    "PlacementSection",
    "PoliciesSection",
    "PowerSection",
    "ReferenceSection",
    "RunSection",
    "Scenario",
    "ScenarioError",
    "ShapeSection",
    "SiteSection",
    "TrainingSection",
    "check",
    "dump",
    "from_data",
    "load",
    "loads",
    "schema",
    "with_place",
    "yaml_text",
]
