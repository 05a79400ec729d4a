"""`sites[].fabric`: every kind by its builder's own parameters; sizes that follow; exact messages.

Oracles: the builders called directly, the published counts of presets, the reference rows' topologies.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from euston import catalog
from euston import scenario as sc
from euston.assemble import site, site_fabric
from euston.catalog._schema import SCHEMAS
from euston.errors import ConfigError
from euston.fabrics import (
    FABRICS,
    Fabric,
    clos,
    compose,
    dragonfly,
    fat_tree,
    from_graph,
    hpn,
    hyperx,
    jellyfish,
    leaf_spine,
    rail_only,
    scale_up,
    slim_fly,
    torus,
    wan,
)
from euston.fabrics.clos import clos3
from euston.fabrics.kinds import QUANTITIES, REQUIRED, parameters
from euston.scenario.fabrics import FabricSection
from euston.scenario.sites import SiteSection

HEAD = "version: 1\nsites:\n  - name: main\n"
JOBS = """jobs:
  - name: t
    kind: training
    model: llama3-8b
    parallel: {tensor: 8}
    batch: {global: 8, sequence: 4096}
"""


def of(fabric: str, **more: Any) -> SiteSection:
    """A site of a scenario file."""
    section = SiteSection.model_validate(
        {"name": "main", "fabric": _plain(fabric), **more}, context={"from_file": True}
    )
    # it comes back from its own dump
    again = SiteSection.model_validate(
        section.model_dump(mode="json", exclude_none=True), context={"from_file": True}
    )
    assert again == section
    return section


def _plain(text: str) -> Any:
    from ruamel.yaml import YAML

    return YAML(typ="safe", pure=True).load(text)


def same(one: Fabric, other: Fabric) -> None:
    assert (one.hosts, one.accelerators_per_host) == (other.hosts, other.accelerators_per_host)
    for name in (
        "node_kind",
        "link_src",
        "link_dst",
        "capacity",
        "latency",
        "buffer_bytes",
        "kind",
        "bundle_start",
    ):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


EVERY_KIND: dict[str, tuple[str, dict[str, Any], Fabric]] = {
    "clos": (
        "{kind: clos, nic: 100 Gb/s, hosts_per_tor: 4, tors_per_pod: 4, pods: 8, aggs_per_pod: 4, "
        "cores_per_agg: 1, tor_uplink: 100 Gb/s, agg_uplink: 100 Gb/s, link_latency: 1 us}",
        {"accelerators_per_host": 1},
        clos3(
            128, 1, nic="100 Gb/s", hosts_per_tor=4, tors_per_pod=4, aggs_per_pod=4, cores_per_agg=1,
            tor_uplink="100 Gb/s", agg_uplink="100 Gb/s", link_latency="1 us",
        ),
    ),
    "rail": (
        "{kind: rail, nic: 400 Gb/s, endpoints_per_tor: 4, planes: 2, scale_up: 450 GB/s, "
        "scale_up_planes: 2}",
        {"hosts": 8, "accelerators_per_host": 2},
        clos(
            8, 2, nic="400 Gb/s", attach="rail", hosts_per_tor=4, aggs_per_pod=8, planes=2,
            scale_up="450 GB/s", scale_up_planes=2,
        ),
    ),
    "leaf_spine": (
        "{kind: leaf_spine, nic: 100 Gb/s, hosts_per_leaf: 8, spines: 2, oversubscription: 4, "
        "link_latency: 1 us}",
        {"hosts": 32, "accelerators_per_host": 1},
        leaf_spine(32, 1, nic=12.5e9, hosts_per_leaf=8, spines=2, oversubscription=4.0, link_latency=1e-6),
    ),
    "clos3": (
        "{kind: clos3, nic: 1 GB/s, hosts_per_tor: 2, tors_per_pod: 2, aggs_per_pod: 2, cores_per_agg: 3}",
        {"hosts": 12},
        clos3(12, nic=1e9, hosts_per_tor=2, tors_per_pod=2, aggs_per_pod=2, cores_per_agg=3),
    ),
    "fat_tree": (
        "{kind: fat_tree, k: 4, nic: 100 Gb/s, link_latency: 1 us, buffer: 1 MB}",
        {},
        fat_tree(4, nic="100 Gb/s", link_latency="1 us", buffer="1 MB"),
    ),
    "rail_only": (
        "{kind: rail_only, nic: 400 Gb/s, hosts_per_segment: 2, spines_per_rail: 3}",
        {"hosts": 4, "accelerator": "h100-sxm"},  # whose own scale-up bandwidth it takes
        rail_only(4, 8, nic="400 Gb/s", scale_up="450 GB/s", hosts_per_segment=2, spines_per_rail=3),
    ),
    "hpn": (
        "{kind: hpn, segments: 2, hosts_per_segment: 4, aggs_per_plane: 3}",
        {},
        hpn(segments=2, hosts_per_segment=4, aggs_per_plane=3),
    ),
    "dragonfly": (
        "{kind: dragonfly, a: 4, p: 2, h: 2, nic: 200 Gb/s, global_latency: 1 us, routing: valiant}",
        {},
        dragonfly(4, 2, 2, nic="200 Gb/s", global_latency="1 us", routing="valiant"),
    ),
    "slim_fly": ("{kind: slim_fly, q: 5, p: 3, nic: 200 Gb/s}", {}, slim_fly(5, 3, nic="200 Gb/s")),
    "hyperx": (
        "{kind: hyperx, dims: [3, 4], nic: 1 GB/s, link: [2 GB/s, 3 GB/s], cables: [1, 2]}",
        {},
        hyperx((3, 4), nic=1e9, link=[2e9, 3e9], cables=[1, 2]),
    ),
    "torus": (
        "{kind: torus, dims: [3, 4, 2], nic: 1 GB/s, link: 2 GB/s, wrap: [true, false, true]}",
        {"hosts": 20},
        torus((3, 4, 2), nic=1e9, link=2e9, wrap=[True, False, True], hosts=20),
    ),
    "jellyfish": (
        "{kind: jellyfish, switches: 10, degree: 3, nic: 1 GB/s, seed: 4, paths: 2}",
        {"accelerators_per_host": 2},
        jellyfish(10, 3, nic=1e9, seed=4, paths=2, accelerators_per_host=2),
    ),
    "graph": (
        "{kind: graph, nic: 1 GB/s, cables: [[a, b], [b, c, 3 GB/s], [c, a, 2 GB/s, 1 ms]], "
        "hosts_per_switch: {a: 2, b: 1}}",
        {},
        from_graph(
            [("a", "b"), ("b", "c", 3e9), ("c", "a", 2e9, 1e-3)], nic=1e9, hosts_per_switch={"a": 2, "b": 1}
        ),
    ),
    "scale_up": (
        "{kind: scale_up, bandwidth: 900 GB/s, planes: 18}",
        {"hosts": 18, "accelerators_per_host": 4},
        scale_up(18, 4, bandwidth="900 GB/s", planes=18),
    ),
    "wan": (
        "{kind: wan, cables: [[a, b, 400 Gb/s, 30 ms], [b, c, 100 Gb/s, 10 ms]], tunnels: 2, "
        "weights: [3, 1]}",
        {},
        wan([("a", "b", 50e9, 0.03), ("b", "c", 12.5e9, 0.01)], tunnels=2, weights=[3, 1]),
    ),
    "sites": (
        "{kind: sites, cables: [[a, b, 800 Gb/s, 30 ms]], gateway_bandwidth: 1.6 Tb/s, sites: {"
        "a: {kind: leaf_spine, hosts: 6, accelerators_per_host: 2, nic: 50 GB/s, hosts_per_leaf: 2, "
        "spines: 2}, "
        "b: {preset: rail-only, hosts: 5, accelerators_per_host: 2, nics_per_host: 2, nic_latency: 500 ns}}}",
        {"accelerator": "h100-sxm"},
        compose(
            {
                "a": leaf_spine(6, 2, nic=50e9, hosts_per_leaf=2, spines=2, scale_up=450e9),
                "b": rail_only(5, 2, nic=50e9, scale_up=450e9),
            },
            wan([("a", "b", 100e9, 0.03)]),
            gateway_bandwidth=200e9,
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", FABRICS.names())
def test_every_kind_makes_what_its_builder_makes(kind: str) -> None:
    text, more, expected = EVERY_KIND[kind]
    section = of(text, **more)
    same(site_fabric(section), expected)
    assert (section.hosts, section.accelerators_per_host) == (expected.hosts, expected.accelerators_per_host)


@pytest.mark.parametrize("kind", FABRICS.names())
def test_parameters_of_builders_are_quantities_whole_numbers_or_words(kind: str) -> None:
    for name, parameter in parameters(kind).items():
        assert parameter.words or name == "accelerators_per_host", name
        assert ("str | float" in str(parameter.hint)) == bool(parameter.dimension), name
        if parameter.dimension and parameter.default not in (REQUIRED, None, 0.0):
            assert isinstance(parameter.default, str), name  # with its unit


def test_the_catalogue_measures_alike() -> None:
    """A preset's field has the dimension of the parameter of that name; every field is a key of some kind."""
    fields = SCHEMAS["fabrics"].fields
    known = {name for kind in FABRICS.names() for name in parameters(kind)}
    assert set(fields) - known == {"kind", "description", "attach"}
    for name, wanted in fields.items():
        if name in QUANTITIES:
            assert wanted in (QUANTITIES[name], f"{QUANTITIES[name]}s")
        else:
            assert wanted not in QUANTITIES.values()


