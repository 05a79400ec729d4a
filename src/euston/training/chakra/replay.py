"""Replay of traces: every node waits for its dependencies, a collective for all its members.

Times are those recorded; what is found again is who waits for whom. A collective is matched across ranks by
its group and ``comm_tag``, and without a tag by its turn in the group; a send and its receive likewise. A
send does not wait for its receive, which ends when it is due and the bytes are there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from euston.errors import TraceError
from euston.training.chakra.model import CollectiveType, Node, NodeType, Trace

__all__ = ["Meetings", "Replay", "TraceSet", "meetings", "replay"]

TraceSet = list[Trace]
Meeting = tuple[str | int, ...]


@dataclass(frozen=True)
class Replay:
    """A replay.

    Attributes
    ----------
    makespan : float
        Seconds until the last node ended.
    start, end : list of float64[nodes]
        By trace, in the order of its nodes.
    table : polars.DataFrame
        Per rank: nodes, seconds of compute, of communication, and how long it waited in all.
    collectives : polars.DataFrame
        Per collective and group size: how many, and bytes on the wire per rank.
    alone : int
        Collectives and sends some of whose members have no trace here.
    """

    makespan: float
    start: tuple[NDArray[np.float64], ...]
    end: tuple[NDArray[np.float64], ...]
    table: pl.DataFrame
    collectives: pl.DataFrame
    alone: int


def replay(traces: TraceSet, groups: dict[str, list[int]] | None = None) -> Replay:
    """Replay traces of the same step.

    Raises
    ------
    TraceError
        Nodes of several ranks that wait for each other in a cycle, or a member that calls another collective.
    """
    met = meetings(traces, groups or {})
    first = met.first
    seconds = np.array([node.seconds for trace in traces for node in trace.nodes])
    start, end = _longest(traces, met, seconds)
    cut = [slice(int(first[t]), int(first[t + 1])) for t in range(len(traces))]
    return Replay(
        float(end.max(initial=0.0)),
        tuple(start[one] for one in cut),
        tuple(end[one] for one in cut),
        _per_rank(traces, seconds, first),
        _collectives(traces, groups or {}),
        met.alone,
    )


@dataclass(frozen=True)
class Meetings:
    """Which nodes of different ranks are one event.

    Attributes
    ----------
    first : int64[traces + 1]
        Number of each trace's first node.
    event : int64[nodes]
        The first node of the collective that each is part of; its own number where it meets nobody.
    sent : dict
        Of receives: their send.
    ranks : dict
        Of the first node of every exchange: the ranks of its group, or source and target.
    alone : int
        Exchanges of which some members have no trace.
    """

    first: NDArray[np.int64]
    event: NDArray[np.int64]
    sent: dict[int, int]
    ranks: dict[int, tuple[int, ...]]
    alone: int


def meetings(traces: Sequence[Trace], groups: dict[str, list[int]]) -> Meetings:
    """Match collectives of a group, and sends with their receives.

    Raises
    ------
    TraceError
        When members of a group call different collectives at once.
    """
    first = np.cumsum([0] + [len(trace.nodes) for trace in traces])
    event = np.arange(int(first[-1]))
    met: dict[Meeting, int] = {}
    callers: dict[int, list[int]] = {}
    named: dict[int, tuple[int, ...]] = {}
    received: dict[Meeting, int] = {}
    turns: Counter[Meeting] = Counter()
    for t, trace in enumerate(traces):
        for n, node in enumerate(trace.nodes):
            key = _meeting(trace.rank, node, turns)
            if key is None:
                continue
            at = int(first[t]) + n
            if node.type == NodeType.COMM_RECV:
                received[key] = at
                continue
            lead = met.setdefault(key, at)
            event[at] = lead
            callers.setdefault(lead, []).append(trace.rank)
            if node.type == NodeType.COMM_SEND:
                named[lead] = (int(key[1]), int(key[2]))
                continue
            named[lead] = tuple(groups.get(str(node.attributes.get("pg_name", "")), ()))
            if _kind(traces, first, lead) != node.whole("comm_type"):
                raise TraceError(
                    f"rank {trace.rank}: node {node.id} ({node.name[:60]}) meets another kind of collective "
                    "in its group"
                )
    sent = {at: met[key] for key, at in received.items() if key in met}
    alone = len(received) - len(sent) + sum(key[0] == "pair" and key not in received for key in met)
    alone += sum(len(callers[one]) < len(named[one]) for key, one in met.items() if key[0] == "group")
    ranks = {lead: named[lead] or tuple(callers[lead]) for lead in callers}
    return Meetings(first, event, sent, ranks, alone)


def _meeting(rank: int, node: Node, turns: Counter[Meeting]) -> Meeting | None:
    """What the nodes that meet have in common; None for a node that meets nobody."""
    if node.type == NodeType.COMM_COLL:
        key: Meeting = ("group", str(node.attributes.get("pg_name", "")))
    elif node.type in (NodeType.COMM_SEND, NodeType.COMM_RECV):
        sends = node.type == NodeType.COMM_SEND
        key = (
            "pair",
            node.whole("comm_src", rank if sends else -1),
            node.whole("comm_dst", -1 if sends else rank),
        )
    else:
        return None
    tag = str(node.attributes.get("comm_tag", ""))
    turn = (*key, tag, rank, node.type)
    turns[turn] += 1
    return (*key, tag, turns[turn])


def _kind(traces: Sequence[Trace], first: NDArray[np.int64], at: int) -> int:
    t = int(np.searchsorted(first, at, side="right")) - 1
    return traces[t].nodes[at - int(first[t])].whole("comm_type")


def _longest(
    traces: TraceSet, met: Meetings, seconds: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Start and end of every node: a collective starts when everybody in it is ready."""
    first, event = met.first, met.event
    total = event.size
    after: list[list[int]] = [[] for _ in range(total)]
    left = [0] * total
    lasts = np.zeros(total)
    np.maximum.at(lasts, event, seconds)
    lasts[list(met.sent)] = 0.0  # the bytes' way is the send's time
    of = event.tolist()
    for t, trace in enumerate(traces):
        place = {node.id: int(first[t]) + n for n, node in enumerate(trace.nodes)}
        for n, node in enumerate(trace.nodes):
            mine = of[int(first[t]) + n]
            for dep in dict.fromkeys(node.deps):
                source = of[place[dep]]
                after[source].append(mine)
                left[mine] += 1
    for receive, send in met.sent.items():
        after[send].append(receive)
        left[receive] += 1
    begin, finish = [0.0] * total, [0.0] * total
    leads = [i for i in range(total) if of[i] == i]
    ready = [i for i in leads if not left[i]]
    duration = lasts.tolist()
    done = 0
    while ready:
        one = ready.pop()
        done += 1
        finish[one] = begin[one] + duration[one]
        for following in after[one]:
            begin[following] = max(begin[following], finish[one])
            left[following] -= 1
            if not left[following]:
                ready.append(following)
    if done < len(leads):
        stuck = next(i for i in leads if left[i])
        t = int(np.searchsorted(first, stuck, side="right")) - 1
        node = traces[t].nodes[stuck - int(first[t])]
        raise TraceError(
            f"rank {traces[t].rank}: node {node.id} ({node.name[:60]}) never starts: ranks wait "
            "for each other in a cycle"
        )
    return np.array(begin)[event], np.array(finish)[event]


