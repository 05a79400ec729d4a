"""Iteration-time providers: a model on an accelerator becomes the arrays that the engine's kernel reads.

`step_time` prices every kernel of a step with `euston.devices.GPU`: measured tables where there are any (of
which efficiencies are interpolated, never raw latencies), formulas elsewhere; ``provider="roofline"`` uses
formulas with the catalogue's peaks alone, and `calibrated` scales the parts by fitted coefficients. Numbers
carry their provenance; `StepTime.provenance` says what share of a typical step each kind makes up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from euston.models import Balance, Transformer
from euston.serving.providers._model import Layout, Prices, Shares, token_knots
from euston.serving.providers.encoder import encoder_seconds, encoder_step_time, image_tokens
from euston.serving.providers.measured import Measured
from euston.serving.providers.memory import encoded_images, kv_blocks, kv_bytes_per_token, weight_bytes
from euston.serving.providers.software import EngineSoftware, engine_software
from euston.serving.step_time import StepTime, dense

if TYPE_CHECKING:
    from euston.catalog import Accelerator

__all__ = [
    "EngineSoftware",
    "Layout",
    "Measured",
    "Prices",
    "Shares",
    "encoder_seconds",
    "encoder_step_time",
    "engine_software",
    "image_tokens",
    "encoded_images",
    "kv_blocks",
    "kv_bytes_per_token",
    "step_time",
    "weight_bytes",
]

Provider = Literal["tables", "roofline"]
_A = NDArray[np.float64]


def step_time(
    model: Transformer,
    accelerator: Accelerator,
    *,
    tensor: int = 1,
    expert: int = 1,
    data: int = 1,
    dtype: str = "bf16",
    software: str | EngineSoftware = "vllm",
    provider: Provider = "tables",
    measured: Measured | None = None,
    balance: Balance | None = None,
    expert_dtype: str = "",
    weight_bytes: float = 0.0,
    kv_bytes: float = 2.0,
    low_latency: bool = False,
    experts_apart: bool = False,
    exchange_bandwidth: float = 0.0,
    two_batch_overlap: bool = False,
    max_tokens: int = 8192,
    max_sequences: int = 1024,
) -> StepTime:
    """Seconds of a rank's steps, for `Pool.step`.

    Parameters
    ----------
    model, accelerator
        From the catalogue or a configuration.
    tensor, expert, data : int
        See `Layout`. A pool of ranks that share experts has ``lockstep = data``.
    dtype : str
        Precision of the layers' products: a recipe of `euston.models` ("bf16", "fp8", "fp8-block", "nvfp4").
    software : str or EngineSoftware
        Whose host times: an entry of the catalogue's ``engines``, or "none".
    provider : "tables" | "roofline"
        Kernel tables where there are any, or formulas with typical constants everywhere.
    measured : Measured, optional
        Kernels profiled on this very machine and model; they take the place of the packaged tables.
    balance : Balance, optional
        How unevenly tokens fall on experts; evenly by default.
    expert_dtype, weight_bytes, kv_bytes
        Precision of the experts where it is another; bytes per stored weight where they are fewer than the
        products' (weight-only quantisation, 0: no); bytes per stored KV element.
    low_latency : bool
        Exchange of experts' tokens by kernels for decoding.
    experts_apart : bool
        Routed experts in `StepTime.group` even where no ranks share them, to look at them apart.
    exchange_bandwidth : float
        Bytes/s per accelerator of the link that binds an expert exchange where no table applies; 0: the
        scale-up link's.
    two_batch_overlap : bool
        A step is run as two halves, one of which computes while the other's tokens travel to experts and
        back. Both read the weights. What travels hides behind everything but the experts themselves.
    max_tokens, max_sequences : int
        To which the curves are worked out; beyond, the last slope goes on.

    Raises
    ------
    ConfigError
        For degrees that do not divide, a dtype the accelerator has no arithmetic for.
    """
    engine = engine_software(software) if isinstance(software, str) else software
    prices = Prices(
        model, accelerator, Layout(tensor, expert, data), dtype, expert_dtype, weight_bytes, engine,
        balance or Balance(), kv_bytes, exchange_bandwidth, experts_apart,
    )  # fmt: skip
    if provider == "roofline":
        prices.without_tables()
    shares = Shares()
    every = np.arange(1, max_tokens + 1)
    padded = engine.padded(every)
    knots = token_knots(int(padded[-1]), engine)  # a graph may be larger than the largest step
    own, routed, by_name = prices.compute(knots, shares if measured is None else Shares())
    rows = np.unique(np.round(2.0 ** np.arange(0, np.log2(max(max_sequences, 2)) + 0.25, 0.25))).astype(int)
    head = prices.head(rows, shares if measured is None else Shares())
    if measured is not None:
        own, head = measured.replace(prices, knots, rows, own, head, by_name, shares)
    comm = prices.communication(knots, shares)
    if measured is not None and measured.attention is not None:
        fixed, chunk, decode, mixed = measured.rates(prices, shares)
    else:
        fixed, chunk, decode = prices.attention(shares)
        mixed = prices.mixed()
    # a step that is not replayed from a graph launches kernel by kernel: the host binds where kernels are
    # short
    eager = sum(count * op.calls for op, count in prices.operators(8)) * engine.launch
    large = knots > engine.graph_tokens
    own = np.where(large, np.maximum(own, eager), own)

    def curve(values: _A) -> _A:
        filled = dense(np.concatenate([[0], knots]), np.concatenate([[0.0], values]))
        return np.concatenate([[0.0], filled[padded]])

    group = np.zeros(0)
    if data > 1 or (experts_apart and routed.any()):
        travel = prices.exchanged(knots, low_latency, shares)
        if two_batch_overlap and data > 1:
            own, routed, travel = (_halves(knots, values) for values in (own, routed, travel))
            comm, travel = comm + travel, np.zeros(len(knots))
        shared = routed + travel
        group = dense(np.concatenate([[0], knots * data]), np.concatenate([[shared[0]], shared]))
    return StepTime(
        fixed=fixed,
        tokens=curve(own),
        communication=curve(comm) if comm.any() else np.zeros(0),
        overlap=float(two_batch_overlap and data > 1),
        sequences=dense(np.concatenate([[0], rows]), np.concatenate([[0.0], head])),
        group=group,
        prefill=chunk,
        decode=decode,
        mixed=mixed,
        cpu_fixed=engine.cpu_fixed,
        cpu_sequence=engine.cpu_sequence,
        cpu_token=engine.cpu_token,
        send_fixed=10e-6,
        send_token=model.hidden * 2.0 / accelerator.scale_up_bandwidth,
        provenance=shares.words(),
    )


def _halves(knots: NDArray[np.int64], seconds: _A) -> _A:
    """Seconds of two batches of half the tokens each, one after the other."""
    return np.asarray(2.0 * np.interp(np.maximum(knots / 2.0, 1.0), knots, seconds), np.float64)
