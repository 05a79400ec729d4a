"""Settings by name: a table whose keys are jobs, kinds of transfers, or ``job/kind``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from euston.errors import ConfigError, at, unknown
from euston.network.allocation.base import TransferInfo

__all__ = ["find", "refuse_unknown"]

T = TypeVar("T")


def find(table: Mapping[str, T], transfer: TransferInfo, default: T) -> T:
    """What the table says of a transfer; the closest name wins: ``job/kind``, then the job, then the kind."""
    for name in (f"{transfer.job}/{transfer.kind}", transfer.job, transfer.kind):
        if name in table:
            return table[name]
    return default


def refuse_unknown(
    tables: Mapping[str, Mapping[str, object]], jobs: Sequence[str], kinds: Sequence[str]
) -> None:
    """Refuse names that no transfer can have; ``tables`` are by the key they stand under.

    Raises
    ------
    ConfigError
        Naming the first, with the nearest that exists.
    """
    known = list(dict.fromkeys([*jobs, *kinds, *(f"{job}/{kind}" for job in jobs for kind in kinds)]))
    for key, table in tables.items():
        for name in table:
            if name not in known or not name:
                shown = [one for one in known if one and ("/" in name or "/" not in one)]
                raise ConfigError(at(f"{key}.{name}", unknown("job or kind of transfer", name, shown)))
