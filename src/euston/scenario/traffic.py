"""Jobs of `kind: traffic`: a flow list from a file, a matrix with sizes, collectives in turns, a pipeline."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)

from euston.errors import BadInput, at, nearest, unknown
from euston.scenario._base import (
    FROM_FILE,
    Count,
    Duration,
    Number,
    PositiveBandwidth,
    PositiveDataSize,
    Section,
    Text,
    Whole,
    refuse,
)
from euston.scenario.jobs import JobBase, PlacementSection
from euston.traffic.algorithms import ALGORITHMS
from euston.traffic.arrivals import ARRIVALS
from euston.traffic.cdf import PUBLISHED
from euston.traffic.io import FORMATS
from euston.traffic.matrices import MATRICES
from euston.traffic.sizes import size_distribution

if TYPE_CHECKING:
    from euston.scenario.model import Scenario
    from euston.scenario.sites import SiteSection

__all__ = [
    "CollectiveFlows",
    "FileFlows",
    "PatternFlows",
    "PipelineFlows",
    "TrafficPlacementSection",
    "TrafficSection",
]

SIZE_FILES = (".csv", ".txt", ".cdf", ".tsv")
Byte = Annotated[Whole, Field(le=255)]
Share = Annotated[Number, Field(ge=0, le=1)]


def _size(value: Any, info: ValidationInfo) -> Any:
    """A size, a distribution's name, a file of points or a distribution written out; files are read later."""
    from_file = bool(info.context and info.context.get(FROM_FILE))
    parts = value.items() if isinstance(value, Mapping) else [("", value)]
    for key, part in parts:
        bare = isinstance(part, int | float) and not isinstance(part, bool)
        if from_file and bare and key not in ("sigma", "shape"):
            raise refuse(f'{part} has no unit; write e.g. "{part} B"', key or None)
    if size_file(value) is None:
        try:
            size_distribution(value)
        except BadInput as error:
            place, _, words = str(error).removeprefix("`bytes").partition("`: ")
            if not words:
                raise refuse(str(error)) from None
            raise refuse(words, place.removeprefix(".") or None) from None
    return value


def size_file(spec: object) -> str | None:
    """The file of points that a size is read from."""
    if isinstance(spec, Mapping) and spec.get("distribution") == "file":
        return str(spec.get("file"))
    named = isinstance(spec, str) and spec not in PUBLISHED and Path(spec).suffix.lower() in SIZE_FILES
    return str(spec) if named else None


Size = Annotated[
    Any,
    BeforeValidator(_size),
    WithJsonSchema(
        {
            "anyOf": [{"type": "string"}, {"type": "object", "required": ["distribution"]}],
            "examples": ["2 MB", "websearch", {"distribution": "lognormal", "median": "100 kB", "sigma": 2}],
        }
    ),
]
"""Bytes of a flow: fixed, or drawn."""


def _one_of(names: Any, what: str) -> BeforeValidator:
    def validate(value: Any) -> Any:
        if not isinstance(value, str) or value not in names:
            raise refuse(unknown(what, str(value), names))
        return value

    return BeforeValidator(validate)


def _ordinal(key: Any) -> str:
    if isinstance(key, bool) or not str(key).isdecimal():
        raise refuse(f'{key!r} is not the number of an accelerator; write e.g. {{"3": 2.0}}')
    return str(int(key))


class FileFlows(Section):
    """Flows from a file; endpoints count within the job's hosts."""

    file: Text = Field(
        description="CSV, JSON lines, Parquet or an htsim connection matrix, relative to the scenario."
    )
    format: Annotated[
        str | None, _one_of((*dict.fromkeys(FORMATS.values()), None), "format of a flow list")
    ] = Field(default=None, description=f"By suffix unless said: {', '.join(FORMATS)}.")


