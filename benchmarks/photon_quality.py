"""Quality study of federated pre-training: six methods, three sizes, tuned learning rates, seeds, every
run listed.

One resumable command, at most 8 CPU hours in all on two cores::

    python benchmarks/photon_quality.py --out DIR [--data DATA] [--workers 2] [--hours 2] [--smoke]

Runs that are finished are in ``DIR/runs.jsonl`` and are not repeated; one that was cut off goes on from its
last checkpoint. ``--hours`` stops starting new runs after that time; the same command goes on later. The
tables (``DIR/photon_quality.json`` and ``.md``) are written anew each time from what is finished.

Protocol. All methods see the same tokens at a size. ``centralised`` takes the batch of all four sites; H1,
LocalSGD, DiLoCo and Streaming make as many serial steps as it does (iso-token and iso-step at once);
``photon`` halves the local batch and stretches the schedule (same tokens, twice the serial steps), and
``centralised_long`` is its counterpart at equal steps. Learning rates are 0.5, 1, 2, 4 times a base that
falls with the square root of the width: swept for every arm at the smallest size, for ``centralised`` and
the best federated arm at the middle one; otherwise an arm keeps the multiple it had where it was last
swept. Rates are chosen on one half of the held-out windows and reported on the other. Payload is compared
with an exchange of fp32 gradients at every step by the same topology; initial models and control messages
are counted apart.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from euston.federated import FederationConfig, LocalConfig, OuterConfig, SyncConfig
from euston.models import Transformer

SIZES = {"0.2M": (64, 3, 4), "0.8M": (128, 4, 4), "3M": (224, 5, 7)}
"""Width, layers, heads."""
CONTEXT, CLIENTS, PERIOD, BATCH = 64, 4, 64, 4
ROUNDS = 50
MULTIPLES = (0.5, 1.0, 2.0, 4.0)
BASE = 2e-3
ARMS = ("centralised", "h1", "local_sgd", "diloco", "photon", "streaming", "centralised_long")
FEDERATED = ("h1", "local_sgd", "diloco", "photon", "streaming")
LARGE = ("centralised", "photon", "streaming")
SCORE_TOKENS = 262_144


@dataclass(frozen=True)
class Run:
    """One training run."""

    size: str
    arm: str
    multiple: float
    seed: int

    @property
    def key(self) -> str:
        """Its name."""
        return f"{self.size}-{self.arm}-{self.multiple:g}-{self.seed}"

    def config(self, rounds: int) -> FederationConfig:
        """What it trains; `rounds` exchanges of 64 steps for the arms that exchange so often."""
        width, layers, heads = SIZES[self.size]
        model = Transformer(
            self.size, layers=layers, hidden=width, heads=heads, vocab=257, gated=False, norm="layernorm",
            positions="learned", max_positions=CONTEXT, tied=True, biases=True,
        )  # fmt: skip
        lr = BASE * self.multiple * (64 / width) ** 0.5
        steps = rounds * PERIOD
        local = LocalConfig(
            steps=PERIOD, batch=BATCH, sequence=CONTEXT, lr=lr, warmup=max(1, steps // 20), precision="fp32"
        )
        config = FederationConfig(
            model, clients=CLIENTS, rounds=rounds, local=local, seed=self.seed, evaluate_every=10**9,
            evaluate_tokens=SCORE_TOKENS, checkpoint_every=max(1, rounds // 5),
        )  # fmt: skip
        half = {"batch": BATCH // 2, "warmup": 2 * local.warmup}
        nesterov = OuterConfig("nesterov", 0.7, 0.9)
        match self.arm:
            case "centralised":
                return config.centralised()
            case "centralised_long":
                return config.with_(rounds=2 * rounds, local=half).centralised()
            case "h1":
                return config.with_(rounds=steps, local={"steps": 1}, checkpoint_every=max(1, steps // 5))
            case "local_sgd":
                return config
            case "diloco":
                return config.with_(outer=nesterov)
            case "photon":
                return config.with_(rounds=2 * rounds, local=half)
            case "streaming":
                fragments = 2
                sync = SyncConfig(fragments, overlap_steps=1, mix=0.5, codec="fp4", down_codec="fp4")
                return config.with_(rounds=fragments * rounds, outer=nesterov, sync=sync)
        raise ValueError(self.arm)


def carry_out(run: Run, out: str, data_folder: str, rounds: int) -> dict[str, Any]:
    """Train (or go on), score on both halves, and say what it cost."""
    from euston.federated import DataSet, Evaluator, load_parameters, per_step_bytes, train

    data = DataSet.load(data_folder)
    config = run.config(rounds)
    folder = Path(out) / "runs" / run.key
    cpu, wall = time.process_time(), time.perf_counter()
    result = train(config, data, folder)
    theta = load_parameters(folder)[1]
    select, report = (Evaluator(config, data, SCORE_TOKENS, part).score(theta) for part in (0, 1))
    table = result.tables["rounds"]
    # a round in the middle: the first has no way down yet, only the initial model
    last = table.tail(config.sync.fragments)
    payload = sum(last["bytes_up"]) + sum(last["bytes_down"]) + sum(last["bytes_peers"])
    every = per_step_bytes(config) * config.clients * config.steps_per_round * last.height
    row = {
        "key": run.key,
        "size": run.size,
        "arm": run.arm,
        "multiple": run.multiple,
        "seed": run.seed,
        "parameters": result.meta["parameters"],
        "lr": config.local.lr,
        "tokens": result.scalars["tokens"],
        "serial_steps": result.scalars["server_steps"],
        "rounds": result.scalars["rounds"],
        "select_bits_per_byte": select.macro,
        "bits_per_byte": report.macro,
        "by_source": report.bits_per_byte,
        "payload_per_worker": result.scalars["payload_bytes"] / config.clients,
        "initial_per_worker": result.scalars["initial_bytes"] / config.clients,
        "control_per_worker": result.scalars["control_bytes"] / config.clients,
        "traffic_ratio": every / payload,
        "traffic_ratio_whole_run": result.scalars["traffic_ratio"],
        "cpu_s": time.process_time() - cpu,
        "wall_s": time.perf_counter() - wall,
    }
    if run.arm.startswith("centralised"):
        for name in ("payload_per_worker", "initial_per_worker", "control_per_worker", "traffic_ratio"):
            row[name] = None
    return row


class Study:
    """What is finished, and what to do next."""

    def __init__(self, out: Path, data: Path, workers: int, until: float, rounds: int) -> None:
        self.out, self.data, self.workers, self.until, self.rounds = out, data, workers, until, rounds
        self.file = out / "runs.jsonl"
        lines = self.file.read_text(encoding="utf-8").splitlines() if self.file.exists() else []
        self.done: dict[str, dict[str, Any]] = {row["key"]: row for row in map(json.loads, lines)}

    def stage(self, runs: list[Run]) -> bool:
        """Carry out what is missing; whether all of it is there now."""
        missing = [run for run in dict.fromkeys(runs) if run.key not in self.done]
        if not missing or time.time() > self.until:
            return not missing
        with ProcessPoolExecutor(self.workers, mp_context=get_context("spawn")) as pool:
            queue, going = list(missing), {}
            while queue or going:
                while queue and len(going) < self.workers and time.time() < self.until:
                    run = queue.pop(0)
                    args = (run, str(self.out), str(self.data), self.rounds)
                    going[pool.submit(carry_out, *args)] = run
                if not going:
                    break
                finished = next(as_completed(going))
                going.pop(finished)
                row = finished.result()
                self.done[row["key"]] = row
                with self.file.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
                print(json.dumps({"done": row["key"], "bits_per_byte": round(row["bits_per_byte"], 4),
                                  "cpu_s": round(row["cpu_s"])}), flush=True)  # fmt: skip
                self.write()
        return all(run.key in self.done for run in runs)

    def best(self, size: str, arm: str) -> float | None:
        """The multiple chosen where the arm was swept at this size (on the selection windows, seed 0)."""
        swept = [self.done.get(Run(size, arm, m, 0).key) for m in MULTIPLES]
        rows = [row for row in swept if row is not None]
        return (
            min(rows, key=lambda r: r["select_bits_per_byte"])["multiple"]
            if len(rows) == len(MULTIPLES)
            else None
        )

    def multiple(self, size: str, arm: str) -> float:
        """By the one rule for all: where it was last swept, from this size downwards."""
        sizes = list(SIZES)
        for smaller in reversed(sizes[: sizes.index(size) + 1]):
            found = self.best(smaller, arm)
            if found is not None:
                return found
        raise ValueError(f"{arm} was not swept")

    def best_federated(self, size: str) -> str:
        """The federated arm (H = 1 apart: it saves no traffic) with the best chosen run."""

        def quality(arm: str) -> float:
            return float(self.done[Run(size, arm, self.multiple(size, arm), 0).key]["select_bits_per_byte"])

        return min((arm for arm in FEDERATED if arm != "h1"), key=quality)

    def run(self, only: str) -> None:
        """Stage after stage."""
        small, middle, large = SIZES
        if not self.stage([Run(small, arm, m, 0) for m in MULTIPLES for arm in ARMS]):
            return
        if not self.stage([Run(small, a, self.multiple(small, a), s) for s in (1, 2) for a in ARMS]):
            return
        if only == small:
            return
        sweep = ("centralised", self.best_federated(small))
        if not self.stage([Run(middle, arm, m, 0) for m in MULTIPLES for arm in sweep]):
            return
        if not self.stage([Run(middle, a, self.multiple(middle, a), s) for s in (0, 1, 2) for a in ARMS]):
            return
        if only != middle:
            self.stage([Run(large, arm, self.multiple(large, arm), 0) for arm in LARGE])

    def write(self) -> None:
        """Both tables, from what is finished."""
        summary = []
        for size in SIZES:
            base = None
            for arm in ARMS:
                try:
                    chosen = self.multiple(size, arm)
                except ValueError:
                    continue
                rows = [
                    r for s in range(3) if (r := self.done.get(Run(size, arm, chosen, s).key)) is not None
                ]
                if not rows:
                    continue
                values = [r["bits_per_byte"] for r in rows]
                mean = statistics.fmean(values)
                base = mean if arm == "centralised" else base
                summary.append(
                    {
                        "size": size,
                        "parameters": rows[0]["parameters"],
                        "arm": arm,
                        "multiple": chosen,
                        "swept_here": self.best(size, arm) is not None,
                        "seeds": len(rows),
                        "bits_per_byte": mean,
                        "lowest": min(values),
                        "highest": max(values),
                        "gap": mean / base - 1 if base else None,
                        "tokens": rows[0]["tokens"],
                        "serial_steps": rows[0]["serial_steps"],
                        "traffic_ratio": rows[0]["traffic_ratio"],
                        "payload_per_worker": rows[0]["payload_per_worker"],
                    }
                )
        cpu = sum(r["cpu_s"] for r in self.done.values())
        made = {
            "rounds": self.rounds,
            "cpu_hours": cpu / 3600,
            "summary": summary,
            "runs": list(self.done.values()),
        }
        (self.out / "photon_quality.json").write_text(json.dumps(made, indent=1), encoding="utf-8")
        head = [
            "size",
            "arm",
            "lr x",
            "seeds",
            "bits/byte (range)",
            "gap",
            "tokens",
            "serial steps",
            "traffic",
        ]
        lines = [f"{len(self.done)} runs, {cpu / 3600:.2f} CPU hours", "", "| " + " | ".join(head) + " |",
                 "|" + " --- |" * len(head)]  # fmt: skip
        for r in summary:
            gap = "" if r["gap"] is None else f"{r['gap']:+.1%}"
            ratio = "" if r["traffic_ratio"] is None else f"{r['traffic_ratio']:.1f} x less"
            lines.append(
                f"| {r['size']} | {r['arm']} | {r['multiple']:g}{'' if r['swept_here'] else ' (carried)'} "
                f"| {r['seeds']} | {r['bits_per_byte']:.4f} ({r['lowest']:.4f}-{r['highest']:.4f}) | {gap} "
                f"| {r['tokens']:,.0f} | {r['serial_steps']:,.0f} | {ratio} |"
            )
        lines += [
            "",
            "Every run:",
            "",
            "| run | lr | bits/byte | on selection windows | CPU s |",
            "|" + " --- |" * 5,
        ]
        lines += [
            f"| {r['key']} | {r['lr']:.2e} | {r['bits_per_byte']:.4f} | {r['select_bits_per_byte']:.4f} "
            f"| {r['cpu_s']:.0f} |"
            for r in self.done.values()
        ]
        (self.out / "photon_quality.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--data", type=Path, help="data of `euston photon data build`; default: Python's own texts"
    )
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--hours", type=float, default=1e6, help="start no new run after this long")
    parser.add_argument("--only", choices=list(SIZES), default="3M", help="stop after this size")
    parser.add_argument(
        "--smoke", action="store_true", help="two rounds at the smallest size, one rate, all arms"
    )
    chosen = parser.parse_args()
    from euston.federated import builtin

    chosen.out.mkdir(parents=True, exist_ok=True)
    data = chosen.data or chosen.out / "data"
    if chosen.data is None:
        builtin(data)
    study = Study(
        chosen.out, data, chosen.workers, time.time() + 3600 * chosen.hours, 2 if chosen.smoke else ROUNDS
    )
    if chosen.smoke:
        study.stage([Run("0.2M", arm, 1.0, 0) for arm in ARMS])
        for row in study.done.values():
            print(row["key"], round(row["bits_per_byte"], 3), row["traffic_ratio"], round(row["cpu_s"], 1))
        return
    study.run(chosen.only)
    study.write()
    print((chosen.out / "photon_quality.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
