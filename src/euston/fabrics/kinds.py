"""Kinds of fabrics by name, for descriptions in files: each builder's signature says what its kind takes.

A kind's keys are the parameters of its builder, with their defaults and with the words of its docstring. What
a parameter called ``nic`` or ``link_latency`` is measured in is said here, once for all kinds.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, get_args, get_type_hints

from euston.errors import ConfigError, FabricError, unknown
from euston.fabrics._host_side import HostOptions
from euston.fabrics.clos import clos
from euston.fabrics.fabric import Fabric
from euston.registry import Registry
from euston.units import DIMENSIONS

__all__ = [
    "FABRICS",
    "FROM_ACCELERATOR",
    "QUANTITIES",
    "REQUIRED",
    "Described",
    "Parameter",
    "build",
    "parameters",
    "usual_accelerators_per_host",
]

FABRICS = Registry(
    "fabrics",
    {
        "clos": "euston.fabrics._kind_clos:clos_kind",
        "rail": "euston.fabrics._kind_clos:rail_kind",
        "leaf_spine": "euston.fabrics.clos:leaf_spine",
        "clos3": "euston.fabrics.clos:clos3",
        "fat_tree": "euston.fabrics.clos:fat_tree",
        "rail_only": "euston.fabrics.rails:rail_only",
        "hpn": "euston.fabrics.hpn:hpn",
        "dragonfly": "euston.fabrics.dragonfly:dragonfly",
        "slim_fly": "euston.fabrics.slim_fly:slim_fly",
        "hyperx": "euston.fabrics.hyperx:hyperx",
        "torus": "euston.fabrics.torus:torus",
        "jellyfish": "euston.fabrics.jellyfish:jellyfish",
        "graph": "euston.fabrics.graph:from_graph",
        "scale_up": "euston.fabrics.scale_up:scale_up",
        "wan": "euston.fabrics.wan:wan",
        "sites": "euston.fabrics._kind_sites:sites_kind",
    },
    kind="fabric kind",
)
"""Builders of fabrics. A plug-in's takes quantities under the names of `QUANTITIES`."""

QUANTITIES: dict[str, str] = {
    **dict.fromkeys(
        (
            "nic", "link", "local_link", "global_link", "tor_uplink", "agg_uplink", "scale_up", "bandwidth",
            "gateway_bandwidth",
        ),
        "bandwidth",
    ),
    **dict.fromkeys(
        (
            "latency", "link_latency", "nic_latency", "tor_latency", "agg_latency", "scale_up_latency",
            "local_latency", "global_latency",
        ),
        "duration",
    ),
    "buffer": "data",
}  # fmt: skip
"""Dimension (a key of `euston.units.DIMENSIONS`) of what parameters of these names are measured in."""

FROM_ACCELERATOR = ("scale_up", "bandwidth")
"""Parameters that an accelerator's own scale-up bandwidth stands in for where nobody says."""

Described = Mapping[str, Any]
"""A fabric within another: its kind and the values of its parameters."""

REQUIRED: Any = inspect.Parameter.empty
"""The default of a parameter that has none."""

_OF_SITE = ("hosts", "accelerators_per_host")
_EXAMPLES: dict[Any, str] = {int: "8", Sequence[int]: "[4, 4, 4]"}
_WORDS = {"hosts_per_switch": "Hosts on one switch."}


@dataclass(frozen=True)
class Parameter:
    """One parameter of a kind.

    Attributes
    ----------
    name : str
    hint : Any
        Its annotation, resolved.
    default : Any
        `REQUIRED` where there is none; None where the builder decides.
    dimension : str
        A key of `euston.units.DIMENSIONS` where it is a quantity, else "".
    words : str
        What the builder's docstring says of it.
    """

    name: str
    hint: Any
    default: Any
    dimension: str
    words: str

    @property
    def example(self) -> str:
        """What a value may look like; empty where that is not plain."""
        if self.dimension:
            return f'"{DIMENSIONS[self.dimension].example}"'
        return _EXAMPLES.get(self.hint, "")


