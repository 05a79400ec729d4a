"""Megatron-LM arguments as a scenario: a command line, an argument file or a launch script.

Rules: megatron/training/arguments.py (defaults, derived degrees) and megatron/core of
NVIDIA/Megatron-LM, 2025.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from euston.errors import ConfigError
from euston.scenario.importers.arguments import Arguments
from euston.scenario.importers.base import Imported, Machines, origins_of, read_text, scenario_data
from euston.scenario.importers.flags import read_flags
from euston.scenario.importers.megatron_model import model_of
from euston.scenario.importers.megatron_stages import stages_of

__all__ = ["from_megatron"]

IGNORED = (
    "lr", "min-lr", "lr-", "weight-decay", "start-weight-decay", "end-weight-decay", "adam-",
    "sgd-", "clip-grad", "init-method", "seed", "data-", "train-", "valid-", "test-data", "split",
    "mock-data", "vocab-file", "merge-file", "tokenizer-", "tiktoken", "num-workers",
    "dataloader-type", "num-dataset", "reset-", "eod-mask", "no-create-attention-mask", "no-mmap",
    "create-attention-mask", "log-", "no-log", "tensorboard", "wandb", "timing-log", "eval-",
    "full-validation", "save", "load", "no-save", "no-load", "finetune", "ckpt-", "dist-ckpt",
    "use-dist-ckpt", "async-save", "use-checkpoint", "use-mp-args", "exit-", "distributed-",
    "local-rank", "master-", "node-rank", "rdzv", "max-restarts", "monitor", "role", "standalone",
    "tee", "redirects", "module", "no-python", "start-method", "use-mcore-models", "use-legacy",
    "use-cpu-initialization", "profile", "use-pytorch-profiler", "record-memory", "memory-snapshot",
    "manual-gc", "empty-unused-memory", "no-masked", "check-for-nan", "no-check-for-nan", "rotary-",
    "use-rotary", "no-rope-fusion", "rope-", "norm-epsilon", "layernorm-epsilon",
    "apply-layernorm-1p", "attention-softmax-in-fp32", "no-async-tensor", "mscale",
    "original-max-position", "beta-", "decoupled-", "override-opt", "use-checkpoint-opt",
    "initial-loss-scale", "loss-scale", "min-loss-scale", "hysteresis", "optimizer",
    "calculate-per-token-loss", "cross-entropy", "moe-router-load-balancing", "moe-aux",
    "moe-z-loss", "moe-router-score", "moe-router-dtype", "moe-router-pre-softmax",
    "moe-router-topk-scaling", "moe-router-bias-update", "moe-per-layer-logging",
    "moe-grouped-gemm", "moe-permute-fusion", "moe-router-fusion", "moe-use-legacy",
    "moe-token-drop-policy", "mtp-loss", "fp8-amax", "fp8-margin", "fp8-interval",
    "fp8-param-gather", "no-fp8-wgrad", "no-bias-", "bias-", "enable-experimental", "export",
    "no-persist-layer-norm", "high-priority", "nccl-", "use-nccl", "sharp", "ddp-",
    "use-ring-exchange", "trust-remote", "enable-one-logger", "no-one-logger", "no-contiguous",
    "te-rng", "inference", "qk-clip", "moe-upcycling", "rerun", "error-injection",
)  # fmt: skip
"""Beginnings of flags that change nothing of a step's time or memory."""

EFFECTIVE = {
    "optimizer-cpu-offload": "states are kept on the accelerator here",
    "cpu-offloading": "activations stay on the accelerator here",
    "rampup-batch-size": "the batch after its growth is imported",
    "use-precision-aware-optimizer": "states are counted as without it",
    "main-params-dtype": "states are counted in FP32",
    "main-grads-dtype": "states are counted as without it",
    "exp-avg-dtype": "states are counted in FP32",
    "exp-avg-sq-dtype": "states are counted in FP32",
    "defer-embedding-wgrad-compute": "embedding gradients are computed in their turn here",
    "delay-wgrad-compute": "weight gradients are computed in their turn here",
    "hybrid-override-pattern": "state-space layers are not imported",
    "hybrid-layer-pattern": "state-space layers are not imported",
    "spec": "layers of a spec of one's own are not imported",
    "yaml-cfg": "the file it names is not read",
}
"""Flags that do change it and have no counterpart; the sentence says what happens instead."""

