"""Several judges on the same candidates: one verdict of them all, and the list of what they do not agree on.

Each axis is the weighted mean of the members that measure it (`scores`, or an axis of `partial`); an axis that none
measures stays open. Around that mean:

- a failure is no opinion: it carries no weight, and fewer valid verdicts than the quorum are a Failure `no_quorum` with
  the cause of every member;
- a veto: one member with `veto` that says unsafe (safety at or below 0) holds safety at or below what it says;
- disagreement is told: members on both sides of 0 in safety, or on both sides about refusal, leave a note with the
  names of either side (`disagreement:safety:unsafe=a,b:safe=c`), and `reviews` lists these candidates, and those whose
  scores lie further apart than `spread` on any axis, for a person to look at.

Nothing depends on the order of members or on the scale of their weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from erpo_ray.config.judges import JudgeEnsemble
from erpo_ray.errors import UsageError
from erpo_ray.judging import UNFINISHED
from erpo_ray.types import Axes, Candidate, Failure, Prompt, Scores, Verdict

DISAGREEMENT = "disagreement"
"""How the notes of a joined verdict begin that tell of two sides."""


@dataclass(frozen=True, slots=True)
class Member:
    """A judge by its name, with its weight on each axis and whether its "unsafe" cannot be outvoted."""

    judge: str
    safety: float
    utility: float
    veto: bool


@dataclass(frozen=True, slots=True)
class Committee:
    """Members, the least number of valid verdicts, and the spread of scores above which a person should look."""

    members: tuple[Member, ...]
    quorum: int
    spread: float


def committee_of(settings: JudgeEnsemble) -> Committee:
    """The committee that a configuration names."""
    members = [Member(each.called, each.safety, each.utility, each.veto) for each in settings.members]
    return Committee(tuple(members), settings.quorum, settings.spread)


@dataclass(frozen=True, slots=True)
class Review:
    """A candidate for a person to look at: why, and what each judge says of it, in the order of their names."""

    prompt_id: str
    candidate_id: str
    reasons: tuple[str, ...]
    verdicts: tuple[Verdict, ...]


class Judge(Protocol):
    """Anything that judges candidates."""

    name: str

    def judge(self, items: Sequence[tuple[Prompt, Candidate]]) -> Sequence[Verdict]:
        """One verdict an item, in order."""
        ...


class Named:
    """A judge under another name: two of a kind can sit in one ensemble."""

    def __init__(self, judge: Judge, name: str) -> None:
        self._judge, self.name = judge, name

    def judge(self, items: Sequence[tuple[Prompt, Candidate]]) -> list[Verdict]:
        """What the judge says, in order."""
        return [replace(verdict, judge=self.name) for verdict in self._judge.judge(items)]


class Ensemble:
    """Judges by a committee; its verdicts carry the judge name `ensemble` and the opinions of all members."""

    name = "ensemble"

    def __init__(self, judges: Sequence[Judge], committee: Committee) -> None:
        given, wanted = sorted(judge.name for judge in judges), sorted(member.judge for member in committee.members)
        if given != wanted:
            raise UsageError(f"ensemble.members: {', '.join(wanted)} are named, but the judges are {', '.join(given)}")
        self._judges, self._committee = tuple(judges), committee

    def judge(self, items: Sequence[tuple[Prompt, Candidate]]) -> list[Verdict]:
        """One joined verdict an item, in order."""
        opinions = self.opinions(items)
        return [
            replace(join(candidate, verdicts, self._committee), opinions=verdicts)
            for (_, candidate), verdicts in zip(items, opinions, strict=True)
        ]

    def opinions(self, items: Sequence[tuple[Prompt, Candidate]]) -> list[tuple[Verdict, ...]]:
        """The verdicts of every member on each item: what `join` and `reviews` read."""
        by_judge = [judge.judge(items) for judge in self._judges]
        return [tuple(verdicts[i] for verdicts in by_judge) for i in range(len(items))]


def join(candidate: Candidate, verdicts: Sequence[Verdict], committee: Committee) -> Verdict:
    """The verdict of a committee on one candidate, from one verdict a member.

    It holds scores when both axes are measured, else `partial`. The first member in order of names that reads a trace
    says whether it is well formed.
    """
    said = _by_member(candidate.id, verdicts, committee)
    valid = [(member, verdict, axes) for member, verdict in said if (axes := axes_of(verdict))]
    failed = [(member, verdict.failure or Failure("said_nothing")) for member, verdict in said if not axes_of(verdict)]
    if len(valid) < committee.quorum:
        causes = "; ".join(f"{member.judge}: {failure.cause}: {failure.raw}" for member, failure in failed)
        return Verdict(candidate.id, Ensemble.name, failure=Failure("no_quorum", causes))
    vetoes = {
        member.judge: axes.safety
        for member, _, axes in valid
        if member.veto and axes.safety is not None and axes.safety <= 0
    }
    mean = _mean([(member.safety, axes.safety) for member, _, axes in valid])
    least = [*vetoes.values(), *(() if mean is None else (mean,))]
    safety: float | None = min(least) if least else None
    utility = _mean([(member.utility, axes.utility) for member, _, axes in valid])
    refused = _refused(valid)
    notes = [UNFINISHED] if any(UNFINISHED in verdict.notes for _, verdict, _ in valid) else []
    notes += [f"veto:{name}" for name in vetoes]
    notes += [f"failed:{member.judge}:{failure.cause}" for member, failure in failed]
    notes += _sides(valid)
    notes += [f"{member.judge}:{note}" for member, verdict, _ in valid for note in verdict.notes if note != UNFINISHED]
    both = None if safety is None or utility is None else Scores(safety, utility, len(candidate.token_ids))
    return Verdict(
        candidate.id,
        Ensemble.name,
        scores=both,
        refused=bool(refused),
        well_formed=next((verdict.well_formed for _, verdict, _ in valid if verdict.scores), False),
        notes=tuple(notes),
        partial=None if both else Axes(safety, utility, refused),
    )


def opinions(judged: Iterable[tuple[Candidate, Verdict]]) -> Iterator[tuple[str, Candidate, Sequence[Verdict]]]:
    """Every candidate that the members of an ensemble judged, with its prompt's id and what each of them said."""
    return ((candidate.prompt_id, candidate, verdict.opinions) for candidate, verdict in judged if verdict.opinions)