class PatternFlows(Section):
    """A matrix of who sends to whom with flow sizes: all at once, in rounds, or arriving at a load."""

    pattern: Annotated[Text, _one_of(tuple(MATRICES), "traffic matrix")] = Field(
        description=f"One of {', '.join(MATRICES)}."
    )
    bytes: Size = Field(
        description=f"Size of a flow; or a distribution: {', '.join(PUBLISHED)}, a file of points, or one "
        "written out."
    )
    flows: Count | None = Field(default=None, description="Flows of a round, for matrices that draw them.")
    rounds: Count = Field(default=1, description="How often all start.")
    period: Duration = Field(default=0.0, description="Time between two rounds.")
    jitter: Duration = Field(default=0.0, description="Every flow starts up to this much later.")
    load: Annotated[Number, Field(gt=0, le=10)] | None = Field(
        default=None, description="Flows arrive by themselves, at this share of a link's capacity."
    )
    duration: Duration | None = Field(default=None, description="With `load`: how long flows arrive.")
    arrivals: Annotated[str, _one_of(ARRIVALS, "kind of arrivals")] = Field(
        default="poisson", description=f"With `load`: gaps between flows, {', '.join(ARRIVALS)}."
    )
    sigma: Annotated[Number, Field(gt=0, le=5)] = Field(
        default=1.0, description="With `load`: burstiness of log-normal gaps."
    )
    load_on: Literal["host", "core"] = Field(
        default="host", description="With `load`: the link it is a share of, the busiest of its kind."
    )
    seed: Whole | None = Field(default=None, description="From run.seed and the job's name unless said.")
    senders: Count | None = Field(default=None, description="Of an incast; all others unless said.")
    receiver: Whole | None = Field(default=None, description="Of an incast; drawn unless said.")
    receivers: Count | None = Field(default=None, description="Of an outcast; all others unless said.")
    sender: Whole | None = Field(default=None, description="Of an outcast; drawn unless said.")
    stride: Whole | None = Field(default=None, description="Of a stride: how far; 1 unless said.")
    dims: tuple[Count, ...] | None = Field(default=None, description="Of a tornado: sizes of dimensions.")
    local: Share | None = Field(default=None, description="Of rack_skew: share that stays in the rack.")
    share: Share | None = Field(default=None, description="Of hot_rack: share that goes there.")
    hot: Whole | None = Field(default=None, description="Of hot_rack: its number; drawn unless said.")

    PARAMETERS: ClassVar[tuple[str, ...]] = (
        "senders", "receiver", "receivers", "sender", "stride", "dims", "local", "share", "hot",
    )  # fmt: skip

    @model_validator(mode="after")
    def _consistent(self) -> PatternFlows:
        closed, opened = ("flows", "rounds", "period", "jitter"), ("duration", "arrivals", "sigma", "load_on")
        fields = type(self).model_fields
        given = {key for key in (*closed, *opened) if getattr(self, key) != fields[key].default}
        if self.load is None:
            wrong = next((key for key in opened if key in given), None)
            if wrong is not None:
                raise refuse("belongs to `load`, which is not given", wrong)
        else:
            wrong = next((key for key in closed if key in given), None)
            if wrong is not None:
                raise refuse("is for flows that start together; leave it out beside `load`", wrong)
            if not self.duration:
                raise refuse('is missing beside `load`; write e.g. "10 ms"', "duration")
        takes = list(inspect.signature(MATRICES[self.pattern]).parameters)[2:]
        for key in self.PARAMETERS:
            if getattr(self, key) is not None and key not in takes:
                guess = nearest(key, [t for t in takes if t in self.PARAMETERS])
                hint = f"did you mean {guess!r}?" if guess else "leave it out"
                raise refuse(f"is no parameter of {self.pattern}; {hint}", key)
        return self

    @property
    def parameters(self) -> dict[str, Any]:
        """Parameters of the matrix that are given."""
        return {key: v for key in self.PARAMETERS if (v := getattr(self, key)) is not None}


class CollectiveFlows(Section):
    """An AI program: iterations of computation and a collective over all accelerators of the job."""

    collective: Annotated[Text, _one_of(tuple(ALGORITHMS), "collective")] = Field(
        description=f"One of {', '.join(ALGORITHMS)}."
    )
    bytes: PositiveDataSize = Field(description="The full buffer of an accelerator (M of nccl-tests).")
    algorithm: Text | None = Field(
        default=None,
        description="; ".join(f"{kind}: {', '.join(known)}" for kind, known in ALGORITHMS.items())
        + "; where hosts have several accelerators also hierarchical, and two_level for all_to_all.",
    )
    iterations: Count = Field(default=1, description="How often.")
    compute: Duration = Field(default=0.0, description="Computation before every collective.")
    noise: Annotated[Number, Field(ge=0, le=5)] = Field(
        default=0.0, description="Sigma of a log-normal factor of the computation, per accelerator."
    )
    slow: dict[Annotated[str, BeforeValidator(_ordinal)], Annotated[Number, Field(gt=0)]] = Field(
        default_factory=dict,
        description='Factor of the computation of single accelerators of the job, e.g. {"3": 2.0}.',
    )
    channels: Annotated[Count, Field(le=1024)] = Field(
        default=1, description="Equal parts of every message beside each other."
    )
    form: Literal["steps", "edges"] = Field(
        default="steps", description="Every message of every step, or one flow per edge of the algorithm."
    )
    step_latency: Duration = Field(default=0.0, description="What every step costs beside the wire.")
    seed: Whole | None = Field(default=None, description="From run.seed and the job's name unless said.")


