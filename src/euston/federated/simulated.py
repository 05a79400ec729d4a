"""A federation in simulated time: the rounds of a configuration over sites and a WAN, with its deadlines.

Who is asked, what goes down and up, and when a round counts are decided by the rules of the trainer
(`euston.federated.plan`, `FaultConfig`); bytes are the trainer's, to the byte.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from euston.errors import SimulationError
from euston.federated.config import FederationConfig
from euston.federated.layout import Flat
from euston.federated.plan import ClientBytes, client_bytes, sample
from euston.federated.volume import ring_bytes
from euston.federated.walltime import ring_order
from euston.federated.wan import Attempt, Move, Wan, Work

__all__ = ["Client", "SimulatedRound", "Simulated", "simulate_federation"]


@dataclass(frozen=True)
class Client:
    """A client as the simulator sees it.

    Attributes
    ----------
    name : str
    place : int
        Its site's number on the WAN.
    step : float
        Seconds per local step.
    after : float
        Seconds from its last step until its update is ready: the mean over its islands.
    """

    name: str
    place: int
    step: float
    after: float = 0.0


@dataclass(frozen=True)
class SimulatedRound:
    """One committed round; seconds count from the beginning of the run, bytes are payload.

    Attributes
    ----------
    asked, participants : tuple of int
        Clients sampled, and those whose updates counted.
    steps : tuple of int
        Local steps of each asked client.
    received, computed, arrived : tuple of float
        Of each asked client; infinite where its reply came too late.
    """

    start: float
    end: float
    attempts: int
    asked: tuple[int, ...]
    participants: tuple[int, ...]
    steps: tuple[int, ...]
    received: tuple[float, ...]
    computed: tuple[float, ...]
    arrived: tuple[float, ...]
    up: float
    down: float
    initial: float
    peers: float


@dataclass
class Simulated:
    """A whole run.

    Attributes
    ----------
    rounds : list of SimulatedRound
    busy : float64[clients]
        Seconds that each client has trained, failed attempts included.
    link_bytes : float64[links]
        Carried by each link of the WAN.
    failed : int
        Attempts without a quorum.
    """

    clients: tuple[Client, ...]
    rounds: list[SimulatedRound]
    busy: NDArray[np.float64]
    link_bytes: NDArray[np.float64]
    failed: int = 0
    tokens: int = 0

    @property
    def wall(self) -> float:
        """Seconds."""
        return self.rounds[-1].end

    @property
    def utilisation(self) -> float:
        """Share of the time in which clients train, over all clients."""
        return float(self.busy.sum()) / (len(self.clients) * self.wall)

    def total(self, kind: str) -> float:
        """Bytes over all rounds: up, down, initial or peers."""
        return float(sum(getattr(r, kind) for r in self.rounds))


@dataclass
class _State:
    now: float = 0.0
    round: int = 0
    failed: int = 0
    accepted: dict[int, int] = field(default_factory=dict)
    ahead: dict[int, float] = field(default_factory=dict)
    """Seconds after `now` at which a client's steps ahead of the next order are done."""


