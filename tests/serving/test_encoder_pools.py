"""Images in scenario files, encoded in a pool of their own or beside the prompts.

Oracles: closed forms of a request that is alone, bytes by hand, and a plain queue of encoders.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from euston import catalog
from euston import scenario as scenarios
from euston.errors import BadInput
from euston.models import transformer
from euston.runs.serving import prepare
from euston.serving.providers import encoder_seconds, image_tokens
from euston.simulate import simulate

MODEL, PIXELS, PROMPT, ANSWER = "qwen2-vl-7b", 448, 200, 20
HIDDEN, TOKENS = 3584, 16 * 16  # 448 / 14 patches a side, 2 x 2 of them a token
BOTH: list[dict[str, Any]] = [{"role": "both", "replicas": 2}]
ENCODE: list[dict[str, Any]] = [{"role": "encode", "replicas": 2}, *BOTH]
SPLIT: list[dict[str, Any]] = [
    {"role": "encode", "replicas": 2}, {"role": "prefill", "replicas": 2}, {"role": "decode", "replicas": 2}
]  # fmt: skip


def document(pools: list[dict[str, Any]], *, network: str = "none", **changes: Any) -> dict[str, Any]:
    workload: dict[str, Any] = {
        "generator": "independent", "requests": 40, "rate": 0.5,
        "settings": {"prompt": PROMPT, "answer": ANSWER}, "images": {"size": PIXELS, "mean": 3},
    }  # fmt: skip
    return {
        "version": 1, "run": {"network": network},
        "sites": [
            {
                "name": "lab", "accelerator": "h100-sxm", "hosts": 1,
                "fabric": {"kind": "leaf_spine", "nic": "400 Gb/s", "hosts_per_leaf": 1, "spines": 1},
            }
        ],
        "jobs": [
            {
                "name": "see", "kind": "serving", "model": MODEL, "software": "none", "pools": pools,
                "workload": {**workload, **changes.pop("workload", {})}, **changes,
            }
        ],
    }  # fmt: skip


def log(pools: list[dict[str, Any]], **changes: Any) -> tuple[Any, Any, np.ndarray[Any, Any]]:
    """The service's objects, the table of requests, and images per request."""
    s = scenarios.from_data(document(pools, **changes))
    return prepare(s).services[0], simulate(s), prepare(s).services[0].requests.n_images.astype(np.int64)


