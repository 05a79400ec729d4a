"""Export to SimGrid.

Oracles: Python's XML parser reads back links, routes and actors, compared with the fabric's paths; and
SimGrid itself (Debian's python3-simgrid, where there is one) runs the export and must end flows when we do.
"""

from __future__ import annotations

import json
import os
import subprocess
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from euston.errors import ConfigError
from euston.fabrics import fat_tree, leaf_spine
from euston.network import Flows
from euston.network.balancing.ecmp import Ecmp
from euston.traffic import read_flows, write_simgrid
from euston.traffic.fluid import FluidSettings, run_fluid
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


PYTHON = os.environ.get("SIMGRID_PYTHON", "/usr/bin/python3")


@cache
def has_simgrid() -> bool:
    try:
        return not subprocess.run([PYTHON, "-c", "import simgrid"], capture_output=True).returncode
    except OSError:
        return False


@pytest.mark.parametrize("dependent", [False, True])
def test_simgrid_ends_every_flow_when_we_do(tmp_path: Path, dependent: bool) -> None:
    if not has_simgrid():
        pytest.skip(f"{PYTHON} has no simgrid (Debian: python3-simgrid; SIMGRID_PYTHON names another Python)")
    rng = np.random.default_rng(5)
    fabric, policy = leaf_spine(32, 1, nic="100 Gb/s", hosts_per_leaf=8, spines=4), Ecmp()
    src = np.tile(np.arange(32, dtype=np.int32), 4)
    dst = ((src + rng.integers(1, 32, src.size)) % 32).astype(np.int32)
    after = [[] if f < 32 or not dependent else [int(rng.integers(0, f))] for f in range(src.size)]
    start = rng.uniform(0, 1e-4, src.size) if dependent else 0.0
    delay = rng.uniform(0, 1e-5, src.size) if dependent else 0.0
    flows = Flows.of(
        src, dst, rng.integers(10_000, 3_000_001, src.size), start=start, after=after, delay=delay
    )
    settings = FluidSettings(mtu=1, header=0)  # nothing is stored and forwarded
    ours = run_fluid(flows, fabric, policy, settings=settings)
    paths = fabric.route(src, dst, policy.choices(fabric, src, dst, np.zeros(src.size, np.int32)))
    write_simgrid(flows, fabric, tmp_path, paths=paths)
    done = subprocess.run([PYTHON, "run.py"], cwd=tmp_path, capture_output=True, text=True, check=True)
    theirs = np.array(json.loads(done.stdout.splitlines()[-1])["ends"])
    ends = ours.end - fabric.path_latency(paths)
    assert np.abs(theirs / ends - 1).max() < 1e-3
    assert np.unique(ends).size > 32
