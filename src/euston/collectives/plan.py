"""Whether to compress at all: the time of one gradient exchange under each codec, and the bandwidth below
which it pays.

All exchanges are transpose all-reduces: every worker owns a shard, takes it from all others and sends the
result to all. Per worker and direction n-1 of n shards cross the wire, up and down; a shard is::

    plain        sent as it is
    decoding     encoded, decoded n-1 times by its owner, encoded again, decoded by everybody
    summing      encoded, added as codes, decoded once by everybody (THC, in-network aggregation)
    shared       encoded under one rotation: n-1 table look-ups, one inverse rotation (QUIC-FL)
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl

from euston.compression import Codec, StepKey
from euston.errors import ConfigError

__all__ = ["Advice", "Speed", "lines", "measure_speed", "plan"]

Way = Literal["plain", "decoding", "summing", "shared"]

HEADERS = 20 + 28
"""Bytes of a packet that are no payload: our header, UDP and IPv4."""
PACKET = 1500 - HEADERS


@dataclass(frozen=True)
class Speed:
    """How fast a codec is on one core (or on a GPU), in bytes of float32 per second.

    Attributes
    ----------
    encode, decode : float
    unpack : float
        Looking codes up without rotating back; as ``decode`` where nothing is rotated.
    """

    encode: float
    decode: float
    unpack: float

    def __post_init__(self) -> None:
        for name in ("encode", "decode", "unpack"):
            value = getattr(self, name)
            if not (value > 0 and math.isfinite(value)):
                raise ConfigError(f"`speed.{name}`: {value} B/s must be more than 0 and finite")


@dataclass(frozen=True, eq=False)
class Advice:
    """What to do.

    Attributes
    ----------
    table : polars.DataFrame
        One row per codec, fastest first: ``codec, way, bytes_up, bytes_down`` (on the wire, per worker),
        ``ratio`` (of plain), ``network_s, codec_s, seconds, speedup`` (over plain), ``vnmse`` (a bound on
        the mean's error relative to its parts), ``pays_below`` (bandwidth in bytes/s below which it beats
        plain; 0 never) and ``cores_to_win`` (0 where it wins already with those given, -1 where no number
        of cores helps).
    best : str
        The fastest codec within the error allowed; ``none`` says: do not compress here.
    """

    table: pl.DataFrame
    best: str


def measure_speed(codec: Codec, d: int = 1 << 20, *, turns: int = 3) -> Speed:
    """Speed of a codec on this machine, one thread: the best of some turns after one to warm up."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal(d).astype(np.float32)
    best = [math.inf] * 3
    for turn in range(turns + 1):
        start = time.perf_counter()
        payload = codec.encode(x, StepKey(step=turn))
        encoded = time.perf_counter()
        codec.unpack(payload)
        unpacked = time.perf_counter()
        codec.decode(payload)
        decoded = time.perf_counter()
        if turn:
            taken = (encoded - start, decoded - unpacked, unpacked - encoded)
            best = [min(a, b) for a, b in zip(best, taken, strict=True)]
    return Speed(*(4 * d / max(seconds, 1e-9) for seconds in best))


