"""Embeddings between encoders and prompts: bounded room on both sides, and who waits for whom.

Oracles: the recursion of two stations with finite rooms between them (blocking before service), closed forms
of a few requests, and conservation where encoders and decoders die.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from euston import scenario as scenarios
from euston.clock.conductor import Conductor, Message
from euston.errors import BadInput
from euston.runs.serving import prepare
from euston.serving import (
    Deployment,
    Engine,
    Outcome,
    Pool,
    Replica,
    Requests,
    Router,
    Serving,
    StepTime,
    Transport,
    dense,
    serve,
)
from euston.serving.workloads import with_image_names
from euston.simulate import simulate

LINEAR = StepTime(tokens=dense([0, 10], [0.0, 0.01]))  # 1 ms a token, nothing else
IMAGE = 50  # tokens of an image
BYTES = 100.0  # of a token's embedding


def encoder(blocks: int, **changes: Any) -> Pool:
    engine = Engine(blocks, max_num_batched_tokens=100_000, max_num_seqs=1)
    return Pool(engine, LINEAR, role="encode", image_tokens=IMAGE, embedding_bytes=BYTES, **changes)


def decoder(room: int, *, seqs: int = 1, blocks: int = 10_000, **changes: Any) -> Pool:
    engine = Engine(blocks, max_num_batched_tokens=100_000, max_num_seqs=seqs)
    return Pool(engine, LINEAR, embedding_tokens=room * IMAGE, **changes)


def two_stations(
    arrival: Any, images: Any, prompt: Any, *, encoder_room: int, decoder_room: int, per_image: float
) -> Any:
    """First tokens: each stage takes one request at a time, in order, and none before there is room."""
    n = len(arrival)
    encoded, sent, there, done = (np.zeros(n) for _ in range(4))

    def free(i: int, room: int, taken: Any, left: Any) -> float:
        """Earliest time at which those before ``i`` leave room for it; all were ``taken`` before now."""
        for time in np.sort(np.concatenate([[0.0], left[:i]])):
            if sum(min(images[j], room) for j in range(i) if left[j] > time) + min(images[i], room) <= room:
                return float(time)
        raise AssertionError

    for i in range(n):
        before = encoded[i - 1] if i else 0.0
        start = max(arrival[i], before, free(i, encoder_room, encoded, there))
        encoded[i] = start + images[i] * IMAGE * 1e-3
        sent[i] = max(encoded[i], sent[i - 1] if i else 0.0, free(i, decoder_room, sent, done))
        there[i] = sent[i] + images[i] * per_image
        done[i] = max(there[i], done[i - 1] if i else 0.0) + prompt[i] * 1e-3
    return done


@pytest.mark.parametrize(
    ("encoder_room", "decoder_room", "most", "rate"),
    [
        (3, 3, 3, 1e5), (4, 3, 3, 1e5), (100, 1, 3, 1e5), (3, 1, 3, 1e4), (4, 100, 0, 1e30),
        (3, 100, 0, 1e30), (2, 1, 1, 1e30), (1, 2, 1, 1e30), (5, 7, 1, 1e30), (100, 100, 0, 1e30),
    ],
)  # fmt: skip
def test_rooms_are_finite(encoder_room: int, decoder_room: int, most: int, rate: float) -> None:
    """``most`` images each, 0: one to three. What sets out together is of one size, or alone on the wire."""
    n = 150
    rng = np.random.default_rng(encoder_room + decoder_room)
    images = np.full(n, most) if most else rng.integers(1, 4, n)
    prompt = rng.integers(20, 300, n)
    arrival = rng.exponential(0.16, n).cumsum()
    requests = Requests.of(arrival, prompt, 1, n_images=images)
    deployment = Deployment((encoder(encoder_room), decoder(decoder_room)), Transport(bandwidth=rate))
    found = serve(requests, deployment)
    expected = two_stations(
        arrival, images, prompt, encoder_room=encoder_room, decoder_room=decoder_room,
        per_image=IMAGE * BYTES / rate,
    )  # fmt: skip
    assert np.allclose(found.first, expected, rtol=0, atol=1e-6)
    roomy = serve(requests, Deployment((encoder(10_000), decoder(0)), Transport(bandwidth=rate)))
    if encoder_room == most == 3 and rate == 1e5:
        assert (found.first > roomy.first + 1e-3).mean() > 0.3  # it did matter
    assert (found.ranks["used_blocks"] == 0).all() and (found.ranks["held_images"] == 0).all()
    assert found.ranks["peak_blocks"][0] <= encoder_room


def test_a_slow_decoder_stops_the_encoder() -> None:
    """Room for one image on either side: the third is not encoded before the first prompt is computed."""
    requests = Requests.of([0.0, 0.0, 0.0], 1000, 1, n_images=1)
    result = serve(requests, Deployment((encoder(1), decoder(1)), Transport(bandwidth=1e30)))
    # encoded from 0, 0.05 and 1.05 on (the second stays until the first prompt, from 0.05 to 1.05, is done)
    assert result.first.tolist() == pytest.approx([1.05, 2.05, 3.05])
    assert result.end == pytest.approx(3.05)
    wide = serve(requests, Deployment((encoder(1), decoder(3, seqs=3)), Transport(bandwidth=1e30)))
    assert wide.first[1] == pytest.approx(1.05 + 2.0)  # both arrived meanwhile: one step for two


def test_more_images_than_rooms() -> None:
    """An encoder takes them all or none; a decoder uses them up as they come."""
    requests = Requests.of([0.0, 0.0, 0.0], 100, 1, n_images=[4, 5, 0])
    result = serve(requests, Deployment((encoder(4), decoder(1)), Transport(bandwidth=1e30)))
    assert result.outcome.tolist() == [Outcome.DONE, Outcome.TOO_LARGE, Outcome.DONE]
    assert result.first[0] == pytest.approx(0.2 + 0.1)


def run(requests: Requests, deployment: Deployment, changes: list[tuple[float, int, str]]) -> Any:
    engine = Serving(requests, deployment)
    for time, rank, what in changes:
        engine.advance(-1.0, [Message(time, "serving", Replica(rank, what), "test")])
    Conductor([engine]).run()
    return engine.result()


def test_embeddings_die_with_their_encoder() -> None:
    """The second request's wait for room when the encoder dies: it is encoded again, by the other one."""
    requests = Requests.of([0.0, 0.0], 1000, 2, n_images=1)
    deployment = Deployment((encoder(2, replicas=2), decoder(1)), Transport(bandwidth=1e30))
    for dead in (0, 1):
        result = run(requests, deployment, [(0.5, dead, "down")])
        assert result.done.all() and result.ranks["prefill_tokens"][:2].sum() == (2 + dead) * IMAGE
        assert result.retries.sum() == dead


