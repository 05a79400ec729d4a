"""A serving deployment as data: engines, pools of replicas, routers, tiers, hand-overs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from euston.errors import ConfigError, unknown
from euston.serving.step_time import StepTime

__all__ = [
    "EVICTIONS",
    "ROLES",
    "ROUTERS",
    "SCHEDULERS",
    "TIER_ADMISSIONS",
    "Deployment",
    "Engine",
    "Pool",
    "Router",
    "Speculation",
    "Tier",
    "Transport",
]

# Position = the kernel's enum where one is meant (``_state``).
SCHEDULERS = ("vllm_v1", "sarathi", "prefill_first", "orca", "static", "priority", "sjf", "edf", "fair")
EVICTIONS = ("lru", "lfu", "fifo", "gdsf")
ROUTERS = (
    "random", "round_robin", "least_requests", "least_tokens", "power_of_two", "session_affinity",
    "prefix_aware", "kv_aware", "slo_aware",
)  # fmt: skip
TIER_ADMISSIONS = ("write_back", "write_through", "second_use")
ROLES = ("encode", "both", "prefill", "decode")
"""In the order of a request's way."""

Role = Literal["both", "prefill", "decode", "encode"]


def _one_of(where: str, value: str, kind: str, known: Sequence[str]) -> None:
    if value not in known:
        raise ConfigError(f"`{where}`: {unknown(kind, value, known)}")


def _at_least(where: str, value: float, least: float) -> None:
    if not value >= least:
        raise ConfigError(f"`{where}`: {value} is too small; it must be at least {least:g}")


@dataclass(frozen=True)
class Speculation:
    """Speculative decoding: ``draft`` tokens are guessed each step, and taken until the first wrong one.

    Attributes
    ----------
    draft : int
    acceptance : sequence of float, or sequence of sequences
        Chance that the first, second, ... draft is taken, given that those before were; one value holds for
        all positions; a row per request class where rows are given.
    """

    draft: int
    acceptance: Sequence[float] | Sequence[Sequence[float]] = (0.7,)


@dataclass(frozen=True)
class Engine:
    """One inference engine: its scheduler and its KV cache.

    Attributes
    ----------
    num_blocks : int
        KV blocks of one rank (vLLM prints one more than it can use: its null block).
    scheduler : str
        "vllm_v1" (default), "sarathi" (decodes first, then chunks; admission reserves the prompt's blocks),
        "prefill_first" (vLLM V0: whole prompts in steps of their own), "orca" (no chunks, prompt and answer
        reserved), "static" (a batch runs to its end), "priority", "sjf", "edf" and "fair" (vllm_v1 with
        another order of the queue: given priority, predicted answer length, deadline of the first token,
        virtual token counters per class).
    max_num_seqs, max_num_batched_tokens, block_size : int
    prefix_cache : bool
    eviction : "lru" | "lfu" | "fifo" | "gdsf"
    chunked : bool
        Whether a prompt may be split to fill the budget of a step.
    long_prefill_threshold : int
        Most tokens of one request in a step; 0: no limit.
    max_model_len : int
        Longest prompt + answer that is not refused; 0: no limit.
    preemption : "recompute" | "swap"
    swap_bandwidth : float
        Bytes/s between accelerator and host, for swapping.
    asynchronous : bool
        Host work hides behind the accelerator's (the longer counts) instead of adding to it.
    watermark : float
        Share of the blocks that admission leaves free; None: 0.01 for "prefill_first" and "sarathi" (as in
        vLLM V0 and Vidur), else 0.
    speculation : Speculation, optional
    fair_weights : (float, float)
        Service of an input and of an output token for "fair" (VTC, OSDI 2024: 1 and 2).
    """

    num_blocks: int
    scheduler: str = "vllm_v1"
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 2048
    block_size: int = 16
    prefix_cache: bool = True
    eviction: str = "lru"
    chunked: bool = True
    long_prefill_threshold: int = 0
    max_model_len: int = 0
    preemption: Literal["recompute", "swap"] = "recompute"
    swap_bandwidth: float = 25e9
    asynchronous: bool = True
    watermark: float | None = None
    speculation: Speculation | None = None
    fair_weights: tuple[float, float] = (1.0, 2.0)

    def check(self, where: str) -> None:
        """Raise ConfigError for what contradicts itself."""
        _one_of(f"{where}.scheduler", self.scheduler, "scheduler", SCHEDULERS)
        _one_of(f"{where}.eviction", self.eviction, "eviction policy", EVICTIONS)
        _one_of(f"{where}.preemption", self.preemption, "preemption", ("recompute", "swap"))
        for name in ("num_blocks", "max_num_seqs", "max_num_batched_tokens", "block_size"):
            _at_least(f"{where}.{name}", getattr(self, name), 1)
        for name in ("long_prefill_threshold", "max_model_len"):
            _at_least(f"{where}.{name}", getattr(self, name), 0)
        if not 0 <= self.margin < 1:
            raise ConfigError(f"`{where}.watermark`: {self.watermark} must be at least 0 and below 1")
        if not self.swap_bandwidth > 0:
            raise ConfigError(f"`{where}.swap_bandwidth`: {self.swap_bandwidth} must be positive")
        if self.speculation is not None and not 1 <= self.speculation.draft <= 63:
            raise ConfigError(f"`{where}.speculation.draft`: {self.speculation.draft} must be 1 to 63 tokens")
        if self.speculation is not None and self.scheduler == "static":
            raise ConfigError(f"`{where}.speculation`: a static batch takes one token a step")

    @property
    def margin(self) -> float:
        """The share of blocks that admission leaves free."""
        if self.watermark is not None:
            return self.watermark
        return 0.01 if self.scheduler in ("prefill_first", "sarathi") else 0.0


