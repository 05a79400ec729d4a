"""The `fabric` section of a site: a kind with its own keys, a preset of the catalogue, or both."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any

from pydantic import ConfigDict, Field, ValidationInfo, model_serializer, model_validator
from pydantic_core.core_schema import (
    SerializationInfo,
    SerializerFunctionWrapHandler,
    union_schema,
)

from euston import catalog
from euston.errors import BadInput, unknown
from euston.fabrics import Fabric
from euston.fabrics.kinds import FABRICS, FROM_ACCELERATOR, REQUIRED, build, parameters
from euston.scenario._base import Count, Section, Text, refuse
from euston.scenario._fabric_keys import OF_SITE, fabric_keys

__all__ = ["FabricSection", "PartSection", "built", "merged", "misplaced"]

_ABOUT = ("kind", "description", "attach", *OF_SITE)
"""Values of a preset that are no keys of its kind's builder."""

_PLACE = re.compile(r"`([^`]+)`: (.*)", re.DOTALL)
_KEPT = 8


class FabricSection(Section):
    """A fabric: a preset of the catalogue, a kind with its keys, or a preset with values changed."""

    model_config = ConfigDict(extra="allow")

    preset: Text | None = Field(
        default=None, description="A fabric of the catalogue; `euston catalog list fabrics`."
    )
    kind: Text | None = Field(default=None, description="Kind of fabric; a preset brings its own.")

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any, info: ValidationInfo) -> Any:
        if not isinstance(data, Mapping):
            return data
        preset, kind = data.get("preset"), data.get("kind")
        for key, value in (("preset", preset), ("kind", kind)):
            if value is not None and not isinstance(value, str):
                raise refuse(f"{value!r} is not text; put it in quotes if it is meant as a name", key)
        if preset is None and kind is None:
            raise refuse("needs a `preset` (see `euston catalog list fabrics`) or a `kind` with `nic`")
        about: Mapping[str, Any] = {}
        if preset is not None:
            try:
                about = catalog.entry("fabrics", preset).values
            except BadInput as error:
                raise refuse(str(error), "preset") from None
        kind = about["kind"] if kind is None else kind
        if kind not in cls._kinds():
            raise refuse(unknown("fabric kind", kind, cls._kinds()), "kind")
        known = parameters(kind)
        for key in about:
            if key not in known and key not in _ABOUT and key != "pods":
                raise refuse(
                    f"preset {preset!r} is a {about['kind']} with {key!r}, which a {kind} has not; "
                    "keep one of preset and kind",
                    "kind",
                )
        own = {key: data[key] for key in cls.model_fields if key in data and key not in ("preset", "kind")}
        rest = {key: value for key, value in data.items() if key not in own}
        section = fabric_keys(kind).model_validate(rest, context=info.context)
        given = {name: getattr(section, name) for name in type(section).model_fields}
        for key, parameter in known.items():
            needed = parameter.default is REQUIRED and key not in (*OF_SITE, *FROM_ACCELERATOR)
            if needed and given[key] is None and key not in about:
                hint = f"; write e.g. {parameter.example}" if parameter.example else ""
                raise refuse(f"is missing{hint}", key)
        return {**own, **{key: value for key, value in given.items() if value is not None}}

    @classmethod
    def _kinds(cls) -> list[str]:
        return FABRICS.names()

    @property
    def resolved_kind(self) -> str:
        """The kind, the preset's where none is given."""
        if self.kind is not None:
            return self.kind
        assert self.preset is not None
        return str(catalog.entry("fabrics", self.preset).values["kind"])

    def values(self) -> dict[str, Any]:
        """The values given here (SI), without those left out; they win over the preset's."""
        own = {
            key: {name: part.described() for name, part in value.items()} if _of_parts(value) else value
            for key, value in (self.model_extra or {}).items()
        }
        return own if self.kind is None else {"kind": self.kind, **own}

    @model_serializer(mode="wrap")
    def _dump(self, plain: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
        section = fabric_keys(self.resolved_kind).model_construct(
            preset=self.preset, kind=self.kind, **(self.model_extra or {})
        )
        own = {key: getattr(self, key) for key in type(self).model_fields if key not in ("preset", "kind")}
        values = section.model_dump(mode=info.mode, exclude_none=True)
        return {**values, **{key: value for key, value in own.items() if value is not None}}

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: Any) -> dict[str, Any]:
        options: list[Any] = []
        for kind in FABRICS.names():
            section = fabric_keys(kind)
            # With a `ref` each becomes a definition of its own.
            options.append({**section.__pydantic_core_schema__, "ref": f"{section.__name__}:{id(section)}"})
        made: dict[str, Any] = handler(union_schema(options))
        return {"title": cls.__name__, "description": inspect.getdoc(cls), **made}


