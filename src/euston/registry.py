"""Registries: names of approaches -> objects, imported on use and open to plug-ins.

A policy room lists what it brings as ``name -> "module:attribute"``; another package adds its own under the
entry point group ``euston.<room>``. Nothing is imported before it is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from euston.errors import ConfigError, MissingExtra, unknown

__all__ = ["Registry"]


class Registry:
    """The approaches of one policy room by name.

    Parameters
    ----------
    room
        Name of the room, also of the entry point group: ``"balancing"`` opens ``euston.balancing``.
    builtins
        ``name -> "module:attribute"``.
    kind
        Word for errors, e.g. ``"balancing policy"``; by default the room's name.
    extras
        ``import name -> euston extra`` for optional dependencies of the builtins, so that a missing one is
        answered with what to install.

    Examples
    --------
    >>> Registry("demo", {"ring": "collections:OrderedDict"}).get("ring").__name__
    'OrderedDict'
    """

    def __init__(
        self,
        room: str,
        builtins: Mapping[str, str],
        *,
        kind: str = "",
        extras: Mapping[str, str] | None = None,
    ) -> None:
        for name, target in builtins.items():
            module, colon, attribute = target.partition(":")
            if not (module and colon and attribute):
                raise ConfigError(f"`{room}.{name}`: {target!r} is not of the form 'module:attribute'")
        self.room = room
        self.kind = kind or room
        self._builtins = dict(builtins)
        self._extras = dict(extras or {})
        self._loaded: dict[str, Any] = {}

    @cached_property
    def _plugins(self) -> dict[str, EntryPoint]:
        return {point.name: point for point in entry_points(group=f"euston.{self.room}")}

    def names(self) -> list[str]:
        """Names there are: the room's own in its order, then those of plug-ins, sorted."""
        return [*self._builtins, *sorted(name for name in self._plugins if name not in self._builtins)]

    def __contains__(self, name: object) -> bool:
        return name in self._builtins or name in self._plugins

    def __repr__(self) -> str:
        return f"Registry({self.room!r}: {', '.join(self.names())})"

    def get(self, name: str) -> Any:
        """Import and return what is registered as `name`. A plug-in cannot replace one of the room's own.

        Raises
        ------
        ConfigError
            Unknown name (the nearest is offered), or a plug-in that cannot be imported.
        MissingExtra
            An optional dependency of it is not installed.
        """
        if name not in self._loaded:
            self._loaded[name] = self._load(name)
        return self._loaded[name]

    def _load(self, name: str) -> Any:
        if name in self._builtins:
            module, _, attribute = self._builtins[name].partition(":")
            try:
                return getattr(import_module(module), attribute)
            except ModuleNotFoundError as error:
                package = (error.name or "").partition(".")[0]
                if package in self._extras:
                    raise MissingExtra(package, self._extras[package]) from error
                raise
        if name in self._plugins:
            point = self._plugins[name]
            try:
                return point.load()
            except (ImportError, AttributeError) as error:
                raise ConfigError(
                    f"{self.kind} {name!r}: plug-in {point.value} cannot be loaded: {error}"
                ) from error
        raise ConfigError(unknown(self.kind, name, self.names()))
