"""All-reduces of gradients by one description, again and again, in either engine: times, shares, bytes.

A worker computes, with a tail; a straggler policy says whom the exchange waits for; the exchange is bounded
and loses packets; or a switch adds. `run_exchanges` is what a scenario's `kind: exchange` runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from euston.collectives.aggregation import AGGREGATION, AggregationRule, Inclusion
from euston.collectives.bounded import Bounded
from euston.collectives.bounded_exchange import simulate_exchanges
from euston.collectives.exchange_error import expected_nmse
from euston.collectives.loss import Iid, LossModel
from euston.collectives.packet_exchange import run_packet_exchanges
from euston.collectives.stragglers import STRAGGLERS, History, StragglerPolicy
from euston.collectives.tail import Tail
from euston.compression import Codec, Fec
from euston.errors import ConfigError
from euston.fabrics import Fabric
from euston.network.packet import PacketSettings
from euston.network.transport.switch_aggregation import SwitchPool, simulate

__all__ = ["ExchangeRuns", "ExchangeSettings", "SwitchSum", "run_exchanges"]

MEASURED = 20
"""Exchanges without loss from which t_B is measured where it is not given, as the runtime does."""
LONG = 1e6
"""Seconds: a bound that ends nothing."""


@dataclass(frozen=True)
class SwitchSum:
    """Sums in a switch.

    Parameters
    ----------
    pool : SwitchPool
    window : int
        Packets that a worker has out.
    rtt : float
        Seconds between a worker and the switch and back.
    least, deadline : int, float
        A slot closes with so many workers, so many seconds after its first packet.
    """

    pool: SwitchPool = field(default_factory=SwitchPool)
    window: int = 256
    rtt: float = 1e-5
    least: int = 0
    deadline: float | None = None


@dataclass(frozen=True, eq=False)
class ExchangeSettings:
    """What is exchanged, and how.

    Parameters
    ----------
    ranks : int
    d : int
        Coordinates of the float32 vector.
    bounded : Bounded
        Without a ``t_b`` it is measured: a percentile of stages without loss.
    codec, rule, straggler, losses, fec
        Policies; plain vectors, `count`, waiting for all, no losses and no parity unless said.
    tail : Tail
        Of transfers, in simulation without packets.
    compute : float
        Median seconds of a worker's computation before each exchange.
    compute_tail : Tail
        Of it.
    micro_batches : int
        Equal parts of the computation, for policies that cut it.
    mtu : int
        Bytes of an IP packet.
    switch : SwitchSum, optional
        Sums in a switch instead of at the ranks.
    """

    ranks: int
    d: int
    bounded: Bounded = field(default_factory=Bounded)
    codec: Codec | None = None
    rule: AggregationRule = field(default_factory=lambda: AGGREGATION.get("count")())
    straggler: StragglerPolicy = field(default_factory=lambda: STRAGGLERS.get("wait")())
    losses: LossModel | None = None
    fec: Fec | None = None
    tail: Tail = field(default_factory=lambda: Tail(1.0))
    compute: float = 0.0
    compute_tail: Tail = field(default_factory=lambda: Tail(1.0))
    micro_batches: int = 1
    mtu: int = 1500
    switch: SwitchSum | None = None


@dataclass(frozen=True, eq=False)
class ExchangeRuns:
    """Exchanges one by one.

    Attributes
    ----------
    table : polars.DataFrame
        exchange, seconds (from the start of the computation), waiting (until the exchange begins), transfer,
        delivered (share of the gradients' packets that got into the means), results (share of the results'
        packets that came), workers (that took part), nmse, payload_bytes, parity_bytes, resent_bytes (of all
        ranks together).
    t_b : float
        The bound; nan for a switch.
    inclusion : float64[n]
        Mean share of each worker's gradients that got into the means.
    """

    table: pl.DataFrame
    t_b: float
    inclusion: NDArray[np.float64]


def run_exchanges(
    settings: ExchangeSettings,
    *,
    network: Literal["fluid", "packet"] = "fluid",
    repeats: int = 100,
    rate: float = 0.0,
    fabric: Fabric | None = None,
    members: Sequence[int] = (),
    packet: PacketSettings | None = None,
    seed: int = 0,
) -> ExchangeRuns:
    """Run exchanges one after the other; each begins when the one before has ended.

    Parameters
    ----------
    network
        "packet" goes through ``fabric`` between ``members`` and sends nothing again; "fluid" knows a rate.
    rate : float
        Bytes/s of every rank's link, each way ("fluid", and a switch).

    Raises
    ------
    ConfigError
        Settings that do not go together.
    """
    s = settings
    _check(s, network, rate, fabric, members)
    waiting, weight = _compute(s, repeats, seed)
    absent = weight == 0
    if s.switch is not None:
        return _through_switch(s, repeats, rate, waiting, seed)
    bounded = s.bounded
    if bounded.t_b is None:
        bounded = replace(bounded, t_b=_measure(s, network, rate, fabric, members, packet, seed))
    if network == "fluid":
        made = simulate_exchanges(
            bounded, ranks=s.ranks, d=s.d, rate=rate, codec=s.codec, tail=s.tail, loss=s.losses or 0.0,
            fec=s.fec, absent=absent, gaps=waiting, steps=repeats, mtu=s.mtu, seed=seed,
        )  # fmt: skip
        transfer, received = made.seconds, made.received.copy()
        payload, parity, resent = made.payload, made.parity, made.resent * s.ranks
    else:
        assert fabric is not None
        one_by_one, _ = run_packet_exchanges(
            bounded, fabric, members, d=s.d, codec=s.codec, steps=repeats, losses=s.losses, fec=s.fec,
            absent=absent, mtu=s.mtu, settings=packet, seed=seed,
        )  # fmt: skip
        transfer = np.array([one.seconds for one in one_by_one])
        received = np.stack([one.received for one in one_by_one])
        payload, parity, resent = one_by_one[0].payload, one_by_one[0].parity, np.zeros(repeats)
    return _table(
        s, bounded.t_b or math.nan, waiting, transfer, received, weight, (payload, parity, resent), seed
    )


def _check(
    s: ExchangeSettings, network: str, rate: float, fabric: Fabric | None, members: Sequence[int]
) -> None:
    if s.ranks < 2 or s.d < s.ranks:
        raise ConfigError(f"`ranks`: {s.ranks} for {s.d} coordinates; at least 2, and a coordinate for each")
    if (network == "fluid" or s.switch is not None) and not rate > 0:
        raise ConfigError(f"`rate`: {rate} B/s; it must be more than 0")
    if network == "packet" and s.switch is None:
        if fabric is None or len(members) != s.ranks:
            raise ConfigError(f"`members`: {len(members)} endpoints of a fabric; {s.ranks} are needed")
        if s.tail.p99_over_p50 > 1:
            raise ConfigError("`tail`: packets make their own; leave it out, or use network fluid")
    if getattr(s.straggler, "stale", False):
        raise ConfigError("`straggler`: late gradients are dropped here; leave out `stale`")
    if s.switch is not None:
        if s.straggler.name != "wait":
            raise ConfigError("`straggler`: a switch closes slots itself; give it `least` and `deadline`")
        for name, given in (("codec", s.codec), ("fec", s.fec)):
            if given is not None:
                raise ConfigError(f"`{name}`: a switch adds plain integers here; leave it out")
        if s.losses is not None and not isinstance(s.losses, Iid):
            raise ConfigError("`losses`: the switch's links lose packets independently; use iid")


def _compute(s: ExchangeSettings, repeats: int, seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """When each exchange begins, float64[repeats]; shares of workers' parts in it, float64[repeats, n]."""
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, 1))))
    history, m = History(s.ranks), s.micro_batches
    waiting, share = np.zeros(repeats), np.ones((repeats, s.ranks))
    for step in range(repeats):
        parts = s.compute / m * s.compute_tail.sample(rng, s.ranks, 1) * np.ones((1, m))
        outcome = s.straggler.step(np.cumsum(parts, axis=1), history.must)
        history.update(outcome, m)
        waiting[step], share[step] = outcome.time, outcome.included / m
    return waiting, share


