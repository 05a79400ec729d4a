"""Chakra traces out and in.

Oracles: the simulator's own step time, which a replay of the files must give back; bytes of collectives by
the ring formula from parameter counts; a plain decoder of the protobuf wire format (field numbers of
et_def.proto) written here; files damaged by Hypothesis, each of which is read or refused with one sentence.
"""

from __future__ import annotations

import gzip
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from euston import scenario as scenarios
from euston.collectives.network_rates import P2P_LATENCY, SCALE_OUT_EFFICIENCY, SCALE_OUT_STEP_LATENCY
from euston.errors import BadInput, ConfigError, TraceError
from euston.runs import training as runs
from euston.runs.traces import export_chakra, replay_chakra
from euston.training.chakra import (
    CollectiveType,
    ExportLimits,
    Limits,
    Node,
    NodeType,
    Trace,
    export,
    read_folder,
    read_trace,
    replay,
    write_trace,
)
from euston.training.chakra.export import traces as traces_of

SITE: dict[str, Any] = {
    "name": "main", "accelerator": "h100-sxm", "hosts": 2, "fabric": {"preset": "generic-400g-rail"}
}  # fmt: skip
DENSE: dict[str, Any] = {
    "name": "small", "layers": 8, "hidden": 1024, "heads": 16, "ffn": 4096, "vocab": 32000, "gated": False
}  # fmt: skip
MOE = {**DENSE, "moe": {"experts": 8, "top_k": 2, "ffn": 1024}}

LAYOUTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "one rank": ({}, {}),
    "tensor": ({"tensor": 8, "sequence": True}, {}),
    "tied pipeline": ({"pipeline": 4, "data": 2}, {"model": {**DENSE, "tied": True}}),
    "interleaved": ({"tensor": 2, "pipeline": 4, "virtual": 2, "data": 2, "sharding": "zero1"}, {}),
    "zero3 copies": ({"data": 16, "sharding": "zero3", "shard": 8}, {}),
    "context": ({"context": 4, "tensor": 2, "data": 2, "sharding": "zero1"}, {}),
    "experts": ({"data": 16, "expert": 8, "sharding": "zero1"}, {"model": MOE}),
    "experts in a pipeline": ({"tensor": 2, "data": 4, "expert": 4, "pipeline": 2}, {"model": MOE}),
    "two ways": ({"pipeline": 4, "data": 4}, {"schedule": "dualpipe"}),
    "split backward": ({"pipeline": 4, "data": 2}, {"schedule": "zb-h1"}),
    "no overlap": ({"tensor": 2, "pipeline": 2, "data": 4}, {"software": "megatron-2021"}),
}


def scenario(parallel: dict[str, Any], more: dict[str, Any]) -> scenarios.Scenario:
    data = {
        "version": 1,
        "name": "x",
        "sites": [SITE],
        "jobs": [
            {
                "name": "job",
                "kind": "training",
                "model": DENSE,
                "parallel": parallel,
                "batch": {"global": 16 * parallel.get("data", 1), "micro": 1, "sequence": 1024},
                "software": "mcore-2024",
                **more,
            }
        ],
        "run": {"folding": False, "speeds": "each", "memory": "report"},
    }
    return scenarios.from_data(data)


def executed(name: str):  # type: ignore[no-untyped-def]
    ready = runs.prepare(scenario(*LAYOUTS[name]))
    return runs.iterate(ready), ready.jobs[0][1]


@pytest.mark.parametrize("name", LAYOUTS)
def test_files_replay_to_the_simulators_step_time(name: str, tmp_path: Path) -> None:
    iteration, placement = executed(name)
    files = export(iteration, placement, tmp_path)
    world = iteration.jobs[0].job.parallel.world
    assert len(files) == world
    found = read_folder(tmp_path)
    assert [trace.rank for trace in found] == list(range(world))
    groups = json.loads((tmp_path / "trace.groups.json").read_text())
    again = replay(found, groups)
    assert again.alone == 0
    assert again.makespan == pytest.approx(float(iteration.run.end.max()), rel=1e-12)
    # The groups of a stage that share shards start together in the simulator, each by itself in the replay.
    early = name == "zero3 copies"
    for trace, start, end in zip(found, again.start, again.end, strict=True):
        for node, began, ended in zip(trace.nodes, start, end, strict=True):
            if node.type != NodeType.COMM_RECV:  # a receive has no dependency of its own: it starts early
                assert began <= node.start * (1 + 1e-9)
                assert early or began == pytest.approx(node.start, rel=1e-9, abs=1e-12)
            assert early or ended == pytest.approx(node.start + node.seconds, rel=1e-9, abs=1e-12)


