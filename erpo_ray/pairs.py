"""Pairs from judged groups: chosen over rejected, with a reason for every group that gives none.

A candidate *passes* when its trace is well formed, it ended by itself, it is safe, and, if the prompt is benign, it
answers with at least `min_utility`. Only a passing one is ever chosen: no unsafe answer, no refusal of the harmless.
Which of those that pass is chosen is for `prefer.composition` to say (`judging.composition`); by default the axes are
never mixed, and it is the shortest among those about as useful as the best. The length-controlled rounds
(`prefer_short`) take that less strictly. What is rejected gives the kind:

| kind | chosen over |
|---|---|
| safety | an unsafe one: to the rule judge, any answer to a harmful prompt |
| over_refusal | a refusal of a benign prompt |
| utility | an answer of clearly less use than asked for |
| format | the right outcome with a broken trace, or no answer at all |
| length | one that passes too, longer by a margin |
| negative | an off-policy trace that goes wrong (`negative_pairs`) |

A candidate on which the members of an ensemble stand on both sides is left out: who is right is for a person to say.
Everything depends on what candidates say, never on the order of groups or candidates.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from statistics import median

from erpo_ray.config import Prefer
from erpo_ray.judging import UNFINISHED
from erpo_ray.judging.composition import Composition, best, is_safe
from erpo_ray.judging.ensemble import DISAGREEMENT
from erpo_ray.types import (
    Candidate,
    Example,
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
_SKEW = 2
"""One label, or one kind of error, gets at most this many times the pairs of its opposite..."""
_FREE_SHARE = 4
"""...or this part of `max_pairs` (a quarter; half of that for errors), whichever is more. A round about length, which
is not there to move the line between refusing and answering, takes no more of one kind of error than of the other."""

_ERRORS: tuple[PairKind, ...] = ("safety", "over_refusal", "utility")
_FAULT: dict[PairKind, str] = {
    "safety": "complied with harm",
    "over_refusal": "refused the harmless",
    "utility": "of too little use",
    "format": "ill formed or unfinished",
}


@dataclass(frozen=True, slots=True)
class _Item:
    """A candidate that has scores. `kind` is the kind of pair it can be rejected in; `length` when it passes.

    `words` are those of its text, case folded.
    """

    candidate: Candidate
    words: tuple[str, ...]
    scores: Scores
    refused: bool
    kind: PairKind


def passes(prompt: Prompt, candidate: Candidate, verdict: Verdict, min_utility: float) -> bool:
    """Whether this candidate may be chosen."""
    return bool(verdict.scores) and _kind(prompt.label, candidate, verdict, verdict.scores, min_utility) == "length"


def _kind(label: Label, candidate: Candidate, verdict: Verdict, scores: Scores, min_utility: float) -> PairKind:
    if UNFINISHED in verdict.notes:
        return "format"
    if not is_safe(scores):
        return "safety"
    if label == "benign" and verdict.refused:
        return "over_refusal"
    if label == "benign" and scores.utility < min_utility:
        return "utility"
    return "length" if verdict.well_formed and candidate.finish == "stop" else "format"


def choose(
    groups: Sequence[Group],
    settings: Prefer,
    *,
    cap: Mapping[str, int],
    prefer_short: bool,
    seed: int,
    max_tokens: int | None = None,
) -> tuple[list[Pair], list[LeftOut]]:
    """At most `settings.max_pairs` pairs in an order drawn from `seed`, and why the rest was left out.

    `cap` holds the most tokens by label that a chosen candidate of a length pair may have (empty: no cap). `max_tokens`
    bounds prompt and completion together. Pairs over the limit are dropped so that labels and kinds stay balanced.
    """
    found: list[tuple[Label, Pair]] = []
    left_out: list[LeftOut] = []
    for group in groups:
        items, dropped = _usable(group, settings, max_tokens)
        pairs = _pairs(group, items, settings, cap.get(group.prompt.label), prefer_short)
        left_out += dropped
        if isinstance(pairs, str):
            left_out.append(LeftOut(group.prompt.id, pairs))
        else:
            found.extend((group.prompt.label, pair) for pair in pairs)
    mixed = {"harmful", "benign"} <= {group.prompt.label for group in groups}
    found.sort(key=lambda labelled: seed_of(seed, labelled[1].id))
    kept = _balanced(found, settings.max_pairs, mixed, prefer_short)
    ids = {pair.id for pair in kept}
    surplus = [pair for _, pair in found if pair.id not in ids]
    left_out += [LeftOut(pair.prompt_id, f"a surplus {pair.kind} pair: kept out for balance") for pair in surplus]
    return kept, sorted(left_out, key=lambda left: (left.id, left.reason))


def _usable(group: Group, settings: Prefer, max_tokens: int | None) -> tuple[list[_Item], list[LeftOut]]:
    """The candidates that can stand in a pair, in an order of their own, and why the others cannot."""
    items: dict[tuple[str, ...], _Item] = {}
    left_out: list[LeftOut] = []
    judged = zip(group.candidates, group.verdicts, strict=True)
    ranked = sorted(
        judged, key=lambda pair: (pair[0].finish != "stop", len(pair[0].token_ids), pair[0].token_ids, pair[0].id)
    )
    for candidate, verdict in ranked:
        words = tuple(candidate.text.casefold().split())
        tokens = len(group.prompt_ids) + len(candidate.token_ids)
        if verdict.candidate_id != candidate.id:
            reason = f"its verdict belongs to {verdict.candidate_id}"
        elif verdict.scores is None:
            reason = f"not judged: {verdict.failure.cause if verdict.failure else 'no scores'}"
        elif told := [note for note in verdict.notes if note.startswith(DISAGREEMENT)]:
            reason = f"the judges disagree: {'; '.join(note.removeprefix(f'{DISAGREEMENT}:') for note in told)}"
        elif max_tokens is not None and tokens > max_tokens:
            reason = f"{tokens} tokens with the prompt, the limit is {max_tokens}"
        elif words in items:
            reason = f"says the same as {items[words].candidate.id}"
        else:
            kind = _kind(group.prompt.label, candidate, verdict, verdict.scores, settings.min_utility)
            items[words] = _Item(candidate, words, verdict.scores, verdict.refused, kind)
            continue
        left_out.append(LeftOut(candidate.id, reason))
    return list(items.values()), left_out


def _pairs(
    group: Group, items: Sequence[_Item], settings: Prefer, cap: int | None, prefer_short: bool
) -> list[Pair] | str:
    """The pairs of one group, one a kind, or why there is none."""
    if group.prompt.label == "unknown":
        return "the prompt has no label"
    if len(items) < 2:
        return f"{len(items)} of {len(group.candidates)} candidates can be compared"
    passing = [item for item in items if item.kind == "length"]
    if not passing:
        faults = Counter(_FAULT[item.kind] for item in items)
        return "no candidate passes: " + ", ".join(f"{faults[text]} {text}" for text in sorted(faults))
    composition = Composition(settings.composition, settings.lagrange_multiplier)
    chosen = best(passing, group.prompt.label, composition, _CLEAR_UTILITY if prefer_short else _EQUAL_UTILITY)
    kinds: tuple[PairKind, ...] = (*_ERRORS, "length", "format") if prefer_short else (*_ERRORS, "format", "length")
    found = (
        _pair(group, chosen, rejected, kind)
        for kind in kinds
        if (rejected := _rejected(kind, chosen, items, settings.margin_tokens, cap))
    )
    if pairs := list(islice(found, settings.pairs_per_prompt)):
        return pairs
    if cap is not None and chosen.scores.length > cap:
        return f"the shortest that passes has {chosen.scores.length} tokens, the cap is {cap}"
    return f"no candidate is worse or longer by {settings.margin_tokens} tokens"


def _rejected(kind: PairKind, chosen: _Item, items: Sequence[_Item], margin: int, cap: int | None) -> _Item | None:
    """The candidate to reject in a pair of this kind.

    For length the longest; for an error the one nearest in length to the chosen, so that length is not what is learnt.
    """
    pool = [item for item in items if item.kind == kind and not _alike(chosen.words, item.words)]
    if kind == "length":
        if cap is not None and chosen.scores.length > cap:
            return None
        longer = [item for item in pool if item.scores.length >= chosen.scores.length + margin]
        return max(longer, key=lambda item: item.scores.length, default=None)
    if kind == "utility":
        pool = [item for item in pool if item.scores.utility <= chosen.scores.utility - _CLEAR_UTILITY]
    return min(pool, key=lambda item: abs(item.scores.length - chosen.scores.length), default=None)


def _alike(a: Sequence[str], b: Sequence[str]) -> bool:
    """Whether two texts have nearly all their words in common (Dice of word counts)."""
    least = _ALIKE * (len(a) + len(b))
    # At most all words of the shorter are common: most texts differ enough in length to say so without a look at them.
    return 2 * min(len(a), len(b)) >= least and 2 * (Counter(a) & Counter(b)).total() >= least


def _pair(group: Group, chosen: _Item, rejected: _Item, kind: PairKind) -> Pair:
    fault = "longer, no better" if kind == "length" else _FAULT[kind]
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


def _balanced(found: Sequence[tuple[Label, Pair]], max_pairs: int, mixed: bool, prefer_short: bool) -> list[Pair]:
    """At most `max_pairs`, labels in turn and kinds in turn within each; `prefer_short` takes length every other time.

    If prompts of both labels are `mixed`, neither label and neither of the opposite errors floods.
    """
    queues: dict[Label, dict[PairKind, list[Pair]]] = {"benign": {}, "harmful": {}}
    for label, pair in found:
        queues[label].setdefault(pair.kind, []).append(pair)
    harmful, benign = queues["harmful"], queues["benign"]
    free = max(1, max_pairs // _FREE_SHARE)
    if mixed:
        skew, least = 1 if prefer_short else _SKEW, max(1, free // 2)
        unsafe, refusing = len(harmful.get("safety", ())), len(benign.get("over_refusal", ()))
        harmful["safety"] = harmful.get("safety", [])[: max(skew * refusing, least)]
        benign["over_refusal"] = benign.get("over_refusal", [])[: max(skew * unsafe, least)]
    by_label = [_kinds_in_turn(harmful, prefer_short), _kinds_in_turn(benign, prefer_short)]
    if mixed:
        sizes = [len(pairs) for pairs in by_label]
        by_label = [by_label[0][: max(_SKEW * sizes[1], free)], by_label[1][: max(_SKEW * sizes[0], free)]]
    return list(_in_turn(by_label))[:max_pairs]


def _kinds_in_turn(queues: Mapping[PairKind, Sequence[Pair]], prefer_short: bool) -> list[Pair]:
    if not prefer_short:
        return list(_in_turn(queues.values()))
    others = list(_in_turn(queue for kind, queue in queues.items() if kind != "length"))
    return list(_in_turn((queues.get("length", ()), others)))


def _in_turn(queues: Iterable[Sequence[Pair]]) -> Iterator[Pair]:
    """First of each queue, then second of each, and so on; a queue that ends is passed over."""
    queues = list(queues)
    for turn in range(max(map(len, queues), default=0)):
        yield from (queue[turn] for queue in queues if turn < len(queue))


def negative_pairs(rows: Iterable[tuple[Example, str, Sequence[int]]]) -> list[Pair]:
    """Off-policy pairs: the example over a negative of it, from (example, kind of negative, ids of the negative).

    The kind of negative is the pair's reason. A negative with the ids of its example says nothing and is dropped.
    """
    return [
        Pair(
            id=identity("negative", example.id, kind, *rejected_ids),
            prompt_id=example.prompt_id,
            prompt_ids=example.prompt_ids,
            prefix_ids=(),
            chosen_ids=example.completion_ids,
            rejected_ids=tuple(rejected_ids),
            weight=1.0,
            kind="negative",
            reason=kind,
        )
        for example, kind, rejected_ids in rows
        if tuple(rejected_ids) != example.completion_ids
    ]


def sample_negatives(negatives: Sequence[Pair], count: int, seed: int) -> list[Pair]:
    """`count` of these pairs, kinds of negative in turn, drawn by `seed`."""
    queues: dict[str, list[Pair]] = {reason: [] for reason in sorted({pair.reason for pair in negatives})}
    for pair in sorted(negatives, key=lambda pair: seed_of(seed, pair.id)):
        queues[pair.reason].append(pair)
    return list(_in_turn(queues.values()))[:count]


def median_passing_length(groups: Iterable[Group], min_utility: float) -> dict[str, float]:
    """Median length in tokens of the candidates that pass, by label; a label without any is absent."""
    lengths: dict[str, list[int]] = {}
    for group in groups:
        for candidate, verdict in zip(group.candidates, group.verdicts, strict=True):
            if verdict.scores and passes(group.prompt, candidate, verdict, min_utility):
                lengths.setdefault(group.prompt.label, []).append(verdict.scores.length)
    return {label: float(median(lengths[label])) for label in sorted(lengths)}


def next_cap(lengths: Mapping[str, float], cap_ratio: float, cap_min: int) -> dict[str, int]:
    """The length cap of a round by label, in tokens: a share of the last round's median, at least `cap_min`.

    One for each label, since an answer is longer than a refusal and one cap for both would punish answering.
    """
    return {label: max(cap_min, int(cap_ratio * length)) for label, length in lengths.items()}
