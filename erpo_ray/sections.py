"""Section weights of AW-DPO, the alignment-weighted DPO that follows up on STAIR: blame the part that went wrong.

A completion is reasoning and answer. With d_k how much worse the rejected side is in part k,

    L = w_rs L_DPO(reasoning) + w_rp L_DPO(answer),   w_k = d_k / (d_rs + d_rp),

each term on the tokens of its own part. About one failure in seven is right reasoning before a wrong answer, or the
reverse; plain DPO punishes the good half with the bad.

Here d_k is 0 or 1: a part is wrong when it decides against the prompt's label, the reasoning by its verdict and the
answer by the judge. The paper's judge grades both. A term is a pair of its own (`Pair.chosen_skip` masks what stands
before it), so that the trainer knows no sections.

Assumption: a trace's verdict and its answer can be blamed apart. Edge case: a pair whose fault lies in neither, or
whose parts cannot be told apart, stays whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate

from erpo_ray import traces
from erpo_ray.types import Candidate, Group, Label, Pair, identity

Pieces = Callable[[Sequence[int]], list[str]]
_ANSWERS = ("safety", "over_refusal")
"""Kinds of pair whose rejected answer decides against the label."""


def by_section(pairs: Sequence[Pair], groups: Sequence[Group], dialect: traces.Dialect, pieces: Pieces) -> list[Pair]:
    """The pairs, those whose fault can be placed by part in place of the whole."""
    labels: dict[str, Label] = {group.prompt.id: group.prompt.label for group in groups}
    texts = {(c.prompt_id, c.token_ids): c for group in groups for c in group.candidates}
    return [part for pair in pairs for part in _parts(pair, labels, texts, dialect, pieces)]


def weights(label: Label, verdict: traces.Trace, answer_wrong: bool) -> tuple[float, float] | None:
    """(w_rs, w_rp) of a rejected completion; None when neither part decides against the label."""
    reasoning_wrong = (verdict.verdict == "refuse") != (label == "harmful")
    wrong = reasoning_wrong + answer_wrong
    return (reasoning_wrong / wrong, answer_wrong / wrong) if wrong else None


def reasoning_tokens(pieces: Sequence[str]) -> int:
    """Tokens up to the one that closes the reasoning; 0 when it is not closed."""
    end = "".join(pieces).find(traces.CLOSE)
    return sum(start < end + len(traces.CLOSE) for start in accumulate(map(len, pieces[:-1]), initial=0)) * (end >= 0)


def _parts(
    pair: Pair,
    labels: Mapping[str, Label],
    texts: Mapping[tuple[str, tuple[int, ...]], Candidate],
    dialect: traces.Dialect,
    pieces: Pieces,
) -> list[Pair]:
    rejected = texts.get((pair.prompt_id, pair.rejected_ids))
    trace = traces.parse(rejected.text, dialect) if rejected else None
    if not isinstance(trace, traces.Trace):
        return [pair]
    found = weights(labels[pair.prompt_id], trace, pair.kind in _ANSWERS)
    cuts = reasoning_tokens(pieces(pair.chosen_ids)), reasoning_tokens(pieces(pair.rejected_ids))
    sides = pair.chosen_ids, pair.rejected_ids
    if found is None or not all(0 < cut < len(side) for cut, side in zip(cuts, sides, strict=True)):
        return [pair]
    chosen, rejected_cut = cuts
    reasoning = replace(
        pair,
        id=identity(pair.id, "reasoning"),
        chosen_ids=pair.chosen_ids[:chosen],
        rejected_ids=pair.rejected_ids[:rejected_cut],
    )
    answer = replace(pair, id=identity(pair.id, "answer"), chosen_skip=chosen, rejected_skip=rejected_cut)
    return [
        replace(part, weight=pair.weight * weight, reason=f"{pair.reason}; {name} weighs {weight:g}")
        for name, part, weight in zip(("reasoning", "answer"), (reasoning, answer), found, strict=True)
        if weight
    ]
