"""Scenario files: reading with located errors, writing, the JSON Schema."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML

from euston.errors import EustonError
from euston.scenario._base import FROM_FILE
from euston.scenario._problems import ScenarioError, dotted, located, sentences
from euston.scenario._yaml import Document, YamlProblem, read
from euston.scenario.model import Scenario

_MAX_BYTES = 16 * 1024 * 1024


def load(path: str | Path) -> Scenario:
    """Read and validate a scenario file.

    Raises
    ------
    ScenarioError
        A `ConfigError`: one sentence with file, line and column; ``.problems`` holds every one found.
    """
    path = Path(path)
    try:
        if path.is_file() and path.stat().st_size > _MAX_BYTES:
            raise ScenarioError([f"{path}: is larger than 16 MiB; a scenario is small"])
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise ScenarioError([f"{path}: no such file"]) from None
    except IsADirectoryError:
        raise ScenarioError([f"{path}: is a folder; give a scenario file (.yaml)"]) from None
    except OSError as error:
        raise ScenarioError([f"{path}: {error.strerror or error}"]) from None
    except UnicodeDecodeError as error:
        raise ScenarioError([f"{path}: is not UTF-8 text (byte {error.start})"]) from None
    return loads(text, str(path))


def loads(text: str, name: str = "scenario.yaml") -> Scenario:
    """Validate the text of a scenario; `name` stands for the file in errors and for relative paths.

    Raises
    ------
    ScenarioError
        See `load`.
    """
    try:
        document = read(text)
    except YamlProblem as problem:
        place = f":{problem.mark[0]}:{problem.mark[1]}" if problem.mark else ""
        key = f"`{dotted(problem.path)}`: " if problem.path else ""
        raise ScenarioError([f"{name}{place}: {key}{problem.message}"]) from None
    if not isinstance(document.data, dict):
        raise ScenarioError([f"{name}:1:1: holds no keys; a scenario begins with `version: 1`"])
    return _validated(document.data, name, document)


def from_data(data: Mapping[str, Any]) -> Scenario:
    """Validate a scenario given as plain Python data; numbers without a unit are SI.

    Raises
    ------
    ScenarioError
        See `load`; without file, line and column.
    """
    return _validated(dict(data), "", None)


def _validated(data: dict[str, Any], name: str, document: Document | None) -> Scenario:
    from euston.scenario._check import problems

    found = _version(data) if document else []
    scenario: Scenario | None = None
    if not found:
        try:
            scenario = Scenario.model_validate(data, context={FROM_FILE: document is not None})
        except ValidationError as error:
            found = sentences(error.errors(include_url=False), document)
    if scenario is not None:
        scenario._source, scenario._document = name, document
        found = problems(scenario)
    if scenario is None or found:
        raise ScenarioError([located(message, name, document) for message in found])
    return scenario


def _version(data: dict[str, Any]) -> list[str]:
    if "version" not in data:
        return ["`version`: is missing; write `version: 1`"]
    version = data["version"]
    if version != 1 or isinstance(version, bool):
        return [f"`version`: {version!r} is not a version this euston reads; it reads version 1"]
    return []


def with_place(scenario: Scenario, error: EustonError) -> EustonError:
    """The same error with file, line and column before its message, where the scenario came from a file."""
    if (
        isinstance(error, ScenarioError)
        or not scenario.source
        or str(error).startswith(f"{scenario.source}:")
    ):
        return error
    message = located(str(error), scenario.source, scenario._document)
    copy = EustonError.__new__(type(error))
    copy.__dict__.update(error.__dict__)
    copy.args = (message,)
    return copy


def dump(scenario: Scenario, *, defaults: bool = True) -> str:
    """The scenario as YAML, with every default written out or with none; `loads` gives it back either way."""
    data = scenario.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_defaults=not defaults)
    return yaml_text({"version": scenario.version, **data})


def yaml_text(data: Any) -> str:
    """Plain data as YAML 1.2, as scenarios are written."""
    yaml = YAML(typ="rt", pure=True)
    yaml.default_flow_style = False
    yaml.width = 110
    yaml.indent(mapping=2, sequence=4, offset=2)
    stream = io.StringIO()
    yaml.dump(data, stream)
    return stream.getvalue()


def schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of scenario files."""
    body = Scenario.model_json_schema(by_alias=True, mode="validation")
    body["required"] = sorted({"version", *body.get("required", [])})
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "euston scenario",
        **{key: value for key, value in body.items() if key != "title"},
    }