_RECIPES = {
    "delayed": "fp8",
    "tensorwise": "fp8-current",
    "blockwise": "fp8-block",
    "mxfp8": "mxfp8",
}
_SHARDING = {"no_shard": "none", "optim": "zero1", "optim_grads": "zero2", "optim_grads_params": "zero3"}
_CONTEXT = {"p2p": "ring", "all_gather": "all_gather", "a2a": "ulysses", "a2a+p2p": "ring"}
_ORIGINS = {
    "model.layers": ("num-layers", "encoder-num-layers"),
    "model.hidden": ("hidden-size",),
    "model.heads": ("num-attention-heads",),
    "model.kv_heads": ("num-query-groups", "group-query-attention", "num-attention-heads"),
    "model.head_dim": ("kv-channels", "hidden-size"),
    "model.ffn": ("ffn-hidden-size", "hidden-size"),
    "model.vocab": ("padded-vocab-size", "vocab-size", "tokenizer-type"),
    "model.max_positions": ("max-position-embeddings",),
    "model.window": ("window-size",),
    "model.mixers": ("window-attn-skip-freq", "window-size"),
    "model.prediction_layers": ("mtp-num-layers",),
    "model.first_dense_layers": ("moe-layer-freq",),
    "model.ffns": ("moe-layer-freq",),
    "model.mla": ("multi-latent-attention",),
    "model.mla.query_rank": ("q-lora-rank",),
    "model.mla.kv_rank": ("kv-lora-rank",),
    "model.mla.nope_dim": ("qk-head-dim",),
    "model.mla.rope_dim": ("qk-pos-emb-head-dim",),
    "model.mla.value_dim": ("v-head-dim",),
    "model.moe.experts": ("num-experts",),
    "model.moe.top_k": ("moe-router-topk",),
    "model.moe.ffn": ("moe-ffn-hidden-size", "ffn-hidden-size"),
    "model.moe.shared_ffn": ("moe-shared-expert-intermediate-size",),
    "parallel": ("tensor-model-parallel-size", "pipeline-model-parallel-size", "accelerators"),
    "parallel.tensor": ("tensor-model-parallel-size",),
    "parallel.sequence": ("sequence-parallel",),
    "parallel.context": ("context-parallel-size",),
    "parallel.pipeline": ("pipeline-model-parallel-size",),
    "parallel.data": ("world-size", "nnodes", "nproc-per-node", "accelerators"),
    "parallel.expert": ("expert-model-parallel-size",),
    "parallel.expert_tensor": ("expert-tensor-parallel-size",),
    "parallel.sharding": (
        "data-parallel-sharding-strategy",
        "use-torch-fsdp2",
        "use-distributed-optimizer",
    ),
    "parallel.shard": ("num-distributed-optimizer-instances",),
    "parallel.order": ("use-tp-pp-dp-mapping",),
    "parallel.virtual": (
        "num-layers-per-virtual-pipeline-stage",
        "num-virtual-stages-per-pipeline-rank",
        "pipeline-model-parallel-layout",
    ),
    "stages": (
        "pipeline-model-parallel-layout",
        "decoder-first-pipeline-num-layers",
        "decoder-last-pipeline-num-layers",
        "pipeline-model-parallel-size",
    ),
    "batch.global": ("global-batch-size",),
    "batch.micro": ("micro-batch-size",),
    "batch.sequence": ("seq-length", "encoder-seq-length"),
    "precision": ("fp4-format", "fp8-format", "fp16", "bf16"),
    "recompute": ("recompute-granularity",),
    "recompute_modules": ("recompute-modules",),
    "balance": ("moe-expert-capacity-factor",),
    "overrides.context": ("cp-comm-type",),
    "overrides.tensor_overlap": ("tp-comm-overlap",),
    "overrides.expert_node_limit": ("moe-router-group-topk",),
    "overrides.expert_overlap": ("overlap-moe-expert-parallel-comm",),
    "overrides.cuda_graphs": ("cuda-graph-impl", "enable-cuda-graph"),
}
"""Places of the job that the scenario's own checks may name, and the flags they come from."""
_MODULES = ("core_attn", "layernorm", "mla_up_proj", "moe_act", "mlp")


