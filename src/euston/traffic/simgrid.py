"""The same flows for SimGrid: platform, deployment, flow list and a program that runs them, to check results.

SimGrid shares links by max-min too, but its network model multiplies bandwidths and latencies with factors,
lets a flow load its way back, and weights every flow by the inverse of its latency. `SETTINGS` turns the
factors and the way back off; links are written without latency, so that the rates are plain max-min rates,
and a flow's path latency is the last argument before its predecessors, to be added to its end.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from xml.sax.saxutils import quoteattr

import numpy as np
from numpy.typing import ArrayLike, NDArray

from euston.errors import ConfigError
from euston.fabrics import Fabric, Network
from euston.network.flows import Flows
from euston.traffic import _simgrid_run
from euston.traffic._files import writing
from euston.traffic.io import write_flows

__all__ = ["SETTINGS", "deployment", "platform", "write_simgrid"]

SETTINGS = (
    "network/model:CM02",
    "network/bandwidth-factor:1",
    "network/latency-factor:1",
    "network/weight-S:0",
    "network/crosstraffic:0",
    "network/TCP-gamma:0",
    "network/optim:Lazy",
)
"""Options of SimGrid (``--cfg=``) for plain max-min rates."""

_HEAD = "<?xml version='1.0'?>\n<!DOCTYPE platform SYSTEM \"https://simgrid.org/simgrid.dtd\">\n"


def platform(
    flows: Flows,
    fabric: Fabric,
    *,
    choice: ArrayLike = 0,
    network: Network = "auto",
    paths: NDArray[np.int32] | None = None,
    latencies: bool = False,
) -> str:
    """Hosts, directed links and the one path of every pair in ``flows``, as SimGrid's platform XML.

    Hosts are called ``e0``, ``e1``, ... by endpoint, links by their names in the fabric.

    Parameters
    ----------
    choice : uint64[F]
        Path of each flow, as for `Fabric.route`.
    paths : int32[F, K], optional
        Links of each flow, in place of ``choice``.
    latencies : bool
        Write the links' latencies; SimGrid then no longer shares evenly.

    Raises
    ------
    ConfigError
        When two flows of one pair take different paths: SimGrid knows one route per pair.
    """
    paths = _paths(flows, fabric, choice, network, paths)
    pair = flows.src.astype(np.int64) * fabric.endpoints + flows.dst
    _, first, at = np.unique(pair, return_index=True, return_inverse=True)
    other = (paths != paths[first[at]]).any(axis=1)
    if other.any():
        flow = int(np.argmax(other))
        raise ConfigError(
            f"`paths`: flow {flow} takes another path than flow {first[at[flow]]} between the same "
            "endpoints; SimGrid knows one route per pair"
        )
    return "".join(_platform(flows, fabric, paths, first, latencies))


def _paths(
    flows: Flows, fabric: Fabric, choice: ArrayLike, network: Network, paths: NDArray[np.int32] | None
) -> NDArray[np.int32]:
    flows.check(fabric)
    if paths is None:
        return fabric.route(flows.src, flows.dst, choice, network=network)
    if paths.ndim != 2 or paths.shape[0] != len(flows):
        raise ConfigError(f"`paths`: shape {paths.shape} for {len(flows)} flows")
    return paths


def _platform(
    flows: Flows, fabric: Fabric, paths: NDArray[np.int32], first: NDArray[np.intp], latencies: bool
) -> Iterator[str]:
    yield _HEAD + '<platform version="4.1">\n  <zone id="fabric" routing="Full">\n'
    for e in np.unique(np.concatenate((flows.src, flows.dst))).tolist():
        yield f'    <host id="e{e}" speed="1Gf"/>\n'
    used = np.unique(paths)
    name = {k: quoteattr(fabric.link_name(k)) for k in used[used >= 0].tolist()}
    for k, text in name.items():
        rate, delay = float(fabric.capacity[k]), float(fabric.latency[k]) if latencies else 0.0
        values = f'bandwidth="{rate!r}Bps" latency="{delay!r}s"'
        yield f'    <link id={text} {values} sharing_policy="SHARED"/>\n'
    for flow in first.tolist():
        links = "".join(f"<link_ctn id={name[k]}/>" for k in paths[flow].tolist() if k >= 0)
        ends = f'src="e{flows.src[flow]}" dst="e{flows.dst[flow]}"'
        yield f'    <route {ends} symmetrical="NO">{links}</route>\n'
    yield "  </zone>\n</platform>\n"


def deployment(flows: Flows, latency: NDArray[np.float64], function: str = "flow") -> str:
    """One actor per flow on its source's host, as SimGrid's deployment XML.

    Arguments of an actor: number of the flow, host of its destination, bytes, start in s, delay in s, path
    latency in s (``latency``, float64[F]), and the numbers of the flows that must end first.
    """
    lines = [_HEAD + '<platform version="4.1">\n']
    for f in range(len(flows)):
        arguments = [
            str(f),
            f"e{flows.dst[f]}",
            str(flows.bytes[f]),
            repr(float(flows.start[f])),
            repr(float(flows.delay[f])),
            repr(float(latency[f])),
            *map(str, flows.predecessors(f).tolist()),
        ]
        inner = "".join(f'<argument value="{value}"/>' for value in arguments)
        lines.append(f'  <actor host="e{flows.src[f]}" function={quoteattr(function)}>{inner}</actor>\n')
    return "".join([*lines, "</platform>\n"])


def write_simgrid(
    flows: Flows,
    fabric: Fabric,
    directory: str | Path,
    *,
    choice: ArrayLike = 0,
    network: Network = "auto",
    paths: NDArray[np.int32] | None = None,
    latencies: bool = False,
) -> Path:
    """Write ``platform.xml``, ``deployment.xml``, ``settings.txt``, ``run.py`` and ``flows.csv``.

    They go into ``directory``, which is returned; ``python3 run.py`` there, with SimGrid's Python package,
    prints the completion times. See `platform` for the arguments.
    """
    links = _paths(flows, fabric, choice, network, paths)
    texts = {
        "platform.xml": platform(flows, fabric, paths=links, latencies=latencies),
        "deployment.xml": deployment(flows, fabric.path_latency(links)),
        "settings.txt": "\n".join(SETTINGS) + "\n",
        "run.py": Path(_simgrid_run.__file__).read_text(encoding="utf-8"),
    }
    target = Path(directory)
    for name, text in texts.items():
        with writing(target / name) as file:
            file.write(text.encode())
    write_flows(flows, target / "flows.csv")
    return target
