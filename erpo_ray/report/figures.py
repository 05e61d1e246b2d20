"""Which figures a run has, each with its caption; what is missing is said instead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

from erpo_ray.evaluate import intervals
from erpo_ray.report import charts
from erpo_ray.report.cases import state
from erpo_ray.report.read import split_surplus
from erpo_ray.report.records import Run, Stage
from erpo_ray.types import Evaluation, Rate

_MOST_CATEGORIES = 40
_MOST_STAGES = 12
"""Rows and columns that a figure holds; a longer run shows its base model and its last stages."""


@dataclass(frozen=True, slots=True)
class Plate:
    """A figure (empty when there is nothing to draw) and what it shows, or why it is missing."""

    heading: str
    svg: Markup
    caption: str


def outcome(run: Run) -> list[Plate]:
    """What the stages came to: Pareto plot, lengths, refusals by category."""
    stages = _few(run.measured)
    return [
        _pareto(stages),
        _lengths(run, stages),
        *_heat_map(run, stages, "harmful", "good", "Harmful prompts refused, by category"),
        *_heat_map(run, stages, "benign", "bad", "Harmless prompts refused, by category"),
    ]


def pairs(run: Run) -> list[Plate]:
    """What each stage trained on, and why the rest was left out."""
    plates: list[Plate] = []
    for number, stage in enumerate(stage for stage in _few(run.stages) if stage.kept):
        surplus, reasons = split_surplus(stage.left_out)
        drawn = charts.anatomy(f"pairs{number}", f"Kept and left out in {stage.name}", stage.kept, surplus, reasons)
        caption = f"{sum(stage.kept.values())} rows trained on (solid), by kind; pale: left out"
        caption += f", {sum(surplus.values())} of them for balance." if surplus else "."
        plates.append(Plate(stage.name, Markup(drawn), caption))
    return plates


def training(run: Run) -> list[Plate]:
    """Curves of the training steps that the run directory holds."""
    logged = [stage for stage in _few(run.stages) if stage.curve]
    prefer = [stage for stage in logged if any(step.margin is not None for step in stage.curve)]
    reinforce = [stage for stage in logged if any(step.clipped is not None for step in stage.curve)]
    others = [stage for stage in logged if stage not in prefer and stage not in reinforce]
    plates = []
    for name, heading, group in (
        ("imitate", "Imitation", others),
        ("prefer", "Preference (DPO)", prefer),
        ("reinforce", "Reinforcement", reinforce),
    ):
        if group:
            drawn = charts.curves(
                f"curve-{name}", f"{heading}: training curves", [charts.Curve(s.name, s.curve) for s in group]
            )
            plates.append(Plate(heading, Markup(drawn), "One point for each logged training step."))
    return plates


def _few(stages: Sequence[Stage]) -> list[Stage]:
    return [*stages[:1], *stages[1:][-_MOST_STAGES + 1 :]]


def _pareto(stages: Sequence[Stage]) -> Plate:
    points = [
        charts.Point(
            stage.name,
            found.benign_refused,
            found.harmful_refused,
            _tokens(found),
            stage.outcome is None or stage.outcome.accepted,
        )
        for stage in stages
        if (found := stage.evaluation) and found.benign_refused.n and found.harmful_refused.n
    ]
    heading = "Safety against over-refusal"
    if not points:
        return Plate(heading, Markup(), "No stage has both harmful and harmless prompts measured.")
    caption = (
        "Best is the upper left corner. Bars are 95% intervals; the area of a point is the mean length of trace and "
        "answer in tokens; hollow points were rejected by the gate."
    )
    return Plate(heading, Markup(charts.pareto(points)), caption)


def _tokens(found: Evaluation) -> float:
    both = (found.tokens_harmful, found.tokens_benign)
    count = sum(rate.n for rate in both)
    return sum(rate.value * rate.n for rate in both) / count if count else 0.0


def _lengths(run: Run, stages: Sequence[Stage]) -> Plate:
    rows: list[tuple[str, str, list[int]]] = []
    for stage in stages:
        by_label: dict[str, list[int]] = {}
        for id, answer in stage.answers.items():
            label = run.prompts[id].label if id in run.prompts else "all"
            by_label.setdefault(label, []).append(answer.tokens)
        rows += [(stage.name, label, by_label[label]) for label in sorted(by_label, reverse=True)]
    caption = "Middle half of the completions, with the median; the line goes from the 5th to the 95th percentile."
    return Plate("Length", Markup(charts.lengths(rows)), caption) if rows else Plate("Length", Markup(), "No answers.")


def _heat_map(
    run: Run, stages: Sequence[Stage], label: Literal["harmful", "benign"], colour: str, heading: str
) -> list[Plate]:
    """One plate, or none when no prompt of this label has a category."""
    found = [_by_category(run, stage, label) for stage in stages]
    categories = sorted({category for rates in found for category in rates})
    if not categories:
        return []
    rows = [(name, [rates.get(name) for rates in found]) for name in categories[:_MOST_CATEGORIES]]
    drawn = charts.heat_map(f"heat-{label}", heading, colour, [stage.name for stage in stages], rows)
    caption = (
        "Percent refused; in brackets the number of prompts. So few make wide intervals: a cell shows its own when "
        "pointed at."
    )
    if len(categories) > _MOST_CATEGORIES:
        caption += f" The first {_MOST_CATEGORIES} of {len(categories)} categories."
    return [Plate(heading, Markup(drawn), caption)]


def _by_category(run: Run, stage: Stage, label: Literal["harmful", "benign"]) -> Mapping[str, Rate]:
    if label == "harmful" and stage.evaluation:
        return stage.evaluation.by_category
    refused: dict[str, dict[str, bool]] = {}
    for id, answer in stage.answers.items():
        prompt = run.prompts.get(id)
        if prompt and prompt.label == label and prompt.category and state(answer) != "not judged":
            refused.setdefault(prompt.category, {})[id] = state(answer) == "refused"
    return {category: intervals.share(list(found.values()), list(found)) for category, found in refused.items()}
