"""What a federation is, as frozen dataclasses: model, local training, outer step, exchange, faults, privacy.

One description serves the trainer and the simulator; nothing here imports torch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from hashlib import sha256
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from euston.errors import ConfigError, at, nearest
from euston.federated._plain import first_problem, model_from, model_values
from euston.models import Transformer

__all__ = [
    "FaultConfig", "FederationConfig", "LocalConfig", "OuterConfig", "PartitionConfig", "PrivacyConfig",
    "SyncConfig",
]  # fmt: skip

_STRICT = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

CODECS = ("none", "fp16", "bf16", "int8", "int4", "fp8", "fp4")
"""Codecs of `euston.compression` that a federation offers: deterministic, without error feedback."""


def _need(condition: bool, where: str, message: str) -> None:
    if not condition:
        raise ConfigError(at(where, message))


def _positive(where: str, **values: float) -> None:
    for name, value in values.items():
        _need(math.isfinite(value) and value > 0, f"{where}.{name}", f"{value} must be above 0")


def _not_negative(where: str, **values: float) -> None:
    for name, value in values.items():
        _need(math.isfinite(value) and value >= 0, f"{where}.{name}", f"{value} must be 0 or above")


def _share(where: str, *, below: bool = False, **values: float) -> None:
    for name, value in values.items():
        fine = 0.0 <= value < 1.0 or (value == 1.0 and not below)
        _need(fine, f"{where}.{name}", f"{value} must lie in [0, 1{')' if below else ']'}")


@dataclass(frozen=True)
class LocalConfig:
    """Training at a site between two exchanges.

    Attributes
    ----------
    steps : int
        H: optimiser steps between two exchanges of the same parameters.
    batch, sequence : int
        Sequences per step, tokens per sequence.
    optimizer : "adamw" | "adopt" | "sgd"
        Decoupled weight decay in all of them. ADOPT: Taniguchi et al. 2024 (arXiv 2411.02853).
    lr, beta1, beta2, eps, weight_decay
        Of the inner optimiser; `lr` is the peak.
    clip : float
        Largest gradient norm; 0 switches clipping off.
    schedule : "cosine" | "wsd" | "constant"
        After a linear warm-up of `warmup` steps. Cosine falls to ``floor * lr`` at `total_steps`; wsd
        (warm-up, stable, decay) falls linearly to it over the last `decay` share.
    total_steps : int
        Length of the schedule; 0: as long as the run.
    inner_state : "stateful" | "stateless" | "averaged"
        Adam's moments between rounds: kept at the site, zeroed, or averaged over sites.
    average_first_every, average_second_every : int
        Rounds between two averages of the first and second moment; 3 and 6 is DES-LOC
        (Iacob et al. 2025, arXiv 2505.22549).
    precision : "fp32" | "bf16"
        bf16 runs matrix products under autocast; parameters and moments stay fp32.
    device : "cpu" | "cuda" | "auto"
    threads : int
        CPU threads of torch; 0 leaves its own choice. Runs are bit-equal only with equal threads.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    steps: int = 64
    batch: int = 8
    sequence: int = 128
    optimizer: Literal["adamw", "adopt", "sgd"] = "adamw"
    lr: float = 6e-4
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip: float = 1.0
    schedule: Literal["cosine", "wsd", "constant"] = "cosine"
    warmup: int = 100
    total_steps: int = 0
    floor: float = 0.1
    decay: float = 0.2
    inner_state: Literal["stateful", "stateless", "averaged"] = "stateful"
    average_first_every: int = 1
    average_second_every: int = 1
    precision: Literal["fp32", "bf16"] = "fp32"
    device: Literal["cpu", "cuda", "auto"] = "cpu"
    threads: int = 1

    def __post_init__(self) -> None:
        _positive("local", steps=self.steps, batch=self.batch, sequence=self.sequence, lr=self.lr,
                  eps=self.eps, average_first_every=self.average_first_every,
                  average_second_every=self.average_second_every)  # fmt: skip
        _not_negative("local", weight_decay=self.weight_decay, clip=self.clip, warmup=self.warmup,
                      total_steps=self.total_steps, threads=self.threads)  # fmt: skip
        _share("local", floor=self.floor, decay=self.decay)
        _share("local", below=True, beta1=self.beta1, beta2=self.beta2)
        _need(
            not (self.inner_state == "averaged" and self.optimizer == "sgd"),
            "local.inner_state",
            "sgd has no moments to average; use adamw or adopt, or stateful",
        )


