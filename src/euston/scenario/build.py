"""Sections of a scenario as the objects of the rooms below; validation and simulation share them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from euston.errors import ConfigError, EustonError, at, unknown
from euston.scenario.fabrics import merged
from euston.scenario.jobs import HfSection, ParallelSection, ShapeSection, TrainingSection
from euston.scenario.model import Scenario
from euston.scenario.sites import SiteSection

if TYPE_CHECKING:
    from euston.cluster import Parallel
    from euston.models import Transformer
    from euston.training import SoftwareProfile, TrainingJob

_MAX_CONFIG_BYTES = 4 * 1024 * 1024


def _place(where: str, error: EustonError) -> ConfigError:
    message = str(error)
    return ConfigError(message if message.startswith("`") else at(where, message))


def transformer(scenario: Scenario, job: int) -> Transformer:
    """The model of job number `job`.

    Raises
    ------
    ConfigError
        An unknown name (nearest offered), an impossible shape, a `config.json` that cannot be read.
    """
    from euston import models

    section = getattr(scenario.jobs[job], "model", None)
    where = f"jobs[{job}].model"
    try:
        if isinstance(section, str):
            return models.transformer(section)
        if isinstance(section, ShapeSection):
            values = _shape(section)
            return models.Transformer.from_values(values.pop("name"), values)
        if isinstance(section, HfSection):
            return models.from_hf_config(_hf_config(scenario, section, where))
        raise ConfigError("is missing; this kind of job has none")
    except EustonError as error:
        raise _place(where, error) from None


def _shape(section: ShapeSection) -> dict[str, Any]:
    values = {name: value for name, value in section.model_dump().items() if value is not None}
    values.setdefault("kv_heads", section.heads)
    if "head_dim" not in values and section.mla is None:
        if section.hidden % section.heads:
            raise ConfigError(f"{section.heads} heads do not divide hidden {section.hidden}; give `head_dim`")
        values["head_dim"] = section.hidden // section.heads
    return values


def _hf_config(scenario: Scenario, section: HfSection, where: str) -> dict[str, Any]:
    path = scenario.folder / section.hf_config
    try:
        if path.stat().st_size > _MAX_CONFIG_BYTES:
            raise ConfigError(
                at(f"{where}.hf_config", f"{path} is larger than 4 MiB; a config.json is small")
            )
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(at(f"{where}.hf_config", f"{path}: {error.strerror or error}")) from None
    except (ValueError, RecursionError):
        raise ConfigError(at(f"{where}.hf_config", f"{path} is not readable JSON")) from None
    if not isinstance(data, dict):
        raise ConfigError(at(f"{where}.hf_config", f"{path} does not hold a JSON object"))
    return data


def parallel(section: ParallelSection) -> Parallel:
    """The layout as `euston.cluster.Parallel`."""
    from euston.cluster import Parallel

    return Parallel(**section.model_dump())


def software(section: TrainingSection, where: str) -> SoftwareProfile:
    """The software profile with the job's overrides."""
    return software_of(section.software, section.overrides, where)


def software_of(name: str | None, overrides: dict[str, Any], where: str) -> SoftwareProfile:
    """A software profile (the default for None) with overrides; ``where`` holds the keys of both."""
    from euston import training

    try:
        if name is None:
            profile = training.SoftwareProfile(**overrides)
            profile.check(where="software")
            return profile
        return training.software(name, **overrides)
    except TypeError:
        known = list(training.SoftwareProfile.__dataclass_fields__)
        wrong = next(key for key in overrides if key not in known)
        raise ConfigError(
            at(f"{where}.overrides.{wrong}", unknown("software setting", wrong, known))
        ) from None
    except EustonError as error:
        message = str(error)
        if message.startswith("`software."):
            raise ConfigError(f"`{where}.overrides{message[len('`software') :]}") from None
        raise _place(f"{where}.software", error) from None


def training_job(scenario: Scenario, job: int) -> TrainingJob:
    """Job number `job` as `euston.training.TrainingJob`, not yet checked.

    Raises
    ------
    ConfigError
        An unknown model, software profile or software setting.
    """
    from euston.training import TrainingJob

    section = scenario.training(job)
    model = transformer(scenario, job)
    built = TrainingJob(
        model,
        parallel(section.parallel),
        global_batch=section.batch.global_batch,
        sequence=section.batch.sequence,
        micro_batch=section.batch.micro,
        precision=section.precision,
        schedule=section.resolved_schedule,
        recompute=section.recompute,
        recompute_modules=section.recompute_modules,
        balance=section.balance.make(),
        software=software(section, f"jobs[{job}]"),
        stages=section.stages,
        work=section.work,
        reshard_after_forward=section.reshard_after_forward,
        name=section.name,
    )
    return built if section.images is None else built.with_images(section.images.make(model))


def fabric_values(site: SiteSection, where: str = "sites[0]") -> dict[str, Any]:
    """Values of the site's fabric (SI): those of its preset, with the site's own over them.

    Raises
    ------
    ConfigError
        An unknown preset; the nearest is offered.
    """
    try:
        return merged(site.fabric, site.hosts)
    except EustonError as error:
        raise _place(f"{where}.fabric.preset", error) from None
