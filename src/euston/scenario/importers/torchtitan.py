"""A torchtitan TOML file as a scenario.

Keys and defaults: torchtitan/config/job_config.py of pytorch/torchtitan, 2025 (names of 2024 beside).
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from euston.errors import BadInput, ConfigError, at, unknown
from euston.scenario.importers.base import (
    MAX_DEGREE,
    Imported,
    Machines,
    origins_of,
    read_text,
    scenario_data,
)
from euston.scenario.importers.titan_models import model_named

__all__ = ["from_torchtitan"]

IDLE_SECTIONS = (
    "job", "profiling", "metrics", "optimizer", "lr_scheduler", "checkpoint", "comm", "memory_estimation",
    "experimental", "validation", "debug", "compile",
)  # fmt: skip
"""Sections that change nothing of a step's time or memory."""
IDLE_KEYS = (
    "model.tokenizer_path", "model.hf_assets_path", "model.print_after_conversion",
    "training.dataset", "training.dataset_path", "training.max_norm", "training.steps",
    "training.seed", "training.gc_freq", "training.gc_debug", "training.deterministic",
    "training.warmup_steps", "training.compile", "training.mixed_precision_reduce",
    "model.norm_type", "parallelism.disable_loss_parallel", "parallelism.enable_compiled_autograd",
    "activation_checkpoint.preserve_rng_state", "activation_checkpoint.early_stop",
    "activation_checkpoint.debug", "activation_checkpoint.determinism_check",
    "activation_checkpoint.per_op_sac_force_recompute_mm_shapes_by_fqns",
    "parallelism.module_fqns_per_model_part", "training.debug_moe_force_load_balance",
)  # fmt: skip
_SCHEDULES = {
    "1f1b": "1f1b",
    "gpipe": "gpipe",
    "interleaved1f1b": "interleaved",
    "interleavedzerobubble": "zb-h1",
    "zbvzerobubble": "zb-h1",
    "dualpipev": "dualpipe",
}
_ORIGINS = {
    "model": ("model.flavor", "model.name"),
    "parallel": ("parallelism.tensor_parallel_degree", "parallelism.pipeline_parallel_degree"),
    "parallel.tensor": ("parallelism.tensor_parallel_degree", "training.tensor_parallel_degree"),
    "parallel.pipeline": ("parallelism.pipeline_parallel_degree", "experimental.pipeline_parallel_degree"),
    "parallel.context": ("parallelism.context_parallel_degree", "experimental.context_parallel_degree"),
    "parallel.expert": ("parallelism.expert_parallel_degree",),
    "parallel.expert_tensor": ("parallelism.expert_tensor_parallel_degree",),
    "parallel.shard": ("parallelism.data_parallel_shard_degree", "training.data_parallel_shard_degree"),
    "parallel.data": (
        "parallelism.data_parallel_replicate_degree",
        "training.data_parallel_replicate_degree",
        "parallelism.data_parallel_shard_degree",
        "training.data_parallel_shard_degree",
    ),
    "parallel.virtual": (
        "parallelism.pipeline_parallel_layers_per_stage",
        "parallelism.pipeline_parallel_schedule",
    ),
    "schedule": ("parallelism.pipeline_parallel_schedule", "experimental.pipeline_parallel_schedule"),
    "batch.global": ("training.global_batch_size",),
    "batch.micro": (
        "parallelism.pipeline_parallel_microbatch_size",
        "training.local_batch_size",
        "training.batch_size",
    ),
    "batch.sequence": ("training.seq_len",),
    "precision": ("model.converters",),
    "recompute": ("activation_checkpoint.mode",),
    "recompute_modules": ("activation_checkpoint.mode",),
    "reshard_after_forward": ("parallelism.fsdp_reshard_after_forward",),
    "overrides.context": ("parallelism.context_parallel_rotate_method",),
}
"""Places of the job that the scenario's own checks may name, and the keys they come from."""
_RESHARD = ("default", "always", "never")
_TWO_CHUNKS = ("interleaved1f1b", "interleavedzerobubble", "zbvzerobubble", "dualpipev")