def _measure(
    s: ExchangeSettings, network: str, rate: float, fabric: Fabric | None, members: Sequence[int],
    packet: PacketSettings | None, seed: int,
) -> float:  # fmt: skip
    """t_B: the percentile of stages that waited for everything, over ranks."""
    free = replace(s.bounded, t_b=LONG)
    if network == "fluid":
        made = simulate_exchanges(
            free, ranks=s.ranks, d=s.d, rate=rate, codec=s.codec, tail=s.tail, fec=s.fec, steps=MEASURED,
            mtu=s.mtu, seed=seed,
        )  # fmt: skip
        stages = made.stages
    else:
        assert fabric is not None
        alone, _ = run_packet_exchanges(
            free, fabric, members, d=s.d, codec=s.codec, fec=s.fec, mtu=s.mtu, settings=packet, seed=seed
        )
        stages = np.stack([alone[0].stages[0], alone[0].stages[1] - alone[0].stages[0]])
    found = float(np.percentile(stages, s.bounded.percentile)) * s.bounded.margin
    # what always takes the same time is not to be cut by the last digit
    return found if s.tail.p99_over_p50 > 1 else max(found, float(stages.max()) * s.bounded.margin * 1.001)


def _table(
    s: ExchangeSettings, t_b: float, waiting: NDArray[np.float64], transfer: NDArray[np.float64],
    received: NDArray[np.float64], weight: NDArray[np.float64],
    sizes: tuple[int, int, NDArray[np.float64]], seed: int,
) -> ExchangeRuns:  # fmt: skip
    n, inclusion, rows = s.ranks, Inclusion(s.ranks), []
    shard, off = -(-s.d // s.ranks), ~np.eye(s.ranks, dtype=bool)
    vnmse = 0.0 if s.codec is None else s.codec.expected_vnmse(shard)
    payload, parity, resent = sizes
    shares = np.zeros((len(received), n))
    for step, seen in enumerate(received):
        present = weight[step] > 0
        seen[0] = np.where(present, seen[0], 0.0)
        error = expected_nmse(s.rule, seen, inclusion.probability, vnmse=vnmse, seed=seed + step)
        shares[step] = seen[0].mean(axis=0)
        inclusion.update((seen[0].sum(axis=0) - present) / (n - 1))
        part = float(present.sum()) / n
        rows.append(
            {
                "exchange": step,
                "seconds": float(waiting[step] + transfer[step]),
                "waiting": float(waiting[step]),
                "transfer": float(transfer[step]),
                "delivered": float((seen[0] * weight[step])[off].mean()),
                "results": float(seen[1][off].mean()),
                "workers": int(present.sum()),
                "nmse": error,
                "payload_bytes": float(payload * n * (1 + part) / 2),
                "parity_bytes": float(parity * n * (1 + part) / 2),
                "resent_bytes": float(resent[step]),
            }
        )
    return ExchangeRuns(pl.DataFrame(rows), t_b, shares.mean(axis=0))


def _through_switch(
    s: ExchangeSettings, repeats: int, rate: float, waiting: NDArray[np.float64], seed: int
) -> ExchangeRuns:
    """Sums in a switch: everybody takes part, each when ready; slots may close early."""
    assert s.switch is not None
    w, n = s.switch, s.ranks
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, 1))))
    loss = 0.0 if s.losses is None else s.losses.rate
    rows: list[dict[str, Any]] = []
    vectors = np.zeros((n, s.d), np.int64)
    for step in range(repeats):
        ready = s.compute * s.compute_tail.sample(rng, n)
        out = simulate(
            vectors, rate=rate, rtt=w.rtt, pool=w.pool, window=w.window, loss=loss, least=w.least,
            deadline=w.deadline, start=ready, seed=seed + step,
        )  # fmt: skip
        came = out.contributors / n
        # the sum over those that came, divided by their number
        error = float((1 / out.contributors - 1 / n).mean())
        rows.append(
            {
                "exchange": step, "seconds": out.time, "waiting": float(waiting[step]),
                "transfer": out.time - float(waiting[step]), "delivered": float(came.mean()),
                "results": 1.0, "workers": n, "nmse": error,
                "payload_bytes": float(2 * 4 * s.d * n), "parity_bytes": 0.0,
                "resent_bytes": float(out.resent * w.pool.packet),
            }
        )  # fmt: skip
    mean = float(np.mean([row["delivered"] for row in rows]))
    return ExchangeRuns(pl.DataFrame(rows), math.nan, np.full(n, mean))
