"""Codecs on one core: rotation, EDEN, THC and plain formats, against memcpy and a PyTorch EDEN.

`work.bytes` are bytes of float32 input, so bytes / cpu_s is a rate. The PyTorch EDEN is written here the way
its authors' public code does it: butterflies as views of a tensor, `bucketize`, indices as int64, not packed;
one thread. "rates in turn" measures everything in one process by turns, because a shared machine is not the
same machine a minute later.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from _harness import Outcome, case, main

if TYPE_CHECKING:
    from numpy.typing import NDArray

D = 1 << 22
TURNS = 20


@cache
def _vector(d: int = D) -> NDArray[np.float32]:
    rng = np.random.default_rng(1)
    return (rng.lognormal(0.0, 1.0, d) * rng.choice([-1.0, 1.0], d)).astype(np.float32)


@cache
def _buffer(d: int = D) -> NDArray[np.float32]:
    return np.zeros(d, np.float32)


def _outcome(check: float, turns: int = TURNS, **more: float) -> Outcome:
    return Outcome(work={"bytes": float(4 * D * turns), "vectors": float(turns), **more}, check=check)


def memcpy() -> Outcome:
    x, y = _vector(), _buffer()
    for _ in range(TURNS):
        np.copyto(y, x)
    return _outcome(float(y[-1]))


def torch_eden(x: Any, bits: int, seed: int = 0) -> tuple[Any, Any]:
    """EDEN the straightforward way: (int64 indices, scale) of a float32 tensor of 2^k coordinates."""
    import torch

    centroids = torch.from_numpy(_centroids(bits))
    generator = torch.Generator().manual_seed(seed)
    y = x * (torch.bernoulli(torch.full_like(x, 0.5), generator=generator) * 2 - 1)
    d, h = y.numel(), 1
    while h < d:  # one level of the transform after the other, over the whole vector
        y = y.view(d // (2 * h), 2, h)
        y = torch.stack((y[:, 0] + y[:, 1], y[:, 0] - y[:, 1]), dim=1)
        h *= 2
    y = y.reshape(d) / d**0.5
    z = y * (d**0.5 / y.norm())
    index = torch.bucketize(z, (centroids[1:] + centroids[:-1]) / 2)
    scale = y.norm() ** 2 / torch.dot(centroids[index], y)
    return index, scale


def _centroids(bits: int) -> NDArray[np.float32]:
    from euston.compression.lloyd_max import lloyd_max

    half = lloyd_max(bits).centroids
    return np.concatenate([-half[::-1], half]).astype(np.float32)


def pytorch() -> Outcome:
    import torch

    torch.set_num_threads(1)
    index, scale = torch_eden(torch.from_numpy(_vector()), 4)
    return _outcome(float(scale) + float(index.sum()), turns=1)


def _hadamard(block: int) -> Outcome:
    from euston.compression import hadamard

    y = _buffer()
    for _ in range(TURNS):
        hadamard(_vector(), 7, block=block, out=y)
    return _outcome(float(y[::4096].sum()))


@case("block Hadamard of 4,096, 2^22, with signs and scale (baseline: memcpy)", baseline=memcpy, repeat=10)
def block_hadamard() -> Outcome:
    return _hadamard(4096)


@case("full Hadamard, 2^22, with signs and scale (baseline: memcpy)", baseline=memcpy, repeat=10)
def full_hadamard() -> Outcome:
    return _hadamard(1 << 22)


def _encode(name: str, baseline: bool = False, **settings: Any) -> Outcome:
    from euston.compression import CODECS, StepKey

    codec, turns = CODECS.get(name)(**settings), 1 if baseline else TURNS
    for step in range(turns):
        payload = codec.encode(_vector(), StepKey(step=step))
    return _outcome(float(payload.words[::4096].sum()), turns, payload_bytes=float(payload.data.size))


def _decode(name: str, **settings: Any) -> Outcome:
    from euston.compression import CODECS

    codec = CODECS.get(name)(**settings)
    payload, out = codec.encode(_vector()), _buffer()
    for _ in range(TURNS):
        codec.decode(payload, out=out)
    return _outcome(float(out[::4096].sum()))


@case("EDEN encode, 4 bits, 2^22, 20 vectors (baseline: PyTorch, one vector)", baseline=pytorch, repeat=5)
def eden_encode() -> Outcome:
    return _encode("eden", bits=4)


@case("EDEN encode, 4 bits, 2^22 in one block", repeat=5)
def eden_encode_whole() -> Outcome:
    return _encode("eden", bits=4, block=1 << 22)


@case("EDEN encode, 1 bit, 2^22", repeat=5)
def eden_encode_1() -> Outcome:
    return _encode("eden", bits=1)


@case("EDEN decode, 4 bits, 2^22", repeat=5)
def eden_decode() -> Outcome:
    return _decode("eden", bits=4)


@case("THC encode, 4 bits, 2^22", repeat=3)
def thc_encode() -> Outcome:
    return _encode("thc")


@case("THC sum of 8 workers' codes, 2^22", repeat=3)
def thc_sum() -> Outcome:
    from euston.compression import StepKey
    from euston.compression.thc import Thc

    codec, x = Thc(workers=8), _vector()
    norms = codec.norms(x)
    payload = codec.encode(x, norms=norms)
    total = codec.sum(D, StepKey(), norms)
    for sender in range(8):
        object.__setattr__(payload, "key", StepKey(sender=sender))
        total.add(payload)
    return _outcome(float(total.total[::4096].sum()), 8)


@case("QUIC-FL encode, 4 bits, 2^22", repeat=2)
def quic_encode() -> Outcome:
    return _encode("quic_fl", baseline=True)


@case("QUIC-FL decode, 4 bits, 2^22", repeat=2)
def quic_decode() -> Outcome:
    return _decode("quic_fl")


@case("FP16 encode, 2^22", repeat=3)
def fp16_encode() -> Outcome:
    return _encode("fp16")


@case("FP16 decode, 2^22", repeat=3)
def fp16_decode() -> Outcome:
    return _decode("fp16")


@case("INT8 encode, 2^22", repeat=3)
def int8_encode() -> Outcome:
    return _encode("int8")


def _rate(call: Callable[[], Any], turns: int = 1) -> float:
    """GB/s of float32 input of one call, by this thread's CPU time."""
    start = time.thread_time()
    call()
    return 4e-9 * D * turns / (time.thread_time() - start)