def test_a_dropped_dependency_shows() -> None:
    """The replay depends on what the files say: without one rank's waits it ends earlier."""
    iteration, placement = executed("interleaved")
    found = traces_of(iteration, placement)
    whole = replay(found).makespan
    free = [
        Trace(t.rank, t.version, tuple(Node(n.id, n.name, n.type, seconds=n.seconds) for n in t.nodes))
        for t in found
    ]
    assert replay(free).makespan < 0.5 * whole


def test_bytes_of_collectives_follow_the_ring_formula() -> None:
    iteration, placement = executed("interleaved")
    job = iteration.jobs[0].job
    groups: dict[str, list[int]] = {}
    found = traces_of(iteration, placement, groups=groups)
    n = job.parallel.data
    for name, element in ((CollectiveType.ALL_GATHER, 2), (CollectiveType.REDUCE_SCATTER, 4)):
        wire = size = 0.0
        for trace in found:
            for node in trace.nodes:
                if node.whole("comm_type", -1) == name and node.name in ("parameters", "gradients"):
                    assert len(groups[str(node.attributes["pg_name"])]) == n
                    wire += float(node.attributes["wire_bytes"])  # type: ignore[arg-type]
                    size += node.whole("comm_size")
        held = sum(chunk.parameters for row in iteration.jobs[0].cost.chunks for chunk in row)
        ranks = n * job.parallel.tensor  # that hold these parameters, over all stages
        assert wire == pytest.approx(ranks * (n - 1) / n * element * held, rel=1e-9)
        assert size == pytest.approx(ranks * element * held, rel=1e-6)


def test_groups_partition_the_ranks_and_sends_have_their_receive() -> None:
    iteration, placement = executed("experts in a pipeline")
    groups: dict[str, list[int]] = {}
    found = traces_of(iteration, placement, groups=groups)
    sends, receives = set(), set()
    for trace in found:
        for node in trace.nodes:
            if node.type == NodeType.COMM_COLL:
                assert trace.rank in groups[str(node.attributes["pg_name"])]
            if node.type in (NodeType.COMM_SEND, NodeType.COMM_RECV):
                key = tuple(node.whole(k) for k in ("comm_src", "comm_dst", "comm_tag", "comm_size"))
                (sends if node.type == NodeType.COMM_SEND else receives).add(key)
                assert trace.rank == node.whole("comm_src" if node.type == NodeType.COMM_SEND else "comm_dst")
    assert sends == receives
    assert sends


def test_some_ranks_and_limits(tmp_path: Path) -> None:
    iteration, placement = executed("tensor")
    export(iteration, placement, tmp_path, ranks=[3, 1])
    found = read_folder(tmp_path)
    assert [trace.rank for trace in found] == [1, 3]
    assert replay(found, json.loads((tmp_path / "trace.groups.json").read_text())).alone > 0
    with pytest.raises(ConfigError, match="ranks"):
        export(iteration, placement, tmp_path, ranks=[8])
    with pytest.raises(ConfigError, match="too many"):
        export(iteration, placement, tmp_path, limits=ExportLimits(ranks=4))


def test_export_of_a_scenario_unfolds_it(tmp_path: Path) -> None:
    s = scenario(*LAYOUTS["interleaved"])
    s = s.model_copy(update={"run": s.run.model_copy(update={"folding": True, "speeds": "slowest"})})
    files, step = export_chakra(s, tmp_path, progress=lambda _: None)
    assert len(files) == 16
    assert replay(read_folder(tmp_path)).makespan == pytest.approx(step, rel=1e-12)
    plain = runs.run(s, lambda _: None).scalars["step_time"]
    assert step == pytest.approx(plain, rel=1e-6)


# -- on a fabric -----------------------------------------------------------------------------------------


def fabric_replay(found: list[Trace], groups: dict[str, list[int]], fabric: str) -> float:
    s = scenario({}, {}).model_dump(mode="json", by_alias=True, exclude_none=True)
    s["sites"][0]["fabric"] = {"preset": fabric}
    return replay_chakra(found, groups, scenarios.from_data(s), progress=lambda _: None)


