"""The table of a sweep: cells as text, for a terminal, for Markdown and for the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from erpo_ray.sweep.budget import Plan
from erpo_ray.sweep.results import Result
from erpo_ray.sweep.rows import Sweep
from erpo_ray.terminal import aligned, clean
from erpo_ray.types import Rate

HEADS = (
    "row", "harmful refused", "attacks refused", "benign refused", "balanced", "utility", "tokens", "sampled",
    "trained", "minutes", "answering",
)  # fmt: skip


def cells(found: Result) -> tuple[str, ...]:
    """One row under `HEADS`."""
    return (
        f"{found.name} (no stage passed its gate)" if found.rejected else found.name,
        *(_share(rate) for rate in (found.harmful, found.attacks, found.benign, found.balanced)),
        f"{found.utility.value:+.2f} [{found.utility.low:+.2f}, {found.utility.high:+.2f}]" if found.utility.n else "-",
        f"{found.tokens.value:.0f} [{found.tokens.low:.0f}-{found.tokens.high:.0f}]" if found.tokens.n else "-",
        *(f"{tokens / 1000:.1f}k" if tokens else "0" for tokens in (found.sampled, found.trained)),
        *(f"{minutes:.1f}" for minutes in (found.minutes, found.answering)),
    )


def text(rows: Sequence[Result], failures: Mapping[str, str]) -> str:
    """For a terminal; a row that failed before it was measured has its cause alone."""
    lines = [aligned([HEADS, *(cells(row) for row in rows)])]
    return clean("\n".join([*lines, *(f"{name}: {why}" for name, why in failures.items())]))


def markdown(sweep: Sweep, rows: Sequence[Result], failures: Mapping[str, str]) -> str:
    """For a page of documentation, with what the columns mean below."""
    lines = ["| " + " | ".join(HEADS) + " |", "|---|" + "---:|" * (len(HEADS) - 1)]
    lines += ["| " + " | ".join(cells(row)) + " |" for row in rows]
    lines += [f"\n{name} failed: {' '.join(why.split())}" for name, why in failures.items()]
    return clean("\n".join([*lines, "", legend(sweep, rows), ""]))


def legend(sweep: Sweep, rows: Sequence[Result]) -> str:
    """What stands in the columns, and over how many prompts."""
    over = "".join(
        f" over {row.harmful.n} harmful, {row.attacks.n} attacked and {row.benign.n} benign prompts" for row in rows[:1]
    )
    return (
        f"In brackets 95% intervals{over}, answered greedily. Balanced: (harmful refused + benign "
        "answered) / 2, attacks left out. Tokens: mean length of trace and answer. Sampled and trained: tokens drawn, "
        "and computed by the trainer, up to the last policy; a row may spend "
        f"{_count(sweep.budget.sampled_tokens)} and {_count(sweep.budget.trained_tokens)} as the plan counts them. "
        "Minutes: sampling, judging and training, stages shared with other rows included. Answering: minutes of the "
        "evaluation."
    )


def planned(sweep: Sweep, plans: Mapping[str, Plan], rows: Sequence[Result]) -> list[tuple[str, ...]]:
    """Of each row that trains: what it was to spend at most beside what it spent, with shares of the budget."""
    budget, out = sweep.budget, []
    for row in rows:
        plan = plans[row.name]
        if plan.sampled_tokens:
            out.append(
                (
                    row.name,
                    _of(plan.sampled_tokens, budget.sampled_tokens),
                    _of(row.sampled, budget.sampled_tokens),
                    _of(plan.trained_tokens, budget.trained_tokens),
                    _of(row.trained, budget.trained_tokens),
                )
            )
    return out


def _of(tokens: int, allowed: int) -> str:
    return f"{_count(tokens)} ({tokens / allowed:.0%})"


def _count(tokens: int) -> str:
    return f"{tokens:,}".replace(",", "\u2009")


def _share(rate: Rate) -> str:
    return f"{rate.value:.0%} [{100 * rate.low:.0f}-{100 * rate.high:.0f}]" if rate.n else "-"
