"""Jobs of `kind: serving`: pools of inference engines, a workload and the latencies it must keep."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from euston.errors import BadInput, at
from euston.scenario._base import (
    Count,
    Duration,
    Flag,
    Number,
    PositiveBandwidth,
    PositiveDataSize,
    PositiveDuration,
    Section,
    Text,
    Whole,
    refuse,
)
from euston.scenario.jobs import JobBase, Model

if TYPE_CHECKING:
    from euston.models import Balance
    from euston.scenario.model import Scenario
    from euston.scenario.sites import SiteSection

__all__ = [
    "AutoscaleSection",
    "EngineSection",
    "ReplicaFailureSection",
    "HandoverSection",
    "PoolSection",
    "RequestClassSection",
    "RouterSection",
    "ServingSection",
    "SloSection",
    "SpeculationSection",
    "TierSection",
    "WorkloadSection",
]

Scheduler = Literal["vllm_v1", "sarathi", "prefill_first", "orca", "static", "priority", "sjf", "edf", "fair"]
RouterName = Literal[
    "random", "round_robin", "least_requests", "least_tokens", "power_of_two", "session_affinity",
    "prefix_aware", "kv_aware", "slo_aware",
]  # fmt: skip


class SpeculationSection(Section):
    """Speculative decoding."""

    draft: Count = Field(le=63, description="Tokens guessed each step.")
    acceptance: tuple[Annotated[Number, Field(ge=0, le=1)], ...] = Field(
        default=(0.7,),
        min_length=1,
        description="Chance that the first, second, ... guess is right, given that those before were.",
    )


class EngineSection(Section):
    """One engine's scheduler and KV cache."""

    scheduler: Scheduler = "vllm_v1"
    max_num_seqs: Count = Field(default=256, le=65536, description="Most sequences of a step.")
    max_num_batched_tokens: Count = Field(default=8192, le=2**20, description="Most tokens of a step.")
    block_size: Count = Field(default=16, description="Tokens of a KV block.")
    blocks: Count | None = Field(
        default=None,
        le=2**31 - 1,
        description="KV blocks of a rank, images of an encoder; unless said, what memory leaves.",
    )
    memory_utilisation: Number = Field(
        default=0.9, gt=0, le=1, description="Share of the memory the engine takes."
    )
    prefix_cache: Flag = True
    eviction: Literal["lru", "lfu", "fifo", "gdsf"] = "lru"
    chunked: Flag = Field(default=True, description="Prompts may be split to fill a step.")
    long_prefill_threshold: Whole = Field(
        default=0, description="Most tokens of one request in a step; 0: all."
    )
    max_model_len: Whole = Field(
        default=0, description="Longest prompt and answer that is not refused; 0: any."
    )
    preemption: Literal["recompute", "swap"] = "recompute"
    swap_bandwidth: PositiveBandwidth = Field(default=25e9, description="Between accelerator and host.")
    watermark: Number | None = Field(
        default=None, ge=0, lt=1, description="Share of the blocks that admission leaves free."
    )
    speculation: SpeculationSection | None = None


class RouterSection(Section):
    """How requests find a replica; see `euston.serving.Router` for the weights."""

    policy: RouterName = "least_requests"
    bound: Number = Field(
        default=1.25, ge=1, description="session_affinity: most load of a replica over the mean."
    )
    match: Number = Field(default=1.0, description="prefix_aware: weight of the matched share.")
    queue: Number = Field(default=0.02, description="prefix_aware: weight of each request there.")
    kv: Number = Field(default=0.1, description="prefix_aware: weight of the share of blocks in use.")
    overlap: Number = Field(default=1.0, ge=0, description="kv_aware: weight of blocks to prefill.")
    temperature: Number = Field(default=0.0, ge=0, description="kv_aware: 0 takes the best.")
    refuse: Flag = Field(default=False, description="slo_aware: refuse what would be late.")
    queue_cap: Whole = Field(default=0, description="Refuse where so many wait; 0: never.")


class TierSection(Section):
    """A store of KV below the accelerators' memory."""

    name: Text = "dram"
    size: PositiveDataSize = Field(description="Capacity of one store.")
    bandwidth: PositiveBandwidth = Field(description="Of reading, shared by the loads under way.")
    latency: Duration = 0.0
    concurrency: Count = Field(default=8, description="Loads at one time.")
    ranks: Count = Field(default=1, description="Ranks that share a store.")


