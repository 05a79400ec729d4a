"""Packs published kernel measurements into the compact tables that ship with the package.

``python -m euston.devices.pack FOLDER`` reads the raw CSV files of FOLDER (see the header of each file in
``data/`` for where they come from) and rewrites ``data/{gemm,attention,layers,mamf,collectives}.csv``. Only a
maintainer who adds a device needs it; the package itself reads nothing but ``data/``. No value is altered
here except for its unit.
"""

from __future__ import annotations

import sys
from pathlib import Path

import polars as pl

DATA = Path(__file__).parent / "data"
DEVICES = {"A100-SXM-80GB": "a100-sxm-80gb", "H100-SXM": "h100-sxm", "H200-SXM": "h200-sxm", "GB200": "gb200"}
AICONFIGURATOR = "source: ai-dynamo/aiconfigurator@095f58a5 (Apache-2.0), collectors of"
VIDUR_SHAPES = {  # hidden, query heads, KV heads, ffn; head size 128
    "meta-llama/Llama-2-7b-hf": (4096, 32, 32, 11008),
    "meta-llama/Llama-2-70b-hf": (8192, 64, 8, 28672),
    "meta-llama/Meta-Llama-3-8B": (4096, 32, 8, 14336),
}
MAMF_FAMILIES = {
    "Intel Gaudi 2": "gaudi2", "Intel Gaudi 3": "gaudi3", "NVIDIA A100 SXM": "a100sxm",
    "NVIDIA A100 PCIe": "a100pcie", "NVIDIA H100 SXM": "h100sxm", "NVIDIA H200 SXM": "h200sxm",
    "NVIDIA GH200 SXM": "gh200", "NVIDIA B200 SXM": "b200", "NVIDIA B300 SXM": "b300",
    "NVIDIA GB200 SXM": "gb200", "AMD MI300X": "mi300x", "AMD MI325X": "mi325x", "AMD MI355X": "mi355x",
}  # fmt: skip


def _write(name: str, comments: list[str], frame: pl.DataFrame) -> None:
    text = "".join(f"# {line}\n" for line in comments) + frame.write_csv()
    temporary = DATA / (name + ".tmp")
    temporary.write_text(text)
    temporary.rename(DATA / name)


def gemm(folder: Path) -> None:
    """One row per (device, dtype, n, k), one column of microseconds per m."""
    raw = pl.read_csv(folder / "kernels_gemm.csv")
    rows = (
        raw.filter(pl.col("gemm_dtype").is_in(["bfloat16", "fp8"]))
        .with_columns(
            device=pl.col("device").replace_strict(DEVICES),
            dtype=pl.col("gemm_dtype").replace_strict({"bfloat16": "bf16", "fp8": "fp8"}),
            us=(pl.col("latency_ms") * 1e3).round_sig_figs(6),
        )
        .sort("m")
        .pivot(on="m", index=["device", "dtype", "n", "k"], values="us")
        .sort("device", "dtype", "k", "n")
    )
    comments = [
        "dense GEMM, m x k input times k x n weights: microseconds per call, one column per m; empty: no row",
        "fp8: per-tensor scales, the input's cast is part of the call (serving engine); outputs are 16 bit",
        "graph replay, 3 warm-ups, uninitialised weights, no power steady state: optimistic at high rates",
        AICONFIGURATOR + " vLLM 0.14.0 (A100), vLLM 0.19.0 (H100, H200), SGLang 0.5.10 (GB200): gemm tables",
    ]
    _write("gemm.csv", comments, rows)


def attention(folder: Path) -> None:
    """Causal prefill attention; the H200 rows are left out because they beat the chip's peak."""
    raw = pl.read_csv(folder / "kernels_attention.csv")
    rows = (
        raw.filter((pl.col("phase") == "prefill") & (pl.col("device") != "H200-SXM"))
        .with_columns(
            device=pl.col("device").replace_strict(DEVICES), us=(pl.col("latency_ms") * 1e3).round_sig_figs(6)
        )
        .rename({"batch_size": "batch", "seq_len": "sequence", "q_heads": "heads"})
        .select("device", "batch", "sequence", "heads", "kv_heads", "us")
        .sort("device", "heads", "kv_heads", "batch", "sequence")
    )
    comments = [
        "causal self-attention forward (prefill), head size 128, bf16: microseconds per call",
        "A100: FlashAttention-2 class kernel; H100: FlashAttention-3 class kernel",
        AICONFIGURATOR + " vLLM 0.14.0 (A100) and 0.19.0 (H100): context_attention tables",
        "the source's H200 rows are left out: they exceed the chip's peak",
    ]
    _write("attention.csv", comments, rows)


