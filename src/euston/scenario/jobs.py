"""The `jobs` section: what runs, on which layout, with which published figures beside it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, SerializationInfo, Tag, field_serializer, model_validator

from euston.errors import UnitError, unknown
from euston.scenario._base import FROM_FILE, Count, Flag, Number, Section, Text, Whole, refuse
from euston.scenario.shape import MlaSection, MoeSection
from euston.scenario.tokens import BalanceSection, ImagesSection
from euston.units import exact_text, parse

if TYPE_CHECKING:
    from euston.scenario.model import Scenario
    from euston.scenario.sites import SiteSection

SHARDINGS = ("none", "zero1", "zero2", "zero3")

JOB_KINDS = ("training", "traffic", "federated", "serving", "post_training", "exchange")
"""Kinds of jobs; `euston.scenario.model` has their sections, `euston.runs` runs them."""

QUANTITIES: dict[str, str] = {
    "step_time": "duration",
    "mfu": "",
    "hfu": "",
    "tflops_per_accelerator": "",
    "tokens_per_second": "",
    "tokens_per_second_per_accelerator": "",
    "bubble_fraction": "",
    "memory_peak": "data",
    "energy": "energy",
}
"""Scalars of a result a published figure can stand beside, and the dimension whose unit it must carry."""


class ShapeSection(Section):
    """A decoder written out; `hf_config` or a catalogue name are the other ways to say a model."""

    name: Text = Field(default="custom", description="What reports call it.")
    layers: Count
    hidden: Count
    heads: Count
    kv_heads: Count | None = Field(default=None, description="As many as heads unless said.")
    head_dim: Count | None = Field(default=None, description="hidden / heads unless said.")
    ffn: Count
    vocab: Count
    gated: Flag = Field(default=True, description="SwiGLU (three matrices) rather than GELU (two).")
    norm: Literal["rmsnorm", "layernorm"] = "rmsnorm"
    positions: Literal["rotary", "learned", "none"] = "rotary"
    max_positions: Count | None = Field(default=None, description="Rows of the table of learned positions.")
    biases: Flag = False
    qkv_biases: Flag = Field(default=False, description="Biases on query, key and value only.")
    tied: Flag = Field(default=False, description="Input and output embedding are one matrix.")
    qk_norm: Flag = False
    mixers: Text = Field(
        default="A",
        description="Kinds of attention, a letter each, repeated over the layers: A all, S a sliding window.",
    )
    ffns: Text | None = Field(
        default=None,
        description="Kinds of feed-forward networks likewise: F dense, E experts; experts in every layer "
        "after `moe.first_dense_layers` unless said.",
    )
    window: Whole = Field(default=0, description="Keys that a query of a sliding layer sees.")
    prediction_layers: Whole = Field(default=0, description="Multi-token-prediction layers.")
    moe: MoeSection | None = Field(default=None, description="Experts.")
    mla: MlaSection | None = Field(default=None, description="Latent attention.")


class HfSection(Section):
    """A model given by a Hugging Face `config.json`."""

    hf_config: Text = Field(description="Path of the file, relative to the scenario.")


def _model_form(value: Any) -> str:
    if isinstance(value, HfSection) or (isinstance(value, dict) and "hf_config" in value):
        return "~hf"
    return "~shape" if isinstance(value, ShapeSection | dict) else "~name"


Model = Annotated[
    Annotated[Text, Tag("~name")] | Annotated[ShapeSection, Tag("~shape")] | Annotated[HfSection, Tag("~hf")],
    Discriminator(_model_form),
]


class ParallelSection(Section):
    """The layout of one job; every rank is one accelerator."""

    short: ClassVar[dict[str, str]] = {
        "tp": "tensor",
        "pp": "pipeline",
        "vp": "virtual",
        "dp": "data",
        "cp": "context",
        "ep": "expert",
        "sp": "sequence",
    }

    tensor: Count = Field(default=1, description="Ranks that split every matrix.")
    sequence: Flag = Field(default=False, description="Sequence parallelism beside tensor parallelism.")
    context: Count = Field(default=1, description="Ranks that split the sequence.")
    pipeline: Count = Field(default=1, description="Stages of the pipeline.")
    virtual: Count = Field(default=1, description="Model chunks per stage (interleaved schedule).")
    data: Count = Field(default=1, description="Replicas.")
    expert: Count = Field(default=1, description="Ranks that split the experts.")
    sharding: Literal["none", "zero1", "zero2", "zero3"] = Field(
        default="none", description="What replicas shard: optimiser states, gradients too, parameters too."
    )
    order: Text = Field(default="tp-cp-ep-dp-pp", description="Rank order, fastest varying first.")
    shard: Whole = Field(
        default=0,
        description="Ranks that shard states among them; groups of so many are copies (HSDP). 0: all.",
    )
    expert_tensor: Whole = Field(
        default=0, description="Ranks that split the matrices of each expert; 0: as many as tensor."
    )

    @property
    def world(self) -> int:
        """Ranks of the job."""
        return self.tensor * self.context * self.pipeline * self.data


class BatchSection(Section):
    """Batch sizes in sequences, and the length of a sequence in tokens."""

    global_batch: Count = Field(
        alias="global", description="Sequences of one optimiser step, over all replicas."
    )
    micro: Count = Field(default=1, description="Sequences of one pass through the pipeline.")
    sequence: Count = Field(description="Tokens of a sequence.")


class PlacementSection(Section):
    """Where the job's ranks sit; left out, the first hosts of the site that no earlier job has."""

    site: Text | None = Field(default=None, description="Name of a site; the first unless said.")
    first_host: Whole | None = Field(default=None, description="First of a run of hosts.")
    hosts: tuple[Whole, ...] | None = Field(
        default=None, min_length=1, description="Hosts one by one, in rank order."
    )

    @model_validator(mode="after")
    def _one_way(self) -> PlacementSection:
        if self.hosts is not None and self.first_host is not None:
            raise refuse("is given beside `hosts`; keep one of them", "first_host")
        if self.hosts is not None and len(set(self.hosts)) < len(self.hosts):
            twice = next(host for index, host in enumerate(self.hosts) if host in self.hosts[:index])
            raise refuse(f"host {twice} is listed twice", "hosts")
        return self


