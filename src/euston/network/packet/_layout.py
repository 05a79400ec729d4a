"""The packet engine's state: which array holds what, and the numbers that name kinds and modes.

Everything a kernel touches lives in two NamedTuples of arrays: `Net` (fixed while the engine runs between two
faults) and `State` (what changes). A field of a stacked array is a column named here. Records that one event
touches together stand in one row, so that an event costs few cache lines.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

# Columns are unsigned: Numba then omits the test for a negative index. Other numbers are NumPy integers too:
# plain ones are literal types to Numba, and a function is compiled for each.
_COLUMN = np.arange(64, dtype=np.uintp)

INF = np.int64(2**62)  # a time that never comes
NONE = np.int64(-1)

# ---- packets: State.packet int32[P, 16], one cache line each -----------------------------------------------
(
    P_NEXT,  # next packet of the FIFO (or of the free list)
    P_FLOW,
    P_POS,  # where in Net.hop the link stands that it is on or waits for
    P_SIZE,  # bytes on the wire
    P_KIND,  # DATA, ACK, ...
    P_CLASS,  # queue of every link it joins
    P_FLAGS,
    P_EV,  # entropy value (of the data packet that an ACK or NACK answers)
    P_SEQ,  # sequence number (of the data packet that an ACK or NACK answers)
    P_CUM,  # ACK: next sequence number that the receiver expects
    P_REF,  # ACK: sequence number of bit 0 of the selective bitmap
    P_SLOT,  # of its flow when it was made
    P_AUX,  # free for a transport
) = _COLUMN[:13]
PACKET_COLUMNS = 16
# State.wide int64[P, 2]: what does not fit
W_BITS, W_BYTES = _COLUMN[:2]  # ACK: selective bitmap, wire bytes received so far

DATA, ACK, NACK, NOTIFY, PULL = np.arange(5)  # kinds; all but DATA, and what was trimmed, travel in class 0
MARKED, TRIMMED, REQUEST, AGAIN, LAST_HOP = 2 ** np.arange(5)  # flags: ECN, cut, wants an ACK, resent, ...

# ---- links: State.link int64[L, 32], cache lines of what every packet needs, what queues need, the rest ----
(
    L_SERVING,  # packet being sent, -1 when idle
    L_RATE,  # row of Net.rate
    L_WAY,  # arrival ring, -1: the heap
    L_LATENCY,  # ps
    L_STATE,
    L_PAUSED,  # PFC: bit c is set while class c must not be sent
    L_SENT,  # wire bytes
    L_BYTES,  # bytes waiting or being sent, all data classes
    L_LIMIT,  # most bytes of one data class; with PFC: that came by this link and wait behind it
    L_LOW,  # ECN: marks begin
    L_HIGH,  # ECN: all are marked
    L_MOST,  # most data bytes ever
    L_SINCE,  # when L_BYTES last changed
    L_AREA,  # integral of L_BYTES in byte x 1024 ps
    L_OWNER,  # the first link of its switch
    L_RATIO,  # NIC: control packets in a row while data waits
    L_FIRST,  # NIC: first slot that waits to send data, -1 none
    L_LAST,
    L_BACK,  # the link that runs the other way
    L_MARKS,
    L_TRIMS,
    L_DROPS,
    L_GAP,  # ps per byte * 2^20
    L_USED,  # of a switch's first link: bytes in the shared buffer
    L_OWN,  # NIC: 1 when it is the turn of its own data, not of what it forwards
    L_PAUSES,  # PFC: times that a class was paused
    L_HALTED,  # ps with a class paused
    L_HALTED_AT,
) = _COLUMN[:28]
LINK_COLUMNS = 32
UP, DOWN, HOST = np.arange(3)  # L_STATE: bits of a dead link and of a host's uplink

# State.fifo int32[L, C, 8]: class 0 is control
(
    Q_HEAD,
    Q_TAIL,
    Q_BYTES,
    Q_DEFICIT,
    Q_HELD,  # PFC: bytes that came by this link and wait downstream; -1 - bytes while it is paused
    Q_TURN,  # of the first class of a level: class of its DWRR round
    Q_FLOWS,  # running flows of the class that may use the link, in 1/4096 of a flow; counted if K_WEIGHTED
    Q_QUANTUM,  # DWRR quantum in bytes
) = _COLUMN[:8]
FIFO_COLUMNS = 8

# Net.rate int64[R, 4]: what a speed means
T_DATA, T_DATA_RING, T_CTRL, T_CTRL_RING = _COLUMN[:4]  # ps for a full packet and its ring, for a header

# Rows K_CLASS_ROW + c of Net.rate: DWRR quantum in bytes of data class c, first and last class of its strict
# level; classes are in order of level. K_CLASSES rows later: weight of the class's queue and of each of its
# flows in 1/1024, first and last class of the queue
C_QUANTUM, C_FIRST, C_LAST = _COLUMN[:3]
W_QUEUE, W_FLOW, W_FIRST, W_LAST = _COLUMN[:4]

# ---- events ------------------------------------------------------------------------------------------------
# Rings hold (time, id): the first Net.rings[0] of them arrivals (id: packet), the others ends of
# transmissions (id: link). State.rings int64[N, 4]: time of the first event, events put in and taken out.
E_TIME, E_ID = _COLUMN[:2]
X_FIRST, X_IN, X_OUT = _COLUMN[:3]
# State.heap int64[H, 4]: everything else
H_TIME, H_SEQ, H_KIND, H_ID = _COLUMN[:4]
EV_ARRIVE, EV_SENT, EV_START, EV_TIMEOUT, EV_PACE, EV_SAMPLE, EV_PAUSE, EV_RESUME, EV_TIMER = np.arange(9)

# ---- flows: State.flow int64[F, 24] ------------------------------------------------------------------------
(
    # given; the first cache line is read for every packet
    N_PACKETS,
    N_LAST,  # wire bytes of the last packet
    N_FORWARD,  # first path row there
    N_FORWARD_N,  # number of rows; negative: an entropy value is the row's number, else it is hashed to one
    N_BACK,
    N_BACK_N,
    N_FIRST,  # the uplink of all rows, -1 if they differ
    N_CLASS,
    N_EARLIEST,  # ps
    N_DELAY,  # ps
    N_GAP,  # ps per byte * 2^20 of the rate cap, 0 without
    N_TELL,  # 1: stop after its end
    N_SPEED,  # ps per byte * 2^20 that it could have alone
    # what becomes of it
    F_SLOT,  # -1 while not running
    F_OPEN,  # predecessors that have not ended, + 1 while held
    F_STATE,
    F_START,  # ps
    F_END,
    F_AGAIN,  # packets sent again
    F_TIMEOUTS,
    # some transports only
    N_EXTRA,  # State.extra: NDP: row of the destination host; LOSSY: first word of the packets received
    F_GOT,  # LOSSY: packets received when it was closed; any: when it was given up
    F_CLOSED,  # LOSSY: why, see _lossy.py
    F_CLOSED_AT,  # ps
) = _COLUMN[:24]
FLOW_COLUMNS = 24
WAITING, RUNNING, ENDED, DEAD = np.arange(4)

# ---- slots of running flows: State.slot int64[S, 64] -------------------------------------------------------
(
    # sender
    S_FLOW,
    S_NEXT,  # next new sequence number
    S_BASE,  # all before it are acknowledged
    S_FLIGHT,  # wire bytes in flight
    S_WINDOW,  # congestion window, wire bytes
    S_MAX_WINDOW,
    S_BASE_RTT,  # ps
    S_LOST,  # packets that wait to be sent again
    S_LOST_FROM,  # none of them lies before it
    S_GOT,  # wire bytes that the receiver is known to have
    S_QUEUED,  # 1 + the link while waiting for its NIC, 0 otherwise
    S_AFTER,  # next slot that waits for the same NIC
    S_TIMER,  # when the retransmission timer fires, INF when off
    S_TRIES,  # timeouts since the last progress, at most one in a timeout's time
    S_PACE,  # earliest time of the next packet, when paced
    S_PACE_TIMER,
    S_GAP,  # as N_GAP; a congestion control that sets rates writes it
    S_LAST_SENT,
    # path choice
    S_EV,  # counter of entropy values
    S_MIX,  # what it is mixed with
    S_EV_AHEAD,  # chosen for the next packet, -1
    S_RECYCLED,  # values in the ring of good ones
    S_RECYCLED_AT,
    S_FROZEN,  # REPS: until when
    S_EXPLORE,  # REPS: packets that explore
    # receiver
    S_EXPECTED,
    S_BEYOND,  # packets received out of order
    S_HIGHEST,
    S_RECEIVED,  # wire bytes
    S_UNREPORTED,  # wire bytes since the last ACK
    S_ASKED,  # the sender wants an ACK when nothing is missing
    S_TICK,  # when the timer of the congestion control fires
) = _COLUMN[:32]
# columns that belong to the congestion control, named in its own file; reals as fixed point
S_OWN = 32
# the last of them belong to receivers: when the next CNP may go; number asked for (+ 1) and when (go-back-N)
S_TOLD_AT, S_WANTED, S_WANTED_AT = _COLUMN[61:64]
S_STUCK = _COLUMN[60]  # S_GOT when the retransmission timer last fired
S_TRIED_AT = _COLUMN[59]  # when it last counted as a try, ps
SLOT_COLUMNS = 64

# State.window int64[S, W]: when a packet was last sent; State.mark int32[S, W, 4]
M_STATE, M_AGAIN, M_EV, M_HERE = _COLUMN[:4]  # sender's view, times sent again, value used; receiver has it
UNSENT, FLYING, LOST, DONE = np.arange(4)

# State.paths uint16[S, E + R]: penalty of each entropy value, then the ring of good ones

# ---- counters: State.counter int64[64] ------------------------------------------------------------
(
    G_NOW,
    G_FREE,  # first free packet
    G_FREE_N,
    G_HEAP,
    G_SEQ,
    G_SLOT_FREE,
    G_SLOT_FREE_N,
    G_START,  # flows of Net.order started so far
    G_ENDED,
    G_TOLD,  # flow that ended and is to be told of, -1
    G_EVENTS,
    G_MADE,  # packets: all kinds
    G_DELIVERED,
    G_DROPPED,
    G_DATA,  # data packets sent for the first time
    G_AGAIN,
    G_MARKED,
    G_TRIMMED,
    G_ACKS,
    G_NACKS,
    G_TIMEOUTS,
    G_DEAD,
    G_SAMPLES,
    G_DUPLICATES,
    G_PAUSES,
    G_SAMPLING,  # 1 while a sample is due
    RNG_PATH,  # a stream of random numbers per purpose
    RNG_MARK,
    RNG_TRIM,
    RNG_SALT,  # of the path hash
    G_CNPS,
    G_PULLS,
) = _COLUMN[:32]
COUNTERS = 64

# ---- settings: Net.config int64[64] ------------------------------------------------------------------------
(
    K_MTU,  # wire bytes of a full data packet
    K_HEADER,  # wire bytes of a control packet, also what is left of a trimmed one
    K_CONTROL_LIMIT,  # bytes of class 0 of one link
    K_TRIM,
    K_ACK_BYTES,  # wire bytes that make the receiver answer
    K_RTO,  # ps
    K_TRIES,
    K_MODE,  # PathMode
    K_ENTROPIES,
    K_GAP,  # ps, flowlets
    K_CONTROL,  # congestion control, see transport/base.py
    K_WINDOW,  # W - 1, W a power of two
    K_RECYCLE,  # length of the ring of good values
    K_NIC_RATIO,  # control packets for one data packet when both wait at a NIC
    K_SAMPLE,  # ps between samples, 0: none
    K_ARRIVALS,  # rings that hold arrivals
    K_RINGS,
    K_CLASSES,
    K_HOPS,  # columns of Net.hop's rows
    K_RING_MASK,
    K_SHARED,  # bytes of a switch's shared buffer, 0: every queue has its own
    K_ALPHA,  # dynamic threshold in 1/1024
    K_XOFF,  # PFC: bytes of one incoming link and class that pause it, 0: no PFC
    K_XON,
    K_CLASS_ROW,  # of Net.rate
    K_AFTER,  # Net.lists: flows that wait for flow f are numbered from lists[K_AFTER + f]
    K_ORDER,  # Net.lists: flows without predecessors, by start time
    K_ORDER_N,
    K_SAMPLED,  # Net.lists: links whose queues are sampled
    K_SAMPLED_N,
    K_MARK_MOST,  # ECN: probability at L_HIGH in 1/2^20
    K_OVERTAKEN,  # packets acknowledged behind a missing one that prove it lost, 0: none do
    K_RECEIVER,  # what receivers do beside acknowledging, R_...
    K_SENDER,  # 1: the congestion control is told of every packet sent
    K_CREDIT,  # 1: S_WINDOW counts all that may be sent since the start, S_FLIGHT all that was
    K_REPORT,  # links that can report in a packet (INT), 0: none
    K_WEIGHTED,  # 1: flows of one queue differ in weight, so that quanta follow the flows of each link
) = _COLUMN[:37]
CONFIG_COLUMNS = 64

R_NOTIFY, R_IN_ORDER, R_PULL, R_LOSSY = 2 ** np.arange(4)  # CNPs, go-back-N, PULLs, no retransmission

# ---- reports of links: State.note int64[P, 4 K_REPORT] ----------------------------------------------------
V_LINK, V_SENT, V_TIME, V_QUEUE = np.arange(4)  # + 1; wire bytes sent so far; ps; bytes that wait
REPORT_COLUMNS = np.int64(4)

# ---- State.extra, NDP: a row per destination host ---------------------------------------------------------
HO_FIRST, HO_LAST, HO_FREE, HO_TIMER, HO_GAP = np.arange(5)  # slots that wait for a PULL; ps; ps per packet
HOST_COLUMNS = np.int64(8)

# Why the kernel came back.
DONE_ALL, REACHED, TOLD, GROW_PACKETS, GROW_SLOTS, GROW_HEAP, GROW_SAMPLES = np.arange(7)


class Net(NamedTuple):
    """What the kernel reads only. Few arrays: compile time grows with their number."""

    hop: np.ndarray  # int32[...] paths one after the other, each K_HOPS long and closed by -1
    lists: np.ndarray  # int64[...] see K_AFTER, K_ORDER, K_SAMPLED
    rate: np.ndarray  # int64[R + C, 4]
    config: np.ndarray  # int64[64]
    tuning: np.ndarray  # float64[32] the congestion control's parameters


class State(NamedTuple):
    """What the kernel changes."""

    packet: np.ndarray  # int32[P, 16]
    wide: np.ndarray  # int64[P, 2]
    link: np.ndarray  # int64[L, 32]
    fifo: np.ndarray  # int32[L, C, 8]
    rings: np.ndarray  # int64[N, 4]
    ring: np.ndarray  # int64[N, Q, 2]
    heap: np.ndarray  # int64[H, 4]
    flow: np.ndarray  # int64[F, 24]
    slot: np.ndarray  # int64[S, 64]
    window: np.ndarray  # int64[S, W]
    mark: np.ndarray  # int32[S, W, 4]
    paths: np.ndarray  # uint16[S, E + R]
    counter: np.ndarray  # int64[64]
    series: np.ndarray  # int64[T, 1 + sampled] time and queues
    note: np.ndarray  # int64[P, 4 K_REPORT] what links report
    extra: np.ndarray  # int64[...] see N_EXTRA
