"""Trackers that people already look at: the rows of metrics.jsonl in TensorBoard, MLflow, Weights & Biases or trackio.

The files of the run come first. A tracker gets exactly the rows of metrics.jsonl, under the same names in all of them,
with the number of the row (0 is the base model, then the stages) as its step. Which rows it holds already is asked of
its own store, so a run that goes on adds what is missing and doubles nothing.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import msgspec

from erpo_ray.config import Config
from erpo_ray.errors import EnvironmentFault, UsageError
from erpo_ray.rundir import RunDir
from erpo_ray.rundir.fingerprint import fingerprint

Row = Mapping[str, Any]
PACKAGES = {"tensorboard": "tensorboardX", "mlflow": "mlflow", "wandb": "wandb", "trackio": "trackio"}
"""The package behind each name of `tracking`; the name is also that of the extra which installs it."""

PROJECT = "erpo"
"""Project or experiment where the tracker's own environment variable names none."""

_PARAMETERS = 100
"""Most parameters that MLflow takes at once."""


class Sink(Protocol):
    """One tracker with one run open."""

    @property
    def known(self) -> int:
        """How many rows it held when it was opened."""
        ...

    def metric(self, index: int, row: Row) -> None:
        """Take row `index` of metrics.jsonl."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Tracked:
    """What a tracker is told of a run. `id` is kept with the run directory, so that copies of a run stay apart."""

    id: str
    name: str
    folder: Path
    settings: dict[str, str]


def require(names: Sequence[str]) -> None:
    """UsageError, with what to install, for a tracker whose package is missing."""
    for name in names:
        if importlib.util.find_spec(PACKAGES[name]) is None:
            raise UsageError(
                f"key `tracking`: {name} needs the package {PACKAGES[name]}; pip install -e '.[{name}]' in the "
                f"folder of this project, or leave {name} out"
            )


def figures(row: Row) -> dict[str, float]:
    """What of a row can be drawn: numbers, and yes or no as 1 or 0. What was not measured is left out."""
    return {name: float(value) for name, value in row.items() if isinstance(value, int | float)}


def words(row: Row) -> dict[str, str]:
    """The texts of a row: its stage and policy."""
    return {name: value for name, value in row.items() if isinstance(value, str)}


class Tracking:
    """Keeps trackers level with a metrics.jsonl. One that fails is told of and dropped: a run outlives its trackers."""

    def __init__(self, metrics: Path, sinks: Mapping[str, Sink], note: Callable[[str], None]) -> None:
        self._metrics, self._note = metrics, note
        self._sinks = dict(sinks)
        self._sent = {name: sink.known for name, sink in sinks.items()}

    def follow(self) -> None:
        """Send every row that a tracker lacks."""
        rows = [msgspec.json.decode(line) for line in self._metrics.read_bytes().splitlines()] if self._sinks else []
        for name, sink in list(self._sinks.items()):
            with self._surviving(name):
                for index in range(self._sent[name], len(rows)):
                    sink.metric(index, rows[index])
                    self._sent[name] = index + 1

    def close(self) -> None:
        for name, sink in list(self._sinks.items()):
            with self._surviving(name):
                sink.close()

    @contextmanager
    def _surviving(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # a client raises whatever its network and its server bring
            del self._sinks[name]
            self._note(f"tracking: {name} failed ({type(error).__name__}: {error}); {self._metrics} has everything")


@contextmanager
def tracking(config: Config, run: RunDir, note: Callable[[str], None]) -> Iterator[Tracking]:
    """The trackers of a configuration, opened and closed again. EnvironmentFault when one cannot be opened."""
    sinks: dict[str, Sink] = {}
    about = _about(config, run) if config.tracking else None
    for name in config.tracking:
        try:
            sinks[name] = OPENERS[name](about)
        except Exception as error:  # as above
            Tracking(run.path / "metrics.jsonl", sinks, note).close()
            raise EnvironmentFault(
                f"key `tracking`: {name} cannot be opened ({type(error).__name__}: {error}); "
                "set it up as its own documentation says, or leave it out"
            ) from error
    found = Tracking(run.path / "metrics.jsonl", sinks, note)
    try:
        yield found
    finally:
        found.close()


def _about(config: Config, run: RunDir) -> Tracked:
    path = run.path / "tracking.json"
    if not run.files.exists(path):
        run.files.put(path, msgspec.json.encode({"id": uuid.uuid4().hex}) + b"\n")
    known = msgspec.json.decode(run.files.read(path), type=dict[str, str])
    return Tracked(known["id"], config.name, run.path, fingerprint(config, {}).config)


class TensorBoard:
    """Event files in `tensorboard/` of the run directory, written anew at each start."""

    known = 0

    def __init__(self, about: Tracked) -> None:
        from tensorboardX import SummaryWriter

        folder = about.folder / "tensorboard"
        shutil.rmtree(folder, ignore_errors=True)
        # The purge tells a TensorBoard that is looking to forget what the files held that are gone.
        self._writer = SummaryWriter(str(folder), purge_step=0)

    def metric(self, index: int, row: Row) -> None:
        for name, value in figures(row).items():
            self._writer.add_scalar(name, value, index)
        for name, value in words(row).items():
            self._writer.add_text(name, value, index)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class MLflow:
    """A run of MLflow, found again by its tag `erpo.run`. MLFLOW_TRACKING_URI says where the store is."""

    def __init__(self, about: Tracked) -> None:
        self._metric: Any = import_module("mlflow.entities").Metric
        self._client: Any = import_module("mlflow").MlflowClient()
        experiment = self._experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME") or PROJECT)
        found = self._client.search_runs([experiment], f"tags.`erpo.run` = '{about.id}'")
        self._run: str = found[0].info.run_id if found else self._create(experiment, about)
        self._client.update_run(self._run, status="RUNNING")
        self.known = self._held()

    def metric(self, index: int, row: Row) -> None:
        for name, value in words(row).items():
            self._client.set_tag(self._run, f"{name}.{index}", value)
        now = int(time.time() * 1000)
        drawn = [self._metric(name, value, now, index) for name, value in figures(row).items()]
        self._client.log_batch(self._run, metrics=drawn)

    def close(self) -> None:
        self._client.set_terminated(self._run)

    def _experiment(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        return found.experiment_id if found else self._client.create_experiment(name)

    def _create(self, experiment: str, about: Tracked) -> str:
        run: str = self._client.create_run(experiment, tags={"erpo.run": about.id}, run_name=about.name).info.run_id
        parameter = import_module("mlflow.entities").Param
        told = [parameter(name, value) for name, value in about.settings.items()]
        for start in range(0, len(told), _PARAMETERS):
            self._client.log_batch(run, params=told[start : start + _PARAMETERS])
        return run

    def _held(self) -> int:
        names = self._client.get_run(self._run).data.metrics
        steps = [point.step for name in names for point in self._client.get_metric_history(self._run, name)]
        return max(steps, default=-1) + 1


class WandB:
    """A run of Weights & Biases under the run's id. WANDB_MODE=offline keeps it on this machine."""

    def __init__(self, about: Tracked) -> None:
        self._run: Any = import_module("wandb").init(
            project=os.environ.get("WANDB_PROJECT") or PROJECT,
            id=about.id,
            name=about.name,
            dir=str(about.folder),
            config=about.settings,
            resume="allow",
        )
        self.known = int(self._run.step)

    def metric(self, index: int, row: Row) -> None:
        self._run.log({**figures(row), **words(row)}, step=index, commit=True)

    def close(self) -> None:
        self._run.finish()


class Trackio:
    """A run of trackio under a name of its own. TRACKIO_DIR and TRACKIO_SPACE_ID say where it is kept."""

    def __init__(self, about: Tracked) -> None:
        self._run: Any = import_module("trackio").init(
            project=PROJECT,
            name=f"{about.name}-{about.id[:8]}",
            config=about.settings,
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        # The one place where it says how far it got, for local and remote stores alike.
        self.known: int = self._run._next_step

    def metric(self, index: int, row: Row) -> None:
        self._run.log({**figures(row), **words(row)}, step=index)

    def close(self) -> None:
        self._run.finish()


OPENERS: dict[str, Callable[[Any], Sink]] = {
    "tensorboard": TensorBoard,
    "mlflow": MLflow,
    "wandb": WandB,
    "trackio": Trackio,
}
