"""Text as windows of tokens, and a stream of them whose only state is a cursor: windows drawn so far."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from euston.errors import ConfigError

__all__ = ["TokenStream", "Windows"]


class Windows:
    """Windows of ``sequence + 1`` tokens over several sources, numbered through, source after source.

    Parameters
    ----------
    sources : sequence of integer arrays
        Tokens of each source (may be memory maps); what does not fill a last window is left out.
    sequence : int
    """

    def __init__(self, sources: Sequence[NDArray[Any]], sequence: int) -> None:
        self.sources, self.width = list(sources), sequence + 1
        self.counts = [int(source.size) // self.width for source in sources]
        self._starts = np.concatenate(([0], np.cumsum(self.counts))).astype(np.int64)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def source_of(self, window: int) -> int:
        """Which source a window is of."""
        return int(np.searchsorted(self._starts, window, side="right")) - 1

    def __getitem__(self, window: int) -> NDArray[Any]:
        s = self.source_of(window)
        start = (window - int(self._starts[s])) * self.width
        return self.sources[s][start : start + self.width]


class TokenStream:
    """Windows of one client, in an order that only seed, client and epoch decide.

    Parameters
    ----------
    windows : Windows
    own : int64[n]
        The client's own.
    seed, client : int

    Attributes
    ----------
    cursor : int
        Windows drawn so far. Setting it continues from there, bit for bit.
    """

    def __init__(self, windows: Windows, own: NDArray[np.int64], seed: int, client: int) -> None:
        if not own.size:
            raise ConfigError(
                f"`partition`: client {client} has no window of {windows.width} tokens; use fewer "
                "clients, shorter sequences or more text"
            )
        self.windows, self.own, self.seed, self.client = windows, own, seed, client
        self.cursor = 0
        self._epoch, self._order = -1, own

    def __len__(self) -> int:
        return int(self.own.size)

    def _window(self, n: int) -> int:
        epoch, place = divmod(n, self.own.size)
        if epoch != self._epoch:
            key = np.random.SeedSequence((self.seed, 0x57E4, self.client, epoch))
            self._order = np.random.Generator(np.random.Philox(key)).permutation(self.own)
            self._epoch = epoch
        return int(self._order[place])

    def batch(self, size: int) -> NDArray[np.int64]:
        """The next `size` windows: int64[size, sequence + 1]."""
        out = np.empty((size, self.windows.width), np.int64)
        for row in range(size):
            out[row] = self.windows[self._window(self.cursor)]
            self.cursor += 1
        return out
