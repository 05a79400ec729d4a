"""Lines of the Ultra Ethernet reference runs as fabrics, flows, policies and slow links."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from euston.errors import BadInput, ConfigError, at, unknown
from euston.fabrics import Fabric, clos
from euston.network import Flows
from euston.network.balancing import BALANCING, Balancing
from euston.network.faults import LinkFault
from euston.studies.table import Layout, Line
from euston.traffic.io import read_flows

__all__ = ["FLOW_FOLDERS", "LAYOUT", "Case", "case"]

LAYOUT = Layout(
    "network_uec_reference.csv",
    (
        "case", "flows_file", "topology", "tiers", "pod_hosts", "tor_down", "tor_up", "agg_down",
        "hop_latency_ns", "link_gbps", "paths", "balancing", "fct_max_us",
    ),
    (
        "flows", "message_bytes", "agg_up", "core_down", "failed_links", "seeds", "fct_min_us", "fct_p50_us",
        "fct_p99_us", "fct_max_us_lowest", "fct_max_us_highest", "data_packets", "retransmitted",
        "peer_cpu_s", "source",
    ),
)  # fmt: skip

FLOW_FOLDERS = ("network_uec_flows", "network_sim_htsim_flows", ".")
"""Where `flows_file` is looked for, beside the CSV."""

TOPOLOGIES = {"fat_tree": 3, "leaf_spine": 2}
SCHEMES = ("mixed", "oblivious", "bitmap", "reps", "ecmp")
FAILED_SHARE = 0.25  # FatTreeTopology::_failed_link_ratio of uet-htsim: a "failed" link keeps a quarter


@dataclass(frozen=True)
class Case:
    """One line as objects.

    Attributes
    ----------
    faults : tuple of LinkFault
        Links that are slow from the start.
    note : str
        What was taken otherwise than the line says.
    """

    fabric: Fabric
    flows: Flows
    balancing: Balancing
    faults: tuple[LinkFault, ...]
    note: str = ""


def case(line: Line, folder: Path) -> Case | str:
    """Objects of one line, or why it cannot be run.

    Parameters
    ----------
    folder : Path
        Where the CSV lies.

    Raises
    ------
    ConfigError
        A value or a flow list that cannot be read.
    """
    topology = line.text("topology")
    if topology not in TOPOLOGIES:
        return unknown("topology", topology, TOPOLOGIES)
    tiers = _whole(line, "tiers")
    if tiers != TOPOLOGIES[topology]:
        return f"a {topology} of {tiers} tiers; it has {TOPOLOGIES[topology]}"
    scheme = line.text("balancing")
    if scheme not in SCHEMES:
        return unknown("balancing", scheme, SCHEMES)
    flows = _flows(line, folder)
    built = _fabric(line, topology)
    if isinstance(built, str):
        return built
    fabric, aggs, note = built
    highest = int(max(flows.src.max(), flows.dst.max()))
    if highest >= fabric.endpoints:
        return f"{line.text('flows_file')} names host {highest}; the topology has 0 to {fabric.endpoints - 1}"
    key = "qps" if scheme == "ecmp" else "entropies"
    balancing = BALANCING.get(scheme)(**{key: _whole(line, "paths")})
    failed = _count(line, "failed_links")
    return Case(fabric, flows, balancing, _slow(fabric, topology, aggs, failed), note)


def _whole(line: Line, column: str) -> int:
    value = line.whole(column)
    if value is None:
        raise line.error(column, "is empty; a whole number above 0 is needed")
    return value


def _count(line: Line, column: str) -> int:
    text = line.text(column)
    if not text:
        return 0
    if not text.isdecimal():
        raise line.error(column, f"{text!r} is not a whole number of 0 or more")
    return int(text)


def _flows(line: Line, folder: Path) -> Flows:
    name = line.text("flows_file")
    if not name or Path(name).name != name:
        raise line.error("flows_file", f"{name!r} is not the name of a file; flow lists lie beside the CSV")
    places = [folder / inner / name for inner in FLOW_FOLDERS]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        where = ", ".join(f"{inner}/" for inner in FLOW_FOLDERS[:-1])
        raise line.error("flows_file", f"{name} is neither in {where} nor beside the CSV")
    try:
        return read_flows(path)
    except BadInput as error:
        raise ConfigError(str(error)) from None


def _fabric(line: Line, topology: str) -> tuple[Fabric, int, str] | str:
    """The fabric, its aggs (spines) per pod and a note; or why there is none.

    Counts follow from the switches' ports as in uet-htsim (`FatTreeTopologyCfg::set_custom_params`). Parallel
    cables between two switches become one of their joint capacity.
    """
    hosts, tor_down, tor_up = (_whole(line, c) for c in ("pod_hosts", "tor_down", "tor_up"))
    # a spine's ports stand in core_down: spines are the top tier
    below = "core_down" if topology == "leaf_spine" and not line.text("agg_down") else "agg_down"
    agg_down, rate = _whole(line, below), _whole(line, "link_gbps")
    hop = line.number_in("hop_latency_ns")
    if hop is None:
        raise line.error("hop_latency_ns", "is empty; a number above 0 is needed")
    if hosts % tor_down:
        return f"pods of {hosts} hosts do not divide into ToRs of {tor_down}"
    tors = hosts // tor_down
    aggs, rest = divmod(tors * tor_up, agg_down)
    if rest or not aggs or tor_up % aggs:
        return f"{tors} ToRs with {tor_up} uplinks do not fit aggs with {agg_down} downlinks"
    cables = tor_up // aggs
    pods, cores = 1, 0
    if topology == "fat_tree":
        cores, pods = _whole(line, "agg_up"), _whole(line, "core_down")
    try:
        made = clos(
            pods * hosts,
            1,
            nic=f"{rate} Gb/s",
            hosts_per_tor=tor_down,
            tors_per_pod=tors if pods > 1 else None,
            aggs_per_pod=aggs,
            cores_per_agg=cores if pods > 1 else 0,
            tor_uplink=f"{rate * cables} Gb/s",
            agg_uplink=f"{rate} Gb/s" if pods > 1 else None,
            nic_latency=f"{hop} ns",
            tor_latency=f"{hop} ns",
            agg_latency=f"{hop} ns",
            name=line.text("case"),
        )
    except BadInput as error:
        raise ConfigError(at(f"{line.file}:{line.number}", str(error))) from None
    return made, aggs, f"{cables} parallel cables taken as one" if cables > 1 else ""


def _slow(fabric: Fabric, topology: str, aggs: int, failed: int) -> tuple[LinkFault, ...]:
    """Links at a quarter of their rate for ``-failed N`` of htsim_uec (`FatTreeTopology`).

    Three tiers: the way down of uplink ``l`` of agg ``a`` (counted over all pods) where l + a * aggs per pod
    is below N. Two tiers: the cables of the first N spines, both ways.
    """
    if not failed:
        return ()
    found = []
    for link in range(fabric.links):
        tier, *parts = fabric.link_name(link).split("/")
        if topology == "leaf_spine" and tier in ("tor_up", "tor_down"):
            number = int(parts[2].removeprefix("a"))
        elif topology == "fat_tree" and tier == "agg_down":
            pod, agg, core = (int(part[1:]) for part in parts)
            number = core + (pod * aggs + agg) * aggs
        else:
            continue
        if number < failed:
            found.append(LinkFault(link, FAILED_SHARE))
    return tuple(found)
