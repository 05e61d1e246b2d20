"""`erpo sweep` over a backend that answers by rote: what rows share, what a second start repeats, what is told."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, TypeVar

import pytest
from fakes import Letters, Rote
from test_loop import of, run

from erpo_ray import estimate, launch, preflight, rules
from erpo_ray.cli import main
from erpo_ray.config import Config
from erpo_ray.errors import EnvironmentFault, UsageError
from erpo_ray.methods import METHODS
from erpo_ray.report.charts import Point
from erpo_ray.report.front import undominated
from erpo_ray.rundir.lines import ledger_rows
from erpo_ray.sweep import rows as sweeps
from erpo_ray.sweep.share import UNREAD, shared_stages
from erpo_ray.types import Candidate, Rate, Verdict

FILE = """\
name: duel
budget: {sampled_tokens: 400000, trained_tokens: 400000}
common:
  model: {path: MODEL, max_length: 8192}
  data:
    train: [{path: seeds, split: train, where: {category: fraud}}]
    evaluate:
      - {path: seeds, split: evaluate, where: {category: fraud}}
      - {path: seeds, split: evaluate, where: {category: drugs}, attacks: embedded, name: attacks}
  labeller: {type: given}
  imitate: {harmful: 28, benign: 28}
  prefer: {prompts: 28, samples: 4, negatives: 6}
  evaluate: {per_source: 6}
rows:
  base: {}
  sft: {method: sft}
  erpo: {method: erpo, rounds: {count: 1}}
  rose: {decode: {name: rose}}
  erpo-scans: {of: erpo, decode: {name: scans}}
"""


class Bench:
    """A folder with a model and a sweep, and the backends that were booted, each with the row it was booted for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.booted: list[tuple[str, Rote]] = []
        self.closed: list[str] = []
        self.stop_after: int | None = None
        self.barren = self.broken = False
        (folder / "model").mkdir()
        (folder / "model/skill").write_text("0")
        self.write(FILE)

    def write(self, text: str) -> None:
        (self.folder / "duel.yaml").write_text(text.replace("MODEL", str(self.folder / "model")))

    def boot(self, config: Config, steps: Any) -> Rote:
        backend = Watched(self, config)
        self.booted.append((config.name, backend))
        return backend

    def sweep(self, *words: str) -> int:
        return main(["sweep", str(self.folder / "duel.yaml"), *words, "--run-dir", "out"])

    def sampled(self) -> list[str]:
        return [id for _, backend in self.booted for id in backend.sampled]


B = TypeVar("B", bound=Bench)


class Watched(Rote):
    """Tells when it ends; Ctrl-C once so many candidates are there; a barren one always answers the same way."""

    def __init__(self, bench: Bench, config: Config) -> None:
        super().__init__(config, rules.load())
        self._bench, self._name = bench, config.name

    def rollouts(self, *arguments: Any, **names: Any) -> Iterator[Candidate | Verdict]:
        for item in super().rollouts(*arguments, **names):
            yield item
            if len(self.sampled) == self._bench.stop_after:
                raise KeyboardInterrupt

    def prefer(self, *arguments: Any, **names: Any) -> dict[str, float]:
        if self._bench.broken:
            raise ZeroDivisionError("no\x1b[2J")
        return super().prefer(*arguments, **names)

    def _text(self, prompt: Any, sample: int, greedy: bool) -> str:
        return super()._text(prompt, 0 if self._bench.barren and self._skill else sample, greedy)

    def close(self) -> None:
        self._bench.closed.append(self._name)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return furnished(Bench(tmp_path), monkeypatch)


def furnished(bench: B, patch: pytest.MonkeyPatch) -> B:
    """With what a sweep asks of a machine put in its place."""
    patch.chdir(bench.folder)
    patch.setattr(launch, "backend_of", bench.boot)
    patch.setattr("erpo_ray.report.refresh", lambda run, note: None)
    patch.setattr(preflight, "renderer", lambda path: Letters())
    patch.setattr("erpo_ray.engines.templates.around", lambda path: 0)
    patch.setattr(preflight, "model", lambda config: Path(config.model.path))
    patch.setattr(estimate, "shape", lambda path: estimate.Shape(135_000_000, 50_000))
    return bench


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Bench, str]]:
    """A sweep that went through, to look at, and what it printed."""
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as shown:
        bench = furnished(Bench(tmp_path_factory.mktemp("sweep")), patch)
        assert bench.sweep() == 0
        yield bench, shown.getvalue()


