"""A small but whole run, driven over a run directory by the tests that crash, kill and race it.

As a program: `sweep DIR` kills a driver at every failpoint and restarts it, `race DIR N` lets two start at once,
`hold ROOT` opens a run and keeps it until its input ends. Children are forked here, not in pytest, which has threads.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from erpo_ray.config import Config
from erpo_ray.errors import ErpoError
from erpo_ray.rundir import Files, Ledger, RunDir, StageDir
from erpo_ray.rundir import run as run_module
from erpo_ray.rundir.failpoints import NAMES
from erpo_ray.telemetry import Step
from erpo_ray.types import Candidate, Example, LeftOut, Pair, Prompt, Scores, Verdict

CONFIG = Config(name="driven")
INPUTS = {"rules": "0123"}
WANTED = tuple(f"c{number}" for number in range(8))


class NoSync(Files):
    """Files that skip fsync, which a SIGKILL does not need."""

    def sync(self, path: Path) -> None:
        pass


def sample(key: str) -> str:
    return f"answer of {key}"


def drive(
    files: Files,
    root: Path,
    draw: Callable[[str], str] = sample,
    acknowledged: Callable[[str], None] = lambda key: None,
    note: Callable[[str], None] = lambda message: None,
) -> None:
    """Two stages with every kind of artefact. `draw` samples a text, `acknowledged` hears of each that is on disk."""
    with RunDir.open(root, CONFIG, inputs=INPUTS, files=files, note=note) as run:
        imitate(run, files)
        policy = prefer(run, files, draw, acknowledged)
        run.append_metric({"stage": "01-prefer", "eval/utility": 0.5})
        run.point_policy(policy)
        run.status("done", exit_code=0)


def imitate(run: RunDir, files: Files) -> None:
    with run.stage("00-imitate") as stage:
        if not stage.sealed:
            stage.once("prompts.jsonl", Prompt, lambda: [Prompt("p", "how?")])
            stage.value("labeller.json", int, lambda: 14)
            rows = stage.once("examples.jsonl", Example, lambda: [Example("e", "p", "refusal", (1,), (2,), "no")])
            stage.once("negatives.jsonl", Pair, lambda: [pair("n")])
            with run.timed("00-imitate", "training"):
                stage.directory("policy", weights(files, str(len(rows))))
            stage.put("training.jsonl", Step, [Step(1, 0.5)])
            stage.seal({"utility": 0.25})
        # Outside the condition: a crash between the seal and this line must not cost the row.
        run.append_metric({"stage": "00-imitate", "eval/utility": stage.meta["utility"]})


def prefer(run: RunDir, files: Files, draw: Callable[[str], str], acknowledged: Callable[[str], None]) -> Path:
    with run.stage("01-prefer") as stage:
        if stage.sealed:
            return stage.path / "policy"
        candidates, verdicts = explore(stage, "", WANTED, draw)
        for row in candidates:
            acknowledged(row.id)
        pairs = stage.once("pairs.jsonl", Pair, lambda: [pair(key) for key in WANTED if key in verdicts])
        stage.once("left_out.jsonl", LeftOut, lambda: [])
        path = stage.directory("policy", weights(files, f"{len(pairs)}"))
        explore(stage, "evaluation_", ("e0", "e1"), sample)
        utility = stage.value("evaluation.json", dict[str, float], lambda: {"eval/utility": 0.5})
        stage.value("outcome.json", str, lambda: "accepted")
        stage.seal({"utility": utility["eval/utility"], "loss": stage.facts("policy")["loss"]})
        return path


def explore(
    stage: StageDir, prefix: str, wanted: tuple[str, ...], draw: Callable[[str], str]
) -> tuple[Ledger[Candidate], Ledger[Verdict]]:
    """Sampling with judging two candidates behind; all on disk at the end."""
    candidates = stage.ledger(f"{prefix}candidates.jsonl", Candidate)
    verdicts = stage.ledger(f"{prefix}verdicts.jsonl", Verdict, after=candidates)
    for number, key in enumerate(wanted):
        if key not in candidates:
            candidates.append(Candidate(key, "p", 0, (3,), draw(key), "stop", "v"))
        if number % 2:
            for row in candidates:
                if row.id not in verdicts:
                    verdicts.append(Verdict(row.id, "rules", Scores(1.0, 0.5, 3), notes=(row.text,)))
    candidates.sync()
    verdicts.sync()
    return candidates, verdicts


def pair(key: str) -> Pair:
    return Pair(key, "p", (1,), (), (2,), (3,), 1.0, "safety", "safe over unsafe")


def weights(files: Files, text: str):
    """A trainer: a checkpoint in `work`, then a model of two files, one in a folder."""

    def make(out: Path, work: Path) -> dict[str, float]:
        files.write(work / "checkpoint", b"half way")
        files.close(work / "checkpoint")
        files.mkdir(out / "adapter")
        for path in (out / "model.safetensors", out / "adapter" / "weights"):
            files.write(path, text.encode() * 20)
            files.close(path)
        return {"loss": 0.5}

    return make


def outcome(files: Files, root: Path) -> dict[str, object]:
    """What a finished run amounts to, for comparison with another: artefacts as bytes, ledgers as rows."""
    stage = root / "stages" / "01-prefer"
    found: dict[str, object] = {
        str(path.relative_to(root)): files.read(path)
        for folder in ("stages/00-imitate", "stages/01-prefer")
        for path in files.below(root / folder)[0]
        if path.name != "stage.json" and not path.stem.endswith(("candidates", "verdicts"))
    }
    for name in ("candidates.jsonl", "verdicts.jsonl"):
        lines = [json.loads(line) for line in files.read(stage / name).splitlines()]
        found[name] = [line["row"] for line in lines if "row" in line]
    found["metrics"] = files.read(root / "metrics.jsonl")
    found["state"] = json.loads(files.read(root / "status.json"))["state"]
    return found


def _child(work: Callable[[], None]) -> int:
    """Exit status of a forked child that does `work`, negative for the signal that ended it."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:  # a child must never return into the parent's program
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _sampling(root: Path, log: Path) -> None:
    def draw(key: str) -> str:
        with log.open("a") as stream:
            stream.write(f"{key}\n")
        return sample(key)

    drive(NoSync(), root, draw)


