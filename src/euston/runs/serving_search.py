"""Deployments of a service: what `euston search` does with a scenario's serving job."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import polars as pl

from euston import __version__
from euston import scenario as scenarios
from euston.cluster import Site
from euston.errors import BadInput, ConfigError, at
from euston.models import Transformer
from euston.result import Result
from euston.runs import Progress
from euston.runs._serving_parts import deployment, joined
from euston.runs.capacity import arrival_rate, at_rate, serving_job, with_slo
from euston.runs.serving import Service, service, simulate
from euston.scenario import Scenario
from euston.scenario.serving import PoolSection, ServingSection
from euston.serving import Deployment
from euston.serving.capacity import Point, judge, largest

__all__ = ["Choices", "find_deployments"]

HEADS = (400, 2000)
"""Requests of the first two rounds; half, then a third of the deployments go on."""
KEPT = (0.5, 0.33)
FINALISTS = 8
"""Deployments whose largest rate is found in the end, half of them disaggregated."""
STEP, MOST_STEPS = 1.4, 16
"""Factor by which the rate rises until few enough deployments keep the SLO, and how often it changes."""


@dataclass(frozen=True)
class Choices:
    """What a search may choose.

    Attributes
    ----------
    accelerators : int
        The budget; 0: all of the site.
    tensor : tuple of int
        Accelerators of a rank; empty: 1, 2, 4, ... up to a host's.
    tokens : tuple of int
        Batch budgets (max_num_batched_tokens) of pools that prefill.
    disaggregate : bool
        Whether prefill and decode may have pools of their own.
    """

    accelerators: int = 0
    tensor: tuple[int, ...] = ()
    tokens: tuple[int, ...] = (2048, 8192)
    disaggregate: bool = True


@dataclass
class _Candidate:
    section: ServingSection
    made: Deployment
    point: Point | None = None
    rate: float = 0.0
    notes: list[str] = field(default_factory=list)

    @property
    def accelerators(self) -> int:
        return sum(p.accelerators for p in self.section.pools)

    @property
    def split(self) -> bool:
        return len(self.section.pools) > 1

    @property
    def text(self) -> str:
        words = {"both": "", "prefill": " prefill", "decode": " decode"}
        return " + ".join(
            f"{p.replicas} x TP {p.tensor}{words[p.role]}"
            + (f", {p.engine.max_num_batched_tokens} tokens" if p.role != "decode" else "")
            for p in self.section.pools
        )


def find_deployments(
    source: Scenario | str,
    choices: Choices | None = None,
    *,
    job: str | None = None,
    slo: str | None = None,
    progress: Progress | None = None,
) -> Result:
    """Tensor degrees x replicas x prefill/decode splits x batch budgets within so many accelerators.

    All run on the first requests; the better ones on more, and the best are asked for the largest rate that
    keeps the SLO. Rates per accelerator say whether to disaggregate.

    Raises
    ------
    BadInput
        With the place in the scenario; also where nothing fits.
    """
    tell = progress or (lambda _: None)
    choices = choices or Choices()
    s = source if isinstance(source, Scenario) else scenarios.load(source)
    index = serving_job(s, job)
    s = with_slo(s, index, slo)
    reasons: list[str] = []
    candidates: list[_Candidate] = []

    def deploy(
        section: ServingSection, model: Transformer, here: Site, where: str, network: str
    ) -> Deployment:
        budget = choices.accelerators or here.accelerators
        if budget > here.accelerators:
            raise ConfigError(at("--accelerators", f"{budget}; site {here.name!r} has {here.accelerators}"))
        tell("pricing steps")
        candidates.extend(_candidates(section, model, here, choices, budget, (where, network), reasons))
        if not candidates:
            raise ConfigError(at("search", reasons[0] if reasons else "no deployment is possible"))
        return candidates[0].made

    one = service(s, index, deploy)
    rate = arrival_rate(one.requests)
    looked, finished = len(candidates), True
    try:
        chosen = _halve(candidates, one, rate, s.run.seed, tell)
        for number, candidate in enumerate(chosen, 1):
            tell(f"largest rate of {number} of {len(chosen)}: {candidate.text}")
            candidate.rate = _largest(one, candidate, rate, s.run.seed)
    except KeyboardInterrupt:
        finished = False
    return _result(s, one, candidates, looked, reasons, finished)


def _candidates(
    section: ServingSection,
    model: Transformer,
    here: Site,
    choices: Choices,
    budget: int,
    at_: tuple[str, str],
    reasons: list[str],
) -> Iterator[_Candidate]:
    each = here.accelerators_per_host
    degrees = choices.tensor or tuple(2**i for i in range(each.bit_length()) if 2**i <= each)
    degrees = tuple(d for d in degrees if d <= budget)
    base = section.pools[0]
    price = _priced(section, model, here, at_, reasons)
    for tensor in degrees:
        for tokens in choices.tokens:
            pool = _pool(base, "both", budget // tensor, tensor, tokens)
            if (found := price((pool,))) is not None:
                yield found
    if not choices.disaggregate:
        return
    largest_tokens = max(choices.tokens)
    for prefill in degrees:
        for decode in degrees:
            for share in range(1, 8):  # eighths of the budget to prefill
                first = max(1, round(budget * share / 8) // prefill)
                second = (budget - first * prefill) // decode
                if second < 1:
                    continue
                pair = (
                    _pool(base, "prefill", first, prefill, largest_tokens),
                    _pool(base, "decode", second, decode, base.engine.max_num_batched_tokens),
                )
                if (found := price(pair)) is not None:
                    yield found


def _pool(base: PoolSection, role: str, replicas: int, tensor: int, tokens: int) -> PoolSection:
    engine = base.engine.model_copy(update={"max_num_batched_tokens": tokens})
    return base.model_copy(update={"role": role, "replicas": replicas, "tensor": tensor, "engine": engine})


def _priced(
    section: ServingSection, model: Transformer, here: Site, at_: tuple[str, str], reasons: list[str]
) -> Callable[[tuple[PoolSection, ...]], _Candidate | None]:
    """Deployments of pools; each shape of pool is priced once, and each deployment made once."""
    seen: set[tuple[Any, ...]] = set()
    steps: dict[tuple[int, int], Any] = {}
    fails: dict[tuple[int, int], str] = {}

    def price(pools: tuple[PoolSection, ...]) -> _Candidate | None:
        key = tuple((p.role, p.replicas, p.tensor, p.engine.max_num_batched_tokens) for p in pools)
        shapes = [(p.tensor, p.engine.max_num_batched_tokens) for p in pools]
        if key in seen or any(shape in fails for shape in shapes):
            return None
        seen.add(key)
        for shape, pool in zip(shapes, pools, strict=True):
            if shape not in steps:
                lone = section.model_copy(
                    update={"pools": (pool.model_copy(update={"role": "both", "replicas": 1}),)}
                )
                try:
                    steps[shape] = deployment(lone, model, here, at_[0]).pools[0]
                except BadInput as error:
                    fails[shape] = str(error)
                    reasons.append(str(error))
                    return None
        changed = section.model_copy(update={"pools": pools})
        return _Candidate(changed, joined(changed, [steps[shape] for shape in shapes], here, *at_))

    return price


def _on(one: Service, candidate: _Candidate, requests: int | None = None) -> Service:
    cut = one.requests if requests is None else one.requests.head(requests)
    return replace(one, section=candidate.section, deployment=candidate.made, requests=cut)


def _halve(
    candidates: list[_Candidate], one: Service, rate: float, seed: int, tell: Progress
) -> list[_Candidate]:
    """The best of both ways of deploying, after rounds on more and more requests."""
    chosen = []
    for way in (False, True):
        left = [c for c in candidates if c.split == way]
        for head, share in zip(HEADS, KEPT, strict=True):
            keep = max(FINALISTS // 2, round(len(left) * share))
            left = _stressed(left, one, rate, head, keep, seed, tell)
            if head >= len(one.requests):
                break
        chosen += left[: FINALISTS // 2]
    return chosen


def _stressed(
    some: list[_Candidate], one: Service, rate: float, head: int, keep: int, seed: int, tell: Progress
) -> list[_Candidate]:
    """Those that bear most: the rate rises until at most ``keep`` meet the SLO, or falls until one does."""
    left, steps = some, 0
    out: list[_Candidate] = []
    while left:
        for number, candidate in enumerate(left, 1):
            tell(f"{number} of {len(left)} on {head} requests at {rate:.3g}/s: {candidate.text}")
            run = _on(one, candidate, head)
            candidate.point = judge(simulate(at_rate(run, rate), seed=seed), one.slo, rate)
        ranked = sorted(left, key=_order)
        meet = [c for c in ranked if c.point is not None and c.point.meets]
        steps += 1
        if steps > MOST_STEPS or 0 < len(meet) <= keep:
            break
        if not meet and out:  # all fell out at once
            break
        if meet:
            out = [c for c in ranked if c not in meet] + out
            left, rate = meet, rate * STEP
        else:
            rate /= STEP
    return (sorted(left, key=_order) + out)[:keep]


def _order(c: _Candidate) -> tuple[bool, float, float]:
    assert c.point is not None
    return not c.point.meets, -c.point.attainment, c.point.ttft_p90


def _largest(one: Service, candidate: _Candidate, rate: float, seed: int) -> float:
    run = _on(one, candidate)
    found = largest(lambda value: simulate(at_rate(run, value), seed=seed), one.slo, rate, tolerance=0.05)
    if not found.finished:
        raise KeyboardInterrupt
    candidate.notes = found.notes
    if found.best is not None:
        candidate.point = found.best
        return found.best.value
    return 0.0


def _row(c: _Candidate, price: float) -> dict[str, Any]:
    assert c.point is not None
    return {
        "deployment": c.text,
        "accelerators": c.accelerators,
        "disaggregated": c.split,
        "max_rate": c.rate or None,
        "rate_per_accelerator": c.rate / c.accelerators if c.rate else None,
        "cost_per_million_requests": price * c.accelerators / c.rate * 1e6 if c.rate and price else None,
        "judged_at": c.point.value,
        "attainment": c.point.attainment,
        "slo_goodput": c.point.goodput,
        "ttft_p90": c.point.ttft_p90,
        "tpot_p90": c.point.tpot_p90,
        "front": False,
    }


def _front(rows: list[dict[str, Any]]) -> None:
    """Mark those that no other beats in rate per accelerator, TTFT and TPOT at once."""
    final = [row for row in rows if row["max_rate"]]

    def values(row: dict[str, Any]) -> tuple[float, float, float]:
        return -row["rate_per_accelerator"], row["ttft_p90"], row["tpot_p90"]

    for row in final:
        mine = values(row)
        row["front"] = not any(
            all(a <= b for a, b in zip(values(other), mine, strict=True)) and values(other) != mine
            for other in final
        )


def _verdict(rows: list[dict[str, Any]]) -> str:
    best = {
        split: max(
            (row for row in rows if row["disaggregated"] == split and row["max_rate"]),
            key=lambda row: row["rate_per_accelerator"],
            default=None,
        )
        for split in (False, True)
    }
    together, apart = best[False], best[True]
    if together is None and apart is None:
        return "no deployment keeps the SLO; loosen it or add accelerators"
    if apart is None or together is None:
        return "disaggregate: nothing else keeps the SLO" if together is None else "do not disaggregate"
    gain = apart["rate_per_accelerator"] / together["rate_per_accelerator"] - 1
    if gain > 0.05:  # the searches' own tolerance
        return f"disaggregate: {gain:+.0%} requests per accelerator within the SLO"
    words = "no gain beyond the search's tolerance" if gain > -0.05 else f"{gain:+.0%} requests"
    return f"do not disaggregate: {words} per accelerator"


def _result(
    s: Scenario,
    one: Service,
    candidates: list[_Candidate],
    looked: int,
    reasons: list[str],
    finished: bool,
) -> Result:
    rows = [_row(c, one.home.price or 0.0) for c in candidates if c.point is not None]
    _front(rows)
    rows.sort(key=lambda row: (-(row["rate_per_accelerator"] or 0.0), -row["attainment"], row["ttft_p90"]))
    best = rows[0] if rows else None
    scalars = {"looked_at": float(looked), "fit": float(len(rows))}
    if best is not None and best["max_rate"]:
        scalars |= {
            "max_rate": best["max_rate"], "rate_per_accelerator": best["rate_per_accelerator"],
            "accelerators": float(best["accelerators"]), "ttft_p90": best["ttft_p90"],
            "tpot_p90": best["tpot_p90"],
        }  # fmt: skip
    meta: dict[str, Any] = {
        "package_version": __version__,
        "name": s.name,
        "title": s.title or s.name,
        "seed": s.run.seed,
        "best": best["deployment"] if best else "",
        "verdict": _verdict(rows),
        "slo": {k: v for k, v in one.section.slo.model_dump().items() if v is not None},
        "left_out": sorted(set(reasons)),
        "scenario": s.model_dump(mode="json", by_alias=True, exclude_none=True),
    }
    if not finished:
        meta["interrupted"] = f"with {len(rows)} of {looked} deployments run"
    units = {"max_rate": "1/s", "rate_per_accelerator": "1/s", "ttft_p90": "s", "tpot_p90": "s"}
    table = pl.DataFrame(rows, infer_schema_length=None)
    return Result(
        "serving_search", scalars, {k: u for k, u in units.items() if k in scalars}, {"candidates": table},
        meta=meta,
    )  # fmt: skip
