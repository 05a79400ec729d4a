"""Megatron-LM arguments as scenarios.

Oracles: Megatron-LM's published rules recomputed here by themselves (arguments.py: replicas = world /
(tp pp cp), padded vocabulary, SwiGLU width, layers of virtual stages; SC'21 for GPT-3's parameters), the
parameter counts of the catalogue's models, and the simulator that runs what was imported.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import euston as eu
from euston import scenario as scenarios
from euston.errors import BadInput
from euston.models import transformer
from euston.scenario import build
from euston.scenario.importers import Machines, from_megatron, megatron, torchtitan

GPT3 = (
    "--num-layers 96 --hidden-size 12288 --num-attention-heads 96 --seq-length 2048 "
    "--max-position-embeddings 2048 --tokenizer-type GPT2BPETokenizer --micro-batch-size 1 --bf16 "
)

SCRIPT = """#!/bin/bash
GPUS_PER_NODE=8
NUM_NODES=4
TP=2
BATCH=$((2 * 128))
DISTRIBUTED_ARGS=(
    --nproc_per_node $GPUS_PER_NODE
    --nnodes ${NUM_NODES}
    --master_addr $MASTER_ADDR
)
MODEL_ARGS=(
    --num-layers 32   # depth
    --hidden-size 4096 --ffn-hidden-size 14336
    --num-attention-heads 32 --group-query-attention --num-query-groups 8
    --seq-length 4096 --max-position-embeddings 8192 --position-embedding-type rope
    --attention-dropout 0.0 --hidden-dropout 0.0
    --swiglu --normalization RMSNorm --untie-embeddings-and-output-weights --disable-bias-linear
    --num-experts 8 --moe-router-topk 2 --moe-grouped-gemm --expert-model-parallel-size 8
)
if [[ "$DTYPE" == "fp8" ]]; then
    DTYPE_ARGS+=(
        "--fp8-format hybrid"
    )
fi
TRAIN="--micro-batch-size 1 \\
   --global-batch-size $BATCH --bf16 --vocab-size 32000
   --tensor-model-parallel-size $TP"
torchrun ${DISTRIBUTED_ARGS[@]} pretrain_gpt.py \\
   ${MODEL_ARGS[@]} $TRAIN --sequence-parallel --use-distributed-optimizer \\
   --save "${1:-checkpoints}/x" --frobnicate 3
