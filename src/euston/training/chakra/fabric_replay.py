"""Replay of traces on a fabric: what ranks compute takes its recorded time, what they exchange is simulated.

Every collective is a coupled transfer over the rings (all-to-alls: the pairs) of its group, a send a transfer
from rank to rank; all share the fabric on the fluid engine. Ranks sit on the accelerators in order.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from euston.catalog import Accelerator
from euston.clock import Execution, Kind, Program, TransferTable, execute
from euston.cluster import Site
from euston.collectives import ring_bytes, ring_steps
from euston.collectives.edges import Edges, channel_rings, domains, pairs
from euston.collectives.network_rates import P2P_LATENCY, SCALE_OUT_EFFICIENCY, SCALE_OUT_STEP_LATENCY
from euston.devices.interconnect import RING_EFFICIENCY, scale_up_collective
from euston.errors import TraceError
from euston.fabrics import LinkKind
from euston.network import Lowered, Transfers, lower
from euston.network.balancing import Balancing
from euston.training.chakra.model import CollectiveType, Node, NodeType, Trace
from euston.training.chakra.replay import Meetings, meetings

__all__ = ["replay_on"]

_RINGS = {
    CollectiveType.ALL_REDUCE: "all_reduce",
    CollectiveType.ALL_GATHER: "all_gather",
    CollectiveType.REDUCE_SCATTER: "reduce_scatter",
    CollectiveType.REDUCE_SCATTER_BLOCK: "reduce_scatter",
}
_ROOTED = (
    CollectiveType.REDUCE,
    CollectiveType.GATHER,
    CollectiveType.SCATTER,
    CollectiveType.BROADCAST,
)
"""Pipelined along the group: every rank passes the buffer on once."""

MOST_IN_ALL_TO_ALL = 2048

_Route = tuple[str, tuple[int, ...]]


def replay_on(
    traces: Sequence[Trace],
    groups: dict[str, list[int]],
    site: Site,
    balancing: Balancing,
    endpoints: NDArray[np.int64] | None = None,
) -> tuple[Execution, float]:
    """Replay traces of one step on a site.

    Parameters
    ----------
    groups : dict
        Ranks of every process group; a collective without one is of the ranks that call it.
    endpoints : int64[ranks], optional
        Where every rank sits; accelerator after accelerator unless given.

    Returns
    -------
    run : Execution
    recorded : float
        Seconds of the replay with the recorded times instead.

    Raises
    ------
    TraceError
        More ranks than accelerators, ranks that wait for each other.
    """
    from euston.training.chakra.replay import replay

    recorded = replay(list(traces), groups).makespan
    met = meetings(traces, groups)
    where = np.arange(site.accelerators) if endpoints is None else endpoints
    for lead, ranks in met.ranks.items():
        if min(ranks) < 0 or len(set(ranks)) < len(ranks):
            t = int(np.searchsorted(met.first, lead, side="right")) - 1
            node = traces[t].nodes[lead - int(met.first[t])]
            raise TraceError(
                f"rank {traces[t].rank}: node {node.id} ({node.name[:60]}) does not say between which "
                "ranks it moves its bytes, each once"
            )
    highest = max((max(one) for one in met.ranks.values()), default=-1)
    if highest >= where.size:
        raise TraceError(f"rank {highest} has no accelerator; site {site.name!r} has {where.size}")
    return _Writer(traces, met, site, balancing, where).run(), recorded


class _Writer:
    def __init__(
        self,
        traces: Sequence[Trace],
        met: Meetings,
        site: Site,
        balancing: Balancing,
        where: NDArray[np.int64],
    ) -> None:
        self.traces, self.met, self.site, self.balancing = traces, met, site, balancing
        self.where = where
        self.routes: dict[_Route, int] = {}
        self.rows: dict[tuple[int, float, float, float], int] = {}

    def run(self) -> Execution:
        first, of = self.met.first, self.met.event
        nodes = [node for trace in self.traces for node in trace.nodes]
        leads = np.flatnonzero(of == np.arange(of.size))
        number = np.full(of.size, -1, np.int64)
        number[leads] = np.arange(leads.size)
        kind = np.full(leads.size, Kind.WAIT, np.uint8)
        work, transfer = np.zeros(leads.size), np.full(leads.size, -1, np.int32)
        for i, lead in enumerate(leads.tolist()):
            node = nodes[lead]
            row = self._row(lead, node)
            if row is not None:
                kind[i], transfer[i], work[i] = Kind.TRANSFER, row[0], row[1]
            elif node.type not in (NodeType.COMM_COLL, NodeType.COMM_SEND) and lead not in self.met.sent:
                work[i] = node.seconds
        deps: list[set[int]] = [set() for _ in range(leads.size)]
        for t, trace in enumerate(self.traces):
            place = {node.id: int(first[t]) + n for n, node in enumerate(trace.nodes)}
            for n, node in enumerate(trace.nodes):
                mine = int(number[of[int(first[t]) + n]])
                deps[mine].update(int(number[of[place[dep]]]) for dep in node.deps)
        for receive, send in self.met.sent.items():
            deps[int(number[receive])].add(int(number[send]))
        program = _program(kind, work, transfer, deps)
        low = self._lowered()
        return execute(program, self._table(low), low.capacity * self._delivered())

    # -- what a node sends -------------------------------------------------------------------------------

    def _row(self, lead: int, node: Node) -> tuple[int, float] | None:
        """(row of the table, uses) of a node's exchange; None where it sends nothing."""
        ranks = self.met.ranks.get(lead, ())
        uses = node.attributes.get("uses", 1.0)
        uses = uses if isinstance(uses, float) and 0 < uses < 1e9 else 1.0
        size = float(node.whole("comm_size"))
        if len(ranks) < 2 or size <= 0:
            return None
        ends = tuple(int(self.where[rank]) for rank in ranks)
        if node.type == NodeType.COMM_SEND:
            return self._numbered(("send", ends), size, np.inf, P2P_LATENCY), 1.0
        number = node.whole("comm_type")
        if number not in list(CollectiveType) or number == CollectiveType.BARRIER:
            return None
        name = _RINGS.get(CollectiveType(number), "")
        wire = node.attributes.get("wire_bytes")
        exact = isinstance(wire, float) and 0 < wire < 2.0**62
        n = len(ends)
        if number == CollectiveType.ALL_TO_ALL and n > MOST_IN_ALL_TO_ALL:
            raise TraceError(f"an all-to-all of {n:,} ranks; at most {MOST_IN_ALL_TO_ALL:,} go pair by pair")
        if number == CollectiveType.ALL_TO_ALL:
            name, sent = "all_to_all", size * (n - 1) / n
        elif number in _ROOTED:
            name, sent = "all_reduce", size
        else:
            sent = ring_bytes(name, n, size)
        sent = float(wire) if exact else sent  # type: ignore[arg-type]
        domain = self.site.fabric.domain[np.array(ends)]
        spans = int(domains(domain[None])[0])
        route = ("pairs" if name == "all_to_all" else "rings", ends)
        if spans == 1:
            assert isinstance(self.site.accelerator, Accelerator)
            names = [name]
            if node.whole("in_turns_with", -1) == CollectiveType.REDUCE_SCATTER:
                names.append("reduce_scatter")
            found = [scale_up_collective(self.site.accelerator, one, n, size / uses) for one in names]
            latency = sum(price.latency for price in found) / len(found)
            rate = len(found) / sum(1.0 / price.wire_rate for price in found)
            return self._numbered(route, sent / uses, rate, latency), uses
        steps = 1 if name == "all_to_all" else ring_steps(name, spans)
        return self._numbered(route, sent / uses, np.inf, steps * SCALE_OUT_STEP_LATENCY), uses

    def _numbered(self, route: _Route, size: float, rate: float, latency: float) -> int:
        at = self.routes.setdefault(route, len(self.routes))
        return self.rows.setdefault((at, size, rate, latency), len(self.rows))

    # -- the network -------------------------------------------------------------------------------------

    def _lowered(self) -> Lowered:
        parts, self.share = [], np.ones(max(len(self.routes), 1))
        for (kind, ends), at in self.routes.items():
            group = np.array(ends, np.int32)
            if kind == "send":
                edges = Edges(group[None, :1], group[None, 1:], 1.0)
            elif kind == "pairs":
                edges = pairs(group[None])
            else:
                src, dst, count = channel_rings(group, self.site.fabric.domain[group])
                edges = Edges(src[None], dst[None], 1.0 / count)
            self.share[at] = edges.share
            parts.append(Transfers.uniform(edges.src, edges.dst, 1.0, kind=kind))
        if not parts:  # nothing is sent: a transfer that no operation names
            parts.append(Transfers.uniform([[int(self.where[0])]], [[int(self.where[0])]], 0.0, kind="none"))
        return lower(Transfers.concatenate(parts), self.site.fabric, self.balancing)

    def _delivered(self) -> NDArray[np.float64]:
        """Share of a row's capacity that a collective library gets out of it."""
        nic = np.isin(self._kinds(), (LinkKind.NIC_UP, LinkKind.NIC_DOWN))
        return np.where(nic, SCALE_OUT_EFFICIENCY, 1.0)

    def _kinds(self) -> NDArray[np.int64]:
        fabric = self.site.fabric
        return np.concatenate((fabric.kind[fabric.bundle_start[:-1]], fabric.kind))

    def _alone(self, low: Lowered) -> NDArray[np.float64]:
        """Bytes/s that a member of each column reaches when nobody else is there, float64[columns]."""
        columns = low.columns
        inside = np.isin(self._kinds(), (LinkKind.SCALE_UP_OUT, LinkKind.SCALE_UP_IN))
        reached = low.capacity * self._delivered() * np.where(inside, RING_EFFICIENCY, 1.0)
        rate = reached[columns.row] / columns.coefficient
        out = np.full(len(columns), 1e18)
        filled = np.diff(columns.ptr) > 0
        if rate.size:
            out[filled] = np.minimum.reduceat(rate, columns.ptr[:-1][filled])
        return out

    def _table(self, low: Lowered) -> TransferTable:
        rows = list(self.rows) or [(0, 0.0, np.inf, 0.0)]
        route = np.array([row[0] for row in rows])
        share = self.share[route]
        column = low.column[route].astype(np.int32)
        rate = np.array([row[2] for row in rows]) * share
        return TransferTable(
            ptr=np.arange(len(rows) + 1),
            column=column,
            size=np.array([row[1] for row in rows]) * share,
            weight=np.ones(len(rows)),
            rate_cap=np.where(np.isfinite(rate), rate, self._alone(low)[column]),
            latency=np.array([row[3] for row in rows]),
            slow_share=np.zeros(len(rows)),
            columns=low.binding,
        )


def _program(
    kind: NDArray[np.uint8], work: NDArray[np.float64], transfer: NDArray[np.int32], deps: list[set[int]]
) -> Program:
    n = kind.size
    nowhere = np.full(n, -1, np.int32)
    ptr = np.concatenate(([0], np.cumsum([len(one) for one in deps])))
    return Program(
        kind=kind,
        stream=nowhere,
        work=work,
        transfer=transfer,
        dep_ptr=ptr.astype(np.int64),
        dep=np.array([dep for one in deps for dep in sorted(one)], np.int32),
        label=np.zeros(n, np.int32),
        micro_batch=nowhere,
        chunk=nowhere,
        slows=nowhere,
        slow_count=np.zeros(n, np.int32),
        notify=np.zeros(n, np.bool_),
        labels=("node",),
        streams=(),
        stream_count=np.zeros(0, np.int64),
    )
