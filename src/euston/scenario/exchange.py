"""Jobs of `kind: exchange`: all-reduces of gradients that bound their waiting and may lose packets."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from euston.errors import BadInput, at
from euston.scenario._base import (
    Count,
    DataSize,
    Duration,
    Number,
    PositiveDataSize,
    PositiveDuration,
    Section,
    Text,
    Whole,
    refuse,
)
from euston.scenario.jobs import JobBase
from euston.scenario.policies import PolicySection
from euston.scenario.traffic import TrafficPlacementSection

if TYPE_CHECKING:
    from euston.collectives.bounded import Bounded
    from euston.compression import Fec
    from euston.scenario.model import Scenario
    from euston.scenario.sites import SiteSection

__all__ = [
    "BoundsSection",
    "CodecSection",
    "ExchangeSection",
    "FecSection",
    "LossSection",
    "RuleSection",
    "StragglerSection",
    "SwitchSection",
]

Tailed = Annotated[Number, Field(ge=1, le=1000)]


class _Late:
    """A registry that is imported when a file names one of its policies: few files do."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name

    def __get__(self, instance: object, owner: type) -> Any:
        return getattr(import_module(self.module), self.name)


class _Policy(PolicySection):
    """A policy of `euston.collectives` or a codec."""

    def make(self, seed: int = 0) -> Any:
        """The policy."""
        return self._make({"kind": self.kind, **self.settings}, seed)


class CodecSection(_Policy):
    """How gradients are coded: ``none``, or ``{kind: eden, bits: 4}``."""

    registry: ClassVar[Any] = _Late("euston.compression", "CODECS")
    default: ClassVar[str] = "none"
    kind: Text = "none"


class RuleSection(_Policy):
    """The mean of what arrived: ``count``, or ``{kind: ht, least: 0.05}``."""

    registry: ClassVar[Any] = _Late("euston.collectives.aggregation", "AGGREGATION")
    default: ClassVar[str] = "count"
    kind: Text = "count"


class StragglerSection(_Policy):
    """Whom an exchange waits for: ``wait``, or ``{kind: k_of_n, k: 7}``."""

    registry: ClassVar[Any] = _Late("euston.collectives.stragglers", "STRAGGLERS")
    default: ClassVar[str] = "wait"
    kind: Text = "wait"


class LossSection(_Policy):
    """Which packets are lost: ``{kind: iid, loss: 0.01}``, ``{kind: gilbert_elliott, recover: 0.2}``."""

    registry: ClassVar[Any] = _Late("euston.collectives.loss", "LOSS")
    default: ClassVar[str] = "iid"
    kind: Text = "iid"


class BoundsSection(Section):
    """How long a receiver waits; the runtime's settings, see `euston.collectives.bounded`."""

    t_b: PositiveDuration | None = Field(
        default=None,
        description="A stage ends then at the latest; measured from exchanges without loss unless said.",
    )
    percentile: Annotated[Number, Field(gt=0, le=100)] = Field(
        default=95.0, description="Of their stage times."
    )
    margin: Annotated[Number, Field(gt=0, le=1000)] = Field(
        default=1.0, description="What that percentile is multiplied by."
    )
    early: Annotated[Number, Field(ge=0, le=1)] = Field(
        default=0.1, description="Share of t_C that an idle receiver waits at first."
    )
    most_early: Annotated[Number, Field(ge=0, le=1)] = Field(default=0.5, description="And at most.")
    smoothing: Annotated[Number, Field(ge=0, le=1)] = Field(
        default=0.95, description="Weight of the past in t_C."
    )
    floor: PositiveDuration = Field(default=0.005, description="No early end comes before it.")
    repair: Literal["nack", "none"] | None = Field(
        default=None,
        description="Whether missing results are asked for again; nack unless said, and none for packets, "
        "which know no other.",
    )

    @model_validator(mode="after")
    def _possible(self) -> BoundsSection:
        if self.most_early < self.early:
            raise refuse(f"{self.most_early} is less than `early`, {self.early}", "most_early")
        return self

    def make(self, network: str) -> Bounded:
        """The bounds."""
        from euston.collectives.bounded import Bounded

        repair = self.repair or ("none" if network == "packet" else "nack")
        return Bounded(**self.model_dump(exclude={"repair"}), repair=repair)


class FecSection(Section):
    """Parity packets behind every shard."""

    kind: Literal["xor", "rs", "raptorq"] = Field(default="xor", description="XOR, Reed-Solomon or RaptorQ.")
    data: Annotated[Count, Field(le=4096)] = Field(default=16, description="Packets of a block.")
    parity: Annotated[Count, Field(le=4096)] = Field(default=1, description="Parity packets of a block.")

    @model_validator(mode="after")
    def _possible(self) -> FecSection:
        try:
            self.make()
        except BadInput as error:
            place, _, words = str(error).removeprefix("`fec").partition("`: ")
            raise refuse(words, place.removeprefix(".") or None) from None
        return self

    def make(self) -> Fec:
        """The code."""
        from euston.compression import Fec

        return Fec(self.data, self.parity, self.kind)


