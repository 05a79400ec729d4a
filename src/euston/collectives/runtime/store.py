"""Where ranks find each other: any store of torch.distributed, or a folder that all can see."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Protocol

from euston.errors import SimulationError

__all__ = ["FolderStore", "Store"]


class Store(Protocol):
    """What is needed of a store; `torch.distributed.TCPStore`, `FileStore` and `HashStore` have it."""

    def set(self, key: str, value: str) -> None:
        """Put a value."""

    def get(self, key: str) -> bytes:
        """Wait for a value."""


class FolderStore:
    """A store in a folder, one file per key: enough for processes of one machine, without torch.

    Parameters
    ----------
    folder : path
        Made where it is missing; a new one for every group.
    timeout : float
        Seconds that `get` waits.
    """

    def __init__(self, folder: str | Path, timeout: float = 60.0) -> None:
        self.folder, self.timeout = Path(folder), timeout
        self.folder.mkdir(parents=True, exist_ok=True)

    def _path(self, key: str) -> Path:
        return self.folder / key.replace("/", "-")

    def set(self, key: str, value: str) -> None:
        """See `Store.set`; readers never see half a value."""
        path = self._path(key)
        temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        temporary.write_text(value)
        temporary.replace(path)

    def get(self, key: str) -> bytes:
        """See `Store.get`.

        Raises
        ------
        SimulationError
            Nobody has put the value in time.
        """
        path, end = self._path(key), time.monotonic() + self.timeout
        while time.monotonic() < end:
            if path.exists():
                return path.read_bytes()
            time.sleep(0.005)
        raise SimulationError(f"nobody set {key!r} within {self.timeout:g} s; are all ranks running?")
