"""A UDP socket that sends and receives many datagrams per system call, and counts what the kernel drops.

Linux sends a buffer as equal segments (UDP_SEGMENT) and joins what it receives (UDP_GRO); without them every
datagram is a call of its own. Loss can be injected in the kernel by a classic socket filter on the receiving
socket. It decides per buffer, for UDP as for TCP: with segmentation several datagrams are lost at once.
"""

from __future__ import annotations

import ctypes
import errno
import select
import socket
import struct
import sys
from typing import Any

import numpy as np

from euston.errors import ConfigError

__all__ = ["UdpSocket", "attach_loss"]

UDP_SEGMENT, UDP_GRO, SOL_UDP = 103, 104, 17
SO_RCVBUFFORCE, SO_SNDBUFFORCE, SO_RXQ_OVFL, SO_ATTACH_FILTER = 33, 32, 40, 26
LOST_ERRORS = (errno.ECONNREFUSED, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENOBUFS)
LARGEST, MOST_SEGMENTS = 65_507, 44
_GRO_SIZE, _DROPS = struct.Struct("i"), struct.Struct("I")


def attach_loss(sock: socket.socket, loss: float) -> None:
    """Let the kernel drop arriving packets with a probability: works for UDP and TCP sockets, unprivileged.

    Raises
    ------
    ConfigError
        Not Linux, or a probability out of range.
    """
    if not 0 <= loss < 1:
        raise ConfigError(f"`loss`: {loss} must be a probability below 1")
    if not sys.platform.startswith("linux"):
        raise ConfigError("`loss`: socket filters need Linux; inject losses in process instead")
    if loss == 0:
        return
    # ld [SKF_AD_OFF + SKF_AD_RANDOM]; jge threshold -> keep, else drop; ret #all; ret #0
    threshold = min(int(loss * 2**32), 2**32 - 1)
    code = [(0x20, 0, 0, 0xFFFFF000 + 56), (0x35, 0, 1, threshold), (0x06, 0, 0, 0xFFFFFFFF), (0x06, 0, 0, 0)]
    program = b"".join(struct.pack("HBBI", *line) for line in code)
    buffer = ctypes.create_string_buffer(program, len(program))
    filter_ = struct.pack("HL", len(code), ctypes.addressof(buffer))
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, filter_)


class UdpSocket:
    """An open socket on an address of this host.

    Parameters
    ----------
    host : str
        Address to bind to; a name is resolved, IPv4 or IPv6.
    segment : int
        Bytes of a full datagram.
    buffer : int
        Bytes of receive buffer to ask for; what the kernel gave stands in ``receive_buffer``.
    offload : bool
        Use UDP_SEGMENT and UDP_GRO where the kernel has them.
    loss : float
        Probability with which the kernel drops an arriving buffer.

    Attributes
    ----------
    offload : bool
        Whether segments travel together.
    dropped : int
        Datagrams that the kernel dropped for want of buffer, as far as it has told.
    """

    def __init__(
        self, host: str, segment: int, *, buffer: int = 64 << 20, offload: bool = True, loss: float = 0.0
    ) -> None:
        found = socket.getaddrinfo(host, 0, type=socket.SOCK_DGRAM)
        if not found:
            raise ConfigError(f"`host`: {host} is no address of this machine")
        family, kind, protocol, _, address = found[0]
        self.socket = socket.socket(family, kind, protocol)
        try:
            self.socket.bind(address)
        except OSError as error:
            self.socket.close()
            raise ConfigError(f"`host`: {host}: {error.strerror or error}") from None
        self.socket.setblocking(False)
        self.segment, self.dropped = segment, 0
        self.receive_buffer = self._grow(socket.SO_RCVBUF, SO_RCVBUFFORCE, buffer)
        self._grow(socket.SO_SNDBUF, SO_SNDBUFFORCE, buffer)
        self._try(socket.SOL_SOCKET, SO_RXQ_OVFL, 1)
        self.offload = bool(offload and self._try(SOL_UDP, UDP_GRO, 1))
        self.offload = self.offload and self._try(SOL_UDP, UDP_SEGMENT, segment)
        self.batch = max(1, min(MOST_SEGMENTS, LARGEST // segment)) if self.offload else 1
        attach_loss(self.socket, loss)
        self._room = bytearray(LARGEST + 1)
        self.data = np.frombuffer(self._room, np.uint8)
        self.data32 = self.data[: len(self._room) // 4 * 4].view(np.float32)

    @property
    def address(self) -> tuple[Any, ...]:
        """Where it can be reached."""
        return tuple(self.socket.getsockname())

    def _try(self, level: int, option: int, value: int) -> bool:
        try:
            self.socket.setsockopt(level, option, value)
        except OSError:
            return False
        return True

    def _grow(self, option: int, force: int, size: int) -> int:
        if not self._try(socket.SOL_SOCKET, force, size):
            self._try(socket.SOL_SOCKET, option, size)
        return self.socket.getsockopt(socket.SOL_SOCKET, option)

    def send(self, data: memoryview, address: tuple[Any, ...]) -> bool:
        """Send a buffer, as segments where it is longer than one; False when there is no room for it now."""
        try:
            self.socket.sendto(data, address)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            # nobody listens there, or no route: as good as lost, which receivers bound and report
            if error.errno not in LOST_ERRORS:
                raise
        return True

    def receive(self) -> tuple[int, int]:
        """Take a buffer into ``data``: its length and that of its segments; (0, 1) when there is none."""
        try:
            length, ancillary, _, _ = self.socket.recvmsg_into([self._room], 128)
        except (BlockingIOError, InterruptedError, ConnectionRefusedError):
            return 0, 1
        segment = length
        for level, kind, value in ancillary:
            if level == SOL_UDP and kind == UDP_GRO:
                segment = _GRO_SIZE.unpack_from(value)[0]
            elif level == socket.SOL_SOCKET and kind == SO_RXQ_OVFL:
                self.dropped = _DROPS.unpack_from(value)[0]
        return length, max(segment, 1)

    def wait(self, seconds: float, *, room: bool = False) -> None:
        """Until something has come, or there is room to send where asked, or the time is over."""
        poll = select.poll()  # one of its own: two threads may wait
        poll.register(self.socket, select.POLLIN | (select.POLLOUT if room else 0))
        poll.poll(max(seconds, 0.0) * 1e3)

    def close(self) -> None:
        """Close it."""
        self.socket.close()
