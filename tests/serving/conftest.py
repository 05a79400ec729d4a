"""A slow plain-Python serving engine, the oracle of the kernel: real blocks, real queues, nothing stacked."""

from __future__ import annotations

import heapq
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from euston.serving import Deployment, Engine, Outcome, Requests

MASK = 2**64 - 1


def uniform(seed: int, a: int, b: int) -> float:
    """SplitMix64's finaliser in plain integers."""
    x = (seed * 0x9E3779B97F4A7C15 + a * 0xBF58476D1CE4E5B9 + b * 0x94D049BB133111EB) & MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    x ^= x >> 31
    return (x >> 11) / 2.0**53


@dataclass(eq=False)
class Call:
    """A request under way."""

    number: int
    prompt: int
    answer: int
    names: list[int]
    klass: int
    priority: float
    deadline: float
    predicted: float
    known: int = 0
    computed: int = 0
    blocks: list[int] = field(default_factory=list)
    offered: int = 0
    state: str = "new"
    key: tuple[float, float] = (0.0, 0.0)
    order: int = 0
    arrival: float = np.nan
    scheduled: float = np.nan
    first: float = np.nan
    last: float = np.nan
    hits: int = -1
    preempted: int = 0
    outcome: int = 0
    given: int = 0
    decodes: bool = False
    padding: bool = False


