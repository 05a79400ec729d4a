"""Every codec of the registry: conformance, exact sizes, packets that decode alone, equal bytes always."""

import hashlib
import os
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest

from euston.compression import CODECS, NonFinite, PacketsLost, Payload, SizeMismatch, StepKey
from euston.testing import PolicyError, check_policy

NAMES = [
    pytest.param(
        name, marks=pytest.mark.skipif(name == "power_sgd" and not find_spec("torch"), reason="needs torch")
    )
    for name in CODECS.names()
]


def gaussian(d, seed=0):
    return np.random.default_rng(seed).standard_normal(d).astype(np.float32)


@pytest.mark.parametrize("name", NAMES)
def test_registered_codecs_conform(name):
    check_policy(CODECS.get(name)())


def test_a_codec_that_lies_is_caught():
    eden = CODECS.get("eden")

    class Boasting(eden):
        def expected_vnmse(self, d, loss=0.0):
            return super().expected_vnmse(d, loss) / 2

    class Deaf(eden):
        def encode(self, x, key):
            return super().encode(np.nan_to_num(x), key)

    class Growing(eden):
        unbiased = False

    for broken, word in ((Boasting(), "more than it says"), (Deaf(), "NaN"), (Growing(0.5), "unbiased")):
        with pytest.raises(PolicyError, match=word):
            check_policy(broken)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("d", [0, 1, 33, 1000, 20_011])
def test_sizes_are_exact_and_known_before(name, d):
    codec = CODECS.get(name)()
    payload = codec.encode(gaussian(d))
    assert len(bytes(payload)) == codec.bytes(d) == codec.layout(d).bytes
    assert sum(len(payload.packet(j)) for j in range(len(payload))) == codec.bytes(d)
    assert all(len(payload.packet(j)) <= 1452 for j in range(len(payload)))
    assert codec.decode(payload).shape == (d,)


@pytest.mark.parametrize("name", [name for name in CODECS.names() if name != "power_sgd"])
def test_packets_decode_alone(name):
    codec = CODECS.get(name)()
    payload = codec.encode(gaussian(30_000))
    together = np.zeros_like(codec.unpack(payload))
    for j in range(len(payload)):
        receiver = Payload.empty(codec, 30_000, payload.key)
        receiver.place(j, payload.packet(j))
        together += codec.unpack(receiver, np.arange(len(payload)) == j)
    assert (together == codec.unpack(payload)).all()


@pytest.mark.parametrize("name", NAMES)
def test_noise_in_place_of_missing_packets_does_not_matter(name):
    codec, rng = CODECS.get(name)(), np.random.default_rng(0)
    payload = codec.encode(gaussian(30_000))
    came = rng.random(len(payload)) < 0.7
    came[0] = True
    noisy = payload.fill(bytes(payload))
    for j in np.flatnonzero(~came):
        noisy.place(j, rng.bytes(len(payload.packet(j))))
    assert (codec.decode(noisy, came, lost="zero") == codec.decode(payload, came, lost="zero")).all()


SCRIPT = """
import hashlib, numpy as np
from euston.compression import CODECS, StepKey
x = np.random.default_rng(5).standard_normal(10_000).astype(np.float32)
for name in {names}:
    payload = CODECS.get(name)().encode(x, StepKey(1, 2, 3, 4))
    print(name, hashlib.sha256(bytes(payload)).hexdigest())
"""


@pytest.mark.parametrize(
    "cpu", ["host", pytest.param("generic", marks=pytest.mark.slow)], ids=["other process", "other processor"]
)
def test_others_make_the_same_bytes(cpu):
    # "generic" compiles for a processor without AVX: other vector widths, no permutations.
    names = [name for name in CODECS.names() if name != "power_sgd"]
    environment = os.environ | ({"NUMBA_CPU_NAME": cpu} if cpu == "generic" else {})
    command = [sys.executable, "-c", SCRIPT.format(names=names)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    x = np.random.default_rng(5).standard_normal(10_000).astype(np.float32)
    for line in done.stdout.splitlines():
        name, digest = line.split()
        payload = CODECS.get(name)().encode(x, StepKey(1, 2, 3, 4))
        assert hashlib.sha256(bytes(payload)).hexdigest() == digest, name


@pytest.mark.parametrize("name", ["drive", "eden", "thc", "quic_fl", "rand_k"])
def test_other_keys_make_other_bytes(name):
    codec, x = CODECS.get(name)(), gaussian(5000)
    keys = [StepKey(), StepKey(job=1), StepKey(step=1), StepKey(bucket=1)]
    assert len({bytes(codec.encode(x, key)) for key in keys}) == 4


@pytest.mark.parametrize("name", NAMES)
def test_nan_names_the_bucket_and_the_place(name):
    x = gaussian(3000)
    x[1234] = np.nan
    with pytest.raises(NonFinite, match=r"h\.0\.attn.*1 values.*1234"):
        CODECS.get(name)().encode(x, StepKey(name="h.0.attn"))


@pytest.mark.parametrize("name", NAMES)
def test_torch_tensors_and_given_memory(name):
    torch = pytest.importorskip("torch", reason="torch is not installed (extra lossy)")
    codec, x = CODECS.get(name)(), gaussian(5000)
    key = StepKey(step=3)
    from_torch = codec.encode(torch.from_numpy(x.copy()), key)
    plain = CODECS.get(name)().encode(x, key)
    assert bytes(from_torch) == bytes(plain)
    out = torch.zeros(5000)
    codec.decode(plain, out=out)
    assert (out.numpy() == codec.decode(plain)).all()
    half = codec.encode(torch.from_numpy(x).half(), StepKey(step=4))
    widened = CODECS.get(name)().encode(x.astype(np.float16).astype(np.float32), StepKey(step=4))
    assert half.d == widened.d
    with pytest.raises(SizeMismatch, match="room for 4999"):
        codec.decode(plain, out=np.zeros(4999, np.float32))


@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_vector_is_refused(name):
    codec = CODECS.get(name)()
    for bad in (np.zeros((2, 3), np.float32), np.zeros(5), np.zeros(10, np.float32)[::2], [1.0, 2.0]):
        with pytest.raises(SizeMismatch, match="head"):
            codec.encode(bad, StepKey(name="head"))


@pytest.mark.parametrize("name", NAMES)
def test_everything_lost_is_never_silent(name):
    codec = CODECS.get(name)()
    payload = codec.encode(gaussian(5000), StepKey(name="head"))
    with pytest.raises(PacketsLost, match="head"):
        codec.decode(payload, np.zeros(len(payload), bool))
