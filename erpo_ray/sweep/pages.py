"""What a sweep writes for people: a page that needs nothing from outside, the figure, the table, and the numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from erpo_ray.evaluate import compare, sides
from erpo_ray.evaluate.render import cells as change_cells
from erpo_ray.evaluate.render import kind as change_kind
from erpo_ray.report import cases
from erpo_ray.report.charts import Point
from erpo_ray.report.front import front, standalone
from erpo_ray.report.page import content_policy
from erpo_ray.rundir import RunDir
from erpo_ray.rundir.fingerprint import config_yaml
from erpo_ray.sweep import table
from erpo_ray.sweep.budget import Plan
from erpo_ray.sweep.results import Result, telling
from erpo_ray.sweep.rows import Sweep
from erpo_ray.terminal import clean

PAGE, FIGURE, TABLE, NUMBERS = "sweep.html", "pareto.svg", "table.md", "results.json"

EXAMPLES = 24
"""Prompts whose answers are shown side by side."""

CHANGES = ("harmful_refused", "benign_refused", "utility", "tokens")
"""Measures that are compared prompt by prompt with the first row."""


def write(
    record: RunDir,
    sweep: Sweep,
    rows: Sequence[Result],
    plans: Mapping[str, Plan],
    failures: Mapping[str, str],
    whole: bool,
) -> None:
    """All files anew, from the rows that are done. Only a `whole` page compares them by prompt: it takes long."""
    record.publish(TABLE, table.markdown(sweep, rows, failures).encode())
    record.publish(NUMBERS, msgspec.json.format(msgspec.json.encode([_numbers(row) for row in rows])) + b"\n")
    if not rows:
        return
    drawn = front([_point(row) for row in rows], f"{sweep.name}: harmful against harmless prompts refused")
    record.publish(FIGURE, standalone(drawn).encode())
    changes = _changes(record.path, rows) if whole else []
    record.publish(PAGE, _page(sweep, rows, plans, failures, drawn, changes).encode())


def _numbers(row: Result) -> dict[str, Any]:
    names = ("name", "kind", "harmful", "attacks", "benign", "balanced", "utility", "tokens", "sampled", "trained",
             "minutes", "answering", "rejected")  # fmt: skip
    return {name: getattr(row, name) for name in names}


def _point(row: Result) -> Point:
    return Point(row.name, row.benign, row.harmful, row.tokens.value, accepted=True)


def _page(
    sweep: Sweep,
    rows: Sequence[Result],
    plans: Mapping[str, Plan],
    failures: Mapping[str, str],
    drawn: str,
    changes: Sequence[Mapping[str, Any]],
) -> str:
    style = (resources.files("erpo_ray.report") / "page.css").read_text("utf-8")
    environment = Environment(
        loader=PackageLoader("erpo_ray.sweep", "."),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: clean(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    best = max(rows, key=lambda row: row.balanced.value)
    return environment.get_template("sweep.html.j2").render(
        name=sweep.name,
        style=Markup(style),
        policy=content_policy(style, ""),
        rows=rows,
        best=best,
        missing=len(sweep.rows) - len(rows),
        failures=failures,
        heads=table.HEADS,
        cells=[table.cells(row) for row in rows],
        legend=table.legend(sweep, rows),
        figure=Markup(drawn),
        planned=table.planned(sweep, plans, rows),
        changes=changes,
        examples=[_example(rows, id, sweep) for id in telling(rows, EXAMPLES)],
        config=clean(config_yaml(sweep.common).decode()),
    )


def _changes(out: Path, rows: Sequence[Result]) -> list[dict[str, Any]]:
    """Each row against the first, by measure: the difference with its interval, coloured when it is sure."""
    if len(rows) < 2:
        return []
    found = compare.compare([sides.read(str(out / "rows" / row.name)) for row in rows])
    told = []
    for row, pairing in zip(rows[1:], found, strict=True):
        by_name = {change.measure: change for block in pairing.blocks for change in block.changes}
        measured = [by_name.get(name) for name in CHANGES]
        told.append({"name": row.name, "cells": [_change(change) for change in measured]})
    return told


def _change(change: compare.Change | None) -> dict[str, str]:
    if change is None:
        return {"text": "\u2013", "tone": ""}
    shown = change_cells(change)
    tone = {"better": "good", "worse": "bad"}.get(change_kind(change), "")
    return {"text": f"{shown[3]} {shown[4]}", "tone": tone}


def _example(rows: Sequence[Result], id: str, sweep: Sweep) -> dict[str, Any]:
    """A prompt with what every row answered, and what that amounts to."""
    prompt = rows[0].prompts[id]
    answered = [(row.name, row.answers[id]) for row in rows if id in row.answers]
    said = [cases.side(name, answer, sweep.common.model.dialect, False, prompt.category) for name, answer in answered]
    right = sum(cases.right(prompt.label, answer) is True for _, answer in answered)
    return {"prompt": prompt, "sides": said, "right": right}
