"""Suites: what to ask a model and what to measure, each a small YAML file; docs/evaluation.md lists those embedded."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal, get_args

from pydantic import Field, ValidationError, model_validator

from erpo_ray import documents
from erpo_ray.complaints import complain
from erpo_ray.config import Data, Section, Source
from erpo_ray.config.judges import TopJudge
from erpo_ray.documents import near
from erpo_ray.errors import UsageError
from erpo_ray.evaluate.readings import final_number
from erpo_ray.prompts import loaders, transforms
from erpo_ray.prompts.mixing import gather, per_source
from erpo_ray.types import Prompt

Transform = Literal[
    "base64", "leetspeak", "role_play", "prefix_injection", "refusal_suppression", "many_shot", "multi_turn"
]
"""A name of `transforms.TRANSFORMS`."""
Metric = Literal[
    "attack_success",
    "harmful_refused",
    "benign_refused",
    "right",
    "partial_refusal",
    "utility",
    "exact_match",
    "unfinished",
    "well_formed",
    "citation_accuracy",
    "trace_agrees",
    "refuses_in_trace_only",
    "refuses_in_answer_only",
    "tokens",
    "trace_tokens",
    "answer_tokens",
    "trace_seconds",
    "answer_seconds",
]
"""A name of `measures.MEASURES`."""

SUITE = "suite.json"
QUESTIONS = "prompts.jsonl"
OBSERVATIONS = "observations.jsonl"
RESULT = "result.json"
REVIEWS = "reviews.jsonl"
LEFT_OUT = "left_out.jsonl"
"""Files of a suite's stage directory, beside its ledgers."""
SECOND = "turn2"
"""Names second turns: ids and sources end with `~turn2`, files of the stage directory begin with `turn2_`."""

_FOLDER = resources.files("erpo_ray.evaluate") / "suites"
_ENDINGS = (".yaml", ".yml")
_UNFIT = re.compile(r"[^A-Za-z0-9._-]+")


class Suite(Section):
    """One suite. The source fields are those of a configuration's `data.evaluate`."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name on the command line, in tables, and of the stage directory: letters, digits, `.`, `_` and `-`."""
    description: str
    """What it measures, in a sentence."""
    licence: str
    """Licence of the prompts and where they come from."""
    data: tuple[Source, ...] = Field(min_length=1)
    """Prompts, by path or hub id."""
    local: tuple[Source, ...] = ()
    """The same prompts as files under `data.root`: read instead of `data` when all of them are there."""
    reference: str = ""
    """Column that holds the right answer, for `exact_match`."""
    turns: int = Field(default=1, ge=1, le=2)
    """2: what the user says next, the second text of a row's list of turns, is asked behind the first answer."""
    transforms: tuple[Transform, ...] = ()
    """Applied to every prompt one after the other, the first innermost."""
    metrics: tuple[Metric, ...] = Field(min_length=1)
    """What is measured; what applies to no prompt is left out of the table."""
    max_tokens: int | None = Field(default=None, ge=16)
    """Longest completion in tokens; `evaluate.max_tokens` of the configuration when empty."""
    judge: TopJudge | None = None
    """Who judges the answers; `judge` of the configuration when empty."""

    @model_validator(mode="after")
    def _fits(self) -> Suite:
        if ("exact_match" in self.metrics) != bool(self.reference):
            raise ValueError("`exact_match` in `metrics` and a column in `reference` need each other; set both or none")
        sources = (*self.data, *self.local)
        plain = max(len(self.data), len(self.local)) == 1 and not any(source.attacks for source in sources)
        if self.reference and not plain:
            raise ValueError("`reference` goes with a single source that wraps no attacks; split the suite")
        if self.turns == 2 and not (plain and not self.transforms):
            raise ValueError(
                "`turns: 2` goes with a single source that wraps no attacks, and without transforms; split the suite"
            )
        return self


@dataclass(frozen=True, slots=True)
class Question:
    """One prompt of a suite, as it is asked, and where the suite has them the right answer and the second turn."""

    prompt: Prompt
    reference: str = ""
    second: str = ""


def names() -> list[str]:
    """The embedded suites."""
    return sorted(entry.name.removesuffix(".yaml") for entry in _FOLDER.iterdir() if entry.name.endswith(".yaml"))


def find(word: str) -> Suite:
    """The suite in a YAML file, or the embedded one of that name. Raises UsageError with the name most likely meant."""
    if word.endswith(_ENDINGS):
        return load(Path(word).expanduser())
    known = names()
    if word not in known:
        guess = near(word, known)
        hint = f"did you mean {guess}?" if guess else "give the path of a .yaml file for one of your own"
        raise UsageError(f"--suite: found no suite {word!r}; {hint} Embedded: {', '.join(known)}")
    with resources.as_file(_FOLDER / f"{word}.yaml") as path:
        return load(path)


def load(path: Path) -> Suite:
    """The suite in a YAML file. Raises UsageError, one line for each fault: `FILE:LINE: key ...: found ...; remedy`."""
    document = documents.read(path)
    try:
        return Suite.model_validate_json(json.dumps(document.data), strict=True)
    except ValidationError as error:
        raise UsageError(complain(error, document.place, Suite)) from error


def file_name(text: str) -> str:
    """The text as the name of a file or directory: what does not fit one is a dash. Empty when nothing is left."""
    return _UNFIT.sub("-", text).strip("-._")


def of_file(path: Path) -> Suite:
    """A suite of one file of labelled prompts, with every measure but those that need a reference."""
    metrics: tuple[Metric, ...] = tuple(name for name in get_args(Metric) if name != "exact_match")
    return Suite(
        name=file_name(path.name.split(".")[0]) or "prompts",
        description=f"Prompts of {path.name}.",
        licence="that of the file",
        data=(Source(path=str(path)),),
        metrics=metrics,
    )


def questions(
    suite: Suite, root: str = "", categories: Collection[str] = (), seed: int = 0, limit: int | None = None
) -> list[Question]:
    """The suite's labelled prompts, transformed, in an order that depends on seed and ids alone.

    `limit` keeps so many of each label and source. Raises UsageError when no prompt has a label, a second turn is
    missing, or a reference that is to be matched holds no number; EnvironmentFault when a hub data set cannot be
    fetched.
    """
    sources = chosen(suite, root)
    mix = gather(Data(root=root, train=(), evaluate=sources), categories, seed)
    kept = per_source([prompt for prompt in mix.evaluate if prompt.label != "unknown"], limit)
    if not kept:
        raise UsageError(
            f"suite {suite.name}: found no labels in {', '.join(source.path for source in sources)}; "
            "give each row a `label` of harmful or benign, or set `label` for the source"
        )
    right = loaders.references(sources[0], suite.reference, root) if suite.reference else {}
    then = loaders.second_turns(sources[0], root) if suite.turns == 2 else {}
    for id, reference in right.items():
        if final_number(reference) is None:
            raise UsageError(
                f"suite {suite.name}: prompt {id}: found {reference[-60:]!r} as reference, which ends in no number"
            )
    asked = transforms.apply(kept, suite.transforms)
    return [Question(new, right.get(old.id, ""), then.get(old.id, "")) for old, new in zip(kept, asked, strict=True)]


def chosen(suite: Suite, root: str) -> tuple[Source, ...]:
    """The sources that are read: the local files when `root` is given and has them all, else those of `data`."""
    there = bool(root and suite.local) and all(
        (Path(root).expanduser() / source.path).is_file() for source in suite.local
    )
    return suite.local if there else suite.data
