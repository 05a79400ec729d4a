"""The federation against training that needs no federation: oracles (1) to (6) of the brief, each written
out plainly.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from euston.federated import (
    DataSet,
    Decoder,
    FederationConfig,
    OuterConfig,
    SyncConfig,
    load_parameters,
    train,
)
from euston.federated.layout import Flat, parameter_shapes
from euston.federated.schedule import learning_rate
from euston.federated.stream import TokenStream
from euston.models import Transformer

Make = Callable[..., FederationConfig]


def final(config: FederationConfig, data: DataSet, where: Path) -> np.ndarray:
    train(config, data, where)
    return load_parameters(where)[1]


def flatten(decoder: Decoder) -> np.ndarray:
    return torch.cat([p.detach().flatten() for p in decoder.parameters()]).numpy()


def plain_adam(config: FederationConfig, decoder: Decoder, stream: TokenStream, steps: int, first: int = 0,
               optimizer: torch.optim.Optimizer | None = None) -> torch.optim.Optimizer:  # fmt: skip
    """Plain PyTorch: the model's own parameters, AdamW over all of them, clipping by torch."""
    local = config.local
    optimizer = optimizer or torch.optim.AdamW(
        decoder.parameters(), lr=local.lr, betas=(local.beta1, local.beta2), eps=local.eps, weight_decay=0.0
    )
    for i in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(local, first + i, config.schedule_steps)
        optimizer.zero_grad()
        decoder.loss(torch.from_numpy(stream.batch(local.batch))).backward()
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), local.clip)
        optimizer.step()
    return optimizer


@pytest.mark.parametrize(
    "model",
    [
        Transformer("a", layers=2, hidden=16, heads=4, kv_heads=2, vocab=50, qk_norm=True),
        Transformer("b", layers=1, hidden=16, heads=2, vocab=50, biases=True, tied=True, gated=False,
                    norm="layernorm", positions="learned", max_positions=9),
        Transformer("c", layers=1, hidden=16, heads=2, vocab=50, positions="none"),
    ],
    ids=lambda m: m.name,
)  # fmt: skip
def test_layout_knows_the_decoder_without_torch(model: Transformer) -> None:
    decoder = Decoder(model)
    assert {n: tuple(p.shape) for n, p in decoder.named_parameters()} == parameter_shapes(model)
    assert [n for n, _ in decoder.named_parameters()] == list(parameter_shapes(model))
    assert Flat.of(model).size == model.parameters()
    logits = decoder(torch.zeros(2, 7, dtype=torch.int64))
    assert logits.shape == (2, 7, 50)


def test_decoder_is_causal() -> None:
    decoder = Decoder(Transformer("a", layers=2, hidden=16, heads=2, vocab=50), seed=3)
    tokens = torch.arange(12)[None] % 50
    other = tokens.clone()
    other[0, 8:] = 1
    with torch.no_grad():
        a, b = decoder(tokens), decoder(other)
    assert torch.allclose(a[:, :8], b[:, :8], atol=1e-6)
    assert not torch.allclose(a[:, 8:], b[:, 8:], atol=1e-3)


def test_one_client_with_plain_averaging_is_plain_training(
    federation: Make, data: DataSet, tmp_path: Path
) -> None:
    """Oracle 2, bit-equal to one uninterrupted run of the same trainer; and to plain PyTorch to 1e-5."""
    config = federation(clients=1)
    ours = final(config, data, tmp_path / "a")
    whole = config.with_(rounds=1, local={"steps": 16})
    assert np.array_equal(ours, final(whole, data, tmp_path / "b"))
    decoder = Decoder(config.model, config.seed)
    plain_adam(config, decoder, data.streams(config, 0)[0], 16)
    np.testing.assert_allclose(ours, flatten(decoder), rtol=0, atol=1e-5)