class _Config:
    """The file's tables with every key marked that somebody read."""

    def __init__(self, data: dict[str, Any], source: str, lines: dict[str, int]) -> None:
        self.data, self.source, self.lines = data, source, lines
        self.read: set[str] = set()
        self.warnings: list[str] = []

    def get(self, *paths: str) -> Any:
        """The value of the first of these keys that is there; older names come after newer ones."""
        found = None
        for path in paths:
            self.read.add(path)
            table, _, key = path.rpartition(".")
            section = self.data.get(table)
            if found is None and isinstance(section, dict) and key in section:
                found = section[key]
        return found

    def whole(self, *paths: str, default: int | None = None, least: int = 1) -> int:
        value = self.get(*paths)
        if value is None:
            if default is None:
                raise ConfigError(f"{self.source}: `{paths[0]}` is missing; a training job needs it")
            return default
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.wrong(paths[0], f"{value!r} is no whole number")
        if not least <= value <= MAX_DEGREE or value == 0:
            raise self.wrong(paths[0], f"{value} is out of range; it must be {max(least, 1)} to {MAX_DEGREE}")
        return value

    def text(self, *paths: str, default: str = "") -> str:
        value = self.get(*paths)
        if value is None:
            return default
        if not isinstance(value, str):
            raise self.wrong(paths[0], f"{value!r} is no text")
        return value

    def flag(self, *paths: str) -> bool:
        value = self.get(*paths)
        if value is not None and not isinstance(value, bool):
            raise self.wrong(paths[0], f"{value!r} is neither true nor false")
        return bool(value)

    def wrong(self, path: str, message: str) -> ConfigError:
        line = self.lines.get(path)
        place = f"{self.source}:{line}" if line else self.source
        return ConfigError(f"{place}: {at(path, message[:300])}")

    def said(self, paths: Sequence[str]) -> str:
        """File, line and key of the first of these that is given; else the first key alone."""
        path = next((path for path in paths if path in self.lines), paths[0])
        return str(self.wrong(path, "")).removesuffix(": ")

    def warn(self, path: str, message: str) -> None:
        line = self.lines.get(path)
        self.warnings.append(f"{path}{f' (line {line})' if line else ''}: {message}")

    def rest(self) -> list[str]:
        """Keys that nobody read."""
        keys: list[str] = []
        for table, section in self.data.items():
            if isinstance(section, dict):
                keys += [f"{table}.{key}" for key in _leaves(section)]
            else:
                keys.append(table)
        return [
            key
            for key in keys
            if key not in self.read and not any(key.startswith(f"{r}.") for r in self.read)
        ]


def _leaves(section: dict[str, Any]) -> list[str]:
    found: list[str] = []
    todo = [("", section)]
    while todo:
        prefix, table = todo.pop()
        for key, value in table.items():
            if isinstance(value, dict):
                todo.append((f"{prefix}{key}.", value))
            else:
                found.append(f"{prefix}{key}")
    return found


def from_torchtitan(file: Path, machines: Machines | None = None) -> Imported:
    """A torchtitan job as a scenario.

    Raises
    ------
    ConfigError
        One sentence that names file, line and key.
    """
    machines = machines or Machines()
    text = read_text(file, "a torchtitan configuration")
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file}: is no TOML: {error}") from None
    except RecursionError:
        raise ConfigError(f"{file}: is no TOML: tables within tables without end") from None
    config = _Config(data, str(file), _lines(text))
    if not any(isinstance(data.get(name), dict) for name in ("model", "training", "parallelism")):
        raise ConfigError(f"{file}: has none of [model], [training], [parallelism]; give a torchtitan file")
    return _imported(config, machines, file.name)


