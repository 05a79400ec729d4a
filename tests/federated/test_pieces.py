"""Schedules, outer optimisers, partitions, codecs, bytes and formulas against torch, Flower and closed
forms.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from euston.compression import NonFinite, StepKey
from euston.errors import ConfigError
from euston.federated import (
    DataSet,
    FederationConfig,
    LocalConfig,
    OuterConfig,
    PartitionConfig,
    ring_order,
    round_bytes,
    train,
    wall_time,
)
from euston.federated.coding import codec_of, decode, encode
from euston.federated.exchange import Mean, OrderedFold, ring_mean
from euston.federated.outer import Outer
from euston.federated.partition import heterogeneity, partition
from euston.federated.privacy import clipped, epsilon, noise
from euston.federated.schedule import learning_rate
from euston.federated.stream import TokenStream, Windows
from euston.federated.tokenizer import Bytes, load_tokenizer, train_bpe
from euston.federated.wire import Order, Part, ProtocolMismatch, Reply, pack, unpack

Make = Callable[..., FederationConfig]


def test_import_needs_no_torch() -> None:
    code = "import sys, euston.federated as f; f.FederationConfig; f.round_bytes; " + (
        "print('torch' in sys.modules, 'flwr' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_nesterov_is_torchs(federation: Make) -> None:
    """Oracle 3: 20 random steps beside torch.optim.SGD(nesterov=True)."""
    random = np.random.default_rng(1)
    for kind, nesterov in (("nesterov", True), ("heavyball", False)):
        theta = random.normal(size=50).astype(np.float32)
        parameter = torch.nn.Parameter(torch.from_numpy(theta.copy()))
        reference = torch.optim.SGD([parameter], lr=0.7, momentum=0.9, nesterov=nesterov)
        outer = Outer(OuterConfig(kind, 0.7, 0.9), 50)
        for _ in range(20):
            g = random.normal(size=50)
            outer.step(theta, theta - g, [slice(0, 50)])
            parameter.grad = torch.from_numpy(g.astype(np.float32))
            reference.step()
        np.testing.assert_allclose(theta, parameter.detach().numpy(), rtol=1e-5, atol=1e-5)


def test_fedmom_form_is_the_same_sequence() -> None:
    """v_new = theta - eta g, theta <- (1 + mu) v_new - mu v_old equals Nesterov as torch takes it."""
    random = np.random.default_rng(2)
    theta = random.normal(size=20).astype(np.float32)
    outer, other, old = Outer(OuterConfig("nesterov", 0.5, 0.8), 20), theta.astype(float), theta.astype(float)
    for _ in range(10):
        g = random.normal(size=20)
        outer.step(theta, theta - g, [slice(0, 20)])
        new = other - 0.5 * g
        other, old = 1.8 * new - 0.8 * old, new
    np.testing.assert_allclose(theta, other, atol=1e-5)


def test_adam_and_averages_are_flowers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against Flower's own FedAdam, and our strategy against torch, on messages."""
    from euston.federated.flower_env import silence

    silence()
    from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
    from flwr.serverapp.strategy import FedAdam
    from flwr.supercore.task_identity import TaskIdentity

    from euston.federated import NesterovOuter

    for name in ("_task_id", "_run_id", "_node_id"):  # messages can be made inside a run only
        monkeypatch.setattr(TaskIdentity, name, 1)
    random = np.random.default_rng(3)
    theirs = FedAdam(eta=0.05, beta_1=0.9, beta_2=0.99, tau=1e-3)
    nesterov = NesterovOuter(0.7, 0.9)
    a, b = random.normal(size=12).astype(np.float32), random.normal(size=12).astype(np.float32)
    outer = Outer(OuterConfig("adam", 0.05, 0.9, 0.99, 1e-3), 12)
    parameter = torch.nn.Parameter(torch.from_numpy(b.copy()))
    sgd = torch.optim.SGD([parameter], lr=0.7, momentum=0.9, nesterov=True)
    mine, theta = a.copy(), b.copy()

    def replies(models: list[np.ndarray]) -> list[Message]:
        made = []
        for model in models:
            content = RecordDict(
                {"arrays": ArrayRecord({"w": Array(model)}), "m": MetricRecord({"num-examples": 4})}
            )
            made.append(Message(content, reply_to=Message(RecordDict(), 1, "train")))
        return made

    for r in range(1, 5):
        models = [random.normal(size=12).astype(np.float32) for _ in range(3)]
        theirs.current_arrays = {"w": a}
        found, _ = theirs.aggregate_train(r, replies(models))
        a = found["w"].numpy()
        outer.step(mine, np.mean(models, axis=0).astype(np.float64), [slice(0, 12)])
        np.testing.assert_allclose(mine, a, rtol=1e-4, atol=1e-5)
        nesterov._arrays = {"w": theta}
        moved, _ = nesterov.aggregate_train(r, replies(models))
        theta = moved["w"].numpy()
        parameter.grad = parameter.detach() - torch.from_numpy(np.mean(models, axis=0))
        sgd.step()
        np.testing.assert_allclose(theta, parameter.detach().numpy(), rtol=1e-4, atol=1e-5)


