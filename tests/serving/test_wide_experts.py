"""Experts over many ranks: skew, copies (EPLB), two-batch overlap, against plain draws and closed forms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from euston import catalog
from euston import scenario as scenarios
from euston.errors import BadInput
from euston.models import Balance, transformer
from euston.models.eplb import place_experts
from euston.runs.serving import prepare
from euston.serving.providers import kv_blocks, step_time, weight_bytes
from euston.simulate import simulate

RANKS = 16


def document(experts: dict[str, Any] | None = None, **pool: Any) -> dict[str, Any]:
    """DeepSeek-V3 on two hosts of H200, its experts over all sixteen accelerators."""
    mine: dict[str, Any] = {
        "data": RANKS,
        "expert": RANKS,
        "engine": {"max_num_batched_tokens": 4096},
        **pool,
    }
    if experts is not None:
        mine["experts"] = experts
    return {
        "version": 1,
        "sites": [
            {
                "name": "lab", "accelerator": "h200-sxm", "hosts": 2,
                "fabric": {"kind": "leaf_spine", "nic": "400 Gb/s", "hosts_per_leaf": 1, "spines": 1},
            }
        ],
        "jobs": [
            {
                "name": "chat", "kind": "serving", "model": "deepseek-v3", "precision": "fp8-block",
                "pools": [mine],
                "workload": {
                    "generator": "independent", "requests": 400, "rate": 40,
                    "settings": {"prompt": 3000, "answer": 60},
                },
            }
        ],
    }  # fmt: skip


def ran(experts: dict[str, Any]) -> Any:
    return simulate(scenarios.from_data(document(experts)))


SKEW = {"kind": "zipf", "alpha": 0.7}


def test_skew_costs_and_copies_win_it_back() -> None:
    found = {
        name: ran(experts)
        for name, experts in {
            "random": {"kind": "multinomial"}, "skewed": SKEW, "placed": {**SKEW, "balancer": "eplb"},
            "copied": {**SKEW, "balancer": "eplb", "redundant": 32},
        }.items()
    }  # fmt: skip
    tpot = {name: r.scalars["tpot_mean"] for name, r in found.items()}
    assert tpot["copied"] < tpot["placed"] < tpot["skewed"] and tpot["random"] < tpot["skewed"]
    assert tpot["copied"] < 0.85 * tpot["skewed"]
    rows = {name: r.tables["pools"].row(0, named=True) for name, r in found.items()}
    table = found["copied"].tables["experts"]
    even, skewed, copied = table.rows(named=True)
    assert [even["experts"], copied["experts"]] == ["even", "eplb, 32 copies"]
    assert even["fullest_over_mean"] == pytest.approx(1.0)
    assert copied["fullest_over_mean"] < 1.2 < skewed["fullest_over_mean"]
    assert even["expert_time"] < copied["expert_time"] < skewed["expert_time"]
    # the table's seconds are what a step of the engine has for its group
    for row, name in ((skewed, "skewed"), (copied, "copied")):
        experts = SKEW if name == "skewed" else {**SKEW, "balancer": "eplb", "redundant": 32}
        pool = prepare(scenarios.from_data(document(experts))).services[0].deployment.pools[0]
        seconds = row["expert_time"] + row["exchange_time"]
        assert pool.step.group[row["tokens"] * RANKS] == pytest.approx(seconds, rel=0.03)
    # what the copies take in memory is not there for KV
    assert rows["copied"]["blocks"] < rows["placed"]["blocks"] == rows["skewed"]["blocks"]


@pytest.mark.parametrize("redundant", [0, 16, 48])
def test_the_fullest_rank_against_plain_draws(redundant: int) -> None:
    """Tokens one by one to experts by popularity, each to a random copy of it."""
    experts, tokens, rng = 64, 3000, np.random.default_rng(3)
    trace = tuple(rng.pareto(1.2, experts) + 0.1)
    balance = Balance("trace", trace=trace, balancer="eplb", redundant=redundant)
    placed = place_experts(trace, 8, redundant)
    homes = [np.flatnonzero((placed.expert == e).any(axis=1)) for e in range(experts)]
    weights = np.array(trace) / sum(trace)
    fullest = []
    for _ in range(40):
        count = np.zeros(8)
        for e in rng.choice(experts, tokens, p=weights):
            spots = np.repeat(homes[e], (placed.expert[homes[e]] == e).sum(axis=1))
            count[rng.choice(spots)] += 1
        fullest.append(count.max())
    assert balance.load(tokens, experts, 8).rows == pytest.approx(np.mean(fullest), rel=0.02)


def priced(**changes: Any) -> Any:
    return step_time(
        transformer("deepseek-v3"), catalog.accelerator("h200-sxm"), data=RANKS, expert=RANKS,
        dtype="fp8-block", max_tokens=1024, low_latency=True, software="none", **changes,
    )  # fmt: skip


def test_two_batches_hide_what_travels() -> None:
    """A step is the longer of two halves' computing and travelling, and the experts of two halves."""
    plain, halves = priced(), priced(two_batch_overlap=True)
    for tokens in (64, 256, 1024):
        n, whole = tokens // 2, tokens * RANKS
        own = 2 * plain.tokens[n]
        step = halves.breakdown(decode=np.full(tokens, 1000))
        other = step["decode"] + step["sequences"] + step["fixed"]
        assert halves.tokens[tokens] == pytest.approx(own, rel=0.03)
        # what travels is what the plain group has beyond the experts of the halves
        travel = halves.communication[tokens]
        assert halves.group[whole] + travel == pytest.approx(2 * plain.group[whole // 2], rel=0.03)
        assert step["gpu"] == pytest.approx(max(own + other, travel) + halves.fixed * 0, rel=0.05)


def test_small_batches_read_the_weights_twice() -> None:
    """Where a step is bound by weights, two batches are slower than one."""
    plain, halves = priced(), priced(two_batch_overlap=True)

    def seconds(step: Any, tokens: int) -> float:
        gpu = step.breakdown(decode=np.full(tokens, 500))["gpu"]
        return float(gpu + step.group[tokens * RANKS])

    assert seconds(halves, 4) > 1.2 * seconds(plain, 4)
    assert seconds(halves, 1024) < seconds(plain, 1024)


def test_memory_of_copies() -> None:
    model, h200 = transformer("deepseek-v3"), catalog.accelerator("h200-sxm")
    plain = weight_bytes(model, data=RANKS, dtype="fp8")
    more = weight_bytes(model, data=RANKS, dtype="fp8", redundant=32) - plain
    moe = model.moe
    assert moe is not None
    one = 3 * model.hidden * moe.ffn
    layers = sum(kind.ffn == "moe" for kind in model.layer_kinds)
    assert more == pytest.approx(layers * one * 32 / RANKS)
    with pytest.raises(BadInput, match="leaves no room"):
        kv_blocks(model, h200, data=RANKS, dtype="bf16", redundant=256)


@pytest.mark.parametrize(
    ("experts", "pool", "words"),
    [
        ({"redundant": 16}, {}, r"pools\[0\]\.experts\.redundant"),
        ({"balancer": "eplb", "redundant": 7}, {}, "256 experts and 7 copies cannot be dealt evenly to 16"),
        ({"kind": "trace"}, {}, r"experts\.trace"),
        ({"kind": "trace", "trace": [1.0, 2.0]}, {}, "2 entries for 256 experts"),
        ({"two_batch_overlap": True}, {"data": 1, "expert": 8, "tensor": 8}, "data 1"),
        ({"kind": "gauss"}, {}, "kind"),
        ({}, {"expert": 5}, r"pools\[0\]\.expert`: 5 does not divide the 16 accelerators"),
    ],
)
def test_refusals(experts: dict[str, Any], pool: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        prepare(scenarios.from_data(document(experts, **pool)))


def test_a_dense_model_has_no_experts() -> None:
    given = document({"kind": "zipf", "alpha": 1.0}, data=1, expert=1)
    given["jobs"][0] |= {"model": "llama3-8b", "precision": "bf16"}
    with pytest.raises(BadInput, match=r"pools\[0\]\.experts.*has no experts"):
        prepare(scenarios.from_data(given))
