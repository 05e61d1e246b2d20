"""SoS: evolution of a system prompt for safety and usefulness, nothing trained (arXiv 2410.09652).

    p* = argmax over system prompts p of  w1 * K(p) + w2 * S(p)

S is how safe the frozen model is under p, K how useful, each the mean of what the judge says of its answers to a fixed
set of prompts, scaled to [0, 1]. One objective is optimised until a generation gains no more than delta, then the
other, from where the first one ended; each leaves a local optimum in the pool, and there is no Pareto front. Children
come by *semantic* mutation (an idea in other words) and by *feedback* (an analyst of that one objective adds what the
prompt lacks for it); at the end the optima are *crossed*. That much is in what could be read. The authors' w1, w2 and
sizes are not known: they are config fields, as is delta, 1e-5 by a note on their code.

Children are written (`sos.mutate`) by the frozen model itself, which is shown the parents and, for feedback, requests
that went wrong under them (`rewriting.py`), or from a bank of ideas in several wordings, which is this project's own
(`sentences.py`): a model of 135 million parameters, asked for another wording, answers the prompt instead. The authors
ask a large chat model. A reply that is no system prompt leaves that child out. `evolution` takes scores of any kind.

Assumption: the model heeds a system prompt. Edge case: where none does better than the template's own, that one stays.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from statistics import fmean
from typing import Literal

from erpo_ray.config import Config
from erpo_ray.config.methods import Evolution
from erpo_ray.errors import RunFailed
from erpo_ray.methods.base import History, Stage, Task, Tried
from erpo_ray.methods.rewriting import ask, read
from erpo_ray.methods.sentences import Operator, System, from_bank
from erpo_ray.prompts.mixing import choose_balanced
from erpo_ray.types import Candidate, Failure, Group, Prompt, Request, Sampling, identity, seed_of

Objective = Literal["safety", "utility"]

_WRITING = "writing"
"""In front of the id of what the model is asked to write; that of a prompt tried has the key of its system prompt."""
_SHOWN = 3
"""Requests that went wrong shown to an analyst."""
_WRAPPING = 16
"""Tokens, at most, that a chat template puts around a system prompt."""


@dataclass(frozen=True, slots=True)
class Score:
    """Means over the prompts asked, in [0, 1]."""

    safety: float
    utility: float


@dataclass(frozen=True, slots=True)
class Birth:
    """A child that the search wants: by which operator, of which parents."""

    operator: Operator
    parents: tuple[System, ...]
    seed: int


def evolution(settings: Evolution, seed: int) -> Generator[list[Birth], Mapping[System, Score], System]:
    """Yields the births of a generation, takes the scores of the children that came of them, returns the best prompt.

    A generator so that a search can be replayed from scores that were kept. The first birth, nothing in other words, is
    the template's own system prompt.
    """

    def births(*operators: Operator, parents: tuple[System, ...], named: tuple[object, ...] = ()) -> list[Birth]:
        seeds = [seed_of(seed, *named, n) for n in range(settings.children)]
        return [Birth(operators[n % len(operators)], parents, each) for n, each in enumerate(seeds)]

    scores = dict((yield [Birth("semantic", ((),), seed), *births("safety", parents=((),))]))
    best, optima = _best(scores, settings, "safety"), list[System]()
    objectives: tuple[Objective, Objective] = ("safety", "utility")
    for objective in objectives:
        for generation in range(settings.generations):
            born = yield births(objective, "semantic", parents=(best,), named=(objective, generation))
            scores |= born
            found = _best({system: scores[system] for system in (best, *born)}, settings, objective)
            gain = getattr(scores[found], objective) - getattr(scores[best], objective)
            best = found
            if gain <= settings.delta:
                break
        optima.append(best)
    scores |= yield births("crossover", parents=tuple(optima), named=("crossed",))
    return _best(scores, settings)


def _best(scores: Mapping[System, Score], settings: Evolution, objective: Objective | None = None) -> System:
    """The highest in the objective, or in the weighted sum, which also decides between equals; then the first found."""

    def worth(system: System) -> tuple[float, float]:
        found = scores[system]
        total = settings.utility_weight * found.utility + (1 - settings.utility_weight) * found.safety
        return (getattr(found, objective) if objective else total, total)

    return max(scores, key=worth)


def stages(config: Config) -> tuple[Stage, ...]:
    """SoS = evolve."""
    return (Evolve(config.sos, config.seed),)


@dataclass(frozen=True, slots=True)
class Replay:
    """The search as far as what was sampled reaches: what it wants written and tried next, or the best."""

    tried: tuple[Tried, ...]
    unborn: tuple[Birth, ...] = ()
    untried: tuple[System, ...] = ()
    best: System = ()


@dataclass(frozen=True, slots=True)
class Evolve:
    """The search as a stage: every system prompt of a generation is put before every prompt of a fixed set.

    What is asked next follows from the groups that are there, so a continued run goes on where it stopped. What the
    model is asked to write stands among them, as a harmless request.
    """

    settings: Evolution
    seed: int
    name: str = "evolve"
    kind: Literal["evolve"] = "evolve"

    def requests(self, task: Task, history: History) -> list[Request]:
        """The template's own system prompt, and of the first generation what can be tried at once."""
        return self.follow(task, history, ())

    def follow(self, task: Task, history: History, groups: Sequence[Group]) -> list[Request]:
        """What the next generation needs: children written, then tried; nothing when the search has ended."""
        replay = self.replayed(task, groups)
        written = [self._writing(task, birth, groups) for birth in replay.unborn]
        return [*written, *(request for system in replay.untried for request in self._trial(task, system))]

    def best(self, task: Task, groups: Sequence[Group]) -> str:
        """The system prompt that the search ends with. RunFailed where the model wrote none that can be tried."""
        replay = self._ended(task, groups)
        failures = Counter(child.failure.cause for child in replay.tried if child.failure)
        if failures and not any(child.system for child in replay.tried):
            told = ", ".join(f"{cause} {count}" for cause, count in failures.most_common())
            raise RunFailed(
                f"sos.mutate is policy, but none of the model's {failures.total()} replies is a system prompt that "
                f"can be tried ({told}); set sos.mutate=bank, raise sos.rewrite.max_tokens for `cut` or "
                "model.max_length for `too_long`, or take a larger model"
            )
        return " ".join(replay.best)

    def tried(self, task: Task, groups: Sequence[Group]) -> tuple[Tried, ...]:
        """All children in order, the template's own system prompt first."""
        return self._ended(task, groups).tried

    def _ended(self, task: Task, groups: Sequence[Group]) -> Replay:
        replay = self.replayed(task, groups)
        if replay.unborn or replay.untried:
            raise ValueError("the search has not ended")
        return replay

    def replayed(self, task: Task, groups: Sequence[Group]) -> Replay:
        """The search with what was written and scored so far."""
        known, written = scored(groups), {g.prompt.id: g.candidates[0] for g in groups if _is_writing(g.prompt)}
        room = self._room(task)
        search, tried = evolution(self.settings, seed_of(self.seed, self.name)), list[Tried]()
        births = next(search)
        while True:
            children = [(birth, self._child(birth, written, room, task)) for birth in births]
            systems = dict.fromkeys(child for _, child in children if isinstance(child, tuple))
            untried = tuple(system for system in systems if _key(system) not in known)
            # The analyst needs to know what went wrong under a parent.
            unborn = tuple(b for b, child in children if child is None and all(_key(p) in known for p in b.parents))
            if untried or unborn:
                return Replay(tuple(tried), unborn, untried)
            tried += [_told(birth, child, known) for birth, child in children if child is not None]
            try:
                births = search.send({system: known[_key(system)] for system in systems})
            except StopIteration as end:
                return Replay(tuple(tried), best=end.value)

    def _child(self, birth: Birth, written: Mapping[str, Candidate], room: int, task: Task) -> System | Failure | None:
        """None where it is not written yet."""
        if self.settings.mutate == "bank" or (birth.operator == "semantic" and not birth.parents[0]):
            return from_bank(birth.operator, birth.parents, birth.seed)
        reply = written.get(_writing_id(birth))
        if reply is None:
            return None
        system = read(reply.text, reply.finish)
        if isinstance(system, str) and task.renderer.count(system) > room:
            return Failure("too_long", system)
        return system if isinstance(system, Failure) else (system,)

    def _room(self, task: Task) -> int:
        """Tokens of a system prompt that fits beside the longest prompt and the longest answer to it."""
        longest = max(task.prompts, key=lambda prompt: len(prompt.text))
        answer = max(self.settings.max_tokens, task.config.evaluate.max_tokens)
        return task.config.model.max_length - len(task.renderer.render(longest.text)) - answer - _WRAPPING

    def _writing(self, task: Task, birth: Birth, groups: Sequence[Group]) -> Request:
        wrong: list[str] = []
        if birth.operator == "safety" or birth.operator == "utility":
            missed = _missed(groups, birth.parents[0], birth.operator)
            wrong = Random(birth.seed).sample(missed, min(_SHOWN, len(missed)))
        text = ask(birth.operator, [" ".join(p) for p in birth.parents], wrong, identity("code", birth.seed))
        ids, sampling = task.renderer.render(text), self.settings.rewrite.sampling()
        room = max(1, task.config.model.max_length - 1 - len(ids))
        sampling = replace(sampling, max_tokens=min(sampling.max_tokens, room))
        return Request(Prompt(_writing_id(birth), text, "benign"), ids, (0,), sampling)

    def _trial(self, task: Task, system: System) -> Iterator[Request]:
        half, sampling = self.settings.prompts // 2, Sampling(0.0, self.settings.max_tokens)
        renderer = task.renderer.under(" ".join(system))
        for prompt in choose_balanced(task.prompts, half, half, seed_of(self.seed, self.name, "prompts")):
            named = replace(prompt, id=f"{_key(system)}~{prompt.id}")
            yield Request(named, renderer.render(prompt.text), (0,), sampling)


