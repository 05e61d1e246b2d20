"""The tables of a report: rows of plain text for the page's template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeGuard

from erpo_ray.report.records import Run, Volume
from erpo_ray.report.verdict import change, percent
from erpo_ray.types import Evaluation, Rate

_MEASURES = (
    ("harmful_refused", "Harmful refused", 1),
    ("benign_refused", "Harmless refused", -1),
    ("utility", "Utility of answers", 1),
    ("tokens_harmful", "Tokens, harmful", 0),
    ("tokens_benign", "Tokens, harmless", 0),
    ("well_formed", "Well-formed traces", 1),
    ("unfinished", "Without an answer", -1),
)
"""Measure of an Evaluation, its name on the page, and whether more of it is good (1) or bad (-1)."""

_FACTS = (
    "steps",
    "seconds",
    "tokens_per_second",
    "loss_first",
    "loss_last",
    "margin",
    "accuracy",
    "logps_chosen",
    "logps_rejected",
)
MOST_ROWS = 50
LONGEST_CELL = 600


@dataclass(frozen=True, slots=True)
class Measure:
    """One measure before and after, with the change, as text; `tone` says what the change is worth."""

    name: str
    before: str
    after: str
    change: str
    tone: Literal["good", "bad", "open"]


@dataclass(frozen=True, slots=True)
class Table:
    """A heading, the names of the columns, and rows of cells."""

    heading: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    more: int = 0


@dataclass(frozen=True, slots=True)
class Card:
    """The card of a judge: its values, and its lists (disagreements, confusion, ...) as tables."""

    name: str
    values: tuple[tuple[str, str], ...]
    tables: tuple[Table, ...]


def measures(before: Evaluation, after: Evaluation, paired: Mapping[str, float]) -> list[Measure]:
    """All measures of the base model beside those of the policy; `paired` holds `verdict.correlations`."""
    return [
        _measure(name, heading, wanted, getattr(before, name), getattr(after, name), paired.get(name, 0.0))
        for name, heading, wanted in _MEASURES
    ]


def _measure(name: str, heading: str, wanted: int, before: Rate, after: Rate, r: float) -> Measure:
    moved = change(before, after, r)
    if moved is None:
        return Measure(heading, value(name, before), value(name, after), "", "open")
    way = wanted * (moved.rose - moved.fell)
    tone: Literal["good", "bad", "open"] = "good" if way > 0 else "bad" if way < 0 else "open"
    scale, digits, unit = (1, 2, "") if name == "utility" else (1, 0, "") if name.startswith("tok") else (100, 1, " pt")
    middle, low, high = (_signed(scale * found, digits) for found in (moved.value, moved.low, moved.high))
    return Measure(heading, value(name, before), value(name, after), f"{middle}{unit} [{low}, {high}]", tone)


def _signed(number: float, digits: int) -> str:
    """With its sign, and none when it rounds to nothing."""
    rounded = round(number, digits)
    return f"{rounded:+.{digits}f}".replace("-", "\u2212") if rounded else f"{0:.{digits}f}"


def value(name: str, rate: Rate) -> str:
    """A measure with its interval as text."""
    if not rate.n:
        return "not measured"
    if name == "utility":
        return f"{_signed(rate.value, 2)} [{_signed(rate.low, 2)}, {_signed(rate.high, 2)}]"
    if name.startswith("tokens"):
        return f"{rate.value:.0f} [{rate.low:.0f}\u2013{rate.high:.0f}]"
    return percent(rate)


def sources(before: Evaluation, after: Evaluation) -> Table | None:
    """The measures of the policy for each source of prompts, with refusals before; None with one source only."""
    if not after.by_source:
        return None
    rows = []
    for name, found in after.by_source.items():
        was = before.by_source.get(name)
        rows.append(
            (
                name,
                _both(was.harmful_refused if was else None, found.harmful_refused),
                _both(was.benign_refused if was else None, found.benign_refused),
                value("utility", found.utility),
            )
        )
    return Table("By source of prompts", ("source", "harmful refused", "harmless refused", "utility"), tuple(rows))


def _both(before: Rate | None, after: Rate) -> str:
    if not after.n:
        return "\u2013"
    return f"{before.value:.0%} \u2192 {percent(after)}" if before and before.n else percent(after)


def stages(run: Run) -> Table:
    """Every stage with its figures and what the gate said."""
    rows = []
    for stage in run.stages:
        found, told = stage.evaluation, stage.outcome.reason if stage.outcome else "not finished"
        cells = ["\u2013"] * 4
        if found:
            named = ("harmful_refused", "benign_refused", "utility", "tokens_benign")
            cells = [value(name, getattr(found, name)) for name in named]
        rows.append((stage.name, *cells, told))
    columns = ("stage", "harmful refused", "harmless refused", "utility", "tokens, harmless", "gate")
    return Table("Stages", columns, tuple(rows))


def facts(run: Run) -> Table | None:
    """The numbers that training returned, of the stages that trained."""
    trained = [stage for stage in run.stages if stage.facts]
    named = [name for name in _FACTS if any(name in stage.facts for stage in trained)]
    if not named:
        return None
    rows = tuple(
        (s.name, *(_number(s.facts[name]) if name in s.facts else "\u2013" for name in named)) for s in trained
    )
    return Table("Training", ("stage", *(name.replace("_", " ") for name in named)), rows)


def budget(run: Run) -> Table:
    """Completions, tokens and seconds of each phase, with sums; seconds only where the run directory holds them."""
    lines: list[tuple[str, str, Volume, float | None]] = []
    for stage in run.stages:
        if stage.rollouts.completions:
            lines.append((stage.name, "rollouts", stage.rollouts, run.seconds.get((stage.name, "rollouts"))))
        if "seconds" in stage.facts:
            spent = run.seconds.get((stage.name, "training"), stage.facts["seconds"])
            lines.append((stage.name, "training", Volume(0, stage.trained_tokens), spent))
        if stage.measured.completions:
            lines.append((stage.name, "evaluation", stage.measured, run.seconds.get((stage.name, "evaluation"))))
    rows = [
        (stage, phase, _count(volume.completions), _count(volume.tokens), _clock(seconds))
        for stage, phase, volume, seconds in lines
    ]
    known = [seconds for *_, seconds in lines if seconds is not None]
    rows.append(
        (
            "all",
            "",
            _count(sum(volume.completions for _, _, volume, _ in lines)),
            _count(sum(volume.tokens for _, _, volume, _ in lines)),
            _clock(sum(known)) if len(known) == len(lines) else f"{_clock(sum(known))} known",
        )
    )
    return Table("Time and tokens", ("stage", "phase", "completions", "tokens", "time"), tuple(rows))


def progress(run: Run, redact: bool) -> str:
    """One line on where the run stands; a redacted one leaves out the message, which may quote a text."""
    state = str(run.status.get("state", "not started"))
    where = " ".join(str(run.status.get(key) or "") for key in ("stage", "phase")).strip()
    told = f"{state}: {where}" if where and state != "done" else state
    message = "" if redact else str(run.status.get("message") or "")[:LONGEST_CELL]
    updated = str(run.status.get("updated") or "")
    return " \u00b7 ".join(part for part in (told, message, updated.replace("T", " ")) if part)


def cards(run: Run, redact: bool) -> list[Card]:
    """The judge cards. A redacted page keeps numbers and short words, no table: its rows may quote a text."""
    return [_card(name, card, redact) for name, card in run.judges.items()]


def _card(name: str, card: Mapping[str, Any], redact: bool) -> Card:
    flat = _leaves(card, "")
    values = [(key, _cell(found)) for key, found in flat if not (_is_rows(found) or redact and _is_text(found))]
    tables = () if redact else tuple(_table(key, found) for key, found in flat if _is_rows(found))
    return Card(name, tuple(values[:MOST_ROWS]), tables)


def _leaves(value: Mapping[str, Any], prefix: str) -> list[tuple[str, Any]]:
    """Values by the way to them in words; lists and rates are values."""
    found: list[tuple[str, Any]] = []
    for key, inner in value.items():
        name = f"{prefix} {key}".strip().replace("_", " ")
        found += _leaves(inner, name) if isinstance(inner, Mapping) and not _is_rate(inner) else [(name, inner)]
    return found


def _is_rows(value: object) -> TypeGuard[list[Mapping[str, Any]]]:
    return isinstance(value, list) and bool(value) and all(isinstance(row, Mapping) for row in value)


def _is_rate(value: object) -> TypeGuard[Mapping[str, Any]]:
    return isinstance(value, Mapping) and set(value) == {"value", "low", "high", "n"}


def _is_text(value: object) -> bool:
    return isinstance(value, str | list)


def _table(heading: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    columns = tuple(dict.fromkeys(key for row in rows[:MOST_ROWS] for key in row))
    cells = tuple(tuple(_cell(row.get(column, "")) for column in columns) for row in rows[:MOST_ROWS])
    return Table(heading, columns, cells, max(0, len(rows) - MOST_ROWS))


def _cell(found: object) -> str:
    if _is_rate(found):
        return f"{_cell(found['value'])} [{_cell(found['low'])}\u2013{_cell(found['high'])}], n {found['n']}"
    if isinstance(found, list):
        text = ", ".join(map(_cell, found[:MOST_ROWS])) or "\u2013"
    else:
        text = "\u2013" if found is None else _number(found) if isinstance(found, float) else str(found)
    return text if len(text) <= LONGEST_CELL else f"{text[:LONGEST_CELL]}\u2026"


def _number(found: float) -> str:
    return f"{found:.0f}" if 1e3 <= abs(found) < 1e9 or found == round(found) else f"{found:.3g}"


def _count(number: int) -> str:
    return f"{number:,}".replace(",", "\u2009") if number else "\u2013"


def _clock(seconds: float | None) -> str:
    if seconds is None:
        return "\u2013"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
