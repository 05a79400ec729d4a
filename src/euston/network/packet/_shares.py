"""Weights of flows: what a class of a queue gets of a link follows the flows that are there.

Flows of one queue that differ in weight stand in classes of their own, one per weight. On every link the
quantum of a class is the queue's weight times the class's part of the weights of the queue's running flows
that may use the link; a flow with n paths counts 1/n for each. With one flow per class that is deficit round
robin by weight; with several they share their class as flows of equal weight do.
"""

from __future__ import annotations  # noqa: I001 - the layout's names in rows

import numpy as np

from euston.network.packet._events import helper
from euston.network.packet._layout import (
    C_FIRST, C_LAST, K_CLASSES, K_CLASS_ROW, K_HOPS, K_MTU, N_CLASS, N_FORWARD, N_FORWARD_N, Q_FLOWS,
    Q_QUANTUM, W_FIRST, W_FLOW, W_LAST, W_QUEUE,
)  # fmt: skip

WHOLE = np.int64(4096)  # a flow in Q_FLOWS
MOST = 2.0**29  # bytes of a quantum: a deficit is an int32


@helper
def _part(net, st, at, c):  # type: ignore[no-untyped-def]
    """What class ``c`` is due of a link, in units of queue weights; 0 without flows."""
    row = net.config[K_CLASS_ROW] + net.config[K_CLASSES]
    if st.fifo[at, c, Q_FLOWS] <= 0:
        return 0.0
    total = 0.0
    for k in range(net.rate[row + c, W_FIRST], net.rate[row + c, W_LAST] + 1):
        total += np.float64(net.rate[row + k, W_FLOW]) * st.fifo[at, k, Q_FLOWS]
    own = np.float64(net.rate[row + c, W_FLOW]) * st.fifo[at, c, Q_FLOWS]
    return np.float64(net.rate[row + c, W_QUEUE]) * own / total


@helper
def _weigh(net, st, at, c):  # type: ignore[no-untyped-def]
    """Quanta of all classes of the level of ``c`` at a link; the least is a packet."""
    row = net.config[K_CLASS_ROW] + c
    first, last, least = net.rate[row, C_FIRST], net.rate[row, C_LAST], 0.0
    for k in range(first, last + 1):
        part = _part(net, st, at, k)
        if part > 0.0 and (least == 0.0 or part < least):
            least = part
    for k in range(first, last + 1):
        part = _part(net, st, at, k)
        ratio = part / least if part > 0.0 else 1.0
        st.fifo[at, k, Q_QUANTUM] = np.int64(min(MOST, np.ceil(net.config[K_MTU] * ratio)))


@helper
def count(net, st, flow, sign):  # type: ignore[no-untyped-def]
    """A flow comes (1) or goes (-1): every link that it may use is shared anew."""
    c, n = st.flow[flow, N_CLASS], abs(st.flow[flow, N_FORWARD_N])
    each = sign * max(np.int64(1), WHOLE // n)
    for row in range(st.flow[flow, N_FORWARD], st.flow[flow, N_FORWARD] + n):
        pos = row * net.config[K_HOPS]
        while net.hop[pos] >= 0:
            at = np.int64(net.hop[pos])
            st.fifo[at, c, Q_FLOWS] += each
            _weigh(net, st, at, c)
            pos += 1
