"""The site's end of Flower: a client app that trains in its own process, or hands orders to a trainer
process.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from euston.federated.config import FederationConfig
from euston.federated.flower_messages import from_record, hello, to_record
from euston.federated.wire import Order, Reply

__all__ = ["client_app", "forwarding_app"]

_SITES: dict[tuple[str, str, int], Any] = {}


def site_for(config: FederationConfig, data_folder: str, state_folder: str, client: int, whole: bool) -> Any:
    """The site of a client in this process, made on first use.

    `whole`: the folder is the site's own text and none is dealt to others.
    """
    key = (config.digest(), data_folder, client)
    if key not in _SITES:
        from euston.federated.dataset import DataSet
        from euston.federated.site import Site

        data = DataSet.load(data_folder)
        streams = data.all_streams(config, client) if whole else data.streams(config, client)
        _SITES.clear()  # one at a time: a process that serves several clients must not hold all their models
        _SITES[key] = Site(
            config, streams, client, data.tokenizer.digest(), Path(state_folder) / f"client-{client}"
        )
    return _SITES[key]


def client_app(data_folder: str, state_folder: str) -> ClientApp:
    """For simulation: trains right here; the partition's number is the client's."""
    app = ClientApp()

    @app.query()
    def who(message: Message, context: Context) -> Message:
        return Message(hello(message.content, int(context.node_config["partition-id"])), reply_to=message)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        config = _config(message)
        order: Order = from_record(Order, message.content)
        site = site_for(
            config, data_folder, state_folder, int(context.node_config["partition-id"]), whole=False
        )
        return Message(to_record(site.work(order)), reply_to=message)

    return app


def _config(message: Message) -> FederationConfig:
    return FederationConfig.from_values(
        json.loads(str(message.content.config_records["config"]["federation"]))
    )


def forwarding_app() -> ClientApp:
    """For deployment: hands orders to the site's trainer process, so that a new process per message costs
    little.
    """
    app = ClientApp()

    @app.query()
    def who(message: Message, context: Context) -> Message:
        return Message(hello(message.content, int(context.node_config["partition-id"])), reply_to=message)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        from euston.federated.trainer_process import ask

        order: Order = from_record(Order, message.content)
        config = str(message.content.config_records["config"]["federation"])
        reply: Reply = ask(str(context.node_config["trainer"]), config, order)
        return Message(to_record(reply), reply_to=message)

    return app
