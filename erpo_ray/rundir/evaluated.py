"""What a run asked of its policies and what they answered, for whoever reads a run directory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from erpo_ray.errors import UsageError
from erpo_ray.rundir.lines import ledger_rows, read_rows
from erpo_ray.types import Candidate, Prompt, Verdict

QUESTIONS = Path("stages", "base", "prompts.jsonl")
"""Where a run keeps the prompts that every policy is asked."""


def asked(run: Path) -> dict[str, Prompt]:
    """The prompts that every policy of a run is asked, by id; none before the run has begun to ask."""
    path = run / QUESTIONS
    return {prompt.id: prompt for prompt in read_rows(path, Prompt)} if path.exists() else {}


def questions(run: Path) -> dict[str, Prompt]:
    """As `asked`, of a run that has answers. UsageError when the file that holds the prompts is gone."""
    if found := asked(run):
        return found
    raise UsageError(f"{run / QUESTIONS}: gone, or empty; restore it from a copy of the run, which lacks its questions")


def answered(stage: Path) -> Iterator[tuple[Candidate, Verdict | None]]:
    """The first acknowledged answer to each prompt in a stage directory, in the order in which they were sampled.

    With it what the judge says of it, None while it has not said so. Another process may be writing there.
    """
    verdicts = {row.candidate_id: row for row in ledger_rows(stage / "evaluation_verdicts.jsonl", Verdict)}
    seen: set[str] = set()
    for row in ledger_rows(stage / "evaluation_candidates.jsonl", Candidate):
        if row.prompt_id not in seen:
            seen.add(row.prompt_id)
            yield row, verdicts.get(row.id)