@pytest.mark.parametrize("late", [0.5, 1.5])
def test_a_dead_decoder_needs_images_again(late: float) -> None:
    """Its prompts are computed elsewhere from embeddings made anew, with the tokens that it gave before."""
    requests = Requests.of([0.0], 1000, 1000, n_images=2)
    deployment = Deployment((encoder(2), decoder(2, replicas=2)), Transport(bandwidth=1e30))
    result = run(requests, deployment, [(late, 1, "down")])
    given = round((late - 1.1) / 1e-3) if late > 1.1 else 0
    again = late + 0.1 + 1e-3 * (1000 + given)
    assert result.done.all() and result.tokens[0] == 1000
    assert result.last[0] == pytest.approx(again + 1e-3 * (1000 - given - 1), abs=2e-3)
    assert result.ranks["prefill_tokens"][0] == 4 * IMAGE


def test_nothing_is_lost_whatever_dies() -> None:
    """Random rooms, pools and deaths: all requests are served, all rooms are empty."""
    retried = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        n = 60
        pools = [
            encoder(int(rng.integers(3, 8)), replicas=2),
            decoder(int(rng.integers(0, 5)), seqs=4, blocks=60, replicas=2, kv_bytes_per_token=1000.0),
        ]
        if rng.random() < 0.5:
            pools[1] = dataclasses.replace(pools[1], role="prefill")
            pools.append(dataclasses.replace(pools[1], role="decode"))
        requests = Requests.of(
            rng.exponential(0.2, n).cumsum(), rng.integers(20, 300, n), rng.integers(1, 100, n),
            n_images=rng.integers(0, 4, n), concurrency=int(rng.choice([0, 0, 5])),
        )  # fmt: skip
        if seed % 2:
            requests = with_image_names(requests, int(rng.integers(3, 20)), 1.0, seed=seed)
        changes = []
        for rank in range(2 * len(pools)):
            for _ in range(int(rng.integers(0, 4))):
                time = float(rng.uniform(0, 15))
                changes += [(time, rank, "down"), (time + float(rng.exponential(2)), rank, "up")]
        deployment = Deployment(tuple(pools), Transport(bandwidth=float(rng.choice([1e4, 1e6, 1e30]))))
        result = run(requests, deployment, changes)
        assert result.done.all() and (result.tokens == requests.out_tok).all(), seed
        assert (result.ranks["used_blocks"] == 0).all() and (result.ranks["held_images"] == 0).all(), seed
        retried += int(result.retries.sum())
    assert retried > 300


