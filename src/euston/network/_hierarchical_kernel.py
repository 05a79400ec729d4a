"""The kernel of weighted queues and strict priorities: hierarchical max-min rates, level by level.

Inside one priority level every link shares out its capacity as weighted fair queueing does: among queues by
their weights, inside a queue among its flows, and what one cannot use goes first to the others of its queue.
A flow's demand at a link is the least that its other links allow it, so the links' answers depend on each
other. Each link answers in turn and is asked again only when a demand has changed, until no answer changes:
that is an allocation with the two-level certificate.

Freezing local bottlenecks one after the other, as plain max-min may, is not enough: a queue that is full on
one link gets more when another queue proves to be held on a second link, and that one may wait for the first.
Links that hold each other's queues are a system of equations, not an order. Where their weights are opposed
the answers may circle; then they are averaged with the answer before.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from euston.network._fill import CAPACITY, FREE, LOW, OWN_CAP, UNBOUNDED, fill

# Demands that exceed a share by less than this (relative) are served by it: dust of the sums.
_DUST = 1e-14

# What priority levels leave of a row below this part of it is dust of their subtractions: nothing is left.
NOTHING_LEFT = 1e-11

# Answers per link before they are averaged with the answer before, half as much each time and for twice as
# long (random traffic on thousands of links needs 1 to 200; measured); and how often that is done.
_PATIENCE, _STAGES = 250, 2

# A share that would fill the link this many times over holds nobody back.
_ENDLESS = 1e3

# A pair is a link with one of its queues; its members are the flows of that queue on that link. Lines of the
# stacked arrays:
_LINE = np.arange(4, dtype=np.uintp)
_ROW, _FIRST_PAIR, _ASKED, _WAITING = _LINE  # of a link: row, first pair, whether it waits; the waiting line
_LINK, _FIRST = _LINE[:2]  # of a pair: link, first member
_PHI, _SHARE, _WANTED, _ANSWER = (
    _LINE  # of a pair: queue weight, level allowed, bytes/s wanted, level to come
)
_LEAST, _SECOND = _LINE[:2]  # of a flow: the least level allowed, the least without the pair that allows it
_FLOW, _ENTRY, _PAIR = _LINE[:3]  # of a member: flow and entry; of an entry (flow by flow): pair

_helper = njit(cache=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)


@_helper
def _lists(  # type: ignore[no-untyped-def]
    live, n, column, weight, queue, ptr, row, coefficient, place, phi, link, pair, level, member, take,
    begin,
):  # fmt: skip
    """Who is where, for the flows of ``live``, which are sorted by queue; returns the number of links.

    Links are numbered by first appearance. ``place[row]`` is -1 for the rows of these flows.
    """
    first = link[_FIRST_PAIR]  # while members are counted and sorted: where the next one goes, one place on
    links = 0
    for i in range(n):
        c = column[live[i]]
        for e in range(ptr[c], ptr[c + 1]):
            r = row[e]
            if place[r] < 0.0:
                place[r] = links
                link[_ROW, links] = r
                links += 1
            first[np.int64(place[r]) + 2] += 1
    for j in range(2, links + 2):
        first[j] += first[j - 1]
    entries = 0
    for i in range(n):
        c = column[live[i]]
        begin[i] = entries
        for e in range(ptr[c], ptr[c + 1]):
            after = np.int64(place[row[e]]) + 1
            m = first[after]
            first[after] += 1
            member[_FLOW, m] = i
            member[_ENTRY, m] = entries
            take[m] = coefficient[e] * weight[live[i]]
            entries += 1
    begin[n] = entries
    pairs, m = 0, 0
    for j in range(links):
        line = link[_ROW, j] * (phi.shape[0] > 1)
        end, last, start = first[j + 1], -1, pairs
        while m < end:
            q = queue[live[member[_FLOW, m]]]
            if q != last:
                pair[_LINK, pairs] = j
                pair[_FIRST, pairs] = m
                level[_PHI, pairs] = phi[line, q]
                level[_SHARE, pairs] = np.inf
                pairs += 1
                last = q
            member[_PAIR, member[_ENTRY, m]] = pairs - 1
            m += 1
        first[j] = start
    first[links] = pairs
    pair[_FIRST, pairs] = entries
    return links


@_helper
def _answer(capacity, first, last, start, level, member, take, allowed, holder):  # type: ignore[no-untyped-def]
    """What a link allows the flows of its queues (pairs ``first:last``); inf where they want no more."""
    phi, wanted, answer = level[_PHI], level[_WANTED], level[_ANSWER]
    total = 0.0
    for p in range(first, last):
        amount = 0.0
        for m in range(start[p], start[p + 1]):
            f = member[_FLOW, m]
            amount += take[m] * (allowed[_SECOND, f] if holder[f] == p else allowed[_LEAST, f])
        wanted[p] = amount
        answer[p] = 0.0
        total += phi[p]
    # Among queues: one that wants less than its share leaves the rest to the others.
    fair, again = np.inf, True
    while again and total > 0.0:
        fair = max(capacity, 0.0) / total
        again = False
        total = 0.0
        for p in range(first, last):
            if answer[p] == 0.0:
                if wanted[p] <= phi[p] * fair * (1.0 + _DUST):
                    answer[p] = np.inf
                    capacity -= wanted[p]
                    again = True
                else:
                    total += phi[p]
    # Inside a queue: the same among its flows.
    for p in range(first, last):
        if answer[p] > 0.0:
            continue
        mine, own, before = phi[p] * fair, 0.0, -1
        while True:
            served, weight, count = 0.0, 0.0, 0
            for m in range(start[p], start[p + 1]):
                f = member[_FLOW, m]
                demand = allowed[_SECOND, f] if holder[f] == p else allowed[_LEAST, f]
                if demand <= own:
                    served += take[m] * demand
                else:
                    weight += take[m]
                    count += 1
            if count == 0 or count == before or (mine - served) / weight <= own:
                break
            own = (mine - served) / weight
            before = count
        answer[p] = own


@_helper
def _hold(f, cap, share, begin, pair_of, allowed, holder):  # type: ignore[no-untyped-def]
    """Least and second least level that flow ``f`` is allowed, and by whom the least (-1: its own cap)."""
    least, second, by = cap, np.inf, -1
    for k in range(begin[f], begin[f + 1]):
        level = share[pair_of[k]]
        if level < least:
            second = least
            least = level
            by = pair_of[k]
        elif level < second:
            second = level
    allowed[_LEAST, f] = least
    allowed[_SECOND, f] = second
    holder[f] = by


@_helper
def _weighted(  # type: ignore[no-untyped-def]
    live, n, column, weight, rate_cap, queue, ptr, row, coefficient, rows, phi, rate, bottleneck, limit,
    tol, warm,
):  # fmt: skip
    """Rates of the ``n`` flows of ``live``, sorted by queue; returns answers, negative when they circle."""
    capacity, place = rows[CAPACITY], rows[LOW]
    entries = 0
    for i in range(n):
        c = column[live[i]]
        entries += ptr[c + 1] - ptr[c]
        for e in range(ptr[c], ptr[c + 1]):
            place[row[e]] = -1.0
    link = np.zeros((4, min(entries, place.size) + 2), np.int64)
    pair, level = np.empty((2, entries + 1), np.int64), np.empty((4, entries))
    member, take, begin = np.empty((3, entries), np.int64), np.empty(entries), np.empty(n + 1, np.int64)
    allowed, holder = np.empty((2, n)), np.empty(n, np.int64)
    links = _lists(
        live,
        n,
        column,
        weight,
        queue,
        ptr,
        row,
        coefficient,
        place,
        phi,
        link,
        pair,
        level,
        member,
        take,
        begin,
    )
    share, pair_of, start = level[_SHARE], member[_PAIR], pair[_FIRST]
    if warm:
        for i in range(n):
            f = live[i]
            for k in range(begin[i], begin[i + 1]):
                if link[_ROW, pair[_LINK, pair_of[k]]] == bottleneck[f]:
                    share[pair_of[k]] = rate[f] / weight[f]
    for i in range(n):
        _hold(i, rate_cap[live[i]] / weight[live[i]], share, begin, pair_of, allowed, holder)
    # Every link that has an end stands in line once; first come, first served.
    head, waiting = 0, 0
    for j in range(links):
        if capacity[link[_ROW, j]] < np.inf:
            link[_WAITING, waiting] = j
            link[_ASKED, j] = 1
            waiting += 1
        else:
            link[_ASKED, j] = 1  # never asked
    answers, stage, patience, part = 0, 0, _PATIENCE * links, 1.0
    while waiting > 0:
        if answers >= patience:
            if stage == _STAGES:
                break
            stage += 1
            part *= 0.5
            tol *= 10.0
            patience += (_PATIENCE << stage) * links
        j = link[_WAITING, head]
        head = head + 1 if head + 1 < links else 0
        waiting -= 1
        link[_ASKED, j] = 0
        answers += 1
        first, last = link[_FIRST_PAIR, j], link[_FIRST_PAIR, j + 1]
        _answer(capacity[link[_ROW, j]], first, last, start, level, member, take, allowed, holder)
        for p in range(first, last):
            new, old = level[_ANSWER, p], share[p]
            if new == old or (new < np.inf and abs(new - old) <= tol * new):
                continue
            if stage > 0 and new > 0.0 and old > 0.0:
                total = 0.0
                for m in range(start[p], start[p + 1]):
                    total += take[m]
                new = 1.0 / ((1.0 - part) / old + part / new)
                if new * total > _ENDLESS * capacity[link[_ROW, j]]:
                    new = np.inf
            share[p] = new
            for m in range(start[p], start[p + 1]):
                f = member[_FLOW, m]
                least, second, by = allowed[_LEAST, f], allowed[_SECOND, f], holder[f]
                if by == p and new <= second:
                    allowed[_LEAST, f] = new
                elif by != p and new < least:
                    allowed[_LEAST, f] = new
                    allowed[_SECOND, f] = least
                    holder[f] = p
                elif by != p and new < second:
                    allowed[_SECOND, f] = new
                elif by == p or old == second:
                    _hold(f, rate_cap[live[f]] / weight[live[f]], share, begin, pair_of, allowed, holder)
                # Whoever sees another demand now is asked (again); so is a link that did not get its way.
                for k in range(begin[f], begin[f + 1]):
                    other = pair_of[k]
                    was = second if other == by else least
                    now = allowed[_SECOND, f] if other == holder[f] else allowed[_LEAST, f]
                    i = pair[_LINK, other]
                    if link[_ASKED, i] == 0 and (was != now if other != p else stage > 0):
                        link[_ASKED, i] = 1
                        slot = head + waiting
                        link[_WAITING, slot if slot < links else slot - links] = i
                        waiting += 1
    for i in range(n):
        f = live[i]
        rate[f] = allowed[_LEAST, i] * weight[f]
        if holder[i] >= 0:
            bottleneck[f] = link[_ROW, pair[_LINK, holder[i]]]
        elif rate_cap[f] < np.inf:
            bottleneck[f] = OWN_CAP
            rate[f] = rate_cap[f]
        else:
            bottleneck[f] = UNBOUNDED
    if waiting == 0:
        return answers
    # Answers that circle promise too much here and too little there: weighted max-min in their proportions.
    guess = np.ones(weight.size)
    for i in range(n):
        if rate[live[i]] > 0.0 and rate[live[i]] < np.inf:
            guess[live[i]] = rate[live[i]]
    fill(live, n, column, guess, rate_cap, ptr, row, coefficient, rows, rate, bottleneck, limit)
    return -answers


@njit(cache=True, no_cfunc_wrapper=True)
def fill_queues(  # type: ignore[no-untyped-def]
    live, n, column, weight, rate_cap, queue, priority, ptr, row, coefficient, rows, phi, rate, bottleneck,
    limit, tol, warm,
):  # fmt: skip
    """Rates of the first ``n`` flows (slots) of ``live``: all the flows on every row that they touch.

    Takes what `fill` takes and, per slot, ``queue`` (int64, below ``phi.shape[1]``) and ``priority`` (int64,
    the lowest goes first); ``phi``: positive queue weights, float64[1, queues] for all rows alike or
    float64[rows, queues]. ``live`` stays as it is; of ``rows``, float64[4 or more, rows], line ``CAPACITY``
    is read (lowered between levels and put back), the next three are scratch; all else is allocated here, in
    the size of the flows' entries. ``limit`` goes to `fill`, which solves every level whose flows share one
    queue. ``tol``: relative change of a share that nobody is told of. ``warm``: ``rate`` and ``bottleneck``
    come in as a guess (-2 for a new flow), e.g. what they were before an event. Writes both as `fill` does.

    Returns how often links answered; negative when the answers circled to the end: the rates are then
    feasible and leave no capacity unused, but queues miss their shares.
    """
    capacity, mark = rows[CAPACITY], rows[FREE]
    level, last, entries = np.int64(2**62), np.int64(0), 0
    for i in range(n):
        f = live[i]
        level = min(level, priority[f])
        last = max(last, priority[f])
        c = column[f]
        entries += ptr[c + 1] - ptr[c]
        for e in range(ptr[c], ptr[c + 1]):
            mark[row[e]] = -1.0
    # What a level takes is subtracted from the capacities of its rows.
    used = 0
    if level == last:
        entries = 0
    touched, whole = np.empty(entries, np.int64), np.empty(entries)
    for i in range(n if entries > 0 else 0):
        c = column[live[i]]
        for e in range(ptr[c], ptr[c + 1]):
            r = row[e]
            if mark[r] < 0.0:
                mark[r] = 0.0
                touched[used] = r
                whole[used] = capacity[r]
                used += 1
    part = np.empty(n, np.int64)
    answers, sign = 0, 1
    while n > 0:
        # The flows of this level, sorted by queue.
        place = np.zeros(phi.shape[1] + 2, np.int64)
        after, most = last, 0
        for i in range(n):
            f = live[i]
            if priority[f] == level:
                place[queue[f] + 2] += 1
                most = max(most, place[queue[f] + 2])
            elif priority[f] > level:
                after = min(after, priority[f])
        for q in range(phi.shape[1]):
            place[q + 2] += place[q + 1]
        for i in range(n):
            f = live[i]
            if priority[f] == level:
                part[place[queue[f] + 1]] = f
                place[queue[f] + 1] += 1
        count = place[phi.shape[1]]
        if most == count:
            fill(part, count, column, weight, rate_cap, ptr, row, coefficient, rows, rate, bottleneck, limit)
        else:
            done = _weighted(
                part, count, column, weight, rate_cap, queue, ptr, row, coefficient, rows, phi, rate,
                bottleneck, limit, tol, warm,
            )  # fmt: skip
            answers += abs(done)
            if done < 0:
                sign = -1
        if level == last:
            break
        for i in range(n):
            f = live[i]
            if priority[f] == level and rate[f] < np.inf:
                c = column[f]
                for e in range(ptr[c], ptr[c + 1]):
                    capacity[row[e]] = max(capacity[row[e]] - coefficient[e] * rate[f], 0.0)
        for k in range(used):
            if capacity[touched[k]] <= NOTHING_LEFT * whole[k]:
                capacity[touched[k]] = 0.0
        level = after
    for k in range(used):
        capacity[touched[k]] = whole[k]
    return sign * answers
