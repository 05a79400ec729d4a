"""The engine against closed forms: queues, hand-overs, tiers, pipelines, drafts, routers."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from euston.clock.conductor import Conductor, Message
from euston.errors import ConfigError
from euston.serving import (
    ROUTERS,
    Arrived,
    Deployment,
    Engine,
    Outcome,
    Pool,
    Rate,
    Requests,
    Router,
    Serving,
    ServingResult,
    Speculation,
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


# ---- queues ------------------------------------------------------------------------------------------------


def test_waits_of_m_d_1_and_m_m_1() -> None:
    """Pollaczek-Khinchine: mean wait = rho / (1 - rho) x E[S^2] / (2 E[S]), within 2 %."""
    n, rho = 400_000, 0.6
    rng = np.random.default_rng(7)
    p = pool(max_num_seqs=1, prefix_cache=False)
    for tokens in (np.full(n, 100), np.ceil(rng.exponential(1000, n)).astype(int)):
        service = tokens * 1e-3
        arrival = rng.exponential(service.mean() / rho, n).cumsum()
        result = serve(Requests.of(arrival, tokens, 1), one(p))
        wait = (result.scheduled - result.arrival).mean()
        load = service.mean() / rng_mean(arrival)
        expected = load / (1 - load) * (service**2).mean() / (2 * service.mean())
        assert wait == pytest.approx(expected, rel=0.02)
        assert result.busy.sum() == pytest.approx(service.sum())


def rng_mean(arrival: np.ndarray) -> float:
    return float(arrival[-1] / arrival.size)


def test_closed_loop_keeps_its_population() -> None:
    """N in the system until the last N: mean E2E x requests = N x time, less what the end leaves empty."""
    n, many = 4000, 16
    requests = Requests.of(np.zeros(n), 50, 20, concurrency=many)
    result = serve(requests, one(pool()))
    settled(result)
    assert result.e2e.sum() <= many * result.end
    assert result.e2e.sum() == pytest.approx(many * result.end, rel=0.01)


def test_tokens_are_conserved_and_hits_count_once() -> None:
    """Computed = prompt + answer - 1 - hits for every request that is not thrown out."""
    rng = np.random.default_rng(3)
    n = 500
    prompt, answer = rng.integers(20, 400, n), rng.integers(1, 60, n)
    ids, ptr = [], [0]
    for i in range(n):
        ids += [k if k < 5 else 1000 * (i + 1) + k for k in range(prompt[i] // 16)]
        ptr.append(len(ids))
    requests = Requests.of(
        rng.exponential(0.05, n).cumsum(), prompt, answer, block_ids=ids, blocks_ptr=ptr, block_size=16,
        named_tok=prompt // 16 * 16,
    )  # fmt: skip
    result = serve(requests, one(pool(max_num_batched_tokens=64)))
    settled(result)
    assert result.preemptions.sum() == 0 and result.hits.sum() > n * 40
    computed = result.ranks["prefill_tokens"] + result.ranks["decode_tokens"]
    assert computed.sum() == prompt.sum() + (answer - 1).sum() - result.hits.sum()
    assert result.ranks["emitted_tokens"].sum() == answer.sum()
    assert (result.ranks["used_blocks"] == 0).all()


def test_gap_histogram_against_recorded_tokens() -> None:
    rng = np.random.default_rng(0)
    requests = Requests.of(rng.exponential(0.1, 300).cumsum(), rng.integers(1, 300, 300), 30)
    result = serve(requests, one(pool(max_num_batched_tokens=128)), record_tokens=True)
    gaps = result.gaps()
    assert gaps.size == result.gap_counts.sum() == 300 * 29
    for q in (0.1, 0.5, 0.9, 0.99):
        exact = np.quantile(gaps, q, method="inverted_cdf")
        assert result.gap_quantile(q)[0] == pytest.approx(exact, rel=0.003)
    ends = np.cumsum(requests.out_tok) - 1
    assert np.array_equal(result.token_times[ends], result.last)


# ---- steps -------------------------------------------------------------------------------------------------


def test_one_request_step_by_step() -> None:
    """Chunks of 100, then one token a step; attention and host time as the formulas say."""
    step = StepTime(
        tokens=dense([0, 100], [0.0, 0.1]), prefill=Rate.flat(1e-6), decode=Rate.flat(1e-5), fixed=0.01,
        chunk_fixed=0.001, decode_fixed=0.002, cpu_fixed=0.5, cpu_sequence=0.25,
    )  # fmt: skip
    result = serve(
        Requests.of([1.0], 250, 3), one(pool(step, max_num_batched_tokens=100, asynchronous=False))
    )
    chunks = [step.seconds([n], [c], asynchronous=False) for n, c in ((100, 0), (100, 100), (50, 200))]
    by_hand = 0.76 + 0.001 + 0.1 + 1e-6 * (100 * 101 / 2)
    assert chunks[0] == pytest.approx(by_hand)
    tokens = [step.seconds(decode=[251 + j], asynchronous=False) for j in range(2)]
    assert tokens[0] == pytest.approx(0.76 + 0.001 + 0.002 + 251e-5)
    assert result.first[0] == pytest.approx(1 + sum(chunks))
    assert result.last[0] == pytest.approx(1 + sum(chunks) + sum(tokens))


def test_pipeline_of_three_stages() -> None:
    """One request: a token passes three thirds and two sends; three: a stage and its send set the pace."""
    step = StepTime(tokens=dense([0, 10], [0.0, 0.03]), send_fixed=0.001)
    alone = serve(Requests.of([0.0], 1, 11), one(pool(step, pipeline=3)))
    assert alone.last[0] == pytest.approx(11 * (0.003 + 2 * 0.001))
    many = Requests.of([0.0, 0.0011, 0.0022], 1, 101)
    piped = serve(many, one(pool(step, pipeline=3)))
    flat = serve(many, one(pool(dataclasses.replace(step, tokens=np.array([0, 0.003, 0.003, 0.003])))))
    assert piped.end == pytest.approx(101 * 3 * 0.002, rel=0.01)
    assert flat.end < piped.end
    settled(piped)


def test_ranks_in_lockstep_wait_for_the_slowest() -> None:
    """Two ranks, one with a long prompt: the other's tokens come at the pace of the long step."""
    requests = Requests.of([0.0, 0.0], [1000, 1], [1, 2])
    together = serve(requests, one(pool(replicas=2, lockstep=2, router=Router("round_robin"))))
    apart = serve(requests, one(pool(replicas=2, router=Router("round_robin"))))
    assert apart.first[1] == pytest.approx(0.001) and together.first[1] == pytest.approx(1.0)
    assert together.last[1] == pytest.approx(1.001)


