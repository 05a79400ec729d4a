"""The counted all-to-all against every pair lowered one by one, and against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from euston.collectives import all_to_all
from euston.errors import ConfigError, FabricError
from euston.fabrics import clos, torus
from euston.network import Transfer, Transfers, lower
from euston.network.balancing.spray import Spray

FABRICS = [
    clos(16, 1, nic=1e9, hosts_per_tor=4, aggs_per_pod=2),
    clos(32, 1, nic=1e9, hosts_per_tor=4, tors_per_pod=2, aggs_per_pod=2, cores_per_agg=2),
    clos(16, 4, nic=1e9, hosts_per_tor=4, tors_per_pod=2, aggs_per_pod=2, cores_per_agg=2, scale_up=1e10),
    clos(16, 4, nic=1e9, attach="rail", hosts_per_tor=4, tors_per_pod=8, aggs_per_pod=2, cores_per_agg=2,
         scale_up=1e10),
    clos(16, 4, nic=1e9, hosts_per_tor=2, tors_per_pod=4, aggs_per_pod=2, cores_per_agg=2, scale_up=1e10,
         hosts_per_domain=4, oversubscription=(2, 4)),
]  # fmt: skip


def pair_by_pair(fabric, ranks):
    src, dst = np.meshgrid(ranks, ranks, indexing="ij")
    apart = src != dst
    columns = lower(Transfers.of([Transfer(src[apart], dst[apart], 1.0)]), fabric, Spray()).columns
    load = np.zeros(fabric.rows)
    load[columns.row] = columns.coefficient
    return load


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(range(len(FABRICS))), st.data())
def test_counts_what_enumeration_finds(which, data):
    fabric = FABRICS[which]
    ranks = np.array(
        data.draw(st.lists(st.integers(0, fabric.endpoints - 1), min_size=2, max_size=40, unique=True))
    )
    counted = all_to_all(fabric, ranks, 1.0)
    load = np.zeros(fabric.rows)
    load[counted.columns.row] = counted.columns.coefficient
    np.testing.assert_allclose(load, pair_by_pair(fabric, ranks), rtol=1e-12)
    assert counted.pairs == ranks.size * (ranks.size - 1)


def test_full_bisection_is_bound_by_the_nic():
    """n - 1 pairs leave every NIC of a fabric without oversubscription (closed form)."""
    fabric = FABRICS[1]
    found = all_to_all(fabric, np.arange(32), 1000.0)
    assert found.seconds(fabric.row_capacity()) == pytest.approx(31 * 1000 / 1e9)


def test_an_oversubscribed_pod_is_bound_by_its_uplinks():
    """4:1 between pods of 32 of 64: 32 * 32 pairs on a quarter of 32 NICs' rate (closed form)."""
    fabric = clos(
        64,
        1,
        nic=1e9,
        hosts_per_tor=8,
        tors_per_pod=4,
        aggs_per_pod=4,
        cores_per_agg=2,
        oversubscription=(1, 4),
    )  # fmt: skip
    found = all_to_all(fabric, np.arange(64), 1000.0)
    assert found.seconds(fabric.row_capacity()) == pytest.approx(32 * 32 * 1000 / (32e9 / 4))


def test_refusals():
    with pytest.raises(ConfigError, match="2 different"):
        all_to_all(FABRICS[0], [3], 1.0)
    with pytest.raises(ConfigError, match="2 different"):
        all_to_all(FABRICS[0], [3, 3], 1.0)
    with pytest.raises(ConfigError, match="bytes_per_pair"):
        all_to_all(FABRICS[0], [3, 4], 0.0)
    with pytest.raises(FabricError, match="Clos"):
        all_to_all(torus((2, 2, 2), link=1e9, nic=1e9), np.arange(8), 1.0)
