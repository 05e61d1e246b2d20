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
    total, failed, first = 0, 0, Failure("")
    for verdict in verdicts:
        total += 1
        if not verdict.scores:
            failed += 1
            found = verdict.failure or Failure("no_scores", f"{verdict.judge} does not measure every axis")
            first = first if failed > 1 else found
    if failed > limit * total:
        raise RunFailed(
            f"{failed} of {total} verdicts failed, more than judge.max_failure_rate ({limit}); the first: "
            f"{first.cause}: {first.raw[:300]}. Mend the judge and start the same command again; the samples are kept"
        )


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
