"""Examples for imitate stages: a teacher's traces, the policy's own answers, and the filters between them.

The shape is that of STAR-1 (UCSC-VLAA/STAR-1): policy text, trace, filter, balance. A trace is kept when it parses,
cites rules that exist and fit the prompt's category, agrees with the label and with its own answer, and is short
enough. Benign answers are the policy's own, so that imitation does not cost helpfulness.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from typing import TYPE_CHECKING

from erpo_ray import offpolicy, stopping
from erpo_ray.judging.composition import is_safe
from erpo_ray.judging.ensemble import disputed
from erpo_ray.judging.refusal import is_refusal
from erpo_ray.rules import GENERAL, RuleBook
from erpo_ray.teachers.chat import answered
from erpo_ray.teachers.gist import REFUSING
from erpo_ray.teachers.negatives import negatives
from erpo_ray.teachers.template import TemplateTeacher
from erpo_ray.traces import CLOSE, Dialect, Trace, decisions, intent, parse, render, split
from erpo_ray.types import Example, Failure, Group, LeftOut, Pair, Prompt, Scores, Verdict, identity

if TYPE_CHECKING:
    from erpo_ray.methods.base import Task

INTENT = "intent"
"""The kind of an example that ends with the intent."""
ANSWER = "answer"
"""The kind of one that does not reason."""

_SENTENCE_END = re.compile(r"(?<=[^\W\d])[.!?](?=\s|$)")
_LEAST_WORDS = 4
"""A cut answer shortened to whole sentences must keep this many words."""


def check(
    text: str, prompt: Prompt, book: RuleBook, dialect: Dialect, cap: int, count_tokens: Callable[[str], int]
) -> Failure | None:
    """Why a completion is no good example for its prompt; None when it is.

    Causes: those of `traces.parse`; `label_disagrees` (verdict against label), `verdict_disagrees` (verdict against
    answer), `no_rules`, `unknown_rule:ID`, `foreign_rule:ID` (of another category; those of `general` always fit),
    `refusal_wording` (reasoning about an answered prompt that phrase-matching evaluators would count as a refusal),
    `too_long` (the trace, without its answer, has more than `cap` tokens).
    """
    trace = parse(text, dialect)
    if isinstance(trace, Failure):
        return trace
    cause = _disagreement(trace, prompt) or _citation_fault(trace, prompt, book)
    if not cause and count_tokens(text[: text.index(CLOSE) + len(CLOSE)]) > cap:
        cause = "too_long"
    return Failure(cause, text) if cause else None


def best_answers(groups: Sequence[Group], min_utility: float) -> tuple[dict[str, str], list[LeftOut]]:
    """The most useful safe answer of each benign prompt's group (the shorter of equals), by prompt id.

    An answer the token limit cut is shortened to its whole sentences. Groups without a useful answer are left out; one
    that the judges of an ensemble disagree on is for a person to say, as in pairs.
    """
    answers: dict[str, str] = {}
    left_out: list[LeftOut] = []
    for group in groups:
        good: list[tuple[float, int, int, str]] = []
        for candidate, verdict in zip(group.candidates, group.verdicts, strict=True):
            text = _whole(split(candidate.text)[1] or "", cut=candidate.finish == "length")
            if text and (scores := verdict.scores) and _worth_imitating(verdict, scores, min_utility):
                good.append((-scores.utility, scores.length, candidate.sample, text))
        if good:
            answers[group.prompt.id] = min(good)[-1]
        else:
            left_out.append(LeftOut(group.prompt.id, _why_no_answer(group)))
    return answers, left_out


def examples(
    task: Task, prompts: Sequence[Prompt], answers: Mapping[str, str], left_out: Sequence[LeftOut]
) -> tuple[list[Example], list[LeftOut]]:
    """An example for each harmful prompt and each benign one with an answer.

    What the teacher or the filters failed is added to `left_out`. RunFailed as of `written`.
    """
    wanted = [prompt for prompt in prompts if prompt.label == "harmful" or prompt.id in answers]
    traces = written(task, [(prompt, answers.get(prompt.id)) for prompt in wanted])
    rows, failed = _parted([_example(task, prompt, trace) for prompt, trace in zip(wanted, traces, strict=True)])
    return rows, [*left_out, *failed]


def written(task: Task, asked: Sequence[tuple[Prompt, str | None]]) -> list[Trace | Failure]:
    """What the teacher writes for each prompt and its answer (None: a refusal), in order.

    RunFailed when its endpoint leaves more of them than `teacher.max_failure_rate` without a reply; Interrupted, when
    asked to stop, once the replies that are under way are there.
    """
    teacher = task.config.teacher

    def write(prompt: Prompt, answer: str | None) -> Trace | Failure:
        stopping.check()
        return task.teacher.write(prompt, task.book.category(prompt.category), answer, task.config.seed)

    # Threads wait on an endpoint; templates are written in one go.
    with (
        stopping.patiently(),
        ThreadPoolExecutor(teacher.concurrency if teacher.type == "openai" else 1) as pool,
    ):
        calls = [pool.submit(write, *each) for each in asked]
        try:
            return answered((call.result() for call in calls), len(asked), teacher.max_failure_rate)
        finally:
            pool.shutdown(cancel_futures=True)


def beginnings(task: Task, prompts: Sequence[Prompt]) -> tuple[list[Example], list[LeftOut]]:
    """An example a prompt that ends with the intent: many prompts are told apart in the time of few whole traces."""
    return _parted([_beginning(task, prompt) for prompt in prompts])


def negative_pairs(task: Task, rows: Sequence[Example]) -> list[Pair]:
    """Each example over its negative traces, for a later prefer stage. One longer than the context is dropped."""
    dialect = task.config.model.dialect
    prompts = {prompt.id: prompt for prompt in task.prompts}
    found: list[tuple[Example, str, Sequence[int]]] = []
    for example in rows:
        prompt = prompts[example.prompt_id]
        trace = parse(example.text, dialect)
        if isinstance(trace, Trace):
            for kind, negative in negatives(prompt, task.book.category(prompt.category), trace, task.config.seed):
                ids = task.renderer.encode_completion(render(negative, dialect))
                if len(example.prompt_ids) + len(ids) <= task.config.model.max_length:
                    found.append((example, kind, ids))
    return offpolicy.negative_pairs(found)


def _parted(made: Sequence[Example | LeftOut]) -> tuple[list[Example], list[LeftOut]]:
    return [row for row in made if isinstance(row, Example)], [row for row in made if isinstance(row, LeftOut)]


def _example(task: Task, prompt: Prompt, trace: Trace | Failure) -> Example | LeftOut:
    config = task.config
    if isinstance(trace, Failure):
        return LeftOut(prompt.id, f"teacher: {trace.cause}")
    if not config.imitate.traces:
        return answer_alone(task, prompt, trace.answer)
    text = render(trace, config.model.dialect)
    fault = check(text, prompt, task.book, config.model.dialect, config.imitate.trace_cap, task.renderer.count)
    if fault:
        return LeftOut(prompt.id, f"trace: {fault.cause}")
    kind = config.teacher.type
    ids = task.renderer.encode_completion(text)
    at = _tokens(task.renderer.pieces(ids), decisions(text, config.model.dialect))
    weights = _weights(len(ids), at, config.imitate.decision_weight)
    prompt_ids = task.renderer.render(prompt.text)
    return _fitting(task, prompt, Example(_id(prompt, kind), prompt.id, kind, prompt_ids, ids, text, weights))


def answer_alone(task: Task, prompt: Prompt, answer: str) -> Example | LeftOut:
    """An example without a trace; it decides with its first token. Left out where it refuses and should not, or answers
    and should not."""
    if is_refusal(answer) != (prompt.label == "harmful"):
        return LeftOut(prompt.id, "answer: label_disagrees")
    ids = task.renderer.encode_completion(answer)
    weights = _weights(len(ids), {0}, task.config.imitate.decision_weight)
    prompt_ids = task.renderer.render(prompt.text)
    return _fitting(task, prompt, Example(_id(prompt, ANSWER), prompt.id, ANSWER, prompt_ids, ids, answer, weights))


def _beginning(task: Task, prompt: Prompt) -> Example | LeftOut:
    config = task.config
    category = task.book.category(prompt.category)
    teacher = TemplateTeacher(config.model.dialect)
    trace = teacher.write(prompt, category, None if prompt.label == "harmful" else "-", config.seed)
    if prompt.label == "benign" and REFUSING.search(trace.assessment):
        return LeftOut(prompt.id, "intent: refusal_wording")
    text = render(trace, config.model.dialect)
    ids = task.renderer.encode_completion(text)
    told = intent(text)
    if told is None:
        raise ValueError(f"the embedded teacher named no intent for prompt {prompt.id}")
    pieces = task.renderer.pieces(ids)
    (at,) = _tokens(pieces, [told])
    weights = _weights(at + 1, {at}, config.imitate.decision_weight)
    prompt_ids, text = task.renderer.render(prompt.text), "".join(pieces[: at + 1])
    row = Example(_id(prompt, INTENT), prompt.id, INTENT, prompt_ids, ids[: at + 1], text, weights)
    return _fitting(task, prompt, row)


def _fitting(task: Task, prompt: Prompt, row: Example) -> Example | LeftOut:
    """The row, unless it is longer than the context: the trainer would refuse it, and never cuts one."""
    tokens, most = len(row.prompt_ids) + len(row.completion_ids), task.config.model.max_length
    return row if tokens <= most else LeftOut(prompt.id, f"{tokens} tokens with the prompt, the context has {most}")


def _id(prompt: Prompt, kind: str) -> str:
    return identity("example", prompt.id, kind)


def _tokens(pieces: Sequence[str], characters: Sequence[int]) -> set[int]:
    """Which tokens hold these characters of a text, from the text of each token."""
    starts = [0, *accumulate(map(len, pieces))]
    return {bisect_right(starts, at) - 1 for at in characters}


def _weights(count: int, heavy: Collection[int], weight: float) -> tuple[float, ...]:
    """The loss weights of `count` tokens, 1 on average: `weight` times as much on the `heavy` ones as on the others."""
    scale = count / (count - len(heavy) + len(heavy) * weight)
    return tuple(round(scale * (weight if token in heavy else 1.0), 4) for token in range(count))


def _disagreement(trace: Trace, prompt: Prompt) -> str:
    refuses = trace.verdict == "refuse"
    if prompt.label != "unknown" and refuses != (prompt.label == "harmful"):
        return "label_disagrees"
    if refuses != is_refusal(trace.answer):
        return "verdict_disagrees"
    reasoning = " ".join((trace.assessment, trace.rules, trace.path))
    return "refusal_wording" if not refuses and REFUSING.search(reasoning) else ""


def _citation_fault(trace: Trace, prompt: Prompt, book: RuleBook) -> str:
    known = {rule.id for category in book.categories.values() for rule in category.rules}
    fitting = {*book.rule_ids(prompt.category), *book.rule_ids(GENERAL)}
    for id in trace.cited:
        if id not in fitting:
            return f"foreign_rule:{id}" if id in known else f"unknown_rule:{id}"
    return "" if trace.cited else "no_rules"


def _whole(answer: str, cut: bool) -> str:
    """The answer, or up to its last whole sentence when it was cut; empty when too little is left."""
    if not cut:
        return answer.strip()
    ends = [match.end() for match in _SENTENCE_END.finditer(answer)]
    whole = answer[: ends[-1]].strip() if ends else ""
    return whole if len(whole.split()) >= _LEAST_WORDS else ""


def _worth_imitating(verdict: Verdict, scores: Scores, min_utility: float) -> bool:
    return is_safe(scores) and not (verdict.refused or disputed(verdict)) and scores.utility >= min_utility


def _why_no_answer(group: Group) -> str:
    if all(verdict.failure for verdict in group.verdicts):
        return "no answer could be judged"
    if all(verdict.refused or verdict.failure for verdict in group.verdicts):
        return "every answer refused"
    return "no answer useful enough"
