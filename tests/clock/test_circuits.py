"""Optical circuits in the clock: capacity events from a schedule, against the sum of lit time by hand."""

from __future__ import annotations

import numpy as np
import pytest

from euston.clock import CapacityEvent, ProgramBuilder, TransferTable, execute
from euston.fabrics import Circuits, ocs, round_robin
from euston.network import Transfer, Transfers, lower
from euston.network.balancing.spray import Spray


def ends(circuits: Circuits, pairs: list[tuple[int, int]], size: float, until: float) -> list[float]:
    """Seconds at which transfers end that wait for their direct circuits."""
    fabric = circuits.fabric
    transfers = Transfers.of([Transfer([s], [d], size, coupled=False) for s, d in pairs])
    changes = circuits.changes(until)
    split = np.diff(fabric.bundle_start) > 1
    low = lower(transfers, fabric, Spray(), floor=np.zeros(fabric.links), split=split)
    rows = changes.rows(fabric, low.split)
    table = TransferTable(
        low.ptr, low.column, low.size, low.weight, low.rate_cap, low.transfers.latency,
        np.zeros(len(pairs)), low.binding,
    )  # fmt: skip
    builder = ProgramBuilder()
    ops = [builder.send(i, label="send") for i in range(len(pairs))]
    events = [
        CapacityEvent(float(t), int(r), float(c))
        for t, r, c in zip(changes.time, rows, changes.capacity, strict=True)
    ]
    done = execute(
        builder.build(), table, fabric.row_capacity(circuits.capacity(0.0), low.split), events=events
    )
    return [float(done.end[op]) for op in ops]


def by_hand(circuits: Circuits, link: int, size: float) -> float:
    """When so many bytes have crossed a link that is lit by turns."""
    rate, time, left = circuits.fabric.capacity[link], 0.0, size
    while True:
        slot = round(time / circuits.slot)
        kept = slot == 0 or circuits.lit[(slot - 1) % circuits.lit.shape[0], link]
        begin = time if kept else time + circuits.reconfiguration
        if circuits.lit[slot % circuits.lit.shape[0], link]:
            able = (time + circuits.slot - begin) * rate
            if able >= left:
                return begin + left / rate
            left -= able
        time += circuits.slot


@pytest.mark.parametrize("size", [1e3, 1e6, 3.3e6])
def test_flows_wait_for_their_circuits(size: float) -> None:
    """8 switches of one circuit: a pair is lit 90 of every 700 us; sizes of less than one slot to three."""
    c = ocs(round_robin(8), nic=12.5e9, slot=100e-6, reconfiguration=10e-6)
    pairs = [(0, d) for d in range(1, 8)]
    found = [ends(c, [pair], size, 1e-2)[0] for pair in pairs]
    for (s, d), end in zip(pairs, found, strict=True):
        link = c.fabric.link_index(f"ocs/s{s}/s{d}")
        assert end == pytest.approx(by_hand(c, link, size), rel=1e-9)
    # all at once they never meet on a circuit, and take turns on the NIC
    assert ends(c, pairs, size, 1e-2) == pytest.approx(found, rel=1e-9)
