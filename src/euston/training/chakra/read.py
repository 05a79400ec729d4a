"""Reading traces from anywhere: bounded, checked, refused with one sentence that names file and node."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, cast

from euston.errors import TraceError
from euston.training.chakra.model import Node, Trace, Value
from euston.training.chakra.schema import messages

__all__ = ["Limits", "read_folder", "read_trace"]

_RANK = re.compile(r"\.(\d{1,9})\.et(\.gz)?$")


@dataclass(frozen=True)
class Limits:
    """What a file may hold at most.

    Attributes
    ----------
    file, message : int
        Bytes of a file (unpacked), and of one message.
    nodes, deps, attributes : int
        Nodes of a file, dependencies of it, and attributes of one node.
    files : int
        Traces of a folder.
    drop_missing : bool
        Leave out dependencies on nodes that are not there, as recorders of PyTorch leave them, instead of
        refusing the file.
    """

    file: int = 1 << 31
    message: int = 64 << 20
    nodes: int = 4_000_000
    deps: int = 64_000_000
    attributes: int = 10_000
    files: int = 65_536
    drop_missing: bool = False


def read_folder(folder: Path, limits: Limits | None = None) -> list[Trace]:
    """All ``*.et`` of a folder by rank; a file is a folder of one.

    Raises
    ------
    TraceError
        No traces, two of one rank, or one that cannot be read.
    """
    limits = limits or Limits()
    folder = Path(folder)
    if folder.is_file():
        return [read_trace(folder, limits)]
    if not folder.is_dir():
        raise TraceError(f"{folder}: no such file or folder")
    files = [*folder.glob("*.et"), *folder.glob("*.et.gz")]
    if not files:
        raise TraceError(f"{folder}: holds no Chakra traces (*.et)")
    if len(files) > limits.files:
        raise TraceError(f"{folder}: holds {len(files):,} traces; at most {limits.files:,} are read")
    traces: dict[int, Trace] = {}
    nodes = 0
    for file in sorted(files, key=lambda path: (len(path.name), path.name)):
        trace = read_trace(file, limits)
        nodes += len(trace.nodes)
        if nodes > limits.nodes:
            raise TraceError(f"{folder}: holds more than {limits.nodes:,} nodes in all")
        if trace.rank in traces:
            raise TraceError(f"{file}: is of rank {trace.rank}, of which another file of the folder is too")
        traces[trace.rank] = trace
    return [traces[rank] for rank in sorted(traces)]


def read_trace(path: Path, limits: Limits | None = None) -> Trace:
    """One trace, with ids, dependencies and their order checked.

    Raises
    ------
    TraceError
        Unreadable, truncated, too large, ids twice, dependencies on nodes that are not there, cycles,
        negative sizes.
    """
    limits = limits or Limits()
    path = Path(path)
    m = messages()
    nodes: list[Node] = []
    deps = 0
    try:
        if path.is_dir():
            raise TraceError(f"{path}: is a folder; give one of its files")
        with _open(path) as stream:
            found = _messages(stream, str(path), limits)
            head = m.metadata()
            first = next(found, None)
            if first is None:
                raise TraceError(f"{path}: is empty; a trace begins with its metadata")
            _parse(head, first, f"{path}: metadata", m.decode_error)
            for number, content in enumerate(found):
                where = f"{path}: node number {number}"
                if number >= limits.nodes:
                    raise TraceError(f"{path}: holds more than {limits.nodes:,} nodes")
                raw = m.node()
                _parse(raw, content, where, m.decode_error)
                deps += len(raw.ctrl_deps) + len(raw.data_deps)
                if deps > limits.deps:
                    raise TraceError(f"{path}: holds more than {limits.deps:,} dependencies")
                nodes.append(_node(raw, where, limits))
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror or error}") from None
    except (EOFError, zlib.error):
        raise TraceError(f"{path}: is truncated") from None
    metadata = {one.name[:200]: _value(one) for one in list(head.attr)[: limits.attributes]}
    there = {node.id for node in nodes}
    dropped = sum(dep not in there for node in nodes for dep in node.deps) if limits.drop_missing else 0
    if dropped:
        nodes = [
            replace(
                node,
                ctrl_deps=tuple(dep for dep in node.ctrl_deps if dep in there),
                data_deps=tuple(dep for dep in node.data_deps if dep in there),
            )
            for node in nodes
        ]
    _check(nodes, str(path))
    rank = metadata.get("rank", -1)
    named = _RANK.search(path.name)
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 0:
        rank = int(named[1]) if named else -1
    return Trace(rank, head.version, tuple(nodes), metadata, dropped)


def _open(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path, "rb") if path.name.endswith(".gz") else path.open("rb"))


def _messages(stream: BinaryIO, path: str, limits: Limits) -> Iterator[bytes]:
    """Messages that each stand behind their length as a varint."""
    read = 0
    while True:
        length, shift, taken = 0, 0, 0
        while True:
            byte = stream.read(1)
            if not byte:
                if taken:
                    raise TraceError(f"{path}: ends in the middle of a length (byte {read + taken})")
                return
            taken += 1
            length |= (byte[0] & 0x7F) << shift
            shift += 7
            if not byte[0] & 0x80:
                break
            if taken == 10:
                raise TraceError(
                    f"{path}: byte {read}: a length of more than ten bytes; is it a Chakra trace?"
                )
        if length > limits.message:
            raise TraceError(
                f"{path}: byte {read}: a message of {length:,} bytes; at most {limits.message:,} are read"
            )
        content = stream.read(length)
        if len(content) < length:
            raise TraceError(
                f"{path}: byte {read}: a message of {length:,} bytes, of which {len(content):,} are there"
            )
        read += taken + length
        if read > limits.file:
            raise TraceError(f"{path}: is larger than {limits.file:,} bytes")
        yield content


def _parse(into: Any, content: bytes, where: str, decode_error: type[Exception]) -> None:
    try:
        into.ParseFromString(content)
    except (decode_error, ValueError, RecursionError):
        raise TraceError(f"{where}: is no message of the Chakra schema") from None


def _value(attribute: Any) -> Value:
    which = attribute.WhichOneof("value")
    if which is None:
        return ()
    value = getattr(attribute, which)
    return tuple(value.values) if which.endswith("_list") else value


def _node(raw: Any, where: str, limits: Limits) -> Node:
    if len(raw.attr) > limits.attributes:
        raise TraceError(f"{where}: has {len(raw.attr):,} attributes; at most {limits.attributes:,} are read")
    attributes = {one.name: _value(one) for one in raw.attr}
    for name in ("comm_size", "num_ops", "tensor_size", "comm_src", "comm_dst", "comm_type"):
        value = attributes.get(name, 0)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**63:
            raise TraceError(f"{where} (id {raw.id}): `{name}`: {str(value)[:60]} must be a number >= 0")
    seconds, start = raw.duration_micros * 1e-6, raw.start_time_micros * 1e-6
    exact = attributes.get("duration_seconds"), attributes.get("start_seconds")
    if isinstance(exact[0], float) and 0 <= exact[0] < 1e12:
        seconds = exact[0]
    if isinstance(exact[1], float) and 0 <= exact[1] < 1e12:
        start = exact[1]
    return Node(
        raw.id, raw.name, raw.type, tuple(raw.ctrl_deps), tuple(raw.data_deps), start, seconds, attributes
    )


def _check(nodes: list[Node], path: str) -> None:
    """Ids once, dependencies that are there, and no cycle."""
    place: dict[int, int] = {}
    for number, node in enumerate(nodes):
        if node.id in place:
            raise TraceError(f"{path}: node id {node.id} is given twice")
        place[node.id] = number
    left = [0] * len(nodes)
    after: list[list[int]] = [[] for _ in nodes]
    for number, node in enumerate(nodes):
        for dep in dict.fromkeys(node.deps):
            if dep not in place:
                raise TraceError(
                    f"{path}: node {node.id} ({node.name[:60]}) waits for node {dep}, which is not there"
                )
            after[place[dep]].append(number)
            left[number] += 1
    ready = [number for number, count in enumerate(left) if not count]
    done = 0
    while ready:
        one = ready.pop()
        done += 1
        for following in after[one]:
            left[following] -= 1
            if not left[following]:
                ready.append(following)
    if done < len(nodes):
        stuck = next(number for number, count in enumerate(left) if count)
        raise TraceError(f"{path}: {_cycle(nodes, place, stuck, left)}")


def _cycle(nodes: list[Node], place: dict[int, int], at: int, left: list[int]) -> str:
    """One cycle in words: from a node that never gets ready back along what it waits for."""
    seen: dict[int, int] = {}
    path: list[int] = []
    while at not in seen:
        seen[at] = len(path)
        path.append(at)
        at = next(place[dep] for dep in nodes[at].deps if left[place[dep]])
    ring = path[seen[at] :]
    names = " <- ".join(str(nodes[number].id) for number in ring[:6])
    return f"nodes wait for each other in a cycle: {names}{' ...' if len(ring) > 6 else ''}"
