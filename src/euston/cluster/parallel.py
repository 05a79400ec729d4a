"""`Parallel`: how one job is cut over its accelerators, and which cuts a model allows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property
from numbers import Integral
from typing import Any, Literal, Protocol

from euston.errors import ConfigError, unknown

__all__ = ["DIMENSIONS", "ModelShape", "Parallel", "Sharding"]

Sharding = Literal["none", "zero1", "zero2", "zero3"]
SHARDINGS: tuple[Sharding, ...] = ("none", "zero1", "zero2", "zero3")

DIMENSIONS = {"tp": "tensor", "cp": "context", "ep": "expert", "dp": "data", "pp": "pipeline"}
"""Short names of the order string, and the fields they stand for."""


class ModelShape(Protocol):
    """What `Parallel.check` reads of a model."""

    @property
    def heads(self) -> int:
        """Attention heads."""

    @property
    def kv_heads(self) -> int:
        """Key-value heads (fewer than heads with grouped-query attention)."""

    @property
    def layers(self) -> int:
        """Transformer layers."""


def _factors(number: int, ok: Callable[[int], bool], wanted: int) -> str:
    """The factors of ``number`` on either side of ``wanted`` that are ok, as ``"8 or 16"``."""
    good = [f for f in range(1, number + 1) if number % f == 0 and ok(f)]
    below = [f for f in good if f < wanted][-1:]
    above = [f for f in good if f > wanted][:1]
    return " or ".join(str(f) for f in below + above)


@dataclass(frozen=True)
class Parallel:
    """A job's layout: into how many parts each dimension is cut. The defaults are one accelerator.

    Parameters
    ----------
    tensor, context, pipeline, data : int
        Degrees; their product is the number of accelerators.
    sequence : bool
        Norm and dropout regions cut along the sequence inside the tensor group (Korthikanti et al. 2022).
    virtual : int
        Model chunks per pipeline stage (interleaved schedule, Narayanan et al. 2021).
    expert : int
        Expert degree; it re-cuts the ``context * data`` ranks (with `expert_tensor`, ``tensor * context *
        data / expert_tensor``) and so does not enter the product.
    sharding : {"none", "zero1", "zero2", "zero3"}
        What the data group shards: optimiser state, + gradients, + parameters (Rajbhandari et al. 2020).
    shard : int
        Ranks of the data group over which parameters and states are sharded; groups of so many ranks hold
        copies of each other and all-reduce their shards (hybrid sharding, HSDP: Zhao et al. 2023). 0: all of
        the group.
    expert_tensor : int
        Ranks that split each expert's matrices (Megatron-Core's expert tensor parallel size); 0: as many as
        ``tensor``. With fewer, the expert degree re-cuts the ranks of the tensor dimension too.
    order : str
        Dimensions from the fastest varying rank to the slowest. It decides which traffic stays in the
        scale-up domain. The default is Megatron-LM's.

    Raises
    ------
    ConfigError
        For a degree that is not a whole number above 0, an unknown sharding or a wrong order.
    """

    tensor: int = 1
    sequence: bool = False
    context: int = 1
    pipeline: int = 1
    virtual: int = 1
    data: int = 1
    expert: int = 1
    sharding: Sharding = "none"
    order: str = "tp-cp-ep-dp-pp"
    shard: int = 0
    expert_tensor: int = 0

    def __post_init__(self) -> None:
        for name in ("tensor", "context", "pipeline", "virtual", "data", "expert"):
            degree = getattr(self, name)
            if isinstance(degree, bool) or not isinstance(degree, Integral):
                raise ConfigError(f"`parallel.{name}`: {degree!r} is not a whole number")
            if degree < 1:
                raise ConfigError(f"`parallel.{name}`: {degree} parts are not possible; 1 means not cut")
            object.__setattr__(self, name, int(degree))  # a sweep's NumPy integers are welcome
        if not isinstance(self.sequence, bool):
            raise ConfigError(f"`parallel.sequence`: {self.sequence!r} is not true or false")
        self._check_shard()
        if isinstance(self.expert_tensor, bool) or not isinstance(self.expert_tensor, Integral):
            raise ConfigError(f"`parallel.expert_tensor`: {self.expert_tensor!r} is not a whole number")
        object.__setattr__(self, "expert_tensor", int(self.expert_tensor))
        if self.expert_tensor < 0 or (self.expert_tensor and self.tensor % self.expert_tensor):
            near = _factors(self.tensor, lambda f: True, self.expert_tensor)
            raise ConfigError(
                f"`parallel.expert_tensor`: {self.expert_tensor} does not divide tensor {self.tensor}; "
                f"nearest {near}"
            )
        if self.sharding not in SHARDINGS:
            raise ConfigError(f"`parallel.sharding`: {unknown('sharding', str(self.sharding), SHARDINGS)}")
        seen: list[str] = []
        for short in str(self.order).split("-"):
            if short not in DIMENSIONS:
                raise ConfigError(f"`parallel.order`: {unknown('dimension', short, DIMENSIONS)}")
            if short in seen:
                raise ConfigError(f"`parallel.order`: {short} stands twice in {self.order!r}")
            seen.append(short)
        for short, name in DIMENSIONS.items():
            if short not in seen and getattr(self, name) > 1:
                raise ConfigError(
                    f"`parallel.order`: {self.order!r} leaves out {short}, "
                    f"but {name} is {getattr(self, name)}; write for example 'tp-cp-ep-dp-pp'"
                )

    def _check_shard(self) -> None:
        if isinstance(self.shard, bool) or not isinstance(self.shard, Integral) or self.shard < 0:
            raise ConfigError(f"`parallel.shard`: {self.shard!r} is not a whole number; 0 shards over all")
        object.__setattr__(self, "shard", int(self.shard))
        ranks = self.context * self.data
        if not self.shard:
            return
        if self.sharding == "none":
            raise ConfigError(
                f"`parallel.shard`: {self.shard} ranks share nothing while `parallel.sharding` is none; "
                "set zero1, zero2 or zero3"
            )
        if ranks % self.shard:
            near = _factors(ranks, lambda f: True, self.shard)
            raise ConfigError(
                f"`parallel.shard`: {self.shard} does not divide context {self.context} x data {self.data} = "
                f"{ranks} ranks; nearest {near}"
            )

    @property
    def shard_degree(self) -> int:
        """Ranks among which dense parameters and states are shared out; 1 without sharding."""
        if self.sharding == "none":
            return 1
        return self.shard or self.context * self.data

    @property
    def world(self) -> int:
        """Accelerators that the layout needs."""
        return self.tensor * self.context * self.pipeline * self.data

    @property
    def expert_split(self) -> int:
        """Ranks that share each expert's matrices."""
        return self.expert_tensor or self.tensor

    @property
    def expert_ranks(self) -> int:
        """Ranks of one stage that experts and their replicas are dealt to."""
        return self.tensor * self.context * self.data // self.expert_split

    @property
    def expert_data(self) -> int:
        """Replicas of an expert: `expert_ranks` / expert (Megatron-Core's expert data parallel size)."""
        replicas, rest = divmod(self.expert_ranks, self.expert)
        if rest:
            raise ConfigError(f"`parallel.expert`: {self.expert} does not divide {self._expert_product()}")
        return replicas

    @property
    def experts_apart(self) -> bool:
        """Whether experts are dealt to other groups of ranks than the rest of the parameters."""
        return self.expert > 1 or self.expert_split != self.tensor

    def _expert_product(self) -> str:
        """What the expert degree has to divide, in words."""
        if self.expert_split == self.tensor:
            return f"context {self.context} x data {self.data}"
        return f"tensor {self.tensor} x context {self.context} x data {self.data} / {self.expert_split}"

    @cached_property
    def dense_order(self) -> tuple[str, ...]:
        """Dimensions of dense parameters, fastest first; those left out of ``order`` (degree 1) come last."""
        named = [DIMENSIONS[s] for s in self.order.split("-")]
        return tuple(dict.fromkeys(n for n in [*named, *DIMENSIONS.values()] if n != "expert"))

    @cached_property
    def expert_order(self) -> tuple[str, ...]:
        """Dimensions of expert parameters, fastest first: context folds into expert and expert_data."""
        named = [DIMENSIONS[s] for s in self.order.split("-")]
        every = dict.fromkeys(n for n in [*named, *DIMENSIONS.values()] if n != "context")
        other = {"data": "expert_data"}
        if self.expert_split != self.tensor:
            other["tensor"] = "expert_split"
        return tuple(other.get(n, n) for n in every)

    def degree(self, dimension: str) -> int:
        """Degree of a dimension: ``"tensor"``, ``"context"``, ..., ``"expert_data"``."""
        return int(getattr(self, dimension))

    def check(self, model: ModelShape, accelerators: int, where: str = "parallel") -> None:
        """Refuse a layout that the model or the number of accelerators does not allow.

        Parameters
        ----------
        model
            Anything with ``heads``, ``kv_heads``, ``layers`` (and ``moe.experts`` where it has experts).
        accelerators : int
            Accelerators the job is given.
        where : str
            Place named in messages, such as ``jobs[0].parallel``.

        Raises
        ------
        ConfigError
            One sentence naming the factor and the nearest that would do.
        """
        self._check_tensor(model, where)
        self._check_pipeline(model, where)
        self._check_expert(model, where)
        self._check_world(accelerators, where)

    def _check_tensor(self, model: ModelShape, where: str) -> None:
        t, heads, kv = self.tensor, model.heads, model.kv_heads

        def fits_kv(f: int) -> bool:  # above kv_heads, key-value heads are replicated
            return kv % f == 0 or f % kv == 0

        if heads % t:
            near = _factors(heads, fits_kv, t)
            raise ConfigError(f"`{where}.tensor`: {t} does not divide {heads} heads; nearest {near}")
        if not fits_kv(t):
            near = _factors(heads, fits_kv, t)
            raise ConfigError(
                f"`{where}.tensor`: {t} neither divides {kv} key-value heads nor is a multiple of them; "
                f"nearest {near}"
            )

    def _check_pipeline(self, model: ModelShape, where: str) -> None:
        p, v, layers = self.pipeline, self.virtual, model.layers
        if p > layers:
            raise ConfigError(f"`{where}.pipeline`: {p} stages but only {layers} layers")
        if v > 1 and p == 1:
            raise ConfigError(f"`{where}.virtual`: {v} chunks per stage need a pipeline, but pipeline is 1")
        # embedding and head take a slot each (Llama 3: 126 layers on 16 stages)
        if p * v > layers + 2:
            raise ConfigError(
                f"`{where}.virtual`: {p} stages x {v} = {p * v} chunks, but only {layers} layers, "
                f"embedding and head to fill them; at most {(layers + 2) // p}"
            )

    def _check_expert(self, model: ModelShape, where: str) -> None:
        e = self.expert
        if e == 1:
            return
        moe: Any = getattr(model, "moe", None)
        if moe is None:
            raise ConfigError(f"`{where}.expert`: {e}, but the model has no experts; set 1")
        if moe.experts % e:
            near = _factors(moe.experts, lambda f: True, e)
            raise ConfigError(f"`{where}.expert`: {e} does not divide {moe.experts} experts; nearest {near}")
        ranks = self.expert_ranks
        if ranks % e:
            near = _factors(ranks, lambda f: moe.experts % f == 0, e)
            raise ConfigError(
                f"`{where}.expert`: {e} does not divide {self._expert_product()} = {ranks} ranks; "
                f"nearest {near}"
            )
        # Megatron-Core has the same rule: both layouts must give the same pipeline groups
        last = self.order.split("-")[-1]
        if (
            self.pipeline > 1
            and last != "pp"
            and (self.expert_data != self.data or self.expert_split != self.tensor)
        ):
            raise ConfigError(
                f"`{where}.order`: {self.order!r} must end in pp when experts and a pipeline meet"
            )

    def _check_world(self, accelerators: int, where: str) -> None:
        if self.world == accelerators:
            return
        named = " x ".join(f"{n} {self.degree(n)}" for n in ("tensor", "context", "pipeline", "data"))
        message = f"`{where}`: {named} = {self.world} ranks, but the job has {accelerators} accelerators"
        rest = self.tensor * self.context * self.pipeline
        if accelerators % rest == 0 and accelerators:
            message += f"; data {accelerators // rest} would fit"
        else:
            message += f"; tensor x context x pipeline = {rest} does not divide {accelerators}"
        raise ConfigError(message)

    def __repr__(self) -> str:
        shown = [
            f"{f.name}={getattr(self, f.name)!r}" for f in fields(self) if getattr(self, f.name) != f.default
        ]
        return f"Parallel({', '.join(shown)})"