def test_sgd_every_step_over_clients_is_one_big_batch(
    federation: Make, data: DataSet, tmp_path: Path
) -> None:
    """Oracle 1: H = 1, SGD, FedAvg over K clients == SGD on the batch of all."""
    config = federation(rounds=5, local={"steps": 1, "optimizer": "sgd", "clip": 0.0, "lr": 0.1})
    ours = final(config, data, tmp_path / "a")
    decoder = Decoder(config.model, config.seed)
    streams = [data.streams(config, k)[0] for k in range(3)]
    for i in range(5):
        windows = torch.from_numpy(np.concatenate([s.batch(2) for s in streams]))
        decoder.zero_grad()
        decoder.loss(windows).backward()
        with torch.no_grad():
            for p in decoder.parameters():
                p -= learning_rate(config.local, i, 5) * p.grad
    np.testing.assert_allclose(ours, flatten(decoder), rtol=0, atol=1e-6)


def test_diloco_written_out(federation: Make, data: DataSet, tmp_path: Path) -> None:
    """DiLoCo by its pseudocode: K AdamWs that live on, torch's SGD(nesterov) outside."""
    config = federation(outer=OuterConfig("nesterov", 0.7, 0.9))
    ours = final(config, data, tmp_path / "a")
    outer = torch.nn.Parameter(torch.from_numpy(flatten(Decoder(config.model, config.seed)).copy()))
    sgd = torch.optim.SGD([outer], lr=0.7, momentum=0.9, nesterov=True)
    sites = [(Decoder(config.model), data.streams(config, k)[0]) for k in range(3)]
    adams: list[torch.optim.Optimizer | None] = [None] * 3
    for r in range(4):
        ends = []
        for k, (decoder, stream) in enumerate(sites):
            torch.nn.utils.vector_to_parameters(outer.detach().clone(), decoder.parameters())
            adams[k] = plain_adam(config, decoder, stream, 4, 4 * r, adams[k])
            ends.append(torch.from_numpy(flatten(decoder).copy()))
        outer.grad = outer.detach() - torch.stack(ends).mean(0)
        sgd.step()
    np.testing.assert_allclose(ours, outer.detach().numpy(), rtol=0, atol=2e-5)


