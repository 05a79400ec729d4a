"""Packaged traces and readers: published counts, files written by hand, and every malformed line named."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest

from euston.errors import ConfigError, TraceError
from euston.serving.workloads import (
    FORMATS,
    PACKAGED,
    name_tokens,
    packaged,
    prefix_hits,
    read,
    with_block_size,
)

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"


def written(tmp_path, text, name="trace.csv"):
    path = tmp_path / name
    path.write_text(text)
    return path


def lines(tmp_path, records, name="trace.jsonl"):
    return written(tmp_path, "".join(json.dumps(record) + "\n" for record in records), name)


@pytest.mark.parametrize("name", PACKAGED)
def test_packaged_traces_are_whole_and_say_where_they_are_from(name):
    counts = {
        "azure_2023_code": (8819, 18_059_974), "azure_2023_conversation": (19_366, 22_361_870),
        "mooncake_conversation": (12_031, 144_793_823), "mooncake_synthetic": (3993, 61_194_628),
        "sharegpt_300_llama31": (300, 257_239), "sharegpt_300_qwen3": (300, 258_691),
    }  # fmt: skip
    trace = packaged(name)
    assert (len(trace), int(trace.in_tok.sum())) == counts[name]
    assert trace.arrival_s[0] == 0 and any(
        word in trace.meta["source"] for word in ("CC-BY", "Apache", "MIT")
    )


def test_infinite_cache_hits_of_mooncake_conversations():
    """Counted by others: 105,710 of 288,500 blocks, 105,592 of the 276,491 full ones."""
    trace = packaged("mooncake_conversation")
    partial, full = prefix_hits(trace, partial=True), prefix_hits(trace)
    assert (partial.hits, partial.blocks) == (105_710, 288_500)
    assert (full.hits, full.blocks) == (105_592, 276_491)
    assert partial.share == pytest.approx(0.3664, abs=5e-5)
    assert prefix_hits(packaged("mooncake_synthetic"), partial=True).share == pytest.approx(0.640, abs=5e-4)


def test_hits_are_what_a_set_counts():
    """A plain loop over a set of seen names, on requests that repeat each other's beginnings and ends."""
    trace = packaged("mooncake_synthetic").head(500)
    seen, hits = set(), 0
    for i in range(len(trace)):
        ids = trace.block_ids[trace.blocks_ptr[i] : trace.blocks_ptr[i + 1]]
        ids = ids[: trace.in_tok[i] // 512].tolist()
        for one in ids:
            if one not in seen:
                break
            hits += 1
        seen.update(ids)
    assert prefix_hits(trace).hits == hits > 0


def test_smaller_blocks_keep_what_is_equal():
    trace = packaged("mooncake_conversation").head(300)
    fine = with_block_size(trace, 16)
    assert fine.block_size == 16 and fine.block_ids.size == 32 * trace.block_ids.size
    assert prefix_hits(fine, partial=True).hits == 32 * prefix_hits(trace, partial=True).hits
    with pytest.raises(ConfigError, match="24 does not divide the trace's blocks of 512 tokens"):
        with_block_size(trace, 24)


def test_names_of_tokens_are_equal_exactly_where_all_before_them_is():
    ptr, ids = name_tokens([[1, 2, 3, 4, 5], [1, 2, 9, 9], [7, 7, 3, 4], [1, 2, 3, 4]], 2)
    assert ptr.tolist() == [0, 2, 4, 6, 8]
    assert ids.tolist() == [0, 1, 0, 2, 3, 4, 0, 1]  # (3, 4) after (7, 7) is another block


def test_azure(tmp_path):
    text = AZURE.replace("TIMESTAMP", "TIMESTAMP,NumImages") + (
        "2023-11-16 23:59:59.9799600,2,4808,10\n"
        "2023-11-17 00:00:00,0,30,8\n"
        "2023-11-16 23:59:59.1000000,1,5,6\n"
    )
    trace = read(written(tmp_path, text))
    assert trace.arrival_s.tolist() == [0.0, 0.87996, 0.9]
    assert trace.in_tok.tolist() == [5, 4808, 30] and trace.n_images.tolist() == [1, 2, 0]
    packed = tmp_path / "trace.csv.gz"
    packed.write_bytes(gzip.compress(text.encode()))
    assert (read(packed).out_tok == trace.out_tok).all()


def test_burstgpt_failures(tmp_path):
    text = (
        "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
        "5,ChatGPT,472,18,490,Conversation log\n45,GPT-4,1087,0,1087,API log\n50,ChatGPT,9,2,11,API log\n"
    )
    path = written(tmp_path, text)
    trace = read(path)
    assert len(trace) == 2 and trace.meta["failures"] == 1 and trace.arrival_s.tolist() == [0, 45]
    kept = read(path, failures="keep")
    assert kept.out_tok.tolist() == [18, 1, 2] and kept.klass.tolist() == [0, 1, 0]


def test_vidur_and_flat_and_token_ids(tmp_path):
    vidur = read(written(tmp_path, "arrived_at,num_prefill_tokens,num_decode_tokens\n1.5,10,2\n0.5,20,3\n"))
    assert vidur.in_tok.tolist() == [20, 10] and vidur.arrival_s.tolist() == [0.5, 1.5]
    flat = [
        {"input_toks": 4, "output_toks": 2, "arrival_time_ns": 2e9},
        {"input_toks": 9, "output_toks": 1, "arrival_time_ns": 10**9},
    ]
    assert read(lines(tmp_path, flat)).arrival_s.tolist() == [0.0, 1.0]
    for record in flat:
        record["input_tok_ids"] = list(range(record["input_toks"]))
        record["output_tok_ids"] = [100] * record["output_toks"]
    named = read(lines(tmp_path, flat), block_size=2)
    assert np.diff(named.blocks_ptr).tolist() == [5, 3]
    assert named.block_ids.tolist() == [0, 1, 2, 3, 4, 0, 1, 5]  # answers are named too


def test_agentic_calls_wait_for_each_other_and_their_tools(tmp_path):
    calls = [
        {"input_toks": 10, "output_toks": 5, "tool_duration_ns": 3e9},
        {"input_toks": 20, "output_toks": 1},
    ]
    path = lines(
        tmp_path,
        [
            {"session_id": "b", "arrival_time_ns": 5e9, "sub_requests": calls},
            {"session_id": "a", "arrival_time_ns": 4e9, "sub_requests": calls[:1]},
        ],
    )
    trace = read(path)
    assert trace.session.tolist() == [0, 1, 1] and trace.turn.tolist() == [0, 0, 1]
    assert trace.after.tolist() == [1] and trace.after_ptr.tolist() == [0, 0, 0, 1]
    assert trace.think_s.tolist() == [0, 0, 3] and trace.arrival_s.tolist() == [0, 1, 1]


NOON = "2023-11-16 18:17:03.9"
GOOD = {"timestamp": 0, "input_length": 5, "output_length": 1, "hash_ids": [0]}
CALLS = {"session_id": 1, "arrival_time_ns": 0, "sub_requests": [{}]}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has nothing, which is no known trace"),
        ("a,b\n1,2\n", "is no known trace. Layouts: azure"),
        (AZURE + f"{NOON},4,10\n{NOON},x,10\n", "trace.csv:3`: column ContextTokens: 'x' is not a whole"),
        (AZURE + f"{NOON},4\n", "trace.csv:2`: column GeneratedTokens: is empty"),
        (AZURE + f"{NOON},4,5,6\n", "trace.csv:2`: 4 cells where the header has 3"),
        (AZURE + "yesterday,4,10\n", "trace.csv:2`: column TIMESTAMP: 'yesterday' is no time"),
        (AZURE + f"{NOON},4,0\n", "column GeneratedTokens: '0' is not a whole number of 1"),
        (AZURE + f"{NOON},,1\n", "column ContextTokens: is empty"),
        (json.dumps(GOOD) + '\n{"timestamp"', "trace.csv:2:"),
        (json.dumps(GOOD | {"hash_ids": [0, 1]}), "2 ids for 5 tokens"),
        (json.dumps(GOOD | {"timestamp": float("nan")}), "timestamp: nan must be a finite"),
        (json.dumps(GOOD | {"input_length": 5.5}), "input_length: 5.5 is not"),
        (json.dumps(GOOD | {"output_length": True}), "output_length: True"),
        (json.dumps(GOOD | {"hash_ids": [-1]}), "hash_ids: is not a list"),
        (json.dumps(CALLS | {"sub_requests": []}), "sub_requests: is not a list of one"),
        (json.dumps(CALLS), r"sub_requests\[0\]`: input_toks: is missing"),
    ],
)
def test_malformed_lines_are_named(tmp_path, text, words):
    with pytest.raises(TraceError, match=words):
        read(written(tmp_path, text))


def test_files_that_are_none(tmp_path):
    for path, words in ((tmp_path / "no.csv", "cannot be read"), (tmp_path, "is not a file")):
        with pytest.raises(TraceError, match=words):
            read(path)
    broken = tmp_path / "x.csv.gz"
    broken.write_bytes(b"\x1f\x8b0000")
    with pytest.raises(TraceError, match="no complete gzip"):
        read(broken)
    latin = tmp_path / "y.csv"
    latin.write_bytes(AZURE.encode() + b"\xe9,1,2\n")
    with pytest.raises(TraceError, match=r"y\.csv:2`: is not UTF-8"):
        read(latin)
    good = written(tmp_path, AZURE + "2023-11-16 18:17:03.9,4,1\n")
    with pytest.raises(TraceError, match="format azure has no option 'block_size'"):
        read(good, block_size=3)
    with pytest.raises(TraceError, match="vidur"):
        read(good, "vidurr")
    assert "mooncake" in FORMATS
    with pytest.raises(ConfigError, match="did you mean"):
        packaged("azure_2023_cod")
