"""What the aggregator knows: parameters, outer state, counters, what each client has had; and its
checkpoint.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from euston.errors import ConfigError
from euston.federated import checkpoint
from euston.federated.config import FederationConfig
from euston.federated.layout import Flat
from euston.federated.outer import Outer

__all__ = ["Seen", "State"]

Floats = NDArray[np.float32]
KEPT = 3


@dataclass
class Seen:
    """What the aggregator knows of a client.

    Attributes
    ----------
    accepted : int
        Last round whose update of it was taken; -1: none.
    attempt : int
        Which try at that round.
    windows : tuple of int
        Windows its islands had drawn by then.
    settled : int
        `accepted` as of the last checkpoint.
    """

    accepted: int = -1
    attempt: int = 0
    windows: tuple[int, ...] = ()
    settled: int = -1


@dataclass
class State:
    """State of a run between two rounds.

    Attributes
    ----------
    theta : float32[parameters]
        The model.
    view : float32[parameters]
        What sites hold: `theta`, but for what the codec of the way down has left out so far.
    outer : Outer
    first, second : float32[parameters]
        Averaged moments (inner_state averaged), empty before the first average.
    increments : list of uint8 arrays
        Last round's change of `view` as sent, where the way down has a codec.
    round, server_steps, tokens, failed, epoch
        Committed exchanges, serial steps, tokens trained on, failed attempts in a row, times the aggregator
        has started.
    norms : list of float
        Norms of the updates taken lately.
    sent : dict
        Bytes by kind since the run began: up, down, peers, initial, control.
    """

    run: str
    theta: Floats
    view: Floats
    outer: Outer
    clients: list[Seen]
    first: Floats = field(default_factory=lambda: np.zeros(0, np.float32))
    second: Floats = field(default_factory=lambda: np.zeros(0, np.float32))
    increments: list[NDArray[np.uint8]] = field(default_factory=list)
    round: int = 0
    server_steps: int = 0
    tokens: int = 0
    failed: int = 0
    epoch: int = 0
    norms: list[float] = field(default_factory=list)
    privacy_key: int = 0
    sent: dict[str, int] = field(
        default_factory=lambda: {"up": 0, "down": 0, "peers": 0, "initial": 0, "control": 0}
    )

    @classmethod
    def initial(cls, config: FederationConfig, layout: Flat, theta: Floats) -> State:
        """Before the first round."""
        return cls(
            secrets.token_hex(8),
            theta.copy(),
            theta.copy(),
            Outer(config.outer, layout.size, len(layout.fragments)),
            [Seen(windows=(0,) * config.islands) for _ in range(config.clients)],
            privacy_key=secrets.randbits(62),
        )

    def save(self, folder: Path, config: FederationConfig, data: str) -> Path:
        """Write ``round-N.ckpt``; the last three are kept."""
        for seen in self.clients:
            seen.settled = seen.accepted
        meta = {
            "config": config.values(),
            "digest": config.digest(),
            "data": data,
            "run": self.run,
            "round": self.round,
            "server_steps": self.server_steps,
            "tokens": self.tokens,
            "failed": self.failed,
            "epoch": self.epoch,
            "norms": self.norms,
            "privacy_key": self.privacy_key,
            "sent": self.sent,
            "clients": [[seen.accepted, seen.attempt, list(seen.windows)] for seen in self.clients],
            "increments": len(self.increments),
        }
        arrays: dict[str, NDArray[Any]] = {
            "theta": self.theta, "view": self.view, "momentum": self.outer.momentum,
            "outer_second": self.outer.second, "counts": self.outer.counts, "first": self.first,
            "second": self.second, **{f"increment.{i}": blob for i, blob in enumerate(self.increments)},
        }  # fmt: skip
        path = checkpoint.path_of(folder, "round", self.round)
        checkpoint.write(path, meta, arrays)
        kept = checkpoint.numbers(folder, "round")
        checkpoint.prune(folder, "round", kept[-KEPT] if len(kept) > KEPT else 0)
        return path

    @classmethod
    def load(cls, folder: Path, config: FederationConfig, data: str) -> State | None:
        """The newest whole checkpoint of this configuration; None where there is none.

        Raises
        ------
        ConfigError
            It is of another configuration or other data.
        """
        found = checkpoint.latest(folder, "round")
        if found is None:
            return None
        meta, arrays = found[1].meta, found[1].arrays
        if meta["digest"] != config.digest():
            raise ConfigError(f"`{folder}`: holds a run of another configuration; choose another folder")
        if meta["data"] != data:
            raise ConfigError(f"`{folder}`: holds a run on other data; choose another folder")
        layout = Flat.of(config.model, config.sync.fragments, config.sync.pattern)
        outer = Outer(config.outer, layout.size, len(layout.fragments))
        outer.momentum, outer.second, outer.counts = (
            arrays["momentum"],
            arrays["outer_second"],
            arrays["counts"],
        )
        clients = [Seen(a, n, tuple(w), a) for a, n, w in meta["clients"]]
        return cls(
            meta["run"],
            arrays["theta"],
            arrays["view"],
            outer,
            clients,
            arrays["first"],
            arrays["second"],
            [arrays[f"increment.{i}"] for i in range(meta["increments"])],
            meta["round"],
            meta["server_steps"],
            meta["tokens"],
            meta["failed"],
            meta["epoch"] + 1,
            meta["norms"],
            meta["privacy_key"],
            meta["sent"],
        )
