"""Writing a result to one file: the suffix chooses the format, a failure leaves nothing behind."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from euston.errors import ConfigError
from euston.registry import Registry
from euston.result import Result

SUFFIXES = {
    ".html": "html",
    ".perfetto.json.gz": "perfetto",
    ".json": "json",
}
"""File suffixes and the writer each stands for."""

WRITERS = Registry(
    "report",
    {
        "html": "euston.report.html:render",
        "perfetto": "euston.report.perfetto:render",
        "json": "euston.report.plain:render",
    },
)
"""Writers: functions from a `Result` to the bytes of the file."""


def check_path(path: str | Path) -> str:
    """Name of the writer for `path`, before any work is done.

    Raises
    ------
    ConfigError
        No format has this suffix, or the folder does not exist.
    """
    path = Path(path)
    # the longest suffix wins: .perfetto.json.gz before .json
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
        if path.name.endswith(suffix) and path.name != suffix:
            break
    else:
        raise ConfigError(f"{path}: no report format has this suffix; use {', '.join(SUFFIXES)}")
    if path.is_dir():
        raise ConfigError(f"{path}: is a folder; name a file in it")
    if not path.parent.is_dir():
        raise ConfigError(f"{path}: the folder {path.parent} does not exist")
    return SUFFIXES[suffix]


def write(result: Result, path: str | Path) -> Path:
    """Write `result` to `path` as ``.html``, ``.perfetto.json.gz`` or ``.json``.

    The file appears whole or not at all.

    Parameters
    ----------
    result : Result
        Of any kind; tables a report knows get charts, all others are shown as they are.
    path : str or Path
        Its suffix chooses the format; its folder must exist.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    ConfigError
        Unknown suffix, missing folder, or a place that cannot be written.
    """
    path = Path(path)
    content: bytes = WRITERS.get(check_path(path))(result)
    temporary = ""
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)  # mkstemp makes private files
        os.replace(temporary, path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror or error})") from None
    finally:
        if temporary:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
    return path