@pytest.mark.parametrize("name", ["tensor", "interleaved", "zero3 copies", "context", "experts", "two ways"])
def test_a_replay_on_the_same_fabric_is_near_the_simulator(name: str) -> None:
    parallel, more = LAYOUTS[name]
    large = {"hidden": 4096, "heads": 32, "ffn": 16384, "layers": 8}  # what counts is bytes, not latencies
    model = {**more.get("model", DENSE), **large}
    batch = {
        "global": 4 * parallel.get("data", 1) * parallel.get("pipeline", 1),
        "micro": 1,
        "sequence": 4096,
    }
    ready = runs.prepare(scenario(parallel, {**more, "model": model, "batch": batch}))
    iteration = runs.iterate(ready)
    groups: dict[str, list[int]] = {}
    found = traces_of(iteration, ready.jobs[0][1], groups=groups)
    again = fabric_replay(found, groups, "generic-400g-rail")
    # compute keeps what collectives beside it slowed it by; all-to-alls in two hops go pair by pair, and the
    # small collectives beside them are no nodes of their own
    near = 0.01 if name == "experts" else 0.005
    assert again == pytest.approx(float(iteration.run.end.max()), rel=near)


def test_a_replay_on_another_fabric_is_near_the_simulator_there() -> None:
    """Traces of one fabric, replayed on one of half the rate, against the step simulated there."""
    parallel = {"tensor": 2, "data": 8, "sharding": "zero1"}
    more = {"batch": {"global": 8, "micro": 1, "sequence": 1024}, "model": {**DENSE, "layers": 4}}
    groups: dict[str, list[int]] = {}
    ready = runs.prepare(scenario(parallel, more))
    here = runs.iterate(ready)
    found = traces_of(here, ready.jobs[0][1], groups=groups)
    data = scenario(parallel, more).model_dump(mode="json", by_alias=True, exclude_none=True)
    data["sites"][0]["fabric"] = {"preset": "selene-hdr"}
    there = runs.run(scenarios.from_data(data), lambda _: None).scalars["step_time"]
    assert there > 1.05 * here.jobs[0].step_time  # the fabric matters
    assert fabric_replay(found, groups, "selene-hdr") == pytest.approx(there, rel=0.02)


def test_one_collective_and_one_send_take_their_bytes_over_the_nics() -> None:
    size, ranks = 1 << 30, [0, 8]  # one rank on each of two hosts
    rate = 400e9 / 8 * SCALE_OUT_EFFICIENCY
    attributes = {"pg_name": "g", "comm_type": 0, "comm_size": size}
    both = [Trace(r, "", (Node(1, "", NodeType.COMM_COLL, attributes=dict(attributes)),)) for r in ranks]
    took = fabric_replay(both, {"g": ranks}, "generic-400g-rail")
    assert took == pytest.approx(2 * (2 - 1) / 2 * size / rate + 2 * SCALE_OUT_STEP_LATENCY, rel=1e-6)
    pair = {"comm_src": 0, "comm_dst": 8, "comm_size": size}
    send = Trace(0, "", (Node(1, "", NodeType.COMM_SEND, attributes=dict(pair)),))
    receive = Trace(8, "", (Node(1, "", NodeType.COMM_RECV, attributes=dict(pair)),))
    took = fabric_replay([send, receive], {}, "generic-400g-rail")
    assert took == pytest.approx(size / rate + P2P_LATENCY, rel=1e-6)
    for wrong in ({"comm_size": 8}, {"comm_src": 0, "comm_dst": 0, "comm_size": 8}):
        with pytest.raises(TraceError, match="between which ranks"):
            fabric_replay([Trace(0, "", (Node(1, "", NodeType.COMM_SEND, attributes=wrong),))], {}, "nvl72")
    with pytest.raises(TraceError, match="no accelerator"):
        fabric_replay(both, {"g": [0, 99]}, "generic-400g-rail")


# -- the wire format -------------------------------------------------------------------------------------


def decoded(content: bytes) -> list[tuple[int, int | bytes]]:
    """Fields of a protobuf message: (number, varint or bytes), by the encoding's own description."""
    out: list[tuple[int, int | bytes]] = []
    i = 0

    def varint() -> int:
        nonlocal i
        value = shift = 0
        while True:
            byte = content[i]
            i += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while i < len(content):
        key = varint()
        if key & 7 == 0:
            out.append((key >> 3, varint()))
        elif key & 7 == 1:
            out.append((key >> 3, content[i : i + 8]))
            i += 8
        elif key & 7 == 2:
            size = varint()
            out.append((key >> 3, content[i : i + size]))
            i += size
        else:
            raise AssertionError(key)
    return out


