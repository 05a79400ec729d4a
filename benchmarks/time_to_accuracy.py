"""Time to accuracy of a small CNN under codecs, lost packets and skipped stragglers, five seeds each.

    python benchmarks/time_to_accuracy.py [--out runs.jsonl] [--seeds 5]

Four workers train one CNN on images of ten classes (drawn prototypes, shifted and noisy) with data-parallel
SGD until the loss on held-out images, measured every 5 steps, has been below 0.5 (mean of the last three
times). Every way of taking the mean uses the library's own codecs, packets and rules. A run is one line of
`--out`; those that are there already are not run again. Afterwards the table: steps with 95 % intervals over
seeds, the held-out accuracy at the last step (500), both also against the exact run of the same seed, the
noise v seen on the way, and seconds to the target.

Seconds are modelled, because four workers on one machine have no network: 100 MB of gradients, 10 Gb/s,
50 ms of computing with a P99/P50 of 2, transfers with one of 3 (assumptions); time to accuracy = steps times
(slowest worker waited for + exchange). Exact gradients wait for every packet (transpose all-reduce), the way
with losses ends its stages when the median node is done, skipping takes the first three of four workers.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np

WORKERS, BATCH, STEPS, RATE, TARGET, PACKET = 4, 8, 500, 0.02, 0.5, 300
WAYS = ("exact", "eden 4 bit", "eden 2 bit", "eden 1 bit", "eden 1 bit, 2 % loss", "thc", "first 3 of 4")
GRADIENT, BANDWIDTH, COMPUTE = 100e6, 1.25e9, 0.05


def images(torch: Any, seed: int, count: int, prototypes: Any) -> tuple[Any, Any]:
    """Noisy, shifted prototypes and their classes."""
    draw = torch.Generator().manual_seed(seed)
    classes = torch.randint(0, 10, (count,), generator=draw)
    shifts = torch.randint(-2, 3, (2, count, 1), generator=draw)
    row, column = (torch.arange(12) + shifts) % 12
    made = prototypes[classes[:, None, None], row[:, :, None], column[:, None, :]]
    return made[:, None] + 1.0 * torch.randn(count, 1, 12, 12, generator=draw), classes


def codec_of(way: str) -> Any:
    from euston.compression import CODECS

    if way.startswith("eden"):
        return CODECS.get("eden")(bits=int(way.split()[1]), packet=PACKET)
    if way == "thc":
        return CODECS.get("thc")(workers=WORKERS)
    return None


def mean_of(way: str, gradients: list[Any], step: int, seed: int, losses: list[Any], codec: Any) -> Any:
    """The mean by one way, float32[d]."""
    from euston.collectives.stragglers.k_of_n import KOfN
    from euston.compression import PacketsLost, StepKey

    if way == "first 3 of 4":
        rng = np.random.default_rng([seed, step])
        ready = np.exp(0.298 * rng.standard_normal((WORKERS, 1)))  # P99/P50 of 2
        included = KOfN(3).step(ready, np.zeros(WORKERS, bool)).included
        return np.mean([g for g, k in zip(gradients, included, strict=True) if k], axis=0)
    if codec is None:
        return np.mean(gradients, axis=0)
    found = []
    for worker, gradient in enumerate(gradients):
        payload = codec.encode(gradient, StepKey(job=seed, step=step, sender=worker))
        mask = ~losses[worker].lost(len(payload)) if losses else None
        try:
            found.append(codec.decode(payload, mask))
        except PacketsLost:
            continue
    return np.mean(found, axis=0)


def train(way: str, seed: int) -> dict[str, Any]:
    """One run."""
    import torch
    from torch import nn

    from euston.collectives.loss import Iid

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    prototypes = torch.randn(10, 12, 12, generator=torch.Generator().manual_seed(1000 + seed))
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(288, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip
    parameters, measure = list(model.parameters()), nn.CrossEntropyLoss()
    held, held_classes = images(torch, 10_000 + seed, 512, prototypes)
    losses = [Iid(0.02).start(100 * seed + w) for w in range(WORKERS)] if "loss" in way else []
    codec, seen, noise, reached = codec_of(way), [], [], None
    velocity = np.zeros(sum(p.numel() for p in parameters), np.float32)
    for step in range(STEPS):
        gradients = []
        for worker in range(WORKERS):
            x, y = images(torch, (seed * WORKERS + worker) * STEPS + step, BATCH, prototypes)
            model.zero_grad()
            measure(model(x), y).backward()
            gradients.append(torch.cat([p.grad.reshape(-1) for p in parameters]).numpy().copy())
        mean = mean_of(way, gradients, step, seed, losses, codec)
        exact = np.mean(gradients, axis=0)
        noise.append(float(((mean - exact) ** 2).sum() / np.mean([(g**2).sum() for g in gradients])))
        velocity = 0.9 * velocity + mean
        at = 0
        with torch.no_grad():
            for p in parameters:
                p -= RATE * torch.from_numpy(velocity[at : at + p.numel()]).view_as(p)
                at += p.numel()
            if step % 5 == 4:
                answer = model(held)
                seen.append(float(measure(answer, held_classes)))
                if reached is None and len(seen) >= 3 and statistics.mean(seen[-3:]) < TARGET:
                    reached = step + 1
    accuracy = float((answer.argmax(1) == held_classes).float().mean())
    return {"way": way, "seed": seed, "steps": reached, "accuracy": accuracy, "v": float(np.mean(noise))}


def seconds_per_step(way: str) -> float:
    """Modelled: the slowest worker that is waited for and the exchange."""
    from euston.collectives.tail import Tail, scheme_time

    rng = np.random.Generator(np.random.Philox(0))
    ready = np.sort(COMPUTE * Tail(2.0).sample(rng, 4000, WORKERS), axis=1)
    waited = float(ready[:, 2 if way == "first 3 of 4" else -1].mean())
    codec, d = codec_of(way), int(GRADIENT / 4)
    ratio = 1.0 if codec is None else codec.layout(1 << 20).bytes / (4 << 20)
    scheme = "bounded_transpose" if "loss" in way else "transpose"
    return waited + d * 4 * ratio / BANDWIDTH * scheme_time(scheme, WORKERS, Tail(3.0))


def interval(values: list[float]) -> tuple[float, float]:
    """Mean and half width of Student's 95 % interval."""
    from scipy.stats import t

    half = t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return statistics.mean(values), float(half)


