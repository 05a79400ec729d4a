"""Error feedback: nothing is lost in the long run, and what would grow is refused."""

import numpy as np
import pytest

from euston.compression import CODECS, ErrorFeedback, SizeMismatch, StepKey
from euston.compression.eden import Eden
from euston.compression.rand_k import RandK
from euston.compression.thc import Thc
from euston.compression.top_k import TopK
from euston.errors import ConfigError


def gaussian(d, seed=0):
    return np.random.default_rng(seed).standard_normal(d).astype(np.float32)


def vnmse(got, x):
    return float(((got.astype(np.float64) - x) ** 2).sum() / (x.astype(np.float64) ** 2).sum())


@pytest.mark.parametrize(
    "codec", [TopK(0.05), RandK(0.05, scale="plain"), Eden(1, scale="mse"), Thc(2, 0, 1 / 8)]
)
def test_what_was_said_and_what_is_left_is_all_there_was(codec):
    feeding = ErrorFeedback(codec)
    given, said = np.zeros(3000), np.zeros(3000)
    for step in range(20):
        x, key = gaussian(3000, step), StepKey(step=step, name="w")
        given += x
        said += feeding.decode(feeding.encode(x, key))
    left = feeding.state()["0/0/w"]
    assert np.abs(given - said - left).max() < 1e-4
    assert np.linalg.norm(left) < 20 * np.linalg.norm(x)  # bounded, not growing with every step


def test_a_constant_vector_is_said_in_full():
    x, codec = gaussian(2000), TopK(0.02)
    feeding = ErrorFeedback(codec)
    mean = np.mean([feeding.decode(feeding.encode(x, StepKey(step=s))) for s in range(2000)], axis=0)
    assert vnmse(mean, x) < 0.01 < vnmse(codec.decode(codec.encode(x)), x)


def test_buckets_and_senders_have_memories_of_their_own():
    feeding = ErrorFeedback(TopK(0.01))
    x = gaussian(1000)
    first = bytes(feeding.encode(x, StepKey(bucket=0, sender=0)))
    assert bytes(feeding.encode(x, StepKey(bucket=1, sender=0))) == first
    assert bytes(feeding.encode(x, StepKey(bucket=0, sender=1))) == first
    assert bytes(feeding.encode(x, StepKey(bucket=0, sender=0))) != first
    # A bucket that got another number but kept its name keeps its memory.
    named = ErrorFeedback(TopK(0.01))
    named.encode(x, StepKey(bucket=0, name="w"))
    assert (named.pending(x, StepKey(bucket=7, name="w")) != x).any()
    with pytest.raises(SizeMismatch, match="999 coordinates, 1000 in its error memory"):
        named.encode(x[:999], StepKey(bucket=7, name="w"))
    named.reset()
    assert (named.pending(x, StepKey(bucket=7, name="w")) == x).all()


def test_memory_survives_a_checkpoint():
    feeding, key = ErrorFeedback(Eden(1, scale="mse")), StepKey(job=3, sender=2, name="a/b.weight")
    feeding.encode(gaussian(500), key)
    other = ErrorFeedback(Eden(1, scale="mse"))
    other.load(feeding.state())
    x = gaussian(500, 1)
    assert bytes(other.encode(x, key)) == bytes(feeding.encode(x, key))


def test_what_the_network_lost_can_be_put_back():
    for codec in (Eden(4, packet=300), TopK(0.5, packet=300), Thc(packet=300)):
        feeding, key, x = ErrorFeedback(codec), StepKey(name="w"), gaussian(3000)
        payload = feeding.encode(x, key)
        lost = np.random.default_rng(0).random(len(payload)) < 0.3
        arrived = codec.restore(codec.unpack(payload, ~lost), key, 3000)
        feeding.put_back(payload, lost)
        assert arrived + feeding.state()["0/0/w"] == pytest.approx(x, abs=1e-4)


@pytest.mark.parametrize("codec", [RandK(0.01), Eden(0.5), Eden(0.1, scale="unbiased")])
def test_what_would_grow_is_refused(codec):
    with pytest.raises(ConfigError, match="would grow"):
        ErrorFeedback(codec).encode(gaussian(1000), StepKey(name="w"))


def test_the_wrapper_is_a_codec():
    inner = Thc()
    feeding = ErrorFeedback(inner)
    assert (feeding.name, feeding.unbiased, feeding.summable, feeding.rotated) == (
        "thc+ef",
        False,
        True,
        True,
    )
    assert feeding.bytes(5000) == inner.bytes(5000)
    assert feeding.layout(5000) is inner.layout(5000)
    assert feeding.expected_vnmse(5000) == inner.expected_vnmse(5000)
    x = gaussian(5000)
    norms = feeding.norms(x)
    total = feeding.sum(5000, StepKey(), norms)
    total.add(feeding.encode(x, StepKey(), norms=norms))
    assert vnmse(total.mean(), x) == pytest.approx(feeding.expected_vnmse(5000), rel=0.2)


@pytest.mark.parametrize("name", [n for n in CODECS.names() if n != "rand_k"])
def test_every_default_codec_can_be_fed_back(name):
    pytest.importorskip("torch", reason="needs torch") if name == "power_sgd" else None
    feeding = ErrorFeedback(CODECS.get(name)())
    errors = []
    for step in range(4):
        feeding.encode(gaussian(4096, step), StepKey(step=step))
        errors.append(np.linalg.norm(feeding.state()["0/0/bucket 0"]))
    assert np.isfinite(errors).all()
