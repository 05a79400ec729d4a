"""The order in which each pipeline stage runs its forward and backward passes, as compact arrays.

A stage holds `virtual` chunks of the model. A *pass* is one chunk on one micro-batch, forward or backward; a
schedule is nothing but the order of passes on every stage. Nothing here knows how long a pass takes: bubbles,
exposed transfers and stalls emerge when the clock executes the order.

Schedules here; those that split the backward pass or run both ways are in ``schedule_split``:

- ``gpipe``: all forwards, then all backwards (Huang et al., arXiv:1811.06965).
- ``1f1b``: stage r of p runs ``min(p - r - 1, m)`` forwards ahead, then alternates (Narayanan et al., SC'21,
  arXiv:2104.04473; Megatron-LM).
- ``interleaved``: `virtual` chunks per stage in groups of micro-batches, the same two phases (SC'21, section
  2.2; Megatron-LM). The group is p micro-batches, all of them where there are fewer. `group` may be set
  larger: that is the N of Llama 3's flexible schedule (arXiv:2407.21783, section 3.3.2), more memory for more
  time to hide a transfer.

Megatron refuses micro-batches that are no multiple of the group: a smaller last group, taken as it is,
deadlocks (a stage waits for a backward that waits for its own forward). Here the order is that of the next
multiple with the surplus micro-batches left out. It cannot deadlock: whatever executes the full order
executes the part, because passes of different micro-batches depend on each other only through the order
itself.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from euston.errors import ConfigError, unknown
from euston.training.schedule_split import (
    BACKWARD,
    FORWARD,
    SPLIT,
    StageOrder,
    split_in_flight,
    split_order,
)

__all__ = ["SCHEDULES", "StageOrder", "group_size", "in_flight", "order", "stage_order"]

SCHEDULES = ("1f1b", "interleaved", "gpipe", *SPLIT)


def group_size(pipeline: int, micro_batches: int, group: int | None = None) -> int:
    """Micro-batches that follow each other through one chunk before the next chunk's turn (interleaved).

    Parameters
    ----------
    group : int, optional
        None takes Megatron's p (all of them where there are fewer than p). A smaller group would make a stage
        wait for its own backward and is refused.

    Raises
    ------
    ConfigError
        If `group` is outside ``[min(pipeline, micro_batches), micro_batches]``.
    """
    least = min(pipeline, micro_batches)
    if group is None:
        return least
    if not least <= group <= micro_batches:
        raise ConfigError(f"`group`: {group} micro-batches; must be from {least} to {micro_batches}")
    return group


def _validate(schedule: str, pipeline: int, virtual: int, micro_batches: int) -> None:
    if schedule not in SCHEDULES:
        raise ConfigError(f"`schedule`: {unknown('schedule', schedule, SCHEDULES)}")
    for name, value in (("pipeline", pipeline), ("virtual", virtual), ("micro_batches", micro_batches)):
        if value < 1:
            raise ConfigError(f"`{name}`: {value} must be at least 1")
    if virtual > 1 and schedule != "interleaved":
        raise ConfigError(
            f"`virtual`: {virtual} chunks per stage need the interleaved schedule; "
            "set `schedule: interleaved` or `virtual: 1`"
        )
    if schedule == "dualpipe":
        if pipeline % 2:
            raise ConfigError(
                f"`pipeline`: dualpipe runs both ways through pairs of stages; {pipeline} stages are odd, "
                f"nearest {pipeline - 1 or 2} or {pipeline + 1}"
            )
        if micro_batches % 2 or micro_batches < 2 * pipeline:
            least = max(2 * pipeline, micro_batches + micro_batches % 2)
            raise ConfigError(
                f"`micro_batches`: dualpipe needs an even number and at least 2 x {pipeline} stages = "
                f"{2 * pipeline}; {micro_batches} given, nearest {least}"
            )


def _padded(micro_batches: int, group: int) -> int:
    """The next multiple of the group, whose order we follow."""
    return -(-micro_batches // group) * group


def _warm_up(
    schedule: str, pipeline: int, virtual: int, micro_batches: int, stage: int, group: int | None, ahead: int
) -> int:
    """Forward passes (surplus ones included) before the first alternation of forward and backward.

    ``interleaved`` with one chunk is 1F1B. With exactly p micro-batches (and the default group) the
    interleaved schedule runs all forwards first, as Megatron-LM does.
    """
    size = group_size(pipeline, micro_batches, group)
    total = (_padded(micro_batches, size) if virtual > 1 else micro_batches) * virtual
    if schedule == "gpipe":
        return total
    if virtual == 1:
        return min(pipeline - stage - 1 + ahead, micro_batches)
    if micro_batches == pipeline and group is None:
        return total
    return min(total, 2 * (pipeline - stage - 1) + (virtual - 1) * size + ahead)


def in_flight(
    schedule: str,
    pipeline: int,
    virtual: int,
    micro_batches: int,
    stage: int,
    group: int | None = None,
    ahead: int = 0,
) -> int:
    """Bound on the passes whose activations a stage holds at once, in (chunk, micro-batch) pairs.

    GPipe m, 1F1B min(m, p - r), ZB-H1 min(m, p), ZB-H2 min(m, 2p - 1), DualPipe p + 1, interleaved one more
    than the warm-up: with equal chunks of L / (p v) layers
    rank 0 holds L (1 + (p - 1) / (p v)) layers' worth (Korthikanti et al., arXiv:2205.05198, section 4.2.3).
    The order reaches the bound, except that it may stay below where micro-batches are no multiple of the
    group.
    """
    if schedule in SPLIT:
        return split_in_flight(schedule, pipeline, micro_batches, stage)
    total = micro_batches * virtual
    return min(total, _warm_up(schedule, pipeline, virtual, micro_batches, stage, group, ahead) + 1)


def _passes(virtual: int, micro_batches: int, group: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """(chunk, micro_batch) of the k-th forward pass, k < micro_batches * virtual, in whole groups."""
    k = np.arange(micro_batches * virtual, dtype=np.int64)
    block, inside = np.divmod(k, group * virtual)
    chunk, offset = np.divmod(inside, group)
    return chunk.astype(np.int32), (block * group + offset).astype(np.int32)


def stage_order(
    schedule: str,
    pipeline: int,
    virtual: int,
    micro_batches: int,
    stage: int,
    group: int | None = None,
    ahead: int = 0,
) -> StageOrder:
    """The order of one stage (0-based); see `order`."""
    _validate(schedule, pipeline, virtual, micro_batches)
    if not 0 <= stage < pipeline:
        raise ConfigError(f"`stage`: {stage} is not one of the {pipeline} stages 0 to {pipeline - 1}")
    if schedule in SPLIT:
        return split_order(schedule, pipeline, micro_batches, stage)
    size = group_size(pipeline, micro_batches, group) if virtual > 1 else 1
    padded = _padded(micro_batches, size)
    chunk, micro_batch = _passes(virtual, padded, size)
    total = padded * virtual
    ahead = _warm_up(schedule, pipeline, virtual, micro_batches, stage, group, ahead)
    forward_at = np.arange(total, dtype=np.int64)  # positions in the final order
    backward_at = np.arange(total, dtype=np.int64) + total
    steady = total - ahead
    # F x ahead ; (F, B) x steady ; B x ahead
    forward_at[ahead:] = ahead + 2 * np.arange(steady)
    backward_at[:steady] = ahead + 1 + 2 * np.arange(steady)
    out = StageOrder(
        np.full(2 * total, FORWARD, np.uint8),
        np.empty(2 * total, np.int32),
        np.empty(2 * total, np.int32),
        np.zeros(2 * total, np.bool_),
    )
    out.kind[backward_at] = BACKWARD
    out.chunk[forward_at], out.micro_batch[forward_at] = chunk, micro_batch
    # the k-th backward is the k-th forward with the chunks counted from the model's end
    out.chunk[backward_at], out.micro_batch[backward_at] = virtual - 1 - chunk, micro_batch
    if padded == micro_batches:
        return out
    real = out.micro_batch < micro_batches
    return StageOrder(out.kind[real], out.chunk[real], out.micro_batch[real], out.paired[real])


def order(
    schedule: str,
    pipeline: int,
    virtual: int,
    micro_batches: int,
    *,
    group: int | None = None,
    ahead: int = 0,
) -> list[StageOrder]:
    """The passes of every stage in the order the stage runs them.

    Parameters
    ----------
    schedule : "1f1b" | "interleaved" | "gpipe" | "zb-h1" | "zb-h2" | "dualpipe"
    pipeline, virtual, micro_batches : int
        Stages, chunks per stage and micro-batches per replica and step.
    group : int, optional
        Interleaved only: micro-batches per group, see `group_size`.
    ahead : int
        1F1B and interleaved: so many forwards more before the first alternation. Where a forward and a
        backward run at once, Megatron-Core runs one more ahead, or each pair would wait for the one on the
        next stage.

    Returns
    -------
    list of StageOrder, one per stage.

    Raises
    ------
    ConfigError
        For an unknown schedule, counts below one, chunks without the interleaved schedule, or too few
        micro-batches or an odd number of stages for dualpipe.
    """
    return [
        stage_order(schedule, pipeline, virtual, micro_batches, stage, group, ahead)
        for stage in range(max(pipeline, 1))
    ]
