"""Path tables against networkx' shortest paths, and path choices against what their names say."""

from __future__ import annotations

from itertools import pairwise

import networkx as nx
import numpy as np
import pytest

from euston.fabrics import Fabric, clos
from euston.network.balancing.base import PathChoice, PathMode
from euston.network.flows import Flows
from euston.network.packet import PacketSettings, run_packets
from euston.network.packet._path_table import path_table
from euston.network.transport.windowed import Windowed


def tree() -> Fabric:
    return clos(
        54, 1, nic="100 Gb/s", hosts_per_tor=3, tors_per_pod=3, aggs_per_pod=3, cores_per_agg=3,
    )  # fmt: skip


def graph(on: Fabric) -> nx.DiGraph:
    g = nx.DiGraph()
    g.add_edges_from(zip(on.link_src.tolist(), on.link_dst.tolist(), strict=True))
    return g


def nodes(on: Fabric, row: np.ndarray) -> tuple[int, ...]:
    links = row[row >= 0]
    for a, b in pairwise(links.tolist()):
        assert on.link_dst[a] == on.link_src[b]
    return (int(on.link_src[links[0]]), *on.link_dst[links].tolist())


@pytest.mark.parametrize("entropies", [1, 4, 9, 64])
def test_rows_are_shortest_paths_and_all_of_them_where_values_suffice(entropies: int) -> None:
    on, g = tree(), None
    g = graph(on)
    rng = np.random.default_rng(entropies)
    src = rng.integers(0, 54, 12).astype(np.int32)
    dst = ((src + rng.integers(1, 54, 12)) % 54).astype(np.int32)
    table = path_table(on, src, dst, entropies, seed=3)
    for f in range(12):
        for a, b, first, n in (
            (src[f], dst[f], table.forward[f], table.forward_n[f]),
            (dst[f], src[f], table.back[f], table.back_n[f]),
        ):
            every = {tuple(p) for p in nx.all_shortest_paths(g, int(a), int(b))}
            rows = [nodes(on, table.links[first + k]) for k in range(n)]
            assert set(rows) <= every
            if len(every) <= entropies:
                assert sorted(rows) == sorted(every)
                assert table.hashed[f] == 1 or n == 1
            else:
                assert n == entropies


def test_dead_links_are_in_no_row() -> None:
    on = tree()
    alive = on.mask(["tor_up/p0/t0/a0", "agg_down/p2/a1/c1"])
    src = np.zeros(40, np.int32)
    table = path_table(on, src, np.arange(14, 54, dtype=np.int32), 64, seed=0, alive=alive)
    used = np.unique(table.links[table.links >= 0])
    assert alive[used].all()


def loads(mode: PathMode, entropies: int, packets: int = 900, gap: float = 0.0) -> np.ndarray:
    """Packets of one flow over the three uplinks of its ToR."""
    on = tree()
    result = run_packets(
        Flows.of([0], [50], packets * 4086),
        on,
        transport=Windowed(window=20),
        balancing=PathChoice(mode, entropies, gap),
        settings=PacketSettings(queue="10 MB", ecn=None),
        seed=5,
    )
    assert result.stats["retransmitted"] == 0
    return np.array([result.link_bytes[on.link_index(f"tor_up/p0/t0/a{a}")] for a in range(3)]) / 4150


def test_one_queue_pair_takes_one_path_and_more_take_equal_parts() -> None:
    assert sorted(loads(PathMode.ECMP, 1).round()) == [0, 0, 900]
    several = loads(PathMode.ECMP, 6)
    assert (several.round() % 150 == 0).all()
    assert several.sum() == pytest.approx(900)


def test_rounds_use_every_value_equally_often() -> None:
    """Whatever paths 9 values hash to, 100 rounds use each 100 times."""
    for mode in (PathMode.OBLIVIOUS, PathMode.ROUND_ROBIN, PathMode.BITMAP):
        assert (loads(mode, 8, packets=800).round() % 100 == 0).all()


def test_many_values_spread_evenly() -> None:
    for mode in (PathMode.OBLIVIOUS, PathMode.MIXED, PathMode.REPS, PathMode.ADAPTIVE):
        assert loads(mode, 1024).min() > 900 / 3 * 0.5, mode


def test_a_flowlet_changes_path_only_after_a_gap() -> None:
    assert sorted(loads(PathMode.FLOWLET, 64, gap=1.0).round()) == [0, 0, 900]
    assert loads(PathMode.FLOWLET, 64, gap=0.0).min() > 100


def test_the_shorter_queue_attracts_adaptive_packets() -> None:
    """Two flows from one ToR, one pinned: the adaptive one avoids the uplink that the other fills."""
    on = tree()

    def busiest(mode: PathMode) -> float:
        result = run_packets(
            Flows.of([0, 1, 2], [50, 51, 52], 4_000_000),
            on,
            transport=Windowed(window=60),
            balancing=PathChoice(mode, 64),
            settings=PacketSettings(queue="10 MB", ecn=None),
        )
        queues = result.tables["queues"]
        ups = queues.filter(queues["name"].str.starts_with("tor_up/p0/t0"))
        return float(ups["mean_bytes"].sum())

    assert busiest(PathMode.ADAPTIVE) < 0.6 * busiest(PathMode.OBLIVIOUS)
