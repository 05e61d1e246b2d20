"""What each row may spend, checked on paper before anything boots, and as it will stand in the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from erpo_ray import preflight
from erpo_ray.errors import UsageError
from erpo_ray.forecast import forecast
from erpo_ray.preflight import Ready
from erpo_ray.sweep.rows import Row, Sweep
from erpo_ray.sweep.share import shared_stages
from erpo_ray.terminal import aligned


@dataclass(frozen=True, slots=True)
class Plan:
    """What a row takes at most: tokens as if it stood alone, minutes without the stages that a row above it makes."""

    sampled_tokens: int
    trained_tokens: int
    minutes: float


def plans(sweep: Sweep, ready: Ready) -> dict[str, Plan]:
    """A plan for each row. UsageError when one asks for more than the budget, with the remedy."""
    found: dict[str, Plan] = {}
    made: set[tuple[str, str]] = set()
    for row in sweep.rows:
        stages = shared_stages(row)
        found[row.name] = _plan(row, ready, {name for name, key in stages.items() if (name, key) in made})
        made |= set(stages.items())
    over = [
        f"row {name}: {what} {spent}, more than the budget's {allowed}"
        for name, plan in found.items()
        for what, spent, allowed in (
            ("samples tokens", plan.sampled_tokens, sweep.budget.sampled_tokens),
            ("trains on tokens", plan.trained_tokens, sweep.budget.trained_tokens),
        )
        if spent > allowed
    ]
    if over:
        raise UsageError(
            f"{'; '.join(over)}; lower the row's prefer.prompts, prefer.samples, prefer.max_pairs or rounds.count, "
            "or raise `budget` for all"
        )
    return found


def _plan(row: Row, ready: Ready, adopted: set[str]) -> Plan:
    """A row that is only measured costs nothing but its evaluation, whose time is not foretold under a defence."""
    if row.of is not None:
        plainly = row.config.evaluate.decode.name == "plain" and "base" not in adopted
        return Plan(0, 0, forecast(row.config, ready).costs[0].seconds / 60 if plainly else 0.0)
    preflight.method(row.config)
    room = preflight.prompt_room(row.config)
    prompts = (*ready.mix.train, *ready.mix.evaluate)
    preflight.lengths(prompts, room, ready.model_dir)
    costs = forecast(row.config, ready).costs
    spent = [cost for cost in costs if cost.kind != "evaluate"]
    seconds = sum(cost.seconds for cost in costs if cost.name.partition(":")[0] not in adopted)
    return Plan(sum(c.sampled_tokens for c in spent), sum(c.trained_tokens for c in spent), seconds / 60)


def disk(sweep: Sweep, ready: Ready) -> int:
    """Bytes that all rows write at most; a stage that several share counts once."""
    weights = sum(path.stat().st_size for path in ready.model_dir.glob("*.safetensors"))
    seen: set[str] = set()
    total = 0
    for row in sweep.rows:
        if row.of is None:
            first = [key for name, key in shared_stages(row).items() if name not in ("labels", "base")]
            total += preflight.disk(row.config, ready.model_dir) - weights * sum(key in seen for key in first)
            seen.update(first)
    return total


def text(sweep: Sweep, found: Mapping[str, Plan]) -> str:
    """The plans beside the budget, for a terminal."""
    rows: list[Sequence[str]] = [("row (all at most)", "sampled tokens", "trained tokens", "minutes")]
    for name, plan in found.items():
        tokens = (str(plan.sampled_tokens), str(plan.trained_tokens))
        rows.append((name, *tokens, f"{plan.minutes:.1f}" if plan.minutes else "-"))
    total = sum(plan.minutes for plan in found.values())
    rows.append(("budget of a row", str(sweep.budget.sampled_tokens), str(sweep.budget.trained_tokens), ""))
    return f"{aligned(rows)}\nabout {total:.0f} minutes in all at most, defences not counted"
