"""`euston transport plan`, `reduce` and `bench`: gradients over networks that lose packets."""

from __future__ import annotations

import math
from dataclasses import asdict, is_dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from euston.cli._out import Json, Quiet, Seed, put, put_json, say, table

if TYPE_CHECKING:
    from euston.collectives.loss import LossModel
    from euston.collectives.runtime import UdpGroup
    from euston.compression import Codec

app = typer.Typer(
    help="Gradients over networks that lose packets: plan, run and measure.", no_args_is_help=True
)

MOST_RANKS = 256
"""Processes of `reduce`."""
CODECS_TRIED = ("fp16", "int8", "eden:4", "eden:1", "thc:4", "quic_fl:4")
Codecs = Annotated[
    list[str] | None,
    typer.Option("--codec", metavar="NAME[:BITS]", help="A codec, e.g. eden:4; may be given twice."),
]


def _codec(text: str, where: str = "--codec") -> Codec:
    """A codec from ``name`` or ``name:bits``."""
    from euston.compression import CODECS
    from euston.errors import BadInput

    name, _, bits = text.partition(":")
    if not bits:
        return CODECS.get(name)()
    try:
        width = float(bits)
    except ValueError:
        raise BadInput(f"`{where}`: {text!r}; write a name and bits, e.g. eden:4") from None
    try:
        return CODECS.get(name)(bits=int(width) if width.is_integer() else width)
    except TypeError:
        raise BadInput(f"`{where}`: {name} has no bits to choose; write {name}") from None


def _size(text: str) -> int:
    from euston.errors import BadInput
    from euston.units import data

    size = int(data(text, where="--size"))
    if size < 4:
        raise BadInput(f"`--size`: {text!r}; a vector of float32 has 4 B at least")
    return size // 4


def _for_workers(codec: Codec, workers: int) -> Codec:
    """The codec with sums that hold so many workers, where it has sums."""
    if not hasattr(codec, "workers") or not is_dataclass(codec):
        return codec
    bits = 8 if workers * getattr(codec, "granularity", 1) < 1 << 8 else 16
    made: Codec = replace(codec, workers=workers, sum_bits=bits)
    return made


