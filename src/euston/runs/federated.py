"""Runs of federated jobs: what `simulate` does with a scenario of `kind: federated`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
from pydantic import ValidationError

from euston.assemble import link_index, site_fabric
from euston.errors import BadInput, ConfigError, at
from euston.fabrics import Fabric, wan
from euston.federated.config import FederationConfig, SyncConfig
from euston.federated.layout import Flat
from euston.federated.simulated import Client, Simulated, simulate_federation
from euston.federated.volume import per_step_bytes
from euston.federated.wan import Wan
from euston.network.faults import LinkFault
from euston.result import Result
from euston.runs import Progress
from euston.runs import training as training_runs
from euston.scenario import Scenario
from euston.scenario.federated import FederatedSection, MemberSection
from euston.scenario.jobs import ParallelSection, TrainingSection
from euston.scenario.sites import SiteSection

__all__ = ["Prepared", "prepare", "run"]

WHAT_IF_ROUNDS = 64
"""Rounds simulated for each line of the comparison; its times are stretched to the whole run."""
SHOWN_ROUNDS = 6
"""Rounds in the timeline."""


@dataclass(frozen=True)
class Prepared:
    """What a run needs; nothing in it can be wrong any more."""

    scenario: Scenario
    section: FederatedSection
    config: FederationConfig
    members: tuple[MemberSection, ...]
    net: Fabric
    faults: tuple[LinkFault, ...]
    aggregator: int
    local: tuple[Scenario | None, ...]
    """The training job of each member's client; None where the file gives its steps per second."""


def prepare(s: Scenario) -> Prepared:
    """Build and check everything that a run of ``s`` needs.

    Raises
    ------
    BadInput
        With the place in the scenario.
    """
    if len(s.jobs) > 1:
        raise ConfigError(at("jobs[1]", "a run has one federation; use two files"))
    if s.run.network != "fluid":
        raise ConfigError(at("run.network", f"{s.run.network} moves no federation; use fluid"))
    section = s.jobs[0]
    assert isinstance(section, FederatedSection)
    config = section.config(s, "jobs[0]")
    members = section.members_of(s)
    cables = [(*c.between, c.bandwidth, c.round_trip) for c in section.wan.cables]
    try:
        net = wan(cables, tunnels=section.wan.tunnels)
    except BadInput as error:
        message = str(error).replace("`cables", "`jobs[0].wan.cables", 1)
        raise ConfigError(message) from None
    place = section.aggregator or members[0].site
    local = tuple(_local(s, section, config, i) for i in range(len(members)))
    for job in local:
        if job is not None:
            training_runs.prepare(job)
    return Prepared(s, section, config, members, net, _wan_faults(s, net), _place(net, place), local)


def _place(net: Fabric, name: str) -> int:
    return next(i for i in range(net.endpoints) if net.endpoint_name(i) == name)


def _wan_faults(s: Scenario, net: Fabric) -> tuple[LinkFault, ...]:
    found = []
    for i, fault in enumerate(s.faults):
        if fault.link is not None and fault.link.startswith("wan/"):
            link = link_index(net, fault.link, f"faults[{i}].link")
            until = math.inf if fault.until is None else fault.until
            found.append(LinkFault(link, float(fault.factor or 0.0), fault.at, until))
        elif fault.at > 0 or fault.until is not None:
            raise ConfigError(
                at(f"faults[{i}]", "inside a site only what is slow all the time; leave out `at` and `until`")
            )
    return tuple(found)


