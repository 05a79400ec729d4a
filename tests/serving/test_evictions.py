"""Eviction policies of the prefix cache against a plain cache of dictionaries, request after request."""

from __future__ import annotations

import numpy as np
import pytest

from euston.serving import Deployment, Engine, Pool, Requests, StepTime, dense, serve

BLOCK = 16
CAPACITY = 40


class Plain:
    """Blocks by name with what each policy looks at; a prompt's last token is always computed."""

    def __init__(self, policy: str) -> None:
        self.policy = policy
        self.names: dict[
            int, dict[str, float]
        ] = {}  # every block with a name; none is in use between requests
        self.unnamed = [(-1.0, CAPACITY)]  # (when freed, how many), only the order of LRU needs the time
        self.clock = self.admissions = self.evicted = 0
        self.inflation = 0.0

    def _worth(self, block: dict[str, float]) -> tuple[float, float]:
        key = {
            "lru": 0.0,
            "lfu": block["uses"],
            "fifo": block["admitted"],
            "gdsf": block["floor"] + block["uses"],  # every block costs the same here
        }[self.policy]
        return key, block["freed"]

    def _take(self, count: int, held: set[int]) -> None:
        for _ in range(count):
            free = {name: self._worth(b) for name, b in self.names.items() if name not in held}
            victim = min(free, key=lambda name: free[name]) if free else None
            oldest = self.unnamed[0] if self.unnamed else None
            # LRU goes by time alone; the others take blocks without a name first
            first = self.policy != "lru" or victim is None or (oldest or (np.inf,))[0] < free[victim][1]
            if oldest is not None and first:
                self.unnamed[0] = (oldest[0], oldest[1] - 1)
                if oldest[1] == 1:
                    self.unnamed.pop(0)
                continue
            assert victim is not None
            self.inflation = free[victim][0]
            del self.names[victim]
            self.evicted += 1

    def ask(self, ids: list[int]) -> int:
        """A prompt of these full blocks and one more token; how many blocks were there."""
        self.admissions += 1
        hit = next((k for k, name in enumerate(ids) if name not in self.names), len(ids))
        for name in ids[:hit]:
            self.names[name]["uses"] += 1
        self._take(len(ids) + 1 - hit, set(ids[:hit]))
        # a name that outlived one before it stays with its block: what is computed now is a copy without one
        copies = {name for name in ids[hit:] if name in self.names}
        for name in ids[hit:]:
            self.names.setdefault(name, {"uses": 1.0, "admitted": float(self.admissions)})
        self.unnamed.append((self.clock, 1 + len(copies)))
        for place, name in enumerate(reversed(ids)):
            if name not in copies:
                self.names[name] |= {"freed": self.clock + 1.0 + place, "floor": self.inflation}
        self.clock += len(ids) + 1
        return hit


@pytest.mark.parametrize("policy", ["lru", "lfu", "fifo", "gdsf"])
@pytest.mark.parametrize("seed", range(6))
def test_hits_and_evictions_equal_a_plain_cache(policy: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    known: dict[tuple[int, ...], int] = {}
    prompts = []
    for _ in range(300):
        family, shared, own = int(rng.zipf(1.6)) % 9, int(rng.integers(1, 8)), int(rng.integers(0, 4))
        path = [family * 100 + k for k in range(shared)] + [int(x) for x in rng.integers(10_000, 10_003, own)]
        # a block's name stands for all that comes before it too
        prompts.append([known.setdefault(tuple(path[: k + 1]), len(known)) for k in range(len(path))])
    lengths = np.array([len(ids) for ids in prompts])
    requests = Requests.of(
        np.arange(len(prompts)) * 10.0, lengths * BLOCK + 1, 1,
        block_ids=[name for ids in prompts for name in ids],
        blocks_ptr=np.concatenate([[0], lengths.cumsum()]),
        block_size=BLOCK, named_tok=lengths * BLOCK,
    )  # fmt: skip
    engine = Engine(CAPACITY, max_num_batched_tokens=16_384, eviction=policy)
    step = StepTime(tokens=dense([0, 16_384], [0.0, 1.0]))  # a block costs 2**-10: sums of it are exact
    run = serve(requests, Deployment((Pool(engine, step),)))
    plain = Plain(policy)
    assert (run.hits // BLOCK).tolist() == [plain.ask(ids) for ids in prompts]
    assert int(run.ranks["evicted_blocks"][0]) == plain.evicted > 100


def test_policies_differ() -> None:
    """Otherwise the test above could not tell them apart."""
    rng = np.random.default_rng(0)
    asked = [[int(f) * 100 + k for k in range(6)] for f in rng.zipf(1.5, 400) % 12]
    hits = {}
    for policy in ("lru", "lfu", "fifo", "gdsf"):
        plain = Plain(policy)
        hits[policy] = sum(plain.ask(ids) for ids in asked)
    assert len(set(hits.values())) >= 3
