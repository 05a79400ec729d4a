"""What the benchmark compares with is EDEN too: its PyTorch version has the error of theory."""

import importlib
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def test_the_pytorch_eden_of_the_benchmark_is_eden(monkeypatch):
    torch = pytest.importorskip("torch", reason="torch is not installed (extra lossy)")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setitem(sys.modules, "_harness", importlib.import_module("_harness"))  # and away again
    spec = importlib.util.spec_from_file_location("bench_compression", BENCHMARKS / "bench_compression.py")
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    x = torch.from_numpy(bench._vector(1 << 16))
    for bits, theory in ((1, 0.570796), (4, 0.009592)):
        index, scale = bench.torch_eden(x, bits)
        assert index.dtype == torch.int64
        sent = scale * torch.from_numpy(bench._centroids(bits))[index]
        # <S q, y> = ||x||^2, so the error is ||S q||^2 / ||x||^2 - 1.
        assert float((sent @ sent) / (x @ x)) - 1 == pytest.approx(theory, rel=0.03)
        assert np.unique(index.numpy()).size == 1 << bits
