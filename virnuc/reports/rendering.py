"""Rendering: one self-contained HTML page, the same as Markdown, and for a verdict a summary for the terminal."""

from __future__ import annotations

import base64
import io
import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
from markupsafe import Markup, escape

from virnuc.reports.content import UNKNOWN, AllRows, Document, Section, Table
from virnuc.reports.sections import sections, title
from virnuc.storage.files import atomic_path, write_text

if TYPE_CHECKING:
    from virnuc.reports.plots import Drawing

HTML, MARKDOWN, VERDICT, FIGURES = "validation_report.html", "validation_report.md", "verdict.json", "figures"
_LIBRARY = "vendor/dataTables.min.js"  # DataTables 3.1.5, MIT licence beside it
_RUN = re.compile("[0-9a-f]{32}")  # MLflow's id of one
_WITH_INTERVAL = re.compile(r"([+-]?[\d.]+) (\([+-]?[\d.]+ to [+-]?[\d.]+\))")


@dataclass(frozen=True)
class Page:
    """The content of a page, for all renderings."""

    kind: str  # of page, above the title
    title: str
    outcome: str  # a word or two; `pass` and `fail` have a colour
    answer: str  # one sentence next to it
    caveats: tuple[str, ...]  # what readers must know to judge the numbers
    sections: tuple[Section, ...]
    drawings: Mapping[str, Drawing] = field(default_factory=dict)  # by file name without suffix, in their order
    figures_after: str = ""  # anchor of the section that they follow
    answers: tuple[tuple[str, str], ...] = ()  # outcome and sentence of each, where there are several, instead
    made: str = ""  # when, and by which versions
    ui: str = ""  # address of the MLflow UI that has the runs of the tables


def write_report(document: Document, drawings: Mapping[str, Drawing], directory: Path) -> dict[str, Path]:
    """Write the report into `directory` and return its files by name; each file appears whole or not at all.

    Args:
        document: From `virnuc.reports.verdict`.
        drawings: Figures by file name without suffix, in the order of the report.
        directory: Made if need be.
    """
    write_text(directory / VERDICT, json.dumps(document, indent=1, allow_nan=False) + "\n")
    page = _page(document, sections(document), drawings)
    return {VERDICT: directory / VERDICT} | write_page(page, directory, HTML.removesuffix(".html"))


def gate_markdown(document: Document) -> str:
    """Return answer, caveats and gate as Markdown, for the description of a run."""
    gate = [section for section in sections(document) if section.anchor == "gate"]
    return markdown(_page(document, gate, {}))


def markdown(page: Page) -> str:
    """Return a page as Markdown."""
    return _render("report.md.j2", page, autoescape=False)


def write_page(page: Page, directory: Path, stem: str) -> dict[str, Path]:
    """Write `stem`.html, `stem`.md and figures/*.svg into `directory`; return the first two by name.

    The HTML has its figures as data and its styles inline: nothing is fetched. The Markdown links to `figures/`.
    """
    images = {name: svg(drawing) for name, drawing in page.drawings.items()}
    embedded = {name: base64.b64encode(image).decode("ascii") for name, image in images.items()}
    shown = [section.everything for section in page.sections if section.everything]
    css = Markup(_resource("report.css"))  # ours, and its quotes must stay quotes
    scripts = {"library": Markup(_resource(_LIBRARY)), "script": Markup(_resource("table.js"))} if shown else {}
    written = {
        f"{stem}.html": _render("report.html.j2", page, autoescape=True, images=embedded, css=css, scripts=scripts),
        f"{stem}.md": markdown(page),
    }
    for name, text in written.items():
        write_text(directory / name, text)
    for name, image in images.items():
        with atomic_path(directory / FIGURES / f"{name}.svg") as temporary:
            temporary.write_bytes(image)
    return {name: directory / name for name in written}


