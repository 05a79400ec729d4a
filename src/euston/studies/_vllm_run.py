"""A measured vLLM run as a folder: run.toml, trace.jsonl, requests.csv and the kernels profiled beside it."""

from __future__ import annotations

import csv
import gzip
import json
import math
import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from euston import catalog
from euston.catalog import Accelerator
from euston.errors import CatalogError, ConfigError, at, nearest
from euston.models import Transformer
from euston.serving import Requests
from euston.serving.providers import Measured
from euston.serving.providers._shapes import shapes
from euston.serving.providers.measured import AttentionTable, LayerTable

from ._models import find_model

__all__ = ["Run", "folders", "read_run"]

#: Keys of run.toml and other spellings of them.
KEYS: dict[str, tuple[str, ...]] = {
    "hardware": ("accelerator", "gpu", "device"),
    "model": ("model_name", "model_id"),
    "tp": ("tensor", "tensor_parallel", "tensor_parallel_size", "tp_size"),
    "dp": ("data", "data_parallel", "data_parallel_size", "dp_size"),
    "ep": ("expert", "expert_parallel", "expert_parallel_size", "ep_size"),
    "max_num_seqs": (),
    "max_num_batched_tokens": (),
    "kv_blocks": ("num_blocks", "num_gpu_blocks", "kv_cache_blocks", "num_kv_blocks", "KV blocks"),
    "block_size": (),
    "prefix_caching": ("enable_prefix_caching", "prefix_cache"),
    "dtype": ("precision",),
    "gpu_memory_utilization": (),
    "layers_tp": (),
    "trace_block_size": (),
    "max_model_len": (),
    "name": (), "engine": (), "source": (), "note": (), "license": (), "version": (), "seed": (),
}  # fmt: skip
REQUIRED = ("hardware", "model", "max_num_seqs", "max_num_batched_tokens")
LAYER_COLUMNS = ("layer", "x", "time_us")
ATTENTION_COLUMNS = ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode", "time_us")
MOE_COLUMNS = ("num_tokens", "latency_ms")
REQUEST_COLUMNS = ("arrival_s", "input_toks", "output_toks", "ttft_ms", "e2e_ms")
#: Names of layers in a profile that hold the whole of a mixture of experts.
EXPERTS = ("moe", "experts", "fused_moe", "mlp_moe")
MAX_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Run:
    """One run: what was deployed, what was asked, what was measured (seconds)."""

    name: str
    hardware: str
    accelerator: Accelerator
    model: Transformer
    tensor: int
    data: int
    expert: int
    max_num_seqs: int
    max_num_batched_tokens: int
    kv_blocks: int | None
    block_size: int
    prefix_caching: bool
    dtype: str
    utilisation: float
    max_model_len: int
    requests: Requests
    ttft: NDArray[np.float64]
    tpot: NDArray[np.float64]
    e2e: NDArray[np.float64]
    measured: Measured | None
    source: str


def folders(data: Path) -> list[Path]:
    """The run folders at a path: itself, or those below it.

    Raises
    ------
    ConfigError
        Where there is none.
    """
    if (data / "run.toml").is_file():
        return [data]
    found = sorted(path.parent for path in data.glob("*/run.toml")) if data.is_dir() else []
    if not found:
        raise ConfigError(
            f"`{data}`: holds no run; a run is a folder of run.toml, trace.jsonl, requests.csv, layers.csv "
            "and attention.csv (moe.csv for mixtures of experts), or a folder of such folders"
        )
    return found


