"""The rollout pool between two pushes of weights: trajectories on the serving engine, exactly.

Weights hold for an episode. At its end what is under way is interrupted: it keeps its tokens and computes its
KV again under the new weights (AReaL, arXiv:2505.24298, section 4.1; Kimi k1.5's partial rollouts,
arXiv:2501.12599, keep them across batches).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from euston.errors import ConfigError
from euston.post_training.trajectories import Trajectory
from euston.serving import Deployment, Outcome, Requests, Serving

__all__ = ["Episode"]


class Episode:
    """Trajectories under one version of the weights.

    Parameters
    ----------
    work : sequence of Trajectory
        In the order in which they are let in; changed as they go on.
    begin : float
        Second at which the episode starts.
    concurrency : int
        Most requests in the pool; 0: no limit.

    Raises
    ------
    ConfigError
        When a trajectory's context does not fit the pool.
    """

    def __init__(
        self,
        work: Sequence[Trajectory],
        deployment: Deployment,
        *,
        begin: float = 0.0,
        concurrency: int = 0,
        seed: int = 0,
    ) -> None:
        self.begin, self.deployment, self.seed = begin, deployment, seed
        self.work = sorted(work, key=lambda one: (max(one.ready - begin, 0.0), one.number))
        self._requests(concurrency)
        self.engine = Serving(self.requests, deployment, seed=seed)

    def _requests(self, concurrency: int) -> None:
        size = self.deployment.pools[0].engine.block_size
        rows: list[tuple[float, int, int, int, int, float, int]] = []
        blocks: list[np.ndarray] = []
        keys: dict[tuple[str, int], int] = {}
        self.first: list[int] = []  # of every trajectory's requests
        used = 0
        for one in self.work:
            self.first.append(len(rows))
            context = one.context
            shared = one.prompt // size
            wait = max(one.ready - self.begin, 0.0)
            last = len(one.outputs) - 1
            longest = one.tokens // size + 1
            own = used + np.arange(longest)
            used += longest
            base = keys.get(("group", one.group))
            if base is None:
                base = keys[("group", one.group)] = used
                used += shared + 1
            own[:shared] = base + np.arange(shared)
            for turn in range(one.turn, last + 1):
                done = one.done if turn == one.turn else 0
                left = one.outputs[turn] - done
                after = -1 if turn == one.turn else len(rows) - 1
                think = 0.0 if after < 0 else one.tools[turn - 1]
                rows.append((wait, context, left, one.number, turn, think, after))
                blocks.append(own[: -(-(context + left) // size)])
                context += left
                if turn < last:
                    context += one.observations[turn]
        order = np.argsort([row[0] for row in rows], kind="stable")
        place = np.empty(len(rows), np.int64)
        place[order] = np.arange(len(rows))
        column = [np.array([rows[i][c] for i in order]) for c in range(7)]
        waits = [[int(place[rows[i][6]])] if rows[i][6] >= 0 else [] for i in order]
        self.place = place
        self.requests = Requests.of(
            column[0], column[1], column[2],
            session=column[3], turn=column[4],
            think_s=column[5],
            block_ids=np.concatenate([blocks[i] for i in order]) if rows else (),
            blocks_ptr=np.concatenate(([0], np.cumsum([blocks[i].size for i in order]))) if rows else None,
            block_size=size if rows else 0,
            named_tok=column[1] + column[2],
            after=[one for names in waits for one in names],
            after_ptr=np.concatenate(([0], np.cumsum([len(names) for names in waits]))),
            concurrency=concurrency,
        )  # fmt: skip

    @property
    def next(self) -> float:
        """When something happens next."""
        return self.begin + self.engine.next_time()

    def advance(self, until: float) -> None:
        """Go on up to that second."""
        # compared as `ended` counts, so that an end that was read there is reached
        while self.next <= until and self.next < np.inf:
            self.engine.advance(max(until - self.begin, self.engine.next_time()))

    def ended(self) -> list[tuple[float, Trajectory]]:
        """Trajectories whose last token is there, with its second, in order.

        Raises
        ------
        ConfigError
            When the pool refused one.
        """
        found = self.engine.result()
        refused = np.flatnonzero((found.outcome != Outcome.OPEN) & (found.outcome != Outcome.DONE))
        if refused.size:
            i = int(refused[0])
            tokens = int(self.requests.in_tok[i]) + int(self.requests.out_tok[i])
            raise ConfigError(
                f"a trajectory of {tokens:,} tokens does not fit the rollout pool; shorten `longest`, or "
                "give a replica more accelerators"
            )
        done = []
        for position, one in enumerate(self.work):
            last = self._requests_of(position, one)[-1]
            if found.outcome[last] == Outcome.DONE:
                done.append((self.begin + float(found.last[last]), one))
        return sorted(done, key=lambda pair: (pair[0], pair[1].number))

    def ends(self, count: int) -> list[tuple[float, Trajectory]]:
        """The first ``count`` trajectories to end; goes on until they have.

        Raises
        ------
        ConfigError
            When fewer ever end.
        """
        window = 1.0
        while len(found := self.ended()) < count:
            if self.engine.next_time() == np.inf:
                raise ConfigError(f"the rollout pool ends {len(found)} of {count} trajectories and stops")
            self.advance(max(self.next, self.begin + window))
            window *= 2.0
        return found[:count]

    def _requests_of(self, position: int, one: Trajectory) -> list[int]:
        first = self.first[position]
        return [int(self.place[first + i]) for i in range(len(one.outputs) - one.turn)]

    def close(self, version: int) -> tuple[float, int]:
        """Write into the trajectories how far they came; busy seconds of ranks, and tokens sampled."""
        found = self.engine.result()
        tokens = 0
        for position, one in enumerate(self.work):
            mine = self._requests_of(position, one)
            begun = [i for i in mine if found.tokens[i] > 0]
            if begun and one.version < 0:
                one.version = version
            for i in mine:
                given = int(found.tokens[i])
                tokens += given
                one.done += given
                if found.outcome[i] != Outcome.DONE:
                    break
                if one.turn == len(one.outputs) - 1:
                    one.ended = self.begin + float(found.last[i])
                    break
                one.ready = self.begin + float(found.last[i]) + one.tools[one.turn]
                one.turn, one.done = one.turn + 1, 0
        return float(found.busy.sum()), tokens
