"""Packs published kernel measurements into the compact tables that ship with the package.

``python -m euston.devices.pack FOLDER`` reads the raw CSV files of FOLDER (see the header of each file in
``data/`` for where they come from) and rewrites the tables in ``data/``. Only a maintainer who adds a device
needs it; the package itself reads nothing but ``data/``. No value is altered here except for its unit and six
significant digits.
"""

from __future__ import annotations

import gzip
import sys
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from euston.devices.layouts import DEVICES, MODELS, Measured, read

DATA = Path(__file__).parent / "data"
AIC = "source: ai-dynamo/aiconfigurator@095f58a5 (Apache-2.0), collectors of"
RTX = "source: casys-kaist/LLMServingSim@5daddb2 (MIT), profiler/perf, RTX PRO 6000 and RTX 4090, vLLM 0.19.0"
VIDUR = "source: microsoft/vidur@7d47513 (MIT) data/profiling, medians"
# One matmul of a published profile: 262144 x 8192 x 32768 over 8 cores of 22.5 TFLOP/s
TPU_MATMUL = {
    "family": "tpu", "dtype": "bf16", "achieved": 2 * 262144 * 8192 * 32768 / 0.096 / 4,
    "peak": 2 * 262144 * 8192 * 32768 / 0.0956 / 4, "shape": "262144x8192x32768 on 8 cores",
    "software": "jax",
}  # fmt: skip
MAMF_FAMILIES = {
    "Intel Gaudi 2": "gaudi2", "Intel Gaudi 3": "gaudi3", "NVIDIA A100 SXM": "a100sxm",
    "NVIDIA A100 PCIe": "a100pcie", "NVIDIA H100 SXM": "h100sxm", "NVIDIA H200 SXM": "h200sxm",
    "NVIDIA GH200 SXM": "gh200", "NVIDIA B200 SXM": "b200", "NVIDIA B300 SXM": "b300",
    "NVIDIA GB200 SXM": "gb200", "AMD MI300X": "mi300x", "AMD MI325X": "mi325x", "AMD MI355X": "mi355x",
}  # fmt: skip


def _write(name: str, comments: list[str], frame: pl.DataFrame) -> None:
    text = "".join(f"# {line}\n" for line in comments) + frame.write_csv()
    temporary = DATA / (name + ".tmp")
    data = text.encode()
    temporary.write_bytes(gzip.compress(data, mtime=0) if name.endswith(".gz") else data)
    temporary.rename(DATA / name)


def _rows(folder: Path, kind: str, *names: str) -> pl.DataFrame:
    """Rows of one kind in several raw files, whole numbers as such."""
    found: list[Measured] = []
    for name in names:
        found += [part for part in read(folder / f"kernels_{name}.csv")[1] if part.kind == kind]
    frame = pl.concat([part.rows.drop("line", "source") for part in found])
    whole = [
        c for c in frame.columns
        if frame[c].dtype == pl.Float64 and c != "us" and (frame[c] == frame[c].round()).all()
    ]  # fmt: skip
    return frame.with_columns(pl.col(whole).cast(pl.Int64), pl.col("us").round_sig_figs(6))


def _pivot(frame: pl.DataFrame, index: Sequence[str], along: str) -> pl.DataFrame:
    """One column of microseconds per value of `along`; the first of repeated rows is kept."""
    ordered = frame.sort(along, maintain_order=True)
    wide = ordered.pivot(on=along, index=list(index), values="us", aggregate_function="first")
    return wide.sort(*index)


def gemm(folder: Path) -> None:
    """One row per (device, dtype, n, k), one column of microseconds per m."""
    rows = _pivot(_rows(folder, "gemm", "gemm", "rtx_layers"), ("device", "dtype", "k", "n"), "m")
    comments = [
        "dense GEMM, m x k input times k x n weights: microseconds per call, one column per m; empty: no row",
        "fp8: per-tensor scales, fp8-block: per 128, fp4: NVFP4; the input's cast is part of the call "
        "(serving engine); outputs are 16 bit",
        "graph replay, 3 warm-ups, uninitialised weights, no power steady state: optimistic at high rates",
        AIC + " vLLM 0.14.0 (A100), vLLM 0.19.0 (H100, H200), SGLang 0.5.10 (GB200): gemm tables",
        RTX + ": linear layers of Llama-3.1-8B, Qwen3-32B and Qwen3-30B-A3B",
    ]
    _write(
        "gemm.csv",
        comments,
        rows.select("device", "dtype", "n", "k", pl.exclude("device", "dtype", "n", "k")),
    )


