"""The UDP all-reduce, ranks as threads of one process: exact means, losses, bad input, bad packets."""

from __future__ import annotations

import socket
import threading
import time

import numpy as np
import pytest

from euston.collectives.aggregation import AGGREGATION, Aggregator, Inclusion
from euston.collectives.bounded import Bounded, Timeouts
from euston.collectives.loss import GilbertElliott, Iid
from euston.collectives.runtime import FolderStore, UdpGroup, wire
from euston.collectives.runtime.exchange import Exchange, Shards
from euston.collectives.runtime.mean import Mean
from euston.compression import CODECS, NonFinite, SizeMismatch, StepKey
from euston.errors import ConfigError

PATIENT = Bounded(t_b=20.0, floor=20.0)


def together(tmp_path, n, work, **settings):
    """Run ``work(group)`` at n ranks; their results, or the first exception."""
    results, errors = [None] * n, []

    def one(rank):
        try:
            of_rank = {k: v[rank] if isinstance(v, list) else v for k, v in settings.items()}
            with UdpGroup(rank, n, FolderStore(tmp_path / "store"), **of_rank) as group:
                results[rank] = work(group)
                gate.wait(30)  # nobody leaves while others still need answers
        except threading.BrokenBarrierError:
            pass
        except BaseException as error:
            errors.append(error)
            gate.abort()

    gate = threading.Barrier(n)
    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    if errors:
        raise errors[0]
    return results


def vectors(n, d, seed=0):
    return np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)


@pytest.mark.parametrize(("n", "d"), [(1, 10), (2, 1), (2, 1000), (3, 7), (4, 10_007), (5, 100_003)])
def test_without_loss_it_is_the_mean(tmp_path, n, d):
    """n that does not divide d, shards without a coordinate, a last short packet."""

    def work(group):
        found = []
        for step in range(4):
            x = vectors(n, d, step)[group.rank].copy()
            report = group.all_reduce(x)
            assert report.loss == 0 and report.lost_results == 0 and not report.skipped
            found.append(x)
        return found

    results = together(tmp_path, n, work, bounded=PATIENT)
    for step in range(4):
        want = vectors(n, d, step).astype(np.float64).mean(axis=0)
        assert np.abs(results[0][step] - want).max() < 1e-6
        assert all((r[step] == results[0][step]).all() for r in results)  # replicas are equal bit by bit


@pytest.mark.parametrize("codec", ["none", "fp16", "eden", "thc", "top_k"])
def test_codecs_decode_to_the_mean_of_decodes(tmp_path, codec):
    """The error is the codec's own: within four times what it promises for one vector."""
    made = CODECS.get(codec)()
    n, d = 3, 30_000

    def work(group):
        x = vectors(n, d)[group.rank].copy()
        group.all_reduce(x)
        return x

    results = together(tmp_path, n, work, bounded=PATIENT, codec=made)
    want = vectors(n, d).mean(axis=0)
    error = float(((results[0] - want) ** 2).sum() / (vectors(n, d) ** 2).sum(axis=1).mean())
    assert error <= 4 * made.expected_vnmse(d) + 1e-6
    assert all((r == results[0]).all() for r in results)


@pytest.mark.parametrize("model", [Iid(0.05), GilbertElliott.of(0.05, 4)])
def test_while_it_measures_nothing_is_lost_for_good(tmp_path, model):
    """Missing packets of both stages are asked for again until all are there."""
    n, d = 3, 50_000

    def work(group):
        x = vectors(n, d)[group.rank].copy()
        report = group.all_reduce(x)
        return x, report

    results = together(tmp_path, n, work, bounded=Bounded(warm_up=3), loss=model)
    want = vectors(n, d).mean(axis=0)
    for x, report in results:
        assert np.abs(x - want).max() < 1e-6 and report.loss == 0
    assert sum(report.injected for _, report in results) > 0
    assert sum(report.resent for _, report in results) > 0


@pytest.mark.parametrize("rule", ["count", "ht", "zero", "stale", "local"])
def test_bounded_with_loss(tmp_path, rule):
    """Every coordinate is a mix of what ranks sent: between the smallest and the largest."""
    n, d = 3, 40_000

    def work(group):
        for _ in range(3):
            x = np.full(d, 1.0 + group.rank, np.float32)
            report = group.all_reduce(x)
        return x, report

    results = together(tmp_path, n, work, bounded=Bounded(t_b=0.2), loss=Iid(0.03), rule=rule)
    for x, _ in results:
        assert np.isfinite(x).all()
        if rule in ("count", "local", "stale"):
            assert x.min() >= (0.99 if rule != "stale" else 0.3) and x.max() <= 3.01
        assert abs(float(np.median(x)) - 2.0) < 0.2