def document(**pool: Any) -> dict[str, Any]:
    return {
        "version": 1,
        "sites": [
            {
                "name": "lab", "accelerator": "h100-sxm", "hosts": 1,
                "fabric": {"kind": "leaf_spine", "nic": "400 Gb/s", "hosts_per_leaf": 1, "spines": 1},
            }
        ],
        "jobs": [
            {
                "name": "see", "kind": "serving", "model": "qwen2-vl-7b",
                "pools": [{"role": "encode"}, {"role": "both", **pool}],
                "workload": {
                    "generator": "independent", "requests": 40, "rate": 5, "images": {"size": 448, "mean": 3},
                    "settings": {"prompt": 200, "answer": 20},
                },
            }
        ],
    }  # fmt: skip


def test_rooms_of_a_scenario() -> None:
    """Of an encoder what its memory leaves: 80 GB x 0.9 less 1.35 GB of weights; of a decoder vLLM's rule."""

    def rooms(**pool: Any) -> tuple[int, int]:
        pools = prepare(scenarios.from_data(document(**pool))).services[0].deployment.pools
        return pools[0].engine.num_blocks, pools[1].embedding_tokens

    image = 2 * 3584 * 256  # bytes: 448 pixels are 16 x 16 tokens
    assert rooms()[0] == pytest.approx((80 * 0.9 - 1.35) * 1e9 / image, rel=0.1)
    assert rooms()[1] == 8192
    assert rooms(engine={"max_num_batched_tokens": 64})[1] == 256
    assert rooms(embeddings=512)[1] == 512


def test_refusals() -> None:
    given = document()
    given["jobs"][0]["pools"][0]["embeddings"] = 4
    with pytest.raises(BadInput, match=r"pools\[0\]\.embeddings"):
        prepare(scenarios.from_data(given))
    given = document(embeddings=512)
    del given["jobs"][0]["pools"][0]
    with pytest.raises(BadInput, match=r"pools\[0\]\.embeddings.*role encode"):
        prepare(scenarios.from_data(given))


# ---- images by name ----------------------------------------------------------------------------------------


def test_an_image_is_encoded_once() -> None:
    """Two requests share an image: the second, alone, takes a token's time for it and encodes its own."""
    requests = Requests.of([0.0, 10.0, 20.0], 100, 1, n_images=[2, 2, 2], image_ids=[7, 8, 9, 7, 9, 7])
    result = serve(requests, Deployment((encoder(10), decoder(0)), Transport(bandwidth=1e30)))
    assert result.ttft.tolist() == pytest.approx([0.2, 0.15, 0.101])
    assert result.ranks["hit_tokens"][0] == IMAGE + (2 * IMAGE - 1)
    assert requests.image_ids.tolist() == [7, 8, 9, 7, 9, 7]  # the caller's stay as they were
    engine = dataclasses.replace(encoder(10).engine, prefix_cache=False)
    plain = dataclasses.replace(encoder(10), engine=engine)
    without = serve(requests, Deployment((plain, decoder(0)), Transport(bandwidth=1e30)))
    assert without.ttft.tolist() == pytest.approx([0.2, 0.2, 0.2])


