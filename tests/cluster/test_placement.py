"""Placement: a bijection of ranks and endpoints, groups that partition the ranks; oracle: nested loops."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from euston.cluster import Parallel, Placement
from euston.errors import ConfigError

degree = st.sampled_from([1, 2, 3, 4])


@st.composite
def layouts(draw: st.DrawFn) -> Parallel:
    context, data = draw(degree), draw(degree)
    divisors = [e for e in range(1, context * data + 1) if context * data % e == 0]
    return Parallel(
        tensor=draw(degree),
        context=context,
        pipeline=draw(degree),
        data=data,
        expert=draw(st.sampled_from(divisors)),
        order="-".join(draw(st.permutations(["tp", "cp", "ep", "dp", "pp"]))),
    )


KINDS = ("tensor", "context", "pipeline", "data", "expert", "expert_data")


@settings(max_examples=60, deadline=None)
@given(layouts(), st.integers(1, 9), st.integers(0, 5))
def test_placement_is_a_bijection(parallel: Parallel, per_host: int, first: int) -> None:
    placement = Placement(parallel, per_host, first_host=first)
    assert placement.endpoint.tolist() == [first * per_host + r for r in range(parallel.world)]
    hosts = list(range(40, 40 + placement.hosts_needed))[::-1]
    listed = Placement(parallel, per_host, hosts=hosts)
    assert np.unique(listed.endpoint).size == parallel.world
    c = placement.coordinates()
    back = placement.rank_of(c["tensor"], c["context"], c["data"], c["pipeline"])
    assert (back == np.arange(parallel.world)).all()


@settings(max_examples=60, deadline=None)
@given(layouts(), st.sets(st.sampled_from(KINDS), min_size=1, max_size=3))
def test_groups_partition_the_ranks(parallel: Parallel, kinds: set[str]) -> None:
    """Ranks of a group differ in no coordinate but those joined (coordinates are the independent half)."""
    placement = Placement(parallel, 8)
    if kinds & {"expert", "expert_data"} and kinds & {"context", "data"}:
        with pytest.raises(ConfigError, match="cannot be joined"):
            placement.groups(*kinds)
        return
    groups = placement.rank_groups(*kinds)
    assert groups.shape[1] == math.prod(parallel.degree(k) for k in kinds)
    assert sorted(groups.ravel().tolist()) == list(range(parallel.world))
    assert (np.diff(groups, axis=1) > 0).all()
    assert (np.diff(groups[:, 0]) > 0).all()
    c = placement.coordinates()
    if not kinds & {"expert", "expert_data"}:
        for name in {"tensor", "context", "pipeline", "data"} - kinds:
            assert (c[name][groups] == c[name][groups][:, :1]).all()
    for name in {"expert", "expert_data"} - kinds if kinds & {"expert", "expert_data"} else ():
        assert (c[name][groups] == c[name][groups][:, :1]).all()


@pytest.mark.parametrize("order", ["tp-cp-ep-dp-pp", "pp-dp-cp-tp-ep", "dp-tp-pp"])
def test_rank_order_against_nested_loops(order: str) -> None:
    parallel = Parallel(tensor=2, context=1 if "cp" not in order else 2, pipeline=2, data=3, order=order)
    sizes = {"tp": 2, "cp": parallel.context, "dp": 3, "pp": 2}
    fastest_first = [s for s in order.split("-") if s != "ep"]
    ranges = [range(sizes[s]) for s in reversed(fastest_first)]
    placement = Placement(parallel, 4)
    for rank, digits in enumerate(itertools.product(*ranges)):
        at = dict(zip(reversed(fastest_first), digits, strict=True))
        assert placement.rank_of(at["tp"], at.get("cp", 0), at["dp"], at["pp"]) == rank


def test_megatron_groups_by_hand() -> None:
    """The 16-rank example of Megatron-LM's parallel_state documentation: tensor 2, pipeline 4, data 2."""
    placement = Placement(Parallel(tensor=2, pipeline=4, data=2), 8)
    assert placement.groups("tensor").tolist() == [[2 * i, 2 * i + 1] for i in range(8)]
    assert placement.groups("pipeline").tolist() == [[i, i + 4, i + 8, i + 12] for i in range(4)]
    assert placement.groups("data").tolist() == [
        [0, 2], [1, 3], [4, 6], [5, 7], [8, 10], [9, 11], [12, 14], [13, 15],
    ]  # fmt: skip


def test_expert_groups_recut_context_and_data() -> None:
    placement = Placement(Parallel(tensor=2, context=2, data=4, pipeline=2, expert=4), 8)
    assert placement.groups("expert")[0].tolist() == [0, 2, 4, 6]
    assert placement.groups("expert_data")[0].tolist() == [0, 8]
    with pytest.raises(ConfigError, match="does not divide"):
        Placement(Parallel(data=4, expert=3), 8).groups("expert")


def test_131072_ranks() -> None:
    parallel = Parallel(tensor=8, context=4, pipeline=16, data=256)
    placement = Placement(parallel, 8)
    assert placement.groups("data", "context").shape == (128, 1024)
    assert placement.groups("tensor").shape == (16384, 8)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"hosts": [0]}, "`placement.hosts`: 1 hosts, but 16 ranks need 2"),
        ({"hosts": [3, 3]}, "`placement.hosts`: host 3 is named twice"),
        ({"hosts": [0, -1]}, "`placement.hosts`: host -1 does not exist"),
        ({"endpoints": [0, 1]}, "`placement.endpoints`: 2 endpoints, but 16 ranks need 16"),
        ({"first_host": -1}, "`placement.first_host`: -1 is negative; the first host is 0"),
        ({"first_host": 2, "hosts": [0, 1]}, "`placement`: give one of first_host, hosts, endpoints"),
    ],
)
def test_bad_places(kwargs: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Placement(Parallel(data=16), 8, **kwargs)  # type: ignore[arg-type]
    assert str(caught.value) == message


def test_listed_endpoints_unknown_group_and_repr() -> None:
    placement = Placement(Parallel(tensor=2, data=2), 8, endpoints=[5, 9, 1, 3])
    assert placement.groups("tensor").tolist() == [[5, 9], [1, 3]]
    assert placement.groups("data").tolist() == [[5, 1], [9, 3]]
    with pytest.raises(ConfigError, match=r"unknown group 'tensr'; did you mean 'tensor'\?"):
        placement.groups("tensr")
    with pytest.raises(ConfigError, match="coordinates run from 0 to 1"):
        placement.rank_of(tensor=2)
    assert repr(placement) == "Placement(4 ranks on 4 listed endpoints, Parallel(tensor=2, data=2))"
    assert repr(Placement(Parallel(data=16), 8, first_host=3)).startswith(
        "Placement(16 ranks on hosts 3 to 4,"
    )


def test_whole_experts_fill_the_tensor_dimension_first():
    """tp 2, dp 4, ep 4, etp 1: an expert group is two neighbouring tensor groups; replicas are 4 apart."""
    placement = Placement(Parallel(tensor=2, data=4, expert=4, expert_tensor=1), 8)
    assert placement.rank_groups("expert").tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert placement.rank_groups("expert_data").tolist() == [[0, 4], [1, 5], [2, 6], [3, 7]]
