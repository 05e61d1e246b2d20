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
ask a large chat model. A reply that is no system prompt leaves that child out. The search itself is in `evolution.py`.

Assumption: the model heeds a system prompt. Edge case: where none does better than the template's own, that one stays.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from statistics import fmean
from typing import Literal

from erpo_ray.config import Config
from erpo_ray.config.methods import Evolution
from erpo_ray.errors import RunFailed
from erpo_ray.methods.base import History, Stage, Task, Tried
from erpo_ray.methods.evolution import Birth, Objective, Replay, Score, evolution, key_of, replay
from erpo_ray.methods.rewriting import ask, read
from erpo_ray.methods.sentences import System, from_bank
from erpo_ray.prompts.mixing import choose_balanced
from erpo_ray.types import Candidate, Failure, Group, Prompt, Request, Sampling, identity, seed_of

_WRITING = "writing"
"""In front of the id of what the model is asked to write; that of a prompt tried has the key of its system prompt."""
_SHOWN = 3
"""Requests that went wrong shown to an analyst."""
_WRAPPING = 16
"""Tokens, at most, that a chat template puts around a system prompt."""


def stages(config: Config) -> tuple[Stage, ...]:
    """SoS = evolve."""
    return (Evolve(config.sos, config.seed),)


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
        written = {group.prompt.id: group.candidates[0] for group in groups if _is_writing(group.prompt)}
        search, room = evolution(self.settings, seed_of(self.seed, self.name)), self._room(task)
        return replay(search, lambda birth: self._child(birth, written, room, task), scored(groups))

    def _child(self, birth: Birth, written: Mapping[str, Candidate], room: int, task: Task) -> System | Failure | None:
        """None where it is not written yet."""
        if self.settings.mutate == "bank" or birth.own:
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
            named = replace(prompt, id=f"{key_of(system)}~{prompt.id}")
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
    label, key = "harmful" if objective == "safety" else "benign", key_of(system)
    return [
        group.prompt.text
        for group in groups
        if group.prompt.label == label and group.prompt.id.partition("~")[0] == key
        if any(verdict.scores and getattr(verdict.scores, objective) < 0 for verdict in group.verdicts)
    ]


def _writing_id(birth: Birth) -> str:
    return f"{_WRITING}~{birth.id}"


def _is_writing(prompt: Prompt) -> bool:
    return prompt.id.partition("~")[0] == _WRITING
