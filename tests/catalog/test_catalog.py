"""Catalogue: data sheets recomputed from clock, units and pins; every number sourced; bad files named."""

from __future__ import annotations

import hashlib
import math
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest

from euston import catalog
from euston.catalog import Accelerator
from euston.catalog._schema import SCHEMAS
from euston.errors import CatalogError


@pytest.fixture(autouse=True)
def _packaged_only() -> Iterator[None]:
    catalog.reset()
    yield
    catalog.reset()


def test_the_packaged_catalogue_is_sound() -> None:
    assert catalog.check() == []


def test_every_kind_has_entries_and_every_number_a_source() -> None:
    assert catalog.kinds() == [
        "accelerators",
        "models",
        "fabrics",
        "software",
        "engines",
        "prices",
        "power",
        "reliability",
    ]
    for kind in catalog.kinds():
        assert catalog.names(kind)
        for item in catalog.entries(kind):
            for row in item.rows():
                value = item.flat()[row["field"]]
                if isinstance(value, (int, float, tuple)) and not isinstance(value, bool):
                    assert row["source"], (kind, item.name, row)


def test_hashes_are_those_of_the_packaged_files() -> None:
    """Oracle: hashlib over the files themselves."""
    data = Path(catalog.__file__).parent / "data"
    assert catalog.hashes() == {
        f"catalog/{path.name}": hashlib.sha256(path.read_bytes()).hexdigest() for path in data.glob("*.toml")
    }


@pytest.mark.parametrize(
    ("name", "multiprocessors", "flop_per_clock", "hertz"),
    [
        # dense BF16 FLOP per multiprocessor and clock: A100 4 tensor cores x 256 FMA, Hopper 4 x 512 FMA
        ("a100-sxm-40gb", 108, 2 * 4 * 256, 1.410e9),
        ("a100-sxm-80gb", 108, 2 * 4 * 256, 1.410e9),
        ("h100-sxm", 132, 2 * 4 * 512, 1.830e9),
        ("h800-sxm", 132, 2 * 4 * 512, 1.830e9),
        ("h200-sxm", 132, 2 * 4 * 512, 1.830e9),
        # MI300X: 304 compute units; TPU v4: 2 cores x 4 units x 128 x 128 FMA
        ("mi300x", 304, 2048, 2.1e9),
        ("tpu-v4", 2, 2 * 4 * 128 * 128, 1.05e9),
    ],
)
def test_peaks_follow_from_units_and_clock(
    name: str, multiprocessors: int, flop_per_clock: int, hertz: float
) -> None:
    """Oracle: architecture white papers' arithmetic, an independent way to the data sheet's figure."""
    device = catalog.accelerator(name)
    assert device.multiprocessors == multiprocessors
    assert device.peak["bf16"] == pytest.approx(multiprocessors * flop_per_clock * hertz, rel=2e-3)


@pytest.mark.parametrize(
    ("name", "bus_bits", "pin_rate"),
    [
        ("a100-sxm-40gb", 5120, 2.43e9),  # 1215 MHz HBM2, two transfers per clock
        ("a100-sxm-80gb", 5120, 3.186e9),  # 1593 MHz HBM2e
        ("h100-sxm", 5120, 5.234e9),  # 2617 MHz HBM3
        ("h200-sxm", 6144, 6.25e9),  # HBM3e
        ("mi300x", 8192, 5.2e9),
    ],
)
def test_memory_bandwidth_follows_from_bus_and_pin_rate(name: str, bus_bits: int, pin_rate: float) -> None:
    """Oracle: bus width times transfer rate."""
    assert catalog.accelerator(name).memory_bandwidth == pytest.approx(bus_bits / 8 * pin_rate, rel=5e-3)


@pytest.mark.parametrize(
    ("name", "links", "per_direction"),
    [
        ("a100-sxm-80gb", 12, 25e9),
        ("h100-sxm", 18, 25e9),
        ("h800-sxm", 8, 25e9),
        ("h200-sxm", 18, 25e9),
        ("b200-sxm", 18, 50e9),
        ("gb200-nvl72", 18, 50e9),
        ("mi300x", 7, 64e9),
        ("tpu-v4", 6, 50e9),
        ("tpu-v5p", 6, 100e9),
    ],
)
def test_scale_up_bandwidth_is_links_times_one_direction(name: str, links: int, per_direction: float) -> None:
    """Oracle: link count and rate; the data sheets' headline counts both directions and is twice this."""
    assert catalog.accelerator(name).scale_up_bandwidth == links * per_direction