@case("rates in turn, 2^22: best GB/s of 15 rounds, PyTorch of 3", repeat=0)
def rates() -> Outcome:
    import torch

    from euston.compression import hadamard
    from euston.compression.eden import Eden

    torch.set_num_threads(1)
    x, y, codec, tensor = _vector(), _buffer(), Eden(4), torch.from_numpy(_vector())
    payload = codec.encode(x)
    calls: dict[str, Callable[[], Any]] = {
        "memcpy": lambda: np.copyto(y, x),
        "block_hadamard": lambda: hadamard(x, 7, block=4096, out=y),
        "full_hadamard": lambda: hadamard(x, 7, block=1 << 22, out=y),
        "eden_encode": lambda: codec.encode(x),
        "eden_decode": lambda: codec.decode(payload, out=y),
        "pytorch_eden_encode": lambda: torch_eden(tensor, 4),
    }
    best = dict.fromkeys(calls, 0.0)
    for turn in range(15):
        for name, call in calls.items():
            if name != "pytorch_eden_encode" or turn % 5 == 0:
                best[name] = max(best[name], _rate(call))
    got = codec.decode(payload).astype(np.float64)
    error = float(((got - x) ** 2).sum() / (x.astype(np.float64) ** 2).sum())
    found = {f"{name}_GB_per_s": round(rate, 3) for name, rate in best.items()}
    ratio = round(best["eden_encode"] / best["pytorch_eden_encode"], 1)
    return Outcome(work={**found, "eden_over_pytorch": ratio}, check=error)


if __name__ == "__main__":
    main()
