"""What happens between data centres: kills, absences, late joins, corrupt files, poisoned updates."""

from __future__ import annotations

import json
import multiprocessing
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from euston.errors import ConfigError
from euston.federated import DataSet, FederationConfig, OuterConfig, load_parameters, train
from euston.federated import checkpoint as files
from euston.federated.aggregator import QuorumTimeout
from euston.federated.backend import InProcess
from euston.federated.dataset import build
from euston.federated.schedule import learning_rate
from euston.federated.wire import Order

Make = Callable[..., FederationConfig]
STREAMING = {"fragments": 2, "overlap_steps": 1, "mix": 0.5, "codec": "int8", "down_codec": "int8"}


class Stop(Exception):
    pass


def _stop_after(n: int):  # type: ignore[no-untyped-def]
    def tell(row):  # type: ignore[no-untyped-def]
        if row["round"] == n:
            raise Stop

    return tell


@pytest.mark.parametrize(
    "changes",
    [
        {"outer": {"kind": "nesterov", "lr": 0.7, "momentum": 0.9}},
        {"sync": STREAMING, "rounds": 6},
        {"local": {"inner_state": "averaged"}, "per_round": 2},
        {"checkpoint_every": 3, "islands": 2, "rounds": 5},
        {"outer": {"kind": "adam", "lr": 0.01}, "privacy": {"clip": 0.5, "noise_multiplier": 0.01}},
    ],
    ids=str,
)
def test_resumed_run_is_bit_equal(
    federation: Make, data: DataSet, tmp_path: Path, changes: dict, monkeypatch
) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("secrets.randbits", lambda n: 5)  # the key of privacy's noise
    config = federation(**changes)
    train(config, data, tmp_path / "whole")
    for n in (1, 2, 3):
        with pytest.raises(Stop):
            train(config, data, tmp_path / f"cut{n}", progress=_stop_after(n))
        train(config, data, tmp_path / f"cut{n}")
        assert np.array_equal(
            load_parameters(tmp_path / f"cut{n}")[1], load_parameters(tmp_path / "whole")[1]
        )
        rows = [
            json.loads(line)["loss"] for line in (tmp_path / f"cut{n}/rounds.jsonl").read_text().splitlines()
        ]
        assert len(rows) == config.total_rounds


def _child(config: FederationConfig, folder: Path, where: Path) -> None:
    train(config, DataSet.load(folder), where)


@pytest.mark.slow
def test_kill_9_anywhere(federation: Make, folder: Path, data: DataSet, tmp_path: Path) -> None:
    """Oracle 11: the aggregator killed at a random moment, again and again, ends where it would have."""
    config = federation(rounds=300, outer=OuterConfig("nesterov", 0.7, 0.9), sync=STREAMING)
    train(config, data, tmp_path / "whole")
    random, context = np.random.default_rng(0), multiprocessing.get_context("spawn")
    where, reached = tmp_path / "killed", 0
    for _ in range(3):
        child = context.Process(target=_child, args=(config, folder, where))
        child.start()
        while child.is_alive() and max(files.numbers(where, "round"), default=0) < reached + 3:
            time.sleep(0.002)
        time.sleep(float(random.uniform(0, 0.1)))
        child.kill()
        child.join()
        assert child.exitcode == -signal.SIGKILL  # and not at its end
        reached = max(files.numbers(where, "round"))
    train(config, data, where)
    assert np.array_equal(load_parameters(where)[1], load_parameters(tmp_path / "whole")[1])


