"""AI programs as flows.

Oracles: byte identities of the algorithms (Patarasuk & Yuan 2009 and nccl-tests), a replay of which
contributions every rank holds, and closed forms of the time on an ideal fabric, run by a plain max-min
simulator of this file (every endpoint sends and receives at rate 1, progressive filling).
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from euston.collectives import ring_bytes
from euston.errors import ConfigError
from euston.network import Flows
from euston.traffic import ProgramWriter, on_off, pipeline
from euston.traffic.algorithms import ALGORITHMS, chains, tree_parents

FLAT = [(kind, name) for kind, known in ALGORITHMS.items() for name in known]


def ideal_run(flows: Flows) -> np.ndarray:
    """Ends of flows between endpoints that send and receive at 1 byte/s, the fabric infinitely fast."""
    n = len(flows)
    end, remaining = np.full(n, np.nan), flows.bytes.astype(float)
    begun = np.zeros(n, bool)
    t = 0.0
    while np.isnan(end).any():
        start = np.full(n, np.inf)
        for f in np.flatnonzero(~begun):
            before = end[flows.predecessors(f)]
            if not np.isnan(before).any():
                start[f] = max(
                    flows.start[f], before.max(initial=0.0) + (flows.delay[f] if before.size else 0)
                )
        active = np.flatnonzero(begun & np.isnan(end))
        rate = fill(flows.src[active], flows.dst[active])
        finish = t + (remaining[active] / rate).min() if active.size else np.inf
        now = min(finish, start.min())
        assert now < np.inf, "deadlock"
        remaining[active] -= rate * (now - t)
        t = now
        done = active[remaining[active] <= 1e-9 * flows.bytes[active]]
        end[done] = t
        begun |= start <= t
    return end


def fill(src: np.ndarray, dst: np.ndarray) -> np.ndarray:
    """Progressive filling over sending and receiving endpoints of capacity 1."""
    rate, frozen = np.zeros(src.size), np.zeros(src.size, bool)
    left: dict[tuple[str, int], float] = {("s", s): 1.0 for s in src.tolist()} | {
        ("d", d): 1.0 for d in dst.tolist()
    }
    members = {k: np.flatnonzero((src if k[0] == "s" else dst) == k[1]) for k in left}
    while not frozen.all():
        share = {k: left[k] / (~frozen[m]).sum() for k, m in members.items() if (~frozen[m]).any()}
        tight = min(share, key=lambda k: share[k])
        for f in members[tight][~frozen[members[tight]]]:
            rate[f], frozen[f] = share[tight], True
            left["s", int(src[f])] -= share[tight]
            left["d", int(dst[f])] -= share[tight]
    return rate


# ---- bytes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "name"), FLAT)
@pytest.mark.parametrize("n", [2, 4, 8, 16])
@pytest.mark.parametrize("rest", [0, 5])
def test_bytes_per_rank(kind: str, name: str, n: int, rest: int) -> None:
    total = 4096 * n + rest
    sent, received = np.zeros(n, np.int64), np.zeros(n, np.int64)
    for chain in chains(kind, name, n, total):
        for wave in chain.waves:
            np.add.at(sent, wave.src, wave.bytes)
            np.add.at(received, wave.dst, wave.bytes)
    factor = 2 if kind == "all_reduce" else 1
    assert sent.sum() == received.sum()
    if kind == "all_to_all":
        assert (sent.sum() == (n - 1) * total) and np.abs(sent - (n - 1) * total / n).max() <= 1
    elif name == "double_tree":
        assert sent.sum() == 2 * (n - 1) * total  # every byte crosses n - 1 edges up and down
        assert max(sent.max(), received.max()) <= 2 * (total + 1)  # an odd half is one byte longer
    else:
        assert sent.sum() == factor * (n - 1) * total
        assert np.abs(sent - factor * (n - 1) * total / n).max() <= 2 * n
        assert sent.mean() == pytest.approx(ring_bytes(kind, n, total))


@given(st.integers(2, 40), st.integers(0, 10_000))
def test_rings_of_any_size_move_every_byte(n: int, rest: int) -> None:
    total = 2 * n + rest
    for kind, name in itertools.product(
        ("all_reduce", "reduce_scatter", "all_gather"), ("ring", "bidirectional_ring")
    ):
        moved = sum(int(w.bytes.sum()) for c in chains(kind, name, n, total) for w in c.waves)
        assert moved == (2 if kind == "all_reduce" else 1) * (n - 1) * total


@pytest.mark.parametrize("name", ["ring", "halving_doubling", "swing"])
@pytest.mark.parametrize("n", [2, 4, 8, 16])
def test_everybody_gets_every_contribution(name: str, n: int) -> None:
    """Replay: after the waves each rank has heard, directly or not, from everyone."""
    heard = [{r} for r in range(n)]
    for chain in chains("all_reduce", name, n, 64 * n):
        for wave in chain.waves:
            before = [set(h) for h in heard]
            for s, d in zip(wave.src.tolist(), wave.dst.tolist(), strict=True):
                heard[d] |= before[s]
    assert all(h == set(range(n)) for h in heard)


@pytest.mark.parametrize("name", ["halving_doubling", "swing"])
def test_exchanges_are_between_pairs_and_halve(name: str) -> None:
    n, total = 16, 2**20
    (chain,) = chains("all_reduce", name, n, total)
    sizes = [int(w.bytes[0]) for w in chain.waves]
    assert sizes == [total >> k for k in (1, 2, 3, 4, 4, 3, 2, 1)]
    for wave in chain.waves:
        assert (wave.dst[wave.dst] == wave.src).all()  # the peer of my peer is me


@pytest.mark.parametrize("n", [2, 3, 4, 5, 7, 8, 13, 16, 24, 64, 100])
def test_double_tree(n: int) -> None:
    one, two = tree_parents(n)
    for parent in (one, two):
        assert (parent == -1).sum() == 1
        children = np.bincount(parent[parent >= 0], minlength=n)
        assert children.max() <= 2
        for r in range(n):
            at, depth = r, 0
            while parent[at] >= 0:
                at, depth = int(parent[at]), depth + 1
            assert depth <= np.ceil(np.log2(n)) + 1
    if n % 2 == 0 and n > 2:
        inner = [set(p[p >= 0].tolist()) for p in (one, two)]
        assert not inner[0] & inner[1]  # inner ranks of one tree are leaves of the other


# ---- time on an ideal fabric -------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 4, 8])
@pytest.mark.parametrize("kind", ["all_reduce", "reduce_scatter", "all_gather"])
@pytest.mark.parametrize("name", ["ring", "halving_doubling", "swing"])
def test_bandwidth_optimal_collectives_take_the_bound(kind: str, name: str, n: int) -> None:
    total = 840 * n
    made = on_off(np.arange(n), total, collective=kind, algorithm=name)
    factor = 2 if kind == "all_reduce" else 1
    assert ideal_run(made.flows).max() == pytest.approx(factor * (n - 1) / n * total)
    assert made.collectives[0].bus_factor == pytest.approx(factor * (n - 1) / n)


@pytest.mark.parametrize("name", ["direct", "shifted"])
def test_all_to_all_takes_the_bound(name: str) -> None:
    made = on_off(np.arange(6), 6000, collective="all_to_all", algorithm=name)
    assert ideal_run(made.flows).max() == pytest.approx(5000)


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("name", ["ring", "bidirectional_ring"])
def test_steps_and_edges_agree_when_latency_is_small(name: str, channels: int) -> None:
    n, total, alpha = 6, 60_000, 0.5
    steps = on_off(np.arange(n), total, algorithm=name, step_latency=alpha, channels=channels)
    edges = on_off(np.arange(n), total, algorithm=name, step_latency=alpha, channels=channels, form="edges")
    want = 2 * (n - 1) / n * total + 2 * (n - 1) * alpha
    assert ideal_run(edges.flows).max() == pytest.approx(want)
    assert ideal_run(steps.flows).max() == pytest.approx(want, rel=1e-3)
    assert len(edges) == n * channels * (2 if name == "bidirectional_ring" else 1)
    assert edges.flows.bytes.sum() == steps.flows.bytes.sum() == 2 * (n - 1) * total


def test_a_tree_by_chunks_nears_one_flow_per_edge() -> None:
    edges = on_off(np.arange(8), 80_000, algorithm="double_tree", form="edges")
    steps = on_off(np.arange(8), 80_000, algorithm="double_tree")
    fast, slow = ideal_run(edges.flows).max(), ideal_run(steps.flows).max()
    # a rank with two children receives 2 x M/2 up and M/2 down in one tree, M/2 in the other
    assert fast == pytest.approx(2 * 80_000, rel=0.05)
    assert fast < slow < 4 * fast


def test_hierarchical_is_the_sum_of_its_stages() -> None:
    hosts, g, total = 4, 2, 16_000
    grid = np.arange(hosts * g).reshape(hosts, g)
    made = on_off(grid, total, algorithm="hierarchical")
    want = 2 * (g - 1) / g * total + 2 * (hosts - 1) / hosts * total / g
    assert ideal_run(made.flows).max() == pytest.approx(want)
    inside = grid.ravel()[made.flows.src] // g == grid.ravel()[made.flows.dst] // g
    assert made.flows.bytes[inside].sum() == hosts * 2 * (g - 1) * total
    assert made.flows.bytes[~inside].sum() == g * 2 * (hosts - 1) * total // g
    rails = made.flows.src[~inside] % g
    assert (rails == made.flows.dst[~inside] % g).all()
    for kind in ("reduce_scatter", "all_gather"):
        half = on_off(grid, total, collective=kind, algorithm="hierarchical")
        assert ideal_run(half.flows).max() == pytest.approx(want / 2)
    edges = on_off(grid, total, algorithm="hierarchical", form="edges")
    assert ideal_run(edges.flows).max() == pytest.approx(want)


def test_two_level_all_to_all() -> None:
    hosts, g, total = 3, 4, 12 * 120
    grid = np.arange(hosts * g).reshape(hosts, g)
    made = on_off(grid, total, collective="all_to_all", algorithm="two_level")
    flows = made.flows
    inside = flows.src // g == flows.dst // g
    # first hop: what each rank has for the other rails; second: what a host has for each rank of another
    assert flows.bytes[inside].sum() == hosts * g * (g - 1) * total // g
    assert flows.bytes[~inside].sum() == hosts * g * (hosts - 1) * total // hosts
    assert (flows.src[~inside] % g == flows.dst[~inside] % g).all()
    want = (g - 1) / g * total + (hosts - 1) / hosts * total
    assert ideal_run(flows).max() == pytest.approx(want)


# ---- computation -------------------------------------------------------------------------------------------


def test_iterations_compute_and_communicate_in_turns() -> None:
    n, total = 4, 4000
    for form in ("steps", "edges"):
        made = on_off(np.arange(n), total, iterations=3, compute=100.0, form=form)
        one = 100.0 + 2 * (n - 1) / n * total
        end = ideal_run(made.flows)
        assert [end[made.flows.group == k].max() for k in range(3)] == pytest.approx([one, 2 * one, 3 * one])
    assert made.flows.tags == ("all_reduce 0", "all_reduce 1", "all_reduce 2")


def test_a_straggler_holds_everybody_up() -> None:
    n, total = 4, 4000
    for form in ("steps", "edges"):
        made = on_off(np.arange(n), total, iterations=2, compute=100.0, slow={2: 3.0}, form=form)
        end = ideal_run(made.flows).max()
        assert end == pytest.approx(2 * (300.0 + 2 * (n - 1) / n * total))


def test_noise_has_mean_one_and_a_seed() -> None:
    a = on_off(np.arange(400), 4000, compute=1.0, noise=0.5, seed=1, form="edges")
    first = ProgramWriter(seed=1)
    first.compute(np.arange(4000), 1.0, noise=0.5)
    drawn = np.array(list(first._busy.values()))
    assert drawn.mean() == pytest.approx(1.0, abs=0.03)
    assert np.log(drawn).std() == pytest.approx(0.5, abs=0.03)
    b = on_off(np.arange(400), 4000, compute=1.0, noise=0.5, seed=1, form="edges")
    c = on_off(np.arange(400), 4000, compute=1.0, noise=0.5, seed=2, form="edges")
    assert a.flows.start[0] == b.flows.start[0] != c.flows.start[0] > 1.0


def test_a_receiver_that_computes_is_waited_for() -> None:
    writer = ProgramWriter()
    writer.compute([0], 5.0)
    writer.compute([1], 20.0)
    writer.send(0, 1, 100)
    writer.send(1, 2, 100)
    flows = writer.traffic().flows
    assert flows.start.tolist() == [20.0, 0.0]
    assert flows.predecessors(1).tolist() == [0] and flows.delay[1] == 0
    assert ideal_run(flows).tolist() == [120.0, 220.0]


def test_mixture_expert_steps() -> None:
    """Dispatch and combine with computation between them: two all-to-alls."""
    writer = ProgramWriter()
    writer.collective("all_to_all", np.arange(4), 4000, name="dispatch")
    writer.compute(np.arange(4), 50.0)
    writer.collective("all_to_all", np.arange(4), 4000, name="combine")
    made = writer.traffic(pattern="experts")
    assert ideal_run(made.flows).max() == pytest.approx(3000 + 50 + 3000)
    assert [c.name for c in made.collectives] == ["dispatch", "combine"]


@pytest.mark.parametrize(("stages", "batches"), [(2, 1), (4, 6), (5, 3)])
def test_pipeline_forward(stages: int, batches: int) -> None:
    made = pipeline(np.arange(stages), 300, micro_batches=batches, forward=70.0)
    assert len(made) == batches * (stages - 1)
    assert ideal_run(made.flows).max() == pytest.approx((batches + stages - 2) * 370.0)


def test_pipeline_there_and_back() -> None:
    grid = np.arange(8).reshape(4, 2)
    one = pipeline(grid, 300, micro_batches=1, forward=70.0, backward=130.0)
    # three hops forward; the last stage turns it round: forward, backward, send; then two hops back
    assert ideal_run(one.flows).max() == pytest.approx(3 * 370.0 + 70.0 + 130.0 + 300.0 + 2 * 430.0)

    made = pipeline(grid, 300, micro_batches=5, forward=70.0, backward=130.0)
    flows = made.flows
    assert len(made) == 2 * 2 * 5 * 3 and flows.bytes.sum() == len(made) * 300
    assert (flows.src % 2 == flows.dst % 2).all()
    end = ideal_run(flows)
    back = flows.src > flows.dst
    # the last stage does five times forward, backward and send, one after the other
    assert np.diff(np.sort(end[back & (flows.src == 6)])).min() >= 500.0 - 1e-6
    for stage in (2, 4):  # the other stages do all forwards first
        assert end[back & (flows.src == stage)].min() > end[~back & (flows.src == stage)].max()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"algorithm": "rign"}, "did you mean 'ring'"),
        ({"collective": "all_redcue"}, "did you mean 'all_reduce'"),
        ({"algorithm": "hierarchical"}, "as \\[hosts, ranks per host\\]"),
        ({"collective": "all_to_all", "algorithm": "hierarchical"}, "not for all_to_all"),
        ({"algorithm": "halving_doubling", "ranks": np.arange(6)}, "power of two"),
        ({"algorithm": "halving_doubling", "form": "edges"}, "use steps"),
        ({"ranks": np.arange(1)}, "2 or more"),
        ({"ranks": np.array([0, 1, 1])}, "different endpoints"),
        ({"bytes_": 3}, "without a byte"),
        ({"bytes_": 2**41}, "2\\^40"),
        ({"channels": 0}, "`channels`"),
        ({"channels": 1000}, "too short for 1000"),
        ({"form": "step"}, "did you mean 'steps'"),
        ({"step_latency": -1.0}, "`step_latency`"),
        ({"iterations": 0}, "`iterations`"),
        ({"compute": -1.0}, "`compute`"),
        ({"compute": 1.0, "slow": {0: 0.0}}, "`slow`"),
        ({"collective": "reduce_scatter", "algorithm": "double_tree"}, "unknown algorithm"),
    ],
)
def test_bad_programs(change: dict[str, object], words: str) -> None:
    given = {"ranks": np.arange(8), "bytes_": 4096} | change
    with pytest.raises(ConfigError, match=words):
        on_off(**given)  # type: ignore[arg-type]


def test_bad_pipelines_and_sends() -> None:
    with pytest.raises(ConfigError, match="2 or more stages"):
        pipeline([3], 100, micro_batches=2)
    with pytest.raises(ConfigError, match="`micro_batches`"):
        pipeline([0, 1], 100, micro_batches=0)
    with pytest.raises(ConfigError, match="`send`"):
        ProgramWriter().send([0, 1], [1], 10)
    with pytest.raises(ConfigError, match="sends nothing"):
        ProgramWriter().traffic()