def _local(s: Scenario, section: FederatedSection, config: FederationConfig, i: int) -> Scenario | None:
    """One client's training between two exchanges, as a scenario of its own."""
    member = section.members_of(s)[i]
    if member.steps_per_second is not None:
        return None
    where = f"jobs[0].members[{i}]" if section.members else f"sites[{i}]"
    site = s.site(member.site)
    hosts = site.hosts // member.clients
    accelerators = hosts * site.accelerators_per_host
    if accelerators % config.islands:
        raise ConfigError(
            at(where, f"{config.islands} islands do not divide the {accelerators} accelerators of a client")
        )
    each, batch = accelerators // config.islands, config.local.batch
    if config.local.precision != "bf16":
        raise ConfigError(
            at(where, "fp32 steps have no prices; use local.precision: bf16, or give steps_per_second")
        )
    layout = member.parallel or ParallelSection(data=each)
    if layout.world != each:
        message = f"{layout.world} ranks; a client's island has {each} accelerators"
        raise ConfigError(at(f"{where}.parallel", message))
    if batch % (layout.data * member.micro_batch):
        raise ConfigError(
            at(
                f"{where}.parallel" if member.parallel else where,
                f"local.batch {batch} is no multiple of data {layout.data} x micro_batch "
                f"{member.micro_batch}; give `parallel`, or another batch",
            )
        )
    m = config.model
    shape = {
        "name": m.name, "layers": m.layers, "hidden": m.hidden, "heads": m.heads, "kv_heads": m.kv_heads,
        "head_dim": m.head_dim, "ffn": m.ffn, "vocab": m.vocab, "gated": m.gated, "norm": m.norm,
        "positions": m.positions, "biases": m.biases, "tied": m.tied, "qk_norm": m.qk_norm,
        "max_positions": m.max_positions or None,
    }  # fmt: skip
    schedule = {"virtual": 1} if layout.pipeline == 1 else {}
    values = {
        "name": f"{section.name} at {site.name}", "kind": "training", "model": shape,
        "parallel": {**layout.model_dump(), **schedule},
        "batch": {"global": batch, "micro": member.micro_batch, "sequence": config.local.sequence},
        "recompute": member.recompute, "software": member.software,
        "placement": {"site": site.name, "first_host": 0},
    }  # fmt: skip
    try:
        job = TrainingSection.model_validate(values)
    except ValidationError as error:
        problem = error.errors()[0]
        words = f"{problem['loc'][-1]}: {problem['msg']}; give steps_per_second"
        raise ConfigError(at(where, f"has no priced steps for this model: {words}")) from None
    inside = tuple(
        f for f in s.faults
        if s.site(f.site).name == site.name and not (f.link or "").startswith("wan/")
    )  # fmt: skip
    return s.model_copy(update={"sites": (site,), "jobs": (job,), "faults": inside, "campaign": None})


def run(s: Scenario, tell: Progress) -> Result:
    """Simulate the federation of a scenario, and what other topologies and links would make of it.

    Returns
    -------
    Result
        Of kind "federated": tables ``sites``, ``topologies`` (by bandwidth), ``rounds``, ``wan``.
    """
    tell("building sites and the WAN")
    ready = prepare(s)
    steps, notes = _steps(ready, tell)
    clients = _clients(ready, steps)
    net = Wan(ready.net, ready.faults)
    adds = ready.section.additions_per_second or 0.0
    tell(f"{ready.config.total_rounds:,} rounds of {len(clients)} clients")
    done = simulate_federation(
        ready.config, clients, net, ready.aggregator, additions_per_second=adds, tell=tell
    )
    result = _result(ready, clients, done)
    tell("other topologies and links")
    result.tables["topologies"] = _comparison(ready, clients, adds)
    result.meta["assumptions"] = [*notes, *_assumptions(ready)]
    result.tables["assumptions"] = pl.DataFrame(result.meta["assumptions"])
    return result


def _steps(ready: Prepared, tell: Progress) -> tuple[list[float], list[dict[str, str]]]:
    """Seconds of a local step at each member's site, and what they rest on."""
    found, notes, known = [], [], dict[str, tuple[float, list[dict[str, str]]]]()
    for i, (member, job) in enumerate(zip(ready.members, ready.local, strict=True)):
        if job is None:
            assert member.steps_per_second is not None
            found.append(1.0 / member.steps_per_second)
            notes.append(_note(f"jobs[0].members[{i}].steps_per_second", f"{member.steps_per_second:g}",
                               "given, not worked out from the accelerators", "assumed"))  # fmt: skip
            continue
        site = job.sites[0].model_copy(update={"name": "site"})
        section = job.training(0).model_copy(update={"name": "local"})
        placed = section.placement.model_copy(update={"site": "site"})
        key = repr((site, section.model_copy(update={"placement": placed}), job.faults))
        if key not in known:
            tell(f"a local step at {member.site}")
            result = training_runs.run(job, tell)
            known[key] = (result.scalars["step_time"], result.meta["assumptions"])
        seconds, assumed = known[key]
        found.append(seconds)
        notes += [{**note, "where": f"{member.site}: {note['where']}"} for note in assumed]
    return found, notes


def _clients(ready: Prepared, steps: Sequence[float]) -> list[Client]:
    found = []
    for member, seconds in zip(ready.members, steps, strict=True):
        after = _islands(ready, ready.scenario.site(member.site), member)
        for k in range(member.clients):
            name = member.site if member.clients == 1 else f"{member.site}/{k}"
            found.append(Client(name, _place(ready.net, member.site), seconds, after))
    return found