def _lines(text: str) -> dict[str, int]:
    """Line of every ``table.key``, as far as plain TOML shows it."""
    found: dict[str, int] = {}
    table = ""
    for number, line in enumerate(text.splitlines(), 1):
        plain = line.strip()
        if plain.startswith("[") and "]" in plain:
            table = plain.strip("[]").partition("]")[0].strip()
        elif "=" in plain and not plain.startswith("#"):
            found.setdefault(f"{table}.{plain.partition('=')[0].strip()}", number)
    return found


def _imported(c: _Config, machines: Machines, name: str) -> Imported:
    family = c.text("model.name", default="llama3")
    flavor = c.text("model.flavor", default="debugmodel")
    try:
        model, layers = model_named(family, flavor)
    except BadInput as error:
        raise c.wrong("model.flavor" if "flavor" in str(error) else "model.name", str(error)) from None
    degrees, world = _degrees(c, machines)
    local = c.whole("training.local_batch_size", "training.batch_size", default=8)
    sequence = c.whole("training.seq_len", default=2048)
    batch = c.whole("training.global_batch_size", default=-1, least=-1)
    pipeline = degrees["pipeline"]
    micro = c.whole("parallelism.pipeline_parallel_microbatch_size", default=1) if pipeline > 1 else local
    if pipeline > 1:
        c.get("parallelism.pipeline_parallel_microbatches", "experimental.pipeline_parallel_microbatches")
        if local % micro:
            raise c.wrong(
                "parallelism.pipeline_parallel_microbatch_size",
                f"{micro} does not divide training.local_batch_size {local}",
            )
    else:
        c.get("parallelism.pipeline_parallel_microbatch_size")
    # a negative number: as many as the replicas hold at once (trainer.py)
    total = local * degrees["data"] if batch < 0 else batch
    if total % (local * degrees["data"]):
        raise c.wrong(
            "training.global_batch_size",
            f"{total} is not a multiple of local_batch_size {local} x {degrees['data']} replicas",
        )
    if pipeline > 1 and total > local * degrees["data"]:
        c.warn("training.global_batch_size", "the pipeline drains once per step here, not per local batch")
    schedule, virtual, stages = _pipeline(c, layers, pipeline)
    job: dict[str, Any] = {
        "model": model,
        "parallel": {**degrees, "virtual": virtual},
        "batch": {"global": total, "micro": micro, "sequence": sequence},
        "precision": _precision(c),
        "software": "fsdp-2023",
    }
    if schedule:
        job["schedule"] = schedule
    if stages:
        job["stages"] = stages
    job |= _recompute(c)
    reshard = c.text("parallelism.fsdp_reshard_after_forward", default="default")
    if reshard not in _RESHARD:
        raise c.wrong(
            "parallelism.fsdp_reshard_after_forward",
            unknown("value", reshard, _RESHARD),
        )
    if degrees["sharding"] == "zero3":
        # "default" keeps gathered parameters where a pipeline would gather them for every micro-batch
        job["reshard_after_forward"] = reshard == "always" or (reshard == "default" and pipeline == 1)
    job["overrides"] = _overrides(c, degrees)
    return _finished(c, machines, name, job, world)


def _finished(c: _Config, machines: Machines, name: str, job: dict[str, Any], world: int) -> Imported:
    for key, message in (
        ("training.enable_cpu_offload", "parameters and states stay on the accelerator here"),
        ("fault_tolerance.enable", "replicas are not elastic here"),
    ):
        if c.flag(key):
            c.warn(key, message)
    if c.text("training.mixed_precision_param", default="bfloat16") == "float32":
        c.warn("training.mixed_precision_param", "FP32 is priced as BF16")
    found = Imported(name, warnings=c.warnings)
    for key in c.rest():
        if key.split(".")[0] in IDLE_SECTIONS or key in IDLE_KEYS or key.startswith("fault_tolerance."):
            found.ignored.append(key)
        else:
            line = c.lines.get(key)
            found.warnings.append(f"{key}{f' (line {line})' if line else ''}: unknown here; left out")
    found.warnings.append(
        f"accelerator {machines.accelerator} and fabric {machines.fabric} are no part of the file; "
        "say yours with --accelerator and --fabric"
    )
    found.data = scenario_data(Path(name).stem, job, world, machines.per_host or 8, machines)
    found.origins = origins_of(_ORIGINS, c.said)
    return found


