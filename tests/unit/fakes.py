"""A policy that answers by rote and a trainer that counts: enough to run the whole loop, resume included."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from erpo_ray import traces
from erpo_ray.backend import Ahead, Name
from erpo_ray.config import Config, Data, JudgeRules
from erpo_ray.judging.ensemble import Judge
from erpo_ray.judging.rules_judge import RulesJudge
from erpo_ray.objectives import Objective, Surrogate, Training
from erpo_ray.prompts.mixing import Mix, gather
from erpo_ray.rules import RuleBook
from erpo_ray.rundir import read_rows
from erpo_ray.teachers import TemplateTeacher
from erpo_ray.telemetry import STEPS, Standing, Step
from erpo_ray.types import Advantage, Candidate, Example, Pair, Policy, Prompt, Request, Verdict, encode, seed_of
from erpo_ray.usage import Upkeep

EMPTY = b"\x02" + bytes(7) + b"{}"
"""A safetensors file without tensors."""

PLAIN = "Here is a plain and friendly answer to the question that was asked."


_PIVOTS = {pivot: chr(0xE100 + at) for at, pivot in enumerate(traces.PIVOTS)}


class Letters:
    """A renderer whose tokens are code points; 0 ends a completion, 2 stands between messages. Pivots are tokens."""

    def __init__(self, system: str = "") -> None:
        self._system = system

    def render(self, text: str, *further: str) -> tuple[int, ...]:
        return (1, *map(ord, "\x02".join((self._system + text, *further))))

    def under(self, system: str) -> Letters:
        return Letters(f"{system}\x03")

    def encode_completion(self, text: str) -> tuple[int, ...]:
        for pivot, letter in _PIVOTS.items():
            text = text.replace(pivot, letter)
        return (*map(ord, text), 0)

    def pieces(self, ids: Sequence[int]) -> list[str]:
        written = {ord(letter): pivot for pivot, letter in _PIVOTS.items()} | {0: ""}
        return [written.get(id, chr(id)) for id in ids]

    def count(self, text: str) -> int:
        return len(text.split())


class Rote:
    """A backend without engines. A policy's skill is a number in its directory; training raises it.

    Skill 0 answers everything, without a trace. From skill 1 on the right trace comes in most samples. A `plain` one
    never reasons, and does the right thing in most samples at any skill.
    """

    def __init__(self, config: Config, book: RuleBook, plain: bool = False) -> None:
        self._plain = plain
        self.sampled: list[str] = []
        self.asked: list[tuple[int, ...]] = []
        self.trained: list[str] = []
        self.served: list[str] = []
        self.book, self._skill, self._dialect = book, 0, config.model.dialect
        self._judge: Judge = RulesJudge(JudgeRules(), book, config.model.dialect, lambda pairs: [0.6] * len(pairs))
        self.worsen: set[str] = set()

    def prompts(self, data: Data, categories: Sequence[str], seed: int) -> Mix:
        return gather(data, categories, seed)

    def policy(self, path: Path) -> Policy:
        return Policy(path, f"skill{(path / 'skill').read_text()}")

    def expect(self, policy: Policy) -> None: ...

    def standing(self) -> Standing:
        return Standing({})

    def prepare(self, policy: Policy) -> None:
        self._skill = int((policy.path / "skill").read_text())
        self.served.append(policy.version)

    def rollouts(
        self,
        requests: Iterable[Request],
        unjudged: Sequence[tuple[Prompt, Candidate]],
        name: Name,
        ahead: Ahead | None = None,
    ) -> Iterator[Candidate | Verdict]:
        yield from self._judge.judge(list(unjudged))
        for request in requests:
            for sample in request.samples:
                candidate = self._candidate(request, sample, name(request.prompt.id, sample))
                self.sampled.append(candidate.id)
                self.asked.append(request.prompt_ids)
                yield candidate
                yield from self._judge.judge([(request.prompt, candidate)])

    def imitate(self, policy: Policy, examples: Path, training: Training, out: Path, work: Path) -> dict[str, float]:
        rows = list(read_rows(examples, Example))
        return self._trained(policy, out, work, len(rows))

    def prefer(
        self,
        policy: Policy,
        reference: Policy,
        pairs: Path,
        objective: Objective,
        training: Training,
        out: Path,
        work: Path,
        kept: Path,
    ) -> dict[str, float]:
        rows = list(read_rows(pairs, Pair))
        return self._trained(policy, out, work, len(rows))

    def reinforce(
        self,
        policy: Policy,
        reference: Policy,
        advantages: Path,
        objective: Surrogate,
        training: Training,
        out: Path,
        work: Path,
        kept: Path,
    ) -> dict[str, float]:
        rows = list(read_rows(advantages, Advantage))
        return self._trained(policy, out, work, len(rows))

    def instruct(self, policy: Policy, system: str, out: Path) -> dict[str, float]:
        (out / "skill").write_text((policy.path / "skill").read_text())
        return {}

    def upkeep(self) -> Upkeep:
        return Upkeep({})

    def close(self) -> None:
        pass

    def _trained(self, policy: Policy, out: Path, work: Path, rows: int) -> dict[str, float]:
        stage = out.parent.name
        (work / STEPS).write_bytes(encode(Step(1, 1.0)) + b"\n" + encode(Step(2, 0.5)) + b"\n")
        skill = 0 if stage in self.worsen else int((policy.path / "skill").read_text()) + 1
        (out / "skill").write_text(str(skill))
        self.trained.append(stage)
        return {"rows": float(rows)}

    def _candidate(self, request: Request, sample: int, id: str) -> Candidate:
        text = _behind(request.prefix_ids, self._text(request.prompt, sample, request.sampling.temperature == 0))
        ids = Letters().encode_completion(text)
        given = len(request.prefix_ids)
        return Candidate(id, request.prompt.id, sample, ids, text, "stop", f"skill{self._skill}", given=given)

    def _text(self, prompt: Prompt, sample: int, greedy: bool) -> str:
        if not self._skill and not self._plain:
            return PLAIN if sample == 0 else f"{PLAIN} Number {sample}."
        category = self.book.category(prompt.category)
        right = greedy or seed_of(prompt.id, sample) % 4 > 0
        label = prompt.label if right else ("benign" if prompt.label == "harmful" else "harmful")
        asked = Prompt(prompt.id, prompt.text, label, prompt.category, prompt.topic)
        answer = PLAIN if label == "benign" else None
        trace = TemplateTeacher(self._dialect).write(asked, category, answer, sample)
        return trace.answer if self._plain else traces.render(trace, self._dialect)


def _behind(prefix_ids: Sequence[int], text: str) -> str:
    """The text with its first steps replaced by as many that are given, or as many letters where a step is cut."""
    prefix = "".join(map(chr, prefix_ids))
    if not prefix.endswith("\n"):
        return prefix + text[len(prefix) :]
    done, all_steps = len(traces.steps(prefix, "lines")), traces.steps(text, "lines")
    return prefix + text[all_steps[done].start :] if done < len(all_steps) else prefix or text
