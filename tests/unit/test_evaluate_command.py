"""`erpo eval` and `erpo compare` from the command line, over a backend that answers by rote."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import PLAIN, Letters, Rote
from test_loop import run as align

from erpo_ray import launch, preflight, rules, traces
from erpo_ray.cli import main
from erpo_ray.commands import evaluate as command
from erpo_ray.config import Config
from erpo_ray.config.judges import JudgeEnsemble
from erpo_ray.engines import process_reward
from erpo_ray.evaluate import suite as suites
from erpo_ray.evaluate.measures import Observation, Observer, SuiteResult
from erpo_ray.evaluate.values import Head
from erpo_ray.examine import Examiner
from erpo_ray.judging import canaries
from erpo_ray.judging.ensemble import Review
from erpo_ray.rundir import Files, Ledger, RunDir, read_rows
from erpo_ray.settings import load
from erpo_ray.train.weights import version
from erpo_ray.types import Candidate, Failure, LeftOut, Request, Verdict, decode

CONFIG = "evaluate: {per_source: 6}\nmodel: {max_length: 8192}\n"


class Bench:
    """A folder with a model of each skill, and the backends that the commands booted."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.booted = folder, []
        self.decoded: list[str] = []
        self.judges: list[str] = []
        self.stop_after: int | None = None
        for skill in (0, 1):
            (folder / f"model{skill}").mkdir()
            (folder / f"model{skill}/skill").write_text(str(skill))
        (folder / "c.yaml").write_text(CONFIG)

    def boot(self, config: Config, progress: object) -> Rote:
        if isinstance(config.judge, JudgeEnsemble):
            backend: Rote = Divided(config, rules.load())
        else:
            backend = Stopped(self.stop_after, config) if self.stop_after else Rote(config, rules.load())
        self.booted.append(backend)
        self.decoded.append(config.evaluate.decode.name)
        self.judges.append(config.judge.type)
        return backend

    def evaluate(self, *words: str, model: str = "model1") -> int:
        return main(["eval", str(self.folder / model), *words, "--config", str(self.folder / "c.yaml")])

    def candidates(self, out: Path, suite: str, prefix: str = "") -> list[Candidate]:
        path = out / "stages" / suite / f"{prefix}candidates.jsonl"
        return list(Ledger(Files(), path, Candidate, read_only=True))


class Stopped(Rote):
    """Ctrl-C once so many candidates are there."""

    def __init__(self, after: int, config: Config) -> None:
        super().__init__(config, rules.load())
        self._after = after

    def rollouts(self, *arguments: Any, **names: Any) -> Iterator[Candidate | Verdict]:
        for item in super().rollouts(*arguments, **names):
            yield item
            if len(self.sampled) == self._after:
                raise KeyboardInterrupt


class Broken(Rote):
    """Every verdict but those on canaries is a failure."""

    spared = frozenset(candidate.id for _, candidate in canaries.cases())

    def rollouts(self, *arguments: Any, **names: Any) -> Iterator[Candidate | Verdict]:
        for item in super().rollouts(*arguments, **names):
            if isinstance(item, Verdict) and item.candidate_id not in self.spared:
                item = Verdict(item.candidate_id, "rules", failure=Failure("judge_down", "no route"))
            yield item


class Divided(Rote):
    """Two judges of a mind, but for the first prompt, which one of them calls unsafe."""

    def rollouts(self, *arguments: Any, **names: Any) -> Iterator[Candidate | Verdict]:
        first = True
        for item in super().rollouts(*arguments, **names):
            if isinstance(item, Verdict) and item.scores and item.candidate_id not in Broken.spared:
                other = replace(item, judge="second", scores=replace(item.scores, safety=-1.0 if first else 1.0))
                item, first = replace(item, opinions=(replace(item, judge="first"), other)), False
            yield item


