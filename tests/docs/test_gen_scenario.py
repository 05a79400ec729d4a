"""The scenario reference names every key of the schema (oracle: pydantic's schemas)."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gen_scenario", ROOT / "docs" / "gen_scenario.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Wheel(BaseModel):
    """A wheel | round."""

    model_config = ConfigDict(extra="forbid")
    radius: float = Field(gt=0, description="In metres.")


class Cart(BaseModel):
    model_config = ConfigDict(extra="forbid")
    version: Literal[1]
    wheels: list[Wheel] = []
    colour: Literal["red", "blue"] = Field("red", examples=["blue"])


def test_small_model(generator: ModuleType) -> None:
    page = generator.render(Cart.model_json_schema())
    assert "| `version` | `1` | **required** |" in page
    assert "| `wheels` | list of [Wheel](#wheel) | `[]` |" in page
    assert '| `colour` | `red`, `blue` | `"red"` | For example `blue`. |' in page
    assert "## Wheel" in page and "| `radius` | number > 0 | **required** | In metres. |" in page


def test_every_key_of_the_real_schema(generator: ModuleType) -> None:
    from euston.scenario import schema

    real = schema()
    page = generator.render(real)
    for definition in [real, *real.get("$defs", {}).values()]:
        for key in definition.get("properties", {}):
            assert f"| `{key}` |" in page


def test_the_page_in_the_repository_is_the_schema(generator: ModuleType) -> None:
    from euston.scenario import schema

    written = (ROOT / "docs" / "scenario.md").read_text(encoding="utf-8")
    assert written == generator.render(schema()), "run: python docs/gen_scenario.py docs/scenario.md"
