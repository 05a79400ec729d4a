"""The serving engine: requests and steps per CPU second, one replica to 1,024; see benchmarks/README.md.

Lengths are lognormal with the means of Azure's conversation trace of 2023 (1,155 tokens in, 211 out; Patel et
al., Splitwise, ISCA 2024); step times are those of an 8B model in round numbers, since only their count
matters here.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from _harness import Outcome, case, main
from euston.clock import Conductor
from euston.runs import serving as services
from euston.scenario import Scenario
from euston.serving import (
    Deployment,
    Engine,
    Pool,
    Rate,
    Requests,
    Router,
    ServingResult,
    StepTime,
    Transport,
    dense,
    serve,
)

STEP = StepTime(
    tokens=dense([0, 1, 256, 2048], [0.0, 0.006, 0.009, 0.055]), prefill=Rate.flat(1e-10),
    decode=Rate.flat(2e-8), cpu_fixed=1e-3, cpu_sequence=1e-5,
)  # fmt: skip

PD = {
    "version": 1, "name": "pd", "run": {"network": "fluid"},
    "sites": [
        {"name": "here", "accelerator": "h100-sxm", "hosts": 2048, "fabric": {"preset": "generic-400g-rail"}}
    ],
    "jobs": [
        {
            "name": "chat", "kind": "serving", "model": "llama3.1-8b",
            "pools": [{"role": role, "replicas": 512, "tensor": 8} for role in ("prefill", "decode")],
            "workload": {
                "generator": "independent", "requests": 1, "rate": 1, "settings": {"prompt": 1, "answer": 1},
            },
        }
    ],
}  # fmt: skip


def requests(n: int, rate: float, *, shared: bool = False) -> Requests:
    """``n`` Poisson arrivals; ``shared``: 200 families of prompts whose first half is the same."""
    rng = np.random.default_rng(1)
    arrival = rng.exponential(1 / rate, n).cumsum()
    prompt = np.clip(rng.lognormal(np.log(1155) - 0.5, 1.0, n), 1, 7000).astype(np.int32)
    answer = np.clip(rng.lognormal(np.log(211) - 0.32, 0.8, n), 1, 1000).astype(np.int32)
    if not shared:
        return Requests.of(arrival, prompt, answer)
    blocks = prompt // 16
    ptr = np.concatenate([[0], np.cumsum(blocks)])
    k = np.arange(ptr[-1]) - np.repeat(ptr[:-1], blocks)
    owner = np.repeat(np.arange(n), blocks)
    family = np.repeat(rng.integers(0, 200, n), blocks)
    half = k < np.repeat(blocks // 2, blocks)
    ids = np.where(half, family * 512 + k, 200 * 512 + owner * 512 + k)
    return Requests.of(
        arrival, prompt, answer, block_ids=ids, blocks_ptr=ptr, block_size=16, named_tok=blocks * 16
    )


def pool(replicas: int, **changes: object) -> Pool:
    """Replicas with 20,000 blocks of 16 tokens."""
    return Pool(Engine(20_000), STEP, replicas, **changes)  # type: ignore[arg-type]


def outcome(result: ServingResult) -> Outcome:
    """Work done; the check is the mean of all finishing times."""
    work = {
        "requests": float(result.done.sum()), "steps": float(result.steps), "events": float(result.events),
        "tokens": float(result.tokens.sum()), "transfers": float(result.transfers),
        "hit_tokens": float(result.hits.sum()),
    }  # fmt: skip
    return Outcome(work, float(np.mean(result.last)))


@case("10,000 conversation-like requests on 4 replicas")
def conversation() -> Outcome:
    return outcome(serve(requests(10_000, 16.0), Deployment((pool(4),))))


@case("10,000 requests with shared prefixes on 4 replicas, kv-aware router")
def prefixes() -> Outcome:
    deployment = Deployment((pool(4, router=Router("kv_aware")),), information_delay=0.1)
    return outcome(serve(requests(10_000, 16.0, shared=True), deployment))


@case("10,000 requests, 2 prefill and 2 decode replicas")
def disaggregated() -> Outcome:
    pools = (pool(2, role="prefill"), pool(2, role="decode"))
    return outcome(serve(requests(10_000, 16.0), Deployment(pools, Transport(bandwidth=25e9))))


@case("1,000,000 requests on 1,024 replicas", repeat=1, long=True)
def fleet() -> Outcome:
    return outcome(serve(requests(1_000_000, 4096.0), Deployment((pool(1024),))))


@case(
    "1,000,000 requests, 512 prefill and 512 decode replicas of 8, hand-overs on 16,384 endpoints",
    repeat=1,
    long=True,
)
def disaggregated_fleet() -> Outcome:
    """From the scenario on: paths of all pairs, the engine, and every hand-over on the fluid network."""
    service = services.service(Scenario.model_validate(PD), 0)
    service = replace(service, requests=requests(1_000_000, 4096.0))
    network = services.network([service])
    engine = services.components(service, 0, service.name)[0]
    conductor = Conductor([engine, network])
    conductor.run()
    result = outcome(engine.result())
    return Outcome({**result.work, "alternations": float(conductor.alternations)}, result.check)


if __name__ == "__main__":
    main()
