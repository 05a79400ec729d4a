"""Keys of fabric kinds as pydantic sections: made from what each kind's builder takes."""

from __future__ import annotations

import inspect
import types
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    PlainSerializer,
    Tag,
    ValidationInfo,
    WithJsonSchema,
    create_model,
)

from euston.errors import UnitError
from euston.fabrics.kinds import FABRICS, FROM_ACCELERATOR, REQUIRED, Described, Parameter, parameters
from euston.scenario._base import FROM_FILE, Flag, Number, Section, Text, Whole, quantity, refuse
from euston.units import DIMENSIONS, exact_text, parse

__all__ = ["OF_SITE", "fabric_keys"]

OF_SITE = ("hosts", "accelerators_per_host")
"""Parameters of builders that stand in the site's section."""

_PLAIN: dict[Any, Any] = {bool: Flag, int: Whole, float: Number, str: Text, Any: Any}


def _one_or_more(one: Any, by_name: Any = None) -> Any:
    """A value, a list of them, or (where ``by_name`` is given) a mapping.

    House errors leave out steps that begin with "~".
    """
    forms: list[Any] = [Annotated[one, Tag("~one")], Annotated[tuple[one, ...], Tag("~several")]]
    if by_name is not None:
        forms.append(Annotated[by_name, Tag("~named")])

    def form(value: Any) -> str:
        if isinstance(value, list | tuple):
            return "~several"
        return "~named" if by_name is not None and isinstance(value, Mapping) else "~one"

    return Annotated[Union[tuple(forms)], Discriminator(form)]  # noqa: UP007 - made at run time


def _end(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise refuse(f"{value!r} is neither a name nor a number")
    return value


_End = Annotated[Any, BeforeValidator(_end), WithJsonSchema({"type": ["string", "integer"]})]


def _cable(value: Any, info: ValidationInfo) -> Any:
    """``[a, b]``, with a bandwidth and a time behind them."""
    if not isinstance(value, list | tuple) or not 2 <= len(value) <= 4:
        raise refuse(f'{value!r} is no cable; write e.g. [a, b, "400 Gb/s", "5 ms"]')
    out: list[Any] = []
    from_file = bool(info.context and info.context.get(FROM_FILE))
    for i, item in enumerate(value):
        if i < 2:
            if isinstance(item, bool) or not isinstance(item, int | str):
                raise refuse(f"{item!r} is neither a name nor a number", i)
            out.append(item)
            continue
        dimension = ("bandwidth", "duration")[i - 2]
        if from_file and isinstance(item, int | float) and not isinstance(item, bool):
            raise refuse(f'{item} has no unit; write e.g. "{DIMENSIONS[dimension].example}"', i)
        try:
            out.append(None if item is None else parse(item, dimension, positive=i == 2))
        except UnitError as error:
            raise refuse(str(error), i) from None
    return tuple(out)


def _written(cable: Any) -> list[Any]:
    tail = zip(cable[2:], ("bandwidth", "duration"), strict=False)
    return [*cable[:2], *(None if value is None else exact_text(value, d) for value, d in tail)]


_Cable = Annotated[
    Any,
    BeforeValidator(_cable),
    PlainSerializer(_written, return_type=list, when_used="json"),
    WithJsonSchema(
        {
            "type": "array",
            "minItems": 2,
            "maxItems": 4,
            "description": "both ends, bandwidth, latency (of a WAN: round-trip time)",
        }
    ),
]


def _border(hint: Any, dimension: str) -> Any:
    """The type of a parameter in a file for its type in Python: strict numbers, quantities with a unit."""
    if dimension:
        one = quantity(dimension, positive=dimension != "duration")
        return _one_or_more(one) if Sequence[str | float] in get_args(hint) else one
    if hint in _PLAIN:
        return _PLAIN[hint]
    if hint == Mapping[str, Described]:
        from euston.scenario.fabrics import PartSection

        return dict[Text, PartSection]
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        named = [part for part in inner if get_origin(part) is Mapping]
        plain = [part for part in inner if part in _PLAIN]
        if len(plain) == 1:
            return _one_or_more(_PLAIN[plain[0]], dict[_End, Whole] if named else None)
        return _End if set(inner) == {int, str} else hint
    if origin is Iterable:
        return tuple[_Cable, ...]
    if origin is Sequence:
        return tuple[_border(inner[0], ""), ...]  # type: ignore[misc]
    return hint


def _optional(parameter: Parameter) -> Any:
    hint = parameter.hint
    if get_origin(hint) in (Union, types.UnionType) and type(None) in get_args(hint):
        rest = [part for part in get_args(hint) if part is not type(None)]
        hint = rest[0] if len(rest) == 1 else Union[tuple(rest)]  # noqa: UP007 - made at run time
    return _border(hint, parameter.dimension) | None


@cache
def fabric_keys(kind: str) -> type[Section]:
    """The section of one kind; nothing is required, for a preset or the builder may know it."""
    keys: dict[str, Any] = {
        "preset": (Text | None, Field(default=None, description="A fabric of the catalogue to start from.")),
        "kind": (
            Literal[kind] | None,
            Field(default=None, description="Kind of fabric; a preset brings its own."),
        ),
    }
    for name, parameter in parameters(kind).items():
        if name not in OF_SITE:
            keys[name] = (_optional(parameter), Field(default=None, description=_words(parameter)))
    made: type[Section] = create_model(
        "".join(part.capitalize() for part in kind.split("_")) + "Fabric",
        __base__=Section,
        __doc__=(inspect.getdoc(FABRICS.get(kind)) or kind).partition("\n\n")[0].replace("`", ""),
        **keys,
    )
    return made


def _words(parameter: Parameter) -> str:
    if parameter.name in FROM_ACCELERATOR:
        return (
            "Scale-up rate of an accelerator per direction; that of the site's accelerator unless said, "
            "where several share a domain."
        )
    words = parameter.words.replace("``", "").replace("`", "")
    default = parameter.default
    if default is REQUIRED:
        return f"{words} Needed unless a preset has it.".lstrip()
    if default is None or "unless said" in words or (default == 0 and parameter.dimension):
        return words
    return f"{words} {str(default).lower() if isinstance(default, bool) else default} unless said.".lstrip()