def _islands(ready: Prepared, site: SiteSection, member: MemberSection) -> float:
    """Ring all-reduce of a client's islands over the NICs of one island, in fp32."""
    m = ready.config.islands
    if m == 1:
        return 0.0
    net = site_fabric(site, f"sites[{ready.scenario.sites.index(site)}]")
    nics = net.tier_links().get("NIC up")
    hosts = site.hosts / member.clients / m
    if nics is None or not len(nics) or hosts < 1:
        return 0.0  # within a host: nothing beside the steps
    rate = float(net.capacity[np.asarray(nics)].sum()) / site.hosts * hosts
    return 2 * (m - 1) / m * 4.0 * Flat.of(ready.config.model).size / rate


def _result(ready: Prepared, clients: Sequence[Client], done: Simulated) -> Result:
    config, s = ready.config, ready.scenario
    payload = done.total("up") + done.total("down") + done.total("peers")
    served = sum(len(r.asked) for r in done.rounds)
    scalars = {
        "wall_time": done.wall,
        "utilisation": done.utilisation,
        "compute_time": float(done.busy.max()),
        "round_time": done.wall / len(done.rounds),
        "rounds": float(len(done.rounds)),
        "failed_attempts": float(done.failed),
        "serial_steps": float(config.serial_steps),
        "trained_tokens": float(done.tokens),
        "payload_bytes": payload,
        "initial_bytes": done.total("initial"),
        "wan_bytes": float(done.link_bytes.sum()),
        "traffic_ratio": per_step_bytes(config) * served * config.steps_per_round / payload
        if payload
        else math.inf,
        "slowest_steps_per_second": 1.0 / max(c.step for c in clients),
    }
    units = dict.fromkeys(("wall_time", "compute_time", "round_time"), "s")
    units |= dict.fromkeys(("payload_bytes", "initial_bytes", "wan_bytes"), "B")
    tables = {"sites": _sites(ready, clients, done), "rounds": _rounds(done), "wan": _wan(ready, done)}
    cost = _cost(ready, done.wall)
    if cost is not None:
        scalars["cost"], units["cost"] = cost, "USD"
    meta: dict[str, Any] = {
        "scenario": s.model_dump(mode="json", by_alias=True, exclude_none=True),
        "name": s.name,
        "title": s.title or s.name,
        "seed": config.seed,
        "fidelity": {"compute": s.run.compute, "network": s.run.network},
        "federation": config.values(),
        "parameters": Flat.of(config.model).size,
    }
    units = {name: units.get(name, "1") for name in scalars}
    return Result("federated", scalars, units, tables, _timeline(clients, done), meta)


def _sites(ready: Prepared, clients: Sequence[Client], done: Simulated) -> pl.DataFrame:
    rows, first = [], 0
    for member in ready.members:
        mine = range(first, first + member.clients)
        first += member.clients
        busy = float(done.busy[list(mine)].mean())
        site = ready.scenario.site(member.site)
        rows.append(
            {
                "site": member.site,
                "clients": member.clients,
                "accelerators": site.accelerators,
                "steps_per_second": 1.0 / clients[mine[0]].step,
                "utilisation": busy / done.wall,
                "rounds_missed": sum(
                    k in r.asked and k not in r.participants for r in done.rounds for k in mine
                ),
            }
        )
    return pl.DataFrame(rows)


def _rounds(done: Simulated) -> pl.DataFrame:
    rows = [
        {
            "round": i + 1, "start": r.start, "end": r.end, "attempts": r.attempts,
            "participants": len(r.participants), "bytes_up": r.up, "bytes_down": r.down,
            "bytes_peers": r.peers, "bytes_initial": r.initial,
        }
        for i, r in enumerate(done.rounds)
    ]  # fmt: skip
    return pl.DataFrame(rows)


def _wan(ready: Prepared, done: Simulated) -> pl.DataFrame:
    net = ready.net
    rows = [
        {
            "link": net.link_name(i), "bandwidth": float(net.capacity[i]), "bytes": float(done.link_bytes[i]),
            "mean_utilisation": float(done.link_bytes[i] / net.capacity[i] / done.wall),
        }
        for i in range(net.links)
    ]  # fmt: skip
    return pl.DataFrame(rows)


