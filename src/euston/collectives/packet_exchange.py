"""A transpose all-reduce with bounded stages, packet by packet through a fabric's switches.

The same `Bounded`, `Timeouts`, `Inclusion` and codec layouts as the runtime's and `bounded_exchange`'s, under
the transport that `as_transport` makes of them: packets that queues drop stay lost, a receiver closes a
message at t_B or when nothing comes any more, and its share of the result goes out when all its messages are
closed. Which packets came stands in masks that the codec's `decode` takes. Missing results are not asked for
again here. Losses besides those of queues (a loss model's) are drawn before a run; a receiver that misses a
packet by them waits for the idle time behind its last message, or until t_B.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from euston.collectives.aggregation import Inclusion
from euston.collectives.bounded import Bounded, Timeouts
from euston.collectives.bounded_exchange import HEADERS, as_transport
from euston.collectives.loss import LossModel, LossProcess
from euston.compression import Codec, Fec
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
        Payload of this exchange that never came by the engine's account: what queues dropped, and what was
        under way when a message was closed.
    payload, parity : int
        Bytes that one rank sends in the exchange: of the vector or its code, and of parity with headers.
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
    payload: int
    parity: int
    result: FlowResult


@dataclass
class _Cut:
    """How a shard lies in packets: places of the data's, then of parity's."""

    places: NDArray[np.int64]
    packets: int
    fec: Fec | None

    @classmethod
    def of(cls, shard: int, mtu: int, codec: Codec | None, fec: Fec | None) -> _Cut:
        payload = mtu - HEADERS
        if codec is None:
            places = np.minimum(np.arange(-(-4 * shard // payload) + 1) * payload, 4 * shard)
        else:
            places = np.asarray(codec.layout(shard).ptr)
        packets = places.size - 1
        if fec is not None:
            more = np.arange(1, fec.parity_packets(packets) + 1) * int(np.diff(places).max())
            places = np.concatenate((places, places[-1] + more))
        return cls(places, packets, fec)

    def survive(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which of the data's packets there are, of all that came."""
        have, parity = mask[: self.packets], mask[self.packets :]
        return have if self.fec is None else self.fec.survive(have, parity)