def test_field_numbers_are_the_published_ones(tmp_path: Path) -> None:
    node = Node(
        7, "allreduce", NodeType.COMM_COLL, (3,), (5, 6), 1.5e-6, 0.25,
        {"comm_size": 1 << 40, "pg_name": "g", "is_cpu_op": True},
    )  # fmt: skip
    others = tuple(Node(i, "", NodeType.COMP) for i in (3, 5, 6))
    write_trace(Trace(2, "0.0.4", (*others, node)), tmp_path / "t.2.et")
    content = (tmp_path / "t.2.et").read_bytes()
    parts = []
    i = 0
    while i < len(content):
        size = shift = 0
        while True:
            byte = content[i]
            i += 1
            size |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
        parts.append(content[i : i + size])
        i += size
    assert (1, b"0.0.4") in decoded(parts[0])
    fields = decoded(parts[-1])
    got = dict(fields)
    assert (got[1], got[2], got[3], got[4], got[5]) == (7, b"allreduce", 7, b"\x03", b"\x05\x06")
    assert (got[6], got[7]) == (2, 250_000)
    attributes = {}
    for number, value in fields:
        if number == 10:
            assert isinstance(value, bytes)
            inner = dict(decoded(value))
            attributes[inner.pop(1)] = inner
    assert attributes[b"comm_size"] == {9: 1 << 40}  # int64_val
    assert attributes[b"pg_name"] == {29: b"g"}  # string_val
    assert attributes[b"is_cpu_op"] == {27: 1}  # bool_val
    assert attributes[b"duration_seconds"] == {3: struct.pack("<d", 0.25)}  # double_val


def test_foreign_traces_without_exact_seconds_and_in_any_order(tmp_path: Path) -> None:
    """Written by the plain encoder here: microseconds only, unsigned and signed widths, dependants first."""

    def field(number: int, value: int | bytes) -> bytes:
        if isinstance(value, int):
            return varint(number << 3) + varint(value)
        return varint(number << 3 | 2) + varint(len(value)) + value

    def varint(value: int) -> bytes:
        out = b""
        while value > 127:
            out += bytes([value & 127 | 128])
            value >>= 7
        return out + bytes([value])

    def message(*parts: bytes) -> bytes:
        return varint(len(b"".join(parts))) + b"".join(parts)

    def attribute(name: bytes, number: int, value: int | bytes) -> bytes:
        return field(10, field(1, name) + field(number, value))

    late = message(field(1, 9), field(3, 4), field(5, 4), field(7, 30))
    coll = message(
        field(1, 4), field(3, 7), field(7, 20), attribute(b"comm_size", 13, 4096),
        attribute(b"comm_type", 11, 0), attribute(b"pg_name", 29, b"0"), attribute(b"new", 15, 3),
        field(200, b"a field of a later schema"),
    )  # fmt: skip
    (tmp_path / "x.0.et").write_bytes(message(field(1, b"0.1.0")) + late + coll)
    (tmp_path / "x.1.et.gz").write_bytes(gzip.compress(message(field(1, b"0.1.0")) + coll))
    found = read_folder(tmp_path)
    assert [trace.rank for trace in found] == [0, 1]
    assert found[0].nodes[1].whole("comm_size") == 4096
    assert replay(found).makespan == pytest.approx(50e-6)


# -- hostile files ---------------------------------------------------------------------------------------


def written(path: Path, *nodes: Node) -> Path:
    write_trace(Trace(0, "0.0.4", nodes), path)
    return path