class ReferenceSection(Section):
    """A published figure printed beside ours."""

    quantity: Text = Field(description=f"One of {', '.join(QUANTITIES)}.")
    value: Number = Field(description="A number; a text with its unit where the quantity has one.")
    source: Text = Field(description="Where it is published.")
    note: Text | None = None

    @model_validator(mode="before")
    @classmethod
    def _with_unit(cls, data: Any, info: Any) -> Any:
        if not (isinstance(data, dict) and {"quantity", "value"} <= set(data)):
            return data
        name, value = data["quantity"], data["value"]
        if not isinstance(name, str):
            return data
        if name not in QUANTITIES:
            raise refuse(unknown("quantity", name, QUANTITIES), "quantity")
        dimension = QUANTITIES[name]
        if not dimension:
            return data
        from_file = bool(info.context and info.context.get(FROM_FILE))
        if from_file and isinstance(value, int | float) and not isinstance(value, bool):
            unit = {"duration": "s", "data": "GiB", "energy": "MJ"}[dimension]
            raise refuse(f'{value} has no unit; write e.g. "{value} {unit}"', "value")
        try:
            return {**data, "value": parse(value, dimension)}
        except UnitError as error:
            raise refuse(str(error), "value") from None

    @field_serializer("value", when_used="json")
    def _written(self, value: float, info: SerializationInfo) -> float | str:
        dimension = QUANTITIES[self.quantity]
        return exact_text(value, dimension) if dimension else value


class AssumptionSection(Section):
    """A setting nobody published, chosen by the author of the file and shown in every report."""

    field: Text = Field(description="Key within the job, e.g. batch.micro.")
    why: Text = Field(description="Why this value.")
    alternatives: tuple[Count, ...] = Field(
        default=(), description="Other values to run and show beside it; of parallel.virtual in this version."
    )