@cache
def parameters(kind: str) -> dict[str, Parameter]:
    """The parameters of a kind by name, but for ``name``.

    Raises
    ------
    ConfigError
        For an unknown kind, with the nearest one.
    """
    builder = FABRICS.get(kind)
    hints = get_type_hints(builder, include_extras=True)
    words = {**_WORDS, **_words(clos), **_words(HostOptions, "Attributes"), **_words(builder)}
    found: dict[str, Parameter] = {}

    def add(name: str, hint: Any, default: Any) -> None:
        if name != "name":
            found[name] = Parameter(name, hint, default, QUANTITIES.get(name, ""), words.get(name, ""))

    for name, parameter in inspect.signature(builder).parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            options = next((hint for hint in get_args(hints[name])), None)
            for option, hint in get_type_hints(options, include_extras=True).items() if options else ():
                add(option, hint, None)
        else:
            add(name, hints.get(name, Any), parameter.default)
    return found


def _words(thing: Any, heading: str = "Parameters") -> dict[str, str]:
    """What a section of a docstring says about each name."""
    _, _, block = (inspect.getdoc(thing) or "").partition(f"{heading}\n{'-' * len(heading)}\n")
    found: dict[str, list[str]] = {}
    names: list[str] = []
    for line in block.split("\n\n")[0].splitlines():
        if line.startswith(" "):
            for name in names:
                found[name].append(line.strip())
        else:
            names = [name.strip() for name in line.partition(" :")[0].split(",")]
            found |= {name: [] for name in names}
    return {name: " ".join(lines) for name, lines in found.items()}


def usual_accelerators_per_host(kind: str) -> int | None:
    """What a kind takes where nobody says; None where only its builder knows."""
    parameter = parameters(kind).get("accelerators_per_host")
    return parameter.default if parameter is not None and isinstance(parameter.default, int) else None


def build(
    kind: str,
    values: Mapping[str, Any],
    *,
    hosts: int | None = None,
    accelerators_per_host: int | None = None,
    name: str = "",
    scale_up: str | float | None = None,
) -> Fabric:
    """The fabric of a kind from the values of its parameters (SI, or text with units).

    ``hosts`` and ``accelerators_per_host`` are handed on to builders that take them, and must agree with what
    others make. ``scale_up`` is the accelerators' own bandwidth, taken where the values say none and several
    share a domain.

    Raises
    ------
    FabricError, UnitError
        As "`parameter`: ...": unknown, missing, wrong, or at odds with the number of hosts or accelerators.
    """
    try:
        known = parameters(kind)
    except ConfigError as error:
        raise FabricError(f"`kind`: {error}") from None
    for key in values:
        if key not in known or key in _OF_SITE:
            raise FabricError(f"`{key}`: {unknown(f'key of a {kind}', key, set(known) - set(_OF_SITE))}")
    given = dict(values)
    for key, value in zip(_OF_SITE, (hosts, accelerators_per_host), strict=True):
        if value is not None and key in known:
            given[key] = value
    each = given.get("accelerators_per_host") or usual_accelerators_per_host(kind) or 1
    several = each * (given.get("hosts_per_domain") or 1) > 1 or "accelerators_per_host" not in known
    for key in FROM_ACCELERATOR:
        if scale_up is not None and several and key in known and key not in given:
            given[key] = scale_up
    for key, parameter in known.items():
        if parameter.default is REQUIRED and key not in given:
            example = parameter.example
            raise FabricError(f"`{key}`: is missing" + (f"; write e.g. {example}" if example else ""))
    builder = FABRICS.get(kind)
    if name and "name" in {**inspect.signature(builder).parameters, **HostOptions.__annotations__}:
        given["name"] = name
    fabric = builder(**given)
    if not isinstance(fabric, Fabric):
        raise FabricError(f"`kind`: the builder of {kind!r} made a {type(fabric).__name__}, not a Fabric")
    for key, value in zip(_OF_SITE, (hosts, accelerators_per_host), strict=True):
        made = getattr(fabric, key)
        if value is not None and value != made:
            words = key.replace("_", " ")
            raise FabricError(
                f"`{key}`: {value}, but a {kind} of these values has {made} {words}; leave it out"
            )
    return fabric
