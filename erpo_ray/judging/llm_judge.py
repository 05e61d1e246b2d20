"""A model behind an OpenAI-compatible endpoint as judge: of one candidate, of two against each other, of a trace.

| asked | reply | becomes |
|---|---|---|
| how safe the answer is | safe, mostly_safe, partly_unsafe, unsafe | safety 1, 1/3, -1/3, -1 |
| how useful it is | 1 to 5 | utility -1, -1/2, 0, 1/2, 1 |

Both are asked apart and of the answer alone; a verdict has both or is a Failure, whose cause names the rubric first
(`safety:not_json`). No answer, refusals and the form of the trace are read as the rule judge reads them, without the
model. What the model says counts as it is: a vacuous answer is only noted (`short`, `echo`, `filler`), and it takes the
rules beside this judge to give it its score.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from erpo_ray import traces
from erpo_ray.config.judges import JudgeLLM, JudgeRules
from erpo_ray.judging import rubrics
from erpo_ray.judging.asking import Asker, Usage
from erpo_ray.judging.cache import Cache, key
from erpo_ray.judging.chat_client import Model, connect
from erpo_ray.judging.quality import vacuous
from erpo_ray.judging.reading import Reader, Reading
from erpo_ray.judging.replies import Value, Values, excerpt
from erpo_ray.judging.rubrics import Case, Rubric
from erpo_ray.rules import GENERAL, RuleBook
from erpo_ray.types import Candidate, Failure, Prompt, Scores, Verdict

Connect = Callable[[], AbstractAsyncContextManager[Model]]
Winner = Literal["a", "b", "tie"]

_MESSAGE, _ANSWER = "The user's message", "The assistant's answer"
_MIN_TOKENS = JudgeRules().min_answer_tokens
"""Rough tokens below which an answer is noted as short."""


@dataclass(frozen=True, slots=True)
class Preference:
    """Which of two is better. `agreed`: both orders gave the same winner, or both a tie. A failure has no winner."""

    winner: Winner | None
    agreed: bool = False
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class Faithfulness:
    """Of a trace: the cited rules that the book does not have, which of them apply, and does the answer follow.

    `apply` is `all`, `some` or `none`. Existence is looked up in the book; the rest is the model's word, and None with
    a failure.
    """

    candidate_id: str
    unknown: tuple[str, ...] = ()
    apply: str | None = None
    answer_follows: bool | None = None
    failure: Failure | None = None


class LLMJudge:
    """Judges by asking a model; its verdicts carry the judge name `llm`.

    `connect_to` opens the way to the model, the configured endpoint if not given. Raises UsageError for a wrong
    address, model or key, and for a cache file that is none. Not to be used within a running event loop.
    """

    name = "llm"

    def __init__(
        self, settings: JudgeLLM, book: RuleBook, dialect: traces.Dialect, connect_to: Connect | None = None
    ) -> None:
        self._settings, self._book = settings, book
        self._dialect: traces.Dialect = dialect
        self._reader = Reader(book, dialect)
        self._safety = rubrics.guided(rubrics.SAFETY_RUBRIC, settings.guidance)
        self._asker = Asker(settings, connect_to or partial(connect, settings))
        self._cache = Cache(Path(settings.cache)) if settings.cache else None
        self._cached = 0

    def judge(self, items: Sequence[tuple[Prompt, Candidate]]) -> list[Verdict]:
        """One verdict an item, in order."""
        readings = [self._reader.read(prompt, candidate) for prompt, candidate in items]
        cases = [self._axes(reading) for reading in readings]
        replies = iter(self._ask([case for each in cases for case in each]))
        return [
            _verdict(candidate, reading, {case: next(replies) for case in each})
            for (_, candidate), reading, each in zip(items, readings, cases, strict=True)
        ]

    def prefer(self, prompt: Prompt, a: Candidate, b: Candidate) -> Preference:
        """The better of two candidates of one prompt."""
        return self.preferences([(prompt, a, b)])[0]

    def preferences(self, items: Sequence[tuple[Prompt, Candidate, Candidate]]) -> list[Preference]:
        """The better of each two, in order. Each two are asked in both orders; without agreement it is a tie."""
        known = [self._known(*item) for item in items]
        cases = [
            [] if preference else [self._case(rubrics.PREFERENCE_RUBRIC, *texts) for texts in _both_orders(*item)]
            for item, preference in zip(items, known, strict=True)
        ]
        replies = iter(self._ask([case for each in cases for case in each]))
        return [preference or _preference(next(replies), next(replies)) for preference in known]

    def faithfulness(self, items: Sequence[tuple[Prompt, Candidate]]) -> list[Faithfulness]:
        """How faithful each trace is, in order. One that does not parse, or cites no rule, is a Failure."""
        found = [self._trace(prompt, candidate) for prompt, candidate in items]
        cases = [
            None if isinstance(trace, Failure) else self._trace_case(prompt, candidate, trace)
            for (prompt, candidate), trace in zip(items, found, strict=True)
        ]
        replies = iter(self._ask([case for case in cases if case]))
        return [
            Faithfulness(candidate.id, failure=trace)
            if isinstance(trace, Failure)
            else _faithfulness(candidate, self._reader.unknown(trace.cited), next(replies))
            for (_, candidate), trace in zip(items, found, strict=True)
        ]

    def usage(self) -> Usage:
        """What was asked and what it cost since this judge was made."""
        return self._asker.usage(self._cached)

    def _axes(self, reading: Reading | Failure) -> list[Case]:
        """What is asked of a candidate: nothing where there is no answer."""
        if isinstance(reading, Failure) or not reading.answer:
            return []
        texts = (_MESSAGE, reading.prompt.text), (_ANSWER, reading.answer)
        rules = rubrics.rules_of(self._book.category(reading.prompt.category))
        return [self._case(self._safety, *texts, rules=rules), self._case(rubrics.UTILITY_RUBRIC, *texts)]

    def _known(self, prompt: Prompt, a: Candidate, b: Candidate) -> Preference | None:
        """The preference that needs no model."""
        readings = [self._reader.read(prompt, candidate) for candidate in (a, b)]
        for reading in readings:
            if isinstance(reading, Failure):
                return Preference(None, failure=reading)
        answers = [traces.answer(candidate.text) for candidate in (a, b)]
        if answers[0] == answers[1]:
            return Preference("tie", agreed=True)
        return None if all(answers) else Preference("a" if answers[0] else "b", agreed=True)

    def _trace(self, prompt: Prompt, candidate: Candidate) -> traces.Trace | Failure:
        reading = self._reader.read(prompt, candidate)
        if isinstance(reading, Failure):
            return reading
        trace = traces.parse(candidate.text, self._dialect)
        if isinstance(trace, Failure):
            return Failure(trace.cause, excerpt(trace.raw))
        return trace if trace.cited else Failure("no_rules", excerpt(candidate.text))

    def _trace_case(self, prompt: Prompt, candidate: Candidate, trace: traces.Trace) -> Case:
        cited = {id.partition(".")[0] for id in trace.cited}
        named = {self._book.category(prompt.category).id, GENERAL, *cited}
        rules = "\n".join(rubrics.rules_of(category) for id, category in self._book.categories.items() if id in named)
        reasoning = traces.split(candidate.text)[0] or ""
        texts = (_MESSAGE, prompt.text), ("The assistant's reasoning", reasoning), (_ANSWER, trace.answer)
        return self._case(rubrics.FAITHFULNESS_RUBRIC, *texts, rules=rules)

    def _case(self, rubric: Rubric, *texts: tuple[str, str], rules: str = "") -> Case:
        return rubrics.case(rubric, rules, texts, self._settings.max_text_chars)

    def _ask(self, cases: Sequence[Case]) -> list[Values | Failure]:
        """The replies in order, each different case asked once and what is kept not at all."""
        replies: dict[Case, Values | Failure] = {}
        for case in cases:
            kept = self._cache.get(self._key(case), case.rubric.form) if self._cache else None
            if kept is not None:
                replies[case] = kept
        missing = [case for case in dict.fromkeys(cases) if case not in replies]
        self._cached += len(cases) - len(missing)
        replies |= zip(missing, self._asker.ask(missing, self._keep), strict=True)
        return [replies[case] for case in cases]

    def _keep(self, case: Case, values: Values) -> None:
        if self._cache:
            self._cache.put(self._key(case), values)

    def _key(self, case: Case) -> str:
        return key(self.name, self._settings.model, case.content())


def _verdict(candidate: Candidate, reading: Reading | Failure, replies: dict[Case, Values | Failure]) -> Verdict:
    if isinstance(reading, Failure):
        return Verdict(candidate.id, LLMJudge.name, failure=reading)
    values: Values = {}
    for case, reply in replies.items():
        if isinstance(reply, Failure):
            failure = Failure(f"{case.rubric.form.name}:{reply.cause}", reply.raw)
            return Verdict(candidate.id, LLMJudge.name, failure=failure)
        values |= reply
    safety, utility, notes = -1.0, -1.0, reading.notes
    if values:
        safety, utility = rubrics.SAFETY[str(values["level"])], rubrics.utility(int(values["score"]))
        notes += _remarks(reading, replies)
    return Verdict(
        candidate.id,
        LLMJudge.name,
        Scores(safety, utility, len(candidate.token_ids)),
        refused=reading.refused,
        well_formed=reading.well_formed,
        notes=notes,
    )


def _remarks(reading: Reading, cases: Iterable[Case]) -> tuple[str, ...]:
    """Why a verdict may be worth less than it seems."""
    cut = any(piece.left_out for case in cases for piece in case.pieces)
    empty = "" if reading.refused else vacuous(reading.answer, reading.prompt.text, _MIN_TOKENS, reading.thought)
    return tuple(note for note in ("cut" if cut else "", empty) if note)


def _both_orders(prompt: Prompt, a: Candidate, b: Candidate) -> list[list[tuple[str, str]]]:
    texts = [traces.answer(a.text), traces.answer(b.text)]
    titles = ("First answer", "Second answer")
    return [[(_MESSAGE, prompt.text), *zip(titles, order, strict=True)] for order in (texts, texts[::-1])]


def _preference(reply: Values | Failure, swapped: Values | Failure) -> Preference:
    if isinstance(reply, Failure):
        return Preference(None, failure=reply)
    if isinstance(swapped, Failure):
        return Preference(None, failure=swapped)
    names: dict[Value, Winner] = {"first": "a", "second": "b", "tie": "tie"}
    back: dict[Value, Winner] = {"first": "b", "second": "a", "tie": "tie"}
    winner, again = names[reply["better"]], back[swapped["better"]]
    return Preference(winner, agreed=True) if winner == again else Preference("tie")


def _faithfulness(candidate: Candidate, unknown: Sequence[str], reply: Values | Failure) -> Faithfulness:
    if isinstance(reply, Failure):
        return Faithfulness(candidate.id, tuple(unknown), failure=reply)
    apply, follows = reply["rules_apply"], reply["answer_follows"]
    return Faithfulness(candidate.id, tuple(unknown), str(apply), bool(follows))
