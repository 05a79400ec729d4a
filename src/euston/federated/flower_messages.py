"""Orders and replies as Flower messages, and a Flower grid as a backend. Imports flwr."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from numpy.typing import NDArray

from euston.federated.backend import failed
from euston.federated.config import FederationConfig
from euston.federated.wire import PROTOCOL, Order, ProtocolMismatch, Reply, build, header

__all__ = ["GridBackend", "from_record", "to_record"]

_MONTH = 30 * 86400.0
"""Seconds a message lives where no deadline is set."""


def _arrays(blobs: Sequence[NDArray[np.uint8]]) -> ArrayRecord:
    return ArrayRecord({f"{i:06d}": Array(np.asarray(blob)) for i, blob in enumerate(blobs)})


def to_record(message: Order | Reply, config: str = "") -> RecordDict:
    """A message's content for Flower; a reply's numbers also as metrics, `num-examples` among them."""
    name = "arrays" if isinstance(message, Order) else "delta"
    record = RecordDict({name: _arrays(message.blobs), "meta": ConfigRecord({"header": header(message)})})
    if config:
        record["config"] = ConfigRecord({"federation": config})
    if isinstance(message, Reply):
        record["metrics"] = MetricRecord(
            {"num-examples": message.samples, "tokens": message.tokens, "steps_done": message.steps,
             "loss_mean": message.loss_mean, "loss_last": message.loss_last, "seconds": message.seconds,
             "wire_bytes_up": message.payload_bytes}
        )  # fmt: skip
    return record


def from_record(kind: type[Order] | type[Reply], record: RecordDict) -> Any:
    """The message again.

    Raises
    ------
    ProtocolMismatch
        It is not one of ours.
    """
    name = "arrays" if kind is Order else "delta"
    try:
        text = str(record.config_records["meta"]["header"])
        arrays = record.array_records[name]
    except KeyError as error:
        raise ProtocolMismatch(f"a Flower message without {error}") from None
    blobs = [arrays[key].numpy().view(np.uint8).reshape(-1) for key in sorted(arrays)]
    return build(kind, text, blobs)


class GridBackend:
    """Sites as nodes of a Flower grid: simulated on Ray, or SuperNodes on other machines.

    A node is asked once which client it is. Two nodes that claim one client: the later one counts (a site
    that was started again).
    """

    keeps_sites = False

    def __init__(self, grid: Grid, config: FederationConfig) -> None:
        self.grid, self.config = grid, config
        self._text = json.dumps(config.values())
        self._client_of: dict[int, int] = {}
        self._asked: dict[str, int] = {}
        self._asked_nodes: dict[int, float] = {}
        self._out: dict[str, Order] = {}

    def clients(self) -> list[int]:
        """Clients whose nodes are connected and have said who they are."""
        nodes = list(self.grid.get_node_ids())
        now = time.monotonic()
        new = [n for n in nodes if n not in self._client_of and now - self._asked_nodes.get(n, -1e9) > 60]
        if new:
            hello = ConfigRecord({"protocol": PROTOCOL})
            messages = [Message(RecordDict({"hello": hello}), n, "query", ttl=120.0) for n in new]
            for node, sent in zip(new, self.grid.push_messages(messages), strict=True):
                self._asked[sent] = node
                self._asked_nodes[node] = now
        if self._asked:
            for message in self.grid.pull_messages(list(self._asked)):
                node = self._asked.pop(message.metadata.reply_to_message_id, 0)
                if not node or message.has_error():
                    self._asked_nodes.pop(node, None)
                    continue
                client = int(message.content.config_records["hello"]["client"])  # type: ignore[arg-type]
                self._client_of[node] = client
        found = {self._client_of[n] for n in nodes if n in self._client_of}
        return sorted(k for k in found if 0 <= k < self.config.clients)

    def _node_of(self, client: int) -> int | None:
        nodes = set(self.grid.get_node_ids())
        mine = [n for n, k in self._client_of.items() if k == client and n in nodes]
        return mine[-1] if mine else None

    def start(self, orders: Sequence[Order], deadline: float) -> None:
        """Push orders; one whose node has gone fails at once."""
        life = deadline or _MONTH
        for order in orders:
            node = self._node_of(order.client)
            if node is None:
                self._out[f"gone-{order.client}-{order.attempt}"] = order
                continue
            message = Message(
                to_record(order, self._text), node, "train", ttl=life, group_id=str(order.round)
            )
            for sent in self.grid.push_messages([message]):
                self._out[sent] = order

    def poll(self, timeout: float) -> list[Reply]:
        """Replies so far."""
        until = time.monotonic() + timeout
        while True:
            found = [
                failed(o, "its node has gone") for key, o in self._out.items() if key.startswith("gone-")
            ]
            self._out = {key: o for key, o in self._out.items() if not key.startswith("gone-")}
            for message in self.grid.pull_messages(list(self._out)) if self._out else ():
                order = self._out.pop(message.metadata.reply_to_message_id, None)
                if order is not None:
                    found.append(_reply(message, order))
            if found or time.monotonic() >= until:
                return found
            time.sleep(0.05)

    def forget(self) -> None:
        """Ignore replies that are still out."""
        self._out.clear()


def _reply(message: Message, order: Order) -> Reply:
    if message.has_error():
        return failed(order, f"Flower: {message.error.reason}")
    try:
        reply: Reply = from_record(Reply, message.content)
    except ProtocolMismatch as error:
        return failed(order, str(error))
    return reply


def hello(record: RecordDict, client: int) -> RecordDict:
    """A site's answer to who it is.

    Raises
    ------
    ProtocolMismatch
        The aggregator speaks another version.
    """
    values: Mapping[str, Any] = record.config_records["hello"]
    if values.get("protocol") != PROTOCOL:
        raise ProtocolMismatch(
            f"the aggregator speaks protocol {values.get('protocol')}, this site {PROTOCOL}"
        )
    return RecordDict({"hello": ConfigRecord({"client": client, "protocol": PROTOCOL})})