def test_schedules() -> None:
    cosine = LocalConfig(lr=1.0, warmup=10, floor=0.1)
    assert [learning_rate(cosine, t, 110) for t in (0, 9, 10, 60, 110, 500)] == pytest.approx(
        [0.1, 1.0, 1.0, 0.55, 0.1, 0.1])  # fmt: skip
    wsd = LocalConfig(lr=1.0, warmup=0, floor=0.0, schedule="wsd", decay=0.2)
    assert [learning_rate(wsd, t, 100) for t in (0, 80, 90, 100)] == pytest.approx([1, 1, 0.5, 0])


def test_stream_continues_from_its_cursor() -> None:
    windows = Windows([np.arange(100, dtype=np.uint16), np.arange(100, 170, dtype=np.uint16)], 4)
    assert windows.counts == [20, 14]
    one = TokenStream(windows, np.arange(34), 7, 2)
    all_ = one.batch(100)
    two = TokenStream(windows, np.arange(34), 7, 2)
    two.cursor = 61
    assert np.array_equal(two.batch(39), all_[61:])
    assert sorted(all_[:34, 0].tolist()) == sorted(
        windows[w][0] for w in range(34)
    )  # an epoch is every window once


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["iid", "by_source", "lda", "mixed", "quantity_skew"]),
    st.lists(st.integers(20, 200), min_size=1, max_size=5), st.integers(1, 8), st.integers(0, 5),
)  # fmt: skip
def test_partitions_are_disjoint_and_complete(kind: str, sources: list[int], clients: int, seed: int) -> None:
    dealt = partition(PartitionConfig(kind, alpha=5.0), sources, clients, seed)
    assert np.array_equal(np.sort(np.concatenate(dealt)), np.arange(sum(sources)))
    assert len(dealt) == clients and all(d.size for d in dealt)


def test_lda_tends_to_uniform() -> None:
    for alpha, limit in ((1e6, 0.01), (0.3, 0.5)):
        dealt = partition(PartitionConfig("lda", alpha=alpha), [4000, 4000], 4, 1)
        shares = np.array([[np.sum(d < 4000), np.sum(d >= 4000)] for d in dealt]) / 1000
        spread = np.abs(shares - 1).max()
        assert spread <= limit if alpha > 1 else spread > limit


def test_heterogeneity_has_its_bounds() -> None:
    windows = Windows([np.zeros(100, np.uint8), np.ones(100, np.uint8)], 4)
    assert heterogeneity(windows, [np.arange(20), np.arange(20, 40)], 2) == pytest.approx(
        1.0
    )  # disjoint: log2(2)
    assert heterogeneity(windows, [np.arange(0, 40, 2), np.arange(1, 40, 2)], 2) == pytest.approx(0.0)


@pytest.mark.parametrize("name", ["none", "fp16", "bf16", "int8", "int4", "fp8", "fp4"])
def test_codecs_through_bytes(name: str) -> None:
    """Oracle 7: real packed bytes of the promised length, zero to zero, int8 within half a step, fp4
    monotone.
    """
    random = np.random.default_rng(4)
    vector = random.normal(size=1000).astype(np.float32)
    vector[700:] = 0
    slices = [slice(0, 300), slice(300, 700), slice(700, 1000)]
    blobs = encode(name, vector, slices, StepKey())
    assert [b.nbytes for b in blobs] == [codec_of(name).bytes(s.stop - s.start) for s in slices]
    out = np.full(1000, 9, np.float32)
    decode(name, blobs, slices, out, StepKey())
    assert not out[700:].any()
    if name == "int8":
        for first in range(0, 300, 256):
            part = slice(first, min(300, first + 256))
            assert np.abs(out[part] - vector[part]).max() <= np.abs(vector[part]).max() / 127 / 2 * 1.001
    if name == "fp4":
        order = np.argsort(vector[:300])
        assert (np.diff(out[:300][order]) >= 0).all()
    with pytest.raises(NonFinite):
        encode(name, np.array([1, np.nan], np.float32), [slice(0, 2)], StepKey())


