"""Columns found at run time (candidates, other routes) and rates that climb, against arithmetic by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.optimize import brentq

from euston.clock import CapacityEvent, Choices, ProgramBuilder, RouteEvent, TransferTable, execute
from euston.errors import ConfigError, SimulationError
from euston.network import Columns
from euston.network.balancing.base import StartRule


def table(columns, flows, choices, sizes):
    """One transfer per flow; ``flows`` names each one's first column."""
    n = len(flows)
    ones = np.ones(n)
    return TransferTable(
        np.arange(n + 1), np.array(flows, np.int32), np.array(sizes, float), ones, ones * np.inf,
        np.zeros(n), np.zeros(n), columns, tuple(f"flow {i}" for i in range(n)), choices,
    )  # fmt: skip


def parallel_links(n: int) -> Columns:
    """Column c is link c."""
    return Columns(np.arange(n + 1), np.arange(n, dtype=np.int32), np.ones(n), n)


def sends(starts):
    """A program that starts transfer i at ``starts[i]``."""
    b = ProgramBuilder()
    ends = [b.send(i, label="send", after=[b.wait(t, label="wait")]) for i, t in enumerate(starts)]
    return b.build(), ends


def routes(columns, *others):
    return np.array([np.arange(len(columns)), *others], np.int32)


def test_least_loaded_takes_the_link_with_fewest_flows_per_capacity():
    """Three flows of 10 B start in turn on links of 1, 1 and 4 B/s: the third and fastest link wins first."""
    columns = parallel_links(3)
    choices = Choices(
        np.full(3, 3, np.int32), np.arange(3, dtype=np.int32), routes(columns), StartRule.LEAST_LOADED
    )
    program, ends = sends([0.0, 0.5, 0.75])
    run = execute(program, table(columns, [0, 0, 0], choices, [10, 10, 10]), [1.0, 1.0, 4.0])
    # idle links tie: the first candidate wins; then the second; then 1/4 < 1
    assert run.end[ends].tolist() == [10.0, 10.5, 3.25]
    assert run.row_bytes.tolist() == [10.0, 10.0, 10.0]


@pytest.mark.parametrize(("pause", "same"), [(0.2, True), (0.6, False)])
def test_a_flowlet_moves_only_after_a_gap(pause, same):
    """The pair's second flow comes ``pause`` s after the first; another's has loaded its link since."""
    columns = parallel_links(2)
    choices = Choices(
        np.full(3, 2, np.int32), np.array([0, 1, 0], np.int32), routes(columns),
        StartRule.LEAST_LOADED_AFTER_GAP, gap=0.5,
    )  # fmt: skip
    b = ProgramBuilder()
    first = b.send(0, label="send")
    # another pair: both links are idle again at 1.1 s, it takes link 0
    b.send(1, label="send", after=[b.wait(1.1, label="wait")])
    second = b.send(2, label="send", after=[b.wait(pause, label="wait", after=[first])])
    run = execute(b.build(), table(columns, [0, 0, 0], choices, [1, 100, 4]), [1.0, 1.0])
    assert run.end[first] == 1.0
    assert run.end[second] == pytest.approx(1.0 + pause + (8.0 if same else 4.0))


def test_random_after_gap_uses_all_candidates_and_repeats_with_the_seed():
    columns = parallel_links(4)
    bytes_ = []
    for seed in (1, 1, 2):
        choices = Choices(
            np.full(400, 4, np.int32), np.arange(400, dtype=np.int32), routes(columns),
            StartRule.RANDOM_AFTER_GAP, seed=seed,
        )  # fmt: skip
        program, _ = sends([0.0] * 400)
        run = execute(program, table(columns, [0] * 400, choices, [1] * 400), np.ones(4))
        bytes_.append(run.row_bytes.tolist())
    assert bytes_[0] == bytes_[1] != bytes_[2]
    assert sum(bytes_[0]) == 400
    # 400 draws of 1/4: five standard deviations are 5 * sqrt(400 * 3/16) = 43
    assert all(abs(b - 100) < 43 for b in bytes_[0])


