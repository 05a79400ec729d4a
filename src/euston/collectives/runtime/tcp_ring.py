"""A ring all-reduce over TCP: what loss does to a reliable transport, for comparison.

2(n-1) steps of one shard to the right neighbour while another comes from the left. Sends and receives
alternate on non-blocking sockets, so that no step waits for a buffer to drain.
"""

from __future__ import annotations

import json
import selectors
import socket
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from euston.collectives.runtime.store import Store
from euston.collectives.runtime.udp_socket import attach_loss
from euston.errors import ConfigError, SimulationError

__all__ = ["TcpRing"]

PATIENCE = 60.0
"""Seconds without a byte after which a neighbour is taken for dead."""


class TcpRing:
    """Ranks in a ring.

    Parameters
    ----------
    rank, world, store, host, name
        As for `UdpGroup`.
    socket_loss : float
        Losses by a filter on the socket that receives data.
    """

    def __init__(
        self, rank: int, world: int, store: Store, *, host: str = "127.0.0.1", socket_loss: float = 0.0,
        name: str = "ring",
    ) -> None:  # fmt: skip
        if not (world >= 1 and 0 <= rank < world):
            raise ConfigError(f"`rank`: {rank} of {world} ranks")
        self.rank, self.world = rank, world
        self._sockets: list[socket.socket] = []
        if world == 1:
            return
        listener = socket.create_server((host, 0))
        store.set(f"{name}/{rank}", json.dumps(list(listener.getsockname()[:2])))
        to = json.loads(bytes(store.get(f"{name}/{(rank + 1) % world}")))
        right = socket.create_connection(tuple(to), timeout=PATIENCE)
        left, _ = listener.accept()
        listener.close()
        attach_loss(left, socket_loss)
        for one in (left, right):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            one.setblocking(False)
        self.left, self.right, self._sockets = left, right, [left, right]

    def all_reduce(self, x: NDArray[np.float32]) -> float:
        """Replace a vector by the mean over ranks; seconds.

        Raises
        ------
        SimulationError
            A neighbour closed its connection or says nothing for a minute.
        """
        start, n = time.monotonic(), self.world
        bounds = np.linspace(0, x.size, n + 1).astype(np.int64)
        scratch = np.empty(int(np.diff(bounds).max(initial=0)), np.float32)

        def shard(k: int) -> NDArray[np.float32]:
            return x[bounds[k % n] : bounds[k % n + 1]]

        for step in range(n - 1):
            mine, theirs = shard(self.rank - step), shard(self.rank - step - 1)
            self._swap(mine, scratch[: theirs.size])
            theirs += scratch[: theirs.size]
        if n > 1:
            shard(self.rank + 1)[:] /= n
        for step in range(n - 1):
            self._swap(shard(self.rank + 1 - step), shard(self.rank - step))
        return time.monotonic() - start

    def _swap(self, out: NDArray[np.float32], into: NDArray[np.float32]) -> None:
        give, take = out.view(np.uint8).data, into.view(np.uint8).data
        sent = got = 0
        with selectors.DefaultSelector() as ready:
            if len(give):
                ready.register(self.right, selectors.EVENT_WRITE)
            if len(take):
                ready.register(self.left, selectors.EVENT_READ)
            while ready.get_map():
                events = ready.select(PATIENCE)
                if not events:
                    raise SimulationError(f"rank {self.rank}: no byte for {PATIENCE:g} s")
                for key, _ in events:
                    try:
                        if key.fileobj is self.right:
                            sent += self.right.send(give[sent : sent + (1 << 20)])
                        else:
                            came = self.left.recv_into(take[got:])
                            if came == 0:
                                raise SimulationError(f"rank {self.rank}: its left neighbour has closed")
                            got += came
                    except BlockingIOError:
                        continue
                    except OSError as error:
                        raise SimulationError(f"rank {self.rank}: {error.strerror or error}") from None
                    if key.fileobj is self.right and sent == len(give):
                        ready.unregister(self.right)
                    elif key.fileobj is self.left and got == len(take):
                        ready.unregister(self.left)

    def close(self) -> None:
        """Close the connections."""
        for one in self._sockets:
            one.close()

    def __enter__(self) -> TcpRing:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()