@app.command()
def plan(
    size: Annotated[str, typer.Option("--size", help="Bytes of the gradient in float32, e.g. 1.4GB.")],
    workers: Annotated[int, typer.Option("--workers", help="Workers that average.")],
    bandwidth: Annotated[str, typer.Option("--bandwidth", help="A worker's link, e.g. '25 Gb/s'.")],
    codecs: Codecs = None,
    cores: Annotated[float, typer.Option("--cores", help="Cores that code.")] = 1.0,
    error: Annotated[
        float | None, typer.Option("--error", help="Largest error of the mean, relative (vNMSE).")
    ] = None,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Say which codec makes an exchange fastest here, or that none does; codecs are timed on this machine."""
    from euston.collectives.plan import lines, measure_speed
    from euston.collectives.plan import plan as work_out
    from euston.errors import BadInput
    from euston.units import bandwidth as parse_bandwidth

    rate, d = parse_bandwidth(bandwidth, where="--bandwidth"), _size(size)
    if not rate > 0:
        raise BadInput(f"`--bandwidth`: {bandwidth!r} must be more than 0")
    if workers < 2:
        raise BadInput(f"`--workers`: {workers}; an exchange needs 2")
    if not cores > 0 or not math.isfinite(cores):
        raise BadInput(f"`--cores`: {cores:g} must be more than 0")
    if error is not None and not error > 0:
        raise BadInput(f"`--error`: {error:g} must be more than 0, e.g. 0.01")
    made = {text: _for_workers(_codec(text), workers) for text in codecs or CODECS_TRIED}
    say("timing codecs on one core of this machine", quiet=quiet or json_)
    speeds = {name: measure_speed(codec) for name, codec in made.items()}
    advice = work_out(
        d, workers, rate, made, speeds, cores=cores, most_vnmse=math.inf if error is None else error
    )
    text = list(lines(advice, rate))
    if json_:
        put_json(
            {
                "version": 1,
                "best": advice.best,
                "advice": text,
                "rows": advice.table.to_dicts(),
                "speeds": {name: asdict(speed) for name, speed in speeds.items()},
            }
        )
    elif not quiet:
        rows = [
            [
                row["codec"],
                f"{row['ratio']:.3f}",
                f"{row['network_s']:.4g} s",
                f"{row['codec_s']:.4g} s",
                f"{row['seconds']:.4g} s",
                f"{row['speedup']:.2f}x",
                f"{row['vnmse']:.2g}",
                _rate(row["pays_below"]),
            ]
            for row in advice.table.to_dicts()
        ]
        heads = ["codec", "bytes", "network", "coding", "exchange", "speed-up", "error", "pays below"]
        table(heads, rows, right=range(1, len(heads)))
        for line in text:
            put(line)


def _rate(bytes_per_s: float) -> str:
    if bytes_per_s == 0:
        return "never"
    return "always" if math.isinf(bytes_per_s) else f"{bytes_per_s * 8e-9:.3g} Gb/s"


def _exchange(group: UdpGroup, *, d: int, steps: int, seed: int) -> list[dict[str, Any]]:
    """What every rank does: average random vectors; the figures of each step, and how far off it was."""
    import numpy as np

    rows = []
    for step in range(steps):
        drawn = [
            np.random.default_rng([seed, step, r]).standard_normal(d, np.float32) for r in range(group.world)
        ]
        x, mean = drawn[group.rank].copy(), np.mean(drawn, axis=0)
        scale = float(np.mean([v @ v for v in drawn]))
        report = group.all_reduce(x)
        rows.append(
            {
                "step": step,
                "seconds": report.seconds,
                "loss": report.loss,
                "lost_results": report.lost_results,
                "dropped": report.dropped,
                "injected": report.injected,
                "nmse": float(((x - mean) ** 2).sum()) / scale,
                "t_b": report.t_b,
            }
        )
    return rows


@app.command()
def reduce(
    ranks: Annotated[int, typer.Option("--ranks", help="Processes on this machine.")] = 4,
    size: Annotated[str, typer.Option("--size", help="Bytes of the vector, e.g. 16MB.")] = "4MB",
    steps: Annotated[int, typer.Option("--steps", help="Exchanges.")] = 20,
    loss: Annotated[float, typer.Option("--loss", help="Packets lost on arrival, e.g. 0.01.")] = 0.0,
    burst: Annotated[float, typer.Option("--burst", help="Mean length of bursts of losses, packets.")] = 1.0,
    codec: Annotated[str | None, typer.Option("--codec", metavar="NAME[:BITS]", help="e.g. eden:4.")] = None,
    rule: Annotated[str, typer.Option("--rule", help="count, ht, zero, stale or local.")] = "count",
    t_b: Annotated[
        str | None, typer.Option("--bound", help="Hard end of a stage, e.g. '50 ms'; measured unless said.")
    ] = None,
    mtu: Annotated[int, typer.Option("--mtu", help="Bytes of an IP packet.")] = 1500,
    json_: Json = False,
    quiet: Quiet = False,
    seed: Seed = None,
) -> None:
    """Average vectors among processes over real UDP sockets; print times, losses and errors."""
    from euston.collectives.aggregation import AGGREGATION
    from euston.collectives.bounded import Bounded
    from euston.collectives.runtime.local import run_ranks
    from euston.errors import BadInput
    from euston.units import duration

    if ranks < 1 or steps < 1:
        raise BadInput(f"`--ranks`, `--steps`: {ranks} and {steps}; at least 1")
    if ranks > MOST_RANKS:
        raise BadInput(f"`--ranks`: {ranks} processes of one machine; at most {MOST_RANKS}")
    if not 576 <= mtu <= 9216:
        raise BadInput(f"`--mtu`: {mtu} bytes; Ethernet carries 576 to 9216")
    if not burst >= 1:
        raise BadInput(f"`--burst`: {burst:g} packets; at least 1")
    AGGREGATION.get(rule)
    losses, made, d = _losses(loss, burst), None if codec is None else _codec(codec), _size(size)
    bound = None if t_b is None else duration(t_b, where="--bound")
    bounded = Bounded(t_b=bound, warm_up=max(1, min(20, steps // 2)))
    say(f"starting {ranks} processes", quiet=quiet or json_)
    found = run_ranks(
        ranks,
        partial(_exchange, d=d, steps=steps, seed=seed or 0),
        bounded=bounded,
        codec=None if made is None else _for_workers(made, ranks),
        rule=rule,
        loss=losses,
        mtu=mtu,
        seed=seed or 0,
    )
    slowest = [max(rows[k]["seconds"] for rows in found) for k in range(steps)]
    summary = {
        "ranks": ranks,
        "bytes": 4 * d,
        "steps": steps,
        "median_s": sorted(slowest)[steps // 2],
        "p99_s": sorted(slowest)[max(0, math.ceil(0.99 * steps) - 1)],
        "loss": sum(row["loss"] for rows in found for row in rows) / ranks / steps,
        "dropped_by_kernel": max(row["dropped"] for rows in found for row in rows),
        "nmse": sum(row["nmse"] for rows in found for row in rows) / ranks / steps,
        "t_b": found[0][-1]["t_b"],
    }
    if json_:
        put_json({"version": 1, "summary": summary, "ranks": found})
    elif not quiet:
        table(
            ["", ""],
            [[key.replace("_", " "), _figure(key, value)] for key, value in summary.items()],
            right=(1,),
        )


def _figure(key: str, value: float) -> str:
    if key.endswith("_s") or key == "t_b":
        return "measuring" if math.isnan(value) else f"{value * 1e3:.4g} ms"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"


def _losses(loss: float, burst: float) -> LossModel | None:
    from euston.collectives.loss import GilbertElliott, Iid
    from euston.errors import BadInput

    if not 0 <= loss < 1:
        raise BadInput(f"`--loss`: {loss} must be a probability below 1")
    if loss == 0:
        return None
    return Iid(loss) if burst <= 1 else GilbertElliott.of(loss, burst)


@app.command()
def bench(
    codecs: Codecs = None,
    size: Annotated[str, typer.Option("--size", help="Bytes of the vector.")] = "16MB",
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """How fast codecs are on one core of this machine, beside a copy of the same bytes."""
    import time

    import numpy as np

    from euston.collectives.plan import measure_speed

    d = _size(size)
    x, y = np.ones(d, np.float32), np.empty(d, np.float32)
    best = math.inf
    for _ in range(10):
        start = time.perf_counter()
        np.copyto(y, x)
        best = min(best, time.perf_counter() - start)
    copy = 4 * d / best
    rows = []
    for text in codecs or CODECS_TRIED:
        made = _codec(text)
        speed = measure_speed(made, d)
        rows.append(
            {
                "codec": text,
                **asdict(speed),
                "bytes": made.bytes(d) / (4 * d),
                "vnmse": made.expected_vnmse(d),
            }
        )
    if json_:
        put_json({"version": 1, "copy": copy, "rows": rows})
    elif not quiet:
        table(
            ["codec", "encode", "decode", "bytes", "error"],
            [
                [
                    row["codec"],
                    f"{row['encode'] / 1e9:.2f} GB/s",
                    f"{row['decode'] / 1e9:.2f} GB/s",
                    f"{row['bytes']:.3f}",
                    f"{row['vnmse']:.2g}",
                ]
                for row in rows
            ],
            right=range(1, 5),
        )
        put(f"a copy: {copy / 1e9:.1f} GB/s")