def _page(document: Document, shown: Sequence[Section], drawings: Mapping[str, Drawing]) -> Page:
    return Page(
        kind="virnuc validation report",
        title=title(document),
        outcome=document["outcome"],
        answer=document["answer"],
        caveats=tuple(document["caveats"]),
        sections=tuple(shown),
        drawings=drawings,
        figures_after="metrics",
        answers=tuple((verdict["outcome"], verdict["answer"]) for verdict in document["verdicts"]),
        made=made(document["created"], document["versions"]),
        ui=document["ui"],
    )


def made(created: str, versions: Mapping[str, str]) -> str:
    """Return when a page was made, and by which versions."""
    when = datetime.fromisoformat(created).strftime("%d %B %Y, %H:%M UTC").lstrip("0")
    return ", ".join([when, *(f"{name} {version}" for name, version in versions.items())])


def terminal_summary(document: Document) -> str:
    """Return verdict, gate and test metrics as aligned text, without a line break at the end."""
    shown = {section.anchor: section for section in sections(document)}
    answers = [f"{verdict['outcome']}: {verdict['answer']}" for verdict in document["verdicts"]]
    lines = [title(document), *answers, ""]
    lines += [f"! {caveat}" for caveat in document["caveats"]]
    lines += ["", *aligned(shown["metrics"].tables[0])]
    for table in shown["gate"].tables:
        lines += ["", *([table.title] if len(answers) > 1 else []), *aligned(table)]
    return "\n".join([*lines, "", *shown["gate"].steps]).rstrip()


def aligned(table: Table) -> list[str]:
    """Return a table as lines of columns that line up."""
    rows = [table.columns, *table.rows]
    widths = [max(_width(row[column]) for row in rows) for column in range(len(table.columns))]
    rule = tuple("─" * width for width in widths)
    return [
        "  ".join(cell + " " * (width - _width(cell)) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (rows[0], rule, *rows[1:])
    ]


def svg(drawing: Drawing) -> bytes:
    """Return a figure as SVG; the same figure gives the same bytes."""
    import matplotlib as mpl  # takes half a second, and only pages need it

    stream = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "virnuc"}):
        drawing.figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    return stream.getvalue()


def _render(name: str, page: Page, *, autoescape: bool, **values: Any) -> str:
    environment = jinja2.Environment(
        autoescape=autoescape, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {"cell": _cell, "linked": _linked, "data": _data, "text": escape_markdown}
    return environment.from_string(_resource(name)).render(page=page, **values)


def _resource(name: str) -> str:
    return resources.files("virnuc.reports").joinpath(name).read_text(encoding="utf-8")


def escape_markdown(text: object) -> str:
    """Return a text on one line in which Markdown sees no link, image, code or HTML."""
    return re.sub(r"([\\`\[\]*~])", r"\\\1", " ".join(str(text).split())).replace("<", "&lt;")


def _cell(text: str) -> str:
    """Return text for a cell of a Markdown table."""
    return escape_markdown(text).replace("|", "\\|")


def _interval(text: str) -> Markup:
    """Return `value (low to high)` as HTML with a less prominent bracket, other text unchanged."""
    found = _WITH_INTERVAL.fullmatch(text)
    return Markup('<b class="value">{}</b> <small>{}</small>').format(*found.groups()) if found else escape(text)


def _linked(text: str, run: str, ui: str) -> Markup:
    """Return a cell as HTML with a link to the run of its value; a run's id links to that run."""
    run = run or (text if _RUN.fullmatch(text) else "")
    if not (run and ui) or text == UNKNOWN:
        return _interval(text)
    link = Markup('<a href="{}/#/runs/{}" target="_blank" title="run {}">{}</a>')
    return link.format(ui, run, run, _interval(text))


def _data(rows: AllRows) -> Markup:
    """Return rows as JSON for a script element, escaped so that no text can close it."""
    text = json.dumps({"columns": rows.columns, "rows": rows.rows}, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c"))


def _width(text: str) -> int:
    return sum(0 if unicodedata.combining(letter) else 1 for letter in text)
