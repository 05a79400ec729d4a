"""Which layers each pipeline stage holds: slots placed as evenly as they go.

Chunk c of stage r is virtual stage ``c * pipeline + r``; layers follow each other through virtual stages 0,
1, 2, ... The embedding sits on the first virtual stage, the head (final norm and logits) on the last.

Rule ``slots="auto"``: where the layers divide evenly over the virtual stages they are placed so and embedding
and head ride along (Megatron-LM's placement: 96 layers on 8 x 3 chunks are 4 each). Otherwise embedding and
head take one slot each, which is how Llama 3 405B has 126 layers: 128 slots on 16 stages, one layer fewer on
the first and on the last (arXiv:2407.21783, section 3.3.2). ``slots=True`` and ``slots=False`` insist
(Megatron's ``--account-for-embedding-in-pipeline-split``). Slots that do not divide are spread so that stages
differ by at most one slot, and so do chunks; the larger stages are the later ones, which hold fewer
micro-batches in flight, but the last stage (it has the logits) comes last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from euston.errors import ConfigError

__all__ = ["Slots", "Stages", "place"]

Slots = Literal["auto"] | bool


@dataclass(frozen=True)
class Stages:
    """Layers per (stage, chunk).

    Attributes
    ----------
    layers : tuple[tuple[int, ...], ...]
        ``layers[stage][chunk]``.
    slots : bool
        Whether embedding and head were counted as one slot each.
    explicit : bool
        Whether the layers were given by the user.
    both_ways : bool
        Chunk 1 of stage r holds the layers of stage p - 1 - r once more (DualPipe).
    """

    layers: tuple[tuple[int, ...], ...]
    slots: bool = False
    explicit: bool = False
    both_ways: bool = False

    @property
    def pipeline(self) -> int:
        """Number of stages."""
        return len(self.layers)

    @property
    def virtual(self) -> int:
        """Chunks per stage."""
        return len(self.layers[0])

    @property
    def equal(self) -> bool:
        """Whether every chunk holds the same number of layers."""
        return len({count for stage in self.layers for count in stage}) == 1

    def doubled(self) -> Stages:
        """The same placement with every stage held a second time, by the stage opposite."""
        both = tuple((*mine, *other) for mine, other in zip(self.layers, reversed(self.layers), strict=True))
        return Stages(both, self.slots, self.explicit, both_ways=True)

    def layers_of(self, stage: int, chunk: int = 0) -> int:
        """Layers of one chunk."""
        return self.layers[stage][chunk]

    def stage_layers(self, stage: int) -> int:
        """Layers of all chunks of one stage."""
        return sum(self.layers[stage])

    def has_embedding(self, stage: int, chunk: int = 0) -> bool:
        """Whether the embedding is on this chunk."""
        return self.model_stage(stage, chunk) == 0

    def has_head(self, stage: int, chunk: int | None = None) -> bool:
        """Whether the final norm and the logits are on this chunk (default: the stage's last)."""
        last = self.virtual - 1
        if self.both_ways:
            chunks = range(2) if chunk is None else (chunk,)
            return any(self.model_stage(stage, c) == self.pipeline - 1 for c in chunks)
        return stage == self.pipeline - 1 and (last if chunk is None else chunk) == last

    def model_stage(self, stage: int, chunk: int = 0) -> int:
        """Which virtual stage of the model a chunk is, counted from the first."""
        if self.both_ways:
            return self.pipeline - 1 - stage if chunk else stage
        return chunk * self.pipeline + stage

    def first_layer(self, stage: int, chunk: int = 0) -> int:
        """Index in the model of the chunk's first layer (where it would be, if the chunk has none)."""
        if self.both_ways:
            return sum(self.layers[s][0] for s in range(self.model_stage(stage, chunk)))
        before = sum(sum(other[:chunk]) for other in self.layers)
        return before + sum(self.layers[earlier][chunk] for earlier in range(stage))

    def array(self) -> NDArray[np.int64]:
        """Layers as int64[pipeline, virtual]."""
        return np.array(self.layers, dtype=np.int64)

    def table(self) -> pl.DataFrame:
        """One row per chunk: stage, chunk, first_layer, layers, embedding, head."""
        places = [(s, c) for s in range(self.pipeline) for c in range(self.virtual)]
        return pl.DataFrame(
            {
                "stage": [s for s, _ in places],
                "chunk": [c for _, c in places],
                "first_layer": [self.first_layer(s, c) for s, c in places],
                "layers": [self.layers[s][c] for s, c in places],
                "embedding": [self.has_embedding(s, c) for s, c in places],
                "head": [self.has_head(s, c) for s, c in places],
            }
        )

    def describe(self) -> str:
        """One line for people, e.g. "126 layers on 16 stages: 7 + embedding, 14 x 8, 7 + head"."""
        chunks = f" x {self.virtual} chunks" if self.virtual > 1 else ""
        chunks = " both ways" if self.both_ways else chunks
        total = sum(map(self.stage_layers, range(self.pipeline))) // (1 + self.both_ways)
        runs: list[tuple[str, int]] = []
        for stage in range(self.pipeline):
            text = str(self.stage_layers(stage))
            text += " + embedding" if stage == 0 else ""
            text += " + head" if stage == self.pipeline - 1 else ""
            if runs and runs[-1][0] == text:
                runs[-1] = (text, runs[-1][1] + 1)
            else:
                runs.append((text, 1))
        shown = ", ".join(text if times == 1 else f"{times} x {text}" for text, times in runs)
        return f"{total} layers on {self.pipeline} stage{'s' if self.pipeline > 1 else ''}{chunks}: {shown}"


def _spread(slots: int, pipeline: int, virtual: int) -> NDArray[np.int64]:
    """`slots` over int64[pipeline, virtual]: chunks differ by at most one, and so do stages."""
    base, extra = divmod(slots, pipeline * virtual)
    counts = np.full((pipeline, virtual), base, dtype=np.int64)
    everywhere, some = divmod(extra, pipeline)
    counts[:, :everywhere] += 1
    last = pipeline - 1
    preference = [*range(last - 1, -1, -1), last]
    for stage in preference[:some]:
        counts[stage, everywhere] += 1
    return counts


def place(
    layers: int,
    pipeline: int,
    virtual: int = 1,
    *,
    slots: Slots = "auto",
    explicit: Sequence[int] | None = None,
    where: str = "parallel",
) -> Stages:
    """Place `layers` on `pipeline` stages of `virtual` chunks.

    Parameters
    ----------
    slots : "auto" | bool
        Whether embedding and head take a slot each, see the module's first lines.
    explicit : sequence of int, optional
        Layers of each virtual stage in the model's order (chunk 0 of every stage first), length pipeline *
        virtual; wins over `slots`.
    where : str
        Place named in errors, e.g. ``jobs[0].parallel``; errors about `explicit` name ``stages`` beside it.

    Raises
    ------
    ConfigError
        More virtual stages than slots; an explicit list of the wrong length or sum, or with an empty stage.
    """
    count = pipeline * virtual
    if explicit is not None:
        return _explicit(layers, pipeline, virtual, explicit, where)
    takes = count > 1 and (layers % count != 0 if slots == "auto" else bool(slots))
    available = layers + 2 * takes
    if count > available:
        raise ConfigError(_too_many(layers, pipeline, virtual, available, takes, where))
    counts = _spread(available, pipeline, virtual)
    if takes:
        counts[0, 0] -= 1
        counts[-1, -1] -= 1
    return Stages(tuple(tuple(int(n) for n in stage) for stage in counts), slots=bool(takes))


def _too_many(layers: int, pipeline: int, virtual: int, available: int, takes: bool, where: str) -> str:
    held = f"{layers} layers, embedding and head" if takes else f"{layers} layers"
    if virtual == 1 or pipeline > available:
        return f"`{where}.pipeline`: {pipeline} stages are more than {held} can fill; at most {available}"
    return (
        f"`{where}.virtual`: {pipeline} stages x {virtual} chunks = {pipeline * virtual} are more than "
        f"{held} can fill; at most {available // pipeline} chunks"
    )


def _explicit(layers: int, pipeline: int, virtual: int, explicit: Sequence[int], where: str) -> Stages:
    head, dot, _ = where.rpartition(".")
    key = f"{head}{dot}stages"
    count = pipeline * virtual
    if len(explicit) != count:
        raise ConfigError(
            f"`{key}`: {len(explicit)} entries; needs {count}, one per stage and chunk "
            f"({pipeline} x {virtual})"
        )
    if sum(explicit) != layers:
        raise ConfigError(f"`{key}`: the entries sum to {sum(explicit)}; the model has {layers} layers")
    for index, number in enumerate(explicit):
        # an end may hold only the embedding or only the head
        least = 0 if index in (0, count - 1) and count > 1 else 1
        if number < least:
            raise ConfigError(f"`{key}[{index}]`: {number} layers; at least {least}")
    counts = np.array(explicit, dtype=np.int64).reshape(virtual, pipeline).T
    return Stages(tuple(tuple(int(n) for n in stage) for stage in counts), explicit=True)