class AutoscaleSection(Section):
    """Replicas that come and go with the load, by Kubernetes' rule: the mean of a metric to its target."""

    metric: Literal["requests", "queued_tokens", "kv", "rate", "ttft", "tpot"] = Field(
        default="requests",
        description="Requests of a replica, prompt tokens waiting for it, its share of KV blocks in use; "
        "arrivals per second of a replica, predicted for when a new one serves; or a latency of the service.",
    )
    target: Number = Field(gt=0, description="What a replica should have of it; seconds, of a latency.")
    least: Count = Field(default=1, description="Replicas that always run.")
    first: Count | None = Field(default=None, description="Replicas at the start; the least unless said.")
    interval: PositiveDuration = Field(default=15.0, description="Between looks.")
    window: Duration = Field(default=300.0, description="Whose largest wish counts before replicas go.")
    start: Duration = Field(default=60.0, description="From the order of a replica until it serves.")
    tolerance: Number = Field(default=0.1, ge=0, lt=1, description="Distance from the target that is let be.")
    quantile: Number = Field(
        default=0.9, gt=0, le=1, description="Of ttft and tpot, among the requests since the last look."
    )
    early: Number = Field(
        default=0.5, ge=0, lt=1, description="Share of a latency's target below which a replica goes."
    )
    smoothing: Number = Field(default=0.5, gt=0, le=1, description="Of rate: weight of the newest count.")
    trend: Number = Field(default=0.2, ge=0, le=1, description="Of rate: weight of the newest rise.")


class ExpertsSection(Section):
    """How tokens fall on a mixture's experts, and what evens it out; all ranks wait for the fullest."""

    kind: Literal["uniform", "multinomial", "zipf", "trace"] = Field(
        default="multinomial",
        description="Every expert its share; random counts; weights 1 / rank^alpha; tokens as measured.",
    )
    alpha: Number = Field(default=0.0, ge=0, description="Exponent of zipf.")
    trace: tuple[Number, ...] = Field(default=(), description="Of trace: tokens each expert got, any scale.")
    seed: Whole = Field(default=0, description="Of the draws.")
    balancer: Literal["static", "eplb"] = Field(
        default="static",
        description="Consecutive experts share an accelerator; or they and copies of the popular ones are "
        "placed by what they get (DeepSeek's EPLB).",
    )
    redundant: Whole = Field(default=0, description="Of eplb: copies of experts beside one of each.")
    two_batch_overlap: Flag = Field(
        default=False,
        description="A step in two halves: one computes while the other's tokens travel between ranks.",
    )

    def make(self) -> Balance:
        """The room's object."""
        from euston.models import Balance

        return Balance(**self.model_dump(exclude={"two_batch_overlap"}))


class PoolSection(Section):
    """Equal replicas with one role."""

    short: ClassVar[dict[str, str]] = {"tp": "tensor", "pp": "pipeline", "dp": "data", "ep": "expert"}

    role: Literal["both", "prefill", "decode", "encode"] = Field(
        default="both", description="`encode`: the vision encoder, for images before the prompts."
    )
    replicas: Count = Field(
        default=1, le=2**20, description="Copies of the model; the most there can be with `autoscale`."
    )
    autoscale: AutoscaleSection | None = None
    tensor: Count = Field(default=1, description="Accelerators that split every matrix.")
    pipeline: Count = Field(default=1, description="Stages of a rank.")
    data: Count = Field(default=1, description="Ranks of a replica that share the experts and step together.")
    expert: Count = Field(default=1, description="Accelerators that whole experts are dealt to; 1: split.")
    experts: ExpertsSection = Field(default_factory=ExpertsSection)
    engine: EngineSection = Field(default_factory=EngineSection)
    router: RouterSection = Field(default_factory=RouterSection)
    tiers: tuple[TierSection, ...] = Field(default=(), description="From near to far.")
    tier_admission: Literal["write_back", "write_through", "second_use"] = "write_back"
    load_overlap: Flag = Field(default=False, description="Layers of loaded KV come in while others compute.")
    embeddings: Whole | None = Field(
        default=None,
        description="Behind an `encode` pool: tokens of images that a rank holds until their prompts are "
        "computed, others wait at their encoder; those of a step unless said (as vLLM), 0: any.",
    )

    @property
    def accelerators(self) -> int:
        """All of the pool."""
        return self.replicas * self.data * self.tensor * self.pipeline


class HandoverSection(Section):
    """How KV goes from a prefill pool to a decode pool."""

    bandwidth: PositiveBandwidth | None = Field(
        default=None,
        description="Out of a rank, for itself; unless said, transfers share the site's fabric (run.network: "
        "fluid) or have the NICs of their accelerators (none).",
    )
    latency: Duration = Field(default=0.0, description="Of a transfer.")
    per_block: Duration = Field(default=0.0, description="Of each block of it.")
    layerwise: Flag = Field(default=False, description="Layers are pushed while prefill goes on.")
    first_token: Literal["prefill", "decode"] = "prefill"