def simulate_federation(
    config: FederationConfig,
    clients: Sequence[Client],
    wan: Wan,
    aggregator: int,
    *,
    additions_per_second: float = 0.0,
    rounds: int = 0,
    tell: Callable[[str], None] = lambda _: None,
) -> Simulated:
    """Run a federation in simulated time.

    Parameters
    ----------
    config : FederationConfig
    clients : sequence of Client
        As many as ``config.clients``, in their order.
    wan : Wan
    aggregator : int
        Its site's number on the WAN.
    additions_per_second : float
        Of the aggregator, one addition per parameter and client (topology ps); 0: its time is left out.
    rounds : int
        Stop after so many; 0: all.

    Notes
    -----
    Where a fragment may come late (``sync.overlap_steps``), a client goes on with that many steps while its
    update and the answer are on their way. A reply that comes after the deadline is lost; what it has sent
    till then is counted on the links.

    Raises
    ------
    SimulationError
        No quorum in ``fault.max_failed_rounds`` attempts, or a site cut off in a run without a deadline.
    """
    if len(clients) != config.clients:
        raise SimulationError(f"`clients`: {len(clients)} given, the federation has {config.clients}")
    run = _Run(config, tuple(clients), wan, aggregator, additions_per_second)
    total = min(rounds or config.total_rounds, config.total_rounds)
    while run.state.round < total:
        run.round()
        if run.state.round % max(1, total // 10) == 0:
            tell(f"round {run.state.round:,} of {total:,}")
    return run.result()


class _Run:
    def __init__(
        self, config: FederationConfig, clients: tuple[Client, ...], wan: Wan, aggregator: int, adds: float
    ) -> None:
        self.config, self.clients, self.wan, self.aggregator, self.adds = (
            config,
            clients,
            wan,
            aggregator,
            adds,
        )
        self.layout = Flat.of(config.model, config.sync.fragments, config.sync.pattern)
        self.state = _State()
        self.done = Simulated(clients, [], np.zeros(len(clients)), np.zeros(wan.fabric.links))
        self._known: dict[object, tuple[Attempt, NDArray[np.float64]]] = {}
        self._sizes: dict[tuple[int, int], ClientBytes] = {}
        self._order: dict[tuple[int, ...], list[int]] = {}
        self._spent = [0.0, 0.0, 0.0]
        """Bytes up, down and of catching up, of all attempts at this round."""

    def result(self) -> Simulated:
        self.done.link_bytes = self.wan.link_bytes.copy()
        return self.done

    def round(self) -> None:
        """Attempts until one is committed."""
        state, fault = self.state, self.config.fault
        while not self._attempt():
            state.failed += 1
            self.done.failed += 1
            if state.failed > fault.max_failed_rounds:
                raise SimulationError(
                    f"round {state.round + 1}: {state.failed} attempts without a quorum of {fault.quorum}; "
                    "fault.deadline is too short for these links"
                )

    def _attempt(self) -> bool:
        config, state, fault = self.config, self.state, self.config.fault
        asked = sample(config, state.round, state.failed, range(config.clients))
        sizes = [self._bytes(k) for k in asked]
        deadline = fault.deadline or np.inf
        if fault.deadline and state.round == 0:
            deadline = fault.first_deadline or 10 * fault.deadline
        steps = [self._steps(self.clients[k], deadline) for k in asked]
        found = self._carry_out(asked, sizes, steps, deadline)
        came = np.full(len(asked), found.together) if found.together else found.arrived
        close = self._close(came, deadline)
        taken = [i for i, t in enumerate(came) if t <= close]
        for i, k in enumerate(asked):
            self.done.busy[k] += min(steps[i] * self.clients[k].step, max(0.0, close))
        for i, size in enumerate(sizes):
            if config.topology == "ps" and i in taken:
                self._spent[0] += size.up
            self._spent[2 if size.catch_up else 1] += size.down
        if len(taken) < fault.quorum:
            state.now += close
            state.ahead = {}
            return False
        if config.topology == "ps" and self.adds:
            close += len(taken) * self.layout.size / self.adds
        self._commit(asked, taken, steps, found, came, close)
        return True

    def _steps(self, client: Client, deadline: float) -> int:
        """A site that sees its deadline coming stops early: nine tenths of it are for training."""
        steps = self.config.steps_per_round
        if deadline == np.inf:
            return steps
        return min(steps, max(1, int(0.9 * deadline / client.step)))

    def _close(self, came: NDArray[np.float64], deadline: float) -> float:
        """When the aggregator stops waiting."""
        fault = self.config.fault
        last = float(came.max())
        close = min(last, deadline)
        if fault.grace and fault.quorum < came.size:
            close = min(close, float(np.sort(came)[fault.quorum - 1]) + fault.grace)
        return close

    # -- one attempt on the WAN

    def _bytes(self, client: int) -> ClientBytes:
        accepted = self.state.accepted.get(client, -1)
        # bytes repeat with the fragments and the periods of averaged moments
        local, sync = self.config.local, self.config.sync
        period = int(np.lcm.reduce([sync.fragments, local.average_first_every, local.average_second_every]))
        behind = self.state.round - accepted if accepted >= 0 else -1
        fresh = self.state.round if self.state.round < 2 * period else 2 * period + self.state.round % period
        key = (fresh, min(behind, 2 * period))
        if key not in self._sizes:
            self._sizes[key] = client_bytes(self.config, self.state.round, accepted)
        return self._sizes[key]

    def _carry_out(
        self, asked: Sequence[int], sizes: Sequence[ClientBytes], steps: Sequence[int], deadline: float
    ) -> Attempt:
        state, config = self.state, self.config
        works = []
        for k, size, count in zip(asked, sizes, steps, strict=True):
            client = self.clients[k]
            ahead = state.ahead.get(k)
            done = 0 if ahead is None else min(config.sync.overlap_steps, count)
            # under ps an order comes each time, however little it brings
            asks = size.down or config.topology == "ps"
            down = Move(((self.aggregator, client.place, max(float(size.down), 1.0)),)) if asks else None
            works.append(
                Work(
                    down, ahead or 0.0, (count - done) * client.step + client.after, self._up(asked, k, size)
                )
            )
        together = self._ring(asked) if config.topology == "rar" and len(asked) > 1 else None
        key = (tuple(asked), tuple(works), together, deadline)
        steady = self.wan.steady(state.now)
        if steady and key in self._known:
            found, carried = self._known[key]
            self.wan.link_bytes += carried
            return found
        before = self.wan.link_bytes.copy()
        found = self.wan.attempt(state.now, works, together, deadline)
        if steady:
            if len(self._known) > 10_000:
                self._known.clear()
            self._known[key] = (found, self.wan.link_bytes - before)
        return found

    def _up(self, asked: Sequence[int], client: int, size: ClientBytes) -> tuple[Move, ...]:
        here = self.clients[client].place
        if self.config.topology == "ps":
            return (Move(((here, self.aggregator, float(size.up)),)),)
        if self.config.topology == "ar":
            others = (self.clients[j].place for j in asked if j != client)
            return tuple(Move(((here, there, float(size.up)),)) for there in others)
        return ()

    def _ring(self, asked: Sequence[int]) -> Move:
        config, places = self.config, [self.clients[k].place for k in asked]
        key = tuple(asked)
        if key not in self._order:
            rate = [[self.wan.narrowest(a, b) for b in places] for a in places]
            finite = max((r for row in rate for r in row if np.isfinite(r)), default=1.0)
            self._order[key] = ring_order([[min(r, 2 * finite) for r in row] for row in rate])
        order = [places[i] for i in self._order[key]]
        each = ring_bytes(config, self.state.round, len(asked)) / len(asked)
        members = tuple((a, b, each) for a, b in pairwise([*order, order[0]]))
        return Move(members, 2 * (len(asked) - 1))

    # -- what a round leaves behind

    def _commit(
        self, asked: Sequence[int], taken: Sequence[int], steps: Sequence[int],
        found: Attempt, came: NDArray[np.float64], close: float,
    ) -> None:  # fmt: skip
        config, state = self.config, self.state
        start, k, peers = state.now, len(asked), 0.0
        if config.topology == "ar":
            peers = float((k - 1) * sum(self._bytes(client).up for client in asked))
        elif config.topology == "rar" and k > 1:
            peers = float(ring_bytes(config, state.round, k))
        spent = (self._spent[0], self._spent[1], self._spent[2])
        times = [tuple((start + t).tolist()) for t in (found.received, found.computed, came)]
        self.done.rounds.append(
            SimulatedRound(
                start, start + close, state.failed + 1, tuple(asked), tuple(asked[i] for i in taken),
                tuple(steps), times[0], times[1], times[2], *spent, peers,
            )
        )  # fmt: skip
        local = config.local
        self.done.tokens += sum(steps[i] for i in taken) * local.batch * local.sequence * config.islands
        for i in taken:
            state.accepted[asked[i]] = state.round
        tau = config.sync.overlap_steps
        state.ahead = {}
        if tau:
            for i in taken:
                until = float(found.computed[i]) + tau * self.clients[asked[i]].step
                state.ahead[asked[i]] = max(0.0, until - close)
        state.now = start + close
        state.round += 1
        state.failed = 0
        self._spent = [0.0, 0.0, 0.0]