"""


LINE = next(i for i, line in enumerate(SCRIPT.splitlines(), 1) if "--frobnicate" in line)


def job_of(text: str, **machines: object):  # type: ignore[no-untyped-def]
    found = from_megatron(text, Machines(**machines))  # type: ignore[arg-type]
    return build.training_job(found.scenario(), 0), found


def test_gpt3_has_its_published_parameters_and_megatrons_degrees() -> None:
    job, _ = job_of(
        GPT3 + "--tensor-model-parallel-size 8 --pipeline-model-parallel-size 8 --global-batch-size 1536 "
        "--num-layers-per-virtual-pipeline-stage 2 --sequence-parallel --use-distributed-optimizer",
        accelerators=1024,
    )
    p = job.parallel
    assert (p.data, p.virtual, p.sequence, p.sharding) == (1024 // 64, 96 // 8 // 2, True, "zero1")
    assert job.micro_batches == 1536 // 16
    assert job.tokens_per_step == 1536 * 2048
    padded = -(-50257 // (128 * 8)) * 128 * 8
    assert job.model.vocab == padded == 51200
    # SC'21 equation 2: 12 l h^2 (1 + 13 / (12 h) + (V + s) / (12 l h)) parameters
    layers, h = 96, 12288
    assert job.model.parameters() == pytest.approx(
        12 * layers * h**2 * (1 + 13 / (12 * h) + (padded + 2048) / (12 * layers * h)), rel=1e-6
    )


def test_a_launch_script_gives_mixtral_and_the_simulator_runs_it(tmp_path: Path) -> None:
    file = tmp_path / "run.sh"
    file.write_text(SCRIPT)
    found = from_megatron(file)
    job = build.training_job(found.scenario(), 0)
    assert job.model.parameters() == transformer("mixtral-8x7b").parameters()
    assert job.parallel.world == 4 * 8
    assert (job.parallel.tensor, job.parallel.expert, job.parallel.data) == (2, 8, 16)
    assert (job.global_batch, job.precision) == (256, "fp8")
    assert any("--frobnicate" in w and f"line {LINE}" in w for w in found.warnings)
    assert any("branches" in w for w in found.warnings)
    assert "--save" in found.ignored
    scenario = tmp_path / "out.yaml"
    scenario.write_text(found.text())
    result = eu.simulate(scenario)
    assert result.scalars["step_time"] > 0
    assert result.scalars["tokens_per_second"] * result.scalars["step_time"] == pytest.approx(256 * 4096)


def test_latent_attention_and_layers_without_experts() -> None:
    job, _ = job_of(
        "--num-layers 61 --hidden-size 7168 --num-attention-heads 128 --ffn-hidden-size 18432 "
        "--seq-length 4096 "
        "--multi-latent-attention --q-lora-rank 1536 --kv-lora-rank 512 --qk-head-dim 128 "
        "--qk-pos-emb-head-dim 64 --v-head-dim 128 --num-experts 256 --moe-router-topk 8 "
        "--moe-ffn-hidden-size 2048 --moe-shared-expert-intermediate-size 2048 "
        "--moe-layer-freq ([0]*3+[1]*58) --moe-router-enable-expert-bias --swiglu --normalization RMSNorm "
        "--disable-bias-linear --untie-embeddings-and-output-weights --position-embedding-type rope "
        "--padded-vocab-size 129280 --micro-batch-size 1 --global-batch-size 128 --bf16 "
        "--fp8-format e4m3 --fp8-recipe blockwise --expert-model-parallel-size 64 "
        "--pipeline-model-parallel-size 16 --pipeline-model-parallel-layout Et*3|(tttt|)*14ttL "
        "--mtp-num-layers 1",
        accelerators=1024,
    )
    assert job.model.parameters() == transformer("deepseek-v3").parameters()
    assert job.precision == "fp8-block"
    assert job.stages == (3, *[4] * 14, 2)


def test_swiglu_width_and_group_defaults_follow_arguments_py() -> None:
    text = (
        "--num-layers 4 --hidden-size 4096 --num-attention-heads 32 --seq-length 128 --micro-batch-size 1 "
        "--bf16 --vocab-size 1000 --position-embedding-type rope --swiglu"
    )
    job, found = job_of(text)
    assert job.model.ffn == int((4 * 4096 * 2 / 3) / 64) * 64 == 10880
    assert job.model.kv_heads == 32
    assert job.global_batch == 1  # micro x replicas
    assert any("number of ranks" in warning for warning in found.warnings)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("", (True, "none")),
        ("--recompute-activations", (True, "selective")),
        ("--recompute-granularity full --recompute-method uniform --recompute-num-layers 1", (True, "full")),
        ("--attention-dropout 0 --hidden-dropout 0.0", (False, "none")),
    ],
)
def test_dropout_and_recompute(flags: str, expected: tuple[bool, str]) -> None:
    job, _ = job_of(GPT3 + flags)
    assert (job.software.dropout, job.recompute) == expected


def test_overlap_and_gradient_flags() -> None:
    job, _ = job_of(
        GPT3 + "--pipeline-model-parallel-size 2 --num-virtual-stages-per-pipeline-rank 3 --tp-comm-overlap "
        "--overlap-grad-reduce --overlap-param-gather --grad-reduce-in-bf16 --context-parallel-size 2 "
        "--cp-comm-type a2a --global-batch-size 8",
    )
    s = job.software
    assert (s.p2p_overlap, s.data_overlap, s.tensor_overlap) == (True, True, True)
    assert (s.gradient_dtype, s.context, job.parallel.virtual) == ("bf16", "ulysses", 3)
    plain, _ = job_of(GPT3 + "--pipeline-model-parallel-size 2 --global-batch-size 8")
    assert not plain.software.p2p_overlap  # only the interleaved schedule overlaps its sends


@settings(deadline=None, max_examples=40)
@given(
    tp=st.sampled_from([1, 2, 4, 8]),
    pp=st.sampled_from([1, 2, 4, 8]),
    cp=st.sampled_from([1, 2]),
    virtual=st.sampled_from([1, 2, 3]),
    dp=st.sampled_from([1, 2, 4]),
    accumulate=st.integers(1, 4),
    extra=st.booleans(),
)
def test_degrees_tokens_and_stages_by_megatrons_rules(
    tp: int, pp: int, cp: int, virtual: int, dp: int, accumulate: int, extra: bool
) -> None:
    layers = 48 - (2 if extra and pp > 1 else 0)
    micro_batches = accumulate * pp
    text = GPT3.replace("--num-layers 96", f"--num-layers {layers}") + (
        f"--tensor-model-parallel-size {tp} --pipeline-model-parallel-size {pp} --context-parallel-size {cp} "
        f"--global-batch-size {micro_batches * dp} --num-virtual-stages-per-pipeline-rank {virtual} "
    )
    if extra:
        text += "--account-for-embedding-in-pipeline-split --account-for-loss-in-pipeline-split "
    job, _ = job_of(text, accelerators=tp * pp * cp * dp)
    assert job.parallel.data == dp
    assert job.micro_batches == micro_batches
    assert job.parallel.virtual == (virtual if pp > 1 else 1)
    placed = job.place()
    assert sum(int(n) for n in [n for stage in placed.layers for n in stage]) == layers
    if pp > 1:
        each = [48 // (pp * virtual)] * (pp * virtual)
        if extra:
            each[0] -= 1
            each[-1] -= 1
        # chunk c of stage s holds block c * pp + s of the model
        assert [int(placed.layers[i % pp][i // pp]) for i in range(pp * virtual)] == each


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no such file|No such file|Is a directory|holds no"),
        ("--num-layers", "--num-layers: has no value"),
        ("--num-layers abc --hidden-size 8", "1: --num-layers: 'abc' is no whole number"),
        ("--num-layers $N --hidden-size 8", "shell variable"),
        ("--num-layers 99999999999999999999 --hidden-size 8", "no whole number"),
        ("--num-layers -3 --hidden-size 8", "out of range"),
        (GPT3 + "--global-batch-size 7 --micro-batch-size 2", "not a multiple"),
        (GPT3 + "--bf16 --fp16", "given together"),
        (GPT3 + "--fp8-format hybrid --fp8-recipe wild", "unknown value 'wild'"),
        (GPT3 + "--moe-layer-freq __import__('os') --num-experts 4", "moe-layer-freq"),
        (GPT3 + "--num-experts 4 --moe-layer-freq [1]*9999+[1]*9999", "moe-layer-freq"),
        (GPT3 + "--pipeline-model-parallel-size 5", "do not divide into 5 stages"),
        (
            GPT3 + "--pipeline-model-parallel-size 2 --pipeline-model-parallel-layout E|(t*9999)*9999",
            "layout",
        ),
        (GPT3 + "--tensor-model-parallel-size 7", "does not divide"),
        (GPT3 + "--num-query-groups 5 --group-query-attention", "does not divide"),
        (GPT3 + "--num-layers 'open", "never closed"),
    ],
)
def test_malformed_arguments_are_one_sentence(text: str, words: str) -> None:
    with pytest.raises(BadInput, match=words) as caught:
        from_megatron(text).scenario()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("flags", "machines", "words"),
    [
        ("--tensor-model-parallel-size 7", {}, r"job.txt:2: --tensor-model-parallel-size: 7 does not"),
        ("--context-parallel-size 3", {}, r"job.txt:1: --seq-length: 2048 is not a multiple of context = 3"),
        ("--expert-model-parallel-size 4", {}, r"job.txt:2: --expert-model-parallel-size: 4, but the model"),
        (
            "--num-experts 6 --expert-model-parallel-size 4",
            {},
            r"job.txt:2: --expert-model-parallel-size: 4 does not divide 6 experts",
        ),
        ("--max-position-embeddings 1024", {}, r"job.txt:2: --max-position-embeddings: 1024 is less than"),
        ("", {"accelerator": "h10"}, r"^--accelerator: unknown accelerator 'h10'"),
        ("", {"fabric": "h10"}, r"^--fabric: unknown fabric 'h10'"),
        ("--tensor-model-parallel-size 16", {"per_host": 6}, r"job.txt:2: --tensor-model-.*hosts of 6"),
    ],
)
def test_what_the_scenario_refuses_is_said_of_the_flag(
    tmp_path: Path, flags: str, machines: dict[str, object], words: str
) -> None:
    """The user never saw the scenario: its keys would tell him nothing."""
    file = tmp_path / "job.txt"
    file.write_text(f"{GPT3.strip()}\n{flags}\n")
    with pytest.raises(BadInput) as caught:
        from_megatron(file, Machines(**machines)).scenario()  # type: ignore[arg-type]
    message = str(caught.value).replace(str(file), "job.txt")
    assert re.search(words, message) and "jobs[0]" not in message, message


def test_every_origin_is_a_place_of_the_scenario() -> None:
    """Oracle: the JSON Schema of scenarios; a misspelt place would never be found."""
    keys = set(re.findall(r'"([a-z_]+)": ', json.dumps(scenarios.schema()["$defs"])))
    for place in (*megatron._ORIGINS, *torchtitan._ORIGINS):
        assert place.startswith("overrides.") or set(place.split(".")) <= keys, place


@settings(deadline=None, max_examples=300)
@given(st.text(alphabet="-=$(){}[]'\"\\#\n \t;|&*+/%:!0189abnumlayers", max_size=120))
def test_any_text_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    try:
        from_megatron("--num-layers 4 " + text).scenario()
    except BadInput as error:
        assert "\n" not in str(error)


def test_binary_and_huge_files_are_refused(tmp_path: Path) -> None:
    for content, words in ((b"\xff\xfe--a", "UTF-8"), (b"--a\0b", "zero bytes"), (b"-" * 2**21, "1 MiB")):
        file = tmp_path / "x.txt"
        file.write_bytes(content)
        with pytest.raises(BadInput, match=words):
            from_megatron(file)


def test_nothing_of_a_script_is_executed(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    file = tmp_path / "run.sh"
    file.write_text(f"touch {mark}\nX=$(touch {mark})\nY=`touch {mark}`\n--num-layers $(touch {mark})\n")
    with pytest.raises(BadInput, match="num-layers"):
        from_megatron(file)
    assert not mark.exists()
