"""Rewards of judged completions, and how each compares with its group.

A reward is a composition of safety and utility (`judging.composition`) less something for length. Within the group of a
prompt it becomes an advantage, which needs no model of values. For rewards r_1 .. r_K with mean m:

| advantage | of r_i | source |
|---|---|---|
| grpo | (r_i - m) / standard deviation of the group | DeepSeekMath, arXiv 2402.03300 |
| mean | r_i - m | Dr. GRPO, arXiv 2503.20783 |
| rloo | r_i - mean of the other K - 1 | RLOO, arXiv 2402.14740 |

All add up to 0 over a group, so that a group of equal rewards teaches nothing; it is left out. The deviation is that of
the group itself (division by K): all groups weigh the same under `grpo`, those of clear differences more under others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, pstdev

from erpo_ray.config import Prefer
from erpo_ray.config.reinforce import AdvantageName, Reinforce
from erpo_ray.items import Item, usable
from erpo_ray.judging.composition import Composition, admissible, length_term, reward
from erpo_ray.types import Advantage, Group, LeftOut, Scores, identity

MISQUOTED = 1.0
"""Lost in reward, at most, by a trace that is whole but for the rules it cites."""
_ROUNDING = 1e-9
_SPOILT = Scores(safety=-1.0, utility=-1.0, length=0)


def worth(group: Group, item: Item, shortest: int, composition: Composition, length_weight: float) -> float:
    """The reward of a completion, less up to `length_weight` for its length where it may be chosen.

    One that did not end in due form is worth what unsafe and useless is: with the utility it had, a spoilt refusal of
    harm would be worth less than help with it, as S*H + 2S falls with H where S < 0. Where only the rules cited are at
    fault it loses `MISQUOTED`, down to that: small models cite rules that do not exist all the time, which would hide
    all else.
    """
    value, unsafe = reward(item.scores, composition), reward(_SPOILT, composition)
    if not item.whole and not item.misquotes:
        return unsafe
    if item.misquotes:
        value = max(value - MISQUOTED, unsafe)
    if not shortest or not admissible(group.prompt.label, item):
        return value
    return value + length_term(max(item.scores.length, shortest), shortest, length_weight)


def worths(group: Group, items: Sequence[Item], composition: Composition, length_weight: float) -> list[float]:
    """The reward of each of a prompt's completions. What length is charged from is the shortest of those that pass."""
    shortest = min((item.scores.length for item in items if item.kind == "length"), default=0)
    return [worth(group, item, shortest, composition, length_weight) for item in items]


def normalised(rewards: Sequence[float]) -> list[float]:
    """(r - mean) / standard deviation; 0 each where all are equal."""
    deviation = pstdev(rewards)
    return [value / deviation if deviation > _ROUNDING else 0.0 for value in centred(rewards)]


def centred(rewards: Sequence[float]) -> list[float]:
    """r - mean."""
    mean = fmean(rewards)
    return [value - mean for value in rewards]


def leave_one_out(rewards: Sequence[float]) -> list[float]:
    """r - mean of the others, of two or more."""
    total, others = sum(rewards), len(rewards) - 1
    return [value - (total - value) / others for value in rewards]


ADVANTAGES: Mapping[AdvantageName, Callable[[Sequence[float]], list[float]]] = {
    "grpo": normalised,
    "mean": centred,
    "rloo": leave_one_out,
}


def compare(
    groups: Sequence[Group], settings: Reinforce, prefer: Prefer, traced: bool
) -> tuple[list[Advantage], list[LeftOut]]:
    """The completions of all groups that tell anything, group by group, with their advantages; why the rest is out."""
    rows: list[Advantage] = []
    left_out: list[LeftOut] = []
    for group in groups:
        # Two samples with one text are two draws from the policy: without the second the mean would be another.
        items, dropped = usable(group, prefer, None, traced, distinct=False)
        left_out += dropped
        found = _rows(group, items, settings, prefer)
        if isinstance(found, str):
            left_out.append(LeftOut(group.prompt.id, found))
        else:
            rows += found
    return rows, sorted(left_out, key=lambda left: (left.id, left.reason))


def mean_reward(groups: Sequence[Group], settings: Reinforce, prefer: Prefer, traced: bool) -> float | None:
    """Over all groups, each by its mean; None without a judged completion."""
    means = []
    for group in groups:
        items, _ = usable(group, prefer, None, traced, distinct=False)
        if items:
            means.append(fmean(worths(group, items, _composition(settings, prefer), settings.length_weight)))
    return fmean(means) if means else None


def _composition(settings: Reinforce, prefer: Prefer) -> Composition:
    return Composition(settings.reward, prefer.lagrange_multiplier)


def _rows(group: Group, items: Sequence[Item], settings: Reinforce, prefer: Prefer) -> list[Advantage] | str:
    if group.prompt.label == "unknown":
        return "the prompt has no label"
    if len(items) < 2:
        return f"{len(items)} of {len(group.candidates)} candidates can be compared"
    rewards = worths(group, items, _composition(settings, prefer), settings.length_weight)
    if max(rewards) - min(rewards) <= max(settings.margin, _ROUNDING):
        return f"all rewards are equal: {min(rewards):.2f} to {max(rewards):.2f}, the margin is {settings.margin:g}"
    mean = fmean(rewards)
    return [
        Advantage(
            id=identity("advantage", item.candidate.id),
            prompt_id=group.prompt.id,
            prompt_ids=group.prompt_ids,
            prefix_ids=item.candidate.token_ids[: item.candidate.given],
            completion_ids=item.candidate.token_ids[item.candidate.given :],
            reward=value,
            advantage=advantage,
            kind="passes" if item.kind == "length" else item.kind,
            reason=f"reward {value:.2f} against {mean:.2f} of its group",
        )
        for item, value, advantage in zip(items, rewards, ADVANTAGES[settings.advantage](rewards), strict=True)
    ]
