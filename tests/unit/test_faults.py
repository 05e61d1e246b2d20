"""How many verdicts a stage can use, and when it stops for want of them."""

from __future__ import annotations

import pytest

from erpo_ray.errors import RunFailed
from erpo_ray.faults import check_verdicts
from erpo_ray.types import Axes, Failure, Scores, Verdict

GOOD = Verdict("a", "ensemble", Scores(1.0, 1.0, 3))
PART = Verdict("b", "ensemble", partial=Axes(safety=1.0))
FAILED = Verdict("c", "llm", failure=Failure("timeout", "60 s"))


@pytest.mark.parametrize(
    ("bad", "said"),
    [(FAILED, "1 of 4 verdicts failed, .*timeout: 60 s"), (PART, "no_scores: ensemble does not measure every axis")],
)
def test_a_verdict_without_scores_counts_as_failed(bad: Verdict, said: str) -> None:
    verdicts = [GOOD, GOOD, bad, GOOD]
    check_verdicts(verdicts, 0.25)
    with pytest.raises(RunFailed, match=said):
        check_verdicts(verdicts, 0.24)


def test_no_verdicts_are_no_failure() -> None:
    check_verdicts([], 0.0)
