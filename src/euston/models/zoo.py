"""Models by name, from the catalogue, and the check of their parameter counts against what was published."""

from __future__ import annotations

from euston import catalog

from ._transformer import Transformer

__all__ = ["check", "transformer"]


def transformer(name: str) -> Transformer:
    """The catalogue's model `name`, e.g. ``transformer("llama3-405b")``; aliases are accepted.

    Raises
    ------
    CatalogError
        For an unknown name (the nearest is offered).
    ConfigError
        For an entry of a user's catalogue whose shapes make no model.
    """
    entry = catalog.entry("models", name)
    return Transformer.from_values(entry.name, entry.values)


def _disagreements(entry: catalog.Entry) -> list[str]:
    model = Transformer.from_values(entry.name, entry.values)
    found = []
    for key, active in (("published_parameters", False), ("published_active_parameters", True)):
        if key in entry.values:
            published = entry.values[key]
            low, high = entry.ranges.get(key, (published, published))
            ours = model.parameters(active=active)
            if not low <= ours <= high:
                found.append(
                    f"`models.{entry.name}.{key}`: {published} published, {ours} counted from the shapes"
                )
    return found


def check() -> list[str]:
    """One sentence per published parameter count that the model's shapes do not give (empty: all agree)."""
    return [problem for entry in catalog.entries("models") for problem in _disagreements(entry)]
