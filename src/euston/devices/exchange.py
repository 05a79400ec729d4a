"""Dispatch and combine of expert parallelism: measured all-to-alls, else a latency and a rate.

Tables: DeepEP's normal kernels (training, prefill) and low-latency ones (decode) on Hopper, 8 to 64 ranks,
and NVLink's two-sided all-to-all of an NVL72, 2 to 64 ranks. Times are
measured and interpolated in tokens and ranks.
"""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from euston.devices import _tables
from euston.devices._field import Array
from euston.devices.base import Provenance
from euston.errors import ConfigError, unknown

if TYPE_CHECKING:
    from euston.catalog import Accelerator

__all__ = ["MODES", "STEPS", "Exchange", "exchange"]

Mode = Literal["normal", "low_latency", "two-sided"]
Step = Literal["dispatch", "combine"]
MODES = ("normal", "low_latency", "two-sided")
STEPS = ("dispatch", "combine")
#: Element sizes on the wire: dispatch in FP8 with FP32 scales per 128, combine in BF16 (DeepEP's README).
WIRE = {"dispatch": 1.0 + 4 / 128, "combine": 2.0}
#: Nodes a token's copies may go to with node-limited routing (DeepSeek-V3, arXiv:2412.19437, section 2.1.2).
NODES = 4
#: Multiprocessors DeepEP's normal kernels are given by default (its README).
SMS = 20.0
#: Without a table: start of an exchange and the share of the link it reaches; assumed, typical of the tables.
LATENCY, SHARE = 20e-6, 0.6
#: Accelerators of a host of the DeepEP tables.
HOST = 8


class Exchange(NamedTuple):
    """Seconds of one exchange, the bytes a rank sends, and how sure the time is."""

    seconds: float
    wire_bytes: float
    provenance: Provenance


@cache
def _curves() -> dict[tuple[str, str, str], dict[tuple[float, int, float, float], tuple[Array, Array]]]:
    """(device, mode, step) -> (sms, ranks, hidden, top-k) -> (log tokens, log seconds)."""
    found: dict[tuple[str, str, str], dict[tuple[float, int, float, float], tuple[Array, Array]]] = {}
    for row in _tables.rows("exchange.csv"):
        if row["step"] not in STEPS or (row["mode"] == "two-sided" and row["dtype"] != "fp8"):
            continue
        pairs = sorted((float(key), float(us) * 1e-6) for key, us in row.items() if key.isdigit() and us)
        tokens, seconds = np.log(np.array(pairs)).T
        shape = float(row["sms"]), int(float(row["ranks"])), float(row["hidden"]), float(row["top_k"])
        # the model with fewest experts stands for its shape: their number matters less than 5 %
        found.setdefault((row["device"], row["mode"], row["step"]), {}).setdefault(shape, (tokens, seconds))
    return found


def copies(top_k: int, ranks: int, host: int = HOST) -> float:
    """Copies of a token that leave its rank: one per chosen rank, at most `NODES` hosts among several."""
    # choosing top_k of many experts spread over the ranks: expected number of different ones
    distinct = ranks * (1.0 - (1.0 - 1.0 / ranks) ** top_k)
    hosts = math.ceil(ranks / host)
    if hosts == 1:
        return distinct * (ranks - 1) / ranks
    return min(hosts * (1.0 - (1.0 - 1.0 / hosts) ** top_k), float(NODES))


def exchange(
    accelerator: Accelerator,
    step: Step,
    mode: Mode,
    ranks: int,
    tokens: float,
    hidden: int,
    top_k: int,
    *,
    bandwidth: float | None = None,
) -> Exchange:
    """Time of dispatching or combining a rank's tokens among `ranks` that share the experts.

    Parameters
    ----------
    tokens
        Of one rank.
    bandwidth
        Bytes/s per rank and direction of the link that binds, where no table applies; the scale-up link's
        where absent.

    Raises
    ------
    ConfigError
        Unknown mode or step, or sizes that are no sizes.
    """
    if step not in STEPS:
        raise ConfigError(unknown("step", step, STEPS))
    if mode not in MODES:
        raise ConfigError(unknown("mode", mode, MODES))
    if ranks < 1 or not (math.isfinite(tokens) and tokens >= 0 and hidden > 0 and top_k > 0):
        raise ConfigError(
            f"`exchange`: {ranks} ranks, {tokens} tokens, hidden {hidden}, top-k {top_k}; "
            "all but tokens must be positive"
        )
    wire = tokens * hidden * WIRE[step] * copies(top_k, ranks)
    if ranks == 1 or tokens == 0:
        return Exchange(0.0, 0.0 if ranks == 1 else wire, "measured")
    table, how = _tables.nearest_table(accelerator)
    device = table.name if table is not None else ""
    curves = _curves().get((device, mode, step))
    if curves is None:
        rate = SHARE * (bandwidth or accelerator.scale_up_bandwidth)
        return Exchange(LATENCY + wire / rate, wire, "roofline")
    seconds, provenance = _interpolated(curves, ranks, tokens, hidden, top_k)
    if how != "measured" and provenance != "roofline":
        provenance = "transferred"
    return Exchange(seconds, wire, provenance)


def _interpolated(
    curves: dict[tuple[float, int, float, float], tuple[Array, Array]],
    ranks: int,
    tokens: float,
    hidden: int,
    top_k: int,
) -> tuple[float, Provenance]:
    """Between the two measured numbers of ranks around the asked one, in their logs."""
    sms = min({shape[0] for shape in curves}, key=lambda s: abs(s - SMS))
    near = min(
        {shape[2:] for shape in curves if shape[0] == sms},
        key=lambda s: (abs(math.log(s[0] / hidden)), abs(s[1] - top_k)),
    )
    known = sorted(shape[1] for shape in curves if shape[0] == sms and shape[2:] == near)
    low = max((n for n in known if n <= ranks), default=known[0])
    high = min((n for n in known if n >= ranks), default=known[-1])
    values = []
    # a token of another width or number of copies is as many bytes
    scale = hidden / near[0] * copies(top_k, ranks) / copies(int(near[1]), ranks)
    at, inside, exact = math.log(tokens * scale), low <= ranks <= high, False
    for n in (low, high):
        sizes, times = curves[sms, n, near[0], near[1]]
        inside = inside and bool(sizes[0] - 1e-9 <= at <= sizes[-1] + 1e-9)
        exact = low == high and bool(np.isclose(sizes, at, atol=1e-9).any())
        value = float(np.interp(at, sizes, times))
        if at > sizes[-1]:  # beyond the last size the last rate holds
            value += at - float(sizes[-1])
        values.append(value)
    part = 0.0 if low == high else math.log(ranks / low) / math.log(high / low)
    seconds = math.exp((1 - part) * values[0] + part * values[1])
    if ranks > known[-1]:  # assumed: a tenth more per doubling, as between the largest measured ones
        seconds *= 1.0 + 0.1 * math.log2(ranks / known[-1])
    plain = abs(scale - 1.0) < 1e-9
    if not inside:
        return seconds, "roofline"
    return seconds, "measured" if exact and plain else "interpolated" if plain else "transferred"