def plan(
    d: int,
    workers: int,
    bandwidth: float,
    codecs: Mapping[str, Codec],
    speeds: Mapping[str, Speed],
    *,
    cores: float = 1.0,
    most_vnmse: float = math.inf,
) -> Advice:
    """Compare codecs for one exchange.

    Parameters
    ----------
    d : int
        Coordinates of the gradient (float32).
    workers : int
    bandwidth : float
        Bytes/s of a worker's link, each direction.
    codecs : mapping of str to Codec
        By the name the answer shall use; ``none`` (plain) is always compared.
    speeds : mapping of str to Speed
        Of the same names, for one core.
    cores : float
        Cores that work on it; coding is taken to scale with them.
    most_vnmse : float
        Largest error of the mean, relative to the mean square of the vectors, that is accepted.

    Raises
    ------
    ConfigError
        Counts or rates out of range, a codec without a speed.
    """
    if d < 1:
        raise ConfigError(f"`size`: {d} coordinates; at least 1")
    if workers < 2:
        raise ConfigError(f"`workers`: {workers}; an exchange needs 2")
    if not (bandwidth > 0 and math.isfinite(bandwidth)):
        raise ConfigError(f"`bandwidth`: {bandwidth} B/s must be more than 0 and finite")
    if not cores > 0:
        raise ConfigError(f"`cores`: {cores} must be more than 0")
    size, share = 4.0 * d, (workers - 1) / workers
    plain = size * (1 + HEADERS / PACKET) * share
    base = 2 * plain / bandwidth
    rows = [_row("none", "plain", plain, plain, plain, bandwidth, 0.0, base, 0.0, cores)]
    for name, codec in codecs.items():
        if name not in speeds:
            raise ConfigError(f"`speeds`: {name} is missing; `measure_speed` finds it")
        up, down, way = _bytes(codec, d)
        work = _work(way, size, share, workers, speeds[name])
        error = codec.expected_vnmse(d) / workers
        if way != "summing":
            error += codec.expected_vnmse(d)  # the mean is coded once more; it is no longer than its parts
        rows.append(_row(name, way, plain, up * share, down * share, bandwidth, work, base, error, cores))
    table = pl.DataFrame(rows).sort("seconds")
    allowed = table.filter(pl.col("vnmse") <= most_vnmse)
    return Advice(table, str(allowed["codec"][0]))


def _bytes(codec: Codec, d: int) -> tuple[float, float, Way]:
    """Wire bytes of the whole vector up and down, and how owners work."""
    layout = codec.layout(d)
    up = float(layout.bytes + HEADERS * layout.packets)
    if codec.summable:
        sums = codec.sum_layout(d)  # type: ignore[attr-defined]
        return up, float(sums.bytes + HEADERS * sums.packets), "summing"
    return up, up, "shared" if getattr(codec, "shared", False) and codec.rotated else "decoding"


def _work(way: Way, size: float, share: float, workers: int, speed: Speed) -> float:
    """Core seconds of coding per worker."""
    encode, decode = size / speed.encode, size / speed.decode
    if way == "summing":
        return encode + decode
    own = encode / workers  # the owner codes its shard of the mean again
    if way == "shared":
        return encode + size * share / speed.unpack + own + decode
    return encode + share * decode + own + decode


def _row(
    name: str,
    way: Way,
    plain: float,
    up: float,
    down: float,
    bandwidth: float,
    work: float,
    base: float,
    vnmse: float,
    cores: float,
) -> dict[str, float | str]:
    network, saved = (up + down) / bandwidth, 2 * plain - up - down
    seconds = network + work / cores
    if name == "none" or saved <= 0:
        pays, wins = 0.0, -1.0 if name != "none" else 0.0
    else:
        pays = saved / (work / cores) if work else math.inf
        wins = 0.0 if seconds < base else float(math.ceil(work / (base - network)))
    return {
        "codec": name,
        "way": way,
        "bytes_up": up,
        "bytes_down": down,
        "ratio": (up + down) / (2 * plain),
        "network_s": network,
        "codec_s": work / cores,
        "seconds": seconds,
        "speedup": base / seconds,
        "vnmse": vnmse,
        "pays_below": pays,
        "cores_to_win": wins,
    }


def lines(advice: Advice, bandwidth: float) -> Sequence[str]:
    """The advice in words, one line each."""
    best = advice.table.row(by_predicate=pl.col("codec") == advice.best, named=True)
    if advice.best == "none":
        others = advice.table.filter((pl.col("codec") != "none") & (pl.col("pays_below") > 0))
        found = ["do not compress here: the plain exchange is the fastest"]
        if others.height:
            first = others.sort("pays_below", descending=True).row(0, named=True)
            found.append(
                f"{first['codec']} pays below {first['pays_below'] * 8e-9:.3g} Gb/s per worker "
                f"(yours: {bandwidth * 8e-9:.3g} Gb/s), or from {first['cores_to_win']:.0f} cores on"
            )
        return found
    return [f"use {advice.best}: {best['speedup']:.2f}x as fast as the plain exchange"]
