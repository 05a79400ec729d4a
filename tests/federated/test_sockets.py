"""A federation over real sockets: a site that joins late, and bytes on the wire against the simulated ones.

SuperNodes reach the SuperLink through a forwarder that counts what passes.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from euston.fabrics import wan
from euston.federated import FederationConfig
from euston.federated.launcher import Address, _free_port, running_site, serve
from euston.federated.simulated import Client, simulate_federation
from euston.federated.wan import Wan
from euston.models import Transformer

Make = Callable[..., FederationConfig]
pytestmark = pytest.mark.slow


class Forwarder:
    """Connections to `port` go on to another one; `passed` counts bytes both ways."""

    def __init__(self, port: int, to: int) -> None:
        self.port, self.to, self.passed = port, to, 0
        self.lock = threading.Lock()
        self.server = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self.server.accept()
                far = socket.create_connection(("127.0.0.1", self.to))
            except OSError:
                return
            for a, b in ((near, far), (far, near)):
                threading.Thread(target=self._pass, args=(a, b), daemon=True).start()

    def _pass(self, a: socket.socket, b: socket.socket) -> None:
        try:
            while data := a.recv(1 << 16):
                with self.lock:
                    self.passed += len(data)
                b.sendall(data)
            b.shutdown(socket.SHUT_WR)
        except OSError:
            a.close()
            b.close()


@contextmanager
def aggregating(
    config: FederationConfig, where: Path, port: int, rows: list[dict]
) -> Iterator[threading.Thread]:
    """An aggregator at work in a thread; its failure is raised here."""
    problems: list[BaseException] = []
    ready = threading.Event()

    def run() -> None:
        try:
            serve(config, where, Address("127.0.0.1", port), progress=rows.append, say=lambda _: ready.set())
        except BaseException as error:
            problems.append(error)
        ready.set()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert ready.wait(120)
    yield thread
    thread.join(10)
    assert not problems and not thread.is_alive()


def test_a_site_joins_late(federation: Make, folder: Path, tmp_path: Path) -> None:
    """Two of three sites begin; the third comes after the first round and takes part from then on."""
    config = federation(rounds=12, fault={"quorum": 2, "join_deadline": 25.0, "deadline": 60.0})
    rows: list[dict] = []
    port = _free_port()
    with aggregating(config, tmp_path / "run", port, rows) as thread, ExitStack() as stack:
        keep = []

        def join(k: int) -> None:
            where = f"127.0.0.1:{port}"
            keep.append(stack.enter_context(running_site(where, k, folder, tmp_path / f"s{k}", whole=False)))

        join(0)
        join(1)
        until = time.monotonic() + 400
        while thread.is_alive() and time.monotonic() < until:
            if rows and len(keep) == 2:
                join(2)
            for look in keep:
                look()
            time.sleep(0.2)
    counts = [len(row["participants"]) for row in rows]
    assert counts[0] == 2 and counts[-1] == 3 and counts == sorted(counts)
    assert rows[-1]["server_steps"] == 12 * 4
    late = rows[counts.index(3)]  # the newcomer gets the whole model
    assert late["bytes_initial"] > 0 and rows[counts.index(3) - 1]["bytes_initial"] in (
        0,
        rows[0]["bytes_initial"],
    )


def test_bytes_on_the_wire_are_the_simulated_ones(federation: Make, folder: Path, tmp_path: Path) -> None:
    """Oracle 9 on real sockets, within a hundredth, for 7 million parameters: Flower's own requests, with
    those that ask for work while there is none, come to some hundred kilobytes a round, whatever the model.
    """
    model = Transformer(
        "small", layers=4, hidden=384, heads=4, vocab=257, gated=False, norm="layernorm", positions="learned",
        max_positions=16, tied=True, biases=True,
    )  # fmt: skip
    config = federation(clients=2, rounds=2, model=model, local={"steps": 1})
    rows: list[dict] = []
    port = _free_port()
    counted = Forwarder(_free_port(), port)
    with aggregating(config, tmp_path / "run", port, rows) as thread, ExitStack() as stack:
        keep = [
            stack.enter_context(
                running_site(f"127.0.0.1:{counted.port}", k, folder, tmp_path / f"s{k}", whole=False)
            )
            for k in range(2)
        ]
        until = time.monotonic() + 400
        while thread.is_alive() and time.monotonic() < until:
            for look in keep:
                look()
            time.sleep(0.2)
    assert [len(row["participants"]) for row in rows] == [2, 2]
    cables = Wan(wan([("hub", f"s{k}", "1 Gb/s", "1 ms") for k in range(2)], tunnels=1))
    found = simulate_federation(config, [Client(f"c{k}", k + 1, 0.1) for k in range(2)], cables, 0)
    assert counted.passed == pytest.approx(found.link_bytes.sum(), rel=0.01)