def test_streaming_diloco_written_out(federation: Make, data: DataSet, tmp_path: Path) -> None:
    """Streaming DiLoCo by the paper's step loop: fragments at offsets, merged tau steps later with alpha."""
    h, tau, alpha, parts = 4, 1, 0.5, 2
    config = federation(
        rounds=6,
        outer=OuterConfig("nesterov", 0.7, 0.5),
        sync=SyncConfig(parts, overlap_steps=tau, mix=alpha),
    )
    ours = final(config, data, tmp_path / "a")
    layout = Flat.of(config.model, parts)
    own = [np.zeros(layout.size, bool) for _ in range(parts)]
    for f in range(parts):
        for s in layout.fragment_slices(f):
            own[f][s] = True
    start = flatten(Decoder(config.model, config.seed)).astype(np.float64)
    outer, momentum = start.copy(), np.zeros(layout.size)
    sites = [(Decoder(config.model, config.seed), data.streams(config, k)[0]) for k in range(3)]
    adams: list[torch.optim.Optimizer | None] = [None] * 3
    pending: dict[int, int] = {}
    for t in range(1, 13):  # step t ends with exchanges, begins with merges
        if t - 1 in pending:
            f = pending.pop(t - 1)
            for decoder, _ in sites:
                mixed = flatten(decoder).copy()
                mixed[own[f]] = alpha * mixed[own[f]] + (1 - alpha) * outer[own[f]]
                torch.nn.utils.vector_to_parameters(torch.from_numpy(mixed), decoder.parameters())
        for k, (decoder, stream) in enumerate(sites):
            adams[k] = plain_adam(config, decoder, stream, 1, t - 1, adams[k])
        for f in range(parts):
            if (t - h * (f + 1) // parts) % h == 0:
                g = outer - np.mean([flatten(d) for d, _ in sites], axis=0)
                momentum[own[f]] = 0.5 * momentum[own[f]] + g[own[f]]
                outer[own[f]] -= 0.7 * (g + 0.5 * momentum)[own[f]]
                pending[t + tau] = f
    np.testing.assert_allclose(ours, outer, rtol=0, atol=3e-5)


def test_streaming_with_one_fragment_is_diloco(federation: Make, data: DataSet, tmp_path: Path) -> None:
    """Oracle 6: F = 1 over the streaming path (parameters kept at sites, alpha tiny) tends to DiLoCo;
    alpha 0 is it.
    """
    plain = federation(outer=OuterConfig("nesterov", 0.7, 0.9))
    kept = plain.with_(sync={"mix": 1e-12})
    a, b = final(plain, data, tmp_path / "a"), final(kept, data, tmp_path / "b")
    assert np.array_equal(a, b)


def test_identical_clients_change_nothing(federation: Make, data: DataSet, tmp_path: Path) -> None:
    """Oracle 4: the mean of equal sites is any of them."""
    from euston.federated.backend import InProcess

    config = federation()
    one = config.with_(clients=1)

    class Same(InProcess):
        def _site(self, client: int):  # type: ignore[no-untyped-def]
            site = self._sites.get(client)
            if site is None:
                from euston.federated.site import Site

                streams = data.streams(one, 0)
                site = self._sites[client] = Site(config, streams, client, data.tokenizer.digest())
            return site

    train(config, data, tmp_path / "a", backend=Same(config, data))
    assert np.array_equal(load_parameters(tmp_path / "a")[1], final(one, data, tmp_path / "b"))


def test_averaged_moments_of_one_client_are_its_own(federation: Make, data: DataSet, tmp_path: Path) -> None:
    own = federation(clients=1)
    averaged = own.with_(local={"inner_state": "averaged"})
    assert np.array_equal(final(own, data, tmp_path / "a"), final(averaged, data, tmp_path / "b"))


@pytest.mark.parametrize("changes", [
    {"local": {"inner_state": "averaged", "average_first_every": 2}},
    {"local": {"inner_state": "stateless"}},
    {"local": {"optimizer": "adopt", "beta2": 0.9999}},
    {"local": {"schedule": "wsd", "weight_decay": 0.1}},
    {"outer": {"kind": "adam", "lr": 0.01, "momentum": 0.9}},
    {"islands": 2},
    {"per_round": 2},
    {"sync": {"codec": "fp4", "down_codec": "int8"}},
], ids=str)  # fmt: skip
def test_every_variant_learns(federation: Make, data: DataSet, tmp_path: Path, changes: dict) -> None:
    result = train(federation(rounds=8, **changes), data, tmp_path / "a")
    losses = result.tables["rounds"]["loss"].to_list()
    assert losses[-1] < losses[0] - 0.02


def test_topologies_agree(federation: Make, data: DataSet, tmp_path: Path) -> None:
    found = [final(federation(topology=t), data, tmp_path / t) for t in ("ps", "ar", "rar")]
    assert np.array_equal(found[0], found[1])
    np.testing.assert_allclose(found[0], found[2], rtol=0, atol=1e-5)


@pytest.mark.parametrize("changes", [
    {}, {"local": {"inner_state": "stateless"}}, {"islands": 2}, {"per_round": 2}, {"sync": {"fragments": 1}},
], ids=str)  # fmt: skip
def test_steps_ahead_change_nothing(
    federation: Make, data: DataSet, tmp_path: Path, changes: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A site that goes on while its update travels ends where one that waits does, losses included; also
    where its update is lost and the steps are undone.
    """
    from dataclasses import replace

    from euston.federated.backend import InProcess
    from euston.federated.site import Site

    sync = {"fragments": 2, "overlap_steps": 1, "mix": 0.5, "codec": "int8", "down_codec": "int8"}
    config = federation(rounds=8, **{**changes, "sync": {**sync, **changes.get("sync", {})}})

    class Loses(InProcess):
        def poll(self, timeout: float):  # type: ignore[no-untyped-def]
            replies = super().poll(timeout)
            gone = [r.client == 1 and r.round == 3 for r in replies]
            return [replace(r, status="failed") if g else r for r, g in zip(replies, gone, strict=True)]

    def rounds(name: str) -> list[float]:
        table = train(config, data, tmp_path / name, backend=Loses(config, data)).tables["rounds"]
        return table["loss"].to_list()

    waits = rounds("a")
    work, used = Site.work, []

    def eager(self: Site, order):  # type: ignore[no-untyped-def]
        reply = work(self, order)
        used.append(self._begun is not None)
        if reply.status == "ok":
            self.ahead(order)
        return reply

    monkeypatch.setattr(Site, "work", eager)
    assert rounds("b") == waits
    assert np.array_equal(load_parameters(tmp_path / "a")[1], load_parameters(tmp_path / "b")[1])
    assert any(used) and not all(used)
