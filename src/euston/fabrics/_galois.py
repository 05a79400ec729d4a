"""Arithmetic of small finite fields, for the slim fly: powers of a primitive element, sums and products."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Field", "field", "prime_power"]


@dataclass(frozen=True, eq=False)
class Field:
    """GF(q), its elements numbered 0 to q - 1 with 0 the zero and 1 the one.

    Attributes
    ----------
    add, multiply : int64[q, q]
    power : int64[q - 1]
        Powers 0 to q - 2 of a primitive element: every element but 0, once.
    """

    add: NDArray[np.int64]
    multiply: NDArray[np.int64]
    power: NDArray[np.int64]


def prime_power(q: int) -> tuple[int, int] | None:
    """(p, m) with p prime and p**m = q, or None."""
    for p in range(2, q + 1):
        if q % p == 0:
            m = 0
            while q % p == 0:
                q, m = q // p, m + 1
            return (p, m) if q == 1 else None
    return None


def field(q: int) -> Field:
    """GF(q) for a prime power q: polynomials over GF(p), an element's digits in base p its coefficients.

    Tries monic polynomials of degree m until x has order q - 1 modulo one: then every element but 0 is a
    power of x, so that the residues are a field and x is primitive in it.
    """
    found = prime_power(q)
    if found is None:
        raise ValueError(f"{q} is not a prime power")
    p, m = found
    place = p ** np.arange(m)
    digits = np.arange(q)[:, None] // place % p
    for low in itertools.product(range(p), repeat=m):
        power, value = [], np.eye(1, m, dtype=np.int64)[0]
        for _ in range(q - 1):
            power.append(int(value @ place))
            carry = value[-1]
            value = (np.concatenate(([0], value[:-1])) - carry * np.array(low)) % p
        if len(set(power)) == q - 1 and 0 not in power and int(value @ place) == 1:
            break
    powers = np.array(power, np.int64)
    log = np.zeros(q, np.int64)
    log[powers] = np.arange(q - 1)
    multiply = powers[(log[:, None] + log) % (q - 1)]
    multiply[0, :] = multiply[:, 0] = 0
    add = (digits[:, None, :] + digits) % p @ place
    return Field(add.astype(np.int64), multiply, powers)