class RequestImagesSection(Section):
    """Images that requests bring; a pool of role encode takes them, or the step that takes up the prompt."""

    size: Count = Field(description="Pixels of a side of an image.")
    mean: Number | None = Field(
        default=None,
        gt=0,
        description="Images of a request (Poisson), their tokens besides the text's; a trace's unless said.",
    )
    distinct: Count | None = Field(
        default=None, le=2**31, description="How many there are in all; they all differ unless said."
    )
    alpha: Number = Field(default=0.0, ge=0, description="Popularity of `distinct` ones: 1 / rank^alpha.")


class RequestClassSection(Section):
    """Requests that schedulers and routers tell apart; all turns of a session are of one class."""

    name: Text = Field(description="What reports call it.")
    share: Number = Field(gt=0, description="How common it is, any scale.")
    priority: Number = Field(default=0.0, description="Of scheduler priority: smaller goes first.")
    due: PositiveDuration | None = Field(
        default=None,
        description="First token after arrival, for edf and slo_aware; the SLO's TTFT unless said.",
    )


class WorkloadSection(Section):
    """Requests: of a packaged trace, of a file, or made up."""

    trace: Text | None = Field(default=None, description="A trace of the package.")
    file: Text | None = Field(default=None, description="A trace file, relative to the scenario.")
    format: Text = Field(default="auto", description="Of the file.")
    generator: Literal["independent", "shared_prefix", "conversations", "agents"] | None = None
    settings: dict[str, Any] = Field(
        default_factory=dict,
        description="Of the generator, e.g. {prompt: 1000, answer: {kind: lognormal, p50: 100, p99: 900}}.",
    )
    arrivals: Text | dict[str, Any] = Field(
        default="poisson", description="A process, or {kind: gamma, cv: 2}; of a generator."
    )
    requests: Count | None = Field(
        default=None, le=10**9, description="How many (sessions, for conversations and agents)."
    )
    rate: Number | None = Field(
        default=None, gt=0, description="Requests per second; a trace is stretched to it."
    )
    token_scale: Number = Field(default=1.0, gt=0, description="Tokens over the trace's.")
    concurrency: Whole = Field(default=0, description="Users who wait for each answer; 0: an open loop.")
    think: Duration = Field(default=0.0, description="Time of a user between an answer and the next request.")
    images: RequestImagesSection | None = Field(
        default=None, description="For a model with a vision encoder."
    )
    classes: tuple[RequestClassSection, ...] = Field(
        default=(),
        max_length=256,
        description="Kinds of requests for priority, edf and slo_aware, clients of fair; else all are alike.",
    )
    prediction_error: Number = Field(
        default=0.0,
        ge=0,
        description="Of sjf: standard deviation of the logarithm of predicted over true lengths of answers.",
    )

    @model_validator(mode="after")
    def _one_source(self) -> WorkloadSection:
        given = [key for key in ("trace", "file", "generator") if getattr(self, key) is not None]
        if len(given) != 1:
            raise refuse(f"needs one of trace, file and generator; given: {', '.join(given) or 'none'}")
        if self.generator is not None and self.requests is None:
            raise refuse("is missing; a generator needs to know how many", "requests")
        if self.generator is not None and self.rate is None and not self.concurrency:
            raise refuse("is missing; a generator needs a rate, or a concurrency", "rate")
        if self.generator is None and self.settings:
            raise refuse("are a generator's; this workload is a trace", "settings")
        names = [one.name for one in self.classes]
        twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
        if twice is not None:
            raise refuse(f"{twice!r} stands twice", "classes")
        if self.think and not self.concurrency:
            raise refuse("is of users; give `concurrency` too", "think")
        return self


class SloSection(Section):
    """Latencies that a request must keep to count."""

    ttft: PositiveDuration | None = Field(default=None, description="Time to first token.")
    tpot: PositiveDuration | None = Field(default=None, description="Mean time per output token after it.")
    itl: PositiveDuration | None = Field(default=None, description="Longest gap between two tokens.")
    e2e: PositiveDuration | None = Field(default=None, description="Time to the last token.")
    share: Number = Field(default=0.9, gt=0, le=1, description="Of all requests that must keep them.")

    @model_validator(mode="after")
    def _something(self) -> SloSection:
        if all(value is None for value in (self.ttft, self.tpot, self.itl, self.e2e)):
            raise refuse("says no latency; give ttft, tpot, itl or e2e")
        return self


class ReplicaFailureSection(Section):
    """Ranks of a pool that fail, and come back."""

    pool: Whole = Field(default=0, description="Number of the pool.")
    replica: Whole = Field(description="Number of the replica in its pool.")
    at: Duration = Field(description="When it fails; what it had is lost and asked for again.")
    until: Duration | None = Field(default=None, description="When it is back; never unless said.")

    @model_validator(mode="after")
    def _later(self) -> ReplicaFailureSection:
        if self.until is not None and self.until <= self.at:
            raise refuse("must be later than `at`", "until")
        return self


