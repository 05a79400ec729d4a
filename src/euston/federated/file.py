"""A federation from a YAML file: what `euston photon` trains and `euston simulate` simulates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from euston.errors import ConfigError, at

__all__ = ["read_values"]

_MAX = 2**20


def read_values(file: Path) -> dict[str, Any]:
    """The keys of a federation's file, unchecked (`FederationConfig.from_values` checks them).

    Raises
    ------
    ConfigError
        No such file, no YAML mapping, another version.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        if file.stat().st_size > _MAX:
            raise ConfigError(at(file.name, "is larger than 1 MiB; a federation is small"))
        values = YAML(typ="safe", pure=True).load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(at(str(file), f"cannot be read: {error.strerror or error}")) from None
    except (YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(at(file.name, f"unreadable YAML: {' '.join(str(error).split())}")) from None
    if not isinstance(values, dict):
        raise ConfigError(at(file.name, "is no mapping; it begins with `version: 1` and `model:`"))
    version = values.pop("version", 1)
    if version != 1:
        raise ConfigError(at(f"{file.name}:version", f"{version!r}; this euston reads version 1"))
    return values
