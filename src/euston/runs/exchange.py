"""Runs of exchange jobs: what `simulate` does with a scenario of `kind: exchange`."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import polars as pl

from euston import __version__
from euston.assemble import site_fabric
from euston.errors import BadInput, ConfigError, at
from euston.fabrics import Fabric
from euston.result import Result
from euston.runs import Progress
from euston.scenario import Scenario
from euston.scenario.exchange import ExchangeSection
from euston.scenario.model import PoliciesSection

if TYPE_CHECKING:  # imported when exchanges run
    from euston.collectives.exchange_runs import ExchangeRuns, ExchangeSettings
    from euston.network.packet import PacketSettings

__all__ = ["PreparedExchange", "prepare", "run"]


@dataclass(frozen=True)
class PreparedExchange:
    """What a run needs; nothing in it can be wrong any more.

    Attributes
    ----------
    members : tuple of int
        Endpoints of the ranks: the first of every host.
    rate : float
        Bytes/s of every rank when all send to all: the fluid engine's, with the fabric's contention.
    """

    scenario: Scenario
    section: ExchangeSection
    fabric: Fabric
    members: tuple[int, ...]
    settings: ExchangeSettings
    network: Literal["fluid", "packet"]
    packet: PacketSettings
    rate: float


def prepare(s: Scenario) -> PreparedExchange:
    """Build and check everything that a run of ``s`` needs.

    Raises
    ------
    BadInput
        With the place in the scenario.
    """
    section = s.jobs[0]
    if len(s.jobs) > 1:
        raise ConfigError(at("jobs[1]", "a run has one exchange; use two files"))
    assert isinstance(section, ExchangeSection)
    network = s.run.network
    if network not in ("fluid", "packet"):
        raise ConfigError(at("run.network", f"{network} moves no exchange; use fluid or packet"))
    if s.faults:
        raise ConfigError(at("faults", "exchanges know none in this version; leave them out"))
    if s.policies != PoliciesSection():
        raise ConfigError(at("policies", "exchanges are datagrams over all paths; leave them out"))
    if s.run.until is not None:
        raise ConfigError(at("run.until", "exchanges have `bounds.t_b` and `repeats`; leave it out"))
    packet = s.run.packet.make()
    if "trimming" not in s.run.packet.model_fields_set:
        packet = replace(packet, trimming=False)
    elif packet.trimming:
        raise ConfigError(at("run.packet.trimming", "nobody asks for trimmed packets here; set false"))
    home = s.site(section.placement.site)
    fabric = site_fabric(home, f"sites[{s.sites.index(home)}]")
    members = tuple(host * home.accelerators_per_host for host in s.hosts_of(0))
    try:
        settings = _settings(section, fabric, members, network)
        rate = _rate(settings, fabric, members)
    except BadInput as error:
        message = str(error)
        raise (error if message.startswith("`jobs") else ConfigError(at("jobs[0]", message))) from None
    return PreparedExchange(s, section, fabric, members, settings, network, packet, rate)


def _settings(
    section: ExchangeSection, fabric: Fabric, members: tuple[int, ...], network: str
) -> ExchangeSettings:
    from euston.collectives.exchange_runs import ExchangeSettings, SwitchSum
    from euston.collectives.tail import Tail
    from euston.compression import CODECS
    from euston.network.transport.switch_aggregation import SwitchPool

    codec = None if section.codec.kind == "none" else section.codec.make()
    payload = section.mtu - 60
    if codec is not None and int(getattr(codec, "packet", 0)) > payload:
        codec = replace(codec, packet=payload)
    d = max(int(section.bytes // 4), 1)
    if codec is not None:
        assert section.codec.kind in CODECS
        largest = int(np.diff(codec.layout(min(d, 1 << 16)).ptr).max())
        if largest > payload:
            where = at("jobs[0].mtu", f"{section.mtu} B; {section.codec.kind} needs {largest + 60} here")
            raise ConfigError(where)
    switch = None
    if section.switch is not None:
        w = section.switch
        source = np.repeat(members[:1], len(members) - 1)
        paths = fabric.route(source, members[1:], np.zeros(source.size, np.uint64), network="auto")
        rtt = float(fabric.path_latency(paths).max()) if w.round_trip is None else w.round_trip
        pool = SwitchPool(w.slots, w.elements, header=int(w.header))
        switch = SwitchSum(pool, w.window, rtt, w.least, w.deadline)
    return ExchangeSettings(
        len(members), d, section.bounds.make(network), codec, section.rule.make(), section.stragglers.make(),
        None if section.loss is None else section.loss.make(),
        None if section.fec is None else section.fec.make(),
        Tail(section.tail), section.compute, Tail(section.compute_tail), section.micro_batches, section.mtu,
        switch,
    )  # fmt: skip


def _rate(settings: ExchangeSettings, fabric: Fabric, members: tuple[int, ...]) -> float:
    """Bytes/s at which a rank receives when every rank sends to every other."""
    from euston.network.flows import Flows
    from euston.traffic.fluid import FluidSettings
    from euston.traffic.run import run_flows

    n, size = len(members), 1 << 30
    pairs = [(members[i], members[(i + k) % n]) for i in range(n) for k in range(1, n)]
    flows = Flows.of([p[0] for p in pairs], [p[1] for p in pairs], [size] * len(pairs))
    done = run_flows(flows, fabric, settings=FluidSettings(mtu=settings.mtu, header=0))
    return (n - 1) * size / float(done.end.max())


def run(s: Scenario, tell: Progress) -> Result:
    """Run the exchanges of a scenario."""
    from euston.collectives.exchange_runs import run_exchanges

    tell("building the fabric")
    ready = prepare(s)
    tell(f"running {ready.section.repeats:,} exchanges, {ready.network}")
    try:
        made = run_exchanges(
            ready.settings, network=ready.network, repeats=ready.section.repeats, rate=ready.rate,
            fabric=ready.fabric, members=ready.members, packet=ready.packet, seed=s.run.seed,
        )  # fmt: skip
    except BadInput as error:
        message = str(error)
        raise (error if message.startswith("`jobs") else ConfigError(at("jobs[0]", message))) from None
    return _result(ready, made)


def _result(ready: PreparedExchange, made: ExchangeRuns) -> Result:
    s, table = ready.scenario, made.table
    seconds = table["seconds"].to_numpy()
    scalars = {
        "completion_p50": float(np.percentile(seconds, 50)),
        "completion_p99": float(np.percentile(seconds, 99)),
        "completion_mean": float(seconds.mean()),
        "transfer_mean": float(table["transfer"].to_numpy().mean()),
        "delivered_share": float(table["delivered"].to_numpy().mean()),
        "results_share": float(table["results"].to_numpy().mean()),
        "nmse": float(table["nmse"].to_numpy().mean()),
        "gradient_bytes": float(table["payload_bytes"].to_numpy().mean()),
        "parity_bytes": float(table["parity_bytes"].to_numpy().mean()),
        "resent_bytes": float(table["resent_bytes"].to_numpy().mean()),
    }
    units = {
        name: "s" if name.startswith(("completion", "transfer")) else "B" if name.endswith("bytes") else "1"
        for name in scalars
    }
    if math.isfinite(made.t_b):
        scalars["t_b"], units["t_b"] = made.t_b, "s"
    tables = {
        "exchanges": table,
        "workers": pl.DataFrame({"worker": range(len(made.inclusion)), "included": made.inclusion}),
    }
    meta: dict[str, Any] = {
        "scenario": s.model_dump(mode="json", by_alias=True, exclude_none=True),
        "name": s.name,
        "title": s.title or s.name,
        "package_version": __version__,
        "seed": s.run.seed,
        "fabric": ready.fabric.name,
        "site": ready.fabric.describe(),
        "assumptions": _assumptions(ready),
    }
    if meta["assumptions"]:
        tables["assumptions"] = pl.DataFrame(meta["assumptions"])
    return Result("exchange", scalars, units, tables, None, meta)


def _assumptions(ready: PreparedExchange) -> list[dict[str, str]]:
    """What the file does not say and the figures rest on."""
    rows = [
        (
            "nmse",
            "gradients of different workers independent, of one length",
            "the worst case for what is missing",
        ),
    ]
    if ready.network == "fluid" and ready.section.switch is None:
        rows.append(
            ("rate", f"{ready.rate * 8e-9:.4g} Gb/s per rank, shards one after the other",
             "every rank sending to every other through this fabric, by the fluid engine")
        )  # fmt: skip
    if ready.section.switch is None and ready.section.bounds.t_b is None:
        rows.append(("bounds.t_b", "measured from exchanges without loss", "as the runtime does"))
    return [
        {"where": where, "value": value, "why": why, "source": "euston", "kind": "assumed"}
        for where, value, why in rows
    ]
