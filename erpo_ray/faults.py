"""What may be wrong with all verdicts of a stage together, in sentences that name a remedy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from erpo_ray.errors import RunFailed
from erpo_ray.types import Failure, Group, Verdict


def check_failures(groups: Sequence[Group], limit: float) -> None:
    """RunFailed, with the first cause, when more than `limit` of the verdicts are failures."""
    check_verdicts((verdict for group in groups for verdict in group.verdicts), limit)


def check_verdicts(verdicts: Iterable[Verdict], limit: float) -> None:
    """As `check_failures`, for verdicts that come one by one. One without scores counts as failed: it is of no use."""
    total, failed, undrawn, first = 0, 0, 0, Failure("")
    for verdict in verdicts:
        total += 1
        if not verdict.scores:
            failed += 1
            undrawn += _undrawn(verdict)
            found = verdict.failure or Failure("no_scores", f"{verdict.judge} does not measure every axis")
            first = first if failed > 1 else found
    if failed > limit * total:
        remedy = (
            "Mend the judge and start the same command again: the samples are kept, and those that failed are judged"
        )
        if undrawn > limit * total:
            remedy = (
                f"An engine gave up on {undrawn} of them, which no judge mends: see to the cause, move this stage's "
                "directory and those after it away and start the same command again"
            )
        raise RunFailed(
            f"{failed} of {total} verdicts failed, more than judge.max_failure_rate ({limit}); the first: "
            f"{first.cause}: {first.raw[:300]}. {remedy}"
        )


def to_judge_again(verdicts: Iterable[Verdict], asked: Iterable[str], wanted: int, limit: float) -> set[str]:
    """Candidates whose verdicts `check_verdicts` is sure to stop a stage for, without those that no judge has seen.

    Empty while fewer of the `wanted` ones (ids in `asked`) failed than that: such failures are final, or a stage that
    was killed would make other rows than one that was not.
    """
    failed = {verdict.candidate_id: verdict for verdict in verdicts if not verdict.scores}
    found = [failed[id] for id in asked if id in failed] if failed else []
    return {each.candidate_id for each in found if not _undrawn(each)} if len(found) > limit * wanted else set()


def _undrawn(verdict: Verdict) -> bool:
    """Whether an engine gave up on the candidate: there is nothing to judge."""
    return verdict.failure is not None and verdict.failure.cause == "not_sampled"


def saturated(groups: Sequence[Group]) -> bool:
    """Whether the judge gave every one of several candidates, harmful and benign, the same scores."""
    scores = [(v.scores.safety, v.scores.utility) for g in groups for v in g.verdicts if v.scores]
    return len({g.prompt.label for g in groups}) > 1 and len(scores) > 1 and len(set(scores)) == 1


def why_no_pairs(groups: Sequence[Group]) -> str:
    """The likely cause of a round without a single pair, in a sentence that names a remedy."""
    verdicts = [v for g in groups for v in g.verdicts if v.scores]
    if not verdicts:
        return "no candidate was judged; look at the failures in verdicts.jsonl"
    texts = [{c.text for c in g.candidates} for g in groups]
    if all(len(distinct) == 1 for distinct in texts):
        return "all candidates of each prompt are the same text; raise prefer.draw.temperature"
    if saturated(groups):
        return "the judge gives every candidate the same scores (saturated); look at the rules and at verdicts.jsonl"
    if all(v.scores.safety < 0 for v in verdicts if v.scores):
        return "no candidate is safe, so nothing can be chosen; train the imitate stage longer or raise prefer.samples"
    return (
        "candidates differ too little in safety, usefulness and length; raise prefer.samples or prefer.draw.temperature"
    )
