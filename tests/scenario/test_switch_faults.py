"""`faults: [{switch: ...}]` is the same as all of its links one by one; sizes nobody builds are refused."""

from __future__ import annotations

from typing import Any

import pytest

import euston as eu
from euston.errors import BadInput
from euston.fabrics import leaf_spine
from euston.scenario import from_data

FABRIC = {"kind": "leaf_spine", "nic": "100 Gb/s", "hosts_per_leaf": 4, "spines": 2}


def study(faults: list[dict[str, Any]], network: str = "fluid", **site: Any) -> Any:
    return from_data(
        {
            "version": 1,
            "sites": [{"name": "dc", "hosts": 16, "accelerators_per_host": 1, "fabric": FABRIC, **site}],
            "jobs": [
                {"name": "a2a", "kind": "traffic", "flows": {"pattern": "all_to_all", "bytes": "200 kB"}}
            ],
            "policies": {"balancing": "spray"},
            "faults": faults,
            "run": {"network": network},
        }
    )


def links_of(switch: str) -> list[str]:
    fabric = leaf_spine(16, 1, nic="100 Gb/s", hosts_per_leaf=4, spines=2)
    ends = [
        (fabric.node_name(int(a)), fabric.node_name(int(b)))
        for a, b in zip(fabric.link_src, fabric.link_dst, strict=True)
    ]
    return [fabric.link_name(i) for i, pair in enumerate(ends) if switch in pair]


@pytest.mark.parametrize("when", [{}, {"at": "100 us"}, {"at": "50 us", "until": "200 us"}])
def test_a_switch_is_all_its_links(when: dict[str, str]) -> None:
    names = links_of("agg/p0/a0")
    assert len(names) == 8  # four leaves, up and down
    whole = eu.simulate(study([{"switch": "agg/p0/a0", "factor": 0.5, **when}]))
    single = eu.simulate(study([{"link": name, "factor": 0.5, **when} for name in names]))
    healthy = eu.simulate(study([]))
    assert whole.scalars["makespan"] == single.scalars["makespan"]
    assert whole.scalars["makespan"] > healthy.scalars["makespan"]


def test_half_the_spines_take_twice_as_long() -> None:
    """12 of 15 peers are across; 4 hosts share 200 instead of 400 Gb/s: the uplinks are the bottleneck."""
    found = eu.simulate(study([{"switch": "agg/p0/a1", "factor": 0}]))
    bytes_up = 4 * 12 * 200e3
    assert found.scalars["makespan"] > bytes_up / 25e9
    assert found.scalars["makespan"] == pytest.approx(bytes_up / 25e9, rel=0.15)  # headers, latency


@pytest.mark.parametrize("network", ["fluid", "packet"])
def test_a_dead_leaf_cuts_its_hosts_off(network: str) -> None:
    with pytest.raises(eu.errors.EustonError, match="h0/g0"):
        eu.simulate(study([{"switch": "tor/p0/t0", "factor": 0}], network))


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"switch": "agg/p0/a9", "factor": 0}, "unknown switch 'agg/p0/a9'"),
        ({"switch": "agg/p0/a0"}, "a switch needs `factor`"),
        ({"switch": "agg/p0/a0", "link": "nic_up/h0/n0", "factor": 0}, "needs one of"),
        ({"switch": "agg/p0/a0", "speed": 0.5}, "a switch needs `factor`"),
        ({"factor": 0}, "needs one of"),
    ],
)
def test_wrong_faults_are_named(fault: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput) as caught:
        eu.simulate(study([fault]))
    assert "faults[0]" in str(caught.value)
    assert words in str(caught.value)


@pytest.mark.parametrize(("key", "value"), [("hosts", 10**12), ("accelerators_per_host", 10**9)])
def test_sizes_nobody_builds_are_refused(key: str, value: int) -> None:
    with pytest.raises(BadInput, match=rf"`sites\[0\]\.{key}`: {value} is too large"):
        study([], **{key: value})
