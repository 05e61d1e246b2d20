"""What a run trains and evaluates on: sources joined, copies removed, order and choice fixed by hashes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from erpo_ray.config import Data, Source
from erpo_ray.errors import UsageError
from erpo_ray.prompts import loaders
from erpo_ray.prompts.similar import Index
from erpo_ray.types import LeftOut, Prompt, seed_of

NEAR = 0.8
"""Jaccard similarity of token sets from which two prompts count as copies."""

Read = Callable[[Source, str, Collection[str]], list[Prompt]]
"""Prompts of a source: its settings, the root of relative paths, and the ids of known categories in."""


@dataclass(frozen=True, slots=True)
class Mix:
    """Prompts to train on and to evaluate on, with no copy of one in the other, and what was left out for it."""

    train: tuple[Prompt, ...]
    evaluate: tuple[Prompt, ...]
    left_out: tuple[LeftOut, ...]


def gather(data: Data, categories: Collection[str] = (), seed: int = 0, read: Read = loaders.bare) -> Mix:
    """All sources of a run, each as `read` gives it.

    Copies are judged before attack templates are wrapped around prompts. Evaluation sets only lose exact repeats.
    Training prompts are dropped when they (nearly) repeat an evaluation prompt, or another training prompt of the same
    label in a source with the same templates. Ids that two sources share get the source's name in front.
    """
    held = [(source, read(source, data.root, categories)) for source in data.evaluate]
    used = [(source, read(source, data.root, categories)) for source in data.train]
    texts = [prompt.text for _, prompts in (*held, *used) for prompt in prompts]
    apart = Index(texts, NEAR)
    left: list[LeftOut] = []
    names: set[str] = set()
    evaluate: list[Prompt] = []
    seen: dict[tuple[str, ...], str] = {}
    for source, prompts in held:
        kept = _first_only(source, prompts, seen, left)
        for prompt in kept:
            apart.add(prompt.id, prompt.text)
        evaluate += _distinct(loaders.dressed(source, kept, data.root, seed, "evaluate"), names)
    train: list[Prompt] = []
    indexes: dict[tuple[str, str], Index] = defaultdict(lambda: Index(texts, NEAR))
    for source, prompts in used:
        kept = [prompt for prompt in prompts if _fresh(source, prompt, apart, indexes, left)]
        train += _distinct(loaders.dressed(source, kept, data.root, seed, "train"), names)
    return Mix(tuple(ordered(train, seed)), tuple(ordered(evaluate, seed)), tuple(left))


def ordered(prompts: Iterable[Prompt], seed: int) -> list[Prompt]:
    """The prompts in an order that depends on the seed and their ids alone."""
    return sorted(prompts, key=lambda prompt: (seed_of(seed, prompt.id), prompt.id))


def choose_balanced(
    prompts: Sequence[Prompt], harmful: int | None, benign: int | None, seed: int, first: Collection[str] = ()
) -> list[Prompt]:
    """Up to `harmful` and `benign` prompts (all when None), as many of each category as of every other.

    Prompts whose id is in `first`, and their twins, are taken before any other. Within a category the benign twins of
    the chosen harmful prompts come next. Prompts of unknown label are left out.
    """
    bad = _round_robin([prompt for prompt in prompts if prompt.label == "harmful"], harmful, seed, first, ())
    twins = {prompt.twin for prompt in bad if prompt.twin}
    good = _round_robin([prompt for prompt in prompts if prompt.label == "benign"], benign, seed, first, twins)
    return ordered((*bad, *good), seed)


def per_source(prompts: Iterable[Prompt], count: int | None) -> list[Prompt]:
    """At most `count` prompts of each label of each source (all when None), chosen by a hash of their ids."""
    kept: list[Prompt] = []
    taken: Counter[tuple[str, str]] = Counter()
    for prompt in ordered(prompts, 0):
        taken[prompt.source, prompt.label] += 1
        if count is None or taken[prompt.source, prompt.label] <= count:
            kept.append(prompt)
    return kept


def _round_robin(
    prompts: Sequence[Prompt], count: int | None, seed: int, first: Collection[str], next_: Collection[str]
) -> list[Prompt]:
    """One prompt of each category in turn: those in `first` (or twins of them), then the rest, `next_` ahead."""
    urgent = [prompt for prompt in prompts if prompt.id in first or prompt.twin in first]
    rest = [prompt for prompt in prompts if not (prompt.id in first or prompt.twin in first)]
    turns = [*_turns(urgent, seed, ()), *_turns(rest, seed, next_)]
    return turns if count is None else turns[:count]


def _turns(prompts: Sequence[Prompt], seed: int, ahead: Collection[str]) -> list[Prompt]:
    groups: defaultdict[str, list[Prompt]] = defaultdict(list)
    for prompt in ordered(prompts, seed):
        groups[prompt.category].append(prompt)
    queues = [sorted(groups[name], key=lambda prompt: prompt.id not in ahead) for name in groups]
    queues.sort(key=lambda queue: seed_of(seed, queue[0].category))
    longest = max(map(len, queues), default=0)
    return [queue[turn] for turn in range(longest) for queue in queues if turn < len(queue)]


def _first_only(
    source: Source, prompts: Sequence[Prompt], seen: dict[tuple[str, ...], str], left: list[LeftOut]
) -> list[Prompt]:
    """The prompts whose text did not come before in a source with the same templates."""
    kept: list[Prompt] = []
    for prompt in prompts:
        key = (source.attacks or "", " ".join(prompt.text.casefold().split()))
        if key in seen:
            left.append(LeftOut(prompt.id, f"repeats evaluation prompt {seen[key]}"))
        else:
            seen[key] = prompt.id
            kept.append(prompt)
    return kept


def _fresh(
    source: Source, prompt: Prompt, apart: Index, indexes: dict[tuple[str, str], Index], left: list[LeftOut]
) -> bool:
    copied = apart.find(prompt.text)
    if copied is not None:
        left.append(LeftOut(prompt.id, f"repeats evaluation prompt {copied}"))
        return False
    index = indexes[(source.attacks or "", prompt.label)]
    copied = index.find(prompt.text)
    if copied is not None:
        left.append(LeftOut(prompt.id, f"repeats training prompt {copied}"))
        return False
    index.add(prompt.id, prompt.text)
    return True


def _distinct(prompts: Sequence[Prompt], names: set[str]) -> list[Prompt]:
    out: list[Prompt] = []
    for prompt in prompts:
        if prompt.id in names:
            prompt = replace(prompt, id=f"{prompt.source}:{prompt.id}")
        if prompt.id in names:
            raise UsageError(
                f"{prompt.source}: id: found {prompt.id!r} in two sources of that name; name one of them apart"
            )
        names.add(prompt.id)
        out.append(prompt)
    return out