# name, BF16 TFLOP/s, FP8, GB, TB/s, GB/s per direction, domain: the published table of accelerators, copied
PUBLISHED = [
    ("A100-SXM-80GB", 312, 0, 80, 2.039, 300, 8),
    ("H100-SXM-80GB", 989, 1979, 80, 3.35, 450, 8),
    ("H200-SXM", 989, 1979, 141, 4.8, 450, 8),
    ("H800-SXM", 989, 1979, 80, 3.35, 200, 8),
    ("B200-SXM", 2250, 4500, 180, 8.0, 900, 8),
    ("B300-SXM", 2250, 4500, 288, 8.0, 900, 8),
    ("GB200-NVL72", 2500, 5000, 186, 8.0, 900, 72),
    ("GB300-NVL72", 2500, 5000, 288, 8.0, 900, 72),
    ("TPU-v4", 275, 0, 32, 1.2, 300, 4096),
    ("TPU-v5e", 197, 0, 16, 0.82, 200, 256),
    ("TPU-v5p", 459, 0, 95, 2.76, 600, 8960),
    ("Ascend-910C", 752, 0, 128, 3.2, 392, 384),
    ("MI300X", 1307, 2610, 192, 5.3, 448, 8),
]


@pytest.mark.parametrize("row", PUBLISHED, ids=lambda row: row[0])
def test_accelerators_agree_with_the_published_table(
    row: tuple[str, float, float, float, float, float, int],
) -> None:
    """Oracle: the collected data sheets (stas00/ml-engineering@744d01e)."""
    name, bf16, fp8, gigabytes, terabytes_s, gigabytes_s, domain = row
    device = catalog.accelerator(name)
    assert device.peak["bf16"] == bf16 * 1e12
    assert device.peak.get("fp8", 0.0) == fp8 * 1e12
    # The data sheet's decimal GB, or what NVML reports: up to as many GiB.
    assert gigabytes * 1e9 <= device.memory_bytes <= gigabytes * 2**30
    assert device.memory_bandwidth == pytest.approx(terabytes_s * 1e12, rel=1e-12)
    assert device.scale_up_bandwidth == gigabytes_s * 1e9
    assert device.scale_up_domain == domain


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("A100-SXM-40GB", "a100-sxm-40gb"),
        ("A100-SXM-80GB", "a100-sxm-80gb"),
        ("H100-SXM-80GB", "h100-sxm"),
        ("H100-SXM", "h100-sxm"),
        ("H100-SXM-96GB-HBM2e-500W", "h100-sxm-96gb-500w"),
        ("H200-SXM", "h200-sxm"),
        ("H800-SXM", "h800-sxm"),
        ("h100", "h100-sxm"),
    ],
)
def test_names_in_published_data_are_aliases(alias: str, name: str) -> None:
    assert catalog.accelerator(alias).name == name


def test_sustained_rates_lie_between_the_cited_measurements() -> None:
    """Oracle: the figures of the cited sources, TFLOP/s."""

    def tera(name: str, dtype: str) -> tuple[float, ...]:
        return tuple(rate / 1e12 for rate in catalog.accelerator(name).sustained[dtype])

    assert tera("a100-sxm-80gb", "bf16") == pytest.approx((257, 227, 271.2))
    assert tera("h100-sxm", "bf16") == pytest.approx((780, 715, 795))
    assert tera("h100-sxm", "fp8") == pytest.approx((1403, 1280, 1403))
    assert tera("h200-sxm", "fp8") == pytest.approx((1453.4, 1280, 1453.4))
    assert catalog.accelerator("h100-sxm-96gb-500w").sustained == {}  # never priced with 700 W constants
    for name in catalog.names("accelerators"):
        device = catalog.accelerator(name)
        for dtype, (value, low, high) in device.sustained.items():
            assert 0 < low <= value <= high <= device.peak[dtype]


def test_what_is_not_measured_is_listed_as_an_assumption() -> None:
    listed = {(row["where"], row["kind"]) for row in catalog.entry("accelerators", "h200").assumptions()}
    assert ("accelerators.h200-sxm.sustained.bf16", "transferred") in listed
    assert ("accelerators.h200-sxm.clock_derate", "assumed") in listed
    assert not any(where.endswith("memory") for where, _ in listed)
    device = catalog.accelerator("h200")
    assert device.clock_derate == 1.0 and device.clock_derate_source.startswith("assumed: ")
    assert device.idle_power is None
    assert math.isnan(catalog.accelerator("tpu-v5e").power_limit)


def test_an_accelerator_is_hashable_picklable_and_short() -> None:
    device = catalog.accelerator("h100")
    assert isinstance(device, Accelerator)
    assert hash(device) == hash(catalog.accelerator("H100-SXM"))
    assert pickle.loads(pickle.dumps(device)) == device
    assert "stas00" not in repr(device)
    entry = catalog.entry("accelerators", "h100")
    assert pickle.loads(pickle.dumps(entry)) == entry