def from_megatron(arguments: str | Path, machines: Machines | None = None) -> Imported:
    """A Megatron-LM job as a scenario.

    Parameters
    ----------
    arguments : str or Path
        Arguments as text, or the path of a file that holds them (an argument file or a launch script).
    machines : Machines, optional

    Raises
    ------
    ConfigError
        One sentence that names line and flag: unreadable, missing, out of range or contradictory.
    """
    machines = machines or Machines()
    text, source = str(arguments), "arguments"
    if isinstance(arguments, Path) or not text.lstrip().startswith("-"):
        path = Path(arguments)
        text, source = read_text(path, "a list of arguments"), str(path)
    flags, branches = read_flags(text, source)
    args = Arguments(flags, source)
    if not flags:
        raise ConfigError(f"{source}: holds no --flags; give Megatron-LM arguments")
    if branches:
        args.warnings.append("the script has branches; all are read, and the later of two flags counts")
    return _imported(args, machines, Path(source).name if source != "arguments" else "megatron")


def _imported(args: Arguments, machines: Machines, name: str) -> Imported:
    degrees, world, per_host = _degrees(args, machines)
    model = model_of(args, degrees["tensor"])
    micro = args.whole("micro-batch-size")
    # arguments.py: global_batch_size defaults to micro_batch_size * data_parallel_size
    batch = args.whole("global-batch-size", micro * degrees["data"])
    sequence = args.maybe("seq-length") or args.maybe("encoder-seq-length")
    if sequence is None:
        raise ConfigError(f"{args.source}: --seq-length is missing; a training job needs it")
    longest = args.maybe("max-position-embeddings")
    if longest is not None and longest < sequence:  # arguments.py asserts it, whatever the positions are
        raise args.wrong("max-position-embeddings", f"{longest} is less than --seq-length {sequence}")
    virtual, stages = stages_of(args, model["layers"], degrees["pipeline"])
    job: dict[str, Any] = {
        "model": model,
        "parallel": {**degrees, "virtual": virtual},
        "batch": {"global": batch, "micro": micro, "sequence": sequence},
        "precision": _precision(args),
        "software": "mcore-2024",
    }
    if stages is not None and len(set(stages)) > 1:
        job["stages"] = stages
    _check_sequence(args, job)
    job |= _recompute(args, model)
    job["overrides"] = _overrides(args, job)
    if args.number("moe-expert-capacity-factor", 0.0) > 0:
        job["balance"] = {
            "capacity_factor": args.number("moe-expert-capacity-factor", 0.0),
            "pad": args.has("moe-pad-expert-input-to-capacity"),
        }
    _left(args)
    found = Imported(name, warnings=args.warnings)
    found.ignored = [f"--{flag.name}" for flag in args.rest() if _known_idle(flag.name)]
    for flag in args.rest():
        if not _known_idle(flag.name) and flag.name not in EFFECTIVE:
            found.warnings.append(f"--{flag.name} (line {flag.line}): unknown here; left out")
    found.warnings.append(
        f"accelerator {machines.accelerator} and fabric {machines.fabric} are no part of the arguments; "
        "say yours with --accelerator and --fabric"
    )
    found.data = scenario_data(Path(name).stem, job, world, per_host, machines)
    found.origins = origins_of(_ORIGINS, args.said)
    return found


def _degrees(args: Arguments, machines: Machines) -> tuple[dict[str, Any], int, int]:
    """Degrees of parallelism, ranks, and ranks of a host."""
    tensor = args.whole("tensor-model-parallel-size", 1)
    pipeline = args.whole("pipeline-model-parallel-size", 1)
    context = args.whole("context-parallel-size", 1)
    expert = args.whole("expert-model-parallel-size", 1)
    expert_tensor = args.maybe("expert-tensor-parallel-size")
    per_host = machines.per_host or args.maybe("nproc-per-node") or 8
    hosts, each = args.maybe("nnodes"), args.maybe("nproc-per-node")
    model_ranks = tensor * pipeline * context
    launched = machines.accelerators or args.maybe("world-size")
    if launched is None and (hosts or each):
        launched = (hosts or 1) * (each or per_host)
    if launched is None:
        # arguments.py: data_parallel_size = world_size // (tp * pp * cp); experts are dealt out within it
        expert_ranks = expert * (expert_tensor or tensor) * pipeline
        launched = math.lcm(model_ranks, expert_ranks)
        args.warnings.append(
            f"the number of ranks is no part of the arguments: {launched}, the fewest that these degrees "
            "allow, is assumed; say yours with --accelerators"
        )
    if launched % model_ranks:
        raise ConfigError(
            f"{args.source}: {launched} ranks are not a multiple of --tensor-model-parallel-size {tensor} x "
            f"--pipeline-model-parallel-size {pipeline} x --context-parallel-size {context} = {model_ranks}"
        )
    data = launched // model_ranks
    degrees: dict[str, Any] = {
        "tensor": tensor,
        "sequence": args.has("sequence-parallel") and tensor > 1,  # arguments.py switches it off at one rank
        "context": context,
        "pipeline": pipeline,
        "data": data,
        "expert": expert,
        "sharding": _sharding(args),
    }
    if expert_tensor and expert_tensor != tensor:
        degrees["expert_tensor"] = expert_tensor
    instances = args.whole("num-distributed-optimizer-instances", 1)
    if instances > 1 and degrees["sharding"] != "none":
        if data * context % instances:
            raise args.wrong(
                "num-distributed-optimizer-instances",
                f"{instances} does not divide {data * context} ranks",
            )
        degrees["shard"] = data * context // instances
    if args.has("use-tp-pp-dp-mapping"):
        degrees["order"] = "tp-cp-ep-pp-dp"
    return degrees, launched, per_host


