"""`reproduce kernels`: measured kernel times beside ours, for shapes that the fit has not seen.

A quarter of the shapes is left out of every table, the models are fitted on the rest, and the left-out rows
are predicted: GEMMs by (n, k), attention by (query heads, KV heads), encoders by (heads, head size),
collectives and expert exchanges by message size, MoE layers one of their models (hidden, ffn, top-k, experts)
at a time. Where a table has too few shapes (one model's attention) a quarter of its points is left out.
``--data`` takes files of the published layouts, recognised by their header.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from euston.catalog import accelerator
from euston.devices import layouts
from euston.devices._collective import FAMILY as COLLECTIVE
from euston.devices._collective import Curves, share
from euston.devices._library import FAMILIES
from euston.devices._model import Machine, Model, Table, fit
from euston.devices._tables import DATA, ELEMENT_BYTES, PEAK_DTYPE, tabled
from euston.errors import CatalogError, ConfigError

from ._study import Study
from .score import Row, report, summarise

__all__ = ["STUDY", "run"]

#: What a kind of kernel is called in the report, and the columns that make up its shape.
QUANTITIES = {
    "gemm": ("gemm, s", ("n", "k")),
    "prefill": ("attention, s", ("heads", "kv_heads")),
    "decode": ("attention, s", ("heads", "kv_heads")),
    "mla_prefill": ("attention, s", ("heads",)),
    "mla_decode": ("attention, s", ("heads",)),
    "encoder": ("encoder attention, s", ("heads", "head_dim")),
    "mixed": ("mixed attention, s", ("new", "cached", "batch", "context")),
    "moe": ("moe, s", ("shape",)),
    "collective": ("collective, s", ("bytes",)),
    "exchange": ("expert exchange, s", ("tokens",)),
}
#: Fewer shapes than this are not left out whole: a quarter of the points is.
FEW = 4
#: Collectives of clusters (by network, not by accelerator) are a quantity of their own.
CLUSTER = "cluster "


@dataclass(frozen=True)
class Sample:
    """Rows of one table: what they are, where they come from, and the shape each belongs to."""

    kind: str
    device: str
    dtype: str
    columns: dict[str, NDArray[Any]]
    seconds: NDArray[np.float64]
    ids: list[str]
    source: str

    @property
    def name(self) -> str:
        """Kind, device and dtype."""
        return f"{self.kind}/{self.device}/{self.dtype}"

    def shapes(self, columns: Sequence[str]) -> list[tuple[Any, ...]]:
        """The shape of every row."""
        return list(zip(*(self.columns[c].tolist() for c in columns), strict=True))

    def table(self, rows: NDArray[np.bool_]) -> Table:
        """Those rows as a table of numbers."""
        numbers = {k: v[rows] for k, v in self.columns.items() if v.dtype.kind == "f"}
        return Table(numbers, self.seconds[rows])


def run(
    data: Path | None = None, seed: int = 0, progress: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Leave out, refit and predict.

    Parameters
    ----------
    data : Path, optional
        A file of one of the published layouts, or a directory of such, in place of the packaged tables.
    seed : int
        Which quarter is left out.
    progress : callable
        Told which table is at work.

    Raises
    ------
    ConfigError
        An unknown header (the layouts are listed), a malformed number, or a device that is in no catalogue.
    """
    samples = [s for s in (_packaged() if data is None else _given(data)) if len(s.seconds)]
    machines = {s.name: _machine(s) for s in samples}  # all input is checked before anything runs
    rows: list[Row] = []
    groups: dict[str, list[Row]] = {}
    for sample, folds in _split(samples, seed):
        progress(sample.name)
        found = [row for held in folds for row in _predict(sample, machines[sample.name], held)]
        rows += found
        groups.setdefault(sample.name, []).extend(found)
    result = report(rows)
    result["summary"]["by"]["table"] = {name: summarise(found) for name, found in groups.items()}
    result["summary"]["fitted_on"] = int(sum(len(s.seconds) for s in samples))
    return result


STUDY = Study(
    "kernels",
    "measured kernels (GEMM, attention, MoE, collectives) predicted with a quarter of their shapes left out",
    run,
)


def _packaged() -> Iterator[Sample]:
    """The shipped tables, through the same form as a user's file."""
    for name, measured in layouts.packaged(DATA):
        yield from _samples(measured, name)


def _given(data: Path) -> Iterator[Sample]:
    paths = sorted(data.glob("*.csv")) if data.is_dir() else [data]
    if not paths:
        raise ConfigError(f"`{data}`: holds no CSV file")
    for path in paths:
        _, parts = layouts.read(path)
        for part in parts:
            if part.kind in QUANTITIES:
                yield from _samples(part, path.stem)


def _samples(measured: layouts.Measured, file: str) -> Iterator[Sample]:
    keys = ["device", "dtype"]
    if measured.kind in ("collective", "exchange"):
        keys += ["impl", "collective"] if measured.kind == "collective" else ["mode", "step"]
    for key, part in measured.rows.group_by(keys, maintain_order=True):
        columns = {c: part[c].to_numpy() for c in measured.columns}
        columns = {c: v.astype(np.float64) if v.dtype.kind in "iuf" else v for c, v in columns.items()}
        device = "/".join(str(word) for word in (key[0], *key[2:]))
        ids = [f"{file}:{line}" for line in part["line"].to_list()]
        seconds = part["us"].to_numpy().astype(np.float64) * 1e-6
        yield Sample(measured.kind, device, str(key[1]), columns, seconds, ids, str(part["source"][0]))


