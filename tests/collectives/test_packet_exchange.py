"""Bounded exchanges through the packet engine; oracles: bytes over rate, the simulator without packets, the
codec's theory at the loss that was seen, and bytes counted twice.
"""

from __future__ import annotations

import numpy as np
import pytest

from euston.collectives.bounded import Bounded
from euston.collectives.bounded_exchange import HEADERS, simulate_exchanges
from euston.collectives.packet_exchange import run_packet_exchanges
from euston.compression import CODECS, StepKey
from euston.errors import ConfigError
from euston.fabrics import clos
from euston.network.flows import Flows
from euston.network.packet import PacketSettings

RATE = 1.25e9
D = 1 << 18
CROSS = Flows.of([4, 5, 6, 7], [0, 0, 1, 1], [1_000_000] * 4)
SMALL = PacketSettings(trimming=False, queue="60 kB")


def fabric():
    """Eight endpoints at one switch."""
    return clos(
        8, 1, nic="10 Gb/s", hosts_per_tor=8, nic_latency="3 us", aggs_per_pod=0, cores_per_agg=0
    )  # fmt: skip


def test_alone_it_takes_bytes_over_rate_as_without_packets():
    made, inclusion = run_packet_exchanges(Bounded(t_b=0.1), fabric(), range(4), d=D)
    packets = -(-D // (1500 - HEADERS))
    wire = D + HEADERS * packets  # a quarter of D coordinates is D bytes
    assert made[0].seconds == pytest.approx(6 * wire / RATE, rel=0.02)
    simulated = simulate_exchanges(Bounded(t_b=0.1), ranks=4, d=D, rate=RATE)
    assert made[0].seconds == pytest.approx(simulated.seconds[0], rel=0.02)
    assert made[0].drops == made[0].missing_bytes == 0
    assert made[0].closed_by == {"all": 24} and (inclusion == 1).all()


def test_what_queues_drop_is_missing_and_counted():
    made, inclusion = run_packet_exchanges(
        Bounded(t_b=0.1), fabric(), range(4), d=D, background=CROSS, settings=SMALL, steps=3
    )
    for one in made:
        payload = 1500 - HEADERS
        sizes = np.diff(np.minimum(np.arange(-(-D // payload) + 1) * payload, D))
        assert one.missing_bytes == sum(int(sizes[~mask].sum()) for mask in one.masks.values())
        missing = sum(int((~mask).sum()) for mask in one.masks.values())
        assert 0 < missing <= one.drops  # others' packets are dropped, too
        assert one.received[:, 2:].min() == 1  # nobody else sends to ranks 2 and 3
        assert one.seconds < 0.1 and set(one.closed_by) <= {"all", "silence", "deadline"}
    assert inclusion.min() < 1


def test_stages_end_at_their_deadline():
    t_b = 4e-4
    made, _ = run_packet_exchanges(Bounded(t_b=t_b), fabric(), range(4), d=D)
    assert made[0].closed_by == {"deadline": 24}
    # an owner hears of it a round trip later, then its own stage begins
    assert made[0].stages[0] == pytest.approx(t_b, rel=1e-6)
    assert made[0].stages[1] == pytest.approx(2 * t_b, abs=2e-5)
    wire = D + HEADERS * -(-D // (1500 - HEADERS))
    came = made[0].received[0][~np.eye(4, dtype=bool)].mean()
    assert came == pytest.approx(t_b * RATE / (3 * wire), abs=0.05)


def test_a_codec_decodes_what_came_with_the_error_of_theory():
    codec = CODECS.get("eden")(bits=2, block=1 << 16)
    made, _ = run_packet_exchanges(
        Bounded(t_b=0.1), fabric(), range(4), d=4 << 20, codec=codec, background=CROSS, settings=SMALL
    )
    x = np.random.default_rng(3).standard_normal(1 << 20).astype(np.float32)
    lossy = [(key, mask) for key, mask in made[0].masks.items() if not mask.all()]
    assert lossy
    for (_, _, sender), mask in lossy:
        payload = codec.encode(x, StepKey(sender=sender))
        assert mask.size == len(payload)
        error = codec.decode(payload, mask) - x
        seen = float(error @ error) / float(x @ x)
        # by block, as losses come in bursts: 1 / ((1 - D) share) - 1 for each
        piece = payload.layout.piece
        share = np.bincount(piece, mask) / np.bincount(piece)
        theory = np.mean([codec.expected_vnmse(1 << 16, 1 - float(one)) for one in share])
        assert seen == pytest.approx(theory, rel=0.03)


def test_bad_input():
    waits = Flows.of([4, 4], [5, 5], [9, 9], after=[[], [0]])
    for wrong, words in (
        ({"bounded": Bounded()}, "`t_b`"), ({"members": [0, 0]}, "`members`"),
        ({"members": [1]}, "`members`"), ({"d": 1}, "`d`"), ({"background": waits}, "`background`"),
    ):  # fmt: skip
        settings = {"bounded": Bounded(t_b=1.0), "members": [0, 1], "d": 100, **wrong}
        with pytest.raises(ConfigError, match=words):
            run_packet_exchanges(settings.pop("bounded"), fabric(), settings.pop("members"), **settings)