def table(runs: list[dict[str, Any]]) -> None:
    from euston.collectives.time_to_accuracy import StepsCurve

    exact = {r["seed"]: r["steps"] for r in runs if r["way"] == "exact"}
    pairs = [
        (r["v"], r["steps"] / exact[r["seed"]])
        for r in runs
        if r["way"].startswith(("eden", "thc")) and r["steps"] and exact.get(r["seed"])
    ]
    for way in WAYS:
        mine = [r for r in runs if r["way"] == way]
        done = [float(r["steps"]) for r in mine if r["steps"]]
        if len(done) < 2:
            accuracies = [round(r["accuracy"], 4) for r in mine]
            print(
                json.dumps({"way": way, "reached": f"{len(done)} of {len(mine)}", "accuracies": accuracies})
            )
            continue
        steps, half = interval(done)
        accuracy, accuracy_half = interval([r["accuracy"] for r in mine])
        each = seconds_per_step(way)
        same = {r["seed"]: r for r in runs if r["way"] == "exact"}
        ratio, ratio_half = interval([r["steps"] / exact[r["seed"]] for r in mine if r["steps"]])
        gain, gain_half = interval([r["accuracy"] - same[r["seed"]]["accuracy"] for r in mine])
        row = {
            "way": way, "reached": f"{len(done)} of {len(mine)}", "steps": round(steps, 1),
            "steps_half": round(half, 1), "accuracy": round(accuracy, 4),
            "accuracy_half": round(accuracy_half, 4), "v": round(statistics.mean(r["v"] for r in mine), 4),
            "seconds_per_step": round(each, 4), "seconds": round(steps * each, 1),
            "seconds_half": round(half * each, 1),
            "steps_over_exact": round(ratio, 3), "steps_over_exact_half": round(ratio_half, 3),
            "accuracy_minus_exact": round(gain, 4), "accuracy_minus_exact_half": round(gain_half, 4),
        }  # fmt: skip
        print(json.dumps(row))
    if len(pairs) > 1:
        curve = StepsCurve.fit(*zip(*pairs, strict=True))
        print(json.dumps({"slope": round(curve.slope, 3), "half": round(curve.half_width, 3)}))


def main() -> None:
    parser = argparse.ArgumentParser(description="time to accuracy under codecs, losses and skipping")
    parser.add_argument("--out", type=Path, default=Path("time_to_accuracy.jsonl"))
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    runs = [json.loads(x) for x in options.out.read_text().splitlines()] if options.out.exists() else []
    there = {(r["way"], r["seed"]) for r in runs}
    for seed in range(options.seeds):
        for way in WAYS:
            if (way, seed) not in there:
                runs.append(train(way, seed))
                with options.out.open("a") as out:
                    out.write(json.dumps(runs[-1]) + "\n")
    table(runs)


if __name__ == "__main__":
    main()
