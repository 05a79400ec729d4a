"""Flows as a program for the executor, and the classes of flows that are bound to behave alike."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from euston.clock import Kind, Program
from euston.network import Flows
from euston.network._grouping import combine
from euston.network.folding import Folding, fold_if
from euston.traffic._states import System

__all__ = ["flow_classes", "flow_program"]

# Folding pays when it leaves fewer classes than this share of the flows.
_WORTH = 0.5


def flow_classes(flows: Flows, latency: NDArray[np.float64], system: System) -> Folding | None:
    """Flows that start, share and end alike: colour refinement over links and over dependencies.

    None when that gains nothing. A flow's colour takes in the classes of the flows that it waits for, so that
    equal flows wait for equal ones; refined until nothing splits any more.
    """
    label = combine(
        flows.bytes, flows.start, flows.delay, flows.weight, flows.rate_cap, latency,
        flows.queue, flows.priority,
        *(state.reachable for state in system.states),
    )  # fmt: skip
    union = system.union()
    counts = np.diff(flows.after_ptr)
    owner = np.repeat(np.arange(len(flows)), counts)
    rng = np.random.default_rng(0)
    while True:
        found = fold_if(union, row_label=system.row_label, column_label=label, most=_WORTH)
        if found is None:
            return None
        classes = len(found.columns)
        # The multiset of the predecessors' classes as a sum of random words.
        word = rng.integers(0, 2**62, classes, dtype=np.int64).astype(np.uint64)[found.column_class]
        behind = np.zeros(len(flows), np.uint64)
        np.add.at(behind, owner, word[flows.after])
        label = combine(found.column_class, behind)
        if int(label.max(initial=0)) + 1 == classes:
            return found


def flow_program(
    flows: Flows, of: NDArray[np.int64], number: NDArray[np.int64], *, tell: bool = False
) -> tuple[Program, NDArray[np.int64]]:
    """One send per class of flows (``of`` int64[F], ``number`` int64[K] a flow of each) and its waits.

    With ``tell`` the start and the end of every send are told to the outside: the operation before a send is
    then a join of all that it waits for.

    Returns
    -------
    Program
    int64[K]
        The operation that sends class ``k``.
    """
    k = number.size
    begins = flows.start[number] > 0
    counts = np.diff(flows.after_ptr)[number]
    pauses = (flows.delay[number] > 0) & (counts > 0)
    # Operations of a class: wait for its start, wait its delay after its predecessors, send.
    sizes = begins.astype(np.int64) + pauses + 1 + tell
    last = np.cumsum(sizes) - 1
    n = int(sizes.sum())
    kind = np.full(n, Kind.WAIT, np.uint8)
    kind[last] = Kind.TRANSFER
    work = np.zeros(n)
    work[last] = 1.0
    start_op = (last - sizes + 1)[begins]
    pause_op = (last - 1 - tell)[pauses]
    work[start_op] = flows.start[number][begins]
    work[pause_op] = flows.delay[number][pauses]
    transfer = np.full(n, -1, np.int32)
    transfer[last] = np.arange(k)
    # Dependencies as pairs (operation, what it waits for), one per class of predecessors.
    entry = np.repeat(flows.after_ptr[number], counts) + np.arange(int(counts.sum()))
    entry -= np.repeat(np.cumsum(counts) - counts, counts)
    ready = last - tell
    if tell:
        kind[ready] = Kind.JOIN
    waits = np.repeat(np.where(pauses, ready - 1, ready), counts)
    pairs = [
        np.stack((waits, last[of[flows.after[entry]]])),
        np.stack((ready[begins], start_op)),
        np.stack((ready[pauses], pause_op)),
        np.stack((last, ready))[:, : k * tell],
    ]
    both = np.unique(np.concatenate(pairs, axis=1), axis=1)
    ptr = np.searchsorted(both[0], np.arange(n + 1))
    names = np.where(kind == Kind.TRANSFER, 0, 1).astype(np.int32)
    nothing = np.full(n, -1, np.int32)
    program = Program(
        kind=kind,
        stream=nothing,
        work=work,
        transfer=transfer,
        dep_ptr=ptr.astype(np.int64),
        dep=both[1].astype(np.int32),
        label=names,
        micro_batch=nothing,
        chunk=nothing,
        slows=nothing,
        slow_count=np.zeros(n, np.int32),
        notify=np.isin(kind, (Kind.TRANSFER, Kind.JOIN)) & tell,
        streams=(),
        stream_count=np.zeros(0, np.int64),
        labels=("flow", "wait"),
    )
    return program, last
