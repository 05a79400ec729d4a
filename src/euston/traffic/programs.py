"""AI on/off programs: computation and collectives of ranks, written as flows that wait for each other.

The rule: a message starts when its sender holds what it sends (the messages of the wave before that touched
it have ended) and neither end is computing, because a collective's kernel must run at both. Only flows wait,
so computation is the `delay` of the next message; what follows the last message is not part of the flows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from euston.errors import ConfigError, unknown
from euston.network.flows import MAX_FLOW_BYTES, Flows
from euston.seeds import stream
from euston.traffic.algorithms import ALGORITHMS, Chain, Wave, chains, parts
from euston.traffic.traffic import Collective, Traffic, dependent

__all__ = ["FORMS", "NESTED", "ProgramWriter"]

FORMS = ("steps", "edges")
"""``steps``: every message of the algorithm. ``edges``: one flow per edge, with the latency of all steps."""

NESTED = {"hierarchical": ("all_reduce", "reduce_scatter", "all_gather"), "two_level": ("all_to_all",)}
"""Algorithms over hosts and ranks in hosts, and the collectives that they do."""

_MOST_FLOWS = 2**24
_MOST_WAITS = 2**27

Stage = list[tuple[NDArray[np.int64], Chain]]


class ProgramWriter:
    """Writes flows in the order in which ranks start things.

    Parameters
    ----------
    step_latency : float
        Seconds that every step of a collective costs beside the wire.
    channels : int
        Equal parts of every message that run beside each other (channels, queue pairs).
    form : "steps" | "edges"
        See `FORMS`. Algorithms whose steps cannot overlap have no edges.
    seed : int
        Of the noise of computation.
    """

    def __init__(
        self, *, step_latency: float = 0.0, channels: int = 1, form: str = "steps", seed: int = 0
    ) -> None:
        if not 0 <= step_latency < np.inf:
            raise ConfigError(f"`step_latency`: {step_latency} s; it must be 0 or more")
        whole = isinstance(channels, int | np.integer) and not isinstance(channels, bool)
        if not whole or not 1 <= channels <= 1024:
            raise ConfigError(f"`channels`: {channels!r}; it must be 1 to 1024")
        if form not in FORMS:
            raise ConfigError(unknown("form", form, FORMS))
        self.step_latency, self.channels, self.form, self.seed = step_latency, int(channels), form, seed
        self._src: list[int] = []
        self._dst: list[int] = []
        self._bytes: list[int] = []
        self._delay: list[float] = []
        self._after: list[tuple[int, ...]] = []
        self._group: list[int] = []
        self._waits = 0
        self._draws = 0
        self._collectives: list[Collective] = []
        self._ready: dict[int, tuple[int, ...]] = {}  # flows that an endpoint's next message waits for
        self._busy: dict[int, float] = {}  # seconds it computes after they ended

    def __len__(self) -> int:
        return len(self._src)

    # ---- what ranks do ---------------------------------------------------------------------------------

    def compute(
        self,
        ranks: ArrayLike,
        seconds: float | ArrayLike,
        *,
        noise: float = 0.0,
        slow: Mapping[int, float] | None = None,
    ) -> None:
        """Ranks compute before their next message.

        Parameters
        ----------
        ranks : int[n]
            Endpoints.
        seconds : float or float[n]
        noise : float
            Sigma of a log-normal factor of mean 1, drawn per rank.
        slow : mapping of int to float
            Factor of single endpoints (stragglers).
        """
        who = np.atleast_1d(np.asarray(ranks, np.int64)).ravel()
        time = np.array(np.broadcast_to(np.asarray(seconds, np.float64), who.shape))
        if not ((time >= 0) & (time < np.inf)).all() or not 0 <= noise <= 5:
            raise ConfigError("`compute`: seconds must be 0 or more and finite, noise 0 to 5")
        if noise:
            draw = stream(self.seed, "compute", self._draws)
            time *= draw.lognormal(-(noise**2) / 2, noise, time.size)
        self._draws += 1
        factors = dict(slow or {})
        if any(not 0 < factor < np.inf for factor in factors.values()):
            raise ConfigError("`slow`: factors must be positive and finite; 2 takes twice as long")
        for rank, value in zip(who.tolist(), time.tolist(), strict=True):
            self._busy[rank] = self._busy.get(rank, 0.0) + value * factors.get(rank, 1.0)

    def collective(
        self, kind: str, ranks: ArrayLike, bytes_: int, *, algorithm: str | None = None, name: str = ""
    ) -> int:
        """A collective of M = ``bytes_`` per rank; returns its group.

        Parameters
        ----------
        kind : "all_reduce" | "reduce_scatter" | "all_gather" | "all_to_all"
            M is the full buffer in the convention of nccl-tests.
        ranks : int[n] or int[hosts, n per host]
            Endpoints; `hierarchical` and `two_level` need to know the hosts.
        algorithm : str, optional
            The first of `ALGORITHMS` for this kind when left out.

        Raises
        ------
        ConfigError
            Unknown names, ranks that are none, a number of ranks or bytes the algorithm cannot split.
        """
        grid = np.asarray(ranks, np.int64)
        flat = grid.ravel()
        if grid.ndim not in (1, 2) or flat.size < 2 or np.unique(flat).size != flat.size or flat.min() < 0:
            raise ConfigError(f"`ranks`: {kind} needs 2 or more different endpoints; got {flat.tolist()[:8]}")
        total = int(bytes_)
        if total != bytes_ or not 1 <= total <= MAX_FLOW_BYTES:
            raise ConfigError(f"`bytes`: {bytes_!r}; a buffer has 1 to 2^40 whole bytes")
        if algorithm in NESTED:
            stages = _nested(kind, algorithm, grid, total)
        else:
            if kind in ALGORITHMS and algorithm is not None and algorithm not in ALGORITHMS[kind]:
                fitting = [a for a, kinds in NESTED.items() if kind in kinds]
                known = [*ALGORITHMS[kind], *fitting]
                raise ConfigError(unknown(f"algorithm of {kind}", algorithm, known))
            stages = [[(flat, lane) for lane in chains(kind, algorithm, flat.size, total)]]
        used = algorithm or next(iter(ALGORITHMS[kind]))
        label = name or f"{kind} {len(self._collectives)}"
        group = len(self._collectives)
        self._collectives.append(Collective(label, kind, used, int(flat.size), total))
        for stage in stages:
            self._stage(stage, group, used)
        return group

    def send(self, src: ArrayLike, dst: ArrayLike, bytes_: int | ArrayLike, *, name: str = "") -> int:
        """Messages at the same time, each from a rank to another; returns their group."""
        s, d = np.atleast_1d(np.asarray(src, np.int64)), np.atleast_1d(np.asarray(dst, np.int64))
        size = np.array(np.broadcast_to(np.asarray(bytes_, np.int64), s.shape))
        if s.shape != d.shape or s.ndim != 1 or (s == d).any() or (size < 1).any():
            raise ConfigError("`send`: needs one destination per source, another one, and 1 byte or more")
        group = len(self._collectives)
        self._collectives.append(Collective(name or f"send {group}", "send", "p2p", 2, int(size.max())))
        ranks, at = np.unique(np.concatenate((s, d)), return_inverse=True)
        wave = Wave(at[: s.size], at[s.size :], size)
        self._stage([(ranks, Chain((wave,)))], group, "p2p")
        return group

    # ---- lowering --------------------------------------------------------------------------------------

    def _stage(self, stage: Stage, group: int, algorithm: str) -> None:
        """Chains that run beside each other; each starts from what its ranks were before all of them."""
        count = sum(wave.src.size for _, lane in stage for wave in lane.waves) * self.channels
        if len(self) + count > _MOST_FLOWS and self.form == "steps":
            raise ConfigError(
                f"`form`: {len(self) + count:,} messages, at most {_MOST_FLOWS:,}; use edges or fewer ranks"
            )
        ready, busy = dict(self._ready), dict(self._busy)
        merged: dict[int, list[tuple[int, ...]]] = {}
        for ranks, lane in stage:
            if self.form == "edges" and not lane.pipelined:
                raise ConfigError(f"`form`: the steps of {algorithm} wait for each other; use steps")
            for channel in range(self.channels):
                if self.form == "edges":
                    left = self._edges(ranks.tolist(), self._share(lane, channel), group, ready, busy)
                else:
                    left = self._steps(ranks.tolist(), self._share(lane, channel), group, ready, busy)
                for rank, flows in left.items():
                    merged.setdefault(rank, []).append(flows)
        known: dict[tuple[int, ...], tuple[int, ...]] = {}
        for rank, sets in merged.items():
            key = tuple(map(id, sets))
            if key not in known:
                known[key] = _union(sets)
            self._ready[rank] = known[key]
            self._busy.pop(rank, None)

    def _share(self, lane: Chain, channel: int) -> tuple[Wave, ...]:
        if self.channels == 1:
            return lane.waves
        k = self.channels
        waves = [w._replace(bytes=w.bytes // k + (channel < w.bytes % k)) for w in lane.waves]
        if any((w.bytes < 1).any() for w in waves):
            raise ConfigError(f"`channels`: messages are too short for {k} parts; use fewer channels")
        return tuple(waves)

    def _emit(self, src: int, dst: int, size: int, after: tuple[int, ...], delay: float, group: int) -> int:
        self._waits += len(after)
        if self._waits > _MOST_WAITS:
            raise ConfigError("`form`: too many flows wait for each other; use steps, or fewer ranks")
        self._src.append(src)
        self._dst.append(dst)
        self._bytes.append(size)
        self._after.append(after)
        self._delay.append(delay)
        self._group.append(group)
        return len(self._src) - 1

    def _steps(
        self,
        ranks: list[int],
        waves: Sequence[Wave],
        group: int,
        ready_before: Mapping[int, tuple[int, ...]],
        busy_before: Mapping[int, float],
    ) -> dict[int, tuple[int, ...]]:
        """Every message; returns what the next message of each rank that took part waits for."""
        ready = {rank: ready_before.get(rank, ()) for rank in ranks}
        busy = {rank: busy_before[rank] for rank in ranks if rank in busy_before}
        touched: set[int] = set()
        for wave in waves:
            sent: dict[int, list[int]] = {}
            received: dict[int, list[int]] = {}
            for i, j, size in zip(wave.src.tolist(), wave.dst.tolist(), wave.bytes.tolist(), strict=True):
                s, d = ranks[i], ranks[j]
                after, delay = ready[s], busy.get(s, 0.0)
                if d in busy:
                    after, delay = tuple(dict.fromkeys(after + ready[d])), max(delay, busy[d])
                flow = self._emit(s, d, size, after, delay + self.step_latency, group)
                sent.setdefault(s, []).append(flow)
                received.setdefault(d, []).append(flow)
            for rank in sent.keys() | received.keys():
                # a send has waited for all that its rank held before; a receive alone has not
                before = () if rank in sent else ready[rank]
                ready[rank] = (*before, *sent.get(rank, ()), *received.get(rank, ()))
                busy.pop(rank, None)
                touched.add(rank)
        return {rank: ready[rank] for rank in touched}

    def _edges(
        self,
        ranks: list[int],
        waves: Sequence[Wave],
        group: int,
        ready_before: Mapping[int, tuple[int, ...]],
        busy_before: Mapping[int, float],
    ) -> dict[int, tuple[int, ...]]:
        """One flow per edge, all from when the last rank is ready: a pipeline is as fast as its slowest."""
        after = _union([ready_before.get(rank, ()) for rank in ranks])
        delay = max(busy_before.get(rank, 0.0) for rank in ranks) + self.step_latency * len(waves)
        n = len(ranks)
        pair = np.concatenate([w.src * n + w.dst for w in waves])
        edge, at = np.unique(pair, return_inverse=True)
        size = np.zeros(edge.size, np.int64)
        np.add.at(size, at, np.concatenate([w.bytes for w in waves]))
        flows = tuple(
            self._emit(ranks[int(e) // n], ranks[int(e) % n], int(b), after, delay, group)
            for e, b in zip(edge, size, strict=True)
        )
        return dict.fromkeys(ranks, flows)

    # ---- the result ------------------------------------------------------------------------------------

    def traffic(self, **about: Any) -> Traffic:
        """The flows written so far.

        Raises
        ------
        ConfigError
            When nothing was sent.
        """
        if not self._src:
            raise ConfigError("`program`: sends nothing; add a collective or a send")
        flows = Flows.of(
            self._src,
            self._dst,
            self._bytes,
            group=self._group,
            tags=[c.name for c in self._collectives],
            where="program",
        )
        flows = dependent(flows, self._after, self._delay)
        settings = {
            "form": self.form,
            "channels": self.channels,
            "step_latency_s": self.step_latency,
            "seed": self.seed,
        }
        return Traffic(flows, {**about, **settings}, tuple(self._collectives))


def _union(sets: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """All members once, in order; tuples that are one object count once."""
    different = list({id(members): members for members in sets}.values())
    return different[0] if len(different) == 1 else tuple(dict.fromkeys(chain.from_iterable(different)))


def _nested(kind: str, algorithm: str, grid: NDArray[np.int64], total: int) -> list[Stage]:
    """Stages over [hosts, ranks per host]."""
    if kind not in NESTED[algorithm]:
        raise ConfigError(f"`algorithm`: {algorithm} is for {', '.join(NESTED[algorithm])}, not for {kind}")
    if grid.ndim != 2:
        raise ConfigError(f"`ranks`: {algorithm} needs endpoints as [hosts, ranks per host]")
    hosts, g = grid.shape
    if algorithm == "two_level":
        return _two_level(grid, total)
    size = parts(total, g)

    def inside(collective: str) -> Stage:
        if g == 1:
            return []
        return [(grid[h], c) for h in range(hosts) for c in chains(collective, "ring", g, total)]

    def rails(collective: str) -> Stage:
        if hosts == 1:
            return []
        return [(grid[:, k], c) for k in range(g) for c in chains(collective, "ring", hosts, int(size[k]))]

    order = {
        "all_reduce": [inside("reduce_scatter"), rails("all_reduce"), inside("all_gather")],
        "reduce_scatter": [inside("reduce_scatter"), rails("reduce_scatter")],
        "all_gather": [rails("all_gather"), inside("all_gather")],
    }[kind]
    return [stage for stage in order if stage]


def _two_level(grid: NDArray[np.int64], total: int) -> list[Stage]:
    """All-to-all over two hops: inside the host to the receiver's rail, then along the rail (NCCL's PXN)."""
    hosts, g = grid.shape
    if total < hosts * g:
        raise ConfigError(f"`bytes`: {total} bytes leave parts without a byte among {hosts * g} ranks")
    size = parts(total, hosts * g).reshape(hosts, g)  # part of every buffer that goes to host h, rank k
    stages: list[Stage] = []
    if g > 1:
        j, k = (a.ravel() for a in np.nonzero(~np.eye(g, dtype=bool)))
        wave = Wave(j, k, size.sum(axis=0)[k])
        stages.append([(grid[h], Chain((wave,))) for h in range(hosts)])
    if hosts > 1:
        a, b = (x.ravel() for x in np.nonzero(~np.eye(hosts, dtype=bool)))
        stages.append([(grid[:, r], Chain((Wave(a, b, g * size[b, r]),))) for r in range(g)])
    return stages
