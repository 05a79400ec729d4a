"""All plans of a 530B model on 2,240 A100, and one plan in closed form against executing it.

`work["looked_at"]` counts every plan, `work["priced"]` those whose arithmetic works out and whose memory was
therefore reckoned, `work["fit"]` those that were timed.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from _harness import Outcome, case, main

if TYPE_CHECKING:
    from euston.training.plan import Layout

ACCELERATORS = 2240


@cache
def _site() -> Any:
    from euston.assemble import site
    from euston.scenario import from_data

    s = from_data(
        {
            "version": 1,
            "sites": [
                {
                    "name": "selene", "accelerator": "a100-sxm-80gb", "hosts": ACCELERATORS // 8,
                    "fabric": {"preset": "selene-hdr"},
                }
            ],
            "jobs": [
                {
                    "name": "530b", "kind": "training", "model": "mt-nlg-530b",
                    "parallel": {"tensor": 8, "data": ACCELERATORS // 8},
                    "batch": {"global": ACCELERATORS, "sequence": 2048}, "software": "megatron-2022",
                }
            ],
        }
    )  # fmt: skip
    return s, site(s, s.sites[0])


def _book(batch: int) -> Any:
    from dataclasses import replace

    from euston.assemble import device
    from euston.scenario import build
    from euston.training.plan import Book

    s, here = _site()
    job = replace(build.training_job(s, 0), global_batch=batch)
    return Book(job, here, device(here.accelerator, job), ACCELERATORS)


def _search(batch: int) -> Outcome:
    from euston.training.plan import Choices, search

    book = _book(batch)
    found = search(book.template, book, Choices())
    priced = sum(r.memory > 0 for r in found.rejected) + len(found.plans)
    work = {"looked_at": found.looked_at, "priced": priced, "fit": len(found.plans)}
    return Outcome(work, found.plans[0].step_time)


@case("all plans of 530B on 2,240 accelerators, batch 1,920")
def published_batch() -> Outcome:
    return _search(1920)


@case("all plans of 530B on 2,240 accelerators, batch 2,240")
def divisible_batch() -> Outcome:
    return _search(2240)


@cache
def _warm() -> tuple[Any, list[Layout]]:
    from euston.training.plan import Choices, search

    book = _book(2240)
    found = search(book.template, book, Choices())
    return book, [plan.layout for plan in found.plans]


def _executed() -> Outcome:
    """One of them as the clock runs it, nothing contending."""
    from euston.cluster import place
    from euston.training import Conditions, run_iteration

    book, layouts = _warm()
    job = book.job(layouts[0])
    run = run_iteration(
        [(job, place(job.parallel, book.site))], book.site, [book.device], Conditions(contention=False)
    )
    return Outcome({"plans": 1}, run.jobs[0].step_time)


@case("closed form of 1,000 plans, prices known (baseline: one plan executed)", baseline=_executed)
def closed_form() -> Outcome:
    book, layouts = _warm()
    total = sum(book.estimate(layout).step_time for layout in layouts[:1000])
    return Outcome({"plans": min(1000, len(layouts))}, total)


if __name__ == "__main__":
    main()