@dataclass(frozen=True)
class Tier:
    """A store below the accelerators' memory, shared by ``ranks`` neighbouring ranks.

    Attributes
    ----------
    name : str
    blocks : int
        Capacity of one store.
    bandwidth : float
        Bytes/s of reading, shared equally by the loads under way.
    latency : float
        Seconds.
    concurrency : int
        Loads at one time; the others wait.
    ranks : int
        How many ranks share a store: 1, those of a host, of a rack, all.
    """

    name: str
    blocks: int
    bandwidth: float
    latency: float = 0.0
    concurrency: int = 8
    ranks: int = 1


@dataclass(frozen=True)
class Router:
    """How a pool's replicas are chosen.

    Attributes
    ----------
    policy : str
        One of `ROUTERS`.
    bound : float
        session_affinity: load of a replica over the mean (Mirrokni et al. 2018).
    match, queue, kv : float
        prefix_aware: score = match x matched share - queue x requests - kv x share of blocks in use.
    absolute, relative : float
        prefix_aware: least load is chosen while max > min + absolute and max > relative x min.
    index_blocks, ttl : float
        prefix_aware: blocks remembered per replica, seconds for which they are believed.
    overlap, temperature : float
        kv_aware: cost = overlap x blocks to prefill + blocks in use; softmax of -cost / temperature, 0: min.
    refuse : bool
        slo_aware: refuse a request whose first token is predicted later than its deadline.
    queue_cap : int
        Refuse a request when the chosen replica has so many waiting; 0: never.
    """

    policy: str = "least_requests"
    bound: float = 1.25
    match: float = 1.0
    queue: float = 0.02
    kv: float = 0.1
    absolute: float = 32.0
    relative: float = 1.1
    index_blocks: float = float("inf")
    ttl: float = float("inf")
    overlap: float = 1.0
    temperature: float = 0.0
    refuse: bool = False
    queue_cap: int = 0


@dataclass(frozen=True)
class Pool:
    """Equal replicas with one role.

    Attributes
    ----------
    role : "both" | "prefill" | "decode" | "encode"
    replicas : int
        Ranks, each with its own scheduler and cache (under DP attention each rank of it is one).
    engine : Engine
    step : StepTime
    router : Router
    lockstep : int
        Ranks that step together and wait for the slowest (DP attention, shared experts); divides replicas.
    pipeline : int
        Pipeline stages of each rank; the step's time is split evenly over them.
    layers : int
        Layers of the model, for transfers that go layer by layer.
    kv_bytes_per_token : float
        Bytes of one token's KV on all accelerators of a rank.
    tiers : tuple of Tier
        From near to far; each is shared by a multiple of the ranks that share the one before.
    tier_admission : "write_back" | "write_through" | "second_use"
        Blocks come to the first tier when evicted, when filled, or when evicted after a second use.
    load_overlap : bool
        Layers of loaded KV come in while earlier ones compute (else the request waits for all of it).
    load_if_faster : bool
        Load only what is not computed sooner.
    image_tokens, embedding_bytes : int, float
        Role "encode": tokens per image, bytes of one token's embedding. Its engine's blocks are images: an
        encoder takes up a request when all its images find room, and holds them until they are handed over.
    embedding_tokens : int
        Other roles, where "encode" encodes: tokens of images whose embeddings a rank holds until their prompt
        is computed, the next ones wait at their encoder; 0: no bound.
    image_seconds : float
        Other roles: of encoding an image in the step that takes up its request; 0 where "encode" does.
    bandwidth : float
        Bytes/s out of one rank, of what it hands on; 0: the transport's.
    """

    engine: Engine
    step: StepTime
    replicas: int = 1
    role: Role = "both"
    router: Router = field(default_factory=Router)
    lockstep: int = 1
    pipeline: int = 1
    layers: int = 32
    kv_bytes_per_token: float = 131072.0
    tiers: tuple[Tier, ...] = ()
    tier_admission: str = "write_back"
    load_overlap: bool = False
    load_if_faster: bool = True
    image_tokens: int = 576
    embedding_bytes: float = 8192.0
    embedding_tokens: int = 0
    image_seconds: float = 0.0
    bandwidth: float = 0.0

    def check(self, where: str) -> None:
        """Raise ConfigError for what contradicts itself."""
        self.engine.check(f"{where}.engine")
        _one_of(f"{where}.role", self.role, "role", ROLES)
        _one_of(f"{where}.router.policy", self.router.policy, "router", ROUTERS)
        _one_of(f"{where}.tier_admission", self.tier_admission, "tier admission", TIER_ADMISSIONS)
        for name in ("replicas", "lockstep", "pipeline", "layers", "image_tokens"):
            _at_least(f"{where}.{name}", getattr(self, name), 1)
        _at_least(f"{where}.embedding_tokens", self.embedding_tokens, 0)
        if self.replicas % self.lockstep:
            raise ConfigError(f"`{where}.lockstep`: {self.lockstep} does not divide {self.replicas} replicas")
        if self.router.bound < 1:
            raise ConfigError(f"`{where}.router.bound`: {self.router.bound} must be at least 1")
        if self.tiers and not self.engine.prefix_cache:
            raise ConfigError(f"`{where}.tiers`: tiers hold blocks by name; they need engine.prefix_cache")
        shared = 1
        for j, tier in enumerate(self.tiers):
            place = f"{where}.tiers[{j}]"
            _at_least(f"{place}.blocks", tier.blocks, 1)
            _at_least(f"{place}.concurrency", tier.concurrency, 1)
            if not tier.bandwidth > 0 or not tier.latency >= 0:
                raise ConfigError(f"`{place}`: bandwidth must be positive and latency at least 0")
            if tier.ranks < 1 or tier.ranks % shared:
                raise ConfigError(
                    f"`{place}.ranks`: {tier.ranks} is no multiple of {shared}, the one before's"
                )
            shared = tier.ranks