class Replica:
    """One rank: blocks, free queue in the order of eviction, table of names, running and waiting requests."""

    def __init__(self, engine: Engine) -> None:
        self.e = engine
        self.free: OrderedDict[int, None] = OrderedDict((b, None) for b in range(engine.num_blocks))
        self.name: dict[int, int] = {}
        self.table: dict[int, int] = {}
        self.users: dict[int, int] = dict.fromkeys(range(engine.num_blocks), 0)
        self.running: list[Call] = []
        self.waiting: list[Call] = []
        self.served: dict[int, float] = {}
        self.busy = False
        self.assigned = 0
        self.swap = 0.0
        self.margin = int(engine.margin * engine.num_blocks)

    def take(self, count: int) -> list[int]:
        taken = []
        for _ in range(count):
            b, _ = self.free.popitem(last=False)
            if b in self.name:
                del self.table[self.name.pop(b)]
            self.users[b] = 1
            taken.append(b)
        return taken

    def give_back(self, q: Call) -> None:
        for b in reversed(q.blocks):
            self.users[b] -= 1
            if self.users[b] == 0:
                self.free[b] = None
        q.blocks, q.offered = [], 0

    def offer(self, q: Call, tokens: int) -> None:
        """Full blocks get names, unless another block has it."""
        if not self.e.prefix_cache:
            return
        full = min(tokens // self.e.block_size, len(q.names))
        for k in range(q.offered, full):
            if q.names[k] not in self.table:
                self.table[q.names[k]] = q.blocks[k]
                self.name[q.blocks[k]] = q.names[k]
        q.offered = max(q.offered, full)

    def match(self, q: Call) -> list[int]:
        found = []
        if self.e.prefix_cache:
            for k in range(min(len(q.names), (q.known - 1) // self.e.block_size)):
                if q.names[k] not in self.table:
                    break
                found.append(self.table[q.names[k]])
        return found


class Reference:
    """The whole cluster."""

    def __init__(self, requests: Requests, dep: Deployment, seed: int) -> None:
        pool = dep.pools[0]
        self.e, self.pool, self.seed, self.requests = pool.engine, pool, seed, requests
        self.replicas = [Replica(self.e) for _ in range(pool.replicas)]
        ratio = max(requests.block_size // self.e.block_size, 1)
        self.calls = []
        for i in range(len(requests)):
            ids = requests.block_ids[requests.blocks_ptr[i] : requests.blocks_ptr[i + 1]].tolist()
            names = [x * ratio + k for x in ids for k in range(ratio)]
            names = names[: int(requests.named_tok[i]) // self.e.block_size]
            self.calls.append(
                Call(
                    i, int(requests.in_tok[i]), int(requests.out_tok[i]), names, int(requests.klass[i]),
                    float(requests.priority[i]), float(requests.deadline_s[i]),
                    float(requests.predicted_out[i]), known=int(requests.in_tok[i]),
                )
            )  # fmt: skip
        self.before = np.diff(requests.after_ptr).tolist()
        self.then: list[list[int]] = [[] for _ in self.calls]
        for i in range(len(requests)):
            for j in requests.after[requests.after_ptr[i] : requests.after_ptr[i + 1]]:
                self.then[j].append(i)
        self.heap: list[tuple[float, int, str, int]] = []
        self.ticks = self.front = self.orders = self.inside = self.turn = 0
        self.outside: list[Call] = []
        self.kicked: list[Replica] = []
        self.now = 0.0

    # ---- events -----------------------------------------------------------------------------------------

    def push(self, time: float, kind: str, number: int) -> None:
        self.ticks += 1
        heapq.heappush(self.heap, (time, self.ticks, kind, number))

    def run(self) -> None:
        trace = [q for q in self.calls if not self.before[q.number]]
        at = 0
        while True:
            times = [h[0] for h in self.heap[:1]]
            if at < len(trace):
                times.append(float(self.requests.arrival_s[trace[at].number]))
            if self.kicked and (not times or min(times) > self.now):
                self.start(self.kicked.pop(0))
                continue
            if not times:
                return
            self.now = min(times)
            if self.heap and self.heap[0][0] == self.now:
                _, _, kind, number = heapq.heappop(self.heap)
                if kind == "done":
                    self.finish(self.replicas[number])
                elif kind == "come":
                    self.come(self.calls[number])
                elif self.outside and self.inside < self.requests.concurrency:
                    self.inside += 1
                    self.enter(self.outside.pop(0))
            else:
                self.come(trace[at])
                at += 1

    def come(self, q: Call) -> None:
        if self.requests.concurrency and self.inside >= self.requests.concurrency:
            self.outside.append(q)
            return
        self.inside += 1
        self.enter(q)

    def enter(self, q: Call) -> None:
        self.orders += 1
        q.arrival, q.order = self.now, self.orders
        tokens = q.prompt + q.answer
        draft = 0 if self.e.speculation is None else self.e.speculation.draft
        if self.e.max_model_len and tokens > self.e.max_model_len:
            return self.leave(q, Outcome.TOO_LONG)
        if -(-(tokens + draft) // self.e.block_size) > self.e.num_blocks - self.replicas[0].margin:
            return self.leave(q, Outcome.TOO_LARGE)
        many = len(self.replicas)
        if self.pool.router.policy == "round_robin":
            best = self.turn
        else:  # least requests, equal ones take turns
            order = [(self.turn + j) % many for j in range(many)]
            best = min(order, key=lambda r: self.replicas[r].assigned)
        self.turn = (self.turn + 1) % many
        rep = self.replicas[best]
        rep.assigned += 1
        q.state = "waiting"
        self.wait(rep, q, front=False)
        self.kick(rep)
        return None

    def leave(self, q: Call, outcome: int) -> None:
        q.outcome, q.state = int(outcome), "ended"
        if outcome != Outcome.DONE:
            q.last = self.now
        self.inside -= 1
        if self.outside:
            self.push(self.now, "enter", 0)
        for j in self.then[q.number]:
            self.before[j] -= 1
            if not self.before[j]:
                think = self.now + float(self.requests.think_s[j])
                self.push(max(float(self.requests.arrival_s[j]), think), "come", j)

    def kick(self, rep: Replica) -> None:
        if rep not in self.kicked:
            self.kicked.append(rep)

    # ---- queue ------------------------------------------------------------------------------------------

    def value(self, q: Call) -> float:
        return {
            "priority": q.priority, "sjf": q.predicted, "edf": q.arrival + q.deadline,
        }.get(self.e.scheduler, 0.0)  # fmt: skip

    def wait(self, rep: Replica, q: Call, *, front: bool) -> None:
        if self.e.scheduler in ("priority", "sjf", "edf"):
            q.key = (self.value(q), q.order)
        elif front:
            self.front += 1
            q.key = (-1.0, -self.front)
        else:
            self.front += 1
            q.key = (0.0, self.front)
        if self.e.scheduler == "fair" and all(w.klass != q.klass for w in rep.waiting):
            others = [rep.served.get(w.klass, 0.0) for w in rep.waiting]
            if others:
                rep.served[q.klass] = max(rep.served.get(q.klass, 0.0), min(others))
        rep.waiting.append(q)

    def head(self, rep: Replica) -> Call | None:
        if not rep.waiting:
            return None
        if self.e.scheduler == "fair":
            return min(rep.waiting, key=lambda w: (rep.served.get(w.klass, 0.0), w.klass, w.key))
        return min(rep.waiting, key=lambda w: w.key)

    # ---- one step ---------------------------------------------------------------------------------------

    def preempt(self, rep: Replica, q: Call) -> int:
        rep.running.remove(q)
        given, q.given = q.given, 0
        q.preempted += 1
        if self.e.preemption == "swap":
            bytes_ = len(q.blocks) * self.e.block_size * self.pool.kv_bytes_per_token
            rep.swap += bytes_ / self.e.swap_bandwidth
            q.state = "swapped"
        else:
            q.computed, q.state = 0, "waiting"
        rep.give_back(q)
        self.wait(rep, q, front=True)
        return given

    def go_on(self, rep: Replica, budget: int, which: str) -> tuple[int, bool, bool]:
        thrown, at = False, 0
        while at < len(rep.running) and budget > 0:
            q = rep.running[at]
            left = q.known - q.computed
            if q.given or ((which == "decodes") != (left == 1) and which != "all"):
                at += 1
                continue
            if q.padding:
                q.given = 1
                at += 1
                continue
            n = left
            if left == 1 and self.e.speculation is not None:
                n += self.e.speculation.draft
            if self.e.long_prefill_threshold:
                n = min(n, self.e.long_prefill_threshold)
            n = min(n, budget)
            need = max(-(-(q.computed + n) // self.e.block_size) - len(q.blocks), 0)
            while need > len(rep.free):
                if self.e.scheduler in ("priority", "sjf", "edf"):
                    out = max(rep.running, key=lambda w: (self.value(w), w.order))
                else:
                    out = rep.running[-1]
                thrown = True
                place = rep.running.index(out)
                budget += self.preempt(rep, out)
                if out is q:
                    return budget, True, True
                at -= place < at
            q.blocks += rep.take(need)
            rep.offer(q, min(q.computed + n, q.known))
            q.given, q.decodes = n, left == 1
            budget -= n
            at += 1
        return budget, thrown, False

    def admit(self, rep: Replica, budget: int) -> tuple[int, int]:
        joined = 0
        whole = self.e.scheduler in ("orca", "static")
        full = 2**40 if whole else self.e.max_num_batched_tokens
        while budget > 0 and len(rep.running) < self.e.max_num_seqs:
            q = self.head(rep)
            if q is None:
                break
            hit = rep.match(q) if q.state == "waiting" else []
            computed = len(hit) * self.e.block_size if q.state == "waiting" else q.computed
            left = n = q.known - computed
            if self.e.long_prefill_threshold:
                n = min(n, self.e.long_prefill_threshold)
            if self.e.chunked and not whole and self.e.scheduler != "prefill_first":
                n = min(n, budget)
            elif n > budget and budget < full:
                break
            tokens = computed + n
            if self.e.scheduler in ("sarathi", "prefill_first") or whole:
                tokens = max(tokens, q.known)
            if whole:
                tokens = max(tokens, q.prompt + q.answer)
            need = max(-(-tokens // self.e.block_size) - len(hit), 0)
            idle = sum(rep.users[b] == 0 for b in hit)
            if need > 0 and need + idle > len(rep.free) - rep.margin:
                break
            rep.waiting.remove(q)
            for b in hit:
                if rep.users[b] == 0:
                    del rep.free[b]
                rep.users[b] += 1
            if q.state == "waiting":
                if q.hits < 0:
                    q.hits = computed
            else:
                bytes_ = need * self.e.block_size * self.pool.kv_bytes_per_token
                rep.swap += bytes_ / self.e.swap_bandwidth
            q.blocks, q.offered, q.computed = hit + rep.take(need), len(hit), computed
            rep.offer(q, min(computed + n, q.known))
            if np.isnan(q.scheduled):
                q.scheduled = self.now
            if self.e.scheduler == "fair":
                cost = self.e.fair_weights[0] * left
                rep.served[q.klass] = rep.served.get(q.klass, 0.0) + cost
            q.state, q.given, q.decodes = "running", n, left == 1
            rep.running.append(q)
            budget -= n
            joined += 1
        return joined, budget

    def schedule(self, rep: Replica) -> bool:
        kind = self.e.scheduler
        budget = 2**40 if kind in ("orca", "static") else self.e.max_num_batched_tokens
        if kind == "static":
            if rep.running:
                self.go_on(rep, budget, "all")
            else:
                self.admit(rep, budget)
            return False
        if kind == "prefill_first":
            q = self.head(rep)
            swapped = q is not None and q.state == "swapped"
            if not swapped:
                joined, budget = self.admit(rep, budget)
                if joined:
                    return False
            budget, thrown, _ = self.go_on(rep, budget, "all")
            if swapped and not thrown:
                self.admit(rep, budget)
            return thrown
        if kind == "sarathi":
            budget, thrown, stop = self.go_on(rep, budget, "decodes")
            if not stop:
                budget, more, stop = self.go_on(rep, budget, "prompts")
                thrown = thrown or more
        else:
            budget, thrown, _ = self.go_on(rep, budget, "all")
        if not thrown:
            self.admit(rep, budget)
        return thrown

    def start(self, rep: Replica) -> None:
        if rep.busy:
            return
        rep.swap = 0.0
        while True:
            thrown = self.schedule(rep)
            batch = [q for q in rep.running if q.given]
            if batch or not thrown:
                break
        if not batch:
            return
        rep.busy = True
        self.push(self.now + self.seconds(rep, batch), "done", self.replicas.index(rep))

    def seconds(self, rep: Replica, batch: list[Call]) -> float:
        step = self.pool.step
        tokens = sum(q.given for q in batch)
        decoding = [q for q in batch if q.decodes]
        attention, pair = 0.0, float(step.prefill.seconds[0, 0])
        for q in batch:
            if not q.decodes:
                n, c = float(q.given), float(q.computed)
                attention += step.chunk_fixed + (n * c + 0.5 * n * (n + 1.0)) * pair
        if decoding:
            contexts = [q.computed + q.given for q in decoding]
            mean = sum(contexts) / len(contexts)
            rate = float(step.decode.seconds[0, 0])
            wide = mean + step.skew * (max(contexts) - mean)
            attention += step.decode_fixed + rate * len(decoding) * wide
        samples = sum(q.decodes or q.computed + q.given >= q.known for q in batch)
        drafts = 0.0
        if decoding and (longest := max(q.given - 1 for q in decoding)):
            drafts = longest * (step.draft_fixed + step.draft_sequence * len(decoding))

        def curve(values: Any, x: int) -> float:
            if x < len(values):
                return float(values[x])
            return float(values[-1]) + (x - len(values) + 1) * (float(values[-1]) - float(values[-2]))

        compute = curve(step.tokens, tokens) + curve(step.sequences, samples) + attention
        gpu = step.fixed + compute + drafts + rep.swap
        cpu = step.cpu_fixed + step.cpu_sequence * len(batch) + step.cpu_token * tokens
        return max(gpu, cpu) if self.e.asynchronous else gpu + cpu

    def finish(self, rep: Replica) -> None:
        rep.busy = False
        for q in list(rep.running):
            n, q.given = q.given, 0
            if not n or q.padding:
                continue
            q.computed += n
            if q.computed < q.known:
                continue
            out = 1
            if q.decodes and q.computed > q.known:
                chances = np.ravel(np.asarray(self.e.speculation.acceptance, float))
                for j in range(q.computed - q.known):
                    chance = chances[j if chances.size > 1 else 0]
                    if uniform(self.seed, q.number, q.known * 64 + j) >= chance:
                        break
                    out += 1
            out = min(out, q.prompt + q.answer - q.known)
            if q.known == q.prompt:
                q.first = self.now
            q.last = self.now
            q.known += out
            q.computed = q.known - 1
            if self.e.scheduler == "fair":
                cost = self.e.fair_weights[1] * out
                rep.served[q.klass] = rep.served.get(q.klass, 0.0) + cost
            if q.known == q.prompt + q.answer:
                if self.e.scheduler == "static":
                    q.padding = q.decodes = True
                else:
                    rep.running.remove(q)
                    rep.give_back(q)
                rep.assigned -= 1
                self.leave(q, Outcome.DONE)
        if self.e.scheduler == "static" and all(q.padding for q in rep.running):
            for q in rep.running:
                rep.give_back(q)
            rep.running = []
        self.kick(rep)


@pytest.fixture
def reference() -> type[Reference]:
    """The class of the reference engine: ``Reference(requests, deployment, seed).run()``, then ``calls``."""
    return Reference
