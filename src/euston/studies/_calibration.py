"""One calibration of serving times for all models and devices: ten coefficients on priced parts of a step.

A closed loop of b sequences per rank. A decode step takes its products and experts, its attention and
communication (priced, times a coefficient each), a time per layer and per sequence and, with engines whose
loop is Python (vLLM, SGLang), the host's time of a step that the accelerator waits for. The prompts of the
others are filled in the same steps and add what they add there; by Little's law each of them comes once per
round of a request, its first token included. That first token comes after the request's own prefill, half a
step, the part of the others' prompts that arrive with it (the first burst of a benchmark) and what the engine
needs before and after, one number per engine. Sequences for which there is no memory wait for those before
them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from ._silicon import Parts

__all__ = ["ENGINES", "NAMES", "PLAIN", "columns", "fit", "predict"]

_A = NDArray[np.float64]
NAMES = (
    "products", "attention_and_communication", "per_layer_s", "python_step_s", "per_sequence_s", "prefill",
    "burst", "first_token_vllm_s", "first_token_trtllm_s", "first_token_sglang_s",
)  # fmt: skip
ENGINES = ("vllm", "trtllm", "sglang")
#: Share of `python_step_s` by engine; TensorRT-LLM's executor is C++. An engine nobody knows: as most.
PYTHON = np.array([1.0, 0.0, 1.0, 1.0])
#: Prices as they are: what formulas or tables say without any calibration.
PLAIN = np.array([1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0])
#: Where the search starts; factors stay within .3 to 4, times within e**-6 to e**4 of it.
START = np.array([1.0, 1.0, 20e-6, 1e-3, 5e-6, 1.0, 0.05, 50e-3, 50e-3, 50e-3])
#: Of the fixed point between first tokens and the others; it contracts.
ROUNDS = 25
FACTORS = np.array([0, 1, 5])


def columns(parts: Sequence[Parts], engines: Sequence[str]) -> _A:
    """One row per line: what `predict` reads."""
    return np.array(
        [
            (
                p.decode["compute"], p.decode["experts"], p.decode["attention"] + p.decode["communication"],
                p.decode["layers"], p.decode["sequences"], p.prefill, p.added, p.batch,
                p.waiting, p.prompts, p.outputs,
                float(p.together), float(ENGINES.index(e) if e in ENGINES else -1),
            )
            for p, e in zip(parts, engines, strict=True)
        ],
        np.float64,
    ).reshape(len(parts), 13)  # fmt: skip


def predict(x: _A, rows: _A) -> tuple[_A, _A]:
    """(TTFT, TPOT) in seconds of every row under coefficients `x`."""
    (
        compute, experts, moved, layers, sequences, fill, added, batch, waiting, prompts, outputs, together,
        engine,
    ) = rows.T  # fmt: skip
    kind = engine.astype(int)
    step = x[0] * (compute + experts) + x[1] * moved + x[2] * layers + x[3] * PYTHON[kind] + x[4] * sequences
    prefill = x[5] * fill
    first = np.append(x[7:10], x[7:10].mean())[kind]  # an engine nobody knows: the mean
    own = first + prefill * (1 + x[6] * np.maximum(prompts - 1, 0))
    others = together * x[5] * added * np.maximum(batch - 1, 0)
    # Little: each of the others is filled once per round of a request, its first token included; so while one
    # decodes for n tokens of t seconds, others / (ttft + n t) of every second goes to their prompts.
    tpot = step + others / outputs
    for _ in range(ROUNDS):
        ttft = own + 0.5 * together * tpot
        tpot = step + others * tpot / (ttft + outputs * tpot)
    ttft = own + 0.5 * together * tpot
    return ttft + waiting / np.maximum(batch, 1.0) * outputs * tpot, tpot


def fit(rows: _A, ttft: _A, tpot: _A) -> _A:
    """Coefficients by least squares on the logarithms, outliers damped; nan where a time is not known."""

    def residuals(z: _A) -> _A:
        a, b = predict(np.exp(z), rows)
        return np.asarray(np.nan_to_num(np.concatenate([np.log(a / ttft), np.log(b / tpot)])), np.float64)

    low, high = np.log(START) - 6, np.log(START) + 4
    low[FACTORS], high[FACTORS] = np.log(0.3), np.log(4.0)
    found = least_squares(
        residuals, np.log(START), bounds=(low, high), loss="soft_l1", f_scale=0.15, max_nfev=60
    )
    return np.asarray(np.exp(found.x), np.float64)
