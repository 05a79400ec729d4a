"""From a line of data to a training job: its words and numbers, what is guessed, what cannot be run."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, cast

from euston import catalog
from euston.cluster import Parallel
from euston.cluster.parallel import Sharding
from euston.errors import CatalogError, ConfigError, EustonError, unknown
from euston.models import RECOMPUTE_MODULES, Transformer
from euston.studies._facts import Machines, Software, machines, software_of
from euston.studies.table import Layout, Line
from euston.training import TrainingJob
from euston.training.job import Precision, Recompute, Schedule
from euston.training.schedule import SCHEDULES

__all__ = ["LAYOUTS", "Described", "describe"]

MEASURED = Layout(
    "training_sim_measured.csv",
    ("model", "seq", "accelerator", "num_accel", "framework", "tp", "pp", "mbs", "gbs"),
    (
        "layers", "hidden", "heads", "kv_heads", "ffn", "vocab", "experts", "topk", "params_b", "precision",
        "vp", "cp", "ep", "dp", "fsdp", "recompute", "iteration_time_s", "tokens_per_s_per_accel",
        "model_tflops_per_accel", "mfu_pct", "hfu_pct", "memory_gib", "flop_convention", "note", "source",
        "suspect",
    ),
)  # fmt: skip
#: Runs of Megatron-DeepSpeed on GPT shapes: no kv_heads, ffn (4 x hidden) or framework.
VTRAIN = Layout(
    "training_sim_vtrain_multi.csv",
    (
        "accelerator", "num_accel", "gbs", "mbs", "hidden", "heads", "layers", "seq", "tp", "dp", "pp",
        "iteration_time_s",
    ),
    ("vocab", "precision", "recompute", "schedule", "params_b", "source", "suspect"),
)  # fmt: skip
LAYOUTS = (MEASURED, VTRAIN)

#: Words for a precision; None: one that is not priced. Megatron-Bridge prints cs for current scaling, mx for
#: microscaling; torchtitan's tensorwise and rowwise scales are found anew each step.
PRECISIONS: dict[str, Precision | None] = {
    "bf16": "bf16", "amp_bf16": "bf16", "fp16": "fp16", "amp_fp16": "fp16", "fp8": "fp8", "amp_fp8": "fp8",
    "fp8-cs": "fp8-current", "fp8-sc": "fp8-block", "fp8-block": "fp8-block", "fp8 tensorwise": "fp8-current",
    "fp8 rowwise": "fp8-current", "fp8-current": "fp8-current", "mxfp8": "mxfp8", "fp8-mx": "mxfp8",
    "nvfp4": "nvfp4", "fp4": "nvfp4", "fp32": None, "tf32": None, "bfloat16": "bf16", "bf16-mixed": "bf16",
    "float16": "fp16", "fp16-mixed": "fp16", "fp8-delayed": "fp8", "fp8-ds": "fp8", "fp8-hybrid": "fp8",
    "fp8_e4m3": "fp8", "fp8_e5m2": "fp8", "float8": "fp8", "fp8-blockwise": "fp8-block",
}  # fmt: skip
#: Words for recomputation and the nearest of ours. MaxText's `minimal` keeps the outputs of weight products
#: and repeats attention and element-wise kernels; `qkv_proj_offloaded` keeps only the projections;
#: torchtitan's per-op policy repeats every other product, of which we count none.
RECOMPUTE: dict[str, Recompute | None] = {
    "none": "none", "none (most)": "none", "no": "none", "false": "none", "0": "none", "full": "full",
    "true": "full", "yes": "full", "1": "full", "selective": "selective",
    "selective+sequence-parallel": "selective",
    "full+sequence-parallel": "full", "none+sequence-parallel": "none", "selective per-op": "selective",
    "selective (norms, mla up-projections)": "selective", "minimal": "selective",
    "qkv_proj_offloaded": "full", **dict.fromkeys(RECOMPUTE_MODULES, "selective"),
}  # fmt: skip
SHARDINGS: dict[str, Sharding] = {
    "zero1": "zero1", "zero2": "zero2", "zero3": "zero3", "full_shard": "zero3", "full_shard pure": "zero3",
    "shard_grad_op": "zero2", "sharded": "zero2", "no_shard": "none", "none": "none", "fsdp": "zero3",
    "fsdp2": "zero3", "hybrid_shard": "zero3", "hsdp": "zero3", "_hybrid_shard_zero2": "zero2",
}  # fmt: skip
#: Those that shard within a host and copy between hosts.
HYBRID = ("hybrid_shard", "hsdp", "_hybrid_shard_zero2")
#: The GPT-2 tokenizer's, where a line gives no vocabulary.
DEFAULT_VOCAB = 50257


@dataclass(frozen=True)
class Described:
    """A line as objects.

    Attributes
    ----------
    model : Transformer or None
        None where its shape is unknown.
    job : TrainingJob or None
        None where it cannot be run; then `reason` says why.
    guessed : tuple of str
        What the line leaves empty, of shape, precision, tp, pp, mbs, gbs, recompute and vp.
    """

    model: Transformer | None
    job: TrainingJob | None
    machines: Machines
    software: Software
    guessed: tuple[str, ...]
    model_class: str
    global_batch: int | None
    reason: str = ""
    note: str = ""


def describe(line: Line) -> Described:
    """Work out the job of a line.

    Raises
    ------
    ConfigError
        A malformed value, with line and column. What is well-formed and cannot be run is a `reason` instead.
    """
    cells = dict(line.cells)
    if line.layout == VTRAIN.name:
        cells.setdefault("framework", "Megatron-DeepSpeed")
    where, facts = machines(cells), software_of(cells)
    moe = _is_moe(line)
    model, shape_guessed = _model(line)
    # Everything is read before anything is refused, so that a malformed cell never hides behind a reason.
    world = _needed(line, "num_accel")
    sequence = _needed(line, "seq")
    tp, pp, mbs, gbs = (line.whole(key) for key in ("tp", "pp", "mbs", "gbs"))
    cp, ep, dp, vp = (line.whole(key) for key in ("cp", "ep", "dp", "vp"))
    precision_word, recompute_word = line.text("precision").lower(), line.text("recompute").lower()
    meant = facts.precision.get(precision_word, precision_word)
    precision = _word(line, "precision", meant, PRECISIONS, "bf16")
    usual = facts.recompute or facts.profile.recompute
    recompute = _word(line, "recompute", recompute_word, RECOMPUTE, usual)
    sharding, degree = _sharding(line, facts.sharding, where.accelerators_per_host)
    schedule = line.text("schedule").lower()
    if not vp and schedule in ("1f1b", "gpipe"):
        vp = 1
    guessed = [
        *shape_guessed,
        *(["precision"] if not precision_word else []),
        *(name for name, value in (("tp", tp), ("pp", pp), ("mbs", mbs), ("gbs", gbs)) if value is None),
        *(["recompute"] if not recompute_word else []),
        *(["vp"] if (pp or 1) > 1 and vp is None else []),
    ]
    tp, pp, cp, ep, mbs = tp or 1, pp or 1, cp or 1, ep or 1, mbs or 1
    if vp is None and pp > 1:
        vp = facts.virtual
    rest = tp * pp * cp
    data = max(1, world // rest)
    reason = _cannot(model, precision_word, precision, recompute_word, recompute)
    if not reason and world % rest:
        reason = f"tp {tp} x pp {pp} x cp {cp} = {rest} does not divide {world} accelerators"
    elif not reason and dp not in (None, data) and dp * (degree or 1) != data:
        reason = f"dp {dp} contradicts {world} accelerators / (tp {tp} x pp {pp} x cp {cp}) = {data}"
    gbs = gbs or data * mbs * pp
    job = None
    if not reason:
        profile = facts.profile
        sequence_parallel = "sequence-parallel" in recompute_word or (
            profile.sequence_parallel and not (facts.sequence == "recompute" and recompute_word)
        )
        assert model is not None and precision is not None
        try:
            job = TrainingJob(
                model,
                Parallel(
                    tensor=tp, sequence=sequence_parallel and tp > 1, pipeline=pp, virtual=vp or 1, data=data,
                    context=cp, expert=ep, sharding=sharding if data * cp > 1 else "none",
                    **_more(tp, ep, degree if sharding != "none" and 1 < degree < data * cp else 0),
                ),
                global_batch=gbs, sequence=sequence, micro_batch=mbs, precision=cast(Precision, precision),
                schedule=_schedule(schedule or facts.schedule, vp or 1),
                recompute=cast(Recompute, recompute), recompute_modules=facts.recompute_modules,
                software=profile, name="job",
            )  # fmt: skip
            job.check(world, where="line")
        except EustonError as error:
            job, reason = None, str(error).replace("`line.", "`")
    return Described(model, job, where, facts, tuple(guessed), "moe" if moe else "dense", gbs, reason)


def _schedule(word: str, virtual: int) -> Schedule:
    if virtual > 1:
        return "interleaved"
    return cast(Schedule, word) if word in SCHEDULES else "1f1b"


def _cannot(
    model: Transformer | None, word: str, precision: str | None, repeated: str, recompute: str | None
) -> str:
    if model is None:
        return "the model's shape is neither in the data nor in the catalogue"
    if precision is None:
        return f"precision {word} is not priced in this version"
    return f"recompute {repeated!r} is no word known here" if recompute is None else ""


def _more(tensor: int, expert: int, shard: int) -> dict[str, Any]:
    """Layout beyond the degrees.

    Experts are not split by tensor parallelism where they are dealt to ranks (Megatron-Bridge's recipes for
    Qwen3 and DeepSeek-V3 set expert_tensor_parallel_size 1); hybrid sharding where the line gives a degree.
    """
    return ({"expert_tensor": 1} if expert > 1 and tensor > 1 else {}) | ({"shard": shard} if shard else {})


def _needed(line: Line, column: str) -> int:
    value = line.whole(column)
    if value is None:
        raise line.error(column, "is empty; it cannot be guessed")
    return value


def _word(line: Line, column: str, word: str, known: dict[str, Any], default: str) -> str | None:
    """The meaning of a word; None for one that means nothing here, and then the line is not covered.

    What follows the first word in brackets is a remark. A word close to a known one is taken for a slip.
    """
    if not word:
        return default
    plain = word if word in known else word.partition("(")[0].strip()
    if plain in known:
        found: str | None = known[plain]
        return found
    if get_close_matches(plain, known, 1, 0.75):
        raise line.error(column, unknown(column, word, known))
    return None


def _sharding(line: Line, default: str, per_host: int) -> tuple[Sharding, int]:
    """What the ``fsdp`` column says: a word, or the degree over which everything is sharded (0: unsaid)."""
    word = line.text("fsdp").lower()
    if not word or word == "0":
        return cast(Sharding, default), 0
    if word.isdigit():
        return "zero3", int(word)
    if word not in SHARDINGS:
        raise line.error("fsdp", unknown("sharding", word, [*SHARDINGS, "64"]))
    return SHARDINGS[word], per_host if word in HYBRID else 0


def _entry(name: str) -> catalog.Entry | None:
    if not name:
        return None
    try:
        return catalog.entry("models", name)
    except CatalogError:
        return None


def _is_moe(line: Line) -> bool:
    entry = _entry(line.text("model"))
    has_experts = (line.whole("experts") or 0) > 1 or (line.whole("ep") or 0) > 1
    return has_experts or (entry is not None and "moe" in entry.values)


def _experts_given(line: Line) -> dict[str, int]:
    found = {"experts": line.whole("experts"), "top_k": line.whole("topk")}
    return {key: value for key, value in found.items() if value is not None}


def _model(line: Line) -> tuple[Transformer | None, tuple[str, ...]]:
    """The model: the line's sizes over those of the catalogue entry of its name, where there is one.

    A name nobody knows gets one of three usual styles, the one whose parameters come closest to ``params_b``
    (without it: gated unless ffn is 4 x hidden).
    """
    keys = ("layers", "hidden", "heads", "kv_heads", "ffn", "vocab")
    given = {key: value for key in keys if (value := line.whole(key)) is not None}
    parameters = line.number_in("params_b")
    name, sequence = line.text("model") or "gpt", line.whole("seq") or 0
    entry = _entry(line.text("model"))
    try:
        if entry is not None:
            values = {**entry.values, **given}
            if "moe" in values:
                values["moe"] = {**values["moe"], **_experts_given(line)}
            if "w/o mtp" in line.text("note").lower():
                values["prediction_layers"] = 0
            if any(key in given and given[key] != entry.values.get(key) for key in ("hidden", "heads")):
                values = {k: v for k, v in values.items() if k != "head_dim"}
                values |= {k: v for k, v in (("kv_heads", 0), ("ffn", 0)) if k not in given}
            if values.get("positions") == "learned":
                values["max_positions"] = max(sequence, values.get("max_positions", 0))
                if entry.name.startswith("mpt-"):  # its table is as long as the sequence trained on
                    values["max_positions"] = sequence
            return Transformer.from_values(entry.name, values), ()
        if not all(key in given for key in ("layers", "hidden", "heads")):
            return None, ("shape",)
        own = ("vocab",) if line.layout == VTRAIN.name else ("kv_heads", "ffn", "vocab")
        guessed = ("shape",) if any(key not in given for key in own) else ()
        sizes: dict[str, Any] = {"vocab": DEFAULT_VOCAB, **given}
        if (line.whole("experts") or 0) > 1:
            # the width of an expert is in no column of its own: that of the line's network is taken for it
            if not {"ffn", "kv_heads"} <= set(given):
                return None, ("shape",)
            experts = {"top_k": 1, **_experts_given(line), "ffn": sizes["ffn"]}
            return Transformer.from_values(name, {**sizes, "moe": experts}), ("shape",)
        gpt = {
            "norm": "layernorm",
            "positions": "learned",
            "max_positions": sequence,
            "biases": True,
            "gated": False,
        }
        styles: list[dict[str, Any]] = [{**gpt, "tied": True}, {**gpt, "tied": False}, {"gated": True}]
        models = [Transformer.from_values(name, {**sizes, **style}) for style in styles]
        if line.layout == VTRAIN.name or (not parameters and sizes.get("ffn", 0) in (0, 4 * sizes["hidden"])):
            return models[0], guessed
        if not parameters:
            return models[2], guessed
        return min(models, key=lambda m: abs(m.parameters() / 1e9 - parameters)), guessed
    except ConfigError as error:
        raise line.error("model", str(error)) from None
