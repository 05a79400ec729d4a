"""`Site` and `Cluster`: hosts of one kind on one fabric, and sites joined by WAN links."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from euston import units
from euston.errors import ConfigError, unknown

if TYPE_CHECKING:
    from euston.catalog import Accelerator
    from euston.fabrics import Fabric

__all__ = ["Cluster", "Site", "WanLink"]


@dataclass(frozen=True, eq=False)
class Site:
    """One place: equal hosts on one fabric.

    Parameters
    ----------
    name : str
    accelerator : catalog.Accelerator
    hosts, accelerators_per_host : int
        As the fabric has them.
    fabric : Fabric

    Raises
    ------
    ConfigError
        When the fabric was built for other hosts.
    """

    name: str
    accelerator: Accelerator
    hosts: int
    accelerators_per_host: int
    fabric: Fabric = field(repr=False)

    def __post_init__(self) -> None:
        ours = (self.hosts, self.accelerators_per_host)
        theirs = (self.fabric.hosts, self.fabric.accelerators_per_host)
        if ours != theirs:
            raise ConfigError(
                f"`{self.name}`: {ours[0]} hosts of {ours[1]} accelerators, "
                f"but its fabric was built for {theirs[0]} hosts of {theirs[1]}"
            )

    @property
    def accelerators(self) -> int:
        """Accelerators of the site."""
        return self.hosts * self.accelerators_per_host

    def describe(self) -> str:
        """The site and its fabric in a few lines for a person."""
        return f"{self!r}\n{self.fabric.describe()}"

    def __repr__(self) -> str:
        return (
            f"Site({self.name!r}: {self.accelerators:,} x {self.accelerator.name} on {self.hosts:,} hosts, "
            f"fabric {self.fabric.name!r})"
        )


@dataclass(frozen=True)
class WanLink:
    """A directed link between two sites.

    Parameters
    ----------
    src, dst : str
        Names of sites.
    capacity : float
        Bytes/s.
    latency : float
        Seconds one way.
    """

    src: str
    dst: str
    capacity: float
    latency: float

    def __post_init__(self) -> None:
        units.bandwidth(self.capacity, positive=True, where=f"wan.{self.src}.{self.dst}.capacity")
        units.duration(self.latency, where=f"wan.{self.src}.{self.dst}.latency")


@dataclass(frozen=True, eq=False)
class Cluster:
    """Sites, and the WAN links between them.

    Raises
    ------
    ConfigError
        For no site, two sites of one name, or a WAN link to an unknown site.
    """

    sites: tuple[Site, ...]
    wan: tuple[WanLink, ...] = ()

    def __post_init__(self) -> None:
        if not self.sites:
            raise ConfigError("`sites`: a cluster needs one site or more")
        names = [site.name for site in self.sites]
        for i, name in enumerate(names):
            if name in names[:i]:
                raise ConfigError(f"`sites[{i}].name`: {name!r} stands twice")
        for i, link in enumerate(self.wan):
            for end in ("src", "dst"):
                name = getattr(link, end)
                if name not in names:
                    raise ConfigError(f"`wan[{i}].{end}`: {unknown('site', name, names)}")

    @property
    def accelerators(self) -> int:
        """Accelerators of all sites."""
        return sum(site.accelerators for site in self.sites)

    def site(self, name: str) -> Site:
        """The site of that name.

        Raises
        ------
        ConfigError
            For an unknown one, with the nearest.
        """
        for site in self.sites:
            if site.name == name:
                return site
        raise ConfigError(unknown("site", name, [site.name for site in self.sites]))

    def __repr__(self) -> str:
        sites = ", ".join(
            f"{site.name}: {site.accelerators:,} x {site.accelerator.name}" for site in self.sites
        )
        wan = f", {len(self.wan)} WAN links" if self.wan else ""
        return f"Cluster({self.accelerators:,} accelerators; {sites}{wan})"