@pytest.mark.parametrize(("chance", "steps"), [(0.0, 12), (1.0, 3)])
def test_speculation_at_its_ends(chance: float, steps: int) -> None:
    """Nothing taken: every token costs draft + 1; all taken: draft + 1 tokens a step."""
    p = pool(speculation=Speculation(3, (chance,)))
    result = serve(Requests.of([0.0], 5, 13), one(p))
    assert result.steps == 1 + steps
    assert result.last[0] == pytest.approx(0.005 + steps * 0.004)


def test_speculation_draws_the_geometric() -> None:
    """Mean tokens of a step = (1 - a^(g+1)) / (1 - a) (Leviathan et al. 2023)."""
    a, g, n = 0.7, 4, 200
    result = serve(Requests.of(np.zeros(n), 4, 501), one(pool(speculation=Speculation(g, (a,)))), seed=5)
    expected = (1 - a ** (g + 1)) / (1 - a)
    made = 500 * n / result.ranks["decode_tokens"].sum()
    assert made == pytest.approx(expected, rel=0.01)


# ---- hand-overs --------------------------------------------------------------------------------------------


def disaggregated(
    transport: Transport, *, prefill: Pool | None = None, decode: Pool | None = None
) -> Deployment:
    a = prefill or pool(role="prefill", kv_bytes_per_token=1000.0)
    b = decode or pool(role="decode")
    return Deployment(
        (dataclasses.replace(a, role="prefill"), dataclasses.replace(b, role="decode")), transport
    )


def test_hand_over_of_one_request() -> None:
    """Prefill, latency + bytes / bandwidth, then decode; the first token comes from either pool."""
    requests = Requests.of([0.0], 100, 5)
    for first, ttft, steps in (("prefill", 0.1, 4), ("decode", 0.1 + 0.25 + 0.099 + 0.001, 5)):
        transport = Transport(bandwidth=1e6, latency=0.25, first_token=first)
        result = serve(requests, disaggregated(transport))
        settled(result)
        assert result.first[0] == pytest.approx(ttft)
        moved = 100 if first == "prefill" else 99  # the decode pool computes the last token of the prompt
        assert result.handed_bytes == moved * 1000
        assert result.last[0] == pytest.approx(0.1 + 0.25 + moved * 1e-3 + steps * 0.001)
        assert (result.ranks["used_blocks"] == 0).all()


