"""Ready-made AI programs: iterations that compute and then communicate, and pipelines of stages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from euston.errors import ConfigError
from euston.network.flows import Flows
from euston.traffic.programs import ProgramWriter
from euston.traffic.traffic import Collective, Traffic, dependent

__all__ = ["on_off", "pipeline"]


def on_off(
    ranks: ArrayLike,
    bytes_: int,
    *,
    collective: str = "all_reduce",
    algorithm: str | None = None,
    iterations: int = 1,
    compute: float = 0.0,
    noise: float = 0.0,
    slow: Mapping[int, float] | None = None,
    channels: int = 1,
    form: str = "steps",
    step_latency: float = 0.0,
    seed: int = 0,
) -> Traffic:
    """Iterations of computation (off) and a collective (on), as in data-parallel training.

    Parameters
    ----------
    ranks : int[n] or int[hosts, n per host]
        Endpoints.
    bytes_ : int
        M, the full buffer.
    iterations : int
    compute : float
        Seconds of computation of a rank before each collective.
    noise, slow
        Stragglers, see `ProgramWriter.compute`.
    algorithm, channels, form, step_latency
        See `ProgramWriter`.

    Raises
    ------
    ConfigError
        As `ProgramWriter`.
    """
    if isinstance(iterations, bool) or not isinstance(iterations, int | np.integer) or iterations < 1:
        raise ConfigError(f"`iterations`: {iterations!r}; it must be 1 or more")
    writer = ProgramWriter(step_latency=step_latency, channels=channels, form=form, seed=seed)
    for number in range(iterations):
        if compute:
            writer.compute(ranks, compute, noise=noise, slow=slow)
        writer.collective(collective, ranks, bytes_, algorithm=algorithm, name=f"{collective} {number}")
    about: dict[str, Any] = {
        "pattern": "on_off",
        "collective": collective,
        "iterations": int(iterations),
        "compute_s": compute,
        "noise": noise,
        "slow": {str(rank): factor for rank, factor in (slow or {}).items()},
    }
    return writer.traffic(**about)


def pipeline(
    stages: ArrayLike,
    bytes_: int,
    *,
    micro_batches: int,
    forward: float = 0.0,
    backward: float | None = None,
) -> Traffic:
    """Activations of micro-batches along pipeline stages, and their gradients back.

    Every stage does one thing at a time: compute a micro-batch, then send it on. All stages but the last do
    their forwards first (GPipe, Huang et al. 2019), the last turns each micro-batch round at once. Forward
    only, and undisturbed, the last message ends at (micro_batches + stages - 2)(forward + bytes/rate).

    Parameters
    ----------
    stages : int[S] or int[S, w]
        Endpoints; every column is a pipeline of its own.
    bytes_ : int
        One message.
    forward, backward : float
        Seconds a stage computes per micro-batch and direction; without ``backward`` no gradients flow.

    Raises
    ------
    ConfigError
        Fewer than two stages, no micro-batch, negative times.
    """
    grid = np.asarray(stages, np.int64)
    grid = grid[:, None] if grid.ndim == 1 else grid
    if grid.ndim != 2 or grid.shape[0] < 2 or np.unique(grid).size != grid.size:
        raise ConfigError("`stages`: a pipeline needs 2 or more stages of different endpoints")
    if micro_batches < 1 or not 0 <= forward < np.inf or not 0 <= (backward or 0.0) < np.inf:
        raise ConfigError("`micro_batches`: needs 1 or more of them, and times of 0 s or more")
    depth, width = grid.shape
    src: list[int] = []
    dst: list[int] = []
    after: list[tuple[int, ...]] = []
    delay: list[float] = []
    group: list[int] = []
    collectives: list[Collective] = []
    flow: dict[tuple[str, int, int], int] = {}

    def send(
        way: str, k: int, s: int, to: int, column: int, waits: list[tuple[str, int, int]], d: float
    ) -> None:
        flow[way, k, s] = len(src)
        after.append(tuple(flow[w] for w in waits if w in flow))
        src.append(int(grid[s, column]))
        dst.append(int(grid[to, column]))
        delay.append(d)
        group.append(len(collectives) - 1)

    for column in range(width):
        flow.clear()
        for k in range(micro_batches):
            collectives.append(Collective(f"forward {k} of {column}", "send", "p2p", 2, int(bytes_)))
            for s in range(depth - 1):
                send("f", k, s, s + 1, column, [("f", k, s - 1), ("f", k - 1, s)], forward)
        for k in range(micro_batches if backward is not None else 0):
            collectives.append(Collective(f"backward {k} of {column}", "send", "p2p", 2, int(bytes_)))
            assert backward is not None
            last = depth - 1
            send("b", k, last, last - 1, column, [("f", k, last - 1), ("b", k - 1, last)], forward + backward)
            for s in range(depth - 2, 0, -1):
                before = ("b", k - 1, s) if k else ("f", micro_batches - 1, s)
                send("b", k, s, s - 1, column, [("b", k, s + 1), before], backward)
    flows = Flows.of(src, dst, bytes_, group=group, tags=[c.name for c in collectives], where="pipeline")
    about = {
        "pattern": "pipeline",
        "stages": depth,
        "pipelines": width,
        "micro_batches": micro_batches,
        "forward_s": forward,
        "backward_s": backward,
    }
    return Traffic(dependent(flows, after, delay), about, tuple(collectives))
