"""What switches hash: the five-tuple of a RoCEv2 flow, its CRC32, and a mix with the switch's salt."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["crc32", "five_tuple", "flow_hash", "mix", "salts", "source_ports"]

ROCE_PORT = 4791
"""UDP destination port of RoCEv2 (IANA)."""
FIRST_SOURCE_PORT, SOURCE_PORTS = 0xC000, 0x4000
"""Source ports that RoCEv2 senders use for entropy (Linux, include/rdma/ib_verbs.h)."""
_UDP = 17
_TEN_SLASH_EIGHT = 10 << 24
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_STEP = np.uint64(0xD1342543DE82EF95)
_CRC_POLYNOMIAL = 0xEDB88320  # CRC-32 (IEEE 802.3), bits reversed


def _table() -> NDArray[np.uint32]:
    value = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        value = np.where(value & 1, (value >> 1) ^ np.uint32(_CRC_POLYNOMIAL), value >> 1)
    return value.astype(np.uint32)


_CRC_TABLE = _table()


def crc32(keys: NDArray[np.uint8], start: NDArray[np.uint32] | int = 0) -> NDArray[np.uint32]:
    """``zlib.crc32(key, start)`` of every row of ``keys`` (uint8[F, n]), uint32[F]."""
    value = np.broadcast_to(np.asarray(start, np.uint32), keys.shape[:1]) ^ np.uint32(0xFFFFFFFF)
    for byte in keys.T:
        value = _CRC_TABLE[(value ^ byte) & np.uint32(0xFF)] ^ (value >> np.uint32(8))
    return value ^ np.uint32(0xFFFFFFFF)


def mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """MurmurHash3's 64-bit finaliser: every bit of ``x`` moves about half of the output's (Appleby)."""
    x = (x ^ (x >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    x = (x ^ (x >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return x ^ (x >> np.uint64(33))


def flow_hash(
    src: NDArray[np.int32], dst: NDArray[np.int32], number: NDArray[np.int32], seed: int
) -> NDArray[np.uint64]:
    """A 64-bit hash of (source, destination, number, seed), uint64[F]."""
    with np.errstate(over="ignore"):
        x = src.astype(np.uint64) << np.uint64(40)
        x ^= dst.astype(np.uint64) << np.uint64(16)
        x ^= number.astype(np.uint64)
        return mix(x + _GOLDEN * np.uint64((seed + 1) % 2**64))


def salts(switch: NDArray[np.int64], seed: int) -> NDArray[np.uint64]:
    """The salt of each switch (node number), uint64[...]."""
    with np.errstate(over="ignore"):
        return mix((switch.astype(np.uint64) + np.uint64(1)) * _GOLDEN + np.uint64(seed % 2**64) * _STEP)


def source_ports(
    src: NDArray[np.int32],
    dst: NDArray[np.int32],
    connection: NDArray[np.int32],
    queue_pair: NDArray[np.int32],
    seed: int,
) -> NDArray[np.uint16]:
    """UDP source port of each queue pair, uint16[F]: those of one connection follow each other."""
    base = flow_hash(src, dst, connection, seed) % np.uint64(SOURCE_PORTS)
    port = (base + queue_pair.astype(np.uint64)) % np.uint64(SOURCE_PORTS)
    return (port + np.uint64(FIRST_SOURCE_PORT)).astype(np.uint16)


def five_tuple(src: NDArray[np.int32], dst: NDArray[np.int32], port: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """Source and destination address, protocol, both ports as they stand in the packet, uint8[F, 13].

    Endpoint ``e`` has the IPv4 address 10.0.0.0 + ``e``.
    """
    out = np.empty((src.size, 13), np.uint8)
    for first, endpoint in ((0, src), (4, dst)):
        address = (endpoint.astype(np.uint32) + np.uint32(_TEN_SLASH_EIGHT)).astype(">u4")
        out[:, first : first + 4] = address.view(np.uint8).reshape(-1, 4)
    out[:, 8] = _UDP
    out[:, 9:11] = port.astype(">u2").view(np.uint8).reshape(-1, 2)
    out[:, 11:13] = np.array([ROCE_PORT], ">u2").view(np.uint8)
    return out
