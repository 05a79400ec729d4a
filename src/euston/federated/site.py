"""A site: takes an order, trains its islands on its own text, gives back one update; keeps what it may
need again.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from euston.compression import NonFinite, StepKey
from euston.errors import EustonError
from euston.federated import checkpoint
from euston.federated.coding import decode, encode
from euston.federated.config import FederationConfig
from euston.federated.layout import Flat
from euston.federated.privacy import clipped
from euston.federated.stream import TokenStream
from euston.federated.trainer import Trained, Trainer
from euston.federated.wire import PROTOCOL, Order, ProtocolMismatch, Reply

__all__ = ["Site", "parameters_hash"]

Floats = NDArray[np.float32]


def parameters_hash(values: Floats) -> str:
    """SHA-256 of a flat vector."""
    return sha256(np.ascontiguousarray(values).data).hexdigest()


@dataclass
class _State:
    """A site after a round: the round and the try at it, its islands' states, its copy of the
    aggregator's parameters.
    """

    round: int
    attempt: int
    islands: list[dict[str, Any]]
    view: Floats | None


@dataclass
class _Ahead:
    """Steps made beyond a round, before its answer has come: which state and place they follow."""

    after: tuple[str, int, int]
    position: int
    done: list[Trained]


class Site:
    """One participant.

    Parameters
    ----------
    config : FederationConfig
    streams : sequence of TokenStream
        One per island.
    client : int
    tokenizer : str
        SHA-256 of the tokenizer of its text.
    folder : path, optional
        Where it keeps its state; without one it has only its memory.
    """

    def __init__(
        self,
        config: FederationConfig,
        streams: Sequence[TokenStream],
        client: int,
        tokenizer: str,
        folder: Path | None = None,
    ) -> None:
        self.config, self.client, self.tokenizer, self.folder = config, client, tokenizer, folder
        self.layout = Flat.of(config.model, config.sync.fragments, config.sync.pattern)
        self.trainers = [Trainer(config, stream) for stream in streams]
        sync = config.sync
        # Streaming keeps a site's own parameters between exchanges; plain DiLoCo starts afresh.
        self.own_parameters = sync.fragments > 1 or sync.overlap_steps > 0 or sync.mix > 0
        self.keeps_view = self.own_parameters or sync.down_codec != "none"
        self.keeps_moments = config.local.inner_state != "stateless"
        self._now = _State(-1, 0, [{"cursor": 0} for _ in streams], None)
        self._before: _State | None = None
        self._moments: dict[str, Floats] = {}
        self._run = ""
        self._ahead: _Ahead | None = None
        self._begun: list[Trained] | None = None

    def work(self, order: Order) -> Reply:
        """Carry out an order.

        What goes wrong here is said in the reply: the aggregator goes on with the others.
        """
        answer: dict[str, Any] = {
            "run": order.run,
            "round": order.round,
            "attempt": order.attempt,
            "client": self.client,
            "parent": order.parent,
            "fragment": order.fragment,
            "codec": order.codec,
        }
        arrived = time.monotonic()
        try:
            if order.protocol != PROTOCOL:
                raise ProtocolMismatch(
                    f"the aggregator speaks protocol {order.protocol}, this site {PROTOCOL}"
                )
            if order.tokenizer != self.tokenizer:
                raise EustonError("its tokenizer is not the federation's; build its data with the same one")
            self._continue_from(order)
            view = self._take(order)
            if view is None:
                return Reply(**answer, status="need_full")
            done = self._train(order, view, arrived)
            blobs = self._update(order, view, done)
            self._keep(order, view)
        except EustonError as error:
            return Reply(**answer, status="failed", reason=str(error))
        samples = sum(d.samples for d in done)
        return Reply(
            **answer, samples=samples, tokens=sum(d.tokens for d in done), steps=max(d.steps for d in done),
            loss_mean=sum(d.loss_mean * d.samples for d in done) / samples,
            loss_last=sum(d.loss_last * d.samples for d in done) / samples,
            seconds=sum(d.seconds for d in done), blobs=blobs,
            windows=tuple(int(t.stream.cursor) for t in self.trainers),
        )  # fmt: skip

    def ahead(self, order: Order) -> None:
        """Go on with what the next round begins with in any case, while `order`'s answer travels.

        Streaming DiLoCo takes what comes back in only after ``sync.overlap_steps``. The next order makes use
        of these steps where it follows upon this one, and undoes them where it does not.
        """
        position, steps = order.position + order.steps, self.config.sync.overlap_steps
        settled = (self._now.round, self._now.attempt) == (order.round, order.attempt)
        if not steps or not settled or self.config.local.inner_state == "averaged":
            return
        if position >= self.config.serial_steps:
            return
        done = []
        for trainer in self.trainers:
            if not self.keeps_moments:
                trainer.inner.reset()
            done.append(trainer.run(steps, position))
        self._ahead = _Ahead((order.run, order.round, order.attempt), position, done)

    # -- which state to start from

    def _continue_from(self, order: Order) -> None:
        """Go to the state after round ``order.accepted``: what the aggregator did not take is undone."""
        if order.run != self._run:  # another run: nothing of the last one is worth keeping
            self._run, self._before = order.run, None
            self._now = _State(-1, 0, [{"cursor": 0} for _ in self.trainers], None)
        wanted = (order.accepted, order.accepted_attempt)
        if (self._now.round, self._now.attempt) != wanted:
            if self._before is not None and (self._before.round, self._before.attempt) == wanted:
                self._now = self._before
            else:
                self._now = self._load(order)
        ahead, self._ahead, self._begun = self._ahead, None, None
        if ahead is not None and (ahead.after, ahead.position) == ((order.run, *wanted), order.position):
            self._begun = ahead.done
            self._before = self._now
            return
        for trainer, state in zip(self.trainers, self._now.islands, strict=True):
            if state:
                trainer.restore(state)
                if "local" in state:
                    trainer.load(state["local"])
        self._before = self._now

    def _load(self, order: Order) -> _State:
        fresh = _State(order.accepted, order.accepted_attempt, [{"cursor": c} for c in order.windows], None)
        if self.folder is None or order.accepted < 0:
            return fresh
        try:
            kept = checkpoint.read(checkpoint.path_of(self.folder, "site", order.accepted))
        except checkpoint.CheckpointCorrupt:
            return fresh  # a site that has lost its state needs only the parameters and its place in the text
        if (kept.meta.get("run"), kept.meta.get("attempt")) != (order.run, order.accepted_attempt):
            return fresh
        islands = [
            {**state, **{key: kept.arrays[f"{i}.{key}"] for key in ("first", "second", "local")
                         if f"{i}.{key}" in kept.arrays}}
            for i, state in enumerate(kept.meta["islands"])
        ]  # fmt: skip
        return _State(order.accepted, order.accepted_attempt, islands, kept.arrays.get("view"))

    # -- the round

    def _take(self, order: Order) -> Floats | None:
        """The aggregator's parameters after this order; None where they cannot be put together."""
        whole = {p.fragment for p in order.parts if p.kind == "full"} == set(
            range(len(self.layout.fragments))
        )
        if self._now.view is None and not whole:
            return None
        view = np.empty(self.layout.size, np.float32) if self._now.view is None else self._now.view.copy()
        blobs, self._moments = list(order.blobs), {}
        for part in order.parts:
            slices = self.layout.fragment_slices(part.fragment)
            some, blobs = blobs[: len(slices)], blobs[len(slices) :]
            key = StepKey(self.config.seed, order.round, part.fragment)
            if part.kind == "full":
                decode("none", some, slices, view, key)
            elif part.kind == "increment":
                step = np.zeros_like(view)
                decode(order.down_codec, some, slices, step, key)
                for s in slices:
                    view[s] += step[s]
            else:
                moment = np.empty_like(view)
                decode("none", some, slices, moment, key)
                self._moments[part.kind] = moment
        return view if parameters_hash(view) == order.parent else None

    def _train(self, order: Order, view: Floats, arrived: float) -> list[Trained]:
        mix, stop = self.config.sync.mix, arrived + order.deadline if order.deadline else float("inf")
        done = []
        for i, (trainer, state) in enumerate(zip(self.trainers, self._now.islands, strict=True)):
            fresh = not self.own_parameters or "local" not in state
            begun = None if self._begun is None else self._begun[i]
            if fresh:
                trainer.load(view)
            if begun is None and (not self.keeps_moments or "first" not in state):
                trainer.inner.reset()
            if self._moments:
                steps = state.get("steps", order.position)  # a newcomer takes over moments that are grown up
                trainer.restore({**trainer.state(), **self._moments, "steps": steps})

            def merge(step: int, trainer: Trainer = trainer, fresh: bool = fresh) -> None:
                for part in order.parts:
                    if part.at_step == step and part.kind in ("full", "increment") and not fresh:
                        own = trainer.parameters()
                        for s in self.layout.fragment_slices(part.fragment):
                            own[s] = np.float32(mix) * own[s] + np.float32(1.0 - mix) * view[s]
                        trainer.load(own)

            share = len(self.trainers) - i  # islands take turns here: each gets its part of the time left
            until = (
                stop if stop == float("inf") else time.monotonic() + max(0.0, stop - time.monotonic()) / share
            )
            done.append(trainer.run(order.steps, order.position, before=merge, stop_at=until, begun=begun))
        return done

    def _update(self, order: Order, view: Floats, done: Sequence[Trained]) -> list[NDArray[np.uint8]]:
        """The fragment as it leaves the site: islands averaged, clipped, encoded; then moments."""
        slices = self.layout.fragment_slices(order.fragment)
        key = StepKey(
            self.config.seed, order.round, order.fragment, self.client, f"update of client {self.client}"
        )
        weights = [d.samples for d in done]
        mean = _mean([trainer.parameters() for trainer in self.trainers], weights)
        if not all(np.isfinite(mean[s]).all() for s in slices):
            raise NonFinite(
                "its parameters are NaN or infinite after training; lower local.lr or clip gradients"
            )
        if self.config.privacy.clip:
            mean = clipped(view, mean, slices, self.config.privacy.clip)
        sent = mean if order.codec == "none" else view - mean
        blobs = encode(order.codec, sent, slices, key)
        for which in order.moments:
            moment = _mean([trainer.state()[which] for trainer in self.trainers], weights)
            blobs += encode("none", moment, slices, key)
        return blobs

    # -- what it keeps

    def _keep(self, order: Order, view: Floats) -> None:
        islands = []
        for trainer in self.trainers:
            state = trainer.state()
            if not self.keeps_moments:
                state = {"cursor": state["cursor"]}
            if self.own_parameters:
                state["local"] = trainer.parameters()
            islands.append(state)
        self._now = _State(order.round, order.attempt, islands, view if self.keeps_view else None)
        if self.folder is None or not order.save:
            return
        arrays: dict[str, NDArray[Any]] = {} if self._now.view is None else {"view": self._now.view}
        plain = []
        for i, state in enumerate(islands):
            plain.append({key: value for key, value in state.items() if isinstance(value, int)})
            arrays |= {f"{i}.{key}": value for key, value in state.items() if not isinstance(value, int)}
        meta = {"run": order.run, "round": order.round, "attempt": order.attempt, "islands": plain}
        checkpoint.write(checkpoint.path_of(self.folder, "site", order.round), meta, arrays)
        checkpoint.prune(self.folder, "site", min(order.settled, order.accepted))


def _mean(vectors: Sequence[Floats], weights: Sequence[int]) -> Floats:
    if len(vectors) == 1:
        return vectors[0]
    total = np.zeros(vectors[0].size)
    for vector, weight in zip(vectors, weights, strict=True):
        total += vector.astype(np.float64) * weight
    return (total / sum(weights)).astype(np.float32)
