"""Plays the rows of a sweep one after another, each in a run directory of its own, and keeps the table up to date."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

from erpo_ray import launch, preflight, terminal
from erpo_ray.endings import recorded
from erpo_ray.errors import ErpoError, GateFailed, RunFailed, UsageError
from erpo_ray.preflight import Ready
from erpo_ray.rundir import RunDir
from erpo_ray.rundir.fingerprint import fingerprint
from erpo_ray.rundir.kind import ROWS
from erpo_ray.rundir.lines import plain_rows
from erpo_ray.sweep import budget, pages, table
from erpo_ray.sweep.adopting import Made, adopt
from erpo_ray.sweep.changes import settle
from erpo_ray.sweep.outside import aside, outside
from erpo_ray.sweep.results import results
from erpo_ray.sweep.rows import Row, Sweep
from erpo_ray.sweep.share import Workers
from erpo_ray.types import identity


def play(sweep: Sweep, out: Path, say: Callable[[str], None] = terminal.say, elsewhere: Sequence[Path] = ()) -> None:
    """Perform or continue the sweep in `out`: rows that are done are not touched, one that was cut short goes on.

    A row that fails or crashes is told in the table, and the next one is played; RunFailed at the end names it, and the
    same command tries it again. Rows of the file may be added and changed later: only these are played then.
    `elsewhere` are run directories and sweeps whose sealed stages rows may take over.
    """
    ready = preflight.check(sweep.common, out)
    plans = budget.plans(sweep, ready)
    inputs = launch.inputs(ready)
    given, unfit = outside(elsewhere, inputs)
    say("\n".join([budget.text(sweep, plans), *unfit]))
    need = budget.disk(sweep, ready)
    with (
        RunDir.open(out, sweep.common, inputs=inputs, need_bytes=need, note=say) as record,
        recorded(record.status),
        closing(Workers()) as workers,
    ):
        versions = _versions(sweep)
        done, changes = settle(record, out, sweep, inputs, _told(out, versions))
        for line in changes:
            say(line)
        made = [*(Made(row, out / ROWS / row.name) for row in sweep.rows), *aside(out), *given]
        failures: dict[str, str] = {}
        for row in sweep.rows:
            say(f"\n--- {row.name}{': done' if row.name in done else ''}")
            if row.name in done:
                continue
            with record.timed(row.name, "row"):
                why = f"it measures the row {row.of}, which failed" if row.of in failures else ""
                why = why or _fault(partial(_row, row, out, made, ready, workers, say))
            if why:
                failures[row.name] = why
                say(f"{row.name}: {why}")
            else:
                record.append_metric({"stage": row.name, "step": versions[row.name]})
                done.add(row.name)
            pages.write(record, sweep, results(sweep, out / ROWS, done), plans, failures, whole=False)
        _end(record, out, sweep, done, plans, failures, say)


def _told(out: Path, versions: Mapping[str, str]) -> set[str]:
    """The rows that are done as the file has them, by what the sweep wrote down."""
    rows = plain_rows(out / "metrics.jsonl", dict[str, str])
    return {row["stage"] for row in rows if versions.get(row["stage"]) == row["step"]}


def _end(
    record: RunDir,
    out: Path,
    sweep: Sweep,
    done: Collection[str],
    plans: Mapping[str, budget.Plan],
    failures: Mapping[str, str],
    say: Callable[[str], None],
) -> None:
    """The whole page and the table. RunFailed when rows failed."""
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
    """Why a row failed, or nothing. What concerns the machine is raised: no other row would fare better."""
    try:
        play()
    except (RunFailed, UsageError) as error:
        return str(error)
    except ErpoError:
        raise
    except Exception as error:
        # A fault in one method costs its row, not the night of the others.
        traceback.print_exc()
        return f"crashed with {type(error).__name__}: {error}"
    return ""


def _row(row: Row, out: Path, made: Sequence[Made], ready: Ready, workers: Workers, say: Callable[[str], None]) -> None:
    """The run of a row, or the measurement that it is. `made` are the runs whose stages it may take over."""
    place, config = out / ROWS / row.name, row.config

    def take(run: RunDir) -> None:
        taken = adopt(run, row, made)
        for source in dict.fromkeys(taken.values()):
            names = ", ".join(name for name, place in taken.items() if place == source)
            say(f"{row.name}: {names} from {source}")

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
