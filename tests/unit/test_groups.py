"""Groups read from ledgers: those that were drawn, in order, whatever the order of the lines."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from judged import judged, prompt

from erpo_ray.config import Config
from erpo_ray.errors import UsageError
from erpo_ray.groups import Groups
from erpo_ray.rundir import Ledger, RunDir, StageDir
from erpo_ray.types import Candidate, Group, Request, Sampling, Verdict, identity

PROMPTS = [prompt(f"p{number}", "harmful" if number % 2 else "benign") for number in range(4)]
NAME = partial(identity, "run")


def requests(samples: list[int]) -> list[Request]:
    return [
        Request(at, (7, number), tuple(range(most)), Sampling(1.0, 8))
        for number, (at, most) in enumerate(zip(PROMPTS, samples, strict=True))
    ]


def drawn(asked: list[Request]) -> list[Group]:
    """As the ledgers hold them; ids are those of a run, not of `judged`."""
    found = []
    for request in asked:
        rows = [judged(request.prompt, k, f"text {k}", tokens=3 + k) for k in request.samples]
        named = [(NAME(c.prompt_id, c.sample), c, v) for c, v in rows]
        candidates = tuple(
            Candidate(id, c.prompt_id, c.sample, c.token_ids, c.text, c.finish, c.policy) for id, c, _ in named
        )
        verdicts = tuple(
            Verdict(id, v.judge, v.scores, refused=v.refused, well_formed=v.well_formed) for id, _, v in named
        )
        found.append(Group(request.prompt, request.prompt_ids, candidates, verdicts))
    return found


def kept(s: StageDir, groups: list[Group], random: Random, prefix: str) -> tuple[Ledger[Candidate], Ledger[Verdict]]:
    """Two ledgers with the lines of these groups in any order."""
    candidates = s.ledger(f"{prefix}candidates.jsonl", Candidate)
    verdicts = s.ledger(f"{prefix}verdicts.jsonl", Verdict, after=candidates)
    for ledger, rows in (
        (candidates, [row for group in groups for row in group.candidates]),
        (verdicts, [row for group in groups for row in group.verdicts]),
    ):
        for row in random.sample(rows, len(rows)):
            ledger.append(row)
    return candidates, verdicts


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 4), min_size=4, max_size=4), st.randoms(use_true_random=False))
def test_they_are_what_was_drawn(tmp_path_factory: pytest.TempPathFactory, samples: list[int], random: Random) -> None:
    asked = requests(samples)
    expected = drawn(asked)
    with RunDir.open(tmp_path_factory.mktemp("runs") / "run", Config()) as run, run.stage("01-prefer") as s:
        candidates, verdicts = kept(s, expected, random, "")
        found = Groups(asked, NAME, candidates.reader(), verdicts.reader())
        assert list(found) == expected == list(found)
        assert len(found) == 4
        assert [found[0], found[-1]] == [expected[0], expected[-1]]
        assert list(found[1:3]) == expected[1:3]
        with pytest.raises(IndexError):
            found[4]


def test_rows_that_come_later_are_not_in_it_and_no_group_is_without_its_verdicts(tmp_path: Path) -> None:
    asked = requests([2, 2, 0, 0])
    first, second = drawn(asked)[:2]
    with RunDir.open(tmp_path / "run", Config()) as run, run.stage("01-prefer") as s:
        candidates, verdicts = kept(s, [first], Random(0), "")
        found = Groups(asked, NAME, candidates.reader(), verdicts.reader())
        for candidate in second.candidates:
            candidates.append(candidate)
        assert [len(group.candidates) for group in found] == [2, 0, 0, 0]
        unjudged = Groups(asked, NAME, candidates.reader(), verdicts.reader())
        assert unjudged[0] == first
        with pytest.raises(KeyError):
            unjudged[1]


def test_a_line_that_was_damaged_since_is_refused(tmp_path: Path) -> None:
    asked = requests([1, 1, 0, 0])
    with RunDir.open(tmp_path / "run", Config()) as run, run.stage("01-prefer") as s:
        candidates, verdicts = kept(s, drawn(asked), Random(0), "")
        found = Groups(asked, NAME, candidates.reader(), verdicts.reader())
        path = candidates.path
        path.write_bytes(path.read_bytes().replace(b"text 0", b"text 1"))
        with pytest.raises(UsageError, match=r"candidates\.jsonl, line [12]: damaged"):
            found[0]
