"""The ring as an algorithm: one coupled transfer over rings that use every NIC of the hosts they visit.

Every rank sends (n-1)/n of the buffer once (all-gather, reduce-scatter) or twice (all-reduce), in as many
times n-1 steps (Patarasuk & Yuan 2009). Where domains hold g ranks each, g rings share the buffer, each
leaving a host through another rank (NCCL's channels).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from euston.collectives.base import Group, Message, Stage, in_steps, send, supported
from euston.collectives.edges import channel_rings
from euston.collectives.volume import ring_bytes, ring_steps

__all__ = ["Ring"]


@dataclass(frozen=True)
class Ring:
    """Ring all-reduce, all-gather and reduce-scatter."""

    name: str = "ring"
    collectives: tuple[str, ...] = ("all_reduce", "all_gather", "reduce_scatter")

    def stages(self, collective: str, group: Group, buffer_bytes: float) -> list[Stage]:
        """One transfer; its latency is that of all steps, those between domains and the others."""
        supported(self, collective)
        src, dst, rings = channel_rings(group.ranks, group.domain)
        size = ring_bytes(collective, len(group), buffer_bytes) / rings
        latency = self._latency(collective, group)
        transfer = send(group, src, dst, size, latency=latency)
        rate = group.inside.rate if group.domains == 1 else self._rate(group, rings)
        return [Stage(f"{collective} on {rings} rings", (replace(transfer, rate_cap=rate),))]

    @staticmethod
    def _rate(group: Group, rings: int) -> float:
        """Bytes/s of one of the rings: each leaves a rank by its NIC, the others pass it by inside."""
        return min(group.between.rate, group.inside.rate / max(rings - 1, 1))

    @staticmethod
    def _latency(collective: str, group: Group) -> float:
        """What a part of the buffer meets on its way round: hops between domains once per domain and pass."""
        steps, far = ring_steps(collective, len(group)), ring_steps(collective, group.domains)
        return (steps - far) * group.inside.latency + far * group.between.latency

    def messages(self, collective: str, group: Group, buffer_bytes: float) -> list[Message]:
        """2(n-1) (or n-1) steps of n messages for each ring."""
        supported(self, collective)
        src, dst, rings = channel_rings(group.ranks, group.domain)
        n = len(group)
        out: list[Message] = []
        for ring in range(rings):  # each ring is a channel of its own
            mine = range(ring * n, ring * n + n)
            one = [send(group, src[i : i + 1], dst[i : i + 1], buffer_bytes / n / rings) for i in mine]
            first = len(out)
            for message in in_steps([one for _ in range(ring_steps(collective, n))]):
                sent = tuple(first + i for i in message.after_sent)
                arrived = tuple(first + i for i in message.after_arrival)
                out.append(Message(message.transfer, sent, arrived))
        return out
