"""The packet engine: flows, packet by packet, as a component of the clock or run to their end at once."""

from __future__ import annotations

import time as clock
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from euston import units
from euston.errors import ConfigError, RouteError, SimulationError
from euston.fabrics import Fabric
from euston.network._stuck import never_end
from euston.network.balancing.base import PathChoice, PathMode
from euston.network.flows import FlowResult, Flows
from euston.network.packet import _build, _kernel
from euston.network.packet import _layout as y
from euston.network.packet._extras import closings, missing
from euston.network.packet._lossless import check_deadlock
from euston.network.packet._path_table import in_pairs, path_table
from euston.network.packet.settings import Fault, PacketSettings
from euston.network.transport.base import Recovery, Transport
from euston.network.transport.nscc import Nscc

__all__ = ["PacketEngine", "run_packets"]

PS = 1e12
MIXED_64 = PathChoice(PathMode.MIXED, 64)  # what uet-htsim's htsim_uec does without options


def _path_choice(balancing: Any, fabric: Fabric) -> PathChoice:
    """The packet engine's view of a balancing policy."""
    view = balancing if isinstance(balancing, PathChoice) else getattr(balancing, "packet", None)
    view = view() if callable(view) else view
    if not isinstance(view, PathChoice):
        name = getattr(balancing, "name", type(balancing).__name__)
        raise ConfigError(f"`policies.balancing`: {name!r} says nothing about packets; use another policy")
    if view.mode == PathMode.ADAPTIVE and in_pairs(fabric):
        return view._replace(mode=PathMode.UGAL)
    return view


