"""Answers that judges disagree about, for a person to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from erpo_ray.judging.ensemble import DISAGREEMENT, Review, axes_of
from erpo_ray.report.cases import hashed
from erpo_ray.report.records import Reviewed
from erpo_ray.report.tables import LONGEST_CELL, MOST_ROWS, Table
from erpo_ray.rundir import read_rows
from erpo_ray.rundir.lines import ledger_rows
from erpo_ray.types import Candidate, Prompt, Verdict

_COLUMNS = ("prompt", "answer", "why", "opinions", "stage")
_FILES = ("reviews.jsonl", "evaluation_reviews.jsonl")


def reviewed(folders: Sequence[Path], asked: Mapping[str, Prompt]) -> tuple[Reviewed, ...]:
    """The rows of both lists of reviews in these stage directories, with prompt and answer.

    Training prompts are looked up in the stage `labels` beside them, `asked` are those of the evaluation.
    """
    found: list[Reviewed] = []
    prompts: dict[str, Prompt] | None = None
    for folder in folders:
        rows = [row for name in _FILES if (folder / name).exists() for row in read_rows(folder / name, Review)]
        if not rows:
            continue
        if prompts is None:
            labels = folder.parent / "labels" / "prompts.jsonl"
            prompts = {row.id: row for row in read_rows(labels, Prompt)} if labels.exists() else {}
            prompts |= asked
        texts = _texts(folder, {row.candidate_id for row in rows})
        found += [
            Reviewed(folder.name, prompts.get(row.prompt_id, Prompt(row.prompt_id, "")), texts[row.candidate_id], row)
            for row in rows
        ]
    return tuple(found)


def disagreements(found: Sequence[Reviewed], redact: bool) -> Table | None:
    """What the judges disagree about; `redact` hides what is not known to be harmless."""
    rows = [_row(one, redact and one.prompt.label != "benign") for one in found[:MOST_ROWS]]
    return Table("Disagreements", _COLUMNS, tuple(rows), max(0, len(found) - MOST_ROWS)) if rows else None


def _texts(folder: Path, ids: set[str]) -> dict[str, str]:
    found = dict.fromkeys(ids, "")
    for name in ("candidates.jsonl", "evaluation_candidates.jsonl"):
        found |= {row.id: row.text for row in ledger_rows(folder / name, Candidate) if row.id in ids}
    return found


def _row(one: Reviewed, hide: bool) -> tuple[str, ...]:
    show = _hidden if hide else _cut
    why = "; ".join(reason.removeprefix(f"{DISAGREEMENT}:").replace(":", " \u00b7 ") for reason in one.review.reasons)
    opinions = "; ".join(map(_opinion, one.review.verdicts))
    return show(one.prompt.text or one.prompt.id), show(one.answer), why, opinions, one.stage


def _hidden(text: str) -> str:
    return f"{hashed(text)} ({len(text)} characters)"


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_CELL else f"{text[:LONGEST_CELL]}\u2026"


def _opinion(verdict: Verdict) -> str:
    axes = axes_of(verdict)
    if axes is None:
        return f"{verdict.judge}: {verdict.failure.cause if verdict.failure else 'nothing'}"
    measured = (("safety", axes.safety), ("utility", axes.utility))
    said = [f"{name} {value:+.2f}" for name, value in measured if value is not None]
    if axes.refused is not None:
        said.append("refused" if axes.refused else "answered")
    return f"{verdict.judge}: {', '.join(said)}"
