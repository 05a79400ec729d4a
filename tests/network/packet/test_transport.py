"""The constants of transports against what the reference program prints, and bad parameters."""

from __future__ import annotations

import numpy as np
import pytest

from euston.errors import ConfigError
from euston.network.packet import _nscc as k
from euston.network.transport import TRANSPORT, Network
from euston.network.transport.nscc import Nscc
from euston.network.transport.windowed import Windowed


def test_nscc_constants_are_those_of_the_reference_program() -> None:
    """uet-htsim @40ccb05 on a 3-tier tree of 1 us links at 100 Gb/s prints these six to its six digits."""
    low = Nscc().lower(Network(rtt=14.02272e-6, rate=12.5e9, trimming=True))
    for column, printed in (
        (k.U_TARGET, 10517040),
        (k.U_ALPHA, 0.00159158),
        (k.U_FAIR, 23873.7),
        (k.U_ETA, 716.21),
        (k.U_FAST_SCALE, 0.29214),
        (k.U_QUICK_DELAY, 4.20682e7),
        (k.U_ADJUST_BYTES, 33200),
    ):
        assert low.tuning[column] == pytest.approx(printed, rel=5e-6)
    assert int(low.window) == 262926


def test_without_trimming_the_target_is_a_round_trip() -> None:
    low = Nscc().lower(Network(rtt=10e-6, rate=12.5e9, trimming=False))
    assert low.tuning[k.U_TARGET] == pytest.approx(1e7)
    low = Nscc(target_delay="6 us").lower(Network(rtt=10e-6, rate=12.5e9, trimming=False))
    assert low.tuning[k.U_TARGET] == pytest.approx(6e6)


def test_the_registry_knows_them_by_name() -> None:
    for name in TRANSPORT.names():
        transport = TRANSPORT.get(name)()
        assert transport.name == name
        low = transport.lower(Network(rtt=10e-6, rate=12.5e9, trimming=True))
        assert low.tuning.shape == (32,)
        assert np.isfinite(low.tuning).all()
        assert low.window >= transport.mtu
        assert low.ack_bytes >= 1
    with pytest.raises(ConfigError, match="nscc"):
        TRANSPORT.get("nsccc")


@pytest.mark.parametrize(
    "bad",
    [
        {"mtu": 64},
        {"mtu": 70_000},
        {"ack_bytes": 0},
        {"gamma": 0},
        {"window_factor": 0},
        {"quick_gate": 31},
        {"delay_gain": 2},
        {"start_window": -1},
    ],
)
def test_bad_parameters_are_named(bad: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(bad)).partition("_")[0]):
        Nscc(**bad)  # type: ignore[arg-type]


def test_a_window_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="window"):
        Windowed(window=0)
