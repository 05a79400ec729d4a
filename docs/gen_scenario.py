"""Writes the scenario reference (docs/scenario.md) from the JSON Schema that checks scenario files.

Run by `make docs`: python docs/gen_scenario.py docs/scenario.md
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

Schema = dict[str, Any]

INTRODUCTION = """# Scenario files

*Generated from the schema that checks your files (`euston schema`); do not edit.*

A scenario is a YAML 1.2 file. Quantities carry their unit (`400 Gb/s`, `80 GiB`, `5 us`); a bare number is
refused where a unit is needed. Unknown keys are refused, with the nearest valid one named.
`euston validate FILE` checks a file without running it.
"""

NUMPY_SECTION = re.compile(r"^\w[\w ]*\n-{3,}$", re.MULTILINE)
"""A docstring's "Raises" and the like is for the Python reference, not for this page."""

LIMITS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


def reference_name(ref: str) -> str:
    """'#/$defs/Job' -> 'Job'."""
    return ref.rsplit("/", 1)[-1]


def anchor(name: str) -> str:
    """The heading's anchor as Markdown makes it."""
    return name.lower().replace(" ", "-")


def type_text(schema: Schema) -> str:
    """One schema as a short phrase; objects become links to their section."""
    if "$ref" in schema:
        name = reference_name(schema["$ref"])
        return f"[{name}](#{anchor(name)})"
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return " or ".join(dict.fromkeys(type_text(option) for option in schema[key]))
    if "allOf" in schema and len(schema["allOf"]) == 1:
        return type_text(schema["allOf"][0])
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    kind = schema.get("type", "anything")
    if kind == "array":
        if "prefixItems" in schema:
            return "list of (" + ", ".join(type_text(item) for item in schema["prefixItems"]) + ")"
        return "list of " + type_text(schema.get("items", {}))
    if kind == "object":
        values = schema.get("additionalProperties")
        return "mapping to " + type_text(values) if isinstance(values, dict) else "mapping"
    limits = [f"{sign} {schema[key]}" for key, sign in LIMITS.items() if key in schema]
    text = " or ".join(kind) if isinstance(kind, list) else str(kind)
    if "format" in schema:
        text = f"{text} ({schema['format']})"
    return " ".join([text, *limits])


def cell(text: str) -> str:
    """Text that cannot break a table row."""
    return " ".join(text.split()).replace("|", "\\|")


def default_text(schema: Schema, required: bool) -> str:
    """The default as YAML would write it; 'required' where there is none."""
    if required:
        return "**required**"
    if "default" not in schema or schema["default"] is None:
        return "-"
    text = json.dumps(schema["default"])
    return f"`{text}`" if len(text) <= 80 else "one of its kind"


def table(schema: Schema) -> list[str]:
    """One row per key of an object schema."""
    required = set(schema.get("required", []))
    lines = ["| key | what it takes | default | meaning |", "|---|---|---|---|"]
    for key, value in schema["properties"].items():
        examples = ", ".join(f"`{example}`" for example in value.get("examples", []))
        meaning = value.get("description", "") + (f" For example {examples}." if examples else "")
        row = [f"`{key}`", type_text(value), default_text(value, key in required), meaning]
        lines.append("| " + " | ".join(cell(text) for text in row) + " |")
    return lines


def section(title: str, schema: Schema, level: str) -> list[str]:
    """A heading, the description and the keys (or the allowed values) of one definition."""
    lines = [f"{level} {title}", ""]
    if schema.get("description"):
        lines += [NUMPY_SECTION.split(schema["description"])[0].strip(), ""]
    lines += table(schema) if schema.get("properties") else [f"Takes {type_text(schema)}."]
    return [*lines, ""]


def referenced(schema: object) -> list[str]:
    """Names of the definitions a schema points to, in the order of their first mention."""
    found: dict[str, None] = {}

    def walk(node: object) -> None:
        if isinstance(node, dict):
            if isinstance(node.get("$ref"), str):
                found.setdefault(reference_name(node["$ref"]))
            for key, value in node.items():
                if key != "$defs":
                    walk(value)
        elif isinstance(node, list):
            for value in node:
                walk(value)

    walk(schema)
    return list(found)


def render(schema: Schema) -> str:
    """The whole page; definitions follow in the order in which a reader meets them."""
    definitions: dict[str, Schema] = schema.get("$defs", {})
    order: dict[str, None] = {}
    queue = referenced(schema)
    while queue:
        name = queue.pop(0)
        if name not in order and name in definitions:
            order[name] = None
            queue += referenced(definitions[name])
    lines = section("The file", schema, "##")
    for name in order:
        lines += section(name, definitions[name], "##")
    return INTRODUCTION + "\n" + "\n".join(lines).rstrip() + "\n"


def main() -> None:
    """Write the page to the path given, or to standard output."""
    from euston.scenario import schema

    text = render(schema())
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)


if __name__ == "__main__":
    main()
