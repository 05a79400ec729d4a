"""Two binary trees at once, each for half of the buffer (Sanders, Speck & Traff 2009; NCCL since 2.4).

Inner nodes of one tree are leaves of the other, so that every rank sends as much as it receives. The buffer
goes up to the roots and down again in chunks: log2(n) latencies each way and then the links are full. Inside
a scale-up domain a chain leads to the rank that stands in the tree, another one for every channel, so that
all NICs carry an equal part.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from euston.collectives.base import Group, Message, Stage, send, supported
from euston.network import Transfer

__all__ = ["DoubleBinaryTree", "parents"]

Edge = tuple[int, int, float, int, int]
"""(child, parent, share of the buffer, distance of the child from its root, which tree)."""


def parents(n: int) -> tuple[list[int], list[int]]:
    """Parent of each of n ranks in both trees, -1 for the root.

    Tree 1: rank r with lowest set bit b hangs under (r ^ b) | 2b, or r ^ b where that is none; rank 0 is the
    root. Tree 2 is its mirror for even n, and shifted by one for odd n.
    """
    first = [-1] * n
    for r in range(1, n):
        bit = r & -r
        up = (r ^ bit) | (bit << 1)
        first[r] = up if up < n else r ^ bit

    def moved(to: list[int]) -> list[int]:
        tree = [-1] * n
        for r, parent in enumerate(first):
            tree[to[r]] = -1 if parent < 0 else to[parent]
        return tree

    return first, moved([n - 1 - r for r in range(n)] if n % 2 == 0 else [(r + 1) % n for r in range(n)])


@dataclass(frozen=True)
class DoubleBinaryTree:
    """Double binary tree all-reduce, pipelined.

    Attributes
    ----------
    chunk : float
        Bytes that move as one (NCCL's Simple protocol: half of a 4 MiB buffer over 8 steps is 512 KiB).
    """

    chunk: float = 512 * 1024.0
    name: str = "tree"
    collectives: tuple[str, ...] = ("all_reduce",)

    def _edges(self, group: Group) -> list[Edge]:
        """Edges of all trees of all channels."""
        grid = group.grid()
        hosts, g = grid.shape
        out: list[Edge] = []
        trees = parents(hosts) if hosts > 1 else ([-1],)
        for channel in range(g):
            share = 1.0 / (g * len(trees))
            for number, tree in enumerate(trees):
                lane = channel * len(trees) + number
                depth = [_depth(tree, h) for h in range(hosts)]
                for h, parent in enumerate(tree):
                    if parent >= 0:
                        out.append((int(grid[h, channel]), int(grid[parent, channel]), share, depth[h], lane))
                    for k in range(1, g):  # the chain inside the host leads to the channel's rank
                        child, to = grid[h, (channel + k) % g], grid[h, (channel + k - 1) % g]
                        out.append((int(child), int(to), share, depth[h] + k, lane))
        return out

    def stages(self, collective: str, group: Group, buffer_bytes: float) -> list[Stage]:
        """One transfer over all edges, up and down at once; its latency fills both trees."""
        supported(self, collective)
        edges = self._edges(group)
        child, parent = (np.array([e[i] for e in edges], np.int32) for i in (0, 1))
        share = np.array([e[2] for e in edges]) * buffer_bytes
        deepest = max(self._way(group, edge) for edge in edges)
        src, dst = np.concatenate((child, parent)), np.concatenate((parent, child))
        # The busiest rank's messages share its rate.
        busiest = float(np.bincount(src, weights=np.concatenate((share, share))).max())
        transfer = send(
            group, src, dst, np.concatenate((share, share)), latency=2.0 * deepest,
            share=float(share.max()) / busiest,
        )  # fmt: skip
        return [Stage("up and down two trees", (transfer,))]

    def _way(self, group: Group, edge: Edge) -> float:
        """Seconds of latency from a rank to its root."""
        hosts, g = group.grid().shape
        chain = edge[3] if hosts == 1 else min(edge[3], g - 1)
        return chain * group.inside.latency + (edge[3] - chain) * group.between.latency

    def messages(self, collective: str, group: Group, buffer_bytes: float) -> list[Message]:
        """Chunk after chunk up, and down again as soon as the root has all of it."""
        supported(self, collective)
        edges = self._edges(group)
        chunks = max(1, round(buffer_bytes * edges[0][2] / self.chunk))
        out: list[Message] = []
        lanes = sorted({(edge[4], edge[2]) for edge in edges})
        last: dict[tuple[int, int, int], int] = {}  # by (lane, from, to): the chunk before on this edge
        for chunk in range(chunks):
            for lane, share in lanes:
                mine = [edge for edge in edges if edge[4] == lane]
                arrived: dict[int, list[int]] = {}
                size = share * buffer_bytes / chunks
                up = [(child, parent) for child, parent, *_ in sorted(mine, key=lambda edge: -edge[3])]
                down = [(parent, child) for child, parent, *_ in sorted(mine, key=lambda edge: edge[3])]
                for way in (up, down):
                    for a, b in way:
                        before = (last[lane, a, b],) if chunk else ()
                        out.append(Message(_message(group, a, b, size), before, tuple(arrived.get(a, ()))))
                        last[lane, a, b] = len(out) - 1
                        arrived.setdefault(b, []).append(len(out) - 1)
        return out


def _message(group: Group, src: int, dst: int, size: float) -> Transfer:
    return send(group, np.array([src], np.int32), np.array([dst], np.int32), size)


def _depth(tree: list[int], rank: int) -> int:
    depth = 0
    while tree[rank] >= 0:
        rank, depth = tree[rank], depth + 1
    return depth