class PartSection(FabricSection):
    """A site within a fabric of sites: its own fabric, and how many hosts it has."""

    hosts: Count | None = Field(default=None, description="Number of hosts; the fabric's unless said.")
    accelerators_per_host: Count | None = Field(default=None, description="Accelerators of a host.")

    @classmethod
    def _kinds(cls) -> list[str]:
        return [kind for kind in FABRICS.names() if kind not in ("wan", "sites")]

    def described(self) -> dict[str, Any]:
        """Kind, keys and sizes, those of a preset included."""
        values = merged(self, self.hosts)
        sizes = {key: getattr(self, key) or values.get(key) for key in OF_SITE}
        keys = {key: value for key, value in values.items() if key not in _ABOUT}
        return {"kind": values["kind"], **keys, **{key: n for key, n in sizes.items() if n is not None}}

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: Any) -> dict[str, Any]:
        words = f"{inspect.getdoc(cls)} Keys: hosts, accelerators_per_host, and those of a site's `fabric`."
        return {"type": "object", "description": words}


def _of_parts(value: Any) -> bool:
    return isinstance(value, dict) and any(isinstance(part, PartSection) for part in value.values())


def merged(section: FabricSection, hosts: int | None) -> dict[str, Any]:
    """Values of a fabric (SI): those of its preset, with the section's own over them.

    A preset's number of pods goes where the site says its ``hosts``.
    """
    if section.preset is None:
        return section.values()
    preset = dict(catalog.entry("fabrics", section.preset).values)
    if hosts is not None:
        preset.pop("pods", None)
        preset.pop("hosts", None)
    return {**preset, **section.values()}


_built: dict[str, Fabric] = {}


def built(
    values: Mapping[str, Any],
    hosts: int | None,
    accelerators_per_host: int | None,
    *,
    scale_up: float | None = None,
    name: str = "",
) -> Fabric:
    """The fabric of a site from the values of its section and preset; the last few are kept.

    Parameters
    ----------
    values : mapping
        ``kind`` and keys of the kind; what a preset says besides is passed over.
    hosts, accelerators_per_host : int, optional
        What the site says; else the preset's, else what the kind makes.
    scale_up : float, optional
        Bytes/s of the site's accelerator, where the values say nothing and several share a domain.

    Raises
    ------
    FabricError, UnitError
        As "`key`: ..."; ``hosts`` and ``accelerators_per_host`` are the site's.
    """
    kind = str(values["kind"])
    keys = {key: value for key, value in values.items() if key not in _ABOUT}
    count = values.get("hosts") if hosts is None else hosts
    each = values.get("accelerators_per_host") if accelerators_per_host is None else accelerators_per_host
    state = repr((kind, sorted(keys.items(), key=str), count, each, name, scale_up))
    if state not in _built:
        made = build(kind, keys, hosts=count, accelerators_per_host=each, name=name, scale_up=scale_up)
        while len(_built) >= _KEPT:
            del _built[next(iter(_built))]
        _built[state] = made
    return _built[state]


def misplaced(error: BadInput, where: str) -> tuple[str, str]:
    """Place in the scenario and words of a builder's "`key`: ...": below the site ``where`` or its fabric."""
    place = _PLACE.fullmatch(str(error))
    site = f"{where}." if where else ""
    if place is None:
        return f"{site}fabric", str(error)
    key = place[1]
    return (f"{site}{key}" if key in OF_SITE else f"{site}fabric.{key}"), place[2]