def layers(folder: Path) -> None:
    """Projections and element-wise kernels of whole layers (the second, independent kernel table)."""
    raw = pl.read_csv(folder / "kernels_vidur_layers.csv")
    shapes = pl.DataFrame(
        [(name, *shape) for name, shape in VIDUR_SHAPES.items()],
        schema=["model", "hidden", "heads", "kv_heads", "ffn"],
        orient="row",
    )
    devices = {"a100": "a100-sxm-80gb", "h100": "h100-sxm"}
    kernels = {
        "input_layernorm": "norm", "attn_rope": "rotary", "mlp_act": "activation", "add": "add",
        "attn_pre_proj": "qkv", "attn_post_proj": "out", "mlp_up_proj": "up", "mlp_down_proj": "down",
    }  # fmt: skip
    rows = (
        raw.filter(pl.col("device").is_in(list(devices)))
        .with_columns(device=pl.col("device").replace_strict(devices))
        .join(shapes, on="model")
        .rename({"num_tensor_parallel_workers": "tensor_parallel", "num_tokens": "tokens"})
        .with_columns(**{new: (pl.col(f"{old}_ms") * 1e3).round_sig_figs(6) for old, new in kernels.items()})
        .select(
            "device",
            "model",
            "hidden",
            "heads",
            "kv_heads",
            "ffn",
            "tensor_parallel",
            "tokens",
            *kernels.values(),
        )
        .sort("device", "model", "tensor_parallel", "tokens")
    )
    comments = [
        "kernels of one transformer layer, fp16, head size 128, gated FFN: microseconds per call",
        "qkv, out, up (gate and up together), down: GEMMs; norm: RMSNorm; activation: SwiGLU; add: residual",
        "source: microsoft/vidur@7d47513 (MIT) data/profiling/compute, medians",
    ]
    _write("layers.csv", comments, rows)


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
    ).sort("family", "dtype")
    comments = [
        "maximum achievable matmul FLOP/s (best of many shapes) and the dense datasheet peak; m x n x k",
        "source: stas00/ml-engineering@744d01e (CC-BY-SA-4.0) compute/accelerator/README.md, MAMF table",
    ]
    _write("mamf.csv", comments, rows)


def collectives(folder: Path) -> None:
    """Intra-host NCCL times against the size of the full buffer."""
    raw = pl.read_csv(folder / "kernels_collectives.csv")
    rows = (
        raw.filter(pl.col("impl") == "NCCL")
        .with_columns(
            device=pl.col("device").replace_strict(DEVICES),
            collective=pl.col("collective").replace({"alltoall": "all_to_all"}),
            bytes=pl.col("message_elems") * 2,
            us=pl.col("latency_us").round_sig_figs(6),
        )
        .rename({"num_gpus": "ranks"})
        .select("device", "collective", "ranks", "bytes", "us")
        .sort("device", "collective", "ranks", "bytes")
    )
    comments = [
        "NCCL 2.27 (A100) or 2.29 (others) collectives inside one host",
        "microseconds against the size of the full buffer M (fp16 elements x 2)",
        "M is the total (nccl-tests convention): were it per rank, an all-gather on 8 A100 would run at",
        "1.6 TB/s per rank, five times the link",
        AICONFIGURATOR + " NCCL: nccl tables",
    ]
    _write("collectives.csv", comments, rows)


def main(folder: str) -> None:
    """Rewrite every packed table from the raw files in ``folder``."""
    for table in (gemm, attention, layers, mamf, collectives):
        table(Path(folder))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m euston.devices.pack FOLDER")
    main(sys.argv[1])