def attention(folder: Path) -> None:
    """Causal prefill attention, chunks against a cache included; decode, mixed, encoder and MLA attention."""
    rows = _pivot(
        _rows(folder, "prefill", "attention", "rtx_attention"),
        ("device", "heads", "kv_heads", "batch", "cached"), "new",
    )  # fmt: skip
    attention_source = AIC + " vLLM 0.14.0 (A100) and 0.19.0 (H100, H200)"
    comments = [
        "causal self-attention forward (prefill) of new tokens (columns) after cached ones, head size 128, "
        "bf16: microseconds per call",
        "A100: FlashAttention-2 class kernel; H100: FlashAttention-3 class kernel",
        attention_source + ": context_attention tables",
        "the source's H200 rows are left out: they exceed the chip's peak",
        RTX + ": attention with no decodes",
    ]
    _write("attention.csv", comments, rows)
    rows = _pivot(
        _rows(folder, "decode", "attention", "rtx_attention"),
        ("device", "heads", "kv_heads", "batch"), "context",
    )  # fmt: skip
    comments = [
        "attention of one new query per sequence (decode) against cached tokens (columns), head size 128, "
        "bf16: microseconds per call",
        attention_source + ": generation_attention tables",
        RTX + ": attention with no prefill",
    ]
    _write("decode.csv", comments, rows)
    rows = _pivot(_rows(folder, "mixed", "rtx_attention"), ("device", "new", "cached", "batch"), "context")
    comments = [
        "attention of a chunk of `new` tokens after `cached` ones and of `batch` decodes against a context",
        "(columns) in one call; 32 heads, 8 KV heads, head size 128, bf16: microseconds per call",
        RTX + ": attention of Llama-3.1-8B",
    ]
    _write("mixed_attention.csv", comments, rows)
    rows = _pivot(
        _rows(folder, "encoder", "encoder_attention"), ("device", "heads", "head_dim", "batch"), "sequence"
    )
    comments = [
        "attention of an image encoder, not causal, bf16: microseconds per call, one column per sequence",
        "rows above about 0.4 ms jump by up to three and are noisy in the source",
        AIC + " vLLM 0.19.0 (H100): encoder_attention table",
    ]
    _write("encoder_attention.csv", comments, rows)
    phases = [
        _rows(folder, f"mla_{phase}", "mla").rename({along: "length"}).with_columns(phase=pl.lit(phase))
        for phase, along in (("prefill", "sequence"), ("decode", "context"))
    ]
    frame = pl.concat([part.select("device", "phase", "heads", "batch", "length", "us") for part in phases])
    comments = [
        "multi-head latent attention of DeepSeek-V3 shapes (rank 512 + 64), heads of this rank, bf16:",
        "microseconds per call, one column per sequence (prefill) or context (decode, absorbed)",
        AIC + " SGLang 0.5.9 (H100, H200): context_mla and generation_mla tables",
    ]
    _write("mla.csv", comments, _pivot(frame, ("device", "phase", "heads", "batch"), "length"))


def moe(folder: Path) -> None:
    """Fused MoE layers; rows, touched experts and padded rows follow from how the collector deals tokens."""
    rows = _rows(folder, "moe", "moe").with_columns(
        pl.col("rows", "touched", "padded").cast(pl.Float64).round_sig_figs(6)
    )
    rows = rows.sort("device", "dtype", "shape", "ffn", "assignments", maintain_order=True)
    comments = [
        "fused mixture-of-experts layer (gate and up, activation, down, sum): microseconds per call",
        "shape: hidden/ffn/top-k/experts of the model; ffn: of this rank's slice of an expert; rows, touched",
        "(experts) and padded (rows, to tiles): what the measured rank computed, by the collector's dealing",
        AIC + " vLLM 0.14.0 (A100) and 0.19.0 (H100, H200): moe tables",
    ]
    columns = ("device", "dtype", "shape", "hidden", "ffn", "assignments", "rows", "touched", "padded", "us")
    _write("moe.csv.gz", comments, rows.select(columns))


def exchange(folder: Path) -> None:
    """Dispatch and combine of expert parallelism: one column of microseconds per tokens of a rank."""
    rows = _rows(folder, "exchange", "deepep", "gb200_alltoall")
    index = ("device", "dtype", "mode", "step", "ranks", "hidden", "top_k", "experts", "sms")
    comments = [
        "all-to-all of experts: microseconds per call, one column per tokens of a rank; sms: units given",
        "normal, low_latency: DeepEP (dispatch fp8, combine bf16), 8 GPUs per node (GB200: 4)",
        "two-sided: NVLink of an NVL72",
        AIC + " SGLang 0.5.12 (DeepEP) and TensorRT-LLM 1.3.0rc10 (GB200): wideep and alltoall tables",
    ]
    _write("exchange.csv", comments, _pivot(rows, index, "tokens"))


