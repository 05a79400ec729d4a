"""Writes collectives into programs: stages that wait for each other, or a ring's single steps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from euston.clock import ProgramBuilder
from euston.collectives.base import Message
from euston.collectives.hierarchical import Stage
from euston.network import Transfer

__all__ = ["write_messages", "write_ring_in_steps", "write_stages"]


def write_stages(
    builder: ProgramBuilder,
    table: list[Transfer],
    stages: Sequence[Stage],
    *,
    label: str,
    after: Iterable[int] = (),
) -> int:
    """Append ``stages`` to the program and their transfers to ``table``; returns the final join's number."""
    done = builder.join(after, label=label)
    for stage in stages:
        sends = []
        for transfer in stage.transfers:
            table.append(transfer)
            sends.append(builder.send(len(table) - 1, label=f"{label}: {stage.name}", after=[done]))
        done = builder.join(sends, label=label)
    return done


def write_ring_in_steps(
    builder: ProgramBuilder,
    table: list[Transfer],
    steps: Sequence[Sequence[Transfer]],
    *,
    label: str,
    after: Iterable[int] = (),
) -> int:
    """Append a ring step by step: rank i sends in step k what it received in step k - 1."""
    start = builder.join(after, label=label)
    before: list[int] = []
    for step in steps:
        now = []
        for i, transfer in enumerate(step):
            table.append(transfer)
            needs = [before[i - 1], before[i]] if before else [start]
            now.append(builder.send(len(table) - 1, label=label, after=needs))
        before = now
    return builder.join(before or [start], label=label)


def write_messages(
    builder: ProgramBuilder,
    table: list[Transfer],
    messages: Sequence[Message],
    *,
    label: str,
    after: Iterable[int] = (),
) -> int:
    """Append single messages; a message has arrived its latency after its last byte was sent."""
    start = builder.join(after, label=label)
    sent: list[int] = []
    arrived: list[int] = []
    for message in messages:
        latency = message.transfer.latency
        table.append(replace(message.transfer, latency=0.0))
        needs = [sent[i] for i in message.after_sent] + [arrived[i] for i in message.after_arrival]
        op = builder.send(len(table) - 1, label=label, after=needs or [start])
        sent.append(op)
        arrived.append(builder.wait(latency, label=label, after=[op]) if latency else op)
    return builder.join(arrived or [start], label=label)
