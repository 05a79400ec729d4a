"""Quantities at the border: text with a unit in, SI floats inside, short text out.

Inside euston everything is SI: seconds, bytes, bytes/s, FLOP/s, watts, joules, US dollars per second. People
write "400 Gb/s" (bits), "80 GiB" (binary) or "2.5 USD/h"; this file is the only place that knows such units.
A string must carry a unit of the right dimension; a number that comes from Python is taken as SI already.
NaN, infinities and negative values are refused everywhere, zero where ``positive=True``.

Unit names are case-sensitive: ``Gb`` is 10^9 bits, ``GB`` 10^9 bytes, ``GiB`` 2^30 bytes.
"""

from __future__ import annotations

import difflib
import math
import numbers
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema
from pydantic_core import PydanticCustomError

from euston.errors import UnitError, at

__all__ = [
    "DIMENSIONS",
    "Bandwidth",
    "DataSize",
    "Duration",
    "EnergyPrice",
    "FlopRate",
    "MoneyRate",
    "PositiveBandwidth",
    "PositiveDataSize",
    "PositiveDuration",
    "PositivePower",
    "Power",
    "bandwidth",
    "data",
    "duration",
    "energy",
    "energy_price",
    "exact_text",
    "flops",
    "format_bandwidth",
    "format_bytes",
    "format_energy",
    "format_flops",
    "format_power",
    "format_seconds",
    "frequency",
    "money",
    "parse",
    "power",
    "split",
]


@dataclass(frozen=True)
class Dimension:
    """One physical dimension: its words, its SI unit and every unit name it accepts with the exact factor."""

    words: str
    base: str
    example: str
    units: dict[str, Fraction]