def test_llama3_fabric_counts() -> None:
    """Oracle: the paper's own totals, 3,072 GPUs per pod and 24,576 in all, 50 GB/s each."""
    values = catalog.entry("fabrics", "llama3-roce-24k").values
    assert values["endpoints_per_tor"] * values["tors_per_pod"] == 3072
    assert values["endpoints_per_tor"] * values["tors_per_pod"] * values["pods"] == 24576
    assert values["oversubscription"] == (1.0, 7.0)
    assert values["nic"] == 50e9
    assert catalog.entry("fabrics", "selene-hdr").values["nic"] == 25e9
    vtrain = catalog.entry("fabrics", "vtrain").values
    assert vtrain["nic"] * vtrain["nics_per_host"] * 8 == 800e9


def test_software_profiles_hold_the_facts_of_their_papers() -> None:
    old = catalog.entry("software", "megatron-2022").values
    assert (old["p2p_overlap"], old["data_overlap"], old["attention"], old["dropout"]) == (
        False,
        False,
        "unfused",
        True,
    )
    assert (old["recompute"], old["gradient_dtype"]) == ("selective", "fp32")
    new = catalog.entry("software", "llama3-2024").values
    assert (new["p2p_overlap"], new["data_overlap"], new["gradient_dtype"]) == (True, True, "fp32")
    assert new["attention"] == "flash" and new["attention_kernel"] == "fa2"


def test_prices_and_power_are_si() -> None:
    assert catalog.entry("prices", "h800").values["price"] == 2.0 / 3600
    assert catalog.entry("prices", "h800").text("price") == "2 USD/h"
    dgx = catalog.entry("power", "dgx-h100").values
    assert dgx["host_overhead"] == dgx["host_maximum"] - 8 * catalog.accelerator("h100").power_limit
    dgx = catalog.entry("power", "dgx-a100").values
    assert dgx["host_overhead"] == dgx["host_maximum"] - 8 * catalog.accelerator("a100").power_limit


def test_rows_show_value_unit_range_and_status() -> None:
    rows = {row["field"]: row for row in catalog.entry("accelerators", "h100").rows()}
    assert rows["memory"]["value"] == "81559 MiB"
    assert rows["memory_bandwidth"]["value"] == "3.35 TB/s"
    assert rows["sustained.bf16"]["value"] == "780 TFLOP/s [715 TFLOP/s .. 795 TFLOP/s]"
    assert rows["clock_derate"]["status"] == "assumed"
    saved = catalog.entry("accelerators", "h100").as_dict()
    assert saved["name"] == "h100-sxm" and saved["values"]["peak.bf16"] == 989e12


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("accelerators", "h10", "unknown accelerator 'h10'; did you mean 'h100-sxm'?"),
        (
            "accelerators",
            "H100-SXM-80GBB",
            "unknown accelerator 'H100-SXM-80GBB'; did you mean 'h100-sxm'?",
        ),
        (
            "fabrics",
            "quantum",
            "unknown fabric 'quantum'; known: llama3-roce-24k, selene-hdr, vtrain-hdr, generic-400g-clos, "
            "generic-400g-rail, hpn-pod, rail-only-400g, nvl72, cloudmatrix384, ub-mesh-pod, frontier, "
            "tpu-v4-pod",
        ),
        ("fabrics", "selena-hdr", "unknown fabric 'selena-hdr'; did you mean 'selene-hdr'?"),
        (
            "accelerator",
            "h100",
            "unknown kind of catalogue entry 'accelerator'; did you mean 'accelerators'?",
        ),
    ],
)
def test_unknown_names_offer_the_nearest(kind: str, name: str, message: str) -> None:
    with pytest.raises(CatalogError) as caught:
        catalog.entry(kind, name)
    assert str(caught.value) == message
    assert caught.value.exit_code == 2


MINE = """
version = 1
[sources]
lab = "Our own measurement, 2026-11"
[h100-sxm]
aliases = ["ours"]
source = "lab"
vendor = "NVIDIA"
memory = "80 GB"
memory_bandwidth = "3.0 TB/s"
multiprocessors = 132
scale_up_bandwidth = "450 GB/s"
scale_up_domain = 8
peak.bf16 = "989 TFLOP/s"
"""


def test_a_users_directory_goes_in_front_and_reset_forgets_it(tmp_path: Path) -> None:
    (tmp_path / "accelerators.toml").write_text(MINE)
    assert catalog.add_directory(tmp_path) == ["accelerators.toml"]
    assert catalog.accelerator("h100-sxm").memory_bandwidth == 3.0e12
    assert catalog.accelerator("ours").sources["memory"] == "Our own measurement, 2026-11"
    assert catalog.accelerator("a100").name == "a100-sxm-80gb"
    assert str(tmp_path / "accelerators.toml") in catalog.hashes()
    assert catalog.check() == []
    catalog.reset()
    assert catalog.accelerator("h100-sxm").memory_bandwidth == 3.35e12