def test_folding_does_not_depend_on_arrival() -> None:
    """Oracle 5."""
    random = np.random.default_rng(5)
    vectors = {k: (random.normal(size=30).astype(np.float32), int(random.integers(1, 99))) for k in range(4)}
    sums = []
    for order in permutations(range(4)):
        mean = Mean(30)
        fold: OrderedFold = OrderedFold(range(5), lambda v, mean=mean: mean.fold(*v))
        for k in order:
            fold.offer(k, vectors[k])
        fold.offer(4, None)
        sums.append(mean.value())
    assert all(np.array_equal(s, sums[0]) for s in sums)
    exact = sum(v.astype(float) * w for v, w in vectors.values()) / sum(w for _, w in vectors.values())
    np.testing.assert_allclose(sums[0], exact, rtol=1e-12)


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_ring_gives_the_mean_for_the_formulas_bytes(k: int) -> None:
    random = np.random.default_rng(6)
    vectors = [random.normal(size=257).astype(np.float32) for _ in range(k)]
    held, sent = ring_mean(vectors, range(1, k + 1), "none", StepKey())
    np.testing.assert_allclose(held[0], np.average(vectors, axis=0, weights=range(1, k + 1)), atol=1e-6)
    assert sum(sent) == 2 * (k - 1) * 257 * 4
    for codec in ("int8", "fp4"):
        held, _ = ring_mean(vectors, [1] * k, codec, StepKey())
        assert all(np.array_equal(h, held[0]) for h in held)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"sync": {"codec": "fp4", "down_codec": "fp4"}},
        {"sync": {"fragments": 2, "codec": "int8"}},
        {"sync": {"fragments": 2, "down_codec": "int8"}},
        {"topology": "ar"},
        {"topology": "rar", "sync": {"codec": "int8"}},
        {"local": {"inner_state": "averaged", "average_second_every": 2}},
    ],
    ids=str,
)
def test_counted_bytes_are_those_foreseen(
    federation: Make, data: DataSet, tmp_path: Path, changes: dict
) -> None:
    """Oracle 9: what the trainer counted is what the configuration says, to the byte."""
    config = federation(**changes)
    table = train(config, data, tmp_path / "a").tables["rounds"]
    for r, row in enumerate(table.to_dicts()):
        foreseen = round_bytes(config, r)
        down = row["bytes_down"] if r else 0
        assert (row["bytes_up"], down, row["bytes_peers"]) == (foreseen.up, foreseen.down, foreseen.peers)


def test_wall_time_properties() -> None:
    """Oracle 8."""
    t = wall_time(1e9, 4, 64, 10, 2.0, 1e15)
    assert t.utilisation == pytest.approx(1.0, abs=1e-5)
    assert t.compute == pytest.approx(320.0)
    for k in range(2, 9):
        rar, ar = (wall_time(1e9, k, 1, 1, 1.0, 1e9, kind) for kind in ("rar", "ar"))
        assert rar.bytes_per_client <= ar.bytes_per_client + 1e-6
        assert (rar.bytes_per_client == pytest.approx(ar.bytes_per_client)) == (k == 2)
    assert wall_time(1e9, 4, 64, 1, 1.0, 1e9, latency=0.1).communication == pytest.approx(2 * (1 + 0.1))
    assert wall_time(1e9, 4, 64, 1, 1.0, 1e9, overlap_steps=2).communication == 0.0


def test_ring_order_is_the_best_of_all() -> None:
    random = np.random.default_rng(8)
    for k in (4, 5, 6):
        rate = random.random((k, k))
        rate = rate + rate.T

        def slowest(order, rate=rate):  # type: ignore[no-untyped-def]
            return min(rate[a, b] for a, b in zip(order, [*order[1:], order[0]], strict=True))

        best = max(slowest([0, *p]) for p in permutations(range(1, k)))
        assert slowest(ring_order(rate.tolist())) == pytest.approx(best)


