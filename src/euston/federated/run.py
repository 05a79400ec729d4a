"""A federated run from its configuration to its result: resumed where a folder holds one, saved as it
goes.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from euston import __version__
from euston.errors import ConfigError, TraceError
from euston.federated import checkpoint
from euston.federated.aggregator import Aggregator, Round
from euston.federated.backend import Backend, InProcess
from euston.federated.config import FederationConfig
from euston.federated.layout import Flat
from euston.federated.privacy import epsilon
from euston.federated.state import State
from euston.federated.volume import per_step_bytes
from euston.result import Result

if TYPE_CHECKING:
    from euston.federated.dataset import DataSet

__all__ = ["load_config", "load_parameters", "run_over", "train", "train_centralised"]

Tell = Callable[[Round], None]


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One aggregator per folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(
                f"`{folder}`: another aggregator is at work there; wait, or choose another"
            ) from None
        yield


def train(
    config: FederationConfig,
    data: DataSet,
    run_dir: str | Path,
    *,
    backend: Backend | None = None,
    resume: bool = True,
    progress: Tell = lambda _: None,
    say: Callable[[str], None] = lambda _: None,
) -> Result:
    """Run a federation in this process, or over another backend.

    Parameters
    ----------
    config : FederationConfig
    data : DataSet
        All sites' text (in process), and the held-out text that the model is evaluated on.
    run_dir : path
        Checkpoints, rounds and the result. A folder with the same run continues it, bit for bit.
    backend : Backend, optional
        Default: every site in this process.
    resume : bool
        False refuses a folder that holds a run.
    progress : callable
        Told each round's line as it is committed.
    say : callable
        Told in words what goes wrong on the way.

    Returns
    -------
    Result
        Of kind "federated": table ``rounds`` and headline numbers.

    Raises
    ------
    ConfigError
        A folder with another run, a model that does not fit the data.
    QuorumTimeout
        Too few clients for too long; run again to go on.
    MissingExtra
        torch is not installed.
    """
    data.check(config)
    folder = Path(run_dir)
    with _alone(folder):
        carrier = backend or InProcess(config, data, folder / "sites")
        return run_over(
            config, carrier, folder, data.tokenizer.digest(), data, resume=resume, progress=progress, say=say
        )


def train_centralised(
    config: FederationConfig, data: DataSet, run_dir: str | Path, *, progress: Tell = lambda _: None
) -> Result:
    """The run to compare with: one machine, all text, the same tokens in the same number of serial steps."""
    return train(config.centralised(), data, run_dir, progress=progress)


@dataclass
class _Log:
    """``rounds.jsonl``: one line per committed round; lines after the checkpoint that is resumed are
    dropped.
    """

    path: Path
    rows: list[Round]

    @classmethod
    def upto(cls, path: Path, last: int) -> _Log:
        rows = []
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    row = json.loads(line)
                except ValueError:
                    break  # cut off by a kill
                if row["round"] <= last:
                    rows.append(row)
        aside = path.with_suffix(".tmp")
        aside.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        os.replace(aside, path)
        return cls(path, rows)

    def add(self, row: Round) -> None:
        self.rows.append(row)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def run_over(
    config: FederationConfig,
    backend: Backend,
    folder: Path,
    tokenizer: str,
    data: DataSet | None,
    *,
    resume: bool = True,
    progress: Tell = lambda _: None,
    say: Callable[[str], None] = lambda _: None,
) -> Result:
    """The loop over rounds. Without `data` (an aggregator that holds no text) nothing is evaluated."""
    layout = Flat.of(config.model, config.sync.fragments, config.sync.pattern)
    digest = tokenizer if data is None else data.digest()
    state = State.load(folder, config, digest)
    if state is not None and not resume:
        raise ConfigError(f"`{folder}`: holds a run already; resume it, or choose another folder")
    if state is None:
        from euston.federated.trainer import initial_parameters

        state = State.initial(config, layout, initial_parameters(config))
        state.save(folder, config, digest)
    log = _Log.upto(folder / "rounds.jsonl", state.round)
    evaluator = None
    if data is not None and any(held.size > config.local.sequence for held in data.validation):
        from euston.federated.evaluate import Evaluator

        evaluator = Evaluator(config, data)
    aggregator = Aggregator(config, backend, state, tokenizer)
    total = config.total_rounds
    while state.round < total:
        number = state.round + 1
        save = number % config.checkpoint_every == 0 or number == total
        row = aggregator.round(save, say)
        if evaluator is not None and (number % config.evaluate_every == 0 or number == total):
            score = evaluator.score(state.theta)
            row |= {"val_loss": score.loss, "bits_per_byte": score.macro, "perplexity": score.perplexity,
                    "by_source": score.bits_per_byte}  # fmt: skip
        log.add(row)
        if save:
            state.save(folder, config, digest)
        progress(row)
    result = _result(config, state, log.rows, layout, data)
    result.save(folder / "result")
    return result


def _result(
    config: FederationConfig, state: State, rows: list[Round], layout: Flat, data: DataSet | None
) -> Result:
    columns = (
        "round",
        "tokens",
        "server_steps",
        "loss",
        "val_loss",
        "bits_per_byte",
        "perplexity",
        "seconds",
        "train_seconds",
        "bytes_up",
        "bytes_down",
        "bytes_peers",
        "bytes_initial",
        "bytes_control",
        "attempts",
        "epoch",
    )
    table = pl.DataFrame(
        {
            **{name: [row.get(name) for row in rows] for name in columns},
            "participants": [len(row["participants"]) for row in rows],
        }
    )
    payload = state.sent["up"] + state.sent["down"] + state.sent["peers"]
    served = sum(len(row["participants"]) for row in rows) or 1
    steps = served * config.steps_per_round
    every_step = per_step_bytes(config) * steps
    scalars: dict[str, float] = {
        "tokens": float(state.tokens),
        "server_steps": float(state.server_steps),
        "rounds": float(state.round),
        "loss": float(rows[-1]["loss"]),
        "payload_bytes": float(payload),
        "initial_bytes": float(state.sent["initial"]),
        "control_bytes": float(state.sent["control"]),
        "traffic_ratio": every_step / payload if payload else float("inf"),
        "seconds": float(sum(row["seconds"] for row in rows)),
    }
    last = next((row for row in reversed(rows) if row.get("bits_per_byte")), None)
    if last is not None:
        scalars |= {"bits_per_byte": last["bits_per_byte"], "perplexity": last["perplexity"]}
    if config.privacy.clip:
        scalars["epsilon"] = epsilon(config.privacy.noise_multiplier, state.round, config.privacy.delta)
    if data is not None:
        scalars["heterogeneity"] = data.heterogeneity(config)
    kinds = {"payload_bytes": "B", "initial_bytes": "B", "control_bytes": "B", "seconds": "s"}
    meta: dict[str, Any] = {
        "federation": config.values(), "config_digest": config.digest(), "seed": config.seed,
        "package_version": __version__, "parameters": layout.size,
        "title": f"{config.model.name} on {config.clients} sites, {state.round} rounds",
        "sources": [] if data is None else [
            f"{e['name']} {e['version']} ({e['licence']}), sha256 {e['train_sha256']}"
            for e in data.manifest["sources"]
        ],
    }  # fmt: skip
    return Result(
        "federated", scalars, {name: kinds.get(name, "1") for name in scalars}, {"rounds": table}, None, meta
    )


def load_config(run_dir: str | Path) -> FederationConfig:
    """The configuration of a run, from its newest whole checkpoint.

    Raises
    ------
    TraceError
        No checkpoint there.
    """
    return FederationConfig.from_values(_newest(run_dir).meta["config"])


def load_parameters(run_dir: str | Path) -> tuple[FederationConfig, NDArray[np.float32], dict[str, Any]]:
    """Configuration, model and counters (round, tokens, server_steps) of a run's newest whole checkpoint."""
    found = _newest(run_dir)
    counters = {key: found.meta[key] for key in ("round", "tokens", "server_steps")}
    return FederationConfig.from_values(found.meta["config"]), found.arrays["theta"], counters


def _newest(run_dir: str | Path) -> checkpoint.Checkpoint:
    found = checkpoint.latest(Path(run_dir), "round")
    if found is None:
        raise TraceError(f"`{run_dir}`: holds no checkpoint of a federated run")
    return found[1]
