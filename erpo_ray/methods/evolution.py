"""The search of SoS (arXiv 2410.09652): over texts with two scores each, whoever writes and whoever scores them.

Each objective in turn is optimised until a generation gains no more than delta, then the two optima are crossed;
`sos.py` has the formula, and what is known of it. A text is a `System` here, whether it is a system prompt or the
guidance of a judge.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Literal

from erpo_ray.config.methods import Evolution
from erpo_ray.methods.base import Tried
from erpo_ray.methods.sentences import Operator, System
from erpo_ray.types import Failure, identity, seed_of

Objective = Literal["safety", "utility"]


@dataclass(frozen=True, slots=True)
class Score:
    """Means over what was asked, in [0, 1]."""

    safety: float
    utility: float


@dataclass(frozen=True, slots=True)
class Birth:
    """A child that the search wants: by which operator, of which parents."""

    operator: Operator
    parents: tuple[System, ...]
    seed: int

    @property
    def id(self) -> str:
        return identity(self.operator, self.seed, *map(key_of, self.parents))

    @property
    def own(self) -> bool:
        """Whether it is the text that was there before, which nobody has to write."""
        return self.operator == "semantic" and not self.parents[0]


@dataclass(frozen=True, slots=True)
class Replay:
    """The search as far as what was written and scored reaches: what it wants written and tried next, or the best."""

    tried: tuple[Tried, ...]
    unborn: tuple[Birth, ...] = ()
    untried: tuple[System, ...] = ()
    best: System = ()


Search = Generator[list[Birth], Mapping[System, Score], System]


def evolution(settings: Evolution, seed: int) -> Search:
    """Yields the births of a generation, takes the scores of the children that came of them, returns the best text.

    A generator so that a search can be replayed from scores that were kept. The first birth, nothing in other words, is
    the text that was there before.
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


def replay(search: Search, child: Callable[[Birth], System | Failure | None], known: Mapping[str, Score]) -> Replay:
    """A search with what was written and scored so far.

    `child` is what came of a birth, None where it is not written yet; `known` holds scores by `key_of` their text.
    """
    tried, births = list[Tried](), next(search)
    while True:
        children = [(birth, child(birth)) for birth in births]
        systems = dict.fromkeys(born for _, born in children if isinstance(born, tuple))
        untried = tuple(system for system in systems if key_of(system) not in known)
        # The analyst needs to know what went wrong under a parent.
        unborn = tuple(b for b, born in children if born is None and all(key_of(p) in known for p in b.parents))
        if untried or unborn:
            return Replay(tuple(tried), unborn, untried)
        tried += [_told(birth, born, known) for birth, born in children if born is not None]
        try:
            births = search.send({system: known[key_of(system)] for system in systems})
        except StopIteration as end:
            return Replay(tuple(tried), best=end.value)


def key_of(system: System) -> str:
    return identity("system", *system)[:8]


def _best(scores: Mapping[System, Score], settings: Evolution, objective: Objective | None = None) -> System:
    """The highest in the objective, or in the weighted sum, which also decides between equals; then the first found."""

    def worth(system: System) -> tuple[float, float]:
        found = scores[system]
        total = settings.utility_weight * found.utility + (1 - settings.utility_weight) * found.safety
        return (getattr(found, objective) if objective else total, total)

    return max(scores, key=worth)


def _told(birth: Birth, child: System | Failure, known: Mapping[str, Score]) -> Tried:
    if isinstance(child, Failure):
        return Tried(birth.operator, "", failure=child)
    score = known[key_of(child)]
    return Tried(birth.operator, " ".join(child), score.safety, score.utility)