def test_what_is_left_of_a_flow_goes_on_over_its_new_route():
    """10 B at 1 B/s; at 4 s the link dies, at 5 s routes move the flow to a link of 3 B/s: ends at 7 s."""
    columns = parallel_links(2)
    choices = Choices(np.ones(1, np.int32), np.zeros(1, np.int32), routes(columns, [1, 1]))
    program, ends = sends([0.0])
    run = execute(
        program,
        table(columns, [0], choices, [10]),
        [1.0, 3.0],
        events=[CapacityEvent(4.0, 0, 0.0), RouteEvent(5.0, 1)],
    )
    assert run.end[ends[0]] == pytest.approx(7.0, rel=1e-12)
    assert run.row_bytes == pytest.approx([4.0, 6.0])


def test_a_candidate_without_a_route_is_not_chosen_and_its_flows_choose_again():
    columns = parallel_links(2)
    choices = Choices(
        np.full(2, 2, np.int32), np.arange(2, dtype=np.int32), routes(columns, [-1, 1]), StartRule.FIRST
    )
    program, ends = sends([0.0, 2.0])
    run = execute(program, table(columns, [0, 0], choices, [4, 4]), [1.0, 1.0], events=[RouteEvent(1.0, 1)])
    # 1 B on link 0, then both on link 1: 1 B alone until 2 s, shared from then on
    assert run.end[ends].tolist() == pytest.approx([6.0, 8.0])


def test_no_route_left_ends_with_the_name_of_the_flow():
    columns = parallel_links(1)
    choices = Choices(np.ones(1, np.int32), np.zeros(1, np.int32), routes(columns, [-1]))
    program, _ = sends([0.0])
    with pytest.raises(SimulationError, match="flow 0"):
        execute(
            program,
            table(columns, [0], choices, [10]),
            [1.0],
            events=[CapacityEvent(1.0, 0, 0.0), RouteEvent(2.0, 1)],
        )


def test_columns_that_do_not_exist_are_refused():
    columns = parallel_links(2)
    choices = Choices(np.full(1, 3, np.int32), np.zeros(1, np.int32), routes(columns))
    program, _ = sends([0.0])
    with pytest.raises(ConfigError, match="do not exist"):
        execute(program, table(columns, [0], choices, [1]), [1.0, 1.0])


@pytest.mark.parametrize("lag", [0.01, 0.5, 3.0])
def test_rates_climb_with_the_time_constant(lag):
    """Two flows share 2 B/s; the short one (2 B) ends at 2 s, the long one (10 B) climbs from 1 to 2 B/s.

    Oracle: the differential equation itself, integrated by scipy, and the root of its closed form.
    """
    columns = Columns(np.array([0, 1]), np.zeros(1, np.int32), np.ones(1), 1)
    program, ends = sends([0.0, 0.0])
    run = execute(program, table(columns, [0, 0], None, [2, 10]), [2.0], lag=lag)
    assert run.end[ends[0]] == 2.0
    left = 10.0 - 2.0
    root = brentq(lambda x: 2 * x - lag * (1 - math.exp(-x / lag)) - left, 0, 100, xtol=1e-13)
    assert run.end[ends[1]] == pytest.approx(2.0 + root, rel=1e-9)

    def done(_t, y):
        return y[1] - left

    done.terminal = True  # type: ignore[attr-defined]
    path = solve_ivp(lambda _t, y: [(2 - y[0]) / lag, y[0]], (0, 100), [1.0, 0.0], events=done, rtol=1e-10)
    assert run.end[ends[1]] == pytest.approx(2.0 + path.t[-1], rel=1e-6)


def test_a_lag_of_nothing_is_the_exact_run_and_a_small_one_comes_near():
    columns = Columns(np.array([0, 1]), np.zeros(1, np.int32), np.ones(1), 1)
    program, _ = sends([0.0, 0.3, 0.6])
    flows = table(columns, [0, 0, 0], None, [1, 2, 3])
    exact = execute(program, flows, [2.0]).end
    assert execute(program, flows, [2.0], lag=1e-9).end == pytest.approx(exact, rel=1e-8)
    late = execute(program, flows, [2.0], lag=0.2).end
    assert (late >= exact - 1e-12).all() and late.max() > exact.max()


def test_a_window_makes_close_events_one_moment():
    columns = parallel_links(1)
    starts = [i * 1e-10 for i in range(10)]
    program, _ = sends(starts)
    flows = table(columns, [0] * 10, None, [1] * 10)
    exact, batched = execute(program, flows, [1.0]), execute(program, flows, [1.0], window=1e-8)
    assert batched.solves < exact.solves
    assert batched.makespan == pytest.approx(exact.makespan, abs=2e-8)
