"""Why dividing by the number that arrived is wrong for slow workers with data of their own.

    python benchmarks/bias_of_rules.py

Four workers fit one linear model, each on data of its own (the fourth's differ). All but the fourth arrive
always, the fourth with a probability of 0.4. Prints, for each aggregation rule, how far the model ends from
the one that all data together ask for: mean and range over ten seeds, in units of the distance between the
fourth's own optimum and that of the others.
"""

from __future__ import annotations

import argparse
import json

import numpy as np

WORKERS, D, SAMPLES, STEPS, RATE, SLOW = 4, 20, 400, 3000, 0.05, 0.4


def problem(seed: int) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray, float]:
    """Inputs and targets of every worker, the joint optimum, the distance between the two groups' optima."""
    rng = np.random.default_rng(seed)
    common, other = rng.standard_normal(D), rng.standard_normal(D)
    inputs = [rng.standard_normal((SAMPLES, D)) for _ in range(WORKERS)]
    targets = [
        x @ (other if k == WORKERS - 1 else common) + 0.1 * rng.standard_normal(SAMPLES)
        for k, x in enumerate(inputs)
    ]
    joint = np.linalg.lstsq(np.concatenate(inputs), np.concatenate(targets), rcond=None)[0]
    return inputs, targets, joint, float(np.linalg.norm(common - other))


def distance(rule: str, seed: int) -> float:
    """Distance of the trained model from the joint optimum, averaged over its last third."""
    from euston.collectives.aggregation import AGGREGATION, Aggregator, Inclusion

    inputs, targets, joint, unit = problem(seed)
    rng = np.random.default_rng(1000 + seed)
    model, tail = np.zeros(D), []
    made, inclusion = AGGREGATION.get(rule)(), Inclusion(WORKERS)
    previous: dict[int, np.ndarray] = {}
    for step in range(STEPS):
        gradients = []
        for x, y in zip(inputs, targets, strict=True):
            batch = rng.integers(0, SAMPLES, 32)
            gradients.append((x[batch].T @ (x[batch] @ model - y[batch]) / 32).astype(np.float32))
        arrived = np.ones(WORKERS)
        arrived[-1] = rng.random() < SLOW
        aggregator = Aggregator(
            made,
            WORKERS,
            np.array([0, D]),
            inclusion=inclusion.probability,
            own=gradients[0],
            previous=previous,
        )
        for worker in np.flatnonzero(arrived):
            aggregator.add(int(worker), gradients[worker])
            previous[int(worker)] = gradients[worker]
        inclusion.update(arrived)
        model -= RATE / (1 + step / 500) * aggregator.result().mean
        if step >= 2 * STEPS // 3:
            tail.append(model.copy())
    return float(np.linalg.norm(np.mean(tail, axis=0) - joint)) / unit


def main() -> None:
    parser = argparse.ArgumentParser(description="bias of aggregation rules with a slow worker")
    parser.add_argument("--seeds", type=int, default=10)
    options = parser.parse_args()
    from euston.collectives.aggregation import AGGREGATION

    for rule in AGGREGATION.names():
        found = [distance(rule, seed) for seed in range(options.seeds)]
        print(
            json.dumps(
                {
                    "rule": rule,
                    "distance": round(float(np.mean(found)), 4),
                    "range": [round(min(found), 4), round(max(found), 4)],
                    "expected_weights": AGGREGATION.get(rule)()
                    .bias(np.array([1, 1, 1, SLOW]))
                    .round(3)
                    .tolist(),
                }
            )
        )


if __name__ == "__main__":
    main()
