"""All ranks of a group as processes of this machine: for trials, tests and the command line."""

from __future__ import annotations

import multiprocessing
import os
import queue
import tempfile
import time
import traceback
from collections.abc import Callable
from typing import Any

from euston.collectives.runtime.group import UdpGroup
from euston.collectives.runtime.store import FolderStore
from euston.errors import EustonError, SimulationError

__all__ = ["run_ranks"]


def _rank(rank: int, world: int, folder: str, work: Any, settings: dict[str, Any], out: Any) -> None:
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    try:
        with UdpGroup(rank, world, FolderStore(folder), **settings) as group:
            out.put((rank, "done", work(group)))
            time.sleep(0.5)  # whoever is later may still ask for a result
    except EustonError as error:
        out.put((rank, "error", str(error)))
    except BaseException:
        out.put((rank, "error", traceback.format_exc(limit=-3)))


def run_ranks(
    world: int, work: Callable[[UdpGroup], Any], *, timeout: float = 300.0, **settings: Any
) -> list[Any]:
    """Run ``work(group)`` at every rank, each in a process; what they return, by rank.

    Parameters
    ----------
    work : callable
        Of a module that processes can import; its result must be picklable.
    timeout : float
        Seconds for all of it.
    settings
        Of `UdpGroup`.

    Raises
    ------
    SimulationError
        A rank failed, died or did not end in time.
    """
    context = multiprocessing.get_context("spawn")
    out: Any = context.Queue()
    found: dict[int, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        ranks = [
            context.Process(target=_rank, args=(r, world, folder, work, settings, out), daemon=True)
            for r in range(world)
        ]
        for one in ranks:
            one.start()
        try:
            end = time.monotonic() + timeout
            while len(found) < world:
                try:
                    rank, state, value = out.get(timeout=0.5)
                except queue.Empty:
                    gone = [r for r, one in enumerate(ranks) if not one.is_alive() and r not in found]
                    if gone and out.empty():
                        raise SimulationError(f"rank {gone[0]} died without a word") from None
                    if time.monotonic() > end:
                        raise SimulationError(
                            f"{world - len(found)} ranks had not ended after {timeout:g} s"
                        ) from None
                    continue
                if state == "error":
                    raise SimulationError(f"rank {rank}: {value}")
                found[rank] = value
        finally:
            for one in ranks:
                one.join(timeout=2.0 if len(found) == world else 0.1)
                if one.is_alive():
                    one.kill()
    return [found[r] for r in range(world)]
