"""A transpose all-reduce with bounded stages in simulated time, by the runtime's own policy objects.

Every receiver takes its n-1 shards one after the other at its link's rate, each slower by a factor of its
own (`Tail`), and loses packets independently. `Timeouts` says when a stage is over, as it does for sockets;
a codec's layout gives bytes and packets; `Inclusion` learns who arrives. Link shares of other traffic come
from the network's engines: give the rate that they leave, or run the flows in the packet engine under the
transport that `as_transport` makes of the same bounds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from euston.collectives.aggregation import Inclusion
from euston.collectives.bounded import Bounded, Timeouts
from euston.collectives.tail import Tail
from euston.compression import Codec
from euston.errors import ConfigError
from euston.network.transport.lossy import Lossy

__all__ = ["Exchanges", "as_transport", "simulate_exchanges"]

HEADERS = 32 + 28
"""Bytes of a packet that are no payload: the runtime's header, UDP and IPv4."""


@dataclass(frozen=True, eq=False)
class Exchanges:
    """What a number of exchanges were like.

    Attributes
    ----------
    seconds : float64[steps]
        Until the last rank was done.
    stages : float64[steps, 2, n]
        Seconds of each stage at each rank.
    received : float64[steps, 2, n, n]
        Share of each sender's packets that each receiver had: ``[step, stage, receiver, sender]``.
    inclusion : float64[n]
        Probability that a packet of each sender gets into the mean, as estimated at the end.
    bytes : int
        On the wire, per rank and direction of one exchange, without what is sent again.
    """

    seconds: NDArray[np.float64]
    stages: NDArray[np.float64]
    received: NDArray[np.float64]
    inclusion: NDArray[np.float64]
    bytes: int


def as_transport(timeouts: Timeouts, *, mtu: int = 1500) -> Lossy:
    """The packet engine's transport with these bounds: t_B as deadline, the idle time as silence."""
    silence = timeouts.silence
    return Lossy(
        mtu=mtu, header=HEADERS, deadline=timeouts.t_b, silence=None if math.isinf(silence) else silence
    )


def simulate_exchanges(
    bounded: Bounded,
    *,
    ranks: int,
    d: int,
    rate: float,
    codec: Codec | None = None,
    tail: Tail | None = None,
    loss: float = 0.0,
    steps: int = 1,
    mtu: int = 1500,
    seed: int = 0,
) -> Exchanges:
    """Run exchanges of a vector of d coordinates.

    Parameters
    ----------
    bounded : Bounded
        With a ``t_b``: nothing is measured here.
    rate : float
        Bytes/s at which a rank sends and receives.
    loss : float
        Probability with which a packet is lost.

    Raises
    ------
    ConfigError
        No t_B, fewer than two ranks, a rate or a loss out of range.
    """
    if bounded.t_b is None:
        raise ConfigError("`t_b`: missing; the simulator does not measure it, the runtime's report has it")
    if ranks < 2 or d < ranks:
        raise ConfigError(f"`ranks`: {ranks} for {d} coordinates; at least 2, and a coordinate for each")
    if not (rate > 0 and 0 <= loss < 1):
        raise ConfigError(f"`rate`: {rate} B/s and a loss of {loss}; above 0, and a probability below 1")
    shard = -(-d // ranks)
    if codec is None:
        payload = mtu - HEADERS
        packets, size = -(-4 * shard // payload), 4 * shard
    else:
        layout = codec.layout(shard)
        packets, size = layout.packets, layout.bytes
    size += HEADERS * packets
    rng = np.random.Generator(np.random.Philox(seed))
    tail = tail or Tail(1.0)
    limits, inclusion = [Timeouts(bounded) for _ in range(ranks)], Inclusion(ranks)
    stages, received = np.zeros((steps, 2, ranks)), np.ones((steps, 2, ranks, ranks))
    for step in range(steps):
        begun = np.zeros(ranks)
        for stage in range(2):
            took = size / rate * tail.sample(rng, ranks, ranks - 1)
            ends = np.cumsum(took, axis=1)
            # results come no earlier than their owners have them
            others = np.array([[s for s in range(ranks) if s != r] for r in range(ranks)])
            ready = np.sort(begun[others] - begun[:, None], axis=1).clip(min=0)
            ends = np.maximum.accumulate(np.maximum(ends, ready + took), axis=1)
            lost = rng.binomial(packets, loss, (ranks, ranks - 1))
            for r in range(ranks):
                again = stage == 1 and bounded.repair == "nack"
                seconds, came = _stage(limits[r], ends[r], took[r], lost[r], packets, again, loss, rng)
                stages[step, stage, r] = seconds
                received[step, stage, r, others[r]] = came
                whole = bool((came >= 1).all())
                limits[r].stage(seconds if whole else float(min(ends[r, -1], seconds)), float(came.mean()))
            begun = begun + stages[step, stage]
        inclusion.update((received[step, 0].sum(axis=0) - 1) / (ranks - 1))
    total = stages.sum(axis=1).max(axis=1)
    return Exchanges(total, stages, received, inclusion.probability, 2 * (ranks - 1) * size)


def _stage(
    limit: Timeouts, ends: NDArray[np.float64], took: NDArray[np.float64], lost: NDArray[np.int64],
    packets: int, repair: bool, loss: float, rng: np.random.Generator,
) -> tuple[float, NDArray[np.float64]]:  # fmt: skip
    """One receiver's stage: seconds, and the share of each sender's packets, float64[n - 1]."""
    t_b = limit.t_b or math.inf
    last = float(ends[-1])
    # in flight at the deadline: a transfer has delivered the part of it that it had time for
    part = np.clip((t_b - (ends - took)) / took, 0.0, 1.0)
    if not lost.any():
        return min(last, t_b), part
    # nobody may stop early before the first whole stage has told what one takes
    over = last + limit.idle
    if repair and over < t_b:
        missing = rng.binomial(lost, loss)
        back = over + float((took * lost).sum()) / packets
        if back <= t_b:
            lost = missing
            over = back + (limit.idle if missing.any() else 0.0)
    return min(over, t_b), part * (1.0 - lost / packets)
