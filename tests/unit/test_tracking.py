"""Trackers: each row of metrics.jsonl once, with its own names, whatever starts and failures lie between."""

from __future__ import annotations

import importlib.util
import json
import struct
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from erpo_ray import preflight, tracking
from erpo_ray.config import Config
from erpo_ray.errors import EnvironmentFault, UsageError
from erpo_ray.rundir import RunDir
from erpo_ray.tracking import Tracked, Tracking, figures, words

ROWS: list[dict[str, Any]] = [
    {"stage": "base", "policy": "p0", "eval/harmful_refused": 0.25, "eval/utility": None, "accepted": True},
    {
        "stage": "00-imitate",
        "policy": "p1",
        "eval/harmful_refused": 0.75,
        "eval/harmful_refused_n": 60,
        "accepted": True,
    },
    {"stage": "01-prefer", "policy": "p2", "eval/harmful_refused": 0.5, "accepted": False},
]


class Memory:
    """A tracker whose store is a list; it refuses row `broken`."""

    def __init__(self, store: list[tuple[int, Mapping[str, Any]]], broken: int = -1) -> None:
        self.store, self.broken, self.closed = store, broken, False

    @property
    def known(self) -> int:
        return len(self.store)

    def metric(self, index: int, row: Mapping[str, Any]) -> None:
        if index == self.broken:
            raise ConnectionError("no route")
        self.store.append((index, row))

    def close(self) -> None:
        self.closed = True


def metrics(folder: Path, count: int) -> Path:
    path = folder / "metrics.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS[:count]))
    return path


def never(message: str) -> None:
    raise AssertionError(message)


def tracked(folder: Path) -> Tracked:
    return Tracked("a1b2c3d4e5f6", "demo", folder, {f"key.{number}": str(number) for number in range(130)})


def test_a_row_is_told_apart_into_figures_and_words() -> None:
    assert figures(ROWS[0]) == {"eval/harmful_refused": 0.25, "accepted": 1.0}
    assert figures(ROWS[2])["accepted"] == 0.0
    assert words(ROWS[1]) == {"stage": "00-imitate", "policy": "p1"}


def test_every_tracker_gets_every_row_once_while_the_file_grows(tmp_path: Path) -> None:
    stores: list[list[Any]] = [[], []]
    sinks = {"a": Memory(stores[0]), "b": Memory(stores[1])}
    followed = Tracking(metrics(tmp_path, 0), sinks, never)
    for count in (0, 1, 1, 3):
        metrics(tmp_path, count)
        followed.follow()
    followed.close()
    assert stores[0] == stores[1] == list(enumerate(ROWS))
    assert all(sink.closed for sink in sinks.values())


def test_a_run_that_goes_on_sends_only_what_is_missing(tmp_path: Path) -> None:
    store: list[Any] = []
    Tracking(metrics(tmp_path, 2), {"a": Memory(store)}, never).follow()
    late: list[Any] = []
    Tracking(metrics(tmp_path, 3), {"a": Memory(store), "late": Memory(late)}, never).follow()
    assert store == late == list(enumerate(ROWS))


def test_a_tracker_that_fails_is_told_of_once_and_the_next_start_makes_good(tmp_path: Path) -> None:
    store: list[Any] = []
    other: list[Any] = []
    notes: list[str] = []
    followed = Tracking(metrics(tmp_path, 3), {"a": Memory(store, broken=1), "b": Memory(other)}, notes.append)
    followed.follow()
    followed.follow()
    followed.close()
    assert (len(store), len(other)) == (1, 3)
    assert len(notes) == 1 and notes[0].startswith("tracking: a failed (ConnectionError: no route);")
    Tracking(metrics(tmp_path, 3), {"a": Memory(store)}, never).follow()
    assert store == list(enumerate(ROWS))


def test_a_run_opens_its_trackers_with_an_id_that_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tracked] = []

    def opener(about: Tracked) -> Memory:
        seen.append(about)
        return Memory([])

    monkeypatch.setitem(tracking.OPENERS, "mlflow", opener)
    config = Config.model_validate({"name": "mine", "tracking": ["mlflow"]})
    for folder in ("one", "one", "two"):
        with RunDir.open(tmp_path / folder, config) as run, tracking.tracking(config, run, never) as found:
            run.append_metric({"stage": "base"})
            found.follow()
    assert seen[0].id == seen[1].id != seen[2].id
    assert (seen[0].name, seen[0].folder) == ("mine", tmp_path / "one")
    assert "prefer.beta" in seen[0].settings and "cluster.address" not in seen[0].settings


def test_without_trackers_nothing_is_written(tmp_path: Path) -> None:
    with RunDir.open(tmp_path / "run", Config()) as run, tracking.tracking(Config(), run, never) as found:
        found.follow()
    assert not (tmp_path / "run" / "tracking.json").exists()