def test_what_comes_early_is_lost_as_often(tmp_path):
    """A rank that is late has its parts of the next exchange waiting; the report counts what was injected."""
    loss, d, gap = 0.2, 200_000, 0.2

    def work(group):
        seen = []
        for _ in range(6):
            if group.rank == 0:
                time.sleep(gap)  # the other's part is there before this begins
            x = np.ones(d, np.float32)
            seen.append(float(group.all_reduce(x).received[0][1 - group.rank]))
        return seen

    bounded = Bounded(t_b=2 * gap, floor=0.02, repair="none")
    late, _ = together(tmp_path, 2, work, bounded=bounded, loss=Iid(loss))
    packets = 6 * (d // 2 * 4 // 1440)
    assert np.mean(late) == pytest.approx(1 - loss, abs=4 * np.sqrt(loss * (1 - loss) / packets))


def test_nan_is_an_error_or_everybody_skips(tmp_path):
    def work(group):
        x = np.ones(5000, np.float32)
        if group.rank == 1:
            x[17] = np.nan
        return group.all_reduce(x, label="layer 3").skipped

    with pytest.raises(NonFinite, match="`layer 3`: holds NaN or Inf at rank 1"):
        together(tmp_path, 2, work, bounded=Bounded(t_b=0.5))
    skipped = together(tmp_path / "b", 3, work, bounded=PATIENT, on_nonfinite="skip_step")
    assert skipped == [True, True, True]


def test_ranks_that_disagree_are_named(tmp_path):
    def work(group):
        group.all_reduce(np.ones(1000 + group.rank, np.float32))

    with pytest.raises(SizeMismatch, match=r"rank \d reduces 100\d coordinates, rank \d another size"):
        together(tmp_path, 2, work, bounded=Bounded(t_b=2.0))
    with pytest.raises(SizeMismatch, match=r"rank \d has rule \w+, rank \d \w+; all must agree"):
        together(tmp_path / "b", 2, work, rule=["count", "zero"])


@pytest.mark.parametrize("rule", ["count", "ht", "local", "zero"])
def test_sums_on_arrival_are_the_rule(rule):
    """Packets in any order, each with its own chance to be lost, against the aggregator on whole parts."""
    n, d, payload, rng = 4, 1003, 64, np.random.default_rng(5)
    words, made = payload // 4, AGGREGATION.get(rule)()
    parts, chance = vectors(n, d, 1), np.array([1.0, 0.9, 0.5, 0.7])
    shards = Shards.of(d, n, payload, None)
    x = parts[0].copy()
    scale = made.scale(chance).astype(np.float32)
    whole = 1.0 / float(made.divisor(np.array([n]), n)[0])
    e = Exchange(shards, 0, n, 0, 0, x, None, scale, keep_parts=False, whole=whole)
    e.total[:] = np.nan  # whatever was in that memory
    first, last = shards.bounds[:2]
    ptr, packets = shards.ptr[0], int(shards.packets[0])
    came = rng.random((n, packets)) < 0.6
    came[0], came[:, 3], came[1:, 5] = True, True, False
    out, stats, stop = np.zeros(32 + payload, np.uint8), np.zeros(wire.STATS, np.int64), np.zeros(8, np.int64)
    for at in rng.permutation((n - 1) * packets):
        src, p = 1 + int(at) // packets, int(at) % packets
        if not came[src, p]:
            continue
        data = parts[src, first:last].copy()
        used = wire.fill(
            out, out.view(np.float32), 32 + payload, data.view(np.uint8), data, ptr[: packets + 1],
            np.array([p]), 0, 1, 0, 7, src, 0, 0, d, 0, 1, 0,
        )  # fmt: skip
        wire.take(
            out, out.view(np.float32), used, used, 0, 0, d, 0, 7, np.ones(1, np.bool_), e.open, e.got, e.have,
            e.tail, e.ptr, e.base, e.staged, e.staged32, e.total, e.count, e.mine, e.scale,
            np.zeros((2, n), np.int64), stats, stop,
        )  # fmt: skip
    Mean(0, n, payload, None, made, Inclusion(n)).reduce(e, StepKey(step=0))
    bounds = np.minimum(np.arange(packets + 1) * words, last - first)
    plain = Aggregator(made, n, bounds, inclusion=chance, own=parts[0, first:last])
    for src in range(n):
        plain.add(src, parts[src, first:last], came[src])
    want = plain.result().mean
    assert stats[wire.FRESH] == came[1:].sum()
    np.testing.assert_allclose(e.total, want, rtol=2e-6, atol=1e-6)
    assert (x[first:last] == e.total).all() and (x[last:] == parts[0, last:]).all()


def test_the_listener_gives_way(tmp_path):
    """Who wants to begin does not wait until the listener has taken in all that others send meanwhile."""

    def work(group):
        ep = group.endpoint
        if group.rank == 1:
            gate.wait()
            return None
        ep._idle.clear()  # as `begin` does
        group_socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        group_socket.sendto(b"x" * 100, ep.socket.address)
        group_socket.close()
        with ep.lock:
            ep.socket.wait(1.0)
            gave_way = not ep._drain()
            ep._idle.set()
            found = gave_way, ep._drain()
        gate.wait()
        return found

    gate = threading.Barrier(2)
    assert together(tmp_path, 2, work)[0] == (True, True)


def test_forged_and_malformed_datagrams_change_nothing(tmp_path):
    n, d = 2, 20_000
    stop = threading.Event()

    def work(group):
        target = group.endpoint.addresses[1]
        if group.rank == 0:

            def flood():
                sock, rng = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), np.random.default_rng(0)
                while not stop.wait(0.0005):
                    junk = rng.integers(0, 256, int(rng.integers(0, 200)), dtype=np.uint8)
                    junk[:2] = (0x57, 0xE0)[: junk.size] if junk.size > 2 else junk[:2]
                    sock.sendto(junk.tobytes(), target)

            threading.Thread(target=flood, daemon=True).start()
        bad, worst = 0, 0.0
        for step in range(20):
            x = vectors(n, d, step)[group.rank].copy()
            bad += group.all_reduce(x).bad
            worst = max(worst, float(np.abs(x - vectors(n, d, step).mean(axis=0)).max()))
        return bad, worst

    try:
        results = together(tmp_path, n, work, bounded=PATIENT)
    finally:
        stop.set()
    assert max(worst for _, worst in results) < 1e-6


