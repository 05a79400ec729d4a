"""What every section of a scenario file shares: unknown keys refused, short names, numbers and quantities."""

from __future__ import annotations

import numbers
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Annotated, Any, ClassVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from euston.errors import UnitError, nearest
from euston.units import DIMENSIONS, exact_text, parse

FROM_FILE = "from_file"
"""Validation context key: the data come from a file, where a quantity without a unit is refused."""


def refuse(message: str, key: str | int | Sequence[str | int] | None = None) -> PydanticCustomError:
    """An error in house words; `key` names the key below the section it is about, or the keys to there."""
    return PydanticCustomError("euston", "{message}", {"message": message, "key": key})


class Section(BaseModel):
    """A mapping of a scenario file. Unknown keys are refused with the nearest known one."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    short: ClassVar[dict[str, str]] = {}
    """Accepted short names of keys, e.g. ``{"tp": "tensor"}``."""

    @classmethod
    def keys(cls) -> list[str]:
        """The keys of this section as they stand in a file."""
        return [field.alias or name for name, field in cls.model_fields.items()]

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        accepted = {*cls.keys(), *cls.model_fields}
        result: dict[str, Any] = {}
        for key, value in data.items():
            name = cls.short.get(key, key)
            if name not in accepted:
                guess = nearest(str(key), [*cls.keys(), *cls.short])
                hint = f"did you mean {guess!r}?" if guess else f"the keys here are {', '.join(cls.keys())}"
                raise refuse(f"unknown key; {hint}", str(key))
            if name in result:
                raise refuse(f"means {name!r}, which is given too; keep one of them", str(key))
            result[name] = value
        return result

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: Any) -> dict[str, Any]:
        schema: dict[str, Any] = handler(core_schema)
        resolved = handler.resolve_ref_schema(schema)
        properties = resolved.get("properties", {})
        for alias, name in cls.short.items():
            if name in properties:
                properties[alias] = {**properties[name], "description": f"Short for `{name}`."}
        return schema


def _whole(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise refuse(f"{value!r} is not a whole number")
    return int(value)


def _number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise refuse(f"{value!r} is not a number")
    if not isfinite(value):
        raise refuse(f"{value!r} is not a finite number")
    return float(value)


def _flag(value: Any) -> Any:
    if not isinstance(value, bool):
        raise refuse(f"{value!r} is neither true nor false")
    return value


def _text(value: Any) -> Any:
    if not isinstance(value, str):
        raise refuse(f"{value!r} is not text; put it in quotes if it is meant as a name")
    if not value.strip():
        raise refuse("is empty text")
    return value


Whole = Annotated[int, BeforeValidator(_whole), Field(ge=0)]
"""0, 1, 2, ..."""
Count = Annotated[int, BeforeValidator(_whole), Field(ge=1)]
"""1, 2, 3, ..."""
Number = Annotated[float, BeforeValidator(_number)]
"""A finite number."""
Flag = Annotated[bool, BeforeValidator(_flag)]
"""true or false."""
Text = Annotated[str, BeforeValidator(_text), Field(min_length=1)]
"""Text that is not empty."""


def quantity(dimension: str, *, positive: bool = False) -> Any:
    """A pydantic type of one dimension: text with a unit in files, from Python SI numbers too."""

    def validate(value: Any, info: ValidationInfo) -> float:
        from_file = bool(info.context and info.context.get(FROM_FILE))
        if from_file and isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value):
            unit = DIMENSIONS[dimension].example.partition(" ")[2]
            raise refuse(f'{value} has no unit; write e.g. "{value} {unit}"')
        try:
            return parse(value, dimension, positive=positive)
        except UnitError as error:
            raise refuse(str(error)) from None

    wanted = DIMENSIONS[dimension]
    schema = {
        "type": "string",
        "description": f"a {wanted.words} with its unit",
        "examples": [wanted.example],
    }
    return Annotated[
        float,
        BeforeValidator(validate),
        PlainSerializer(lambda value: exact_text(value, dimension), return_type=str, when_used="json"),
        WithJsonSchema(schema),
    ]


PositiveBandwidth = quantity("bandwidth", positive=True)
Duration = quantity("duration")
PositiveDuration = quantity("duration", positive=True)
DataSize = quantity("data")
PositiveDataSize = quantity("data", positive=True)
PositivePower = quantity("power", positive=True)
MoneyRate = quantity("money")
EnergyPrice = quantity("energy_price")
