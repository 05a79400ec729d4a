"""Lines of measured deployments as times of their parts: what a decode step and a prefill consist of."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from euston import catalog
from euston.catalog import Accelerator
from euston.devices._tables import nearest_table
from euston.errors import CatalogError, EustonError
from euston.models import Transformer
from euston.models.balance import Balance
from euston.serving.providers import EngineSoftware, kv_bytes_per_token, step_time, weight_bytes
from euston.serving.step_time import StepTime

from ._models import find_model
from .table import Layout, Line

__all__ = ["LAYOUT", "Parts", "parts_of"]

LAYOUT = Layout(
    "inference_sim_silicon_serving.csv",
    (
        "model_path", "system", "precision", "mode", "isl", "osl", "ttft_ms", "tpot_ms",
    ),
    (
        "backend", "backend_version", "concurrency", "gemm_quant_mode", "moe_quant_mode", "batch_size",
        "tp_size", "pp_size", "attention_dp_size", "moe_tp_size", "moe_ep_size",
        *(f"{phase}_{key}" for phase in ("prefill", "decode") for key in (
            "batch_size", "num_workers", "tp_size", "pp_size", "attention_dp_size", "moe_tp_size",
            "moe_ep_size",
        )),
        "measured", "source", "suspect",
    ),
)  # fmt: skip
#: Words for number formats and what they compute in; weights of fewer bytes than that are given beside.
FORMATS: dict[str, tuple[str, float]] = {
    "bf16": ("bf16", 0.0), "bfloat16": ("bf16", 0.0), "fp16": ("bf16", 0.0), "fp8": ("fp8", 0.0),
    "fp8_block": ("fp8-block", 0.0), "fp8-block": ("fp8-block", 0.0), "nvfp4": ("nvfp4", 0.0),
    "fp4": ("nvfp4", 0.0), "mxfp4": ("nvfp4", 0.0), "int4_wo": ("bf16", 0.5625), "int4": ("bf16", 0.5625),
    "w4a16_mxfp4": ("bf16", 0.53125), "mxfp8": ("mxfp8", 0.0),
}  # fmt: skip
#: Tokens that one step takes of prompts: vLLM's and TensorRT-LLM's default on these accelerators.
CHUNK = 8192
#: Tokens go where their router sends them: equal experts, random counts.
ROUTING = Balance("multinomial")
#: Share of the memory that weights and KV may fill.
FILLED = 0.9


@dataclass(frozen=True)
class Parts:
    """Seconds of one line's deployment by part.

    Attributes
    ----------
    decode : dict of str to float
        Of a step in which every sequence decodes: "compute", "experts", "attention", "communication", and
        "layers", "moe_layers", "sequences" as counts.
    prefill : float
        Seconds of one prompt alone.
    added : float
        Seconds that a prompt adds to steps in which the other sequences decode.
    batch : float
        Sequences of a rank that decode together, as memory allows.
    waiting : float
        Sequences of a rank beyond it.
    prompts : float
        Prompts that compete for a rank's prefill.
    together : bool
        Whether prefill and decode share the accelerators.
    """

    decode: dict[str, float]
    prefill: float
    added: float
    batch: float
    waiting: float
    prompts: float
    outputs: float
    together: bool
    tabled: bool
    provenance: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class _Degrees:
    tensor: int
    data: int
    expert: int


@lru_cache(maxsize=4096)
def _steps(
    model: Transformer, accelerator: str, degrees: _Degrees, dtype: str, expert_dtype: str, weight: float,
    low_latency: bool, provider: str,
) -> StepTime:  # fmt: skip
    engine = EngineSoftware(graph_tokens=1024)
    return step_time(
        model, catalog.accelerator(accelerator), tensor=degrees.tensor, data=degrees.data,
        expert=degrees.expert, dtype=dtype, expert_dtype=expert_dtype, weight_bytes=weight, software=engine,
        low_latency=low_latency, provider=provider, experts_apart=True, balance=ROUTING,  # type: ignore[arg-type]
        max_tokens=CHUNK, max_sequences=1024,
    )  # fmt: skip


def _formats(line: Line, accelerator: Accelerator) -> tuple[str, str, float]:
    """(dtype of products, of experts, bytes of a weight or 0); formats a chip lacks are unpacked."""
    word = (line.text("gemm_quant_mode") or line.text("precision")).lower()
    experts = (line.text("moe_quant_mode") or word).lower()
    if word not in FORMATS or experts not in FORMATS:
        raise line.error("precision", f"{word!r} is no known number format; {', '.join(FORMATS)}")
    (dtype, weight), (expert_dtype, expert_weight) = FORMATS[word], FORMATS[experts]
    peaks = accelerator.peak
    if dtype == "nvfp4" and "fp4" not in peaks:
        dtype, weight = "bf16", 0.5625
    if expert_dtype == "nvfp4" and "fp4" not in peaks:
        expert_dtype, expert_weight = "bf16", 0.5625
    return dtype, expert_dtype, max(weight, expert_weight)


def _degrees(line: Line, phase: str, moe: bool) -> _Degrees:
    prefix = f"{phase}_" if phase else ""
    tensor, data = (line.whole(f"{prefix}{key}") or 1 for key in ("tp_size", "attention_dp_size"))
    expert = (line.whole(f"{prefix}moe_ep_size") or 1) if moe else 1
    return _Degrees(tensor, data, expert)


def parts_of(line: Line, provider: str = "tables") -> Parts | str:
    """The parts, or why they cannot be worked out.

    Raises
    ------
    ConfigError
        A malformed value, with line and column.
    """
    try:
        model, accelerator = find_model(line.text("model_path")), catalog.accelerator(_system(line))
    except CatalogError as error:
        return str(error)
    inputs, outputs = line.whole("isl"), line.whole("osl")
    mode = line.text("mode").lower()
    if mode not in ("agg", "disagg"):
        raise line.error("mode", f"{mode!r} is neither agg nor disagg")
    if inputs is None or outputs is None:
        raise line.error("isl" if inputs is None else "osl", "is empty; it cannot be guessed")
    dtype, expert_dtype, weight = _formats(line, accelerator)
    together = mode == "agg"
    decoding = _degrees(line, "" if together else "decode", model.moe is not None)
    filling = decoding if together else _degrees(line, "prefill", model.moe is not None)
    concurrency = line.whole("concurrency")
    batch = line.whole("batch_size" if together else "decode_batch_size")
    if batch is None and concurrency is not None and together:
        batch = max(1, concurrency // decoding.data)
    if batch is None:
        return "neither batch_size nor concurrency is given"
    try:
        steps = _steps(model, accelerator.name, decoding, dtype, expert_dtype, weight, True, provider)
        chunks = _steps(model, accelerator.name, filling, dtype, expert_dtype, weight, False, provider)
    except EustonError as error:
        return str(error)
    context = inputs + outputs / 2
    room = _room(model, accelerator, decoding, dtype, weight, context)
    running = max(1.0, min(float(batch), room))
    decode = _decode(steps, model, running, context, decoding)
    prompts = running
    if not together:
        ranks = (line.whole("prefill_num_workers") or 1) * filling.data
        prompts = (concurrency or batch) / ranks
    table, how = nearest_table(accelerator)
    alone = _prefill(chunks, inputs, filling)
    added = _added(steps, inputs, outputs, round(running), round(context), decoding) if together else alone
    return Parts(
        decode, alone, added, running, max(0.0, batch - running), prompts,
        float(outputs), together, table is not None and how == "measured", steps.provenance,
    )  # fmt: skip


def _system(line: Line) -> str:
    text = line.text("system")
    return text.replace("_", "-") if text else ""


def _room(
    model: Transformer, accelerator: Accelerator, degrees: _Degrees, dtype: str, weight: float, context: float
) -> float:
    """Sequences whose KV fits beside the weights; infinite where weights alone do not."""
    held = weight_bytes(model, tensor=degrees.tensor, data=degrees.data, dtype=dtype, weight=weight)
    left = FILLED * accelerator.memory_bytes - held
    per = kv_bytes_per_token(model, tensor=degrees.tensor) * context
    return left / per if left > per > 0 else float("inf")


def _decode(
    steps: StepTime, model: Transformer, batch: float, context: float, degrees: _Degrees
) -> dict[str, float]:
    count = max(1, round(batch))
    found = steps.breakdown(decode=np.full(count, round(context)))
    group = 0.0
    if steps.group.size:
        at = min(count * degrees.data, steps.group.size - 1)
        group = float(steps.group[at])
    layers = model.layer_kinds
    return {
        "compute": found["tokens"] + found["sequences"],
        "experts": group,
        "attention": found["decode"] + found["fixed"],
        "communication": found["communication"],
        "layers": float(len(layers)),
        "moe_layers": float(sum(kind.ffn == "moe" for kind in layers)),
        "sequences": batch,
    }


def _prefill(steps: StepTime, inputs: int, degrees: _Degrees) -> float:
    """One prompt in chunks, nothing beside it."""
    seconds, done = 0.0, 0
    while done < inputs:
        new = min(CHUNK, inputs - done)
        found = steps.breakdown([new], [done])
        seconds += found["gpu"]
        if steps.group.size:
            seconds += float(steps.group[min(new * degrees.data, steps.group.size - 1)])
        done += new
    return seconds


def _added(steps: StepTime, inputs: int, outputs: int, batch: int, context: int, degrees: _Degrees) -> float:
    """Seconds that one prompt adds to the steps that take it in beside `batch` sequences that decode.

    In a closed loop as many prompts come per step as sequences end in it, batch / outputs; steps without one
    are left out where that is below one.
    """
    count = max(1, batch)
    decode = np.full(count, context)

    def step(new: list[int], done: list[int]) -> float:
        tokens = count + sum(new)
        group = (
            float(steps.group[min(tokens * degrees.data, steps.group.size - 1)]) if steps.group.size else 0.0
        )
        return steps.breakdown(new, done, decode)["gpu"] + group

    plain = step([], [])
    together = max(1, min(round(batch / outputs), CHUNK // inputs))
    if together > 1:
        return (step([inputs] * together, [0] * together) - plain) / together
    added, done = 0.0, 0
    while done < inputs:
        new = min(max(CHUNK - count, 1), inputs - done)
        added += step([new], [done]) - plain
        done += new
    return added
