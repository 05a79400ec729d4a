"""Layouts: exact messages of bad ones; sizes against products written out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from euston.cluster import Parallel
from euston.errors import ConfigError


@dataclass
class Experts:
    experts: int


@dataclass
class Model:
    heads: int = 128
    kv_heads: int = 8
    layers: int = 126
    moe: Experts | None = None


def said(parallel: Parallel, model: Model, accelerators: int) -> str:
    with pytest.raises(ConfigError) as caught:
        parallel.check(model, accelerators, where="jobs[0].parallel")
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_world_is_the_product_without_expert() -> None:
    assert Parallel(tensor=8, context=2, pipeline=16, data=4, expert=8).world == 8 * 2 * 16 * 4
    assert Parallel(context=2, data=4, expert=8).expert_data == 1


def test_llama3_405b_layout_is_accepted() -> None:
    """Llama 3 405B on 16,384 accelerators; 16 x 8 chunks just hold 126 layers, embedding and head."""
    for virtual in (1, 2, 4, 8):
        Parallel(tensor=8, pipeline=16, data=128, virtual=virtual).check(Model(), 16384)


@pytest.mark.parametrize(
    ("parallel", "model", "accelerators", "message"),
    [
        (
            Parallel(tensor=12),
            Model(heads=64),
            12,
            "`jobs[0].parallel.tensor`: 12 does not divide 64 heads; nearest 8 or 16",
        ),
        (
            Parallel(tensor=128),
            Model(heads=64),
            128,
            "`jobs[0].parallel.tensor`: 128 does not divide 64 heads; nearest 64",
        ),
        (
            Parallel(tensor=6),
            Model(heads=48, kv_heads=8),
            6,
            "`jobs[0].parallel.tensor`: 6 neither divides 8 key-value heads nor is a multiple of them; "
            "nearest 4 or 8",
        ),
        (
            Parallel(pipeline=200),
            Model(),
            200,
            "`jobs[0].parallel.pipeline`: 200 stages but only 126 layers",
        ),
        (
            Parallel(pipeline=16, virtual=9),
            Model(),
            16,
            "`jobs[0].parallel.virtual`: 16 stages x 9 = 144 chunks, but only 126 layers, "
            "embedding and head to fill them; at most 8",
        ),
        (
            Parallel(virtual=2),
            Model(),
            1,
            "`jobs[0].parallel.virtual`: 2 chunks per stage need a pipeline, but pipeline is 1",
        ),
        (
            Parallel(tensor=8, pipeline=16, data=64),
            Model(),
            16384,
            "`jobs[0].parallel`: tensor 8 x context 1 x pipeline 16 x data 64 = 8192 ranks, "
            "but the job has 16384 accelerators; data 128 would fit",
        ),
        (
            Parallel(tensor=8, pipeline=16, data=64),
            Model(),
            1000,
            "`jobs[0].parallel`: tensor 8 x context 1 x pipeline 16 x data 64 = 8192 ranks, "
            "but the job has 1000 accelerators; tensor x context x pipeline = 128 does not divide 1000",
        ),
        (
            Parallel(data=8, expert=8),
            Model(),
            8,
            "`jobs[0].parallel.expert`: 8, but the model has no experts; set 1",
        ),
        (
            Parallel(data=60, expert=12),
            Model(moe=Experts(64)),
            60,
            "`jobs[0].parallel.expert`: 12 does not divide 64 experts; nearest 8 or 16",
        ),
        (
            Parallel(context=2, data=4, expert=16),
            Model(moe=Experts(64)),
            8,
            "`jobs[0].parallel.expert`: 16 does not divide context 2 x data 4 = 8 ranks; nearest 8",
        ),
        (
            Parallel(data=4, expert=2, pipeline=2, context=2, order="tp-cp-pp-ep-dp"),
            Model(moe=Experts(64)),
            16,
            None,
        ),
        (
            Parallel(data=4, expert=4, pipeline=2, order="tp-cp-pp-ep-dp"),
            Model(moe=Experts(64)),
            8,
            "`jobs[0].parallel.order`: 'tp-cp-pp-ep-dp' must end in pp when experts and a pipeline meet",
        ),
    ],
)
def test_messages(parallel: Parallel, model: Model, accelerators: int, message: str | None) -> None:
    if message is None:
        parallel.check(model, accelerators)
    else:
        assert said(parallel, model, accelerators) == message


def test_tensor_above_kv_heads_replicates_them() -> None:
    Parallel(tensor=16).check(Model(heads=128, kv_heads=8), 16)
    Parallel(tensor=3).check(Model(heads=12, kv_heads=1), 3)  # multi-query attention


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"tensor": 0}, "`parallel.tensor`: 0 parts are not possible; 1 means not cut"),
        ({"data": 2.0}, "`parallel.data`: 2.0 is not a whole number"),
        ({"pipeline": True}, "`parallel.pipeline`: True is not a whole number"),
        ({"sharding": "zer1"}, "`parallel.sharding`: unknown sharding 'zer1'; did you mean 'zero1'?"),
        ({"order": "tp-cp-dp-dp-pp"}, "`parallel.order`: dp stands twice in 'tp-cp-dp-dp-pp'"),
        (
            {"order": "tp-dp", "pipeline": 2},
            "`parallel.order`: 'tp-dp' leaves out pp, but pipeline is 2; write for example 'tp-cp-ep-dp-pp'",
        ),
    ],
)
def test_impossible_layouts(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Parallel(**kwargs)
    assert str(caught.value) == message


def test_unknown_dimension_in_order() -> None:
    with pytest.raises(ConfigError, match="unknown dimension 'xx'"):
        Parallel(order="tp-xx")


def test_numpy_integers_and_repr() -> None:
    parallel = Parallel(tensor=np.int64(8), data=4, sharding="zero1")  # type: ignore[arg-type]
    assert type(parallel.tensor) is int
    assert repr(parallel) == "Parallel(tensor=8, data=4, sharding='zero1')"
    assert repr(Parallel()) == "Parallel()"


def test_experts_of_their_own_tensor_degree_recut_the_tensor_ranks():
    """World 16: tensor 4 x data 4; experts whole on a rank, 8 to a group: 2 replicas of each."""
    layout = Parallel(tensor=4, data=4, expert=8, expert_tensor=1)
    assert (layout.expert_ranks, layout.expert_data, layout.experts_apart) == (16, 2, True)
    assert Parallel(tensor=4, data=8, expert=4).expert_data == 2
    assert not Parallel(tensor=4, data=8).experts_apart


def test_shards_of_a_data_group():
    assert Parallel(data=16, sharding="zero3", shard=4).shard_degree == 4
    assert Parallel(data=16, context=2, sharding="zero1").shard_degree == 32
    assert Parallel(data=16).shard_degree == 1
