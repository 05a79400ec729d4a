"""The benchmark's payload ratios at a smaller size, counted by real runs: 64 times less at H = 64, at least
490 times with 4 bits, scales included.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path

import pytest

from euston.federated import DataSet

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def test_payload_ratios(monkeypatch: pytest.MonkeyPatch, data: DataSet) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setitem(sys.modules, "_harness", importlib.import_module("_harness"))  # and away again
    spec = importlib.util.spec_from_file_location("bench_photon", BENCHMARKS / "bench_photon.py")
    assert spec is not None and spec.loader is not None
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    local = {"batch": 1, "sequence": 16}
    plain = bench.federation(width=128, layers=1, rounds=2, clients=1, local=local)
    assert bench.payload_ratio(plain, data) == pytest.approx(64, rel=0.01)
    coded = plain.with_(sync={"codec": "fp4", "down_codec": "fp4"})
    assert bench.payload_ratio(coded, data) >= 490
