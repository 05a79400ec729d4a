"""`balance`, `images` and `recompute_modules` of a training job reach the job as the rooms' objects."""

from __future__ import annotations

from typing import Any

import pytest

from euston.errors import BadInput
from euston.models import Balance
from euston.scenario import build, from_data


def job(model: str, hosts: int = 1, **keys: Any) -> Any:
    return from_data(
        {
            "version": 1,
            "sites": [
                {
                    "name": "lab",
                    "accelerator": "h200-sxm",
                    "hosts": hosts,
                    "fabric": {"preset": "generic-400g-clos"},
                }
            ],
            "jobs": [
                {
                    "name": "t",
                    "kind": "training",
                    "model": model,
                    "parallel": {"data": 8 * hosts, "expert": 8, "sharding": "zero3"},
                    "batch": {"global": 8 * hosts, "sequence": 4096},
                    **keys,
                }
            ],
        }
    )


def test_defaults_are_even_and_imageless() -> None:
    made = build.training_job(job("mixtral-8x7b"), 0)
    assert made.balance == Balance()
    assert made.images is None
    assert made.recompute_modules == ("core_attn",)


def test_a_busier_expert_costs_as_the_room_says() -> None:
    import euston as eu

    even = job("mixtral-8x7b", hosts=8)
    skewed = job("mixtral-8x7b", hosts=8, balance={"kind": "zipf", "alpha": 0.5})
    assert build.training_job(skewed, 0).balance == Balance("zipf", 0.5)
    assert eu.simulate(skewed).step_time > 1.05 * eu.simulate(even).step_time


def test_images_make_micro_batches_unequal() -> None:
    keys = {
        "parallel": {"tensor": 4, "data": 2},
        "batch": {"global": 32, "sequence": 4096},
        "images": {"size": 448, "counts": [0, 1, 4], "shares": [2, 1, 1], "seed": 3},
    }
    made = build.training_job(job("qwen2-vl-7b", **keys), 0)
    assert made.images is not None
    assert made.images.patches == (448 // 14) ** 2
    assert made.work is not None
    assert len(made.work) == 16
    assert len(set(made.work)) > 1


@pytest.mark.parametrize(
    ("model", "keys", "place", "words"),
    [
        ("mixtral-8x7b", {"images": {"size": 224}}, "jobs[0].images", "no vision encoder"),
        ("mixtral-8x7b", {"balance": {"kind": "zipff"}}, "jobs[0].balance.kind", "zipf"),
        ("mixtral-8x7b", {"balance": {"kind": "trace", "trace": [1, 2]}}, "balance.trace", "2 entries for 8"),
        ("mixtral-8x7b", {"recompute_modules": ["softmax"]}, "jobs[0].recompute_modules", "core_attn"),
        ("mixtral-8x7b", {"precision": "fp8-blok"}, "jobs[0].precision", "fp8-block"),
    ],
)
def test_wrong_keys_are_named(model: str, keys: dict[str, Any], place: str, words: str) -> None:
    with pytest.raises(BadInput) as caught:
        build.training_job(job(model, **keys), 0).check(where="jobs[0]")
    assert place in str(caught.value)
    assert words in str(caught.value)