@dataclass(frozen=True)
class OuterConfig:
    """The step of the aggregator on the mean pseudo-gradient ``g = theta - mean(theta_k)``.

    Attributes
    ----------
    kind : "fedavg" | "heavyball" | "nesterov" | "adam"
        Plain averaging, FedAvgM, DiLoCo's outer optimiser, FedAdam.
    lr, momentum : float
        `momentum` is Adam's beta1 too. FedAvg is ``lr: 1``; DiLoCo 0.7 and 0.9.
    beta2, tau : float
        FedAdam's second-moment decay and degree of adaptivity (Reddi et al. 2021, arXiv 2003.00295).
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    kind: Literal["fedavg", "heavyball", "nesterov", "adam"] = "fedavg"
    lr: float = 1.0
    momentum: float = 0.0
    beta2: float = 0.99
    tau: float = 1e-3

    def __post_init__(self) -> None:
        _positive("outer", lr=self.lr, tau=self.tau)
        _share("outer", below=True, momentum=self.momentum, beta2=self.beta2)
        _need(
            self.kind != "fedavg" or self.momentum == 0.0,
            "outer.momentum",
            f"fedavg has none, {self.momentum} given; choose kind heavyball or nesterov",
        )


@dataclass(frozen=True)
class SyncConfig:
    """What crosses between sites, and when.

    Attributes
    ----------
    fragments : int
        F: parts of the model that are exchanged in turn, one every H / F steps (Streaming DiLoCo); 1 is
        DiLoCo.
    pattern : "strided" | "sequential"
        Layer i belongs to fragment i mod F, or to the i-th run of layers.
    overlap_steps : int
        tau: steps a site trains on while its fragment is under way.
    mix : float
        alpha: share of its own parameters that a site keeps when a fragment comes back.
    codec, down_codec : str
        Of `euston.compression`: for updates on the way up, and for the aggregator's increments on the way
        down ("none" sends the parameters themselves).
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    fragments: int = 1
    pattern: Literal["strided", "sequential"] = "strided"
    overlap_steps: int = 0
    mix: float = 0.0
    codec: str = "none"
    down_codec: str = "none"

    def __post_init__(self) -> None:
        _positive("sync", fragments=self.fragments)
        _not_negative("sync", overlap_steps=self.overlap_steps)
        _share("sync", below=True, mix=self.mix)
        for name in ("codec", "down_codec"):
            value = getattr(self, name)
            if value not in CODECS:
                guess = nearest(value, CODECS)
                known = f"did you mean {guess!r}?" if guess else f"known: {', '.join(CODECS)}"
                raise ConfigError(at(f"sync.{name}", f"unknown codec {value!r}; {known}"))


@dataclass(frozen=True)
class FaultConfig:
    """When a round counts.

    Attributes
    ----------
    quorum : int
        Replies a round needs; fewer leave the model as it is.
    deadline : float
        Seconds until a round closes; 0: it waits for everybody. A site that sees it coming stops early.
    first_deadline : float
        Seconds allowed to the first round, start-up included; 0: ten deadlines.
    grace : float
        Seconds to wait for the rest once there is a quorum; 0: until the deadline.
    join_deadline : float
        Seconds to wait for `quorum` clients to be there at all.
    max_failed_rounds : int
        Failed attempts in a row after which the run gives up.
    max_norm_ratio : float
        An update whose norm exceeds this many times the running median is left out.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    quorum: int = 1
    deadline: float = 0.0
    first_deadline: float = 0.0
    grace: float = 0.0
    join_deadline: float = 300.0
    max_failed_rounds: int = 5
    max_norm_ratio: float = 10.0

    def __post_init__(self) -> None:
        _positive("fault", quorum=self.quorum, join_deadline=self.join_deadline)
        _not_negative("fault", deadline=self.deadline, first_deadline=self.first_deadline, grace=self.grace,
                      max_failed_rounds=self.max_failed_rounds)  # fmt: skip
        _need(self.max_norm_ratio > 1, "fault.max_norm_ratio", f"{self.max_norm_ratio} must be above 1")


@dataclass(frozen=True)
class PrivacyConfig:
    """Differential privacy of clients towards whoever sees the models; the aggregator itself is trusted.

    Attributes
    ----------
    clip : float
        Largest norm of an update; 0 switches privacy off.
    noise_multiplier : float
        Standard deviation of the noise on the *sum* of updates, in units of `clip`.
    delta : float
        Of (epsilon, delta), for the accountant.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    clip: float = 0.0
    noise_multiplier: float = 1.0
    delta: float = 1e-5

    def __post_init__(self) -> None:
        _not_negative("privacy", clip=self.clip)
        _positive("privacy", noise_multiplier=self.noise_multiplier, delta=self.delta)


