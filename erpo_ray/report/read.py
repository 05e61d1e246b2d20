"""A run directory, finished or still growing, read into `records` without changing or locking anything in it.

Besides the files of docs/run_directory.md these are shown where they are:

| file | rows |
|---|---|
| `stages/base/prompts.jsonl` | artefact of Prompt: the evaluation prompts |
| `stages/NAME/training.jsonl` | plain JSON lines, `Step`: one a logged training step; the last one of a step counts |
| `phases.jsonl` | plain JSON lines, `Span`: seconds of a phase; those of several starts add up |
| `judges/NAME.json` | plain JSON object: the card of a judge, lists of objects in it are tables |
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from erpo_ray import documents
from erpo_ray.errors import UsageError
from erpo_ray.methods.base import Outcome
from erpo_ray.report.asked import evaluation_prompts
from erpo_ray.report.records import Answer, Run, Span, Stage, Step, Volume
from erpo_ray.rundir import read_rows
from erpo_ray.rundir.lines import damaged, typed, verify
from erpo_ray.types import Candidate, Evaluation, LeftOut, Verdict, decode

T = TypeVar("T")

_STAGE = re.compile(r"\d+-.+")
_NUMBER = re.compile(r"\d+")
_ID = re.compile(r"\b[0-9a-f]{16}\b")


@dataclass(frozen=True, slots=True)
class _Kind:
    """All that is read of an example or a pair."""

    kind: str


def read(path: Path) -> Run:
    """The run in a directory.

    UsageError when no policy has been evaluated yet, or when a file is damaged.
    """
    stages = [stage(folder) for folder in stage_folders(path)]
    if not stages or not stages[0].evaluation:
        raise UsageError(
            f"{path}: nothing to report yet, the base model is not evaluated; wait for it (erpo status {path})"
        )
    config = path / "config.yaml"
    settings = documents.read(config).data
    fingerprint = _json(path / "fingerprint.json")
    prompts, note = evaluation_prompts(path, settings, fingerprint.get("inputs", {}).get("evaluate", ""))
    seconds: dict[tuple[str, str], float] = {}
    for span in _plain_rows(path / "phases.jsonl", Span):
        key = (span.stage, span.phase)
        seconds[key] = seconds.get(key, 0.0) + span.seconds
    return Run(
        name=str(settings.get("name") or path.absolute().name),
        config_text=config.read_text("utf-8"),
        settings=settings,
        status=_json(path / "status.json"),
        environment=_json(path / "environment.json"),
        fingerprint=str(fingerprint.get("sha256", "")),
        stages=tuple(stages),
        prompts=prompts,
        prompts_note=note,
        seconds=seconds,
        judges={card.stem: _json(card) for card in sorted((path / "judges").glob("*.json"))},
    )


def stage_folders(path: Path) -> list[Path]:
    """The directories of the base model and of the method's stages that have begun, in order."""
    found = sorted(entry for entry in (path / "stages").glob("*") if _STAGE.fullmatch(entry.name))
    base = path / "stages" / "base"
    return [base, *found] if base.is_dir() else []


def stage(folder: Path) -> Stage:
    """What one stage directory holds."""
    rows = folder / ("examples.jsonl" if (folder / "examples.jsonl").exists() else "pairs.jsonl")
    answers = {answer.prompt_id: answer for answer in _answers(folder)}
    steps = {row.step: row for row in _plain_rows(folder / "training.jsonl", Step)}
    return Stage(
        name=folder.name,
        outcome=next(_artefact(folder / "outcome.json", Outcome), None),
        evaluation=next(_artefact(folder / "evaluation.json", Evaluation), None),
        answers=answers,
        kept=Counter(row.kind for row in _artefact(rows, _Kind)),
        left_out=Counter(reason_class(row.reason) for row in _artefact(folder / "left_out.jsonl", LeftOut)),
        facts=next(_artefact(folder / "policy_facts.json", dict[str, float]), {}),
        curve=tuple(steps[number] for number in sorted(steps)),
        rollouts=_volume(folder / "candidates.jsonl"),
        measured=Volume(len(answers), sum(answer.tokens for answer in answers.values())),
    )


def reason_class(reason: str) -> str:
    """A reason without what is its own: details after a colon, ids, numbers."""
    general = _ID.sub("another", reason.partition(":")[0])
    return _NUMBER.sub("N", general).strip()


def ledger_rows(path: Path, kind: type[T]) -> Iterator[T]:
    """Rows of a ledger that another process may be writing to; none when it is not there.

    An end that is not a whole line is passed over, as are lines of a fenced driver; damage inside is a UsageError.
    """
    if not path.exists():
        return
    newest = 0
    with path.open("rb") as stream:
        number, following = 1, next(stream, b"")
        while raw := following:
            following = next(stream, b"")
            verified = verify(raw)
            if verified is None:
                if not following:
                    return
                raise damaged(path, number, "damaged (its checksum does not fit)")
            line = verified[0]
            newest = max(newest, line.epoch)
            if line.row and line.epoch == newest:
                yield typed(line, kind, path, number)
            number += 1


def _answers(folder: Path) -> Iterator[Answer]:
    """The first acknowledged answer to each evaluation prompt, with what the judge says of it."""
    verdicts = {row.candidate_id: row for row in ledger_rows(folder / "evaluation_verdicts.jsonl", Verdict)}
    seen: set[str] = set()
    for row in ledger_rows(folder / "evaluation_candidates.jsonl", Candidate):
        if row.prompt_id not in seen:
            seen.add(row.prompt_id)
            yield Answer(row.prompt_id, row.text, len(row.token_ids), row.finish, verdicts.get(row.id))


def _volume(path: Path) -> Volume:
    completions = tokens = 0
    for row in ledger_rows(path, Candidate):
        completions += 1
        tokens += len(row.token_ids)
    return Volume(completions, tokens)


def _artefact(path: Path, kind: type[T]) -> Iterator[T]:
    if path.exists():
        yield from read_rows(path, kind)


def _plain_rows(path: Path, kind: type[T]) -> Iterator[T]:
    """Rows of a file of plain JSON lines; a last line without its end is still being written."""
    if not path.exists():
        return
    with path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            if not line.endswith(b"\n"):
                return
            try:
                yield decode(line, kind)
            except msgspec.DecodeError as error:
                raise UsageError(f"{path}:{number}: {error}; correct or remove that line") from error


def _json(path: Path) -> dict[str, Any]:
    """A plain JSON object, empty when the file is not there."""
    if not path.exists():
        return {}
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise UsageError(f"{path}: not a JSON object ({error}); restore it from a copy") from error
