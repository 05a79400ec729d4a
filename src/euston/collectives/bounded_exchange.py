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

from euston.collectives._bounded_events import Link, Run
from euston.collectives.aggregation import Inclusion
from euston.collectives.bounded import Bounded, Timeouts
from euston.collectives.loss import LossModel
from euston.collectives.tail import Tail
from euston.compression import Codec, Fec
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
        From when the last rank was done with one exchange to when it was with the next.
    stages : float64[steps, 2, n]
        Seconds of each stage at each rank.
    received : float64[steps, 2, n, n]
        Share of each sender's packets that each receiver had: ``[step, stage, receiver, sender]``.
    inclusion : float64[n]
        Probability that a packet of each sender gets into the mean, as estimated at the end.
    bytes : int
        On the wire, per rank and direction of one exchange, without what is sent again.
    payload, parity : int
        Of them, bytes that are the vector or its code, and bytes of parity with their headers.
    resent : float64[steps]
        Bytes sent again, per rank, in the mean.
    """

    seconds: NDArray[np.float64]
    stages: NDArray[np.float64]
    received: NDArray[np.float64]
    inclusion: NDArray[np.float64]
    bytes: int
    payload: int
    parity: int
    resent: NDArray[np.float64]


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
    loss: float | LossModel = 0.0,
    fec: Fec | None = None,
    absent: NDArray[np.bool_] | None = None,
    gaps: NDArray[np.float64] | None = None,
    steps: int = 1,
    mtu: int = 1500,
    packet_cost: float = 0.0,
    overhead: float = 0.0,
    together: bool = True,
    seed: int = 0,
) -> Exchanges:
    """Run exchanges of a vector of d coordinates.

    Parameters
    ----------
    bounded : Bounded
        With a ``t_b``: nothing is measured here.
    rate : float
        Bytes/s at which a rank sends and receives.
    loss : float or LossModel
        Probability with which a packet is lost, independently; or how packets are lost, one process per pair.
    fec : Fec, optional
        Parity behind every shard; what it restores counts as received.
    absent : bool[steps, ranks], optional
        Ranks whose parts are left out of an exchange: nobody waits for them.
    gaps : float64[steps], optional
        Seconds of computation before each exchange, in which links drain; they count in no time.
    packet_cost : float
        Seconds that a packet takes beside its bytes.
    overhead : float
        Seconds that a rank works on an exchange before it sends.
    together : bool
        Ranks begin every exchange at the same time; otherwise each begins when it has ended the one before.

    Raises
    ------
    ConfigError
        No t_B, fewer than two ranks, a rate or a loss out of range.
    """
    if bounded.t_b is None:
        raise ConfigError("`t_b`: missing; the simulator does not measure it, the runtime's report has it")
    if ranks < 2 or d < ranks:
        raise ConfigError(f"`ranks`: {ranks} for {d} coordinates; at least 2, and a coordinate for each")
    share = loss if isinstance(loss, int | float) else loss.rate
    if not (rate > 0 and 0 <= share < 1):
        raise ConfigError(f"`rate`: {rate} B/s and a loss of {share}; above 0, and a probability below 1")
    if absent is not None and absent.shape != (steps, ranks):
        raise ConfigError(f"`absent`: shape {absent.shape}; {(steps, ranks)} would be right")
    if gaps is not None and (gaps.shape != (steps,) or not (gaps >= 0).all()):
        raise ConfigError(f"`gaps`: {gaps}; {steps} times of 0 s or more would be right")
    shard = -(-d // ranks)
    if codec is None:
        payload = mtu - HEADERS
        packets, size = -(-4 * shard // payload), 4 * shard
    else:
        layout = codec.layout(shard)
        packets, size = layout.packets, layout.bytes
    payload, size = size, size + HEADERS * packets
    model = None if isinstance(loss, int | float) else loss
    link = Link(
        packets, size / rate + packets * packet_cost, overhead, tail or Tail(1.0), share, model, fec
    )  # fmt: skip
    parity = round(size / packets * link.parity)
    made = Run(bounded, ranks, steps, link, together=together, seed=seed, absent=absent, gaps=gaps)
    inclusion = Inclusion(ranks)
    made.run()
    for received in made.received[:, 0]:
        inclusion.update((received.sum(axis=0) - 1) / (ranks - 1))
    before = np.concatenate(([0.0], made.ends.max(axis=1)[:-1])) + made.gaps
    seconds = made.ends.max(axis=1) - before
    times = 2 * (ranks - 1)
    return Exchanges(
        seconds, made.seconds, made.received, inclusion.probability, times * (size + parity),
        times * payload, times * parity, np.asarray(made.resent * (size / packets / ranks)),
    )  # fmt: skip
