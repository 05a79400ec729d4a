"""`policies.balancing`: every policy by name with its own settings, refused in words where wrong."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import ClassVar, Literal

import pytest
from pydantic import ValidationError

from euston import scenario as sc
from euston.assemble import conditions, site
from euston.errors import ConfigError
from euston.network.balancing import BALANCING
from euston.network.balancing.ecmp import Ecmp
from euston.network.balancing.flowlet import Flowlet
from euston.network.balancing.wcmp import Wcmp
from euston.registry import Registry
from euston.scenario.policies import BalancingSection, PolicySection
from euston.units import PositiveDataSize

TEXT = """\
version: 1
sites: [{{name: main, accelerator: h100-sxm, hosts: 16, fabric: {{kind: clos, nic: 400 Gb/s}}}}]
jobs:
  - name: pretrain
    kind: training
    model: llama3-8b
    parallel: {{tensor: 8, data: 2}}
    batch: {{global: 64, micro: 1, sequence: 8192}}
policies: {{balancing: {0}}}
run: {{seed: 5}}
"""


def section(text: str) -> BalancingSection:
    return sc.loads(TEXT.format(text), "s.yaml").policies.balancing


@pytest.mark.parametrize("name", BALANCING.names())
def test_every_policy_has_a_section_of_its_own(name: str) -> None:
    """The short and the long form agree; its keys are the policy's fields; it comes back from its dump."""
    assert section(name) == section(f"{{kind: {name}}}")
    made = section(name).make(5)
    assert type(made) is BALANCING.get(name)
    assert list(section(name).settings) == [field.name for field in fields(BALANCING.get(name))]
    scenario = sc.loads(TEXT.format(name))
    assert sc.loads(sc.dump(scenario)) == scenario


def test_settings_become_the_policys() -> None:
    assert section("ecmp").make(5) == Ecmp(seed=5)
    chosen = section("{kind: ecmp, qps: 4, hash: crc32, polarised: true, seed: 0}")
    assert chosen.make(5) == Ecmp(qps=4, hash="crc32", polarised=True, seed=0)
    assert section("{kind: flowlet, gap: 100 us}").make(1) == Flowlet(gap=1e-4, seed=1)
    assert section("{adaptive: true}").make(1) == BALANCING.get("spray")(adaptive=True)
    weights = section("{kind: wcmp, weights: {tor_up/p0/t0/a1: 3, tor/p0/t0 -> tor/p0/t1: [1, 0, 2]}}")
    assert weights.make(0) == Wcmp({"tor_up/p0/t0/a1": 3.0, "tor/p0/t0 -> tor/p0/t1": (1.0, 0.0, 2.0)})


def test_from_python_numbers_are_si() -> None:
    assert BalancingSection(kind="flowlet", gap=2e-4).make(0) == Flowlet(gap=2e-4)
    assert sc.PoliciesSection(balancing="reps").balancing.kind == "reps"
    with pytest.raises(ValidationError):
        BalancingSection(kind="flowlet", gap=-1.0)


def test_a_dump_carries_units_and_every_setting() -> None:
    dumped = section("flowlet").model_dump(mode="json", by_alias=True, exclude_none=True)
    assert dumped == {"kind": "flowlet", "scheme": "letflow", "gap": "500 us", "paths": 8}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("spary", "9:12: `policies.balancing`: unknown balancing policy 'spary'; did you mean 'spray'?"),
        ("{kind: 3}", "9:24: `policies.balancing.kind`: 3 is not the name of a balancing policy"),
        ("[ecmp]", "9:12: `policies.balancing`: ['ecmp'] is not a section of keys and values"),
        ("{kind: ecmp, qp: 4}", "9:36: `policies.balancing.qp`: unknown key; did you mean 'qps'?"),
        (
            "{kind: spray, qps: 4}",
            "9:37: `policies.balancing.qps`: unknown key; the keys here are kind, adaptive",
        ),
        ("{kind: ecmp, qps: 1.5}", "9:36: `policies.balancing.qps`: 1.5 is not a whole number"),
        (
            "{kind: ecmp, qps: 0}",
            "9:36: `policies.balancing.qps`: 0 queue pairs; at least 1 is needed and 16384 ports are there",
        ),
        (
            "{kind: ecmp, hash: crc}",
            "9:36: `policies.balancing.hash`: unknown hash 'crc'; did you mean 'crc32'?",
        ),
        (
            "{kind: flowlet, gap: 1}",
            '9:39: `policies.balancing.gap`: 1 has no unit; write e.g. "1 us"',
        ),
        (
            "{kind: oblivious, penalty: 1}",
            "9:41: `policies.balancing.penalty`: 1 is no share of a capacity; it must be 0 to below 1",
        ),
        (
            "{kind: wcmp, weights: {a: x}}",
            "9:46: `policies.balancing.weights.a`: 'x' is not a number",
        ),
        (
            "{kind: wcmp, weights: {a -> b: 1}}",
            "9:36: `policies.balancing.weights`: a -> b: 1.0 does not fit the key; "
            "it needs a list of weights, one per path",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        section(text)
    assert str(caught.value) == f"s.yaml:{message}"


def test_links_that_do_not_exist_are_refused_before_anything_runs() -> None:
    s = sc.loads(TEXT.format("{kind: wcmp, weights: {tor_up/p0/t9/a1: 3}}"))
    with pytest.raises(ConfigError, match="did you mean 'tor_up/p0/t3/a1'"):
        conditions(s, site(s, s.sites[0]))


def test_the_schema_lists_the_keys_of_every_policy() -> None:
    schema = sc.schema()
    names, *options = schema["$defs"]["BalancingSection"]["anyOf"]
    assert names["enum"] == BALANCING.names()
    assert len(options) == len(BALANCING.names())
    ecmp = schema["$defs"]["EcmpBalancing"]
    assert ecmp["required"] == ["kind"]
    assert ecmp["additionalProperties"] is False
    assert set(ecmp["properties"]) == {"kind", "qps", "hash", "polarised", "connections", "seed"}
    assert all(ecmp["properties"][key]["description"] for key in ("qps", "hash", "seed"))
    json.dumps(schema)


# ---- a room of one's own -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Toy:
    """A policy that is not ours.

    Parameters
    ----------
    window : data size
        How much it
        may send.
    order : {"up", "down"}
    """

    window: PositiveDataSize
    order: Literal["up", "down"] = "up"
    share: float | None = None
    shares: Sequence[float] = ()
    table: Mapping[str, int] | None = None
    name: ClassVar[str] = "toy"


class ToySection(PolicySection):
    """A toy."""

    registry: ClassVar[Registry] = Registry("test.toys", {"toy": f"{__name__}:Toy"}, kind="toy")
    default: ClassVar[str] = "toy"


def test_any_room_can_have_such_a_section() -> None:
    made = ToySection(kind="toy", window="4 KiB", share=1, shares=[1, 2], table={"a": 3})
    assert made.settings == {
        "window": 4096.0, "order": "up", "share": 1.0, "shares": (1.0, 2.0), "table": {"a": 3}
    }  # fmt: skip
    assert made.model_dump(mode="json")["window"] == "4 KiB"
    window = ToySection.model_json_schema()["$defs"]["ToyToys"]["properties"]["window"]
    assert window["description"] == "How much it may send."
    with pytest.raises(ValidationError, match="Field required"):
        ToySection(kind="toy")
    with pytest.raises(ValidationError, match="not a whole number"):
        ToySection(window="4 KiB", table={"a": 1.5})