@dataclass(frozen=True)
class Transport:
    """How KV and embeddings go from pool to pool.

    Attributes
    ----------
    network : "none" | "fluid"
        "none": each sender shares its own bandwidth among its transfers; "fluid": transfers are written to
        the outbox for the component ``network``.
    bandwidth : float
        Bytes/s out of one rank.
    latency, per_block : float
        Seconds per transfer, and per block of it (messages that are not coalesced).
    layerwise : bool
        Layers are pushed while prefill goes on; only what it does not hide takes time.
    first_token : "prefill" | "decode"
        Which pool sends the first token to the client.
    """

    network: Literal["none", "fluid"] = "none"
    bandwidth: float = 50e9
    latency: float = 0.0
    per_block: float = 0.0
    layerwise: bool = False
    first_token: Literal["prefill", "decode"] = "prefill"


@dataclass(frozen=True)
class Deployment:
    """Pools of one service: one "both", or "prefill" and "decode"; an "encode" before them where images come.

    Attributes
    ----------
    pools : tuple of Pool
    transport : Transport
    information_delay : float
        Seconds after which routers see loads and cache contents; 0: at once.
    admission_rate, admission_burst : float
        Token bucket at the gateway in requests/s and requests; inf: no limit.
    """

    pools: tuple[Pool, ...]
    transport: Transport = field(default_factory=Transport)
    information_delay: float = 0.0
    admission_rate: float = float("inf")
    admission_burst: float = 1.0

    def __post_init__(self) -> None:
        order = {"encode": 0, "both": 1, "prefill": 1, "decode": 2}
        for j, pool in enumerate(self.pools):
            pool.check(f"pools[{j}]")
        object.__setattr__(self, "pools", tuple(sorted(self.pools, key=lambda p: order[p.role])))
        roles = [p.role for p in self.pools]
        work = [r for r in roles if r != "encode"]
        if work not in (["both"], ["prefill", "decode"]) or roles.count("encode") > 1:
            raise ConfigError(
                f"pools have the roles {', '.join(roles) or 'none'}; a service is one 'both', or one "
                "'prefill' and one 'decode', with at most one 'encode'"
            )
        if len({p.engine.block_size for p in self.pools if p.role != "encode"}) > 1:
            raise ConfigError("pools that hand over KV need one block_size")
        _one_of("transport.network", self.transport.network, "network", ("none", "fluid"))
        _one_of("transport.first_token", self.transport.first_token, "pool", ("prefill", "decode"))
        if not self.transport.bandwidth > 0 or not self.transport.latency >= 0:
            raise ConfigError("`transport`: bandwidth must be positive and latency at least 0")
        _at_least("information_delay", self.information_delay, 0)
        if not self.admission_rate > 0 or not self.admission_burst >= 1:
            raise ConfigError("admission_rate must be positive and admission_burst at least 1")

    @property
    def ranks(self) -> int:
        """Ranks of all pools; pool by pool, in the order of ``pools``."""
        return sum(p.replicas for p in self.pools)
