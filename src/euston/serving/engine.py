"""A serving cluster as a component of the clock, beside networks, jobs and autoscalers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from euston.clock.conductor import Message
from euston.errors import ConfigError, SimulationError
from euston.serving import _build, _change, _kernel
from euston.serving import _state as k
from euston.serving._heap import push
from euston.serving._step import NETWORK
from euston.serving.deployment import Deployment
from euston.serving.requests import Requests
from euston.serving.result import ServingResult

__all__ = ["Arrived", "Handover", "Network", "Replica", "Serving", "serve"]


@dataclass(frozen=True)
class Handover:
    """To the network: ``size`` bytes from rank to rank; there ``latency`` seconds after the last byte.

    ``ticket`` comes back in `Arrived`.
    """

    ticket: int
    source: int
    target: int
    size: float
    latency: float


@dataclass(frozen=True)
class Arrived:
    """From the network: the hand-over with this ticket is there."""

    ticket: int


@dataclass(frozen=True)
class Replica:
    """From failures and autoscalers: the unit of rank ``rank`` goes "down", comes "up", or is to "drain"."""

    rank: int
    change: str


@dataclass(frozen=True)
class Network:
    """From the fabric: the collectives of a pool's steps take ``factor`` times as long from now on."""

    pool: int
    factor: float


_CHANGES = {"down": int(k.E_DOWN), "up": int(k.E_UP), "drain": int(k.E_DRAIN)}
_push = getattr(push, "py_func", push)


