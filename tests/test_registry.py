"""Registry: names resolve on use only, plug-ins by entry point, unknown names get the nearest."""

from __future__ import annotations

import collections
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from euston import errors
from euston.errors import BadInput, ConfigError, EustonError, MissingExtra, nearest, unknown
from euston.registry import Registry


def demo() -> Registry:
    return Registry(
        "demo",
        {"ordered": "collections:OrderedDict", "spray": "no_such_module_at_all:Spray"},
        kind="demo policy",
        extras={"no_such_module_at_all": "train"},
    )


def test_builtins_are_imported_on_use() -> None:
    registry = demo()
    assert registry.names() == ["ordered", "spray"]  # the second cannot be imported, and nobody asked for it
    assert registry.get("ordered") is collections.OrderedDict
    assert "ordered" in registry and "other" not in registry
    assert repr(registry) == "Registry('demo': ordered, spray)"


def test_a_missing_extra_says_what_to_install() -> None:
    with pytest.raises(MissingExtra) as caught:
        demo().get("spray")
    assert str(caught.value) == "no_such_module_at_all is not installed; run: pip install 'euston[train]'"
    assert caught.value.exit_code == 1


def test_unknown_names_offer_the_nearest() -> None:
    with pytest.raises(ConfigError) as caught:
        demo().get("orderd")
    assert str(caught.value) == "unknown demo policy 'orderd'; did you mean 'ordered'?"
    assert caught.value.exit_code == 2
    with pytest.raises(ConfigError) as caught:
        demo().get("xyz")
    assert str(caught.value) == "unknown demo policy 'xyz'; known: ordered, spray"


def test_targets_must_name_module_and_attribute() -> None:
    with pytest.raises(ConfigError, match="'collections' is not of the form 'module:attribute'"):
        Registry("demo", {"bad": "collections"})


def test_plugins_come_from_entry_points_and_replace_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "euston_plugin_for_test.py").write_text("class Mine: pass\nOrdered = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    points = [
        EntryPoint("mine", "euston_plugin_for_test:Mine", "euston.demo"),
        EntryPoint("ordered", "euston_plugin_for_test:Ordered", "euston.demo"),
        EntryPoint("broken", "euston_plugin_for_test:Absent", "euston.demo"),
    ]
    asked = []
    monkeypatch.setattr("euston.registry.entry_points", lambda group: asked.append(group) or points)
    registry = demo()
    assert registry.names() == ["ordered", "spray", "broken", "mine"]
    assert registry.get("mine").__name__ == "Mine"
    assert registry.get("ordered") is collections.OrderedDict
    assert asked == ["euston.demo"]
    with pytest.raises(ConfigError, match=r"demo policy 'broken': plug-in .* cannot be loaded"):
        registry.get("broken")
    sys.modules.pop("euston_plugin_for_test", None)


def test_every_error_belongs_to_the_family_and_has_its_exit_code() -> None:
    family = [getattr(errors, name) for name in errors.__all__ if isinstance(getattr(errors, name), type)]
    assert all(issubclass(error, EustonError) for error in family)
    two = {error.__name__ for error in family if error.exit_code == 2}
    assert two == {
        "BadInput",
        "ConfigError",
        "CatalogError",
        "UnitError",
        "FabricError",
        "ResultError",
        "TraceError",
        "DoesNotFit",
    }
    assert issubclass(BadInput, ValueError)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("h10", "h100-sxm"),
        ("H100_SXM", "h100-sxm"),
        ("h100-smx", "h100-sxm"),
        ("a100", "a100-sxm-40gb"),
        ("quantum", None),
        ("", None),
    ],
)
def test_nearest(name: str, expected: str | None) -> None:
    assert nearest(name, ["a100-sxm-40gb", "a100-sxm-80gb", "h100-sxm", "h100-sxm-96gb-500w"]) == expected


def test_unknown_lists_what_there_is_when_nothing_is_near() -> None:
    assert unknown("thing", "zzz", []) == "unknown thing 'zzz'; none is known"
    many = [f"name{i:02}" for i in range(14)]
    expected = f"unknown thing 'zzz'; known: {', '.join(many[:12])} and 2 more"
    assert unknown("thing", "zzz", many) == expected
    assert errors.at("a.b", "is odd") == "`a.b`: is odd" and errors.at("", "is odd") == "is odd"
