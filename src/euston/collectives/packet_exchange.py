"""A transpose all-reduce with bounded stages, packet by packet through a fabric's switches.

The same `Bounded`, `Timeouts`, `Inclusion` and codec layouts as the runtime's and `bounded_exchange`'s, under
the transport that `as_transport` makes of them: packets that queues drop stay lost, a receiver closes a
message at t_B or when nothing comes any more, and its share of the result goes out when all its messages are
closed. Which packets came stands in masks that the codec's `decode` takes. Missing results are not asked for
again here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from euston.collectives.aggregation import Inclusion
from euston.collectives.bounded import Bounded, Timeouts
from euston.collectives.bounded_exchange import HEADERS, as_transport
from euston.compression import Codec
from euston.errors import ConfigError
from euston.fabrics import Fabric
from euston.network.flows import FlowResult, Flows
from euston.network.packet import PacketSettings, run_packets

__all__ = ["PacketExchange", "run_packet_exchanges"]


@dataclass(frozen=True, eq=False)
class PacketExchange:
    """What one exchange was like.

    Attributes
    ----------
    seconds : float
        Until the last receiver closed its last message.
    stages : float64[2, n]
        When each rank's stages were over, from the exchange's start.
    masks : dict
        ``(stage, receiver, sender)``: bool[packets], which of the codec's packets came.
    received : float64[2, n, n]
        Their shares, ``[stage, receiver, sender]``; 1 on the diagonal.
    closed_by : dict
        How many messages were closed for which reason.
    drops : int
        Packets of all flows that queues dropped.
    missing_bytes : int
        Payload of this exchange that never came.
    result : FlowResult
        The engine's result with all flows, the exchange's first.
    """

    seconds: float
    stages: NDArray[np.float64]
    masks: dict[tuple[int, int, int], NDArray[np.bool_]]
    received: NDArray[np.float64]
    closed_by: dict[str, int]
    drops: int
    missing_bytes: int
    result: FlowResult


def run_packet_exchanges(
    bounded: Bounded,
    fabric: Fabric,
    members: Sequence[int],
    *,
    d: int,
    codec: Codec | None = None,
    steps: int = 1,
    background: Flows | None = None,
    mtu: int = 1500,
    settings: PacketSettings | None = None,
    seed: int = 0,
) -> tuple[list[PacketExchange], NDArray[np.float64]]:
    """Run exchanges of a vector of d coordinates between endpoints of a fabric, one after the other.

    Parameters
    ----------
    bounded : Bounded
        With a ``t_b``: nothing is measured here.
    members : sequence of int
        Endpoints of the ranks, all different.
    background : Flows, optional
        Messages of others that begin with each exchange. One transport serves all flows of a run: they are
        datagrams, too.
    settings : PacketSettings, optional
        Queues that drop unless said.

    Returns
    -------
    (exchanges, inclusion)
        Inclusion: float64[n], probability that a packet of each sender gets into the mean, as estimated.

    Raises
    ------
    ConfigError
        No t_B, fewer than two different members, fewer coordinates than ranks.
    """
    n = len(members)
    if bounded.t_b is None:
        raise ConfigError("`t_b`: missing; the simulator does not measure it, the runtime's report has it")
    if n < 2 or len(set(members)) < n:
        raise ConfigError(f"`members`: {list(members)}; at least two endpoints, all different")
    if d < n:
        raise ConfigError(f"`d`: {d} coordinates for {n} ranks; a coordinate for each at least")
    shard = -(-d // n)
    payload = mtu - HEADERS
    if codec is None:
        places = np.minimum(np.arange(-(-4 * shard // payload) + 1) * payload, 4 * shard)
    else:
        places = np.asarray(codec.layout(shard).ptr)
    settings = settings or PacketSettings(trimming=False)
    limits, inclusion, made = Timeouts(bounded), Inclusion(n), []
    pairs = [(s, (s + k) % n) for s in range(n) for k in range(1, n)]
    into = [[i for i, (_, r) in enumerate(pairs) if r == rank] for rank in range(n)]
    flows = _flows(pairs, into, members, int(places[-1]), background)
    for step in range(steps):
        transport = as_transport(limits, mtu=mtu)
        result = run_packets(flows, fabric, transport=transport, settings=settings, seed=seed + step)
        one = _read(result, pairs, into, places)
        off = ~np.eye(n, dtype=bool)
        for stage in range(2):
            begun = one.stages[0] if stage else np.zeros(n)
            share = float(one.received[stage][off].mean())
            limits.stage(float(np.median(one.stages[stage] - begun)), share)
        inclusion.update((one.received[0].sum(axis=0) - 1) / (n - 1))
        made.append(one)
    return made, inclusion.probability


def _flows(
    pairs: list[tuple[int, int]], into: list[list[int]], members: Sequence[int], size: int,
    background: Flows | None,
) -> Flows:  # fmt: skip
    """Both stages' messages, then the others': an owner answers when the messages to it are closed."""
    ends = np.asarray(members)
    source, target = (ends[[pair[k] for pair in pairs]] for k in range(2))
    after: list[Sequence[int]] = [()] * len(pairs) + [into[s] for s, _ in pairs]
    src, dst = np.tile(source, 2), np.tile(target, 2)
    bytes_, start = np.full(2 * len(pairs), size), np.zeros(2 * len(pairs))
    if background is not None:
        if background.after.size:
            raise ConfigError("`background`: flows that wait for others cannot be added")
        src, dst = np.concatenate((src, background.src)), np.concatenate((dst, background.dst))
        bytes_, start = np.concatenate((bytes_, background.bytes)), np.concatenate((start, background.start))
        after += [()] * len(background)
    return Flows.of(src, dst, bytes_, start=start, after=after)


def _read(
    result: FlowResult, pairs: list[tuple[int, int]], into: list[list[int]], places: NDArray[np.int64]
) -> PacketExchange:
    n, count = len(into), 2 * len(pairs)
    table = result.tables["flows"][:count]
    closed = table["closed_at"].to_numpy().reshape(2, -1)
    stages = np.array([[row[mine].max() for mine in into] for row in closed])
    lost = result.tables["missing"].filter(result.tables["missing"]["flow"] < count)
    masks, received = {}, np.ones((2, n, n))
    for i in range(count):
        s, r = pairs[i % len(pairs)]
        masks[i // len(pairs), r, s] = np.ones(places.size - 1, np.bool_)
    for flow, first, size in lost.iter_rows():
        s, r = pairs[flow % len(pairs)]
        a = int(np.searchsorted(places, first, "right")) - 1
        b = int(np.searchsorted(places, first + size, "left"))
        masks[flow // len(pairs), r, s][a:b] = False  # a packet that lacks a byte is lost
    for (stage, r, s), mask in masks.items():
        received[stage, r, s] = mask.mean()
    why = table["closed_by"].value_counts()
    return PacketExchange(
        seconds=float(stages[1].max()),
        stages=stages,
        masks=masks,
        received=received,
        closed_by=dict(zip(why["closed_by"].to_list(), why["count"].to_list(), strict=True)),
        drops=int(result.stats["drops"]),
        missing_bytes=int(lost["bytes"].sum()),
        result=result,
    )