class SwitchSection(Section):
    """Sums in a switch, by SwitchML's protocol; plain gradients as 32-bit integers."""

    slots: Count = Field(default=8192, description="Of the pool, each in two versions.")
    elements: Annotated[Count, Field(le=2048)] = Field(default=256, description="Integers of a packet.")
    window: Count = Field(default=256, description="Packets that a worker has out.")
    header: DataSize = Field(default=66, description="Bytes of a packet beside its integers.")
    round_trip: Duration | None = Field(
        default=None, description="Between a worker and the switch; from the fabric's latencies unless said."
    )
    least: Whole = Field(default=0, description="Workers with which a slot may close early; 0: it waits.")
    deadline: PositiveDuration | None = Field(
        default=None, description="With `least`: how long after its first packet."
    )

    @model_validator(mode="after")
    def _possible(self) -> SwitchSection:
        if self.window > self.slots:
            raise refuse(f"{self.window} packets for {self.slots} slots; a packet needs a slot", "window")
        if (self.deadline is None) != (self.least == 0):
            missing = "deadline" if self.deadline is None else "least"
            raise refuse("is missing; `least` and `deadline` go together", missing)
        return self


class ExchangeSection(JobBase):
    """All-reduces of gradients between hosts, one after the other: a study of loss, waiting and coding."""

    shares_hosts: ClassVar[bool] = True

    kind: Literal["exchange"] = Field(description="exchange")
    bytes: PositiveDataSize = Field(description="The gradient in float32, e.g. 100 MB.")
    repeats: Annotated[Count, Field(le=100_000)] = Field(default=100, description="Exchanges.")
    codec: CodecSection = Field(default_factory=CodecSection)
    rule: RuleSection = Field(default_factory=RuleSection)
    bounds: BoundsSection = Field(default_factory=BoundsSection)
    stragglers: StragglerSection = Field(default_factory=StragglerSection)
    loss: LossSection | None = Field(
        default=None, description="Packets lost besides those that queues drop; none unless said."
    )
    fec: FecSection | None = Field(default=None, description="Parity; none unless said.")
    switch: SwitchSection | None = Field(
        default=None, description="Sums in a switch; at the hosts unless said."
    )
    tail: Tailed = Field(
        default=1.0, description="99th percentile over median of a transfer's time; of run.network: fluid."
    )
    compute: Duration = Field(default=0.0, description="Median computation of a worker before an exchange.")
    compute_tail: Tailed = Field(default=1.0, description="99th percentile over median of the computation.")
    micro_batches: Annotated[Count, Field(le=4096)] = Field(
        default=1, description="Equal parts of the computation, for drop_compute."
    )
    mtu: Annotated[Count, Field(ge=128, le=65_535)] = Field(
        default=1500, description="Bytes of an IP packet."
    )
    placement: TrafficPlacementSection = Field(
        default_factory=TrafficPlacementSection,
        description="Hosts, a rank each; all of the site unless said.",
    )

    def accelerators(self, site: SiteSection) -> int:
        """Those of its hosts."""
        return len(self.hosts(site, 0)) * site.accelerators_per_host

    def hosts(self, site: SiteSection, first: int) -> tuple[int, ...]:
        """All hosts of the site unless said."""
        placement = self.placement
        if placement.hosts is not None:
            return placement.hosts
        begin = placement.first_host or 0
        return tuple(range(begin, site.hosts if placement.count is None else begin + placement.count))

    def problems(self, scenario: Scenario, index: int) -> Iterator[str]:
        """An exchange needs two hosts and a coordinate for each; some settings exclude each other."""
        site, here = scenario.site(self.placement.site), f"jobs[{index}]"
        ranks = len(self.hosts(site, 0))
        if ranks < 2:
            yield at(f"{here}.placement", "has one host; an exchange needs 2 or more")
        elif self.bytes < 4 * ranks:
            yield at(f"{here}.bytes", f"{self.bytes:g} B for {ranks} hosts; 4 B for each at least")
        k = self.stragglers.settings.get("k")
        if isinstance(k, int) and k > ranks >= 2:
            yield at(f"{here}.stragglers.k", f"{k} is more than the {ranks} hosts; use {ranks} or fewer")
        most = self.codec.settings.get("workers")
        if isinstance(most, int) and most < ranks:
            yield at(f"{here}.codec.workers", f"{most} for {ranks} hosts; sums would overflow")
        if self.stragglers.settings.get("stale"):
            yield at(f"{here}.stragglers.stale", "late gradients are dropped here; leave it out")
        if self.micro_batches > 1 and self.stragglers.kind != "drop_compute":
            yield at(f"{here}.micro_batches", "is for {kind: drop_compute}; leave it out")
        if self.compute == 0 and self.stragglers.kind != "wait":
            yield at(f"{here}.compute", f"is 0 s, so {self.stragglers.kind} has nobody to choose among")
        if self.loss is not None and self.loss.make().rate >= 1:
            yield at(f"{here}.loss", "loses every packet; nothing would arrive")
        if scenario.run.network == "packet":
            if self.tail > 1:
                yield at(f"{here}.tail", "packets make their own; leave it out, or use run.network: fluid")
            if self.bounds.repair == "nack" and self.switch is None:
                yield at(f"{here}.bounds.repair", "packets are not asked for again; use none, or fluid")
        if self.switch is not None:
            yield from self._switch_problems(here, ranks)

    def _switch_problems(self, here: str, ranks: int) -> Iterator[str]:
        assert self.switch is not None
        if ranks > 32:
            yield at(f"{here}.switch", f"has {ranks} hosts; a switch's bitmap holds 32")
        if self.switch.least > ranks:
            yield at(
                f"{here}.switch.least",
                f"{self.switch.least} is more than the {ranks} hosts; use {ranks} or fewer",
            )
        for key in ("codec", "rule", "bounds", "fec", "stragglers", "tail", "mtu"):
            if key in self.model_fields_set:
                yield at(
                    f"{here}.{key}", "does not go with `switch`, which adds plain integers and sends again"
                )
        if self.loss is not None and self.loss.kind != "iid":
            yield at(f"{here}.loss", f"{self.loss.kind} at a switch; its links lose independently: use iid")