@dataclass(frozen=True)
class PartitionConfig:
    """How a data set is dealt to clients; see `euston.federated.partition`.

    Attributes
    ----------
    kind : "iid" | "by_source" | "lda" | "mixed" | "quantity_skew"
    alpha : float
        Dirichlet concentration of lda.
    own : float
        Share of a source that stays with its own client under mixed.
    sigma : float
        Spread (of the logarithm) of sizes under quantity_skew.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    kind: Literal["iid", "by_source", "lda", "mixed", "quantity_skew"] = "iid"
    alpha: float = 1.0
    own: float = 0.5
    sigma: float = 1.0

    def __post_init__(self) -> None:
        _positive("partition", alpha=self.alpha)
        _not_negative("partition", sigma=self.sigma)
        _share("partition", own=self.own)


@dataclass(frozen=True)
class FederationConfig:
    """A federated pre-training run.

    Attributes
    ----------
    model : Transformer
        A dense decoder; `vocab` must be the data's.
    clients : int
        N sites in the federation.
    per_round : int
        K sampled for a round; 0: all.
    rounds : int
        Exchanges; each is H / F steps at every sampled site. 0: as many as `token_budget` asks for.
    token_budget : int
        Tokens over the whole federation; 0: `rounds` says.
    topology : "ps" | "ar" | "rar"
        Parameter server, everybody to everybody, ring all-reduce. Over sockets only the first is possible.
    islands : int
        Machines of a site that are no fast fabric: a federation inside the site (its own mean is one update).
    evaluate_every, checkpoint_every : int
        Rounds; the last round always does both.
    seed : int

    Raises
    ------
    ConfigError
        For what contradicts itself, with the numbers.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    model: Transformer
    clients: int = 4
    per_round: int = 0
    rounds: int = 0
    token_budget: int = 0
    topology: Literal["ps", "ar", "rar"] = "ps"
    islands: int = 1
    local: LocalConfig = field(default_factory=LocalConfig)
    outer: OuterConfig = field(default_factory=OuterConfig)
    sync: SyncConfig = field(default_factory=SyncConfig)
    fault: FaultConfig = field(default_factory=FaultConfig)
    privacy: PrivacyConfig = field(default_factory=PrivacyConfig)
    partition: PartitionConfig = field(default_factory=PartitionConfig)
    evaluate_every: int = 1
    evaluate_tokens: int = 262_144
    checkpoint_every: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        _positive("federation", clients=self.clients, islands=self.islands,
                  evaluate_every=self.evaluate_every, evaluate_tokens=self.evaluate_tokens,
                  checkpoint_every=self.checkpoint_every)  # fmt: skip
        _not_negative("federation", per_round=self.per_round, rounds=self.rounds,
                      token_budget=self.token_budget, seed=self.seed)  # fmt: skip
        _need(
            bool(self.rounds) != bool(self.token_budget),
            "federation.rounds",
            "give either rounds or token_budget",
        )
        _need(
            self.per_round <= self.clients,
            "federation.per_round",
            f"{self.per_round} is more than the {self.clients} clients",
        )
        _need(
            self.fault.quorum <= self.sampled,
            "fault.quorum",
            f"{self.fault.quorum} is more than the {self.sampled} clients of a round",
        )
        local, sync, h, f = self.local, self.sync, self.local.steps, self.sync.fragments
        _need(h % f == 0, "sync.fragments", f"{f} does not divide local.steps = {h}")
        _need(
            sync.overlap_steps < h // f,
            "sync.overlap_steps",
            f"{sync.overlap_steps} must be below local.steps / fragments = {h // f}",
        )
        _need(f <= self.model.layers, "sync.fragments", f"{f} is more than the {self.model.layers} layers")
        _need(
            local.inner_state != "averaged" or f == 1,
            "local.inner_state",
            f"averaged moments need sync.fragments 1, not {f}",
        )
        _need(
            self.topology == "ps" or sync.down_codec == "none",
            "sync.down_codec",
            f"{sync.down_codec} is for topology ps; {self.topology} has no way down",
        )
        if self.privacy.clip:
            _need(self.topology == "ps", "privacy.clip", f"noise is added by the aggregator of topology ps, "
                  f"not {self.topology}")  # fmt: skip
            _need(local.inner_state != "averaged", "local.inner_state", "averaged moments carry no noise; "
                  "differential privacy needs stateful or stateless")  # fmt: skip
        positions = self.model.max_positions
        _need(
            self.model.positions != "learned" or positions >= local.sequence,
            "local.sequence",
            f"{local.sequence} tokens are more than the model's {positions} positions",
        )

    # -- what follows from it

    @property
    def sampled(self) -> int:
        """K: clients asked in a round."""
        return self.per_round or self.clients

    @property
    def steps_per_round(self) -> int:
        """Inner steps between two exchanges: H / F."""
        return self.local.steps // self.sync.fragments

    @property
    def tokens_per_round(self) -> int:
        """Tokens that all sampled sites train on in a full round."""
        step = self.local.batch * self.local.sequence * self.islands
        return self.sampled * self.steps_per_round * step

    @property
    def total_rounds(self) -> int:
        """Exchanges of the whole run."""
        return self.rounds or math.ceil(self.token_budget / self.tokens_per_round)

    @property
    def serial_steps(self) -> int:
        """Inner steps one site that is always sampled makes over the run."""
        return self.total_rounds * self.steps_per_round

    @property
    def schedule_steps(self) -> int:
        """Length of the learning-rate schedule."""
        return self.local.total_steps or self.serial_steps

    def with_(self, **changes: Any) -> FederationConfig:
        """A copy with changes; a mapping changes keys of its section: ``with_(outer={"lr": 0.7})``."""
        made = {
            key: replace(getattr(self, key), **value)
            if isinstance(value, Mapping) and key != "model"
            else value
            for key, value in changes.items()
        }
        return replace(self, **made)

    def centralised(self) -> FederationConfig:
        """One machine that sees all text and makes the same serial steps with the batch of all sampled
        sites.
        """
        batch = self.local.batch * self.sampled * self.islands
        local = replace(self.local, batch=batch, inner_state="stateful", total_steps=self.schedule_steps)
        return replace(
            self, clients=1, per_round=0, islands=1, rounds=self.total_rounds, token_budget=0, topology="ps",
            local=replace(local, steps=self.steps_per_round), outer=OuterConfig(), sync=SyncConfig(),
            fault=replace(self.fault, quorum=1), privacy=PrivacyConfig(), partition=PartitionConfig(),
        )  # fmt: skip

    def values(self) -> dict[str, Any]:
        """Plain data, `from_values` reversed."""
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        for key, value in plain.items():
            if key == "model":
                plain[key] = model_values(self.model)
            elif hasattr(value, "__dataclass_fields__"):
                plain[key] = asdict(value)
        return plain

    def digest(self) -> str:
        """SHA-256 of everything that decides the outcome (not of how often it is saved or shown)."""
        kept = self.values()
        for key in ("checkpoint_every", "evaluate_every", "evaluate_tokens", "rounds", "token_budget"):
            kept.pop(key)
        kept["local"]["total_steps"] = self.schedule_steps
        return sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()

    @classmethod
    def from_values(cls, values: Mapping[str, Any], where: str = "federation") -> FederationConfig:
        """Build from plain data, as a file gives it.

        Raises
        ------
        ConfigError
            An unknown key (the nearest is offered), a value of the wrong kind, a contradiction.
        """
        given = dict(values)
        if "secure_aggregation" in given:
            raise ConfigError(
                at(
                    f"{where}.secure_aggregation",
                    "not supported: Flower's Message API has no "
                    "secure aggregation; trust the aggregator, or use privacy.clip",
                )
            )
        given["model"] = model_from(given.get("model"), where)
        try:
            return TypeAdapter(cls).validate_python(given)
        except ValidationError as error:
            raise ConfigError(first_problem(error, cls, where)) from None