class JobBase(Section):
    """What every kind of job says; a kind adds its own keys and overrides the methods."""

    shares_hosts: ClassVar[bool] = False
    """Whether other jobs may sit on the same hosts."""

    name: Text = Field(description="What reports call it.")
    kind: str
    placement: PlacementSection = Field(default_factory=PlacementSection)

    @model_validator(mode="before")
    @classmethod
    def _known_kind(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("kind", ""), str):
            if "kind" not in data:
                raise refuse(f"is missing; the kinds are {', '.join(JOB_KINDS)}", "kind")
            if data["kind"] not in JOB_KINDS:
                raise refuse(unknown("job kind", data["kind"], JOB_KINDS), "kind")
        return data

    def accelerators(self, site: SiteSection) -> int:
        """Accelerators of its site that the job occupies."""
        raise TypeError(f"{type(self).__name__} does not say what it occupies")

    def hosts(self, site: SiteSection, first: int) -> tuple[int, ...]:
        """Hosts of its site in rank order; ``first`` is the first that no earlier job has."""
        placement = self.placement
        if placement.hosts is not None:
            return placement.hosts
        begin = first if placement.first_host is None else placement.first_host
        return tuple(range(begin, begin + -(-self.accelerators(site) // site.accelerators_per_host)))

    def problems(self, scenario: Scenario, index: int) -> Iterator[str]:
        """What is wrong with the job beyond its own keys; the place in the file comes first."""
        yield from ()


RecomputeModule = Literal["core_attn", "layernorm", "mla_up_proj", "moe_act", "mlp"]
ScheduleName = Literal["1f1b", "interleaved", "gpipe", "zb-h1", "zb-h2", "dualpipe"]


class TrainingSection(JobBase):
    """A training job."""

    kind: Literal["training"] = Field(description="training")
    model: Model = Field(description="A model of the catalogue, a shape, or {hf_config: path}.")
    parallel: ParallelSection = Field(default_factory=ParallelSection)
    batch: BatchSection
    precision: Literal["bf16", "fp16", "fp8", "fp8-current", "fp8-block", "mxfp8", "nvfp4"] = Field(
        default="bf16", description="Type of the layers' GEMMs, or a recipe of scaled 8 or 4 bits."
    )
    schedule: ScheduleName | None = Field(
        default=None,
        description="Order of the passes; 1f1b with one chunk per stage, else interleaved, unless said.",
    )
    recompute: Literal["none", "selective", "full"] = "none"
    recompute_modules: tuple[RecomputeModule, ...] = Field(
        default=("core_attn",),
        min_length=1,
        description="What selective recomputes, in Megatron-Core's words.",
    )
    balance: BalanceSection = Field(
        default_factory=BalanceSection, description="How unevenly tokens fall on experts."
    )
    images: ImagesSection | None = Field(
        default=None, description="Images of the samples, for a model with a vision encoder."
    )
    reshard_after_forward: Flag = Field(
        default=True, description="ZeRO-3: drop gathered parameters after each use."
    )
    software: Text | None = Field(
        default=None, description="A profile of the catalogue; `euston catalog list software`."
    )
    overrides: dict[str, Any] = Field(default_factory=dict, description="Software settings of one's own.")
    work: tuple[Number, ...] | None = Field(
        default=None,
        min_length=1,
        description="Work of each micro-batch of a replica relative to a full one, where they differ.",
    )
    stages: tuple[Whole, ...] | None = Field(
        default=None, min_length=1, description="Layers of every virtual stage in the model's order."
    )
    reference: tuple[ReferenceSection, ...] = Field(default=(), description="Published figures.")
    assumptions: tuple[AssumptionSection, ...] = Field(default=(), description="Settings that are guesses.")

    @property
    def resolved_schedule(self) -> ScheduleName:
        """The schedule, with the default filled in."""
        return self.schedule or ("1f1b" if self.parallel.virtual == 1 else "interleaved")

    def accelerators(self, site: SiteSection) -> int:
        """All ranks, one each."""
        return self.parallel.world

    def problems(self, scenario: Scenario, index: int) -> Iterator[str]:
        """Models, layouts and assumptions that do not fit."""
        from euston.scenario._training import problems

        return problems(self, scenario, index)
