"""`reproduce serving-deepseek`: tokens/s per node of DeepSeek's published inference service, and its fleet.

Prefill: EP32, nine experts and the shared one per H800, two micro-batches that hide the exchange behind the
computation of the other. Decode: EP144, two experts and the shared one, at the batch that the published rate
and speed per user imply. Kernels are priced by the tables, exchanges by DeepEP's; nothing is calibrated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from euston import catalog
from euston.errors import ConfigError
from euston.serving.providers import Layout, Prices, step_time
from euston.serving.providers._model import Shares

from ._models import find_model
from ._study import Study
from .score import Row, report

__all__ = ["STUDY", "rates", "run"]

SOURCE = "deepseek-ai/open-infra-index day 6, DeepSeek-V3/R1 inference system overview"
#: Published: tokens/s per node of eight (prefill: cache hits counted), tokens/s of a user, mean KV length,
#: share of input found in the cache, tokens of 24 hours, mean number of nodes.
PREFILL, DECODE, USER, CONTEXT = 73_700.0, 14_800.0, 21.0, 4989
HITS, INPUT, OUTPUT, NODES = 342e9 / 608e9, 608e9, 168e9, 226.75
#: Experts' places: 256 and 32 copies of popular ones. A CX-7 of 400 Gb/s per accelerator.
PLACES, NIC, HOST = 288, 50e9, 8
#: Tokens of a rank's prefill step and of one prompt in it, beside what the cache holds (assumed).
STEP_TOKENS, PROMPT = 8192, 4096


def rates() -> tuple[float, float]:
    """(prefill tokens/s per node, hits counted; decode tokens/s per node)."""
    model = find_model("deepseek-v3")
    assert model.moe is not None
    model = replace(model, moe=replace(model.moe, experts=PLACES))
    device = catalog.accelerator("h800-sxm")

    def step(ranks: int, low_latency: bool, tokens: int) -> tuple[Any, float]:
        found = step_time(
            model, device, expert=ranks, data=ranks, dtype="fp8-block", software="none",
            low_latency=low_latency, exchange_bandwidth=NIC, max_tokens=STEP_TOKENS, max_sequences=256,
        )  # fmt: skip
        prices = Prices(model, device, Layout(1, ranks, ranks), "fp8-block", exchange_bandwidth=NIC)
        return found, float(prices.exchanged(np.array([tokens]), low_latency, Shares())[0])

    new = round(PROMPT * (1 - HITS))
    prompts = round(STEP_TOKENS * (1 - HITS) / new)
    tokens = new * prompts
    found, exchange = step(32, False, tokens)
    compute = found.breakdown([new] * prompts, [PROMPT - new] * prompts)["gpu"]
    compute += float(found.group[tokens * 32]) - exchange
    prefill = HOST * tokens / max(compute, exchange) / (1 - HITS)
    batch = round(DECODE / HOST / USER)
    found, exchange = step(144, True, batch)
    compute = found.breakdown(decode=[CONTEXT] * batch)["gpu"] + float(found.group[batch * 144]) - exchange
    return prefill, HOST * batch / max(compute, exchange)


def run(
    data: Path | None = None, seed: int = 0, progress: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Both rates, and the nodes that a day's tokens need at them.

    Raises
    ------
    ConfigError
        When data are given: there are none to replace.
    """
    if data is not None:
        raise ConfigError("`--data`: serving-deepseek compares one published service; it takes no data")
    progress("pricing")
    prefill, decode = rates()
    nodes = INPUT / 86400 / prefill + OUTPUT / 86400 / decode
    rows = [
        Row(name, quantity, published, ours, SOURCE, device_class="transferred", model_class="moe")
        for name, quantity, published, ours in (
            ("prefill", "tokens/s per node", PREFILL, prefill),
            ("decode", "tokens/s per node", DECODE, decode),
            ("fleet", "nodes", NODES, nodes),
        )
    ]
    return report(rows)


STUDY = Study(
    "serving-deepseek",
    "prefill and decode rates per node of DeepSeek's service, and the nodes of its day",
    run,
)