def _sharding(args: Arguments) -> str:
    fsdp = args.has("use-megatron-fsdp", "use-custom-fsdp")
    strategy = args.text("data-parallel-sharding-strategy", "no_shard", _SHARDING)
    if args.has("use-torch-fsdp2"):
        return "zero3"
    if fsdp:
        return _SHARDING[strategy]
    return "zero1" if args.has("use-distributed-optimizer") else "none"


def _precision(args: Arguments) -> str:
    fp16, bf16 = args.has("fp16"), args.has("bf16")
    if fp16 and bf16:
        raise ConfigError(f"{args.source}: --fp16 and --bf16 are given together; keep one of them")
    form = args.text("fp8-format", "", ("hybrid", "e4m3"))
    recipe = args.text("fp8-recipe", "delayed", (*_RECIPES, "custom"))
    if args.text("fp4-format", "", ("e2m1",)):
        args.text("fp4-recipe", "nvfp4", ("nvfp4", "custom"))
        return "nvfp4"
    if form:
        if recipe == "custom":
            args.warn("fp8-recipe", "a recipe of one's own is priced as block-scaled FP8")
            return "fp8-block"
        return _RECIPES[recipe]
    if not (fp16 or bf16):
        args.warnings.append("neither --bf16 nor --fp16 is given: Megatron-LM trains in FP32, here in BF16")
    return "fp16" if fp16 else "bf16"


def _check_sequence(args: Arguments, job: dict[str, Any]) -> None:
    data, batch = job["parallel"]["data"], job["batch"]
    if batch["global"] % (batch["micro"] * data):
        raise args.wrong(
            "global-batch-size",
            f"{batch['global']} is not a multiple of --micro-batch-size {batch['micro']} x {data} replicas",
        )


def _recompute(args: Arguments, model: dict[str, Any]) -> dict[str, Any]:
    granularity = args.text("recompute-granularity", "", ("full", "selective"))
    if args.has("recompute-activations") and not granularity:
        granularity = "selective"
    if args.has("checkpoint-activations"):
        granularity = "full"
    modules = args.texts("recompute-modules")
    method = args.text("recompute-method", "uniform", ("uniform", "block"))
    layers = args.maybe("recompute-num-layers", least=0)
    if granularity == "full":
        if method == "block" and layers is not None:
            args.warn("recompute-method", f"block recomputes {layers} layers of a stage, here all layers are")
        elif layers not in (None, 1):
            args.warn("recompute-num-layers", f"{layers} layers are kept together, here each by itself")
        return {"recompute": "full"}
    if granularity != "selective":
        return {"recompute": "none"}
    kept = [name for name in modules if name in _MODULES]
    for name in modules:
        if name not in _MODULES:
            args.warn("recompute-modules", f"{name[:60]} is not recomputed here")
    return {"recompute": "selective", "recompute_modules": kept or ["core_attn"]}


