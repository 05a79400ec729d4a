"""The protocol of codecs: a float32 vector as packets that decode alone, with an error known beforehand.

A codec is a frozen description (bits, block, packet size). Everything random comes from a `StepKey`, so
that the same key gives the same bytes in every process, and a receiver knows what the sender drew. A
`Payload` is one vector on its way: bytes, and the layout that says which bytes are which packet. Whoever
receives makes an empty one (`Payload.empty`), places packets as they come and decodes with the mask of
those that came.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from euston.compression._hash import chain
from euston.compression.layout import Layout
from euston.errors import BadInput, ConfigError, EustonError

__all__ = [
    "Codec", "NonFinite", "OverflowRisk", "PacketsLost", "Payload", "SizeMismatch", "StepKey", "Summable",
    "as_vector", "rescaled_vnmse",
]  # fmt: skip


class NonFinite(BadInput):
    """A gradient with NaN or Inf in it; the message names the bucket."""


class SizeMismatch(BadInput):
    """A payload of another codec or size, or vectors of different sizes where equal ones are needed."""


class OverflowRisk(ConfigError):
    """Sums that could overflow: refused when the codec is configured."""


class PacketsLost(EustonError):
    """Nothing arrived of some part of a vector: no unbiased estimate of it exists."""


@dataclass(frozen=True)
class StepKey:
    """What a vector is: the seed of everything random about its encoding.

    Parameters
    ----------
    job, step, bucket : int
        The training run (its seed), the iteration or federated round, the gradient bucket or model fragment.
    sender : int
        The worker. Rotations that sums share leave it out, private randomness never does.
    name : str
        What errors call the bucket; by default its number.
    """

    job: int = 0
    step: int = 0
    bucket: int = 0
    sender: int = 0
    name: str = field(default="", compare=False)

    @property
    def label(self) -> str:
        """The bucket as errors name it."""
        return self.name or f"bucket {self.bucket}"

    def seed(self, salt: str, *, shared: bool) -> int:
        """64 bits for one purpose (`salt`); ``shared``: the same for every sender."""
        word = int.from_bytes(salt.encode()[:8], "little")
        return chain(self.job, self.step, self.bucket, 0 if shared else self.sender + 1, word)


@dataclass(frozen=True, eq=False)
class Payload:
    """One encoded vector.

    Attributes
    ----------
    codec : str
        `signature` of the codec that wrote it.
    key : StepKey
    data : uint8[layout.bytes]
        What goes over the wire: packet j is ``data[layout.ptr[j]:layout.ptr[j + 1]]``. Little-endian.
    layout : Layout
    """

    codec: str
    key: StepKey
    data: NDArray[np.uint8]
    layout: Layout

    @classmethod
    def empty(cls, codec: Codec, d: int, key: StepKey) -> Payload:
        """Room for a vector of `d` coordinates that `codec` encodes under `key`."""
        layout = codec.layout(d)
        return cls(signature(codec), key, np.zeros(layout.bytes, np.uint8), layout)

    def __len__(self) -> int:
        return self.layout.packets

    def __bytes__(self) -> bytes:
        return self.data.tobytes()

    @property
    def d(self) -> int:
        """Coordinates of the vector."""
        return self.layout.d

    @property
    def words(self) -> NDArray[np.uint32]:
        """The bytes as 32-bit words."""
        return self.data.view(np.uint32)

    def packet(self, j: int) -> memoryview:
        """The bytes of packet `j`."""
        return self.data[int(self.layout.ptr[j]) : int(self.layout.ptr[j + 1])].data

    def place(self, j: int, packet: bytes | bytearray | memoryview) -> None:
        """Put the bytes of packet `j` where they belong.

        Raises
        ------
        SizeMismatch
            There is no packet `j`, or it has another length.
        """
        if not 0 <= j < len(self):
            raise SizeMismatch(f"`{self.key.label}`: packet {j} of a payload of {len(self)} packets")
        target = self.packet(j)
        if len(packet) != len(target):
            raise SizeMismatch(
                f"`{self.key.label}`: packet {j} has {len(packet)} bytes where {len(target)} are right"
            )
        target[:] = packet

    def fill(self, data: bytes | bytearray | memoryview | NDArray[np.uint8]) -> Payload:
        """Take all bytes at once, as `bytes(payload)` gave them."""
        got = np.frombuffer(data, np.uint8)
        if got.size != self.data.size:
            raise SizeMismatch(
                f"`{self.key.label}`: {got.size} bytes where {self.codec} writes {self.data.size} for "
                f"{self.d} coordinates"
            )
        return replace(self, data=got.copy())


class Codec(Protocol):
    """A way to say a vector in fewer bytes."""

    @property
    def name(self) -> str:
        """Its name in the registry."""

    @property
    def unbiased(self) -> bool:
        """Whether decoding gives the vector in expectation. What is not needs error feedback."""

    @property
    def summable(self) -> bool:
        """Whether codes can be added before they are decoded: see `Summable`."""

    @property
    def rotated(self) -> bool:
        """Whether coordinates are mixed before they are coded: then lost packets are noise on all of them."""

    def layout(self, d: int) -> Layout:
        """Packets of a vector of `d` coordinates."""

    def bytes(self, d: int) -> int:
        """Exact size of the encoded vector in bytes."""

    def encode(self, x: Any, key: StepKey = ...) -> Payload:
        """Encode float32[d] (NumPy array, or a torch tensor on the CPU, which is not copied).

        Raises
        ------
        NonFinite
            NaN or Inf in it.
        """

    def unpack(
        self,
        payload: Payload,
        mask: NDArray[np.bool_] | None = None,
        *,
        out: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:
        """Values in the coded domain, zero where packets are missing, nothing made up for.

        float32[layout.coded] (float32[d] for sparse codecs, whose packets name their coordinates). Where all
        senders share a rotation these can be added and restored once.
        """

    def restore(
        self, values: NDArray[np.float32], key: StepKey, d: int, *, out: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """From the coded domain back to float32[d]; linear. `values` may be used up."""

    def decode(
        self,
        payload: Payload,
        mask: NDArray[np.bool_] | None = None,
        *,
        lost: str = "raise",
        out: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:
        """Estimate the vector from the packets that arrived (`mask`: bool[packets], None for all).

        What is missing is made up by scaling the rest: by piece, 1 / (share of its coordinates that arrived).
        ``lost``: "raise" refuses a piece of which nothing arrived (`PacketsLost`), "zero" leaves it zero, for
        callers that count contributions themselves.
        """

    def expected_vnmse(self, d: int, loss: float = 0.0) -> float:
        """E||decoded - x||^2 / ||x||^2 at a packet loss rate; a bound where it depends on the data."""


class Summable(Codec, Protocol):
    """A codec whose codes add up: the aggregator never decodes."""

    def norms(self, x: Any, key: StepKey = ...) -> NDArray[np.float32]:
        """What all senders must agree on first (element-wise maximum): float32[pieces]."""

    def sum(self, d: int, key: StepKey, norms: NDArray[np.float32]) -> Any:
        """An accumulator of codes; see `euston.compression.thc.CodeSum`."""


def signature(codec: Codec) -> str:
    """A codec with all its parameters: equal text, equal wire format."""
    return re.sub(r"\s+", " ", repr(codec))


def as_vector(x: Any, where: str) -> NDArray[np.float32]:
    """A one-dimensional, contiguous float32 view of an array or a CPU tensor; 16-bit floats are widened.

    Raises
    ------
    SizeMismatch
        More than one dimension, gaps between the elements, or another type.
    """
    if hasattr(x, "detach"):  # a torch tensor: its memory, not a copy
        tensor = x.detach()
        if tensor.device.type != "cpu":
            raise SizeMismatch(f"`{where}`: a tensor on {tensor.device}; move it to the CPU first")
        x = (tensor if str(tensor.dtype) in ("torch.float32", "torch.float64") else tensor.float()).numpy()
    if not isinstance(x, np.ndarray):
        raise SizeMismatch(f"`{where}`: {type(x).__name__} is neither a NumPy array nor a torch tensor")
    if x.dtype == np.float16:
        x = x.astype(np.float32)
    if x.dtype != np.float32 or x.ndim != 1 or not x.flags.c_contiguous:
        raise SizeMismatch(
            f"`{where}`: {x.dtype}{list(x.shape)}{'' if x.flags.c_contiguous else ' with gaps'}; "
            "a contiguous float32 vector is needed"
        )
    return x if x.flags.writeable else x.copy()  # kernels are compiled for writeable memory only


def rescaled_vnmse(vnmse: float, energy: float, loss: float) -> float:
    """The error when each coordinate is lost with probability `loss` and the rest scaled by 1 / (1 - loss).

    With C = decode(encode(x)) and m the losses, independent of it:
    E||x - mC/(1-p)||^2 = E||x - C||^2 + p/(1-p) E||C||^2. `energy` is E||C||^2 / ||x||^2.
    For unbiased codecs energy = 1 + vnmse, which gives (1 + v)/(1 - p) - 1.
    """
    if not 0.0 <= loss < 1.0:
        raise ConfigError(f"`loss`: {loss} is no loss rate from 0 to below 1")
    return vnmse + loss / (1.0 - loss) * energy
