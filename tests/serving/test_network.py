"""Hand-overs on the fluid network against closed forms, and against the engine's own stations."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from euston.clock.conductor import Conductor
from euston.network.columns import ColumnsBuilder
from euston.serving import Deployment, Engine, Pool, Requests, Serving, StepTime, Transport, dense, serve
from euston.serving.network import Handovers

STEP = StepTime(tokens=dense([0, 10], [0.0, 0.01]))


def service(transport: Transport) -> Deployment:
    base = Pool(Engine(10_000, max_num_batched_tokens=100_000), STEP, kv_bytes_per_token=1000.0)
    return Deployment(
        (dataclasses.replace(base, role="prefill"), dataclasses.replace(base, role="decode")), transport
    )


def wire(rate: float) -> Handovers:
    columns = ColumnsBuilder(1)
    columns.add({0: 1.0})
    return Handovers.alone(columns.build(), [rate], [[-1, 0], [0, -1]], slots=64)


def test_two_hand_overs_share_a_link() -> None:
    """Both prompts end at once; each gets half of the link."""
    engine, network = (
        Serving(Requests.of([0.0, 0.0], 100, 2), service(Transport("fluid", latency=0.5))),
        wire(1e6),
    )
    Conductor([engine, network]).run()
    assert engine.result().last.tolist() == pytest.approx([0.2 + 0.2 + 0.5 + 0.002] * 2)
    assert network.bytes == 200_000 and network.count == 2


def test_one_link_equals_one_station() -> None:
    """Max-min on a single link is processor sharing, as the sender's station does it (no ties)."""
    rng = np.random.default_rng(4)
    requests = Requests.of(rng.exponential(0.15, 200).cumsum(), rng.integers(10, 300, 200), 20)
    engine, network = Serving(requests, service(Transport("fluid"))), wire(1.87e6)
    conductor = Conductor([engine, network])
    conductor.run()
    alone = serve(requests, service(Transport(bandwidth=1.87e6)))
    beside = engine.result()
    assert beside.done.all() and np.allclose(beside.last, alone.last, rtol=1e-9)
    assert network.bytes == beside.handed_bytes == alone.handed_bytes
    assert conductor.alternations >= 200
