"""Arrays and numbers that only some transports need, and what only they leave behind."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from euston.network.flows import Flows
from euston.network.packet import _layout as y
from euston.network.packet._path_table import PathTable
from euston.network.transport.base import Control, Lowered, Recovery

__all__ = ["MOST_REPORTS", "closings", "extra_words", "missing", "receives", "reports"]

MOST_REPORTS = 5
"""Links that can report in one packet: what HPCC's header has room for."""
CLOSED = {0: None, 1: "all", 2: "fraction", 3: "deadline", 4: "silence"}
"""`F_CLOSED` in words."""


def receives(lowered: Lowered) -> int:
    """What receivers do beside acknowledging: bits of `R_...`."""
    what = 0
    if lowered.control == Control.DCQCN:
        what |= int(y.R_NOTIFY)
    if lowered.control == Control.NDP:
        what |= int(y.R_PULL)
    if lowered.recovery == Recovery.GO_BACK_N:
        what |= int(y.R_IN_ORDER)
    if lowered.recovery == Recovery.NONE:
        what |= int(y.R_LOSSY)
    return what


def reports(lowered: Lowered) -> int:
    """Links that report in a packet."""
    return MOST_REPORTS if lowered.control == Control.HPCC else 0


def extra_words(
    flows: Flows,
    table: PathTable,
    capacity: NDArray[np.float64],
    mtu: int,
    packets: NDArray[np.int64],
    lowered: Lowered,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """``State.extra`` and the column `N_EXTRA` that points into it."""
    n = len(flows)
    if lowered.control == Control.LOSSY:
        words = (packets + 63) // 64
        ends = np.cumsum(words)
        return np.zeros(int(ends[-1]) if n else 1, np.int64), ends - words
    if lowered.control != Control.NDP:
        return np.zeros(1, np.int64), np.zeros(n, np.int64)
    hosts, which = np.unique(flows.dst, return_inverse=True)
    extra = np.zeros((max(1, hosts.size), int(y.HOST_COLUMNS)), np.int64)
    extra[:, y.HO_FIRST] = extra[:, y.HO_LAST] = -1
    rate = _incoming(table, capacity, which, hosts.size) * lowered.tuning[4]
    extra[: hosts.size, y.HO_GAP] = np.rint(mtu / rate * 1e12)
    return extra.reshape(-1), which.astype(np.int64) * int(y.HOST_COLUMNS)


def _incoming(
    table: PathTable, capacity: NDArray[np.float64], which: NDArray[np.int64], hosts: int
) -> NDArray[np.float64]:
    """Bytes/s that the last links of all paths to a host carry together, float64[hosts]."""
    rows = np.concatenate(
        [np.arange(a, a + b) for a, b in zip(table.forward.tolist(), table.forward_n.tolist(), strict=True)]
        or [np.zeros(0, np.int64)]
    )
    host = np.repeat(which, table.forward_n)
    links = table.links[rows]
    last = links[np.arange(rows.size), (links >= 0).sum(axis=1) - 1]
    pairs = np.unique(np.stack((host, last)), axis=1)
    rate = np.zeros(hosts)
    np.add.at(rate, pairs[0], capacity[pairs[1]])
    return rate


def closings(flow: NDArray[np.int64]) -> pl.DataFrame:
    """When receivers of bounded loss closed (s), why, and with how many packets: a line per flow."""
    at, why = flow[:, y.F_CLOSED_AT], flow[:, y.F_CLOSED]
    return pl.DataFrame(
        {
            "closed_at": [t / 1e12 if w else None for t, w in zip(at.tolist(), why.tolist(), strict=True)],
            "closed_by": [CLOSED[w] for w in why.tolist()],
            "packets": flow[:, y.N_PACKETS],
            "received_packets": flow[:, y.F_GOT],
        },
        schema={
            "closed_at": pl.Float64, "closed_by": pl.String, "packets": pl.Int64, "received_packets": pl.Int64
        },
    )  # fmt: skip


def missing(flow: NDArray[np.int64], extra: NDArray[np.int64], payload: int, flows: Flows) -> pl.DataFrame:
    """Byte ranges that closed messages lack: flow, first byte, bytes; in order."""
    owner, first, size = [], [], []
    for f in np.flatnonzero((flow[:, y.F_CLOSED] > 0) & (flow[:, y.F_GOT] < flow[:, y.N_PACKETS])).tolist():
        packets, start = int(flow[f, y.N_PACKETS]), int(flow[f, y.N_EXTRA])
        words = extra[start : start + (packets + 63) // 64]
        here = np.unpackbits(words.view(np.uint8), bitorder="little")[:packets]
        edges = np.flatnonzero(np.diff(np.concatenate(([1], here, [1]))))
        begin = edges[0::2] * payload
        end = np.minimum(edges[1::2] * payload, int(flows.bytes[f]))
        owner.append(np.full(begin.size, f))
        first.append(begin)
        size.append(end - begin)
    none = [np.zeros(0, np.int64)]
    columns = {"flow": owner, "first_byte": first, "bytes": size}
    return pl.DataFrame({name: np.concatenate(parts or none) for name, parts in columns.items()})