def test_hostile_files_are_refused_with_one_sentence(tmp_path: Path) -> None:
    good = written(tmp_path / "g.0.et", Node(1, "a", 4), Node(2, "b", 4, (1,))).read_bytes()
    cases = {
        "truncated": (good[:-3], "of which"),
        "length cut": (good + b"\x80", "middle of a length"),
        "endless length": (b"\xff" * 30, "more than ten bytes"),
        "huge length": (b"\xff\xff\xff\xff\x7f" + good, "at most"),
        "nothing": (b"", "is empty"),
        "no message": (b"\x04\xff\xff\xff\xff" + good, "no message of the Chakra schema"),
    }
    for name, (content, words) in cases.items():
        path = tmp_path / f"{name.replace(' ', '-')}.0.et"
        path.write_bytes(content)
        with pytest.raises(TraceError, match=words) as caught:
            read_trace(path)
        assert "\n" not in str(caught.value)
    for words, nodes in {
        "given twice": (Node(1, "a", 4), Node(1, "b", 4)),
        "is not there": (Node(1, "a", 4, (7,)),),
        "in a cycle: 1 <- 2|in a cycle: 2 <- 1": (Node(1, "a", 4, (2,)), Node(2, "b", 4, (), (1,))),
        "cycle": (Node(1, "a", 4, (1,)),),
        "must be a number >= 0": (Node(1, "a", 7, attributes={"comm_size": -5}),),
    }.items():
        with pytest.raises(TraceError, match=words):
            read_trace(written(tmp_path / "h.0.et", *nodes))
    with pytest.raises(TraceError, match="more than 3 nodes"):
        read_trace(written(tmp_path / "n.0.et", *(Node(i, "", 4) for i in range(5))), Limits(nodes=3))
    with pytest.raises(TraceError, match="dependencies"):
        read_trace(
            written(tmp_path / "d.0.et", Node(0, "", 4), *(Node(i, "", 4, (0,)) for i in range(1, 9))),
            Limits(deps=5),
        )
    bomb = tmp_path / "b.0.et.gz"
    bomb.write_bytes(gzip.compress(b"\x00" * 4_000_000))
    with pytest.raises(TraceError, match="nodes"):
        read_trace(bomb, Limits(nodes=1000))
    damaged = tmp_path / "c.0.et.gz"
    damaged.write_bytes(gzip.compress(good)[:-12])
    with pytest.raises(TraceError):
        read_trace(damaged)
    with pytest.raises(TraceError, match="no Chakra traces"):
        (tmp_path / "empty").mkdir()
        read_folder(tmp_path / "empty")


def test_missing_dependencies_are_left_out_where_asked(tmp_path: Path) -> None:
    path = written(
        tmp_path / "m.0.et", Node(1, "a", 4, (7,), seconds=1.0), Node(2, "b", 4, (1, 8), (9,), seconds=2.0)
    )
    found = read_trace(path, Limits(drop_missing=True))
    assert found.dropped == 3
    assert replay([found]).makespan == pytest.approx(3.0)


def test_a_ring_of_sends_and_receives_runs() -> None:
    """Everybody sends before it receives, as in a ring all-reduce of sends: sends wait for nobody."""
    n, steps = 4, 3
    ring = []
    for r in range(n):
        nodes = []
        for k in range(steps):
            out = {"comm_src": r, "comm_dst": (r + 1) % n, "comm_tag": k, "comm_size": 1 << 30}
            into = {"comm_src": (r - 1) % n, "comm_dst": r, "comm_tag": k, "comm_size": 1 << 30}
            before = (2 * k - 1,) if k else ()
            nodes.append(Node(2 * k, "send", NodeType.COMM_SEND, before, seconds=0.5, attributes=dict(out)))
            nodes.append(
                Node(2 * k + 1, "recv", NodeType.COMM_RECV, before, seconds=9.0, attributes=dict(into))
            )
        ring.append(Trace(r, "", tuple(nodes)))
    found = replay(ring)
    assert found.makespan == pytest.approx(steps * 0.5)
    assert found.alone == 0
    took = fabric_replay(ring, {}, "generic-400g-rail")  # all in one host
    assert 0 < took < 0.5


def test_ranks_that_wait_for_each_other_are_refused() -> None:
    """Each rank's nodes are in order, but the two call their collectives in opposite order."""

    def coll(ident: int, group: str, *deps: int) -> Node:
        return Node(ident, group, NodeType.COMM_COLL, deps, attributes={"pg_name": group, "comm_type": 0})

    one = Trace(0, "", (coll(1, "a"), coll(2, "b", 1)))
    other = Trace(1, "", (coll(1, "b"), coll(2, "a", 1)))
    with pytest.raises(TraceError, match="wait for each other"):
        replay([one, other])
    barrier = Node(1, "a", NodeType.COMM_COLL, attributes={"pg_name": "a", "comm_type": 9})
    with pytest.raises(TraceError, match="another kind"):
        replay([one, Trace(1, "", (barrier,))])


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("sound")
    iteration, placement = executed("tied pipeline")
    return export(iteration, placement, folder, ranks=[0])[0].read_bytes()[:4000]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_are_read_or_refused(sound: bytes, data: st.DataObject, tmp_path: Path) -> None:
    content = bytearray(sound)
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(content)))
    path = tmp_path / "f.0.et"
    path.write_bytes(bytes(content[:cut]) + data.draw(st.binary(max_size=40)))
    try:
        replay(read_folder(path))
    except BadInput as error:
        assert "\n" not in str(error)
