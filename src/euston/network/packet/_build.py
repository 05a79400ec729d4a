"""From flows, a fabric and policies to the arrays of `_layout`; and the same arrays made longer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from euston import units
from euston.errors import ConfigError
from euston.fabrics import Fabric
from euston.network.balancing.base import PathChoice, PathMode
from euston.network.flows import Flows
from euston.network.packet import _layout as y
from euston.network.packet._extras import extra_words, receives, reports
from euston.network.packet._layout import Net, State
from euston.network.packet._lossless import check_lossless, headroom
from euston.network.packet._path_table import Numbers, PathTable, path_table
from euston.network.packet.settings import PacketSettings
from euston.network.transport.base import NO_MARKS, Control, Lowered, Network, Transport

__all__ = ["Plan", "capacities", "grown", "plan", "rates"]

PS = 1e12
WIDEST_WINDOW = 2**16  # packets between the first unacknowledged and the last sent, at most
SLOWEST = 1e4  # bytes/s
REFERENCE_ECN = (0.2, 0.8)  # main_uec.cpp: parts of the bandwidth-delay product
PAUSED_RTO = 4.2e-3  # s: nothing is lost where links pause, but packets may wait for long
MOST_RINGS = 24  # constant delays beyond it go through the heap
MOST_CLASSES = 62  # data classes: a bit each of L_PAUSED


def picoseconds(seconds: NDArray[np.float64] | float) -> NDArray[np.int64]:
    """Whole picoseconds."""
    return np.rint(np.asarray(seconds, np.float64) * PS).astype(np.int64)


def _aligned(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """Zeros that begin with a cache line, so that a row of 64 bytes is one."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.zeros(size + 64, np.uint8)
    skip = -raw.ctypes.data % 64
    return raw[skip : skip + size].view(dtype).reshape(shape)


def _power(n: float) -> int:
    """The least power of two that is no less than ``n``."""
    return 1 << max(0, int(np.ceil(n)) - 1).bit_length()


@dataclass(frozen=True)
class Plan:
    """What the engine keeps beside the kernels' arrays, to apply faults and to report.

    Attributes
    ----------
    queue, low, high : float
        Bytes of a queue and of its ECN thresholds on a link as fast as ``network.rate``.
    most : float
        Probability of a mark at the upper threshold.
    """

    network: Network
    lowered: Lowered
    queue: float
    low: float
    high: float
    most: float
    rto: float
    seed: int
    choice: PathChoice


def check_speed(capacity: NDArray[np.float64]) -> None:
    """Refuse links so slow that a packet's time in ps overflows.

    Raises
    ------
    ConfigError
    """
    if capacity.size and capacity.min() < SLOWEST:
        raise ConfigError(
            f"packet engine: a link of {capacity.min():.6g} bytes/s; it needs {SLOWEST:,.0f} or more"
        )


