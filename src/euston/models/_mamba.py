"""State-space mixers as links of a layer: Mamba-2's SSD in chunks, and Mamba's selective scan."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._settings import Settings
from ._steps import Step, linear, memory, norm, residual
from .operator import Operator, Phase

if TYPE_CHECKING:
    from ._parts import Mamba
    from ._transformer import Transformer

__all__ = ["mamba", "ssd_flops"]


def ssd_flops(mamba: Mamba, heads: float, groups: float) -> tuple[float, float]:
    """FLOPs per token of the SSD algorithm with chunks of Q tokens: (forward, backward).

    Forward (Dao & Gu 2024, arXiv:2405.21060, section 6): C B^T within a chunk, per group, 2 Q N; that times
    the inputs, per head, 2 Q P; the chunk's state 2 N P; the earlier state's part of the output 2 N P. The
    backward is twice that, and recomputes C B^T and the states, as the published kernels do.
    """
    within = 2.0 * mamba.chunk * mamba.state * groups
    products = 2.0 * mamba.chunk * mamba.head_dim * heads
    states = 2.0 * mamba.state * mamba.head_dim * heads
    forward = within + products + 2.0 * states
    return forward, 2.0 * forward + within + states


def mamba(model: Transformer, settings: Settings) -> list[Step]:
    """Norm, projection in, short convolution, scan, gated norm, projection out and residual."""
    m = model.mamba
    assert m is not None
    h, tokens, e = model.hidden, settings.tokens, settings.width
    steps = [norm("mixer_norm", settings, settings.split_tokens, h)]
    if m.version == 2:
        heads, groups = m.split(settings.tensor_parallel)
        inner = heads * m.head_dim
        shared = inner + 2 * groups * m.state
        steps += [
            linear("mixer_in", settings, inner + shared + heads, h),
            # a few taps and SiLU in one kernel; backward reads the input and the gradient
            memory("mixer_conv", "conv", settings, tokens, shared, (e, e), (2 * e, e)),
            _ssd(m, settings, heads, groups),
            # y * silu(z), then RMSNorm: two inputs, one output
            memory("mixer_gated_norm", "norm", settings, tokens, inner, (2 * e, e), (3 * e, 2 * e)),
        ]
    else:
        inner, _ = m.split(settings.tensor_parallel)
        small = m.time_rank + 2 * m.state
        steps += [
            linear("mixer_in", settings, 2 * inner, h),
            memory("mixer_conv", "conv", settings, tokens, inner, (e, e), (2 * e, e)),
            linear("mixer_parameters", settings, small, inner),
            linear("mixer_time", settings, inner, m.time_rank),
        ]
        if m.time_norms:
            steps.append(norm("mixer_time_norms", settings, tokens, small))
        # one pass over x, step size and gate; the state stays on the chip, backward recomputes it
        steps.append(memory("mixer_scan", "scan", settings, tokens, inner, (3 * e, e), (5 * e, 3 * e)))
    steps.append(linear("mixer_out", settings, h, inner))
    steps.append(residual("mixer_residual", settings, h))
    return steps


def _ssd(m: Mamba, settings: Settings, heads: int, groups: int) -> Step:
    tokens, e = settings.tokens, settings.width
    forward, backward = (tokens * f for f in ssd_flops(m, heads, groups))
    shape = (tokens / settings.sequence, settings.sequence, heads, m.head_dim, m.state, m.chunk)
    x, shared = e * tokens * heads * m.head_dim, 2 * e * tokens * groups * m.state
    # the states of the chunks' ends pass through memory, in FP32, and so do the step sizes
    states = 4 * tokens / m.chunk * heads * m.head_dim * m.state
    steps = 4 * tokens * heads

    def one(phase: Phase, work: float, read: float, written: float) -> Operator:
        return Operator(
            "mixer_scan", "scan", phase, shape, work, float(read), float(written), settings.dtype,
            kernel="scan",
        )  # fmt: skip

    return Step(
        (one("forward", forward, x + shared + steps + states, x + states),),
        (one("backward", backward, 2 * x + shared + steps + 3 * states, x + shared + steps + 3 * states),),
    )