def read_run(folder: Path) -> Run:
    """Read and check a run folder. Tables of kernels may be absent; the packaged ones stand in.

    Raises
    ------
    ConfigError
        A file that is missing or malformed: which, where, and what would be right.
    """
    where = f"{folder.name}/run.toml"
    given = _settings(folder / "run.toml", where)
    accelerator = _accelerator(given["hardware"], where)
    model = _model(folder, given["model"], where)
    tensor, data, expert = (_count(given, key, where, 1) for key in ("tp", "dp", "ep"))
    columns = _requests(folder)
    block_size = _count(given, "block_size", where, 16)
    kv_blocks = _count(given, "kv_blocks", where, 0) or None
    measured = _measured(folder, model, given, tensor, accelerator)
    requests = _trace(folder, columns, _count(given, "trace_block_size", where, 0))
    caching = given.get("prefix_caching", True)
    if not isinstance(caching, bool):
        raise ConfigError(at(where, f"prefix_caching is {caching!r}; true or false"))
    dtype = {"bfloat16": "bf16", "float16": "bf16", "auto": "bf16", "fp16": "bf16"}.get(
        str(given.get("dtype", "bf16")).lower(), str(given.get("dtype", "bf16")).lower()
    )
    return Run(
        name=str(given.get("name") or folder.name),
        hardware=str(given["hardware"]),
        accelerator=accelerator,
        model=model,
        tensor=tensor,
        data=data,
        expert=expert,
        max_num_seqs=_count(given, "max_num_seqs", where, 0),
        max_num_batched_tokens=_count(given, "max_num_batched_tokens", where, 0),
        kv_blocks=kv_blocks,
        block_size=block_size,
        prefix_caching=caching,
        dtype=dtype,
        utilisation=_share(given, where),
        max_model_len=_count(given, "max_model_len", where, 0),
        requests=requests,
        ttft=columns["ttft_ms"] * 1e-3,
        tpot=columns["tpot_ms"] * 1e-3,
        e2e=columns["e2e_ms"] * 1e-3,
        measured=measured,
        source=str(given.get("source", where)),
    )


# -- run.toml ---------------------------------------------------------------------------------------------


def _settings(path: Path, where: str) -> dict[str, Any]:
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(at(where, f"cannot be read: {error.strerror or error}")) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(at(where, f"is not TOML: {error}")) from None
    flat: dict[str, Any] = {}
    for key, value in raw.items():  # tables group keys, their names do not matter
        flat.update(value if isinstance(value, dict) else {key: value})
    spelled = {_plain(word): key for key, words in KEYS.items() for word in (key, *words)}
    given: dict[str, Any] = {}
    for key, value in flat.items():
        known = spelled.get(_plain(key))
        if known is None:
            guess = nearest(key, list(KEYS))
            if guess is not None:
                raise ConfigError(at(where, f"unknown key {key!r}; did you mean {guess!r}?"))
            continue  # a remark that decides nothing
        given[known] = value
    for key in REQUIRED:
        if given.get(key) in (None, ""):
            raise ConfigError(at(where, f"{key!r} is missing; a run gives {', '.join(KEYS)}"))
    return given


def _plain(key: str) -> str:
    return re.sub(r"[^a-z0-9]", "", key.lower())


def _count(given: dict[str, Any], key: str, where: str, default: int) -> int:
    value = given.get(key, default)
    if isinstance(value, str) and value.strip().isdigit():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < (0 if key not in given else 1):
        if key in ("ep", "max_model_len", "trace_block_size") and value in (0, False):
            return default
        raise ConfigError(at(where, f"{key} is {value!r}; it must be a whole number of at least 1"))
    return value


def _share(given: dict[str, Any], where: str) -> float:
    value = given.get("gpu_memory_utilization", 0.9)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        raise ConfigError(at(where, f"gpu_memory_utilization is {value!r}; a share above 0 and at most 1"))
    return float(value)


def _accelerator(name: object, where: str) -> Accelerator:
    try:
        return catalog.accelerator(str(name))
    except CatalogError as error:
        raise ConfigError(at(where, f"hardware: {error}")) from None


def _model(folder: Path, name: object, where: str) -> Transformer:
    """The model's shape: config.json beside, or the catalogue's entry of its name, with or without owner."""
    own = folder / "config.json"
    if own.is_file():
        return Transformer.from_hf_config(own, str(name))
    try:
        return find_model(str(name))
    except CatalogError as error:
        raise ConfigError(at(where, f"model: {error}; or put its config.json beside run.toml")) from None


