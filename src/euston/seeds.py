"""Random numbers by purpose: every use draws from its own counter-based stream.

Adding a use never shifts the numbers of another, and the same seed gives the same traffic everywhere.
"""

from __future__ import annotations

import hashlib

import numpy as np

from euston.errors import ConfigError

__all__ = ["stream"]


def stream(seed: int, *purpose: str | int) -> np.random.Generator:
    """The Philox stream (Salmon et al., SC'11) of ``purpose`` under ``seed``.

    Examples
    --------
    >>> bool(stream(1, "sizes").random() == stream(1, "sizes").random())
    True
    >>> bool(stream(1, "sizes").random() == stream(1, "arrivals").random())
    False
    """
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise ConfigError(f"`seed`: {seed!r} is not a whole number of 0 or more")
    text = "\x1f".join(str(part) for part in (int(seed), *purpose))
    key = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "little")
    return np.random.Generator(np.random.Philox(key=key))
