"""The result as one HTML page that needs nothing else: styles, charts and plotly.js are inside.

Names on the page come from users. The template escapes everything, chart data travel as JSON in a block that
is not executed, and a content security policy allows only the page's own scripts (by hash) and no address.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
from collections.abc import Callable, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup, escape

from euston.errors import MissingExtra
from euston.report import _sections as sections
from euston.report import (
    campaign,
    exchange,
    federated,
    figures,
    network,
    plan,
    post_training,
    serving,
    shared_site,
)
from euston.report._words import CERTAINTY, cell, colours, column_unit, percent
from euston.report.timeline import timeline
from euston.result import Result

_PLACE = resources.files("euston.report") / "templates"


def _read(name: str) -> str:
    return (_PLACE / name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    environment = Environment(
        autoescape=True,
        loader=FunctionLoader(_read),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "breakable": _breakable}
    environment.globals |= {"cell": cell, "unit_of": column_unit, "heading": sections.heading}
    return environment


def _breakable(path: str) -> Markup:
    """A dotted path that may break after its dots and underscores, escaped."""
    escaped = str(escape(path))
    return Markup(escaped.replace(".", ".<wbr>").replace("_", "_<wbr>"))


def _plotly() -> str:
    """plotly.js from the plotly package, without importing the package."""
    spec = importlib.util.find_spec("plotly")
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtra("plotly", "all")
    path = Path(next(iter(spec.submodule_search_locations))) / "package_data" / "plotly.min.js"
    return path.read_text(encoding="utf-8").replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _hash(script: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _json(data: Any) -> Markup:
    """JSON that may stand in a script block: nothing in it can end the block."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


ROWS = 5000
"""Lines of a table that a page looks at; no table of fewer is cut before its section says so."""

_CHARTS: dict[str, Callable[[Sequence[dict[str, Any]]], figures.Figure]] = {
    "stages": figures.stages,
    "links": figures.links,
    "memory": figures.memory,
    "sweep": figures.sweep,
}

_STUDIES: dict[str, Callable[[Result], list[network.Section]]] = {
    **dict.fromkeys(network.KINDS, network.sections),
    **dict.fromkeys(serving.KINDS, serving.sections),
    campaign.KIND: campaign.sections,
    exchange.KIND: exchange.sections,
    federated.KIND: federated.sections,
    plan.KIND: plan.sections,
    post_training.KIND: post_training.sections,
    shared_site.KIND: shared_site.sections,
}
"""Charts of a kind of result besides those of its tables."""


def render(result: Result) -> bytes:
    """The page's bytes, UTF-8."""
    short_first = sorted(result.tables.items(), key=lambda item: item[1].height > 100)
    if result.kind in network.KINDS:
        short_first = [(name, network.worst_first(name, table)) for name, table in short_first]
    rows = {name: table.head(ROWS).to_dicts() for name, table in short_first if table.height}
    charts: dict[str, figures.Figure] = {}
    study = _STUDIES.get(result.kind)
    studied = study(result) if study is not None else []
    charts |= {section.name: section.figure for section in studied}
    if "breakdown" in rows:
        charts["breakdown"] = figures.waterfall(rows["breakdown"], result.scalars.get("step_time"))
    for name, draw in _CHARTS.items():
        if name in rows and result.kind not in network.KINDS:
            charts[name] = draw(rows[name])
    note = ""
    if result.timeline is not None and result.timeline.height and result.kind != campaign.KIND:
        charts["timeline"], note = timeline(result.timeline)
    script = _read("report.js")
    plotly = _plotly() if charts else ""
    shares, sentence = sections.certainty(result, rows)
    page = _environment().get_template("report.html.j2")
    text = page.render(
        title=sections.title(result),
        subtitle=sections.subtitle(result),
        cards=sections.cards(result, rows),
        scalars=sections.scalars(result),
        warnings=result.meta.get("warnings") or [],
        rows=rows,
        heights={name: table.height for name, table in result.tables.items()},
        network=studied,
        columns={name: result.tables[name].columns for name in rows},
        known=(
            *sections.KNOWN,
            *(network.DRAWN if studied else ()),
            *campaign.DRAWN,
            *exchange.DRAWN,
            *plan.DRAWN,
            *serving.DRAWN,
            *shared_site.DRAWN,
        ),
        limits={"flows": 30, "queues": 20},
        charts={name: charts[name]["layout"]["height"] for name in charts},
        figures=_json(charts),
        timeline_note=note,
        lane={federated.KIND: "site", post_training.KIND: "pool"}.get(result.kind, "pipeline stage"),
        shares=[(CERTAINTY.get(name, (name, "#94a0b0", "")), share) for name, share in shares.items()],
        certainty=sentence,
        assumptions=sections.assumptions(result, rows),
        unused=sections.unused(rows),
        resolved=sections.resolved(result),
        about=sections.about(result),
        breakdown_colours=colours(str(row["kind"]) for row in rows.get("breakdown", [])),
        style=Markup(_read("style.css")),
        script=Markup(script),
        plotly=Markup(plotly),
        hashes=" ".join(f"'{_hash(part)}'" for part in (plotly, script) if part),
    )
    return text.encode("utf-8")
