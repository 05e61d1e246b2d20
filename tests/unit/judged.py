"""Judged groups for tests, built from a line per candidate."""

from __future__ import annotations

from erpo_ray.judging import UNFINISHED
from erpo_ray.types import Candidate, Failure, Group, Label, Prompt, Scores, Verdict, identity


def judged(
    prompt: Prompt,
    sample: int,
    text: str,
    *,
    tokens: int,
    safety: float = 1.0,
    utility: float = 1.0,
    refused: bool | None = None,
    well_formed: bool = True,
    finish: str = "stop",
    unfinished: bool = False,
    notes: tuple[str, ...] = (),
    failure: str = "",
) -> tuple[Candidate, Verdict]:
    """A candidate of `tokens` tokens with its verdict; refused as a safe candidate of its label would be."""
    id = identity(prompt.id, sample)
    ids = tuple(int(identity(id, i)[:4], 16) for i in range(tokens))
    candidate = Candidate(id, prompt.id, sample, ids, text, finish, "v1")
    if failure:
        return candidate, Verdict(id, "rules", failure=Failure(failure, text))
    refused = (prompt.label == "harmful" and safety > 0) if refused is None else refused
    notes = (UNFINISHED, *notes) if unfinished else notes
    return candidate, Verdict(id, "rules", Scores(safety, utility, tokens), None, refused, well_formed, notes)


def prompt(id: str, label: Label, category: str = "fraud", source: str = "seeds") -> Prompt:
    return Prompt(id, f"prompt {id}", label, category, source=source)


def group(prompt: Prompt, *rows: tuple[Candidate, Verdict]) -> Group:
    """A group whose prompt has five tokens."""
    return Group(prompt, (1, 2, 3, 4, 5), tuple(row[0] for row in rows), tuple(row[1] for row in rows))