# -- tables -----------------------------------------------------------------------------------------------


def _rows(path: Path, required: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """(line, cells) of a CSV file, comment lines skipped."""
    name = f"{path.parent.name}/{path.name}"
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(at(name, "is larger than 256 MiB"))
        data = path.read_bytes()
        text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(at(name, f"cannot be read: {error.strerror or error}")) from None
    except (UnicodeDecodeError, EOFError) as error:
        raise ConfigError(at(name, f"is not UTF-8 text: {error}")) from None
    header: list[str] = []
    for number, cells in enumerate(csv.reader(text.splitlines()), 1):
        if not any(cell.strip() for cell in cells) or cells[0].lstrip().startswith("#"):
            continue
        if not header:
            header = [cell.strip() for cell in cells]
            missing = [column for column in required if column not in header]
            if missing:
                raise ConfigError(
                    at(
                        f"{name}:{number}",
                        f"column {missing[0]!r} is missing; it needs {', '.join(required)}",
                    )
                )
            continue
        if len(cells) != len(header):
            raise ConfigError(
                at(f"{name}:{number}", f"has {len(cells)} cells, the header {len(header)} columns")
            )
        yield number, dict(zip(header, (cell.strip() for cell in cells), strict=True))
    if not header:
        raise ConfigError(at(name, f"is empty; it needs the columns {', '.join(required)}"))


def _number(path: Path, line: int, row: dict[str, str], column: str, least: float = 0.0) -> float:
    try:
        value = float(row[column])
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < least:
        where = f"{path.parent.name}/{path.name}:{line}"
        raise ConfigError(
            at(where, f"column {column}: {row[column]!r} must be a number of at least {least:g}")
        )
    return value


def _find(folder: Path, name: str) -> Path | None:
    return next((p for p in (folder / name, folder / f"{name}.gz") if p.is_file()), None)


def _mine(row: dict[str, str], run: dict[str, Any]) -> bool:
    """Whether a row of a table is of this run's hardware and model (a table may hold several)."""
    for column, key in (("hardware", "hardware"), ("model", "model"), ("device", "hardware")):
        text = row.get(column, "")
        if text and not _alike(text, str(run[key])):
            return False
    return True


def _alike(a: str, b: str) -> bool:
    x, y = (_plain(word.rpartition("/")[2]) for word in (a, b))
    return x in y or y in x


def _measured(
    folder: Path, model: Transformer, run: dict[str, Any], tensor: int, accelerator: Accelerator
) -> Measured | None:
    layers: dict[str, list[tuple[float, float]]] = {}
    degree = run.get("layers_tp")
    path = _find(folder, "layers.csv")
    if path is not None:
        for line, row in _rows(path, LAYER_COLUMNS):
            if not _mine(row, run):
                continue
            name = "moe" if row["layer"] in EXPERTS else row["layer"]
            x, us = _number(path, line, row, "x", 1), _number(path, line, row, "time_us")
            layers.setdefault(name, []).append((x, us * 1e-6))
            word = row.get("tp") or "".join(re.findall(r"\btp(\d+)\b", row.get("source", ""))[-1:])
            degree = degree or (int(word) if word.isdigit() else None)
        if not layers:
            raise ConfigError(
                at(f"{folder.name}/layers.csv", f"has no row of {run['hardware']} and {run['model']}")
            )
    path = _find(folder, "moe.csv")
    if path is not None and model.moe is not None:
        layers.setdefault("moe", []).extend(_experts(path, model))
    tables = {name: _curve(points) for name, points in layers.items()}
    degree = int(degree or _degree(tables, model, tensor, accelerator))
    attention = _attention(folder, model, run, degree)
    if not tables and attention is None:
        return None
    return Measured(tables, degree, attention)


def _experts(path: Path, model: Transformer) -> list[tuple[float, float]]:
    """(tokens, seconds) of the expert layer, of the rows that are of this model and dealt evenly."""
    assert model.moe is not None
    where = f"{path.parent.name}/{path.name}"
    mine = (("hidden_size", model.hidden), ("topk", model.moe.top_k), ("num_experts", model.moe.experts))
    found = []
    for line, row in _rows(path, ()):
        tokens = next((c for c in ("num_tokens", "tokens", "x") if c in row), "")
        time = next((c for c in ("latency_ms", "time_us") if c in row), "")
        if not tokens or not time:
            raise ConfigError(at(where, f"needs columns {' and '.join(MOE_COLUMNS)}"))
        same = all(not row.get(c) or _number(path, line, row, c) == value for c, value in mine)
        if same and row.get("distribution", "") in ("", "balanced", "uniform"):
            unit = 1e-3 if time == "latency_ms" else 1e-6
            found.append((_number(path, line, row, tokens, 1), _number(path, line, row, time) * unit))
    if not found:
        raise ConfigError(at(where, f"has no balanced row of {model.name}'s expert layer"))
    return found


def _degree(tables: dict[str, LayerTable], model: Transformer, tensor: int, accelerator: Accelerator) -> int:
    """Tensor parallelism a profile was made at, where it does not say: the least that beats no roofline."""
    peak = accelerator.peak["bf16"]
    degrees = [d for d in range(1, tensor + 1) if tensor % d == 0]
    for degree in degrees:
        known = shapes(model, degree)
        faster = [
            float(np.max(known[name].roofline(table.x, peak, accelerator.memory_bandwidth) / table.seconds))
            for name, table in tables.items()
            if name in known and known[name].n > 0 and name != "moe"
        ]
        if not faster or float(np.median(faster)) <= 1.05:
            return degree
    return tensor


def _curve(points: list[tuple[float, float]]) -> LayerTable:
    """Rising token counts; several times at one are averaged; zeros are below the profiler's resolution."""
    by_x: dict[float, list[float]] = {}
    for x, seconds in points:
        by_x.setdefault(x, []).append(max(seconds, 1e-8))
    at_x = sorted(by_x)
    return LayerTable(np.array(at_x), np.array([float(np.mean(by_x[x])) for x in at_x]))


def _attention(folder: Path, model: Transformer, run: dict[str, Any], degree: int) -> AttentionTable | None:
    path = _find(folder, "attention.csv")
    if path is None:
        return None
    found: list[tuple[float, ...]] = []
    for line, row in _rows(path, ATTENTION_COLUMNS):
        if _mine(row, run):
            found.append(tuple(_number(path, line, row, column) for column in ATTENTION_COLUMNS))
    if not found:
        raise ConfigError(
            at(f"{folder.name}/attention.csv", f"has no row of {run['hardware']} and {run['model']}")
        )
    columns = np.array(found).T
    if not ((columns[0] > 0) & (columns[2] == 0)).any() or not ((columns[0] == 0) & (columns[2] > 0)).any():
        raise ConfigError(
            at(
                f"{folder.name}/attention.csv",
                "needs rows of chunks alone (n_decode 0) and of decodes alone (prefill_chunk 0)",
            )
        )
    new, cached, batch, context, microseconds = columns[:5]
    return AttentionTable(
        new, cached, batch, context, np.maximum(microseconds, 0.01) * 1e-6,
        model.heads / degree, max(1.0, model.kv_heads / degree), float(model.head_dim),
    )  # fmt: skip


# -- requests ---------------------------------------------------------------------------------------------


def _requests(folder: Path) -> dict[str, NDArray[np.float64]]:
    path = _find(folder, "requests.csv")
    if path is None:
        raise ConfigError(at(folder.name, "has no requests.csv"))
    columns: dict[str, list[float]] = {name: [] for name in (*REQUEST_COLUMNS, "tpot_ms")}
    for line, row in _rows(path, REQUEST_COLUMNS):
        for name in REQUEST_COLUMNS:
            columns[name].append(_number(path, line, row, name, 1.0 if name.endswith("toks") else 0.0))
        text = row.get("tpot_ms", "")
        columns["tpot_ms"].append(_number(path, line, row, "tpot_ms") if text else math.nan)
    if not columns["arrival_s"]:
        raise ConfigError(at(f"{folder.name}/requests.csv", "has a header but no request"))
    made = {name: np.array(values) for name, values in columns.items()}
    own = (made["e2e_ms"] - made["ttft_ms"]) / np.maximum(made["output_toks"] - 1, 1)
    tpot = np.where(np.isfinite(made["tpot_ms"]), made["tpot_ms"], own)
    made["tpot_ms"] = np.where(made["output_toks"] > 1, tpot, np.nan)  # undefined for a single token
    order = np.argsort(made["arrival_s"], kind="stable")
    return {name: values[order] for name, values in made.items()}


def _trace(folder: Path, columns: dict[str, NDArray[np.float64]], block: int) -> Requests:
    """The requests as they arrived, with the names of their blocks where the trace gives them."""
    ids: list[list[int]] = []
    path = _find(folder, "trace.jsonl")
    name = f"{folder.name}/trace.jsonl"
    inputs = columns["input_toks"].astype(int).tolist()
    if path is None:
        raise ConfigError(at(folder.name, "has no trace.jsonl"))
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8-sig")
    lengths: list[int] = []
    arrivals: list[float] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except json.JSONDecodeError as error:
            raise ConfigError(at(f"{name}:{number}:{error.colno}", f"is not JSON: {error.msg}")) from None
        if not isinstance(entry, dict) or not isinstance(entry.get("input_length"), int):
            raise ConfigError(
                at(f"{name}:{number}", "needs timestamp (ms), input_length, output_length [and hash_ids]")
            )
        found = entry.get("hash_ids") or []
        if not isinstance(found, list) or not all(isinstance(x, int) and 0 <= x < 2**40 for x in found):
            raise ConfigError(at(f"{name}:{number}", "column hash_ids: whole numbers from 0 to 2^40"))
        ids.append(found)
        lengths.append(entry["input_length"])
        arrivals.append(float(entry.get("timestamp", number)))
    order = sorted(range(len(ids)), key=lambda j: arrivals[j])
    ids, lengths = [ids[j] for j in order], [lengths[j] for j in order]
    if len(ids) != len(inputs):
        raise ConfigError(
            at(name, f"has {len(ids)} requests, requests.csv {len(inputs)}; they must be the same")
        )
    if lengths != inputs:
        ids, lengths = _paired(ids, lengths, inputs, name)
    size = block or _block_size(ids, lengths)
    names: dict[str, Any] = {}
    if size:
        pointers = np.zeros(len(ids) + 1, np.int64)
        pointers[1:] = np.cumsum([len(found) for found in ids])
        flat = np.array([x for found in ids for x in found], np.int64)
        names = {"block_ids": flat, "blocks_ptr": pointers, "block_size": size}
    return Requests.of(columns["arrival_s"], columns["input_toks"], columns["output_toks"], **names)


def _paired(
    ids: list[list[int]], lengths: list[int], inputs: list[int], name: str
) -> tuple[list[list[int]], list[int]]:
    """The trace's entries in the order of the requests, paired by length where arrivals were jittered."""
    left: dict[int, list[int]] = {}
    for j, length in enumerate(lengths):
        left.setdefault(length, []).append(j)
    chosen = []
    for number, length in enumerate(inputs):
        if not left.get(length):
            raise ConfigError(
                at(name, f"has no request of {length} input tokens left for request {number} of requests.csv")
            )
        chosen.append(left[length].pop(0))
    return [ids[j] for j in chosen], [lengths[j] for j in chosen]


def _block_size(ids: list[list[int]], lengths: list[int]) -> int:
    """Tokens per name: the power of two that explains every request's number of names; 0 without names."""
    if not any(ids):
        return 0
    for size in (16, 512, 32, 64, 128, 256, 1, 8):
        if all(
            length // size <= len(found) <= -(-length // size)
            for found, length in zip(ids, lengths, strict=True)
        ):
            return size
    return 0
