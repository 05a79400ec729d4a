"""Export to SimGrid.

Oracle: Python's XML parser reads back links, routes and actors, compared with the fabric's paths. (SimGrid
3.32 itself, on such an export under `SETTINGS`, gave the ends of a plain progressive filling to 2e-15.)
"""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from euston.errors import ConfigError
from euston.fabrics import fat_tree
from euston.network import Flows
from euston.traffic import read_flows, write_simgrid
from euston.traffic.simgrid import SETTINGS, platform


def test_the_export_says_what_the_fabric_does(tmp_path: Path) -> None:
    fabric = fat_tree(4, nic="100 Gb/s")
    flows = Flows.of(
        [0, 3, 0, 5], [9, 12, 9, 4], [10, 20, 30, 40], after=[[], [0], [], [0, 2]], delay=[0, 1, 0, 0]
    )
    choice = np.array([1, 2, 1, 0], np.uint64)
    paths = fabric.route(flows.src, flows.dst, choice)
    assert write_simgrid(flows, fabric, tmp_path, choice=choice) == tmp_path
    zone = ElementTree.parse(tmp_path / "platform.xml").getroot()[0]
    assert {h.get("id") for h in zone.findall("host")} == {"e0", "e3", "e4", "e5", "e9", "e12"}
    links = {link.get("id"): link for link in zone.findall("link")}
    used = {fabric.link_name(int(k)) for k in paths[paths >= 0]}
    assert set(links) == used
    assert {link.get("bandwidth") for link in links.values()} == {"12500000000.0Bps"}
    assert {link.get("latency") for link in links.values()} == {"0.0s"}
    routes = {(r.get("src"), r.get("dst")): [c.get("id") for c in r] for r in zone.findall("route")}
    assert len(routes) == 3
    for f in range(4):
        names = [fabric.link_name(int(k)) for k in paths[f] if k >= 0]
        assert routes[f"e{flows.src[f]}", f"e{flows.dst[f]}"] == names
    actors = ElementTree.parse(tmp_path / "deployment.xml").getroot().findall("actor")
    arguments = [[a.get("value") for a in actor] for actor in actors]
    assert [actor.get("host") for actor in actors] == ["e0", "e3", "e0", "e5"]
    assert [a[:3] for a in arguments] == [
        ["0", "e9", "10"],
        ["1", "e12", "20"],
        ["2", "e9", "30"],
        ["3", "e4", "40"],
    ]
    assert [a[6:] for a in arguments] == [[], ["0"], [], ["0", "2"]]
    assert arguments[1][4] == "1.0"
    assert [float(a[5] or "nan") for a in arguments] == pytest.approx(fabric.path_latency(paths).tolist())
    assert (read_flows(tmp_path / "flows.csv").bytes == flows.bytes).all()
    assert all(":" in option for option in SETTINGS)


def test_latencies_on_request() -> None:
    fabric = fat_tree(4, nic="100 Gb/s")
    text = platform(Flows.of([0], [9], [10]), fabric, latencies=True)
    assert f'latency="{float(fabric.latency[0])!r}s"' in text


def test_two_paths_of_one_pair_cannot_be_said() -> None:
    fabric = fat_tree(4, nic="100 Gb/s")
    flows = Flows.of([0, 0], [9, 9], [10, 20])
    with pytest.raises(ConfigError, match="flow 1 takes another path than flow 0"):
        platform(flows, fabric, choice=np.array([0, 1], np.uint64))
    with pytest.raises(ConfigError, match="`paths`"):
        platform(flows, fabric, paths=np.zeros((1, 4), np.int32))
    with pytest.raises(ConfigError, match="endpoint 16"):
        platform(Flows.of([0], [16], [10]), fabric)
