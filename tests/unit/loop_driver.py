"""Drivers of the loop by rote as processes, for tests that kill them.

A server forks them, with everything imported: pytest itself has threads, and an interpreter each would cost seconds.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from fakes import Rote
from rundir_driver import NoSync
from test_loop import of, run

from erpo_ray import rules
from erpo_ray.methods import METHODS
from erpo_ray.rundir.lines import ledger_rows
from erpo_ray.types import Candidate

BOOK = rules.load("")

forks = multiprocessing.get_context("forkserver")
forks.set_forkserver_preload(["loop_driver"])


@dataclass
class Ended:
    """How a driver ended: exit code (negative for a signal), ids of what it sampled, what it said of a failure."""

    code: int
    sampled: list[str]
    errors: str = ""


class Driver:
    """A driver at work on `place/run`."""

    def __init__(self, place: Path, failpoint: str = "", method: str = "erpo", overlap: str = "none") -> None:
        sources = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
        # The server reads it when it starts.
        os.environ["PYTHONPATH"] = os.pathsep.join([*sources, *filter(None, [os.environ.get("PYTHONPATH")])])
        self._said, told = forks.Pipe(duplex=False)
        self.process: BaseProcess = forks.Process(target=_drive, args=(told, place, failpoint, method, overlap))
        self.process.start()
        told.close()

    def end(self) -> Ended:
        """Wait for its end."""
        try:
            sampled, errors = self._said.recv()
        except EOFError:
            sampled, errors = [], ""
        self.process.join()
        return Ended(self.process.exitcode or 0, sampled, errors)


def drive(place: Path, failpoint: str = "", method: str = "erpo", overlap: str = "none") -> Ended:
    """A driver from its start to its end."""
    return Driver(place, failpoint, method, overlap).end()


def ids(place: Path) -> set[str]:
    """Candidates that stand whole on disk, of all stages."""
    paths = place.glob("run/stages/*/*candidates.jsonl")
    return {row.id for path in paths for row in ledger_rows(path, Candidate)}


def _drive(told: Connection, place: Path, failpoint: str, method: str, overlap: str) -> None:
    os.environ["ERPO_FAILPOINT"] = failpoint
    config = of(method).model_copy(update={"overlap": overlap})
    plain = any(stage.kind == "prefer" and not stage.traced for stage in METHODS[method](config))
    backend = Rote(config, BOOK, plain)
    try:
        run(place, config, backend, files=NoSync())
    except BaseException:
        told.send((backend.sampled, traceback.format_exc()))
        sys.exit(1)
    told.send((backend.sampled, ""))
