"""Traces: the reasoning before the answer, in three sections, and the dialects it is written in.

A completion is `<think>`, the sections, `</think>`, the answer. The sections follow SAFER (arXiv 2504.02725 v2):
initial assessment, rule verification, path calibration. The tags are this project's own; the paper's are not known. The
whole trace stands inside one `<think>` block, so that standard reasoning parsers split it.

In the dialect `pivots`, after R2D (arXiv 2502.12970), a section ends with a pivot, which belongs to its text: whether
going along with the request is safe as far as that step sees, or has to be thought over. A pivot is a token of its own.

`render` and `parse` are inverse to each other; `parse` is strict, `split` is lenient. All are linear in the length.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

from erpo_ray.types import Failure, Verdict3

Dialect = Literal["lines", "tags", "pivots"]
Found = list[tuple[str, str]]

SECTIONS = ("assessment", "rules", "path")
THINK, CLOSE = "<think>", "</think>"
LABELS = {"assessment": "Assessment:", "rules": "Rules:", "path": "Path:"}
TAGS = {"assessment": "initial_assessment", "rules": "rule_verification", "path": "path_calibration"}
PIVOTS = SAFE, UNSAFE, RETHINK = "[SAFE]", "[UNSAFE]", "[RETHINK]"
WORDS: dict[Verdict3, str] = {"refuse": "Refuse", "safe": "Answer safely", "answer": "Answer"}
"""How a path begins for each verdict."""

CAUSES = (
    "no_think",
    "text_before_think",
    "unclosed_think",
    "nested_think",
    "missing_section:assessment",
    "missing_section:rules",
    "missing_section:path",
    "section_order",
    "stray_text",
    "no_verdict",
    "no_pivot:assessment",
    "no_pivot:rules",
    "no_pivot:path",
    "empty_answer",
)
"""Every cause of a Failure from `parse`. `section_order`: a section out of order, twice or inside another;
`stray_text`: words in the think block outside the sections; `no_verdict`: the path does not begin with a verdict;
`no_pivot`, of the dialect `pivots`: a section that does not end with one, or has another before."""

_LABELLED = re.compile(r"(Assessment|Rules|Path):")
_BY_LABEL = {label: name for name, label in LABELS.items()}
_TAGGED = re.compile(r"<(/?)(" + "|".join(TAGS.values()) + r")>")
_BY_TAG = {tag: name for name, tag in TAGS.items()}
_VERDICT = re.compile(r"(?P<refuse>Refuse)\b|(?P<safe>Answer safely)\b|(?P<answer>Answer)\b")
_INTENT = re.compile(r"\bHarm(?:ful|less)\b")
_RULE_ID = re.compile(r"(?<![\w.])[a-z][a-z_]*\.[1-9][0-9]{0,3}(?![\w])")


@dataclass(frozen=True, slots=True)
class Trace:
    """A trace and its answer. `verdict` is what `path` begins with; `cited` are the rule ids in `rules`, each once."""

    assessment: str
    rules: str
    path: str
    answer: str
    verdict: Verdict3
    cited: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """The tokens `start` to `end` (exclusive) of a completion that write one section, or its answer."""

    name: str
    start: int
    end: int


def compose(assessment: str, rules: str, path: str, answer: str) -> Trace:
    """A trace from its texts: sections on one line each, verdict and cited rules read from them.

    Raises ValueError when the path does not begin with a verdict of `WORDS`.
    """
    assessment, rules, path = (" ".join(section.split()) for section in (assessment, rules, path))
    verdict = _verdict(path)
    if verdict is None:
        raise ValueError(f"a path begins with one of {', '.join(WORDS.values())}; found {path[:60]!r}")
    return Trace(assessment, rules, path, answer.strip(), verdict, cited(rules))


def vocabulary(dialect: Dialect) -> tuple[str, ...]:
    """Tokens that a model must have to write the dialect."""
    return PIVOTS if dialect == "pivots" else ()


def pivot(section: str) -> str | None:
    """The pivot that a section ends with; None without one, or where another stands before it."""
    found = next((each for each in PIVOTS if section.endswith(each)), None)
    return found if found and sum(section.count(each) for each in PIVOTS) == 1 else None


def intent(text: str) -> int | None:
    """Where in a completion the intent is told: the last character of the first `Harmful` or `Harmless` in its trace.

    None when the trace names it in other words.
    """
    match = _INTENT.search(text.partition(CLOSE)[0])
    return match.end() - 1 if match else None


def decisions(text: str, dialect: Dialect) -> list[int]:
    """Where a completion decides, as far as it goes: in its intent, its verdict and the first word of its answer.

    Each is one character of it.
    """
    told, starts = intent(text), dict(_starts(text, dialect))
    found = [] if told is None else [told]
    if "path" in starts:
        verdict = _VERDICT.search(text, starts["path"])
        found += [verdict.start()] if verdict else []
    return [*found, starts["answer"]] if "answer" in starts else found


def contradicts_itself(trace: Trace) -> bool:
    """Whether it refuses what it calls harmless, or answers what it calls harmful; not where it uses other words."""
    match = _INTENT.search(trace.assessment)
    return match is not None and trace.verdict == ("refuse" if match[0] == "Harmless" else "answer")


def cited(rules: str) -> tuple[str, ...]:
    """The rule ids (`fraud.2`) named in a text, in order, each once."""
    return tuple(dict.fromkeys(_RULE_ID.findall(rules)))


def render(trace: Trace, dialect: Dialect) -> str:
    """The completion text of a trace.

    It parses back to the same trace if `compose` made that of texts that are neither empty nor hold tags of their own,
    for the dialect `pivots` of texts that end with one.
    """
    texts = [(name, getattr(trace, name)) for name in SECTIONS]
    if dialect == "tags":
        body = [f"<{TAGS[name]}>{text}</{TAGS[name]}>" for name, text in texts]
    else:
        body = [f"{LABELS[name]} {text}" for name, text in texts]
    return "\n".join((THINK, *body, CLOSE, trace.answer))


def parse(text: str, dialect: Dialect) -> Trace | Failure:
    """Strict inverse of `render`; white space around the parts is free. Anything else gives a Failure (`CAUSES`)."""
    before, think, rest = text.partition(THINK)
    if not think:
        return Failure("no_think", text)
    if before.strip():
        return Failure("text_before_think", text)
    body, close, answer = rest.partition(CLOSE)
    if not close:
        return Failure("unclosed_think", text)
    if THINK in rest or CLOSE in answer:
        return Failure("nested_think", text)
    found = _sections(body, dialect)
    if isinstance(found, str):
        return Failure(found, text)
    sections = dict(found)
    verdict = _verdict(sections["path"])
    if verdict is None:
        return Failure("no_verdict", text)
    if dialect == "pivots" and (lacking := next((name for name in SECTIONS if not pivot(sections[name])), None)):
        return Failure(f"no_pivot:{lacking}", text)
    if not answer.strip():
        return Failure("empty_answer", text)
    return Trace(**sections, answer=answer.strip(), verdict=verdict, cited=cited(sections["rules"]))


def split(text: str) -> tuple[str | None, str | None]:
    """Reasoning and answer of any completion, well formed or not.

    No think block: (None, text). Unclosed: (reasoning, None), for nothing was answered. Otherwise the reasoning ends
    at the first `</think>`, and words in front of `<think>` count as answer, since a reader sees them. A missing
    opening tag is forgiven.
    """
    head, close, tail = text.partition(CLOSE)
    before, think, inside = head.partition(THINK)
    if not close:
        return (inside.strip(), None) if think else (None, text)
    if not think:
        return before.strip(), tail.strip()
    return inside.strip(), "\n".join(part for part in (before.strip(), tail.strip()) if part)


def answer(text: str) -> str:
    """The answer of any completion, well formed or not; empty when there is none (see `split`)."""
    return (split(text)[1] or "").strip()


def steps(pieces: Sequence[str], dialect: Dialect) -> tuple[Step, ...]:
    """Token spans of the sections and the answer (named `answer`), from the text that each token adds.

    The spans follow each other without gaps: the first begins at token 0, and a token across a border belongs to the
    step it begins in. As far as the text goes: a completion that stops, or departs from the dialect, after the rules
    gives two steps; one that does not open with `<think>` and the first section gives none.
    """
    text = "".join(pieces)
    starts = _starts(text, dialect)
    offsets = [0, *accumulate(map(len, pieces))][: len(pieces)]
    first = [0, *(bisect_left(offsets, start) for _, start in starts[1:])]
    ends = [*first[1:], len(pieces)]
    return tuple(
        Step(name, start, end) for (name, _), start, end in zip(starts, first, ends, strict=False) if end > start
    )


def _verdict(path: str) -> Verdict3 | None:
    match = _VERDICT.match(path)
    return match.lastgroup if match else None  # pyright: ignore[reportReturnType]  the groups are named after the verdicts


def _sections(body: str, dialect: Dialect) -> Found | str:
    """The three sections in order, or the cause why they are not."""
    read = _tagged(body) if dialect == "tags" else _labelled(body)
    if isinstance(read, str):
        return read
    found, outside = read
    texts = dict(found)
    for name in SECTIONS:
        if not texts.get(name):
            return f"missing_section:{name}"
    if [name for name, _ in found] != list(SECTIONS):
        return "section_order"
    return "stray_text" if outside.strip() else found


def _labelled(body: str) -> tuple[Found, str]:
    """Sections that begin at a line with a label, and what stands before the first."""
    outside: list[str] = []
    found: list[tuple[str, list[str]]] = []
    for line in body.split("\n"):
        if match := _LABELLED.match(line):
            found.append((_BY_LABEL[match[0]], [line[match.end() :]]))
        elif found:
            found[-1][1].append(line)
        else:
            outside.append(line)
    return [(name, "\n".join(lines).strip()) for name, lines in found], "\n".join(outside)


def _tagged(body: str) -> tuple[Found, str] | str:
    """Sections between tags, and what stands outside them; or the cause why the tags do not pair up."""
    outside: list[str] = []
    found: Found = []
    open_tag, position = "", 0
    for match in _TAGGED.finditer(body):
        if bool(match[1]) != bool(open_tag) or (open_tag and match[2] != open_tag):
            return "section_order"
        text = body[position : match.start()]
        if open_tag:
            found.append((_BY_TAG[open_tag], text.strip()))
        else:
            outside.append(text)
        open_tag, position = ("" if open_tag else match[2]), match.end()
    if open_tag:
        return f"missing_section:{_BY_TAG[open_tag]}"
    return found, "".join((*outside, body[position:]))


def _starts(text: str, dialect: Dialect) -> list[tuple[str, int]]:
    """Where each section that is there in order begins, in characters; the answer too when all three are closed."""
    opening = re.match(r"\s*<think>\s*", text)
    if not opening:
        return []
    close = text.find(CLOSE, opening.end())
    end = len(text) if close < 0 else close
    starts: list[tuple[str, int]] = []
    position = opening.end()
    for name in SECTIONS:
        mark = f"<{TAGS[name]}>" if dialect == "tags" else LABELS[name]
        if not starts:
            at = position if text.startswith(mark, position) else -1
        elif dialect != "tags":
            at = text.find("\n" + mark, position, end) + 1 or -1
        else:
            at = text.find(mark, position, end)
        if at < 0 or at >= end:
            return starts
        starts.append((name, at))
        position = at + len(mark)
    if close >= 0:
        tail = close + len(CLOSE)
        starts.append(("answer", tail + len(text[tail:]) - len(text[tail:].lstrip())))
    return starts