class PacketEngine:
    """Flows on a fabric, packet by packet.

    Parameters
    ----------
    flows : Flows
    fabric : Fabric
    transport : Transport
    balancing : PathChoice, or a balancing policy with ``packet``
    settings : PacketSettings
    seed : int
    faults : sequence of Fault
    notify : bool[F], optional
        `advance` stops right after the end of such a flow and reports it.
    held : bool[F], optional
        Flows that wait for `release` beside their other conditions.

    Raises
    ------
    ConfigError, RouteError, FabricError
        For input that cannot be run.
    """

    def __init__(
        self,
        flows: Flows,
        fabric: Fabric,
        *,
        transport: Transport | None = None,
        balancing: Any = MIXED_64,
        settings: PacketSettings | None = None,
        seed: int = 0,
        faults: Sequence[Fault] = (),
        notify: ArrayLike | None = None,
        held: ArrayLike | None = None,
    ) -> None:
        self.flows, self.fabric, self.seed = flows, fabric, seed
        self.transport = Nscc() if transport is None else transport
        self.settings = PacketSettings() if settings is None else settings
        self.choice = _path_choice(balancing, fabric)
        none = np.zeros(len(flows), np.bool_)
        self._held = none.copy() if held is None else np.array(held, np.bool_)
        told = none if notify is None else np.asarray(notify, np.bool_)
        if self._held.shape != none.shape or told.shape != none.shape:
            raise ConfigError(
                f"packet engine: `notify` and `held` need one value for each of {none.size} flows"
            )
        # ECMP with a hash of its own (and its own polarisation) says which paths those are
        hashes = self.choice.mode == PathMode.ECMP
        self._numbers = getattr(balancing, "choices", None) if hashes else None
        self._plan, table = _build.plan(
            flows, fabric, self.transport, self.choice, self.settings, seed, self._numbers
        )
        self._net, self._state, self._rings = _build.build(
            flows, fabric, self.transport, self.settings, self._plan, table, told, self._held
        )
        self._capacity = fabric.capacity.copy()
        pause = units.duration(self.settings.reconvergence, where="settings.reconvergence")
        planned: list[tuple[float, int, NDArray[np.int64], float]] = []
        for fault in faults:
            links = [fabric.link_index(k) if isinstance(k, str) else int(k) for k in fault.links]
            if min(links) < 0 or max(links) >= fabric.links:
                raise ConfigError(f"`faults.links`: there are links 0 to {fabric.links - 1}")
            planned.append((fault.time, 0, np.array(links), fault.factor))
            planned.append((fault.time + pause, 1, np.array(links), fault.factor))
        self._faults = sorted(planned, key=lambda f: (f[0], f[1]))
        self._patience()
        self._wall = 0.0

    # ---- a component of the clock ----------------------------------------------------------------------

    name = "packet"

    @property
    def now(self) -> float:
        """Seconds of the last event."""
        return float(self._state.counter[y.G_NOW]) / PS

    def next_time(self) -> float:
        """Seconds of the next event, inf when there is none."""
        ps = int(_kernel.next_event(self._net, self._state))
        time = ps / PS if ps < y.INF else float("inf")
        if self._faults and self._running():
            time = min(time, self._faults[0][0])
        return time

    @property
    def _lossy(self) -> bool:
        return bool(self._net.config[y.K_RECEIVER] & y.R_LOSSY)

    def _running(self) -> bool:
        return bool(self._state.counter[y.G_ENDED] < len(self.flows))

    def release(self, flows: ArrayLike, time: float | None = None) -> None:
        """Held flows need to be held no longer, from ``time`` seconds on (now when left out)."""
        when = self.now if time is None else max(time, self.now)
        for f in np.atleast_1d(np.asarray(flows, np.int64)).tolist():
            if not 0 <= f < len(self.flows) or not self._held[f]:
                raise SimulationError(f"flow {f} is not held; only flows declared so can be released")
            self._held[f] = False
            row = self._state.flow[f]
            row[y.F_OPEN] -= 1
            if row[y.F_OPEN] == 0:
                start = max(row[y.N_EARLIEST], round(when * PS))
                if self._state.counter[y.G_HEAP] + 2 > self._state.heap.shape[0]:
                    self._net, self._state = _build.grown(self._net, self._state, y.GROW_HEAP)
                _kernel.push_start(self._net, self._state, start, f)

    def advance(self, until: float = float("inf")) -> NDArray[np.int32]:
        """Run to ``until`` seconds or right after the end of a flow that notifies; such flows, int32[...]."""
        begun = clock.perf_counter()
        try:
            while True:
                stop = until
                if self._faults and self._running():
                    stop = min(stop, self._faults[0][0])
                limit = y.INF - 1 if stop == float("inf") else np.int64(np.floor(stop * PS + 0.5))
                if stop < until:  # a fault comes before what else happens then
                    limit -= 1
                why = int(_kernel.advance(self._net, self._state, limit))
                if why in (y.GROW_PACKETS, y.GROW_SLOTS, y.GROW_HEAP, y.GROW_SAMPLES):
                    self._net, self._state = _build.grown(self._net, self._state, why)
                elif why == y.TOLD:
                    flow = int(self._state.counter[y.G_TOLD])
                    self._state.counter[y.G_TOLD] = -1
                    return np.array([flow], np.int32)
                elif stop < until and self._running():
                    self._apply(self._faults.pop(0))
                else:
                    if why == y.DONE_ALL and self._net.config[y.K_XOFF] > 0 and self.in_flight():
                        check_deadlock(self._net, self._state, self.fabric)
                    return np.zeros(0, np.int32)
        finally:
            self._wall += clock.perf_counter() - begun

    # ---- faults ----------------------------------------------------------------------------------------

    def _apply(self, fault: tuple[float, int, NDArray[np.int64], float]) -> None:
        """Change links, or, later, the routes around those that are dead."""
        time, routes, links, factor = fault
        now = round(time * PS)
        self._state.counter[y.G_NOW] = max(now, int(self._state.counter[y.G_NOW]))
        self._state.slot[:, y.S_TRIES] = 0
        self._patience()
        if routes:
            self._reroute()
            return
        self._capacity[links] = self.fabric.capacity[links] * factor
        _build.check_speed(self._capacity[self._capacity > 0])
        state, net = self._state, self._net
        alive = self._capacity > 0
        present = np.where(alive, self._capacity, self.fabric.capacity)
        rate, row = _build.rates(present, self.transport.mtu, self.transport.header, net.config, self._rings)
        rings = int(net.config[y.K_ARRIVALS]) + len(self._rings)
        more = rings - state.rings.shape[0]
        if more:
            empty = np.zeros((more, 4), np.int64)
            empty[:, y.X_FIRST] = y.INF
            state = state._replace(
                rings=np.concatenate((state.rings, empty)),
                ring=np.concatenate((state.ring, np.zeros((more, *state.ring.shape[1:]), np.int64))),
            )
            net.config[y.K_RINGS] = rings
        limit = state.link[:, y.L_LIMIT].copy()
        state.link[:, y.L_RATE] = row
        _build.capacities(state.link, present, self._plan)
        if net.config[y.K_XOFF] > 0:
            state.link[:, y.L_LIMIT] = limit
        elif self.settings.queue is None:
            keep = self.fabric.buffer_bytes > 0
            state.link[keep, y.L_LIMIT] = limit[keep]
        state.link[:, y.L_STATE] = np.where(
            alive, state.link[:, y.L_STATE] & ~y.DOWN, state.link[:, y.L_STATE] | y.DOWN
        )
        classes = net.rate[int(net.config[y.K_CLASS_ROW]) :]
        net.config[y.K_CLASS_ROW] = rate.shape[0]
        self._net = net._replace(rate=np.concatenate((rate, classes)))
        self._state = state
        for at in links.tolist() if factor == 0 else []:
            _kernel.flush(self._net, self._state, np.int64(at), np.int64(now))

    def _patience(self) -> None:
        """Nobody is given up while links are going to change: a way may come back."""
        self._net.config[y.K_TRIES] = y.INF if self._faults else self.settings.retries

    def _reroute(self) -> None:
        """New paths for packets sent from now on; those on their way keep theirs.

        Flows without a live path keep the old ones, and time out.
        """
        flow, net, alive = self._state.flow, self._net, self._capacity > 0
        open_ = np.flatnonzero(np.isin(flow[:, y.F_STATE], (y.WAITING, y.RUNNING)))
        src, dst = self.flows.src[open_], self.flows.dst[open_]
        reached = self._reached(src, dst, alive) & self._reached(dst, src, alive)
        open_, src, dst = open_[reached], src[reached], dst[reached]
        if self._numbers is not None and reached.all():  # its hash may count all flows between two endpoints
            everyone = self._reached(self.flows.src, self.flows.dst, alive)
            if everyone.all() and self._reached(self.flows.dst, self.flows.src, alive).all():
                open_, src, dst = np.arange(len(self.flows)), self.flows.src, self.flows.dst
        if open_.size == 0:
            return
        table = path_table(
            self.fabric,
            src,
            dst,
            self.choice.entropies,
            self.seed,
            network=self.settings.network,
            alive=alive,
            numbers=self._numbers,
        )
        width = int(net.config[y.K_HOPS])
        if table.links.shape[1] > width:
            raise SimulationError(f"a way around dead links has more than {width - 1} links")
        base = net.hop.size // width
        links = np.full((table.links.shape[0], width), -1, np.int32)
        links[:, : table.links.shape[1]] = table.links
        way = np.where(table.hashed, 1, -1)
        running = open_[flow[open_, y.F_STATE] == y.RUNNING] if net.config[y.K_WEIGHTED] else open_[:0]
        _kernel.recount(net, self._state, running, np.int64(-1))
        flow[open_, y.N_FORWARD], flow[open_, y.N_FORWARD_N] = table.forward + base, table.forward_n * way
        flow[open_, y.N_BACK], flow[open_, y.N_BACK_N] = table.back + base, table.back_n * way
        self._net = net._replace(hop=np.concatenate((net.hop, links.reshape(-1))))
        _kernel.recount(self._net, self._state, running, np.int64(1))

    def _reached(
        self, src: NDArray[np.int32], dst: NDArray[np.int32], alive: NDArray[np.bool_]
    ) -> NDArray[np.bool_]:
        """Which pairs have a live path: all at once, and by halves where one has none."""
        try:
            self.fabric.route(src, dst, 0, network=self.settings.network, alive=alive)
        except RouteError:
            half = src.size // 2
            if half == 0:
                return np.zeros(src.size, np.bool_)
            return np.concatenate(
                (self._reached(src[:half], dst[:half], alive), self._reached(src[half:], dst[half:], alive))
            )
        return np.ones(src.size, np.bool_)

    # ---- results ---------------------------------------------------------------------------------------

    def in_flight(self) -> int:
        """Packets that are queued, being sent or on their way.

        Raises
        ------
        SimulationError
            When packets were lost or doubled by the engine itself.
        """
        count = self._state.counter
        held = self._state.packet.shape[0] - int(count[y.G_FREE_N])
        made = int(count[y.G_MADE])
        if made != int(count[y.G_DELIVERED]) + int(count[y.G_DROPPED]) + held:
            raise SimulationError(
                f"packets are not conserved: {made} made, {count[y.G_DELIVERED]} delivered, "
                f"{count[y.G_DROPPED]} dropped, {held} held"
            )
        return held

    def result(self) -> FlowResult:
        """What became of the flows so far; see `FlowResult`.

        Tables: ``queues`` (one line per link that carried anything: bytes, marks, pauses, where marks begin,
        what fits into one class), ``flows`` (packets sent again, timeouts;
        when, why and with what receivers of bounded loss closed), ``missing`` (their byte ranges that never
        came: flow, first_byte, bytes) and, when sampled, ``series`` (time in s, queue bytes of each link).
        """
        self.in_flight()
        state, count = self._state, self._state.counter

        def seconds(column: np.uintp) -> NDArray[np.float64]:
            ps = state.flow[:, column]
            return np.where(ps >= 0, ps / PS, np.nan)

        end = np.where(state.flow[:, y.F_STATE] == y.ENDED, seconds(y.F_END), np.nan)
        stats = {
            name: float(count[column])
            for name, column in (
                ("events", y.G_EVENTS), ("packets", y.G_MADE), ("data_packets", y.G_DATA),
                ("retransmitted", y.G_AGAIN), ("marks", y.G_MARKED), ("trims", y.G_TRIMMED),
                ("drops", y.G_DROPPED), ("acks", y.G_ACKS), ("nacks", y.G_NACKS),
                ("timeouts", y.G_TIMEOUTS), ("duplicates", y.G_DUPLICATES), ("pauses", y.G_PAUSES),
                ("given_up", y.G_DEAD), ("cnps", y.G_CNPS), ("pulls", y.G_PULLS),
            )
        }  # fmt: skip
        stats["unfinished"] = float(np.isnan(end).sum())
        tables = self._tables()
        if self._lossy:
            stats["missing_bytes"] = float(tables["missing"]["bytes"].sum())
        return FlowResult(
            flows=self.flows,
            start=seconds(y.F_START),
            end=end,
            link_bytes=state.link[:, y.L_SENT].astype(np.float64),
            stats=stats,
            tables=tables,
            meta={
                "fidelity": "packet",
                "ends": "the sender knows that "
                + ("the receiver is content" if self._lossy else "all bytes arrived"),
                "tol": 0.0,
                "seed": self.seed,
                "fold_ratio": 1.0,
                "wall_s": self._wall,
                "mtu": self.transport.mtu,
                "header": self.transport.header,
                "transport": repr(self.transport),
                "balancing": f"{PathMode(self.choice.mode).name.lower()}, {self.choice.entropies} entropies",
                "settings": repr(self.settings),
                "rtt": self._plan.network.rtt,
                "queue_bytes": self._plan.queue,
                "ecn_bytes": (self._plan.low, self._plan.high),
                "rto": self._plan.rto,
                "warnings": self._warnings(),
            },
            arrived=self._arrived(tables),
        )

    def _arrived(self, tables: dict[str, pl.DataFrame]) -> NDArray[np.float64]:
        """Payload at the receivers, float64[F]."""
        state, (mtu, header) = self._state, (self.transport.mtu, self.transport.header)
        flow, size = state.flow, self.flows.bytes.astype(np.float64)
        wire = np.where(flow[:, y.F_STATE] == y.DEAD, flow[:, y.F_GOT] * mtu, 0)
        running = flow[:, y.F_STATE] == y.RUNNING
        wire[running] = state.slot[flow[running, y.F_SLOT], y.S_RECEIVED]
        part = np.minimum(size, wire - -(-wire // mtu) * header)
        if not self._lossy:
            return np.where(flow[:, y.F_STATE] == y.ENDED, size, part)
        lost = np.zeros(size.size)
        np.add.at(lost, tables["missing"]["flow"].to_numpy(), tables["missing"]["bytes"].to_numpy())
        return np.where(flow[:, y.F_CLOSED] > 0, size - lost, part)

    def _warnings(self) -> list[str]:
        """What made these results worse than a network operator would let happen."""
        count = self._state.counter
        found: list[str] = []
        if self._plan.lowered.recovery != Recovery.GO_BACK_N:
            return found
        name, again = self.transport.name, int(count[y.G_AGAIN])
        if self._plan.network.sprayed and again:
            found.append(
                f"{name} throws away packets that overtake others, and paths were chosen per packet: "
                f"{again:,} were sent again; use balancing ecmp, or the transport with selective: true"
            )
        lost = int(count[y.G_DROPPED] + count[y.G_TRIMMED])
        if lost and not self._plan.network.pauses:
            found.append(
                f"{name} is made for links that lose nothing: {lost:,} packets were dropped or cut and "
                f"{again:,} sent again; pause links instead (packet setting pfc, e.g. 300 kB)"
            )
        return found

    @property
    def _own_limits(self) -> bool:
        """Whether a queue has a limit of its own: no shared buffer, no room counted by incoming links."""
        return bool(self._net.config[y.K_XOFF] == 0 and self._net.config[y.K_SHARED] == 0)

    @staticmethod
    def _shown(bytes_: NDArray[np.int64]) -> list[int | None]:
        """Thresholds; None for those that no queue reaches."""
        return [v if v < 2**60 else None for v in bytes_.tolist()]

    def _tables(self) -> dict[str, pl.DataFrame]:
        state, now = self._state, int(self._state.counter[y.G_NOW])
        used = np.flatnonzero(state.link[:, y.L_SENT] > 0)
        link = state.link[used]
        halted = link[:, y.L_HALTED] + np.where(link[:, y.L_PAUSED] > 0, now - link[:, y.L_HALTED_AT], 0)
        area = link[:, y.L_AREA] * 1024.0 + link[:, y.L_BYTES] * (now - link[:, y.L_SINCE]).astype(np.float64)
        tables = {
            "queues": pl.DataFrame(
                {
                    "link": used,
                    "name": [self.fabric.link_name(int(k)) for k in used],
                    "wire_bytes": link[:, y.L_SENT],
                    "max_bytes": link[:, y.L_MOST],
                    "mean_bytes": area / max(now, 1),
                    "marks": link[:, y.L_MARKS],
                    "trims": link[:, y.L_TRIMS],
                    "drops": link[:, y.L_DROPS],
                    "pauses": link[:, y.L_PAUSES],
                    "paused_s": halted / PS,
                    "ecn_bytes": pl.Series(self._shown(link[:, y.L_LOW]), dtype=pl.Int64),
                    "limit_bytes": pl.Series(
                        self._shown(link[:, y.L_LIMIT] if self._own_limits else np.full(used.size, y.INF)),
                        dtype=pl.Int64,
                    ),
                }
            ),
            "flows": pl.DataFrame(
                {
                    "flow": np.arange(len(self.flows)),
                    "retransmitted": state.flow[:, y.F_AGAIN],
                    "timeouts": state.flow[:, y.F_TIMEOUTS],
                }
            ),
        }
        if self._lossy:
            payload = self.transport.mtu - self.transport.header
            tables["flows"] = tables["flows"].hstack(closings(state.flow))
            tables["missing"] = missing(state.flow, state.extra, payload, self.flows)
        sampled = int(self._net.config[y.K_SAMPLED_N])
        if sampled:
            rows = state.series[: int(state.counter[y.G_SAMPLES])]
            at = int(self._net.config[y.K_SAMPLED])
            names = [self.fabric.link_name(int(k)) for k in self._net.lists[at : at + sampled]]
            columns = {name: rows[:, k + 1] for k, name in enumerate(names)}
            tables["series"] = pl.DataFrame({"time": rows[:, 0] / PS, **columns})
        return tables


def run_packets(
    flows: Flows,
    fabric: Fabric,
    *,
    transport: Transport | None = None,
    balancing: Any = MIXED_64,
    settings: PacketSettings | None = None,
    seed: int = 0,
    faults: Sequence[Fault] = (),
    until: float = float("inf"),
) -> FlowResult:
    """Run flows to their ends (or to ``until`` seconds), packet by packet.

    Parameters are those of `PacketEngine`.

    Raises
    ------
    SimulationError
        When flows never end: no answer after many timeouts (a partition, a deadlock of pauses), with the
        first of them.
    ConfigError, RouteError, FabricError
        For input that cannot be run.
    """
    engine = PacketEngine(
        flows, fabric, transport=transport, balancing=balancing, settings=settings, seed=seed, faults=faults
    )
    engine.advance(until)
    result = engine.result()
    if until == float("inf") and not result.finished.all():
        why = "no answer after many timeouts, or a pause never ends"
        raise SimulationError(never_end(flows, fabric, result.finished, np.isfinite(result.start), why))
    return result
