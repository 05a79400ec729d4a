"""Traffic from a matrix and sizes: rounds of all at once, or an open loop at the load of a named link."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from euston.errors import ConfigError
from euston.fabrics import Fabric, NodeKind
from euston.network.flows import Flows
from euston.seeds import stream
from euston.traffic.arrivals import arrivals as draw_arrivals
from euston.traffic.matrices import Matrix, matrix
from euston.traffic.sizes import draw, size_distribution
from euston.traffic.traffic import Traffic

__all__ = ["burst", "injection_capacity", "link_load", "open_loop", "poisson_flows"]

_MOST = 2**26


def burst(
    pattern: Matrix,
    sizes: object,
    *,
    rounds: int = 1,
    period: float = 0.0,
    jitter: float = 0.0,
    flows: int | None = None,
    seed: int = 0,
) -> Traffic:
    """All pairs of a matrix at once, once or every ``period`` seconds (a periodic incast).

    Parameters
    ----------
    pattern : Matrix
    sizes
        See `size_distribution`.
    rounds : int
        How often.
    period : float
        Seconds between the starts of two rounds.
    jitter : float
        Every flow starts up to so many seconds later, uniformly.
    flows : int, optional
        Flows per round for a matrix that draws them.

    Raises
    ------
    ConfigError
        Numbers that make no sense.
    """
    if rounds < 1 or not 0 <= period < np.inf or not 0 <= jitter < np.inf:
        raise ConfigError(
            f"`rounds`: {rounds} rounds every {period} s, jitter {jitter} s; needs 1 or more and times >= 0"
        )
    if pattern.src.size * rounds > _MOST:
        raise ConfigError(f"`rounds`: {pattern.src.size * rounds:,} flows are more than {_MOST:,}")
    dist = size_distribution(sizes)
    drawn = pattern.sample is not None or flows is not None
    pairs = [pattern.pairs(_round_seed(seed, k) if drawn else seed, flows) for k in range(rounds)]
    src = np.concatenate([s for s, _ in pairs])
    dst = np.concatenate([d for _, d in pairs])
    start = np.repeat(np.arange(rounds) * period, [s.size for s, _ in pairs])
    if jitter:
        start = start + jitter * stream(seed, "jitter").random(start.size)
    bytes_ = draw(dist, src.size, stream(seed, "sizes"))
    made = Flows.of(src, dst, bytes_, start=start, where=pattern.kind)
    about = {
        "pattern": pattern.kind,
        **pattern.about,
        "arrivals": "all at once",
        "rounds": rounds,
        "period_s": period,
        "seed": seed,
        "sizes": dist.about(),
    }
    return Traffic(made, about)


def _round_seed(seed: int, number: int) -> int:
    return int(stream(seed, "round", number).integers(2**62))


def injection_capacity(fabric: Fabric) -> NDArray[np.float64]:
    """Bytes/s that each endpoint can send into the scale-out network, float64[endpoints].

    Endpoints that share a NIC have equal parts of it.
    """
    return fabric.injection_bandwidth


def link_load(fabric: Fabric, pattern: Matrix) -> NDArray[np.float64]:
    """Expected share of all offered bytes that crosses each link, evenly spread, float64[L]."""
    src, dst, weight = pattern.expected()
    spread = fabric.spread(src, dst, network="auto")
    flow = np.repeat(np.arange(src.size), np.diff(spread.ptr))
    rows = np.bincount(spread.row, weights=spread.fraction * weight[flow], minlength=fabric.rows)
    return fabric.link_load(np.asarray(rows, np.float64))


def _core(fabric: Fabric) -> NDArray[np.int64]:
    """Links between switches of the scale-out network."""
    outer = [NodeKind.ENDPOINT, NodeKind.NIC, NodeKind.SCALE_UP_SWITCH]
    edge = np.isin(fabric.node_kind, outer)
    return np.flatnonzero(~edge[fabric.link_src] & ~edge[fabric.link_dst])


def open_loop(
    fabric: Fabric,
    pattern: Matrix,
    sizes: object,
    *,
    load: float,
    duration: float,
    arrivals: str = "poisson",
    sigma: float = 1.0,
    on: str = "host",
    seed: int = 0,
) -> Traffic:
    """Flows that arrive whatever becomes of those before, at a load of a link.

    Parameters
    ----------
    load : float
        Payload offered to the link named by ``on``, share of its capacity.
    duration : float
        Seconds in which flows start.
    arrivals : "poisson" | "lognormal" | "periodic"
        Gaps between the flows of one source.
    sigma : float
        Burstiness of log-normal gaps.
    on : "host" | "core"
        ``host``: the busiest sending endpoint's share of its NIC, so ``rate = load * capacity / mean size``
        per endpoint where all send alike. ``core``: the link between switches on which even spreading puts
        most.
    seed : int

    Returns
    -------
    Traffic
        ``about`` names the link, the rate and the load that the drawn flows really offer.

    Raises
    ------
    ConfigError
        A load or duration that is none, or a core that the matrix never crosses.
    """
    if not 0 < load <= 10:
        raise ConfigError(f"`load`: {load} is no load; write 0.5 for 50 % of the link")
    if on not in ("host", "core"):
        raise ConfigError(f"`on`: {on!r} is not one of host, core")
    if pattern.endpoints != fabric.endpoints:
        raise ConfigError(
            f"`pattern`: made for {pattern.endpoints} endpoints; {fabric.name!r} has {fabric.endpoints}"
        )
    dist = size_distribution(sizes)
    nic = injection_capacity(fabric)
    per_byte = link_load(fabric, pattern) / fabric.capacity  # link utilisation per byte/s offered in all
    core = _core(fabric)
    busiest = int(core[np.argmax(per_byte[core])]) if core.size else -1
    if on == "host":
        sender = int(np.argmax(pattern.share / nic))
        total = load / (pattern.share[sender] / nic[sender])
        link = f"NIC of {fabric.endpoint_name(sender)}"
    else:
        if busiest < 0 or per_byte[busiest] == 0:
            raise ConfigError(f"`on`: {pattern.kind!r} never crosses the core of {fabric.name!r}; use host")
        total = load / per_byte[busiest]
        link = fabric.link_name(busiest)
    rate = total * pattern.share / dist.mean
    src, start = draw_arrivals(arrivals, rate, duration, stream(seed, "arrivals"), sigma=sigma)
    if not src.size:
        raise ConfigError(
            f"`duration`: no flow arrives in {duration:g} s; {rate.sum():.3g} flows/s are expected"
        )
    dst = pattern.destinations(src, stream(seed, "destinations"))
    bytes_ = draw(dist, src.size, stream(seed, "sizes"))
    about: dict[str, Any] = {
        "pattern": pattern.kind,
        **pattern.about,
        "arrivals": arrivals,
        **({"sigma": sigma} if arrivals == "lognormal" else {}),
        "load": load,
        "load_defined_on": "most loaded sending host link" if on == "host" else "most loaded core link",
        "load_link": link,
        "load_realised": float(load * bytes_.sum() / (total * duration)),
        "offered_bytes_per_s": float(total),
        "flows_per_s": float(rate.sum()),
        "duration_s": duration,
        "seed": seed,
        "sizes": dist.about(),
    }
    if busiest >= 0:
        about["core_link"] = fabric.link_name(busiest)
        about["core_load"] = float(per_byte[busiest] * total)
    return Traffic(Flows.of(src, dst, bytes_, start=start, where=pattern.kind), about)


def poisson_flows(
    fabric: Fabric, load: float, sizes: object, duration: float, seed: int = 0, *, on: str = "host"
) -> Traffic:
    """Poisson arrivals between uniformly drawn endpoints; see `open_loop`."""
    pattern = matrix("uniform", fabric, seed=seed)
    return open_loop(fabric, pattern, sizes, load=load, duration=duration, on=on, seed=seed)
