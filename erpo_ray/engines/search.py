"""An engine that answers each request by a search over many completions, behind the verbs of `engines/vllm.py`.

Every search goes on by itself as soon as what it asked for is there; the engine below batches over all of them.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from erpo_ray import rules
from erpo_ray.config import Config
from erpo_ray.config.decoding import Searching
from erpo_ray.engines import process_reward
from erpo_ray.engines.judges import Bench, judge_of
from erpo_ray.engines.process_reward import ProcessReward
from erpo_ray.engines.renderer import Renderer
from erpo_ray.engines.vllm import SOON_S, Engine, Finished
from erpo_ray.evaluate.search import Ask, Beginning, Search, beam, best_of, borders, step_end
from erpo_ray.judging.composition import stair
from erpo_ray.judging.ensemble import Judge
from erpo_ray.traces import Dialect
from erpo_ray.types import Candidate, Failure, Policy, Request, identity

Row = tuple[Request, Finished]
Value = Callable[[Sequence[Row]], "list[float | Failure]"]
"""What beginnings are worth, or why one has no value."""


@dataclass(slots=True)
class _Open:
    """A search under way: the request it answers, how many continuations are out, and those that came back."""

    request: Request
    sample: int
    search: Search
    since: float
    out: int = 0
    back: list[Row] = field(default_factory=list)


class SearchEngine:
    """`begin` starts a search; `name` stands for it, its settings and its value in the version of every sample."""

    def __init__(
        self,
        engine: Engine,
        begin: Callable[[], Search],
        value: Value,
        settings: Searching,
        dialect: Dialect,
        name: str,
    ) -> None:
        self.version = f"{engine.version}+{name}"
        self.renderer: Renderer = engine.renderer
        self._engine, self._begin, self._value, self._settings = engine, begin, value, settings
        self._dialect: Dialect = dialect
        self._open: dict[str, _Open] = {}
        self._asked: list[Request] = []
        self._numbers = itertools.count()

    @property
    def pending(self) -> int:
        """Completions asked for and not yet returned."""
        return len(self._open)

    @property
    def drawn(self) -> int:
        """Tokens of the engine below since `begin`."""
        return self._engine.drawn

    def begin(self, seed: int) -> None:
        """Drop what is pending and seed the sampler."""
        self._open.clear()
        self._asked.clear()
        self._engine.begin(seed)

    def advance(self, new: Sequence[Request], budget_s: float = SOON_S) -> list[Finished]:
        """Take up `new` and compute for about `budget_s` seconds; return what is complete (possibly nothing)."""
        for request in new:
            for sample in request.samples:
                name = str(next(self._numbers))
                opened = _Open(request, sample, self._begin(), time.monotonic())
                self._open[name] = opened
                self._ask(name, opened, next(opened.search))
        asked, self._asked = self._asked, []
        whole: list[str] = []
        for one in self._engine.advance(asked, budget_s):
            opened = self._open[one.prompt_id]
            opened.back.append((opened.request, self._cut(one)))
            if len(opened.back) == opened.out:
                whole.append(one.prompt_id)
        return self._go_on(whole) if whole else []

    def load(self, model_dir: Path | str, version: str) -> None:
        """Never: the value belongs to one policy, another policy gets an engine of its own."""
        raise AssertionError(f"{self.version} cannot serve {version}")

    def sleep(self) -> None:
        """Nothing: no training takes turns with an evaluation."""

    def logprobs(self, prompt_ids: Sequence[int], completion_ids: Sequence[int]) -> list[float]:
        """Those of the policy itself."""
        return self._engine.logprobs(prompt_ids, completion_ids)

    def close(self) -> None:
        """Stop the engine below."""
        self.begin(0)
        self._engine.close()

    def _ask(self, name: str, opened: _Open, asks: Sequence[Ask]) -> None:
        opened.out, opened.back = sum(ask.count for ask in asks), []
        numbers = itertools.count()
        for ask in asks:
            stop = () if ask.whole else borders(self.renderer.decode(ask.prefix), self._dialect)
            sampling = replace(
                opened.request.sampling,
                temperature=self._settings.temperature,
                top_k=self._settings.top_k,
                max_tokens=max(1, opened.request.sampling.max_tokens - len(ask.prefix)),
                stop=stop,
            )
            self._asked.append(
                Request(
                    replace(opened.request.prompt, id=name),
                    opened.request.prompt_ids,
                    tuple(itertools.islice(numbers, ask.count)),
                    sampling,
                    ask.prefix,
                )
            )

    def _cut(self, one: Finished) -> Finished:
        """A step without the mark of the next one."""
        if one.finish != "step":
            return one
        ids = one.token_ids[: step_end(self.renderer.pieces(one.token_ids), one.given, self._dialect)]
        return replace(one, token_ids=ids, text=self.renderer.decode(ids))

    def _go_on(self, whole: Sequence[str]) -> list[Finished]:
        """Value in one call what all of these searches got, and let each take its next step."""
        rows = {name: [row for row in self._open[name].back if row[1].finish != "error"] for name in whole}
        values = iter(self._value([row for found in rows.values() for row in found]))
        done: list[Finished] = []
        for name, found in rows.items():
            opened = self._open[name]
            judged = [(one, next(values)) for _, one in found]
            sent = [Beginning(one.token_ids, v, one.finish != "step") for one, v in judged if isinstance(v, float)]
            if not sent:
                done.append(self._failed(self._open.pop(name), [v for _, v in judged if isinstance(v, Failure)]))
                continue
            try:
                self._ask(name, opened, opened.search.send(sent))
            except StopIteration as end:
                done.append(self._finished(self._open.pop(name), end.value))
        return done

    def _finished(self, opened: _Open, found: Beginning) -> Finished:
        ids, seconds = found.ids, round(time.monotonic() - opened.since, 3)
        finish = "stop" if ids[-1] in self.renderer.stop_ids else "length"
        return Finished(
            opened.request.prompt.id, opened.sample, ids, self.renderer.decode(ids), finish, self.version, "", seconds
        )

    def _failed(self, opened: _Open, failures: Sequence[Failure]) -> Finished:
        told = [f"{failure.cause}: {failure.raw}" for failure in failures] or [one.error for _, one in opened.back]
        why = f"none of {len(opened.back)} continuations has a value; the first: {told[0]}"
        return Finished(opened.request.prompt.id, opened.sample, (), "", "error", self.version, why)


def start(policy: Policy, engine: Engine, config: Config, gpu: bool) -> SearchEngine:
    """The search that `evaluate.decode` names over an engine that serves `policy`."""
    decode, dialect = config.evaluate.decode, config.model.dialect
    settings = decode.search
    going = partial(beam, settings.samples, settings.width)
    begin = going if decode.name == "beam" else partial(best_of, settings.samples)
    if settings.value == "judge":
        judge = judge_of(config.judge, Bench(rules.load(config.rules.path), dialect, gpu))
        value, told = by_judge(judge), config.judge.model_dump_json()
    else:
        head = process_reward.load(Path(settings.head), policy.version)
        value, told = by_process(ProcessReward(policy.path, head, gpu)), identity(*head.weights.tolist())
    plain = settings.model_copy(update={"head": ""}).model_dump_json()
    name = f"{decode.name}-{settings.samples}-{identity(plain, told)[:8]}"
    return SearchEngine(engine, begin, value, settings, dialect, name)


def by_judge(judge: Judge) -> Value:
    """R = S*H + 2S of whole completions, after a judge."""

    def value(rows: Sequence[Row]) -> list[float | Failure]:
        items = [
            (request.prompt, Candidate(str(at), request.prompt.id, at, one.token_ids, one.text, one.finish, one.policy))
            for at, (request, one) in enumerate(rows)
        ]
        verdicts = {verdict.candidate_id: verdict for verdict in judge.judge(items)}
        found = [verdicts[str(at)] for at in range(len(rows))]
        return [
            float(stair(verdict.scores)) if verdict.scores else verdict.failure or Failure("no_scores", verdict.judge)
            for verdict in found
        ]

    return value


def by_process(model: Callable[[Sequence[tuple[int, ...]]], list[float]]) -> Value:
    """V of beginnings."""

    def value(rows: Sequence[Row]) -> list[float | Failure]:
        return [*model([(*request.prompt_ids, *one.token_ids) for request, one in rows])] if rows else []

    return value