class LruOfImages:
    """A plain cache: least recently used of what nobody holds goes first."""

    def __init__(self, room: int) -> None:
        self.room, self.there = room, list[int]()

    def request(self, images: list[int]) -> int:
        """How many of them are there; all of them are, most recently, afterwards."""
        hits = [image for image in images if image in self.there]
        others = [image for image in self.there if image not in images]
        drop = max(0, len(others) + len(images) - self.room)
        # of one request, what was there counts as first used, and is the last to go
        new = [image for image in images if image not in hits]
        self.there = others[drop:] + [*hits, *new][::-1]
        return len(hits)


@pytest.mark.parametrize("room", [6, 20, 40])
def test_hits_are_those_of_a_plain_lru(room: int) -> None:
    """One request at a time: what is evicted is what a list says, hit by hit."""
    n = 1500
    requests = Requests.of(np.arange(n) * 10.0, 100, 1, n_images=1 + np.arange(n) % 3)
    requests = with_image_names(requests, 60, 1.0, seed=room)
    result = serve(requests, Deployment((encoder(room), decoder(0)), Transport(bandwidth=1e30)))
    cache, at, hits, tokens = LruOfImages(room), 0, 0, 0
    expected = []
    for count in requests.n_images.tolist():
        found = cache.request(requests.image_ids[at : at + count].tolist())
        at, hits = at + count, hits + found
        tokens += min(found * IMAGE, count * IMAGE - 1)
        expected.append(max((count - found) * IMAGE, 1) * 1e-3 + 0.1)
    assert np.allclose(result.ttft, expected, rtol=0, atol=1e-9)
    assert result.ranks["hit_tokens"][0] == tokens and 0.1 * at < hits < 0.9 * at


def test_names_follow_their_popularity() -> None:
    """Counts against 1 / rank^alpha; nobody has an image twice; all of them where a request has all."""
    requests = Requests.of(np.zeros(30_000), 100, 1, n_images=1)
    names = with_image_names(requests, 50, 1.0, seed=1).image_ids
    share = np.bincount(names, minlength=50) / names.size
    expected = 1 / np.arange(1, 51)
    assert np.abs(share - expected / expected.sum()).max() < 0.01
    few = Requests.of(np.zeros(200), 100, 1, n_images=4)
    for distinct in (4, 5, 1000):
        rows = with_image_names(few, distinct, 2.0).image_ids.reshape(-1, 4)
        assert (np.diff(np.sort(rows, axis=1), axis=1) > 0).all() and rows.max() < distinct
    with pytest.raises(BadInput, match="has 4 images"):
        with_image_names(few, 3)


@pytest.mark.parametrize("policy", ["kv_aware", "prefix_aware", "round_robin"])
def test_routers_know_where_images_are(policy: str) -> None:
    """Two sets of images: a router that knows who holds them sends each to its encoder."""
    n = 40
    second = np.concatenate([[0, 1], np.random.default_rng(0).integers(0, 2, n - 2)])
    requests = Requests.of(
        np.arange(n) * 1.0, 10, 1, n_images=3,
        image_ids=np.where(second[:, None], [4, 5, 6], [1, 2, 3]).ravel(),
    )  # fmt: skip
    encoders = encoder(3, replicas=2, router=Router(policy))
    result = serve(requests, Deployment((encoders, decoder(0)), Transport(bandwidth=1e30)))
    encoded = int(result.ranks["prefill_tokens"][:2].sum())
    knows = policy != "round_robin"
    assert (encoded <= 2 * 3 * IMAGE + n) == knows


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([1, 2], "names 2 images"),
        ([1, 2, 2], r"requests\[1\]: image 2 stands twice"),
        ([1, 2, -1], "between 0"),
    ],
)
def test_names_are_checked(names: list[int], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        Requests.of([0.0, 0.0], 10, 1, n_images=[1, 2], image_ids=names)


def test_popular_images_of_a_scenario() -> None:
    given = document()
    given["jobs"][0]["workload"]["images"] |= {"distinct": 10, "alpha": 1}
    result = simulate(scenarios.from_data(given))
    rows = {row["role"]: row for row in result.tables["pools"].to_dicts()}
    assert rows["encode"]["hit_share"] > 0.8 and rows["both"]["hit_share"] == result.scalars["hit_share"] == 0
    given["jobs"][0]["workload"]["images"] = {"size": 448, "distinct": 10}
    with pytest.raises(BadInput, match=r"images\.mean"):
        simulate(scenarios.from_data(given))
