"""A training job as data: model, layout, batches, precision, schedule and the software that runs it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field, fields, replace
from typing import Any, Literal, get_args

from euston import catalog
from euston.cluster import Parallel
from euston.errors import ConfigError, unknown
from euston.models import RECOMPUTE_MODULES, Balance, ImageMix, Transformer

from .schedule import SCHEDULES, stage_order
from .stages import Slots, Stages, place

__all__ = ["PRECISIONS", "RECOMPUTE", "SoftwareProfile", "TrainingJob", "software"]

PRECISIONS = ("bf16", "fp16", "fp8", "fp8-current", "fp8-block", "mxfp8", "nvfp4")
RECOMPUTE = ("none", "selective", "full")

Precision = Literal["bf16", "fp16", "fp8", "fp8-current", "fp8-block", "mxfp8", "nvfp4"]
Recompute = Literal["none", "selective", "full"]
Schedule = Literal["1f1b", "interleaved", "gpipe", "zb-h1", "zb-h2", "dualpipe"]
ContextExchange = Literal["ring", "all_gather", "ulysses"]
ExpertExchange = Literal["direct", "two_hops"]
Attention = Literal["flash", "unfused"]
GradientDtype = Literal["fp32", "bf16", "fp16"]
Loss = Literal["in-place", "pytorch", "fused"]
Dispatcher = Literal["alltoall", "deepep", "hybridep"]
ActivationKernel = Literal["fused", "compiled"]
RotaryKernel = Literal["fused", "eager"]
QkvSplit = Literal["views", "copies"]
CudaGraphs = Literal["none", "partial", "full"]
Accumulation = Literal["fused-fp32", "fused-bf16", "autograd-fp16", "unfused-fp32", "none"]

_CHOICES: dict[str, tuple[str, ...]] = {
    "attention": get_args(Attention),
    "attention_kernel": ("unfused", "fa1", "fa2", "fa3", "cudnn"),
    "gradient_dtype": get_args(GradientDtype),
    "grad_accumulation": get_args(Accumulation),
    "loss": get_args(Loss),
    "cuda_graphs": get_args(CudaGraphs),
    "recompute": RECOMPUTE,
    "context": get_args(ContextExchange),
    "expert_all_to_all": get_args(ExpertExchange),
    "expert_dispatch": ("bf16", "fp8"),
    "expert_dispatcher": get_args(Dispatcher),
    "activation_kernel": get_args(ActivationKernel),
    "rotary_kernel": get_args(RotaryKernel),
    "qkv_split": get_args(QkvSplit),
}
_TYPES = {"bool": "true or false", "int": "a whole number"}


@dataclass(frozen=True)
class SoftwareProfile:
    """What the training framework of a certain date does, whatever the model and the layout.

    The defaults describe a current stack that overlaps what can be overlapped; `software` gives the named
    profiles of the catalogue, whose entries carry the source of every field.

    Attributes
    ----------
    p2p_overlap : bool
        Transfers between stages run beside compute (else they occupy the compute stream).
    p2p_overlap_interleaved : bool
        They do so only where stages have several chunks (Megatron-LM).
    data_overlap : bool
        Gradient reduction and parameter gathering run beside compute.
    tensor_overlap : bool
        Tensor-parallel collectives are hidden behind the GEMM they belong to where it is long enough.
    tensor_backward_overlap : bool
        In the backward pass the collective of an input gradient runs beside the weight gradient (the
        asynchronous tensor-parallel all-reduce of Megatron-LM); `tensor_overlap` splits the GEMM itself.
    attention : "flash" | "unfused"
        Whether the s x s scores are ever written to memory.
    attention_kernel : "unfused" | "fa1" | "fa2" | "fa3" | "cudnn"
        Generation of the kernel, which decides its rate.
    gradient_dtype : "fp32" | "bf16" | "fp16"
        Type of the accumulated gradient, which is also what is reduced.
    grad_accumulation : str
        How a micro-batch's weight gradient is added to the accumulated one, as in `Transformer.operators`.
    dropout : bool
        Whether dropout masks are written and saved.
    cuda_graphs : "none" | "partial" | "full"
        Kernels replayed from recorded graphs instead of being launched one by one: none, attention, router
        and dispatch, or the whole iteration.
    loss : "in-place" | "pytorch" | "fused"
        Whether softmax and gradient overwrite the FP32 logits (Megatron-LM), each have their own memory, or
        the gradient takes the place of the 16-bit logits (Transformer Engine).
    activation_kernel : "fused" | "compiled"
        Whether a gated activation's backward is one kernel, or what a compiler makes of it (Megatron-Core).
    rotary_kernel : "fused" | "eager"
        Whether rotary positions are one kernel, or PyTorch's own operations one by one (Megatron-Core where a
        model scales them).
    qkv_split : "views" | "copies"
        Whether attention reads queries, keys and values where their projection wrote them, or from copies
        (Megatron-Core with Transformer Engine).
    context : "ring" | "all_gather" | "ulysses"
        How context-parallel ranks exchange keys and values: passed round behind the attention of each part
        (arXiv:2310.01889), gathered at once (Llama 3), or heads for sequence by all-to-alls (Ulysses).
    expert_all_to_all : "direct" | "two_hops"
        Whether a token goes to each of its experts, or once to each scale-up domain and on from
        there (DeepEP).
    expert_dispatch : "bf16" | "fp8"
        What tokens are sent to experts as; they come back in BF16.
    expert_dispatcher : "alltoall" | "deepep" | "hybridep"
        Who carries tokens to experts: NCCL's all-to-all between copies and sorts in memory, or a library that
        sends each token once to a rank (`deepep`) and pads what arrives (`hybridep`).
    expert_padding : bool
        In 8 and 4 bit the rows of each expert are padded by a copy, and back: Megatron-Core without dropped
        tokens, unless HybridEP or the router pads.
    expert_node_limit : int
        Most scale-up domains that the experts of one token sit in (DeepSeek-V3: 4); 0 is no limit.
    expert_overlap : bool
        The all-to-alls of a micro-batch run beside the compute of another one, whose backward pass is run
        together with its forward (Megatron-Core's batch-level overlap, without a pipeline or in an
        interleaved one; DualPipe does so always).
    recompute, sequence_parallel
        What the framework's users run by default; a job states its own.
    software_date : str
        Year and month the profile stands for; "" where it stands for none.
    """

    name: str = "default"
    p2p_overlap: bool = True
    p2p_overlap_interleaved: bool = False
    data_overlap: bool = True
    tensor_overlap: bool = False
    tensor_backward_overlap: bool = True
    attention: Attention = "flash"
    attention_kernel: str = "fa2"
    gradient_dtype: GradientDtype = "fp32"
    grad_accumulation: Accumulation = "fused-fp32"
    dropout: bool = False
    loss: Loss = "in-place"
    cuda_graphs: CudaGraphs = "none"
    activation_kernel: ActivationKernel = "fused"
    rotary_kernel: RotaryKernel = "fused"
    qkv_split: QkvSplit = "views"
    context: ContextExchange = "ring"
    expert_all_to_all: ExpertExchange = "two_hops"
    expert_dispatch: str = "bf16"
    expert_dispatcher: Dispatcher = "alltoall"
    expert_padding: bool = False
    expert_node_limit: int = 0
    expert_overlap: bool = False
    recompute: Recompute = "none"
    sequence_parallel: bool = True
    software_date: str = ""

    def check(self, *, where: str = "jobs[0].software") -> None:
        """Raise ConfigError for a field outside its choices (the nearest is named) or of another type."""
        for item in fields(self):
            value = getattr(self, item.name)
            if not isinstance(value, type(item.default)) or isinstance(value, bool) != (item.type == "bool"):
                right = _TYPES.get(str(item.type), "a text")
                raise ConfigError(f"`{where}.{item.name}`: {value!r} must be {right}")
        if self.expert_node_limit < 0:
            raise ConfigError(f"`{where}.expert_node_limit`: {self.expert_node_limit} must be 0 or more")
        for name, choices in _CHOICES.items():
            _one_of(getattr(self, name), choices, f"{where}.{name}", name.replace("_", " "))


def software(name: str, **overrides: Any) -> SoftwareProfile:
    """A profile of the catalogue, e.g. ``software("megatron-2022", p2p_overlap=True)``.

    Raises
    ------
    CatalogError
        For an unknown name (the nearest is offered).
    ConfigError
        For an override that is no field, or a value outside its choices.
    """
    known = [item.name for item in fields(SoftwareProfile)]
    for key in overrides:
        if key not in known:
            raise ConfigError(f"`software.{key}`: {unknown('software setting', key, known)}")
    entry = catalog.entry("software", name)
    values = {key: value for key, value in entry.values.items() if key in known}
    profile = replace(SoftwareProfile(**{**values, "name": entry.name}), **overrides)
    profile.check(where="software")
    return profile


@dataclass(frozen=True)
class TrainingJob:
    """One training job; `check` says whether it can be run at all.

    Attributes
    ----------
    model : Transformer
    parallel : Parallel
        Degrees of parallelism, `virtual` chunks per stage and optimiser sharding.
    global_batch : int
        Sequences per optimiser step over all replicas.
    micro_batch : int
        Sequences per pass through the pipeline and replica.
    sequence : int
        Tokens per sequence.
    precision : "bf16" | "fp16" | "fp8" | "fp8-current" | "fp8-block" | "mxfp8" | "nvfp4"
        Type or recipe (`euston.models.recipes`) of the layers' GEMMs. Parameters are kept in 16 bit; logits
        and attention stay 16 bit under a recipe.
    schedule : "1f1b" | "interleaved" | "gpipe" | "zb-h1" | "zb-h2" | "dualpipe"
        Order of the passes; more than one virtual chunk needs "interleaved".
    recompute : "none" | "selective" | "full"
        Activations recomputed in the backward pass: none, those of `recompute_modules`, or the whole layer.
    recompute_modules : tuple of str
        What "selective" repeats, in Megatron-Core's words: core_attn (unfused scores, softmax and dropout),
        layernorm, mla_up_proj, moe_act, mlp.
    software : SoftwareProfile
    stages : tuple of int, optional
        Layers per virtual stage in the model's order, length pipeline * virtual; None places them evenly.
    slots : "auto" | bool
        Whether embedding and head count as a layer when layers are placed, see `euston.training.stages`.
    reshard_after_forward : bool
        ZeRO-3 only: drop gathered parameters after each use (else they stay until the step).
    balance : Balance
        How unevenly tokens fall on experts; published benchmarks force them to be even.
    work : tuple of float, optional
        Work of each micro-batch of a replica relative to a full one, length `micro_batches`: compute and
        bytes are multiplied by it (sequences of unequal length, images); None for all equal.
    images : ImageMix, optional
        Images of each sample, for a model with a vision encoder, which then runs on the first stage;
        `sequence` counts their tokens at the mean. See `with_images`.
    """

    model: Transformer
    parallel: Parallel
    _: KW_ONLY
    global_batch: int
    sequence: int
    micro_batch: int = 1
    precision: Precision = "bf16"
    schedule: Schedule = "1f1b"
    recompute: Recompute = "none"
    recompute_modules: tuple[str, ...] = ("core_attn",)
    software: SoftwareProfile = field(default_factory=SoftwareProfile)
    stages: tuple[int, ...] | None = None
    slots: Slots = "auto"
    reshard_after_forward: bool = True
    balance: Balance = field(default_factory=Balance)
    work: tuple[float, ...] | None = None
    images: ImageMix | None = None
    name: str = "training"

    @property
    def micro_batches(self) -> int:
        """Micro-batches per replica and step, m."""
        return self.global_batch // (self.parallel.data * self.micro_batch)

    @property
    def tokens(self) -> int:
        """Tokens of one micro-batch on one rank: the sequence is split over the context-parallel ranks."""
        return self.micro_batch * self.sequence // self.parallel.context

    @property
    def images_per_micro_batch(self) -> float:
        """Images in a micro-batch, expected."""
        return self.micro_batch * self.images.mean if self.images is not None else 0.0

    def with_images(self, images: ImageMix) -> TrainingJob:
        """Return the job with images, and micro-batches as unequal as their seeded draw makes them."""
        vision = self.model.vision
        if vision is None:
            raise ConfigError(f"`images`: {self.model.name} has no vision encoder")
        images.check()
        tokens = vision.tokens(images.patches)
        work = images.work(self.micro_batches, self.micro_batch, self.sequence, tokens)
        return replace(self, images=images, work=work)

    @property
    def sends_overlap(self) -> bool:
        """Whether pipeline stages compute while they send and receive."""
        only = self.software.p2p_overlap_interleaved
        return self.software.p2p_overlap and (self.parallel.virtual > 1 or not only)

    @property
    def passes_overlap(self) -> bool:
        """Whether a forward runs together with the backward behind it, for the sake of their all-to-alls.

        Megatron-Core has it without a pipeline and in the interleaved schedule (combined_1f1b.py). In plain
        1F1B a stage would wait for the next one's backward before it sends its own forward on; Megatron-Core
        refuses it (TransformerConfig at d98e8a6: virtual stages "must be specified").
        """
        p = self.parallel
        return self.software.expert_overlap and p.expert > 1 and (p.pipeline == 1 or p.virtual > 1)

    @property
    def ahead(self) -> int:
        """Forwards that the schedule runs ahead beyond its usual warm-up."""
        return int(self.passes_overlap)

    @property
    def expert_tensor(self) -> int:
        """Ranks that share each routed expert."""
        return self.parallel.expert_split

    @property
    def expert_data(self) -> int:
        """Replicas of a routed expert."""
        return self.parallel.expert_data

    @property
    def tokens_per_step(self) -> int:
        """Tokens of the global batch."""
        return self.global_batch * self.sequence

    def place(self, *, where: str = "jobs[0]") -> Stages:
        """The layers of every (stage, chunk)."""
        placed = place(
            self.model.layers,
            self.parallel.pipeline,
            self.parallel.virtual,
            slots=self.slots,
            explicit=self.stages,
            where=f"{where}.parallel",
        )
        return placed.doubled() if self.schedule == "dualpipe" else placed

    def check(self, accelerators: int | None = None, *, where: str = "jobs[0]") -> None:
        """Raise ConfigError, naming the key and the nearest valid value, if the job cannot be run.

        Parameters
        ----------
        accelerators : int, optional
            Ranks at the job's disposal; None takes what `parallel` needs. Memory is not looked at: see
            `fits`.
        where : str
            Where the job stands in the scenario file, e.g. ``jobs[0]``.
        """
        parallel = self.parallel
        _one_of(self.precision, PRECISIONS, f"{where}.precision", "precision")
        _one_of(self.schedule, SCHEDULES, f"{where}.schedule", "schedule")
        _one_of(self.recompute, RECOMPUTE, f"{where}.recompute", "recompute")
        for module in self.recompute_modules:
            _one_of(module, RECOMPUTE_MODULES, f"{where}.recompute_modules", "module")
        self.software.check(where=f"{where}.software")
        for key, value in (
            ("global", self.global_batch),
            ("micro", self.micro_batch),
            ("sequence", self.sequence),
        ):
            if value < 1:
                raise ConfigError(f"`{where}.batch.{key}`: {value} must be at least 1")
        if self.images is not None:
            self.images.check(where=f"{where}.images")
            if self.model.vision is None:
                raise ConfigError(f"`{where}.images`: {self.model.name} has no vision encoder")
        if self.model.moe is not None:
            self.balance.check(self.model.moe.experts, where=f"{where}.balance")
        ranks = parallel.world if accelerators is None else accelerators
        parallel.check(self.model, ranks, where=f"{where}.parallel")
        self._check_batch(where)
        self._check_schedule(where)
        self.place(where=where)

    def _check_batch(self, where: str) -> None:
        parallel = self.parallel
        step = parallel.data * self.micro_batch
        if self.global_batch % step:
            raise ConfigError(
                f"`{where}.batch.global`: {self.global_batch} is not a multiple of data*micro = {step}; "
                f"nearest {_nearest_multiples(self.global_batch, step)}"
            )
        if self.sequence % parallel.context:
            raise ConfigError(
                f"`{where}.batch.sequence`: {self.sequence} is not a multiple of "
                f"context = {parallel.context}; nearest {_nearest_multiples(self.sequence, parallel.context)}"
            )
        if parallel.sequence and self.tokens % parallel.tensor:
            raise ConfigError(
                f"`{where}.batch.sequence`: sequence parallelism splits {self.tokens} tokens over tensor = "
                f"{parallel.tensor}; choose a multiple or `{where}.parallel.sequence: false`"
            )
        if parallel.context > 1 and self.software.attention != "flash":
            raise ConfigError(
                f"`{where}.parallel.context`: {parallel.context} ranks per sequence need flash attention; "
                f"set `{where}.software.attention: flash` or `{where}.parallel.context: 1`"
            )

    def _check_schedule(self, where: str) -> None:
        virtual = self.parallel.virtual
        if virtual > 1 and self.schedule != "interleaved":
            raise ConfigError(
                f"`{where}.schedule`: {self.schedule} runs one chunk per stage and "
                f"`{where}.parallel.virtual` is {virtual}; set interleaved or virtual 1"
            )
        try:
            stage_order(self.schedule, self.parallel.pipeline, virtual, self.micro_batches, 0)
        except ConfigError as error:
            raise ConfigError(f"`{where}.schedule`: {error}") from None
        if self.schedule == "dualpipe" and self.parallel.sharding == "zero3":
            raise ConfigError(
                f"`{where}.parallel.sharding`: zero3 gathers parameters for each pass, and dualpipe holds "
                "every stage twice to run two passes at once; use zero1 or zero2"
            )
        if self.work is not None and (
            len(self.work) != self.micro_batches or not all(0 < w < float("inf") for w in self.work)
        ):
            raise ConfigError(
                f"`{where}.work`: {len(self.work)} numbers for {self.micro_batches} micro-batches; give a "
                "positive one for each"
            )


def _one_of(value: str, choices: Sequence[str], where: str, kind: str) -> None:
    if value not in choices:
        raise ConfigError(f"`{where}`: {unknown(kind, value, choices)}")


def _nearest_multiples(value: int, step: int) -> str:
    """The multiples of `step` on both sides of `value`, the lower one only where it is not zero."""
    below = value // step * step
    return f"{below} or {below + step}" if below else f"{below + step}"