def test_a_tracker_may_be_added_to_a_run_that_has_begun(tmp_path: Path) -> None:
    with RunDir.open(tmp_path / "run", Config()) as run:
        first, begun = run.id, (run.path / "fingerprint.json").read_bytes()
    with RunDir.open(tmp_path / "run", Config.model_validate({"tracking": ["tensorboard"]})) as run:
        assert (run.id, (run.path / "fingerprint.json").read_bytes()) == (first, begun)


def test_a_tracker_that_cannot_be_opened_stops_the_run_at_set_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(about: Tracked) -> Memory:
        raise PermissionError("no key")

    opened = Memory([])
    monkeypatch.setitem(tracking.OPENERS, "tensorboard", lambda about: opened)
    monkeypatch.setitem(tracking.OPENERS, "wandb", refuse)
    config = Config.model_validate({"tracking": ["tensorboard", "wandb"]})
    with (
        RunDir.open(tmp_path / "run", config) as run,
        pytest.raises(EnvironmentFault, match=r"key `tracking`: wandb cannot be opened \(PermissionError: no key\)"),
        tracking.tracking(config, run, never),
    ):
        never("opened")
    assert opened.closed


def test_a_missing_package_is_told_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    config = Config.model_validate({"tracking": ["mlflow"]})
    with pytest.raises(UsageError, match=r"mlflow needs the package mlflow; pip install -e '\.\[mlflow\]'"):
        preflight.check(config)


def test_what_a_tracker_is_called_is_checked_with_the_configuration(tmp_path: Path) -> None:
    from erpo_ray import settings

    path = tmp_path / "c.yaml"
    path.write_text("tracking: [neptune]\n")
    with pytest.raises(UsageError, match=r"c.yaml:1: key `tracking.0`: found 'neptune' \(text\); use one of"):
        settings.load(path)


# The libraries themselves


def events(folder: Path) -> Iterator[Any]:
    """Events of all files of a TensorBoard folder: records of length, its checksum, data and theirs."""
    from tensorboardX.proto.event_pb2 import Event

    for path in sorted(folder.iterdir()):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            yield Event.FromString(data[at + 12 : at + 12 + length])
            at += 12 + length + 4


def drawn(folder: Path) -> list[tuple[str, int, float]]:
    return [
        (value.tag, event.step, value.simple_value)
        for event in events(folder)
        for value in event.summary.value
        if value.WhichOneof("value") == "simple_value"
    ]


def test_tensorboard_holds_each_figure_once_after_two_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)  # tensorboardX loads it when it can
    for count in (2, 3):
        followed = Tracking(metrics(tmp_path, count), {"t": tracking.TensorBoard(tracked(tmp_path))}, never)
        followed.follow()
        followed.close()
    expected = [(name, index, value) for index, row in enumerate(ROWS) for name, value in figures(row).items()]
    assert drawn(tmp_path / "tensorboard") == expected
    told = [event for event in events(tmp_path / "tensorboard") if any("stage" in v.tag for v in event.summary.value)]
    assert [event.step for event in told] == [0, 1, 2]


def test_mlflow_holds_each_figure_once_after_two_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/store.db")
    for count in (2, 3):
        followed = Tracking(metrics(tmp_path, count), {"m": tracking.MLflow(tracked(tmp_path))}, never)
        followed.follow()
        followed.close()
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("erpo").experiment_id])
    points = {name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics}
    found = {(name, point.step, point.value) for name, history in points.items() for point in history}
    assert found == {(name, index, value) for index, row in enumerate(ROWS) for name, value in figures(row).items()}
    assert sum(map(len, points.values())) == len(found)
    assert run.data.tags["stage.2"] == "01-prefer" and len(run.data.params) == 130
    assert run.info.status == "FINISHED"


def test_wandb_takes_every_row_without_an_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("WANDB_MODE", "offline")
    followed = Tracking(metrics(tmp_path, 3), {"w": tracking.WandB(tracked(tmp_path))}, never)
    followed.follow()
    followed.close()
    (written,) = (tmp_path / "wandb").glob("offline-run-*-a1b2c3d4e5f6/*.wandb")
    data = written.read_bytes()
    assert all(row["stage"].encode() in data for row in ROWS) and b"eval/harmful_refused_n" in data


def test_trackio_holds_each_figure_once_after_two_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "store"))
    pytest.importorskip("trackio")
    from trackio.sqlite_storage import SQLiteStorage  # pyright: ignore[reportMissingImports]

    for count in (2, 3):
        followed = Tracking(metrics(tmp_path, count), {"t": tracking.Trackio(tracked(tmp_path))}, never)
        followed.follow()
        followed.close()
    logs = SQLiteStorage.get_logs("erpo", "demo-a1b2c3d4")
    assert [(log["step"], log["stage"], log["eval/harmful_refused"]) for log in logs] == [
        (index, row["stage"], row["eval/harmful_refused"]) for index, row in enumerate(ROWS)
    ]
