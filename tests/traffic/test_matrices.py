"""Traffic matrices, arrivals and load.

Oracles: definitions (derangement, tornado distance), chi-square and Kolmogorov-Smirnov tests at fixed seeds,
renewal theory (rate times duration), and the load of links by enumerating pairs and paths.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from euston.errors import ConfigError
from euston.fabrics import Fabric, fat_tree, leaf_spine, rail_optimized
from euston.seeds import stream
from euston.traffic import (
    MATRICES,
    burst,
    injection_capacity,
    link_load,
    matrix,
    open_loop,
    poisson_flows,
    racks,
    sizes,
)
from euston.traffic.arrivals import ARRIVALS, arrivals


def leaf(oversubscription: float = 2.0) -> Fabric:
    return leaf_spine(32, 1, nic="100 Gb/s", hosts_per_leaf=8, spines=4, oversubscription=oversubscription)


@given(st.integers(2, 200), st.integers(0, 2**40))
def test_permutation_is_a_derangement(n: int, seed: int) -> None:
    src, dst = matrix("permutation", n, seed=seed).pairs()
    assert (src == np.arange(n)).all()
    assert (np.sort(dst) == np.arange(n)).all()
    assert (src != dst).all()


def test_all_derangements_are_equally_likely() -> None:
    seen: dict[tuple[int, ...], int] = {}
    for seed in range(1800):
        dst = tuple(matrix("permutation", 4, seed=seed).pairs()[1].tolist())
        seen[dst] = seen.get(dst, 0) + 1
    assert len(seen) == 9  # !4
    assert stats.chisquare(list(seen.values())).pvalue > 0.01


@given(st.sampled_from(sorted(MATRICES)), st.integers(4, 60), st.integers(0, 1000))
def test_nobody_sends_to_itself(kind: str, n: int, seed: int) -> None:
    options = {"rack": 2} if kind in ("rack_skew", "hot_rack") else {}
    if options and n % 2:
        n += 1
    made = matrix(kind, n, seed=seed, **options)
    assert made.share.sum() == pytest.approx(1.0)
    for src, dst in (made.pairs(seed), made.pairs(seed, 50)):
        assert src.size == dst.size > 0 and src.dtype == dst.dtype == np.int32
        assert (src != dst).all()
        assert np.isin(np.concatenate((src, dst)), np.arange(n)).all()
    src, dst, weight = made.expected()
    assert (src != dst).all() and weight.sum() == pytest.approx(1.0)


def test_fixed_matrices() -> None:
    src, dst = matrix("incast", 16, receiver=3, senders=5, seed=1).pairs()
    assert (dst == 3).all() and np.unique(src).size == 5
    src, dst = matrix("outcast", 16, sender=3).pairs()
    assert (src == 3).all() and np.unique(dst).size == 15
    assert (matrix("stride", 8, stride=3).pairs()[1] == (np.arange(8) + 3) % 8).all()
    assert (matrix("stride", 8, stride=-1).pairs()[1] == (np.arange(8) - 1) % 8).all()
    assert (matrix("ring", 8).pairs()[1] == (np.arange(8) + 1) % 8).all()
    src, dst = matrix("all_to_all", 5).pairs()
    assert {*zip(src.tolist(), dst.tolist(), strict=True)} == {
        (i, j) for i in range(5) for j in range(5) if i != j
    }


def test_tornado() -> None:
    # k = 8: distance 3; k = 5: distance 2 (Dally & Towles: ceil(k/2) - 1)
    assert (matrix("tornado", 8).pairs()[1] == (np.arange(8) + 3) % 8).all()
    dst = matrix("tornado", 40, dims=[8, 5]).pairs()[1]
    want = [((e // 5 + 3) % 8) * 5 + (e % 5 + 2) % 5 for e in range(40)]
    assert dst.tolist() == want


def test_racks_of_a_fabric() -> None:
    assert racks(leaf()).tolist() == [e // 8 for e in range(32)]
    rails = rail_optimized(4, 8, nic="400 Gb/s", nics_per_host=4, hosts_per_segment=2, spines=2)
    # two accelerators share a NIC, NIC k of the two hosts of a segment hangs on leaf (segment, k)
    assert np.unique(racks(rails)).size == 8
    assert injection_capacity(rails)[0] == pytest.approx(25e9)
    assert injection_capacity(leaf())[0] == pytest.approx(12.5e9)


def test_rack_skew_and_hot_rack_shares() -> None:
    n, flows = 40, 40_000
    rack = np.repeat(np.arange(4), [4, 6, 10, 20])
    made = matrix("rack_skew", n, rack=rack, local=0.3, seed=2)
    src, dst = made.pairs(5, flows)
    local = (rack[src] == rack[dst]).mean()
    assert local == pytest.approx(0.3, abs=4 * np.sqrt(0.3 * 0.7 / flows))
    counts = np.bincount(dst[(src == 7) & (rack[dst] != 1)], minlength=n)
    outside = rack != 1
    assert stats.chisquare(counts[outside]).pvalue > 0.01 and (counts[~outside] == 0).all()

    made = matrix("hot_rack", n, rack=rack, share=0.5, hot=1, seed=2)
    src, dst = made.pairs(6, flows)
    _, d, weight = made.expected()
    want = weight[rack[d] == 1].sum()
    assert (rack[dst] == 1).mean() == pytest.approx(want, abs=4 * np.sqrt(want / flows))


@given(st.sampled_from(["uniform", "rack_skew", "hot_rack"]), st.integers(0, 100))
def test_draws_follow_what_is_expected(kind: str, seed: int) -> None:
    n = 8
    options = {} if kind == "uniform" else {"rack": 4}
    made = matrix(kind, n, seed=seed, **options)
    src, dst, weight = made.expected()
    want = np.zeros((n, n))
    want[src, dst] = weight
    s, d = made.pairs(seed, 4000)
    seen = np.zeros((n, n))
    np.add.at(seen, (s, d), 1)
    used = want > 0
    assert (seen[~used] == 0).all()
    assert stats.chisquare(seen[used], 4000 * want[used]).pvalue > 1e-6


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("permutatoin", {}, "did you mean 'permutation'"),
        ("incast", {"sender": 3}, "did you mean 'senders'"),
        ("incast", {"receiver": 16}, "does not exist"),
        ("incast", {"senders": 16}, "between 1 and 15"),
        ("stride", {"stride": 32}, "own source"),
        ("tornado", {"dims": [4, 3]}, "make 12 endpoints"),
        ("tornado", {"dims": [2] * 4}, "too short"),
        ("rack_skew", {}, "`rack`: is missing"),
        ("rack_skew", {"rack": 16}, "only one rack"),
        ("rack_skew", {"rack": 1}, "alone in its rack"),
        ("rack_skew", {"rack": 4, "local": 1.5}, "between 0 and 1"),
        ("rack_skew", {"rack": [0, 1]}, "2 racks for 16 endpoints"),
        ("hot_rack", {"rack": 1}, "one endpoint"),
        ("ring", {"width": 3}, "no parameter"),
    ],
)
def test_bad_matrices(kind: str, options: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        matrix(kind, 16, **options)


def test_too_few_endpoints() -> None:
    with pytest.raises(ConfigError, match="2 or more"):
        matrix("uniform", 1)


# ---- arrivals and load -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ARRIVALS)
def test_arrivals_come_at_the_stated_rate(kind: str) -> None:
    rate, duration = np.array([1000.0, 0.0, 3000.0]), 1.0
    counts = []
    for seed in range(40):
        source, time = arrivals(kind, rate, duration, stream(seed, kind), sigma=1.5)
        assert (np.diff(time) >= 0).all() and (time >= 0).all() and (time < duration).all()
        counts.append(np.bincount(source, minlength=3))
    mean, error = np.mean(counts, axis=0), np.std(counts, axis=0) / np.sqrt(40)
    assert mean[1] == 0
    assert (np.abs(mean - rate * duration) <= 4 * error + 1).all()


def test_gaps_follow_their_distribution() -> None:
    rate = np.array([1000.0])
    _, time = arrivals("poisson", rate, 20.0, stream(1, "a"))
    assert stats.kstest(np.diff(time), stats.expon(scale=1e-3).cdf).pvalue > 0.01
    _, time = arrivals("lognormal", rate, 20.0, stream(1, "b"), sigma=2.0)
    # of mean 1 ms: location ln(1 ms) - sigma^2 / 2
    assert stats.kstest(np.log(np.diff(time)), stats.norm(np.log(1e-3) - 2.0, 2.0).cdf).pvalue > 0.01
    _, time = arrivals("periodic", rate, 1.0, stream(1, "c"))
    assert np.allclose(np.diff(time), 1e-3)


@pytest.mark.parametrize("kind", ARRIVALS)
def test_stationary_from_the_first_second(kind: str) -> None:
    # as many in the first tenth as in the last: no ramp-up of an ordinary renewal process
    _, time = arrivals(kind, np.full(20_000, 3.0), 1.0, stream(3, kind), sigma=2.0)
    early, late = (time < 0.1).sum(), (time >= 0.9).sum()
    assert early == pytest.approx(late, abs=5 * np.sqrt(early + late) * (3 if kind == "lognormal" else 1))


def test_load_on_the_hosts() -> None:
    fabric = leaf()
    made = poisson_flows(fabric, 0.4, "fb_hadoop", 0.05, seed=2)
    about = made.about
    # lambda = load * C / mean per host
    rate = 0.4 * 12.5e9 / 120420.75
    assert about["flows_per_s"] == pytest.approx(32 * rate)
    assert len(made) == pytest.approx(32 * rate * 0.05, rel=0.02)
    offered = made.flows.bytes.sum() / 0.05
    assert about["load_realised"] == pytest.approx(offered / (32 * 12.5e9))
    # 24 of 31 others are under other leaves; the uplinks of 8 hosts hold half of their rate
    assert about["core_load"] == pytest.approx(0.4 * 2 * 24 / 31)


def test_load_on_the_core_is_that_of_the_named_link() -> None:
    fabric = leaf(4.0)
    pattern = matrix("hot_rack", fabric, seed=1, share=0.6, hot=2)
    made = open_loop(fabric, pattern, "100 kB", load=0.5, duration=0.02, on="core", seed=1)
    link = fabric.link_index(made.about["load_link"])
    assert fabric.tier(link) == "ToR down"
    flows = made.flows
    rack = np.arange(32) // 8
    into_hot = flows.bytes[(rack[flows.dst] == 2) & (rack[flows.src] != 2)].sum() / 0.02
    capacity = fabric.capacity[link] * 4  # four spines
    assert into_hot / capacity == pytest.approx(0.5, rel=0.05)


def test_link_load_is_that_of_all_pairs() -> None:
    fabric = fat_tree(4, nic="100 Gb/s")
    made = matrix("uniform", fabric)
    want = np.zeros(fabric.links)
    for s in range(16):
        for d in range(16):
            for choice in range(4 if s != d else 0):
                path = fabric.route([s], [d], [choice])[0]
                want[path[path >= 0]] += 1 / (16 * 15 * 4)
    assert link_load(fabric, made) == pytest.approx(want)


def test_burst() -> None:
    made = burst(matrix("incast", 8, receiver=0), "2 MB", rounds=3, period=1e-3, seed=4)
    assert len(made) == 21 and np.unique(made.flows.start).tolist() == [0.0, 1e-3, 2e-3]
    jittered = burst(matrix("ring", 8), "websearch", jitter=1e-6, seed=4)
    assert 0 < jittered.flows.start.max() < 1e-6
    drawn = burst(matrix("uniform", 8), 1000, rounds=2, flows=30, seed=4)
    assert len(drawn) == 60 and (drawn.flows.dst[:30] != drawn.flows.dst[30:]).any()


def test_purposes_do_not_disturb_each_other() -> None:
    a = stream(1, "sizes").random(4)
    stream(1, "arrivals").random(1000)
    assert (stream(1, "sizes").random(4) == a).all()
    assert (stream(1, "sizes").random(4) != stream(2, "sizes").random(4)).all()
    assert (sizes("websearch", 4, 1) == sizes("websearch", 4, 1)).all()
    with pytest.raises(ConfigError, match="seed"):
        stream(-1, "x")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"load": 0.0}, "`load`"),
        ({"load": float("nan")}, "`load`"),
        ({"duration": -1.0}, "`duration`"),
        ({"duration": 1e-12}, "no flow arrives"),
        ({"duration": 1e9}, "at most"),
        ({"arrivals": "posson"}, "did you mean 'poisson'"),
        ({"on": "rack"}, "host, core"),
        ({"arrivals": "lognormal", "sigma": 0.0}, "`sigma`"),
    ],
)
def test_bad_loads(options: dict[str, object], words: str) -> None:
    fabric = leaf()
    given = {"load": 0.5, "duration": 1e-3} | options
    with pytest.raises(ConfigError, match=words):
        open_loop(fabric, matrix("uniform", fabric), "1 MB", **given)  # type: ignore[arg-type]


def test_a_core_that_is_not_crossed() -> None:
    fabric = leaf()
    local = matrix("rack_skew", fabric, local=1.0)
    with pytest.raises(ConfigError, match="never crosses the core"):
        open_loop(fabric, local, "1 MB", load=0.5, duration=1e-3, on="core")
    with pytest.raises(ConfigError, match="made for 8 endpoints"):
        open_loop(fabric, matrix("uniform", 8), "1 MB", load=0.5, duration=1e-3)
