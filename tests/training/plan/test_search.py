"""The search for plans: against brute force, the memory room's verdict, and an O(n^2) front."""

from __future__ import annotations

import functools
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from euston.assemble import device
from euston.assemble import site as make_site
from euston.cluster import Parallel, Site
from euston.errors import ConfigError
from euston.models import transformer
from euston.scenario import from_data
from euston.training import TrainingJob, analyse, fits, software
from euston.training.plan import Book, Choices, Layout, layouts, pareto, search
from euston.training.plan.space import divisors


@functools.cache
def site(hosts: int = 4, accelerator: str = "a100-sxm-80gb") -> Site:
    s = from_data(
        {
            "version": 1,
            "sites": [
                {"name": "x", "accelerator": accelerator, "hosts": hosts, "fabric": {"preset": "selene-hdr"}}
            ],
            "jobs": [
                {
                    "name": "t", "kind": "training", "model": "gpt-22b", "parallel": {"data": 8},
                    "batch": {"global": 8, "sequence": 2048},
                }
            ],
        }
    )  # fmt: skip
    return make_site(s, s.sites[0])


def book(model: str, batch: int, hosts: int = 4, profile: str = "megatron-2022") -> Book:
    job = TrainingJob(
        transformer(model), Parallel(), global_batch=batch, sequence=2048, software=software(profile)
    )
    here = site(hosts)
    return Book(job, here, device(here.accelerator, job), 8 * hosts)


CHOICES = Choices(micro=(1, 2), virtual=4)


@pytest.mark.parametrize(
    ("model", "batch"), [("gpt-22b", 64), ("mixtral-8x7b", 32), ("llama3.2-1b", 64), ("deepseek-v3", 64)]
)
def test_bytes_and_seconds_are_those_of_the_rooms(model: str, batch: int) -> None:
    """Oracles: `fits` to the byte, and `analyse`, which prices the whole model chunk by chunk."""
    b = book(model, batch)
    found = search(b.template, b, CHOICES)
    rng = random.Random(3)
    priced = [r for r in found.rejected if r.memory]
    for one in (*rng.sample(found.plans, min(8, len(found.plans))), *rng.sample(priced, min(8, len(priced)))):
        job = b.job(one.layout)
        verdict = fits(job, b.site.accelerator, advise=False)
        assert one.memory == pytest.approx(verdict.needed_bytes, rel=1e-12)
        assert verdict.ok == (one in found.plans)
    for plan in rng.sample(found.plans, min(6, len(found.plans))):
        exact = analyse(b.job(plan.layout), b.site, b.device).estimate.step_time
        assert plan.step_time == pytest.approx(exact, rel=2e-3)  # the optimiser is interpolated
    assert found.plans or model == "deepseek-v3"


def test_every_divisible_layout_is_looked_at_once() -> None:
    """Oracle: nested loops over everything, without the generator's shortcuts."""
    job = book("gpt-22b", 64).template
    found = [plan for plan, _ in layouts(job, 32, 8, CHOICES)]
    assert len(set(found)) == len(found)
    want = set()
    for t in (1, 2, 4, 8):
        for p in range(1, 49):
            if 32 % (t * p):
                continue
            d = 32 // (t * p)
            for micro in (1, 2):
                for v in range(1, 5):
                    if v > 1 and (p == 1 or p * v > 50):
                        continue
                    for r in ("none", "selective", "full"):
                        for s in ("none", "zero1", "zero2", "zero3"):
                            if (d == 1 and s != "none") or (s == "zero3" and p > 1):
                                continue
                            name = "interleaved" if v > 1 else "1f1b"
                            want.add(Layout(t, 1, 1, p, v, d, micro, name, r, s))
    assert set(found) == want


def test_what_is_rejected_is_impossible() -> None:
    b = book("gpt-22b", 48)
    for plan, reason in layouts(b.template, 32, 8, CHOICES):
        m, rest = divmod(48, plan.data * plan.micro)
        impossible = bool(rest) or (plan.virtual > 1 and m % plan.pipeline != 0)
        assert impossible == bool(reason)
        if not reason:
            b.job(plan).check(32)


def test_flash_attention_has_no_selective_recomputation() -> None:
    b = book("gpt-22b", 64, profile="mcore-2024")
    assert {plan.recompute for plan, _ in layouts(b.template, 32, 8, CHOICES)} == {"none", "full"}


def test_a_faster_network_never_slows_a_plan() -> None:
    from dataclasses import replace

    slow, fast = book("gpt-22b", 64), book("gpt-22b", 64)
    fast.links = replace(fast.links, scale_out=4 * fast.links.scale_out)
    for plan, reason in layouts(slow.template, 32, 8, Choices(micro=(1,), virtual=2, recompute=("full",))):
        if not reason:
            assert fast.estimate(plan).step_time <= slow.estimate(plan).step_time * (1 + 1e-12)


@given(st.lists(st.tuples(*[st.integers(0, 6)] * 3), max_size=40))
def test_front_is_what_nobody_beats(rows: list[tuple[int, int, int]]) -> None:
    table = np.array(rows, float).reshape(-1, 3)

    def beaten(i: int) -> bool:
        return any((table[j] <= table[i]).all() and (table[j] < table[i]).any() for j in range(len(table)))

    assert sorted(pareto(rows)) == [i for i in range(len(rows)) if not beaten(i)]


def test_divisors() -> None:
    assert divisors(2240)[:8] == [1, 2, 4, 5, 7, 8, 10, 14]
    assert divisors(1) == [1]


def test_nothing_divides() -> None:
    with pytest.raises(ConfigError, match=r"plan\.tensor"):
        list(layouts(book("gpt-22b", 64).template, 7, 8, Choices(tensor=(2, 4))))


def test_an_interruption_keeps_what_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    b = book("gpt-22b", 64)
    real, calls = b.estimate, [0]

    def some(*arguments):  # type: ignore[no-untyped-def]
        calls[0] += 1
        if calls[0] > 5:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(b, "estimate", some)
    found = search(b.template, b, CHOICES)
    assert not found.finished
    assert len(found.plans) == 5
    assert found.front
