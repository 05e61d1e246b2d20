"""Negative traces: what a good trace is preferred over.

They hold no harmful content: the wrong answer to a harmful prompt is an outline without any.
"""

from __future__ import annotations

import random
from typing import Literal

from erpo_ray.rules import Category
from erpo_ray.teachers import phrases, replies
from erpo_ray.teachers.template import Level, assess, cite, conclude, decline, draw_level, pick_rules
from erpo_ray.traces import SAFE, UNSAFE, Trace, compose, pivot
from erpo_ray.types import Prompt, seed_of

NegativeKind = Literal["wrong_verdict", "skipped_verification", "compliance", "refusal", "contradiction"]


def negatives(prompt: Prompt, category: Category, good: Trace, seed: int) -> list[tuple[NegativeKind, Trace]]:
    """Four well-formed traces of the same prompt that end opposite to `good`, each by another fault.

    wrong_verdict: the intent itself is misread. skipped_verification: right assessment, no rule looked at. compliance
    (harmful prompts): the rule is cited as violated and answered in spite of it. refusal (benign prompts): found
    harmless and refused. contradiction: all of the trace is right, the answer does the opposite. Where `good` has
    pivots, what is wrong has the opposite ones.
    """
    rng = random.Random(seed_of("negatives", seed, prompt.id, prompt.text))
    harmful = good.verdict == "refuse"
    level = draw_level(rng)
    wrong = (SAFE if harmful else UNSAFE) if pivot(good.path) else ""
    rule = pick_rules(prompt, category, rng)[0][1]
    misread = assess(prompt, category, rule, not harmful, level, rng)
    if harmful:
        miscited = cite(phrases.DUTY if rule.duty else phrases.KEPT, prompt, category, rule, level, rng)
    else:
        miscited = cite(phrases.BROKEN, prompt, category, rule, level, rng)
    rows: tuple[tuple[NegativeKind, str, str], ...] = (
        ("wrong_verdict", misread + wrong, miscited + wrong),
        ("skipped_verification", good.assessment, rng.choice(replies.SKIPPED) + wrong),
        ("compliance" if harmful else "refusal", good.assessment, good.rules),
    )
    found: list[tuple[NegativeKind, Trace]] = []
    for kind, assessment, rules in rows:
        path, answer = _ending(prompt, category, harmful, level, rng)
        found.append((kind, compose(assessment, rules, path + wrong, answer)))
    _, answer = _ending(prompt, category, harmful, level, rng)
    found.append(("contradiction", compose(good.assessment, good.rules, good.path, answer)))
    return found


def _ending(prompt: Prompt, category: Category, harmful: bool, level: Level, rng: random.Random) -> tuple[str, str]:
    """The path and answer opposite to the right ones."""
    if harmful:
        answer = f"{rng.choice(replies.SURE)} {rng.choice(replies.OUTLINE)}"
        return conclude("answer", rng.choice(replies.ANSWER_PATH["full"]), level, rng), answer
    advice, answer = decline(prompt, category, pick_rules(prompt, category, rng)[0][1], rng)
    return conclude("refuse", advice, level, rng), answer
