"""`reproduce training`: published training runs beside our iteration time, one row per line of data.

Settings that a line leaves empty are guessed, always in the same way, and named in the row: precision bf16;
tp, pp, mbs and vp 1; gbs one micro-batch per replica and stage; recomputation as the software profile's users
run by default, or the least that fits the accelerator's memory; a missing ffn 4 x hidden, vocabulary 50,257,
kv_heads as many as heads. The data-parallel
degree is what is left of the accelerators. Software and machines come from ``data/frameworks.toml``. Nothing
is fitted to these rows: they are read here and nowhere else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from euston import catalog
from euston.catalog import Accelerator
from euston.devices import GPU
from euston.errors import CatalogError, EustonError
from euston.training import SoftwareProfile, TrainingJob, fits
from euston.training.job import RECOMPUTE, Recompute

from ._facts import DATA
from ._lines import LAYOUTS, VTRAIN, Described, describe
from ._predictor import Predictor
from ._study import Study
from .floor import floor
from .score import Row, report
from .table import Line, read_all

__all__ = ["STUDY", "published_seconds", "run"]

QUANTITY = "seconds_per_iteration"
PACKAGED = tuple(layout.name for layout in LAYOUTS)
#: What is to be reached: median and 90th percentile of the absolute error.
BARS = {
    "tabled dense": (0.08, 0.20), "tabled moe": (0.13, 0.20), "transferred dense": (0.15, 0.35),
    "transferred moe": (0.15, 0.35),
}  # fmt: skip
#: Accelerators with GEMM and attention tables of their own.
TABLED = ("a100-sxm-80gb", "h100-sxm", "h200-sxm")


def run(
    data: Path | None = None, seed: int = 0, progress: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Predict every line of the packaged figures, or of ``data`` in their place.

    Parameters
    ----------
    data : Path, optional
        A CSV of one of the two layouts, or a directory of them.
    seed : int
        Nothing here is random: every accelerator runs at one speed.
    progress : callable
        Told which line is at work.

    Raises
    ------
    ConfigError
        An unknown header, or a malformed value: file, line and column.

    Returns
    -------
    dict
        ``rows``, ``summary``, ``examples``: the rows of well-known runs whose paper leaves a setting out,
        not scored, with what is assumed; and ``floor``: for each accuracy bar the least errors of any
        predictor that is told what the lines say and not the software's release (`studies.floor`).
    """
    del seed
    if data is None:
        lines = [line for name in PACKAGED for line in read_all(DATA / name, LAYOUTS)]
    else:
        lines = read_all(data, LAYOUTS)
    described = [describe(line) for line in lines]  # all input is checked before anything runs
    figures = [_figure(line, job) for line, job in zip(lines, described, strict=True)]
    predictor = Predictor()
    rows = []
    for i, (line, job, figure) in enumerate(zip(lines, described, figures, strict=True)):
        progress(f"line {i + 1} of {len(lines)}: {line.text('model') or 'gpt'} on {line.text('num_accel')}")
        rows.append(_row(line, job, figure, predictor))
    examples = [row.as_dict() for row in rows if row.extra.get("example")]
    found = {**report(rows), "examples": examples, "floor": _floors(lines, described, rows)}
    remarks = _remarks(found)
    if remarks:
        found["summary"]["remarks"] = remarks
    return found


STUDY = Study(
    "training",
    "seconds per training iteration of published runs (Megatron-LM, FSDP, torchtitan, MaxText, vTrain, ...)",
    run,
)


def _facts(line: Line, described: Described) -> Hashable:
    """What a line says of its configuration; not its source, and nothing that we know beside it."""
    job = described.job
    assert job is not None
    said = replace(job, software=SoftwareProfile(), recompute="none", recompute_modules=("core_attn",))
    return line.text("accelerator"), said, line.text("recompute"), line.text("note")


def _floors(lines: Sequence[Line], described: Sequence[Described], rows: Sequence[Row]) -> dict[str, Any]:
    """Bar -> the least errors of any predictor that has one number for equal facts."""
    figures: dict[str, list[tuple[Hashable, float]]] = {}
    for line, job, row in zip(lines, described, rows, strict=True):
        if row.role == "scored" and row.error is not None and row.published and row.extra["bar"]:
            figures.setdefault(row.extra["bar"], []).append((_facts(line, job), row.published))
    return {bar: floor(found).as_dict() for bar, found in figures.items()}


def _remarks(found: dict[str, Any]) -> list[str]:
    """Each bar that is set beside what was reached and what could be."""
    remarks = []
    for bar, (median, p90) in BARS.items():
        least, reached = found["floor"].get(bar), found["summary"]["by"].get("bar", {}).get(bar)
        if least and reached and least["groups"] < least["n"]:
            remarks.append(
                f"{bar}: median {reached['median']:.1%} (bar {median:.0%}), 90th {reached['p90']:.1%} "
                f"(bar {p90:.0%}); {least['n']} lines have {least['groups']} configurations: no predictor "
                f"that is not told the release has a median below {least['median']:.1%} or a 90th below "
                f"{least['p90']:.1%}"
            )
    return remarks


def _least_recompute(job: TrainingJob, accelerator: Accelerator) -> TrainingJob:
    """The job with the least recomputation, from what it has on, that fits; as it is where none does."""
    for choice in RECOMPUTE[RECOMPUTE.index(job.recompute) :]:
        tried = replace(job, recompute=cast(Recompute, choice))
        if fits(tried, accelerator, advise=False).ok:
            return tried
    return job


