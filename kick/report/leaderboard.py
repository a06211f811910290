"""Frame and answers -> one self-contained page, index.html, with leaderboard.csv, .md, .tex, .json beside it.

The page makes no request: style and script are inside, under a content security policy of their hashes. It
can be read without script, which only adds sorting, filters and the metrics other than the headline.
Everything that comes from results is data: text is escaped by Jinja2, the embedded JSON can end no script,
and a CSV cell starts no formula.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from kick.analysis.frame import Results
from kick.report import page, select, tables, wording
from kick.report.unasked import HEADS

HERE = Path(__file__).parent
PACKAGES = "% \\usepackage{booktabs}\n% \\usepackage{amssymb}"
FORMAT = "kick leaderboard 1"  # the version of leaderboard.schema.json; raised if a reader must change
SCRIPTS = ("side_by_side.js", "leaderboard.js")  # the second one calls the first


def render(
    report: Results,
    out: str | Path,
    *,
    title: str | None = None,
    notes: Sequence[str] = (),
    examples: int = 3,
) -> list[Path]:
    """Write the leaderboard of a report into the folder `out`; returns the files written.

    notes: sentences for the page's head, beside those of the report itself; examples: items per task whose
    answers are shown, 0 for none.
    """
    folder = wording.folder_for(out)
    view = page.view(report, title=title, notes=notes, examples=examples)
    made = tables.make_all(report.frame)
    contents = {
        "index.html": html(view),
        "leaderboard.csv": wording.csv(report.frame, short=True),
        "leaderboard.md": _markdown(view, made),
        "leaderboard.tex": "\n".join([PACKAGES, *(table.latex() for table in made.values())]),
        "leaderboard.json": as_json(report, view),
    }
    for name, content in contents.items():
        (folder / name).write_text(content, encoding="utf-8", errors="replace")
    return [folder / name for name in contents]


LARGEST = 15_000_000  # bytes of a page


def _without(section: page.Section, **pair: Any) -> page.Section:
    return replace(section, data={**section.data, "pair": {**section.data["pair"], **pair}})


CUTS: Mapping[str, Callable[[page.Section], page.Section]] = {
    "what was answered, in the comparison of two variants": lambda one: _without(
        one, tasks=[{**task, "texts": []} for task in one.data["pair"]["tasks"]]
    ),
    "metrics other than the headline": lambda one: replace(one, data={**one.data, "tasks": []}),
    "charts": lambda one: replace(
        one, hides=None, tradeoffs=(), tasks=tuple(replace(task, chart=None) for task in one.tasks)
    ),
    "the comparison of two variants": lambda one: replace(_without(one, tasks=[]), pair=""),
}


def html(view: page.PageView, largest: int = LARGEST) -> str:
    """The page. One that would have more bytes than `largest` leaves parts out, the least needed first, and
    says which."""
    text = _page(view)
    for what, cut in CUTS.items():
        if len(text.encode(errors="replace")) <= largest:
            break
        note = f"Left out, because the page would have more than {largest / 1e6:g} MB: {what}."
        view = replace(view, sections=tuple(map(cut, view.sections)), notes=(*view.notes, note))
        text = _page(view)
    return text


def _page(view: page.PageView) -> str:
    style = (HERE / "leaderboard.css").read_text("utf-8")
    script = "".join((HERE / name).read_text("utf-8") for name in SCRIPTS)
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["signed"] = lambda value: wording.number(value, "ratio", signed=True)
    template = environment.get_template("leaderboard.html.j2")
    return template.render(
        view=view,
        style=Markup(style),
        script=Markup(script),
        policy=policy(style, script),
        data=embedded([section.data for section in view.sections]),
        marks=wording.MARKS,
        unasked_heads=HEADS,
        shipped=wording.SHIPPED,
        packed=wording.PACKED,
    )


def policy(style: str, script: str) -> str:
    """The content security policy: nothing but this style and this script."""
    return (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def embedded(value: Any) -> Markup:
    """JSON for a script element: ASCII only, and nothing that could end the element or open a comment."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for mark in "<>&":
        text = text.replace(mark, f"\\u{ord(mark):04x}")
    return Markup(text)


def as_json(report: Results, view: page.PageView) -> str:
    """Everything as JSON, by leaderboard.schema.json: title, notes, provenance, and the frame's rows, with
    null for what is missing."""
    head = {
        "format": FORMAT,
        "title": view.title,
        "notes": list(view.notes),
        "provenance": {name: list(values) for name, values in view.provenance},
    }
    frame = report.frame
    columns = {name: map(_plain, frame[name].tolist()) for name in frame.columns}
    encode = json.JSONEncoder(allow_nan=False).encode
    rows = (encode(dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True))
    lines = ",\n  ".join(rows)
    return f'{json.dumps(head, indent=1)[:-2]},\n "rows": [\n  {lines}\n ]\n}}\n'


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return None if value is pd.NA else value


def _markdown(view: page.PageView, made: Mapping[str, tables.Table]) -> str:
    notes = "\n".join(f"- {tables.markdown_text(note)}" for note in view.notes)
    parts = [f"# {tables.markdown_text(view.title)}", notes, *(table.markdown() for table in made.values())]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def summary(report: Results) -> list[str]:
    """One line per variant for the terminal: its label, how many tasks match, are worse, are undecided."""
    rows = select.variant_order(select.headlines(report.frame))
    lines = []
    for label, part in rows[~rows["dense"]].groupby("label", sort=False):
        words = Counter(wording.verdict(row) for row in select.records(part))
        counts = [f"{words[word]} {word}" for word in wording.MARKS if word and words[word]]
        if ended := int((part["stopped"] != "").sum()):
            counts.append(f"{ended} ended early")
        lines.append(f"{label}: {', '.join(counts)}")
    return lines
