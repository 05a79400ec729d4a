"""What a run of the packet engine assumes about switches and hosts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from euston import units
from euston.errors import ConfigError
from euston.fabrics.structure import Network

__all__ = ["Fault", "PacketSettings"]


@dataclass(frozen=True)
class Fault:
    """From ``time`` seconds on, named links run at ``factor`` of their capacity.

    ``factor`` 0 is a dead link: what waits on it or comes to it is lost. Queue and ECN thresholds shrink with
    the capacity. 1 repairs.
    """

    time: float
    links: tuple[str | int, ...]
    factor: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.time < float("inf"):
            raise ConfigError(f"`faults.time`: {self.time} s; it must be 0 or more")
        if not 0 <= self.factor < float("inf"):
            raise ConfigError(f"`faults.factor`: {self.factor}; 0 is dead, 1 is whole")
        if not self.links:
            raise ConfigError("`faults.links`: no link is named")


@dataclass(frozen=True)
class PacketSettings:
    """Queues, marks, pauses and timers. The defaults are those of uet-htsim @40ccb05 (`main_uec.cpp`).

    Parameters
    ----------
    trimming : bool
        A full queue cuts packets to their header instead of dropping them.
    queue : str or float, optional
        Bytes of a link's queue of one class. When left out what the fabric says, and where it says nothing
        the bandwidth-delay product of the longest path in whole packets, times 5 without trimming.
    ecn : (float, float), "transport" or None
        Marks begin and are certain at these parts of that product; "transport": as the transport asks for,
        (0.2, 0.8) where it says nothing; None: no marks.
    control_queue : float
        Bytes of the queue of control packets, in data queues.
    rto : str or float, optional
        Retransmission timeout, s; the transport's when left out, or 15 us and the time to drain six queues
        (4.2 ms with ``pfc``).
    retries : int
        Timeouts in a row without progress after which a flow is given up, counted since links last changed;
        nobody is while they are going to.
    ack_ratio : int
        Turns of control packets for one of data when both wait at a NIC.
    shared_buffer : str or float
        Bytes that all queues of a switch share, 0: every queue has its own. With ``pfc`` it has to hold
        what every incoming link may bring.
    alpha : float
        Dynamic threshold: a queue may hold ``alpha`` times what is free of the shared buffer.
    pfc : str or float
        Bytes of one incoming link and class that pause it, 0: no pauses.
    pfc_headroom : str or float, optional
        Bytes beyond ``pfc`` that a link may still bring until the pause takes effect. What is sent while
        the pause travels back, and two packets, when left out: nothing is ever lost with that.
    pfc_resume : str or float, optional
        Bytes at which it goes on; two packets less than ``pfc`` when left out.
    queue_weights : mapping of int to float
        Shares of the flows' queues in deficit round robin, 1 where none is named.
    window : int
        Packets between the first unacknowledged and the last sent, in largest windows.
    reconvergence : str or float
        Seconds from a fault until routes avoid dead links.
    sample : str or float
        Seconds between samples of the queues of ``sampled`` links, 0: none.
    sampled : tuple of str or int
    network : {"auto", "scale_out", "scale_up"}
        Which paths flows take.
    """

    trimming: bool = True
    queue: str | float | None = None
    ecn: tuple[float, float] | Literal["transport"] | None = "transport"
    control_queue: float = 2.0
    rto: str | float | None = None
    retries: int = 50
    ack_ratio: int = 10
    shared_buffer: str | float = 0.0
    alpha: float = 1.0
    pfc: str | float = 0.0
    pfc_headroom: str | float | None = None
    pfc_resume: str | float | None = None
    queue_weights: Mapping[int, float] = field(default_factory=dict)
    window: float = 8.0
    reconvergence: str | float = 0.0
    sample: str | float = 0.0
    sampled: tuple[str | int, ...] = ()
    network: Network = "auto"

    def __post_init__(self) -> None:
        def need(ok: bool, name: str, want: str) -> None:
            if not ok:
                raise ConfigError(f"`settings.{name}`: {getattr(self, name)!r}; {want}")

        if self.queue is not None:
            need(self._bytes("queue") > 0, "queue", "it must be more than 0 bytes")
        if isinstance(self.ecn, str):
            need(self.ecn == "transport", "ecn", "write (low, high) or transport")
        elif self.ecn is not None:
            need(len(self.ecn) == 2 and 0 <= self.ecn[0] <= self.ecn[1], "ecn", "write (low, high)")
        need(self.control_queue > 0, "control_queue", "it must be more than 0")
        if self.rto is not None:
            need(units.duration(self.rto, where="settings.rto") > 0, "rto", "it must be more than 0 s")
        need(self.retries >= 1, "retries", "it must be 1 or more")
        need(self.ack_ratio >= 0, "ack_ratio", "it must be 0 or more")
        need(self._bytes("shared_buffer") >= 0, "shared_buffer", "it must be 0 or more bytes")
        need(0 < self.alpha <= 1024, "alpha", "it must be between 0 and 1024")
        need(self._bytes("pfc") >= 0, "pfc", "it must be 0 or more bytes")
        if self.pfc_headroom is not None:
            need(self._bytes("pfc_headroom") >= 0, "pfc_headroom", "it must be 0 or more bytes")
        if self.pfc_resume is not None:
            need(0 <= self._bytes("pfc_resume") <= self._bytes("pfc"), "pfc_resume", "it must be below pfc")
        need(all(w > 0 for w in self.queue_weights.values()), "queue_weights", "weights must be positive")
        need(self.window >= 1, "window", "it must be 1 or more")
        for name in ("reconvergence", "sample"):
            value = units.duration(getattr(self, name), where=f"settings.{name}")
            need(value >= 0, name, "it must be 0 s or more")

    def _bytes(self, name: str) -> float:
        return units.data(getattr(self, name), where=f"settings.{name}")
