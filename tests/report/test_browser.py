"""The report in a real browser: a silent console, every chart drawn, detail on zooming, names run nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from euston.report import write
from euston.result import Result

pytestmark = pytest.mark.slow

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
CHARTS = {"breakdown", "timeline", "stages", "memory", "links", "sweep"}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    executable = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if executable is None:
        pytest.skip("no chromium on this machine (Debian: apt install chromium)")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=ARGUMENTS)
        yield browser
        browser.close()


def open_page(browser: Any, path: Path, scheme: str = "light") -> tuple[Any, list[str]]:
    """The page after its charts are drawn, and what the console, the page and the network had to say."""
    page = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme=scheme)
    said: list[str] = []
    page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: said.append(f"error: {error}"))
    page.on("request", lambda request: None if request.url == path.as_uri() else said.append(request.url))
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-drawn=yes]", state="attached", timeout=60_000)
    return page, [line for line in said if not line.startswith("data:")]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_chart_is_drawn_without_a_word(
    browser: Any, result: Result, tmp_path: Path, scheme: str
) -> None:
    page, said = open_page(browser, write(result, tmp_path / "report.html"), scheme)
    assert said == []
    drawn = {name: page.locator(f"#chart-{name} svg.main-svg .point path").count() for name in CHARTS}
    assert all(drawn.values()), drawn
    assert result.timeline is not None
    assert drawn["timeline"] == result.timeline.height
    texts = page.locator("#chart-timeline .ytick text").all_text_contents()
    assert texts == [f"stage {s}" for s in range(4)]
    overflow = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert overflow == 0
    page.screenshot(path=tmp_path / f"{scheme}.png", full_page=True)
    assert (tmp_path / f"{scheme}.png").stat().st_size > 50_000
    page.close()


def test_names_from_users_run_nothing(browser: Any, make: Callable[[str], Result], tmp_path: Path) -> None:
    name = "</script><script>window.hacked=1</script><img src=x onerror=window.hacked=1><b>bold</b>"
    page, said = open_page(browser, write(make(name), tmp_path / "report.html"))
    assert said == []
    assert page.evaluate("window.hacked === undefined")
    assert page.title() == name
    assert page.locator("h1").inner_text() == name
    # the label of the tier called so shows the text itself
    assert any("<b>bold</b>" in text for text in page.locator("#chart-links .ytick text").all_text_contents())
    page.close()


def test_zooming_shows_every_operation(browser: Any, result: Result, tmp_path: Path) -> None:
    count = 3000
    result.timeline = pl.DataFrame(
        {
            "actor": ["stage 0"] * count,
            "stream": ["compute"] * count,
            "name": ["F"] * count,
            "kind": ["forward"] * count,
            "start": [float(i) for i in range(count)],
            "end": [i + 0.9 for i in range(count)],
            "micro_batch": list(range(count)),
            "chunk": [0] * count,
        }
    )
    page, said = open_page(browser, write(result, tmp_path / "report.html"))
    bars = page.locator("#chart-timeline .barlayer .point")
    assert bars.count() < 300
    expect = pytest.importorskip(
        "playwright.sync_api"
    ).expect  # the page's policy forbids evaluated predicates
    page.evaluate("Plotly.relayout('chart-timeline', {'xaxis.range': [100, 200]})")
    expect(bars).to_have_count(101)
    page.evaluate("Plotly.relayout('chart-timeline', {'xaxis.range': [0, 3000]})")
    expect(bars).not_to_have_count(101)
    assert bars.count() < 300
    assert said == []
    page.close()
