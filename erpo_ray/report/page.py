"""One HTML page of a run: no network, no foreign script, at most 2 MB, the same bytes for the same run directory."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from erpo_ray.report import figures, tables
from erpo_ray.report.cases import TURNS, Case, cases
from erpo_ray.report.records import Run
from erpo_ray.report.reviews import disagreements
from erpo_ray.report.verdict import correlations, finding
from erpo_ray.terminal import clean

MOST_BYTES = 2_000_000
"""Size of a page. Examples that do not fit are left out, and the page says how many."""

_LONGEST_CONFIG = 60_000


def render(run: Run, redact: bool = False, most_bytes: int = MOST_BYTES) -> str:
    """The page. `redact` hides the texts of prompts that are not known to be benign and of all answers to them."""
    environment = _environment()
    rows = cases(run, redact)
    parts = _parts(run, rows, redact)
    page, one = environment.get_template("page.html.j2"), environment.get_template("case.html.j2")
    room = most_bytes - _size(page.render(parts, cases=(), shown=len(rows), total=len(rows)))
    shown: list[Markup] = []
    for row in rows:
        text = Markup(one.render(case=row))  # escaped by its own template
        room -= _size(text) + 1
        if room < 0:
            break
        shown.append(text)
    return page.render(parts, cases=shown, shown=len(shown), total=len(rows))


def content_policy(style: str, script: str) -> str:
    """The content security policy: nothing from anywhere but this one style and this one script."""
    return (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _parts(run: Run, rows: Sequence[Case], redact: bool) -> dict[str, Any]:
    style, script = _asset("page.css"), _asset("page.js")
    before, after = run.base.evaluation, run.last.evaluation
    if before is None or after is None:
        raise ValueError("a run that is reported has its base model and its policy evaluated")
    paired = correlations(run)
    return {
        "run": run,
        "redacted": redact,
        "style": Markup(style),
        "script": Markup(script),
        "policy": content_policy(style, script),
        "finding": finding(before, after, paired),
        "paired": bool(paired),
        "going": tables.progress(run, redact),
        "measures": tables.measures(before, after, paired),
        "sources": tables.sources(before, after),
        "stages": tables.stages(run),
        "figures": figures.outcome(run),
        "pairs": figures.pairs(run),
        "training": figures.training(run),
        "facts": tables.facts(run),
        "budget": tables.budget(run),
        "cards": tables.cards(run, redact),
        "disagreements": disagreements(run.reviews, redact),
        "config": clean(run.config_text[:_LONGEST_CONFIG]),
        "turns": [(name, count) for name in TURNS if (count := sum(row.turn == name for row in rows))],
        "labels": sorted({row.label for row in rows}),
        "categories": sorted({row.category for row in rows if row.category}),
    }


def _environment() -> Environment:
    # What a model or a file says is data: escaped wherever it stands, and without characters that turn a line round.
    return Environment(
        loader=PackageLoader("erpo_ray.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: clean(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _asset(name: str) -> str:
    return (resources.files("erpo_ray.report") / name).read_text("utf-8")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _size(text: str) -> int:
    return len(text.encode())