def reviews(judged: Iterable[tuple[str, Candidate, Sequence[Verdict]]], committee: Committee) -> Iterator[Review]:
    """Of (prompt id, candidate, verdict of each member), those that a person should look at, in order."""
    for prompt_id, candidate, verdicts in judged:
        said = _by_member(candidate.id, verdicts, committee)
        valid = [(member, verdict, axes) for member, verdict in said if (axes := axes_of(verdict))]
        reasons = [*_sides(valid), *_spreads([axes for _, _, axes in valid], committee.spread)]
        if reasons:
            yield Review(prompt_id, candidate.id, tuple(reasons), tuple(verdict for _, verdict in said))


def axes_of(verdict: Verdict) -> Axes | None:
    """What a verdict says of each axis; None for a failure."""
    if verdict.scores:
        return Axes(verdict.scores.safety, verdict.scores.utility, verdict.refused)
    return None if verdict.failure else verdict.partial


def disputed(verdict: Verdict) -> bool:
    """Whether members stand on both sides: such a candidate makes no pair, whatever the mean says."""
    return any(note.startswith(DISAGREEMENT) for note in verdict.notes)


_Opinion = tuple[Member, Verdict, Axes]


def _by_member(id: str, verdicts: Sequence[Verdict], committee: Committee) -> list[tuple[Member, Verdict]]:
    """Members with their verdicts in the order of names. ValueError unless each has one, on this candidate."""
    by_name = {verdict.judge: verdict for verdict in verdicts}
    if len(by_name) < len(verdicts) or by_name.keys() != {member.judge for member in committee.members}:
        raise ValueError(f"candidate {id}: one verdict a member is needed, got {[v.judge for v in verdicts]}")
    strange = [verdict.candidate_id for verdict in verdicts if verdict.candidate_id != id]
    if strange:
        raise ValueError(f"candidate {id}: a verdict belongs to {strange[0]}")
    return [(member, by_name[member.judge]) for member in sorted(committee.members, key=lambda each: each.judge)]


def _mean(weighted: Sequence[tuple[float, float | None]]) -> float | None:
    """Weighted mean of what is measured; None where nothing with a weight is."""
    known = [(weight, value) for weight, value in weighted if value is not None and weight > 0]
    if not known:
        return None
    # Weights relative to the largest: sums of huge or tiny ones stay finite.
    most = max(weight for weight, _ in known)
    total = math.fsum(weight / most for weight, _ in known)
    mean = math.fsum(weight / most * value for weight, value in known) / total
    values = [value for _, value in known]
    return min(max(mean, min(values)), max(values))


def _refused(valid: Sequence[_Opinion]) -> bool | None:
    """What most members (by their weight on safety) say of refusal; a tie is no refusal, None says nothing."""
    known = [(member.safety, axes.refused) for member, _, axes in valid if axes.refused is not None]
    if not known:
        return None
    most = max(weight for weight, _ in known) or 1.0
    return math.fsum(weight / most * (1 if refused else -1) for weight, refused in known) > 0


def _sides(valid: Sequence[_Opinion]) -> list[str]:
    """A note for each question on which members stand on both sides."""
    safe = {member.judge: axes.safety > 0 for member, _, axes in valid if axes.safety is not None}
    refused = {member.judge: axes.refused for member, _, axes in valid if axes.refused is not None}
    found = []
    for question, votes, no, yes in (("safety", safe, "unsafe", "safe"), ("refusal", refused, "answered", "refused")):
        if len(set(votes.values())) == 2:
            against, for_it = (",".join(name for name, vote in votes.items() if vote is side) for side in (False, True))
            found.append(f"{DISAGREEMENT}:{question}:{no}={against}:{yes}={for_it}")
    return found


def _spreads(axes: Sequence[Axes], limit: float) -> list[str]:
    found = []
    for axis in ("safety", "utility"):
        values = [value for each in axes if (value := getattr(each, axis)) is not None]
        if values and max(values) - min(values) > limit:
            found.append(f"spread:{axis}:{min(values):.2f}..{max(values):.2f}")
    return found
