"""Finds entries by name: a user's directories first, then the packaged files, read once on first use."""

from __future__ import annotations

from functools import cache
from importlib import resources
from pathlib import Path

from euston.catalog._read import CatalogFile, read
from euston.catalog._schema import SCHEMAS
from euston.catalog.entry import Entry
from euston.errors import CatalogError, at, nearest, unknown

__all__ = ["add_directory", "entries", "entry", "hashes", "kinds", "names", "packaged", "reset"]

_user_files: dict[str, list[CatalogFile]] = {}


@cache
def packaged(kind: str) -> CatalogFile:
    """The file of one kind that ships with euston."""
    resource = resources.files("euston.catalog") / "data" / f"{kind}.toml"
    with resources.as_file(resource) as path:
        return read(kind, path)


def _files(kind: str) -> list[CatalogFile]:
    if kind not in SCHEMAS:
        raise CatalogError(unknown("kind of catalogue entry", kind, SCHEMAS))
    return [*_user_files.get(kind, []), packaged(kind)]


def kinds() -> list[str]:
    """The kinds of entries there are, e.g. ``"accelerators"``."""
    return list(SCHEMAS)


def entries(kind: str) -> list[Entry]:
    """All entries of a kind in file order; a user's come first and hide ours of the same name."""
    found: dict[str, Entry] = {}
    for file in _files(kind):
        for name, item in file.entries.items():
            found.setdefault(name, item)
    return list(found.values())


def names(kind: str) -> list[str]:
    """Canonical names of all entries of a kind.

    Raises
    ------
    CatalogError
        For an unknown kind.
    """
    return [item.name for item in entries(kind)]


def entry(kind: str, name: str) -> Entry:
    """Find an entry by its name or an alias; case does not matter.

    Raises
    ------
    CatalogError
        For an unknown kind or name; the nearest name is offered.
    """
    wanted = name.casefold()
    known = entries(kind)
    for item in known:  # a canonical name wins over any alias
        if item.name == wanted:
            return item
    for item in known:
        if wanted in (alias.casefold() for alias in item.aliases):
            return item
    spelled = {alias: item.name for item in known for alias in (item.name, *item.aliases)}
    guess = nearest(name, spelled)
    if guess is None:
        raise CatalogError(unknown(SCHEMAS[kind].singular, name, [item.name for item in known]))
    raise CatalogError(f"unknown {SCHEMAS[kind].singular} {name!r}; did you mean {spelled[guess]!r}?")


def add_directory(path: str | Path) -> list[str]:
    """Put a directory of catalogue files in front of the packaged ones (``--catalog DIR``).

    Parameters
    ----------
    path
        A directory with files named by kind: ``accelerators.toml``, ``models.toml``, ``fabrics.toml``, ...
        All are read and validated before any takes effect.

    Returns
    -------
    list of str
        The names of the files taken.

    Raises
    ------
    CatalogError
        No such directory, a TOML file not named as a kind, or a file that does not validate.
    """
    directory = Path(path)
    if not directory.is_dir():
        raise CatalogError(at(str(path), "is not a directory"))
    paths = sorted(directory.glob("*.toml"))
    if not paths:
        raise CatalogError(
            at(str(path), f"holds no catalogue file; names are {', '.join(k + '.toml' for k in SCHEMAS)}")
        )
    found = []
    for file in paths:
        if file.stem not in SCHEMAS:
            raise CatalogError(
                at(str(file), unknown("catalogue file", file.name, [f"{kind}.toml" for kind in SCHEMAS]))
            )
        found.append((file.stem, read(file.stem, file)))
    for kind, content in found:
        _user_files.setdefault(kind, []).insert(0, content)
    return [file.name for file in paths]


def reset() -> None:
    """Forget all directories added by `add_directory`."""
    _user_files.clear()


def hashes() -> dict[str, str]:
    """SHA-256 of every catalogue file read so far or shipped, by path for user files and name for ours."""
    found = {f"catalog/{kind}.toml": packaged(kind).sha256 for kind in SCHEMAS}
    for files in _user_files.values():
        found |= {file.path: file.sha256 for file in files}
    return found
