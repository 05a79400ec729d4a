"""How orders reach sites and replies come back: the protocol of backends, and the one inside this process."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from euston.federated.wire import Order, Reply

if TYPE_CHECKING:
    from euston.federated.config import FederationConfig
    from euston.federated.dataset import DataSet
    from euston.federated.site import Site

__all__ = ["Backend", "InProcess", "failed"]


class Backend(Protocol):
    """Carries orders to sites and replies back."""

    @property
    def keeps_sites(self) -> bool:
        """Whether a site's memory lasts from round to round; else it saves its state every round."""

    def clients(self) -> list[int]:
        """Clients that can be reached now, ascending."""

    def start(self, orders: Sequence[Order], deadline: float) -> None:
        """Send orders; replies are of use for `deadline` seconds (0: for ever)."""

    def poll(self, timeout: float) -> list[Reply]:
        """Replies that have come, waiting up to `timeout` seconds for the first."""

    def forget(self) -> None:
        """Stop waiting for replies of orders so far."""


class InProcess:
    """Sites in this process, one after the other, in client order.

    Parameters
    ----------
    config : FederationConfig
    data : DataSet
    folder : path, optional
        Where sites keep their states.
    fault : callable, optional
        Told of each order before it is carried out; what it raises is the site's failure (for tests and
        rehearsals).
    """

    keeps_sites = True

    def __init__(
        self,
        config: FederationConfig,
        data: DataSet,
        folder: Path | None = None,
        fault: Callable[[Order], None] | None = None,
        absent: Callable[[], Sequence[int]] = lambda: (),
    ) -> None:
        self.config, self.data, self.folder, self.fault, self.absent = config, data, folder, fault, absent
        self._sites: dict[int, Site] = {}
        self._queue: deque[Order] = deque()

    def clients(self) -> list[int]:
        """All but those declared absent."""
        gone = set(self.absent())
        return [k for k in range(self.config.clients) if k not in gone]

    def start(self, orders: Sequence[Order], deadline: float) -> None:
        """Queue orders."""
        self._queue.extend(orders)

    def poll(self, timeout: float) -> list[Reply]:
        """Carry out the next order."""
        if not self._queue:
            return []
        order = self._queue.popleft()
        try:
            if self.fault is not None:
                self.fault(order)
            return [self._site(order.client).work(order)]
        except (RuntimeError, OSError) as error:  # the site "died": whatever it knew is gone
            self._sites.pop(order.client, None)
            return [failed(order, f"died: {error}")]

    def forget(self) -> None:
        """Drop what has not begun."""
        self._queue.clear()

    def _site(self, client: int) -> Site:
        if client not in self._sites:
            from euston.federated.site import Site

            folder = None if self.folder is None else self.folder / f"client-{client}"
            streams = self.data.streams(self.config, client)
            self._sites[client] = Site(self.config, streams, client, self.data.tokenizer.digest(), folder)
        return self._sites[client]


def failed(order: Order, reason: str) -> Reply:
    """The reply of a site that cannot reply."""
    return Reply(
        order.run, order.round, order.attempt, order.client, order.parent, status="failed", reason=reason
    )
