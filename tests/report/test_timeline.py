"""The timeline chart: exact when it fits, else an overview with true areas (oracle: sums of the input)."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from euston.report.timeline import EXACT_PER_LANE, timeline
from euston.result import Result


def bars(figure: dict) -> list[tuple[str, float, float, float, float]]:  # type: ignore[type-arg]
    return [
        (trace["name"], y, width, start, length)
        for trace in figure["data"]
        for y, width, start, length in zip(trace["y"], trace["width"], trace["base"], trace["x"], strict=True)
    ]


def passes(count: int, gap: float = 0.0, tensor: float = 0.4) -> pl.DataFrame:
    """One actor: `count` unit passes, the last part of each waiting for a collective."""
    rows = []
    for m in range(count):
        start = m * (1 + gap)
        common = {"actor": "stage 0", "stream": "compute", "micro_batch": m, "chunk": 0}
        rows.append({**common, "name": "F", "kind": "forward", "start": start, "end": start + 1 - tensor})
        rows.append({**common, "name": "T", "kind": "tensor", "start": start + 1 - tensor, "end": start + 1})
    return pl.DataFrame(rows)


def test_a_short_timeline_is_drawn_exactly(result: Result) -> None:
    assert result.timeline is not None
    figure, note = timeline(result.timeline)
    assert note == ""
    assert "detail" not in figure
    drawn = bars(figure)
    assert len(drawn) == result.timeline.height
    assert sum(length for *_, length in drawn) == pytest.approx(
        float((result.timeline["end"] - result.timeline["start"]).sum())
    )


def test_a_long_one_is_joined_and_kept_whole_for_zooming() -> None:
    frame = passes(1000)
    figure, note = timeline(frame)
    assert note == (
        "2,000 operations are too many for one picture: neighbours are drawn as one, split in height as they "
        "split the time. Zoom in to see each of them."
    )
    assert len(figure["detail"]["start"]) == 2000
    assert len(bars(figure)) <= 2 * EXACT_PER_LANE


@given(
    count=st.integers(300, 1500),
    gap=st.sampled_from([0.0, 0.01, 0.5, 5.0]),
    tensor=st.floats(0.05, 0.9),
)
@settings(max_examples=20, deadline=None)
def test_areas_stay_true(count: int, gap: float, tensor: float) -> None:
    """A run's height is split as its time is, so areas of the kinds are in proportion to their seconds."""
    figure, _ = timeline(passes(count, gap, tensor))
    area = {"Forward": 0.0, "Tensor parallel": 0.0}
    for name, _, width, _, length in bars(figure):
        area[name] += width * length
    share = area["Tensor parallel"] / sum(area.values())
    assert share == pytest.approx(tensor, abs=0.01)


def test_more_actors_than_lanes() -> None:
    frame = pl.concat([passes(1).with_columns(actor=pl.lit(f"stage {i}")) for i in range(100)])
    figure, note = timeline(frame)
    assert note == "The first 64 of 100 actors are drawn."
    assert figure["layout"]["yaxis"]["ticktext"][:11] == [f"stage {i}" for i in range(11)]
