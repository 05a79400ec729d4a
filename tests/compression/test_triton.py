"""The GPU's Hadamard transform in Triton's interpreter; oracle: the one compiled for the CPU."""

import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest

PROGRAM = """
import numpy as np, torch
from euston.compression import hadamard
from euston.compression.hadamard import on_gpu
from euston.errors import EustonError
rng = np.random.default_rng(0)
for d, block in ((1, 256), (300, 256), (9000, 4096), (10_000, 1024)):
    for seed in (None, 7, 2**63 + 12345):
        x = rng.standard_normal(d).astype(np.float32)
        want = hadamard(x, seed, block=block)
        y = on_gpu(torch.from_numpy(x), seed, block, False, None, None)
        assert np.abs(y.numpy() - want).max() < 2e-6, (d, block, seed)
        back = on_gpu(y, seed, block, True, d, torch.zeros(d))
        assert np.abs(back.numpy() - x).max() < 2e-6, (d, block, seed)
x = torch.zeros(300)
for wrong in ((x, 1, 8192, False, None, None), (x, 1, 300, False, None, None),
              (x.double(), 1, 256, False, None, None), (x, 1, 256, True, 300, None),
              (x, 1, 256, False, None, torch.zeros(3))):
    try:
        on_gpu(*wrong)
    except EustonError:
        continue
    raise AssertionError(wrong)
print("as on the CPU")
"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_the_gpu_kernel_does_what_the_cpu_does():
    pytest.importorskip("torch", reason="torch is not installed (extra lossy)")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True,
        text=True, timeout=120,
    )  # fmt: skip
    assert done.stdout.strip() == "as on the CPU", done.stderr[-2000:]


def test_a_tensor_on_the_cpu_stays_with_numba():
    torch = pytest.importorskip("torch", reason="torch is not installed (extra lossy)")
    from euston.compression import hadamard

    x = np.arange(512, dtype=np.float32)
    assert (hadamard(torch.from_numpy(x), 3) == hadamard(x, 3)).all()