def test_every_row_is_a_run_directory_and_one_table_holds_them(done: tuple[Bench, str]) -> None:
    bench, shown = done
    assert sorted(path.name for path in Path("out/rows").iterdir()) == ["base", "erpo", "erpo-scans", "rose", "sft"]
    found = {row["name"]: row for row in json.loads(Path("out/results.json").read_text())}
    assert list(found) == ["base", "sft", "erpo", "rose", "erpo-scans"]
    assert [found[name]["harmful"]["value"] for name in found] == [0, 1, 1, 0, 1]
    assert [found[name]["balanced"]["value"] for name in found] == [0.5, 1, 1, 0.5, 1]
    # Attacks stand alone: 6 harmful prompts in templates, beside 6 bare ones.
    assert [(row["harmful"]["n"], row["attacks"]["n"], row["benign"]["n"]) for row in found.values()] == [
        (6, 6, 12)
    ] * 5
    assert [found[name]["kind"] for name in found] == ["the model as given", "sft", "erpo",
                                                       "rose on the model as given", "scans on erpo"]  # fmt: skip
    assert found["base"]["sampled"] == found["rose"]["sampled"] == 0
    assert 0 < found["sft"]["sampled"] < found["erpo"]["sampled"]
    lines = Path("out/table.md").read_text().splitlines()
    assert lines[2].startswith("| base | 0% [0-39] | 0% [0-39] | 0% [0-24] | 50% [")
    assert "erpo-scans" in shown and "page: out/sweep.html" in shown
    assert json.loads(Path("out/status.json").read_text())["state"] == "done"


def test_what_rows_have_in_common_is_done_once(done: tuple[Bench, str]) -> None:
    bench, _ = done
    # One backend for all that decode plainly, one for each defence; each ends before the next begins.
    assert [name for name, _ in bench.booted] == bench.closed == ["base", "rose", "erpo-scans"]
    plain = bench.booted[0][1]
    assert plain.trained == ["00-imitate", "01-prefer", "02-prefer"]
    assert len(set(bench.sampled())) == len(bench.sampled())
    for stage, rows in {"base": ("base", "sft", "erpo"), "00-imitate": ("sft", "erpo")}.items():
        files = {Path(f"out/rows/{row}/stages/{stage}/stage.json").stat().st_ino for row in rows}
        assert len(files) == 1
    assert not os.path.samefile("out/rows/rose/stages/base/stage.json", "out/rows/base/stages/base/stage.json")
    first, second = (json.loads(line) for line in open("out/rows/sft/metrics.jsonl"))
    assert (first["stage"], second["stage"], second["policy"]) == ("base", "00-imitate", "skill1")


def test_a_method_costs_what_it_would_cost_alone(done: tuple[Bench, str]) -> None:
    bench, _ = done
    found = {row["name"]: row for row in json.loads(Path("out/results.json").read_text())}
    alone = drawn(bench.folder / "out/rows/sft/stages/00-imitate")
    assert found["sft"]["sampled"] == alone > 0
    assert found["erpo"]["sampled"] > alone


def drawn(stage: Path) -> int:
    """Tokens of all candidates of a stage."""
    return sum(len(row.token_ids) for row in ledger_rows(stage / "candidates.jsonl", Candidate))


@pytest.mark.parametrize("after", [30, 150])
def test_a_sweep_that_was_stopped_goes_on_and_samples_nothing_twice(bench: Bench, after: int) -> None:
    bench.stop_after = after
    assert bench.sweep() == 75
    told = json.loads(Path("out/status.json").read_text())
    assert (told["state"], told["phase"]) == ("interrupted", "row")
    assert told["stage"] == ("sft" if after == 30 else "erpo")
    assert main(["status", "out"]) == 0
    before = set(bench.sampled())
    bench.stop_after = None
    bench.booted.clear()
    assert bench.sweep() == 0
    assert json.loads(Path("out/status.json").read_text())["stage"] == ""
    assert not before & set(bench.sampled())
    again = Path("out/results.json").read_bytes()
    bench.booted.clear()
    assert bench.sweep() == 0
    assert bench.booted == [] and Path("out/results.json").read_bytes() == again


