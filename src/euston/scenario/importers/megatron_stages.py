"""Layers of the pipeline's stages in Megatron-LM arguments: even, unequal ends, or a layout of letters."""

from __future__ import annotations

import re

from euston.scenario.importers.arguments import Arguments

__all__ = ["stages_of"]

_MOST = 8192


def stages_of(args: Arguments, layers: int, pipeline: int) -> tuple[int, list[int] | None]:
    """Chunks per stage, and layers of every chunk in the model's order (None: one stage).

    Raises
    ------
    ConfigError
        Naming line and flag: layers that do not divide as the flags have it.
    """
    layout = args.text("pipeline-model-parallel-layout")
    per_virtual = args.maybe("num-layers-per-virtual-pipeline-stage")
    given = args.maybe("num-virtual-stages-per-pipeline-rank")
    first = args.maybe("decoder-first-pipeline-num-layers")
    last = args.maybe("decoder-last-pipeline-num-layers")
    embedding = args.has("account-for-embedding-in-pipeline-split")
    loss = args.has("account-for-loss-in-pipeline-split")
    if pipeline == 1:
        return 1, None
    if layout:
        return _layout(args, layout, layers, pipeline)
    if first or last:
        virtual = given or 1
        return virtual, _uneven(args, layers, pipeline, virtual, first, last)
    total = layers + embedding + loss
    if total % pipeline:
        raise args.wrong(
            "num-layers",
            f"{layers}{' with embedding or loss' * (total > layers)} do not divide into {pipeline} stages of "
            "--pipeline-model-parallel-size",
        )
    each = total // pipeline
    if per_virtual:
        if each % per_virtual:
            raise args.wrong(
                "num-layers-per-virtual-pipeline-stage",
                f"{per_virtual} does not divide {each} layers",
            )
        virtual = each // per_virtual
    else:
        virtual = given or 1
    if each % virtual:
        raise args.wrong(
            "num-virtual-stages-per-pipeline-rank", f"{virtual} does not divide the {each} layers of a stage"
        )
    stages = [each // virtual] * (pipeline * virtual)
    stages[0] -= embedding
    stages[-1] -= loss
    return virtual, stages


def _uneven(
    args: Arguments, layers: int, pipeline: int, virtual: int, first: int | None, last: int | None
) -> list[int]:
    """First or last stage with layers of its own, the rest even (transformer_block.py)."""
    middle = layers - (first or 0) - (last or 0)
    among = pipeline - (first is not None) - (last is not None)
    flag = "decoder-first-pipeline-num-layers" if first else "decoder-last-pipeline-num-layers"
    if middle < 0 or (among == 0) != (middle == 0) or (among and middle % among):
        raise args.wrong(flag, f"leaves {middle} layers for {among} stages; they do not divide evenly")
    per_stage = [middle // among if among else 0] * pipeline
    per_stage[0] = first if first is not None else per_stage[0]
    per_stage[-1] = last if last is not None else per_stage[-1]
    for number in per_stage:
        if number % virtual:
            raise args.wrong(
                "num-virtual-stages-per-pipeline-rank", f"{virtual} does not divide a stage's {number} layers"
            )
    return [number // virtual for _ in range(virtual) for number in per_stage]


def _layout(args: Arguments, text: str, layers: int, pipeline: int) -> tuple[int, list[int]]:
    """A layout such as ``Et*3|(tt|)*29,m|L``: stages apart by ``|``, a layer is a ``t``."""
    name = "pipeline-model-parallel-layout"
    flat = re.sub(r"[\s,]", "", text)
    if len(flat) > 1000 or not re.fullmatch(r"[EtmL|()*\d]+", flat):
        raise args.wrong(name, f"{text[:60]!r} is no layout; it holds E, t, m, L, | and *n")
    repeated = re.compile(r"(?:\(([EtmL|]*)\)|([EtmL|]))\*(\d{1,4})")
    while match := repeated.search(flat):
        grown = (match[1] if match[1] is not None else match[2]) * int(match[3])
        flat = flat[: match.start()] + grown + flat[match.end() :]
        if len(flat) > _MOST:
            raise args.wrong(name, "stands for more layers and stages than any model has")
    flat = re.sub(r"[()]", "", flat)
    if re.search(r"[*\d]", flat):
        raise args.wrong(name, f"{text[:60]!r} repeats what is no letter and no group")
    counts = [part.count("t") for part in flat.split("|")]
    if sum(counts) != layers:
        raise args.wrong(name, f"holds {sum(counts)} layers; --num-layers is {layers}")
    if len(counts) % pipeline:
        raise args.wrong(name, f"has {len(counts)} stages, no multiple of the pipeline's {pipeline} ranks")
    return len(counts) // pipeline, counts