def _per_rank(traces: TraceSet, seconds: NDArray[np.float64], first: NDArray[np.int64]) -> pl.DataFrame:
    rows = []
    for t, trace in enumerate(traces):
        mine = seconds[int(first[t]) : int(first[t + 1])]
        kind = np.array([node.type for node in trace.nodes])
        talk = np.isin(kind, (NodeType.COMM_SEND, NodeType.COMM_RECV, NodeType.COMM_COLL))
        rows.append(
            {
                "rank": trace.rank,
                "nodes": len(trace.nodes),
                "compute": float(mine[~talk].sum()),
                "communication": float(mine[talk].sum()),
            }
        )
    return pl.DataFrame(rows)


def _collectives(traces: TraceSet, groups: dict[str, list[int]]) -> pl.DataFrame:
    found: dict[tuple[str, int], list[float]] = {}
    for trace in traces:
        for node in trace.nodes:
            if node.type != NodeType.COMM_COLL:
                continue
            number = node.whole("comm_type")
            name = CollectiveType(number).name if number in list(CollectiveType) else f"type {number}"
            ranks = len(groups.get(str(node.attributes.get("pg_name", "")), ()))
            row = found.setdefault((name, ranks), [0, 0.0])
            row[0] += 1
            row[1] += node.whole("comm_size")
    return pl.DataFrame(
        [
            {"collective": name, "ranks": ranks, "nodes": int(count), "bytes": size}
            for (name, ranks), (count, size) in sorted(found.items())
        ],
        schema={"collective": pl.String, "ranks": pl.Int64, "nodes": pl.Int64, "bytes": pl.Float64},
    )
