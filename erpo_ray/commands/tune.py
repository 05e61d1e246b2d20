"""`erpo tune`: a search for the guidance of a judge or a teacher behind an endpoint."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from ruamel.yaml import YAML

from erpo_ray import preflight, rules
from erpo_ray.commands.common import read_config, require_prompts
from erpo_ray.commands.judge_check import usage_lines
from erpo_ray.config import Config, Source
from erpo_ray.config.judges import JudgeLLM
from erpo_ray.endings import recorded, terminable
from erpo_ray.errors import UsageError
from erpo_ray.prompts import files
from erpo_ray.prompts.labelled import rows
from erpo_ray.rules import RuleBook
from erpo_ray.rundir import RunDir
from erpo_ray.terminal import aligned, say
from erpo_ray.tuning import cases
from erpo_ray.tuning.cases import Case, Measured
from erpo_ray.tuning.search import Found, Search, Subject, play
from erpo_ray.types import Rate, encode, identity, seed_of

What = Literal["judge", "teacher"]
_Ready = tuple[str, list[Case], Callable[[Path], tuple[Subject, Callable[[], list[str]]]]]
"""The guidance that is there, the cases, and what makes the subject in a directory, with what tells of its usage."""


def tune(what: What, config_path: Path, file: Path, overrides: Sequence[str], output: Path | None) -> int:
    """Search, or go on with a search, and print what was found beside what was there before.

    UsageError where there is no prompt to search for, no key, or too few cases.
    """
    require_prompts([file])
    config = read_config(config_path, overrides)
    book = rules.load(config.rules.path)
    start, found, subject_in = (_judge if what == "judge" else _teacher)(config, file, book)
    searched, apart = cases.split(found, config.sos.prompts)
    out = output or Path("tuned") / f"{config.name}-{what}"
    inputs = {"cases": identity(*sorted(map(encode, found))), "rules": identity(encode(book))}
    with terminable(), RunDir.open(out, config, inputs=inputs, note=say) as run, recorded(run.status):
        subject, used = subject_in(run.path)
        search = Search(config.sos, subject.brief, start, searched, seed_of(config.seed, "tune", what))
        say(f"{what}: at most {search.texts} texts on {len(searched)} cases, two of them on {len(apart)} held apart")
        with run.timed(what, "search"), run.stage(what) as s:
            best = play(search, apart, subject, s, say)
            if not s.sealed:
                s.seal({"text": best.text})
        if best.text:
            run.publish(f"{what}.yaml", _yaml(what, best))
    say("\n".join([*_lines(best), *used()]))
    if best.text:
        say(f"guidance: {best.text}\nkept in {out / f'{what}.yaml'}; put its key into a configuration")
    return 0


def _judge(config: Config, file: Path, book: RuleBook) -> _Ready:
    section = config.judge
    if not isinstance(section, JudgeLLM):
        raise UsageError(
            f"key `judge.type`: found {section.type!r} (text), but only `llm` has a prompt to search for; name a "
            "configuration with that judge alone, and put what is found where it stands in an ensemble"
        )
    preflight.judge(section, book)
    found = cases.judged(rows(files.rows(Source(path=str(file)), "")))

    def subject_in(out: Path) -> tuple[Subject, Callable[[], list[str]]]:
        from erpo_ray.tuning.judge import JudgeSubject

        # What a kill cuts off among the cases of one text is not paid for again.
        cached = section.model_copy(update={"cache": section.cache or str(out / "verdicts.sqlite")})
        subject = JudgeSubject(cached, book, config.model.dialect, config.sos.rewrite)
        return subject, lambda: usage_lines(subject.usage())

    return section.guidance, found, subject_in


def _teacher(config: Config, file: Path, book: RuleBook) -> _Ready:
    section = config.teacher
    if section.type != "openai":
        raise UsageError(
            f"key `teacher.type`: found {section.type!r} (text), but only `openai` has a prompt to search for; "
            "set it to openai, with teacher.base_url and teacher.model"
        )
    preflight.endpoint_key("teacher", section)
    found = cases.messages(files.rows(Source(path=str(file)), ""), tuple(book.categories))

    def subject_in(out: Path) -> tuple[Subject, Callable[[], list[str]]]:
        from erpo_ray.tuning.teacher import TeacherSubject

        renderer = preflight.renderer(preflight.model(config))
        return TeacherSubject(config, book, renderer.count), list

    return section.guidance, found, subject_in


def _yaml(what: What, found: Found) -> bytes:
    """The key for a configuration, with what was measured in front."""
    yaml, stream = YAML(), io.BytesIO()
    yaml.dump({what: {"guidance": found.text}}, stream)
    comment = [f"# Found by erpo tune {what}.", *(f"# {line}" for line in _lines(found))]
    return "\n".join([*comment, stream.getvalue().decode()]).encode()


def _lines(found: Found) -> list[str]:
    """What is measured on the cases held apart, and what to make of it."""
    table = [("right, held apart", "before", "after", "change", "p")]
    for label, change in found.change.items():
        before, after = (_share(getattr(each, label)) for each in (found.before, found.after))
        table.append((label, before, after, _share(change.difference, "+"), f"{change.p:.3f}"))
    lines = aligned(table).splitlines()
    lines += [f"wrong {name}: {_causes(each)}" for name, each in (("before", found.before), ("after", found.after))]
    if not found.text:
        lines.append("no text did better on the cases searched on: what is there stays")
    elif not found.gained:
        lines.append("no gain on the cases held apart: leave it out")
    return lines


def _share(rate: Rate | None, sign: str = "") -> str:
    return "-" if rate is None else f"{rate.value:{sign}.3f} [{rate.low:{sign}.3f} to {rate.high:{sign}.3f}]"


def _causes(each: Measured) -> str:
    return ", ".join(f"{cause} {count}" for cause, count in each.causes.items()) or "none"
