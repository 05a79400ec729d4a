"""Feed-forward networks as links of a layer: the dense MLP, and routed and shared experts."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from . import _parameters
from ._settings import Settings
from ._steps import Step, cast, linear, memory, norm, residual
from .operator import Operator, Phase

if TYPE_CHECKING:
    from ._parts import MoE
    from ._transformer import Transformer

#: Small kernels of a router, forward and backward, as eager code launches them: top-k, softmax and two
#: scatters into zeroed maps (7), the balancing loss (7); their gradients (8). Counted in Megatron-Core's
#: `moe_utils.py` and `router.py` of 2026, without its optional fusion.
ROUTER_KERNELS = (14, 8)
#: Of a dispatch: counts per expert, source and rank (8), the map of rows (3), the copy; backward the copy.
#: Counted in Megatron-Core's `token_dispatcher.py` with fused permutation.
DISPATCH_KERNELS = (12, 1)

#: Bytes per element of clamping the activation's input, apart from its kernel as Megatron-Core does (eager
#: code before `weighted_bias_quick_geglu_impl`). Forward: a clamp of each half and their concatenation.
#: Backward: PyTorch's masks (one comparison above, two and their conjunction on both sides), the choice by
#: the mask, and the two halves' gradients put together: for 16 bit (5 + 9) / 2 + 2 read, (3 + 5) / 2 + 2
#: written.
CLAMP = ((4.0, 4.0), (9.0, 6.0))
CLAMP_KERNELS = (3, 7)
#: Of them, those of operations on the strided halves, or with a broadcast zero: both clamps; backward all but
#: the conjunction of masks and the last concatenation. Such kernels move one element at a time.
CLAMP_SINGLE = (4.0, 9.5)
#: Bytes per element of adding the bias of an expert's output matrix, weighted by its tokens' probabilities,
#: as `TEGroupedMLP._apply_bias` does for one expert after the other in 16 bit: product, sum, concatenation;
#: backward the product with the probabilities and its sum, the product with the bias and its sum, and the
#: parts' gradients put together.
EXPERT_BIAS = ((6.0, 6.0), (10.0, 6.0))
EXPERT_BIAS_KERNELS = (2, 4)
#: Of them, those of the products, which broadcast the bias or the probabilities.
EXPERT_BIAS_SINGLE = (2.0, 8.0)

#: Backward of Megatron-Core 0.16.1's SwiGLU over what it must move. Against a Triton kernel that moves no
#: more than it must (3 elements forward, 5 backward) it takes 1.57 and 1.63 times as long forward, 2.46 and
#: 2.66 times in all, with 4,096 and 32,768 columns on an H100 (linkedin/Liger-Kernel pull request 1326): so
#: its backward takes (8 x 2.56 - 3 x 1.6) / 5 = 3.1 times the other's, twice as much more as its forward.
COMPILED_BACKWARD = 2.0

__all__ = ["activation", "dense", "experts", "mlp"]


def mlp(name: str, settings: Settings, hidden: int, inner: int, gated: bool) -> list[Step]:
    """Up (and gate), activation, down: `inner` is this rank's width."""
    return [
        linear(f"{name}_up", settings, (2 if gated else 1) * inner, hidden),
        activation(f"{name}_activation", settings, settings.tokens, inner, gated),
        linear(f"{name}_down", settings, hidden, inner),
    ]


def activation(name: str, settings: Settings, rows: float, inner: int, gated: bool) -> Step:
    """SwiGLU or GELU over rows of `inner` outputs."""
    e = settings.width
    # SwiGLU: gate, up -> product; backward gate, up, dy -> dgate, dup. GELU: x -> y; x, dy -> dx
    forward, (read, written) = ((2 * e, e), (3.0 * e, 2.0 * e)) if gated else ((e, e), (2.0 * e, 1.0 * e))
    more = COMPILED_BACKWARD if gated and settings.activation_kernel == "compiled" else 1.0
    return memory(name, "activation", settings, rows, inner, forward, (more * read, more * written))


def dense(model: Transformer, settings: Settings) -> list[Step]:
    """Norm, MLP and residual."""
    ffn = _parameters.split_ffn(model, settings.tensor_parallel)
    inside = mlp("ffn", settings, model.hidden, ffn, model.gated)
    return _around(model, settings, [step.within("mlp") for step in inside])


def _around(model: Transformer, settings: Settings, inside: list[Step]) -> list[Step]:
    steps = [norm("ffn_norm", settings, settings.split_tokens, model.hidden), *inside]
    if model.post_norms:
        steps.append(norm("ffn_post_norm", settings, settings.split_tokens, model.hidden))
    steps.append(residual("ffn_residual", settings, model.hidden))
    return steps


