"""The small kernel cases (marked `nojit`) give the same answers as plain Python, with NUMBA_DISABLE_JIT=1."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTHING_COLLECTED = 5


def test_small_cases_without_compilation() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-m", "nojit and not slow", "-p", "no:cacheprovider"],
        cwd=ROOT,
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    if done.returncode == NOTHING_COLLECTED:
        pytest.skip("no test is marked nojit")
    assert done.returncode == 0, done.stdout[-4000:]
