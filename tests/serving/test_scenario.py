"""`kind: serving` in a scenario: against Little's law, definitions written out again, and bad files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from euston import scenario as scenarios
from euston.errors import BadInput
from euston.runs.serving import prepare
from euston.serving import Pool, StepTime
from euston.serving.metrics import Slo, kept, latencies, load_over_time, scalars
from euston.simulate import simulate

SITE = {
    "name": "lab", "accelerator": "h100-sxm", "hosts": 2, "price": "2.5 USD/h",
    "fabric": {"kind": "leaf_spine", "nic": "400 Gb/s", "hosts_per_leaf": 1, "spines": 1},
}  # fmt: skip
INDEPENDENT = {
    "generator": "independent", "requests": 300, "rate": 30.0,
    "settings": {"prompt": {"kind": "lognormal", "p50": 500, "p99": 3000}, "answer": 60},
}  # fmt: skip


def document(**job: Any) -> dict[str, Any]:
    """A scenario with one service."""
    base = {"name": "chat", "kind": "serving", "model": "llama3-8b", "step_times": "roofline"}
    return {"version": 1, "sites": [SITE], "jobs": [{**base, "workload": INDEPENDENT, **job}]}


def ran(**job: Any):  # type: ignore[no-untyped-def]
    return simulate(scenarios.from_data(document(**job)))


def test_littles_law_and_definitions() -> None:
    """Time averages of requests under way are rate x time there; every figure again from the requests."""
    s = scenarios.from_data(document(pools=[{"replicas": 2}], slo={"ttft": "60 ms", "tpot": "9 ms"}))
    result = simulate(s)
    log = result.tables["requests"]
    done = log.filter(log["outcome"] == "done")
    assert done.height == 300 == result.done
    for metric in ("ttft", "tpot", "e2e"):
        values = done[metric].to_numpy()
        assert result.scalars[f"{metric}_mean"] == pytest.approx(values.mean(), rel=1e-12)
        assert result.scalars[f"{metric}_p99"] == pytest.approx(np.quantile(values, 0.99), rel=1e-12)
    good = ((done["ttft"] <= 0.06) & (done["tpot"] <= 0.009)).sum()
    assert 0 < good < 300
    assert result.slo_attainment == good / 300
    assert result.slo_goodput == pytest.approx(good / result.makespan)
    # Little: the integral of what runs is the time that requests spent running
    load = result.tables["load"]
    inside = np.trapezoid((load["running"] + load["waiting"]).to_numpy(), load["time"].to_numpy())
    assert inside == pytest.approx(done["e2e"].sum(), rel=0.02)
    held = np.trapezoid(load["context_tokens"].to_numpy(), load["time"].to_numpy())
    span = done["e2e"] - done["queue"]
    decoding = done["e2e"] - done["ttft"]
    assert held == pytest.approx((done["prompt"] * span + done["tokens"] * decoding / 2).sum(), rel=0.02)


def test_one_request_takes_its_steps() -> None:
    """TTFT and TPOT of a lone request are the prices of its steps; energy and cost follow from them."""
    alone = {
        "generator": "independent", "requests": 1, "rate": 1.0, "settings": {"prompt": 1000, "answer": 2},
    }  # fmt: skip
    s = scenarios.from_data(document(workload=alone, software="none"))
    pool = prepare(s).services[0].deployment.pools[0]
    result = simulate(s)
    assert result.ttft_mean == pytest.approx(_price(pool, prompt=1000), rel=1e-9)
    assert result.tpot_mean == pytest.approx(_price(pool, context=1001), rel=1e-9)
    log = result.tables["requests"]
    end = float(log["arrival"][0] + log["e2e"][0])
    busy = float(log["e2e"][0])
    idle = end - busy
    accelerator = prepare(s).services[0].here.accelerator
    low = accelerator.idle_power or 0.15 * accelerator.power_limit
    assert result.joules == pytest.approx(busy * accelerator.power_limit + idle * low)
    assert result.cost == pytest.approx(2.5 / 3600 * end)


def _price(pool: Pool, prompt: int = 0, context: int = 0) -> float:
    """A step with one sequence, from the arrays that the engine reads."""
    step: StepTime = pool.step
    tokens = prompt or 1
    seconds = step.fixed + step.tokens[tokens] + step.sequences[1]
    if prompt:
        knots = step.prefill
        # the rate is straight in the logarithm of the chunk; nothing cached: the first column
        rate = np.interp(np.log(prompt), np.log(knots.x), knots.seconds[:, 0])
        return float(seconds + step.chunk_fixed + rate * prompt * (prompt + 1) / 2)
    rate = np.interp(np.log(context), np.log(step.decode.y), step.decode.seconds[0])
    return float(seconds + step.decode_fixed + rate * context)


def test_closed_loop_keeps_so_many() -> None:
    """Throughput times mean time in the system is the number of users (but for the last ones leaving)."""
    work = {**INDEPENDENT, "concurrency": 8, "requests": 600, "settings": {"prompt": 400, "answer": 50}}
    del work["rate"]
    result = ran(workload=work)
    assert result.done == 600
    assert result.requests_per_second * result.e2e_mean == pytest.approx(8.0, rel=0.02)


def test_disaggregated_pools_hand_over_all_kv() -> None:
    """Bytes handed over = prompts x bytes per token; a slower wire delays the second token only."""
    pools = [{"role": "decode"}, {"role": "prefill", "replicas": 2}]
    fast = ran(pools=pools)
    slow = ran(pools=pools, handover={"bandwidth": "1 GB/s", "latency": "50 ms"})
    each = 2 * 32 * 8 * 128 * 2.0  # K and V, layers, KV heads, width, bf16
    prompts = fast.tables["requests"]["prompt"].sum()
    fabric = prepare(scenarios.from_data(document(pools=pools))).services[0]
    assert fabric.deployment.transport.network == "fluid"
    assert fast.handed_bytes == slow.handed_bytes == prompts * each
    assert fast.tables["requests"]["ttft"].to_list() == slow.tables["requests"]["ttft"].to_list()
    assert slow.tpot_mean > fast.tpot_mean
    assert fast.tables["pools"]["role"].to_list() == ["prefill", "decode"]


def test_two_hand_overs_share_the_nic_of_their_target() -> None:
    """Two prefill hosts send at once to one decode accelerator: each has half its 50 GB/s NIC, in all."""
    pools = [
        {"role": "prefill", "replicas": 8, "engine": {"max_num_seqs": 1}},
        {"role": "decode", "engine": {"max_num_seqs": 64}},
    ]
    work = {
        "generator": "independent", "arrivals": "burst", "rate": 1.0, "requests": 8,
        "settings": {"prompt": 4096, "answer": 2},
    }  # fmt: skip
    router = {"policy": "round_robin"}
    pools[0]["router"] = router
    done = ran(pools=pools, workload=work, software="none")
    log = done.tables["requests"]
    size = 4096 * 2 * 32 * 8 * 128 * 2.0
    assert len(set(log["ttft"])) == 1  # all prompts end together
    gap = log["e2e"] - log["ttft"]
    # eight flows into one NIC, then one step of eight sequences (at least as long as that of one)
    alone = ran(pools=pools, workload={**work, "requests": 1}, software="none").tables["requests"]
    one = alone["e2e"][0] - alone["ttft"][0]
    assert gap.min() - one == pytest.approx(7 * size / 50e9, rel=0.05)


def test_failures_lose_work_but_no_request() -> None:
    """A replica that dies for a while: everything is served in the end, later; all dead: all stay open."""
    whole = ran(pools=[{"replicas": 2}])
    hurt = ran(pools=[{"replicas": 2}], failures=[{"replica": 1, "at": "2 s", "until": "4 s"}])
    assert hurt.done == whole.done == 300
    assert hurt.e2e_mean > whole.e2e_mean
    dead = ran(failures=[{"replica": 0, "at": "0 s"}])
    assert dead.done == 0
    assert set(dead.tables["requests"]["outcome"]) == {"open"}


def test_same_seed_same_bytes_another_seed_other_requests() -> None:
    first, again = ran(), ran()
    assert first.scalars == again.scalars
    assert first.tables["requests"].equals(again.tables["requests"])
    other = simulate(scenarios.from_data(document()), seed=1)
    assert not other.tables["requests"].equals(first.tables["requests"])


def test_files_and_scaling(tmp_path: Path) -> None:
    """A file beside the scenario; its rate and tokens changed on request."""
    lines = ["arrived_at,num_prefill_tokens,num_decode_tokens", *(f"{i},100,10" for i in range(11))]
    (tmp_path / "mine.csv").write_text("\n".join(lines))
    text = "\n".join(
        [
            "version: 1",
            "sites:",
            "  - {name: lab, accelerator: h100-sxm, hosts: 1,",
            "     fabric: {kind: leaf_spine, nic: 400 Gb/s, hosts_per_leaf: 1, spines: 1}}",
            "jobs:",
            "  - {name: chat, kind: serving, model: llama3-8b, step_times: roofline,",
            "     workload: {file: mine.csv, rate: 2.0, token_scale: 2.0}}",
        ]
    )
    (tmp_path / "s.yaml").write_text(text)
    log = simulate(tmp_path / "s.yaml").tables["requests"]
    assert log["prompt"].to_list() == [200] * 11
    assert np.diff(log["arrival"].to_numpy()) == pytest.approx([0.5] * 10)


def test_every_scheduler_and_router_by_name() -> None:
    """All names of a scenario reach the engine, and all of them serve everything."""
    from euston.serving import ROUTERS, SCHEDULERS

    for name in SCHEDULERS:
        assert ran(pools=[{"engine": {"scheduler": name}}]).done == 300, name
    for name in ROUTERS:
        assert ran(pools=[{"replicas": 3, "router": {"policy": name}}]).done == 300, name


TIER = {"size": "1 GB", "bandwidth": "1 GB/s"}
TALK: dict[str, Any] = {
    "generator": "conversations", "requests": 20, "rate": 1.0,
    "settings": {"turns": 3, "question": 100, "answer": 50},
}  # fmt: skip
CLASS = {"name": "chat", "share": 1.0}
MOONCAKE = {"trace": "mooncake_conversation"}

BAD: list[tuple[dict[str, Any], str]] = [
    ({"model": "llama3-8x"}, r"jobs\[0\]\.model.*llama3-8b"),
    ({"workload": {"trace": "azure_2023_conversatio"}}, r"jobs\[0\]\.workload.*azure_2023_conversation"),
    ({"workload": {"trace": "azure_2023_code", "file": "x.csv"}}, "one of trace, file and generator"),
    ({"workload": {"file": "nothing.csv"}}, r"workload.*no such file"),
    ({"workload": {**INDEPENDENT, "settings": {"prompt": 5}}}, r"workload\.settings.*answer"),
    ({"workload": {**INDEPENDENT, "settings": {"prompts": 5}}}, r"settings\.prompts.*prompt"),
    ({"workload": {**INDEPENDENT, "settings": {"prompt": "long", "answer": 4}}}, r"settings\.prompt.*length"),
    ({"workload": {"generator": "independent", "rate": 1.0}}, r"workload\.requests.*missing"),
    ({"workload": {"generator": "independent", "requests": 5}}, r"workload\.rate.*missing"),
    ({"pools": [{"tensor": 16}]}, r"pools\[0\]\.tensor.*host's 8"),
    ({"pools": [{"tensor": 3}]}, r"pools\[0\].*3 does not divide 32 heads"),
    ({"pools": [{"data": 2}]}, r"pools\[0\]\.data.*no experts"),
    ({"pools": [{"role": "prefill"}]}, r"pools.*prefill"),
    ({"pools": [{"replicas": 100}]}, "100 accelerators.*has 16"),
    ({"model": "llama3-405b"}, r"pools\[0\].*GiB per accelerator"),
    ({"pools": [{"engine": {"max_num_seqz": 4}}]}, "max_num_seqs"),
    ({"slo": {"share": 0.5}}, "says no latency"),
    ({"failures": [{"replica": 4, "at": "1 s"}]}, r"failures\[0\]\.replica.*does not exist"),
    ({"pools": [{"tiers": [TIER], "engine": {"prefix_cache": False}}]}, "tiers"),
    ({"workload": MOONCAKE, "pools": [{"engine": {"block_size": 48}}]}, "48 does not divide the 512"),
    ({"precision": "fp9"}, r"^`jobs\[0\]\.precision`.*fp9"),
    ({"software": "vlm"}, r"^`jobs\[0\]\.software`.*vllm"),
    ({"handover": {"latency": "1 ms"}}, r"jobs\[0\]\.handover.*one pool"),
    ({"workload": {**INDEPENDENT, "arrivals": "poison"}}, r"workload\.arrivals`.*poisson"),
    ({"workload": {**INDEPENDENT, "settings": {"prompt": -5, "answer": 4}}}, r"settings\.prompt.*at least 1"),
    ({"workload": {**TALK, "settings": {**TALK["settings"], "think_s": "5 s"}}}, r"think_s.*neither"),
    ({"workload": {**TALK, "settings": {**TALK["settings"], "think_s": [5, 1]}}}, r"think_s.*rise"),
    ({"pools": [{"engine": {"speculation": {"draft": 2, "acceptance": [1.5]}}}]}, r"acceptance\[0\].*1\.5"),
    ({"pools": [{"engine": {"watermark": 1.0}}]}, r"watermark.*less than 1"),
    ({"pools": [{"autoscale": {"target": 2, "least": 3}}]}, r"autoscale\.least.*3 is more"),
    ({"workload": {**INDEPENDENT, "classes": [CLASS, CLASS]}}, r"workload\.classes.*twice"),
    ({"workload": {**INDEPENDENT, "classes": [{**CLASS, "share": 0}]}}, r"classes\[0\]\.share.*more than"),
]  # fmt: skip


@pytest.mark.parametrize(("job", "words"), BAD)
def test_bad_files_say_where_and_what(job: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput) as caught:
        prepare(scenarios.from_data(document(**job)))
    said = "\n".join(getattr(caught.value, "problems", None) or [str(caught.value)])
    assert re.search(words, said), said


def test_networks_that_move_no_kv_are_refused() -> None:
    with pytest.raises(BadInput, match=r"run.network.*packet moves no KV"):
        scenarios.from_data({**document(), "run": {"network": "packet"}})


def test_a_time_to_think_may_be_the_same_for_all() -> None:
    work = {**TALK, "settings": {**TALK["settings"], "think_s": 7}}
    requests = prepare(scenarios.from_data(document(workload=work))).services[0].requests
    assert set(requests.think_s[requests.turn > 0]) == {7.0}


def test_what_is_not_served_is_said() -> None:
    """Requests that no rank can hold, that are too long, that find no replica up."""
    large = ran(pools=[{"engine": {"blocks": 20}}])
    assert large.done < 300
    assert large.meta["warnings"] == [
        f"chat: {large.refused:,.0f} of 300 requests, with up to "
        f"{int((large.tables['requests']['prompt']).max()) + 60:,} tokens, exceed the 320 that a rank holds: "
        "refused"
    ]
    long = ran(pools=[{"engine": {"max_model_len": 500}}])
    assert long.meta["warnings"] == [
        f"chat: {long.refused:.0f} of 300 requests exceed max_model_len: refused"
    ]
    dead = ran(failures=[{"replica": 0, "at": "0 s"}])
    assert dead.meta["warnings"] == [
        "chat: 300 of 300 requests came and were never served: no replica was up"
    ]
    assert np.isnan(dead.scalars["cost_per_million_tokens"])
    assert ran().meta["warnings"] == []


STORMS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"engine": {"blocks": 40}}, {"settings": {"prompt": 500, "answer": 300}}),
    ({"engine": {"blocks": 20}}, {"settings": {"prompt": 500, "answer": 10}}),
    ({"tensor": 8}, {"settings": {"prompt": 100, "answer": 1}}),
    ({}, {"arrivals": "burst", "requests": 2000}),
]


@pytest.mark.parametrize(("pool", "work"), STORMS)
def test_storms_end_with_everything_accounted_for(pool: dict[str, Any], work: dict[str, Any]) -> None:
    """A full cache, requests larger than it, answers of one token, all at once: nothing is lost."""
    result = ran(pools=[pool], workload={**INDEPENDENT, "requests": 60, **work})
    log = result.tables["requests"]
    assert set(log["outcome"]) <= {"done", "too_large"}
    assert result.done + result.refused == result.requests == log.height
    counted = result.tables["pools"]
    done = log.filter(log["outcome"] == "done")
    work_done = (
        counted["prefill_tokens"].sum() + counted["decode_tokens"].sum() - counted["recomputed_tokens"].sum()
    )
    # every prompt token once (but hits), every answer token but the last is computed once
    assert work_done == (done["prompt"] - done["hits"] + done["tokens"] - 1).sum()


def test_slo_needs_every_latency() -> None:
    """A single-token answer has no TPOT; the longest gap counts by itself."""
    s = scenarios.from_data(document(per_token=True))
    from euston.runs.serving import simulate as serve_one

    one = prepare(s).services[0]
    log = serve_one(one)
    worst = np.nanmedian(log.worst_gap)
    assert kept(log, Slo(itl=worst)).sum() == (log.worst_gap <= worst).sum()
    assert kept(log, Slo()).all()
    assert scalars(log, Slo(e2e=0.0))["slo_goodput"] == 0
    gaps, table = log.gaps(), {row["metric"]: row for row in latencies(log).to_dicts()}
    assert table["itl"]["mean"] == pytest.approx(gaps.mean())
    assert table["itl"]["p90"] == pytest.approx(np.quantile(gaps, 0.9), rel=0.01)
    assert load_over_time(log)["running"][-1] == 0
