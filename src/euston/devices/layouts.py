"""Published tables of kernel times, recognised by their header and brought to one form.

`read(path)` returns a `Measured` per file: the kind of kernel, and a Polars table with ``device``, ``dtype``,
the columns of that kind (see the families), ``us``, ``line`` and ``source``. The packer of the shipped tables
and `euston reproduce kernels --data FILE` read the same layouts.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from euston.devices._deal import deal
from euston.errors import ConfigError

__all__ = ["LAYOUTS", "Layout", "Measured", "packaged", "read"]

#: Names of devices in the published tables -> the catalogue's.
DEVICES = {
    "A100-SXM-80GB": "a100-sxm-80gb", "H100-SXM": "h100-sxm", "H200-SXM": "h200-sxm", "GB200": "gb200",
    "GB200-NVL72": "gb200", "RTXPRO6000": "rtx-pro-6000", "RTX4090": "rtx-4090", "a100": "a100-sxm-80gb",
    "h100": "h100-sxm",
}  # fmt: skip
DTYPES = {
    "bfloat16": "bf16", "float16": "fp16", "half": "fp16", "fp8_block": "fp8-block", "nvfp4": "fp4",
}  # fmt: skip
#: hidden, query heads, KV heads, ffn, vocabulary of the models whose layers were profiled; head size 128.
MODELS = {
    "meta-llama/Llama-2-7b-hf": (4096, 32, 32, 11008, 32000),
    "meta-llama/Llama-2-70b-hf": (8192, 64, 8, 28672, 32000),
    "meta-llama/Meta-Llama-3-8B": (4096, 32, 8, 14336, 128256),
    "meta-llama/Llama-3.1-8B": (4096, 32, 8, 14336, 128256),
    "Qwen/Qwen3-32B": (5120, 64, 8, 25600, 151936),
    "Qwen/Qwen3-30B-A3B-Instruct-2507": (2048, 32, 4, 6144, 151936),
}


@dataclass(frozen=True)
class Measured:
    """Rows of one kind of kernel: a Polars table with `columns`, ``device``, ``dtype``, ``us``, ``line``."""

    kind: str
    columns: tuple[str, ...]
    rows: pl.DataFrame


@dataclass(frozen=True)
class Layout:
    """One published layout: the columns that tell it, and how it is brought to the common form."""

    name: str
    needs: tuple[str, ...]
    convert: Callable[[pl.DataFrame], list[Measured]]


def read(path: Path) -> tuple[Layout, list[Measured]]:
    """Read a CSV of one of the layouts.

    Raises
    ------
    ConfigError
        The file cannot be read, its header is none of the layouts', or a cell is no number.
    """
    try:
        raw = pl.read_csv(path, infer_schema_length=0, comment_prefix="#")
    except (OSError, pl.exceptions.PolarsError) as error:
        raise ConfigError(f"`{path}`: cannot be read as CSV: {str(error).splitlines()[0]}") from None
    layout = next((known for known in LAYOUTS if set(known.needs) <= set(raw.columns)), None)
    if layout is None:
        known = "; ".join(f"{one.name}: {','.join(one.needs)}" for one in LAYOUTS)
        raise ConfigError(
            f"`{path}`: no known layout has the header {','.join(raw.columns)}; known are {known}"
        )
    raw = raw.with_row_index("line", offset=2).with_columns(pl.col("line").cast(pl.Int64))
    if "source" not in raw.columns:
        raw = raw.with_columns(source=pl.lit(path.name))
    numbers = [c for c in layout.needs if c not in _TEXT]
    for column in numbers:
        cast = raw[column].cast(pl.Float64, strict=False)
        wrong = raw.filter(cast.is_null() | ~cast.is_finite())
        if wrong.height:
            cell, line = wrong[column][0], wrong["line"][0]
            raise ConfigError(f"`{path}` line {line}, column `{column}`: {cell!r} is not a number")
        raw = raw.with_columns(cast.alias(column))
    return layout, layout.convert(raw)


#: Packaged file -> kind, keys, the quantity its columns run along ("" where each row has one time), and the
#: rows of a file that hold several kinds.
PACKAGED: tuple[tuple[str, str, tuple[str, ...], str, dict[str, str]], ...] = (
    ("gemm.csv", "gemm", ("n", "k"), "m", {}),
    ("attention.csv", "prefill", ("batch", "heads", "kv_heads", "cached"), "new", {}),
    ("decode.csv", "decode", ("batch", "heads", "kv_heads"), "context", {}),
    ("mixed_attention.csv", "mixed", ("new", "cached", "batch"), "context", {}),
    ("encoder_attention.csv", "encoder", ("batch", "heads", "head_dim"), "sequence", {}),
    ("mla.csv", "mla_prefill", ("batch", "heads"), "sequence", {"phase": "prefill"}),
    ("mla.csv", "mla_decode", ("batch", "heads"), "context", {"phase": "decode"}),
    ("moe.csv.gz", "moe", ("rows", "touched", "padded", "assignments", "hidden", "ffn", "shape"), "", {}),
    ("collectives.csv", "collective", ("impl", "collective", "ranks", "bytes"), "", {}),
    ("cluster_collectives.csv", "collective", ("impl", "collective", "ranks"), "bytes", {}),
    (
        "exchange.csv",
        "exchange",
        ("mode", "step", "ranks", "hidden", "top_k", "experts", "sms"),
        "tokens",
        {},
    ),
)


def packaged(directory: Path) -> Iterator[tuple[str, Measured]]:
    """The shipped tables of `directory` in the same form, with their file's name."""
    for name, kind, keys, along, where in PACKAGED:
        path = directory / name
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        comments = [line for line in data.decode().splitlines() if line.startswith("# source:")]
        raw = pl.read_csv(data, comment_prefix="#", infer_schema_length=None)
        raw = raw.with_row_index("line", offset=1).with_columns(pl.col("line").cast(pl.Int64))
        for column, value in where.items():
            raw = raw.filter(pl.col(column) == value)
        if "network" in raw.columns:
            per_node = pl.concat_str(pl.lit("vidur-"), pl.col("per_node"))
            raw = raw.rename({"network": "device"}).with_columns(impl=per_node)
        columns = (*keys, along) if along else keys
        if along:
            grid = [c for c in raw.columns if c.isdigit()]
            rest = [c for c in raw.columns if c not in grid]
            raw = raw.unpivot(on=grid, index=rest, variable_name=along, value_name="us").drop_nulls("us")
            raw = raw.with_columns(pl.col(along).cast(pl.Float64))
        if "dtype" not in raw.columns:
            raw = raw.with_columns(dtype=pl.lit("bf16"))
        raw = raw.with_columns(source=pl.lit("; ".join(c.removeprefix("# source: ") for c in comments)))
        yield path.name.split(".")[0], _pick(kind, raw, *columns)


