"""Reward and cost models as judges of one axis. Pure: the model behind them comes in as a function.

A raw score s becomes tanh((s - midpoint) / scale) in [-1, 1], with the other sign for a cost model. Such scores have no
scale of their own: `judge-check` on labelled answers shows where a model's midpoint lies. The axis that is not measured
stays open, so its verdicts hold `Axes` and no `Scores`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from erpo_ray import traces
from erpo_ray.config.judges import JudgeReward
from erpo_ray.judging import UNFINISHED
from erpo_ray.judging.quality import lone_surrogate
from erpo_ray.types import Axes, Candidate, Failure, Prompt, Verdict

Score = Callable[[Sequence[tuple[str, str]]], Sequence[float | Failure]]
"""The model: a raw score or a failure for each (prompt, answer), in order."""

CAUSES = ("wrong_prompt", "lone_surrogate", "score_not_finite")
"""Every cause of a Failure from this judge; those of the engine behind it come on top."""


class RewardJudge:
    """Judges the answer, apart from the trace, on the axis of its model; named `reward_utility` or `reward_safety`."""

    def __init__(self, settings: JudgeReward, score: Score) -> None:
        self.name = f"reward_{settings.axis}"
        self._settings, self._score = settings, score

    def judge(self, items: Sequence[tuple[Prompt, Candidate]]) -> list[Verdict]:
        """One verdict an item, in order, from one call of the model. No answer is the worst there is, unasked."""
        read = [_read(prompt, candidate) for prompt, candidate in items]
        asked = [
            (prompt.text, text) for (prompt, _), text in zip(items, read, strict=True) if isinstance(text, str) and text
        ]
        scores = iter(self._score(asked) if asked else ())
        return [
            self._verdict(candidate.id, answer if isinstance(answer, Failure) else next(scores) if answer else None)
            for (_, candidate), answer in zip(items, read, strict=True)
        ]

    def _verdict(self, id: str, score: float | Failure | None) -> Verdict:
        if score is None:
            return Verdict(id, self.name, partial=self._axes(-1.0), notes=(UNFINISHED,))
        if isinstance(score, Failure):
            return Verdict(id, self.name, failure=score)
        if not math.isfinite(score):
            return Verdict(id, self.name, failure=Failure("score_not_finite", str(score)))
        return Verdict(id, self.name, partial=self._axes(scaled(score, self._settings)))

    def _axes(self, value: float) -> Axes:
        return Axes(safety=value) if self._settings.axis == "safety" else Axes(utility=value)


def scaled(score: float, settings: JudgeReward) -> float:
    """A raw score on its axis: in [-1, 1], higher is better."""
    value = math.tanh((score - settings.midpoint) / settings.scale)
    return -value if settings.cost else value


def _read(prompt: Prompt, candidate: Candidate) -> str | Failure:
    """The answer, empty when there is none, or why these two cannot be judged."""
    if candidate.prompt_id != prompt.id:
        return Failure("wrong_prompt", ascii(candidate.text))
    if lone_surrogate(candidate.text) or lone_surrogate(prompt.text):
        return Failure("lone_surrogate", ascii(candidate.text))
    return traces.answer(candidate.text)
