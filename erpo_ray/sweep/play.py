"""Plays the rows of a sweep one after another, each in a run directory of its own, and keeps the table up to date."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

from erpo_ray import launch, preflight, terminal
from erpo_ray.endings import recorded
from erpo_ray.errors import ErpoError, GateFailed, RunFailed
from erpo_ray.preflight import Ready
from erpo_ray.rundir import RunDir
from erpo_ray.rundir.fingerprint import fingerprint
from erpo_ray.rundir.kind import ROWS
from erpo_ray.rundir.lines import plain_rows
from erpo_ray.sweep import budget, pages, table
from erpo_ray.sweep.results import results
from erpo_ray.sweep.rows import Row, Sweep
from erpo_ray.sweep.share import Workers, adopt, sealed, shared_stages
from erpo_ray.types import identity


def play(sweep: Sweep, out: Path, say: Callable[[str], None] = terminal.say) -> None:
    """Perform or continue the sweep in `out`: rows that are done are not touched, one that was cut short goes on.

    A row that fails or crashes is told in the table, and the next one is played; RunFailed at the end names it, and the
    same command tries it again. Rows may be added to the file of a sweep that is done.
    """
    ready = preflight.check(sweep.common, out)
    plans = budget.plans(sweep, ready)
    say(budget.text(sweep, plans))
    need = budget.disk(sweep, ready)
    with (
        RunDir.open(out, sweep.common, inputs=launch.inputs(ready), need_bytes=need, note=say) as record,
        recorded(record.status),
        closing(Workers()) as workers,
    ):
        failures: dict[str, str] = {}
        versions = _versions(sweep)
        done = {row["stage"] for row in plain_rows(out / "metrics.jsonl", dict[str, str])
                if versions.get(row["stage"]) == row["step"]}  # fmt: skip
        for row in sweep.rows:
            say(f"\n--- {row.name}{': done' if row.name in done else ''}")
            if row.name in done:
                continue
            with record.timed(row.name, "row"):
                why = f"it measures the row {row.of}, which failed" if row.of in failures else ""
                why = why or _fault(partial(_row, sweep, row, out, ready, workers, say))
            if why:
                failures[row.name] = why
                say(f"{row.name}: {why}")
            else:
                record.append_metric({"stage": row.name, "step": versions[row.name]})
                done.add(row.name)
            pages.write(record, sweep, results(sweep, out / ROWS, done), plans, failures, whole=False)
        found = results(sweep, out / ROWS, done)
        pages.write(record, sweep, found, plans, failures, whole=True)
        say(f"\n{table.text(found, failures)}\n")
        say(f"page: {out / pages.PAGE}   figure: {out / pages.FIGURE}   table: {out / pages.TABLE}")
        record.status("running", stage="", phase="")
        if failures:
            raise RunFailed(
                f"{len(failures)} of {len(sweep.rows)} rows failed: {', '.join(failures)}. The same command tries them "
                f"again from where they stopped; one whose samples are at fault begins anew without {out / ROWS}/NAME"
            )
        if len(found) > 1:
            best = max(found[1:], key=lambda row: row.balanced.value)
            say(f"next: erpo compare {out / ROWS / found[0].name} {out / ROWS / best.name}")


def _fault(play: Callable[[], None]) -> str:
    """Why a row failed, or nothing. What concerns settings or machine is raised: no other row would fare better."""
    try:
        play()
    except RunFailed as error:
        return str(error)
    except ErpoError:
        raise
    except Exception as error:
        # A fault in one method costs its row, not the night of the others.
        traceback.print_exc()
        return f"crashed with {type(error).__name__}: {error}"
    return ""


def _row(sweep: Sweep, row: Row, out: Path, ready: Ready, workers: Workers, say: Callable[[str], None]) -> None:
    """The run of a row, or the measurement that it is."""
    place, config = out / ROWS / row.name, row.config

    def take(run: RunDir) -> None:
        if taken := adopt(run, shared_stages(row), sealed(sweep.rows, out / ROWS)):
            say(f"{row.name}: {', '.join(taken)} as in a row before")

    if row.of is None:
        ready = replace(ready, disk_bytes=preflight.disk(config, ready.model_dir))
        try:
            launch.run(config, place, say, launch.Shared(ready, workers, take))
        except GateFailed as error:
            say(f"{row.name}: {error}")  # a result like any other: its policy is the model as given
        return
    if row.of:
        ready = replace(ready, model_dir=(out / ROWS / row.of / "policy").resolve())
        config = config.model_copy(update={"model": config.model.model_copy(update={"path": str(ready.model_dir)})})
    launch.measure(config, place, say, launch.Shared(replace(ready, disk_bytes=0), workers, take))


def _versions(sweep: Sweep) -> dict[str, str]:
    """What each row computes, as a hash; of a policy that is only measured with that of the row that makes it."""
    found: dict[str, str] = {}
    for row in sweep.rows:
        found[row.name] = identity(fingerprint(row.config, {}).sha256, row.of, found.get(row.of or "", ""))
    return found