def _machine(sample: Sample) -> Machine:
    """The device's figures: a tabled one's, else the catalogue's."""
    name = sample.device.split("/")[0]
    dtype = "bf16" if sample.kind not in ("gemm", "moe") else sample.dtype
    plain = PEAK_DTYPE.get(dtype, dtype)
    size = ELEMENT_BYTES.get(dtype)
    if size is None:
        raise ConfigError(
            f"`{sample.ids[0]}`: no known number format {sample.dtype!r}; {', '.join(ELEMENT_BYTES)}"
        )
    known = tabled().get(name)
    if known is not None and plain in known.peak:
        bandwidth = known.scale_up_bandwidth if sample.kind == "collective" else known.memory_bandwidth
        return Machine(known.peak[plain], bandwidth, known.multiprocessors, size)
    if sample.kind in ("collective", "exchange"):  # only a scale for the fitted rate
        return Machine(1.0, 100e9, 1, size)
    try:
        found = accelerator(name)
    except CatalogError as error:
        raise ConfigError(f"`{sample.ids[0]}`: {error}") from None
    if plain not in found.peak:
        raise ConfigError(f"`{sample.ids[0]}`: {name} has no {dtype} arithmetic; {', '.join(found.peak)}")
    return Machine(found.peak[plain], found.memory_bandwidth, found.multiprocessors, size)


def _split(samples: Sequence[Sample], seed: int) -> Iterator[tuple[Sample, list[NDArray[np.bool_]]]]:
    """Which rows of each sample are left out, one mask per refit.

    The shapes of all devices of a kind are shuffled together, so that a shape left out on one device is left
    out on all.
    """
    for kind, (_, columns) in QUANTITIES.items():
        chosen = [s for s in samples if s.kind == kind]
        big = [s for s in chosen if len(set(s.shapes(columns))) >= FEW]
        pool = sorted({shape for s in big for shape in s.shapes(columns)})
        order = np.random.Generator(np.random.Philox(seed)).permutation(len(pool))
        held = {pool[i] for i in order[: max(1, round(len(pool) / 4))]} if pool else set()
        for sample in chosen:
            shapes = sample.shapes(columns)
            if kind == "moe":
                one_by_one = [np.array([shape == left for shape in shapes]) for left in sorted(set(shapes))]
                yield sample, [mask for mask in one_by_one if not mask.all()]
            elif sample in big:
                mask = np.array([shape in held for shape in shapes])
                yield sample, [mask] if mask.any() and not mask.all() else []
            else:
                rng = np.random.Generator(np.random.Philox(seed))
                mask = np.zeros(len(shapes), dtype=np.bool_)
                mask[rng.permutation(len(shapes))[: len(shapes) // 4]] = True
                yield sample, [mask] if mask.any() else []


def _predict(sample: Sample, machine: Machine, held: NDArray[np.bool_]) -> list[Row]:
    quantity, _ = QUANTITIES[sample.kind]
    if sample.device.split("/")[0] not in tabled() and sample.kind == "collective":
        quantity = CLUSTER + quantity
    if sample.kind in ("collective", "exchange"):
        ours, sure = _curves(sample, machine, held)
    else:
        family, _ = FAMILIES[sample.kind]
        kept, asked = sample.table(~held), sample.table(held)
        model = Model(family, machine, fit(family, machine, kept), kept)
        times, how = model.seconds(asked.columns, exact=False)
        ours, sure = times.tolist(), ["interpolated" if h == 1 else "roofline" for h in how.tolist()]
    rows = []
    for i, seconds, provenance in zip(np.nonzero(held)[0].tolist(), ours, sure, strict=True):
        shape = {c: v[i].item() if hasattr(v[i], "item") else v[i] for c, v in sample.columns.items()}
        rows.append(
            Row(
                sample.ids[i], quantity, float(sample.seconds[i]), seconds, sample.source,
                device_class="tabled",
                extra={"table": sample.name, "provenance": provenance, **shape},
            )
        )  # fmt: skip
    return rows


def _curves(
    sample: Sample, machine: Machine, held: NDArray[np.bool_]
) -> tuple[list[float | None], list[str]]:
    """Times by the collectives' curves: of one number of ranks (and of whatever else a table varies)."""
    if sample.kind == "collective":
        collective, along = str(sample.columns["collective"][0]), "bytes"
        others: tuple[str, ...] = ("ranks",)
    else:
        collective, along = "all_to_all", "tokens"
        others = ("ranks", "hidden", "top_k", "experts", "sms")
    ranks, sizes = sample.columns["ranks"], sample.columns[along]
    shares = np.array([share(collective, max(n, 2.0)) for n in ranks])
    if sample.kind == "exchange":  # the bytes of a token are the same for all rows of a curve
        shares = shares * sample.columns["hidden"]
    table = {"share": shares, "ranks": ranks, "bytes": np.maximum(sizes, 1.0)}
    constants = fit(
        COLLECTIVE, machine, Table({k: v[~held] for k, v in table.items()}, sample.seconds[~held])
    )
    keys = np.unique(np.column_stack([sample.columns[c] for c in others]), axis=0, return_inverse=True)[
        1
    ].ravel()
    ours: list[float | None] = [None] * len(held)
    for key in np.unique(keys):
        here = keys == key
        known = here & ~held
        if not known.any():
            continue
        curve = Curves(
            machine, constants, Table({k: v[known] for k, v in table.items()}, sample.seconds[known])
        )
        asked = np.nonzero(here & held)[0]
        times = curve.at({k: v[asked] for k, v in table.items()})
        for i, seconds in zip(asked.tolist(), times.tolist(), strict=True):
            ours[i] = seconds
    picked = [ours[i] for i in np.nonzero(held)[0].tolist()]
    return picked, ["interpolated"] * len(picked)
