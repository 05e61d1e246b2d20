"""Pairs from judged groups: chosen over rejected, with a reason for every group that gives none.

A candidate *passes* when its trace is well formed, it ended by itself, it is safe, and, if the prompt is benign, it
answers with at least `min_utility`. Only a passing one is ever chosen, no unsafe answer, no refusal of the harmless;
in a group where none passes, those pass whose only fault is that the rules they cite are none or do not exist: small
models cite such rules so often that hardly a pair would be left.
Which of those that pass is chosen is for `prefer.composition` to say (`judging.composition`); by default the axes are
never mixed, and it is the shortest among those about as useful as the best. The length-controlled rounds
(`prefer_short`) take that less strictly. What is rejected gives the kind:

| kind | chosen over |
|---|---|
| safety | an unsafe one: to the rule judge, any answer to a harmful prompt |
| over_refusal | a refusal of a benign prompt |
| utility | an answer of clearly less use than asked for |
| format | the right outcome with a broken trace, or no answer at all |
| length | one that passes too, or misquotes rules at most, longer by a margin |
| negative | an off-policy trace that goes wrong (`offpolicy`) |

A candidate on which the members of an ensemble stand on both sides is left out: who is right is for a person to say.
Everything depends on what candidates say, never on the order of groups or candidates.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from statistics import median

from erpo_ray.balance import balanced
from erpo_ray.config import Prefer
from erpo_ray.judging import UNFINISHED
from erpo_ray.judging.composition import Composition, best, is_safe
from erpo_ray.judging.ensemble import DISAGREEMENT
from erpo_ray.judging.reading import misquotes
from erpo_ray.types import (
    Candidate,
    Group,
    Label,
    LeftOut,
    Pair,
    PairKind,
    Prompt,
    Scores,
    Verdict,
    identity,
    seed_of,
)

_EQUAL_UTILITY = 0.15
"""Differences in utility up to this are no reason to prefer the longer."""
_CLEAR_UTILITY = 0.3
"""Least difference in utility that makes a pair, and the most that a shorter answer may cost.

