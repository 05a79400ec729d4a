"""Connection matrices of htsim: ``src->dst id k start t size s`` with triggers, to flows and back.

The dialect is that of uet-htsim's ``connection_matrix.cpp`` (@40ccb05). A trigger fires when the flow that
names it as ``send_done_trigger`` has ended (``barrier``: when ``count`` flows have) and starts the flows that
wait for it: that is `Flows.after`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from euston.errors import ConfigError, TraceError, nearest
from euston.network.flows import MAX_FLOW_BYTES, Flows

__all__ = ["TIME_UNITS", "read_connections", "write_connections"]

TIME_UNITS = {"ps": 1e12, "ns": 1e9, "us": 1e6}
"""Units of ``start``: picoseconds in uet-htsim, microseconds in older ones."""

_KEYS = ("id", "start", "size", "trigger", "send_done_trigger", "recv_done_trigger")
_TRIGGERS = ("oneshot", "multishot", "barrier")
_MOST = 2**26
_HTSIM_MOST = 2**31 - 1


@dataclass
class _Trigger:
    line: int
    kind: str = ""
    count: int = 0
    fired_by: list[int] = field(default_factory=list)


def _scale(unit: str) -> float:
    if unit not in TIME_UNITS:
        raise ConfigError(f"`start_unit`: {unit!r} is not one of {', '.join(TIME_UNITS)}")
    return TIME_UNITS[unit]


def read_connections(text: str, *, start_unit: str = "ps", name: str = "connections") -> Flows:
    """Flows of a connection matrix.

    ``recv_done_trigger`` is read like ``send_done_trigger``. What has no counterpart is refused: ``prio``,
    ``msg`` (messages that share a connection) and failures.

    Raises
    ------
    TraceError
        With the line.
    """
    scale = _scale(start_unit)
    nodes: int | None = None
    promised: dict[str, int] = {}
    src: list[int] = []
    dst: list[int] = []
    size: list[int] = []
    start: list[float] = []
    waits: list[int] = []
    lines: list[int] = []
    triggers: dict[int, _Trigger] = {}
    declared = 0
    for number, line in enumerate(text.split("\n"), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        where = f"`{name}:{number}`"
        if words[0] in ("Nodes", "Connections", "Triggers", "Failures"):
            value = _whole(where, words[0], words[1] if len(words) == 2 else "", 0, 2**31 - 1)
            promised[words[0]] = value
            if words[0] == "Nodes":
                nodes = value
            elif words[0] == "Failures" and value:
                raise TraceError(f"{where}: failures are not part of a flow list; describe them as faults")
        elif "->" in words[0]:
            if len(src) >= _MOST:
                raise TraceError(f"{where}: more than {_MOST:,} connections; split the file")
            left, _, right = words[0].partition("->")
            limit = (nodes if nodes is not None else 2**31) - 1
            src.append(_whole(where, "source", left, 0, limit))
            dst.append(_whole(where, "destination", right, 0, limit))
            if src[-1] == dst[-1]:
                raise TraceError(f"{where}: {words[0]} is a flow to its own source; leave it out")
            given = _pairs(where, words[1:])
            if "size" not in given:
                raise TraceError(f"{where}: size is missing; write size and bytes")
            size.append(_whole(where, "size", given["size"], 1, MAX_FLOW_BYTES))
            if ("start" in given) == ("trigger" in given):
                raise TraceError(f"{where}: needs a start or a trigger, and not both")
            start.append(_time(where, given["start"]) / scale if "start" in given else 0.0)
            waits.append(_whole(where, "trigger", given["trigger"], 1, 2**31) if "trigger" in given else 0)
            lines.append(number)
            for key in ("send_done_trigger", "recv_done_trigger"):
                if key in given:
                    target = _whole(where, key, given[key], 1, 2**31)
                    triggers.setdefault(target, _Trigger(number)).fired_by.append(len(src) - 1)
        elif words[0] == "trigger":
            declared += 1
            _declare(where, number, words[1:], triggers)
        else:
            known = ("Nodes", "Connections", "Triggers", "trigger")
            guess = nearest(words[0], known)
            hint = f"did you mean {guess!r}?" if guess else "write src->dst id 1 start 0 size 2000000"
            raise TraceError(f"{where}: {words[0][:40]!r} is not understood; {hint}")
    for what, found in (("Connections", len(src)), ("Triggers", declared)):
        if what in promised and promised[what] != found:
            raise TraceError(f"`{name}`: promises {promised[what]} {what.lower()} and has {found}")
    if not src:
        raise TraceError(f"`{name}`: holds no connection; write src->dst id 1 start 0 size 2000000")
    after = _after(name, waits, lines, triggers) if any(waits) else None
    try:
        return Flows.of(src, dst, size, start=start, after=after, where=name)
    except ConfigError as error:
        raise TraceError(str(error)) from None


def _pairs(where: str, words: list[str]) -> dict[str, str]:
    given: dict[str, str] = {}
    at = iter(words)
    for key in at:
        if key in ("prio", "msg"):
            raise TraceError(f"{where}: {key} has no counterpart in a flow list; take it out")
        if key not in _KEYS:
            guess = nearest(key, _KEYS)
            hint = f"did you mean {guess!r}?" if guess else f"known: {', '.join(_KEYS)}"
            raise TraceError(f"{where}: unknown word {key[:40]!r}; {hint}")
        if key in given:
            raise TraceError(f"{where}: {key} stands twice")
        value = next(at, None)
        if value is None:
            raise TraceError(f"{where}: {key} has no value")
        given[key] = value
    return given


def _whole(where: str, what: str, word: str, low: int, high: int) -> int:
    if word.isascii() and word.isdigit() and len(word) < 20 and low <= int(word) <= high:
        return int(word)
    raise TraceError(f"{where}: {what} is {word[:40]!r}; it must be a whole number from {low} to {high}")


def _time(where: str, word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = -1.0
    if not 0 <= value < np.inf:
        raise TraceError(f"{where}: start is {word[:40]!r}; it must be a time of 0 or more")
    return value


def _declare(where: str, number: int, words: list[str], triggers: dict[int, _Trigger]) -> None:
    kind, which, count = "", 0, 0
    at = iter(words)
    for word in at:
        if word in _TRIGGERS:
            kind = word
        elif word == "id":
            which = _whole(where, "id", next(at, ""), 1, 2**31)
        elif word == "count":
            count = _whole(where, "count", next(at, ""), 1, 2**31)
        else:
            guess = nearest(word, ("id", "count", *_TRIGGERS))
            hint = f"did you mean {guess!r}?" if guess else "write trigger id 1 oneshot"
            raise TraceError(f"{where}: unknown word {word[:40]!r}; {hint}")
    if not which or not kind:
        raise TraceError(f"{where}: a trigger needs an id and a kind; write trigger id 1 oneshot")
    found = triggers.setdefault(which, _Trigger(number))
    if found.kind:
        raise TraceError(f"{where}: trigger {which} is described twice")
    found.kind, found.count, found.line = kind, count, number


def _after(name: str, waits: list[int], lines: list[int], triggers: dict[int, _Trigger]) -> list[list[int]]:
    for which, found in triggers.items():
        firing = len(found.fired_by)
        if not found.kind:
            raise TraceError(f"`{name}:{found.line}`: trigger {which} is not described; add its line")
        if found.kind == "barrier" and found.count != firing:
            raise TraceError(
                f"`{name}:{found.line}`: barrier {which} counts to {found.count}, but {firing} flows fire it"
            )
        if found.kind != "barrier" and firing > 1:
            raise TraceError(
                f"`{name}:{found.line}`: trigger {which} is fired by {firing} flows; make it a barrier"
            )
    after: list[list[int]] = []
    for flow, which in enumerate(waits):
        if which and (which not in triggers or not triggers[which].fired_by):
            raise TraceError(f"`{name}:{lines[flow]}`: nothing fires trigger {which}; the flow never starts")
        after.append(triggers[which].fired_by if which else [])
    return after


def write_connections(flows: Flows, *, nodes: int | None = None, start_unit: str = "ps") -> str:
    """The text of a connection matrix.

    Parameters
    ----------
    nodes : int, optional
        Number of endpoints; as many as the flows name when left out.
    start_unit : "ps" | "ns" | "us"

    Raises
    ------
    ConfigError
        For what htsim cannot express: flows above 2^31 - 1 bytes, a delay or a start after other flows, a
        flow that more than two groups wait for, weights, queues, priorities, rate caps.
    """
    scale = _scale(start_unit)
    least = int(max(flows.src.max(initial=0), flows.dst.max(initial=0))) + 1
    if nodes is not None and nodes < least:
        raise ConfigError(f"`nodes`: {nodes}; the flows name {least}")
    waits = np.diff(flows.after_ptr) > 0
    for bad, what in (
        (flows.bytes > _HTSIM_MOST, "has more than 2^31 - 1 bytes"),
        (waits & ((flows.delay > 0) | (flows.start > 0)), "has a delay or start beside `after`"),
        (~waits & (flows.delay > 0), "has a delay"),
        (flows.weight != 1.0, "has a weight"),
        ((flows.queue != 0) | (flows.priority != 0), "has a queue or priority"),
        (np.isfinite(flows.rate_cap), "has a rate cap"),
    ):
        if bad.any():
            raise ConfigError(f"`htsim`: flow {int(np.argmax(bad))} {what}, beyond a connection matrix")
    trigger: dict[tuple[int, ...], int] = {}
    fires: dict[int, list[int]] = {}
    waiting = np.zeros(len(flows), np.int64)
    for flow in np.flatnonzero(waits).tolist():
        needs = tuple(sorted(set(flows.predecessors(flow).tolist())))
        if needs not in trigger:
            trigger[needs] = len(trigger) + 1
            for one in needs:
                fires.setdefault(one, []).append(trigger[needs])
                if len(fires[one]) > 2:
                    raise ConfigError(
                        f"`htsim`: more than two groups of flows wait for flow {one}; it can fire two"
                    )
        waiting[flow] = trigger[needs]
    lines = [f"Nodes {nodes or least}", f"Connections {len(flows)}"]
    if trigger:
        lines.append(f"Triggers {len(trigger)}")
    ends = zip(
        flows.src.tolist(), flows.dst.tolist(), flows.bytes.tolist(), (flows.start * scale).tolist(),
        waiting.tolist(), strict=True,
    )  # fmt: skip
    for flow, (s, d, size, start, waits_for) in enumerate(ends):
        when = f"trigger {waits_for}" if waits_for else f"start {_number(start)}"
        fired = ""
        if flow in fires:
            words = ("send_done_trigger", "recv_done_trigger")
            fired = "".join(f" {word} {t}" for word, t in zip(words, fires[flow], strict=False))
        lines.append(f"{s}->{d} id {flow + 1} {when} size {size}{fired}")
    for needs, which in trigger.items():
        kind = "oneshot" if len(needs) == 1 else f"barrier count {len(needs)}"
        lines.append(f"trigger id {which} {kind}")
    return "\n".join(lines) + "\n"


def _number(value: float) -> str:
    whole = round(value)
    return str(whole) if abs(value - whole) < 1e-6 * max(1.0, value) else repr(value)