def _overrides(args: Arguments, job: dict[str, Any]) -> dict[str, Any]:
    """What the flags say of the software, whatever the profile's defaults are."""
    virtual, precision = job["parallel"]["virtual"], job["precision"]
    data_overlap = args.has("overlap-grad-reduce")
    gather = args.has("overlap-param-gather")
    if data_overlap != gather and job["parallel"]["sharding"] != "none":
        args.warn(
            "overlap-grad-reduce" if data_overlap else "overlap-param-gather",
            "gradients and parameters overlap together here: "
            + ("both do" if data_overlap else "neither does"),
        )
    args.has("overlap-param-gather-with-optimizer-step", "align-grad-reduce", "no-align-grad-reduce")
    args.has("align-param-gather", "no-align-param-gather", "accumulate-allreduce-grads-in-fp32")
    half = args.has("grad-reduce-in-bf16") and precision != "fp16"
    single = precision != "fp16" or args.has("accumulate-allreduce-grads-in-fp32")
    gradient = "bf16" if half else "fp32" if single else "fp16"
    fused = not args.has("no-gradient-accumulation-fusion")
    accumulation = {
        "bf16": "fused-bf16",
        "fp16": "autograd-fp16",
        "fp32": "fused-fp32" if fused else "unfused-fp32",
    }[gradient]
    dropout = max(args.number("hidden-dropout", 0.1), args.number("attention-dropout", 0.1)) > 0
    found: dict[str, Any] = {
        # arguments.py: sends of stages overlap only in the interleaved schedule
        "p2p_overlap": virtual > 1 and not args.has("no-overlap-p2p-communication"),
        "data_overlap": data_overlap,
        "tensor_overlap": args.has("tp-comm-overlap"),
        "gradient_dtype": gradient,
        "grad_accumulation": accumulation,
        "dropout": dropout,
    }
    args.has("overlap-p2p-communication", "overlap-p2p-communication-warmup-flush")
    backend = args.text("attention-backend", "auto", ("flash", "fused", "unfused", "local", "auto"))
    args.has("use-flash-attn")
    local = args.text("transformer-impl", "transformer_engine") == "local" and not args.has("use-flash-attn")
    if backend in ("unfused", "local") or local:
        found |= {"attention": "unfused", "attention_kernel": "unfused"}
    if job["parallel"]["context"] > 1:
        kind = args.text("cp-comm-type", "p2p", _CONTEXT)
        found["context"] = _CONTEXT[kind]
        if kind == "a2a+p2p":
            args.warn("cp-comm-type", "a2a+p2p is taken as a ring")
    return found | _expert_overrides(args, job) | _graphs(args)


def _expert_overrides(args: Arguments, job: dict[str, Any]) -> dict[str, Any]:
    dispatcher = args.text("moe-token-dispatcher-type", "alltoall", ("allgather", "alltoall", "flex"))
    deep = args.has("moe-enable-deepep") or args.text("moe-flex-dispatcher-backend") == "deepep"
    overlap = args.has("overlap-moe-expert-parallel-comm", "combined-1f1b")
    groups, most = args.maybe("moe-router-num-groups"), args.maybe("moe-router-group-topk")
    args.number("moe-expert-capacity-factor", 0.0)
    args.has("moe-pad-expert-input-to-capacity", "moe-router-force-load-balancing")
    if "moe" not in job["model"]:
        return {}
    if dispatcher == "allgather":
        args.warn("moe-token-dispatcher-type", "allgather is taken as an all-to-all")
    found: dict[str, Any] = {
        "expert_all_to_all": "two_hops" if dispatcher == "flex" or deep else "direct",
        "expert_overlap": overlap,
    }
    if groups and most and most < groups:
        if job["parallel"]["expert"] % groups == 0:
            found["expert_node_limit"] = most
        else:
            args.warn("moe-router-group-topk", "groups of experts that are no groups of ranks limit nothing")
    return found


def _graphs(args: Arguments) -> dict[str, Any]:
    implementation = args.text("cuda-graph-impl", "none", ("none", "local", "transformer_engine"))
    scope = args.texts("cuda-graph-scope")
    old = args.has("enable-cuda-graph", "external-cuda-graph")
    if implementation == "none" and not old:
        return {}
    return {"cuda_graphs": "full" if "full_iteration" in scope else "partial"}


def _left(args: Arguments) -> None:
    """Warnings of flags that matter and have no counterpart."""
    for flag in args.rest():
        if flag.name in EFFECTIVE:
            args.warn(flag.name, EFFECTIVE[flag.name])


def _known_idle(name: str) -> bool:
    return name not in EFFECTIVE and name.startswith(IGNORED)
