"""A run directory, finished or still growing, read into `records` without changing or locking anything in it.

The files are those of docs/run_directory.md; what a run does not have is left out of its page.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from erpo_ray import documents
from erpo_ray.errors import UsageError
from erpo_ray.methods.base import Outcome
from erpo_ray.report.records import Answer, Run, Stage, Volume
from erpo_ray.report.reviews import reviewed
from erpo_ray.rundir import read_rows
from erpo_ray.rundir.evaluated import answered, asked
from erpo_ray.rundir.files import working
from erpo_ray.rundir.lines import json_object, ledger_rows, plain_rows
from erpo_ray.telemetry import STEPS, Span, Step
from erpo_ray.types import Candidate, Evaluation, LeftOut

T = TypeVar("T")

_STAGE = re.compile(r"\d+-.+")
_ROWS = ("examples.jsonl", "pairs.jsonl", "advantages.jsonl")
_NUMBER = re.compile(r"\d+")
_ID = re.compile(r"\b[0-9a-f]{16}\b")


@dataclass(frozen=True, slots=True)
class _Kind:
    """All that is read of a row that a stage trained on."""

    kind: str


def read(path: Path) -> Run:
    """The run in a directory.

    UsageError when no policy has been evaluated yet, or when a file is damaged.
    """
    folders = stage_folders(path)
    stages = [stage(folder) for folder in folders]
    if not stages or not stages[0].evaluation:
        raise UsageError(
            f"{path}: nothing to report yet, the base model is not evaluated; wait for it (erpo status {path})"
        )
    config = path / "config.yaml"
    settings = documents.read(config).data
    fingerprint = json_object(path / "fingerprint.json")
    prompts = asked(path)
    seconds: dict[tuple[str, str], float] = {}
    for span in plain_rows(path / "phases.jsonl", Span):
        key = (span.stage, span.phase)
        seconds[key] = seconds.get(key, 0.0) + span.seconds
    return Run(
        name=str(settings.get("name") or path.absolute().name),
        config_text=config.read_text("utf-8"),
        settings=settings,
        status=json_object(path / "status.json"),
        environment=json_object(path / "environment.json"),
        fingerprint=str(fingerprint.get("sha256", "")),
        stages=tuple(stages),
        prompts=prompts,
        seconds=seconds,
        judges={card.stem: json_object(card) for card in sorted((path / "judges").glob("*.json"))},
        reviews=reviewed(folders, prompts),
    )


def stage_folders(path: Path) -> list[Path]:
    """The directories of the base model and of the method's stages that have begun, in order."""
    found = sorted(entry for entry in (path / "stages").glob("*") if _STAGE.fullmatch(entry.name))
    base = path / "stages" / "base"
    return [base, *found] if base.is_dir() else []


def stage(folder: Path) -> Stage:
    """What one stage directory holds."""
    answers = {
        found.prompt_id: Answer(found.prompt_id, found.text, len(found.token_ids), found.finish, verdict)
        for found, verdict in answered(folder)
    }
    return Stage(
        name=folder.name,
        outcome=next(_artefact(folder / "outcome.json", Outcome), None),
        evaluation=next(_artefact(folder / "evaluation.json", Evaluation), None),
        answers=answers,
        kept=Counter(row.kind for name in _ROWS for row in _artefact(folder / name, _Kind)),
        left_out=Counter(reason_class(row.reason) for row in _artefact(folder / "left_out.jsonl", LeftOut)),
        facts=next(_artefact(folder / "policy_facts.json", dict[str, float]), {}),
        curve=tuple(_steps(folder)),
        rollouts=_volume(folder / "candidates.jsonl"),
        measured=Volume(len(answers), sum(answer.tokens for answer in answers.values())),
    )


def reason_class(reason: str) -> str:
    """A reason without what is its own: details after a colon, ids, numbers."""
    general = _ID.sub("another", reason.partition(":")[0])
    return _NUMBER.sub("N", general).strip()


def split_surplus(left_out: Mapping[str, int]) -> tuple[dict[str, int], dict[str, int]]:
    """What was left out only for balance, by kind of pair, and the other reasons."""
    surplus, reasons = dict[str, int](), dict[str, int]()
    for reason, count in left_out.items():
        words = reason.split()
        kind = words[2] if len(words) == 4 and words[:2] == ["a", "surplus"] and words[3] == "pair" else ""
        (surplus if kind else reasons)[kind or reason] = count
    return surplus, reasons


def _steps(folder: Path) -> Iterator[Step]:
    """The steps of a training that is done, else those that the trainer has logged so far."""
    done = folder / "training.jsonl"
    return _artefact(done, Step) if done.exists() else plain_rows(working(folder / "policy") / STEPS, Step)


def _volume(path: Path) -> Volume:
    completions = tokens = 0
    for row in ledger_rows(path, Candidate):
        completions += 1
        tokens += len(row.token_ids) - row.given
    return Volume(completions, tokens)


def _artefact(path: Path, kind: type[T]) -> Iterator[T]:
    if path.exists():
        yield from read_rows(path, kind)
