"""The engine against a slow plain-Python one, written from the papers and vLLM's behaviour: equal, not close.

The reference keeps real blocks in a real free queue, real lists of running and waiting requests, and rounds
nothing: its times, hits and preemptions must be the kernel's, request by request.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from euston.serving import (
    Deployment,
    Engine,
    Outcome,
    Pool,
    Rate,
    Requests,
    Router,
    Speculation,
    StepTime,
    dense,
    serve,
)

# ---- random worlds ---------------------------------------------------------------------------------------

SCHEDULERS = ("vllm_v1", "sarathi", "prefill_first", "orca", "static", "priority", "sjf", "edf", "fair")


def world(seed: int) -> tuple[Requests, Deployment]:
    """Some requests, and a deployment that is short of something."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 40))
    block = int(rng.choice([1, 4, 8, 16]))
    prompt, answer = rng.integers(1, 150, n), rng.integers(1, 40, n)
    ratio = int(rng.choice([1, 2, 4]))
    columns: dict[str, Any] = {}
    if (
        rng.random() < 0.7
    ):  # a few families of prefixes; names run over the prompt, or over the answer as well
        size = block * ratio
        named = prompt + (answer if rng.random() < 0.5 else 0)
        ids, ptr = [], [0]
        for i in range(n):
            family, shared = int(rng.integers(0, 3)), int(rng.integers(0, 12))
            count = -(-int(named[i]) // size)
            ids += [family * 1000 + k if k < shared else 10_000 + i * 1000 + k for k in range(count)]
            ptr.append(len(ids))
        columns |= {"block_ids": ids, "blocks_ptr": ptr, "block_size": size, "named_tok": named}
    after, after_ptr = [], [0]
    chained = rng.random() < 0.4
    for i in range(n):
        if chained and i and rng.random() < 0.6:
            count = int(rng.integers(1, min(i, 3) + 1))
            after += sorted(rng.choice(i, count, replace=False).tolist())
        after_ptr.append(len(after))
    arrival = np.sort(np.round(rng.exponential(0.2, n).cumsum() * rng.choice([0.0, 0.1, 1.0]), 3))
    requests = Requests.of(
        arrival, prompt, answer, klass=rng.integers(0, 3, n), priority=rng.integers(0, 3, n),
        deadline_s=rng.choice([0.5, 1.0, 3.0], n), predicted_out=rng.integers(1, 40, n), after=after,
        after_ptr=after_ptr, think_s=rng.choice([0.0, 0.1, 1.0], n),
        concurrency=int(rng.choice([0, 0, 1, 4])), **columns,
    )  # fmt: skip
    scheduler = SCHEDULERS[seed % len(SCHEDULERS)]
    speculation = None
    if scheduler != "static" and rng.random() < 0.3:
        speculation = Speculation(int(rng.integers(1, 5)), (float(rng.random()),))
    engine = Engine(
        num_blocks=int(rng.choice([12, 13, 16, 24, 40, 200])) * 16 // block,
        scheduler=scheduler,
        max_num_seqs=int(rng.choice([2, 4, 8, 64])),
        max_num_batched_tokens=int(rng.choice([1, 16, 64, 512, 512])),
        block_size=block,
        prefix_cache=bool(rng.random() < 0.8),
        chunked=bool(rng.random() < 0.8),
        long_prefill_threshold=int(rng.choice([0, 0, 10])),
        max_model_len=int(rng.choice([0, 0, 120])),
        preemption="swap" if rng.random() < 0.3 else "recompute",
        swap_bandwidth=2.0**30,
        asynchronous=bool(rng.random() < 0.5),
        watermark=None if rng.random() < 0.6 else 0.05,
        speculation=speculation,
    )
    step = StepTime(
        tokens=dense([0, 64, 300], [0.0, 1 / 64, 1 / 8]), prefill=Rate.flat(2.0**-20),
        decode=Rate.flat(2.0**-16), fixed=1 / 128, sequences=dense([0, 64], [0.0, 1 / 256]),
        chunk_fixed=2.0**-10, decode_fixed=2.0**-11, skew=0.25, cpu_fixed=1 / 100, cpu_sequence=1e-4,
        cpu_token=1e-5, draft_fixed=1e-3, draft_sequence=1e-5,
    )  # fmt: skip
    pool = Pool(
        engine, step, replicas=int(rng.choice([1, 1, 2, 3])),
        router=Router(str(rng.choice(["round_robin", "least_requests"]))),
    )  # fmt: skip
    return requests, Deployment((pool,))


def check(seed: int, reference: Any) -> None:
    requests, deployment = world(seed)
    slow = reference(requests, deployment, seed)
    slow.run()
    fast = serve(requests, deployment, seed=seed)
    for name, theirs in (
        ("outcome", fast.outcome), ("arrival", fast.arrival), ("scheduled", fast.scheduled),
        ("first", fast.first), ("last", fast.last), ("preempted", fast.preemptions),
    ):  # fmt: skip
        ours = np.array([getattr(q, name) for q in slow.calls], np.float64)
        assert np.array_equal(ours, theirs, equal_nan=True), (seed, name, deployment.pools[0].engine)
    assert [max(q.hits, 0) for q in slow.calls] == fast.hits.tolist(), (seed, "hits")
    assert fast.ranks["used_blocks"].tolist() == [
        deployment.pools[0].engine.num_blocks - len(r.free) for r in slow.replicas
    ]
    assert (fast.ranks["used_blocks"] == 0).all()


@pytest.mark.parametrize("part", range(10))
def test_the_kernel_equals_the_reference(part: int, reference: Any) -> None:
    """360 random worlds, 40 of each scheduler."""
    for seed in range(part * 36, part * 36 + 36):
        check(seed, reference)


def test_the_worlds_are_worth_it() -> None:
    """What the comparison is about does happen in them."""
    preempted = hits = refused = 0
    for seed in range(0, 360, 4):
        requests, deployment = world(seed)
        result = serve(requests, deployment, seed=seed)
        preempted += int((result.preemptions > 0).sum())
        hits += int((result.hits > 0).sum())
        refused += int((result.outcome > Outcome.DONE).sum())
        assert ((result.outcome == Outcome.DONE) | (result.outcome > Outcome.DONE)).all()
    assert preempted > 50 and hits > 50 and refused > 20


@pytest.mark.nojit
def test_small_worlds(reference: Any) -> None:
    for seed in (1, 9, 18, 29):
        check(seed, reference)