class PipelineFlows(Section):
    """Activations of micro-batches along pipeline stages, and their gradients back."""

    stages: Annotated[Count, Field(ge=2)] = Field(
        description="Stages; the job's accelerators are dealt out to them in equal runs."
    )
    bytes: PositiveDataSize = Field(description="One message.")
    micro_batches: Count = Field(description="Micro-batches.")
    forward: Duration = Field(default=0.0, description="Computation of a stage per micro-batch, forward.")
    backward: Duration | None = Field(default=None, description="Backward; no gradients flow unless said.")


FORMS = {"file": "~file", "pattern": "~pattern", "collective": "~collective", "stages": "~stages"}


def _flows_form(value: Any) -> str:
    for section, form in (
        (FileFlows, "~file"), (PatternFlows, "~pattern"), (CollectiveFlows, "~collective"),
        (PipelineFlows, "~stages"),
    ):  # fmt: skip
        if isinstance(value, section):
            return form
    if isinstance(value, Mapping):
        return next((form for key, form in FORMS.items() if key in value), "~none")
    return "~none"


def _no_form(value: Any) -> Any:
    raise refuse(f"needs one of the keys {', '.join(FORMS)}, e.g. {{pattern: permutation, bytes: 2 MB}}")


FlowsForm = Annotated[
    Annotated[FileFlows, Tag("~file")]
    | Annotated[PatternFlows, Tag("~pattern")]
    | Annotated[CollectiveFlows, Tag("~collective")]
    | Annotated[PipelineFlows, Tag("~stages")]
    | Annotated[None, BeforeValidator(_no_form), WithJsonSchema({"not": {}}), Tag("~none")],
    Discriminator(_flows_form),
]


class TrafficPlacementSection(PlacementSection):
    """Hosts whose accelerators send and receive; all of the site unless said. Jobs may share hosts."""

    count: Count | None = Field(
        default=None, description="With `first_host`: how many; the rest unless said."
    )

    @model_validator(mode="after")
    def _counted(self) -> TrafficPlacementSection:
        if self.count is not None and self.hosts is not None:
            raise refuse("is given beside `hosts`; keep one of them", "count")
        return self


class TrafficSection(JobBase):
    """Flows between the accelerators of some hosts: a study of the network by itself."""

    shares_hosts: ClassVar[bool] = True

    kind: Literal["traffic"] = Field(description="traffic")
    flows: FlowsForm = Field(description="Which flows: {pattern: ...}, {collective: ...}, {file: ...}, ...")
    start: Duration = Field(default=0.0, description="When the job begins.")
    weight: Annotated[Number, Field(gt=0)] | None = Field(
        default=None, description="Max-min weight of every flow; 1, or the file's, unless said."
    )
    queue: Byte | None = Field(default=None, description="Switch queue of every flow, for policies that ask.")
    priority: Byte | None = Field(default=None, description="Strict level of every flow, 0 first.")
    rate_cap: PositiveBandwidth | None = Field(default=None, description="Rate of a flow at most.")
    placement: TrafficPlacementSection = Field(default_factory=TrafficPlacementSection)

    def accelerators(self, site: SiteSection) -> int:
        """Those of its hosts."""
        return len(self.hosts(site, 0)) * site.accelerators_per_host

    def hosts(self, site: SiteSection, first: int) -> tuple[int, ...]:
        """All hosts of the site unless said: traffic shares them."""
        placement = self.placement
        if placement.hosts is not None:
            return placement.hosts
        begin = placement.first_host or 0
        return tuple(range(begin, site.hosts if placement.count is None else begin + placement.count))

    def problems(self, scenario: Scenario, index: int) -> Iterator[str]:
        """Flows need two accelerators."""
        site = scenario.site(self.placement.site)
        hosts = self.hosts(site, 0)
        if hosts and max(hosts) < site.hosts and len(hosts) * site.accelerators_per_host < 2:
            yield at(f"jobs[{index}].placement", "has one accelerator; traffic needs 2 or more")
