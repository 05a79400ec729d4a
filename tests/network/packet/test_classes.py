"""Queues of a link, at switches and in hosts, against the fluid hierarchical shares (their own solver)."""

from __future__ import annotations

import numpy as np
import pytest

from euston.fabrics import Fabric, clos
from euston.network.balancing.base import PathChoice, PathMode
from euston.network.columns import ColumnsBuilder
from euston.network.flows import Flows
from euston.network.hierarchical import hierarchical_max_min
from euston.network.packet import PacketEngine, PacketSettings
from euston.network.packet import _layout as y
from euston.network.transport.windowed import Windowed

LINE = 12.5e9
ONE_PATH = PathChoice(PathMode.ECMP)


def star(hosts: int) -> Fabric:
    """One switch, 1 us per link."""
    return clos(
        hosts, 1, nic="100 Gb/s", hosts_per_tor=hosts, nic_latency="1 us", aggs_per_pod=0, cores_per_agg=0
    )


def rates(flows: Flows, weights: dict[int, float], start: float = 2e-4, end: float = 3e-3) -> np.ndarray:
    """Bytes/s that each receiver gets between two times."""
    engine = PacketEngine(
        flows,
        star(6),
        transport=Windowed(window=60),
        balancing=ONE_PATH,
        settings=PacketSettings(queue="100 MB", ecn=None, queue_weights=weights),
    )
    got = []
    for time in (start, end):
        engine.advance(time)
        slots = engine._state.flow[:, y.F_SLOT]
        assert (slots >= 0).all()
        got.append(engine._state.slot[slots, y.S_RECEIVED].astype(float))
    return np.asarray((got[1] - got[0]) / (end - start))


def fluid(flows: Flows, weights: dict[int, float]) -> np.ndarray:
    """The same by the fluid solver; rows are uplinks 0-5 and downlinks 6-11 of the star."""
    builder = ColumnsBuilder(12)
    column = [builder.add({int(s): 1.0, 6 + int(d): 1.0}) for s, d in zip(flows.src, flows.dst, strict=True)]
    solved = hierarchical_max_min(
        builder.build(),
        [LINE] * 12,
        column=column,
        queue=flows.queue,
        priority=flows.priority,
        phi=[[weights.get(q, 1.0) for q in range(int(flows.queue.max()) + 1)]],
        rate_cap=flows.rate_cap,
    )
    return solved.rate


@pytest.mark.parametrize(
    ("src", "dst", "queue", "priority", "cap"),
    [
        # at a switch: two flows in the light queue, one in the heavy one
        ([0, 1, 2], [5, 5, 5], [0, 0, 1], 0, np.inf),
        # what a capped flow of the heavy queue leaves goes to the other flow of that queue
        ([0, 1, 2], [5, 5, 5], [0, 1, 1], 0, [np.inf, 0.1 * LINE, np.inf]),
        # what the heavy queue cannot use goes to the light one
        ([0, 1], [5, 5], [0, 1], 0, [np.inf, 0.4 * LINE]),
        # in a host
        ([0, 0, 0], [3, 4, 5], [0, 0, 1], 0, np.inf),
        # strict priority of a capped flow, at a switch and in a host
        ([0, 1, 2], [5, 5, 5], [0, 1, 1], [1, 1, 0], [np.inf, np.inf, 0.3 * LINE]),
        ([0, 0, 0], [3, 4, 5], [0, 1, 1], [1, 1, 0], [np.inf, np.inf, 0.3 * LINE]),
    ],
    ids=["switch", "stays in its queue", "goes to the other", "host", "strict", "strict in a host"],
)
def test_shares_are_those_of_the_fluid_solver(
    src: list[int], dst: list[int], queue: list[int], priority: object, cap: object
) -> None:
    weights = {0: 1.0, 1: 3.0}
    flows = Flows.of(src, dst, 100_000_000, queue=queue, priority=priority, rate_cap=cap)
    assert rates(flows, weights) == pytest.approx(fluid(flows, weights), rel=0.03)
