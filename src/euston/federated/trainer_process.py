"""A site's own trainer: one process that lives as long as the site takes part, asked over a local socket.

Run as ``python -m euston.federated.trainer_process FOLDER DATA CLIENT whole|dealt``. FOLDER holds its
socket, its key (readable by its owner alone) and the site's state. Messages are raw bytes; nothing is
pickled.
"""

from __future__ import annotations

import json
import secrets
import struct
import sys
from multiprocessing.connection import Client, Listener
from pathlib import Path

from euston.errors import EustonError
from euston.federated.backend import failed
from euston.federated.config import FederationConfig
from euston.federated.wire import Order, Reply, pack, unpack

__all__ = ["ask", "make_key", "serve"]


def make_key(folder: Path) -> None:
    """A fresh key for the socket, readable by nobody else."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "key"
    path.touch(mode=0o600)
    path.chmod(0o600)
    path.write_bytes(secrets.token_bytes(32))


def ask(folder: str, config: str, order: Order) -> Reply:
    """Send an order to the trainer of a site and wait for its reply; a dead trainer is a failed reply."""
    root = Path(folder)
    try:
        with Client(str(root / "socket"), "AF_UNIX", authkey=(root / "key").read_bytes()) as line:
            text = config.encode()
            line.send_bytes(struct.pack("<I", len(text)) + text + pack(order))
            reply: Reply = unpack(Reply, line.recv_bytes())
            return reply
    except (OSError, EOFError) as error:
        return failed(order, f"its trainer died: {type(error).__name__}")


def serve(folder: Path, data: str, client: int, whole: bool) -> None:
    """Answer orders, one after the other, until killed."""
    from euston.federated.flower_site import site_for

    socket = folder / "socket"
    socket.unlink(missing_ok=True)
    with Listener(str(socket), "AF_UNIX", authkey=(folder / "key").read_bytes()) as listener:
        while True:
            try:
                with listener.accept() as line:
                    received = line.recv_bytes()
                    (size,) = struct.unpack_from("<I", received)
                    order: Order = unpack(Order, received[4 + size :])
                    try:
                        config = FederationConfig.from_values(json.loads(received[4 : 4 + size]))
                        site = site_for(config, data, str(folder), client, whole)
                        reply = site.work(order)
                    except (EustonError, RuntimeError) as error:
                        reply = failed(order, str(error))
                    line.send_bytes(pack(reply))
                if reply.status == "ok":
                    site.ahead(order)  # while the update is on its way
            except (OSError, EOFError, EustonError, struct.error, ValueError) as error:
                sys.stderr.write(f"trainer: a connection failed: {error}\n")


if __name__ == "__main__":
    from euston.federated.flower_env import silence

    silence()
    serve(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4] == "whole")