def _degrees(c: _Config, machines: Machines) -> tuple[dict[str, Any], int]:
    tensor = c.whole("parallelism.tensor_parallel_degree", "training.tensor_parallel_degree", default=1)
    pipeline = c.whole(
        "parallelism.pipeline_parallel_degree", "experimental.pipeline_parallel_degree", default=1
    )
    context = c.whole(
        "parallelism.context_parallel_degree", "experimental.context_parallel_degree", default=1
    )
    expert = c.whole("parallelism.expert_parallel_degree", default=1)
    expert_tensor = c.whole("parallelism.expert_tensor_parallel_degree", default=tensor)
    copies = c.whole(
        "parallelism.data_parallel_replicate_degree", "training.data_parallel_replicate_degree", default=1
    )
    shard = c.whole(
        "parallelism.data_parallel_shard_degree",
        "training.data_parallel_shard_degree",
        default=-1,
        least=-1,
    )
    rest = tensor * pipeline * context * copies
    world = machines.accelerators
    if shard < 0:
        # parallel_dims.py: -1 takes the ranks that are left
        if world is None:
            each = machines.per_host or 8
            world = -(-rest // each) * each
            if world % rest:
                world = rest
            c.warnings.append(
                f"the number of ranks is no part of the file and data_parallel_shard_degree takes the rest: "
                f"{world} are assumed; say yours with --accelerators"
            )
        if world % rest:
            raise c.wrong(
                "parallelism.data_parallel_shard_degree",
                f"{world} ranks are not a multiple of the other degrees' {rest}",
            )
        shard = world // rest
    if world is not None and world != rest * shard:
        raise c.wrong(
            "parallelism.data_parallel_shard_degree",
            f"degrees make {rest * shard} ranks, and {world} accelerators are given",
        )
    # parameters are sharded over context ranks too (parallel_dims.py: dp_shard_cp)
    sharded = shard * context > 1
    degrees: dict[str, Any] = {
        "tensor": tensor,
        "sequence": tensor > 1,
        "context": context,
        "pipeline": pipeline,
        "data": copies * shard,
        "expert": expert,
        "sharding": "zero3" if sharded else "none",
    }
    if sharded and copies > 1:
        degrees["shard"] = shard * context
    if expert_tensor != tensor:
        degrees["expert_tensor"] = expert_tensor
    return degrees, rest * shard


def _pipeline(c: _Config, layers: int, pipeline: int) -> tuple[str | None, int, list[int] | None]:
    key = "parallelism.pipeline_parallel_schedule"
    text = c.text(key, "experimental.pipeline_parallel_schedule", default="1F1B")
    each = c.get("parallelism.pipeline_parallel_layers_per_stage")
    points = c.get(
        "parallelism.pipeline_parallel_split_points", "experimental.pipeline_parallel_split_points"
    )
    c.get("parallelism.pipeline_parallel_schedule_csv")
    less_first = c.whole("parallelism.pipeline_parallel_first_stage_less_layers", default=0, least=0)
    less_last = c.whole("parallelism.pipeline_parallel_last_stage_less_layers", default=0, least=0)
    plain = text.lower()
    if plain not in _SCHEDULES:
        raise c.wrong(key, unknown("schedule", text, ["1F1B", "GPipe", "Interleaved1F1B", "ZBVZeroBubble"]))
    if pipeline == 1:
        return None, 1, None
    schedule = _SCHEDULES[plain]
    virtual = 1
    if each is not None:
        per_stage = c.whole("parallelism.pipeline_parallel_layers_per_stage")
        # pipeline_parallel.py: stages = ceil(layers / layers_per_stage), a multiple of the ranks
        count = math.ceil(layers / per_stage)
        virtual = math.ceil(count / pipeline)
    elif plain in _TWO_CHUNKS:
        virtual = 2  # pipeline_parallel.py: two stages per rank for looped schedules, one for the others
    if points:
        c.warn("parallelism.pipeline_parallel_split_points", "stages are split evenly here")
    if less_first or less_last:
        c.warn("parallelism.pipeline_parallel_first_stage_less_layers", "stages are split evenly here")
    if schedule in ("zb-h1", "dualpipe") and virtual > 1:
        c.warn(key, f"{text} is run as {schedule} with one chunk per stage")
        virtual = 1
    if schedule == "interleaved" and virtual == 1:
        schedule = "1f1b"
    return schedule, virtual, None


def _precision(c: _Config) -> str:
    converters = c.get("model.converters")
    names = converters.split(",") if isinstance(converters, str) else converters or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise c.wrong("model.converters", f"{converters!r} is no list of texts")
    float8 = c.data.get("float8") or (c.data.get("quantize") or {}).get("linear", {}).get("float8") or {}
    mx = "mx" in c.data or "mx" in ((c.data.get("quantize") or {}).get("linear") or {})
    c.read.update(("float8", "mx", "quantize"))
    kinds = {name.strip().removeprefix("quantize.linear.") for name in names}
    old = isinstance(float8, dict) and float8.get("enable_float8_linear") is True
    if "mx" in kinds and (mx or kinds):
        return "mxfp8"
    if "float8" in kinds or old:
        recipe = float8.get("recipe_name") if isinstance(float8, dict) else None
        if recipe in ("rowwise", "rowwise_with_gw_hp"):
            c.warnings.append(f"float8.recipe_name: {recipe} is priced with one scale per tensor")
        # torchao scales from the tensor at hand, not from history
        return "fp8-current"
    for name in sorted(kinds - {""}):
        c.warnings.append(f"model.converters: {name[:60]!r} is unknown here; left out")
    return "bf16"


def _recompute(c: _Config) -> dict[str, Any]:
    mode = c.text("activation_checkpoint.mode", default="selective")
    option = c.get("activation_checkpoint.selective_ac_option", "activation_checkpoint.selective_ac_type")
    option = "2" if option is None else str(option)
    if mode not in ("none", "selective", "full", "memory_budget"):
        raise c.wrong("activation_checkpoint.mode", unknown("mode", mode, ["none", "selective", "full"]))
    if mode == "full":
        return {"recompute": "full"}
    if mode == "none":
        return {"recompute": "none"}
    if mode == "memory_budget":
        c.get("activation_checkpoint.memory_budget")
        c.warn("activation_checkpoint.mode", "memory_budget is run as selective")
    elif option != "op":
        c.warn(
            "activation_checkpoint.selective_ac_option",
            f"every {option[:10]}. layer is recomputed there; here norms and attention's core are",
        )
    return {"recompute": "selective", "recompute_modules": ["core_attn", "layernorm"]}


def _overrides(c: _Config, degrees: dict[str, Any]) -> dict[str, Any]:
    overlap = c.flag("parallelism.enable_async_tensor_parallel", "experimental.enable_async_tensor_parallel")
    found: dict[str, Any] = {
        "attention_kernel": "fa2",
        "gradient_dtype": "fp32",
        "tensor_overlap": overlap and degrees["tensor"] > 1,
        "recompute": "none",
        "sequence_parallel": degrees["tensor"] > 1,
    }
    rotate = c.text("parallelism.context_parallel_rotate_method", default="allgather")
    if rotate not in ("allgather", "alltoall"):
        raise c.wrong(
            "parallelism.context_parallel_rotate_method", unknown("method", rotate, ["allgather", "alltoall"])
        )
    if degrees["context"] > 1:
        # PyTorch's "alltoall" passes keys and values round a ring, by all-to-alls with one neighbour
        found["context"] = "all_gather" if rotate == "allgather" else "ring"
    return found