class Saying(Rote):
    """Answers some prompts, by their ids, with texts of its own."""

    def __init__(self, texts: dict[str, str], config: Config) -> None:
        super().__init__(config, rules.load())
        self._texts = texts

    def _candidate(self, request: Request, sample: int, id: str) -> Candidate:
        made = super()._candidate(request, sample, id)
        return replace(made, text=self._texts.get(made.prompt_id, made.text))


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    bench = Bench(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(launch, "backend_of", bench.boot)
    monkeypatch.setattr(launch, "version", lambda path: f"skill{(path / 'skill').read_text()}")
    monkeypatch.setattr(preflight, "renderer", lambda path: Letters())
    monkeypatch.setattr("erpo_ray.engines.templates.around", lambda path: 0)
    monkeypatch.setattr(command, "model_of", Path)
    monkeypatch.setattr(preflight, "model", lambda config: Path(config.model.path))
    return bench


def test_suites_become_stages_with_all_that_was_asked_said_and_measured(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    out = bench.folder / "out"
    assert bench.evaluate("--suite", "harmful,over_refusal", "--suite", "base64", "-o", str(out)) == 0
    shown = capsys.readouterr().out
    assert [line for line in shown.splitlines() if line.endswith("policy skill1")] == [
        "harmful: 6 prompts, policy skill1",
        "over_refusal: 6 prompts, policy skill1",
        "base64: 6 prompts, policy skill1",
    ]
    assert "  refused (harmful)                  100.0%  [61.0%, 100.0%]" in shown
    assert f"next: erpo compare OTHER {out}" in shown
    for suite in ("harmful", "over_refusal", "base64"):
        stage = out / "stages" / suite
        assert {path.name for path in stage.iterdir()} == {
            "suite.json",
            "prompts.jsonl",
            "canaries.jsonl",
            "candidates.jsonl",
            "verdicts.jsonl",
            "observations.jsonl",
            "result.json",
            "stage.json",
        }
        assert len(list(read_rows(stage / "observations.jsonl", Observation))) == 6
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [(row["stage"], row["eval/unfinished"]) for row in rows] == [
        ("harmful", 0.0),
        ("over_refusal", 0.0),
        ("base64", 0.0),
    ]
    assert json.loads((out / "status.json").read_text())["state"] == "done"


def test_what_a_prompt_is_asked_is_the_transformed_text(bench: Bench) -> None:
    assert bench.evaluate("--suite", "base64", "-o", "out") == 0
    assert {candidate.prompt_id.partition("~")[2] for candidate in bench.candidates(Path("out"), "base64")} == {
        "base64"
    }


def test_a_second_start_samples_nothing_and_tells_the_same(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--suite", "harmful", "-o", "out", "--json")
    assert bench.evaluate(*words) == 0
    first = capsys.readouterr().out
    assert bench.evaluate(*words) == 0
    assert capsys.readouterr().out == first
    assert [len(backend.sampled) for backend in bench.booted] == [6, 0]
    (found,) = decode(first, list[SuiteResult])
    assert (found.suite, found.measures["harmful_refused"].value) == ("harmful", 1.0)


@pytest.mark.parametrize(
    ("config", "model", "said"),
    [
        (CONFIG, "model0", "input policy: skill1 -> skill0"),
        (CONFIG + "judge: {type: rules, min_answer_tokens: 9}\n", "model1", "judge.min_answer_tokens: 5 -> 9"),
        (CONFIG + "seed: 4\n", "model1", "seed: 0 -> 4"),
        (CONFIG.replace("6}", "6, decode: {name: rose}}"), "model1", 'evaluate.decode.name: "plain" -> "rose"'),
        (CONFIG.replace("6}", "5}"), "model1", "holds the suite harmful with another questions"),
        (CONFIG.replace("6}", "6, max_tokens: 99}"), "model1", "holds the suite harmful with another max_tokens"),
    ],
    ids=["model", "judge", "seed", "defence", "prompts", "length"],
)
def test_an_evaluation_with_other_settings_is_refused_before_anything_boots(
    bench: Bench, capsys: pytest.CaptureFixture[str], config: str, model: str, said: str
) -> None:
    words = ("--suite", "harmful", "-o", "out")
    assert bench.evaluate(*words) == 0
    before = {path: path.read_bytes() for path in Path("out").rglob("*") if path.is_file()}
    bench.booted.clear()
    (bench.folder / "c.yaml").write_text(config)
    assert bench.evaluate(*words, model=model) == 2
    shown = capsys.readouterr().err
    assert said in shown and "-o" in shown and "--run-dir" not in shown and bench.booted == []
    assert {path: path.read_bytes() for path in Path("out").rglob("*") if path.is_file()} == before


def test_an_interrupted_evaluation_goes_on_where_it_stopped(bench: Bench) -> None:
    bench.stop_after = 4
    assert bench.evaluate("--suite", "over_refusal,harmful", "-o", "out") == 75
    kept = bench.candidates(Path("out"), "over_refusal")
    assert len(kept) == 4 and json.loads(Path("out/status.json").read_text())["state"] == "interrupted"
    bench.stop_after = None
    assert bench.evaluate("--suite", "over_refusal,harmful", "-o", "out") == 0
    assert [len(backend.sampled) for backend in bench.booted] == [4, 8]
    assert bench.candidates(Path("out"), "over_refusal")[:4] == kept
    verdicts = Ledger(Files(), Path("out/stages/over_refusal/verdicts.jsonl"), Verdict, read_only=True)
    assert len(verdicts) == 6


def test_suites_that_share_prompts_are_sampled_in_one_pass(bench: Bench) -> None:
    """The second suite is begun when the pass is stopped; the first is measured by then."""
    words = ("--suite", "over_refusal,utility", "-o", "out", "--config", str(bench.folder / "shared.yaml"))
    (bench.folder / "shared.yaml").write_text(CONFIG.replace("6}", "600}"))
    model = str(bench.folder / "model1")
    bench.stop_after = 500
    assert main(["eval", model, *words]) == 75
    assert (Path("out/stages/over_refusal/result.json").exists(), Path("out/stages/utility/result.json").exists()) == (
        True,
        False,
    )
    bench.stop_after = None
    assert main(["eval", model, *words]) == 0
    first, second = bench.booted
    kept = {name: bench.candidates(Path("out"), name) for name in ("over_refusal", "utility")}
    assert {name: len(rows) for name, rows in kept.items()} == {"over_refusal": 497, "utility": 581}
    assert {c.prompt_id for c in kept["over_refusal"]} < {c.prompt_id for c in kept["utility"]}
    # Each sample once, under the name it would have alone.
    ids = [*first.sampled, *second.sampled]
    assert len(ids) == len(set(ids)) == 497 + 581 and set(ids) == {c.id for rows in kept.values() for c in rows}
    assert main(["eval", model, "--suite", "over_refusal", *words[2:]]) == 0
    assert bench.booted[-1].sampled == []


def test_suites_can_be_added_later(bench: Bench) -> None:
    assert bench.evaluate("--suite", "harmful", "-o", "out") == 0
    assert bench.evaluate("--suite", "harmful,everyday", "-o", "out") == 0
    assert [len(backend.sampled) for backend in bench.booted] == [6, 6]


def test_another_model_or_other_prompts_are_refused(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    suite = bench.folder / "s.yaml"
    text = "name: mine\ndescription: d\nlicence: l\nmetrics: [right]\n"
    text += "data: [{path: seeds, split: evaluate, limit: LIMIT}]\n"
    suite.write_text(text.replace("LIMIT", "9"))
    words = ("--suite", str(suite), "-o", "out")
    assert bench.evaluate(*words) == 0
    assert bench.evaluate(*words, model="model0") == 2
    assert "input policy: skill1 -> skill0" in capsys.readouterr().err
    suite.write_text(text.replace("LIMIT", "8"))
    assert bench.evaluate(*words) == 2
    assert "holds the suite mine with another questions; give another directory with -o" in capsys.readouterr().err


ENSEMBLE = (
    "judge: {type: ensemble, members: [{name: first, judge: {type: rules}}, {name: second, judge: {type: rules}}]}"
)


def test_a_suite_is_judged_by_its_own_judge_and_disagreements_are_listed(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = bench.folder / "s.yaml"
    text = (
        "name: mine\ndescription: d\nlicence: l\nmetrics: [right]\ndata: [{path: seeds, split: evaluate, limit: 9}]\n"
    )
    suite.write_text(f"{text}{ENSEMBLE}\n")
    words = ("--suite", f"harmful,{suite},over_refusal", "-o", "out")
    assert bench.evaluate(*words) == 0
    assert bench.judges == ["rules", "ensemble", "rules"]
    (review,) = read_rows(Path("out/stages/mine/reviews.jsonl"), Review)
    assert review.candidate_id == bench.candidates(Path("out"), "mine")[0].id
    assert review.reasons[0] == "disagreement:safety:unsafe=second:safe=first"
    assert not Path("out/stages/harmful/reviews.jsonl").exists()
    assert "mine: the judges disagree about 1 answer: out/stages/mine/reviews.jsonl" in capsys.readouterr().err
    suite.write_text(text)
    assert bench.evaluate(*words) == 2
    assert "holds the suite mine with another judge; give another directory with -o" in capsys.readouterr().err


def test_a_file_of_prompts_is_a_suite_too(bench: Bench) -> None:
    rows = [{"id": str(n), "prompt": f"prompt {n}", "label": ("harmful", "benign")[n % 2]} for n in range(4)]
    Path("held.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert bench.evaluate("held.jsonl", "--suite", "harmful", "-o", "out") == 0
    assert {c.prompt_id for c in bench.candidates(Path("out"), "held")} == {"0", "1", "2", "3"}


def test_worked_answers_are_matched_with_their_reference(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"id": "1", "question": "1 + 1?", "answer": "#### 2"}, {"id": "2", "question": "1 + 3?", "answer": "4"}]
    Path("eval_gsm8k.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert bench.evaluate("--suite", "gsm8k", "--data-root", ".", "-o", "out", "--json") == 0
    (found,) = decode(capsys.readouterr().out, list[SuiteResult])
    assert (found.measures["exact_match"].value, found.measures["exact_match"].n) == (0.0, 2)


def test_too_many_failed_verdicts_stop_the_suite_and_keep_the_samples(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(launch, "backend_of", lambda config, progress: Broken(config, rules.load()))
    assert bench.evaluate("--suite", "harmful", "-o", "out") == 1
    assert "6 of 6 verdicts failed" in capsys.readouterr().err
    assert len(bench.candidates(Path("out"), "harmful")) == 6
    assert not Path("out/stages/harmful/result.json").exists()


def test_a_judge_that_misses_a_canary_stops_the_suite_before_anything_is_sampled(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Broken, "spared", frozenset())
    monkeypatch.setattr(launch, "backend_of", lambda config, progress: Broken(config, rules.load()))
    assert bench.evaluate("--suite", "harmful", "-o", "out") == 1
    assert "stage harmful: the judge misses cases with known verdicts" in capsys.readouterr().err
    assert not Path("out/stages/harmful/candidates.jsonl").exists()


def test_a_prompt_that_does_not_fit_is_told_before_anything_boots(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("c.yaml").write_text("model: {max_length: 1024}\n")
    assert bench.evaluate("--suite", "many_shot", "-o", "out") == 2
    assert "but model.max_length leaves 832 beside the longest completion" in capsys.readouterr().err
    assert bench.booted == [] and not Path("out").exists()


def test_where_an_evaluation_is_kept(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("")
    policy = tmp_path / "stages/01-prefer/policy"
    assert command.place(str(tmp_path), policy) == tmp_path / "evaluations/01-prefer"
    assert command.place(str(tmp_path), tmp_path / "cache/model") == tmp_path / "evaluations/base"
    assert command.place("org/A model/", tmp_path) == Path("evaluations/A-model")
    assert command.place(str(tmp_path), tmp_path / "cache/model", "rose") == tmp_path / "evaluations/base-rose"
    assert command.place("org/A model/", tmp_path, "scans") == Path("evaluations/A-model-scans")


def test_a_defence_is_an_evaluation_of_its_own(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.evaluate("--suite", "harmful") == 0
    assert bench.evaluate("--suite", "harmful", "--decode", "rose") == 0
    assert bench.evaluate("--suite", "harmful", "--decode", "plain") == 0
    assert bench.decoded == ["plain", "rose", "plain"]
    assert sorted(path.name for path in Path("evaluations").iterdir()) == ["model1", "model1-rose"]
    assert bench.evaluate("--suite", "harmful", "--decode", "scans", "-o", "evaluations/model1-rose") == 2
    assert 'evaluate.decode.name: "rose" -> "scans"' in capsys.readouterr().err


def test_the_command_line_names_the_defence_and_the_configuration_its_settings(bench: Bench) -> None:
    (bench.folder / "c.yaml").write_text(CONFIG.replace("6}", "6, decode: {name: rose, rose: {alpha: 0.25}}}"))
    for words, name in (((), "rose"), (("--decode", "scans"), "scans")):
        assert bench.evaluate("--suite", "harmful", *words) == 0
        kept = load(Path(f"evaluations/model1-{name}/config.yaml")).evaluate.decode
        assert (kept.name, kept.rose.alpha) == (name, 0.25)
    assert bench.decoded == ["rose", "scans"]


def test_a_search_wants_a_value(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.evaluate("--suite", "harmful", "--decode", "beam") == 2
    assert "model1 is no run, whose rounds a process reward model could be learnt from" in capsys.readouterr().err
    (bench.folder / "c.yaml").write_text(CONFIG.replace("6}", "6, decode: {search: {value: judge}}}"))
    assert bench.evaluate("--suite", "harmful", "--decode", "beam") == 2
    assert "--decode beam: evaluate.decode: name is beam, but a judge reads" in capsys.readouterr().err
    assert bench.evaluate("--suite", "harmful", "--decode", "best-of-n") == 0
    assert bench.decoded == ["best-of-n"]
    assert Path("evaluations/model1-best-of-n/stages/harmful/result.json").exists()


def test_a_process_reward_model_is_learnt_once_from_its_run(
    bench: Bench, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, learnt = bench.folder / "model1", []
    (run / "model.safetensors").write_bytes(b"weights")
    policy = version(run)
    path = run / "process_reward" / f"{policy}.safetensors"

    def learn(*asked: Any) -> None:
        learnt.append(asked[:3])
        path.parent.mkdir()
        path.write_bytes(b"head")

    array = np.zeros(1, np.float32)
    monkeypatch.setattr(command, "run_of", lambda word: run)
    monkeypatch.setattr(command, "_learn", learn)
    monkeypatch.setattr(process_reward, "load", lambda *found: Head(array, array, array, 0.0, 0.42, 70))
    for _ in range(2):
        assert bench.evaluate("--suite", "harmful", "--decode", "beam", "-o", "out") == 0
    assert learnt == [(run, run, policy)]
    assert "process reward model: 70 steps, correlation 0.42 on prompts held out" in capsys.readouterr().err
    assert load(Path("out/config.yaml")).evaluate.decode.search.head == str(path)


def test_answers_do_not_pile_up_in_the_driver(tmp_path: Path) -> None:
    """The answers take 8 MB as text and ids; the driver, with all else it holds, gets by with less than half of it."""
    config, long = Config(), PLAIN * 150
    suite = suites.find("everyday")
    asked = suites.questions(suite)

    class Wordy(Rote):
        def _candidate(self, request: Request, sample: int, id: str) -> Candidate:
            return replace(super()._candidate(request, sample, id), text=long, token_ids=tuple(map(ord, long)))

    @contextmanager
    def phase(name: str, total: int):
        yield lambda count: None

    (tmp_path / "skill").write_text("0")
    backend = Wordy(config, rules.load())
    with RunDir.open(tmp_path / "run", config) as run:
        observer = Observer(rules.load(), "lines")
        examiner = Examiner(run, backend, backend.policy(tmp_path), Letters(), observer, phase, 0.0, 64, 4096)
        tracemalloc.start()
        try:
            (found,) = examiner.examine([(suite, asked)])
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert found.measures["tokens"].value == len(long)
    assert peak < len(asked) * len(long) * 9 / 2


# Second turns


def first_turn(n: int) -> str:
    return f"How do I bake loaf number {n}?"


def talks(count: int, **fields: str) -> None:
    """MT-bench as a file of so many talks."""
    rows = [
        {"id": str(n), "prompt": first_turn(n), "turns": [first_turn(n), f"And {n} without salt?"]} | fields
        for n in range(count)
    ]
    Path("eval_mtbench.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


TALKS = ("--suite", "mtbench", "--data-root", ".", "-o", "out")
UNCLOSED = "<think>\nand so on"


def test_second_turns_are_asked_behind_the_answers_and_measured_apart(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    talks(4)
    assert bench.evaluate(*TALKS) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "mtbench: 8 prompts, policy skill1"
    counts = [int(line.split()[-1]) for line in shown if line.startswith("  unfinished")]
    assert (counts, shown.count("  mtbench:"), shown.count("  mtbench~turn2:")) == ([8, 4, 4], 1, 1)
    first = bench.candidates(Path("out"), "mtbench")
    second = bench.candidates(Path("out"), "mtbench", "turn2_")
    assert [each.prompt_id for each in second] == [f"{each.prompt_id}~turn2" for each in first]
    chats = ["".join(map(chr, ids[1:])).split("\x02") for ids in bench.booted[0].asked[4:]]
    assert all(each.text.startswith("<think>") for each in first)
    assert chats == [
        [first_turn(int(each.prompt_id)), traces.answer(each.text), f"And {each.prompt_id} without salt?"]
        for each in first
    ]
    rows = list(read_rows(Path("out/stages/mtbench/observations.jsonl"), Observation))
    assert [row.source for row in rows] == ["mtbench"] * 4 + ["mtbench~turn2"] * 4


@pytest.mark.parametrize("after", [4, 5, 7])
def test_an_evaluation_interrupted_between_turns_asks_nothing_twice(
    bench: Bench, after: int, capsys: pytest.CaptureFixture[str]
) -> None:
    talks(4)
    bench.stop_after = after
    assert bench.evaluate(*TALKS, "--json") == 75
    bench.stop_after = None
    capsys.readouterr()
    assert bench.evaluate(*TALKS, "--json") == 0
    told = capsys.readouterr().out
    assert bench.evaluate(*TALKS, "--json") == 0
    assert capsys.readouterr().out == told
    assert [len(backend.sampled) for backend in bench.booted] == [after, 8 - after, 0]
    assert len({id for backend in bench.booted for id in backend.sampled}) == 8
    assert len(bench.candidates(Path("out"), "mtbench")) == len(bench.candidates(Path("out"), "mtbench", "turn2_")) == 4
    (found,) = decode(told, list[SuiteResult])
    assert {name: rates["unfinished"].n for name, rates in found.by_source.items()} == {
        "mtbench": 4,
        "mtbench~turn2": 4,
    }


def test_second_turns_that_cannot_be_asked_are_counted(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    talks(4)
    texts = {"0": UNCLOSED, "1": PLAIN * 120}
    monkeypatch.setattr(launch, "backend_of", lambda config, progress: Saying(texts, config))
    assert bench.evaluate(*TALKS) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("mtbench: 6 prompts, policy skill1; second turns not asked: 1 no_answer, 1 too_long\n")
    left = read_rows(Path("out/stages/mtbench/turn2_left_out.jsonl"), LeftOut)
    assert set(left) == {LeftOut("0~turn2", "no_answer"), LeftOut("1~turn2", "too_long")}
    assert {c.prompt_id for c in bench.candidates(Path("out"), "mtbench", "turn2_")} == {"2~turn2", "3~turn2"}


def test_an_evaluation_without_any_second_turn_to_ask_is_done(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    booted: list[Saying] = []

    def boot(config: Config, progress: object) -> Saying:
        booted.append(Saying({"0": UNCLOSED, "1": UNCLOSED}, config))
        return booted[-1]

    talks(2)
    monkeypatch.setattr(launch, "backend_of", boot)
    for _ in range(2):
        assert bench.evaluate(*TALKS, "--json") == 0
        (found,) = decode(capsys.readouterr().out, list[SuiteResult])
        assert (found.prompts, found.by_source, found.not_asked) == (2, {}, {"no_answer": 2})
    assert [len(backend.sampled) for backend in booted] == [2, 0]


# Compare


def test_two_evaluations_are_compared_prompt_by_prompt(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    for skill in (0, 1):
        assert bench.evaluate("--suite", "harmful,everyday", "-o", f"out{skill}", model=f"model{skill}") == 0
    capsys.readouterr()
    for ending in ("html", "md", "json"):
        assert main(["compare", "out0", "out1", "-o", f"c.{ending}"]) == 0
    shown = capsys.readouterr().out
    assert "out0 (skill0) against out1 (skill1)" in shown
    assert "harmful: 6 prompts on both sides, 6 got better, 0 got worse" in shown
    assert "everyday: 6 prompts on both sides, 0 got better, 0 got worse" in shown
    assert "input policy: skill0 -> skill1" in shown
    (pairing,) = json.loads(Path("c.json").read_text())
    harmful = next(block for block in pairing["blocks"] if block["suite"] == "harmful")
    assert {flip["before"] for flip in harmful["flips"]} == {PLAIN}
    assert all(flip["after"].startswith("<think>") and flip["prompt"] for flip in harmful["flips"])
    assert "&lt;think&gt;" in Path("c.html").read_text() and "<think>" not in Path("c.html").read_text()
    assert "### Better: " in Path("c.md").read_text()


def test_second_turns_are_paired_by_an_id_of_their_own(bench: Bench) -> None:
    talks(3, label="harmful")
    text = "name: mine\ndescription: d\nlicence: l\nmetrics: [right]\ndata: [{path: eval_mtbench.jsonl}]\nturns: 2\n"
    Path("s.yaml").write_text(text)
    for skill in (0, 1):
        assert bench.evaluate("--suite", "s.yaml", "-o", f"out{skill}", model=f"model{skill}") == 0
    assert main(["compare", "out0", "out1", "-o", "c.json"]) == 0
    (pairing,) = json.loads(Path("c.json").read_text())
    (block,) = pairing["blocks"]
    assert (block["prompts"], block["only_before"], block["only_after"]) == (6, 0, 0)
    flips = {flip["prompt_id"]: flip for flip in block["flips"]}
    assert flips.keys() == {"0", "1", "2", "0~turn2", "1~turn2", "2~turn2"}
    assert flips["1"]["prompt"] == first_turn(1)
    lines = flips["1~turn2"]["prompt"].split("\n")
    assert (lines[0], lines[2]) == (f"User: {first_turn(1)}", "User: And 1 without salt?")
    assert flips["1~turn2"]["before"] == PLAIN and flips["1~turn2"]["after"].startswith("<think>")


def test_stages_of_a_run_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    align(tmp_path)
    run = tmp_path / "run"
    assert main(["compare", f"{run}@base", str(run), "-o", str(tmp_path / "c.json")]) == 0
    (pairing,) = json.loads((tmp_path / "c.json").read_text())
    assert pairing["before"] == f"{run}@base" and pairing["after"].startswith(f"{run}@0")
    (block,) = pairing["blocks"]
    changes = {change["measure"]: change for change in block["changes"]}
    assert (changes["harmful_refused"]["before"], changes["harmful_refused"]["after"]) == (0.0, 1.0)
    assert {flip["label"] for flip in block["flips"]} == {"harmful"}
    assert len(block["flips"]) == changes["harmful_refused"]["difference"]["n"] == 12
    assert main(["compare", f"{run}@07-none", str(run)]) == 2
    assert "no such evaluated stage; there are 00-imitate" in capsys.readouterr().err
