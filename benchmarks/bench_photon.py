"""Federated training on one core: its cost beside a plain torch loop, bytes, folding, saving, simulation.

`overhead` takes turns in one process, because a shared machine is not the same one a minute later: a plain
loop (the same decoder, torch's AdamW over its tensors, clipping, the same batches), the same loop with all
parameters in one flat tensor, and one round of the federation with H = 64 (orders, encoding, hashes, checks,
mean, outer step, checkpoint). The medians of the ratios of neighbours are in `work`.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from _harness import Outcome, case, main

if TYPE_CHECKING:
    from euston.federated import DataSet, FederationConfig

H, TURNS = 64, 5


@cache
def _data() -> DataSet:
    from euston.federated import build

    return build(["python:topics"], Path(tempfile.mkdtemp()) / "data")


def federation(width: int = 128, layers: int = 4, **changes: Any) -> FederationConfig:
    """The middle size of the quality study: 0.8 M parameters, four sites, H = 64."""
    from euston.federated import FederationConfig, LocalConfig
    from euston.models import Transformer

    model = Transformer(
        "bench", layers=layers, hidden=width, heads=4, vocab=257, gated=False, norm="layernorm",
        positions="learned", max_positions=64, tied=True, biases=True,
    )  # fmt: skip
    local = LocalConfig(steps=H, batch=4, sequence=64, lr=1e-3, warmup=10)
    return FederationConfig(model, clients=4, rounds=1, local=local, evaluate_every=10**9).with_(**changes)


def plain_loop(config: FederationConfig, data: DataSet, flat: bool) -> float:
    """H steps for each site one after the other, without a federation; the last loss."""
    import torch

    from euston.federated.decoder import Decoder
    from euston.federated.schedule import learning_rate

    local, loss = config.local, torch.zeros(())
    for client in range(config.clients):
        stream = data.streams(config, client)[0]
        decoder = Decoder(config.model, config.seed)
        parameters = list(decoder.parameters())
        if flat:
            parameters = [_flattened(parameters)]
        optimizer = torch.optim.AdamW(
            parameters, lr=local.lr, betas=(local.beta1, local.beta2), eps=local.eps, weight_decay=0.0
        )
        for step in range(local.steps):
            windows = torch.from_numpy(stream.batch(local.batch))
            optimizer.zero_grad(set_to_none=not flat)
            loss = decoder.loss(windows)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, local.clip)
            optimizer.param_groups[0]["lr"] = learning_rate(local, step, config.schedule_steps)
            optimizer.step()
    return float(loss.detach())


def _flattened(parameters: list[Any]) -> Any:
    import torch

    whole = torch.nn.Parameter(torch.cat([p.detach().flatten() for p in parameters]))
    whole.grad = torch.zeros_like(whole)
    start = 0
    for p in parameters:
        p.data = whole.data[start : start + p.numel()].view(p.shape)
        p.grad = whole.grad[start : start + p.numel()].view(p.shape)
        start += p.numel()
    return whole


def one_round(config: FederationConfig, data: DataSet) -> tuple[float, float]:
    """Seconds of a round that is neither the first nor the last (which evaluates), and its loss."""
    from euston.federated import train

    times: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        rows: list[dict[str, Any]] = []

        def tell(row: dict[str, Any]) -> None:
            rows.append(row)
            times.append(time.thread_time())

        train(config.with_(rounds=3), data, folder, progress=tell)
    return times[1] - times[0], float(rows[1]["loss"])


@case("overhead of the federation at H = 64: medians over 5 turns beside plain torch loops", repeat=0)
def overhead() -> Outcome:
    import torch

    torch.set_num_threads(1)
    config, data = federation(), _data()
    ours, tensors, flats, check = [], [], [], 0.0
    for _ in range(TURNS):
        start = time.thread_time()
        plain_loop(config, data, flat=False)
        middle = time.thread_time()
        plain_loop(config, data, flat=True)
        tensors.append(middle - start)
        flats.append(time.thread_time() - middle)
        seconds, check = one_round(config, data)
        ours.append(seconds)
    return Outcome(
        work={
            "steps": float(H * config.clients),
            "tokens_per_s": H * config.clients * 256 / statistics.median(ours),
            "overhead": statistics.median(a / b - 1 for a, b in zip(ours, tensors, strict=True)),
            "overhead_flat": statistics.median(a / b - 1 for a, b in zip(ours, flats, strict=True)),
        },
        check=check,
    )


@case("payload against an exchange of fp32 gradients every step, H = 64", repeat=0)
def payload() -> Outcome:
    """Counted by a real run, rounds in the middle (the first has no way down, only the initial model)."""
    ratios = {}
    for name, sync in (
        ("fp32", {}), ("bf16", {"codec": "bf16", "down_codec": "bf16"}),
        ("int8", {"codec": "int8", "down_codec": "int8"}), ("fp4", {"codec": "fp4", "down_codec": "fp4"}),
    ):  # fmt: skip
        ratios[name] = payload_ratio(federation(rounds=3, local={"batch": 1}, sync=sync), _data())
    return Outcome(work=ratios, check=ratios["fp32"])


def payload_ratio(config: FederationConfig, data: DataSet) -> float:
    """Bytes of H exchanges of gradients over what the last round moved."""
    from euston.federated import per_step_bytes, train

    with tempfile.TemporaryDirectory() as folder:
        last = train(config, data, folder).tables["rounds"].tail(1)
    moved = sum(last[f"bytes_{kind}"][0] for kind in ("up", "down", "peers"))
    return per_step_bytes(config) * config.clients * config.steps_per_round / moved


def _copied() -> Outcome:
    x, y = np.ones(1 << 24, np.float32), np.zeros(1 << 24, np.float32)
    for _ in range(8):
        np.copyto(y, x)
    return Outcome(work={"bytes": 8 * 4.0 * x.size}, check=float(y[-1]))


@case("folding 8 updates of 2^24 parameters into a mean (baseline: memcpy)", baseline=_copied, repeat=3)
def folding() -> Outcome:
    from euston.federated.exchange import Mean

    x, mean = np.ones(1 << 24, np.float32), Mean(1 << 24)
    for _ in range(8):
        mean.fold(x, 1.0)
    return Outcome(work={"bytes": 8 * 4.0 * x.size}, check=float(mean.value()[-1]))


@case("checkpoint of 2^24 parameters with momentum, written and read", repeat=3)
def saving() -> Outcome:
    from euston.federated import checkpoint

    x = np.ones(1 << 24, np.float32)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "round-00000001.ckpt"
        checkpoint.write(path, {}, {"theta": x, "momentum": x})
        back = checkpoint.read(path)
    return Outcome(work={"bytes": 8.0 * x.size}, check=float(back.arrays["momentum"][-1]))


@case("simulated: 1,000 rounds of 64 clients, 8 sampled, Streaming, on a star of cables", repeat=3)
def simulated() -> Outcome:
    from euston.fabrics import wan
    from euston.federated.simulated import Client, simulate_federation
    from euston.federated.wan import Wan

    sync = {"fragments": 4, "overlap_steps": 1, "codec": "fp4", "down_codec": "fp4"}
    config = federation(clients=64, per_round=8, rounds=1000, sync=sync)
    net = Wan(wan([("hub", f"s{i}", "1 Gb/s", "40 ms") for i in range(64)], tunnels=1))
    found = simulate_federation(config, [Client(f"c{i}", i + 1, 0.1) for i in range(64)], net, 0)
    return Outcome(work={"rounds": float(len(found.rounds))}, check=found.wall)


if __name__ == "__main__":
    main()