def test_corrupt_checkpoint_falls_back(federation: Make, data: DataSet, tmp_path: Path) -> None:
    config = federation()
    train(config, data, tmp_path / "a")
    whole = load_parameters(tmp_path / "a")[1]
    newest = files.path_of(tmp_path / "a", "round", 4)
    broken = bytearray(newest.read_bytes())
    broken[len(broken) // 2] ^= 1
    newest.write_bytes(broken)
    with pytest.warns(RuntimeWarning, match="hash is wrong"):
        train(config, data, tmp_path / "a")
    assert np.array_equal(load_parameters(tmp_path / "a")[1], whole)
    files.path_of(tmp_path / "a", "round", 4).write_bytes(broken[:50])
    with pytest.warns(RuntimeWarning):
        assert load_parameters(tmp_path / "a")[2]["round"] == 3


def test_client_that_dies_in_a_round(federation: Make, data: DataSet, tmp_path: Path) -> None:
    """Oracle 12 in process: the others' mean is taken, the client comes back with its moments and its
    place.
    """
    config = federation(rounds=5)
    died: list[int] = []

    def fault(order: Order) -> None:
        if order.round == 2 and order.client == 1 and not died:
            died.append(order.attempt)
            raise RuntimeError("power")

    rows: list[dict] = []
    train(config, data, tmp_path / "a", backend=InProcess(config, data, tmp_path / "a/sites", fault),
          progress=rows.append)  # fmt: skip
    assert [row["participants"] for row in rows] == [[0, 1, 2], [0, 1, 2], [0, 2], [0, 1, 2], [0, 1, 2]]
    assert "power" in rows[2]["refused"]["1"]
    # the same without a crash, client 1 simply away: state on disk is as good as state in memory
    gone: list[int] = []
    away = InProcess(config, data, tmp_path / "b/sites", absent=lambda: gone)

    def follow(row: dict) -> None:
        gone[:] = [1] if row["round"] == 2 else []

    train(config, data, tmp_path / "b", backend=away, progress=follow)
    assert np.array_equal(load_parameters(tmp_path / "a")[1], load_parameters(tmp_path / "b")[1])


def test_late_join_starts_at_the_federations_rate(federation: Make, data: DataSet, tmp_path: Path) -> None:
    """Oracle 14: the learning rate follows server_steps, and a newcomer gets the whole model."""
    config = federation(rounds=5)
    gone, seen = [2], {}

    def look(order: Order) -> None:
        seen[(order.round, order.client)] = order

    backend = InProcess(config.with_(fault={"join_deadline": 0.01}), data, fault=look, absent=lambda: gone)
    rows: list[dict] = []

    def tell(row: dict) -> None:
        rows.append(row)
        gone[:] = [2] if row["round"] < 3 else []

    config = config.with_(fault={"join_deadline": 0.01})
    train(config, data, tmp_path / "a", backend=backend, progress=tell)
    assert [len(row["participants"]) for row in rows] == [2, 2, 2, 3, 3]
    first = seen[(3, 2)]
    assert (first.position, first.accepted, {p.kind for p in first.parts}) == (12, -1, {"full"})
    assert learning_rate(config.local, first.position, config.schedule_steps) < config.local.lr


def test_poisoned_updates_are_left_out(federation: Make, data: DataSet, tmp_path: Path) -> None:
    config = federation(rounds=5)

    class Poison(InProcess):
        def poll(self, timeout: float):  # type: ignore[no-untyped-def]
            from dataclasses import replace

            replies = super().poll(timeout)
            out = []
            for reply in replies:
                if reply.client == 0 and reply.round in (2, 3):
                    value = np.float32(np.nan if reply.round == 2 else 1e6)
                    blobs = [b.copy() for b in reply.blobs]
                    blobs[0].view(np.float32)[3] = value
                    reply = replace(reply, blobs=blobs)
                if reply.client == 0 and reply.round == 4:
                    reply = replace(reply, samples=10**9)
                out.append(reply)
            return out

    rows: list[dict] = []
    train(config, data, tmp_path / "a", backend=Poison(config, data), progress=rows.append)
    for row, word in ((rows[2], "NaN"), (rows[3], "times the usual"), (rows[4], "samples")):
        assert row["participants"] == [1, 2] and word in row["refused"]["0"]
    assert np.isfinite(load_parameters(tmp_path / "a")[1]).all()


def test_no_quorum_keeps_the_model(federation: Make, data: DataSet, tmp_path: Path) -> None:
    config = federation(fault={"quorum": 3, "max_failed_rounds": 2})

    def fault(order: Order) -> None:
        if order.round == 2 and order.client == 0:
            raise OSError("link down")

    backend = InProcess(config, data, tmp_path / "a/sites", fault)
    with pytest.raises(QuorumTimeout, match="3 attempts without a quorum of 3; client 0: died: link down"):
        train(config, data, tmp_path / "a", backend=backend)
    assert load_parameters(tmp_path / "a")[2]["round"] == 2
    train(config, data, tmp_path / "a")  # the link is back
    train(config, data, tmp_path / "b")
    assert np.array_equal(load_parameters(tmp_path / "a")[1], load_parameters(tmp_path / "b")[1])


def test_failed_attempt_does_not_move_the_sites(federation: Make, data: DataSet, tmp_path: Path) -> None:
    """A round that is tried twice gives what it gives when tried once: sites undo what was not taken."""
    config = federation(fault={"quorum": 3}, sync=STREAMING, rounds=6)
    failures = []

    def fault(order: Order) -> None:
        if order.round in (1, 3) and order.client == 2 and order.round not in failures:
            failures.append(order.round)
            raise OSError("once")

    rows: list[dict] = []
    train(config, data, tmp_path / "a", backend=InProcess(config, data, tmp_path / "a/sites", fault),
          progress=rows.append)  # fmt: skip
    assert [row["attempts"] for row in rows] == [1, 2, 1, 2, 1, 1]
    train(config, data, tmp_path / "b")
    assert np.array_equal(load_parameters(tmp_path / "a")[1], load_parameters(tmp_path / "b")[1])


def test_deadline_gives_a_partial_round(federation: Make, data: DataSet, tmp_path: Path) -> None:
    """A site that sees its deadline coming stops early and counts for what it has done."""
    from euston.federated.trainer import Trainer

    trainer = Trainer(federation(), data.streams(federation(), 0)[0])
    done = trainer.run(10_000, 0, stop_at=time.monotonic() + 0.2)
    assert 1 <= done.steps < 10_000 and done.samples == 2 * done.steps == trainer.stream.cursor


def test_folders_are_not_mixed_up(federation: Make, data: DataSet, tmp_path: Path) -> None:
    train(federation(), data, tmp_path / "a")
    with pytest.raises(ConfigError, match="another configuration"):
        train(federation(seed=1), data, tmp_path / "a")
    with pytest.raises(ConfigError, match="already"):
        train(federation(), data, tmp_path / "a", resume=False)
    with pytest.raises(ConfigError, match="not empty"):
        build(["python:topics"], tmp_path / "a")


def test_checkpoints_hold_what_was_written(tmp_path: Path) -> None:
    arrays = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "empty": np.zeros(0, np.float32),
        "n": np.array(3),
    }
    files.write(tmp_path / "x-00000001.ckpt", {"k": [1, "ä"]}, arrays)
    got = files.read(tmp_path / "x-00000001.ckpt")
    assert got.meta == {"k": [1, "ä"]} and all(np.array_equal(got.arrays[k], v) for k, v in arrays.items())
    assert not list(tmp_path.glob(".*"))