def collectives(folder: Path) -> None:
    """NCCL and custom collectives inside one host, and all-reduce and send within and between hosts."""
    rows = _rows(folder, "collective", "collectives").drop("dtype")
    keys = ("device", "impl", "collective", "ranks", "bytes")
    comments = [
        "NCCL 2.27 (A100) or 2.29 (others) and vLLM's custom all-reduce inside one host",
        "microseconds against the size of the full buffer M (16-bit elements x 2)",
        "M is the total (nccl-tests convention): were it per rank, an all-gather on 8 A100 would run at",
        "1.6 TB/s per rank, five times the link",
        AIC + " NCCL and vLLM: nccl and custom_allreduce tables",
    ]
    _write("collectives.csv", comments, rows.sort(*keys).select(*keys, "us"))
    rows = _rows(folder, "collective", "vidur_collectives").rename({"device": "network"})
    rows = rows.with_columns(per_node=pl.col("impl").str.strip_prefix("vidur-").cast(pl.Int64))
    comments = [
        "all-reduce and send over `ranks` GPUs, `per_node` of them in a host: microseconds against bytes",
        VIDUR,
    ]
    wide = _pivot(rows, ("network", "collective", "ranks", "per_node"), "bytes")
    _write("cluster_collectives.csv", comments, wide)


def layers(folder: Path) -> None:
    """Kernels of a layer by tokens: element-wise kernels and projections."""
    raw = pl.read_csv(folder / "kernels_vidur_layers.csv")
    shapes = pl.DataFrame(
        [(name, *shape[:4]) for name, shape in MODELS.items()],
        schema=["model", "hidden", "heads", "kv_heads", "ffn"], orient="row",
    )  # fmt: skip
    kernels = {
        "input_layernorm": "norm", "attn_rope": "rotary", "mlp_act": "activation", "add": "add",
        "attn_pre_proj": "qkv", "attn_post_proj": "out", "mlp_up_proj": "up", "mlp_down_proj": "down",
    }  # fmt: skip
    rows = (
        raw.filter(pl.col("device").is_in(list(DEVICES)))
        .with_columns(device=pl.col("device").replace(DEVICES))
        .join(shapes, on="model")
        .rename({"num_tensor_parallel_workers": "tensor_parallel", "num_tokens": "tokens"})
        .with_columns(**{new: (pl.col(f"{old}_ms") * 1e3).round_sig_figs(6) for old, new in kernels.items()})
        .select(
            "device", "model", "hidden", "heads", "kv_heads", "ffn", "tensor_parallel", "tokens",
            *kernels.values(),
        )
        .sort("device", "model", "tensor_parallel", "tokens")
    )  # fmt: skip
    comments = [
        "kernels of one transformer layer, fp16, head size 128, gated FFN: microseconds per call",
        "qkv, out, up (gate and up together), down: GEMMs; norm: RMSNorm; activation: SwiGLU; add: residual",
        VIDUR + ", compute",
    ]
    _write("layers.csv", comments, rows)
    rows = _rows(folder, "layer", "rtx_layers").drop("dtype")
    comments = [
        "kernels beside the linear layers, bf16: microseconds per call by tokens (sampler: by sequences)",
        "layernorm: residual add and RMSNorm in one kernel; act_fn: SwiGLU",
        RTX,
    ]
    _write("serving_layers.csv", comments, _pivot(rows, ("device", "model", "layer"), "tokens"))


def mamf(folder: Path) -> None:
    """Maximum achievable matmul FLOP/s, keyed by a family word found in accelerator names."""
    raw = pl.read_csv(folder / "training_sim_mamf.csv")
    rows = raw.select(
        family=pl.col("accelerator").replace_strict(MAMF_FAMILIES),
        dtype=pl.col("dtype"),
        achieved=pl.col("achieved_tflops") * 1e12,
        peak=pl.col("spec_tflops") * 1e12,
        shape=pl.col("best_shape_mxnxk"),
        software=pl.col("software"),
    )
    rows = pl.concat((rows, pl.DataFrame([TPU_MATMUL], schema=rows.schema))).sort("family", "dtype")
    comments = [
        "maximum achievable matmul FLOP/s (best of many shapes) and the dense datasheet peak; m x n x k",
        "source: stas00/ml-engineering@744d01e (CC-BY-SA-4.0) compute/accelerator/README.md, MAMF table",
        "tpu: jax-ml/scaling-book profiling.md, a matmul on 8 TPU v2 cores in 96 ms; 95.6 ms at peak",
    ]
    _write("mamf.csv", comments, rows)


def main() -> None:
    """Pack all tables of the folder given on the command line."""
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m euston.devices.pack FOLDER")
    folder = Path(sys.argv[1])
    for pack in (gemm, attention, moe, exchange, collectives, layers, mamf):
        pack(folder)


if __name__ == "__main__":
    main()