class ServingSection(JobBase):
    """An inference service."""

    kind: Literal["serving"] = Field(description="serving")
    model: Model = Field(description="A model of the catalogue, a shape, or {hf_config: path}.")
    precision: Text = Field(default="bf16", description="Of the layers' products, e.g. bf16, fp8.")
    kv_precision: Literal["bf16", "fp8"] = Field(default="bf16", description="Of the KV cache.")
    software: Text = Field(default="vllm", description="Host times: an engine of the catalogue, or none.")
    step_times: Literal["tables", "roofline"] = Field(
        default="tables", description="Kernel tables where there are any, or formulas everywhere."
    )
    pools: tuple[PoolSection, ...] = Field(
        default=(PoolSection(),), min_length=1, description="One for all, or prefill and decode."
    )
    handover: HandoverSection = Field(default_factory=HandoverSection)
    information_delay: Duration = Field(default=0.0, description="Age of what routers see.")
    admission_rate: Number | None = Field(default=None, gt=0, description="Most requests per second let in.")
    admission_burst: Number = Field(default=1.0, ge=1, description="Requests let in at once.")
    failures: tuple[ReplicaFailureSection, ...] = Field(default=(), description="Replicas that fail.")
    workload: WorkloadSection
    slo: SloSection = Field(
        default=SloSection(ttft=2.0, tpot=0.2), description="2 s and 200 ms unless said (Vidur's)."
    )
    per_token: Flag = Field(default=False, description="Keep the time of every token.")

    @model_validator(mode="after")
    def _roles(self) -> ServingSection:
        roles = sorted(pool.role for pool in self.pools)
        if roles not in (
            ["both"],
            ["decode", "prefill"],
            ["both", "encode"],
            ["decode", "encode", "prefill"],
        ):
            raise refuse(
                f"have the roles {', '.join(roles)}; use one 'both', or prefill and decode, and one encode "
                "where images come",
                "pools",
            )
        return self

    def accelerators(self, site: SiteSection) -> int:
        """Those of all pools."""
        return sum(pool.accelerators for pool in self.pools)

    def problems(self, scenario: Scenario, index: int) -> Iterator[str]:
        """A model that is unknown, a site without accelerators, ranks larger than a host's domain."""
        from euston.scenario.build import transformer

        where = f"jobs[{index}]"
        site = scenario.site(self.placement.site)
        if self.accelerators(site) > site.accelerators:
            yield at(
                f"{where}.pools",
                f"need {self.accelerators(site)} accelerators; site {site.name!r} has {site.accelerators}",
            )
        for i, failure in enumerate(self.failures):
            if failure.pool >= len(self.pools):
                yield at(f"{where}.failures[{i}].pool", f"{failure.pool}; there are {len(self.pools)}")
            elif failure.replica >= self.pools[failure.pool].replicas:
                yield at(
                    f"{where}.failures[{i}].replica",
                    f"{failure.replica} does not exist; the pool has {self.pools[failure.pool].replicas}",
                )
        if site.accelerator is None:
            yield at(f"sites[{scenario.sites.index(site)}].accelerator", "is missing; serving computes")
        if scenario.run.network not in ("none", "fluid"):
            yield at(
                "run.network",
                f"{scenario.run.network} moves no KV; use fluid (hand-overs share the site's fabric) or none "
                "(they have the NICs of their accelerators)",
            )
        if len(self.pools) == 1 and self.handover != HandoverSection():
            yield at(
                f"{where}.handover", "is of a pool to the next; there is one pool, which hands nothing over"
            )
        try:
            model = transformer(scenario, index)
        except BadInput as error:
            yield str(error)
            return
        for i, pool in enumerate(self.pools):
            place = f"{where}.pools[{i}]"
            if pool.autoscale is not None:
                first = pool.autoscale.first or pool.autoscale.least
                if pool.autoscale.least > pool.replicas:
                    yield at(
                        f"{place}.autoscale.least",
                        f"{pool.autoscale.least} is more than the pool's {pool.replicas} replicas",
                    )
                elif not pool.autoscale.least <= first <= pool.replicas:
                    yield at(
                        f"{place}.autoscale.first",
                        f"{first} is not between the least, {pool.autoscale.least}, and the pool's "
                        f"{pool.replicas} replicas",
                    )
            if pool.tensor > site.accelerators_per_host:
                yield at(
                    f"{place}.tensor",
                    f"{pool.tensor} accelerators are more than a host's {site.accelerators_per_host}",
                )
            if pool.pipeline > model.layers:
                yield at(f"{place}.pipeline", f"{pool.pipeline} stages for {model.layers} layers")
            if pool.data > 1 and model.moe is None:
                yield at(f"{place}.data", f"{model.name} has no experts to share; use `replicas`")
