"""`reproduce training`: published training runs beside our iteration time, one row per line of data.

Settings that a line leaves empty are guessed, always in the same way, and named in the row: precision bf16;
tp, pp, mbs and vp 1; gbs one micro-batch per replica and stage; recomputation as the software profile's users
run by default; a missing ffn 4 x hidden, vocabulary 50,257, kv_heads as many as heads. The data-parallel
degree is what is left of the accelerators. Software and machines come from ``data/frameworks.toml``. Nothing
is fitted to these rows: they are read here and nowhere else.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from euston import catalog
from euston.assemble import device, fabric
from euston.catalog import Accelerator
from euston.cluster import Site, place
from euston.devices import GPU
from euston.errors import CatalogError, EustonError
from euston.scenario import build
from euston.scenario.fabrics import FabricSection
from euston.scenario.sites import SiteSection
from euston.training import TrainingJob, fits, run_iteration

from ._facts import DATA, Machines
from ._lines import LAYOUTS, Described, describe
from ._study import Study
from .score import Row, report
from .table import Line, read_all

__all__ = ["STUDY", "published_seconds", "run"]

QUANTITY = "seconds_per_iteration"
PACKAGED = tuple(layout.name for layout in LAYOUTS)
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
    """
    del seed
    if data is None:
        lines = [line for name in PACKAGED for line in read_all(DATA / name, LAYOUTS)]
    else:
        lines = read_all(data, LAYOUTS)
    described = [describe(line) for line in lines]  # all input is checked before anything runs
    figures = [_figure(line, job) for line, job in zip(lines, described, strict=True)]
    predictor = _Predictor()
    rows = []
    for i, (line, job, figure) in enumerate(zip(lines, described, figures, strict=True)):
        progress(f"line {i + 1} of {len(lines)}: {line.text('model') or 'gpt'} on {line.text('num_accel')}")
        rows.append(_row(line, job, figure, predictor))
    return report(rows)


STUDY = Study(
    "training",
    "seconds per training iteration of published runs (Megatron-LM, FSDP, torchtitan, MaxText, vTrain, ...)",
    run,
)


class _Predictor:
    """Predicts jobs, with the sites, devices and predictions of one run kept."""

    def __init__(self) -> None:
        self.sites: dict[tuple[Any, ...], Site] = {}
        self.devices: dict[tuple[str, str], GPU] = {}
        self.seconds: dict[tuple[Any, ...], float] = {}

    def site(self, accelerator: Accelerator, world: int, machines: Machines) -> Site:
        per_host = machines.accelerators_per_host
        hosts = -(-world // per_host)
        key = (accelerator.name, hosts, machines)
        if key not in self.sites:
            values = dict(machines.values)
            if "hosts_per_domain" in values:
                values["hosts_per_domain"] = min(values["hosts_per_domain"], hosts)
            section = SiteSection(
                name="site", accelerator=accelerator.name, hosts=hosts, accelerators_per_host=per_host,
                fabric=FabricSection(preset=machines.fabric, **values),
            )  # fmt: skip
            built = fabric(build.fabric_values(section), section, accelerator)
            self.sites[key] = Site("site", accelerator, hosts, per_host, built)
        return self.sites[key]

    def device(self, accelerator: Accelerator, job: TrainingJob) -> GPU:
        key = (accelerator.name, job.software.attention_kernel)
        if key not in self.devices:
            self.devices[key] = device(accelerator, job)
        return self.devices[key]

    def predict(self, job: TrainingJob, accelerator: Accelerator, machines: Machines) -> float:
        """Seconds of one iteration."""
        key = (job, accelerator.name, machines)
        if key not in self.seconds:
            site = self.site(accelerator, job.parallel.world, machines)
            placed = [(job, place(job.parallel, site))]
            iteration = run_iteration(placed, site, [self.device(accelerator, job)])
            self.seconds[key] = iteration.jobs[0].step_time
        return self.seconds[key]


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


def _row(line: Line, described: Described, figure: tuple[float | None, str], predictor: _Predictor) -> Row:
    published, column = figure
    accelerator, reason = _accelerator(line)
    reason = described.reason or reason
    job, ours, note = described.job, None, ""
    if not reason and job is not None and accelerator is not None:
        try:
            ours = predictor.predict(job, accelerator, described.machines)
            held = fits(job, accelerator, advise=False)
            # The published run did run: our memory model is then too strict, not the run impossible.
            note = "" if held.ok else f"predicted although our memory model says it {held.reason}"
        except EustonError as error:
            reason = str(error)
    if published is None:
        missing = "no figure in the line" if not column else f"{column} cannot be turned into seconds"
        reason = "; ".join(filter(None, (missing, reason)))
    suspect = line.text("suspect")
    extra = {
        "model": line.text("model") or "gpt",
        "accelerator": line.text("accelerator"),
        "accelerators": line.whole("num_accel"),
        "from": column,
        "framework": line.text("framework"),
        "software": described.software.name,
        "software_date": described.software.profile.software_date,
        "fabric": described.machines.fabric,
    }
    if suspect:
        extra["suspect"] = suspect
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
