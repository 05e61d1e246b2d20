"""Judged candidates as pairs and rewards are made of them: what each is worth beside the others of its group.

A candidate *passes* when its trace is well formed, it ended by itself, it is safe, and, if the prompt is benign, it
answers with at least `min_utility`. Otherwise its fault gives the kind of pair it can be rejected in.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from erpo_ray.config import Prefer
from erpo_ray.judging import UNFINISHED
from erpo_ray.judging.composition import is_safe
from erpo_ray.judging.ensemble import DISAGREEMENT
from erpo_ray.judging.reading import misquotes
from erpo_ray.types import Candidate, Group, Label, LeftOut, PairKind, Prompt, Scores, Verdict

_ALIKE = 0.95
"""Share of words in common from which two completions are too near to tell anything."""


@dataclass(frozen=True, slots=True)
class Item:
    """A candidate that has scores. `kind` is the kind of pair it can be rejected in; `length` when it passes.

    `words` are those of its text, case folded. `whole` is whether it ended by itself, in the form asked for; one that
    `misquotes` did but for the rules it cites, which are none or do not exist.
    """

    candidate: Candidate
    words: tuple[str, ...]
    scores: Scores
    refused: bool
    kind: PairKind
    whole: bool
    misquotes: bool

    @property
    def only_misquotes(self) -> bool:
        """Whether it would pass but for the rules it cites."""
        return self.kind == "format" and self.misquotes


def passes(prompt: Prompt, candidate: Candidate, verdict: Verdict, min_utility: float, traced: bool = True) -> bool:
    """Whether this candidate may be chosen. Where a method has no traces (`traced` off) it needs none."""
    if not verdict.scores:
        return False
    whole = _whole(candidate, verdict, traced)
    return _kind(prompt.label, verdict, verdict.scores, whole, min_utility) == "length"


def _whole(candidate: Candidate, verdict: Verdict, traced: bool) -> bool:
    return (verdict.well_formed or not traced) and candidate.finish == "stop" and UNFINISHED not in verdict.notes


def _kind(label: Label, verdict: Verdict, scores: Scores, whole: bool, min_utility: float) -> PairKind:
    if UNFINISHED in verdict.notes:
        return "format"
    if not is_safe(scores):
        return "safety"
    if label == "benign" and verdict.refused:
        return "over_refusal"
    if label == "benign" and scores.utility < min_utility:
        return "utility"
    return "length" if whole else "format"


def usable(
    group: Group, settings: Prefer, max_tokens: int | None, traced: bool, distinct: bool = True
) -> tuple[list[Item], list[LeftOut]]:
    """The candidates that can be compared, in an order of their own, and why the others cannot.

    `distinct`: of those that say the same only the first.
    """
    items: dict[object, Item] = {}
    left_out: list[LeftOut] = []
    judged = zip(group.candidates, group.verdicts, strict=True)
    ranked = sorted(
        judged, key=lambda pair: (pair[0].finish != "stop", len(pair[0].token_ids), pair[0].token_ids, pair[0].id)
    )
    for candidate, verdict in ranked:
        words = tuple(candidate.text.casefold().split())
        key = words if distinct else candidate.id
        tokens = len(group.prompt_ids) + len(candidate.token_ids)
        if verdict.candidate_id != candidate.id:
            reason = f"its verdict belongs to {verdict.candidate_id}"
        elif verdict.scores is None:
            reason = f"not judged: {_cause(verdict)}"
        elif told := [note for note in verdict.notes if note.startswith(DISAGREEMENT)]:
            reason = f"the judges disagree: {'; '.join(note.removeprefix(f'{DISAGREEMENT}:') for note in told)}"
        elif max_tokens is not None and tokens > max_tokens:
            reason = f"{tokens} tokens with the prompt, the limit is {max_tokens}"
        elif key in items:
            reason = f"says the same as {items[key].candidate.id}"
        else:
            whole = _whole(candidate, verdict, traced)
            kind = _kind(group.prompt.label, verdict, verdict.scores, whole, settings.min_utility)
            misquoted = not whole and candidate.finish == "stop" and misquotes(verdict.notes)
            items[key] = Item(candidate, words, verdict.scores, verdict.refused, kind, whole, misquoted)
            continue
        left_out.append(LeftOut(candidate.id, reason))
    return list(items.values()), left_out


def _cause(verdict: Verdict) -> str:
    """Why it has no scores; what an engine gave up on, or answered in place of a completion, is told in its words."""
    if not verdict.failure:
        return "no scores"
    cause, raw = verdict.failure.cause, verdict.failure.raw
    return f"{cause}: {raw[:200]}" if cause in ("not_sampled", "nonsense") and raw else cause


def alike(one: Item, other: Item) -> bool:
    """Whether two texts have nearly all their words in common (Dice of word counts)."""
    a, b = one.words, other.words
    least = _ALIKE * (len(a) + len(b))
    # At most all words of the shorter are common: most texts differ enough in length to say so without a look at them.
    return 2 * min(len(a), len(b)) >= least and 2 * (Counter(a) & Counter(b)).total() >= least