@pytest.mark.parametrize(
    ("preset", "accelerators"),
    [
        ("llama3-roce-24k", 24_576),
        ("hpn-pod", 15_360),
        ("nvl72", 72),
        ("cloudmatrix384", 384),
        ("ub-mesh", 1024),
        ("frontier", 37_632),
        ("tpu-v4-pod", 4096),
        ("rail-only", None),
        ("generic-400g-rail", None),
    ],
)
def test_presets_build_in_their_published_size(preset: str, accelerators: int | None) -> None:
    more = {"hosts": 16, "accelerator": "h100-sxm"} if accelerators is None else {}
    section = of(f"{{preset: {preset}}}", **more)
    fabric = site_fabric(section)
    assert fabric.endpoints == section.accelerators == (accelerators or 128)
    assert fabric.name == preset
    smaller = of(
        f"{{preset: {preset}}}", hosts=8, **({"accelerator": "h100-sxm"} if accelerators is None else {})
    )
    assert site_fabric(smaller).hosts == 8


def test_bisections_of_presets_against_published_figures() -> None:
    """TPU v4: 24 TB/s (Google Cloud), where 2 x 16 x 16 links of 50 GB/s are 25.6; UB-Mesh is a guess."""
    assert site_fabric(of("{preset: tpu-v4-pod}")).bisection_bandwidth == pytest.approx(24e12, rel=0.07)
    # Lockwood: a group ejects 73 x 4 x 200 Gb/s = 58.4 Tb/s
    frontier = site_fabric(of("{preset: frontier}"))
    assert np.bincount(frontier.kind)[9] == 74 * 73 * 4
    assert site_fabric(of("{preset: nvl72}")).injection_bandwidth[0] * 2 * 72 == pytest.approx(
        130e12, rel=0.01
    )


