"""Curves and rates of a model's step on one rank, priced by `euston.devices.GPU`, with where each is from."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from euston.catalog import entry
from euston.devices import GPU, PROVENANCES, Provenance, exchange, scale_up_collective
from euston.devices.interconnect import wire_bytes
from euston.errors import CatalogError, ConfigError
from euston.models import Balance, Transformer
from euston.models._settings import Precision
from euston.serving.providers._shapes import SAMPLER_BYTES
from euston.serving.providers.software import EngineSoftware
from euston.serving.step_time import Rate

if TYPE_CHECKING:
    from euston.catalog import Accelerator
    from euston.models._kinds import LayerKind
    from euston.models.operator import Operator

__all__ = ["Layout", "Prices", "Shares", "token_knots"]

_A = NDArray[np.float64]
#: Attention's operators are priced apart, over chunks and contexts.
ATTENTION = ("attention", "attention_decode", "mla_prefill", "mla_decode")
#: Of experts: within the fused kernel that serving engines run, eager only in training frameworks.
FUSED = ("expert_clamp", "expert_bias")
#: NCCL with its defaults where a host has PCIe only: another machine's RTX PRO 6000s, 22.2 GB/s bus
#: bandwidth of
#: 63 at 32 MB, and 48.2, 48.7, 51.6 and 56.5 us at 32 to 256 KB: a start of 47 us, taken as it is for fewer
#: ranks
#: than its eight (voipmonitor/rtx6kpro@1306de8, optimization/nccl-tuning.md, "Default" and "Without XML").
PCIE_SHARE, PCIE_LATENCY = 22.2 / 63.0, 47e-6
#: Knots of attention's rates: steps of the square root of two.
CHUNKS = np.unique(np.round(2.0 ** np.arange(0, 13.5, 0.5)))
CACHED = np.unique(np.round(2.0 ** np.arange(0, 17.5, 0.5)))
BATCHES = np.unique(np.round(2.0 ** np.arange(0, 10.5, 0.5)))
CONTEXTS = np.unique(np.round(2.0 ** np.arange(0, 18, 0.5)))


@dataclass(frozen=True)
class Layout:
    """How a rank splits a model: ``tensor`` accelerators; ``data`` ranks that share ``expert`` experts'
    ranks.

    Attributes
    ----------
    tensor : int
        Accelerators of a rank that split every matrix.
    expert : int
        Accelerators that whole experts are dealt to; 1: every expert is split over `tensor`.
    data : int
        Ranks that step together, each with its own sequences (attention data parallelism); the experts are
        dealt to, or split over, all tensor x data accelerators.
    """

    tensor: int = 1
    expert: int = 1
    data: int = 1

    def check(self, model: Transformer) -> None:
        """Raise ConfigError for degrees that cannot be."""
        for name in ("tensor", "expert", "data"):
            if getattr(self, name) < 1:
                raise ConfigError(f"`{name}`: {getattr(self, name)} must be at least 1")
        if model.heads % self.tensor:
            raise ConfigError(f"`tensor`: {self.tensor} does not divide {model.heads} heads of {model.name}")
        if self.expert > 1 and model.moe is None:
            raise ConfigError(f"`expert`: {model.name} has no experts; leave it 1")
        world = self.tensor * self.data
        if self.expert > world or world % self.expert:
            raise ConfigError(
                f"`expert`: {self.expert} does not divide tensor {self.tensor} x data {self.data} ranks"
            )


@dataclass
class Shares:
    """Seconds by provenance, to say how sure a number is: of a typical step of each kind."""

    seconds: dict[Provenance, float] = field(default_factory=lambda: dict.fromkeys(PROVENANCES, 0.0))

    def add(self, seconds: float, provenance: Provenance) -> None:
        """Count so many seconds."""
        self.seconds[provenance] += seconds

    def words(self) -> tuple[str, ...]:
        """``("transferred 12%", "measured 88%")``: worst first, shares of time, below .5 % left out."""
        total = sum(self.seconds.values())
        if total <= 0:
            return ()
        pairs = [(p, self.seconds[p] / total) for p in reversed(PROVENANCES)]
        return tuple(f"{p} {share:.0%}" for p, share in pairs if share >= 0.005)


#: Where steps are priced below the largest graph: dense where tiles and launches bind.
SMALL = (1, 2, 4, 8, 16, 24, 32, 48, 64, 80, 96, 128, 160, 192, 224, 256, 320, 384, 448, 512, 768, 1024)


def token_knots(most: int, software: EngineSoftware) -> NDArray[np.int64]:
    """Numbers of tokens to price: `SMALL`, then steps of a fifth; and both sides of the largest graph."""
    rest = np.round(2.0 ** np.arange(9, np.log2(max(most, 2)) + 0.25, 0.25)).astype(np.int64)
    edge = [software.graph_tokens, software.graph_tokens + 1, most]
    return np.unique(np.concatenate([np.array(SMALL), rest, edge]).clip(1, most))


@dataclass
class Prices:
    """One model on one accelerator in one layout.

    Attributes
    ----------
    weight_bytes : float
        Bytes of a weight where they are stored smaller than `precision` computes (weight-only quantisation);
        0: as the precision has them.
    """

    model: Transformer
    accelerator: Accelerator
    layout: Layout
    precision: str = "bf16"
    expert_precision: str = ""
    weight_bytes: float = 0.0
    software: EngineSoftware = field(default_factory=EngineSoftware)
    balance: Balance = field(default_factory=Balance)
    kv_bytes: float = 2.0
    exchange_bandwidth: float = 0.0
    experts_apart: bool = False

    def __post_init__(self) -> None:
        self.layout.check(self.model)

    @cached_property
    def gpu(self) -> GPU:
        """The one pricer."""
        return GPU(self.accelerator, launch_floor=1e-6)

    def without_tables(self) -> None:
        """Formulas with typical constants only."""
        self.gpu.kernels.table = None

    # -- what depends on tokens ---------------------------------------------------------------------------

    def operators(self, tokens: int) -> list[tuple[Operator, int]]:
        """Forward kernels of a step of a rank but attention's, each with how many layers have it."""
        lay, model = self.layout, self.model
        found: list[tuple[Operator, int]] = []
        for kind, count in model.kind_counts.items():
            ops = model.operators(
                tokens, tokens, tensor_parallel=lay.tensor, precision=cast(Precision, self.precision),
                kind=kind, graphs="full",
            )  # fmt: skip
            if kind.ffn == "moe":
                ops = [op for op in ops if not op.name.startswith("expert_")] + self._experts(tokens, kind)
            found += [
                # inputs are cast with known scales, by one kernel for all experts
                (replace(op, calls=1) if op.kernel == "cast" else op, count)
                for op in ops
                if op.phase == "forward" and op.kernel not in ATTENTION
            ]
        found += [
            (op, 1)
            for op in model.operators(tokens, tokens, part="embedding", tensor_parallel=lay.tensor)
            if op.phase == "forward"
        ]
        return found

    def _experts(self, tokens: int, kind: LayerKind) -> list[Operator]:
        """Kernels of the routed experts on one accelerator, for `tokens` tokens on every rank of the group.

        The group's tokens are all ranks' together; whole experts are dealt to `expert` accelerators, and what
        is left of the group splits each of them.
        """
        lay = self.layout
        split = lay.tensor * lay.data // lay.expert
        everything = tokens * lay.data
        share = max(1, -(-everything // lay.expert))
        ops = self.model.operators(
            share, share, tensor_parallel=split, kind=kind, expert_parallel=lay.expert, expert_tensor=split,
            precision=cast(Precision, self.expert_precision or self.precision), balance=self.balance,
            graphs="full",
        )  # fmt: skip
        part = everything / (share * lay.expert)  # below 1 where the group has fewer tokens than accelerators
        return [_fewer(op, part) for op in ops if op.name.startswith("expert_") and op.name not in FUSED]

    @cached_property
    def _expert_names(self) -> frozenset[str]:
        """Operators of experts, whose tokens are those of all ranks that share them."""
        names = set()
        for op, _ in self.operators(8):
            if op.kind == "grouped_gemm" or op.name.startswith("expert_"):
                names.add(op.name)
        return frozenset(names)

    def compute(self, knots: NDArray[np.int64], shares: Shares) -> tuple[_A, _A, dict[str, _A]]:
        """(seconds by a rank's tokens, seconds of the experts by the group's tokens, seconds by operator).

        The second is priced at ``knots`` tokens of every rank of the group.
        """
        own, routed = np.zeros(len(knots)), np.zeros(len(knots))
        by_name: dict[str, _A] = defaultdict(lambda: np.zeros(len(knots)))
        steps = [self.operators(int(t)) for t in knots]
        everything = list(dict.fromkeys(op for ops in steps for op, _ in ops))
        prices = dict(zip(everything, self.gpu.price_many(everything), strict=True))
        apart = self._expert_names if self.layout.data > 1 or self.experts_apart else frozenset()
        middle = len(knots) // 2
        for j, ops in enumerate(steps):
            for op, count in ops:
                seconds = prices[op].seconds * self._lighter(op) * count
                (routed if op.name in apart else own)[j] += seconds
                by_name[op.name][j] += seconds
                if j == middle:
                    shares.add(seconds, "transferred" if self.weight_bytes else prices[op].provenance)
        return own, routed, dict(by_name)

    def _lighter(self, op: Operator) -> float:
        """Share of an operator's time that is left when its weights are stored smaller than it computes.

        By the roofline: weights are moved at four fifths of the bandwidth, products run at three quarters of
        peak; whichever is longer counts.
        """
        if not self.weight_bytes or op.kind not in ("gemm", "grouped_gemm"):
            return 1.0
        n, k = op.shape[1], op.shape[2]
        many = min(op.shape[3], op.shape[0]) if op.kind == "grouped_gemm" else 1.0
        element = self.gpu.kernels.machine(op.dtype).input_bytes
        moved = many * n * k * element / (0.8 * self.accelerator.memory_bandwidth)
        work = op.flops / max(op.calls, 1) / (0.75 * self.gpu.peak(op.dtype))
        full, less = max(moved, work), max(moved * self.weight_bytes / element, work)
        return less / full if full > 0 else 1.0

    # -- what depends on sampled sequences ----------------------------------------------------------------

    def head(self, knots: NDArray[np.int64], shares: Shares) -> _A:
        """Final norm, logits, their gathering and sampling, by sampled sequences."""
        tensor, model = self.layout.tensor, self.model
        vocab = -(-model.vocab // tensor)
        n = knots.astype(np.float64)
        logits, sure = self.gpu.kernels.gemm(n, float(vocab), float(model.hidden))
        drawn, _ = self.gpu.kernels.memory("softmax", n * model.vocab * SAMPLER_BYTES)
        seconds = logits + drawn
        shares.add(float(logits[len(knots) // 2]), PROVENANCES[int(sure[len(knots) // 2])])
        if tensor > 1:
            seconds += [self.collective("all_gather", float(b) * model.vocab * 2, shares) for b in knots]
        return seconds

    # -- communication ------------------------------------------------------------------------------------

    def collective(self, name: str, nbytes: float, shares: Shares | None = None) -> float:
        """Seconds of a collective among a rank's accelerators.

        Custom one-shot kernels need a switch between the accelerators: over PCIe they are NCCL's (vLLM
        disables its own there).
        """
        tensor = self.layout.tensor
        wire = wire_bytes(name, tensor, nbytes)
        if "pcie" in scale_up_kind(self.accelerator):
            seconds = PCIE_LATENCY + wire / (PCIE_SHARE * self.accelerator.scale_up_bandwidth)
            if shares is not None:
                shares.add(seconds, "transferred")
            return float(seconds)
        cost = scale_up_collective(self.accelerator, name, tensor, nbytes, "nccl")
        how = self.software.all_reduce
        if how != "nccl" and name == "all_reduce":  # vLLM's own kernel where that is faster: small messages
            own = scale_up_collective(self.accelerator, name, tensor, nbytes, how)
            cost = min(own, cost, key=lambda c: c.latency + wire / c.wire_rate)
        seconds = cost.latency + wire / cost.wire_rate
        if shares is not None:
            shares.add(seconds, cost.provenance)
        return float(seconds)

    def communication(self, knots: NDArray[np.int64], shares: Shares) -> _A:
        """Two all-reduces a layer (after attention and after the feed-forward network) and the embedding's.

        Under attention data parallelism experts have their own exchange; see `exchanged`.
        """
        if self.layout.tensor == 1:
            return np.zeros(len(knots))
        times = 1
        for kind in self.model.layer_kinds:
            times += int(kind.mixer != "none")
            times += int(kind.ffn == "dense" or (kind.ffn == "moe" and self.layout.data == 1))
        width = self.model.hidden * 2.0
        one = np.array([self.collective("all_reduce", float(t) * width) for t in knots])
        self.collective("all_reduce", float(knots[len(knots) // 2]) * width, shares)
        return times * one

    def exchanged(self, knots: NDArray[np.int64], low_latency: bool, shares: Shares) -> _A:
        """Dispatch and combine of every expert layer, by tokens of one rank; with `data` > 1."""
        lay, moe = self.layout, self.model.moe
        layers = sum(kind.ffn == "moe" for kind in self.model.layer_kinds)
        if moe is None or lay.data == 1 or not layers:
            return np.zeros(len(knots))
        world = lay.tensor * lay.data
        seconds = np.zeros(len(knots))
        for j, tokens in enumerate(knots.tolist()):
            if lay.expert > 1:  # tokens go to the experts' accelerators and come back
                mode = "low_latency" if low_latency else "normal"
                sent = tokens * lay.data * moe.top_k
                # the rank that most tokens go to is the last to have them, and to send them back
                fullest = self.balance.load(sent, moe.experts, lay.expert).rows * lay.expert / sent
                for step in ("dispatch", "combine"):
                    cost = exchange(
                        self.accelerator, step, mode, lay.expert, tokens / lay.tensor,  # type: ignore[arg-type]
                        self.model.hidden, moe.top_k, bandwidth=self.exchange_bandwidth or None,
                    )  # fmt: skip
                    seconds[j] += cost.seconds * fullest
                    if j == len(knots) // 2:
                        shares.add(cost.seconds * fullest * layers, cost.provenance)
            else:  # every accelerator sees all tokens: gathered before, reduced after
                nbytes = tokens * lay.data * self.model.hidden * 2.0
                for name in ("all_gather", "reduce_scatter"):
                    fast = scale_up_collective(self.accelerator, name, world, nbytes)
                    seconds[j] += fast.latency + wire_bytes(name, world, nbytes) / fast.wire_rate
        return layers * seconds

    # -- attention ----------------------------------------------------------------------------------------

    def _heads(self) -> tuple[int, int]:
        t = self.layout.tensor
        return self.model.heads // t, max(1, self.model.kv_heads // t)

    def attention(self, shares: Shares) -> tuple[float, Rate, Rate]:
        """(seconds of every step, rate of chunks, rate of decodes) of all layers that attend."""
        windows: dict[int, int] = defaultdict(int)
        for kind in self.model.layer_kinds:
            if kind.attends:
                windows[self.model.window if kind.mixer == "sliding" else 0] += 1
        fixed = 0.0
        chunk = np.zeros((len(CHUNKS), len(CACHED)))
        decode = np.zeros((len(BATCHES), len(CONTEXTS)))
        for window, layers in windows.items():
            base, c, d = self._attention(window, shares, layers)
            fixed += layers * base
            chunk += layers * c
            decode += layers * d
        if not windows:
            return 0.0, Rate.flat(0.0), Rate.flat(0.0)
        return fixed, Rate(CHUNKS, CACHED, chunk), Rate(BATCHES, CONTEXTS, decode)

    def _attention(self, window: int, shares: Shares, layers: int) -> tuple[float, _A, _A]:
        new, cached = (a.ravel() for a in np.meshgrid(CHUNKS, CACHED, indexing="ij"))
        batch, context = (a.ravel() for a in np.meshgrid(BATCHES, CONTEXTS, indexing="ij"))
        cached = np.where(cached <= 1, 0.0, cached)  # the axis starts at 1, which stands for none
        seen = np.minimum(context, window) if window else context
        past = np.minimum(cached, window) if window else cached
        heads, kv_heads = self._heads()
        kernels, mla = self.gpu.kernels, self.model.mla
        if mla is not None:
            c, sure_c = kernels.mla_prefill(1.0, new, float(heads), float(mla.rope_dim), past)
            d, sure_d = kernels.mla_decode(batch, seen, float(heads), float(mla.kv_rank), float(mla.rope_dim))
        else:
            dim = float(self.model.head_dim)
            c, sure_c = kernels.prefill(1.0, new, float(heads), float(kv_heads), dim, past)
            d, sure_d = kernels.decode(batch, seen, float(heads), float(kv_heads), dim)
        if self.kv_bytes != 2.0:
            # a cache in fewer bytes is read faster; what one token costs without any context stays
            start = float(d.min())
            d = start + (d - start) * self.kv_bytes / 2.0
        pairs = new * cached + 0.5 * new * (new + 1.0)
        if window:  # a chunk longer than the window sees it only
            kept = new * np.minimum(past + 0.5 * (new + 1.0), float(window))
            c = c * kept / (new * past + 0.5 * new * (new + 1.0))
        base = float(min(c.min(), d.min()))
        middle = len(c) // 2, len(d) // 2
        shares.add(layers * float(c[middle[0]]), PROVENANCES[int(sure_c[middle[0]])])
        shares.add(layers * float(d[middle[1]]), PROVENANCES[int(sure_d[middle[1]])])
        chunk = np.maximum(c - base, 0.0) / pairs
        decode = np.maximum(d - base, 0.0) / (batch * context)
        return base, chunk.reshape(len(CHUNKS), -1), decode.reshape(len(BATCHES), -1)

    def mixed(self) -> _A:
        """Attention of chunks and decodes in one call over the sum of both, by sequences that decode.

        From the joint table of this accelerator, as a mean over its chunks and contexts; empty without one.
        """
        return _joint(self.gpu, tuple(MIXED_AT))


def _fewer(op: Operator, part: float) -> Operator:
    """The same kernel on `part` of its rows; weights are read as before."""
    if part == 1.0:
        return op
    shape = op.shape
    if op.kind == "grouped_gemm":
        rows, n, k, experts, busiest = shape
        shape = (rows * part, n, k, experts, max(busiest * part, min(1.0, rows * part)))
        return replace(op, shape=shape, flops=op.flops * part)
    return replace(
        op, flops=op.flops * part, bytes_read=op.bytes_read * part, bytes_written=op.bytes_written * part
    )


#: Decodes, chunks, cached tokens and contexts at which the joint call is compared with its parts.
MIXED_AT = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)
MIXED_CHUNKS, MIXED_CACHED, MIXED_CONTEXTS = (
    (64.0, 512.0, 2048.0),
    (0.0, 512.0),
    (256.0, 512.0, 1024.0, 2048.0),
)
HEADS, KV_HEADS = 32.0, 8.0


def _joint(gpu: GPU, at: tuple[float, ...]) -> _A:
    new, cached, batch, context = (
        a.ravel() for a in np.meshgrid(MIXED_CHUNKS, MIXED_CACHED, at, MIXED_CONTEXTS, indexing="ij")
    )
    kernels = gpu.kernels
    both, _ = kernels.mixed(new, cached, batch, context, HEADS, KV_HEADS)
    apart = kernels.prefill(1.0, new, HEADS, KV_HEADS, 128.0, cached)[0]
    apart = apart + kernels.decode(batch, context, HEADS, KV_HEADS)[0]
    ratio = np.array([np.exp(np.log(both / apart)[batch == b].mean()) for b in at])
    if np.allclose(ratio, 1.0):
        return np.zeros(0)
    curve: _A = np.interp(np.arange(int(at[-1]) + 1), at, ratio)
    return curve


@cache
def _kind(name: str) -> str:
    try:
        return str(entry("accelerators", name).values.get("scale_up_kind", ""))
    except CatalogError:
        return ""


def scale_up_kind(accelerator: Accelerator) -> str:
    """What joins the accelerators of a host, in small letters: "nvlink4", "pcie5", ..."""
    return _kind(accelerator.name).lower()
