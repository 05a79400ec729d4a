"""Files of this room: bounded reading of text, and writing that leaves nothing half done."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from euston.errors import TraceError

__all__ = ["read_bytes", "read_text", "writing"]


def read_bytes(path: str | Path, most: int, what: str) -> tuple[str, bytes]:
    """A file's name and content.

    Raises
    ------
    TraceError
        When it cannot be read, is no plain file or is larger than ``most`` bytes.
    """
    p = Path(path)
    try:
        if p.exists() and not p.is_file():
            raise TraceError(f"`{path}`: is not a file; name {what}")
        with p.open("rb") as file:
            content = file.read(most + 1)
    except OSError as error:
        raise TraceError(f"`{path}`: cannot be read: {error.strerror or error}") from None
    except ValueError:
        raise TraceError(f"`{str(path)!r}`: is not a file name") from None
    if len(content) > most:
        raise TraceError(f"`{p.name}`: is larger than {most >> 20:,} MiB; split it")
    return p.name, content


def read_text(path: str | Path, most: int, what: str) -> tuple[str, str]:
    """A file's name and content as text: UTF-8 without NUL, line ends as LF."""
    name, content = read_bytes(path, most, what)
    return name, as_text(name, content)


def as_text(name: str, content: bytes) -> str:
    """UTF-8 without NUL, line ends as LF; `TraceError` with the line otherwise."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise TraceError(f"`{name}:{line}`: is not UTF-8 text") from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise TraceError(f"`{name}:{line}`: holds a NUL byte; it must be plain text")
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


@contextlib.contextmanager
def writing(path: str | Path) -> Iterator[IO[bytes]]:
    """A file to write that takes its name only when all went well."""
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    except OSError as error:
        raise TraceError(f"`{path}`: cannot be written: {error.strerror or error}") from None
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)  # mkstemp made it private
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