class Serving:
    """Requests served by a deployment.

    Parameters
    ----------
    requests : Requests
    deployment : Deployment
    seed : int
        Of everything that is drawn: routing, accepted drafts.
    record_tokens : bool
        Keep the time of every token (8 bytes each).
    name, network : str
        The component's name, and that of the one that carries hand-overs (``transport.network = "fluid"``).
    down : sequence of int
        Ranks that are not up at the start.

    Raises
    ------
    ConfigError
        For a block size that does not divide the trace's, unknown ranks.
    """

    def __init__(
        self,
        requests: Requests,
        deployment: Deployment,
        *,
        seed: int = 0,
        record_tokens: bool = False,
        name: str = "serving",
        network: str = "network",
        down: Sequence[int] = (),
    ) -> None:
        if not 0 <= seed < 2**62:
            raise ConfigError(f"seed is {seed}; it must be between 0 and 2^62")
        self.name, self.network = name, network
        self.requests, self.deployment = requests, deployment
        self._state = _build.build(requests, deployment, seed=seed, record=record_tokens)
        self._next = 0.0 if len(requests) else np.inf
        for rank in down:
            self._replica(0.0, Replica(rank, "down"))

    def next_time(self) -> float:
        """When something happens next, inf if nothing will without a message."""
        return self._next

    @property
    def now(self) -> float:
        """Seconds of simulated time reached."""
        return float(self._state.clock.now[k.Q_NOW])

    @property
    def left(self) -> int:
        """Requests that have neither ended nor been refused."""
        i = self._state.clock.i
        return len(self.requests) - int(i[k.I_DONE]) - int(i[k.I_REFUSED])

    def advance(self, until: float, inbox: Sequence[Message] = ()) -> list[Message]:
        """Run up to ``until``, or right after the first event that writes hand-overs to the network.

        Messages in ``inbox`` carry `Arrived`, `Replica` or `Network`.

        Raises
        ------
        SimulationError
            For a message that is none of these.
        """
        for message in inbox:
            self._take(message)
        while True:
            self._next, why = _kernel.advance(self._state, float(until))
            if why == k.QUIET:
                break
            if why == k.CHANGE:
                _change.change(self._state)
            self._state = _build.grow(self._state)
        clock = self._state.clock
        n = int(clock.i[k.I_OUT])
        if not n:
            return []
        clock.i[k.I_OUT] = 0
        lines = clock.out[:n].tolist()
        return [
            Message(
                time,
                self.network,
                Handover(int(r) * k.TICKETS + int(number), int(a), int(b), size, late),
                self.name,
            )
            for time, r, a, b, size, number, late in lines
        ]

    def _event(self, time: float, kind: int, ident: int) -> None:
        _push(self._state.clock.heap, self._state.clock.i, time, kind, ident)
        self._next = min(self._next, time)

    def _replica(self, time: float, change: Replica) -> None:
        ranks = self._state.fleet.rank_i
        if not 0 <= change.rank < ranks.shape[0]:
            raise ConfigError(f"rank {change.rank} does not exist; there are {ranks.shape[0]}")
        if change.change not in _CHANGES:
            raise ConfigError(f"a replica can go {', '.join(_CHANGES)}, not {change.change!r}")
        self._event(time, _CHANGES[change.change], int(ranks[change.rank, k.R_UNIT]))

    def _take(self, message: Message) -> None:
        said = message.payload
        if isinstance(said, Arrived):
            self._event(message.time, int(k.E_LOADED), said.ticket)
        elif isinstance(said, Replica):
            self._replica(message.time, said)
        elif isinstance(said, Network):
            fleet = self._state.fleet
            if not 0 <= said.pool < fleet.pool_i.shape[0] or not said.factor > 0:
                raise SimulationError(f"{said} names no pool, or no positive factor")
            fleet.table[fleet.pool_i[said.pool, k.P_TABLE] + NETWORK] = said.factor
        else:
            raise SimulationError(f"{self.name} does not understand {said!r}")

    def load(self) -> dict[str, NDArray[np.int64]]:
        """What an autoscaler sees, per rank: whether up, requests, tokens queued, blocks used and free."""
        r = self._state.fleet.rank_i
        return {
            "up": (r[:, k.R_ALIVE] == k.A_UP).astype(np.int64),
            "running": r[:, k.R_RUN].copy(),
            "waiting": r[:, k.R_WAIT].copy(),
            "requests": r[:, k.R_REQ].copy(),
            "queued_tokens": r[:, k.R_TOK] + r[:, k.R_PREFILLING],
            "used_blocks": r[:, k.R_CAP] - r[:, k.R_FREE],
            "free_blocks": r[:, k.R_FREE].copy(),
        }

    def arrivals(self, since: float) -> int:
        """Requests let in after ``since`` and until now."""
        return int((self._state.work.when[:, k.W_ARRIVAL] > since).sum())

    def seen_latency(self, metric: str, since: float, now: float) -> NDArray[np.float64]:
        """Latencies that showed after ``since`` and by ``now``, in seconds.

        "ttft": of first tokens, and how long those have waited that have none (else a service that answers
        nobody looked well). "tpot": time per output token of the requests that ended.
        """
        work = self._state.work
        first, last = work.when[:, k.W_FIRST], work.when[:, k.W_LAST]
        if metric == "ttft":
            arrived = work.when[:, k.W_ARRIVAL]
            open_ = (work.req[:, k.STATE] != k.ST_ENDED) & ~np.isfinite(first) & (arrived <= now)
            shown = np.isfinite(first) & (first > since)
            return np.concatenate([first[shown] - arrived[shown], now - arrived[open_]])
        tokens = work.req[:, k.KNOWN] - work.req[:, k.IN]
        ended = (work.req[:, k.STATE] == k.ST_ENDED) & (last > since) & (tokens > 1)
        return np.asarray((last[ended] - first[ended]) / (tokens[ended] - 1), np.float64)

    def result(self) -> ServingResult:
        """What happened so far."""
        s = self._state
        req, aux, when, r, i = s.work.req, s.work.aux, s.work.when, s.fleet.rank_i, s.clock.i
        times = {
            name: np.where(np.isfinite(when[:, column]), when[:, column], np.nan)
            for name, column in (
                ("arrival", k.W_ARRIVAL), ("scheduled", k.W_SCHEDULED),
                ("first", k.W_FIRST), ("last", k.W_LAST),
            )
        }  # fmt: skip
        counters = {
            "steps": k.R_STEPS, "prefill_tokens": k.R_PREFILL, "decode_tokens": k.R_DECODE,
            "hit_tokens": k.R_HIT, "preemptions": k.R_PREEMPT, "recomputed_tokens": k.R_RECOMPUTED,
            "evicted_blocks": k.R_EVICTED, "swapped_blocks": k.R_SWAPPED, "loaded_tokens": k.R_LOADED,
            "peak_blocks": k.R_PEAK, "blocks": k.R_CAP, "emitted_tokens": k.R_EMITTED,
        }  # fmt: skip
        encoding = aux[:, k.EMBED] == k.EM_MADE
        return ServingResult(
            requests=self.requests,
            **times,
            tokens=np.where(encoding, aux[:, k.MADE], req[:, k.KNOWN] - req[:, k.IN]).astype(np.int32),
            hits=np.maximum(aux[:, k.HITS], 0),
            tier_hits=aux[:, k.TIER_HITS].copy(),
            preemptions=req[:, k.PREEMPTED].copy(),
            retries=aux[:, k.RETRIES].copy(),
            worst_gap=when[:, k.W_WORST].copy(),
            rank=req[:, k.RANK].copy(),
            outcome=aux[:, k.OUTCOME].copy(),
            gap_counts=s.work.hist.copy(),
            token_times=s.work.tokens.copy(),
            ranks={
                **{name: r[:, column].copy() for name, column in counters.items()},
                "used_blocks": r[:, k.R_CAP] - r[:, k.R_FREE],
                "held_images": s.fleet.pool_i[r[:, k.R_POOL], k.P_ROOM] - r[:, k.R_ROOM],
            },
            busy=s.fleet.unit_f[:, k.U_BUSY_S].copy(),
            end=self.now,
            events=int(i[k.I_EVENTS]),
            steps=int(i[k.I_STEPS]),
            transfers=int(i[k.I_TRANSFERS]),
            handed_bytes=float(s.clock.now[k.Q_HANDED]),
            loaded_bytes=float(s.clock.now[k.Q_LOADED]),
        )


def serve(
    requests: Requests,
    deployment: Deployment,
    *,
    seed: int = 0,
    record_tokens: bool = False,
    until: float = np.inf,
) -> ServingResult:
    """Serve ``requests`` on their own (no shared network, no failures) up to ``until`` seconds.

    Raises
    ------
    ConfigError
        When the deployment's transfers need a network component; use the conductor then.
    """
    if deployment.transport.network != "none" and len(deployment.pools) > 1:
        raise ConfigError("`transport.network`: 'fluid' needs a network beside it; run both by the conductor")
    engine = Serving(requests, deployment, seed=seed, record_tokens=record_tokens)
    while engine.next_time() <= until and engine.next_time() < np.inf:
        engine.advance(until)
    return engine.result()
