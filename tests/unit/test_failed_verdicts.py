"""A stage that stopped for failed verdicts: once the judge is mended the same command ends it, and draws nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from fakes import Letters, Rote
from rundir_driver import NoSync
from test_loop import CONFIG, of, run

from erpo_ray import rules
from erpo_ray.config import Config
from erpo_ray.errors import RunFailed
from erpo_ray.evaluate import suite as suites
from erpo_ray.evaluate.measures import Observer
from erpo_ray.examine import Examiner
from erpo_ray.faults import to_judge_again
from erpo_ray.judging import canaries
from erpo_ray.judging.ensemble import Judge
from erpo_ray.methods import METHODS
from erpo_ray.rundir import Files, RunDir
from erpo_ray.rundir.lines import ledger_rows
from erpo_ray.types import Candidate, Failure, Prompt, Scores, Verdict

BOOK = rules.load("")
CANARIES = {candidate.id for _, candidate in canaries.cases()}
NEVER = 10**9
GOOD = Scores(1.0, 1.0, 3)
DOWN = Failure("no_connection", "refused")
UNDRAWN = Failure("not_sampled", "the engine died of it")


class Endpoint:
    """A judge that does not answer the questions of these numbers; at the one of number `killed` the driver ends.

    `asked` counts them by candidate, without canaries.
    """

    name = "endpoint"

    def __init__(self, judge: Judge, down: Container[int], cause: Failure = DOWN) -> None:
        self._judge, self.down, self.cause, self.killed = judge, down, cause, 0
        self.asked = Counter[str]()

    def judge(self, items: Sequence[tuple[Prompt, Candidate]]) -> list[Verdict]:
        said = []
        for (_, candidate), verdict in zip(items, self._judge.judge(items), strict=True):
            if candidate.id in CANARIES:
                said.append(verdict)
                continue
            self.asked[candidate.id] += 1
            if (number := self.asked.total()) == self.killed:
                raise KeyboardInterrupt
            fails = number in self.down
            said.append(Verdict(candidate.id, self.name, failure=self.cause) if fails else verdict)
        return said


def failing(config: Config, down: Container[int], cause: Failure = DOWN) -> tuple[Rote, Endpoint]:
    plain = any(stage.kind == "prefer" and not stage.traced for stage in METHODS[config.method](config))
    backend = Rote(config, BOOK, plain)
    judge = backend._judge = Endpoint(backend._judge, down, cause)
    return backend, judge


def verdicts(place: Path, name: str) -> list[Verdict]:
    return list(ledger_rows(place / "run/stages" / name, Verdict))


def unbroken(place: Path, config: Config = CONFIG) -> dict[str, bytes]:
    """The artefacts of a run whose judge never fails."""
    place.mkdir()
    backend, _ = failing(config, ())
    run(place, config, backend, files=NoSync())
    return artefacts(place)


def artefacts(place: Path) -> dict[str, bytes]:
    names = ("examples.jsonl", "pairs.jsonl", "tried.jsonl", "evaluation.json")
    return {
        str(path.relative_to(place)): path.read_bytes()
        for name in names
        for path in sorted((place / "run/stages").glob(f"*/{name}"))
    }


@pytest.mark.parametrize(
    ("method", "answers"),
    [("erpo", 10), ("erpo", 100), ("erpo", 400), ("saro", 250), ("safer", 350), ("sos", 230)],
)
def test_a_judge_that_was_down_is_asked_again_for_what_it_failed(tmp_path: Path, method: str, answers: int) -> None:
    """In the evaluation of the base, in a stage, and in a stage's later passes behind its own samples."""
    config = of(method)
    whole = unbroken(tmp_path / "whole", config)
    backend, judge = failing(config, range(answers + 1, NEVER))
    for _ in range(3):  # the first start, and two more while the judge is down
        with pytest.raises(RunFailed, match=r"no_connection: refused. Mend the judge and start the same command again"):
            run(tmp_path, config, backend, files=NoSync())
    drawn, failed = list(backend.sampled), {id for id, count in judge.asked.items() if count > 1}
    assert failed and max(judge.asked.values()) == 3
    judge.down = ()
    run(tmp_path, config, backend, files=NoSync())
    assert backend.sampled[: len(drawn)] == drawn and len(set(backend.sampled)) == len(backend.sampled)
    assert {judge.asked[id] for id in failed} == {4} and {*judge.asked.values()} == {1, 4}
    assert artefacts(tmp_path) == whole
    for path in (tmp_path / "run/stages").glob("*/*verdicts.jsonl"):
        rows = list(ledger_rows(path, Verdict))
        drew = list(ledger_rows(path.with_name(path.name.replace("verdicts", "candidates")), Candidate))
        assert {row.candidate_id for row in rows} == {each.id for each in drew} and len(rows) == len(drew)
        assert all(row.scores for row in rows)
    assert list(tmp_path.glob("run/stages/*/*_kept.jsonl")) == []


