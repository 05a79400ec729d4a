"""Accelerators written out by hand, so that these tests do not depend on the catalogue's numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from euston.catalog import Accelerator

A100 = Accelerator(
    name="a100-sxm-80gb",
    vendor="NVIDIA",
    peak={"bf16": 312e12, "fp16": 312e12, "tf32": 156e12},
    memory_bytes=80e9,
    memory_bandwidth=2.039e12,
    multiprocessors=108,
    scale_up_bandwidth=300e9,
    scale_up_domain=8,
    power_limit=400.0,
    sustained={"bf16": (257e12, 227e12, 271e12)},
)
H100 = Accelerator(
    name="h100-sxm",
    vendor="NVIDIA",
    peak={"bf16": 989e12, "fp16": 989e12, "fp8": 1979e12},
    memory_bytes=80e9,
    memory_bandwidth=3.35e12,
    multiprocessors=132,
    scale_up_bandwidth=450e9,
    scale_up_domain=8,
    power_limit=700.0,
    sustained={"bf16": (780e12, 715e12, 795e12), "fp8": (1403e12, 1280e12, 1403e12)},
)
ALL = {
    "a100": A100,
    "h100": H100,
    "a100-40": replace(A100, name="A100-SXM-40GB", memory_bandwidth=1.555e12),
    "h200": replace(H100, name="h200-sxm", memory_bandwidth=4.8e12),
    "h800": replace(H100, name="h800-sxm", scale_up_bandwidth=200e9),
    "mi300x": Accelerator(
        name="mi300x",
        vendor="AMD",
        peak={"bf16": 1307e12, "fp8": 2615e12},
        memory_bytes=192e9,
        memory_bandwidth=5.3e12,
        multiprocessors=304,
        scale_up_bandwidth=448e9,
        scale_up_domain=8,
        power_limit=750.0,
    ),
    "tpu": Accelerator(
        name="tpu-v5p",
        vendor="Google",
        peak={"bf16": 459e12},
        memory_bytes=95e9,
        memory_bandwidth=2.765e12,
        multiprocessors=2,
        scale_up_bandwidth=300e9,
        scale_up_domain=8960,
    ),
}


@pytest.fixture(scope="session")
def a100() -> Accelerator:
    return A100


@pytest.fixture(scope="session")
def h100() -> Accelerator:
    return H100


@pytest.fixture(scope="session")
def accelerators() -> dict[str, Accelerator]:
    return ALL
