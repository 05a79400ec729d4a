"""Two heaps: events by (time, sequence), and pairing heaps threaded through arrays (queues, free blocks)."""

from __future__ import annotations

import numpy as np

from euston.serving._state import B_ID, B_KIND, B_SEQ, B_TIME, I_HEAP, I_SEQ, LINE, bare

CHILD, SIBLING, PREVIOUS = LINE[:3]
KEY, SEQ = LINE[:2]


@bare
def push(heap, i, time, kind, ident):  # type: ignore[no-untyped-def]
    """A new event, behind those of the same moment; its sequence."""
    k = i[I_HEAP]
    i[I_HEAP] = k + 1
    seq = i[I_SEQ]
    i[I_SEQ] = seq + 1
    while k > 0:
        up = (k - 1) >> 1
        if heap[up, B_TIME] <= time:
            break
        heap[k, B_TIME], heap[k, B_SEQ] = heap[up, B_TIME], heap[up, B_SEQ]
        heap[k, B_KIND], heap[k, B_ID] = heap[up, B_KIND], heap[up, B_ID]
        k = up
    heap[k, B_TIME], heap[k, B_SEQ], heap[k, B_KIND], heap[k, B_ID] = time, seq, kind, ident
    return seq


@bare
def pop(heap, i):  # type: ignore[no-untyped-def]
    """Take the first event away."""
    n = i[I_HEAP] - 1
    i[I_HEAP] = n
    time, seq = heap[n, B_TIME], heap[n, B_SEQ]
    k = 0
    while 2 * k + 1 < n:
        child = 2 * k + 1
        if child + 1 < n and (
            heap[child + 1, B_TIME] < heap[child, B_TIME]
            or (
                heap[child + 1, B_TIME] == heap[child, B_TIME] and heap[child + 1, B_SEQ] < heap[child, B_SEQ]
            )
        ):
            child += 1
        if time < heap[child, B_TIME] or (time == heap[child, B_TIME] and seq < heap[child, B_SEQ]):
            break
        heap[k, B_TIME], heap[k, B_SEQ] = heap[child, B_TIME], heap[child, B_SEQ]
        heap[k, B_KIND], heap[k, B_ID] = heap[child, B_KIND], heap[child, B_ID]
        k = child
    heap[k, B_TIME], heap[k, B_SEQ] = time, seq
    heap[k, B_KIND], heap[k, B_ID] = heap[n, B_KIND], heap[n, B_ID]


@bare
def meld(link, key, a, b):  # type: ignore[no-untyped-def]
    """Two heaps become one; the root (-1: empty)."""
    if a < 0:
        return b
    if b < 0:
        return a
    if key[b, KEY] < key[a, KEY] or (key[b, KEY] == key[a, KEY] and key[b, SEQ] < key[a, SEQ]):
        a, b = b, a
    first = link[a, CHILD]
    link[b, SIBLING] = first
    if first >= 0:
        link[first, PREVIOUS] = b
    link[b, PREVIOUS] = a
    link[a, CHILD] = b
    link[a, SIBLING] = -1
    link[a, PREVIOUS] = -1
    return a


@bare
def add(link, key, root, x):  # type: ignore[no-untyped-def]
    """``x`` joins; the root."""
    link[x, CHILD] = -1
    link[x, SIBLING] = -1
    link[x, PREVIOUS] = -1
    return meld(link, key, root, x)


@bare
def shed(link, key, root):  # type: ignore[no-untyped-def]
    """The heap without its root (two passes over its children); the new root."""
    x = np.int64(link[root, CHILD])
    link[root, CHILD] = -1
    stack = np.int64(-1)
    while x >= 0:
        a, b = x, np.int64(link[x, SIBLING])
        x = np.int64(-1)
        if b >= 0:
            x = np.int64(link[b, SIBLING])
            link[b, SIBLING] = -1
        link[a, SIBLING] = -1
        link[a, PREVIOUS] = -1
        a = meld(link, key, a, b)
        link[a, PREVIOUS] = stack
        stack = a
    root = np.int64(-1)
    while stack >= 0:
        rest = np.int64(link[stack, PREVIOUS])
        link[stack, PREVIOUS] = -1
        root = meld(link, key, root, stack)
        stack = rest
    return root


@bare
def remove(link, key, root, x):  # type: ignore[no-untyped-def]
    """The heap without ``x``; the root."""
    if x == root:
        return shed(link, key, root)
    before, after = link[x, PREVIOUS], link[x, SIBLING]
    if link[before, CHILD] == x:
        link[before, CHILD] = after
    else:
        link[before, SIBLING] = after
    if after >= 0:
        link[after, PREVIOUS] = before
    return meld(link, key, root, shed(link, key, x))