def scored(groups: Sequence[Group]) -> dict[str, Score]:
    """The score of each system prompt that was asked, by its key: safety on harmful prompts, utility on benign ones."""
    told: dict[str, dict[str, list[float]]] = {}
    for group in groups:
        if _is_writing(group.prompt):
            continue
        axes = told.setdefault(group.prompt.id.partition("~")[0], {"harmful": [], "benign": []})
        for verdict in group.verdicts:
            if verdict.scores:
                value = verdict.scores.safety if group.prompt.label == "harmful" else verdict.scores.utility
                axes[group.prompt.label].append((1 + value) / 2)
    return {key: Score(fmean(axes["harmful"] or [0.0]), fmean(axes["benign"] or [0.0])) for key, axes in told.items()}


def _missed(groups: Sequence[Group], system: System, objective: Objective) -> list[str]:
    """Prompts whose answer under the system prompt the judge puts below 0 in the objective."""
    label, key = "harmful" if objective == "safety" else "benign", _key(system)
    return [
        group.prompt.text
        for group in groups
        if group.prompt.label == label and group.prompt.id.partition("~")[0] == key
        if any(verdict.scores and getattr(verdict.scores, objective) < 0 for verdict in group.verdicts)
    ]


def _told(birth: Birth, child: System | Failure, known: Mapping[str, Score]) -> Tried:
    if isinstance(child, Failure):
        return Tried(birth.operator, "", failure=child)
    score = known[_key(child)]
    return Tried(birth.operator, " ".join(child), score.safety, score.utility)


def _writing_id(birth: Birth) -> str:
    return f"{_WRITING}~{identity(birth.operator, birth.seed, *map(_key, birth.parents))}"


def _is_writing(prompt: Prompt) -> bool:
    return prompt.id.partition("~")[0] == _WRITING


def _key(system: System) -> str:
    return identity("system", *system)[:8]
