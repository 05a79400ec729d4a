"""Arrays and plain data on disk that survive a kill at any moment: written aside, hashed, renamed;
nothing is pickled.

A checkpoint is one file: a line of JSON (version, hash, plain data, where each array lies), then the arrays.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from euston.errors import TraceError

__all__ = ["Checkpoint", "CheckpointCorrupt", "latest", "numbers", "prune", "read", "write"]

_KINDS = {"float32", "float64", "uint8", "int64"}
_MAX_HEADER = 64 * 2**20


class CheckpointCorrupt(TraceError):
    """A checkpoint that is truncated, altered or no checkpoint; an older one is used instead where there
    is one.
    """


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds."""

    meta: dict[str, Any]
    arrays: dict[str, NDArray[Any]]


def write(path: Path, meta: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write a checkpoint so that `path` either holds all of it or what it held before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    index, start, hashed = [], 0, sha256()
    held = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    for name, array in held.items():
        index.append([name, array.dtype.name, list(np.shape(arrays[name])), start])
        start += array.nbytes
        hashed.update(array.view(np.uint8).reshape(-1).data if array.size else b"")
    body = json.dumps({"meta": dict(meta), "index": index}, separators=(",", ":"))
    hashed.update(body.encode())
    line = json.dumps(
        {"version": 1, "sha256": hashed.hexdigest(), "bytes": start, "header": len(body.encode())}
    )
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with aside.open("wb") as file:
        file.write(line.encode() + b"\n" + body.encode() + b"\n")
        for array in held.values():
            file.write(array.tobytes())
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the rename itself
    finally:
        os.close(folder)


def read(path: Path) -> Checkpoint:
    """Read and verify a checkpoint.

    Raises
    ------
    CheckpointCorrupt
        Its hash is wrong, or it cannot be read at all.
    """
    try:
        with path.open("rb") as file:
            line = json.loads(file.readline(4096))
            if line["version"] != 1 or not 0 < line["header"] <= _MAX_HEADER:
                raise ValueError("another version")
            body = file.read(line["header"] + 1)[:-1]
            data = file.read(line["bytes"] + 1)
        if len(data) != line["bytes"]:
            raise ValueError("it is cut off or too long")
        hashed = sha256(data)
        hashed.update(body)
        if hashed.hexdigest() != line["sha256"]:
            raise ValueError("its hash is wrong")
        held = json.loads(body)
        arrays = {}
        for name, kind, shape, start in held["index"]:
            if kind not in _KINDS:
                raise ValueError(f"an array of {kind}")
            count = int(np.prod(shape, dtype=np.int64))
            arrays[name] = np.frombuffer(data, np.dtype(kind), count, start).reshape(shape).copy()
        return Checkpoint(held["meta"], arrays)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointCorrupt(f"`{path.name}`: cannot be used: {error}") from None


def _path(folder: Path, stem: str, number: int) -> Path:
    return folder / f"{stem}-{number:08d}.ckpt"


def numbers(folder: Path, stem: str) -> list[int]:
    """Numbers of the checkpoints there, ascending."""
    found = []
    for path in folder.glob(f"{stem}-*.ckpt"):
        text = path.stem.removeprefix(f"{stem}-")
        if text.isdigit():
            found.append(int(text))
    return sorted(found)


def latest(folder: Path, stem: str) -> tuple[int, Checkpoint] | None:
    """The newest checkpoint that is whole; newer ones that are not are warned about and passed over."""
    for number in reversed(numbers(folder, stem)):
        try:
            return number, read(_path(folder, stem, number))
        except CheckpointCorrupt as error:
            warnings.warn(f"{error}; trying the one before", RuntimeWarning, stacklevel=2)
    return None


def prune(folder: Path, stem: str, oldest: int) -> None:
    """Remove checkpoints with numbers below `oldest`."""
    for number in numbers(folder, stem):
        if number < oldest:
            _path(folder, stem, number).unlink(missing_ok=True)


def path_of(folder: Path, stem: str, number: int) -> Path:
    """File of checkpoint `number`."""
    return _path(folder, stem, number)
