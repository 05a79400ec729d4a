"""Scenario files: the examples load, round trips are exact (oracle: equality), defaults, placements."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from euston import scenario as sc
from euston.errors import UnitError
from euston.units import DIMENSIONS, exact_text, parse

EXAMPLES = Path(__file__).parents[2] / "examples"


def minimal(**jobs: object) -> dict[str, object]:
    job = {
        "name": "a",
        "kind": "training",
        "model": "llama3-8b",
        "parallel": {"tensor": 8},
        "batch": {"global": 8, "sequence": 4096},
        **jobs,
    }
    site = {
        "name": "main",
        "accelerator": "h100-sxm",
        "hosts": 4,
        "fabric": {"kind": "clos", "nic": "400 Gb/s"},
    }
    return {"version": 1, "sites": [site], "jobs": [job]}


def load(data: dict[str, object]) -> sc.Scenario:
    return sc.loads(json.dumps(data))  # JSON is YAML 1.2


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_example_loads_and_comes_back_from_its_dump(path: Path) -> None:
    scenario = sc.load(path)
    assert sc.loads(sc.dump(scenario), str(path)) == scenario
    sc.check(scenario)


def test_the_main_example_says_what_the_paper_says() -> None:
    scenario = sc.load(EXAMPLES / "llama3-405b-16k.yaml")
    job = scenario.jobs[0]
    assert scenario.sites[0].accelerators == job.parallel.world == 16_384
    assert job.batch.global_batch * job.batch.sequence == 2**24  # 16 M tokens a step
    assert {row.quantity: row.value for row in job.reference} == {
        "tflops_per_accelerator": 400.0,
        "mfu": 0.41,
    }
    assert {row.field for row in job.assumptions} >= {"batch.micro", "parallel.virtual"}


def test_two_jobs_in_one_file_and_short_names() -> None:
    scenario = sc.load(EXAMPLES / "two-jobs.yaml")
    first = scenario.jobs[0].parallel
    assert (first.tensor, first.pipeline, first.data, first.sequence) == (8, 4, 4, True)
    assert scenario.hosts_of(1) == tuple(range(16, 24))
    assert scenario.policies.balancing.kind == "ecmp"
    assert scenario.faults[0].factor == 0.5


def test_jobs_without_a_placement_follow_each_other() -> None:
    data = minimal()
    data["jobs"] = [{**data["jobs"][0], "name": name} for name in "abc"]  # type: ignore[index]
    scenario = load(data)
    assert [scenario.hosts_of(i) for i in range(3)] == [(0,), (1,), (2,)]


def test_hosts_one_by_one_keep_their_order() -> None:
    scenario = load(minimal(parallel={"tensor": 8, "data": 2}, placement={"hosts": [3, 1]}))
    assert scenario.hosts_of(0) == (3, 1)


def test_the_schedule_follows_the_virtual_stages() -> None:
    assert load(minimal()).jobs[0].resolved_schedule == "1f1b"
    parallel = {"tensor": 8, "pipeline": 4, "virtual": 2}
    assert load(minimal(parallel=parallel)).jobs[0].resolved_schedule == "interleaved"


def test_a_preset_can_be_overridden() -> None:
    from euston.scenario.build import fabric_values

    data = minimal()
    data["sites"][0]["fabric"] = {"preset": "llama3-roce-24k", "nic": "200 Gb/s", "oversubscription": [1, 3]}  # type: ignore[index]
    values = fabric_values(load(data).sites[0])
    assert values["nic"] == 2.5e10
    assert values["oversubscription"] == (1.0, 3.0)
    assert values["endpoints_per_tor"] == 16  # the preset's: 2 hosts of 8 under one ToR


def test_models_by_shape_and_by_config(tmp_path: Path) -> None:
    """Oracle: Llama 3 8B has 8,030,261,248 parameters, published with the weights."""
    from euston.scenario.build import transformer

    shape = {"layers": 32, "hidden": 4096, "heads": 32, "kv_heads": 8, "ffn": 14336, "vocab": 128256}
    assert transformer(load(minimal(model=shape)), 0).parameters() == 8_030_261_248
    config = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "num_hidden_layers": 32,
        "hidden_size": 4096,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "intermediate_size": 14336,
        "vocab_size": 128256,
        "tie_word_embeddings": False,
        "hidden_act": "silu",
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    file = tmp_path / "s.yaml"
    file.write_text(json.dumps(minimal(model={"hf_config": "config.json"})))
    assert transformer(sc.load(file), 0).parameters() == 8_030_261_248


def test_from_python_numbers_are_si_and_text_has_units() -> None:
    fabric = sc.FabricSection(kind="clos", nic=5e10)
    assert fabric == sc.FabricSection(kind="clos", nic="400 Gb/s")  # type: ignore[arg-type]
    site = sc.SiteSection(name="main", accelerator="h100-sxm", hosts=4, fabric=fabric)
    job = sc.TrainingSection(
        name="a",
        kind="training",
        model="llama3-8b",
        parallel=sc.ParallelSection(tensor=8),
        batch=sc.BatchSection(global_batch=8, sequence=4096),
    )
    scenario = sc.Scenario(sites=(site,), jobs=(job,))
    sc.check(scenario)
    assert sc.loads(sc.dump(scenario)) == scenario
    short = sc.dump(scenario, defaults=False)
    assert sc.loads(short) == scenario
    assert "policies" not in short and "schedule" not in short


def test_prices_are_written_as_people_write_them() -> None:
    assert exact_text(2.5 / 3600, "money") == "2.5 USD/h"
    assert exact_text(0.08 / 3.6e6, "energy_price") == "0.08 USD/kWh"


def test_published_figures_with_units() -> None:
    row = {"quantity": "step_time", "value": "13.75 s", "source": "here"}
    scenario = load(minimal(reference=[row]))
    assert scenario.jobs[0].reference[0].value == 13.75
    assert sc.loads(sc.dump(scenario)) == scenario


def test_the_schema_knows_every_key_and_short_name() -> None:
    schema = sc.schema()
    assert schema["$schema"].startswith("https://json-schema.org/")
    assert set(schema["required"]) >= {"version", "sites", "jobs"}
    definitions = schema["$defs"]
    assert set(definitions["ParallelSection"]["properties"]) >= {"tensor", "tp", "pp", "vp", "dp", "cp", "ep"}
    assert set(definitions["BatchSection"]["properties"]) == {"global", "micro", "sequence"}
    assert definitions["ClosFabric"]["properties"]["nic"]["anyOf"][0]["type"] == "string"
    assert all(
        part.get("additionalProperties") is False for part in definitions.values() if "properties" in part
    )
    json.dumps(schema)


@given(value=st.floats(min_value=1e-12, max_value=1e18), dimension=st.sampled_from(sorted(DIMENSIONS)))
@settings(max_examples=100, deadline=None)
def test_quantities_written_by_dump_are_read_back_exactly(value: float, dimension: str) -> None:
    assert parse(exact_text(value, dimension), dimension) == value


@given(
    hosts=st.integers(1, 64),
    nic=st.floats(min_value=1e6, max_value=1e13),
    latency=st.floats(min_value=0, max_value=1),
    at=st.floats(min_value=0, max_value=100),
    seed=st.integers(0, 2**40),
)
@settings(max_examples=25, deadline=None)
def test_round_trip_of_any_scenario(hosts: int, nic: float, latency: float, at: float, seed: int) -> None:
    data = minimal()
    scenario = load(data)
    site = scenario.sites[0].model_copy(
        update={"hosts": hosts, "fabric": sc.FabricSection(kind="rail", nic=nic, link_latency=latency)}
    )
    fault = sc.FaultSection(host=0, speed=0.5, at=at)
    run = sc.RunSection(seed=seed)
    scenario = scenario.model_copy(update={"sites": (site,), "faults": (fault,), "run": run})
    assert sc.loads(sc.dump(scenario)) == scenario


def test_numbers_without_a_unit_are_for_python_only() -> None:
    with pytest.raises(UnitError):
        parse("5e10", "bandwidth")