@pytest.mark.parametrize(("method", "down"), [("saro", {150, *range(250, 450)}), ("sos", {100, *range(230, 400)})])
def test_a_start_killed_while_it_judges_again_costs_nothing(tmp_path: Path, method: str, down: set[int]) -> None:
    """Failures of the stage's first pass, few enough to go on, and of a later one: both are open when it is killed."""
    config = of(method)
    backend, judge = failing(config, down)
    with pytest.raises(RunFailed):
        run(tmp_path, config, backend, files=NoSync())
    judge.down, judge.killed = (), judge.asked.total() + 3
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, config, backend, files=NoSync())
    run(tmp_path, config, backend, files=NoSync())
    assert len(set(backend.sampled)) == len(backend.sampled) and max(judge.asked.values()) == 3
    assert artefacts(tmp_path) == unbroken(tmp_path / "whole", config)


class Cut(NoSync):
    """Files that end the driver at an operation on the ledger that takes the place of the old one."""

    def __init__(self, operation: str, late: bool) -> None:
        super().__init__()
        self._operation, self._late = operation, late

    def append(self, path: Path, data: bytes) -> None:
        self._at("append", path, lambda: super(Cut, self).append(path, data))

    def rename(self, old: Path, new: Path) -> None:
        self._at("rename", old, lambda: super(Cut, self).rename(old, new))

    def _at(self, operation: str, path: Path, act: Callable[[], None]) -> None:
        cut = operation == self._operation and path.name == "evaluation_verdicts_kept.jsonl"
        if not cut or self._late:
            act()
        if cut:
            raise KeyboardInterrupt


@pytest.mark.parametrize("cut", [("append", False), ("append", True), ("rename", False), ("rename", True)])
def test_a_start_cut_off_while_it_takes_failures_out_costs_nothing(tmp_path: Path, cut: tuple[str, bool]) -> None:
    whole = unbroken(tmp_path / "whole")
    backend, judge = failing(CONFIG, range(21, NEVER))
    with pytest.raises(RunFailed):
        run(tmp_path, CONFIG, backend, files=NoSync())
    assert sum(not row.scores for row in verdicts(tmp_path, "base/evaluation_verdicts.jsonl")) == 4
    judge.down = ()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, CONFIG, backend, files=Cut(*cut))
    run(tmp_path, CONFIG, backend, files=NoSync())
    assert artefacts(tmp_path) == whole
    assert len(set(backend.sampled)) == len(backend.sampled) and {*judge.asked.values()} == {1, 2}
    assert list(tmp_path.glob("run/stages/*/*_kept.jsonl")) == []


def test_what_no_engine_drew_is_not_put_to_the_judge(tmp_path: Path) -> None:
    backend, judge = failing(CONFIG, range(21, NEVER), UNDRAWN)
    for _ in range(2):
        with pytest.raises(RunFailed, match=r"An engine gave up on 4 of them, .*move this stage's directory and those"):
            run(tmp_path, CONFIG, backend, files=NoSync())
    assert {*judge.asked.values()} == {1}


FAILED = [Verdict(id, "llm", failure=DOWN) for id in "abc"]
JUDGED = [Verdict(id, "llm", GOOD) for id in "defghij"]


@pytest.mark.parametrize(
    ("rows", "wanted", "limit", "again"),
    [
        ([*FAILED, *JUDGED], 10, 0.25, {"a", "b", "c"}),
        ([*FAILED, *JUDGED], 10, 0.3, set()),  # as many as a stage may have
        (FAILED, 13, 0.25, set()),  # cut off: the stage may still end well, and these are final then
        (FAILED, 10, 0.25, {"a", "b", "c"}),
        ([*FAILED, Verdict("z", "engine", failure=UNDRAWN)], 13, 0.25, set()),  # z is not asked for here
        ([*FAILED, Verdict("j", "engine", failure=UNDRAWN)], 13, 0.25, {"a", "b", "c"}),
        (JUDGED, 7, 0.0, set()),
        ([], 0, 0.0, set()),
    ],
)
def test_failures_are_asked_again_only_where_a_stage_must_stop_for_them(
    rows: list[Verdict], wanted: int, limit: float, again: set[str]
) -> None:
    assert to_judge_again(rows, "abcdefghij", wanted, limit) == again


def test_a_suite_that_stopped_is_judged_again(tmp_path: Path) -> None:
    config, suite = Config(), suites.find("everyday")
    asked = suites.questions(suite)
    backend, judge = failing(config, range(51, NEVER))
    (tmp_path / "skill").write_text("0")

    @contextmanager
    def phase(name: str, total: int):
        yield lambda count: None

    def measured() -> int:
        with RunDir.open(tmp_path / "run", config, files=Files()) as directory:
            observer, policy = Observer(BOOK, "lines"), backend.policy(tmp_path)
            examiner = Examiner(directory, backend, policy, Letters(), observer, phase, 0.0, 64, 4096)
            return examiner.examine([(suite, asked)])[0].prompts

    for _ in range(2):
        with pytest.raises(RunFailed, match="Mend the judge"):
            measured()
    judge.down = ()
    assert measured() == len(asked)
    assert len(backend.sampled) == len(set(backend.sampled)) == len(asked)
    assert {judge.asked[id] for id in backend.sampled} == {1, 3}
    assert all(row.scores for row in verdicts(tmp_path, "everyday/verdicts.jsonl"))
