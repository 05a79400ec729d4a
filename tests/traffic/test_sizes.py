"""Flow-size distributions.

Oracles: published means of the interpolated distributions, numerical integration of the quantile function,
Kolmogorov-Smirnov tests against the distribution function at a fixed seed.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from euston.errors import BadInput, ConfigError, TraceError
from euston.traffic import (
    PUBLISHED,
    BoundedPareto,
    Fixed,
    LogNormal,
    SizeCdf,
    SizeDistribution,
    Uniform,
    published,
    read_cdf,
    size_distribution,
    sizes,
)

# Means of the linearly interpolated distributions, bytes.
MEANS = {"websearch": 1.711e6, "fb_hadoop": 120.4e3, "alistorage2019": 40.9e3, "datamining": 5.04e6}


@pytest.mark.parametrize(("name", "mean"), MEANS.items())
def test_published_means(name: str, mean: float) -> None:
    digits = len(str(int(mean)).rstrip("0"))
    assert published(name).mean == pytest.approx(mean, rel=0.5 * 10.0 ** -(digits - 1))


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes_follow_the_distribution(name: str) -> None:
    dist = published(name)
    drawn = sizes(name, 20_000, seed=5)
    assert drawn.dtype == np.int64 and drawn.min() >= 1 and drawn.max() <= dist.size[-1]
    # whole bytes have steps; spread them out again for a test on continuous values
    smooth = drawn + np.random.default_rng(1).random(drawn.size) - 0.5
    assert stats.kstest(smooth, lambda x: dist.share(np.maximum(x, 0))).pvalue > 0.01
    error = 3 * drawn.std() / math.sqrt(drawn.size)
    assert drawn.mean() == pytest.approx(dist.mean, abs=error)
    assert "linear" in dist.about()["interpolation"] and dist.source


PARAMETRIC: list[SizeDistribution] = [
    Fixed(2e6),
    Uniform(1e3, 1e6),
    LogNormal(1e5, 2.0, 1e9),
    LogNormal(1e6, 1.0),
    BoundedPareto(1.2, 1e3, 1e9),
    BoundedPareto(1.0, 1e3, 1e8),
    BoundedPareto(0.5, 1e3, 1e6),
]


@pytest.mark.parametrize("dist", PARAMETRIC, ids=lambda d: d.name)
def test_mean_is_the_integral_of_the_quantile(dist: SizeDistribution) -> None:
    # substituting u = 1 - exp(-t) keeps the heavy tail smooth
    def integrand(t: float) -> float:
        return float(dist.quantile(np.array([-math.expm1(-t)]))[0]) * math.exp(-t)

    value, _ = integrate.quad(integrand, 0, 36, limit=400, epsrel=1e-9)
    assert dist.mean == pytest.approx(value, rel=1e-5)


def test_parametric_samples() -> None:
    pareto = BoundedPareto(1.1, 1e4, 1e8)
    drawn = pareto.quantile(np.random.default_rng(0).random(20_000))
    exact = stats.truncpareto(1.1, c=1e4, scale=1e4)
    assert stats.kstest(drawn, exact.cdf).pvalue > 0.01
    normal = LogNormal(1e5, 1.5)
    drawn = np.log(normal.quantile(np.random.default_rng(1).random(20_000)))
    assert stats.kstest(drawn, stats.norm(math.log(1e5), 1.5).cdf).pvalue > 0.01


def test_the_same_seed_gives_the_same_sizes() -> None:
    assert (sizes("websearch", 100, 7) == sizes("websearch", 100, 7)).all()
    assert (sizes("websearch", 100, 7) != sizes("websearch", 100, 8)).any()
    assert (sizes("2 MB", 3) == 2_000_000).all()
    assert sizes("websearch", 0).size == 0


def test_what_a_person_writes() -> None:
    assert size_distribution("2 MiB").mean == 2 * 2**20
    assert size_distribution(1000).mean == 1000
    found = size_distribution({"distribution": "pareto", "shape": 1.2, "low": "1 kB", "high": "1 MB"})
    assert found == BoundedPareto(1.2, 1e3, 1e6)
    assert size_distribution({"distribution": "websearch"}) is published("websearch")
    assert size_distribution(found) is found


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("websaerch", "did you mean 'websearch'"),
        ("0 B", "positive|above 0|more than"),
        ("2 PB", "2\\^40"),
        (True, "is no size"),
        ({"distribution": "lognormal", "median": "1 MB", "sgima": 2}, "did you mean 'sigma'"),
        ({"distribution": "lognormal", "median": "1 MB"}, "`bytes.sigma`: is missing"),
        ({"distribution": "pareto", "shape": 1.2, "low": "1 GB", "high": "1 MB"}, "above `high`"),
        ({"distribution": "pareto", "shape": -1, "low": "1 kB"}, "shape"),
        ({"distribution": "gamma"}, "unknown flow-size distribution"),
        ({}, "`bytes.distribution`"),
        ({"distribution": "websearch", "scale": 2}, "leave it out"),
    ],
)
def test_what_a_person_should_not_write(spec: object, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        size_distribution(spec)


def test_a_file_of_points(tmp_path: Path) -> None:
    file = tmp_path / "mine.csv"
    file.write_text("# mine\nsize_bytes,cdf\n0,0\n\n100,50\n1000,100\n")
    dist = read_cdf(file)
    assert dist.mean == pytest.approx(0.5 * 50 + 0.5 * 550)
    assert size_distribution(str(file)).mean == dist.mean
    file.write_text("0 0\r\n100 0.5\r\n1000 1\r\n")
    assert read_cdf(file).mean == dist.mean


def test_a_share_at_the_first_point_is_of_that_size() -> None:
    dist = SizeCdf("atom", np.array([100.0, 200.0]), np.array([0.5, 1.0]))
    assert dist.mean == pytest.approx(0.5 * 100 + 0.5 * 150)
    drawn = dist.quantile(np.linspace(0, 1, 1001)[:-1])
    assert (drawn[:500] == 100).all() and drawn.mean() == pytest.approx(dist.mean, rel=1e-3)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no point"),
        ("size,cdf\n", "holds no point"),
        ("0,0\n100,0.7\n", "`mine.csv:2`: the last share is 0.7"),
        ("0,0\n100,0.7\n50,1\n", "`mine.csv:3`: falls"),
        ("0,0\n100,x\n", "`mine.csv:2`: '100,x'"),
        ("0,0\n100\n", "`mine.csv:2`"),
        ("-5,0\n100,1\n", "`mine.csv:1`"),
        ("0,0\n1e30,1\n", "`mine.csv:2`"),
        ("0,0\nnan,1\n", "`mine.csv:2`"),
        ("0,0\n10,nan\n", "`mine.csv:2`"),
    ],
)
def test_a_bad_file_of_points(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "mine.csv"
    file.write_text(text)
    with pytest.raises(TraceError, match=words):
        read_cdf(file)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="cannot be read"):
        read_cdf(tmp_path / "absent.csv")
    with pytest.raises(TraceError, match="is not a file"):
        read_cdf(tmp_path)
    with pytest.raises(ConfigError):
        sizes("websearch", -1)


@given(st.text(max_size=60))
def test_any_text_is_points_or_an_error(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    file = tmp_path_factory.mktemp("cdf") / "x.txt"
    file.write_text(text, encoding="utf-8", errors="replace")
    try:
        dist = read_cdf(file)
    except TraceError:
        return
    assert dist.cdf[-1] == 1.0 and 0 <= dist.mean <= 2.0**40
