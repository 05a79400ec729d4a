"""Campaigns event by event: slow plain replay, properties, spares, shrinking, corruption, flaps, dual-ToR."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from euston.errors import ConfigError
from euston.training.reliability import (
    Campaign,
    Checkpoint,
    Exponential,
    FixedSteps,
    Mode,
    Population,
    Recovery,
    effect_of,
    population_of_hosts,
    run_campaign,
)
from euston.training.reliability.progress import Progress

DAY = 86_400.0


def campaign(*found: Mode, hosts: int = 8, replicas: int = 8, **values: object) -> Campaign:
    base = Campaign(
        FixedSteps(10.0, 100.0, hosts_per_replica=hosts // replicas, replicas=replicas, exposed=0.2),
        found,
        population_of_hosts(hosts),
        Checkpoint("sync", 100.0, stall=5.0, load=20.0),
        Recovery(detection=60.0, reschedule=10.0, warm_up=30.0, spares=100),
        parameters=1e9,
        ranks=64,
        duration=DAY,
    )
    return replace(base, **values)  # type: ignore[arg-type]


class _Plain:
    """Steps and checkpoints one by one: the slow version of `Progress`, without a write behind its back."""

    def __init__(self, every: int, stall: float) -> None:
        self.every, self.stall = every, stall
        self.base, self.part, self.pending = 0, 0.0, 0.0
        self.safe = 0
        self.stalled = 0.0

    def run(self, seconds: float, step: float) -> None:
        while seconds > 1e-12:
            if self.pending > 0:
                used = min(seconds, self.pending)
                self.pending -= used
                self.stalled += used
                seconds -= used
                if self.pending <= 1e-12:
                    self.pending, self.safe = 0.0, self.base
                continue
            used = min(seconds, (self.every - self.part) * step)
            self.part += used / step
            seconds -= used
            if self.part >= self.every - 1e-9:
                self.base, self.part, self.pending = self.base + self.every, 0.0, self.stall
                if not self.stall:
                    self.safe = self.base


@settings(max_examples=150, deadline=None)
@given(
    every=st.integers(1, 7),
    stall=st.sampled_from([0.0, 0.7, 3.3]),
    parts=st.lists(
        st.tuples(st.floats(0.01, 400.0), st.sampled_from([1.0, 2.3]), st.booleans()), min_size=1, max_size=8
    ),
)
def test_closed_form_progress_is_step_by_step(
    every: int, stall: float, parts: Sequence[tuple[float, float, bool]]
) -> None:
    fast, slow, now = Progress(every, stall, 0.0), _Plain(every, stall), 0.0
    for seconds, step, crash in parts:
        fast.run(now, seconds, step, 1.0)
        slow.run(seconds, step)
        now += seconds
        assert fast.steps == pytest.approx(slow.base + slow.part, abs=1e-6)
        assert fast.checkpoint_seconds == pytest.approx(slow.stalled, abs=1e-6)
        if crash:
            to = fast.safe(now)
            if to != slow.safe:  # a failure in the very moment it is taken, to rounding
                assert min(fast.pending, slow.pending, stall - fast.pending) < 1e-6
            lost = fast.rollback(to)
            assert lost.steps == pytest.approx(slow.base + slow.part - to, abs=1e-6)
            slow.base, slow.part, slow.pending, slow.safe = to, 0.0, 0.0, to
    assert fast.tokens == pytest.approx(fast.steps, abs=1e-6)


def test_a_checkpoint_is_safe_only_once_it_is_written() -> None:
    p = Progress(every=10, stall=1.0, write=8.0)
    p.run(0.0, 11.0, 1.0, 1.0)  # taken at 11 s, safe at 19 s
    p.run(11.0, 7.0, 1.0, 1.0)
    assert p.safe(18.0) == 0
    p.run(18.0, 1.0, 1.0, 1.0)
    assert p.safe(19.0) == 10


def test_memory_checkpoints_survive_one_host_but_not_a_switch() -> None:
    p = Progress(every=10, stall=0.5, write=3.0, storage_every=4)
    p.run(0.0, 400.0, 1.0, 1.0)
    assert p.safe(400.0) == math.floor(p.steps / 10) * 10
    assert p.safe(400.0, storage=True) % 40 == 0
    assert p.safe(400.0, storage=True) <= p.safe(400.0)


@settings(max_examples=40, deadline=None)
@given(
    mttf=st.floats(600.0, 1e6),
    stall=st.floats(0.0, 60.0),
    interval=st.floats(20.0, 5000.0),
    seed=st.integers(0, 1000),
    during=st.booleans(),
)
def test_ettr_is_a_share_and_time_is_conserved(
    mttf: float, stall: float, interval: float, seed: int, during: bool
) -> None:
    o = run_campaign(
        campaign(
            Mode("host", Exponential(8 * mttf), repair=3600.0),
            Mode(
                "straggler", Exponential(8 * 5e4), effect_of("straggler", False), factor=0.7, duration=900.0
            ),
            Mode("flap", Exponential(64 * 2e4), effect_of("flap", False), duration=7.0),
            Mode("silent", Exponential(64 * 4e4), effect_of("silent", False), noticed=4000.0),
            checkpoint=Checkpoint("sync", interval, stall=stall, load=20.0),
            recovery=Recovery(detection=60.0, spares=1, elastic="batch", fails_during_restart=during),
            seed=seed,
        )
    )
    assert 0.0 <= o.ettr <= 1.0
    assert math.fsum(o.seconds.values()) == pytest.approx(o.wall)
    assert min(o.seconds.values()) > -1e-6
    assert all(a[0] <= b[0] for a, b in zip(o.curve, o.curve[1:], strict=False))


def test_ettr_grows_with_the_time_between_failures() -> None:
    """The same random numbers, stretched: more time between failures is never worse on average."""
    means = []
    for mttf in (1e4, 3e4, 1e5, 1e6, 1e8):
        runs = [run_campaign(campaign(Mode("software", Exponential(8 * mttf)), duration=5 * DAY), r).ettr
                for r in range(6)]  # fmt: skip
        means.append(float(np.mean(runs)))
    assert means == sorted(means)
    assert means[-1] == pytest.approx(100 / 105, rel=2e-3)  # nothing but checkpoints is left


def test_without_failures_only_checkpoints_cost() -> None:
    o = run_campaign(campaign(duration=10_500.0))
    assert o.interruptions == 0
    assert o.ettr == pytest.approx(100 / 105, rel=1e-3)
    assert o.tokens == pytest.approx(o.steps * 100)


def test_a_campaign_ends_at_its_tokens() -> None:
    o = run_campaign(campaign(duration=math.inf, tokens=5000.0))
    assert o.finished
    assert o.tokens == pytest.approx(5000.0)
    assert o.wall == pytest.approx(500.0 + 4 * 5.0)  # 50 steps, four checkpoints before the last


def test_the_same_seed_gives_the_same_weeks_and_another_does_not() -> None:
    mode = Mode("host", Exponential(8 * 5000.0), repair=600.0)
    a, b, c = (run_campaign(campaign(mode, seed=s)) for s in (1, 1, 2))
    assert a == b
    assert a.events != c.events


def test_adding_a_mode_does_not_move_the_failures_of_another() -> None:
    host = Mode("host", Exponential(8 * 20_000.0), repair=600.0)
    flap = Mode("flap", Exponential(64 * 50_000.0), effect_of("flap", False), duration=1.0)
    alone = [e.time for e in run_campaign(campaign(host, seed=3)).events]
    both = [e.time for e in run_campaign(campaign(host, flap, seed=3)).events if e.component == "host"]
    assert alone
    assert both == pytest.approx(alone)


def test_without_spares_the_job_waits_and_with_elastic_it_shrinks_and_grows_again() -> None:
    once = Mode("host", Exponential(8 * 30_000.0), repair=20_000.0)

    def outcome(elastic: str, spares: int = 0):  # type: ignore[no-untyped-def]
        recovery = Recovery(detection=60.0, spares=spares, elastic=elastic)  # type: ignore[arg-type]
        return run_campaign(campaign(once, recovery=recovery, seed=4, duration=3 * DAY))

    waits, shrinks, spare = outcome("none"), outcome("batch"), outcome("none", 50)
    assert waits.seconds["waiting"] > 0
    assert shrinks.seconds["waiting"] == 0
    assert any(missing for missing, *_ in shrinks.states)
    assert any(e.effect == "grow" for e in shrinks.events)
    assert waits.tokens < shrinks.tokens < spare.tokens
    # lost replicas take their share of the batch with them: steps are as long, tokens fewer
    assert shrinks.seconds["degraded"] > 0


def test_noticed_corruption_rolls_back_beyond_it() -> None:
    """The job goes back to the last checkpoint before the corruption, however many were taken since."""
    mode = Mode("silent", Exponential(64 * 30_000.0), effect_of("silent", False), noticed=5000.0)
    o = run_campaign(campaign(mode, seed=2, duration=4 * DAY))
    noticed = [e for e in o.events if e.action.startswith("noticed")]
    assert noticed
    for event in noticed:
        hours = float(event.action.split()[2])
        assert event.lost_seconds > 0.8 * hours * 3600 * 100 / 105 - 400
    crash = run_campaign(campaign(Mode("software", Exponential(8 * 30_000.0)), seed=2, duration=4 * DAY))
    assert np.mean([e.lost_seconds for e in noticed]) > 5 * np.mean([e.lost_seconds for e in crash.events])


def test_a_flap_is_a_slow_step_and_no_crash() -> None:
    mode = Mode("flap", Exponential(64 * 3000.0), effect_of("flap", False), duration=8.0)
    o = run_campaign(campaign(mode))
    assert o.interruptions == 0
    assert o.seconds["flap"] == pytest.approx(8.0 * len(o.events), abs=8.0)
    assert o.seconds["lost"] == 0


def test_dual_tor_halves_bandwidth_instead_of_killing() -> None:
    """One lost link slows the exposed fifth of a step; both ports of one NIC kill."""
    link = Mode("link", Exponential(64 * 20_000.0), effect_of("link", False), repair=600.0)
    dual = replace(link, effect=effect_of("link", True))
    killed, slowed = (run_campaign(campaign(m, duration=4 * DAY)) for m in (link, dual))
    assert killed.interruptions > 10 > slowed.interruptions
    assert slowed.ettr > killed.ettr
    assert {round(s, 6) for _, faults, s, _ in slowed.states if faults} == {12.0}  # 10 s x (0.8 + 0.2 x 2)
    twice = run_campaign(campaign(replace(dual, repair=1e9), duration=200 * DAY))
    assert twice.interruptions > 0


def test_a_switch_takes_all_its_hosts_along() -> None:
    of_four = tuple(tuple((h, 0) for h in range(s, s + 4)) for s in (0, 4))
    population = Population(8, {"accelerator": 8}, of_four)
    mode = Mode("switch", Exponential(2 * 20_000.0), repair=1000.0)
    o = run_campaign(campaign(mode, population=population, recovery=Recovery(spares=3)))
    assert o.seconds["waiting"] > 0  # three spares are not four hosts


def test_a_straggler_slows_all_and_is_over_after_its_time() -> None:
    mode = Mode(
        "straggler", Exponential(8 * 40_000.0), effect_of("straggler", False), factor=0.5, duration=2000.0
    )
    o = run_campaign(campaign(mode, duration=10 * DAY))
    slow = {round(s, 6): spent for _, faults, s, spent in o.states if faults}
    assert set(slow) == {18.0}  # 10 s x (0.8 / 0.5 + 0.2): what waits for the network is no slower
    assert slow[18.0] <= 2000.0 * len(o.events)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match="duration or a number of tokens"):
        campaign(duration=math.inf)
    with pytest.raises(ConfigError, match="needs a stall and failures"):
        run_campaign(campaign(checkpoint=Checkpoint("sync", "daly", stall=0.0)))
    with pytest.raises(ConfigError, match="negative"):
        run_campaign(campaign(recovery=Recovery(spares=-1)))


def test_hopeless_campaigns_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that fails all the time: refused where that can be foreseen, given up where it can not."""
    often = Mode("software", Exponential(8.0))
    with pytest.raises(ConfigError, match=r"`campaign.reliability`: 8,640,000 failures .* of software"):
        campaign(often, duration=100 * DAY)
    hopeless = campaign(often, duration=math.inf, tokens=1e9)
    monkeypatch.setattr("euston.training.reliability.campaign.MOST_FAILURES", 20_000)
    with pytest.raises(ConfigError, match=r"20,000 failures in .*% of the tokens"):
        run_campaign(hopeless)


