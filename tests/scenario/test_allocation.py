"""`policies.allocation`: every policy by name with its own settings, refused in words where wrong."""

from __future__ import annotations

from dataclasses import fields

import pytest

from euston import scenario as sc
from euston.assemble import site
from euston.errors import ConfigError
from euston.network.allocation import ALLOCATION, Place, TransferInfo
from euston.network.allocation.per_job import PerJob
from euston.network.allocation.static_queues import StaticQueues
from euston.network.allocation.strict_priority import StrictPriority
from euston.scenario.allocation import AllocationSection

TEXT = """\
version: 1
sites: [{{name: main, accelerator: h100-sxm, hosts: 16, fabric: {{kind: clos, nic: 400 Gb/s}}}}]
jobs:
  - name: pretrain
    kind: training
    model: llama3-8b
    parallel: {{tensor: 8, data: 2}}
    batch: {{global: 64, micro: 1, sequence: 8192}}
policies: {{allocation: {0}}}
"""


def section(text: str) -> AllocationSection:
    return sc.loads(TEXT.format(text), "s.yaml").policies.allocation


@pytest.mark.parametrize("name", ALLOCATION.names())
def test_every_policy_has_a_section_of_its_own(name: str) -> None:
    """The short and the long form agree; its keys are the policy's fields; it comes back from its dump."""
    assert section(name) == section(f"{{kind: {name}}}")
    assert section(name).make() == ALLOCATION.get(name)()
    assert list(section(name).settings) == [field.name for field in fields(ALLOCATION.get(name))]
    scenario = sc.loads(TEXT.format(name))
    assert sc.loads(sc.dump(scenario)) == scenario


def test_plain_max_min_unless_said() -> None:
    assert sc.loads(TEXT.format("{}")).policies.allocation.kind == "max_min"
    assert section("max_min").make() == ALLOCATION.get("max_min")()


def test_settings_become_the_policys() -> None:
    assert section("{kind: per_job, weights: {pretrain: 3}}").make() == PerJob({"pretrain": 3.0})
    assert section("{kind: strict_priority, levels: {pretrain: 1, data: 0}}").make() == StrictPriority(
        {"pretrain": 1, "data": 0}
    )
    table = section("{kind: static_queues, weights: [1, 3], queues: {data: 1}, links: {'tor_up/*': [2, 1]}}")
    assert table.make() == StaticQueues((1.0, 3.0), {"data": 1}, {}, {"tor_up/*": (2.0, 1.0)})


def test_a_run_begins_on_the_fabric() -> None:
    scenario = sc.loads(TEXT.format("{kind: static_queues, weights: [1, 3], queues: {pretrain/data: 1}}"))
    fabric = site(scenario, scenario.sites[0]).fabric
    allocator = scenario.policies.allocation.begin(fabric, ["pretrain"], ["tensor", "data"])
    assert allocator.plan.weights.tolist() == [1.0, 3.0]
    assert allocator.place(TransferInfo(job="pretrain", kind="data")) == Place(1)
    wrong = section("{kind: strict_priority, levels: {dat: 0}}")
    with pytest.raises(ConfigError, match=r"`policies.allocation.levels.dat`: .*did you mean 'data'"):
        wrong.begin(fabric, ["pretrain"], ["tensor", "data"])


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("maxmin", "policies.allocation", "unknown allocation policy 'maxmin'; did you mean 'max_min'?"),
        ("{kind: per_job, weight: {a: 1}}", "policies.allocation.weight", "did you mean 'weights'"),
        ("{kind: max_min, weights: {a: 1}}", "policies.allocation.weights", "unknown key"),
        ("{kind: per_job, weights: {pretrain: 0}}", "policies.allocation.weights", "must be positive"),
        ("{kind: per_job, weights: {pretrain: one}}", "policies.allocation.weights.pretrain", "not a number"),
        ("{kind: strict_priority, levels: {pretrain: 1.5}}", "policies.allocation.levels", "whole number"),
        ("{kind: static_queues, weights: [1, 2], queues: {data: 2}}", "policies.allocation.queues", "0 to 1"),
    ],
)
def test_bad_settings_are_named(text: str, place: str, words: str) -> None:
    with pytest.raises(sc.ScenarioError) as caught:
        section(text)
    assert f"`{place}" in str(caught.value)
    assert words in str(caught.value)


def test_weights_of_jobs_that_are_not_there() -> None:
    """Found when the file is read, with its place; and for a scenario from Python."""
    with pytest.raises(sc.ScenarioError, match=r"^s.yaml:9:50: `policies.allocation.weights.pretrian`"):
        section("{kind: per_job, weights: {pretrian: 2}}")
    scenario = sc.loads(TEXT.format("max_min"))
    wrong = {"allocation": {"kind": "per_job", "weights": {"x": 2.0}}}
    with pytest.raises(ConfigError, match=r"`policies.allocation.weights.x`: unknown job 'x'"):
        sc.check(sc.Scenario(sites=scenario.sites, jobs=scenario.jobs, policies=wrong))  # type: ignore[arg-type]