CASES = [
    (
        "{kind: fat_tree, k: 3, nic: 100 Gb/s}",
        "",
        "`fabric.k`: 3 is odd; a fat tree needs an even number of switch ports",
    ),
    (
        "{kind: fat_tree, nic: 100 Gb/s}",
        "",
        "`fabric.k`: is missing; write e.g. 8",
    ),
    (
        "{kind: fat_tree, kk: 4, nic: 1 Gb/s}",
        "",
        "`fabric.kk`: unknown key; did you mean 'k'?",
    ),
    (
        "{kind: fat_tree, k: 4.5, nic: 1 Gb/s}",
        "",
        "`fabric.k`: 4.5 is not a whole number",
    ),
    (
        "{kind: fat_tree, k: -4, nic: 1 Gb/s}",
        "",
        "`fabric.k`: -4 is too small; at least 0",
    ),
    (
        "{kind: fat_tree, k: 4, nic: 1 Gbs}",
        "",
        "`fabric.nic`: unknown bandwidth unit 'Gbs' in '1 Gbs'; did you mean 'Gb/s'?",
    ),
    (
        "{kind: fat_tree, k: 4, nic: 1 Gb/s, link_latency: 1}",
        "",
        '`fabric.link_latency`: 1 has no unit; write e.g. "1 us"',
    ),
    (
        "{kind: fat_tree, k: 4, nic: 1 Gb/s}",
        "hosts: 10",
        "`hosts`: 10, but a fat_tree of these values has 16 hosts; leave it out",
    ),
    (
        "{kind: fat_tree, k: 4, nic: 1 Gb/s}",
        "accelerators_per_host: 8",
        "`accelerators_per_host`: 8, but a fat_tree of these values has 1 accelerators per host; "
        "leave it out",
    ),
    (
        "{kind: clos, nic: 1 Gb/s}",
        "",
        "`hosts`: is missing; say how many, or give `pods` and `tors_per_pod`",
    ),
    (
        "{kind: clos, nic: 1 Gb/s, pods: 2}",
        "",
        "`fabric.tors_per_pod`: is missing; `pods` of how many switches?",
    ),
    (
        "{kind: torus, dims: 4, nic: 1 GB/s, link: 1 GB/s}",
        "",
        "`fabric.dims`: 4 is not a list; write e.g. [1, 2]",
    ),
    (
        "{kind: torus, dims: [4, x], nic: 1 GB/s, link: 1 GB/s}",
        "",
        "`fabric.dims[1]`: 'x' is not a whole number",
    ),
    (
        "{kind: torus, dims: [4, 4], nic: 1 GB/s, link: [1 GB/s, 2]}",
        "",
        '`fabric.link[1]`: 2 has no unit; write e.g. "2 Gb/s"',
    ),
    (
        "{kind: torus, dims: [4], nic: 1 GB/s, link: 1 GB/s, wrap: 7}",
        "",
        "`fabric.wrap`: 7 is neither true nor false",
    ),
    (
        "{kind: torus, dims: [4], nic: 1 GB/s, link: 1 GB/s, routing: minmal}",
        "",
        "`fabric.routing`: unknown rule 'minmal'; did you mean 'minimal'?",
    ),
    (
        "{kind: dragonfly, a: 4, p: 2, h: 2, nic: 1 Gb/s}",
        "hosts: 100",
        "`hosts`: 100 hosts do not fit; the switches hold 72",
    ),
    (
        "{kind: rail_only, nic: 1 Gb/s}",
        "accelerator: h100-sxm",
        "`hosts`: is missing; write e.g. 8",
    ),
    (
        "{kind: graph, cables: [[a, b], 7], nic: 1 Gb/s}",
        "",
        '`fabric.cables[1]`: 7 is no cable; write e.g. [a, b, "400 Gb/s", "5 ms"]',
    ),
    (
        "{kind: graph, cables: [[a, b, 4]], nic: 1 Gb/s}",
        "",
        '`fabric.cables[0][2]`: 4 has no unit; write e.g. "400 Gb/s"',
    ),
    (
        "{kind: wan, cables: [[a, b, 4 Gb/s]]}",
        "",
        '`fabric.cables[0]`: 3 values; write (a, b, bandwidth, round-trip time), such as ("paris", '
        '"lyon", "400 Gb/s", "8 ms")',
    ),
    (
        "{kind: wan, cables: [[a, b, 4 Gb/s, 0 ms]]}",
        "",
        "`fabric.cables[0][3]`: 0.0 is zero; a duration must be above 0",
    ),
    (
        "{kind: sites, cables: [[a, b, 1 Gb/s, 9 ms]], sites: {a: {kind: clos, nic: 1 Gb/s}, "
        "b: {preset: nvl72}}}",
        "",
        "`fabric.sites.a.hosts`: is missing; say how many, or give `pods` and `tors_per_pod`",
    ),
    (
        "{kind: sites, cables: [[a, b, 1 Gb/s, 9 ms]], sites: {a: {kind: fat_tree, kk: 4, nic: 1 Gb/s}}}",
        "",
        "`fabric.sites.a.kk`: unknown key; did you mean 'k'?",
    ),
    (
        "{kind: sites, cables: [[a, b, 1 Gb/s, 9 ms]], sites: {a: {kind: fat_tree, k: 4, nic: 1 Gb/s}}}",
        "",
        "`fabric.sites`: the WAN joins 'b' too; give its fabric",
    ),
    (
        "{kind: toroid}",
        "",
        "`fabric.kind`: unknown fabric kind 'toroid'; did you mean 'torus'?",
    ),
    (
        "{kind: 7}",
        "",
        "`fabric.kind`: 7 is not text; put it in quotes if it is meant as a name",
    ),
    (
        "{preset: llama3-roce-24k, kind: torus}",
        "",
        "`fabric.kind`: preset 'llama3-roce-24k' is a clos with 'endpoints_per_tor', which a torus "
        "has not; keep one of preset and kind",
    ),
    (
        "{preset: nvl72, planes: many}",
        "",
        "`fabric.planes`: 'many' is not a whole number",
    ),
]