_TEXT = frozenset(
    {
        "device", "gemm_dtype", "phase", "dtype", "kernel_source", "moe_dtype", "distribution", "attn_dtype",
        "hardware", "model", "kind", "layer", "collective", "impl", "network", "op_name", "mode",
    }
)  # fmt: skip


def _named(raw: pl.DataFrame, device: str = "device") -> pl.DataFrame:
    return raw.with_columns(device=pl.col(device).replace(DEVICES))


def _dtype(column: str) -> pl.Expr:
    return pl.col(column).replace(DTYPES)


def _pick(kind: str, frame: pl.DataFrame, *columns: str) -> Measured:
    kept = ["device", "dtype", *columns, "us", "line", "source"]
    return Measured(kind, columns, frame.select(kept))


def _gemm(raw: pl.DataFrame) -> list[Measured]:
    rows = _named(raw).with_columns(dtype=_dtype("gemm_dtype"), us=pl.col("latency_ms") * 1e3)
    return [_pick("gemm", rows, "m", "n", "k")]


def _attention(raw: pl.DataFrame) -> list[Measured]:
    rows = _named(raw).with_columns(
        dtype=_dtype("dtype"), us=pl.col("latency_ms") * 1e3, batch=pl.col("batch_size"),
        heads=pl.col("q_heads"), new=pl.col("seq_len"), context=pl.col("seq_len"), cached=pl.lit(0.0),
    )  # fmt: skip
    # the H200's prefill rows beat its peak (298 of them) and are left out whole
    prefill = rows.filter((pl.col("phase") == "prefill") & (pl.col("device") != "h200-sxm"))
    decode = rows.filter(pl.col("phase") == "decode")
    return [
        _pick("prefill", prefill, "batch", "new", "heads", "kv_heads", "cached"),
        _pick("decode", decode, "batch", "context", "heads", "kv_heads"),
    ]