_DECIMAL = {"": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18, "Z": 21, "Y": 24}
_BINARY = {"Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4, "Pi": 5, "Ei": 6}


def _decimal(unit: str, scale: Fraction | int = 1) -> dict[str, Fraction]:
    return {prefix + unit: Fraction(10) ** power * scale for prefix, power in _DECIMAL.items()}


def _binary(unit: str, scale: Fraction | int = 1) -> dict[str, Fraction]:
    return {prefix + unit: Fraction(1024) ** power * scale for prefix, power in _BINARY.items()}


_BIT = Fraction(1, 8)
_DATA = {
    **_decimal("B"),
    **_decimal("b", _BIT),
    **_decimal("bit", _BIT),
    **_binary("B"),
    **_binary("b", _BIT),
    "KB": Fraction(1000),
    "Kb": 1000 * _BIT,
}
_BANDWIDTH = {f"{name}/s": factor for name, factor in _DATA.items()}
_BANDWIDTH |= {f"{prefix}bps": Fraction(10) ** power * _BIT for prefix, power in _DECIMAL.items()}
_TIME = {
    "ps": Fraction(1, 10**12),
    "ns": Fraction(1, 10**9),
    "us": Fraction(1, 10**6),
    "\N{MICRO SIGN}s": Fraction(1, 10**6),
    "\N{GREEK SMALL LETTER MU}s": Fraction(1, 10**6),
    "ms": Fraction(1, 1000),
    "s": Fraction(1),
    "min": Fraction(60),
    "h": Fraction(3600),
    "d": Fraction(86400),
    **{name: Fraction(1) for name in ("second", "seconds")},
    **{name: Fraction(60) for name in ("minute", "minutes")},
    **{name: Fraction(3600) for name in ("hour", "hours")},
    **{name: Fraction(86400) for name in ("day", "days")},
}
_PER_HOUR = {"USD/s": Fraction(1), "USD/h": Fraction(1, 3600), "USD/d": Fraction(1, 86400)}
_JOULE = {**_decimal("J"), **_decimal("Wh", 3600)}

DIMENSIONS: dict[str, Dimension] = {
    "bandwidth": Dimension("bandwidth", "B/s", "400 Gb/s", _BANDWIDTH),
    "data": Dimension("data size", "B", "80 GiB", _DATA),
    "duration": Dimension("duration", "s", "5 us", _TIME),
    "power": Dimension("power", "W", "700 W", {**_decimal("W"), "mW": Fraction(1, 1000)}),
    "energy": Dimension("energy", "J", "3 kWh", _JOULE),
    "flops": Dimension(
        "compute rate",
        "FLOP/s",
        "989 TFLOP/s",
        {**_decimal("FLOP/s"), **_decimal("FLOPS"), **_decimal("OP/s")},
    ),
    "frequency": Dimension("frequency", "Hz", "1.4 GHz", _decimal("Hz")),
    "money": Dimension("cost rate", "USD/s", "2.5 USD/h", _PER_HOUR),
    "energy_price": Dimension(
        "energy price",
        "USD/J",
        "0.08 USD/kWh",
        {f"USD/{unit}": 1 / factor for unit, factor in _JOULE.items()},
    ),
}
"""Every dimension by its short name. The value of a parsed quantity is in `Dimension.base`."""

_QUANTITY = re.compile(
    r"\s*(?P<number>[+-]?(?:\d[\d_]*\.?[\d_]*|\.\d[\d_]*)(?:[eE][+-]?\d+)?|[+-]?(?:nan|inf|infinity)\b)\s*(?P<unit>.*?)\s*",
    re.IGNORECASE | re.DOTALL,
)


def split(text: str) -> tuple[str, str] | None:
    """Split ``"400 Gb/s"`` into ``("400", "Gb/s")``; None when the text does not begin with a number."""
    match = _QUANTITY.fullmatch(text)
    return None if match is None else (match["number"], match["unit"])


def _closest(unit: str, names: Iterable[str]) -> str | None:
    # case is kept, since Gb is not GB; at equal likeness Gb/s is offered before Gbps
    scored = [
        (difflib.SequenceMatcher(None, unit, name).ratio(), not name.endswith("bps"), name) for name in names
    ]
    score, _, name = max(scored)
    return name if score >= 0.5 else None


def _unknown_unit(unit: str, text: str, wanted: Dimension) -> str:
    for other in DIMENSIONS.values():
        if other is not wanted and unit in other.units:
            article = "an" if other.words[0] in "aeiou" else "a"
            is_not = f"{text!r} is {article} {other.words}, not a {wanted.words}"
            return f"{is_not}; write for example {wanted.example!r}"
    same = [name for name in wanted.units if name.casefold() == unit.casefold()]
    if len(same) > 1:  # gb/s: bits or bytes? Ask, never guess.
        guess = f"did you mean {' or '.join(repr(name) for name in same)}?"
    elif close := _closest(unit, wanted.units):
        guess = f"did you mean {close!r}?"
    else:
        guess = f"write for example {wanted.example!r}"
    return f"unknown {wanted.words} unit {unit!r} in {text!r}; {guess}"


def _checked(value: float, text: str, wanted: Dimension, positive: bool, where: str) -> float:
    least = "above 0" if positive else "0 or more"
    if not math.isfinite(value):
        raise UnitError(
            at(where, f"{text} is not a finite {wanted.words}; write for example {wanted.example!r}")
        )
    if value < 0:
        raise UnitError(at(where, f"{text} is negative; a {wanted.words} must be {least}"))
    if positive and value == 0:
        raise UnitError(at(where, f"{text} is zero; a {wanted.words} must be {least}"))
    return value


def parse(
    value: str | float, dimension: str, *, positive: bool = False, where: str = "", bare: bool = True
) -> float:
    """Turn a quantity into an SI float.

    Parameters
    ----------
    value
        Text with a unit (``"400 Gb/s"``), or a number that is SI already.
    dimension
        A key of `DIMENSIONS`: ``"bandwidth"`` (B/s), ``"data"`` (B), ``"duration"`` (s), ``"power"`` (W),
        ``"energy"`` (J), ``"flops"`` (FLOP/s), ``"frequency"`` (Hz), ``"money"`` (USD/s) or
        ``"energy_price"`` (USD/J).
    positive
        Refuse zero.
    where
        The place named in the error, e.g. ``"sites[0].nic"``.
    bare
        Whether a number without a unit is accepted. Scenario files pass False.

    Returns
    -------
    float
        The correctly rounded value in the dimension's SI unit.

    Raises
    ------
    UnitError
        No unit, a misspelt or foreign unit, NaN, infinite, negative, or zero where `positive`.
    """
    wanted = DIMENSIONS[dimension]
    if isinstance(value, str):
        parts = split(value)
        if parts is None:
            raise UnitError(
                at(where, f"{value!r} is not a {wanted.words}; write for example {wanted.example!r}")
            )
        number, unit = parts
        if not unit:
            raise UnitError(at(where, f"{value!r} has no unit; write for example {wanted.example!r}"))
        if unit not in wanted.units:
            raise UnitError(at(where, _unknown_unit(unit, value, wanted)))
        return _checked(_scaled(number, wanted.units[unit]), repr(value), wanted, positive, where)
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise UnitError(at(where, f"{value!r} is not a {wanted.words}; write for example {wanted.example!r}"))
    if not bare:
        raise UnitError(at(where, f"{value!r} has no unit; write for example {wanted.example!r}"))
    return _checked(float(value), repr(value), wanted, positive, where)


def _scaled(number: str, factor: Fraction) -> float:
    value = float(number)
    if value == 0 or not 1e-200 < abs(value) < 1e200:  # keeps the exact path's integers small
        return value * float(factor)
    return float(Fraction(number.replace("_", "")) * factor)


def bandwidth(value: str | float, *, positive: bool = False, where: str = "") -> float:
    """Bandwidth in bytes/s: ``bandwidth("400 Gb/s") == 5e10``. See `parse`."""
    return parse(value, "bandwidth", positive=positive, where=where)


def data(value: str | float, *, positive: bool = False, where: str = "") -> float:
    """Data size in bytes: ``data("80 GiB") == 80 * 2**30``. See `parse`."""
    return parse(value, "data", positive=positive, where=where)


def duration(value: str | float, *, positive: bool = False, where: str = "") -> float:
    """Duration in seconds: ``duration("5 us") == 5e-6``. See `parse`."""
    return parse(value, "duration", positive=positive, where=where)


def power(value: str | float, *, positive: bool = False, where: str = "") -> float:
    """Power in watts: ``power("0.7 kW") == 700``. See `parse`."""
    return parse(value, "power", positive=positive, where=where)


def energy(value: str | float, *, positive: bool = False, where: str = "") -> float:
    """Energy in joules: ``energy("1 kWh") == 3.6e6``. See `parse`."""
    return parse(value, "energy", positive=positive, where=where)


def flops(value: str | float, *, positive: bool = False, where: str = "") -> float:
    """Compute rate in FLOP/s: ``flops("989 TFLOP/s") == 9.89e14``. See `parse`."""
    return parse(value, "flops", positive=positive, where=where)


def frequency(value: str | float, *, positive: bool = False, where: str = "") -> float:
    """Frequency in hertz: ``frequency("1.4 GHz") == 1.4e9``. See `parse`."""
    return parse(value, "frequency", positive=positive, where=where)


def money(value: str | float, *, positive: bool = False, where: str = "") -> float:
    """Cost rate in US dollars per second: ``money("3.6 USD/h") == 0.001``. See `parse`."""
    return parse(value, "money", positive=positive, where=where)


def energy_price(value: str | float, *, positive: bool = False, where: str = "") -> float:
    """Energy price in US dollars per joule: ``energy_price("0.36 USD/kWh") == 1e-7``. See `parse`."""
    return parse(value, "energy_price", positive=positive, where=where)


def _format(value: float, steps: tuple[tuple[float, str], ...], digits: int) -> str:
    if not math.isfinite(value):
        return f"{value} {steps[-1][1]}"
    size = abs(value)
    # a value that would print as 1000 of the smaller unit takes the larger one
    scale, unit = next(((s, u) for s, u in steps if size >= s * (1 - 0.5 * 10.0**-digits)), steps[-1])
    if value == 0:
        return f"0 {next((u for s, u in steps if s == 1), unit)}"
    shown = value / scale
    text = f"{shown:.0f}" if abs(shown) >= 10**digits else f"{shown:.{digits}g}"
    return f"{text} {unit}"


def _steps(unit: str, *prefixes: str) -> tuple[tuple[float, str], ...]:
    return tuple((10.0 ** _DECIMAL[prefix], prefix + unit) for prefix in prefixes)


_BYTE_STEPS = tuple((1024.0**power, prefix + "B") for prefix, power in reversed(_BINARY.items())) + (
    (1.0, "B"),
)
_SECOND_STEPS = (
    (86400.0, "d"),
    (3600.0, "h"),
    (60.0, "min"),
    (1.0, "s"),
    (1e-3, "ms"),
    (1e-6, "us"),
    (1e-9, "ns"),
)
_RATE_STEPS = _steps("B/s", "P", "T", "G", "M", "k", "")
_FLOP_STEPS = _steps("FLOP/s", "Z", "E", "P", "T", "G", "M", "k", "")
_WATT_STEPS = _steps("W", "G", "M", "k", "")
_JOULE_STEPS = _steps("J", "P", "T", "G", "M", "k", "")


def format_bytes(value: float, digits: int = 4) -> str:
    """Bytes for people, in binary units: ``format_bytes(80 * 2**30) == "80 GiB"``."""
    return _format(value, _BYTE_STEPS, digits)


def format_seconds(value: float, digits: int = 4) -> str:
    """Seconds for people: ``format_seconds(5e-6) == "5 us"``."""
    return _format(value, _SECOND_STEPS, digits)


def format_bandwidth(value: float, digits: int = 4) -> str:
    """Bytes/s for people, in decimal units: ``format_bandwidth(5e10) == "50 GB/s"``."""
    return _format(value, _RATE_STEPS, digits)


def format_flops(value: float, digits: int = 4) -> str:
    """FLOP/s for people: ``format_flops(4e14) == "400 TFLOP/s"``."""
    return _format(value, _FLOP_STEPS, digits)


def format_power(value: float, digits: int = 4) -> str:
    """Watts for people: ``format_power(1.5e6) == "1.5 MW"``."""
    return _format(value, _WATT_STEPS, digits)


def format_energy(value: float, digits: int = 4) -> str:
    """Joules for people: ``format_energy(3.6e6) == "3.6 MJ"``."""
    return _format(value, _JOULE_STEPS, digits)


_FORMAT: dict[str, Callable[[float], str]] = {
    "bandwidth": format_bandwidth,
    "data": format_bytes,
    "duration": format_seconds,
    "power": format_power,
    "energy": format_energy,
    "flops": format_flops,
    "money": lambda value: f"{value * 3600:.10g} USD/h",
    "energy_price": lambda value: f"{value * 3.6e6:.10g} USD/kWh",
}


def exact_text(value: float, dimension: str) -> str:
    """Text that `parse` turns back into exactly `value`: the short form where exact, else all digits."""
    if dimension in _FORMAT and parse(short := _FORMAT[dimension](value), dimension) == value:
        return short
    if dimension == "data" and value % 2**20 == 0:
        return f"{value / 2**20:.0f} MiB"
    return f"{value!r} {DIMENSIONS[dimension].base}"


def _quantity(dimension: str, positive: bool) -> tuple[Any, ...]:
    def validate(value: Any) -> float:
        try:
            return parse(value, dimension, positive=positive, bare=False)
        except UnitError as error:
            raise PydanticCustomError("quantity", "{reason}", {"reason": str(error)}) from None

    wanted = DIMENSIONS[dimension]
    return (
        BeforeValidator(validate),
        PlainSerializer(lambda value: exact_text(value, dimension), return_type=str),
        WithJsonSchema({"type": "string", "description": f"a {wanted.words}", "examples": [wanted.example]}),
    )


# Types for scenario files: text with a unit in and out, SI float inside. Bare numbers are refused.
Bandwidth = Annotated[float, *_quantity("bandwidth", False)]
PositiveBandwidth = Annotated[float, *_quantity("bandwidth", True)]
DataSize = Annotated[float, *_quantity("data", False)]
PositiveDataSize = Annotated[float, *_quantity("data", True)]
Duration = Annotated[float, *_quantity("duration", False)]
PositiveDuration = Annotated[float, *_quantity("duration", True)]
Power = Annotated[float, *_quantity("power", False)]
PositivePower = Annotated[float, *_quantity("power", True)]
FlopRate = Annotated[float, *_quantity("flops", False)]
MoneyRate = Annotated[float, *_quantity("money", False)]
EnergyPrice = Annotated[float, *_quantity("energy_price", False)]
