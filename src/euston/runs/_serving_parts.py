"""A serving job of a scenario as objects: its requests, pools with step times and memory, its SLO."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from euston.catalog import Accelerator
from euston.cluster import Site
from euston.errors import BadInput, ConfigError, at, unknown
from euston.models import Balance, Transformer
from euston.scenario import Scenario
from euston.scenario.serving import (
    EngineSection,
    ExpertsSection,
    PoolSection,
    ServingSection,
    WorkloadSection,
)
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


def requests(s: Scenario, section: ServingSection, model: Transformer, where: str) -> Requests:
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
        if named and key[1:] in WorkloadSection.model_fields:
            raise type(error)(at(f"{place}.{key[1:]}", words)) from None
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
    found = _with_images(s, work, found, model, f"{place}.images")
    found = _in_classes(s, section, found)
    if work.concurrency:
        try:
            found = workloads.closed_loop(found, work.concurrency, think_s=work.think)
        except BadInput as error:
            raise ConfigError(at(f"{place}.concurrency", str(error))) from None
    number = next((i for i, pool in enumerate(section.pools) if pool.role != "encode"), 0)
    size = section.pools[number].engine.block_size
    if found.block_size and found.block_size % size:
        raise ConfigError(
            at(
                f"{where}.pools[{number}].engine.block_size",
                f"{size} does not divide the {found.block_size} tokens of the trace's blocks",
            )
        )
    return found


def _with_images(
    s: Scenario, work: WorkloadSection, found: Requests, model: Transformer, place: str
) -> Requests:
    """The requests with the images that the file asks for, or without any."""
    if work.images is None:
        # a trace that counts images, whose pixels nobody said: its tokens are text here
        return replace(found, n_images=np.zeros_like(found.n_images)) if found.n_images.any() else found
    try:
        tokens = step_times.image_tokens(model, work.images.size)
    except BadInput as error:
        raise ConfigError(at(f"{place}.size", str(error))) from None
    if work.images.mean is not None:
        most = work.images.distinct or 0
        found = workloads.with_images(found, work.images.mean, tokens, most=most, seed=s.run.seed)
    elif not found.n_images.any():
        raise ConfigError(at(f"{place}.mean", "is missing; these requests have no images of their own"))
    if work.images.distinct is None:
        return found
    try:
        return workloads.with_image_names(found, work.images.distinct, work.images.alpha, seed=s.run.seed)
    except BadInput as error:
        raise ConfigError(at(f"{place}.distinct", str(error))) from None


def _in_classes(s: Scenario, section: ServingSection, found: Requests) -> Requests:
    """With classes, due times and what sjf believes."""
    work, ttft = section.workload, section.slo.ttft
    due = math.inf if ttft is None else ttft
    if work.classes:
        found = workloads.with_classes(
            found,
            [one.share for one in work.classes],
            [one.priority for one in work.classes],
            [due if one.due is None else one.due for one in work.classes],
            seed=s.run.seed,
        )
    else:
        found = replace(found, deadline_s=np.minimum(found.deadline_s, due))
    if work.prediction_error:
        found = workloads.with_predictions(found, work.prediction_error, seed=s.run.seed)
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
        value = {"kind": "fixed", "tokens": value}
    if isinstance(value, Mapping) and set(value) == {"trace"}:
        return workloads.Empirical(workloads.packaged(str(value["trace"])))
    if not (isinstance(value, Mapping) and "kind" in value):
        raise ConfigError(at(place, "is no length; write a number, or {kind: lognormal, p50: 100, p99: 900}"))
    given = dict(value)
    try:
        return workloads.LENGTHS.get(str(given.pop("kind")))(**given)
    except TypeError as error:
        raise ConfigError(at(place, str(error).rpartition("() ")[2])) from None
    except ConfigError as error:
        raise ConfigError(at(place, str(error).removeprefix("`lengths`: "))) from None


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
        (_encoder if one.role == "encode" else pool)(
            section, one, model, here.accelerator, f"{where}.pools[{i}]"
        )
        for i, one in enumerate(section.pools)
    ]
    if any(one.role == "encode" for one in section.pools):
        pools = [replace(made, image_seconds=0.0) for made in pools]
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
    own = bandwidth is None and len(pools) > 1
    out = float(here.fabric.injection_bandwidth.min()) if own else 0.0
    try:
        return Deployment(
            tuple(
                replace(
                    made,
                    role=one.role,
                    replicas=one.replicas * one.data,
                    bandwidth=out * one.tensor * one.pipeline,
                )
                for made, one in zip(pools, section.pools, strict=True)
            ),
            Transport(
                "fluid" if fluid else "none",
                math.inf if bandwidth is None else bandwidth,
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
    experts = one.experts
    if model.moe is None and experts != ExpertsSection():
        raise ConfigError(at(f"{where}.experts", f"{model.name} has no experts; leave it out"))
    kv_bytes = {"bf16": 2.0, "fp8": 1.0}[section.kv_precision]
    software = _software(section, where)
    try:
        step = step_times.step_time(
            model, accelerator, tensor=one.tensor, expert=one.expert, data=one.data, dtype=section.precision,
            software=software, provider=section.step_times, kv_bytes=kv_bytes,
            balance=_balance(model, one, where), two_batch_overlap=experts.two_batch_overlap,
            low_latency=one.role == "decode",
            max_tokens=e.max_num_batched_tokens, max_sequences=e.max_num_seqs,
        )  # fmt: skip
        blocks = e.blocks
        if blocks is None:
            blocks = step_times.kv_blocks(
                model, accelerator, tensor=one.tensor, data=one.data, pipeline=one.pipeline,
                dtype=section.precision, kv_bytes=kv_bytes, block_size=e.block_size,
                utilisation=e.memory_utilisation, max_tokens=e.max_num_batched_tokens,
                redundant=experts.redundant,
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
            image_seconds=_image_seconds(section, model, accelerator),
            embedding_tokens=_embedding_tokens(section, one, model, where),
        )  # fmt: skip
        made.check(where)
    except BadInput as error:
        raise _placed(error, where) from None
    return made


def _software(section: ServingSection, where: str) -> step_times.EngineSoftware:
    try:
        return step_times.engine_software(section.software)
    except BadInput as error:
        raise ConfigError(at(f"{where.rpartition('.')[0]}.software", str(error))) from None


def _placed(error: BadInput, where: str) -> BadInput:
    """The error with the key of the pool, its engine or its job that it is about, as far as it says one."""
    message = str(error)
    if message.startswith(f"`{where}"):
        return error
    key, named, words = message.partition("`: ")
    if named and message.startswith("`"):
        for section, place in (
            (PoolSection, where),
            (EngineSection, f"{where}.engine"),
            (ServingSection, where.rpartition(".")[0]),
        ):
            if key[1:] in section.model_fields:
                return ConfigError(at(f"{place}.{key[1:]}", words))
    return ConfigError(at(where, message.replace("`", "")))


def _image_seconds(section: ServingSection, model: Transformer, accelerator: Accelerator) -> float:
    """Of one image's encoder, run in the step that takes up its request."""
    images = section.workload.images
    if images is None:
        return 0.0
    return float(step_times.encoder_seconds(model, accelerator, images.size, np.ones(1, np.int64))[0])


