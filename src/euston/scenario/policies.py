"""Policies in scenario files: a name of a policy room's registry, and that policy's own settings as keys.

The keys, their defaults and their words are those of the policy's dataclass, so that a policy says once what
it takes, wherever it comes from (a plug-in too).
"""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import (
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    create_model,
    model_serializer,
    model_validator,
)
from pydantic_core.core_schema import (
    SerializationInfo,
    SerializerFunctionWrapHandler,
    literal_schema,
    union_schema,
)

from euston import units
from euston.errors import BadInput, unknown
from euston.network.balancing import BALANCING, Balancing
from euston.network.transport import TRANSPORT, Transport
from euston.registry import Registry
from euston.scenario._base import Flag, Number, Section, Text, Whole, quantity, refuse

__all__ = ["BalancingSection", "PolicySection", "TransportSection"]

_BORDER: dict[Any, Any] = {
    bool: Flag,
    int: Whole,
    float: Number,
    str: Text,
    units.Duration: quantity("duration"),
    units.PositiveDuration: quantity("duration", positive=True),
    units.DataSize: quantity("data"),
    units.PositiveDataSize: quantity("data", positive=True),
    units.Bandwidth: quantity("bandwidth"),
    units.PositiveBandwidth: quantity("bandwidth", positive=True),
}
# One number or several; house errors leave out steps that begin with "~".
_NUMBERS = Annotated[
    Annotated[Number, Tag("~one")] | Annotated[tuple[Number, ...], Tag("~several")],
    Discriminator(lambda value: "~several" if isinstance(value, list | tuple) else "~one"),
]
_BORDER[float | Sequence[float]] = _NUMBERS
_PLACE = re.compile(r"`([^`.]+)\.?([^`]*)`: (.*)", re.DOTALL)


def _border(hint: Any) -> Any:
    """The type of a setting in a file for its type in Python: strict numbers, quantities with a unit."""
    if hint in _BORDER:
        return _BORDER[hint]
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return Union[tuple(_border(part) for part in inner)]  # noqa: UP007 - made at run time
    if origin is Mapping:
        return dict[_border(inner[0]), _border(inner[1])]  # type: ignore[misc]
    if origin is Sequence:
        return tuple[_border(inner[0]), ...]  # type: ignore[misc]
    return hint


def _words(policy: type) -> dict[str, str]:
    """What the "Parameters" of the policy's docstring say about each setting."""
    text = inspect.getdoc(policy) or ""
    _, _, block = text.partition("Parameters\n----------\n")
    found: dict[str, list[str]] = {}
    name = ""
    for line in block.split("\n\n")[0].splitlines():
        if line.startswith(" "):
            found[name].append(line.strip())
        else:
            name = line.partition(" :")[0]
            found[name] = []
    return {name: " ".join(lines) for name, lines in found.items()}


@cache
def _settings(registry: Registry, kind: str, default: str) -> type[Section]:
    """The section of one policy's settings, made from its dataclass; only ``default`` may go unnamed."""
    policy = registry.get(kind)
    hints, words = get_type_hints(policy, include_extras=True), _words(policy)
    keys: dict[str, Any] = {"kind": (Literal[kind], Field(default=kind if kind == default else ...))}
    for field in fields(policy) if is_dataclass(policy) else ():
        if field.name == "name" or not field.init:  # no setting
            continue
        hint = _border(hints[field.name])
        says = words.get(field.name, "")
        made: Any
        if field.name == "seed":
            hint, made = (
                Whole | None,
                Field(default=None, description=f"{says} run.seed unless said.".lstrip()),
            )
        elif field.default_factory is not MISSING:
            made = Field(default_factory=field.default_factory, description=says)
        else:
            made = Field(default=... if field.default is MISSING else field.default, description=says)
        keys[field.name] = (hint, made)
    room = registry.room.rpartition(".")[2].capitalize()
    name = "".join(part.capitalize() for part in re.split(r"[^0-9a-zA-Z]+", kind)) + room
    summary = (inspect.getdoc(policy) or "").partition("\n\n")[0]
    return create_model(name, __base__=Section, __doc__=summary, **keys)


class PolicySection(Section):
    """A policy by name, with its own settings beside the name."""

    model_config = ConfigDict(extra="allow")

    registry: ClassVar[Registry]
    default: ClassVar[str]

    kind: Text = Field(default="", description="Name of the policy.")

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any, info: ValidationInfo) -> Any:
        if isinstance(data, str):
            data = {"kind": data}
        if not isinstance(data, Mapping):
            return data
        kind = data.get("kind", cls.default)
        if not isinstance(kind, str):
            raise refuse(f"{kind!r} is not the name of a {cls.registry.kind}", "kind")
        if kind not in cls.registry:
            raise refuse(unknown(cls.registry.kind, kind, cls.registry.names()))
        section = _settings(cls.registry, kind, cls.default).model_validate(
            {**data, "kind": kind}, context=info.context
        )
        values = {name: getattr(section, name) for name in type(section).model_fields}
        try:
            cls._make(values, 0)
        except BadInput as error:
            own = f"`policies.{cls.registry.room.rpartition('.')[2]}."  # where a policy says it in full
            place = _PLACE.fullmatch(str(error).replace(own, "`"))
            if place is None:
                raise refuse(str(error)) from None
            raise refuse(f"{place[2]}: {place[3]}" if place[2] else place[3], place[1]) from None
        return values

    @classmethod
    def _make(cls, values: Mapping[str, Any], seed: int) -> Any:
        given = {key: value for key, value in values.items() if key != "kind"}
        if "seed" in given and given["seed"] is None:
            given["seed"] = seed
        return cls.registry.get(values["kind"])(**given)

    @property
    def settings(self) -> dict[str, Any]:
        """Every setting of the policy, said or not; a seed that is not said is None."""
        return dict(self.model_extra or {})

    @model_serializer(mode="wrap")
    def _dump(self, plain: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
        section = _settings(self.registry, self.kind, self.default).model_construct(
            **{"kind": self.kind, **self.settings}
        )
        return section.model_dump(mode=info.mode, exclude_none=info.exclude_none)

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: Any) -> dict[str, Any]:
        kinds = cls.registry.names()
        options: list[Any] = [literal_schema(kinds)]
        for kind in kinds:
            section = _settings(cls.registry, kind, cls.default)
            # With a `ref` each becomes a definition of its own.
            options.append({**section.__pydantic_core_schema__, "ref": f"{section.__name__}:{id(section)}"})
        made: dict[str, Any] = handler(union_schema(options))
        return {"title": cls.__name__, "description": inspect.getdoc(cls), **made}


class BalancingSection(PolicySection):
    """How flows choose among equal paths: ``spray``, or ``{kind: ecmp, qps: 4}``."""

    registry: ClassVar[Registry] = BALANCING
    default: ClassVar[str] = "spray"

    kind: Text = "spray"

    def make(self, seed: int) -> Balancing:
        """The policy; ``seed`` where the section gives none."""
        made: Balancing = self._make({"kind": self.kind, **self.settings}, seed)
        return made


class TransportSection(PolicySection):
    """What a packet sender does when the network answers: ``nscc``, or ``{kind: nscc, mtu: 4150}``."""

    registry: ClassVar[Registry] = TRANSPORT
    default: ClassVar[str] = "nscc"

    kind: Text = "nscc"

    def make(self) -> Transport:
        """The transport."""
        made: Transport = self._make({"kind": self.kind, **self.settings}, 0)
        return made
