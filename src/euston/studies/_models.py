"""Finds a model by the name that a measurement gives it: with or without owner, variant and number format."""

from __future__ import annotations

import re

from euston import catalog
from euston.errors import CatalogError
from euston.models import Transformer

__all__ = ["find_model"]

#: What follows a name without changing the shape.
VARIANT = re.compile(
    r"-(instruct|chat|it|base|hf|fp8|nvfp4|mxfp4|fp4|bf16|awq|int4|w4a16|thinking|\d{4}|v\d(\.\d)?)(?=-|$)"
)


def find_model(name: str) -> Transformer:
    """The catalogue's model of that name.

    Raises
    ------
    CatalogError
        For an unknown name; the nearest is offered.
    """
    short = name.rpartition("/")[2]
    first: CatalogError | None = None
    for word in dict.fromkeys((name, short, VARIANT.sub("", short.lower()))):
        try:
            found = catalog.entry("models", word)
        except CatalogError as error:
            first = first or error
            continue
        return Transformer.from_values(found.name, found.values)
    assert first is not None
    raise first
