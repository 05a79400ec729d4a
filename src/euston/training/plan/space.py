"""The plans there are: every layout, micro-batch, schedule and recomputation that a job could be given."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from euston.errors import ConfigError

if TYPE_CHECKING:
    from euston.training.job import Recompute, TrainingJob

__all__ = ["Choices", "Layout", "layouts"]


@dataclass(frozen=True)
class Choices:
    """What a search may choose.

    Attributes
    ----------
    tensor, context, expert : tuple of int
        Degrees; () for all that divide: tensor up to a scale-up domain, context 1, expert all that divide the
        experts.
    micro : tuple of int
        Micro-batches, in sequences.
    virtual : int
        Most chunks per stage.
    recompute, sharding, schedules : tuple of str
        ``schedules`` without "interleaved", which is what several chunks per stage run under.
    """

    tensor: tuple[int, ...] = ()
    context: tuple[int, ...] = (1,)
    expert: tuple[int, ...] = ()
    micro: tuple[int, ...] = (1, 2, 4, 8)
    virtual: int = 16
    recompute: tuple[Recompute, ...] = ("none", "selective", "full")
    sharding: tuple[str, ...] = ("none", "zero1", "zero2", "zero3")
    schedules: tuple[str, ...] = ("1f1b",)


class Layout(NamedTuple):
    """One plan."""

    tensor: int
    context: int
    expert: int
    pipeline: int
    virtual: int
    data: int
    micro: int
    schedule: str
    recompute: str
    sharding: str

    def text(self) -> str:
        """A few words: "TP 8 PP 35 x3 DP 8, micro-batch 1, full, zero1"."""
        parts = [
            f"TP {self.tensor}",
            f"PP {self.pipeline}" + (f" x{self.virtual}" if self.virtual > 1 else ""),
        ]
        parts += [f"CP {self.context}"] if self.context > 1 else []
        parts += [f"EP {self.expert}"] if self.expert > 1 else []
        parts.append(f"DP {self.data}")
        tail = [self.schedule] if self.schedule not in ("1f1b", "interleaved") else []
        return ", ".join([" ".join(parts), f"micro-batch {self.micro}", self.recompute, self.sharding, *tail])


def divisors(number: int) -> list[int]:
    """In rising order."""
    return [d for d in range(1, number + 1) if number % d == 0]


def layouts(
    job: TrainingJob, accelerators: int, domain: int, choices: Choices
) -> Iterator[tuple[Layout, str]]:
    """Every plan that fills the accelerators, with the reason why its arithmetic does not work out, or "".

    Parameters
    ----------
    job : TrainingJob
        Gives model, global batch, sequence and software; its own layout does not matter.
    accelerators, domain : int
        Of the job, and of a scale-up domain.

    Raises
    ------
    ConfigError
        Where no tensor degree that the model allows divides the accelerators.
    """
    model, any_ = job.model, False
    for t in _tensors(job, domain, choices):
        for c in choices.context:
            if accelerators % (t * c):
                continue
            for p in divisors(accelerators // (t * c)):
                if p > model.layers:
                    break
                any_ = True
                yield from _of_stages(job, choices, t, c, p, accelerators // (t * c * p))
    if not any_:
        raise ConfigError(
            f"`plan.tensor`: no tensor degree divides {model.heads} heads and {accelerators} accelerators"
        )


def _tensors(job: TrainingJob, domain: int, choices: Choices) -> list[int]:
    model = job.model
    return [
        t
        for t in (choices.tensor or divisors(min(domain, model.heads)))
        if model.heads % t == 0 and (model.kv_heads % t == 0 or t % model.kv_heads == 0)
    ]


def _of_stages(
    job: TrainingJob, choices: Choices, t: int, c: int, p: int, d: int
) -> Iterator[tuple[Layout, str]]:
    """Plans of so many stages and replicas."""
    experts = job.model.moe.experts if job.model.moe is not None else 1
    groups = [e for e in (choices.expert or divisors(experts)) if experts % e == 0 and (c * d) % e == 0]
    # with flash attention there are no scores to drop: selective recomputation of the core is none
    same = job.software.attention != "unfused" and job.recompute_modules == ("core_attn",)
    repeats = [
        r for r in choices.recompute if not (r == "selective" and same and "none" in choices.recompute)
    ]
    for b in choices.micro:
        each, rest = divmod(job.global_batch, d * b)
        batch = f"batch: {job.global_batch} sequences are no multiple of {d} replicas x {b}" if rest else ""
        for v, schedule, why in _schedules(job.model.layers, p, each, choices):
            for e in groups:
                for r in repeats:
                    for s in _shardings(choices.sharding, c * d, p):
                        yield Layout(t, c, e, p, v, d, b, schedule, r, s), batch or why


def _schedules(layers: int, p: int, m: int, choices: Choices) -> Iterator[tuple[int, str, str]]:
    """(chunks per stage, schedule, why not) of p stages and m micro-batches."""
    for schedule in choices.schedules:
        if p == 1 and schedule != "1f1b":
            continue
        why = ""
        if schedule == "dualpipe" and (p % 2 or m % 2 or m < 2 * p):
            why = f"schedule: dualpipe needs even stages and an even number of at least {2 * p} micro-batches"
        yield 1, schedule, why
    if p > 1:
        why = f"virtual: {m} micro-batches are no multiple of {p} stages, in which interleaving goes round"
        for v in range(2, min(choices.virtual, (layers + 2) // p) + 1):
            yield v, "interleaved", why if m % p else ""


def _shardings(wanted: tuple[str, ...], ranks: int, p: int) -> Iterator[str]:
    """Shardings that mean something: none on one rank, gathers for each pass only without stages."""
    if ranks == 1:
        yield "none"
        return
    for s in wanted:
        if s != "zero3" or p == 1:
            yield s