Smaller ones are the noise of an embedding."""
_ALIKE = 0.95
"""Share of words in common from which two completions are too near to tell anything."""
_ROOM = 4096
"""Pairs found up to which none is dropped before all are."""
_ERRORS: tuple[PairKind, ...] = ("safety", "over_refusal", "utility")
_FAULT: dict[PairKind, str] = {
    "safety": "complied with harm",
    "over_refusal": "refused the harmless",
    "utility": "of too little use",
    "format": "ill formed or unfinished",
}


@dataclass(frozen=True, slots=True)
class Item:
    """A candidate that has scores. `kind` is the kind of pair it can be rejected in; `length` when it passes.

    `words` are those of its text, case folded. `whole` is whether it ended by itself, in the form asked for; one that
    `misquotes` did but for the rules it cites, which are none or do not exist.
    """

    candidate: Candidate
    words: tuple[str, ...]
    scores: Scores
    refused: bool
    kind: PairKind
    whole: bool
    misquotes: bool

    @property
    def only_misquotes(self) -> bool:
        """Whether it would pass but for the rules it cites."""
        return self.kind == "format" and self.misquotes


Rule = Callable[[Group, Sequence[Item]], "list[Pair] | str"]
"""Gives the pairs of a group from those of its candidates that can be compared, or why there is none."""


def passes(prompt: Prompt, candidate: Candidate, verdict: Verdict, min_utility: float, traced: bool = True) -> bool:
    """Whether this candidate may be chosen. Where a method has no traces (`traced` off) it needs none."""
    if not verdict.scores:
        return False
    whole = _whole(candidate, verdict, traced)
    return _kind(prompt.label, verdict, verdict.scores, whole, min_utility) == "length"


def _whole(candidate: Candidate, verdict: Verdict, traced: bool) -> bool:
    return (verdict.well_formed or not traced) and candidate.finish == "stop" and UNFINISHED not in verdict.notes


def _kind(label: Label, verdict: Verdict, scores: Scores, whole: bool, min_utility: float) -> PairKind:
    if UNFINISHED in verdict.notes:
        return "format"
    if not is_safe(scores):
        return "safety"
    if label == "benign" and verdict.refused:
        return "over_refusal"
    if label == "benign" and scores.utility < min_utility:
        return "utility"
    return "length" if whole else "format"


def choose(
    groups: Sequence[Group],
    settings: Prefer,
    *,
    cap: Mapping[str, int],
    prefer_short: bool,
    seed: int,
    max_tokens: int | None = None,
    traced: bool = True,
) -> tuple[list[Pair], list[LeftOut]]:
    """At most `settings.max_pairs` pairs in an order drawn from `seed`, and why the rest was left out.

    `cap` holds the most tokens by label that a chosen candidate of a length pair may have (empty: no cap). `max_tokens`
    bounds prompt and completion together. `traced` as in `passes`.
    """

    def rule(group: Group, items: Sequence[Item]) -> list[Pair] | str:
        return _pairs(group, items, settings, cap.get(group.prompt.label), prefer_short)

    return collect(groups, rule, settings, prefer_short=prefer_short, seed=seed, max_tokens=max_tokens, traced=traced)


def collect(
    groups: Sequence[Group],
    rule: Rule,
    settings: Prefer,
    *,
    prefer_short: bool,
    seed: int,
    max_tokens: int | None = None,
    traced: bool = True,
    distinct: bool = True,
) -> tuple[list[Pair], list[LeftOut]]:
    """As `choose`, with pairs after a rule of the caller's; `distinct` as in `usable`.

    Pairs over the limit are dropped so that labels and kinds stay balanced.
    """
    found: list[tuple[Label, Pair]] = []
    left_out: list[LeftOut] = []
    labels: set[Label] = set()
    most = 2 * max(_ROOM, settings.max_pairs)
    for group in groups:
        labels.add(group.prompt.label)
        items, dropped = usable(group, settings, max_tokens, traced, distinct)
        pairs = rule(group, items)
        left_out += dropped
        if isinstance(pairs, str):
            left_out.append(LeftOut(group.prompt.id, pairs))
        else:
            found.extend((group.prompt.label, pair) for pair in pairs)
        if len(found) > most:
            found, surplus = _first(found, settings.max_pairs, seed)
            left_out += map(_surplus, surplus)
            most = 2 * max(_ROOM, len(found))
    mixed = {"harmful", "benign"} <= labels
    found.sort(key=lambda labelled: seed_of(seed, labelled[1].id))
    kept = balanced(found, settings.max_pairs, mixed, prefer_short)
    ids = {pair.id for pair in kept}
    left_out += [_surplus(pair) for _, pair in found if pair.id not in ids]
    return kept, sorted(left_out, key=lambda left: (left.id, left.reason))


def _first(found: Sequence[tuple[Label, Pair]], each: int, seed: int) -> tuple[list[tuple[Label, Pair]], list[Pair]]:
    """The first `each` pairs by their order under `seed` of every label and kind, and those behind them.

    None of the latter can be kept, whatever comes: so many groups need no more memory than the pairs that are kept.
    """
    counts: Counter[tuple[Label, PairKind]] = Counter()
    first, surplus = [], []
    for label, pair in sorted(found, key=lambda labelled: seed_of(seed, labelled[1].id)):
        counts[label, pair.kind] += 1
        if counts[label, pair.kind] > each:
            surplus.append(pair)
        else:
            first.append((label, pair))
    return first, surplus


def _surplus(pair: Pair) -> LeftOut:
    return LeftOut(pair.prompt_id, f"a surplus {pair.kind} pair: kept out for balance")


def usable(
    group: Group, settings: Prefer, max_tokens: int | None, traced: bool, distinct: bool = True
) -> tuple[list[Item], list[LeftOut]]:
    """The candidates that can be compared, in an order of their own, and why the others cannot.

    `distinct`: of those that say the same only the first.
    """
    items: dict[object, Item] = {}
    left_out: list[LeftOut] = []
    judged = zip(group.candidates, group.verdicts, strict=True)
    ranked = sorted(
        judged, key=lambda pair: (pair[0].finish != "stop", len(pair[0].token_ids), pair[0].token_ids, pair[0].id)
    )
    for candidate, verdict in ranked:
        words = tuple(candidate.text.casefold().split())
        key = words if distinct else candidate.id
        tokens = len(group.prompt_ids) + len(candidate.token_ids)
        if verdict.candidate_id != candidate.id:
            reason = f"its verdict belongs to {verdict.candidate_id}"
        elif verdict.scores is None:
            reason = f"not judged: {_cause(verdict)}"
        elif told := [note for note in verdict.notes if note.startswith(DISAGREEMENT)]:
            reason = f"the judges disagree: {'; '.join(note.removeprefix(f'{DISAGREEMENT}:') for note in told)}"
        elif max_tokens is not None and tokens > max_tokens:
            reason = f"{tokens} tokens with the prompt, the limit is {max_tokens}"
        elif key in items:
            reason = f"says the same as {items[key].candidate.id}"
        else:
            whole = _whole(candidate, verdict, traced)
            kind = _kind(group.prompt.label, verdict, verdict.scores, whole, settings.min_utility)
            misquoted = not whole and candidate.finish == "stop" and misquotes(verdict.notes)
            items[key] = Item(candidate, words, verdict.scores, verdict.refused, kind, whole, misquoted)
            continue
        left_out.append(LeftOut(candidate.id, reason))
    return list(items.values()), left_out


def _cause(verdict: Verdict) -> str:
    """Why it has no scores; what an engine gave up on, or answered in place of a completion, is told in its words."""
    if not verdict.failure:
        return "no scores"
    cause, raw = verdict.failure.cause, verdict.failure.raw
    return f"{cause}: {raw[:200]}" if cause in ("not_sampled", "nonsense") and raw else cause


def _pairs(
    group: Group, items: Sequence[Item], settings: Prefer, cap: int | None, prefer_short: bool
) -> list[Pair] | str:
    """The pairs of one group, one a kind, or why there is none."""
    if group.prompt.label == "unknown":
        return "the prompt has no label"
    if len(items) < 2:
        return f"{len(items)} of {len(group.candidates)} candidates can be compared"
    if not any(item.kind == "length" for item in items):
        items = [replace(item, kind="length") if item.only_misquotes else item for item in items]
    passing = [item for item in items if item.kind == "length"]
    if not passing:
        faults = Counter(_FAULT[item.kind] for item in items)
        return "no candidate passes: " + ", ".join(f"{faults[text]} {text}" for text in sorted(faults))
    composition = Composition(settings.composition, settings.lagrange_multiplier)
    chosen = best(passing, group.prompt.label, composition, _CLEAR_UTILITY if prefer_short else _EQUAL_UTILITY)
    kinds: tuple[PairKind, ...] = (*_ERRORS, "length", "format") if prefer_short else (*_ERRORS, "format", "length")
    found = (
        pair(group, chosen, rejected, kind, "longer, no better" if kind == "length" else _FAULT[kind])
        for kind in kinds
        if (rejected := _rejected(kind, chosen, items, settings.margin_tokens, cap))
    )
    if pairs := list(islice(found, settings.pairs_per_prompt)):
        return pairs
    if cap is not None and chosen.scores.length > cap:
        return f"the shortest that passes has {chosen.scores.length} tokens, the cap is {cap}"
    return f"no candidate is worse or longer by {settings.margin_tokens} tokens"


def _rejected(kind: PairKind, chosen: Item, items: Sequence[Item], margin: int, cap: int | None) -> Item | None:
    """The candidate to reject in a pair of this kind.

    For length the longest, which may misquote rules besides; for an error the one nearest in length to the chosen, so
    that length is not what is learnt.
    """
    pool = [item for item in items if item.kind == kind and not alike(chosen, item)]
    if kind == "length":
        if cap is not None and chosen.scores.length > cap:
            return None
        right = [*pool, *(item for item in items if item.only_misquotes)]
        longer = [item for item in right if item.scores.length >= chosen.scores.length + margin]
        return max(longer, key=lambda item: item.scores.length, default=None)
    if kind == "utility":
        pool = [item for item in pool if item.scores.utility <= chosen.scores.utility - _CLEAR_UTILITY]
    return min(pool, key=lambda item: abs(item.scores.length - chosen.scores.length), default=None)


def alike(one: Item, other: Item) -> bool:
    """Whether two texts have nearly all their words in common (Dice of word counts)."""
    a, b = one.words, other.words
    least = _ALIKE * (len(a) + len(b))
    # At most all words of the shorter are common: most texts differ enough in length to say so without a look at them.
    return 2 * min(len(a), len(b)) >= least and 2 * (Counter(a) & Counter(b)).total() >= least


def pair(group: Group, chosen: Item, rejected: Item, kind: PairKind, fault: str) -> Pair:
    """The pair of two candidates of a group; `fault` says in words what is wrong with the rejected one."""
    return Pair(
        id=identity("pair", kind, chosen.candidate.id, rejected.candidate.id),
        prompt_id=group.prompt.id,
        prompt_ids=group.prompt_ids,
        prefix_ids=(),
        chosen_ids=chosen.candidate.token_ids,
        rejected_ids=rejected.candidate.token_ids,
        weight=1.0,
        kind=kind,
        reason=f"rejected: {fault}; tokens {chosen.scores.length} over {rejected.scores.length}",
        # A refusal is shorter than an answer: charged for length in pairs of errors too, a policy learns to refuse.
        length_weight=float(kind == "length"),
    )


def median_passing_length(groups: Iterable[Group], min_utility: float, traced: bool = True) -> dict[str, float]:
    """Median length in tokens of the candidates that pass, by label; a label without any is absent."""
    lengths: dict[str, list[int]] = {}
    for group in groups:
        for candidate, verdict in zip(group.candidates, group.verdicts, strict=True):
            if verdict.scores and passes(group.prompt, candidate, verdict, min_utility, traced):
                lengths.setdefault(group.prompt.label, []).append(verdict.scores.length)
    return {label: float(median(lengths[label])) for label in sorted(lengths)}


def next_cap(lengths: Mapping[str, float], cap_ratio: float, cap_min: int) -> dict[str, int]:
    """The length cap of a round by label, in tokens: a share of the last round's median, at least `cap_min`.

    One for each label, since an answer is longer than a refusal and one cap for both would punish answering.
    """
    return {label: max(cap_min, int(cap_ratio * length)) for label, length in lengths.items()}