def test_layers_pushed_while_prefill_goes_on() -> None:
    """Exposed: the last layer, or what prefill was too short to hide."""
    requests = Requests.of([0.0], 100, 2)
    for bandwidth in (1e7, 1e5):
        total = 100 * 1000 / bandwidth
        result = serve(requests, disaggregated(Transport(bandwidth=bandwidth, layerwise=True)))
        exposed = max(total / 32, total - 0.1 * 31 / 32)
        assert result.last[0] == pytest.approx(0.1 + exposed + 0.001)


def test_a_prompt_stays_until_it_is_handed_over() -> None:
    """A prefill cache for one prompt: the second is computed only after the first has left."""
    requests = Requests.of([0.0, 0.0], 160, 2)
    small = pool(blocks=11, kv_bytes_per_token=1000.0, max_num_batched_tokens=160)
    result = serve(requests, disaggregated(Transport(bandwidth=1e4), prefill=small))
    settled(result)
    assert result.scheduled[1] == pytest.approx(0.16 + 16.0)
    assert result.transfers == 2


def test_blocks_are_reserved_before_kv_sets_out() -> None:
    """A decode cache for one request: the second's KV stays away until the first is done."""
    requests = Requests.of([0.0, 0.0], 150, 10)
    result = serve(requests, disaggregated(Transport(bandwidth=1e5), decode=pool(blocks=10)))
    settled(result)
    # computed together in 0.3 s, 1.5 s of hand-over, nine tokens of 1 ms; then the same again
    assert result.last.tolist() == pytest.approx([0.3 + 1.5 + 0.009, 0.3 + 2 * (1.5 + 0.009)])


def test_senders_share_their_bandwidth() -> None:
    """Two hand-overs at once take twice as long as one."""
    requests = Requests.of([0.0, 0.0], 100, 2)
    result = serve(requests, disaggregated(Transport(bandwidth=1e6)))
    assert result.last.tolist() == pytest.approx([0.2 + 0.2 + 0.002] * 2)


def test_disaggregation_for_free_is_a_composition() -> None:
    """No time to hand over: first tokens as by a prefill-only service."""
    rng = np.random.default_rng(1)
    requests = Requests.of(rng.exponential(0.3, 300).cumsum(), rng.integers(10, 300, 300), 20)
    free = serve(requests, disaggregated(Transport(bandwidth=1e30)))
    only = serve(dataclasses.replace(requests, out_tok=np.ones(300)), one(pool()))
    assert np.array_equal(free.first, only.first)
    settled(free)


def test_images_are_encoded_first() -> None:
    """Encoder, embeddings through its station, prompt: three times in a row; text goes straight on."""
    encode = Pool(
        Engine(2, prefix_cache=False, max_num_batched_tokens=10_000), LINEAR, role="encode", image_tokens=50,
        embedding_bytes=100.0,
    )  # fmt: skip
    requests = Requests.of([0.0, 0.0], 100, 1, n_images=[2, 0])
    result = serve(requests, Deployment((pool(), encode), Transport(bandwidth=1e5)))
    assert result.first.tolist() == pytest.approx([0.1 + 2 * 50 * 100 / 1e5 + 0.1, 0.1])


class Wire:
    """A network that takes a fixed time: what the conductor puts beside the engine."""

    name = "network"

    def __init__(self, seconds: float) -> None:
        self.seconds, self.moved = seconds, 0.0

    def next_time(self) -> float:
        return float("inf")

    def advance(self, until: float, inbox: Any = ()) -> list[Message]:
        self.moved += sum(m.payload.size for m in inbox)
        return [Message(m.time + self.seconds, m.sender, Arrived(m.payload.ticket)) for m in inbox]


def test_transfers_written_to_the_outbox() -> None:
    """The conductor's network with a fixed time = the formula with that latency."""
    rng = np.random.default_rng(2)
    requests = Requests.of(rng.exponential(0.1, 200).cumsum(), rng.integers(10, 300, 200), 20)
    engine, wire = Serving(requests, disaggregated(Transport("fluid"))), Wire(0.05)
    Conductor([engine, wire]).run()
    beside = engine.result()
    alone = serve(requests, disaggregated(Transport(bandwidth=1e30, latency=0.05)))
    assert np.array_equal(beside.first, alone.first) and np.allclose(
        beside.last, alone.last, rtol=0, atol=1e-9
    )
    assert wire.moved == beside.handed_bytes == alone.handed_bytes
    with pytest.raises(ConfigError, match="conductor"):
        serve(requests, disaggregated(Transport("fluid")))


# ---- tiers -------------------------------------------------------------------------------------------------


