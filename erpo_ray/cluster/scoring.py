"""A judge with a model over a whole file of answers, through Ray Data: for `erpo judge-check`."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cached_property

import pyarrow as pa
import ray.data
from ray.exceptions import RayError
from ray.util.annotations import RayDeprecationWarning

from erpo_ray import errors
from erpo_ray.cluster.crew import last_line
from erpo_ray.cluster.protocol import Item
from erpo_ray.cluster.start import join, leave
from erpo_ray.cluster.workers import JudgeWorker
from erpo_ray.config import Config
from erpo_ray.config.judges import AnyJudge, JudgeEnsemble, JudgeGuard, JudgeReward
from erpo_ray.types import Verdict, decode, encode

_RESTARTS = 1
"""Of each actor, and tries again of each batch. Ray Data's own default has no end, and a model may never fit."""


def verdicts(config: Config, section: AnyJudge, items: Sequence[Item]) -> list[Verdict]:
    """One verdict an item, in order, by `cluster.judge_workers` actors that load the judge once; a GPU each, if any.

    Joins a cluster and leaves it. Raises UsageError and EnvironmentFault as the judge would here, RunFailed when its
    workers die.
    """
    joined = join(config.cluster, config.cluster.judge_workers, policy=False)
    try:
        return _judged(config, section, items, joined.gpu)
    except RayError as error:
        raise errors.RunFailed(f"a judge worker failed: {last_line(error)}; start the same command again") from error
    finally:
        leave(joined)


def batch_size(section: AnyJudge) -> int:
    """Answers that a judge takes at once, by its section: of an ensemble the most that a member takes."""
    if isinstance(section, JudgeEnsemble):
        return max(batch_size(member.judge) for member in section.members)
    if isinstance(section, JudgeGuard):
        return section.in_flight
    return section.batch_size if isinstance(section, JudgeReward) else 1


def _judged(config: Config, section: AnyJudge, items: Sequence[Item], gpu: bool) -> list[Verdict]:
    rows = [{"n": n, "item": encode(item)} for n, item in enumerate(items)]
    with warnings.catch_warnings():
        # It asks for named parameters, and there is none for restarts.
        warnings.simplefilter("ignore", RayDeprecationWarning)
        judged = ray.data.from_items(rows).map_batches(
            _Scorer,
            # A section that cannot judge a run can judge a file.
            fn_constructor_args=(config.model_copy(update={"judge": section}), gpu),
            batch_size=batch_size(section),
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=config.cluster.judge_workers),
            num_cpus=0,
            num_gpus=int(gpu),
            max_restarts=_RESTARTS,
            max_task_retries=_RESTARTS,
        )
    # Batches come as they are done.
    found: dict[int, Verdict] = {}
    for row in judged.iter_rows():
        if row["fault"]:
            raise getattr(errors, row["fault"])(row["row"].decode())
        found[row["n"]] = decode(row["row"], Verdict)
    return [found[n] for n in range(len(items))]


class _Scorer:
    """The judge in an actor of Ray Data."""

    def __init__(self, config: Config, gpu: bool) -> None:
        self._config, self._gpu = config, gpu

    @cached_property
    def _worker(self) -> JudgeWorker:
        return JudgeWorker(self._config, self._gpu)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Verdicts of a batch. A fault is a row too: Ray Data would wrap an exception in its own."""
        items = [decode(item, Item) for item in batch["item"].to_pylist()]
        try:
            rows, fault = [encode(verdict) for verdict in self._worker.judge(items)], ""
        except errors.ErpoError as error:
            rows, fault = [str(error).encode()] * len(items), type(error).__name__
        return pa.table({"n": batch["n"], "fault": [fault] * len(items), "row": rows})