def _longest(fabric: Fabric, mtu: int, header: int, paths: Any) -> float:
    """Seconds there and back of the longest path, a full packet there and a header back."""
    n = fabric.endpoints
    ends = np.arange(n, dtype=np.int32)
    s = np.concatenate((ends, ends[:1]))
    d = np.concatenate(((ends + n // 2) % n, ends[-1:])).astype(np.int32)
    s, d = s[s != d], d[s != d]

    def seconds(a: NDArray[np.int32], b: NDArray[np.int32], size: int) -> NDArray[np.float64]:
        links = fabric.route(a, b, 0, network=paths)
        each = fabric.latency[links] + size / fabric.capacity[links]
        return np.asarray(np.where(links >= 0, each, 0.0).sum(axis=1), np.float64)

    return float((seconds(s, d, mtu) + seconds(d, s, header)).max())


def _check_choice(choice: PathChoice) -> None:
    if choice.mode not in tuple(PathMode):
        raise ConfigError(f"`policies.balancing`: {choice.mode} is no path mode of the packet engine")
    if not 1 <= choice.entropies <= 2**16:
        raise ConfigError(
            f"`policies.balancing`: {choice.entropies} entropy values; 1 to 65,536 are possible"
        )
    if not 0 <= choice.gap < np.inf:
        raise ConfigError(f"`policies.balancing.gap`: {choice.gap} s; it must be 0 or more")


def _classes(flows: Flows, settings: PacketSettings, mtu: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Class of each flow, and the rows of ``Net.rate`` that describe classes; class 0 is control."""
    place = flows.priority.astype(np.int64) * 256 + flows.queue
    keys, which = np.unique(np.stack((place, flows.weight)), axis=1, return_inverse=True)
    if keys.shape[1] > MOST_CLASSES:
        raise ConfigError(
            f"packet engine: {keys.shape[1]:,} different places of flows (priority, queue, weight); a port "
            f"has {MOST_CLASSES} queues at most: round the weights, or use the fluid engine"
        )
    queue = keys[0].astype(np.int64)
    weight = np.array([float(settings.queue_weights.get(int(k) % 256, 1.0)) for k in queue])
    n = queue.size
    table = np.zeros((2 * (n + 1), 4), np.int64)
    level = queue // 256
    table[1 : n + 1, y.C_FIRST] = np.searchsorted(level, level) + 1
    table[1 : n + 1, y.C_LAST] = np.searchsorted(level, level, side="right")
    table[1 : n + 1, y.C_QUANTUM] = np.minimum(np.ceil(mtu * weight / weight.min(initial=np.inf)), 2.0**29)
    shares = table[n + 2 :]
    shares[:, y.W_QUEUE] = _thousandths(weight)
    shares[:, y.W_FLOW] = _thousandths(keys[1])
    shares[:, y.W_FIRST] = np.searchsorted(queue, queue) + 1
    shares[:, y.W_LAST] = np.searchsorted(queue, queue, side="right")
    return (which.ravel() + 1).astype(np.int64), table


def _differ(flows: Flows, settings: PacketSettings) -> bool:
    """Whether weights or priorities tell flows apart."""
    weights = [settings.queue_weights.get(q, 1.0) for q in np.unique(flows.queue).tolist()]
    return bool(len(set(weights)) > 1 or np.ptp(flows.priority) > 0 or np.ptp(flows.weight) > 0)


def _thousandths(weight: NDArray[np.float64]) -> NDArray[np.int64]:
    """Positive weights in 1/1024 of the least, up to a millionfold."""
    ratio = weight / weight.min(initial=np.inf)
    return np.rint(1024.0 * np.minimum(ratio, 2.0**20)).astype(np.int64)


def rates(
    capacity: NDArray[np.float64], mtu: int, header: int, config: NDArray[np.int64], rings: list[int]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of ``Net.rate`` and the row of each link; new delays get a ring while there are some left.

    ``rings`` lists the delays in ps of the rings of transmissions, and is extended.
    """
    different, row = np.unique(capacity, return_inverse=True)
    table = np.full((different.size, 4), -1, np.int64)
    for size, time, ring in ((mtu, y.T_DATA, y.T_DATA_RING), (header, y.T_CTRL, y.T_CTRL_RING)):
        table[:, time] = picoseconds(size / different)
        for k, delay in enumerate(table[:, time].tolist()):
            if delay not in rings and len(rings) < MOST_RINGS:
                rings.append(delay)
            if delay in rings:
                table[k, ring] = config[y.K_ARRIVALS] + rings.index(delay)
    return table, row.astype(np.int64)


def capacities(link: NDArray[np.int64], capacity: NDArray[np.float64], plan: Plan) -> None:
    """Queue limits and thresholds of every link in the columns of ``State.link``: in proportion to speed."""
    scale = capacity / plan.network.rate
    link[:, y.L_GAP] = np.rint(PS / capacity * 2**20)
    link[:, y.L_LIMIT] = np.minimum(plan.queue * scale, 2.0**61)
    link[:, y.L_LOW] = np.minimum(plan.low * scale, 2.0**61)
    link[:, y.L_HIGH] = np.minimum(plan.high * scale, 2.0**61)


def _ways(latency: NDArray[np.int64]) -> tuple[list[int], NDArray[np.int64]]:
    """Delays with an arrival ring of their own, and the ring of each link (-1: the heap)."""
    different, counts = np.unique(latency, return_counts=True)
    chosen = different[np.argsort(-counts, kind="stable")][:8].tolist()
    way = np.full(latency.size, -1, np.int64)
    for k, delay in enumerate(chosen):
        way[latency == delay] = k
    return chosen, way


def plan(
    flows: Flows,
    fabric: Fabric,
    transport: Transport,
    choice: PathChoice,
    settings: PacketSettings,
    seed: int,
    numbers: Numbers | None = None,
) -> tuple[Plan, PathTable]:
    """Numbers of the network that the policies scale with, and the paths.

    Raises
    ------
    ConfigError, RouteError
        For what cannot be run.
    """
    flows.check(fabric)
    check_speed(fabric.capacity)
    _check_choice(choice)
    table = path_table(
        fabric, flows.src, flows.dst, choice.entropies, seed, network=settings.network, numbers=numbers
    )
    mtu, header = transport.mtu, transport.header
    # what most flows can do: one slow host must not retune all
    rate = float(np.median(speeds(table, fabric.capacity))) if len(flows) else 1.0
    network = Network(
        rtt=_longest(fabric, mtu, header, settings.network) if len(flows) else 1.0,
        rate=rate,
        trimming=settings.trimming,
        pauses=units.data(settings.pfc, where="settings.pfc") > 0,
        sprayed=choice.entropies > 1 and choice.mode not in (PathMode.ECMP, PathMode.FLOWLET),
        hops=int((table.links >= 0).sum(axis=1).max(initial=1)) - 1,
    )
    lowered = transport.lower(network)
    if lowered.alike and _differ(flows, settings):
        raise ConfigError(
            f"`policies.transport`: {transport.name} shares links alike by itself, so that weights and "
            "priorities have no effect on it; use another transport, or flows and queues that are all alike"
        )
    # main_uec.cpp: queues of one bandwidth-delay product with trimming, five without, in whole packets
    packets = int(np.ceil(int(network.bdp) / mtu))
    queue = float(packets * (1 if settings.trimming else 5) * mtu)
    if settings.queue is not None:
        queue = units.data(settings.queue, where="settings.queue")
    low, high, most = NO_MARKS
    if settings.ecn == "transport" and lowered.marks is not None:
        low, high, most = lowered.marks
    elif settings.ecn is not None:
        parts = REFERENCE_ECN if isinstance(settings.ecn, str) else settings.ecn
        low, high = (float(np.ceil(packets * part) * mtu) for part in parts)
    # main_uec.cpp: two priority queues of three hops
    rto = PAUSED_RTO if network.pauses else 15e-6 + 6.0 * queue / rate
    if lowered.rto is not None:
        rto = lowered.rto
    if settings.rto is not None:
        rto = units.duration(settings.rto, where="settings.rto")
    return Plan(network, lowered, queue, low, high, most, rto, seed, choice), table


def _common(table: PathTable, column: int) -> NDArray[np.bool_]:
    """Which flows have the same link in a column of all their rows."""
    link = table.links[:, column]
    changes = np.concatenate(([0], np.cumsum(link[1:] != link[:-1])))
    return np.asarray(changes[table.forward] == changes[table.forward + table.forward_n - 1])


def speeds(table: PathTable, capacity: NDArray[np.float64]) -> NDArray[np.float64]:
    """Bytes/s of each flow alone: its uplinks together, and no more than a link that all its paths share."""
    first = table.links[:, 0]
    speed = capacity[first[table.forward]]
    for k in np.flatnonzero(~_common(table, 0)).tolist():
        rows = first[table.forward[k] : table.forward[k] + table.forward_n[k]]
        speed[k] = capacity[np.unique(rows)].sum()
    for column in range(1, table.links.shape[1]):
        link = table.links[table.forward, column]
        shared = _common(table, column) & (link >= 0)
        speed = np.where(shared, np.minimum(speed, capacity[link]), speed)
    return speed


def _flow_plan(
    flows: Flows, table: PathTable, capacity: NDArray[np.float64], mtu: int, header: int
) -> NDArray[np.int64]:
    """The given columns of ``State.flow``, but for the classes."""
    n, payload = len(flows), mtu - header
    made = _aligned((n, y.FLOW_COLUMNS), np.int64)
    packets = -(-flows.bytes // payload)
    made[:, y.N_PACKETS] = packets
    made[:, y.N_LAST] = flows.bytes - (packets - 1) * payload + header
    made[:, y.N_FORWARD], made[:, y.N_FORWARD_N] = table.forward, table.forward_n
    made[:, y.N_BACK], made[:, y.N_BACK_N] = table.back, table.back_n
    made[:, (y.N_FORWARD_N, y.N_BACK_N)] *= np.where(table.hashed, 1, -1)[:, None]
    first = table.links[:, 0]
    made[:, y.N_FIRST] = np.where(_common(table, 0), first[table.forward], -1)
    made[:, y.N_SPEED] = np.rint(PS / speeds(table, capacity) * 2**20)
    made[:, y.N_EARLIEST] = picoseconds(flows.start)
    made[:, y.N_DELAY] = picoseconds(flows.delay)
    capped = np.isfinite(flows.rate_cap)
    made[capped, y.N_GAP] = np.rint(PS / flows.rate_cap[capped] * 2**20).astype(np.int64)
    return made


def build(
    flows: Flows,
    fabric: Fabric,
    transport: Transport,
    settings: PacketSettings,
    made: Plan,
    table: PathTable,
    notify: NDArray[np.bool_],
    held: NDArray[np.bool_],
) -> tuple[Net, State, list[int]]:
    """The kernels' arrays at time 0, and the delays of the transmission rings."""
    n, mtu, header = len(flows), transport.mtu, transport.header
    links, choice, lowered = fabric.links, made.choice, made.lowered
    flow = _flow_plan(flows, table, fabric.capacity, mtu, header)
    flow[:, y.N_CLASS], classes = _classes(flows, settings, mtu)
    number = classes.shape[0] // 2  # of classes, control among them
    weighted = classes[number + 1 :, y.W_FIRST] < classes[number + 1 :, y.W_LAST]
    most = int(flow[:, y.N_PACKETS].max(initial=1))
    reach = max(64.0, min(settings.window * lowered.window / mtu, float(WIDEST_WINDOW)))
    window = _power(min(most, reach))

    latency = picoseconds(fabric.latency)
    arrivals, way = _ways(latency)
    config = np.zeros(y.CONFIG_COLUMNS, np.int64)
    config[y.K_ARRIVALS] = len(arrivals)
    rings: list[int] = []
    rate, row = rates(fabric.capacity, mtu, header, config, rings)
    pfc = units.data(settings.pfc, where="settings.pfc")
    resume = settings.pfc_resume
    xon = max(0.0, pfc - 2 * mtu) if resume is None else units.data(resume, where="settings.pfc_resume")
    for column, value in (
        (y.K_MTU, mtu), (y.K_HEADER, header), (y.K_CONTROL_LIMIT, settings.control_queue * made.queue),
        (y.K_TRIM, settings.trimming), (y.K_ACK_BYTES, lowered.ack_bytes), (y.K_RTO, made.rto * PS),
        (y.K_TRIES, settings.retries), (y.K_MODE, choice.mode), (y.K_ENTROPIES, choice.entropies),
        (y.K_GAP, choice.gap * PS), (y.K_CONTROL, lowered.control), (y.K_WINDOW, window - 1),
        (y.K_RECYCLE, min(1024, max(8, window))), (y.K_NIC_RATIO, settings.ack_ratio),
        (y.K_SAMPLE, units.duration(settings.sample, where="settings.sample") * PS),
        (y.K_RINGS, len(arrivals) + len(rings)), (y.K_CLASSES, number),
        (y.K_CLASS_ROW, rate.shape[0]),
        (y.K_HOPS, table.links.shape[1]),
        (y.K_SHARED, units.data(settings.shared_buffer, where="settings.shared_buffer")),
        (y.K_ALPHA, settings.alpha * 1024), (y.K_XOFF, pfc), (y.K_XON, xon),
        (y.K_MARK_MOST, made.most * 2**20), (y.K_OVERTAKEN, lowered.overtaken),
        (y.K_RECEIVER, receives(lowered)),
        (y.K_SENDER, lowered.control in (Control.DCQCN, Control.LOSSY)),
        (y.K_CREDIT, lowered.control == Control.NDP), (y.K_REPORT, reports(lowered)),
        (y.K_WEIGHTED, weighted.any()),
    ):  # fmt: skip
        config[column] = int(value)

    predecessors = np.diff(flows.after_ptr)
    successor = np.repeat(np.arange(n, dtype=np.int32), predecessors)
    by_predecessor = np.argsort(flows.after, kind="stable")
    counts = np.bincount(flows.after, minlength=n) if n else np.zeros(0, np.int64)
    open_ = predecessors + held
    ready = np.flatnonzero(open_ == 0)
    order = ready[np.argsort(flow[ready, y.N_EARLIEST], kind="stable")]
    sampled = [fabric.link_index(k) if isinstance(k, str) else int(k) for k in settings.sampled]
    after = np.concatenate(([0], np.cumsum(counts))) + n + 1
    parts = (after, successor[by_predecessor], order, np.array(sampled, np.int64))
    places = np.concatenate(([0], np.cumsum([len(part) for part in parts])))
    config[y.K_ORDER], config[y.K_ORDER_N] = places[2], order.size
    config[y.K_SAMPLED], config[y.K_SAMPLED_N] = places[3], len(sampled)
    net = Net(
        hop=np.ascontiguousarray(table.links).reshape(-1),
        lists=np.concatenate(parts).astype(np.int64),
        rate=np.concatenate((rate, classes)),
        config=config,
        tuning=lowered.tuning.astype(np.float64),
    )

    link = _aligned((links, y.LINK_COLUMNS), np.int64)
    link[:, y.L_LATENCY] = latency
    link[:, y.L_SERVING] = -1
    link[:, y.L_FIRST] = link[:, y.L_LAST] = -1
    link[:, y.L_RATE], link[:, y.L_WAY] = row, way
    _, first, owner = np.unique(fabric.link_src, return_index=True, return_inverse=True)
    link[:, y.L_OWNER], link[:, y.L_BACK] = first[owner], fabric.reverse
    capacities(link, fabric.capacity, made)
    described = fabric.buffer_bytes > 0
    if settings.queue is None:
        link[described, y.L_LIMIT] = fabric.buffer_bytes[described]
    if pfc > 0:
        link[:, y.L_LIMIT] = pfc + headroom(fabric, settings, mtu)
        check_lossless(fabric, settings, link[:, y.L_LIMIT] * (number - 1))
    uplinks = np.unique(table.links[:, 0])
    link[uplinks, y.L_STATE] |= y.HOST
    flow[:, y.F_SLOT] = flow[:, y.F_START] = flow[:, y.F_END] = -1
    flow[:, y.F_OPEN], flow[:, y.N_TELL] = open_, notify
    fifo = _aligned((links, number, y.FIFO_COLUMNS), np.int32)
    fifo[:, :, :2] = -1
    fifo[:, :, y.Q_QUANTUM] = classes[:number, y.C_QUANTUM]
    count = np.zeros(y.COUNTERS, np.int64)
    count[y.RNG_PATH : y.RNG_SALT + 1] = (
        np.random.SeedSequence(made.seed).generate_state(4, np.uint64).view(np.int64)
    )
    count[y.G_FREE] = count[y.G_SLOT_FREE] = count[y.G_TOLD] = -1
    extra, flow[:, y.N_EXTRA] = extra_words(flows, table, fabric.capacity, mtu, flow[:, y.N_PACKETS], lowered)
    state = State(
        packet=np.zeros((0, y.PACKET_COLUMNS), np.int32),
        wide=np.zeros((0, 2), np.int64),
        link=link,
        fifo=fifo,
        rings=_aligned((int(config[y.K_RINGS]), 4), np.int64),
        ring=np.zeros((int(config[y.K_RINGS]), 1, 2), np.int64),
        heap=np.zeros((1024, 4), np.int64),
        flow=flow,
        slot=np.zeros((0, y.SLOT_COLUMNS), np.int64),
        window=np.zeros((0, window), np.int64),
        mark=np.zeros((0, window, 4), np.int32),
        paths=np.zeros((0, choice.entropies + int(config[y.K_RECYCLE])), np.uint16),
        counter=count,
        series=np.zeros((1024 if config[y.K_SAMPLE] else 1, 1 + len(sampled)), np.int64),
        note=np.zeros((0, max(1, int(y.REPORT_COLUMNS * config[y.K_REPORT]))), np.int64),
        extra=extra,
    )
    state.rings[:, y.X_FIRST] = y.INF
    if config[y.K_SAMPLE]:
        state.heap[0] = 0, 0, y.EV_SAMPLE, 0
        state.counter[y.G_HEAP] = state.counter[y.G_SEQ] = state.counter[y.G_SAMPLING] = 1
    net, state = grown(net, state, y.GROW_SLOTS, 256)
    net, state = grown(net, state, y.GROW_PACKETS, max(4096, _power(links)))
    return net, state, rings


def _longer(array: NDArray[Any], rows: int) -> NDArray[Any]:
    made = _aligned((rows, *array.shape[1:]), array.dtype)
    made[: array.shape[0]] = array
    return made


def grown(net: Net, state: State, what: int | np.integer[Any], least: int = 0) -> tuple[Net, State]:
    """State with twice the room of one kind (at least ``least``), what is in it kept."""
    if what == y.GROW_HEAP:
        return net, state._replace(heap=_longer(state.heap, 2 * state.heap.shape[0]))
    if what == y.GROW_SAMPLES:
        return net, state._replace(series=_longer(state.series, 2 * state.series.shape[0]))
    if what == y.GROW_SLOTS:
        old = state.slot.shape[0]
        new = max(2 * old, least)
        names = ("slot", "window", "mark", "paths")
        state = state._replace(**{name: _longer(getattr(state, name), new) for name in names})
        state.slot[old:, y.S_AFTER] = np.arange(old + 1, new + 1)
        state.slot[new - 1, y.S_AFTER] = state.counter[y.G_SLOT_FREE]
        state.counter[y.G_SLOT_FREE] = old
        state.counter[y.G_SLOT_FREE_N] += new - old
        return net, state
    old = state.packet.shape[0]
    new = max(2 * old, least)
    state = state._replace(packet=_longer(state.packet, new), wide=_longer(state.wide, new))
    if net.config[y.K_REPORT]:
        state = state._replace(note=_longer(state.note, new))
    state.packet[old:, y.P_NEXT] = np.arange(old + 1, new + 1)
    state.packet[new - 1, y.P_NEXT] = state.counter[y.G_FREE]
    state.counter[y.G_FREE] = old
    state.counter[y.G_FREE_N] += new - old
    # a ring holds at most every packet, or one event per link
    length = _power(max(new, state.link.shape[0]) + 1)
    ring = np.zeros((state.ring.shape[0], length, 2), np.int64)
    mask = net.config[y.K_RING_MASK]
    for r in range(state.ring.shape[0]):
        at = np.arange(state.rings[r, y.X_OUT], state.rings[r, y.X_IN])
        ring[r, at & (length - 1)] = state.ring[r, at & mask]
    net.config[y.K_RING_MASK] = length - 1
    return net, state._replace(ring=ring)
