"""`reproduce serving-vllm`: every request of real vLLM runs replayed, mean and tail of TTFT, TPOT and E2E.

Each run is a folder (`euston.studies._vllm_run`). Its kernels are those profiled beside it where it brings
them, else the packaged tables; the host's constants come from the catalogue's engine ``vllm``, fitted on one
run (role "input") and frozen. Rows with the constants at zero stand beside.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from euston.serving import Deployment, Engine, Pool, Router, ServingResult, StepTime, serve
from euston.serving.providers import EngineSoftware, engine_software, kv_blocks, kv_bytes_per_token, step_time
from euston.statistics import nearest_rank

from ._study import Study
from ._vllm_run import Run, folders, read_run
from .score import Row, report, summarise

__all__ = ["STUDY", "replay", "run", "steps_of"]

DATA = Path(__file__).parent / "data" / "serving_vllm"
#: The packaged run whose figures fixed the host's constants.
FITTED_ON = "rtx-pro-6000-llama-3.1-8b"


def steps_of(one: Run, software: EngineSoftware) -> StepTime:
    """Step times of a run's rank."""
    return step_time(
        one.model, one.accelerator, tensor=one.tensor,
        expert=one.expert, data=one.data if one.expert > 1 else 1, dtype=one.dtype, software=software,
        measured=one.measured, max_tokens=one.max_num_batched_tokens,
        max_sequences=max(2, min(one.max_num_seqs, len(one.requests))),
    )  # fmt: skip


def replay(one: Run, step: StepTime, asynchronous: bool, seed: int = 0) -> ServingResult:
    """Serve a run's requests as they arrived."""
    blocks = one.kv_blocks or kv_blocks(
        one.model, one.accelerator, tensor=one.tensor, dtype=one.dtype, block_size=one.block_size,
        utilisation=one.utilisation, max_tokens=one.max_num_batched_tokens,
    )  # fmt: skip
    names = one.requests.block_size
    engine = Engine(
        num_blocks=blocks, max_num_seqs=one.max_num_seqs, block_size=one.block_size,
        max_num_batched_tokens=one.max_num_batched_tokens, asynchronous=asynchronous,
        prefix_cache=one.prefix_caching and bool(names) and names % one.block_size == 0,
        max_model_len=one.max_model_len,
    )  # fmt: skip
    pool = Pool(
        engine=engine, step=step, replicas=one.data, lockstep=one.data if one.expert > 1 else 1,
        layers=one.model.layers,
        kv_bytes_per_token=one.tensor * kv_bytes_per_token(one.model, tensor=one.tensor),
        router=Router(policy="least_requests"),
    )  # fmt: skip
    return serve(one.requests, Deployment(pools=(pool,)), seed=seed)


def figures(
    ttft: NDArray[np.float64], tpot: NDArray[np.float64], e2e: NDArray[np.float64]
) -> dict[str, float | None]:
    """Mean and P99 (nearest rank) of each, over the requests that have it."""
    found: dict[str, float | None] = {}
    for name, values in (("ttft", ttft), ("tpot", tpot), ("e2e", e2e)):
        known = values[np.isfinite(values)]
        found[f"{name} mean, s"] = float(known.mean()) if known.size else None
        found[f"{name} p99, s"] = nearest_rank(known.tolist(), 99) if known.size else None
    return found


def run(
    data: Path | None = None, seed: int = 0, progress: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Replay the runs.

    Parameters
    ----------
    data : Path, optional
        A run folder, or a folder of them, in place of the packaged runs.
    seed : int
    progress : callable
        Told which run is at work.

    Raises
    ------
    ConfigError
        A folder that cannot be used: which file and line, and what would be right.
    """
    runs = [read_run(folder) for folder in folders(data or DATA)]
    software = engine_software("vllm")
    rows: list[Row] = []
    without: list[Row] = []
    for one in runs:
        progress(one.name)
        role = "input" if data is None and one.name == FITTED_ON else "scored"
        rows += _rows(one, software, role, seed)
        without += _rows(one, software.bare(), role, seed)
    result = report(rows)
    result["summary"]["by"]["run"] = _by_run(rows)
    result["summary"]["host_constants"] = {
        "cpu_fixed": software.cpu_fixed, "cpu_sequence": software.cpu_sequence,
        "cpu_token": software.cpu_token,
    }  # fmt: skip
    result["summary"]["host_constants_at_zero"] = {**summarise(without), "by": {"run": _by_run(without)}}
    return result


def _by_run(rows: list[Row]) -> dict[str, dict[str, float | None]]:
    """Signed error of every figure of a run, inputs included."""
    found: dict[str, dict[str, float | None]] = {}
    for row in rows:
        found.setdefault(str(row.extra["run"]), {})[row.quantity] = row.error
    return found


def _rows(one: Run, software: EngineSoftware, role: str, seed: int) -> list[Row]:
    step = steps_of(one, software)
    result = replay(one, step, software.asynchronous, seed)
    published = figures(one.ttft, one.tpot, one.e2e)
    ours = figures(result.ttft, result.tpot, result.e2e)
    lost = len(one.requests) - int(result.done.sum())
    own = one.measured
    parts = (
        []
        if own is None
        else [w for w, there in (("layers", own.layers), ("attention", own.attention)) if there]
    )
    kernels = f"tables beside the run: {', '.join(parts)}" if parts else "packaged tables"
    extra = {
        "run": one.name, "hardware": one.hardware, "model": one.model.name, "kernels": kernels,
        "provenance": list(step.provenance), "preemptions": int(result.preemptions.sum()),
    }  # fmt: skip
    table = one.accelerator.name
    return [
        Row(
            f"{one.name}:{quantity}", quantity, value, ours[quantity], one.source, role=role,  # type: ignore[arg-type]
            reason=f"{lost} requests were not served" if lost else "",
            device_class="tabled" if own is not None and own.layers else "transferred",
            model_class="moe" if one.model.moe is not None else "dense",
            extra={**extra, "accelerator": table},
        )
        for quantity, value in published.items()
        if value is not None
    ]  # fmt: skip


STUDY = Study(
    "serving-vllm",
    "real vLLM runs replayed request by request: mean and P99 of TTFT, TPOT and E2E",
    run,
)
