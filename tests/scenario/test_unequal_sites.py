"""Sites whose accelerators differ: `others` beside the job's own prices, `run.speeds` beside the spread."""

from __future__ import annotations

from typing import Any

import pytest

import euston as eu
from euston.catalog import accelerator
from euston.errors import BadInput
from euston.scenario import from_data
from euston.training import relative_speed


def lab(others: list[dict[str, Any]], **run: Any) -> Any:
    return from_data(
        {
            "version": 1,
            "sites": [
                {
                    "name": "lab",
                    "accelerator": "h100-sxm",
                    "hosts": 4,
                    "fabric": {"preset": "generic-400g-clos"},
                    "others": others,
                }
            ],
            "jobs": [
                {
                    "name": "t",
                    "kind": "training",
                    "model": "llama3.2-1b",
                    "parallel": {"tensor": 8, "sequence": True, "data": 4},
                    "batch": {"global": 16, "sequence": 4096},
                }
            ],
            "run": run,
        }
    )


OTHER = {"accelerator": "a100-sxm-80gb", "first_host": 3, "hosts": 1}


def test_one_host_of_a_slower_kind_holds_all_replicas_back() -> None:
    """Forward and backward take 1/ratio of their time, ratio from prices of both; the rest stays."""
    plain, mixed = (eu.simulate(lab(o)) for o in ([], [OTHER]))
    from euston.assemble import device
    from euston.scenario import build

    job = build.training_job(lab([]), 0)
    ratio = relative_speed(
        job, device(accelerator("h100-sxm"), job), device(accelerator("a100-sxm-80gb"), job)
    )
    assert ratio < 0.7
    assert mixed.step_time > plain.step_time * 1.2
    assert mixed.step_time < plain.step_time / ratio * 1.01
    assert any(a["where"] == "sites.others[0].accelerator" for a in mixed.meta["assumptions"])


def test_the_same_accelerator_as_other_changes_nothing() -> None:
    same = {**OTHER, "accelerator": "h100-sxm"}
    assert eu.simulate(lab([same])).step_time == eu.simulate(lab([])).step_time


def test_drawn_speeds_scatter_about_the_expected_slowest() -> None:
    expected = eu.simulate(lab([])).step_time
    drawn = [eu.simulate(lab([], speeds="each", seed=seed)).step_time for seed in range(4)]
    assert len(set(drawn)) == 4
    assert min(drawn) < expected * 1.01
    assert max(drawn) > expected * 0.99
    assert drawn == pytest.approx([expected] * 4, rel=0.05)
    assert eu.simulate(lab([], speeds="each", seed=0)).step_time == drawn[0]


@pytest.mark.parametrize(
    ("others", "place", "words"),
    [
        ([{**OTHER, "hosts": 2}], "sites[0].others[0]", "host 4 does not exist"),
        ([OTHER, OTHER], "sites[0].others[1]", "host 3 is in two"),
        ([{**OTHER, "accelerator": "a100-sxm-90gb"}], "sites[0].others[0].accelerator", "did you mean"),
    ],
)
def test_wrong_hosts_are_named(others: list[dict[str, Any]], place: str, words: str) -> None:
    with pytest.raises(BadInput) as caught:
        eu.simulate(lab(others))
    assert place in str(caught.value)
    assert words in str(caught.value)


def test_memory_is_that_of_the_smallest() -> None:
    """A job that fits H100 80 GB and not the 40 GB beside it is refused."""
    small = {**OTHER, "accelerator": "a100-sxm-40gb"}
    s = lab([])
    data = s.model_dump(mode="json", by_alias=True, exclude_none=True)
    data["jobs"][0] |= {
        "model": "llama3-8b",
        "parallel": {"tensor": 4, "data": 8},
        "batch": {"global": 8, "sequence": 4096},
    }
    eu.simulate(from_data(data))
    data["sites"][0]["others"] = [small]
    with pytest.raises(BadInput, match="jobs\\[0\\]"):
        eu.simulate(from_data(data))
