"""PowerSGD: a vector as a matrix of low rank, with torch's own orthogonalisation and torch's own DDP hook.

Vogels, Karimireddy & Jaggi, NeurIPS 2019. `PowerSgd` is the codec (one power iteration per step, warm start
from the last step's factor; biased: use it with error feedback); `ddp_hook` gives torch's communication
hook, which sums the factors over workers instead. Needs the extra `lossy`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import import_module
from math import isqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from euston.compression._codec import MTU_PAYLOAD, PackedCodec, check_finite
from euston.compression._hash import numbers
from euston.compression.base import Payload, StepKey, as_vector, rescaled_vnmse, signature
from euston.compression.layout import Layout, raw
from euston.compression.none import drop_missing
from euston.errors import ConfigError, MissingExtra

__all__ = ["PowerSgd", "ddp_hook"]

_HOOK = "torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook"


def _torch(module: str) -> Any:
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise MissingExtra("torch", "lossy") from error


def ddp_hook(rank: int = 4, *, start_step: int = 1000, process_group: Any = None) -> tuple[Any, Any]:
    """Torch's PowerSGD as (state, hook) for ``model.register_comm_hook(*ddp_hook(...))``.

    Parameters
    ----------
    rank
        Rank of the approximation.
    start_step
        Plain all-reduce before that step (torch needs at least 2: buckets are rebuilt after the first).
    process_group
        As in torch.

    Raises
    ------
    ConfigError
        A rank below 1, or a start before step 2.
    MissingExtra
        torch is not installed.
    """
    if rank < 1 or start_step < 2:
        raise ConfigError(
            f"`power_sgd`: rank {rank} from step {start_step}; a rank from 1 and a step from 2 are right"
        )
    hook = _torch(_HOOK)
    state = hook.PowerSGDState(process_group, matrix_approximation_rank=rank, start_powerSGD_iter=start_step)
    return state, hook.powerSGD_hook


@dataclass(frozen=True)
class PowerSgd(PackedCodec):
    """Low-rank approximation of the vector as a nearly square matrix.

    Parameters
    ----------
    rank : int
        Rank of the approximation.
    packet : int
        Bytes per packet; 0 for one packet. A packet holds whole rows of the factors.

    Raises
    ------
    ConfigError
        A rank below 1.
    MissingExtra
        When encoding: torch is not installed.
    """

    rank: int = 4
    packet: int = MTU_PAYLOAD
    name: str = "power_sgd"
    _warm: dict[tuple[int, int, int, int], NDArray[np.float32]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ConfigError(f"`{self.name}.rank`: {self.rank}; at least 1")

    @property
    def unbiased(self) -> bool:
        """What the factors do not span is never sent."""
        return False

    def shape(self, d: int) -> tuple[int, int, int]:
        """Rows and columns of the matrix, and the rank it is given."""
        rows = isqrt(max(d, 1) - 1) + 1
        columns = -(-d // rows)
        return rows, columns, min(self.rank, rows, max(columns, 1))

    def _plan(self, d: int) -> Layout:
        rows, columns, rank = self.shape(d)
        return raw(d, (rows + columns) * rank if d else 0, 4, self.packet, header=0, least=rank)

    def _size(self, layout: Layout) -> int:
        return layout.d

    def encode(self, x: Any, key: StepKey = StepKey()) -> Payload:  # noqa: B008
        """One power iteration from the last step's factor of this bucket; see `Codec.encode`."""
        x = as_vector(x, key.label)
        check_finite(x, key)
        layout = self.layout(x.size)
        rows, columns, rank = self.shape(x.size)
        torch, hook = _torch("torch"), _torch(_HOOK)
        padded = np.zeros(rows * columns, np.float32)
        padded[: x.size] = x
        matrix = padded.reshape(rows, columns)
        memory = (key.job, key.bucket, key.sender, x.size)
        warm = self._warm.get(memory)
        if warm is None:
            noise = numbers(columns * rank, key.seed("factor", shared=True)) - np.float32(0.5)
            warm = noise.reshape(columns, rank)
        left = torch.from_numpy(matrix @ warm)[None]
        hook._orthogonalize(left, 1e-30)  # a batch of one; the shift keeps columns of zeros finite
        left = left[0].numpy()
        right = matrix.T @ left
        if right.any():
            self._warm[memory] = right.copy()
        data = np.concatenate([left.ravel(), right.ravel()])[: layout.coded].astype(np.float32)
        return Payload(signature(self), key, data.view(np.uint8), layout)

    def _uncode(
        self, payload: Payload, mask: NDArray[np.uint8], first: int, last: int, values: NDArray[np.float32]
    ) -> None:
        rows, columns, rank = self.shape(payload.d)
        factors = payload.data.view(np.float32).copy()
        drop_missing(payload.layout, mask, factors)
        left, right = (
            factors[: rows * rank].reshape(rows, rank),
            factors[rows * rank :].reshape(columns, rank),
        )
        values[:] = (left @ right.T).ravel()[: payload.d]

    def _gain(self, payload: Payload, mask: NDArray[np.uint8], lost: str) -> NDArray[np.float64]:
        """A coordinate survives when its row of both factors did."""
        gain = super()._gain(payload, mask, lost)
        rows, _, rank = self.shape(payload.d)
        came = np.repeat(mask, np.diff(payload.layout.coordinate)).astype(np.float64)
        share = came[: rows * rank].mean() * came[rows * rank :].mean() if came.size else 1.0
        return np.full_like(gain, 1.0 / share if share > 0 else 0.0)

    def expected_vnmse(self, d: int, loss: float = 0.0) -> float:
        """At most 1 - rank/rows: a random subspace holds that share of a matrix's energy, a warm one more."""
        rows, _, rank = self.shape(d)
        share = rank / rows
        return rescaled_vnmse(1.0 - share, share, 1.0 - (1.0 - loss) ** 2)
