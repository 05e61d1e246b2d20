"""Workers that rows of a sweep share, and those they cannot."""

from __future__ import annotations

from typing import Any

import pytest

from erpo_ray import launch
from erpo_ray.config import Cluster, Config, Model
from erpo_ray.sweep.share import Workers

LINES = Config(model=Model(dialect="lines"))
TAGS = Config(model=Model(dialect="tags"))


class Booted:
    """Says when it starts and ends."""

    def __init__(self, config: Config, log: list[str]) -> None:
        self._name, self._log = config.model.dialect, log
        log.append(f"{self._name} starts")

    def close(self) -> None:
        self._log.append(f"{self._name} ends")


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found: list[str] = []
    monkeypatch.setattr(launch, "backend_of", lambda config, steps: Booted(config, found))
    return found


def _played(*rows: Config) -> None:
    workers = Workers()
    steps: Any = None
    for row in rows:
        with workers(row, steps):
            pass
    workers.close()


def test_rows_that_write_traces_alike_share_their_workers(log: list[str]) -> None:
    _played(LINES, LINES.model_copy(update={"name": "other"}), TAGS, TAGS, LINES)
    assert log == ["lines starts", "lines ends", "tags starts", "tags ends", "lines starts", "lines ends"]


@pytest.mark.parametrize(("fewest", "starts"), [(0, 1), (1, 2)])
def test_elastic_trainers_start_anew_for_other_batches(log: list[str], fewest: int, starts: int) -> None:
    first = LINES.model_copy(update={"cluster": Cluster(train_workers=2, train_workers_min=fewest)})
    fit = first.prefer.fit.model_copy(update={"batch_size": 64})
    other = first.model_copy(update={"prefer": first.prefer.model_copy(update={"fit": fit})})
    assert first.batches != other.batches
    _played(first, other)
    assert log.count("lines starts") == starts
