"""Small run directories for tests of the report, written through the project's own RunDir and StageDir."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path

from judged import judged

from erpo_ray.config import Config
from erpo_ray.evaluate.metrics import evaluation
from erpo_ray.methods.base import Outcome
from erpo_ray.rundir import RunDir
from erpo_ray.types import Candidate, Evaluation, Group, LeftOut, Pair, Policy, Prompt, Verdict

TRACE = "<think>\nAssessment: Asks for it. {}.\nRules: fraud.1.\nPath: {}.\n</think>\n{}"


@dataclass(frozen=True)
class Reply:
    """A text and whether it is a refusal; `failure` is the raw text of a judge that failed."""

    text: str
    refused: bool = False
    tokens: int = 40
    failure: str = ""


Replies = Callable[[Prompt], Reply]


def plain(prompt: Prompt) -> Reply:
    """The base model: answers all."""
    return Reply("Here is how.", tokens=100)


def aligned(prompt: Prompt) -> Reply:
    """An aligned policy: refuses what is harmful."""
    if prompt.label == "harmful":
        return Reply(TRACE.format("Harmful", "Refuse", "I cannot help with that."), refused=True)
    return Reply(TRACE.format("Harmless", "Answer", "Here is how."))


def write(
    path: Path,
    prompts: Sequence[Prompt],
    stages: Mapping[str, Replies],
    *,
    name: str = "small",
    held: bool = True,
    pairs: Sequence[Pair] = (),
    left_out: Sequence[LeftOut] = (),
) -> Path:
    """A run of these stages (the first is `base`), all accepted. `held`: the prompts are in the run directory."""
    with RunDir.open(path, Config(name=name)) as run:
        for stage, replies in stages.items():
            with run.stage(stage) as s:
                if stage == "base" and held:
                    s.once("prompts.jsonl", Prompt, lambda: prompts)
                if stage != "base":
                    s.once("pairs.jsonl", Pair, lambda: pairs)
                    s.once("left_out.jsonl", LeftOut, lambda: left_out)
                candidates = s.ledger("evaluation_candidates.jsonl", Candidate)
                verdicts = s.ledger("evaluation_verdicts.jsonl", Verdict, after=candidates)
                groups = [_group(prompt, replies(prompt)) for prompt in prompts]
                for group in groups:
                    candidates.append(group.candidates[0])
                    verdicts.append(group.verdicts[0])
                found = evaluation(stage, f"version-{stage}", groups)
                s.value("evaluation.json", Evaluation, lambda found=found: found)
                outcome = Outcome(
                    stage, "prefer", True, "accepted", Policy(path, found.policy), found, found, {}, ()
                )  # fmt: skip
                s.value("outcome.json", Outcome, lambda outcome=outcome: outcome)
                s.seal({"accepted": True})
        run.status("done", stage=list(stages)[-1], phase="")
    return path


def _group(prompt: Prompt, reply: Reply) -> Group:
    candidate, verdict = judged(
        prompt, 0, reply.text, tokens=reply.tokens, refused=reply.refused, failure="timeout" if reply.failure else ""
    )
    if verdict.failure:
        verdict = replace(verdict, failure=replace(verdict.failure, raw=reply.failure))
    return Group(prompt, (1, 2), (candidate,), (verdict,))


class Page(HTMLParser):
    """What a browser would see of a page: elements with their attributes, and the words between them."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))
        self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        self.texts.setdefault(self._open[-1] if self._open else "", []).append(data)

    def handle_comment(self, data: str) -> None:
        self.elements.append(("!comment", {"data": data}))

    def text(self, *tags: str) -> str:
        """All words, or those directly inside these elements."""
        chosen = tags or tuple(tag for tag in self.texts if tag not in ("script", "style"))
        return " ".join(" ".join("".join(self.texts.get(tag, ())).split()) for tag in chosen)

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]
