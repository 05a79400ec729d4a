"""Bit packing: against a definition bit by bit, and round trips of arbitrary codes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from euston.compression.bits import pack, unpack
from euston.errors import ConfigError


def packed_bit_by_bit(codes, bits):
    """Planes of 1, 2, 4, 8 bits, lowest first; code 8 k + lane of a row at word `lane`, bit width * k."""
    out = []
    for at in range(0, codes.size, 256):
        group = codes[at : at + 256]
        lanes = -(-group.size // 32)
        group = np.concatenate([group, np.zeros(32 * lanes - group.size, group.dtype)]).astype(object)
        shift = 0
        for width in (1, 2, 4, 8):
            if not bits & width:
                continue
            per_word = 32 // width
            for row in range(width):
                for lane in range(lanes):
                    word = 0
                    for k in range(per_word):
                        code = int(group[row * per_word * lanes + k * lanes + lane])
                        word |= (code >> shift) % (1 << width) << (width * k)
                    out.append(word)
            shift += width
    return np.array(out, np.uint32).view(np.uint8)


@pytest.mark.nojit
@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("n", [1, 64, 256, 300])
def test_layout_of_bits(bits, n):
    codes = np.random.default_rng(n).integers(0, 1 << bits, n).astype(np.uint8)
    assert (pack(codes, bits) == packed_bit_by_bit(codes, bits)).all()


@given(
    st.integers(1, 8).flatmap(
        lambda b: st.tuples(st.just(b), st.lists(st.integers(0, (1 << b) - 1), max_size=700))
    )
)
def test_round_trip(case):
    bits, values = case
    codes = np.array(values, np.uint8)
    packed = pack(codes, bits)
    assert packed.size * 8 == bits * (-(-codes.size // 32) * 32)  # exactly `bits` bits, 32 codes at a time
    assert (unpack(packed, codes.size, bits) == codes).all()


def test_refusals():
    with pytest.raises(ConfigError, match="1 to 8"):
        pack(np.zeros(3, np.uint8), 9)
    with pytest.raises(ConfigError, match="does not fit into 3 bits"):
        pack(np.array([7, 8], np.uint8), 3)
    with pytest.raises(ConfigError, match="take 4"):
        unpack(np.zeros(8, np.uint8), 20, 1)