def _killed(root: Path, point: str) -> None:
    os.environ["ERPO_FAILPOINT"] = point
    _sampling(root, root.with_suffix(".first"))


def sweep(folder: Path) -> None:
    """One line of JSON a failpoint: the exit status at the failpoint, and that of the restart."""
    text, told = run_module.config_yaml(CONFIG), run_module.environment()
    run_module.config_yaml, run_module.environment = lambda config: text, lambda: told  # slow, and the same each time
    for number, point in enumerate((*NAMES, "candidates:appended:5", "verdicts:appended:5", "policy:renamed:2")):
        root = folder / str(number)
        first = _child(lambda root=root, point=point: _killed(root, point))
        there = root / "stages" / "01-prefer" / "candidates.jsonl"
        lines = there.read_text().splitlines() if there.exists() else []
        kept = [line["row"]["id"] for line in map(json.loads, lines) if "row" in line]
        second = _child(lambda root=root: _sampling(root, root.with_suffix(".second")))
        print(json.dumps({"point": point, "root": str(root), "first": first, "kept": kept, "second": second}))


def race(folder: Path, rounds: int) -> None:
    """One line of JSON a round: the pids, and for each what its start came to."""

    def start(root: Path, at: float) -> None:
        time.sleep(max(0.0, at - time.time()))
        said = root.with_suffix(f".{os.getpid()}")
        try:
            with RunDir.open(root, CONFIG, files=NoSync()):
                # Until the other has had its say: on a busy machine it may start late, and then win too.
                deadline = time.time() + 20
                while time.time() < deadline and not list(root.parent.glob(f"{root.name}.*")):
                    time.sleep(0.005)
                said.write_text("won")
        except ErpoError as error:
            said.write_text(f"{type(error).__name__}: {error}")

    for number in range(rounds):
        root, at, children = folder / str(number), time.time() + 0.03, []
        for _ in range(2):
            child = os.fork()
            if child == 0:
                start(root, at)
                os._exit(0)
            children.append(child)
        for child in children:
            os.waitpid(child, 0)
        print(json.dumps({str(child): root.with_suffix(f".{child}").read_text() for child in children}))


def hold(root: Path) -> None:
    with RunDir.open(root, CONFIG, inputs=INPUTS):
        print("open", flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["sweep", folder]:
            sweep(Path(folder))
        case ["race", folder, rounds]:
            race(Path(folder), int(rounds))
        case ["hold", root]:
            hold(Path(root))
