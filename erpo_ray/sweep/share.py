"""What rows of a sweep need not make twice: stages that others have with the same inputs, and workers that run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import msgspec

from erpo_ray import launch
from erpo_ray.backend import Backend
from erpo_ray.config import Config
from erpo_ray.methods import METHODS
from erpo_ray.pulse import Steps
from erpo_ray.rundir.fingerprint import plain
from erpo_ray.sweep.rows import Row
from erpo_ray.traces import vocabulary
from erpo_ray.types import encode, identity

UNREAD = (
    "name", "method", "prefer", "rounds", "constraint", "steps", "search", "reflection", "reinforce", "sos", "backend",
    "cluster", "tracking", "overlap",
)  # fmt: skip
"""Sections that no imitate stage reads: what else differs makes another stage."""


def shared_stages(row: Row) -> dict[str, str]:
    """The stages of a row that another one may have made, each with a hash of all that goes into it.

    Labels and base are the same for all rows that decode alike, since a sweep fixes what they depend on. A method's
    first stage, if it imitates, is one with another's where the stage and all settings it can read are equal.
    """
    tree = plain(row.config)
    common = identity("common", _json({key: tree[key] for key in ("seed", "data", "rules", "labeller")}))
    model = identity(common, _json({key: tree[key] for key in ("model", "judge", "evaluate")}))
    found = {"labels": common, "base": model}
    if row.of is None:
        first = METHODS[row.config.method](row.config)[0]
        if first.kind == "imitate":
            inputs = {key: value for key, value in tree.items() if key not in UNREAD}
            kind = f"{type(first).__module__}.{type(first).__qualname__}"
            found[f"00-{first.name}"] = identity(kind, encode(first), _json(inputs))
    elif row.of:
        del found["base"]  # it is the other row's policy that is measured there
    return found


class Workers:
    """One backend for rows that decode plainly: engines, judges and trainers start once.

    A row with a defence or with tokens of its own has an engine of its own. After a row that failed, or with
    traces written otherwise, the next one starts anew.
    """

    def __init__(self) -> None:
        self._backend: Backend | None = None
        self._made_with: object = None
        self._told: Steps = lambda step, steps, metrics: None

    def __call__(self, config: Config, steps: Steps) -> AbstractContextManager[Backend]:
        return self._serving(config, steps)

    def close(self) -> None:
        if self._backend is not None:
            self._backend.close()
            self._backend = None

    @contextmanager
    def _serving(self, config: Config, steps: Steps) -> Iterator[Backend]:
        alone = config.evaluate.decode.name != "plain" or bool(vocabulary(config.model.dialect))
        needed = _needed(config)
        if alone or needed != self._made_with:
            self.close()
        if self._backend is None:
            self._backend, self._made_with = launch.backend_of(config, self._relay), needed
        self._told = steps
        try:
            yield self._backend
        except BaseException:
            self.close()
            raise
        if alone:
            self.close()

    def _relay(self, step: int, steps: int, metrics: Mapping[str, float]) -> None:
        """The trainer's news go to the row that is played now."""
        self._told(step, steps, metrics)


def _needed(config: Config) -> object:
    """What workers are made with and rows may set: how traces are written, which judges read, and the batches that
    elastic trainers share."""
    return config.model, config.batches if config.cluster.train_workers_min else ()


def _json(tree: Mapping[str, Any]) -> str:
    return msgspec.json.encode(tree).decode()
