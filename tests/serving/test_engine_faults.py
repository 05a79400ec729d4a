"""What must not hang or hurt the engine: crowds, storms, deaths, bad input; what it hears from outside."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from euston.clock.conductor import Conductor, Message
from euston.errors import ConfigError
from euston.serving import (
    Deployment,
    Engine,
    Network,
    Outcome,
    Pool,
    Replica,
    Requests,
    Router,
    Serving,
    ServingResult,
    StepTime,
    Tier,
    Transport,
    dense,
    serve,
)

LINEAR = StepTime(tokens=dense([0, 10], [0.0, 0.01]))  # 1 ms a token, nothing else


def pool(step: StepTime = LINEAR, *, blocks: int = 10_000, **changes: Any) -> Pool:
    """One engine with few surprises: no host time, a wide budget."""
    engine = {
        name: changes.pop(name) for name in [f.name for f in dataclasses.fields(Engine)] if name in changes
    }
    base = {"num_blocks": blocks, "max_num_batched_tokens": 100_000, **engine}
    return Pool(Engine(**base), step, **changes)


def one(p: Pool, **changes: Any) -> Deployment:
    return Deployment((p,), **changes)


def settled(result: ServingResult) -> None:
    """Every request has an outcome in order, and every block is back."""
    done = result.done
    assert ((result.outcome > 0) | np.isnan(result.last)).all()
    assert (result.arrival[done] <= result.scheduled[done]).all()
    assert (result.scheduled[done] < result.first[done]).all()
    assert (result.first[done] <= result.last[done]).all()
    assert (result.tokens[done] == result.requests.out_tok[done]).all()
    assert (result.ranks["peak_blocks"] <= result.ranks["blocks"]).all()


def disaggregated(
    transport: Transport, *, prefill: Pool | None = None, decode: Pool | None = None
) -> Deployment:
    a = prefill or pool(role="prefill", kv_bytes_per_token=1000.0)
    b = decode or pool(role="decode")
    return Deployment(
        (dataclasses.replace(a, role="prefill"), dataclasses.replace(b, role="decode")), transport
    )


# ---- what must not hang it ---------------------------------------------------------------------------------


def test_requests_that_can_never_fit_are_refused() -> None:
    requests = Requests.of([0.0, 0.0, 0.0], [1000, 100, 100], [1, 1, 900])
    result = serve(requests, one(pool(blocks=20)))
    assert result.outcome.tolist() == [Outcome.TOO_LARGE, Outcome.DONE, Outcome.TOO_LARGE]
    long = serve(requests, one(pool(max_model_len=500)))
    assert long.outcome.tolist() == [Outcome.TOO_LONG, Outcome.DONE, Outcome.TOO_LONG]


def test_a_crowd_at_time_zero() -> None:
    n = 100_000
    for scheduler in ("vllm_v1", "sjf"):
        result = serve(Requests.of(np.zeros(n), 20, 2), one(pool(scheduler=scheduler, replicas=4)))
        assert result.done.all()
        settled(result)


@pytest.mark.parametrize("preemption", ["recompute", "swap"])
def test_a_storm_of_preemptions(preemption: str) -> None:
    """Far more sequences than the cache can hold grow at once."""
    requests = Requests.of(np.zeros(300), 16, 400)
    result = serve(requests, one(pool(blocks=60, preemption=preemption)))
    settled(result)
    assert result.done.all() and result.preemptions.sum() > 300
    assert (result.ranks["used_blocks"] == 0).all()


def told(requests: Requests, deployment: Deployment, *news: tuple[float, Any]) -> ServingResult:
    engine = Serving(requests, deployment)

    @dataclasses.dataclass
    class Teller:
        name: str = "teller"
        left: tuple[tuple[float, Any], ...] = news

        def next_time(self) -> float:
            return self.left[0][0] if self.left else float("inf")

        def advance(self, until: float, inbox: Any = ()) -> list[Message]:
            (time, what), self.left = self.left[0], self.left[1:]
            return [Message(time, "serving", what)]

    Conductor([Teller(), engine]).run()
    return engine.result()


def test_replicas_die_and_come_back() -> None:
    requests = Requests.of(np.arange(40) * 0.05, 200, 50)
    deployment = one(pool(replicas=2, blocks=200))
    dead = told(requests, deployment, (0.7, Replica(0, "down")), (0.9, Replica(1, "down")))
    assert not dead.done.all() and (dead.outcome[~dead.done] == Outcome.OPEN).all()
    back = told(
        requests, deployment, (0.7, Replica(0, "down")), (0.9, Replica(1, "down")), (9.0, Replica(0, "up"))
    )
    settled(back)
    assert back.done.all() and back.retries.sum() > 0 and back.end > 9
    assert (back.ranks["used_blocks"] == 0).all()
    drained = told(requests, deployment, (0.7, Replica(0, "drain")))
    assert drained.done.all() and drained.retries.sum() == 0
    assert (drained.rank[drained.arrival > 0.7] == 1).all()


@pytest.mark.parametrize("rank", [0, 2])
def test_pools_that_hand_over_survive_deaths(rank: int) -> None:
    """Prefill or decode dies while prompts are on their way."""
    requests = Requests.of(np.arange(60) * 0.05, 200, 30)
    deployment = disaggregated(
        Transport(bandwidth=5e5), prefill=pool(replicas=2, kv_bytes_per_token=1000.0, blocks=300),
        decode=pool(replicas=2, blocks=300),
    )  # fmt: skip
    result = told(requests, deployment, (1.03, Replica(rank, "down")), (4.0, Replica(rank, "up")))
    settled(result)
    assert result.done.all() and result.retries.sum() > 0
    assert (result.ranks["used_blocks"] == 0).all()


def test_a_slower_fabric_slows_collectives() -> None:
    step = dataclasses.replace(LINEAR, communication=dense([0, 10], [0.0, 0.01]))
    requests = Requests.of([0.0], 10, 1)
    plain = serve(requests, one(pool(step)))
    slow = told(requests, one(pool(step)), (0.0, Network(0, 3.0)))
    assert plain.first[0] == pytest.approx(0.02) and slow.first[0] == pytest.approx(0.04)


def test_agents_fan_out_and_join() -> None:
    """0 -> (1, 2, 3) at once -> 4 a second after the last of them."""
    requests = Requests.of(
        np.zeros(5), [10, 10, 20, 30, 10], 1, after=[0, 0, 0, 1, 2, 3], after_ptr=[0, 0, 1, 2, 3, 6],
        think_s=[0, 0, 0, 0, 1.0],
    )  # fmt: skip
    result = serve(requests, one(pool()))
    assert result.last.tolist() == pytest.approx([0.01, 0.07, 0.07, 0.07, 1.08])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"scheduler": "vlm_v1"}, "vllm_v1"),
        ({"num_blocks": 0}, "at least 1"),
        ({"replicas": 3, "lockstep": 2}, "divide"),
        ({"router": Router("kv-awre")}, "kv_aware"),
        ({"role": "decode"}, "roles"),
        ({"tiers": (Tier("a", 1, 1.0, ranks=4), Tier("b", 1, 1.0, ranks=2))}, "multiple"),
    ],
)
def test_bad_deployments_are_named(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        one(pool(**change))


def test_bad_requests_are_named() -> None:
    with pytest.raises(ConfigError, match=r"requests\[1\]: out_tok"):
        Requests.of([0.0, 1.0], 5, [1, 0])
    with pytest.raises(ConfigError, match="rising order"):
        Requests.of([1.0, 0.0], 5, 1)
    with pytest.raises(ConfigError, match=r"requests\[1\]: after"):
        Requests.of([0.0, 0.0], 5, 1, after=[1], after_ptr=[0, 0, 1])
    named = Requests.of([0.0], 96, 1, block_ids=range(6), blocks_ptr=[0, 6], block_size=16)
    with pytest.raises(ConfigError, match="does not divide"):
        serve(named, one(pool(block_size=12)))
