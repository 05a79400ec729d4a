"""Pieces, packets and groups: properties that every layout must have."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from euston.compression.layout import GROUP, grouped, pieces, raw
from euston.errors import ConfigError


@given(st.integers(0, 3_000_000), st.sampled_from([256, 4096, 1 << 16, 1 << 20]))
def test_pieces_are_aligned_powers_of_two_with_little_padding(d, block):
    start = pieces(d, block)
    size = np.diff(start)
    assert start[-1] >= d
    assert ((size & (size - 1)) == 0).all()
    assert (start[:-1] % np.maximum(size, 1) == 0).all()
    assert (size[:-1] % GROUP == 0).all()
    assert (np.diff(size) <= 0).all()
    assert size.max(initial=0) <= block
    rest = d % block
    assert start[-1] - d <= max(rest / 8, 511)
    if size.size:
        assert start[-2] < d  # no piece is all padding


@given(
    st.integers(0, 60_000),
    st.sampled_from([0.01, 0.3, 0.5, 1, 1.5, 2, 2.7, 3, 4, 7.25, 8]),
    st.sampled_from([0, 600, 1452, 8924]),
    st.sampled_from([0, 4]),
)
def test_grouped_packets_cover_everything_once(d, bits, packet, extra):
    start = pieces(d, 4096)
    layout = grouped(d, start, bits, packet, header=4, extra=extra)
    assert layout.coordinate[0] == 0 and layout.coordinate[-1] == start[-1]
    assert (np.diff(layout.coordinate) > 0).all()
    assert (np.diff(layout.ptr) > 4).all()  # every packet says something
    if packet:
        assert (np.diff(layout.ptr) <= packet).all()
    else:
        assert layout.packets == layout.pieces
    # Packets stay within their piece.
    assert (layout.coordinate[:-1] >= start[layout.piece]).all()
    assert (layout.coordinate[1:] <= start[layout.piece + 1]).all()
    assert (layout.packet_start == np.searchsorted(layout.piece, np.arange(layout.pieces + 1))).all()
    # Groups follow each other without gap or overlap, headers apart.
    size = np.minimum(GROUP, start[-1] - np.arange(layout.width.size) * GROUP)
    words = np.where(layout.width > 0, size // 32 * layout.width + extra // 4, 0)
    packet_of = np.repeat(np.arange(layout.packets), np.diff(layout.group_start))
    expected = np.cumsum(words) - words + (packet_of + 1)
    assert (layout.word == expected).all()
    assert layout.bytes == 4 * (words.sum() + layout.packets)


@pytest.mark.parametrize("bits", [0.1, 0.5, 1.5, 2.25, 3.9])
def test_fractional_widths_have_the_right_mean(bits):
    layout = grouped(1 << 20, pieces(1 << 20, 1 << 20), bits, 1452, header=4)
    assert layout.width.mean() == pytest.approx(bits, abs=1 / 4096)
    assert set(layout.width.tolist()) == {int(bits), int(bits) + 1}
    # Scrambled: no long run of packets without the wider ones.
    wide = np.flatnonzero(layout.width > int(bits))
    assert np.diff(wide).max() < 20 / (bits - int(bits))


@given(st.integers(0, 5000), st.sampled_from([1, 2, 4, 8]), st.sampled_from([0, 100, 1452]))
def test_raw_packets_cover_everything_once(n, item, packet):
    layout = raw(n, n, item, packet, header=4)
    assert layout.coordinate[0] == 0 and layout.coordinate[-1] == n
    held = np.diff(layout.ptr) - 4 - item * np.diff(layout.coordinate)
    assert (held >= 0).all() and (held < 4).all()
    assert (layout.ptr % 4 == 0).all()


def test_what_arrived_of_each_piece():
    layout = grouped(5000, pieces(5000, 4096), 4, 1452, header=4)
    assert np.diff(layout.coordinate).tolist() == [2816, 1280, 1024]
    mask = np.array([True, False, True])
    assert layout.received(mask).tolist() == [2816 / 4096, 1.0]
    assert layout.received(None).tolist() == [1.0, 1.0]
    assert layout.batches(4096) == [(0, 1), (1, 2)]
    assert layout.batches(1 << 20) == [(0, 2)]


def test_packets_that_are_too_small_are_refused():
    with pytest.raises(ConfigError, match="needs 260"):
        grouped(5000, pieces(5000, 4096), 8, 200, header=4)
    with pytest.raises(ConfigError, match="12 are needed"):
        raw(10, 10, 8, 8, header=4)