@pytest.mark.parametrize(("fabric", "more", "message"), CASES, ids=[case[2][:50] for case in CASES])
def test_exact_messages(fabric: str, more: str, message: str) -> None:
    lines = f"    {more}\n" if more else ""
    with pytest.raises(ConfigError) as caught:
        sc.loads(f"{HEAD}{lines}    fabric: {fabric}\n{JOBS}", "s.yaml")
    place, _, words = str(caught.value).partition(": `sites[0].")
    assert f"`{words}" == message
    file, line, column = place.split(":")
    assert file == "s.yaml" and line.isdigit() and column.isdigit()


@pytest.mark.parametrize(
    ("fabric", "more", "message"),
    [
        (
            "{kind: clos, nic: 1 Gb/s, oversubscription: [1]}", {"hosts": 4},
            "`sites[0].fabric.oversubscription`: needs two ratios, of the ToRs and of the aggs, such as "
            "(1, 7)",
        ),
        (
            "{kind: clos, nic: 1 Gb/s, pods: 8, tors_per_pod: 4, hosts_per_tor: 4}", {"hosts": 100},
            "`sites[0].hosts`: 100, but 8 pods of 4 x 4 hosts have 128",
        ),
        (
            "{kind: clos, nic: 1 Gb/s, hosts_per_tor: 4, endpoints_per_tor: 4}", {"hosts": 4},
            "`sites[0].fabric.hosts_per_tor`: says what `endpoints_per_tor` says too; give one of them",
        ),
        (
            "{kind: rail_only, nic: 1 Gb/s}", {"hosts": 4},
            '`sites[0].fabric.scale_up`: is missing; write e.g. "400 Gb/s"',
        ),
        (
            "{kind: rail, nic: 1 Gb/s, cross_rail: forward}", {"hosts": 4},
            "`sites[0].fabric.scale_up`: is missing; flows change rails over the scale-up network",
        ),
    ],
)  # fmt: skip
def test_messages_when_the_fabric_is_built(fabric: str, more: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        site_fabric(of(fabric, **more))
    assert str(caught.value) == message


def test_an_accelerator_is_needed_only_to_compute() -> None:
    text = f"{HEAD}    hosts: 4\n    fabric: {{kind: clos, nic: 400 Gb/s}}\n{JOBS}"
    with pytest.raises(ConfigError) as caught:
        sc.loads(text, "s.yaml")
    assert str(caught.value).endswith("`sites[0].accelerator`: is missing; job 't' trains on this site")
    section = of("{kind: clos, nic: 400 Gb/s}", hosts=4)
    fabric = site_fabric(section)
    assert (fabric.domain == np.arange(32)).all()  # nobody says how fast a scale-up network would be
    with_text = text.replace("hosts: 4", "hosts: 4\n    accelerator: h100-sxm")
    scenario = sc.loads(with_text)
    built = site(scenario, scenario.sites[0]).fabric
    assert (built.domain == 32 + np.arange(32) // 8).all()
    without = sc.loads(with_text).model_copy(update={"sites": (section,)})
    with pytest.raises(ConfigError, match=r"`sites\[0\].accelerator`: is missing; a job that computes"):
        site(without, section)


def test_a_preset_with_values_changed() -> None:
    section = of("{preset: llama3-roce-24k, nic: 200 Gb/s}", hosts=32)
    fabric = site_fabric(section)
    assert fabric.hosts == 32
    assert fabric.injection_bandwidth[0] == 25e9
    assert section.fabric.values() == {"nic": 25e9}
    assert of("{preset: llama3-roce-24k, pods: 2}").hosts == 2 * 384
    assert of("{preset: nvl72}", hosts=36).accelerators == 144
    rails = FabricSection(preset="generic-400g-clos", kind="rail")  # kinds with the same keys
    assert rails.resolved_kind == "rail"


def test_the_schema_has_a_section_for_every_kind() -> None:
    schema = sc.schema()
    definitions = schema["$defs"]
    options = {option["$ref"].rpartition("/")[2] for option in definitions["FabricSection"]["anyOf"]}
    assert len(options) == len(FABRICS.names())
    for name in options:
        assert definitions[name]["additionalProperties"] is False
    assert definitions["TorusFabric"]["properties"]["dims"]["anyOf"][0]["items"]["type"] == "integer"
    assert "default" not in definitions["SiteSection"]["properties"]["hosts"]
    assert definitions["SiteSection"]["required"] == ["name", "fabric"]
    json.dumps(schema)


def test_sources_of_presets() -> None:
    assert not [line for line in catalog.check() if "fabrics" in line]
    entry = catalog.entry("fabrics", "ub-mesh")
    assert entry.status["link"] == "assumed"  # lanes are not published where we could read
    assert entry.text("dims") == "8, 8, 4, 4"