def test_bad_input(tmp_path):
    store = FolderStore(tmp_path / "s", timeout=0.1)
    for settings, words in (
        ({"rank": 2}, "`rank`: 2 of 2"),
        ({"mtu": 100}, "`mtu`: 100"),
        ({"rule": "mean"}, "aggregation rule"),
        ({"on_nonfinite": "ignore"}, "`on_nonfinite`"),
        ({"incast": 0}, "`incast`"),
        ({"socket_loss": 1.5}, "`loss`"),
        ({"host": "192.0.2.1"}, "`host`"),
    ):
        with pytest.raises(ConfigError, match=words):
            UdpGroup(**{"rank": 0, "world": 2, "store": store, **settings})
    with UdpGroup(0, 1, FolderStore(tmp_path / "t")) as alone:
        for wrong in (np.ones(3), np.ones((2, 2), np.float32), [1.0], np.ones(6, np.float32)[::2]):
            with pytest.raises(SizeMismatch, match="a contiguous float32 vector is needed"):
                alone.all_reduce(wrong)


def test_timeouts_follow_their_rule():
    """By hand: the share received is a fraction, x doubles on loss and shrinks without, t_C is smoothed."""
    t = Timeouts(Bounded(t_b=1.0, smoothing=0.5, floor=1e-6))
    assert t.idle == pytest.approx(0.1) and Timeouts(Bounded()).idle == float("inf")
    t.stage(0.2, 0.5)  # as if 0.4 s for everything
    assert t.t_c == pytest.approx(0.4) and t.x == 0.2
    t.stage(0.1, 1.0, [0.3, 0.2])
    assert t.t_c == pytest.approx(0.5 * 0.4 + 0.5 * 0.2) and t.x == pytest.approx(0.19)
    assert t.idle == pytest.approx(0.19 * 0.3)
    t.stage(0.5, 0.0)  # nothing came: no division by zero
    assert np.isfinite(t.t_c)
    measuring = Timeouts(Bounded(warm_up=10))
    values = [measuring.warm(0.01 * k) for k in range(20)]
    assert values[:19] == [None] * 19 and values[19] == pytest.approx(np.percentile(0.01 * np.arange(20), 95))
    for wrong in ({"t_b": 0}, {"warm_up": 0}, {"repair": "maybe"}, {"early": 2}, {"margin": 0}):
        with pytest.raises(ConfigError):
            Bounded(**wrong)


@pytest.mark.parametrize(("n", "d", "loss"), [(2, 5, None), (3, 40_000, Iid(0.2)), (4, 1000, Iid(0.05))])
def test_broadcast_gives_everybody_all_of_it(tmp_path, n, d, loss):
    def work(group):
        found = []
        for root in range(n):
            x = vectors(n, d, root)[group.rank].copy()
            group.broadcast(x, root=root)
            found.append((x == vectors(n, d, root)[root]).all())
        return all(found)

    assert all(together(tmp_path, n, work, bounded=Bounded(t_b=0.2), loss=loss))


def test_replicas_that_drifted_agree_again(tmp_path):
    torch = pytest.importorskip("torch")
    from euston.collectives.runtime.ddp import synchronise_parameters

    def work(group):
        model = torch.nn.Linear(30, 20)
        with torch.no_grad():
            for p in model.parameters():
                p.fill_(1.0 + 0.1 * group.rank)
        drift = synchronise_parameters(group, model)
        return drift, [float(p.detach().max()) for p in model.parameters()]

    results = together(tmp_path, 3, work, bounded=Bounded(t_b=0.2), loss=Iid(0.1))
    for rank, (drift, values) in enumerate(results):
        assert drift == pytest.approx(0.1 * rank, abs=1e-5) and values == [1.0, 1.0]


def test_the_ring_over_tcp_is_the_mean(tmp_path):
    from euston.collectives.runtime.tcp_ring import TcpRing

    n, d, results = 3, 50_001, [None] * 3

    def one(rank):
        with TcpRing(rank, n, FolderStore(tmp_path)) as ring:
            x = vectors(n, d)[rank].copy()
            ring.all_reduce(x)
            results[rank] = x

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    want = vectors(n, d).mean(axis=0)
    assert all(np.abs(x - want).max() < 1e-6 for x in results)
    assert all((x == results[0]).all() for x in results)
