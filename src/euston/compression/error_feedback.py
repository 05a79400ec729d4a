"""Error feedback: what a codec did not say of a vector is added to the next one.

Seide et al. 2014; Karimireddy, Rebjock, Stich & Jaggi, ICML 2019. It turns a biased contraction (E||x -
C(x)||^2 < ||x||^2) into a scheme that loses nothing in the long run; with anything else the memory grows
without end, which is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from euston.compression.base import Codec, Payload, SizeMismatch, StepKey, as_vector, signature
from euston.compression.layout import Layout
from euston.errors import ConfigError

__all__ = ["ErrorFeedback"]


@dataclass(frozen=True, eq=False)
class ErrorFeedback:
    """A codec that remembers its errors, one vector per bucket and sender.

    Buckets are told apart by `StepKey.name` where it is given, else by number: name them by parameter where
    buckets may be rebuilt (PyTorch DDP does so after the first step).

    Parameters
    ----------
    codec : Codec
        What encodes.

    Raises
    ------
    ConfigError
        When first encoding: the codec is no contraction at this size, so errors would grow.
    """

    codec: Codec
    _memory: dict[tuple[int, str, int], NDArray[np.float32]] = field(
        default_factory=dict, init=False, repr=False
    )

    @property
    def name(self) -> str:
        """The codec's name, marked."""
        return f"{self.codec.name}+ef"

    @property
    def unbiased(self) -> bool:
        """One step is as biased as the codec; the sum over steps is not."""
        return self.codec.unbiased

    @property
    def summable(self) -> bool:
        """As the codec."""
        return self.codec.summable

    @property
    def rotated(self) -> bool:
        """As the codec."""
        return self.codec.rotated

    def layout(self, d: int) -> Layout:
        """As the codec's."""
        return self.codec.layout(d)

    def bytes(self, d: int) -> int:
        """As the codec's."""
        return self.codec.bytes(d)

    def _slot(self, key: StepKey) -> tuple[int, str, int]:
        return key.job, key.label, key.sender

    def pending(self, x: Any, key: StepKey = StepKey()) -> NDArray[np.float32]:  # noqa: B008
        """X plus what was left over: the vector that `encode` will encode (norms of THC are taken of it)."""
        x = as_vector(x, key.label)
        memory = self._memory.get(self._slot(key))
        if memory is None:
            return x.copy()
        if memory.size != x.size:
            raise SizeMismatch(
                f"`{key.label}`: {x.size} coordinates, {memory.size} in its error memory; "
                "name buckets by their parameters, or `reset`"
            )
        return x + memory

    def encode(self, x: Any, key: StepKey = StepKey(), **options: Any) -> Payload:  # noqa: B008
        """Encode x plus what was left over, and keep what is left over now. `options` go to the codec."""
        e = self.pending(x, key)
        if e.size and self.codec.expected_vnmse(e.size) >= 1.0:
            raise ConfigError(
                f"`{key.label}`: {signature(self.codec)} errs by more than the vector itself, which would "
                "grow when fed back; use its biased scale or more bits"
            )
        payload = self.codec.encode(e, key, **options)
        self._memory[self._slot(key)] = e - self.codec.decode(payload)
        return payload

    def norms(self, x: Any, key: StepKey = StepKey()) -> NDArray[np.float32]:  # noqa: B008
        """The norms of what will be encoded, for summable codecs."""
        norms: NDArray[np.float32] = self.codec.norms(self.pending(x, key), key)  # type: ignore[attr-defined]
        return norms

    def sum(self, d: int, key: StepKey, norms: NDArray[np.float32]) -> Any:
        """The codec's accumulator, for summable codecs."""
        return self.codec.sum(d, key, norms)  # type: ignore[attr-defined]

    def put_back(self, payload: Payload, lost: NDArray[np.bool_]) -> None:
        """Put packets that the aggregate turned out not to hold (`lost`: bool[packets]) back into the memory.

        That is error feedback to the network: use it where results carry a bitmap of contributors.
        """
        values = self.codec.unpack(payload, lost)
        back = self.codec.restore(values, payload.key, payload.d)
        slot = self._slot(payload.key)
        memory = self._memory.get(slot)
        self._memory[slot] = back if memory is None else memory + back

    def unpack(
        self,
        payload: Payload,
        mask: NDArray[np.bool_] | None = None,
        *,
        out: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:
        """As the codec's."""
        return self.codec.unpack(payload, mask, out=out)

    def restore(
        self, values: NDArray[np.float32], key: StepKey, d: int, *, out: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """As the codec's."""
        return self.codec.restore(values, key, d, out=out)

    def decode(
        self,
        payload: Payload,
        mask: NDArray[np.bool_] | None = None,
        *,
        lost: str = "raise",
        out: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:
        """As the codec's."""
        return self.codec.decode(payload, mask, lost=lost, out=out)

    def expected_vnmse(self, d: int, loss: float = 0.0) -> float:
        """The codec's error on one vector; over many steps the errors cancel."""
        return self.codec.expected_vnmse(d, loss)

    def reset(self) -> None:
        """Forget all errors."""
        self._memory.clear()

    def state(self) -> dict[str, NDArray[np.float32]]:
        """The memory, for checkpoints: texts that `load` understands -> float32[d]."""
        return {f"{job}/{sender}/{label}": e.copy() for (job, label, sender), e in self._memory.items()}

    def load(self, state: Mapping[str, NDArray[np.float32]]) -> None:
        """Take up a saved memory in place of the present one."""
        self._memory.clear()
        for text, e in state.items():
            job, sender, label = text.split("/", 2)
            self._memory[int(job), label, int(sender)] = as_vector(e, text).copy()
