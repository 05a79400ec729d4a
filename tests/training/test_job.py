"""What a training job refuses, message by message, and what it derives."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from euston import catalog
from euston.cluster import Parallel
from euston.errors import CatalogError, ConfigError
from euston.models import Balance, transformer
from euston.training import SoftwareProfile, TrainingJob, software


def job(**changes: Any) -> TrainingJob:
    base = TrainingJob(
        transformer("llama3-8b"),
        Parallel(tensor=2, pipeline=4, data=16),
        global_batch=960,
        micro_batch=3,
        sequence=4096,
    )
    return replace(base, **changes)


def test_derived_counts() -> None:
    ours = job(parallel=Parallel(tensor=2, context=2, pipeline=4, data=16))
    assert ours.micro_batches == 20
    assert ours.tokens == 3 * 4096 // 2
    assert ours.tokens_per_step == 960 * 4096
    ours.check()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"global_batch": 1000},
            "`jobs[0].batch.global`: 1000 is not a multiple of data*micro = 48; nearest 960 or 1008",
        ),
        (
            {"global_batch": 10},
            "`jobs[0].batch.global`: 10 is not a multiple of data*micro = 48; nearest 48",
        ),
        ({"global_batch": 0}, "`jobs[0].batch.global`: 0 must be at least 1"),
        ({"micro_batch": -1}, "`jobs[0].batch.micro`: -1 must be at least 1"),
        (
            {"sequence": 4095, "parallel": Parallel(context=2, data=16)},
            "`jobs[0].batch.sequence`: 4095 is not a multiple of context = 2; nearest 4094 or 4096",
        ),
        (
            {"schedule": "interleave"},
            "`jobs[0].schedule`: unknown schedule 'interleave'; did you mean 'interleaved'?",
        ),
        (
            {"recompute": "ful"},
            "`jobs[0].recompute`: unknown recompute 'ful'; did you mean 'full'?",
        ),
        (
            {"precision": "bf61"},
            "`jobs[0].precision`: unknown precision 'bf61'; did you mean 'bf16'?",
        ),
        (
            {"parallel": Parallel(pipeline=4, virtual=2, data=16)},
            "`jobs[0].schedule`: 1f1b runs one chunk per stage and `jobs[0].parallel.virtual` is 2; "
            + "set interleaved or virtual 1",
        ),
        (
            {"parallel": Parallel(pipeline=9, virtual=4, data=16), "schedule": "interleaved"},
            "`jobs[0].parallel.virtual`: 9 stages x 4 = 36 chunks, but only 32 layers, embedding and head "
            + "to fill them; at most 3",
        ),
        (
            {"parallel": Parallel(tensor=12, data=16)},
            "`jobs[0].parallel.tensor`: 12 does not divide 32 heads; nearest 8 or 16",
        ),
        (
            {"parallel": Parallel(pipeline=4, data=16), "slots": False, "stages": (8, 8, 8)},
            "`jobs[0].stages`: 3 entries; needs 4, one per stage and chunk (4 x 1)",
        ),
        (
            {"stages": (8, 8, 8, 9)},
            "`jobs[0].stages`: the entries sum to 33; the model has 32 layers",
        ),
        (
            {"software": SoftwareProfile(gradient_dtype="fp31")},
            "`jobs[0].software.gradient_dtype`: unknown gradient dtype 'fp31'; did you mean 'fp32'?",
        ),
    ],
)
def test_refusals(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        job(**changes).check()
    assert str(error.value) == message


def test_the_place_is_the_callers() -> None:
    with pytest.raises(ConfigError, match=r"^`jobs\[1\]\.batch\.global`"):
        job(global_batch=1000).check(where="jobs[1]")


def test_experts_and_their_balance_are_checked() -> None:
    layout = Parallel(data=8, expert=8)
    job = TrainingJob(transformer("deepseek-v3"), layout, global_batch=8, sequence=4096)
    job.check()
    assert (job.expert_tensor, job.expert_data) == (1, 1)
    with pytest.raises(ConfigError, match=r"`jobs\[0\].balance.trace`: 2 entries for 256 experts"):
        replace(job, balance=Balance("trace", trace=(1.0, 2.0))).check()
    with pytest.raises(ConfigError, match=r"`jobs\[0\].recompute_modules`: unknown module 'norms'"):
        replace(job, recompute="selective", recompute_modules=("norms",)).check()


def test_every_profile_of_the_catalogue_is_complete() -> None:
    for name in catalog.names("software"):
        profile = software(name)
        assert profile.name == name and profile.software_date
        profile.check()
    assert software("megatron-2022").attention == "unfused"


def test_profile_overrides() -> None:
    assert software("megatron-2022", p2p_overlap=True).p2p_overlap
    for name, expected in (("bridge-2026", [False, True]), ("llama3-2024", [True, True])):
        made = [
            TrainingJob(
                transformer("llama3-8b"), Parallel(pipeline=2, virtual=v), global_batch=8, sequence=2048,
                schedule="interleaved" if v > 1 else "1f1b", software=software(name),
            )
            for v in (1, 2)
        ]  # fmt: skip
        assert [one.sends_overlap for one in made] == expected  # Megatron-LM needs chunks to overlap with
    with pytest.raises(ConfigError, match="did you mean 'p2p_overlap'"):
        software("megatron-2022", p2p_overlaps=True)
    with pytest.raises(CatalogError, match="megatron-2022"):
        software("megatron-2202")
