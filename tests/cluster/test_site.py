"""Sites and clusters: what they refuse, and what they tell a person."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from euston.cluster import Cluster, Parallel, Site, WanLink, place
from euston.errors import ConfigError, UnitError
from euston.fabrics import leaf_spine


@dataclass
class Chip:
    """Stands in for a catalogue accelerator: a site only shows its name."""

    name: str = "h100-sxm"


def a_site(name: str = "east", hosts: int = 4, of: int = 4) -> Site:
    chip: Any = Chip()
    fabric = leaf_spine(of, 8, nic="400 Gb/s", hosts_per_leaf=2, spines=2)
    return Site(name, chip, hosts, 8, fabric)


def test_site_and_cluster_tell_what_they_are() -> None:
    site = a_site()
    assert repr(site) == "Site('east': 32 x h100-sxm on 4 hosts, fabric 'leaf_spine')"
    assert "ToR up" in site.describe()
    cluster = Cluster((site, a_site("west")), (WanLink("east", "west", 1e10, 0.02),))
    assert repr(cluster) == "Cluster(64 accelerators; east: 32 x h100-sxm, west: 32 x h100-sxm, 1 WAN links)"
    assert cluster.site("west").name == "west"
    with pytest.raises(ConfigError, match=r"unknown site 'wst'; did you mean 'west'\?"):
        cluster.site("wst")


def test_bad_sites_and_clusters() -> None:
    with pytest.raises(ConfigError, match=r"`east`: 5 hosts of 8 .* built for 4 hosts of 8"):
        a_site(hosts=5)
    with pytest.raises(ConfigError, match="one site or more"):
        Cluster(())
    with pytest.raises(ConfigError, match=r"`sites\[1\].name`: 'east' stands twice"):
        Cluster((a_site(), a_site()))
    with pytest.raises(ConfigError, match=r"`wan\[0\].dst`: unknown site 'moon'"):
        Cluster((a_site(),), (WanLink("east", "moon", 1e10, 0.02),))
    with pytest.raises(UnitError):
        WanLink("east", "west", 0.0, 0.02)


def test_place_stays_inside_the_site() -> None:
    site = a_site()
    assert place(Parallel(data=16), site, first_host=2).endpoint[0] == 16
    with pytest.raises(ConfigError) as caught:
        place(Parallel(data=16), site, first_host=3, where="jobs[1].placement")
    assert str(caught.value) == (
        "`jobs[1].placement.first_host`: 16 ranks need hosts 3 to 4, but site 'east' has hosts 0 to 3"
    )
    with pytest.raises(ConfigError, match="host 9 does not exist; site 'east' has hosts 0 to 3"):
        place(Parallel(data=16), site, hosts=[0, 9])
