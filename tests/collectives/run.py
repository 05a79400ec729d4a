"""Runs collectives on a fabric: the seconds and the bytes on every link that tests compare."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from euston.clock import Execution, ProgramBuilder, TransferTable, execute
from euston.collectives import Stage, write_ring_in_steps, write_stages
from euston.fabrics import Fabric, clos
from euston.network import Transfer, Transfers, lower
from euston.network.balancing.spray import Spray


def hosts_on_leaves(
    hosts: int = 4,
    per_host: int = 4,
    *,
    nic: float = 50e9,
    scale_up: float = 450e9,
    oversubscription: float = 1,
) -> Fabric:
    """Hosts of NIC-per-accelerator, two on a leaf, two spines."""
    return clos(
        hosts, per_host, nic=nic, hosts_per_tor=2, aggs_per_pod=2, scale_up=scale_up,
        oversubscription=(oversubscription, 1),
    )  # fmt: skip


def run(
    builder: ProgramBuilder, table: Sequence[Transfer], fabric: Fabric
) -> tuple[Execution, NDArray[np.float64]]:
    """Execute a program whose transfers are ``table``; the execution and the bytes of every link."""
    low = lower(Transfers.of(table), fabric, Spray())
    transfers = TransferTable(
        low.ptr, low.column, low.size, low.weight, low.rate_cap, low.transfers.latency,
        np.zeros(len(table)), low.binding,
    )  # fmt: skip
    program = builder.build()
    done = execute(program, transfers, low.capacity)
    sent = program.transfer[program.transfer >= 0]
    per_flow = np.zeros(low.size.size)
    for i in sent:
        per_flow[low.ptr[i] : low.ptr[i + 1]] += low.size[low.ptr[i] : low.ptr[i + 1]]
    return done, fabric.link_load(low.columns.load(per_flow))


def together(transfers: Sequence[Transfer], fabric: Fabric) -> tuple[list[float], NDArray[np.float64]]:
    """Seconds of each of ``transfers`` when all start at once, and the bytes of every link."""
    b = ProgramBuilder()
    ops = [b.send(i, label="send") for i in range(len(transfers))]
    done, carried = run(b, transfers, fabric)
    return done.end[ops].tolist(), carried


def stepwise(
    rings: Sequence[Sequence[Sequence[Transfer]]], fabric: Fabric
) -> tuple[list[float], NDArray[np.float64]]:
    """Seconds of each ring, sent step by step, when all start at once, and the bytes of every link."""
    b, table = ProgramBuilder(), []
    ops = [write_ring_in_steps(b, table, steps, label="ring") for steps in rings]
    done, carried = run(b, table, fabric)
    return done.end[ops].tolist(), carried


def staged(stages: Sequence[Stage], fabric: Fabric) -> tuple[float, NDArray[np.float64]]:
    """Seconds of stages that wait for each other, and the bytes of every link."""
    b, table = ProgramBuilder(), []
    op = write_stages(b, table, stages, label="staged")
    done, carried = run(b, table, fabric)
    return float(done.end[op]), carried
