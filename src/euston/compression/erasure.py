"""Erasure codes over packets: any k of k + m packets give the k back.

XOR parity for one loss, Reed-Solomon through `zfec` for more, RaptorQ through `raptorq` for whole buckets
in one block (extra `lossy`). All work on bytes of codes, never on floats, so what is recovered is exact.
Packets of a block are taken from the sequence with a stride (`interleave`), so that a burst of losses hits
many blocks once.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.special import betaincinv, gammaln, xlog1py, xlogy

from euston.compression.base import PacketsLost, Payload, SizeMismatch
from euston.errors import ConfigError, MissingExtra

__all__ = ["Fec", "choose_parity", "residual_loss"]

KINDS = ("xor", "rs", "raptorq")

_kernel = njit(cache=True, no_cfunc_wrapper=True, nogil=True)


@_kernel
def _xor(rows, out):  # type: ignore[no-untyped-def]
    """The exclusive or of rows, as 64-bit words."""
    for k in range(rows.shape[0]):
        row = rows[k]
        for j in range(out.size):
            out[j] ^= row[j]


def _library(name: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise MissingExtra(name, "lossy") from error


def residual_loss(data: int, parity: int, loss: float) -> float:
    """Share of packets that stay lost when each is lost independently with probability `loss`.

    A block of n = data + parity packets that loses j > parity keeps all j lost: the sum over them of
    C(n, j) p^j (1-p)^(n-j) j/n.
    """
    n = data + parity
    lost = np.arange(parity + 1, n + 1)
    ways = gammaln(n + 1) - gammaln(lost + 1) - gammaln(n - lost + 1)
    return float((np.exp(ways + xlogy(lost, loss) + xlog1py(n - lost, -loss)) * lost / n).sum())


def choose_parity(data: int, target: float, lost: int, sent: int, *, most: int = 64) -> int:
    """The least parity whose residual loss is below `target`, for `lost` of `sent` packets seen lost.

    The loss rate is taken at its upper 95 % confidence bound (Clopper & Pearson 1934).

    Raises
    ------
    ConfigError
        No parity up to `most` reaches the target.
    """
    if not 0 <= lost <= sent or sent == 0:
        raise ConfigError(f"`fec`: {lost} lost of {sent} packets is no measurement")
    bound = 1.0 if lost == sent else float(betaincinv(lost + 1, sent - lost, 0.95))
    for parity in range(most + 1):
        if residual_loss(data, parity, bound) < target:
            return parity
    raise ConfigError(
        f"`fec`: at a loss of up to {bound:.3g}, {most} parity packets per {data} leave more than {target:g}"
    )


@dataclass(frozen=True)
class Fec:
    """A systematic code of `data` + `parity` packets.

    Parameters
    ----------
    data, parity : int
        k and m: any k of k + m packets are enough.
    kind : str
        "xor" (m = 1), "rs" (k + m <= 256), or "raptorq" (all packets are one block, k is ignored and m is per
        block of `data` packets; a few packets more than k may be needed).

    Raises
    ------
    ConfigError
        Sizes or a kind that do not fit together.
    """

    data: int = 16
    parity: int = 1
    kind: str = "xor"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"`fec.kind`: {self.kind!r}; one of {', '.join(KINDS)}")
        if self.data < 1 or self.parity < 0:
            raise ConfigError(f"`fec`: {self.data} + {self.parity} packets; at least 1 and 0")
        if self.kind == "xor" and self.parity != 1:
            raise ConfigError(f"`fec.parity`: {self.parity}; XOR makes exactly one (Reed-Solomon makes more)")
        if self.kind == "rs" and self.data + self.parity > 256:
            raise ConfigError(
                f"`fec`: {self.data} + {self.parity} packets; Reed-Solomon has names for 256 at most"
            )

    def blocks(self, packets: int) -> NDArray[np.int64]:
        """The packets of each block, int64[blocks, data], -1 where a block is short.

        Block b takes packets b, b + blocks, b + 2 blocks, ...: a burst of up to `blocks` losses costs each
        block one packet at most.
        """
        count = -(-packets // self.data)
        index = np.arange(count)[:, None] + count * np.arange(self.data)[None, :]
        return np.where(index < packets, index, -1)

    def parity_packets(self, packets: int) -> int:
        """How many parity packets go with so many packets."""
        return -(-packets // self.data) * self.parity

    def survive(self, mask: NDArray[np.bool_], parity_mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which packets there are after recovery, bool[packets], without touching bytes.

        Parameters
        ----------
        mask, parity_mask
            bool[packets] and bool[parity packets]: what arrived. RaptorQ is taken as ideal: any as
            many packets as there were are enough.
        """
        if self.kind == "raptorq":
            return np.ones_like(mask) if mask.sum() + parity_mask.sum() >= mask.size else mask.copy()
        blocks = self.blocks(mask.size)
        missing = ((blocks >= 0) & ~mask[blocks]).sum(axis=1)
        whole = missing <= parity_mask.reshape(blocks.shape[0], -1).sum(axis=1)
        have = mask.copy()
        members = blocks[whole]
        have[members[members >= 0]] = True
        return have

    def protect(self, payload: Payload) -> NDArray[np.uint8]:
        """Parity packets of a payload, uint8[blocks * parity, longest packet]; short packets are padded."""
        rows = _rows(payload)
        if self.kind == "raptorq":
            return self._raptorq_parity(rows)
        blocks = self.blocks(len(rows))
        parity = np.zeros((blocks.shape[0], self.parity, rows.shape[1]), np.uint8)
        for b, members in enumerate(blocks):
            block = np.where((members >= 0)[:, None], rows[members], 0).astype(np.uint8)
            if self.kind == "xor":
                _xor(_wide(block), _wide(parity[b])[0])
            elif self.parity:
                coder = _library("zfec").Encoder(self.data, self.data + self.parity)
                wanted = tuple(range(self.data, self.data + self.parity))
                made = coder.encode(tuple(row.tobytes() for row in block), wanted)
                parity[b] = np.frombuffer(b"".join(made), np.uint8).reshape(self.parity, -1)
        return parity.reshape(-1, rows.shape[1])

    def recover(
        self,
        payload: Payload,
        mask: NDArray[np.bool_],
        parity: NDArray[np.uint8],
        parity_mask: NDArray[np.bool_],
    ) -> NDArray[np.bool_]:
        """Put back what can be put back of a payload's missing packets; returns the mask that then holds.

        Parameters
        ----------
        payload
            With the packets that arrived in place.
        mask
            bool[packets], which those are.
        parity, parity_mask
            As `protect` gave them, and which rows arrived.

        Raises
        ------
        SizeMismatch
            Masks or parity of another shape.
        """
        rows = _rows(payload)
        blocks = self.blocks(len(rows))
        if mask.shape != (len(rows),) or parity.shape != (blocks.shape[0] * self.parity, rows.shape[1]):
            raise SizeMismatch(
                f"`{payload.key.label}`: masks or parity do not belong to these {len(rows)} packets"
            )
        if parity_mask.shape != parity.shape[:1]:
            raise SizeMismatch(
                f"`{payload.key.label}`: a mask of {parity_mask.shape} for {parity.shape[0]} parity rows"
            )
        have = mask.copy()
        if mask.all():
            return have
        if self.kind == "raptorq":
            return self._raptorq_recover(payload, rows, have, parity, parity_mask)
        for b, members in enumerate(blocks):
            real = members[members >= 0]
            missing = real[~mask[real]]
            extra = b * self.parity + np.flatnonzero(parity_mask[b * self.parity : (b + 1) * self.parity])
            if not missing.size or missing.size > extra.size:
                continue
            block = np.where(((members >= 0) & mask[members])[:, None], rows[members], 0).astype(np.uint8)
            if self.kind == "xor":
                found = parity[extra[:1]].copy()
                _xor(_wide(block), _wide(found)[0])
                rows[missing] = found
            else:
                self._rs_recover(b, block, members, missing, extra, parity, rows)
            have[missing] = True
        _put(payload, rows, have & ~mask)
        return have

    def _rs_recover(
        self, b: int, block: NDArray[np.uint8], members: NDArray[np.int64], missing: NDArray[np.int64],
        extra: NDArray[np.int64], parity: NDArray[np.uint8], rows: NDArray[np.uint8],
    ) -> None:  # fmt: skip
        gaps = [j for j, packet in enumerate(members) if packet in missing]
        use = [(j, block[j].tobytes()) for j in range(self.data) if j not in gaps]
        use += [(self.data + int(e) - b * self.parity, parity[e].tobytes()) for e in extra[: len(gaps)]]
        coder = _library("zfec").Decoder(self.data, self.data + self.parity)
        found = coder.decode(tuple(text for _, text in use), tuple(j for j, _ in use))
        for j in gaps:
            rows[members[j]] = np.frombuffer(found[j], np.uint8)

    def _raptorq_parity(self, rows: NDArray[np.uint8]) -> NDArray[np.uint8]:
        repair = self.blocks(len(rows)).shape[0] * self.parity
        if not repair:
            return np.zeros((0, rows.shape[1]), np.uint8)
        packets = self._raptorq_packets(rows, repair)
        return np.stack([np.frombuffer(packet, np.uint8)[4:] for packet in packets[len(rows) :]])

    def _raptorq_packets(self, rows: NDArray[np.uint8], repair: int) -> list[bytes]:
        coder = _library("raptorq").Encoder.with_defaults(rows.tobytes(), rows.shape[1])
        packets: list[bytes] = coder.get_encoded_packets(repair)
        if len(packets) != len(rows) + repair or len(packets[0]) != rows.shape[1] + 4:
            raise ConfigError(
                f"`fec`: RaptorQ splits {len(rows)} packets of {rows.shape[1]} bytes; use fewer or rs"
            )
        return packets

    def _raptorq_recover(
        self, payload: Payload, rows: NDArray[np.uint8], have: NDArray[np.bool_],
        parity: NDArray[np.uint8], parity_mask: NDArray[np.bool_],
    ) -> NDArray[np.bool_]:  # fmt: skip
        names = [packet[:4] for packet in self._raptorq_packets(np.zeros_like(rows), len(parity))]
        coder = _library("raptorq").Decoder.with_defaults(rows.size, rows.shape[1])
        arrived = [(j, rows[j]) for j in np.flatnonzero(have)]
        arrived += [(len(rows) + j, parity[j]) for j in np.flatnonzero(parity_mask)]
        for j, row in arrived:
            whole = coder.decode(names[j] + row.tobytes())
            if whole is not None:
                _put(payload, np.frombuffer(whole, np.uint8).reshape(rows.shape), ~have)
                return np.ones_like(have)
        return have


def _rows(payload: Payload) -> NDArray[np.uint8]:
    """Packets as equally long rows (a multiple of 8 bytes), padded with zeros."""
    length = np.diff(payload.layout.ptr)
    if not length.size:
        raise PacketsLost(f"`{payload.key.label}`: there are no packets to protect")
    rows = np.zeros((length.size, -(-int(length.max()) // 8) * 8), np.uint8)
    for j, lo in enumerate(payload.layout.ptr[:-1]):
        rows[j, : length[j]] = payload.data[lo : lo + length[j]]
    return rows


def _put(payload: Payload, rows: NDArray[np.uint8], which: NDArray[np.bool_]) -> None:
    for j in np.flatnonzero(which):
        lo, hi = payload.layout.ptr[j], payload.layout.ptr[j + 1]
        payload.data[lo:hi] = rows[j, : hi - lo]


def _wide(rows: NDArray[np.uint8]) -> NDArray[np.uint64]:
    return rows.view(np.uint64)
