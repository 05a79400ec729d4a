"""The aggregator's loop: sample, broadcast, collect, fold in client order, take the outer step, save, go
on.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from euston.compression import StepKey
from euston.errors import BadInput, EustonError
from euston.federated.backend import Backend
from euston.federated.coding import decode, encode
from euston.federated.config import FederationConfig
from euston.federated.exchange import Mean, OrderedFold, ring_mean
from euston.federated.layout import Flat
from euston.federated.plan import down_parts, moments_down, moments_up, sample
from euston.federated.privacy import clipped, noise, update_norm
from euston.federated.site import parameters_hash
from euston.federated.state import Seen, State
from euston.federated.volume import ring_moments
from euston.federated.wire import Order, Part, Reply, header

__all__ = ["Aggregator", "QuorumTimeout", "Round"]

Floats = NDArray[np.float32]
Round = dict[str, Any]
"""One line of the rounds table."""

_MEMORY = 32
"""Norms remembered for the median that a new update is held against."""


class QuorumTimeout(EustonError):
    """Too few clients, for too long; the model is as the last checkpoint has it."""


class Aggregator:
    """Runs a federation over a backend, from any state to the end.

    Parameters
    ----------
    config : FederationConfig
    backend : Backend
    state : State
    tokenizer : str
        SHA-256 of the tokenizer all sites must share.
    """

    def __init__(self, config: FederationConfig, backend: Backend, state: State, tokenizer: str) -> None:
        self.config, self.backend, self.state, self.tokenizer = config, backend, state, tokenizer
        self.layout = Flat.of(config.model, config.sync.fragments, config.sync.pattern)
        self._norms: dict[int, float] = {}
        self._new = True

    # -- one round

    def round(self, save: bool, tell: Callable[[str], None] = lambda _: None) -> Round:
        """Carry out exchanges until one is committed; returns its line.

        Raises
        ------
        QuorumTimeout
            No quorum within `join_deadline`, or `max_failed_rounds` attempts in a row without one.
        """
        state, fault = self.state, self.config.fault
        bytes_ = {"up": 0, "down": 0, "initial": 0, "control": 0}  # of all attempts
        while True:
            began = time.perf_counter()
            picked = self._sample(tell)
            replies, refused = self._collect(picked, save, bytes_)
            if len(replies) >= fault.quorum:
                attempts = state.failed + 1
                row = self._commit(replies, bytes_)
                return {
                    **row, "refused": {str(k): why for k, why in refused.items()}, "attempts": attempts,
                    "epoch": state.epoch, "seconds": time.perf_counter() - began,
                }  # fmt: skip
            state.failed += 1
            tell(f"round {state.round + 1} failed: {len(replies)} of {fault.quorum} updates; "
                 + "; ".join(f"client {k}: {why}" for k, why in refused.items()))  # fmt: skip
            if state.failed > fault.max_failed_rounds:
                raise QuorumTimeout(f"round {state.round + 1}: {state.failed} attempts without a quorum of "
                                    f"{fault.quorum}; {_reasons(refused)}")  # fmt: skip

    def _sample(self, tell: Callable[[str], None]) -> list[int]:
        """K of the clients that are there. A client that is away changes nobody else's turn."""
        config, state = self.config, self.state
        # whoever has just started waits for all, so that a restart changes nothing
        need = config.sampled if self._new else config.fault.quorum
        self._new = False
        until = time.monotonic() + config.fault.join_deadline
        there = self.backend.clients()
        while len(there) < need and time.monotonic() < until:
            tell(f"waiting for {need - len(there)} more clients")
            time.sleep(min(0.5, max(0.0, until - time.monotonic())))
            there = self.backend.clients()
        if len(there) < config.fault.quorum:
            raise QuorumTimeout(
                f"round {state.round + 1}: {len(there)} clients after {config.fault.join_deadline:g} s, "
                f"a quorum is {config.fault.quorum}"
            )
        return sample(config, state.round, state.failed, there)

    def _collect(
        self, picked: Sequence[int], save: bool, bytes_: dict[str, int]
    ) -> tuple[list[tuple[Reply, Floats]], dict[int, str]]:
        """Send orders, wait, check what comes; taken replies with their decoded update, in client order.

        What crosses on the way is added to `bytes_`.
        """
        fault = self.config.fault
        deadline = fault.deadline
        if deadline and self.state.round == 0:
            deadline = fault.first_deadline or 10 * fault.deadline
        taken: list[tuple[Reply, Floats]] = []
        refused: dict[int, str] = {}

        def take(reply: Reply) -> None:
            try:
                taken.append((reply, self._checked(reply)))
            except BadInput as error:
                refused[reply.client] = f"quarantined: {error}"

        fold: OrderedFold[Reply] = OrderedFold(picked, take)
        full: set[int] = set()
        orders = {k: self._order(k, self.state.clients[k], deadline, save) for k in picked}
        parent = next(iter(orders.values())).parent
        self.backend.start(list(orders.values()), deadline)
        for order in orders.values():
            self._count_down(order, bytes_)
        waiting, began, enough_since = set(picked), time.monotonic(), 0.0
        while waiting:
            now = time.monotonic()
            if deadline and now - began > deadline:
                break
            if enough_since and fault.grace and now - enough_since > fault.grace:
                break
            for reply in self.backend.poll(0.2):
                if (reply.run, reply.round, reply.attempt, reply.parent) != (
                    self.state.run, self.state.round, self._attempt, parent
                ) or reply.client not in waiting:  # fmt: skip
                    continue  # of an earlier attempt, or nobody we asked
                bytes_["control"] += len(header(reply))
                if reply.status == "need_full" and reply.client not in full:
                    full.add(reply.client)
                    order = self._order(reply.client, None, deadline, save)
                    self._count_down(order, bytes_)
                    self.backend.start([order], deadline)
                    continue
                waiting.discard(reply.client)
                if reply.status == "ok":
                    bytes_["up"] += reply.payload_bytes
                    fold.offer(reply.client, reply)
                else:
                    refused[reply.client] = reply.reason or reply.status
                    fold.offer(reply.client, None)
            if not enough_since and len(picked) - len(waiting) - len(refused) >= fault.quorum:
                enough_since = time.monotonic()
        fold.close()
        self.backend.forget()
        for k in sorted(waiting):
            refused[k] = "no reply before the deadline"
        return taken, refused

    # -- what goes down

    @property
    def _attempt(self) -> int:
        return self.state.epoch * 1_000_000 + self.state.failed

    def _order(self, client: int, seen: Seen | None, deadline: float, save: bool) -> Order:
        """What a client needs; `seen` None for one that has lost what it had."""
        config, state = self.config, self.state
        known = state.clients[client]
        parts, blobs = self._parts(seen)
        return Order(
            run=state.run,
            round=state.round,
            attempt=self._attempt,
            client=client,
            position=state.server_steps,
            steps=config.steps_per_round,
            fragment=state.round % config.sync.fragments,
            accepted=known.accepted,
            accepted_attempt=known.attempt,
            settled=known.settled,
            windows=known.windows,
            parent=parameters_hash(state.view),
            # the update must also get here: leave a tenth of the time for the way
            deadline=0.9 * deadline,
            save=save or not self.backend.keeps_sites,
            codec="none" if config.topology == "rar" else config.sync.codec,
            moments=self._asked,
            tokenizer=self.tokenizer,
            parts=tuple(parts),
            blobs=blobs,
            down_codec=config.sync.down_codec,
        )

    def _parts(self, seen: Seen | None) -> tuple[list[Part], list[NDArray[np.uint8]]]:
        config, state, layout = self.config, self.state, self.layout
        accepted = -1 if seen is None else seen.accepted
        parts: list[Part] = []
        blobs: list[NDArray[np.uint8]] = []

        def add(part: Part, vector: Floats) -> None:
            parts.append(part)
            key = StepKey(config.seed, state.round, part.fragment)
            blobs.extend(encode("none", vector, layout.fragment_slices(part.fragment), key))

        for down in down_parts(config, state.round, accepted):
            if down.full:
                add(Part(down.fragment, "full", down.at_step), state.view)
            else:
                parts.append(Part(down.fragment, "increment", down.at_step))
                blobs.extend(state.increments)
        for name in moments_down(config, state.round, accepted):
            add(Part(0, name), getattr(state, name))
        return parts, blobs

    def _count_down(self, order: Order, bytes_: dict[str, int]) -> None:
        config, round_ = self.config, self.state.round
        accepted = self.state.clients[order.client].accepted
        catch_up = order.down_codec != "none" and any(part.kind == "full" for part in order.parts)
        if config.topology == "ps":
            bytes_["initial" if accepted < 0 or catch_up else "down"] += order.payload_bytes
        elif accepted < round_ - 1 or accepted < 0:  # the others have it from their peers
            bytes_["initial"] += order.payload_bytes
        bytes_["control"] += len(header(order))

    # -- what comes up

    def _checked(self, reply: Reply) -> Floats:
        """The site's model (whole vector, this fragment filled in), or why it is not taken.

        Raises
        ------
        BadInput
            Wrong size, codec or sample count, values that are not finite, a norm out of proportion.
        """
        config, state, layout = self.config, self.state, self.layout
        fragment = state.round % config.sync.fragments
        slices = layout.fragment_slices(fragment)
        codec = "none" if config.topology == "rar" else config.sync.codec
        most = config.steps_per_round * config.local.batch * config.islands
        if reply.fragment != fragment or reply.codec != codec:
            raise BadInput(
                f"fragment {reply.fragment} in {reply.codec} where {fragment} in {codec} was asked for"
            )
        if not 0 < reply.samples <= most:
            raise BadInput(f"{reply.samples} samples; a round has 1 to {most}")
        key = StepKey(config.seed, state.round, fragment, reply.client, f"update of client {reply.client}")
        came = np.zeros(layout.size, np.float32)
        decode(codec, list(reply.blobs)[: len(slices)], slices, came, key)
        new = came if codec == "none" else state.view - came
        if config.privacy.clip:  # the site has clipped already; what counts is what we do
            new = clipped(state.view, new, slices, config.privacy.clip)
        with np.errstate(over="ignore", invalid="ignore"):
            size = update_norm(state.view - new, slices)
        if not np.isfinite(size):
            raise BadInput("values that are NaN or infinite")
        if len(state.norms) >= 3:
            usual = statistics.median(state.norms)
            if size > config.fault.max_norm_ratio * usual > 0:
                raise BadInput(
                    f"a norm of {size:.3g}, {size / usual:.3g} times the usual; fault.max_norm_ratio is "
                    f"{config.fault.max_norm_ratio:g}"
                )
        if len(reply.blobs) != (1 + len(self._asked)) * len(slices):
            raise BadInput(
                f"{len(reply.blobs)} tensors; {(1 + len(self._asked)) * len(slices)} were asked for"
            )
        for i in range(len(self._asked)):
            if not np.isfinite(self._moment(reply, i)).all():
                raise BadInput("moments that are NaN or infinite")
        self._norms[reply.client] = size
        return new

    @property
    def _asked(self) -> tuple[str, ...]:
        """Moments that are averaged in this round."""
        return moments_up(self.config, self.state.round)

    def _moment(self, reply: Reply, i: int) -> Floats:
        slices = self.layout.fragment_slices(0)  # averaged moments go with whole models only
        vector = np.zeros(self.layout.size, np.float32)
        some = list(reply.blobs)[(i + 1) * len(slices) : (i + 2) * len(slices)]
        decode("none", some, slices, vector, StepKey(self.config.seed, self.state.round))
        return vector

    def _commit(self, replies: Sequence[tuple[Reply, Floats]], bytes_: dict[str, int]) -> Round:
        config, state, layout = self.config, self.state, self.layout
        fragment = state.round % config.sync.fragments
        slices = layout.fragment_slices(fragment)
        peers = 0
        if config.topology == "rar":
            mean, peers = self._ring(replies, slices)
            peers += ring_moments(layout, len(self._asked), len(replies))
        else:
            folded = Mean(layout.size)
            for reply, new in replies:
                folded.fold(new, 1.0 if config.privacy.clip else reply.samples)
            mean = folded.value()
            if config.topology == "ar":
                peers = sum(reply.payload_bytes for reply, _ in replies) * (len(replies) - 1)
        if config.privacy.clip:
            deviation = config.privacy.noise_multiplier * config.privacy.clip / len(replies)
            for s in slices:
                mean[s] += noise(s.stop - s.start, deviation, state.privacy_key + s.start, state.round)
        if config.topology != "ps":  # no aggregator: nothing goes up or down
            bytes_ = {**bytes_, "up": 0, "down": 0}
        # theta differs from what sites hold only by what a lossy way down has not said yet
        for s in slices:
            mean[s] += state.theta[s].astype(np.float64) - state.view[s]
        state.outer.step(state.theta, mean, slices, fragment)
        self._advance_view(slices, fragment)
        self._average_moments(replies)
        state.norms = [*state.norms, *(self._norms[reply.client] for reply, _ in replies)][-_MEMORY:]
        return self._account(replies, bytes_, peers)

    def _ring(self, replies: Sequence[tuple[Reply, Floats]], slices: Sequence[slice]) -> tuple[Any, int]:
        key = StepKey(self.config.seed, self.state.round, self.state.round % self.config.sync.fragments)
        view = self.state.view
        differences = [np.concatenate([view[s] - new[s] for s in slices]) for _, new in replies]
        held, sent = ring_mean(differences, [r.samples for r, _ in replies], self.config.sync.codec, key)
        mean = np.zeros(self.layout.size)
        start = 0
        for s in slices:
            size = s.stop - s.start
            mean[s] = view[s].astype(np.float64) - held[0][start : start + size]
            start += size
        return mean, sum(sent)

    def _advance_view(self, slices: Sequence[slice], fragment: int) -> None:
        state, codec = self.state, self.config.sync.down_codec
        if codec == "none":
            for s in slices:
                state.view[s] = state.theta[s]
            return
        key = StepKey(self.config.seed, state.round + 1, fragment)
        state.increments = encode(codec, state.theta - state.view, slices, key)
        step = np.zeros_like(state.view)
        decode(codec, state.increments, slices, step, key)
        for s in slices:
            state.view[s] += step[s]

    def _average_moments(self, replies: Sequence[tuple[Reply, Floats]]) -> None:
        for i, name in enumerate(self._asked):
            folded = Mean(self.layout.size)
            for reply, _ in replies:
                folded.fold(self._moment(reply, i), reply.samples)
            setattr(self.state, name, folded.value().astype(np.float32))

    def _account(self, replies: Sequence[tuple[Reply, Floats]], bytes_: dict[str, int], peers: int) -> Round:
        config, state = self.config, self.state
        weight = sum(reply.samples for reply, _ in replies)
        tokens = sum(reply.tokens for reply, _ in replies)
        for reply, _ in replies:
            state.clients[reply.client].accepted = state.round
            state.clients[reply.client].attempt = reply.attempt
            state.clients[reply.client].windows = reply.windows
        state.round += 1
        state.server_steps += config.steps_per_round
        state.tokens += tokens
        state.failed = 0
        for kind, count in {**bytes_, "peers": peers}.items():
            state.sent[kind] += count
        return {
            "round": state.round, "tokens": state.tokens, "server_steps": state.server_steps,
            "loss": sum(reply.loss_mean * reply.samples for reply, _ in replies) / weight,
            "participants": [reply.client for reply, _ in replies], "round_tokens": tokens,
            "train_seconds": max(reply.seconds for reply, _ in replies),
            "bytes_up": bytes_["up"], "bytes_down": bytes_["down"], "bytes_peers": peers,
            "bytes_initial": bytes_["initial"], "bytes_control": bytes_["control"],
        }  # fmt: skip


def _reasons(refused: dict[int, str]) -> str:
    if not refused:
        return "nobody answered"
    k, why = next(iter(refused.items()))
    return f"client {k}: {why}"
