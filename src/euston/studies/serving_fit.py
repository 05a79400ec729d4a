"""How the host's constants of ``engines.toml`` were found: ``python -m euston.studies.serving_fit``.

Three numbers, seconds per step, per sequence and per token, from one run alone (RTX PRO 6000, Llama-3.1-8B).
Its six figures cannot tell the three apart (along a valley the error changes by less than a point), so the
solution of least norm is taken, as a ridge would find it: each makes up a third of what a mean step of that
run needs. What is left is one number, found by least squares over the six relative errors.
"""

from __future__ import annotations

import sys
from dataclasses import replace

from scipy.optimize import minimize_scalar

from euston.serving.providers import engine_software

from ._vllm_run import read_run
from .serving_vllm import DATA, FITTED_ON, figures, replay, steps_of

__all__ = ["fit"]


def fit() -> tuple[float, float, float]:
    """(cpu_fixed, cpu_sequence, cpu_token) in seconds."""
    one = read_run(DATA / FITTED_ON)
    engine = engine_software("vllm").bare()
    step = steps_of(one, engine)
    published = figures(one.ttft, one.tpot, one.e2e)
    base = replay(one, step, engine.asynchronous)
    decodes, chunks = (int(base.ranks[name].sum()) for name in ("decode_tokens", "prefill_tokens"))
    sequences, tokens = decodes / base.steps, (decodes + chunks) / base.steps

    def constants(seconds: float) -> tuple[float, float, float]:
        return seconds / 3, seconds / 3 / sequences, seconds / 3 / tokens

    def loss(seconds: float) -> float:
        fixed, sequence, token = constants(seconds)
        with_host = replace(step, cpu_fixed=fixed, cpu_sequence=sequence, cpu_token=token)
        found = replay(one, with_host, engine.asynchronous)
        ours = figures(found.ttft, found.tpot, found.e2e)
        pairs = [(ours[key], value) for key, value in published.items()]
        return float(sum((a / b - 1) ** 2 for a, b in pairs if a is not None and b))

    best = minimize_scalar(loss, bounds=(0.0, 5e-3), method="bounded", options={"xatol": 1e-6})
    return constants(float(best.x))


if __name__ == "__main__":
    sys.stdout.write("cpu_fixed {:.4g} s, cpu_sequence {:.4g} s, cpu_token {:.4g} s\n".format(*fit()))
