"""`reproduce serving-silicon`: TTFT and TPOT of measured deployments, by one calibration that has not seen
them.

Each line of the table is priced in parts (`euston.studies._silicon`) from kernel tables, and ten coefficients
turn parts into times (`euston.studies._calibration`). A line is predicted with coefficients fitted without
any
line of its model; the summary repeats everything with those fitted without its device, and with formulas
alone
and no coefficients. Only lines with an empty `suspect` count or are fitted on.
"""

from __future__ import annotations

import gzip
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from euston.errors import CatalogError

from ._calibration import NAMES, PLAIN, columns, fit, predict
from ._models import find_model
from ._silicon import LAYOUT, Parts, parts_of
from ._study import Study
from .score import Row, report, summarise
from .table import Line, read_all

__all__ = ["STUDY", "run"]

DATA = Path(__file__).parent / "data" / "inference_sim_silicon_serving.csv.gz"
_A = NDArray[np.float64]


def _packaged() -> list[Line]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / DATA.stem
        path.write_bytes(gzip.decompress(DATA.read_bytes()))
        return read_all(path, (LAYOUT,))


def _measured(line: Line) -> tuple[float, float]:
    """(TTFT, TPOT) in seconds; nan where empty."""
    found = []
    for column in ("ttft_ms", "tpot_ms"):
        value = line.number_in(column)
        found.append(np.nan if value is None else value * 1e-3)
    return found[0], found[1]


class _Set:
    """Lines with their parts, those that have any."""

    def __init__(self, lines: Sequence[Line], provider: str, tell: Callable[[str], None]) -> None:
        self.parts: dict[int, Parts] = {}
        self.reasons: dict[int, str] = {}
        self.lines = list(lines)
        for j, line in enumerate(self.lines):
            if j % 400 == 0:
                tell(f"{provider}: {j} of {len(self.lines)} lines priced")
            found = parts_of(line, provider)
            if isinstance(found, str):
                self.reasons[j] = found
            else:
                self.parts[j] = found
        self.at = sorted(self.parts)
        chosen = [self.lines[j] for j in self.at]
        self.rows = columns(
            [self.parts[j] for j in self.at], [line.text("backend").lower() for line in chosen]
        )
        times = np.array([_measured(line) for line in chosen]).reshape(-1, 2)
        self.ttft, self.tpot = times[:, 0], times[:, 1]
        self.model = np.array([_shape(line) for line in chosen])
        self.device = np.array([line.text("system").lower() for line in chosen])


def _shape(line: Line) -> str:
    """What a model is called whatever its owner, variant or number format."""
    return find_model(line.text("model_path")).name


def run(
    data: Path | None = None, seed: int = 0, progress: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Predict every line without its model, without its device, and by formulas alone.

    Parameters
    ----------
    data : Path, optional
        A CSV of the packaged layout (or a folder of them), to be predicted in place of the packaged lines;
        the calibration is always fitted on these.
    seed : int
        Nothing here is random.
    progress : callable

    Raises
    ------
    ConfigError
        An unknown header, or a malformed value: which line and column.
    """
    packaged = _packaged()
    asked = packaged if data is None else read_all(data, (LAYOUT,))
    for line in asked:  # all input is checked before anything runs
        _measured(line)
    good = [line for line in packaged if not line.text("suspect")]
    wanted = [line for line in asked if not line.text("suspect")]
    known = _Set(good, "tables", progress)
    mine = known if data is None else _Set(wanted, "tables", progress)
    plain = _Set(wanted, "roofline", progress)
    progress("calibrating")
    everything = fit(known.rows, known.ttft, known.tpot)
    without_model = _left_out(known, mine, known.model, mine.model, everything)
    without_device = _left_out(known, mine, known.device, mine.device, everything)
    roofline = predict(PLAIN, plain.rows)
    rows = _rows(mine, without_model, "leave-model-out")
    other = _rows(mine, without_device, "leave-device-out")
    alone = _rows(plain, roofline, "roofline")
    rows += [
        Row(f"{line.file}:{line.number}", "ttft, s", _seconds(line), None, _source(line), role="suspect",
            reason=line.text("suspect"))
        for line in asked if line.text("suspect")
    ]  # fmt: skip
    result = report(rows)
    result["summary"]["by"]["protocol"] = {
        name: {"n": summarise(found)["n"], "by": _groups(found)}
        for name, found in (("leave-model-out", rows), ("leave-device-out", other), ("roofline only", alone))
    }
    result["summary"]["coefficients"] = dict(zip(NAMES, everything.tolist(), strict=True))
    return result


def _seconds(line: Line) -> float | None:
    value = _measured(line)[0]
    return None if np.isnan(value) else value


def _source(line: Line) -> str:
    return line.text("source") or line.file


def _left_out(
    known: _Set, mine: _Set, group: NDArray[Any], own: NDArray[Any], everything: _A
) -> tuple[_A, _A]:
    """Times of every line of `mine`, by coefficients fitted without the group it belongs to."""
    ttft, tpot = np.zeros(len(own)), np.zeros(len(own))
    for value in np.unique(own):
        here, rest = own == value, group != value
        x = everything if rest.all() else fit(known.rows[rest], known.ttft[rest], known.tpot[rest])
        ttft[here], tpot[here] = predict(x, mine.rows[here])
    return ttft, tpot


def _rows(mine: _Set, ours: tuple[_A, _A], protocol: str) -> list[Row]:
    place = {j: k for k, j in enumerate(mine.at)}
    found: list[Row] = []
    for j, line in enumerate(mine.lines):
        k, parts = place.get(j), mine.parts.get(j)
        extra = {
            "protocol": protocol, "model": line.text("model_path"), "system": line.text("system"),
            "backend": line.text("backend"), "mode": line.text("mode"),
            "provenance": [] if parts is None else list(parts.provenance),
        }  # fmt: skip
        for column, quantity, times in (
            ("ttft_ms", "ttft, s", ours[0]), ("tpot_ms", "tpot, s", ours[1]),
        ):  # fmt: skip
            value = line.number_in(column)
            if value is None:
                continue
            found.append(
                Row(
                    f"{line.file}:{line.number}", quantity, value * 1e-3,
                    None if k is None else float(times[k]), _source(line), reason=mine.reasons.get(j, ""),
                    device_class="" if parts is None else "tabled" if parts.tabled else "transferred",
                    model_class=_class(line), extra=extra,
                )
            )  # fmt: skip
    return found


def _class(line: Line) -> str:
    try:
        return "moe" if find_model(line.text("model_path")).moe is not None else "dense"
    except CatalogError:  # an unknown model has no class; the row says why
        return ""


def _groups(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """Summaries per quantity and device class, mode and kind of model."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        if row.role != "scored" or row.ours is None:
            continue
        for key in (row.device_class, str(row.extra["mode"]), row.model_class):
            found.setdefault(f"{row.quantity.split(',')[0]}/{key}", []).append(row)
    return {key: summarise(group) for key, group in sorted(found.items())}


STUDY = Study(
    "serving-silicon",
    "measured TTFT and TPOT of 1,838 deployments, by one calibration that has not seen them",
    run,
)
