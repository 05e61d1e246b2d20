"""Evaluations side by side, prompt by prompt: what changed, how sure that is, and which prompts turned over."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from erpo_ray.errors import UsageError
from erpo_ray.evaluate import statistics
from erpo_ray.evaluate.measures import MEASURES, Observation
from erpo_ray.rundir.fingerprint import differences
from erpo_ray.types import Rate

Key = tuple[str, str]
"""Suite and prompt id; the evaluation of a run's stage has the suite ""."""
Texts = Callable[[Collection[Key]], Mapping[Key, tuple[str, str]]]
"""Looks up the texts of prompts and completions."""

OUTCOMES = ("exact_match", "right")
"""What a flip is read from: the first of these that a suite has."""


@dataclass(frozen=True, slots=True)
class Side:
    """One evaluation. `settings` are the dotted keys of its configuration and inputs, with JSON values."""

    name: str
    policy: str
    settings: dict[str, str]
    rows: dict[Key, Observation]


@dataclass(frozen=True, slots=True)
class Change:
    """One measure over the prompts that both sides have: both means, and `after - before` with its BCa interval.

    `p_adjusted` is `p` after Holm over all measures, suites and sides of the comparison.
    """

    measure: str
    before: float
    after: float
    difference: Rate
    test: Literal["mcnemar", "permutation"]
    p: float
    p_adjusted: float


@dataclass(frozen=True, slots=True)
class Flip:
    """A prompt that turned from wrong to right (`better`) or from right to wrong, with both completions."""

    prompt_id: str
    label: str
    category: str
    better: bool
    prompt: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Block:
    """One suite on both sides; `only_before` and `only_after` count prompts that one side lacks."""

    suite: str
    prompts: int
    only_before: int
    only_after: int
    changes: tuple[Change, ...]
    flips: tuple[Flip, ...]


@dataclass(frozen=True, slots=True)
class Pairing:
    """The baseline and one other side. `settings` has a line for each setting that differs."""

    before: str
    after: str
    before_policy: str
    after_policy: str
    blocks: tuple[Block, ...]
    settings: tuple[str, ...]


def compare(sides: Sequence[tuple[Side, Texts]]) -> list[Pairing]:
    """Every side but the first against the first. Raises UsageError when two have no prompt in common."""
    (first, first_texts), *others = sides
    pairs = [_Pair.of(first, first_texts, other, texts) for other, texts in others]
    values = {
        (i, suite, measure): both
        for i, pair in enumerate(pairs)
        for suite in pair.suites
        for measure, both in pair.values(suite).items()
    }
    names = {"\x1f".join(map(str, key)): key for key in values}
    scales = {name: (MEASURES[measure].least, MEASURES[measure].most) for name, (_, _, measure) in names.items()}
    tested = statistics.compare({name: values[key] for name, key in names.items()}, scales)
    found = {names[name]: result for name, result in tested.items()}
    return [
        pair.told(
            {(suite, name): (found[i, suite, name], values[i, suite, name]) for n, suite, name in found if n == i}
        )
        for i, pair in enumerate(pairs)
    ]


Value = tuple[statistics.Values, statistics.Values]


@dataclass(frozen=True)
class _Pair:
    """Two sides whose rows go by the same keys."""

    before: Side
    after: Side
    texts: tuple[Texts, Texts]

    @classmethod
    def of(cls, before: Side, before_texts: Texts, after: Side, after_texts: Texts) -> _Pair:
        """Suites count when both sides have them; a run's own evaluation knows none, and goes by prompt ids alone."""
        if not (_has_suites(before) and _has_suites(after)):
            before, before_texts = _merged(before, before_texts)
            after, after_texts = _merged(after, after_texts)
        if not before.rows.keys() & after.rows.keys():
            raise UsageError(f"{before.name} and {after.name} have no prompt in common; evaluate both on one suite")
        return cls(before, after, (before_texts, after_texts))

    @property
    def suites(self) -> list[str]:
        return sorted({suite for suite, _ in self.before.rows.keys() & self.after.rows.keys()})

    def values(self, suite: str) -> dict[str, Value]:
        """Every measure that some prompt has on both sides, by prompt id; shares as outcomes."""
        found: dict[str, Value] = {}
        for name, measure in MEASURES.items():
            both = tuple(
                {
                    id: bool(row.values[name]) if measure.share else row.values[name]
                    for (at, id), row in side.rows.items()
                    if at == suite and name in row.values
                }
                for side in (self.before, self.after)
            )
            if both[0].keys() & both[1].keys():
                found[name] = (both[0], both[1])
        return found

    def told(self, found: Mapping[tuple[str, str], tuple[statistics.Comparison, Value]]) -> Pairing:
        blocks = tuple(
            self._block(suite, {name: both for (at, name), both in found.items() if at == suite})
            for suite in self.suites
        )
        return Pairing(
            before=self.before.name,
            after=self.after.name,
            before_policy=self.before.policy,
            after_policy=self.after.policy,
            blocks=blocks,
            settings=tuple(differences(self.before.settings, self.after.settings)),
        )

    def _block(self, suite: str, found: Mapping[str, tuple[statistics.Comparison, Value]]) -> Block:
        ids = [{id for at, id in side.rows if at == suite} for side in (self.before, self.after)]
        outcome = next((found[name][0] for name in OUTCOMES if name in found), None)
        return Block(
            suite=suite,
            prompts=len(ids[0] & ids[1]),
            only_before=len(ids[0] - ids[1]),
            only_after=len(ids[1] - ids[0]),
            changes=tuple(_change(name, *both) for name, both in found.items()),
            flips=self._flips(suite, outcome) if outcome else (),
        )

    def _flips(self, suite: str, outcome: statistics.Comparison) -> tuple[Flip, ...]:
        """Those that got worse first."""
        turned = [(suite, id) for id in (*outcome.lost, *outcome.gained)]
        before, after = (texts(turned) for texts in self.texts)
        return tuple(
            Flip(
                prompt_id=key[1],
                label=self.after.rows[key].label,
                category=self.after.rows[key].category,
                better=i >= len(outcome.lost),
                prompt=after[key][0],
                before=before[key][1],
                after=after[key][1],
            )
            for i, key in enumerate(turned)
        )


def _change(name: str, found: statistics.Comparison, values: Value) -> Change:
    common = values[0].keys() & values[1].keys()
    before, after = (sum(float(side[id]) for id in common) / len(common) for side in values)
    assert found.difference is not None
    return Change(name, before, after, found.difference, found.test, found.p, found.p_adjusted)


def _has_suites(side: Side) -> bool:
    return any(suite for suite, _ in side.rows)


def _merged(side: Side, texts: Texts) -> tuple[Side, Texts]:
    """The side without the names of its suites. UsageError when two suites share a prompt id."""
    places: dict[str, Key] = {}
    for key in side.rows:
        if key[1] in places:
            raise UsageError(
                f"{side.name}: the prompt {key[1]} is in the suites {places[key[1]][0]} and {key[0]}, and the other "
                "side is a run, which has none; compare evaluation directories with each other"
            )
        places[key[1]] = key
    rows = {("", id): side.rows[key] for id, key in places.items()}

    def looked_up(keys: Collection[Key]) -> dict[Key, tuple[str, str]]:
        found = texts([places[id] for _, id in keys])
        return {("", id): found[places[id]] for _, id in keys}

    return Side(side.name, side.policy, side.settings, rows), looked_up
