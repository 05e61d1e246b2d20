"""What every judge reads of a candidate before it scores: is it whole, what is the answer, is the trace well formed.

A candidate without any `<think>` is read as all answer, so that a model that never reasons can be judged too.
`well_formed` is about the trace: it parses, its verdict agrees with the answer and with the intent it names, it cites
rules and they exist. To refuse what it calls harmless is right by luck; preferred, it teaches to refuse. A rule of
another category is noted (`foreign_rule:ID`) and no fault of form: requests touch several categories, and the label is
one guess at them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from erpo_ray import traces
from erpo_ray.judging import UNFINISHED
from erpo_ray.judging.quality import lone_surrogate
from erpo_ray.judging.refusal import is_refusal
from erpo_ray.judging.unreadable import asked_for, unreadable
from erpo_ray.rules import GENERAL, RuleBook
from erpo_ray.types import Candidate, Failure, Prompt

_MISQUOTES = {"no_rules", "unknown_rule"}
_DISAGREES, _CONTRADICTS = "verdict_disagrees", "intent_disagrees"
_BROKEN = {UNFINISHED, _DISAGREES, _CONTRADICTS, *(cause.partition(":")[0] for cause in traces.CAUSES)}

CAUSES = ("wrong_prompt", "empty_tokens", "bad_token_ids", "bad_finish", "lone_surrogate")
"""Every cause of a Failure from `read`."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What was read of one candidate before any score: `answer` is empty when there is none, and so is `thought`, what
    the trace says of request and rules.

    `unreadable` is why an answer is no plain English, empty when it is, or when that was asked for.
    """

    prompt: Prompt
    candidate: Candidate
    answer: str
    thought: str
    refused: bool
    well_formed: bool
    unreadable: str
    notes: tuple[str, ...]


class Reader:
    """Reads candidates by a rule book and a dialect."""

    def __init__(self, book: RuleBook, dialect: traces.Dialect) -> None:
        self._book = book
        self._dialect: traces.Dialect = dialect
        self._rules = {rule.id for category in book.categories.values() for rule in category.rules}

    def read(self, prompt: Prompt, candidate: Candidate) -> Reading | Failure:
        """The reading, or why these two cannot be judged at all (`CAUSES`)."""
        if cause := _malformed(prompt, candidate):
            return Failure(cause, ascii(candidate.text))
        answer = traces.answer(candidate.text)
        refused = is_refusal(answer)
        trace = traces.parse(candidate.text, self._dialect)
        faults, remarks = self._read_trace(prompt, trace, refused) if answer else ([UNFINISHED], [])
        kind = unreadable(answer)
        if kind and prompt.label == "benign" and asked_for(prompt.text):
            kind = ""
        remarks += [f"unreadable:{kind}"] if kind else []
        thought = "" if isinstance(trace, Failure) else f"{trace.assessment}\n{trace.rules}"
        return Reading(prompt, candidate, answer, thought, refused, not faults, kind, (*faults, *remarks))

    def unknown(self, cited: tuple[str, ...]) -> list[str]:
        """Those of the cited rule ids that the book does not have."""
        return [id for id in cited if id not in self._rules]

    def _read_trace(self, prompt: Prompt, trace: traces.Trace | Failure, refused: bool) -> tuple[list[str], list[str]]:
        """What is wrong with the trace (nothing when it is well formed), and what else is to be said of it."""
        if isinstance(trace, Failure):
            return [trace.cause], []
        faults = [] if (trace.verdict == "refuse") == refused else [_DISAGREES]
        faults += [_CONTRADICTS] if traces.contradicts_itself(trace) else []
        fitting = {*self._book.rule_ids(prompt.category), *self._book.rule_ids(GENERAL)}
        if not prompt.category:
            fitting = self._rules
        faults += [f"unknown_rule:{id}" for id in self.unknown(trace.cited)]
        if not trace.cited:
            faults.append("no_rules")
        return faults, [f"foreign_rule:{id}" for id in trace.cited if id in self._rules - fitting]


def misquotes(notes: Iterable[str]) -> bool:
    """Whether a trace has no fault, by the notes on it, but that the rules it cites are none or do not exist.

    The notes of an ensemble have the names of its members in front.
    """
    told = {part for note in notes for part in note.split(":")}
    return bool(told & _MISQUOTES) and not told & _BROKEN


def _malformed(prompt: Prompt, candidate: Candidate) -> str:
    """Why these two cannot be judged at all; empty when they can."""
    if candidate.prompt_id != prompt.id:
        return "wrong_prompt"
    if not candidate.token_ids:
        return "empty_tokens"
    if min(candidate.token_ids) < 0:
        return "bad_token_ids"
    if candidate.finish not in ("stop", "length"):
        return "bad_finish"
    return "lone_surrogate" if lone_surrogate(candidate.text) or lone_surrogate(prompt.text) else ""
