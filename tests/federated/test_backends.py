"""Oracle 10: in process, on Ray and over sockets (with TLS and keys) a federation gives the same
parameters, bit for bit; and oracle 12 over sockets: a trainer killed in a round, an aggregator killed and
started again."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from euston.federated import DataSet, FederationConfig, load_parameters, train
from euston.federated.flower_env import QUIET, quiet_environment
from euston.federated.launcher import Address, _free_port, join_command, running_site, serve
from euston.federated.tls import make_certificates, make_node_key

Make = Callable[..., FederationConfig]
STREAMING = {"fragments": 2, "overlap_steps": 1, "mix": 0.5, "codec": "int8", "down_codec": "int8"}


def test_children_do_not_call_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLWR_TELEMETRY_ENABLED", "1")
    environment = quiet_environment("home")
    assert {key: environment[key] for key in QUIET} == QUIET
    assert (QUIET["FLWR_TELEMETRY_ENABLED"], QUIET["FLWR_DISABLE_UPDATE_CHECK"]) == ("0", "1")
    assert QUIET["RAY_USAGE_STATS_ENABLED"] == "0"
    # these are the names that the installed Flower reads
    import flwr.supercore.constant as constant
    import flwr.supercore.telemetry as telemetry

    assert hasattr(telemetry, "FLWR_TELEMETRY_ENABLED") and constant.FLWR_DISABLE_UPDATE_CHECK in QUIET


def test_certificates_verify_and_keys_are_private(tmp_path: Path) -> None:
    """The server's certificate verifies for its names against the authority, by OpenSSL through Python's
    ssl.
    """
    import socket
    import ssl

    ca, certificate, key = make_certificates(tmp_path, ["site.example"])
    assert make_certificates(tmp_path, ["other"]) == (ca, certificate, key)
    assert key.stat().st_mode & 0o077 == 0
    here, there = socket.socketpair()
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(certificate, key)

    def answer() -> None:
        with server.wrap_socket(there, server_side=True):
            pass

    thread = threading.Thread(target=answer)
    thread.start()
    client = ssl.create_default_context(cafile=str(ca))
    with client.wrap_socket(here, server_hostname="site.example") as line:
        assert line.version() in ("TLSv1.2", "TLSv1.3")
    thread.join()
    private, public = make_node_key(tmp_path / "k")
    assert private.stat().st_mode & 0o077 == 0
    assert public.read_text().startswith("ecdsa-sha2-nistp384 ")
    assert "--ca ca.pem --key KEY" in join_command(Address("a", 1, tmp_path), 0, authenticate=True)


@pytest.mark.slow
def test_ray_gives_the_same(federation: Make, data: DataSet, folder: Path, tmp_path: Path) -> None:
    from euston.federated.simulation import train_on_ray

    config = federation(sync=STREAMING)
    a = train(config, data, tmp_path / "a")
    b = train_on_ray(config, data, folder, tmp_path / "b", cpus=2)
    assert a.tables["rounds"]["loss"].to_list() == b.tables["rounds"]["loss"].to_list()
    assert np.array_equal(load_parameters(tmp_path / "a")[1], load_parameters(tmp_path / "b")[1])


@pytest.mark.slow
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_three_sites_over_sockets(
    federation: Make, data: DataSet, folder: Path, tmp_path: Path, tls: bool
) -> None:
    """SuperLink and three SuperNodes as processes of their own; in the plain run a trainer is killed on
    the way.
    """
    config = federation(sync=STREAMING, fault={"quorum": 2})
    whole = train(config, data, tmp_path / "in")
    port = _free_port()
    where = Address("127.0.0.1", port, tmp_path / "tls" if tls else None)
    keys = [make_node_key(tmp_path / f"k{k}") for k in range(3)] if tls else []
    rows: list[dict] = []
    problems: list[BaseException] = []
    ready = threading.Event()

    def aggregate() -> None:
        try:
            serve(
                config,
                tmp_path / "out",
                where,
                data_folder=folder,
                node_keys=[public for _, public in keys],
                progress=rows.append,
                say=lambda _: ready.set(),
            )
        except BaseException as error:
            problems.append(error)
            ready.set()

    thread = threading.Thread(target=aggregate)
    thread.start()
    ready.wait(120)
    with ExitStack() as stack:
        keep = [
            stack.enter_context(
                running_site(f"127.0.0.1:{port}", k, folder, tmp_path / f"s{k}", whole=False,
                             ca=tmp_path / "tls/ca.pem" if tls else None, key=keys[k][0] if tls else None)
            )
            for k in range(3)
        ]  # fmt: skip
        killed = False
        until = time.monotonic() + 400
        while thread.is_alive() and time.monotonic() < until:
            if rows and not killed and not tls:
                os.kill(int((tmp_path / "s1/trainer.pid").read_text()), signal.SIGKILL)
                killed = True
            for look in keep:
                look()
            time.sleep(0.2)
    thread.join(10)
    assert not problems
    assert [row["round"] for row in rows] == [1, 2, 3, 4]
    assert rows[0]["loss"] == whole.tables["rounds"]["loss"][0]
    if all(
        len(row["participants"]) == 3 for row in rows
    ):  # also where the trainer was killed between two orders
        assert np.array_equal(load_parameters(tmp_path / "in")[1], load_parameters(tmp_path / "out")[1])
    else:
        assert killed and len(rows[-1]["participants"]) == 3


@pytest.mark.slow
def test_aggregator_killed_and_started_again(
    federation: Make, data: DataSet, folder: Path, tmp_path: Path
) -> None:
    """The SuperLink and its server app die with kill -9; a new one on the same port goes on, bit for bit."""
    import json
    import subprocess
    import sys

    config = federation(clients=2, outer={"kind": "nesterov", "lr": 0.7, "momentum": 0.9})
    train(config, data, tmp_path / "in")
    port, out = _free_port(), tmp_path / "out"
    script = (
        "import json,sys; from pathlib import Path; from euston.federated import FederationConfig;"
        "from euston.federated.launcher import Address, serve;"
        "c=FederationConfig.from_values(json.loads(sys.argv[1]));"
        f"serve(c, {str(out)!r}, Address('127.0.0.1', {port}), data_folder={str(folder)!r})"
    )
    command = [sys.executable, "-c", script, json.dumps(config.values())]
    first = subprocess.Popen(command)
    with ExitStack() as stack:
        keep = [
            stack.enter_context(running_site(f"127.0.0.1:{port}", k, folder, tmp_path / f"s{k}", whole=False))
            for k in range(2)
        ]
        rounds, until = out / "rounds.jsonl", time.monotonic() + 200
        while time.monotonic() < until and not (rounds.exists() and rounds.read_text().strip()):
            for look in keep:
                look()
            time.sleep(0.1)
        server_app = json.loads((out / "outcome.json").read_text())["pid"]
        links = subprocess.run(
            ["pgrep", "-f", f"flower-superlink.*--port {port}"], capture_output=True, text=True, check=False
        ).stdout.split()
        for pid in [first.pid, server_app, *map(int, links)]:
            os.kill(pid, signal.SIGKILL)
        first.wait()
        time.sleep(2)
        second = subprocess.Popen(command)
        while second.poll() is None and time.monotonic() < until + 200:
            for look in keep:
                look()
            time.sleep(0.2)
        assert second.poll() == 0
    assert np.array_equal(load_parameters(tmp_path / "in")[1], load_parameters(out)[1])