def seconds(images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    found = encoder_seconds(
        transformer(MODEL), catalog.accelerator("h100-sxm"), PIXELS, np.maximum(images, 1)
    )
    return np.where(images > 0, found, 0.0)


def prefill(one: Any, role: str, images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    step = next(pool.step for pool in one.deployment.pools if pool.role == role)
    return np.array([step.seconds([PROMPT + TOKENS * int(n)], [0]) for n in images])


def test_tokens_of_an_image() -> None:
    assert image_tokens(transformer(MODEL), PIXELS) == TOKENS


@pytest.mark.parametrize("network", ["none", "fluid"])
@pytest.mark.parametrize(("pools", "role"), [(ENCODE, "both"), (SPLIT, "prefill")])
def test_a_request_alone_is_encoded_sent_and_filled(pools: Any, role: str, network: str) -> None:
    """TTFT = encoder + embeddings over a NIC + prompt: nobody is in anybody's way at this rate."""
    one, result, images = log(pools, network=network)
    table = result.tables["requests"]
    wire = images * TOKENS * HIDDEN * 2 / (400e9 / 8)
    if network == "fluid":  # inside a host the scale-up links carry it
        wire = images * TOKENS * HIDDEN * 2 / float(one.here.fabric.capacity.max())
    expected = seconds(images) + wire + prefill(one, role, images)
    near = np.isclose(table["ttft"].to_numpy(), expected, rtol=0.02)
    assert near.mean() >= 0.9  # a few arrive together
    kv = (PROMPT + TOKENS * images) * one.deployment.pools[-1].kv_bytes_per_token * (role == "prefill")
    assert result.scalars["handed_bytes"] == pytest.approx((images * TOKENS * HIDDEN * 2 + kv).sum())
    assert table["outcome"].unique().to_list() == ["done"] and (table["tokens"] == ANSWER).all()
    rows = {row["role"]: row for row in result.tables["pools"].to_dicts()}
    assert rows["encode"]["prefill_tokens"] == images.sum() * TOKENS
    assert all(row["recomputed_tokens"] == 0 for row in rows.values())


def test_without_encoders_the_step_that_takes_a_request_up_encodes() -> None:
    one, result, images = log(BOTH)
    each = float(seconds(np.ones(1, np.int64))[0])
    expected = images * each + prefill(one, "both", images)
    assert np.isclose(result.tables["requests"]["ttft"].to_numpy(), expected, rtol=0.02).mean() >= 0.9
    assert result.scalars["handed_bytes"] == 0


def test_a_queue_of_one_encoder() -> None:
    """Text waits for nobody; images in order of arrival behind one encoder that takes one request a step."""
    pools = [{"role": "encode", "engine": {"max_num_seqs": 1}}, {"replicas": 7}]
    rate = 0.7 / float(seconds(np.array([3]))[0])
    one, result, images = log(pools, workload={"requests": 300, "rate": rate})
    arrival, free = one.requests.arrival_s, 0.0
    expected = np.zeros(300)
    for i in range(300):
        if images[i]:
            free = max(free, arrival[i]) + seconds(images[i : i + 1])[0]
            expected[i] = free - arrival[i]
    wire = images * TOKENS * HIDDEN * 2 / (400e9 / 8)
    found = result.tables["requests"]["ttft"].to_numpy() - wire - prefill(one, "both", images)
    waited = expected > 2 * seconds(images)
    assert waited.sum() > 50 and np.median(np.abs(found - expected) / expected.clip(1e-3)) < 0.1
    assert found[images == 0].max() < 0.1


def test_more_images_than_a_step_takes() -> None:
    """Encoded in several steps, one after the other; an encoder has no blocks to run out of."""
    pools = [{"role": "encode", "engine": {"max_num_batched_tokens": TOKENS}}, *BOTH]
    one, result, images = log(pools)
    assert images.max() > 4 and result.scalars["done"] == 40
    each = float(seconds(np.ones(1, np.int64))[0])
    wire = images * TOKENS * HIDDEN * 2 / (400e9 / 8)
    expected = images * each + wire + prefill(one, "both", images)
    assert np.isclose(result.tables["requests"]["ttft"].to_numpy(), expected, rtol=0.02).mean() >= 0.9


def test_dead_encoders_hold_images_and_lose_nothing() -> None:
    failing = {"failures": [{"pool": 0, "replica": 0, "at": "1 s", "until": "30 s"}]}
    pools = [{"role": "encode"}, *BOTH]
    _, result, images = log(pools, **failing)
    assert result.scalars["done"] == 40
    ttft = result.tables["requests"]["ttft"].to_numpy()
    assert ttft[images == 0].max(initial=0.0) < 1.0 < ttft[images > 0].max()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (document(ENCODE, workload={"images": None}), r"pools\[0\]\.role.*encode needs images"),
        (document(ENCODE, model="llama3-8b"), r"images\.size.*no vision encoder"),
        (document(ENCODE, workload={"images": {"size": 8, "mean": 1}}), "smaller than one token"),
        (document(ENCODE, workload={"images": {"size": 448}}), r"images\.mean.*no images of their own"),
        (document([{"role": "encode", "tensor": 2}, *BOTH]), r"pools\[0\]\.tensor.*use 1"),
        (document([{"role": "encode"}]), "have the roles encode"),
    ],
)
def test_refusals(given: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        prepare(scenarios.from_data(given))