def test_down_time_of_failures_during_a_restart() -> None:
    """Oracle: from every failure until the job runs again, walked back from the last one."""
    found = run_campaign(campaign(Mode("software", Exponential(8 * 200.0))))
    again = DAY
    wanted: list[float] = []
    for i in reversed(range(len(found.events))):
        time = found.events[i].time
        following = found.events[i + 1].time if i + 1 < len(found.events) else math.inf
        if following > time + 120.0:  # detection, rescheduling, loading, warming up: it runs again
            again = min(time + 120.0, DAY)
        wanted.insert(0, again - time)
    assert sum(w > 120.0 for w in wanted) > 50  # many strike during a restart
    assert [event.down_seconds for event in found.events] == pytest.approx(wanted)


def test_checkpoint_sizes_and_times() -> None:
    """14 bytes per parameter; the slower of ranks and file system writes."""
    ranks = Checkpoint("sync", 60.0, rank_bandwidth=1e9, file_system_bandwidth=1e15).cost(405e9, 1000)
    assert ranks.bytes == 405e9 * 14
    assert ranks.stall == pytest.approx(5.67)
    store = Checkpoint("async", 60.0, rank_bandwidth=1e12, file_system_bandwidth=1e12, copy_bandwidth=5e9)
    cost = store.cost(405e9, 1000)
    assert (cost.stall, cost.write) == (pytest.approx(1.134), pytest.approx(5.67))
