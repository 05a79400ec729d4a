"""torchtitan files as scenarios.

Oracle: torchtitan's published rules recomputed here (parallel_dims.py: -1 takes the ranks that are left; the
trainer's global batch; two stages a rank in looped schedules), parameter counts, and the simulator.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import euston as eu
from euston.errors import BadInput
from euston.models import transformer
from euston.scenario import build
from euston.scenario.importers import Machines, from_torchtitan

LARGE = """
[job]
description = "a large one"
[model]
name = "llama3"
flavor = "405B"
converters = "float8"
[optimizer]
lr = 8e-5
[training]
batch_size = 2
seq_len = 8192
compile = true
wibble = 3
[parallelism]
data_parallel_replicate_degree = 1
data_parallel_shard_degree = -1
tensor_parallel_degree = 8
enable_async_tensor_parallel = true
[activation_checkpoint]
mode = 'full'
[float8]
enable_fsdp_float8_all_gather = true
"""


def imported(tmp_path: Path, text: str, **machines: object):  # type: ignore[no-untyped-def]
    file = tmp_path / "job.toml"
    file.write_text(text)
    found = from_torchtitan(file, Machines(**machines))  # type: ignore[arg-type]
    return build.training_job(found.scenario(), 0), found


def test_a_preset_for_128_accelerators(tmp_path: Path) -> None:
    job, found = imported(tmp_path, LARGE, accelerators=128)
    p = job.parallel
    assert (p.tensor, p.sequence, p.data, p.sharding) == (8, True, 128 // 8, "zero3")
    assert (job.micro_batch, job.global_batch, job.sequence) == (2, 2 * 16, 8192)
    assert (job.recompute, job.precision, job.software.tensor_overlap) == ("full", "fp8-current", True)
    assert job.model.parameters() == transformer("llama3-405b").parameters()
    assert any("training.wibble (line 14)" in warning for warning in found.warnings)
    assert {"job.description", "optimizer.lr", "training.compile"} <= set(found.ignored)


def test_hybrid_sharding_context_and_accumulation(tmp_path: Path) -> None:
    text = """
[model]
flavor = "8B"
[training]
local_batch_size = 2
global_batch_size = 64
seq_len = 4096
[parallelism]
data_parallel_replicate_degree = 2
data_parallel_shard_degree = 4
context_parallel_degree = 2
fsdp_reshard_after_forward = "never"
[activation_checkpoint]
mode = "none"
"""
    job, _ = imported(tmp_path, text)
    p = job.parallel
    assert (p.world, p.data, p.context, p.shard) == (16, 8, 2, 8)
    assert job.micro_batches == 64 // (8 * 2)
    assert not job.reshard_after_forward
    file = tmp_path / "s.yaml"
    file.write_text(imported(tmp_path, text)[1].text())
    result = eu.simulate(file)
    assert result.scalars["tokens_per_second"] * result.scalars["step_time"] == pytest.approx(64 * 4096)


@settings(deadline=None, max_examples=40)
@given(
    tp=st.sampled_from([1, 2, 8]),
    pp=st.sampled_from([1, 2, 4]),
    cp=st.sampled_from([1, 2]),
    replicate=st.sampled_from([1, 2]),
    shard=st.sampled_from([1, 2, 4]),
    local=st.sampled_from([4, 8]),
    looped=st.booleans(),
)
def test_degrees_and_tokens(
    tmp_path_factory: pytest.TempPathFactory,
    tp: int, pp: int, cp: int, replicate: int, shard: int, local: int, looped: bool,
) -> None:  # fmt: skip
    text = f"""
[model]
flavor = "8B"
[training]
local_batch_size = {local}
seq_len = 2048
[parallelism]
data_parallel_replicate_degree = {replicate}
data_parallel_shard_degree = -1
tensor_parallel_degree = {tp}
context_parallel_degree = {cp}
pipeline_parallel_degree = {pp}
pipeline_parallel_schedule = "{"Interleaved1F1B" if looped else "1F1B"}"
"""
    world = tp * pp * cp * replicate * shard
    job, _ = imported(tmp_path_factory.mktemp("t"), text, accelerators=world)
    assert job.parallel.world == world
    assert job.parallel.data == replicate * shard
    assert job.global_batch == local * replicate * shard
    assert job.micro_batches == (local if pp > 1 else 1)
    assert job.parallel.virtual == (2 if looped and pp > 1 else 1)
    assert job.parallel.shard_degree == (shard * cp if shard * cp > 1 else 1)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has none of"),
        ("[model", "is no TOML"),
        ("[model]\nflavor = '9B'", "2: `model.flavor`: unknown flavor '9B'; did you mean '8B'"),
        ("[model]\nname = 'bert'", "unknown model name"),
        ("[model]\nflavor = 8", "is no text"),
        ("[training]\nseq_len = -5", "2: `training.seq_len`: -5 is out of range"),
        ("[training]\nseq_len = 1e9", "no whole number"),
        ("[training]\nlocal_batch_size = true", "no whole number"),
        (
            "[parallelism]\npipeline_parallel_schedule = 'zigzag'\npipeline_parallel_degree = 2",
            "unknown schedule",
        ),
        ("[parallelism]\ntensor_parallel_degree = 3", "2: `parallelism.tensor_parallel_degree`: 3 does not"),
        (
            "[model]\nflavor='8B'\n[training]\nseq_len = 8191\n[parallelism]\ncontext_parallel_degree = 3",
            "4: `training.seq_len`: 8191 is not a multiple",
        ),
        ("[activation_checkpoint]\nmode = 'some'\n[model]\nflavor='8B'", "unknown mode"),
        ("[training]\nlocal_batch_size = 3\nglobal_batch_size = 4", "not a multiple"),
    ],
)
def test_malformed_files_are_one_sentence(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(BadInput, match=words) as caught:
        imported(tmp_path, text)
    assert "\n" not in str(caught.value)


@settings(deadline=None, max_examples=150)
@given(st.text(max_size=80))
def test_any_text_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    file = tmp_path_factory.mktemp("f") / "x.toml"
    file.write_text("[parallelism]\n" + text, encoding="utf-8", errors="replace")
    with contextlib.suppress(BadInput):
        from_torchtitan(file).scenario()
