"""Every balancing policy on fabrics that are no Clos: flows arrive whole and keep off dead links."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from euston.errors import ConfigError, RouteError
from euston.fabrics import LinkKind, NodeKind, hyperx, jellyfish
from euston.network.balancing import BALANCING, ChoosesAtStart
from euston.network.balancing.wcmp import Wcmp

NIC = 50e9
GRAPHS = {
    "HyperX": hyperx((3, 4), nic=NIC, link=NIC, hosts_per_switch=2),
    "Jellyfish": jellyfish(10, 4, nic=NIC, hosts_per_switch=2),
}


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(list(GRAPHS)), st.sampled_from(BALANCING.names()), st.integers(0, 2**32 - 1))
def test_what_flows_into_a_switch_leaves_it_and_dead_links_carry_nothing(
    name: str, policy: str, seed: int
) -> None:
    """One unit from source to destination, also along every candidate of a choice at the start."""
    fabric, rng = GRAPHS[name], np.random.default_rng(seed)
    src, dst = rng.integers(0, fabric.endpoints, (2, 20)).astype(np.int32)
    capacity = np.array(fabric.capacity)
    between = np.flatnonzero(fabric.kind >= LinkKind.TOR_UP)
    capacity[rng.choice(between, rng.integers(0, 3))] = 0.0
    alive = None if (capacity > 0).all() else capacity > 0
    made = BALANCING.get(policy)()
    try:
        found = [(src, dst, made.spread(fabric, src, dst, alive=alive, capacity=capacity))]
    except RouteError:
        return
    if isinstance(made, ChoosesAtStart):
        choice = made.candidates(fabric, src, dst, alive=alive, capacity=capacity)
        assert choice is not None
        flow = np.repeat(np.arange(20), np.diff(choice.ptr))
        found.append((src[flow], dst[flow], choice.spread))
    nodes = fabric.node_kind.size
    switch = fabric.node_kind >= NodeKind.TOR
    for s, d, spread in found:
        for f in range(s.size):
            rows = slice(spread.ptr[f], spread.ptr[f + 1])
            share = np.bincount(spread.row[rows], weights=spread.fraction[rows], minlength=fabric.rows)
            load = fabric.link_load(share.astype(np.float64))
            gained = np.bincount(fabric.link_dst, weights=load, minlength=nodes)
            gained -= np.bincount(fabric.link_src, weights=load, minlength=nodes)
            np.testing.assert_allclose(gained[switch], 0.0, atol=1e-9)
            assert load[fabric.kind == LinkKind.NIC_UP].sum() == pytest.approx(float(s[f] != d[f]))
            assert (load[capacity == 0] == 0).all()


def test_weights_of_links_need_paths_that_do_not_turn_back() -> None:
    """A Jellyfish has k shortest paths: together they have loops, which no split by hop follows."""
    fabric = GRAPHS["Jellyfish"]
    src = np.arange(20, dtype=np.int32)
    policy = Wcmp({fabric.link_name(fabric.links - 1): 2.0})
    with pytest.raises(ConfigError, match="turn back; give weights per pair"):
        policy.spread(fabric, src, np.roll(src, 7), alive=None, capacity=np.array(fabric.capacity))