def _accelerator(line: Line) -> tuple[Accelerator | None, str]:
    try:
        return catalog.accelerator(line.text("accelerator")), ""
    except CatalogError as error:
        return None, str(error)


def _device_class(accelerator: Accelerator | None) -> str:
    """``tabled`` where GEMM and attention tables were measured on this very accelerator."""
    if accelerator is None:
        return "transferred"
    pricer = GPU(accelerator)
    own = pricer.table in TABLED and pricer.gemm_seconds(4096, 8192, 8192)[1] in ("measured", "interpolated")
    return "tabled" if own else "transferred"


#: What may be guessed in rows that an accuracy bar counts.
MAY_BE_GUESSED = {"recompute", "vp"}


def _bar(line: Line, described: Described, accelerator: Accelerator | None) -> str:
    """Which accuracy bar counts a line; "" for lines whose settings are guessed beyond recompute and vp."""
    if not set(described.guessed) <= MAY_BE_GUESSED:
        return ""
    if line.layout == VTRAIN.name:
        return "vtrain"
    return f"{_device_class(accelerator)} {described.model_class}"


def _figure(line: Line, described: Described) -> tuple[float | None, str]:
    """Published seconds per iteration and the column they come from."""
    accelerator, _ = _accelerator(line)
    return published_seconds(line, described, accelerator)


def published_seconds(
    line: Line, described: Described, accelerator: Accelerator | None
) -> tuple[float | None, str]:
    """Seconds per iteration from the first quantity a line has, and that quantity's column.

    Tokens/s turn by the tokens of the global batch; TFLOP/s by the line's own convention of counting FLOPs
    (``flop_convention``: causal, hardware with recomputation, else the full square of attention); MFU also by
    the accelerator's dense 16-bit peak. (None, column) where something for that is missing; (None, "") where
    the line has no quantity.
    """
    values = {
        column: line.number_in(column)
        for column in ("iteration_time_s", "tokens_per_s_per_accel", "model_tflops_per_accel", "mfu_pct")
    }
    column = next((name for name, value in values.items() if value is not None), "")
    if not column:
        return None, ""
    value = values[column]
    assert value is not None
    if column == "iteration_time_s":
        return value, column
    world, sequence, batch = line.whole("num_accel"), line.whole("seq"), described.global_batch
    if not world or not sequence or not batch:
        return None, column
    tokens = batch * sequence / world
    if column == "tokens_per_s_per_accel":
        return tokens / value, column
    if described.model is None:
        return None, column
    rate = value * 1e12
    if column == "mfu_pct":
        peak = accelerator.peak.get("bf16") if accelerator else None
        if not peak:
            return None, column
        rate = value / 100.0 * peak
    return described.model.flops_per_token(sequence, **_convention(line, described)) * tokens / rate, column


def _convention(line: Line, described: Described) -> dict[str, Any]:
    text = line.text("flop_convention").lower()
    if text.startswith("hardware"):
        full = "full" in text or described.job is None
        return {"convention": "hardware", "recompute": "full" if full else described.job.recompute}  # type: ignore[union-attr]
    causal = re.search(r"(?<!non-)(?<!non )\bcausal\b", text)
    return {"convention": "causal" if causal else "full"}


def _row(line: Line, described: Described, figure: tuple[float | None, str], predictor: Predictor) -> Row:
    published, column = figure
    accelerator, reason = _accelerator(line)
    reason = described.reason or reason
    job, note = described.job, ""
    ours: float | None = None
    band: tuple[float, float] | None = None
    if not reason and job is not None and accelerator is not None:
        if "recompute" in described.guessed and not described.software.recompute:
            job = _least_recompute(job, accelerator)
        try:
            predicted = predictor.predict(job, accelerator, described.machines)
            ours, band = predicted.seconds, predicted.band
            held = fits(job, accelerator, advise=False)
            # The published run did run: our memory model is then too strict, not the run impossible.
            note = "" if held.ok else f"predicted although our memory model says it {held.reason}"
        except EustonError as error:
            reason = str(error)
    if published is None:
        missing = "no figure in the line" if not column else f"{column} cannot be turned into seconds"
        reason = "; ".join(filter(None, (missing, reason)))
    suspect = line.text("suspect")
    extra: dict[str, Any] = {
        "model": line.text("model") or "gpt",
        "accelerator": line.text("accelerator"),
        "accelerators": line.whole("num_accel"),
        "from": column,
        "framework": line.text("framework"),
        "software": described.software.name,
        "software_date": described.software.profile.software_date,
        "fabric": described.machines.fabric,
    }
    if described.software.example:
        extra["example"] = described.software.example
    extra["bar"] = _bar(line, described, accelerator)
    if suspect:
        extra["suspect"] = suspect
    if band is not None:
        extra["band"] = list(band)
    if job is not None:
        extra["layout"] = repr(job.parallel)
        extra["recompute"] = job.recompute
    return Row(
        id=f"{Path(line.file).stem}:{line.number}",
        quantity=QUANTITY,
        published=published,
        ours=ours,
        source=line.text("source") or line.file,
        guessed=described.guessed,
        role="suspect" if suspect else "scored",
        reason=reason or note,
        device_class=_device_class(accelerator),
        model_class=described.model_class,
        extra=extra,
    )