def run_packet_exchanges(
    bounded: Bounded,
    fabric: Fabric,
    members: Sequence[int],
    *,
    d: int,
    codec: Codec | None = None,
    steps: int = 1,
    losses: LossModel | None = None,
    fec: Fec | None = None,
    absent: NDArray[np.bool_] | None = None,
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
    losses : LossModel, optional
        Packets that are lost besides, one process per pair of ranks.
    fec : Fec, optional
        Parity behind every shard; masks are those after recovery.
    absent : bool[steps, n], optional
        Ranks whose parts are left out of an exchange; they send a byte that says so.
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
    out = np.zeros((steps, n), np.bool_) if absent is None else absent
    if out.shape != (steps, n):
        raise ConfigError(f"`absent`: shape {out.shape}; {(steps, n)} would be right")
    cut = _Cut.of(-(-d // n), mtu, codec, fec)
    settings = settings or PacketSettings(trimming=False)
    limits, inclusion, made = Timeouts(bounded), Inclusion(n), []
    pairs = [(s, (s + k) % n) for s in range(n) for k in range(1, n)]
    into = [[i for i, (_, r) in enumerate(pairs) if r == rank] for rank in range(n)]
    processes = _processes(losses, pairs, seed)
    off = ~np.eye(n, dtype=bool)
    for step in range(steps):
        transport = as_transport(limits, mtu=mtu)
        drawn = [{pair: one.lost(cut.places.size - 1) for pair, one in processes.items()} for _ in range(2)]
        waits = _waits(drawn, pairs, cut, out[step], min(limits.idle, bounded.t_b))
        first = np.zeros(n)
        if waits[0].any():  # no longer than until t_B: when its messages are closed shows a run of stage 0
            alone = _flows(pairs, into, members, cut, background, out[step], first, stages=1)
            closed = run_packets(alone, fabric, transport=transport, settings=settings, seed=seed + step)
            ends = closed.tables["flows"]["closed_at"].to_numpy()[: len(pairs)]
            ends = np.array([ends[mine].max() for mine in into])
            first = np.minimum(waits[0], np.maximum(bounded.t_b - ends, 0.0))
        flows = _flows(pairs, into, members, cut, background, out[step], first)
        result = run_packets(flows, fabric, transport=transport, settings=settings, seed=seed + step)
        one = _read(result, pairs, into, cut, drawn, out[step], first, waits[1], bounded.t_b)
        for stage in range(2):
            # as in the runtime, waiting for what did not come is no part of what a stage takes
            begun = np.minimum(one.stages[0] + waits[1], one.stages[1]) if stage else first
            asked = off if stage else off & ~out[step]
            share = float(one.received[stage][asked].mean()) if asked.any() else 1.0
            limits.stage(float(np.median(one.stages[stage] - begun)), share)
        inclusion.update((one.received[0].sum(axis=0) - 1) / (n - 1))
        made.append(one)
    return made, inclusion.probability


def _processes(
    losses: LossModel | None, pairs: list[tuple[int, int]], seed: int
) -> dict[tuple[int, int], LossProcess]:
    """A process of losses for every pair of ranks."""
    if losses is None:
        return {}
    words = [np.random.SeedSequence((seed, *pair)).generate_state(1, np.uint64) for pair in pairs]
    return {pair: losses.start(int(word[0])) for pair, word in zip(pairs, words, strict=True)}


def _waits(
    drawn: list[dict[tuple[int, int], NDArray[np.bool_]]], pairs: list[tuple[int, int]], cut: _Cut,
    absent: NDArray[np.bool_], idle: float,
) -> NDArray[np.float64]:  # fmt: skip
    """Seconds that each rank waits in each stage for packets that were lost, float64[2, n]."""
    waits = np.zeros((2, absent.size))
    for stage, lost in enumerate(drawn):
        for (s, r), gone in lost.items():
            if not (stage == 0 and absent[s]) and not cut.survive(~gone).all():
                waits[stage, r] = idle
    return waits


def _flows(
    pairs: list[tuple[int, int]], into: list[list[int]], members: Sequence[int], cut: _Cut,
    background: Flows | None, absent: NDArray[np.bool_], waits: NDArray[np.float64], *, stages: int = 2,
) -> Flows:  # fmt: skip
    """The stages' messages, then the others': an owner answers when the messages to it are closed."""
    ends, size = np.asarray(members), int(cut.places[-1])
    source, target = (ends[[pair[k] for pair in pairs]] for k in range(2))
    after: list[Sequence[int]] = [()] * len(pairs)
    after += [into[s] for s, _ in pairs] if stages == 2 else []
    src, dst = np.tile(source, stages), np.tile(target, stages)
    bytes_, start = np.full(stages * len(pairs), size), np.zeros(stages * len(pairs))
    delay = np.zeros(stages * len(pairs))
    bytes_[: len(pairs)][absent[[s for s, _ in pairs]]] = 1
    if stages == 2:
        delay[len(pairs) :] = waits[[s for s, _ in pairs]]
    if background is not None:
        if background.after.size:
            raise ConfigError("`background`: flows that wait for others cannot be added")
        src, dst = np.concatenate((src, background.src)), np.concatenate((dst, background.dst))
        bytes_, start = np.concatenate((bytes_, background.bytes)), np.concatenate((start, background.start))
        delay = np.concatenate((delay, np.zeros(len(background))))
        after += [()] * len(background)
    return Flows.of(src, dst, bytes_, start=start, after=after, delay=delay)


def _read(
    result: FlowResult, pairs: list[tuple[int, int]], into: list[list[int]], cut: _Cut,
    drawn: list[dict[tuple[int, int], NDArray[np.bool_]]], absent: NDArray[np.bool_],
    first: NDArray[np.float64], second: NDArray[np.float64], t_b: float,
) -> PacketExchange:  # fmt: skip
    n, count, places = len(into), 2 * len(pairs), cut.places
    table = result.tables["flows"][:count]
    closed = table["closed_at"].to_numpy().reshape(2, -1)
    stages = np.array([[row[mine].max() for mine in into] for row in closed])
    stages[0] += first
    stages[1] = np.maximum(stages[1], np.minimum(stages[1] + second, stages[0] + t_b))
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
        gone = drawn[stage].get((s, r))
        mask = mask if gone is None else mask & ~gone
        masks[stage, r, s] = cut.survive(mask)
        received[stage, r, s] = masks[stage, r, s].mean()
    for s in np.flatnonzero(absent).tolist():
        received[0, :, s] = 0.0
        for r in range(n):
            masks.pop((0, r, s), None)
    why, parity = table["closed_by"].value_counts(), places.size - 1 - cut.packets
    return PacketExchange(
        seconds=float(stages[1].max()),
        stages=stages,
        masks=masks,
        received=received,
        closed_by=dict(zip(why["closed_by"].to_list(), why["count"].to_list(), strict=True)),
        drops=int(result.stats["drops"]),
        missing_bytes=int(lost["bytes"].sum()),
        payload=2 * (n - 1) * int(places[cut.packets]),
        parity=2 * (n - 1) * int(np.diff(places[cut.packets :]).sum() + HEADERS * parity),
        result=result,
    )