# text replaced, replacement, place named, sentence
BAD = [
    (
        '"80 GB"',
        '"80 GBB"',
        "h100-sxm.memory",
        "unknown data size unit 'GBB' in '80 GBB'; did you mean 'GB'?",
    ),
    ('"80 GB"', "80", "h100-sxm.memory", "80 has no unit; write for example '80 GiB'"),
    ('"80 GB"', '"-80 GB"', "h100-sxm.memory", "'-80 GB' is negative; a data size must be 0 or more"),
    ("= 132", "= 13.2", "h100-sxm.multiprocessors", "13.2 is not a whole number above 0"),
    ('memory = "80 GB"', "", "h100-sxm", "'memory' is missing; every accelerator needs it"),
    ("peak.bf16", "peak.b16", "h100-sxm", "'peak.bf16' is missing; every accelerator needs it"),
    ("memory =", "memroy =", "h100-sxm.memroy", "unknown field 'memroy'; did you mean 'memory'?"),
    ('source = "lab"', 'source = "lap"', "h100-sxm.source", "unknown source 'lap'; did you mean 'lab'?"),
    ("version = 1", "version = 2", "version", "2 is not a known version; write version = 1"),
    (
        "= 132",
        "= {value = 132, sorce = 'lab'}",
        "h100-sxm.multiprocessors.sorce",
        "unknown key 'sorce'; did you mean 'source'?",
    ),
    (
        '"80 GB"',
        '{value = "80 GB", low = "90 GB"}',
        "h100-sxm.memory",
        "the value must lie between low and high: 90000000000.0 <= 80000000000.0 <= 80000000000.0",
    ),
    ("[h100-sxm]", "[H100]", "H100", "an entry's name is lower-case letters, digits, '-', '_' and '.'"),
]


@pytest.mark.parametrize(("old", "new", "where", "sentence"), BAD)
def test_bad_files_get_one_sentence_and_change_nothing(
    tmp_path: Path, old: str, new: str, where: str, sentence: str
) -> None:
    (tmp_path / "accelerators.toml").write_text(MINE.replace(old, new, 1))
    with pytest.raises(CatalogError) as caught:
        catalog.add_directory(tmp_path)
    assert str(caught.value) == f"`accelerators.toml: {where}`: {sentence}"
    assert catalog.accelerator("h100-sxm").memory_bandwidth == 3.35e12


def test_broken_toml_is_named_with_line_and_column(tmp_path: Path) -> None:
    path = tmp_path / "fabrics.toml"
    path.write_text("version = 1\n[a\n")
    with pytest.raises(CatalogError, match=r"fabrics.toml`: is not TOML: .*line 2, column 3"):
        catalog.add_directory(tmp_path)
    path.rename(tmp_path / "fabric.toml")
    with pytest.raises(
        CatalogError, match=r"unknown catalogue file 'fabric.toml'; did you mean 'fabrics.toml'"
    ):
        catalog.add_directory(tmp_path)
    with pytest.raises(CatalogError, match="is not a directory"):
        catalog.add_directory(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CatalogError, match="holds no catalogue file"):
        catalog.add_directory(tmp_path / "empty")


def test_check_finds_what_is_wrong_with_a_users_entries(tmp_path: Path) -> None:
    text = MINE.replace('source = "lab"\n', "").replace('"ours"', '"h800"')
    text += 'sustained.bf16 = {value = "990 TFLOP/s", source = "lab"}\n'
    text += (
        'power_limit = {value = "700 W", source = "lab"}\nidle_power = {value = "701 W", source = "lab"}\n'
    )
    text += 'clock_derate = {value = 1.1, source = "lab"}\n'
    (tmp_path / "accelerators.toml").write_text(text)
    (tmp_path / "prices.toml").write_text(
        'version = 1\n[sources]\nx = "y"\n[odd]\nsource = "x"\naccelerator = "h1000"\nprice = "1 USD/h"\n'
        'date = "2026"\nterms = "spot"\n'
    )
    catalog.add_directory(tmp_path)
    problems = catalog.check()
    where = "`accelerators.h100-sxm"
    assert f'{where}.memory`: has no source; add source = "<id of a [sources] line>"' in problems
    assert f"{where}.sustained.bf16`: 9.9e+14 FLOP/s is above the peak of 9.89e+14" in problems
    assert f"{where}.idle_power`: is not below power_limit" in problems
    assert f"{where}.clock_derate`: 1.1 is above 1; a derate only slows down" in problems
    assert "`accelerators.h800-sxm.aliases`: 'h800' already names 'h100-sxm'" in problems
    assert "`prices.odd.accelerator`: 'h1000' is not an accelerator's name" in problems


def test_required_fields_are_fields() -> None:
    for schema in SCHEMAS.values():
        assert all(schema.type_of(path) is not None for path in schema.required)
