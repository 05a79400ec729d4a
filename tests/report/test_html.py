"""The HTML report: complete, self-contained, and safe whatever names the user chose."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import polars as pl
import pytest

from euston.report import write
from euston.result import Result

# what a name in a scenario may try: close the script or the attribute, add a handler, a link, an entity
ATTACK = (
    '</script><script>window.hacked=1</script><img src=x onerror="window.hacked=1">\'">'
    '<svg onload=window.hacked=1><a href="javascript:window.hacked=1">x</a>&lt;b&gt;\u2028'
)


class Page(HTMLParser):
    """Every element with its attributes, and the text of script blocks."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self._in_script = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._in_script = tag == "script"
        if self._in_script:
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._in_script = False

    def handle_data(self, data: str) -> None:
        if self._in_script:
            self.scripts[-1] += data


def render(result: Result, folder: Path) -> str:
    return write(result, folder / "report.html").read_text(encoding="utf-8")


def body(text: str) -> str:
    """The page without its scripts and styles."""
    return re.sub(r"<(script|style)\b.*?</\1>", "", text, flags=re.DOTALL)


def figures(text: str) -> dict[str, dict]:  # type: ignore[type-arg]
    match = re.search(r'<script type="application/json" id="figures">(.*?)</script>', text, re.DOTALL)
    assert match is not None
    return json.loads(match[1])  # type: ignore[no-any-return]


def test_every_part_is_there(result: Result, tmp_path: Path) -> None:
    text = body(render(result, tmp_path))
    for heading in (
        "How sure is this?",
        "Where the step goes",
        "Timeline",
        "Pipeline stages",
        "Memory",
        "Network",
        "Configured links that carried nothing",
        "Over virtual stages",
        "Beside published figures",
        "Operators",
        "Assumptions",
        "Extra",
        "All numbers",
        "How to repeat this",
    ):
        assert f">{heading}<" in text, heading
    assert (
        "87.5 % of the computing time is priced from measurements on this accelerator; 12.5 % roofline."
        in text
    )
    assert "2 inputs are defaulted, assumed, transferred or recalled" in text
    assert "published 400" in text
    assert "+2.5 %" in text
    assert "agg_up/p0/a0/c1" in text
    assert "accelerator: h100-sxm" in text  # the scenario, as YAML


def test_nothing_is_loaded_from_elsewhere(result: Result, tmp_path: Path) -> None:
    page = Page(render(result, tmp_path))
    loading = {"src", "href", "srcset", "data", "poster", "action", "formaction", "background", "cite"}
    for tag, attributes in page.elements:
        for name in loading & set(attributes):
            assert (attributes[name] or "").startswith("data:"), (tag, name, attributes[name])
    assert not re.search(
        r"url\(|@import", re.sub(r"<script.*?</script>", "", render(result, tmp_path), flags=re.DOTALL)
    )
    policy = next(
        a["content"] for tag, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy is not None
    assert "default-src 'none'" in policy
    assert "http" not in policy
    assert "unsafe-eval" not in policy
    assert "script-src 'sha256-" in policy


def test_names_from_users_are_only_ever_text(make: Callable[[str], Result], tmp_path: Path) -> None:
    clean = Page(render(make("plain"), tmp_path))
    attacked_text = render(make(ATTACK), tmp_path)
    attacked = Page(attacked_text)
    # the same elements in the same order, so no name became one
    assert [tag for tag, _ in attacked.elements] == [tag for tag, _ in clean.elements]
    assert not any(name.startswith("on") for _, attributes in attacked.elements for name in attributes)
    assert len(attacked.scripts) == 3
    assert attacked.scripts[1:] == clean.scripts[1:]
    # plotly.js reads a subset of HTML in labels: those are escaped once more
    labels = json.dumps(figures(attacked_text), ensure_ascii=False)
    assert "hacked" in labels
    assert not re.search(r"<(?!b>|/b>|br>|extra>|/extra>)", labels)


def test_missing_tables_are_left_out(tmp_path: Path) -> None:
    bare = Result(kind="network", scalars={"completion_time": 0.25}, units={"completion_time": "s"})
    text = render(bare, tmp_path)
    assert "Network result" in text
    assert "250 ms" in text
    assert "<script" not in text  # no charts, so no plotly.js either
    assert "Where the step goes" not in text
    empty = Result(
        kind="training", tables={"breakdown": pl.DataFrame({"kind": [], "seconds": [], "share": []})}
    )
    assert "Where the step goes" not in render(empty, tmp_path)


def test_unknown_kinds_get_their_tables_as_they_are(tmp_path: Path) -> None:
    table = pl.DataFrame({"flow": ["a", "b"], "seconds": [1e-3, float("nan")], "share": [0.5, None]})
    text = body(render(Result(kind="incast", tables={"flows": table}), tmp_path))
    assert ">Flows<" in text
    assert ">1 ms<" in text
    assert text.count(">–<") == 2  # NaN and null


def test_the_waterfall_adds_up(result: Result, tmp_path: Path) -> None:
    """Oracle: each bar begins where the sum of those before it ends."""
    bars = figures(render(result, tmp_path))["breakdown"]["data"][0]
    total = 0.0
    for base, length in zip(bars["base"], bars["x"], strict=True):
        assert base == pytest.approx(total)
        total += length
    assert total == pytest.approx(result.step_time)


def test_unicode_and_numbers_that_are_not(tmp_path: Path) -> None:
    result = Result(
        kind="training", scalars={"step_time": float("nan"), "mfu": 0.0}, meta={"title": "Größe 大"}
    )
    text = render(result, tmp_path)
    assert "Größe 大" in text
    assert "–" in text
