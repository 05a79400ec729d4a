"""Units: parsing against exact fractions and the prefixes' definitions, formatting against its inverse."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from euston import units
from euston.errors import BadInput, UnitError
from euston.units import Bandwidth, DataSize, PositiveBandwidth, PositiveDuration

FORMATS = {
    "bandwidth": units.format_bandwidth,
    "data": units.format_bytes,
    "duration": units.format_seconds,
    "power": units.format_power,
    "energy": units.format_energy,
    "flops": units.format_flops,
}


@pytest.mark.parametrize(
    ("text", "dimension", "expected"),
    [
        ("400 Gb/s", "bandwidth", 50e9),  # bits
        ("400 GB/s", "bandwidth", 400e9),  # bytes
        ("400 GiB/s", "bandwidth", 400 * 2**30),
        ("400Gbps", "bandwidth", 50e9),
        ("3.35 TB/s", "bandwidth", 3.35e12),
        ("80 GB", "data", 80e9),
        ("80 GiB", "data", 80 * 2**30),
        ("1_000 B", "data", 1000.0),
        ("8 Gbit", "data", 1e9),
        ("5 us", "duration", 5e-6),
        ("5 \N{MICRO SIGN}s", "duration", 5e-6),
        ("5 \N{GREEK SMALL LETTER MU}s", "duration", 5e-6),
        ("1.5 h", "duration", 5400.0),
        ("2 days", "duration", 172800.0),
        ("0.7 kW", "power", 700.0),
        ("1 kWh", "energy", 3.6e6),
        ("989 TFLOP/s", "flops", 989e12),
        ("1979 TOP/s", "flops", 1979e12),
        ("1410 MHz", "frequency", 1.41e9),
        ("3.6 USD/h", "money", 1e-3),
        ("0.36 USD/kWh", "energy_price", 1e-7),
        (" 1e3  W ", "power", 1000.0),
        (".5 s", "duration", 0.5),
    ],
)
def test_parse_gives_the_defined_si_value(text: str, dimension: str, expected: float) -> None:
    assert units.parse(text, dimension) == expected


def test_short_functions_name_their_dimension() -> None:
    assert units.bandwidth("400 Gb/s") == 5e10
    assert units.data("80 GiB") == 80 * 2**30
    assert units.duration("5 us") == 5e-6
    assert units.power("700 W") == 700
    assert units.energy("3 kWh") == 10.8e6
    assert units.flops("989 TFLOP/s") == 989e12
    assert units.frequency("1 GHz") == 1e9
    assert units.money("2.5 USD/h") == 2.5 / 3600
    assert units.energy_price("0.08 USD/kWh") == pytest.approx(0.08 / 3.6e6, rel=1e-15)


def test_bits_are_an_eighth_of_bytes_and_binary_prefixes_are_powers_of_1024() -> None:
    for power, prefix in enumerate("kMGTPE", start=1):
        assert units.bandwidth(f"8 {prefix}b/s") == units.bandwidth(f"1 {prefix}B/s") == 1000.0**power
        binary = ("K" if prefix == "k" else prefix) + "iB"
        assert units.data(f"1 {binary}") == 1024.0**power


@given(st.decimals(min_value=0, max_value=10**6, places=6), st.data())
def test_parse_rounds_the_exact_product_once(number: object, draw: st.DataObject) -> None:
    """Oracle: the value as an exact fraction, rounded to the nearest float."""
    dimension = draw.draw(st.sampled_from(sorted(units.DIMENSIONS)))
    unit = draw.draw(st.sampled_from(sorted(units.DIMENSIONS[dimension].units)))
    exact = Fraction(str(number)) * units.DIMENSIONS[dimension].units[unit]
    assert units.parse(f"{number} {unit}", dimension) == float(exact)


@given(st.sampled_from(sorted(FORMATS)), st.floats(min_value=1e-9, max_value=1e24))
def test_format_then_parse_returns_the_value_to_four_digits(dimension: str, value: float) -> None:
    text = FORMATS[dimension](value)
    assert units.parse(text, dimension) == pytest.approx(value, rel=5.1e-4)
    assert len(text) < 34


@given(st.sampled_from(sorted(units.DIMENSIONS)), st.floats(min_value=0, max_value=1e300))
def test_exact_text_loses_nothing(dimension: str, value: float) -> None:
    assert units.parse(units.exact_text(value, dimension), dimension) == value


@pytest.mark.parametrize(
    ("got", "expected"),
    [
        (units.format_bytes(80 * 2**30), "80 GiB"),
        (units.format_bytes(1023.99999 * 1024), "1 MiB"),
        (units.format_bytes(0), "0 B"),
        (units.format_seconds(5e-6), "5 us"),
        (units.format_seconds(0.999999), "1 s"),
        (units.format_seconds(5400), "1.5 h"),
        (units.format_seconds(-0.002), "-2 ms"),
        (units.format_bandwidth(5e10), "50 GB/s"),
        (units.format_flops(4e14), "400 TFLOP/s"),
        (units.format_power(1.5e6), "1.5 MW"),
        (units.format_energy(3.6e6), "3.6 MJ"),
        (units.format_seconds(math.nan), "nan ns"),
    ],
)
def test_format_is_short(got: str, expected: str) -> None:
    assert got == expected


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("400", "'400' has no unit; write for example '400 Gb/s'"),
        ("", "'' is not a bandwidth; write for example '400 Gb/s'"),
        ("fast", "'fast' is not a bandwidth; write for example '400 Gb/s'"),
        ("400 Gbs", "unknown bandwidth unit 'Gbs' in '400 Gbs'; did you mean 'Gb/s'?"),
        ("400 GBs", "unknown bandwidth unit 'GBs' in '400 GBs'; did you mean 'GB/s'?"),
        ("400 gb/s", "unknown bandwidth unit 'gb/s' in '400 gb/s'; did you mean 'GB/s' or 'Gb/s'?"),
        ("400 qqq", "unknown bandwidth unit 'qqq' in '400 qqq'; write for example '400 Gb/s'"),
        ("80 GB", "'80 GB' is a data size, not a bandwidth; write for example '400 Gb/s'"),
        ("3 J", "'3 J' is an energy, not a bandwidth; write for example '400 Gb/s'"),
        ("-3 GB/s", "'-3 GB/s' is negative; a bandwidth must be 0 or more"),
        ("nan GB/s", "'nan GB/s' is not a finite bandwidth; write for example '400 Gb/s'"),
        ("inf GB/s", "'inf GB/s' is not a finite bandwidth; write for example '400 Gb/s'"),
        ("1e999 GB/s", "'1e999 GB/s' is not a finite bandwidth; write for example '400 Gb/s'"),
        (math.nan, "nan is not a finite bandwidth; write for example '400 Gb/s'"),
        (-1.0, "-1.0 is negative; a bandwidth must be 0 or more"),
        (True, "True is not a bandwidth; write for example '400 Gb/s'"),
        (None, "None is not a bandwidth; write for example '400 Gb/s'"),
    ],
)
def test_bad_quantities_get_one_sentence(value: object, message: str) -> None:
    with pytest.raises(UnitError) as caught:
        units.bandwidth(value, where="sites[0].nic")  # type: ignore[arg-type]
    assert str(caught.value) == f"`sites[0].nic`: {message}"
    assert isinstance(caught.value, BadInput) and caught.value.exit_code == 2


@pytest.mark.parametrize("value", ["0 GB/s", "-0 GB/s", 0, 0.0])
def test_zero_is_refused_only_where_it_makes_no_sense(value: str | float) -> None:
    assert units.bandwidth(value) == 0
    with pytest.raises(UnitError, match="is zero; a bandwidth must be above 0"):
        units.bandwidth(value, positive=True)


def test_numbers_from_python_are_si_already() -> None:
    assert units.bandwidth(5e10) == 5e10
    assert units.data(1024) == 1024.0
    assert units.duration(np.float32(0.5)) == 0.5


@given(st.text(max_size=20))
def test_any_text_is_a_value_or_a_unit_error(text: str) -> None:
    try:
        value = units.bandwidth(text)
    except UnitError:
        return
    assert math.isfinite(value) and value >= 0


def test_huge_exponents_cost_nothing() -> None:
    assert units.data("1e-999999999 GB") == 0
    with pytest.raises(UnitError):
        units.data("1e999999999 GB")


class Site(BaseModel):
    nic: PositiveBandwidth
    cap: Bandwidth = 0.0
    memory: DataSize = 0.0
    latency: PositiveDuration = 1e-6


def test_scenario_types_parse_and_write_back_the_same_values() -> None:
    site = Site.model_validate({"nic": "400 Gb/s", "memory": "80 GiB", "latency": "0.333333333 us"})
    assert (site.nic, site.memory, site.latency) == (5e10, 80 * 2**30, 0.333333333e-6)
    again = site.model_dump(mode="json")
    assert again["nic"] == "50 GB/s"
    assert Site.model_validate(again) == site
    assert Site.model_json_schema()["properties"]["nic"]["type"] == "string"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"nic": 5e10}, "50000000000.0 has no unit; write for example '400 Gb/s'"),
        ({"nic": "0 GB/s"}, "'0 GB/s' is zero; a bandwidth must be above 0"),
        (
            {"nic": "400 Gb/s", "latency": "5 mms"},
            "unknown duration unit 'mms' in '5 mms'; did you mean 'ms'?",
        ),
        ({"nic": "{x} GB/s"}, "'{x} GB/s' is not a bandwidth; write for example '400 Gb/s'"),
    ],
)
def test_scenario_types_refuse_bare_and_bad_quantities(data: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Site.model_validate(data)
    assert caught.value.errors()[0]["msg"] == message
