"""Loss models: rates and burst lengths against closed forms; streams do not depend on how they are cut."""

from __future__ import annotations

import numpy as np
import pytest

from euston.collectives.loss import LOSS, GilbertElliott, Iid, Trace
from euston.errors import ConfigError

MODELS = [
    Iid(0.03),
    GilbertElliott(0.002, 0.05),
    GilbertElliott(0.01, 0.2, 0.01, 0.7),
    Trace((True, False, False)),
]


@pytest.mark.parametrize("model", MODELS)
def test_the_long_run_share_is_the_rate(model):
    got = np.mean([model.start(seed).lost(200_000).mean() for seed in range(5)])
    assert got == pytest.approx(model.rate, rel=0.05)


@pytest.mark.parametrize("model", [GilbertElliott(0.002, 0.05), Trace((True, False, False))])
def test_a_stream_does_not_depend_on_how_it_is_asked_for(model):
    whole = model.start(7).lost(1000)
    process = model.start(7)
    states = np.concatenate([process.lost(n) for n in (1, 399, 0, 600)])
    assert (whole == states).all() and (model.start(7).lost(1000) == whole).all()


def test_bursts_have_the_geometric_mean_length():
    model = GilbertElliott.of(0.02, 8)
    assert model.rate == pytest.approx(0.02)
    lost = model.start(1).lost(2_000_000)
    edges = np.flatnonzero(np.diff(np.concatenate(([False], lost, [False])).astype(int)))
    assert (edges[1::2] - edges[::2]).mean() == pytest.approx(8, rel=0.05)


def test_bad_input():
    for make in (
        lambda: Iid(1.5),
        lambda: GilbertElliott(0),
        lambda: GilbertElliott.of(0.9, 1),
        lambda: Trace(()),
        lambda: GilbertElliott(bad=-1),
    ):
        with pytest.raises(ConfigError):
            make()
    assert set(LOSS.names()) == {"iid", "gilbert_elliott", "trace"}
