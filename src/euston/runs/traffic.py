"""Runs of traffic jobs: what `simulate` and `euston net` do with a scenario of `kind: traffic`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from euston import scenario as scenarios
from euston.assemble import link_faults, link_index, site_fabric
from euston.errors import ConfigError, at
from euston.fabrics import Fabric
from euston.result import Result
from euston.scenario import Scenario

if TYPE_CHECKING:  # imported when traffic runs: other jobs need neither engine of flow lists
    from euston.network import FlowResult
    from euston.network.allocation import AllocationPolicy
    from euston.network.balancing import Balancing
    from euston.network.faults import LinkFault
    from euston.network.transport import Transport
    from euston.scenario.flows import JobTraffic

__all__ = ["PreparedTraffic", "compare_traffic", "prepare", "run", "simulate_traffic", "traffic_result"]

Progress = Callable[[str], None]


@dataclass(frozen=True)
class PreparedTraffic:
    """What a run of traffic jobs needs; nothing in it can be wrong any more.

    Attributes
    ----------
    settings : dict
        Engine settings by network.
    """

    scenario: Scenario
    fabric: Fabric
    flows: JobTraffic
    balancing: Balancing
    transport: Transport
    allocation: AllocationPolicy
    faults: tuple[LinkFault, ...]
    settings: dict[str, Any]

    def run(self, network: str, progress: Callable[[str], None] | None = None) -> FlowResult:
        """The flows on one of the two engines."""
        from euston.traffic.run import run_flows

        s = self.scenario
        return run_flows(
            self.flows.traffic.flows,
            self.fabric,
            network=network,
            balancing=self.balancing,
            transport=self.transport,
            allocation=self.allocation,
            jobs=self.flows.jobs,
            job=self.flows.job,
            faults=self.faults,
            settings=self.settings[network],
            seed=s.run.seed,
            until=math.inf if s.run.until is None else s.run.until,
            progress=progress,
        )


def prepare(s: Scenario) -> PreparedTraffic:
    """Build and check everything that a run of the traffic jobs of ``s`` needs.

    Raises
    ------
    BadInput
        With the place in the scenario.
    """
    from euston.network.balancing.ecmp import Ecmp
    from euston.scenario.flows import traffic_of

    if not s.is_traffic:
        raise ConfigError(at("jobs", "a study of the network has jobs of kind traffic only"))
    if s.run.network not in ("fluid", "packet", "decomposed"):
        raise ConfigError(
            at(
                "run.network",
                f"{s.run.network} moves no traffic in this version; use fluid, packet or decomposed",
            )
        )
    names = {s.site(job.placement.site).name for job in s.jobs}
    if len(names) > 1:
        raise ConfigError(at("jobs", f"traffic on {len(names)} sites in one run; use one site"))
    home = s.site(s.jobs[0].placement.site)
    built = site_fabric(home, f"sites[{s.sites.index(home)}]")
    transport = s.policies.transport.make()
    balancing = s.policies.balancing.make(s.run.seed)
    hashed = s.run.network == "decomposed" or getattr(transport, "in_order", False)
    if "balancing" not in s.policies.model_fields_set and hashed:
        balancing = Ecmp(seed=s.run.seed)
    if hasattr(balancing, "check"):
        balancing.check(built, where="policies.balancing")
    s.policies.allocation.begin(built, [job.name for job in s.jobs], ())
    for i, fault in enumerate(s.faults):
        if fault.host is not None:
            raise ConfigError(at(f"faults[{i}].host", "traffic computes nothing; name a link"))
    packet = s.run.packet.make()
    for i, name in enumerate(s.run.packet.sampled):
        link_index(built, name, f"run.packet.sampled[{i}]")
    return PreparedTraffic(
        s,
        built,
        traffic_of(s, built),
        balancing,
        transport,
        s.policies.allocation.make(),
        link_faults(s, home.name, built),
        {
            "fluid": s.run.fluid.make(transport, s.run.folding),
            "packet": packet,
            "decomposed": s.run.decomposed.make(transport),
        },
    )


def run(s: Scenario, tell: Progress) -> Result:
    """Run the traffic jobs of a scenario on the engine that it names."""
    return simulate_traffic(s, progress=tell)


def simulate_traffic(
    source: Scenario | str | Path,
    *,
    network: str | None = None,
    seed: int | None = None,
    progress: Progress | None = None,
) -> Result:
    """Run the traffic jobs of a scenario.

    Parameters
    ----------
    network : "fluid" | "packet" | "decomposed", optional
        Wins over ``run.network``.
    seed, progress
        See `simulate`.

    Raises
    ------
    EustonError
        See `simulate`.
    """
    tell = progress or (lambda _: None)
    ready = _traffic(source, seed, tell, network)
    chosen = ready.scenario.run.network
    tell(f"running {len(ready.flows.traffic):,} flows, {chosen}")
    return traffic_result(ready, ready.run(chosen, tell))


def compare_traffic(
    source: Scenario | str | Path, *, seed: int | None = None, progress: Progress | None = None
) -> Result:
    """Run the traffic jobs of a scenario on both network engines; see `euston.traffic.compare`.

    Where flows keep to hashed paths both engines take the packet engine's.
    """
    from euston.traffic.compare import compare_networks
    from euston.traffic.packet_paths import on_packet_paths

    tell = progress or (lambda _: None)
    ready = _traffic(source, seed, tell)
    flows = ready.flows.traffic.flows
    paths = on_packet_paths(ready.balancing, flows, ready.scenario.run.seed)
    tell(f"running {len(flows):,} flows, fluid")
    fluid = replace(ready, balancing=paths).run("fluid")
    tell(f"running {len(flows):,} flows, packet")
    packet = ready.run("packet", tell)
    result = compare_networks(fluid, packet, ready.fabric, header=ready.transport.header)
    result.meta |= _traffic_facts(ready)
    return result


def _traffic(
    source: Scenario | str | Path, seed: int | None, tell: Progress, network: str | None = None
) -> PreparedTraffic:
    s = source if isinstance(source, Scenario) else scenarios.load(source)
    changes = {"seed": seed, "network": network}
    given = {key: value for key, value in changes.items() if value is not None}
    s = s.model_copy(update={"run": s.run.model_copy(update=given)})
    tell("building the fabric and its traffic")
    return prepare(s)


SPRAYING = ("spray", "oblivious", "drb", "reps", "bitmap", "mixed")
"""Balancing under which one flow uses all its paths at once."""


def traffic_result(ready: PreparedTraffic, run: FlowResult) -> Result:
    """One run of prepared traffic with its metrics."""
    from euston.traffic.metrics import by_size
    from euston.traffic.summary import flow_result_to_result

    result = flow_result_to_result(
        run,
        ready.fabric,
        traffic=ready.flows.traffic,
        mtu=ready.transport.mtu,
        header=ready.transport.header,
        sprayed=ready.balancing.name in SPRAYING,
        meta=_traffic_facts(ready),
    )
    jobs = ready.flows.jobs
    if len(jobs) > 1:
        names = pl.Series("job", list(jobs)).gather(ready.flows.job)
        table = result.tables["flows"].with_columns(names.alias("job"))
        parts = [
            by_size(table.filter(pl.col("job") == job)).tail(1).with_columns(pl.lit(job).alias("bucket"))
            for job in jobs
        ]
        result.tables |= {"flows": table, "by_job": pl.concat(parts).rename({"bucket": "job"})}
    return result


def _traffic_facts(ready: PreparedTraffic) -> dict[str, Any]:
    s = ready.scenario
    return {
        "scenario": s.model_dump(mode="json", by_alias=True, exclude_none=True),
        "name": s.name,
        "title": s.title or s.name,
        "fabric": ready.fabric.name,
        "site": ready.fabric.describe(),
    }