def _mla(raw: pl.DataFrame) -> list[Measured]:
    rows = _named(raw).with_columns(
        dtype=pl.lit("bf16"), us=pl.col("latency_ms") * 1e3, batch=pl.col("batch_size"),
        heads=pl.col("num_heads"), sequence=pl.col("seq_len"), context=pl.col("seq_len"),
    )  # fmt: skip
    return [
        _pick("mla_prefill", rows.filter(pl.col("phase") == "prefill"), "batch", "sequence", "heads"),
        _pick("mla_decode", rows.filter(pl.col("phase") == "decode"), "batch", "context", "heads"),
    ]


def _encoder(raw: pl.DataFrame) -> list[Measured]:
    rows = _named(raw).with_columns(
        dtype=_dtype("attn_dtype"), us=pl.col("latency_ms") * 1e3, batch=pl.col("batch_size"),
        heads=pl.col("num_heads"), sequence=pl.col("seq_len"),
    )  # fmt: skip
    return [_pick("encoder", rows, "batch", "sequence", "heads", "head_dim")]


def _moe(raw: pl.DataFrame) -> list[Measured]:
    rows = _named(raw).with_columns(dtype=_dtype("moe_dtype"), us=pl.col("latency_ms") * 1e3)
    alpha = rows["distribution"].str.extract(r"power_law_([0-9.]+)").cast(pl.Float64).fill_null(0.0)
    names = ("num_tokens", "num_experts", "topk", "moe_ep_size")
    keys = zip(*(rows[c].cast(pl.Int64).to_list() for c in names), alpha.to_list(), strict=True)
    dealt = [deal(*key) for key in keys]
    rows = rows.with_columns(
        rows=pl.Series([d.rows for d in dealt]), touched=pl.Series([d.touched for d in dealt]),
        padded=pl.Series([d.padded for d in dealt]), assignments=pl.col("num_tokens") * pl.col("topk"),
        hidden=pl.col("hidden_size"), ffn=pl.col("inter_size") / pl.col("moe_tp_size"),
        shape=pl.concat_str(
            [pl.col(c).cast(pl.Int64) for c in ("hidden_size", "inter_size", "topk", "num_experts")],
            separator="/",
        ),
    ).filter(pl.col("rows") > 0)  # fmt: skip
    columns = ("rows", "touched", "padded", "assignments", "hidden", "ffn", "shape")
    return [_pick("moe", rows, *columns)]


def _rtx_layers(raw: pl.DataFrame) -> list[Measured]:
    shapes = {
        (model, layer): shape
        for model, (h, a, kv, f, v) in MODELS.items()
        for layer, shape in {
            "qkv_proj": ((a + 2 * kv) * 128, h), "o_proj": (h, a * 128), "gate_up_proj": (2 * f, h),
            "down_proj": (h, f), "lm_head": (v, h),
        }.items()
    }  # fmt: skip
    known = pl.DataFrame(
        [(model, layer, float(n), float(k)) for (model, layer), (n, k) in shapes.items()],
        schema=["model", "layer", "n", "k"], orient="row",
    )  # fmt: skip
    rows = _named(raw, "hardware").with_columns(dtype=pl.lit("bf16"), us=pl.col("time_us"), m=pl.col("x"))
    layers = rows.join(known, on=["model", "layer"], how="anti").with_columns(tokens=pl.col("x"))
    return [
        _pick("gemm", rows.join(known, on=["model", "layer"], maintain_order="left"), "m", "n", "k"),
        _pick("layer", layers, "model", "layer", "tokens"),
    ]