def test_a_row_that_is_added_is_all_that_a_second_start_plays(bench: Bench) -> None:
    assert bench.sweep() == 0
    bench.booted.clear()
    bench.write(FILE + "  awdpo: {method: erpo, rounds: {count: 0}, prefer: {section_weights: true}}\n")
    assert bench.sweep() == 0
    ((name, backend),) = bench.booted
    assert name == "awdpo" and backend.trained == ["01-prefer"]
    assert [row["name"] for row in json.loads(Path("out/results.json").read_text())][-1] == "awdpo"


def test_what_all_rows_share_cannot_change(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.sweep() == 0
    assert bench.sweep("seed=1") == 2
    assert "out belongs to a run with another configuration. Changed: seed: 0 -> 1" in capsys.readouterr().err


def test_a_row_that_fails_is_told_and_the_others_are_played(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    bench.barren = True
    bench.write(FILE.replace("negatives: 6", "negatives: 0"))
    assert bench.sweep() == 1
    shown = capsys.readouterr()
    assert "erpo: stage 01-prefer has no pairs" in shown.out
    assert "2 of 5 rows failed: erpo, erpo-scans. The same command tries them again" in shown.err
    assert [row["name"] for row in json.loads(Path("out/results.json").read_text())] == ["base", "sft", "rose"]
    assert "erpo failed: stage 01-prefer has no pairs" in Path("out/table.md").read_text()
    assert "<strong>erpo</strong> failed" in Path("out/sweep.html").read_text()
    # What was sampled stays; a row is played anew when its folder is gone.
    bench.barren = False
    assert bench.sweep() == 1
    shutil.rmtree("out/rows/erpo")
    assert bench.sweep() == 0


def test_a_row_that_crashes_costs_the_others_nothing(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    bench.broken = True
    assert bench.sweep() == 1
    shown = capsys.readouterr()
    assert "erpo: crashed with ZeroDivisionError: no" in shown.out and "Traceback" in shown.err
    assert "\x1b" not in shown.out
    assert [row["name"] for row in json.loads(Path("out/results.json").read_text())] == ["base", "sft", "rose"]
    assert json.loads(Path("out/status.json").read_text())["exit_code"] == 1
    bench.broken = False
    assert bench.sweep() == 0
    assert "next: erpo compare out/rows/base out/rows/" in capsys.readouterr().out


def test_settings_that_fit_no_machine_stop_the_sweep_at_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any, **names: Any) -> None:
        raise EnvironmentFault("the disk is full")

    monkeypatch.setattr(launch, "run", full)
    assert bench.sweep() == 3
    assert [row["name"] for row in json.loads(Path("out/results.json").read_text())] == ["base"]


def test_a_plan_of_a_sweep_boots_nothing(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(bench.folder / "duel.yaml")
    assert main(["plan", file]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said[1:6]] == ["base", "sft", "erpo", "rose", "erpo-scans"]
    assert main(["plan", file, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["rows"]["sft"]["sampled_tokens"] == 28 * 2 * 96 < told["budget"]["sampled_tokens"] == 400000
    assert bench.booted == [] and not Path("out").exists()
    assert main(["plan", file, "--nodes", "1x8xH100"]) == 2


def test_a_budget_that_a_row_exceeds_is_told_before_anything_boots(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.write(FILE.replace("sampled_tokens: 400000", "sampled_tokens: 30000"))
    assert bench.sweep() == 2
    said = capsys.readouterr().err
    # 28 benign prompts, 2 answers of 96 tokens; then 2 rounds of 28 prompts, 4 samples of 160 tokens.
    assert f"row erpo: samples tokens {28 * 2 * 96 + 2 * 28 * 4 * 160}, more than the budget's 30000" in said
    assert "row sft" not in said and bench.booted == [] and not Path("out").exists()


def test_the_page_holds_every_row_beside_the_others_and_nothing_from_outside(done: tuple[Bench, str]) -> None:
    bench, _ = done
    page = Path("out/sweep.html").read_text()
    assert page.count('<details class="case">') == 24
    assert page.count("<h4>erpo <span") == page.count("<h4>rose <span") == 24
    assert "<script" not in page and "http://" not in page and "https://" not in page
    figure = Path("out/pareto.svg").read_text()
    assert figure.startswith("<svg ") and figure.count("erpo-scans, ") == 1
    assert figure.count("prefers-color-scheme: dark") == 1 and "--good: #5cc97a" in figure


def test_faults_in_the_file_are_told_with_their_line(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    faults = {
        ("rose}}", "rosy}}"): ":18: key `decode.name`: found 'rosy' (text); use one of 'plain', 'rose', 'scans', ",
        ("of: erpo,", "of: erppo,"): ":19: key `rows.erpo-scans.of`: found 'erppo' (text); did you mean erpo?",
        ("method: sft}", "method: sftt}"): ":16: key `method`: found 'sftt' (text); did you mean sft? known methods",
        (
            "method: sft}",
            "method: sft, seed: 3}",
        ): ":16: key `rows.sft.seed`: found 3 (whole number); all rows share it",
        ("rounds: {count: 1}", "rounds: {count: x}"): ":17: key `rounds.count`: found 'x' (text); write a whole number",
        ("  sft:", "  ../sft:"): ":16: found the row '../sft'; it names a folder",
        ("  erpo:", "  base:"): ":17: key `base`: found a second time",
        ("{prompts: 28,", "{prompts: 0,"): ":12: key `prefer.prompts`: found 0 (whole number); use 1 or more",
        ("budget: {sampled_tokens: 400000, ", "budget: {"): ":2: key `budget.sampled_tokens`",
    }
    for (was, now), said in faults.items():
        bench.write(FILE.replace(was, now))
        assert bench.sweep() == 2, now
        assert f"duel.yaml{said}" in capsys.readouterr().err
    assert not Path("out").exists()


@pytest.mark.parametrize("method", [name for name in METHODS if METHODS[name](of(name))[0].kind == "imitate"])
def test_an_imitate_stage_reads_nothing_of_what_sharing_leaves_out_of_its_inputs(tmp_path: Path, method: str) -> None:
    """Two configurations that differ in all of it make the same examples and negatives."""
    other = of(method).model_copy(
        update={
            "name": "other",
            "prefer": of(method).prefer.model_copy(update={"prompts": 12, "samples": 2, "negatives": 0, "beta": 0.3}),
            "rounds": Config.model_validate({"rounds": {"count": 0, "gamma": 0.5}}).rounds,
            "constraint": Config.model_validate({"constraint": {"cost_limit": 0.5}}).constraint,
            "steps": Config.model_validate({"steps": {"margin": 0.1}}).steps,
            "search": Config.model_validate({"search": {"completions": 8}}).search,
            "sos": Config.model_validate({"sos": {"prompts": 4}}).sos,
            "reflection": Config.model_validate({"reflection": {"margin": 9}}).reflection,
            "reinforce": Config.model_validate({"reinforce": {"clip": 0.5}}).reinforce,
        }
    )
    elsewhere = {"method", "backend", "cluster", "tracking", "overlap"}
    changed = {key for key in Config.model_fields if getattr(of(method), key) != getattr(other, key)}
    assert changed == set(UNREAD) - elsewhere
    made = []
    for place, config in ((tmp_path / "one", of(method)), (tmp_path / "two", other)):
        place.mkdir()
        run(place, config)
        stage = place / "run/stages/00-imitate"
        made.append([(stage / name).read_bytes() for name in ("examples.jsonl", "negatives.jsonl")])
    assert made[0] == made[1]
    first, second = (shared_stages(sweeps.Row("r", config))["00-imitate"] for config in (of(method), other))
    assert first == second


def test_first_stages_with_other_inputs_are_not_shared() -> None:
    config = of("erpo")
    key = shared_stages(sweeps.Row("r", config))["00-imitate"]
    for update in ({"imitate": {"harmful": 9}}, {"seed": 3}, {"derta": {"positions": 0.5}}, {"method": "derta"}):
        tree = config.model_dump(mode="json")
        merged = {name: {**tree[name], **own} if isinstance(own, dict) else own for name, own in update.items()}
        other = Config.model_validate({**tree, **merged})
        assert shared_stages(sweeps.Row("r", other))["00-imitate"] != key, update


def test_no_point_of_the_front_is_beaten() -> None:
    def point(benign: float, harmful: float) -> Point:
        return Point("p", Rate(benign, 0, 1, 9), Rate(harmful, 0, 1, 9), 10, True)

    best = [point(0.0, 0.1), point(0.1, 0.9), point(0.3, 0.95)]
    others = [point(0.1, 0.8), point(0.4, 0.95), point(0.05, 0.1)]
    assert undominated([*others, *best]) == best
    assert undominated([best[0], best[0]]) == [best[0], best[0]]


def test_a_file_without_rows_or_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text("budget: {sampled_tokens: 1, trained_tokens: 1}\nrows: {}\n")
    with pytest.raises(UsageError, match="key `name`: .*required"):
        sweeps.load(path)
