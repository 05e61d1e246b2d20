"""The embedded teacher: composes traces from slots of phrases around the prompt's gist. Pure and deterministic.

The trace names what is asked, then the intent, then the rule, then the verdict. A harmful prompt gets the rule that
shares most words with it, cited as violated, and a refusal. A look-alike gets the reason why it is harmless and the
same kind of rule cited as met; an everyday prompt a duty of the general category. Lengths vary on purpose: later rounds
prefer the shortest trace that works.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from erpo_ray.rules import GENERAL, Category, Rule
from erpo_ray.teachers import phrases, replies
from erpo_ray.teachers.gist import COVER, READ, REFUSING, Gist, beginnings, gist, overlap, words_of
from erpo_ray.traces import RETHINK, SAFE, UNSAFE, WORDS, Dialect, Trace, compose
from erpo_ray.types import Prompt, Verdict3, seed_of

Level = Literal["short", "medium", "long"]

_LEVELS: tuple[Level, ...] = ("short", "medium", "long")
_SHARES = (0.15, 0.55, 0.3)
_SKEW = 1.5
_TERSE: dict[Level, float] = {"short": 0.9, "medium": 0.4, "long": 0.1}
"""How often a part of a trace of this level takes its shortest form."""
_WORDS: dict[Level, tuple[int, int]] = {"short": (10, 14), "medium": (10, 14), "long": (10, 16)}
"""Fewest and most words of a gist."""
_CARING = "self_harm"
_SENSITIVE = frozenset(
    {"self_harm", "drugs", "sexual", "child_safety", "violence", "cybercrime", "weapons", "mass_harm"}
)
"""Categories in which a harmless prompt may call for a careful answer."""

_AIMS = tuple(
    (aim, re.compile(rf"\b(?:{pattern})\b", re.IGNORECASE))
    for aim, pattern in (
        (
            "protect",
            r"protect\w*|prevent\w*|avoid\w*|spot|detect\w*|recogni\w+|secur\w+|safe\w*|defend\w*|warn\w*|report|remove|stop"
            r"|against|emergency|alarm|guard\w*",
        ),
        (
            "support",
            r"therap\w+|counsel\w*|support\w*|recover\w*|cope|coping|heal\w*|comfort\w*|doctor|sad|grief|griev\w+|well-?being"
            r"|quit|healthy",
        ),
        (
            "law",
            r"laws?|legal\w*|lawful\w*|rights?|permits?|licen[cs]e|court|allowed|regulations?|policy|official\w*|tax(?:es)?"
            r"|judge",
        ),
        (
            "play",
            r"story|stories|novel|film|movie|games?|poem|song|character|scene|jokes?|comedy|costume|fiction\w*|cartoon|theatre"
            r"|stage|lyrics|wizard|birthday",
        ),
        (
            "teach",
            r"class\w*|school|lesson|pupils?|students?|teach\w*|nurses?|officers?|reporters?|article|campaign|flyer|poster"
            r"|charity|museum|essay|colleagues|customers",
        ),
        (
            "technical",
            r"python|code|script|linux|process\w*|app|software|server|command|files?|sql|program\w*|browser|laptop|computer"
            r"|printer|phone|wifi|router|network",
        ),
        (
            "home",
            r"recipe|cook\w*|kitchen|garden\w*|bak\w+|eggs?|clean\w*|cake|photo\w*|dinner|soup|plants?|dog|cat|puppy"
            r"|furniture|wood\w*|sew\w*|knit\w*|tea",
        ),
        (
            "learn",
            r"what (?:is|are|was|were|does|did|do)|why|when|who|mean\w*|defin\w+|explain|history|difference|origin"
            r"|how (?:does|did|do (?!i\b|we\b))|which",
        ),
    )
)
"""What a harmless prompt is after (the keys of `phrases.WHY`), by its words."""
_SHAPES = (
    ("code", re.compile(r"```|^\s*(?:def|class|import|SELECT|function|for) ", re.MULTILINE)),
    ("list", re.compile(r"^\s*(?:\d{1,2}[.)]|[-*\u2022]) ", re.MULTILINE)),
)
_BRIEF = 30
"""Words up to which an answer counts as brief."""


class TemplateTeacher:
    """Writes the trace of one prompt. Holds no state: the same arguments give the same trace, on any worker.

    In the dialect `pivots` every section ends with its pivot; the words are the same in all dialects.
    """

    def __init__(self, dialect: Dialect = "lines") -> None:
        self._pivots = dialect == "pivots"

    def write(self, prompt: Prompt, category: Category, answer: str | None, seed: int) -> Trace:
        """A trace that ends in `answer`; a refusal of its own when `answer` is None.

        `category` is the prompt's, `general` for everyday prompts. A prompt is refused when its label is harmful, or
        unknown without an answer. Raises ValueError for a benign prompt without an answer: there is nothing to imitate.
        """
        rng = random.Random(seed_of("template", seed, prompt.id, prompt.text))
        if prompt.label == "harmful" or (prompt.label == "unknown" and answer is None):
            return self._told(_refusing(prompt, category, answer, rng), prompt)
        if answer is None or not answer.strip():
            raise ValueError(
                f"prompt {prompt.id} is {prompt.label} and has no answer; give the teacher the answer to imitate"
            )
        return self._told(_answering(prompt, category, answer, rng), prompt)

    def _told(self, trace: Trace, prompt: Prompt) -> Trace:
        return pivoted(trace, prompt) if self._pivots else trace


def pick_rules(prompt: Prompt, category: Category, rng: random.Random) -> list[tuple[int, Rule]]:
    """The category's forbidding rules with the number of words they share with the prompt (its topic counts twice).

    Closest first, ties by `rng`. A category that holds only duties gives those.
    """
    words, topic = beginnings(prompt.text), beginnings(prompt.topic)
    rules = [rule for rule in category.rules if not rule.duty] or list(category.rules)
    scored = [(overlap(words, rule) + 2 * overlap(topic, rule), rng.random(), rule) for rule in rules]
    scored.sort(key=lambda row: (-row[0], row[1]))
    return [(score, rule) for score, _, rule in scored]


def pivoted(trace: Trace, prompt: Prompt) -> Trace:
    """The trace with pivots: unsafe where it ends in a refusal, else safe.

    What is not settled yet has to be thought over: the assessment of a harmful request under a pretext, the rules of a
    harmless one that calls for care.
    """
    settled = UNSAFE if trace.verdict == "refuse" else SAFE
    covered = settled == UNSAFE and COVER.search(prompt.text[:READ])
    return replace(
        trace,
        assessment=trace.assessment + (RETHINK if covered else settled),
        rules=trace.rules + (RETHINK if trace.verdict == "safe" else settled),
        path=trace.path + settled,
    )


def draw_level(rng: random.Random) -> Level:
    """How long a trace is to be."""
    return rng.choices(_LEVELS, _SHARES)[0]


def assess(prompt: Prompt, category: Category, rule: Rule, harmful: bool, level: Level, rng: random.Random) -> str:
    """An assessment: the gist, a word on pretexts, and the intent."""
    core = gist(prompt.text, category, rng.randint(*_WORDS[level]))
    # One fixed word for the intent, right behind the gist: a small model learns to tell requests apart at one place.
    parts = [_opening(core, rng), "Harmful." if harmful else "Harmless."]
    if level == "short":
        return " ".join(parts)
    if harmful:
        if COVER.search(prompt.text[:READ]) and rng.random() > _TERSE[level]:
            parts.append(draw(phrases.COVERED, rng))
        slot = phrases.HARM[level]
    else:
        slot = (phrases.PLAIN if category.id == GENERAL else phrases.ALIKE)[level]
    return " ".join((*parts, fill(draw(slot, rng), prompt, category, rule, rng)))


def draw(slot: Sequence[str], rng: random.Random) -> str:
    """A phrase of a slot, the first ones more often: wording varies without being most of what there is to learn."""
    return rng.choices(slot, [(place + 1) ** -_SKEW for place in range(len(slot))])[0]


def fill(phrase: str, prompt: Prompt, category: Category, rule: Rule, rng: random.Random) -> str:
    """The phrase with its placeholders replaced; a new choice of harm, reason and offer each time."""
    return phrase.format(
        rule=rule.id,
        name=REFUSING.sub(" ", rule.name).strip() or rule.id,
        topic=REFUSING.sub(" ", category.title.lower()).strip() or category.id,
        harm=rng.choice(rule.harms if rule.harms and rng.random() < 0.75 else phrases.HARMS),
        instead=rng.choice(category.instead or replies.INSTEAD),
        why=_why(prompt, rng),
    )


def decline(prompt: Prompt, category: Category, rule: Rule, rng: random.Random) -> tuple[str, str]:
    """The advice in the path and the refusal that follows it. Half of them name the concern or offer something safe."""
    second = rng.choices(
        ("plain", "concern", "offer"), (0.1, 0.1, 0.8) if category.id == _CARING else (0.45, 0.2, 0.35)
    )[0]
    named = not rule.duty and rng.random() < 0.45
    first = draw(replies.NO_NAMED if named else replies.NO, rng)
    ending = {
        "plain": ("",),
        "concern": replies.CONCERN,
        "offer": replies.SUPPORT if category.id == _CARING and rng.random() < 0.7 else replies.OFFER,
    }[second]
    answer = fill(f"{first} {draw(ending, rng)}", prompt, category, rule, rng).strip()
    return draw(replies.REFUSE_PATH[second], rng), answer


def conclude(verdict: Verdict3, advice: str, level: Level, rng: random.Random) -> str:
    """A path: the verdict, often with advice on style."""
    return f"{WORDS[verdict]}." if rng.random() < _TERSE[level] else f"{WORDS[verdict]}. {advice}"


def cite(
    slots: dict[str, tuple[str, ...]], prompt: Prompt, category: Category, rule: Rule, level: Level, rng: random.Random
) -> str:
    """One cited rule, worded briefly or with what it is about."""
    slot = slots["short" if rng.random() < _TERSE[level] else "medium"]
    return fill(draw(slot, rng), prompt, category, rule, rng)


def _refusing(prompt: Prompt, category: Category, answer: str | None, rng: random.Random) -> Trace:
    (_, rule), *others = pick_rules(prompt, category, rng)
    level = draw_level(rng)
    assessment = assess(prompt, category, rule, True, level, rng)
    rules = cite(phrases.BROKEN, prompt, category, rule, level, rng)
    if others and others[0][0] > 1 and level == "long" and rng.random() < 0.6:
        rules += " " + fill(draw(phrases.BROKEN_TOO, rng), prompt, category, others[0][1], rng)
    advice, refusal = decline(prompt, category, rule, rng)
    return compose(assessment, rules, conclude("refuse", advice, level, rng), refusal if answer is None else answer)


def _answering(prompt: Prompt, category: Category, answer: str, rng: random.Random) -> Trace:
    duties = [rule for rule in category.rules if rule.duty]
    if category.id == GENERAL and duties:
        rule = duties[0] if rng.random() < 0.6 else rng.choice(duties)
        slots = phrases.DUTY
    else:
        rule, slots = pick_rules(prompt, category, rng)[0][1], phrases.KEPT
    level = draw_level(rng)
    assessment = assess(prompt, category, rule, False, level, rng)
    rules = cite(slots, prompt, category, rule, level, rng)
    verdict: Verdict3 = "safe" if _wants_care(prompt, category, rng) else "answer"
    advice = draw(replies.SAFE_PATH if verdict == "safe" else replies.ANSWER_PATH[_shape(answer)], rng)
    return compose(assessment, rules, conclude(verdict, advice, level, rng), answer)


def _opening(core: Gist, rng: random.Random) -> str:
    slot = phrases.OPENINGS["any" if core.kind == "thing" else core.kind]
    return draw(slot, rng).format(g=core.text, G=core.text[:1].upper() + core.text[1:])


def _aims(prompt: Prompt) -> list[str]:
    return [aim for aim, pattern in _AIMS if pattern.search(prompt.text[:READ])] or ["plain"]


def _why(prompt: Prompt, rng: random.Random) -> str:
    """Why a look-alike is harmless, read from its words; at times that a loaded word is meant in another sense."""
    aim = rng.choice(_aims(prompt))
    loaded = sorted(words_of(prompt.text).intersection(phrases.LOADED))
    if loaded and aim not in ("protect", "support", "learn") and rng.random() < 0.4:
        return draw(phrases.SENSE, rng).format(word=rng.choice(loaded))
    return draw(phrases.WHY[aim if rng.random() < 0.8 else "plain"], rng)


def _wants_care(prompt: Prompt, category: Category, rng: random.Random) -> bool:
    if category.id not in _SENSITIVE:
        return False
    helping = category.id == _CARING or {"protect", "support"} & set(_aims(prompt))
    return rng.random() < (0.5 if helping else 0.08)


def _shape(answer: str) -> str:
    for shape, pattern in _SHAPES:
        if pattern.search(answer):
            return shape
    return "brief" if len(answer.split()) <= _BRIEF else "full"