def twice() -> Requests:
    """A prompt, another that pushes it out of a cache of 10 blocks, and the first again."""
    ids = [*range(6), *range(100, 110), *range(6)]
    return Requests.of(
        [0.0, 10.0, 20.0], [96, 159, 97], 1, block_ids=ids, blocks_ptr=[0, 6, 16, 22], block_size=16,
        named_tok=[96, 159, 96],
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["load", "overlap", "recompute", "none"])
def test_a_block_comes_back_from_a_tier(kind: str) -> None:
    """Six blocks: loaded at latency + bytes / bandwidth, hidden by layers, or computed if that is faster."""
    bandwidth = 10.0 if kind == "recompute" else 1e5
    tiers = () if kind == "none" else (Tier("dram", 100, bandwidth, latency=0.002),)
    p = pool(blocks=10, tiers=tiers, load_overlap=kind == "overlap", kv_bytes_per_token=16.0, layers=4)
    result = serve(twice(), one(p))
    load = 0.002 + 96 * 16 / bandwidth
    assert result.hits[2] == (96 if kind in ("load", "overlap") else 0)
    assert result.tier_hits[2] == result.hits[2]
    wait = {"load": load + 0.001, "overlap": load + 0.001 / 4}.get(kind, 0.097)
    assert result.ttft[2] == pytest.approx(wait)
    assert (result.ranks["used_blocks"] == 0).all()


def test_tiers_pass_down_what_they_can_not_keep() -> None:
    """A first tier of two blocks: the rest of the prompt comes from the second, side by side."""
    tiers = (Tier("dram", 2, 1e5), Tier("ssd", 100, 1e4))
    result = serve(twice(), one(pool(blocks=10, tiers=tiers, kv_bytes_per_token=1.0)))
    assert result.tier_hits[2] == 96
    assert result.ttft[2] == pytest.approx(4 * 16 / 1e4 + 0.001)


# ---- routers -----------------------------------------------------------------------------------------------


def sessions(n: int = 60, turns: int = 8) -> Requests:
    """Conversations whose prompts repeat all that was said."""
    rows = sorted((s * 0.05 + t * 4.0, s, t) for s in range(n) for t in range(turns))
    ids, ptr, prompts = [], [0], []
    for _, s, t in rows:
        blocks = 8 * (t + 1)
        ids += [s * 10_000 + k for k in range(blocks)]
        ptr.append(len(ids))
        prompts.append(blocks * 16)
    return Requests.of(
        [r[0] for r in rows], prompts, 16, session=[r[1] for r in rows], turn=[r[2] for r in rows],
        block_ids=ids, blocks_ptr=ptr, block_size=16,
    )  # fmt: skip


@pytest.mark.parametrize("policy", ROUTERS)
def test_every_router_serves_everything(policy: str) -> None:
    requests = sessions(30, 4)
    for delay in (0.0, 1.5):
        deployment = one(pool(replicas=4, router=Router(policy)), information_delay=delay)
        result = serve(requests, deployment, seed=3)
        again = serve(requests, deployment, seed=3)
        settled(result)
        assert result.done.all() and (result.ranks["used_blocks"] == 0).all()
        assert np.array_equal(result.last, again.last) and np.array_equal(result.rank, again.rank)


def test_knowing_where_blocks_are_pays_and_late_news_pays_less() -> None:
    requests = sessions()
    found = {}
    for name, policy, delay in (
        ("blind", "round_robin", 0.0), ("aware", "kv_aware", 0.0), ("late", "kv_aware", 6.0),
        ("sent", "prefix_aware", 0.0), ("sticky", "session_affinity", 0.0),
    ):  # fmt: skip
        router = Router(policy, overlap=2.0, bound=4.0)
        deployment = one(pool(replicas=7, router=router), information_delay=delay)
        found[name] = int(serve(requests, deployment).hits.sum())
    assert found["blind"] < found["late"] < found["aware"]
    assert min(found["sent"], found["sticky"]) > 2 * found["blind"]


def test_sessions_stay_where_they_were() -> None:
    requests = sessions()
    result = serve(requests, one(pool(replicas=7, router=Router("session_affinity", bound=50.0))))
    for s in range(60):
        assert np.unique(result.rank[requests.session == s]).size == 1


def test_late_requests_can_be_refused() -> None:
    requests = Requests.of(np.zeros(50), 100, 1, deadline_s=1.05)
    router = Router("slo_aware", refuse=True)
    result = serve(requests, one(pool(router=router, max_num_seqs=1)))
    assert result.done.sum() == 10 and (result.outcome == Outcome.REFUSED).sum() == 40
    assert np.nanmax(result.ttft) <= 1.05
    capped = serve(requests, one(pool(router=Router(queue_cap=5), max_num_seqs=1)))
    assert 5 <= capped.done.sum() <= 6
    bucket = serve(requests, one(pool(), admission_rate=1.0, admission_burst=7.0))
    assert bucket.done.sum() == 7