def experts(model: Transformer, settings: Settings) -> list[Step]:
    """Norm, router, dispatch, the rank's experts, combine, shared experts and residual.

    All operators are those of the expert-parallel rank with most rows, which the others wait for. Between
    dispatch and experts, and between experts and combine, lie the two all-to-alls.
    """
    moe = model.moe
    assert moe is not None
    h, e, routed = model.hidden, settings.width, settings.routed_tokens
    inner = _parameters.split_expert(model, settings.expert_tensor)
    ranks = settings.expert_parallel
    local = _parameters.local_experts(model, ranks, settings.balance.redundant)
    load = settings.balance.load(routed * moe.top_k * ranks, moe.experts, ranks)
    sent, rows = routed * moe.top_k, load.rows
    inside = _router(moe, settings, h)
    # each token's row is copied for every expert it visits; backward sums the copies' gradients
    copies = ((e / moe.top_k, e), (e, e / moe.top_k))
    inside.append(
        memory(
            "expert_dispatch", "permute", settings, sent, h, *copies, calls=_small(settings, DISPATCH_KERNELS)
        )
    )
    # rows arrive by source rank and leave by expert; DeepEP and HybridEP send each token once to a rank,
    # where the copies are made in the experts' order
    sorts = ranks > 1 and local > 1 and settings.dispatcher == "alltoall"
    pads = settings.expert_padding and settings.recipe is not None and local > 1
    moved = [name for name, there in (("sort", sorts), ("pad", pads)) if there]
    inside += [memory(f"expert_{name}", "permute", settings, rows, h, (e, e), (e, e)) for name in moved]
    inside += [
        _grouped("expert_up", settings, rows, load.busiest, local, (2 if model.gated else 1) * inner, h),
        *_clamp(moe, settings, rows, 2 * inner),
        activation("expert_activation", settings, rows, inner, model.gated).within("moe_act"),
        _grouped("expert_down", settings, rows, load.busiest, local, h, inner),
        *_expert_bias(moe, settings, rows, h, local),
    ]
    for name in reversed(moved):
        inside.append(memory(f"expert_un{name}", "permute", settings, rows, h, (e, e), (e, e)))
    # a token's rows are weighted and summed; backward spreads the gradient and reads the rows for the weights
    weighted = ((e, e / moe.top_k), (e + e / moe.top_k, e))
    inside.append(memory("expert_combine", "permute", settings, sent, h, *weighted))
    if moe.shared_experts:
        shared = _parameters.split_shared(model, settings.tensor_parallel)
        inside += mlp("shared_expert", settings, h, shared, model.gated)
        inside.append(residual("shared_expert_add", settings, h))
    return _around(model, settings, inside)


def _clamp(moe: MoE, settings: Settings, rows: float, columns: int) -> list[Step]:
    if not moe.clamped:
        return []
    wide = settings.width / 2.0
    moved = [(read * wide, written * wide) for read, written in CLAMP]
    single = (CLAMP_SINGLE[0] * wide, CLAMP_SINGLE[1] * wide)
    step = memory("expert_clamp", "add", settings, rows, columns, *moved, calls=CLAMP_KERNELS, single=single)
    return [step.within("moe_act")]


def _expert_bias(moe: MoE, settings: Settings, rows: float, hidden: int, local: int) -> list[Step]:
    """The output matrix's biases; those of the first are added in its products."""
    if not moe.expert_biases:
        return []
    wide = settings.width / 2.0
    moved = [(read * wide, written * wide) for read, written in EXPERT_BIAS]
    single = (EXPERT_BIAS_SINGLE[0] * wide, EXPERT_BIAS_SINGLE[1] * wide)
    forward, backward = (each * local + 1 for each in EXPERT_BIAS_KERNELS)
    calls = (forward, backward)
    return [memory("expert_bias", "add", settings, rows, hidden, *moved, calls=calls, single=single)]


def _small(settings: Settings, kernels: tuple[int, int]) -> tuple[int, int]:
    """Launches of small kernels: those of a recorded graph follow each other as one."""
    return kernels if settings.graphs == "none" else (1, 1)


def _router(moe: MoE, settings: Settings, hidden: int) -> list[Step]:
    """Scores of every expert, in 16 bit, and the choice among them, in FP32."""
    tokens = settings.split_tokens
    return [
        linear("router", settings, moe.experts, hidden, tokens=tokens, low_precision=False),
        # scores -> probabilities and the map of chosen ones; backward through both
        memory(
            "router_choice",
            "router",
            settings,
            tokens,
            moe.experts,
            (2, 5),
            (9, 2),
            calls=_small(settings, ROUTER_KERNELS),
        ),
    ]


def _grouped(
    name: str, settings: Settings, rows: float, busiest: float, local: int, outputs: int, inputs: int
) -> Step:
    """One GEMM per local expert in a single kernel, with dgrad and wgrad."""
    recipe = settings.recipe
    out = settings.width
    element, dtype = (out, settings.dtype) if recipe is None else (recipe.element, recipe.gemm)
    work = 2.0 * rows * outputs * inputs

    def one(label: str, phase: Phase, shape: tuple[float, ...], read: float, written: float) -> Operator:
        return Operator(label, "grouped_gemm", phase, shape, work, read, written, dtype, kernel="moe")

    weights = float(local * outputs * inputs)
    forward = one(
        name, "forward", (rows, outputs, inputs, local, busiest),
        (rows * inputs + weights) * element, rows * outputs * out,
    )  # fmt: skip
    dgrad = one(
        f"{name}_dgrad", "backward", (rows, inputs, outputs, local, busiest),
        (rows * outputs + weights) * element, rows * inputs * out,
    )  # fmt: skip
    # the tokens of an expert are the inner dimension of its weights' gradient
    wgrad = one(
        f"{name}_wgrad", "backward", (rows, outputs, inputs, local, busiest),
        rows * (inputs + outputs) * element, weights * out,
    )  # fmt: skip
    rounded = math.ceil(rows)
    before = cast(f"{name}_input_cast", settings, "forward", rounded, inputs, local)
    back = cast(f"{name}_gradient_cast", settings, "backward", rounded, outputs, local)
    return Step((*before, forward), (*back, dgrad, wgrad))
