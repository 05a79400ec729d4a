"""`check`: looks through the whole catalogue for numbers without a source and facts that contradict."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from euston.catalog._schema import SCHEMAS
from euston.catalog._store import entries
from euston.catalog.entry import Entry
from euston.errors import CatalogError

__all__ = ["check"]


def check() -> list[str]:
    """Return one sentence per problem, none when the catalogue is sound.

    Looked for: files that cannot be read; numbers without a source; names used twice; a sustained rate above
    the peak or an idle power above the limit; prices of unknown accelerators; a gradient type at odds with
    its accumulation. Published parameter counts are compared in the room `models`, where they can be counted.
    """
    problems: list[str] = []
    for kind in SCHEMAS:
        try:
            found = entries(kind)
        except CatalogError as error:
            problems.append(str(error))
            continue
        for item in found:
            problems += _unsourced(item)
            if kind in _RULES:
                problems += _RULES[kind](item)
        problems += _twice(found)
    return problems


def _unsourced(item: Entry) -> Iterator[str]:
    for path, value in item.flat().items():
        number = isinstance(value, (int, float, tuple)) and not isinstance(value, bool)
        if number and path not in item.sources:
            yield f'`{item.kind}.{item.name}.{path}`: has no source; add source = "<id of a [sources] line>"'


def _twice(found: list[Entry]) -> Iterator[str]:
    owner: dict[str, str] = {item.name: item.name for item in found}
    for item in found:
        for alias in item.aliases:
            other = owner.setdefault(alias.casefold(), item.name)
            if other != item.name:
                yield f"`{item.kind}.{item.name}.aliases`: {alias!r} already names {other!r}"


def _accelerator(item: Entry) -> Iterator[str]:
    where = f"{item.kind}.{item.name}"
    values = item.values
    peak: Mapping[str, float] = values["peak"]
    for dtype, rate in values.get("sustained", {}).items():
        high = item.ranges.get(f"sustained.{dtype}", (rate, rate))[1]
        if dtype not in peak:
            yield f"`{where}.sustained.{dtype}`: there is no peak.{dtype} to compare it with"
        elif high > peak[dtype]:
            yield f"`{where}.sustained.{dtype}`: {high:g} FLOP/s is above the peak of {peak[dtype]:g}"
    if "idle_power" in values and values["idle_power"] >= values.get("power_limit", float("inf")):
        yield f"`{where}.idle_power`: is not below power_limit"
    if values.get("clock_derate", 1.0) > 1:
        yield f"`{where}.clock_derate`: {values['clock_derate']:g} is above 1; a derate only slows down"


def _price(item: Entry) -> Iterator[str]:
    if item.values["accelerator"] not in {known.name for known in entries("accelerators")}:
        named = item.values["accelerator"]
        yield f"`{item.kind}.{item.name}.accelerator`: {named!r} is not an accelerator's name"


def _software(item: Entry) -> Iterator[str]:
    values = item.values
    if (values["attention"] == "unfused") != (values["attention_kernel"] == "unfused"):
        yield f"`{item.kind}.{item.name}.attention_kernel`: disagrees with attention"
    if values["grad_accumulation"].endswith("fp32") != (values["gradient_dtype"] == "fp32"):
        yield f"`{item.kind}.{item.name}.grad_accumulation`: disagrees with gradient_dtype"


def _fabric(item: Entry) -> Iterator[str]:
    values = item.values
    if values["kind"] in ("clos", "rail") and len(values.get("oversubscription", (1, 1))) != 2:
        yield f"`{item.kind}.{item.name}.oversubscription`: needs two numbers, ToR and pod"
    if values["accelerators_per_host"] % values.get("nics_per_host", 1):
        yield f"`{item.kind}.{item.name}.nics_per_host`: does not divide the accelerators of a host"


def _power(item: Entry) -> Iterator[str]:
    if item.values.get("pue", 1.0) < 1:
        yield f"`{item.kind}.{item.name}.pue`: is below 1; PUE is facility power over IT power"


_RULES = {
    "accelerators": _accelerator,
    "prices": _price,
    "software": _software,
    "fabrics": _fabric,
    "power": _power,
}