def _embedding_tokens(section: ServingSection, one: PoolSection, model: Transformer, where: str) -> int:
    """Of images that a rank holds: vLLM's encoder cache takes a step's tokens, or one image at least."""
    images = section.workload.images
    if one.embeddings is not None and not any(pool.role == "encode" for pool in section.pools):
        raise ConfigError(at(f"{where}.embeddings", "needs a pool of role encode before it"))
    if one.embeddings is not None or images is None:
        return one.embeddings or 0
    return max(one.engine.max_num_batched_tokens, step_times.image_tokens(model, images.size))


def _encoder(
    section: ServingSection, one: PoolSection, model: Transformer, accelerator: Accelerator, where: str
) -> Pool:
    """A pool that turns images into embeddings for the pool behind it.

    Raises
    ------
    ConfigError
        Without images in the workload, or with what only a pool of the decoder has.
    """
    images = section.workload.images
    if images is None:
        raise ConfigError(at(f"{where}.role", "encode needs images; give `workload.images`"))
    apart = {"tensor": one.tensor, "pipeline": one.pipeline, "data": one.data, "expert": one.expert}
    for key, degree in apart.items():
        if degree > 1:
            raise ConfigError(
                at(f"{where}.{key}", f"{degree}: an encoder runs whole on one accelerator; use 1")
            )
    software = _software(section, where)
    if one.embeddings is not None:
        raise ConfigError(at(f"{where}.embeddings", "of the pools behind an encoder; it has engine.blocks"))
    tokens = step_times.image_tokens(model, images.size)
    blocks = one.engine.blocks
    if blocks is None:
        try:
            blocks = step_times.encoded_images(
                model, accelerator, images.size, utilisation=one.engine.memory_utilisation,
                max_tokens=one.engine.max_num_batched_tokens,
            )  # fmt: skip
        except BadInput as error:
            raise ConfigError(at(where, str(error).replace("`", ""))) from None
    made = Pool(
        Engine(
            blocks, max_num_seqs=one.engine.max_num_seqs, prefix_cache=one.engine.prefix_cache,
            eviction=one.engine.eviction,
            max_num_batched_tokens=max(one.engine.max_num_batched_tokens, tokens),
        ),
        step_times.encoder_step_time(model, accelerator, images.size, software),
        one.replicas,
        "encode",
        Router(**one.router.model_dump()),
        image_tokens=tokens,
        embedding_bytes=2.0 * model.hidden,
    )  # fmt: skip
    made.check(where)
    return made


def _balance(model: Transformer, one: PoolSection, where: str) -> Balance:
    """How tokens fall on the experts of a pool.

    Raises
    ------
    ConfigError
        Experts and copies that cannot be dealt evenly, settings that contradict each other.
    """
    balance = one.experts.make()
    if model.moe is None:
        return balance
    balance.check(model.moe.experts, where=f"{where}.experts")
    world = one.tensor * one.data
    if world % one.expert:
        raise ConfigError(
            at(f"{where}.expert", f"{one.expert} does not divide the {world} accelerators of tensor x data")
        )
    held = model.moe.experts + balance.redundant
    if held % one.expert:
        raise ConfigError(
            at(
                f"{where}.experts.redundant",
                f"{model.moe.experts} experts and {balance.redundant} copies cannot be dealt evenly to "
                f"{one.expert} accelerators",
            )
        )
    if one.experts.two_batch_overlap and one.data == 1:
        raise ConfigError(
            at(
                f"{where}.experts.two_batch_overlap",
                "nothing travels between ranks with data 1; leave it out",
            )
        )
    return balance
