"""Several judges: what they say together, when they say nothing, and what a person is asked to look at."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from erpo_ray.config.judges import JudgeEnsemble, JudgeGuard, JudgeMember, JudgeReward, JudgeRules
from erpo_ray.errors import UsageError
from erpo_ray.judging import UNFINISHED
from erpo_ray.judging.ensemble import (
    DISAGREEMENT,
    Committee,
    Ensemble,
    Member,
    Named,
    Review,
    axes_of,
    committee_of,
    join,
    reviews,
)
from erpo_ray.types import Axes, Candidate, Failure, Prompt, Scores, Verdict, decode, encode

CANDIDATE = Candidate("c", "p", 0, (1, 2, 3), "an answer", "stop", "v1")


def member(judge: str, safety: float = 1.0, utility: float = 1.0, veto: bool = False) -> Member:
    return Member(judge, safety, utility, veto)


def of(members: tuple[Member, ...], quorum: int = 1, spread: float = 1.0) -> Committee:
    return Committee(members, quorum, spread)


THREE = of((member("rules"), member("guard", veto=True), member("reward", safety=0.0)))


def full(judge: str, safety: float, utility: float, refused: bool = False, **more: object) -> Verdict:
    return replace(Verdict("c", judge, Scores(safety, utility, 3), refused=refused), **more)


def part(judge: str, safety: float | None = None, utility: float | None = None, refused: bool | None = None) -> Verdict:
    return Verdict("c", judge, partial=Axes(safety, utility, refused))


def failed(judge: str, cause: str = "timeout", raw: str = "raw") -> Verdict:
    return Verdict("c", judge, failure=Failure(cause, raw))


def scores(verdict: Verdict) -> Scores:
    assert verdict.scores is not None
    return verdict.scores


def test_axes_are_joined_from_those_that_measure_them() -> None:
    verdicts = [full("rules", 1.0, 0.5, well_formed=True), part("guard", 0.6), part("reward", utility=-0.1)]
    verdict = join(CANDIDATE, verdicts, THREE)
    assert scores(verdict) == Scores(pytest.approx(0.8), pytest.approx(0.2), 3)
    assert (verdict.candidate_id, verdict.judge, verdict.well_formed, verdict.notes) == ("c", "ensemble", True, ())
    assert decode(encode(verdict), Verdict) == verdict


def test_weights_count() -> None:
    committee = of((member("a", safety=3.0, utility=1.0), member("b", safety=1.0, utility=3.0)))
    verdict = join(CANDIDATE, [full("a", 1.0, 1.0), full("b", 0.2, 0.2)], committee)
    assert scores(verdict) == Scores(pytest.approx(0.8), pytest.approx(0.4), 3)


def test_an_axis_that_none_measures_stays_open() -> None:
    two = of((member("guard"), member("other")))
    verdict = join(CANDIDATE, [part("guard", 0.5, refused=True), part("other", 0.7)], two)
    assert (verdict.scores, verdict.failure) == (None, None)
    assert verdict.partial == Axes(pytest.approx(0.6), None, True)
    assert verdict.refused
    weightless = of((member("guard", utility=0.0), member("other")))
    assert join(CANDIDATE, [full("guard", 1.0, 1.0), part("other", 1.0)], weightless).scores is None


def test_a_failure_is_no_opinion() -> None:
    verdict = join(CANDIDATE, [full("rules", 0.4, 0.5), failed("guard"), failed("reward", "bad")], THREE)
    assert scores(verdict) == Scores(0.4, 0.5, 3)
    assert verdict.notes == ("failed:guard:timeout", "failed:reward:bad")


def test_too_few_verdicts_are_a_failure_with_every_cause() -> None:
    two = replace(THREE, quorum=2)
    verdict = join(CANDIDATE, [full("rules", 1.0, 1.0), failed("reward", "bad", "x"), failed("guard")], two)
    assert (verdict.scores, verdict.partial) == (None, None)
    assert verdict.failure == Failure("no_quorum", "guard: timeout: raw; reward: bad: x")
    assert join(CANDIDATE, [full("rules", 1.0, 1.0), part("guard", 1.0), failed("reward")], two).scores
    empty = [Verdict("c", "rules"), failed("guard"), failed("reward")]
    assert join(CANDIDATE, empty, THREE).failure == Failure(
        "no_quorum", "guard: timeout: raw; reward: timeout: raw; rules: said_nothing: "
    )


def test_a_veto_holds_safety_down_and_is_named() -> None:
    verdict = join(CANDIDATE, [full("rules", 1.0, 0.5), part("guard", -0.2), part("reward", utility=0.5)], THREE)
    assert scores(verdict).safety == -0.2
    assert verdict.notes == ("veto:guard", "disagreement:safety:unsafe=guard:safe=rules")
    worse = join(CANDIDATE, [full("rules", -1.0, 0.5), part("guard", -0.2), part("reward")], THREE)
    assert scores(worse).safety == pytest.approx(-0.6)
    on_the_line = join(CANDIDATE, [full("rules", 1.0, 0.5), part("guard", 0.0), part("reward")], THREE)
    assert scores(on_the_line).safety == 0.0


def test_a_veto_without_weight_still_counts() -> None:
    committee = of((member("rules"), member("guard", safety=0.0, veto=True)))
    assert scores(join(CANDIDATE, [full("rules", 1.0, 1.0), part("guard", -1.0)], committee)).safety == -1.0


def test_disagreement_is_told_with_both_sides() -> None:
    committee = of((member("a"), member("b"), member("z")))
    verdicts = [full("z", 1.0, 0.0, refused=True), part("a", -0.6, refused=False), part("b", 0.8)]
    assert join(CANDIDATE, verdicts, committee).notes == (
        "disagreement:safety:unsafe=a:safe=b,z",
        "disagreement:refusal:answered=a:refused=z",
    )


def test_most_decide_on_refusal_and_a_tie_is_none() -> None:
    committee = of((member("a"), member("b"), member("z")))
    yes, no = {"refused": True}, {"refused": False}
    assert join(CANDIDATE, [part("a", 1.0, **yes), part("b", 1.0, **yes), part("z", 1.0, **no)], committee).refused
    assert not join(CANDIDATE, [part("a", 1.0, **yes), part("b", 1.0, **no), part("z", 1.0)], committee).refused


def test_notes_of_members_keep_their_names_and_unfinished_stays_what_it_is() -> None:
    verdicts = [full("rules", -1.0, -1.0, notes=(UNFINISHED,)), replace(part("guard", -1.0), notes=("category:fraud",))]
    verdict = join(CANDIDATE, verdicts, of((member("guard"), member("rules"))))
    assert verdict.notes == (UNFINISHED, "guard:category:fraud")


def test_what_a_person_should_look_at() -> None:
    committee = of((member("a"), member("b")), spread=0.5)
    agree = [full("a", 0.9, 0.5), full("b", 0.5, 0.5)]
    sides = [full("b", 0.1, 0.2), full("a", -0.1, 0.2)]
    apart = [full("a", 0.9, 0.9), full("b", 0.9, 0.3)]
    rows = list(reviews([("p", CANDIDATE, agree), ("q", CANDIDATE, sides), ("r", CANDIDATE, apart)], committee))
    assert rows == [
        Review("q", "c", ("disagreement:safety:unsafe=a:safe=b",), (sides[1], sides[0])),
        Review("r", "c", ("spread:utility:0.30..0.90",), (apart[0], apart[1])),
    ]
    assert decode(encode(rows[0]), Review) == rows[0]
    assert list(reviews([("p", CANDIDATE, [failed("a"), full("b", 1.0, 1.0)])], committee)) == []


class Fixed:
    def __init__(self, *verdicts: Verdict) -> None:
        self.name, self.verdicts = verdicts[0].judge, verdicts

    def judge(self, items: object) -> list[Verdict]:
        return list(self.verdicts)


def test_an_ensemble_asks_every_judge_and_joins_item_by_item() -> None:
    other = replace(CANDIDATE, id="d")
    items = [(Prompt("p", "hi"), CANDIDATE), (Prompt("p", "hi"), other)]
    a = Fixed(full("a", 1.0, 1.0), replace(full("a", 0.0, 0.0), candidate_id="d"))
    b = Fixed(full("b", 0.5, 0.5), replace(full("b", 1.0, 1.0), candidate_id="d"))
    ensemble = Ensemble([b, a], of((member("a"), member("b"))))
    assert [(v.candidate_id, scores(v).safety) for v in ensemble.judge(items)] == [("c", 0.75), ("d", 0.5)]
    assert [[v.judge for v in verdicts] for verdicts in ensemble.opinions(items)] == [["b", "a"], ["b", "a"]]


def test_the_opinions_travel_with_the_joined_verdict() -> None:
    a, b = full("a", 1.0, 1.0), full("other", 0.5, 0.5)
    ensemble = Ensemble([Fixed(a), Named(Fixed(b), "b")], of((member("a"), member("b"))))
    (verdict,) = ensemble.judge([(Prompt("p", "hi"), CANDIDATE)])
    assert verdict == replace(join(CANDIDATE, verdict.opinions, ensemble._committee), opinions=verdict.opinions)
    assert verdict.opinions == (a, replace(b, judge="b"))
    assert decode(encode(verdict), Verdict) == verdict


def test_the_committee_is_as_configured() -> None:
    settings = JudgeEnsemble(
        members=(
            JudgeMember(judge=JudgeRules(), utility=0.5),
            JudgeMember(judge=JudgeGuard(model="m", format="generic"), veto=True),
            JudgeMember(judge=JudgeReward(model="m", axis="utility"), name="helpful"),
        ),
        quorum=2,
        spread=0.4,
    )
    rules, guard, helpful = member("rules", utility=0.5), member("generic", veto=True), member("helpful")
    assert committee_of(settings) == of((rules, guard, helpful), 2, 0.4)


def test_judges_and_members_must_be_the_same() -> None:
    with pytest.raises(UsageError, match="a, b are named, but the judges are a"):
        Ensemble([Fixed(full("a", 1.0, 1.0))], of((member("a"), member("b"))))


@pytest.mark.parametrize(
    "verdicts",
    [
        [full("a", 1.0, 1.0)],
        [full("a", 1.0, 1.0), full("a", 1.0, 1.0)],
        [full("a", 1.0, 1.0), full("x", 1.0, 1.0)],
        [full("a", 1.0, 1.0), replace(full("b", 1.0, 1.0), candidate_id="other")],
    ],
)
def test_verdicts_that_do_not_belong_are_an_error(verdicts: list[Verdict]) -> None:
    with pytest.raises(ValueError, match="candidate c: "):
        join(CANDIDATE, verdicts, of((member("a"), member("b"))))


score = st.floats(-1, 1)
maybe = st.none() | score


@st.composite
def cases(draw: st.DrawFn) -> tuple[Committee, list[Verdict]]:
    """A committee with one verdict of any kind from each member."""
    names = draw(st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=5, unique=True))
    weight = st.floats(0.01, 100)
    members = tuple(member(name, draw(weight), draw(weight), draw(st.booleans())) for name in names)
    kinds = {
        "full": lambda name: full(name, draw(score), draw(score), draw(st.booleans())),
        "part": lambda name: part(name, draw(maybe), draw(maybe), draw(st.none() | st.booleans())),
        "failed": lambda name: failed(name),
    }
    verdicts = [kinds[draw(st.sampled_from(sorted(kinds)))](name) for name in names]
    return of(members, draw(st.integers(1, len(names)))), verdicts


@given(cases(), st.randoms())
def test_the_order_of_members_and_verdicts_is_irrelevant(case: tuple[Committee, list[Verdict]], rng: object) -> None:
    committee, verdicts = case
    members, mixed = list(committee.members), list(verdicts)
    rng.shuffle(members)  # pyright: ignore[reportAttributeAccessIssue]
    rng.shuffle(mixed)  # pyright: ignore[reportAttributeAccessIssue]
    assert join(CANDIDATE, mixed, replace(committee, members=tuple(members))) == join(CANDIDATE, verdicts, committee)


def near(one: Verdict, other: Verdict) -> bool:
    """The same scores to rounding, and the same sides."""
    a, b = axes_of(one), axes_of(other)
    if a is None or b is None:
        return a is b and (one.failure is None) == (other.failure is None)
    pairs = ((a.safety, b.safety), (a.utility, b.utility))
    return a.refused == b.refused and all(x == y or x == pytest.approx(y, abs=1e-9) for x, y in pairs)


@given(cases(), st.floats(0.1, 10), st.booleans())
def test_a_judge_that_agrees_changes_nothing(case: tuple[Committee, list[Verdict]], weight: float, veto: bool) -> None:
    committee, verdicts = case
    before = join(CANDIDATE, verdicts, committee)
    said = axes_of(before)
    assume(said is not None)
    more = replace(committee, members=(*committee.members, member("new", weight, weight, veto)))
    after = join(CANDIDATE, [*verdicts, Verdict("c", "new", partial=said)], more)
    # A tie about refusal counts as none; one more vote for none only settles it.
    assert near(before, after)


@given(cases(), st.floats(-1, 0), st.floats(0, 10))
def test_a_veto_always_wins(case: tuple[Committee, list[Verdict]], safety: float, weight: float) -> None:
    committee, verdicts = case
    stern = (*committee.members, member("stern", safety=weight, veto=True))
    verdict = join(CANDIDATE, [*verdicts, part("stern", safety)], of(stern))
    joined = axes_of(verdict)
    assert joined is not None and joined.safety is not None and joined.safety <= safety
    assert "veto:stern" in verdict.notes


@given(cases(), st.sampled_from([1e-6, 0.5, 3.0, 1e6]))
def test_the_scale_of_weights_is_irrelevant(case: tuple[Committee, list[Verdict]], factor: float) -> None:
    committee, verdicts = case
    scaled = tuple(
        replace(member, safety=member.safety * factor, utility=member.utility * factor) for member in committee.members
    )
    assert near(join(CANDIDATE, verdicts, committee), join(CANDIDATE, verdicts, replace(committee, members=scaled)))


@given(cases())
def test_a_joined_score_lies_among_what_was_said_and_sides_are_never_silent(
    case: tuple[Committee, list[Verdict]],
) -> None:
    committee, verdicts = case
    verdict = join(CANDIDATE, verdicts, committee)
    said = [axes for each in verdicts if (axes := axes_of(each))]
    assert (verdict.failure is not None) == (len(said) < committee.quorum)
    joined = axes_of(verdict)
    assume(joined is not None)
    for axis in ("safety", "utility"):
        values = [value for axes in said if (value := getattr(axes, axis)) is not None]
        value = getattr(joined, axis)
        assert (value is None) == (not values)
        assert value is None or min(values) <= value <= max(values)
    safe = {axes.safety > 0 for axes in said if axes.safety is not None}
    assert any(note.startswith(f"{DISAGREEMENT}:safety") for note in verdict.notes) == (len(safe) == 2)
