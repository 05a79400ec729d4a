"""Writing a trace: metadata, then nodes, each behind its length as a varint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from euston.training.chakra.model import Trace, Value
from euston.training.chakra.schema import messages

__all__ = ["trace_bytes", "write_trace"]

_WHOLE = {"comm_type": "int64", "comm_tag": "int32", "comm_src": "int32", "comm_dst": "int32"}


def write_trace(trace: Trace, path: Path) -> None:
    """Write one trace."""
    path.write_bytes(trace_bytes(trace))


def trace_bytes(trace: Trace) -> bytes:
    """The bytes of a trace's file; the same trace gives the same bytes."""
    m = messages()
    head = m.metadata(version=trace.version)
    for name, value in {**trace.metadata, "rank": trace.rank}.items():
        _attribute(head, name, value)
    out = bytearray()
    _append(out, head)
    for node in trace.nodes:
        raw = m.node(
            id=node.id,
            name=node.name,
            type=node.type,
            ctrl_deps=node.ctrl_deps,
            data_deps=node.data_deps,
            start_time_micros=round(node.start * 1e6),
            duration_micros=round(node.seconds * 1e6),
        )
        for name, value in node.attributes.items():
            _attribute(raw, name, value)
        _attribute(raw, "start_seconds", node.start)
        _attribute(raw, "duration_seconds", node.seconds)
        _append(out, raw)
    return bytes(out)


def _attribute(into: Any, name: str, value: Value) -> None:
    one = into.attr.add(name=name)
    if isinstance(value, bool):
        one.bool_val = value
    elif isinstance(value, int):
        kind = _WHOLE.get(name, "int64")
        setattr(one, f"{kind}_val", value)
    elif isinstance(value, float):
        one.double_val = value
    elif isinstance(value, str):
        one.string_val = value
    elif isinstance(value, bytes):
        one.bytes_val = value
    elif all(isinstance(item, str) for item in value):
        one.string_list.values.extend(value)
    elif all(isinstance(item, int) for item in value):
        one.int64_list.values.extend(value)
    else:
        one.double_list.values.extend(value)


def _append(out: bytearray, message: Any) -> None:
    content = message.SerializeToString(deterministic=True)
    length = len(content)
    while length > 0x7F:
        out.append(length & 0x7F | 0x80)
        length >>= 7
    out.append(length)
    out += content
