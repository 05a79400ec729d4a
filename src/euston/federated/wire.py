"""What aggregator and site say to each other: an order and a reply, each a JSON header and raw arrays of
bytes.

The same two messages go through a function call, a Flower message or a local socket; nothing is pickled.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from euston.errors import EustonError

__all__ = ["PROTOCOL", "Order", "Part", "ProtocolMismatch", "Reply", "pack", "unpack"]

PROTOCOL = 1
"""Version of these messages."""

Blob = NDArray[np.uint8]


class ProtocolMismatch(EustonError):
    """Aggregator and site speak different versions; the message names both."""


@dataclass(frozen=True)
class Part:
    """Parameters on their way to a site.

    Attributes
    ----------
    fragment : int
    kind : "full" | "increment" | "first" | "second"
        The aggregator's parameters, what to add to the site's copy, or averaged moments.
    at_step : int
        Local step before which the site takes them into its own parameters (tau, Streaming DiLoCo).
    """

    fragment: int
    kind: str
    at_step: int = 0


@dataclass(frozen=True)
class Order:
    """The aggregator to a site: train from here.

    Attributes
    ----------
    run, round, attempt, client
        Which run, exchange (counted from 0, committed ones only), try at it, and site.
    position, steps : int
        Serial steps of the federation so far (where the schedule stands); steps to make now.
    fragment : int
        What to send back.
    accepted, accepted_attempt : int
        Last round (-1: none) and try at it of which the aggregator took this site's update: the site
        continues from its state after that one. Older ones than `settled` will not be asked for again.
    windows : tuple of int
        Windows drawn by each island up to then, for a site that has lost its state.
    parent : str
        SHA-256 of the aggregator's parameters, as the site must hold them after taking `parts`.
    deadline : float
        Seconds after which no reply will be waited for; 0: none.
    save : bool
        Whether the site must be able to continue from this round after a crash.
    codec : str
        For the update.
    moments : tuple of str
        Which averaged moments to send with it.
    tokenizer : str
        SHA-256 of the tokenizer all must share.
    parts, blobs
        What comes along: for each part one blob per tensor of its fragment.
    """

    run: str
    round: int
    attempt: int
    client: int
    position: int
    steps: int
    fragment: int
    accepted: int
    accepted_attempt: int
    settled: int
    windows: tuple[int, ...]
    parent: str
    deadline: float
    save: bool
    codec: str
    moments: tuple[str, ...]
    tokenizer: str
    parts: tuple[Part, ...]
    blobs: Sequence[Blob] = field(default=(), compare=False)
    down_codec: str = "none"
    protocol: int = PROTOCOL

    @property
    def payload_bytes(self) -> int:
        """Bytes of parameters and moments, headers apart."""
        return sum(blob.nbytes for blob in self.blobs)


@dataclass(frozen=True)
class Reply:
    """A site to the aggregator.

    Attributes
    ----------
    status : "ok" | "need_full" | "failed"
        Done; the site lacks what the parts build upon; or `reason`.
    samples, tokens, steps, loss_mean, loss_last, seconds
        What was done.
    windows : tuple of int
        Windows each island has drawn since the run began.
    blobs
        The update, one blob per tensor of the fragment: parameters where the codec is "none", else encoded
        differences (old minus new); then the moments asked for.
    """

    run: str
    round: int
    attempt: int
    client: int
    parent: str
    status: str = "ok"
    reason: str = ""
    fragment: int = 0
    codec: str = "none"
    samples: int = 0
    tokens: int = 0
    steps: int = 0
    loss_mean: float = 0.0
    loss_last: float = 0.0
    seconds: float = 0.0
    windows: tuple[int, ...] = ()
    blobs: Sequence[Blob] = field(default=(), compare=False)
    protocol: int = PROTOCOL

    @property
    def payload_bytes(self) -> int:
        """Bytes of the update, headers apart."""
        return sum(blob.nbytes for blob in self.blobs)


def header(message: Order | Reply) -> str:
    """Everything but the blobs, as JSON."""
    plain = {key: value for key, value in message.__dict__.items() if key != "blobs"}
    if isinstance(message, Order):
        plain["parts"] = [asdict(part) for part in message.parts]
    return json.dumps(plain, separators=(",", ":"))


def build(kind: type[Order] | type[Reply], text: str, blobs: Sequence[Blob]) -> Any:
    """A message from its header and blobs.

    Raises
    ------
    ProtocolMismatch
        Another version, or something else altogether.
    """
    try:
        plain: dict[str, Any] = json.loads(text)
        theirs = plain.get("protocol")
        if theirs != PROTOCOL:
            raise ProtocolMismatch(
                f"the other side speaks protocol {theirs}, this side {PROTOCOL}; install the "
                "same version of euston on both"
            )
        for key in ("windows", "moments"):
            if key in plain:
                plain[key] = tuple(plain[key])
        if kind is Order:
            plain["parts"] = tuple(Part(**part) for part in plain["parts"])
        return kind(**plain, blobs=tuple(blobs))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ProtocolMismatch(
            f"a message that is no {kind.__name__.lower()} of protocol {PROTOCOL}: {error}"
        ) from None


def pack(message: Order | Reply) -> bytes:
    """One run of bytes: lengths, header, blobs."""
    text = header(message).encode()
    sizes = [blob.nbytes for blob in message.blobs]
    head = struct.pack(f"<II{len(sizes)}Q", len(text), len(sizes), *sizes)
    return b"".join([head, text, *(blob.tobytes() for blob in message.blobs)])


def unpack(kind: type[Order] | type[Reply], data: bytes) -> Any:
    """`pack` reversed.

    Raises
    ------
    ProtocolMismatch
        Truncated, or of another version.
    """
    try:
        length, count = struct.unpack_from("<II", data)
        sizes = struct.unpack_from(f"<{count}Q", data, 8)
    except struct.error:
        raise ProtocolMismatch("a truncated message") from None
    at = 8 + 8 * count
    text, at = data[at : at + length].decode("utf-8", "replace"), at + length
    if at + sum(sizes) != len(data):
        raise ProtocolMismatch("a truncated message")
    blobs = []
    for size in sizes:
        blobs.append(np.frombuffer(data, np.uint8, size, at))
        at += size
    return build(kind, text, blobs)
