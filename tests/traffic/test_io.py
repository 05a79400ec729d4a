"""Flow lists as files.

Oracles: writing and reading back; the same list written by hand in several dialects; hostile lines by
Hypothesis, which must give flows or one `TraceError` that names a line that exists.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from euston.errors import BadInput, ConfigError, TraceError
from euston.network import Flows
from euston.traffic import COLUMNS, read_connections, read_flows, write_connections, write_flows


def same(a: Flows, b: Flows) -> None:
    for name in (
        "src",
        "dst",
        "bytes",
        "start",
        "after_ptr",
        "after",
        "delay",
        "weight",
        "queue",
        "priority",
    ):
        left, right = getattr(a, name), getattr(b, name)
        assert left.dtype == right.dtype and (left == right).all(), name
    assert (a.rate_cap == b.rate_cap).all()
    assert [a.tags[g] if g >= 0 else "" for g in a.group] == [b.tags[g] if g >= 0 else "" for g in b.group]


@st.composite
def flow_lists(draw: st.DrawFn) -> Flows:
    n = draw(st.integers(1, 12))
    src = draw(st.lists(st.integers(0, 9), min_size=n, max_size=n))
    step = draw(st.lists(st.integers(1, 9), min_size=n, max_size=n))
    size = draw(st.lists(st.integers(1, 2**40), min_size=n, max_size=n))
    time = st.floats(0, 1e6, allow_nan=False)
    after = [sorted(set(draw(st.lists(st.integers(0, f - 1), max_size=3)))) if f else [] for f in range(n)]
    positive = st.floats(1e-6, 1e9, allow_nan=False)
    return Flows.of(
        src,
        [(s + k) % 10 for s, k in zip(src, step, strict=True)],
        size,
        start=draw(st.lists(time, min_size=n, max_size=n)),
        after=after,
        delay=draw(st.lists(time, min_size=n, max_size=n)),
        weight=draw(st.lists(positive, min_size=n, max_size=n)),
        queue=draw(st.lists(st.integers(0, 255), min_size=n, max_size=n)),
        priority=draw(st.lists(st.integers(0, 255), min_size=n, max_size=n)),
        rate_cap=draw(st.lists(st.one_of(st.just(np.inf), positive), min_size=n, max_size=n)),
        group=draw(st.lists(st.integers(-1, 1), min_size=n, max_size=n)),
        tags=["ring, first", 'a "quoted" tag'],
    )


@given(flow_lists(), st.sampled_from(["csv", "jsonl", "parquet"]))
@settings(max_examples=60)
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, flows: Flows, suffix: str) -> None:
    file = tmp_path_factory.mktemp("io") / f"flows.{suffix}"
    assert write_flows(flows, file) == file
    same(read_flows(file), flows)
    assert [p.name for p in file.parent.iterdir()] == [file.name]  # nothing else is left


PUBLISHED = """flow,src,dst,bytes,start_us,after
1,2,11,2000000,0,
2,2,4,2000000,0,1
3,2,8,2000000,2.5,2
"""


def test_the_published_layout(tmp_path: Path) -> None:
    file = tmp_path / "published.csv"
    file.write_text(PUBLISHED)
    flows = read_flows(file)
    assert flows.src.tolist() == [2, 2, 2] and flows.dst.tolist() == [11, 4, 8]
    assert [flows.predecessors(f).tolist() for f in range(3)] == [[], [0], [1]]
    assert flows.start.tolist() == [0.0, 0.0, 2.5e-6]


def test_dialects_of_one_list(tmp_path: Path) -> None:
    want = Flows.of([0, 1, 2], [1, 2, 0], [5, 6, 7], start=[0, 1e-3, 2e-3], after=[[], [], [0, 1]])
    texts = {
        "a.csv": "\ufeff# a list\n\nid , src,dst,size,t,after\r\n10,0,1,5,0,\r\n\r\n# half\r\n"
        "20,1,2,6,1e-3,\r\n"
        "30,2,0,7,0.002,10 20\r\n",
        "b.csv": 'src,dst,bytes,start_ms,flow,after\n0,1,5,,1,\n1,2,6,1,2,\n2,0,7,2,3,"1;2"\n',
        "c.csv": "src,dst,bytes,start_ns,flow,after\n0,1,5.0,0,-1,\n1,2,6e0,1e6,7,\n2,0,7,2000000,0,-1   7\n",
        "d.jsonl": '{"src":0,"dst":1,"bytes":5,"flow":1}\n\n'
        '{"start_us":1000,"src":1,"dst":2,"bytes":6,"flow":2}\n'
        '{"src":2,"dst":0,"bytes":7,"start_us":2e3,"flow":3,"after":[1,2]}\n',
        "e.jsonl": '{"id":"1","src":0,"dst":1,"bytes":5}\n{"id":"2","src":1,"dst":2,"bytes":"6","t":0.001}\n'
        '{"id":"3","src":2,"dst":0,"bytes":7,"t":"2e-3","after":"1 2"}\n',
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text, encoding="utf-8", newline="")
        same(read_flows(tmp_path / name), want)
    frame = pl.DataFrame({"src": [0, 1, 2], "dst": [1, 2, 0], "size": [5, 6, 7], "t": [0.0, 1e-3, 2e-3]})
    frame.with_columns(flow=pl.Series([1, 2, 3]), after=pl.Series([None, None, "1 2"])).write_parquet(
        tmp_path / "f.parquet"
    )
    same(read_flows(tmp_path / "f.parquet"), want)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("# nothing\n\n", "is empty"),
        ("src,dst,bytes\n", "no flow"),
        ("src,dst,bytes\n\n  \n", "no flow"),
        ("src,dst,bytes\n,,\n", "no flow"),
        ("src,dst,byts\n0,1,2\n", "`f.csv:1`: unknown column 'byts'; did you mean 'bytes'"),
        (
            "# c\n\nsrc,dst,bytes,wieght\n0,1,2,3\n",
            "`f.csv:3`: unknown column 'wieght'; did you mean 'weight'",
        ),
        ("src,dst\n0,1\n", "`f.csv:1`: column 'bytes' is missing"),
        ("src,dst,bytes,size\n0,1,2,2\n", "say the same"),
        ("src,dst,bytes,bytes\n0,1,2,2\n", "say the same"),
        ("src,dst,bytes,start,start_us\n0,1,2,2,2\n", "say the same"),
        ("src,dst,bytes,after\n0,1,2,\n", "no column 'flow'"),
        ("src,dst,bytes\n0,1,0\n", "`f.csv:2`: column bytes: 0 is not"),
        ("src,dst,bytes\n0,1,5\n0,1,-7\n", "`f.csv:3`: column bytes: -7 is not"),
        ("src,dst,bytes\n0,1,1099511627777\n", "2\\^40"),
        ("src,dst,bytes\n0,1,1.5\n", "column bytes: 1.5"),
        ("src,dst,bytes\n0,1,nan\n", "column bytes: nan"),
        ("src,dst,bytes\n0,1,1e999\n", "column bytes: 1e999"),
        ("src,dst,bytes\n0,1,five\n", "column bytes: five"),
        ("src,dst,bytes\n0,1,\n", "column bytes: nothing"),
        ("src,dst,bytes\n0,1\n", "column bytes: nothing"),
        ("src,dst,bytes\n0,1,2,3\n", "`f.csv:2`: has 4 cells; the header has 3"),
        ("src,dst,bytes\n\n# x\n3,3,5\n", "`f.csv:4`: column dst: 3 is not another endpoint"),
        ("src,dst,bytes\n-1,3,5\n", "column src: -1"),
        ("src,dst,bytes\n99999999999,3,5\n", "column src: 99999999999"),
        ("src,dst,bytes,start\n0,1,5,-1\n", "column start: -1"),
        ("src,dst,bytes,start_us\n0,1,5,inf\n", "column start_us: inf"),
        ("src,dst,bytes,weight\n0,1,5,0\n", "column weight: 0"),
        ("src,dst,bytes,weight\n0,1,5,inf\n", "column weight: inf"),
        ("src,dst,bytes,rate_cap\n0,1,5,-3\n", "column rate_cap: -3"),
        ("src,dst,bytes,queue\n0,1,5,256\n", "column queue: 256"),
        ("flow,src,dst,bytes\n1,0,1,5\n1,0,1,5\n", "`f.csv:3`: column flow: 1 stands twice"),
        ("flow,src,dst,bytes,after\n1,0,1,5,7\n", "column after: '7'.*flows go from 1 to 1"),
        ("flow,src,dst,bytes,after\n1,0,1,5,1\n", "column after: '1'"),
        ("flow,src,dst,bytes,after\n1,0,1,5,2\n2,0,1,5,1\n", "waits for itself"),
        ('src,dst,bytes,tag\n0,1,5,"two\nlines"\n0,1,0,x\n', "`f.csv:4`: column bytes: 0"),
        ('src,dst,bytes\n0,1,5\n"0,1,5\n', "`f.csv:3`: is not CSV"),
        ("src;dst;bytes\n0;1;5\n", "unknown column"),
    ],
)
def test_a_bad_csv_is_one_sentence_with_its_line(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "f.csv"
    file.write_text(text)
    with pytest.raises(TraceError, match=words) as found:
        read_flows(file)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ('{"src":0,"dst":1}\n', "`f.jsonl:1`: column 'bytes' is missing"),
        (
            '{"src":0,"dst":1,"bytes":5}\n{"src":0,"dst":1,"bytes":5,"wait":1}\n',
            "`f.jsonl:2`: unknown column",
        ),
        ('{"src":0,"dst":1,"bytes":5}\n\n{"src":0,"dst":1,"bytes":0}\n', "`f.jsonl:3`: column bytes"),
        ('{"src":0,"dst":1,"bytes":true}\n', "true is not a number"),
        ('{"src":0,"dst":1,"bytes":[5]}\n', "is not a number"),
        ('{"src":0,"dst":1,"bytes":null}\n', "column bytes: nothing"),
        ('{"src":0,"dst":1,"bytes":1e999}\n', "column bytes"),
        ('{"src":0,"dst":1,"bytes":5,"start":NaN}\n', "column start"),
        ('{"src":0,"dst":1,"bytes":' + "9" * 400 + "}\n", "column bytes"),
        ('{"src":0,"dst":1,"bytes":' + "9" * 9000 + "}\n", "is not JSON"),
        ('{"src":0,"dst":1,"bytes":5\n', "`f.jsonl:1`: is not JSON"),
        ("[" * 100_000 + "\n", "is not JSON"),
        ("[0,1,5]\n", "is not an object"),
        ("x" * 2**20 + "xx\n", "longer than 1 MiB"),
    ],
)
def test_bad_json_lines(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "f.jsonl"
    file.write_text(text)
    with pytest.raises(TraceError, match=words) as found:
        read_flows(file)
    assert "\n" not in str(found.value) and len(str(found.value)) < 400


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    file = tmp_path / "f.csv"
    for content, words in (
        (b"src,dst,bytes\n0,1,\xff\n", "`f.csv:2`: is not UTF-8"),
        (b"src,dst,bytes\n0,1,\x00\n", "`f.csv:2`: holds a NUL"),
    ):
        file.write_bytes(content)
        with pytest.raises(TraceError, match=words):
            read_flows(file)
    for content in (b"", b"PAR1", b"PAR1" + b"\0" * 64 + b"PAR1", b"\xff" * 100):
        (tmp_path / "f.parquet").write_bytes(content)
        with pytest.raises(TraceError, match="is not Parquet"):
            read_flows(tmp_path / "f.parquet")
    pl.DataFrame({"src": ["a"], "dst": [1], "bytes": [2]}).write_parquet(tmp_path / "f.parquet")
    with pytest.raises(TraceError, match="column src: a is not"):
        read_flows(tmp_path / "f.parquet")
    pl.DataFrame({"src": [[0]], "dst": [1], "bytes": [2]}).write_parquet(tmp_path / "f.parquet")
    with pytest.raises(TraceError, match="holds List"):
        read_flows(tmp_path / "f.parquet")


def test_names_of_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"did you mean \.csv"):
        read_flows(tmp_path / "x.cvs")
    with pytest.raises(ConfigError, match="did you mean 'csv'"):
        read_flows(tmp_path / "x.csv", format="cvs")
    with pytest.raises(TraceError, match="cannot be read"):
        read_flows(tmp_path / "absent.csv")
    with pytest.raises(TraceError, match="is not a file"):
        (tmp_path / "dir.csv").mkdir()
        read_flows(tmp_path / "dir.csv")
    flows = Flows.of([0], [1], [5])
    with pytest.raises(ConfigError, match="no option"):
        write_flows(flows, tmp_path / "x.csv", nodes=4)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dir.csv"]


cells = st.one_of(
    st.sampled_from(
        ["0", "1", "2", "-1", "1e3", "nan", "inf", "", " ", '"', '"1"', "#", "1 2", "1e400", "٣", "0x1"]
    ),
    st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\0"), max_size=6),
)


@given(
    st.lists(st.sampled_from([*COLUMNS, "bits"]), min_size=3, max_size=7),
    st.lists(st.lists(cells, max_size=8), max_size=6),
    st.sampled_from(["\n", "\r\n", "\r"]),
)
@settings(max_examples=300)
def test_hostile_csv(
    tmp_path_factory: pytest.TempPathFactory, header: list[str], rows: list[list[str]], newline: str
) -> None:
    columns = list(dict.fromkeys(["src", "dst", "bytes", *header]))
    text = newline.join(",".join(line) for line in [columns, *rows])
    file = tmp_path_factory.getbasetemp() / "hostile.csv"
    file.write_text(text, encoding="utf-8", newline="")
    try:
        flows = read_flows(file)
    except TraceError as error:
        at = re.match(r"`hostile\.csv(?::(\d+))?`: ", str(error))
        assert at, str(error)
        lines = text.replace("\r\n", "\n").replace("\r", "\n").count("\n") + 1
        assert at[1] is None or 1 <= int(at[1]) <= lines
    else:
        assert (flows.bytes >= 1).all() and (flows.src != flows.dst).all()


values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 9),
    st.floats(),
    st.text(max_size=4),
    st.lists(st.integers(0, 3)),
)
objects = st.dictionaries(st.sampled_from([*COLUMNS]), values).map(json.dumps)


@given(st.lists(st.one_of(st.text(max_size=30), objects), max_size=5))
@settings(max_examples=200)
def test_hostile_json(tmp_path_factory: pytest.TempPathFactory, lines: list[str]) -> None:
    file = tmp_path_factory.getbasetemp() / "hostile.jsonl"
    file.write_text("\n".join(lines), encoding="utf-8", errors="replace")
    try:
        read_flows(file)
    except TraceError as error:
        assert str(error).startswith("`hostile.jsonl")


# ---- htsim -------------------------------------------------------------------------------------------------

MATRIX = """Nodes 16
Connections 4
Triggers 2
# a chain and a barrier
2->11 id 1 start 0 size 2000000 send_done_trigger 1
2->4 id 2 trigger 1 size 1000 send_done_trigger 2
5->6 id 3 start 1500000 size 1000 recv_done_trigger 2
2->8 id 4 trigger 2 size 7
trigger id 1 oneshot
trigger id 2 barrier count 2
"""


def test_a_connection_matrix() -> None:
    flows = read_connections(MATRIX)
    assert [flows.predecessors(f).tolist() for f in range(4)] == [[], [0], [], [1, 2]]
    assert flows.start.tolist() == [0, 0, 1.5e-6, 0] and flows.bytes.tolist() == [2000000, 1000, 1000, 7]
    assert read_connections(MATRIX, start_unit="us").start[2] == 1.5
    same(read_connections(write_connections(flows)), flows)
    text = write_connections(flows, nodes=20)
    assert text.startswith("Nodes 20\nConnections 4\nTriggers 2\n2->11 id 1 start 0 size 2000000")
    assert "trigger id 2 barrier count 2" in text


@given(flow_lists())
@settings(max_examples=60)
def test_connection_matrices_round_trip(flows: Flows) -> None:
    waits = np.diff(flows.after_ptr) > 0
    plain = Flows.of(
        flows.src,
        flows.dst,
        np.minimum(flows.bytes, 2**31 - 1),
        start=np.where(waits, 0, np.floor(flows.start) * 1e-6),
        after=[flows.predecessors(f).tolist() for f in range(len(flows))],
    )
    try:
        text = write_connections(plain)
    except ConfigError as error:
        assert "groups of flows wait" in str(error)
        return
    back = read_connections(text)
    assert np.allclose(back.start, plain.start, rtol=1e-12, atol=1e-13)
    assert (back.after == plain.after).all() and (back.bytes == plain.bytes).all()


def test_files_of_matrices(tmp_path: Path) -> None:
    flows = read_connections(MATRIX)
    write_flows(flows, tmp_path / "x.cm", nodes=16)
    same(read_flows(tmp_path / "x.cm"), flows)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("Connections 4", "Connections 5"), "promises 5 connections and has 4"),
        (("Triggers 2", "Triggers 1"), "promises 1 triggers"),
        (("Nodes 16", "Nodes 11"), "`m.cm:5`: destination is '11'"),
        (("Nodes 16", "Nodes x"), "`m.cm:1`: Nodes"),
        (("5->6", "5->5"), "`m.cm:7`: 5->5 is a flow to its own source"),
        (("size 7", "size 0"), "`m.cm:8`: size"),
        (("size 7", "size"), "size has no value"),
        (("size 7", ""), "size is missing"),
        (("size 7", "size 7 size 8"), "stands twice"),
        (("size 7", "bytes 7"), "unknown word 'bytes'"),
        (("size 7", "sice 7"), "did you mean 'size'"),
        (("size 7", "size 7 prio 3"), "prio has no counterpart"),
        (("size 7", "size 7 start 4"), "a start or a trigger"),
        (("start 1500000", "start -1"), "start is '-1'"),
        (("start 1500000", "start nan"), "start is 'nan'"),
        (("trigger id 1 oneshot", "trigger id 1"), "a kind"),
        (("trigger id 1 oneshot", "trigger id 1 oneshoot"), "did you mean 'oneshot'"),
        (("trigger id 1 oneshot", "trigger id 3 oneshot"), "trigger 1 is not described"),
        (("trigger id 1 oneshot", "trigger id 2 oneshot"), "`m.cm:10`: trigger 2 is described twice"),
        (("barrier count 2", "barrier count 3"), "counts to 3, but 2 flows"),
        (("barrier count 2", "oneshot"), "make it a barrier"),
        (("start 0 size 2000000", "trigger 2 size 2000000"), "waits for itself"),
        (("2->4 id 2 trigger 1", "2->4 id 2 trigger 9"), "nothing fires trigger 9"),
        (("# a chain", "Failures 1 #"), "Failures"),
        (("# a chain", "Conections 4 #"), "did you mean 'Connections'"),
    ],
)
def test_bad_matrices_of_connections(change: tuple[str, str], words: str) -> None:
    assert change[0] in MATRIX
    with pytest.raises(TraceError, match=words):
        read_connections(MATRIX.replace(*change), name="m.cm")


def test_what_htsim_cannot_say() -> None:
    for flows, words in (
        (Flows.of([0], [1], [2**31]), "2\\^31"),
        (Flows.of([0, 0], [1, 2], [5, 5], after=[[], [0]], delay=[0, 1]), "delay"),
        (Flows.of([0], [1], [5], weight=2), "weight"),
        (Flows.of([0], [1], [5], priority=2), "priority"),
        (Flows.of([0], [1], [5], rate_cap=1e9), "rate cap"),
        (Flows.of([0] * 7, [1] * 7, [5] * 7, after=[[], [], [], [], [0, 1], [0, 2], [0, 3]]), "two"),
    ):
        with pytest.raises(ConfigError, match=words):
            write_connections(flows)
    with pytest.raises(ConfigError, match="`nodes`"):
        write_connections(Flows.of([0], [9], [5]), nodes=4)
    with pytest.raises(ConfigError, match="start_unit"):
        read_connections(MATRIX, start_unit="s")


@given(st.text(alphabet="0123456789->idstarzeg \n#NC", max_size=120))
@settings(max_examples=200)
def test_hostile_matrices(text: str) -> None:
    try:
        read_connections(text)
    except BadInput as error:
        assert isinstance(error, TraceError)
