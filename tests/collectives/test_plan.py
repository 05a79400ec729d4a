"""Whether to compress: formulas written out by hand, the derived break-even bandwidth, and refusals."""

from __future__ import annotations

import math

import polars as pl
import pytest

from euston.collectives.plan import Speed, lines, measure_speed, plan
from euston.compression import CODECS
from euston.errors import ConfigError

D = 1 << 24
EDEN, THC, QUIC = (CODECS.get(name)(bits=4) for name in ("eden", "thc", "quic_fl"))
EVEN = Speed(1.5e9, 1.5e9, 6e9)


def row(advice, codec):
    return advice.table.row(by_predicate=pl.col("codec") == codec, named=True)


def test_eden_as_written_out():
    """2cS(n-1)/(nW) + S/E + S(n-1)/(nD) + S/(nE) + S/D, n = 16, 10 Gb/s."""
    size, n, w = 4 * D, 16, 1.25e9
    found = row(plan(D, n, w, {"eden": EDEN}, {"eden": EVEN}), "eden")
    layout = EDEN.layout(D)
    wire = layout.bytes + 48 * layout.packets
    coding = size / 1.5e9 * (1 + 15 / 16 + 1 / 16 + 1)
    assert found["codec_s"] == pytest.approx(coding)
    assert found["seconds"] == pytest.approx(2 * wire * 15 / 16 / w + coding)
    assert wire / size == pytest.approx(4 / 32 * 1.035, rel=0.02)  # headers are counted


def test_thc_needs_no_decoding_per_peer_and_quic_fl_only_looks_up():
    n, w, size = 8, 1e9, 4 * D
    advice = plan(D, n, w, {"thc": THC, "quic": QUIC}, {"thc": EVEN, "quic": EVEN})
    assert row(advice, "thc")["codec_s"] == pytest.approx(2 * size / 1.5e9)
    assert row(advice, "thc")["bytes_down"] == pytest.approx(2 * row(advice, "thc")["bytes_up"], rel=0.05)
    want = size / 1.5e9 * (1 + 1 / 8 + 1) + size * 7 / 8 / 6e9
    assert row(advice, "quic")["codec_s"] == pytest.approx(want)


def test_break_even_bandwidth_is_where_both_take_the_same_time():
    """About 0.9 GB/s for four bits on one core at 1.5 GB/s, W* = 2(1 - c) / (1/E + 2/D) for many workers."""
    found = row(plan(D, 1000, 1e9, {"eden": EDEN}, {"eden": EVEN}), "eden")
    assert found["pays_below"] == pytest.approx(2 * (1 - 1 / 8) / (1 / 1.5e9 + 2 / 1.5e9), rel=0.05)
    for factor, wins in ((0.99, True), (1.01, False)):
        other = row(plan(D, 1000, factor * found["pays_below"], {"eden": EDEN}, {"eden": EVEN}), "eden")
        assert (other["speedup"] > 1) == wins


def test_do_not_compress_here_and_how_many_cores_it_would_take():
    fast = plan(D, 8, 12.5e9, {"eden": EDEN}, {"eden": EVEN})
    assert fast.best == "none"
    text = lines(fast, 12.5e9)
    assert text[0].startswith("do not compress here") and "Gb/s" in text[1]
    cores = row(fast, "eden")["cores_to_win"]
    for more, wins in ((0, True), (-1, False)):
        other = plan(D, 8, 12.5e9, {"eden": EDEN}, {"eden": EVEN}, cores=cores + more)
        assert (row(other, "eden")["speedup"] > 1) == wins
    slow = plan(D, 8, 1e8, {"eden": EDEN}, {"eden": EVEN})
    assert slow.best == "eden" and lines(slow, 1e8)[0].startswith("use eden")
    assert plan(D, 8, 1e8, {"eden": EDEN}, {"eden": EVEN}, most_vnmse=1e-3).best == "none"


def test_speeds_are_measured_and_bad_input_is_refused():
    speed = measure_speed(CODECS.get("none")(), 1 << 12, turns=1)
    assert 0 < speed.encode < math.inf
    for call, words in (
        (lambda: plan(0, 8, 1e9, {}, {}), "`size`"),
        (lambda: plan(10, 1, 1e9, {}, {}), "`workers`"),
        (lambda: plan(10, 2, 0, {}, {}), "`bandwidth`"),
        (lambda: plan(10, 2, 1e9, {"eden": EDEN}, {}), "eden is missing"),
        (lambda: plan(10, 2, 1e9, {}, {}, cores=0), "`cores`"),
        (lambda: Speed(0, 1, 1), "`speed.encode`"),
    ):
        with pytest.raises(ConfigError, match=words):
            call()
