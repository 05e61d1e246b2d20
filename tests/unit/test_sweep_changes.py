"""`erpo sweep` whose file was edited, and stages that rows take over from other runs: what is played, kept, told."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from test_sweep import FILE, Bench, furnished

from erpo_ray.cli import main
from erpo_ray.errors import EnvironmentFault, UsageError
from erpo_ray.rundir import Files, RunDir
from erpo_ray.sweep import rows
from erpo_ray.sweep.changes import settle
from erpo_ray.sweep.outside import outside

HEAD = FILE.partition("rows:")[0] + "rows:\n"
BASE, SFT, ERPO, SCANS = "  base: {}\n", "  sft: {method: sft}\n", "  erpo: {method: erpo, rounds: {count: 1}}\n", (
    "  erpo-scans: {of: erpo, decode: {name: scans}}\n"
)  # fmt: skip
ROUNDLESS = ERPO.replace("count: 1", "count: 0")


class Edited(Bench):
    """Played after each edit; `trained` are the stages that were trained for each backend that was booted for it."""

    def play(self, *rows: str, out: str = "out", adopt: str = "") -> int:
        self.booted.clear()
        self.write(HEAD + "".join(rows))
        words = ["sweep", str(self.folder / "duel.yaml"), "--run-dir", out]
        return main([*words, "--adopt", adopt] if adopt else words)

    @property
    def trained(self) -> dict[str, list[str]]:
        return {name: backend.trained for name, backend in self.booted}


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Edited:
    return furnished(Edited(tmp_path), monkeypatch)


def figures(out: str = "out") -> dict[str, dict[str, Any]]:
    """Of each row, without the minutes, which no two starts have alike."""
    rows = json.loads(Path(out, "results.json").read_text())
    return {row["name"]: {name: value for name, value in row.items() if name != "answering"} for row in rows}


def test_a_changed_row_is_all_that_a_second_start_plays(bench: Edited, capsys: pytest.CaptureFixture[str]) -> None:
    """With what measures its policy. It takes its first stage from what it was before, and comes back as it was."""
    assert bench.play(BASE, ERPO, SCANS) == 0
    first, place = figures(), {row: Path("out/rows", row).stat().st_ino for row in ("base", "erpo", "erpo-scans")}
    capsys.readouterr()

    assert bench.play(BASE, ROUNDLESS, SCANS) == 0
    assert bench.trained == {"erpo": ["01-prefer"], "erpo-scans": []}
    shown = capsys.readouterr().out
    (before,) = Path("out/before").glob("erpo-????????")
    assert f"erpo: its settings changed (rounds.count: 1 -> 0); what it had made is in {before}\n" in shown
    assert "erpo-scans: it measured an earlier policy of the row erpo; what it had made is in out/before/" in shown
    assert "kept: base\nto play: erpo, erpo-scans\n" in shown
    assert f"erpo: 00-imitate from {before}" in shown
    assert before.stat().st_ino == place["erpo"] and Path("out/rows/base").stat().st_ino == place["base"]
    assert sorted(path.name for path in Path("out/rows/erpo/stages").glob("0*")) == ["00-imitate", "01-prefer"]
    assert figures()["base"] == first["base"] and figures()["erpo"]["sampled"] < first["erpo"]["sampled"]

    assert bench.play(BASE, ERPO, SCANS) == 0
    assert bench.trained == {"erpo-scans": []} and bench.sampled()
    assert f"erpo: brought back from {before}\n" in capsys.readouterr().out
    assert Path("out/rows/erpo").stat().st_ino == place["erpo"]
    assert Path("out/rows/erpo-scans").stat().st_ino != place["erpo-scans"]
    assert figures() == first


class Full(Files):
    """A disk on which the second directory can no longer be renamed."""

    renamed = 0

    def rename(self, old: Path, new: Path) -> None:
        if old.is_dir():
            self.renamed += 1
            if self.renamed == 2:
                raise EnvironmentFault("the disk is full")
        super().rename(old, new)


def test_a_start_that_is_cut_short_between_two_rows_finds_the_other_one_changed_still(bench: Edited) -> None:
    """What measures a policy goes before the row that made it: the other way round nothing would tell its age."""
    file = bench.folder / "duel.yaml"

    def loaded(*written: str) -> rows.Sweep:
        bench.write(HEAD + "".join(written))
        return rows.load(file, (), ("erpo",))

    for row in loaded(ERPO, SCANS).rows:
        RunDir.open(Path("out/rows", row.name), row.config).close()
    changed, done, out = loaded(ROUNDLESS, SCANS), {"erpo-scans"}, Path("out")
    with RunDir.open("record", changed.common, files=Full()) as record, pytest.raises(EnvironmentFault):
        settle(record, out, changed, {}, done)
    assert [path.name for path in Path("out/rows").iterdir()] == ["erpo"]
    with RunDir.open("record", changed.common) as record:
        kept, said = settle(record, out, changed, {}, done)
    assert kept == set() and list(Path("out/rows").iterdir()) == [] and len(said) == 1
    assert sorted(path.name.rpartition("-")[0] for path in Path("out/before").iterdir()) == ["erpo", "erpo-scans"]


def test_a_row_whose_folder_is_gone_is_played_again_with_what_measures_it(
    bench: Edited, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench.play(SFT, SCANS.replace("of: erpo", "of: sft")) == 0
    shutil.rmtree("out/rows/sft")
    assert bench.play(SFT, SCANS.replace("of: erpo", "of: sft")) == 0
    assert bench.trained == {"sft": ["00-imitate"], "erpo-scans": []}
    assert "erpo-scans: it measured an earlier policy of the row sft" in capsys.readouterr().out


def test_a_row_that_left_the_file_stays_in_its_folder(bench: Edited, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.play(BASE, SFT) == 0
    assert bench.play(BASE) == 0
    assert bench.booted == [] and Path("out/rows/sft/policy").exists() and list(figures()) == ["base"]
    assert "in out/rows, but no rows of the file any more: sft\n" in capsys.readouterr().out
    assert bench.play(BASE, SFT) == 0
    assert bench.booted == [] and list(figures()) == ["base", "sft"]


def test_another_sweep_takes_over_what_it_has_in_common(bench: Edited, capsys: pytest.CaptureFixture[str]) -> None:
    """All of an equal row, whatever its name; the first stages of one that goes on otherwise."""
    rose = "  rose: {decode: {name: rose}}\n"
    assert bench.play(rose, ERPO) == 0
    first = json.loads(Path("out/results.json").read_text())[1]
    capsys.readouterr()
    again, other = ERPO.replace("erpo:", "again:", 1), ROUNDLESS.replace("erpo:", "other:", 1)
    assert bench.play(rose, again, other, out="next", adopt="out") == 0
    assert [backend.trained for _, backend in bench.booted if backend.sampled] == [["01-prefer"]]
    shown = capsys.readouterr().out
    assert "again: 00-imitate, 01-prefer, 02-prefer, base, labels from out/rows/erpo\n" in shown
    seal = "stages/02-prefer/stage.json"
    assert os.path.samefile(f"next/rows/again/{seal}", f"out/rows/erpo/{seal}")
    told = json.loads(Path("next/rows/again/adopted.json").read_text())["02-prefer"]
    assert told["source"] == "out/rows/erpo" and set(told["seconds"]) == {"rollouts", "training", "evaluation"}
    found = {row["name"]: row for row in json.loads(Path("next/results.json").read_text())}
    for name in ("harmful", "benign", "sampled", "trained"):
        assert found["again"][name] == first[name]
    # What a method costs does not hang on where its stages were made.
    assert found["again"]["minutes"] == pytest.approx(first["minutes"], abs=1e-4) and first["minutes"] > 0
    assert found["other"]["minutes"] < first["minutes"]


def test_a_run_is_taken_over_as_far_as_it_got_and_as_it_was_sealed(bench: Edited) -> None:
    bench.stop_after = 24 + 56 + 24 + 112 + 24 + 30
    assert bench.play(ERPO) == 75
    bench.stop_after = None
    seals = Path("out/rows/erpo/stages").glob("*/stage.json")
    assert sorted(path.parent.name for path in seals) == ["00-imitate", "01-prefer", "base", "labels"]
    assert bench.play(ERPO, out="next", adopt="out/rows/erpo") == 0
    assert bench.trained == {"erpo": ["02-prefer"]}
    # The second stage is damaged: only what came before it is taken.
    damaged = Path("out/rows/erpo/stages/01-prefer/pairs.jsonl")
    damaged.unlink()
    damaged.write_text("{}")
    assert bench.play(ERPO, out="third", adopt="out/rows/erpo") == 0
    assert bench.trained == {"erpo": ["01-prefer", "02-prefer"]}
    assert damaged.read_text() == "{}"
    # A first stage that others share is damaged: the row makes its own.
    shared = Path("out/rows/erpo/stages/00-imitate/examples.jsonl")
    shared.unlink()
    shared.write_text("{}")
    assert bench.play(ROUNDLESS, out="fourth", adopt="out/rows/erpo") == 0
    assert bench.trained == {"erpo": ["00-imitate", "01-prefer"]}


def test_runs_with_other_prompts_are_not_taken_over(bench: Edited, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.play(SFT) == 0
    capsys.readouterr()
    text = (HEAD + SFT).replace("train, where: {category: fraud}", "train, where: {category: drugs}")
    bench.write(text)
    bench.booted.clear()
    assert main(["sweep", str(bench.folder / "duel.yaml"), "--run-dir", "next", "--adopt", "out"]) == 0
    assert "out/rows/sft: nothing is taken from it, it was made with other prompts" in capsys.readouterr().out
    assert bench.trained == {"sft": ["00-imitate"]} and not Path("next/rows/sft/adopted.json").exists()
    with pytest.raises(UsageError, match="--adopt model: holds no run directory"):
        outside([Path("model")], {})
    Path("out/rows/sft/fingerprint.json").write_text("{}")
    assert outside([Path("out")], {})[1] == ["out/rows/sft: nothing is taken from it, its fingerprint.json is damaged"]


def test_a_row_with_a_damaged_folder_costs_the_others_nothing(
    bench: Edited, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.stop_after = 24 + 30
    assert bench.play(SFT, BASE) == 75
    bench.stop_after = None
    Path("out/rows/sft/stages/00-imitate/candidates.jsonl").write_text("no line\nof a ledger\n")
    assert bench.play(SFT, BASE) == 1
    assert "1 of 2 rows failed: sft." in capsys.readouterr().err
    table = Path("out/table.md").read_text()
    assert "\nsft failed: " in table and "stages/00-imitate/candidates.jsonl, line 1" in table
    assert list(figures()) == ["base"]
