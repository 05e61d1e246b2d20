"""Searches at test time as pure logic: what to draw next, and which of what was drawn to go on from.

STAIR (arXiv 2502.02384) draws N completions and takes the one of highest value (best-of-N), or goes step by step and
keeps the beginnings of highest value (beam search). A search is a generator: it yields what it wants drawn, is sent
what came of it with its value, and returns the completion. It knows neither who draws nor who values.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass

from erpo_ray import traces

Ids = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Ask:
    """`count` continuations wanted behind the ids of a beginning: one step of it, or with `whole` up to the end."""

    prefix: Ids
    count: int
    whole: bool


@dataclass(frozen=True, slots=True)
class Beginning:
    """A completion as far as it goes, its ids from the first on. `ended`: nothing comes after."""

    ids: Ids
    value: float
    ended: bool


Search = Generator[list[Ask], Sequence[Beginning], Beginning]


def best_of(samples: int) -> Search:
    """The best of so many whole completions."""
    return best((yield [Ask((), samples, whole=True)]), 1)[0]


def beam(samples: int, width: int) -> Search:
    """`width` beginnings are kept; `samples` next steps are drawn behind those that go on, as many behind each.

    The value of a beginning is that of all its steps, so that one that has ended stands among those that have not. The
    first step has no beginning to share out: all samples are drawn behind the prompt.
    """
    kept = [Beginning((), 0.0, ended=False)]
    while going := [each for each in kept if not each.ended]:
        share, rest = divmod(samples, len(going))
        asks = [Ask(each.ids, share + (at < rest), whole=False) for at, each in enumerate(going)]
        drawn = yield [ask for ask in asks if ask.count]
        kept = best([*(each for each in kept if each.ended), *drawn], width)
    return kept[0]


def best(found: Iterable[Beginning], count: int) -> list[Beginning]:
    """The best of them, each once; of equals the shortest. ValueError when there are none."""
    once = {each.ids: each for each in found}.values()
    if not once:
        raise ValueError("nothing was drawn that has a value")
    return sorted(once, key=lambda each: (-each.value, len(each.ids), each.ids))[:count]


def borders(text: str, dialect: traces.Dialect) -> tuple[str, ...]:
    """Texts that end the step which comes next behind `text`: the mark of any later one. None before the answer."""
    if traces.CLOSE in text:
        return ()
    if dialect == "tags":
        marks = [f"<{traces.TAGS[name]}>" for name in traces.SECTIONS[1:]]
    else:
        marks = [f"\n{traces.LABELS[name]}" for name in traces.SECTIONS[1:]]
    return (*marks[len(traces.steps(text, dialect)) :], traces.CLOSE)


def step_end(pieces: Sequence[str], given: int, dialect: traces.Dialect) -> int:
    """Tokens up to the end of the step that was drawn behind `given` tokens, where the mark of a later one ended it.

    pieces: the text that each token adds. The mark is left out, so that the next step begins with it.
    """
    last = traces.steps(pieces, dialect)[-1:]
    return last[0].start if last and last[0].start > given else len(pieces)
