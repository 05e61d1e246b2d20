"""Pairs from judged groups: which candidate wins over which, why a group gives none, and what never happens."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from judged import group, judged, prompt

from erpo_ray import pairs as pairing
from erpo_ray.config import Prefer
from erpo_ray.items import passes
from erpo_ray.judging.ensemble import DISAGREEMENT
from erpo_ray.offpolicy import negative_pairs, sample_negatives
from erpo_ray.pairs import choose, median_passing_length, next_cap
from erpo_ray.types import Axes, Example, Group, Label, LeftOut, Pair

HARMFUL, BENIGN = prompt("h", "harmful"), prompt("b", "benign")
SETTINGS = Prefer(margin_tokens=12, min_utility=0.0, max_pairs=160)


def pairs(
    *groups: Group, config: Prefer = SETTINGS, short: bool = False, cap: dict[str, int] | None = None
) -> list[Pair]:
    return choose(groups, config, cap=cap or {}, prefer_short=short, seed=1)[0]


def reasons(
    *groups: Group, config: Prefer = SETTINGS, short: bool = False, cap: dict[str, int] | None = None
) -> list[str]:
    found, left_out = choose(groups, config, cap=cap or {}, prefer_short=short, seed=1)
    assert not found
    return [left.reason for left in left_out]


def test_refused_over_complied() -> None:
    good = judged(HARMFUL, 0, "I refuse to do it", tokens=50, utility=0.8)
    bad = judged(HARMFUL, 1, "take the key", tokens=40, safety=-1, utility=-1)
    [pair] = pairs(group(HARMFUL, bad, good))
    assert (pair.kind, pair.prompt_id, pair.prompt_ids) == ("safety", "h", (1, 2, 3, 4, 5))
    assert (pair.chosen_ids, pair.rejected_ids) == (good[0].token_ids, bad[0].token_ids)
    assert (pair.prefix_ids, pair.weight) == ((), 1.0)
    assert pair.reason == "rejected: complied with harm; tokens 50 over 40"


def test_answered_over_refused() -> None:
    good = judged(BENIGN, 0, "compare both of them", tokens=60, utility=0.4)
    bad = judged(BENIGN, 1, "no I refuse", tokens=20, utility=-1, refused=True)
    [pair] = pairs(group(BENIGN, good, bad))
    assert (pair.kind, pair.chosen_ids, pair.rejected_ids) == ("over_refusal", good[0].token_ids, bad[0].token_ids)


def test_useful_over_useless_needs_a_clear_difference() -> None:
    good = judged(BENIGN, 0, "compare both of them", tokens=60, utility=0.1)
    bad = judged(BENIGN, 1, "well yes", tokens=60, utility=-0.5)
    near = judged(BENIGN, 2, "who knows", tokens=60, utility=-0.1)
    [pair] = pairs(group(BENIGN, good, bad))
    assert (pair.kind, pair.chosen_ids, pair.rejected_ids) == ("utility", good[0].token_ids, bad[0].token_ids)
    assert reasons(group(BENIGN, good, near)) == ["no candidate is worse or longer by 12 tokens"]


def test_short_over_long_among_equals() -> None:
    short = judged(BENIGN, 0, "one two", tokens=40, utility=0.7)
    best = judged(BENIGN, 1, "three four", tokens=51, utility=0.8)
    long = judged(BENIGN, 2, "five six", tokens=52, utility=0.6)
    [pair] = pairs(group(BENIGN, short, best, long))
    assert (pair.kind, pair.chosen_ids, pair.rejected_ids) == ("length", short[0].token_ids, long[0].token_ids)
    assert pair.reason == "rejected: longer, no better; tokens 40 over 52"
    assert reasons(group(BENIGN, short, best)) == ["no candidate is worse or longer by 12 tokens"]


def test_a_round_about_length_gives_more_utility_for_it_but_not_any() -> None:
    short = judged(BENIGN, 0, "one two", tokens=40, utility=0.65)
    empty = judged(BENIGN, 3, "seven", tokens=20, utility=0.55)
    good = judged(BENIGN, 1, "three four", tokens=60, utility=0.9)
    long = judged(BENIGN, 2, "five six", tokens=90, utility=0.9)
    [pair] = pairs(group(BENIGN, short, good, long))
    assert (pair.chosen_ids, pair.rejected_ids) == (good[0].token_ids, long[0].token_ids)
    [pair] = pairs(group(BENIGN, short, good, long, empty), short=True)
    assert (pair.chosen_ids, pair.rejected_ids) == (short[0].token_ids, long[0].token_ids)


def test_of_equally_short_ones_the_more_useful_is_chosen() -> None:
    long = judged(BENIGN, 2, "five six", tokens=90)
    for utilities in ((0.7, 0.8), (0.8, 0.7)):
        rows = [judged(BENIGN, n, f"text {n}", tokens=40, utility=utility) for n, utility in enumerate(utilities)]
        [pair] = pairs(group(BENIGN, *rows, long), short=True)
        assert pair.chosen_ids == rows[utilities.index(0.8)][0].token_ids


def test_a_broken_trace_or_no_answer_is_rejected_but_never_chosen() -> None:
    good = judged(HARMFUL, 0, "one two", tokens=50)
    broken = judged(HARMFUL, 1, "three four", tokens=30, well_formed=False)
    endless = judged(HARMFUL, 2, "five six", tokens=160, safety=-1, finish="length", unfinished=True)
    cut = judged(HARMFUL, 3, "seven eight", tokens=160, finish="length")
    for bad in (broken, endless, cut):
        [pair] = pairs(group(HARMFUL, bad, good))
        assert (pair.kind, pair.chosen_ids) == ("format", good[0].token_ids)
    assert reasons(group(HARMFUL, broken, endless, cut)) == ["no candidate passes: 3 ill formed or unfinished"]


def test_a_method_without_traces_chooses_any_answer_that_ended() -> None:
    plain = judged(HARMFUL, 0, "one two", tokens=50, well_formed=False)
    unsafe = judged(HARMFUL, 1, "three four", tokens=50, safety=-1, well_formed=False)
    cut = judged(HARMFUL, 2, "five six", tokens=50, finish="length", well_formed=False)
    at = [group(HARMFUL, plain, unsafe, cut)]
    found, _ = choose(at, SETTINGS, cap={}, prefer_short=False, seed=1, traced=False)
    assert [(pair.kind, pair.chosen_ids, pair.rejected_ids) for pair in found] == [
        ("safety", plain[0].token_ids, unsafe[0].token_ids)
    ]
    assert choose(at, SETTINGS, cap={}, prefer_short=False, seed=1)[0] == []
    assert passes(HARMFUL, *plain, 0.0, traced=False) and not passes(HARMFUL, *cut, 0.0, traced=False)
    assert median_passing_length(at, 0.0, traced=False) == {"harmful": 50}


def test_an_error_is_rejected_at_the_length_of_the_chosen() -> None:
    good = judged(HARMFUL, 0, "one two", tokens=50)
    far = judged(HARMFUL, 1, "three four", tokens=90, safety=-1)
    near = judged(HARMFUL, 2, "five six", tokens=55, safety=-1)
    [pair] = pairs(group(HARMFUL, good, far, near))
    assert pair.rejected_ids == near[0].token_ids


def test_several_pairs_a_prompt_are_of_different_kinds() -> None:
    rows = (
        judged(HARMFUL, 0, "one two", tokens=50),
        judged(HARMFUL, 1, "three four", tokens=70),
        judged(HARMFUL, 2, "five six", tokens=50, safety=-1),
        judged(HARMFUL, 3, "seven eight", tokens=50, safety=-1),
        judged(HARMFUL, 4, "nine ten", tokens=50, well_formed=False),
    )
    config = SETTINGS.model_copy(update={"pairs_per_prompt": 3})
    assert Counter(pair.kind for pair in pairs(group(HARMFUL, *rows), config=config)) == {
        "safety": 1, "format": 1, "length": 1
    }  # fmt: skip
    assert [pair.kind for pair in pairs(group(HARMFUL, *rows))] == ["safety"]
    rounds = pairs(group(HARMFUL, *rows), config=config.model_copy(update={"pairs_per_prompt": 2}), short=True)
    assert {pair.kind for pair in rounds} == {"safety", "length"}
    assert {pair.kind: pair.length_weight for pair in rounds} == {"safety": 0.0, "length": 1.0}


def test_the_cap_binds_length_pairs_only() -> None:
    short, long = judged(BENIGN, 0, "one two", tokens=40), judged(BENIGN, 1, "three four", tokens=70)
    refusal = judged(BENIGN, 2, "five six", tokens=20, refused=True, utility=-1)
    assert [pair.kind for pair in pairs(group(BENIGN, short, long), short=True, cap={"benign": 40, "harmful": 10})] == [
        "length"
    ]
    assert reasons(group(BENIGN, short, long), short=True, cap={"benign": 39}) == [
        "the shortest that passes has 40 tokens, the cap is 39"
    ]
    assert [pair.kind for pair in pairs(group(BENIGN, short, refusal), short=True, cap={"benign": 30})] == [
        "over_refusal"
    ]


def test_every_group_without_a_pair_has_its_reason() -> None:
    unsafe = [judged(HARMFUL, n, f"text {n}", tokens=40, safety=-1) for n in range(2)]
    refusals = [judged(BENIGN, n, f"text {n}", tokens=40, refused=True, utility=-1) for n in range(2)]
    assert reasons(group(HARMFUL, *unsafe)) == ["no candidate passes: 2 complied with harm"]
    assert reasons(group(BENIGN, *refusals)) == ["no candidate passes: 2 refused the harmless"]
    assert reasons(group(BENIGN, judged(BENIGN, 0, "a", tokens=9))) == ["1 of 1 candidates can be compared"]
    unknown = prompt("u", "unknown")
    assert reasons(group(unknown, *(judged(unknown, n, f"text {n}", tokens=9 * n + 9) for n in range(3)))) == [
        "the prompt has no label"
    ]


def test_candidates_that_cannot_be_compared_are_named() -> None:
    good = judged(HARMFUL, 0, "one two", tokens=20)
    twin = judged(HARMFUL, 1, "One  two", tokens=45)
    failed = judged(HARMFUL, 2, "three", tokens=20, failure="lone_surrogate")
    long = judged(HARMFUL, 3, "four", tokens=60, safety=-1)
    stray = judged(HARMFUL, 4, "five", tokens=20, safety=-1)
    stray = (stray[0], replace(stray[1], candidate_id="other"))
    rows = group(HARMFUL, twin, failed, long, stray, good)
    found, left_out = choose([rows], SETTINGS, cap={}, prefer_short=False, seed=1, max_tokens=64)
    assert found == []
    assert sorted(left_out, key=lambda left: left.reason) == [
        LeftOut("h", "1 of 5 candidates can be compared"),
        LeftOut(long[0].id, "65 tokens with the prompt, the limit is 64"),
        LeftOut(stray[0].id, "its verdict belongs to other"),
        LeftOut(failed[0].id, "not judged: lone_surrogate"),
        LeftOut(twin[0].id, f"says the same as {good[0].id}"),
    ]


def test_what_judges_disagree_on_or_measure_in_part_makes_no_pair() -> None:
    good, bad = judged(HARMFUL, 0, "one two", tokens=20), judged(HARMFUL, 1, "three", tokens=20, safety=-1)
    note = f"{DISAGREEMENT}:safety:unsafe=guard:safe=rules"
    doubted = (good[0], replace(good[1], notes=("veto:guard", note, "rules:disagreement")))
    assert sorted(reasons(group(HARMFUL, doubted, bad))) == [
        "1 of 2 candidates can be compared",
        "the judges disagree: safety:unsafe=guard:safe=rules",
    ]
    noted = (good[0], replace(good[1], notes=("rules:disagreement",)))
    assert len(pairs(group(HARMFUL, noted, bad))) == 1
    part = (good[0], replace(good[1], scores=None, partial=Axes(safety=1.0)))
    assert "not judged: no scores" in reasons(group(HARMFUL, part, bad))
    assert not passes(HARMFUL, *part, min_utility=-1.0)


def test_near_equal_texts_make_no_pair() -> None:
    words = " ".join(f"word{n}" for n in range(100))
    good = judged(HARMFUL, 0, words, tokens=50)
    bad = judged(HARMFUL, 1, words + " more", tokens=50, well_formed=False)
    assert reasons(group(HARMFUL, good, bad)) == ["no candidate is worse or longer by 12 tokens"]


def error_groups(harmful: int, benign: int) -> list[Group]:
    """Groups of one good and one bad candidate: `harmful` safety pairs and `benign` over-refusal pairs."""
    groups = []
    for n in range(harmful):
        at = prompt(f"h{n}", "harmful")
        groups.append(group(at, judged(at, 0, "one two", tokens=30), judged(at, 1, "three four", tokens=30, safety=-1)))
    for n in range(benign):
        at = prompt(f"b{n}", "benign")
        bad = judged(at, 1, "three four", tokens=30, refused=True, utility=-1)
        groups.append(group(at, judged(at, 0, "one two", tokens=30), bad))
    return groups


@pytest.mark.parametrize(
    ("harmful", "benign", "max_pairs", "kept"),
    [
        (30, 30, 20, {"safety": 10, "over_refusal": 10}),
        (60, 10, 40, {"safety": 20, "over_refusal": 10}),
        (10, 60, 40, {"safety": 10, "over_refusal": 20}),
        (60, 1, 40, {"safety": 5, "over_refusal": 1}),
        (60, 0, 40, {"safety": 40}),
    ],
)
def test_no_kind_of_error_floods(harmful: int, benign: int, max_pairs: int, kept: dict[str, int]) -> None:
    config = SETTINGS.model_copy(update={"max_pairs": max_pairs})
    found, left_out = choose(error_groups(harmful, benign), config, cap={}, prefer_short=False, seed=1)
    assert Counter(pair.kind for pair in found) == kept
    assert len(left_out) == harmful + benign - len(found)
    assert {left.reason for left in left_out} <= {
        "a surplus safety pair: kept out for balance", "a surplus over_refusal pair: kept out for balance"
    }  # fmt: skip


def test_a_round_about_length_takes_as_many_of_one_error_as_of_the_other() -> None:
    config = SETTINGS.model_copy(update={"max_pairs": 40})
    for harmful, benign, kept in (
        (30, 8, {"safety": 8, "over_refusal": 8}),
        (8, 30, {"safety": 8, "over_refusal": 8}),
        (30, 1, {"safety": 5, "over_refusal": 1}),
    ):
        found, _ = choose(error_groups(harmful, benign), config, cap={}, prefer_short=True, seed=1)
        assert Counter(pair.kind for pair in found) == kept


def test_pairs_of_broken_form_count_with_the_error_that_their_chosen_side_pulls_away_from() -> None:
    groups = error_groups(4, 30)
    for n in range(8):
        at = prompt(f"f{n}", "harmful")
        broken = judged(at, 1, "three four", tokens=30, well_formed=False)
        groups.append(group(at, judged(at, 0, "one two", tokens=30), broken))
    config = SETTINGS.model_copy(update={"max_pairs": 40})
    found, _ = choose(groups, config, cap={}, prefer_short=True, seed=1)
    assert Counter(pair.kind for pair in found) == {"safety": 4, "format": 8, "over_refusal": 12}


def test_where_none_passes_those_stand_in_that_only_misquote() -> None:
    told = ("unknown_rule:drugs.9",)
    quoting = judged(BENIGN, 0, "one two", tokens=30, well_formed=False, notes=told)
    longer = judged(BENIGN, 1, "three four", tokens=60, well_formed=False, notes=told)
    refusal = judged(BENIGN, 2, "five six", tokens=30, utility=-1.0, refused=True)
    two = SETTINGS.model_copy(update={"pairs_per_prompt": 2})
    found = pairs(group(BENIGN, quoting, longer, refusal), config=two)
    assert {(pair.kind, pair.chosen_ids, pair.rejected_ids) for pair in found} == {
        ("over_refusal", quoting[0].token_ids, refusal[0].token_ids),
        ("length", quoting[0].token_ids, longer[0].token_ids),
    }
    passing = judged(BENIGN, 3, "seven eight", tokens=30)
    (long,) = pairs(group(BENIGN, longer, passing), short=True)
    assert (long.kind, long.chosen_ids, long.rejected_ids) == ("length", passing[0].token_ids, longer[0].token_ids)
    assert {pair.chosen_ids for pair in pairs(group(BENIGN, quoting, refusal, passing))} == {passing[0].token_ids}
    contradicting = judged(BENIGN, 4, "nine ten", tokens=30, well_formed=False, notes=("intent_disagrees", *told))
    assert pairs(group(BENIGN, contradicting, refusal)) == []


def test_kinds_take_turns_within_a_label() -> None:
    groups = error_groups(0, 40)
    for n in range(40):
        at = prompt(f"l{n}", "benign")
        groups.append(group(at, judged(at, 0, "one two", tokens=30), judged(at, 1, "three four", tokens=60)))
    config = SETTINGS.model_copy(update={"max_pairs": 20})
    assert Counter(pair.kind for pair in pairs(*groups, config=config)) == {"over_refusal": 10, "length": 10}


def test_a_round_about_length_takes_length_every_other_time() -> None:
    groups = error_groups(40, 40)
    for label in ("harmful", "benign"):
        for n in range(40):
            at = prompt(f"l{label}{n}", label)
            groups.append(group(at, judged(at, 0, "one two", tokens=30), judged(at, 1, "three four", tokens=60)))
            format_ = judged(at, 1, "three four", tokens=30, well_formed=False)
            at = prompt(f"f{label}{n}", label)
            groups.append(group(at, judged(at, 0, "one two", tokens=30), format_))
    config = SETTINGS.model_copy(update={"max_pairs": 24})
    for short, length in ((False, 8), (True, 12)):
        found, _ = choose(groups, config, cap={}, prefer_short=short, seed=1)
        assert Counter(pair.kind for pair in found)["length"] == length


def test_the_seed_decides_which_surplus_is_dropped() -> None:
    config = SETTINGS.model_copy(update={"max_pairs": 5})
    drawn = [choose(error_groups(20, 0), config, cap={}, prefer_short=False, seed=seed)[0] for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1]
    assert {pair.id for pair in drawn[0]} != {pair.id for pair in drawn[2]}


LABELS: st.SearchStrategy[Label] = st.sampled_from(["harmful", "benign"])
ROW: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {
        "text": st.sampled_from(["one two", "One two", "three", "four five six", "seven", "eight nine"]),
        "tokens": st.integers(1, 80),
        "safety": st.sampled_from([1.0, -1.0]),
        "utility": st.sampled_from([-1.0, -0.3, 0.0, 0.1, 0.5, 0.55, 1.0]),
        "refused": st.booleans(),
        "well_formed": st.booleans(),
        "finish": st.sampled_from(["stop", "length"]),
        "unfinished": st.booleans(),
        "failure": st.sampled_from(["", "", "", "empty_tokens"]),
    }
)


@st.composite
def judged_groups(draw: st.DrawFn) -> list[Group]:
    groups = []
    for n, label in enumerate(draw(st.lists(LABELS, max_size=6))):
        at = prompt(f"p{n}", label)
        rows = draw(st.lists(ROW, max_size=6))
        groups.append(group(at, *(judged(at, i, **row) for i, row in enumerate(rows))))
    return groups


@settings(max_examples=150)
@given(judged_groups(), st.booleans(), st.integers(1, 6), st.integers(1, 3), st.randoms(use_true_random=False))
def test_what_holds_for_any_groups(groups: list[Group], short: bool, most: int, each: int, random: Random) -> None:
    config = SETTINGS.model_copy(update={"max_pairs": most, "pairs_per_prompt": each})
    cap = {"benign": 40, "harmful": 30} if short else {}
    found, left_out = choose(groups, config, cap=cap, prefer_short=short, seed=7, max_tokens=75)

    shuffled = []
    for each_group in random.sample(groups, len(groups)):
        rows = list(zip(each_group.candidates, each_group.verdicts, strict=True))
        random.shuffle(rows)
        shuffled.append(group(each_group.prompt, *rows))
    assert choose(shuffled, config, cap=cap, prefer_short=short, seed=7, max_tokens=75) == (found, left_out)

    assert len(found) <= most
    assert len({pair.id for pair in found}) == len(found)
    assert {g.prompt.id for g in groups} <= {pair.prompt_id for pair in found} | {left.id for left in left_out}
    by_ids = {c.token_ids: (g.prompt, c, v) for g in groups for c, v in zip(g.candidates, g.verdicts, strict=True)}
    for pair in found:
        at, chosen, verdict = by_ids[pair.chosen_ids]
        _, rejected, other = by_ids[pair.rejected_ids]
        assert passes(at, chosen, verdict, config.min_utility)
        assert verdict.scores and other.scores and verdict.scores.safety > 0 and verdict.well_formed
        assert not (at.label == "benign" and verdict.refused)
        assert chosen.text.casefold().split() != rejected.text.casefold().split()
        assert max(len(pair.chosen_ids), len(pair.rejected_ids)) + 5 <= 75
        if pair.kind == "length":
            assert len(pair.rejected_ids) >= len(pair.chosen_ids) + config.margin_tokens
            assert len(pair.chosen_ids) <= cap.get(at.label, 80)
        else:
            assert not passes(at, rejected, other, config.min_utility)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(groups=judged_groups(), short=st.booleans(), most=st.integers(1, 3), harmful=st.integers(0, 9))
def test_pairs_that_cannot_be_kept_are_dropped_on_the_way_and_nothing_else_changes(
    monkeypatch: pytest.MonkeyPatch, groups: list[Group], short: bool, most: int, harmful: int
) -> None:
    config = SETTINGS.model_copy(update={"max_pairs": most, "pairs_per_prompt": 2})
    groups = [*error_groups(harmful, 9 - harmful), *groups]
    monkeypatch.setattr(pairing, "_ROOM", 4096)
    whole = choose(groups, config, cap={}, prefer_short=short, seed=7)
    monkeypatch.setattr(pairing, "_ROOM", 0)
    assert choose(groups, config, cap={}, prefer_short=short, seed=7) == whole


def test_median_of_what_passes_and_the_next_cap() -> None:
    groups = [
        group(HARMFUL, *(judged(HARMFUL, n, f"t{n}", tokens=tokens) for n, tokens in enumerate((40, 50, 64)))),
        group(HARMFUL, judged(HARMFUL, 5, "t", tokens=60), judged(HARMFUL, 6, "u", tokens=9, safety=-1)),
        group(BENIGN, judged(BENIGN, 0, "t", tokens=90), judged(BENIGN, 1, "u", tokens=9, utility=-0.1)),
    ]
    lengths = median_passing_length(groups, 0.0)
    assert lengths == {"harmful": 55.0, "benign": 90.0}
    assert next_cap(lengths, 0.8, 24) == {"harmful": 44, "benign": 72}
    assert next_cap(lengths, 0.3, 24) == {"harmful": 24, "benign": 27}
    assert median_passing_length([], 0.0) == {}
    assert next_cap({}, 0.8, 24) == {}


def test_negatives_pair_an_example_with_its_negatives() -> None:
    example = Example("e", "h", "refusal", (1, 2), (3, 4, 5), "text")
    rows = [(example, "compliance", (6, 7)), (example, "wrong_verdict", (3, 4, 5)), (example, "wrong_verdict", [8])]
    made = negative_pairs(rows)
    assert [(pair.kind, pair.reason, pair.rejected_ids) for pair in made] == [
        ("negative", "compliance", (6, 7)),
        ("negative", "wrong_verdict", (8,)),
    ]
    assert {(pair.prompt_id, pair.prompt_ids, pair.chosen_ids, pair.prefix_ids) for pair in made} == {
        ("h", (1, 2), (3, 4, 5), ())
    }
    assert made[0].id != made[1].id


def test_negatives_are_sampled_kinds_in_turn() -> None:
    examples = [Example(f"e{n}", f"p{n}", "refusal", (1,), (2,), "") for n in range(10)]
    made = negative_pairs((each, "compliance", (3,)) for each in examples)
    made += negative_pairs((each, "refusal", (4,)) for each in examples[:2])
    drawn = sample_negatives(made, 6, seed=3)
    assert Counter(pair.reason for pair in drawn) == {"compliance": 4, "refusal": 2}
    assert drawn == sample_negatives(made[::-1], 6, seed=3)
    assert len({pair.id for pair in drawn}) == 6
    assert sample_negatives(made, 0, seed=3) == []
    assert len(sample_negatives(made, 99, seed=3)) == 12
