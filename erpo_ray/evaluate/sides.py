"""Reads what `erpo compare` takes: the evaluation of a run's stage, or an evaluation directory."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import msgspec

from erpo_ray import rules, settings
from erpo_ray.errors import UsageError
from erpo_ray.evaluate.compare import Key, Side, Texts
from erpo_ray.evaluate.measures import Observation, Observer
from erpo_ray.evaluate.suite import OBSERVATIONS, QUESTIONS, RESULT, SECOND, SUITE, Question
from erpo_ray.rundir import Files, Ledger, read_rows
from erpo_ray.rundir.evaluated import answered, questions
from erpo_ray.rundir.fingerprint import Fingerprint
from erpo_ray.rundir.kind import require
from erpo_ray.rundir.lines import plain_rows
from erpo_ray.types import UNREADABLE, Candidate, Prompt


def read(word: str) -> tuple[Side, Texts]:
    """The evaluation that `word` names: RUN (its last accepted stage), RUN@STAGE, or an evaluation directory."""
    path, stage = _parts(word)
    if any((path / "stages").glob(f"*/{SUITE}")):
        if stage:
            raise UsageError(f"{word}: is an evaluation directory, which has no stages; leave @{stage} out")
        return _evaluation(word, path)
    return _run(path, stage or _last_accepted(path))


def _parts(word: str) -> tuple[Path, str]:
    path, stage = Path(word).expanduser(), ""
    if not path.exists() and "@" in word:
        folder, _, stage = word.rpartition("@")
        path = Path(folder).expanduser()
    require(path, "run", "evaluation")
    if not (path / "fingerprint.json").exists():
        raise UsageError(f"{path}: neither a run nor an evaluation (no fingerprint.json); give a directory of either")
    return path, stage


def _evaluation(name: str, path: Path) -> tuple[Side, Texts]:
    stages = sorted(place.parent for place in path.glob(f"stages/*/{RESULT}"))
    if not stages:
        raise UsageError(f"{path}: no suite is done yet; start its `erpo eval` again")
    told = _fingerprint(path)
    rows = {
        (stage.name, row.prompt_id): row for stage in stages for row in read_rows(stage / OBSERVATIONS, Observation)
    }

    def texts(keys: Collection[Key]) -> dict[Key, tuple[str, str]]:
        found: dict[Key, tuple[str, str]] = {}
        for stage in stages:
            wanted = {id for suite, id in keys if suite == stage.name}
            for prefix in ("", f"{SECOND}_") if wanted else ():
                if (stage / f"{prefix}{QUESTIONS}").exists():
                    prompts = {q.prompt.id: q.prompt for q in read_rows(stage / f"{prefix}{QUESTIONS}", Question)}
                    answers = _ledger(stage / f"{prefix}candidates.jsonl", Candidate)
                    found |= _texts(stage.name, wanted, prompts, answers)
        return found

    return Side(name, told.inputs.get("policy", ""), _settings(told), rows), texts


def _run(path: Path, stage: str) -> tuple[Side, Texts]:
    folder = path / "stages" / stage
    if not (folder / "evaluation_candidates.jsonl").exists():
        have = sorted(place.parent.name for place in path.glob("stages/*/evaluation_candidates.jsonl"))
        raise UsageError(f"{path}@{stage}: no such evaluated stage; there are {', '.join(have) or 'none'}")
    config = settings.load(path / "config.yaml")
    prompts = questions(path)
    observer = Observer(rules.load(config.rules.path), config.model.dialect)
    rows: dict[Key, Observation] = {}
    policy = ""
    for candidate, verdict in answered(folder):
        if verdict is None:
            raise UsageError(f"{folder}: is not evaluated to the end; continue the run")
        policy = candidate.policy
        rows["", candidate.prompt_id] = observer.observe(prompts[candidate.prompt_id], candidate, verdict)

    def texts(keys: Collection[Key]) -> dict[Key, tuple[str, str]]:
        wanted = {id for _, id in keys}
        return _texts("", wanted, prompts, (candidate for candidate, _ in answered(folder)))

    return Side(f"{path}@{stage}", policy, _settings(_fingerprint(path)), rows), texts


def _texts(
    suite: str, wanted: Collection[str], prompts: dict[str, Prompt], candidates: Iterable[Candidate]
) -> dict[Key, tuple[str, str]]:
    return {(suite, c.prompt_id): (prompts[c.prompt_id].text, c.text) for c in candidates if c.prompt_id in wanted}


def _ledger(path: Path, kind: type) -> Ledger:
    return Ledger(Files(), path, kind, read_only=True)


def _last_accepted(run: Path) -> str:
    rows = plain_rows(run / "metrics.jsonl", dict[str, Any])
    accepted = [row["stage"] for row in rows if row.get("accepted")]
    if not accepted:
        raise UsageError(f"{run}: has no evaluated stage yet; wait for its first (erpo status {run})")
    return accepted[-1]


def _fingerprint(path: Path) -> Fingerprint:
    try:
        return msgspec.json.decode((path / "fingerprint.json").read_bytes(), type=Fingerprint)
    except UNREADABLE as error:
        raise UsageError(f"{path / 'fingerprint.json'}: damaged ({error}); restore it from a copy") from error


def _settings(told: Fingerprint) -> dict[str, str]:
    return {**told.config, **{f"input {name}": value for name, value in told.inputs.items()}}