def _cost(ready: Prepared, wall: float) -> float | None:
    """Rent of the sites' accelerators where every site has a price."""
    rent = 0.0
    for member in ready.members:
        site = ready.scenario.site(member.site)
        if site.price is None:
            return None
        rent += site.price * site.accelerators * wall
    return rent


def _timeline(clients: Sequence[Client], done: Simulated) -> pl.DataFrame:
    rows: list[dict[str, Any]] = []
    for number, r in enumerate(done.rounds[:SHOWN_ROUNDS], start=1):
        for i, k in enumerate(r.asked):
            spent = r.steps[i] * clients[k].step + clients[k].after
            train = (r.computed[i] - spent, r.computed[i])
            phases = (
                ("net", "receive", "receive", r.start, r.received[i]),
                ("train", f"round {number}", "compute", *train),
                ("net", "send", "send", r.computed[i], r.arrived[i]),
            )
            rows += [
                {"actor": clients[k].name, "stream": stream, "name": name, "kind": kind, "start": a, "end": b}
                for stream, name, kind, a, b in phases
                if math.isfinite(b) and b > a
            ]
    columns = {"actor": pl.String, "stream": pl.String, "name": pl.String, "kind": pl.String,
               "start": pl.Float64, "end": pl.Float64}  # fmt: skip
    return pl.DataFrame(rows, columns)


def _comparison(ready: Prepared, clients: Sequence[Client], adds: float) -> pl.DataFrame:
    """Each topology, and data parallelism, on each bandwidth: hours, utilisation, bytes."""
    rows = []
    for bandwidth in ready.section.bandwidths:
        net = replace(ready.net, capacity=np.full(ready.net.links, bandwidth))
        for method, config, total in _methods(ready.config):
            done = simulate_federation(config, clients, Wan(net), ready.aggregator, additions_per_second=adds)
            rows.append({"method": method, "bandwidth": bandwidth, **_stretched(done, total)})
    return pl.DataFrame(rows)


def _methods(config: FederationConfig) -> Iterator[tuple[str, FederationConfig, int]]:
    """Name, a short run of it, and the rounds of the whole."""
    short = min(config.total_rounds, max(WHAT_IF_ROUNDS, 4 * config.sync.fragments))
    for topology, name in (("ps", "parameter server"), ("ar", "all to all"), ("rar", "ring")):
        sync = config.sync if topology == "ps" else replace(config.sync, down_codec="none")
        try:
            arm = config.with_(topology=topology, sync=sync, rounds=short, token_budget=0)
        except ConfigError:
            continue  # differential privacy is for the parameter server
        yield name, arm, config.total_rounds
    steps = min(config.serial_steps, 8)
    every = config.with_(
        topology="rar", sync=SyncConfig(), local={"steps": 1, "inner_state": "stateful"}, rounds=steps,
        token_budget=0, privacy={"clip": 0.0}, islands=1, per_round=0, fault={"deadline": 0.0},
    )  # fmt: skip
    yield "data parallel, every step", every, config.serial_steps


def _stretched(done: Simulated, total: int) -> dict[str, float]:
    """Time, utilisation and bytes of `total` rounds: those simulated, then more like their second half."""
    rounds, more = done.rounds, total - len(done.rounds)
    half = rounds[len(rounds) // 2 :]
    span = rounds[-1].end - half[0].start
    wall = done.wall + more * span / len(half)
    busy = float(done.busy.sum()) * total / len(rounds)
    moved, late = (sum(r.up + r.down + r.peers for r in part) for part in (rounds, half))
    return {
        "wall_time": wall,
        "utilisation": busy / (len(done.clients) * wall),
        "bytes": moved + more * late / len(half),
    }


def _note(where: str, value: str, why: str, kind: str) -> dict[str, str]:
    return {"where": where, "value": value, "why": why, "source": "", "kind": kind}


def _assumptions(ready: Prepared) -> Iterator[dict[str, str]]:
    section, config = ready.section, ready.config
    if section.aggregator is None:
        where = ready.members[0].site
        yield _note("jobs[0].aggregator", where, "not given: the first member's site", "default")
    if section.additions_per_second is None and config.topology == "ps":
        yield _note("jobs[0].additions_per_second", "0", "folding updates takes no time", "default")
    yield _note("jobs[0].wan.cables", "payload", "bandwidth is what payload gets: headers, encoding and "
                "control messages are left out", "default")  # fmt: skip