def _rtx_attention(raw: pl.DataFrame) -> list[Measured]:
    rows = _named(raw, "hardware").with_columns(
        dtype=pl.lit("bf16"), us=pl.col("time_us"), new=pl.col("prefill_chunk"), cached=pl.col("kv_prefill"),
        batch=pl.col("n_decode"), context=pl.col("kv_decode"),
        heads=pl.col("model").replace_strict({m: float(v[1]) for m, v in MODELS.items()}, default=32.0),
        kv_heads=pl.col("model").replace_strict({m: float(v[2]) for m, v in MODELS.items()}, default=8.0),
    )  # fmt: skip
    alone = rows.filter(pl.col("n_decode") == 0).with_columns(batch=pl.lit(1.0))
    decode = rows.filter(pl.col("prefill_chunk") == 0)
    both = rows.filter((pl.col("n_decode") > 0) & (pl.col("prefill_chunk") > 0))
    return [
        _pick("prefill", alone, "batch", "new", "heads", "kv_heads", "cached"),
        _pick("decode", decode, "batch", "context", "heads", "kv_heads"),
        _pick("mixed", both, "new", "cached", "batch", "context"),
    ]


def _vidur_layers(raw: pl.DataFrame) -> list[Measured]:
    rows = _named(raw).with_columns(dtype=pl.lit("fp16"), m=pl.col("num_tokens"))
    found = []
    for (model, tp), part in rows.group_by("model", "num_tensor_parallel_workers", maintain_order=True):
        if model not in MODELS:
            continue
        h, a, kv, f, _ = MODELS[str(model)]
        t = int(float(str(tp)))
        for column, (n, k) in {
            "attn_pre_proj_ms": ((a + 2 * kv) * 128 // t, h), "attn_post_proj_ms": (h, a * 128 // t),
            "mlp_up_proj_ms": (2 * f // t, h), "mlp_down_proj_ms": (h, f // t),
        }.items():  # fmt: skip
            us = pl.col(column) * 1e3
            found.append(part.with_columns(n=pl.lit(float(n)), k=pl.lit(float(k)), us=us))
    return [_pick("gemm", pl.concat(found), "m", "n", "k")]


def _collectives(raw: pl.DataFrame) -> list[Measured]:
    names = {"alltoall": "all_to_all"}
    rows = _named(raw).with_columns(
        dtype=_dtype("dtype"), us=pl.col("latency_us"), collective=pl.col("collective").replace(names),
        ranks=pl.col("num_gpus"), bytes=pl.col("message_elems") * 2,  # 16-bit elements
        impl=pl.col("impl").replace(
            {"NCCL": "nccl", "vLLM_custom_graph": "custom-graph", "vLLM_custom_eager": "custom-eager"}
        ),
    )  # fmt: skip
    return [_pick("collective", rows, "impl", "collective", "ranks", "bytes")]


def _vidur_collectives(raw: pl.DataFrame) -> list[Measured]:
    rows = raw.with_columns(
        device=pl.col("network"), dtype=pl.lit("fp16"), us=pl.col("latency_ms") * 1e3,
        collective=pl.col("collective").replace({"send_recv": "send"}), ranks=pl.col("num_workers"),
        bytes=pl.col("message_bytes"),
        impl=pl.concat_str(pl.lit("vidur-"), pl.col("devices_per_node").cast(pl.Int64)),
    )  # fmt: skip
    return [_pick("collective", rows, "impl", "collective", "ranks", "bytes")]


def _deepep(raw: pl.DataFrame) -> list[Measured]:
    sms = pl.col("dispatch_sms").cast(pl.Float64, strict=False).fill_null(0.0)
    per_node = pl.when(pl.col("device").str.starts_with("GB")).then(4.0).otherwise(8.0)
    rows = _named(raw).with_columns(
        dtype=pl.lit("fp8"), ranks=pl.col("node_num") * per_node, hidden=pl.col("hidden_size"),
        top_k=pl.col("num_topk"), experts=pl.col("num_experts"), tokens=pl.col("num_token"), sms=sms,
    )  # fmt: skip
    return [_exchange(rows, {"dispatch": "dispatch_us", "combine": "combine_us"})]


def _gb200_alltoall(raw: pl.DataFrame) -> list[Measured]:
    rows = _named(raw).with_columns(
        dtype=_dtype("moe_dtype"), ranks=pl.col("moe_ep_size"), hidden=pl.col("hidden_size"),
        top_k=pl.col("topk"), experts=pl.col("num_experts"), tokens=pl.col("num_tokens"), sms=pl.lit(0.0),
        mode=pl.lit("two-sided"), step=pl.col("op_name").str.strip_prefix("alltoall_"),
        us=pl.col("latency_us"),
    )  # fmt: skip
    return [_pick("exchange", rows, *EXCHANGE)]


EXCHANGE = ("mode", "step", "ranks", "hidden", "top_k", "experts", "sms", "tokens")


def _exchange(rows: pl.DataFrame, steps: dict[str, str]) -> Measured:
    parts = [rows.with_columns(step=pl.lit(step), us=pl.col(column)) for step, column in steps.items()]
    return _pick("exchange", pl.concat(parts), *EXCHANGE)


LAYOUTS = (
    Layout("gemm", ("device", "gemm_dtype", "m", "n", "k", "latency_ms"), _gemm),
    Layout(
        "attention",
        ("device", "phase", "batch_size", "seq_len", "q_heads", "kv_heads", "dtype", "latency_ms"),
        _attention,
    ),
    Layout("mla", ("device", "phase", "num_heads", "batch_size", "seq_len", "latency_ms"), _mla),
    Layout(
        "encoder attention",
        ("device", "batch_size", "seq_len", "num_heads", "head_dim", "attn_dtype", "latency_ms"), _encoder,
    ),
    Layout(
        "moe",
        ("device", "moe_dtype", "num_tokens", "hidden_size", "inter_size", "topk", "num_experts",
         "moe_tp_size", "moe_ep_size", "distribution", "latency_ms"), _moe,
    ),
    Layout(
        "deepep",
        ("device", "mode", "node_num", "hidden_size", "num_token", "num_topk", "num_experts", "dispatch_us",
         "combine_us"), _deepep,
    ),
    Layout(
        "all-to-all",
        ("device", "op_name", "moe_dtype", "num_tokens", "hidden_size", "topk", "num_experts", "moe_ep_size",
         "latency_us"), _gb200_alltoall,
    ),
    Layout(
        "collectives", ("device", "collective", "impl", "dtype", "num_gpus", "message_elems", "latency_us"),
        _collectives,
    ),
    Layout(
        "vidur collectives",
        ("network", "collective", "num_workers", "devices_per_node", "message_bytes", "latency_ms"),
        _vidur_collectives,
    ),
    Layout(
        "vidur layers",
        ("device", "model", "num_tensor_parallel_workers", "num_tokens", "attn_pre_proj_ms",
         "attn_post_proj_ms", "mlp_up_proj_ms", "mlp_down_proj_ms"), _vidur_layers,
    ),
    Layout("layers", ("hardware", "model", "kind", "layer", "x", "time_us"), _rtx_layers),
    Layout(
        "mixed attention",
        ("hardware", "model", "prefill_chunk", "kv_prefill", "n_decode", "kv_decode", "time_us"),
        _rtx_attention,
    ),
)  # fmt: skip
