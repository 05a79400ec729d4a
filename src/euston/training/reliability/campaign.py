"""A training job over days and weeks: a plain generator on the clock that goes from event to event.

Between two events the cluster's state, and with it the step, is constant; steps and checkpoints there are
one piece of arithmetic (`progress`), and a step is simulated once per state (`states`).
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from euston.clock.conductor import Conductor
from euston.clock.process import Body, Processes, Wait
from euston.errors import ConfigError
from euston.seeds import stream
from euston.training.reliability.checkpoint import Checkpoint, CheckpointCost
from euston.training.reliability.modes import Effect, Mode, Population, Source, sources
from euston.training.reliability.progress import Progress
from euston.training.reliability.record import Event, Outcome
from euston.training.reliability.recovery import Fleet, Recovery
from euston.training.reliability.states import Fault, State, Step, StepModel
from euston.units import format_seconds

MOST_FAILURES = 1_000_000
"""Of one run: a cluster of 100,000 accelerators has some 20,000 in a year."""

__all__ = ["MOST_FAILURES", "Campaign", "run_campaign", "run_repeats"]


@dataclass(frozen=True)
class Campaign:
    """A job, what can happen to it, and how long to look.

    Attributes
    ----------
    steps : StepModel
    modes : sequence of Mode
    population : Population
        Units that can fail.
    parameters : float
        Of the model, for the size of checkpoints.
    ranks : int
        That write it.
    duration : float
        Seconds of wall-clock time.
    tokens : float
        The campaign ends when so many are kept, if that is earlier.
    """

    steps: StepModel
    modes: Sequence[Mode]
    population: Population
    checkpoint: Checkpoint
    recovery: Recovery
    parameters: float
    ranks: int
    duration: float = math.inf
    tokens: float = math.inf
    seed: int = 0

    def __post_init__(self) -> None:
        if not (self.duration > 0 and self.tokens > 0) or math.isinf(min(self.duration, self.tokens)):
            raise ConfigError("`campaign`: needs a duration or a number of tokens above 0")
        rates = {m.component: m.rate(self.population) for m in self.modes}
        expected = sum(rates.values()) * self.duration
        if math.isfinite(self.duration) and expected > MOST_FAILURES:
            worst = max(rates, key=lambda name: rates[name])
            raise ConfigError(
                f"`campaign.reliability`: {expected:,.0f} failures are to be expected in "
                f"{format_seconds(self.duration)}, most of them of {worst}; at most {MOST_FAILURES:,}: "
                "raise its MTBF, or shorten the duration"
            )

    @property
    def cost(self) -> CheckpointCost:
        """Of one checkpoint at full size."""
        return self.checkpoint.cost(self.parameters, self.ranks)

    @property
    def failure_rate(self) -> float:
        """Interruptions per second in the long run: crashes and silent corruption."""
        fatal = (Effect.CRASH, Effect.SILENT)
        return sum(m.rate(self.population) for m in self.modes if m.effect in fatal)

    @property
    def steps_between(self) -> int:
        """Steps between checkpoints: the interval in whole steps, and no write overtakes the next."""
        cost = self.cost
        wanted = self.checkpoint.seconds_between(cost, self.failure_rate)
        healthy = self.steps.step(State()).seconds
        least = cost.write if self.checkpoint.mode == "async" else 0.0
        return max(1, round(wanted / healthy), math.ceil(least / healthy - 1e-9))


@dataclass
class _Running:
    """One run of a campaign under way."""

    plan: Campaign
    run: int
    now: float = 0.0
    exposure: float = 0.0
    missing: int = 0
    regrow: bool = False
    corrupt: float | None = None
    faults: dict[tuple[int, int], tuple[float, float]] = field(default_factory=dict)  # factor, until
    phases: list[tuple[str, float]] = field(default_factory=list)
    out: Outcome = field(default_factory=Outcome)
    down: float = 0.0  # seconds of restarts so far
    open: list[tuple[Event, float]] = field(default_factory=list)  # events of this restart, `down` at each
    strikes: int = 0
    later: list[tuple[float, int, str, object]] = field(default_factory=list)
    numbers: int = 0

    def __post_init__(self) -> None:
        plan = self.plan
        self.cost = plan.cost
        self.healthy = plan.steps.step(State())
        every = plan.steps_between
        memory = plan.checkpoint.storage_every if plan.checkpoint.mode == "memory" else 0
        self.progress = Progress(every, self.cost.stall, self.cost.write, memory)
        self.sources: list[Source] = sources(plan.modes, plan.population, plan.seed, self.run)
        self.fleet = Fleet(plan.steps.hosts(0), plan.recovery.spares)
        self.noticing = stream(plan.seed, "noticed", self.run)
        self.states: dict[State, tuple[int, Step]] = {}
        self.state_seconds: dict[int, float] = {}
        self.out.curve.append((0.0, 0.0))

    def body(self) -> Body:
        """The generator: wait for the next thing, let it happen."""
        while True:
            number, step = self._step()
            finish = self._finish(step)
            seconds, act = self._next(finish)
            if seconds > 0:
                yield Wait(seconds)
                self._advance(seconds, number, step)
            if act is None:
                self.out.finished = finish <= seconds
                break
            self._happen(act)
        self._close()

    def _finish(self, step: Step) -> float:
        """Seconds until the tokens are there, if nothing happens."""
        if self.phases or math.isinf(self.plan.tokens):
            return math.inf
        left = (self.plan.tokens - self.progress.tokens) / step.tokens
        return self.progress.time_for(max(0.0, left), step.seconds)

    def _next(self, finish: float) -> tuple[float, Source | str | None]:
        """Seconds until the next thing, and what it is; None is the end."""
        best: tuple[float, Source | str | None] = (min(finish, self.plan.duration - self.now), None)
        if self.later and self.later[0][0] - self.now < best[0]:
            best = (max(0.0, self.later[0][0] - self.now), "later")
        if self.phases and self.phases[0][1] < best[0]:
            best = (self.phases[0][1], "phase")
        if not self.phases or self.plan.recovery.fails_during_restart:
            for source in self.sources:
                if source.time - self.exposure < best[0]:
                    best = (max(0.0, source.time - self.exposure), source)
        if self.regrow and not self.phases:
            _, step = self._step()
            until = self.progress.time_for(self.progress.every - self.progress.part, step.seconds)
            if until + self.cost.stall < best[0]:
                best = (until + self.cost.stall, "regrow")
        return best

    def _step(self) -> tuple[int, Step]:
        state = State(self.missing, tuple(sorted(Fault(h, f, n) for (h, n), (f, _) in self.faults.items())))
        if state not in self.states:
            self.states[state] = (len(self.states), self.plan.steps.step(state))
        return self.states[state]

    def _advance(self, seconds: float, number: int, step: Step) -> None:
        out = self.out
        if self.phases:
            kind, left = self.phases[0]
            self.phases[0] = (kind, left - seconds)
            out.seconds[kind] += seconds
            out.spend(self.now, seconds, kind, number)
            self.down += seconds
        else:
            before = self.progress.steps
            self.progress.run(self.now, seconds, step.seconds, step.tokens)
            done = self.progress.steps - before
            out.step_energy += done * step.energy
            out.stepping += done * step.seconds
            out.spend(self.now, seconds, "productive" if number == 0 else "degraded", number)
        self.state_seconds[number] = self.state_seconds.get(number, 0.0) + seconds
        if not self.phases or self.plan.recovery.fails_during_restart:
            self.exposure += seconds
        self.now += seconds

    def _happen(self, act: Source | str) -> None:
        if isinstance(act, Source):
            unit, mode = act.unit, act.mode
            act.next()
            self.strikes += 1
            if self.strikes > MOST_FAILURES:
                raise ConfigError(
                    f"`campaign.reliability`: {MOST_FAILURES:,} failures in {format_seconds(self.now)}, and "
                    f"{self.progress.tokens / self.plan.tokens:.2%} of the tokens are there; raise the MTBF, "
                    "or say a duration"
                )
            self._strike(mode, unit)
        elif act == "phase":
            self.phases.pop(0)
            if not self.phases:
                self._up()
        elif act == "regrow":
            self.regrow = False
            after = [("restart", self.cost.write), ("restart", self.plan.recovery.reschedule)]
            self._record("", -1, "grow", f"back to {self.plan.steps.replicas} replicas at a checkpoint")
            self._restart(after)
        else:
            _, _, kind, what = heapq.heappop(self.later)
            getattr(self, f"_{kind}")(what)
        self.out.curve.append((self.now, self.progress.tokens))

    def _after(self, seconds: float, kind: str, what: object) -> None:
        self.numbers += 1
        heapq.heappush(self.later, (self.now + seconds, self.numbers, kind, what))

    def _up(self) -> None:
        """The job runs again: what was down since each event is known."""
        for event, since in self.open:
            event.down_seconds = self.down - since
        self.open = []

    def _record(self, component: str, host: int, effect: str, action: str) -> Event:
        event = Event(self.now, component, host, effect, action)
        self.out.events.append(event)
        return event

    # ---- failures ----------------------------------------------------------------------------------------

    def _strike(self, mode: Mode, unit: int) -> None:
        in_use = self.plan.steps.hosts(self.missing)
        ports = [p for p in self.plan.population.ports(mode.component, unit) if p[0] < in_use]
        if not ports:
            return  # what failed is not in use
        host = ports[0][0]
        down = bool(self.phases)
        match mode.effect:
            case Effect.CRASH:
                self._crash(mode, sorted({h for h, _ in ports}))
            case Effect.DEGRADE if any(port in self.faults for port in ports):
                self._crash(mode, sorted({h for h, _ in ports}))  # the other half is gone already
            case Effect.DEGRADE:
                self._fault(
                    mode, ports, mode.repair, f"{len(ports)} NICs keep {mode.factor:.0%} until repaired"
                )
            case Effect.SLOW:
                self._fault(mode, [(host, -1)], mode.duration, f"host at {mode.factor:.0%} of its speed")
            case Effect.FLAP if not down:
                self.progress.hold(mode.duration)
                self._record(mode.component, host, mode.effect, "the step waits")
            case Effect.SILENT if not down and self.corrupt is None:
                self.corrupt = self.progress.steps
                event = self._record(mode.component, host, mode.effect, "not noticed before the end")
                self._after(
                    mode.noticed * float(self.noticing.standard_exponential()), "noticed", (mode, event)
                )

    def _fault(self, mode: Mode, ports: list[tuple[int, int]], seconds: float, action: str) -> None:
        for port in ports:
            factor, until = self.faults.get(port, (1.0, 0.0))
            self.faults[port] = (min(mode.factor, factor), max(self.now + seconds, until))
        self._record(mode.component, ports[0][0], mode.effect, action)
        self._after(seconds, "restored", ports)

    def _restored(self, ports: list[tuple[int, int]]) -> None:
        for port in ports:
            if port in self.faults and self.faults[port][1] <= self.now + 1e-6:  # none has come since
                del self.faults[port]

    def _crash(self, mode: Mode, hosts: list[int]) -> None:
        event = self._record(mode.component, hosts[0], Effect.CRASH, "")
        self._back(event, mode, hosts, math.inf)

    def _noticed(self, what: tuple[Mode, Event]) -> None:
        mode, event = what
        if self.corrupt is None:
            event.action = "undone by another restart before it was noticed"
            return
        event.action = f"noticed after {(self.now - event.time) / 3600:.1f} h: "
        self._back(event, mode, [event.host], self.corrupt)

    def _back(self, event: Event, mode: Mode, hosts: list[int], limit: float) -> None:
        """Roll back, send hosts to repair, restart."""
        # several hosts at once take a checkpoint and its copy at the peer with them
        storage = len(hosts) > 1 or self.progress.storage_only(limit)
        to = self.progress.safe(self.now, limit=limit, storage=storage)
        lost = self.progress.rollback(to)
        event.lost_seconds, event.lost_tokens = lost.seconds, lost.tokens
        self.out.seconds["lost"] += lost.seconds
        self.out.lose(lost.seconds)
        if self.corrupt is not None and to <= self.corrupt:
            self.corrupt = None
        self.out.interruptions += 1
        if mode.hardware:
            self.fleet.fail(len(hosts))
            self._after(mode.repair, "repaired", len(hosts))
            for port in [p for p in self.faults if p[0] in hosts]:
                del self.faults[port]  # the host that takes its place is sound
        recovery = self.plan.recovery
        load = self.cost.load if storage or self.cost.memory_load is None else self.cost.memory_load
        found = [("detection", recovery.detection)]
        self.open.append((event, self.down))
        self._restart([*found, ("queue", recovery.queue), ("restart", recovery.reschedule)], load)
        event.action += self._place_words(hosts if mode.hardware else [])

    def _place_words(self, hosts: list[int]) -> str:
        if any(kind == "waiting" for kind, _ in self.phases):
            return "waits for a repaired host"
        if self.missing:
            return f"restart with {self.plan.steps.replicas - self.missing} replicas"
        return "restart on a spare host" if hosts else "restart on the same hosts"

    def _restart(self, before: list[tuple[str, float]], load: float | None = None) -> None:
        """Be down for a while; as many replicas come back as there are hosts for."""
        steps, recovery = self.plan.steps, self.plan.recovery
        missing = 0
        if recovery.elastic != "none":
            while missing < steps.replicas - 1 and steps.hosts(missing) > self.fleet.usable:
                missing += 1
        wait = [("waiting", math.inf)] if steps.hosts(missing) > self.fleet.usable else []
        self.missing, self.regrow = missing, False
        for port in [p for p in self.faults if p[0] >= steps.hosts(missing)]:
            del self.faults[port]
        load = self.cost.load if load is None else load
        self.phases = [*before[:1], *wait, *before[1:], ("restart", load), ("restart", recovery.warm_up)]

    def _repaired(self, hosts: int) -> None:
        self.fleet.repaired(hosts)
        steps = self.plan.steps
        if self.fleet.usable >= steps.hosts(self.missing):
            self.phases = [(k, 0.0 if k == "waiting" else s) for k, s in self.phases]
        if self.missing and self.fleet.usable >= steps.hosts(self.missing - 1):
            self.regrow = True

    def _close(self) -> None:
        self._up()
        out, progress = self.out, self.progress
        out.wall, out.exposure = self.now, self.exposure
        out.tokens, out.steps = progress.tokens, progress.steps
        useful = out.tokens * self.healthy.seconds / self.healthy.tokens
        out.seconds["productive"] = useful
        out.seconds["degraded"] = progress.seconds - useful
        out.seconds["checkpoint"] = progress.checkpoint_seconds
        out.seconds["flap"] = progress.flap_seconds
        out.curve.append((self.now, out.tokens))
        for state, (number, step) in self.states.items():
            spent = self.state_seconds.get(number, 0.0)
            out.states.append((state.missing, len(state.faults), step.seconds, spent))


def run_campaign(plan: Campaign, run: int = 0) -> Outcome:
    """Run a campaign once; ``run`` numbers independent repetitions under one seed."""
    running = _Running(plan, run)
    processes = Processes("campaign")
    processes.add("job", running.body())
    Conductor([processes]).run()
    return running.out


def run_repeats(plan: Campaign, repeat: int) -> Iterator[Outcome]:
    """Independent repetitions, one by one."""
    for run in range(repeat):
        yield run_campaign(plan, run)
