"""A serving job of a scenario as objects: its requests, pools with step times and memory, its SLO."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from euston.catalog import Accelerator
from euston.cluster import Site
from euston.errors import BadInput, ConfigError, at, unknown
from euston.models import Transformer
from euston.scenario import Scenario
from euston.scenario.serving import PoolSection, ServingSection, WorkloadSection
from euston.serving import Deployment, Engine, Pool, Requests, Router, Speculation, Tier, Transport, workloads
from euston.serving import providers as step_times
from euston.serving.metrics import Slo

__all__ = ["deployment", "joined", "pool", "requests", "slo"]

_GENERATORS: dict[str, Callable[..., Requests]] = {
    "independent": workloads.independent,
    "shared_prefix": workloads.shared_prefix,
    "conversations": workloads.conversations,
    "agents": workloads.agents,
}
_LENGTHS = {"prompt", "answer", "question", "turns", "task", "observation"}
_ARRIVALS_AT_ONCE = workloads.Arrivals(1.0, "burst")


def slo(section: ServingSection) -> Slo:
    """The latencies to keep."""
    given = {k: v for k, v in section.slo.model_dump().items() if v is not None}
    return Slo(**given)


def requests(s: Scenario, section: ServingSection, where: str) -> Requests:
    """The job's requests.

    Raises
    ------
    BadInput
        An unknown trace or setting, a file that cannot be read; with the place in the scenario.
    """
    work = section.workload
    place = f"{where}.workload"
    try:
        found = _source(s, work, f"{place}.settings")
    except BadInput as error:
        key, named, words = str(error).partition("`: ")
        if str(error).startswith(f"`{place}"):
            raise
        if named and work.generator is not None and key.startswith("`"):
            raise type(error)(at(f"{place}.settings.{key[1:]}", words)) from None
        raise type(error)(at(place, str(error))) from None
    if work.generator is None:
        if work.requests is not None:
            found = found.head(work.requests)
        if not len(found):
            raise ConfigError(at(place, "has no requests"))
        if work.rate is not None:
            found = _stretched(found, work.rate, place)
        if work.token_scale != 1.0:
            found = found.scaled(tokens=work.token_scale)
    if work.concurrency:
        try:
            found = workloads.closed_loop(found, work.concurrency, think_s=work.think)
        except BadInput as error:
            raise ConfigError(at(f"{place}.concurrency", str(error))) from None
    size = section.pools[0].engine.block_size
    if found.block_size and found.block_size % size:
        raise ConfigError(
            at(
                f"{where}.pools[0].engine.block_size",
                f"{size} does not divide the {found.block_size} tokens of the trace's blocks",
            )
        )
    return found


def _stretched(found: Requests, rate: float, place: str) -> Requests:
    span = float(found.arrival_s[-1] - found.arrival_s[0])
    if span <= 0:
        raise ConfigError(at(f"{place}.rate", "all requests come at once; they have no rate to change"))
    moved = replace(found, arrival_s=found.arrival_s - found.arrival_s[0])
    return moved.scaled(rate=rate * span / max(len(found) - 1, 1))


def _source(s: Scenario, work: WorkloadSection, place: str) -> Requests:
    if work.trace is not None:
        return workloads.packaged(work.trace)
    if work.file is not None:
        path = s.folder / work.file
        if not path.is_file():
            raise ConfigError(f"`{work.file}`: there is no such file in {s.folder.resolve().name or '/'}")
        return workloads.read(path, work.format)
    assert work.generator is not None and work.requests is not None
    make = _GENERATORS[work.generator]
    known = [
        name
        for name in inspect.signature(make).parameters
        if name not in ("n", "sessions", "arrivals", "seed")
    ]
    settings: dict[str, Any] = {}
    for key, value in work.settings.items():
        if key not in known:
            raise ConfigError(at(f"{place}.{key}", unknown("setting", key, known)))
        settings[key] = _lengths(value, f"{place}.{key}") if key in _LENGTHS else _plain(value)
    missing = [
        name
        for name, parameter in inspect.signature(make).parameters.items()
        if name in known and parameter.default is inspect.Parameter.empty and name not in settings
    ]
    if missing:
        raise ConfigError(at(place, f"lacks {', '.join(missing)}, which {work.generator} needs"))
    return make(work.requests, _arrivals(work), seed=s.run.seed, **settings)


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _arrivals(work: WorkloadSection) -> workloads.Arrivals:
    if work.rate is None:
        return _ARRIVALS_AT_ONCE  # a closed loop
    if isinstance(work.arrivals, str):
        return workloads.Arrivals(work.rate, work.arrivals)
    given = dict(work.arrivals)
    kind = str(given.pop("kind", "poisson"))
    return workloads.Arrivals(work.rate, kind, given)


def _lengths(value: Any, place: str) -> Any:
    """A distribution of lengths: a number, ``{kind: lognormal, ...}``, or ``{trace: name}``."""
    if isinstance(value, int) and not isinstance(value, bool):
        return workloads.LENGTHS.get("fixed")(value)
    if isinstance(value, Mapping) and set(value) == {"trace"}:
        return workloads.Empirical(workloads.packaged(str(value["trace"])))
    if not (isinstance(value, Mapping) and "kind" in value):
        raise ConfigError(at(place, "is no length; write a number, or {kind: lognormal, p50: 100, p99: 900}"))
    given = dict(value)
    try:
        return workloads.LENGTHS.get(str(given.pop("kind")))(**given)
    except TypeError as error:
        raise ConfigError(at(place, str(error).rpartition("() ")[2])) from None


def deployment(
    section: ServingSection, model: Transformer, here: Site, where: str, network: str = "none"
) -> Deployment:
    """Pools with step times, memory and routers on the accelerators of a site.

    Raises
    ------
    ConfigError
        Degrees that do not divide, weights that do not fit, settings that contradict each other.
    """
    pools = [
        pool(section, one, model, here.accelerator, f"{where}.pools[{i}]")
        for i, one in enumerate(section.pools)
    ]
    return joined(section, pools, here, where, network)


def joined(
    section: ServingSection, pools: Sequence[Pool], here: Site, where: str, network: str
) -> Deployment:
    """Pools that are priced, with the section's roles and numbers of replicas, as one deployment.

    ``network`` is the run's; where it is "fluid", hand-overs without a bandwidth of their own cross the
    site's fabric.
    """
    hand = section.handover
    bandwidth = hand.bandwidth
    fluid = bandwidth is None and len(pools) > 1 and network == "fluid"
    if bandwidth is None:
        sender = min(section.pools, key=lambda p: p.role != "prefill")
        out = float(here.fabric.injection_bandwidth.min()) if len(pools) > 1 else math.inf
        bandwidth = out * sender.tensor * sender.pipeline
    try:
        return Deployment(
            tuple(
                replace(made, role=one.role, replicas=one.replicas * one.data)
                for made, one in zip(pools, section.pools, strict=True)
            ),
            Transport(
                "fluid" if fluid else "none",
                bandwidth,
                hand.latency,
                hand.per_block,
                hand.layerwise,
                hand.first_token,
            ),
            section.information_delay,
            math.inf if section.admission_rate is None else section.admission_rate,
            section.admission_burst,
        )
    except BadInput as error:
        raise ConfigError(at(where, str(error).replace("`", ""))) from None


def pool(
    section: ServingSection, one: PoolSection, model: Transformer, accelerator: Accelerator, where: str
) -> Pool:
    """One pool; its replicas are ranks, those of a replica step together."""
    e = one.engine
    kv_bytes = {"bf16": 2.0, "fp8": 1.0}[section.kv_precision]
    try:
        software = step_times.engine_software(section.software)
        step = step_times.step_time(
            model, accelerator, tensor=one.tensor, expert=one.expert, data=one.data, dtype=section.precision,
            software=software, provider=section.step_times, kv_bytes=kv_bytes,
            max_tokens=e.max_num_batched_tokens, max_sequences=e.max_num_seqs,
        )  # fmt: skip
        blocks = e.blocks
        if blocks is None:
            blocks = step_times.kv_blocks(
                model, accelerator, tensor=one.tensor, data=one.data, pipeline=one.pipeline,
                dtype=section.precision, kv_bytes=kv_bytes, block_size=e.block_size,
                utilisation=e.memory_utilisation, max_tokens=e.max_num_batched_tokens,
            )  # fmt: skip
        each = step_times.kv_bytes_per_token(model, tensor=one.tensor, kv_bytes=kv_bytes) * one.tensor
        guess = e.speculation
        made = Pool(
            Engine(
                blocks, e.scheduler, e.max_num_seqs, e.max_num_batched_tokens, e.block_size, e.prefix_cache,
                e.eviction, e.chunked, e.long_prefill_threshold, e.max_model_len, e.preemption,
                e.swap_bandwidth, software.asynchronous, e.watermark,
                None if guess is None else Speculation(guess.draft, guess.acceptance),
            ),
            step,
            one.replicas * one.data,
            one.role,
            Router(**one.router.model_dump()),
            lockstep=one.data,
            pipeline=one.pipeline,
            layers=model.layers,
            kv_bytes_per_token=each,
            tiers=tuple(
                Tier(
                    tier.name, max(1, int(tier.size // (e.block_size * each))), tier.bandwidth, tier.latency,
                    tier.concurrency, tier.ranks,
                )
                for tier in one.tiers
            ),
            tier_admission=one.tier_admission,
            load_overlap=one.load_overlap,
        )  # fmt: skip
        made.check(where)
    except BadInput as error:
        message = str(error)
        if message.startswith(f"`{where}"):
            raise
        raise ConfigError(at(where, message.replace("`", ""))) from None
    return made