def test_privacy_accounting_and_clipping() -> None:
    """Against the definition integrated numerically: delta(eps) of two shifted normals."""
    from scipy.integrate import quad
    from scipy.stats import norm

    for z, rounds, delta in ((1.0, 1, 1e-5), (2.0, 30, 1e-6)):
        eps, mu = epsilon(z, rounds, delta), np.sqrt(rounds) / z
        start = eps / mu + mu / 2  # where the density ratio passes exp(eps)
        found, _ = quad(lambda x, m=mu, e=eps: norm.pdf(x - m) - np.exp(e) * norm.pdf(x), start, start + 40)
        assert found == pytest.approx(delta, rel=1e-4)
    view, new, s = np.zeros(6, np.float32), np.full(6, 2, np.float32), [slice(0, 2), slice(4, 6)]
    moved = clipped(view, new, s, 1.0)
    assert np.linalg.norm(np.concatenate([moved[x] for x in s])) == pytest.approx(1.0)
    assert np.array_equal(clipped(view, new, s, 10.0), new)
    drawn = noise(100_000, 0.5, 3, 1)
    assert drawn.std() == pytest.approx(0.5, rel=0.02)
    assert np.array_equal(drawn, noise(100_000, 0.5, 3, 1)) and not np.array_equal(
        drawn, noise(100_000, 0.5, 3, 2)
    )


def test_tokenizers(tmp_path: Path) -> None:
    texts = ["the cat sat on the mat. Äöü €", "the dog sat on the cat"] * 20
    for made in (Bytes(), train_bpe(texts, 300)):
        for text in texts[:2]:
            tokens = made.encode(text)
            assert made.decode(tokens.tolist()) == text
            assert made.byte_lengths()[tokens].sum() == len(text.encode())
            assert tokens.max() < made.vocab - 1
        made.save(tmp_path / "t.json")
        assert load_tokenizer(tmp_path / "t.json").digest() == made.digest()


def test_messages_survive_the_wire() -> None:
    blobs = (np.arange(5, dtype=np.uint8), np.zeros(0, np.uint8))
    order = Order("r", 3, 1, 2, 40, 4, 1, 2, 0, 2, (7, 9), "ab", 0.0, True, "int8", ("first",), "t",
                  (Part(1, "full", 2),), blobs)  # fmt: skip
    got = unpack(Order, pack(order))
    assert got == order and all(np.array_equal(a, b) for a, b in zip(got.blobs, blobs, strict=True))
    with pytest.raises(ProtocolMismatch, match="truncated"):
        unpack(Order, pack(order)[:-1])
    reply = Reply("r", 0, 0, 0, "p")
    text = json.dumps({**json.loads(pack(reply)[8:].decode()), "protocol": 99})
    with pytest.raises(ProtocolMismatch, match=r"99.*1"):
        import struct

        unpack(Reply, struct.pack("<II", len(text), 0) + text.encode())


@pytest.mark.parametrize(("changes", "words"), [
    ({"sync": {"fragments": 3}}, "3 does not divide local.steps = 4"),
    ({"sync": {"fragments": 2, "overlap_steps": 2}}, "2 must be below"),
    ({"sync": {"codec": "int9"}}, "did you mean 'int8'"),
    ({"per_round": 9}, "9 is more than the 3 clients"),
    ({"topology": "rar", "sync": {"down_codec": "int8"}}, "no way down"),
    ({"local": {"sequence": 99}}, "16 positions"),
    ({"token_budget": 5}, "either rounds or token_budget"),
], ids=str)  # fmt: skip
def test_contradictions_are_named(federation: Make, changes: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        federation(**changes)


def test_config_from_plain_data(federation: Make) -> None:
    config = federation(sync={"fragments": 2})
    assert FederationConfig.from_values(json.loads(json.dumps(config.values()))) == config
    for bad, words in (
        ({"local": {"step": 1}}, "local.step`: unknown key; did you mean 'steps'"),
        ({"clients": "many"}, "clients`: 'many'"),
        ({"secure_aggregation": True}, "not supported"),
    ):
        with pytest.raises(ConfigError, match=words):
            FederationConfig.from_values({**config.values(), **bad})
