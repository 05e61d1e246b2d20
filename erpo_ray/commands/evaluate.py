"""`erpo eval`: a model on suites and on files of labelled prompts."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from erpo_ray import environment, preflight, rules
from erpo_ray.commands import harness
from erpo_ray.commands.common import model_of, read_config, require_prompts, run_config, run_of
from erpo_ray.config import Config
from erpo_ray.config.decoding import SEARCHES, Decode, DecodeName
from erpo_ray.endings import terminable
from erpo_ray.errors import UsageError
from erpo_ray.evaluate import suite as suites
from erpo_ray.evaluate.suite import REVIEWS, Question, Suite
from erpo_ray.judging.ensemble import Review
from erpo_ray.rundir import read_rows
from erpo_ray.rundir.kind import kind_of, said_of
from erpo_ray.terminal import clean
from erpo_ray.types import Prompt, encode

if TYPE_CHECKING:
    from erpo_ray.evaluate.measures import SuiteResult


def evaluate(
    model: str,
    names: Sequence[str],
    files: Sequence[Path],
    config_path: Path | None,
    data_root: Path | None,
    decode: DecodeName | None,
    output: Path | None,
    json: bool,
) -> int:
    """Evaluate into a directory, a stage for each suite, and print the measures (with `json` as JSON).

    Without `config_path` a run is judged by its own configuration, any other model by the defaults. `decode` is laid
    over the configuration.
    """
    config = _config(model, config_path, data_root, decode)
    require_prompts(files)
    if output is not None and output.suffix == ".json":
        raise UsageError(f"-o {output}: names the directory of the evaluation; for one file use --json > {output.name}")
    words, tasks = harness.split(names)
    lm_eval = harness.program() if tasks else ""
    if tasks and config.evaluate.decode.name != "plain":
        raise UsageError(
            f"--suite {harness.PREFIX}...: is asked of a server, which decodes plainly; leave --decode out"
        )
    asked = _asked(words, files, config) if words or files or not tasks else []
    found = model_of(model)
    preflight.model(config.model_copy(update={"model": config.model.model_copy(update={"path": str(found)})}))
    out = output or place(model, found, config.evaluate.decode.name)
    preflight.writable(out, "-o")
    if out.exists() and (kind := kind_of(out)) in ("run", "sweep", "search"):
        raise UsageError(f"{said_of(out, kind)}; name another directory with -o")
    with terminable():
        if asked:
            config = _with_head(model, found, config)
            _tell(_measured(found, asked, config, out), out, json)
        if tasks:
            theirs = out.with_name(f"{out.name}-lm-eval")
            harness.evaluate(lm_eval, found, tasks, config, theirs, quiet=json)
            _note(f"results and samples of lm-eval: {theirs}")
    return 0


def _measured(
    model: Path, asked: Sequence[tuple[Suite, list[Question]]], config: Config, out: Path
) -> list[SuiteResult]:
    from erpo_ray import launch

    return launch.evaluate(model, asked, config, out, say=_note)


def _with_head(model: str, found: Path, config: Config) -> Config:
    """The configuration with the file of the process reward model that its search asks for.

    UsageError where there is neither a file nor a run to learn it from.
    """
    decode, run = config.evaluate.decode, run_of(model)
    if decode.name not in SEARCHES or decode.search.value != "process":
        return config
    if not decode.search.head and run is None:
        raise UsageError(
            f"--decode {decode.name}: {model} is no run, whose rounds a process reward model could be learnt from; "
            "name its file in evaluate.decode.search.head, or for best-of-n set evaluate.decode.search.value to judge"
        )
    from erpo_ray.engines import process_reward
    from erpo_ray.train.weights import version

    policy = version(found)
    path = Path(decode.search.head)
    if run and not decode.search.head:
        path = run / "process_reward" / f"{policy}.safetensors"
        if not path.exists():
            _learn(run, found, policy, config, path)
    head = process_reward.load(path, policy)
    _note(f"process reward model: {head.nodes} steps, correlation {head.correlation:.2f} on prompts held out: {path}")
    search = decode.search.model_copy(update={"head": str(path)})
    named = config.evaluate.model_copy(update={"decode": decode.model_copy(update={"search": search})})
    return config.model_copy(update={"evaluate": named})


def _learn(run: Path, found: Path, policy: str, config: Config, path: Path) -> None:
    """The process reward model of a run's policy, from what its rounds drew."""
    from erpo_ray.engines import process_reward
    from erpo_ray.engines.renderer import Renderer
    from erpo_ray.evaluate.values import nodes

    renderer = Renderer(found)
    prompts = read_rows(run / "stages" / "labels" / "prompts.jsonl", Prompt)
    rows = nodes(run, prompts, renderer.render, renderer.pieces, config.model.dialect)
    gpu = environment.gpu_present() if config.cluster.gpu is None else config.cluster.gpu
    process_reward.train(found, policy, rows, path, gpu)


def _tell(results: list[SuiteResult], out: Path, json: bool) -> None:
    for each in results:
        _tell_reviews(each.suite, out / "stages" / each.suite / REVIEWS)
    from erpo_ray.evaluate.measures import table

    if json:
        sys.stdout.write(encode(results).decode() + "\n")
        return
    print(clean(table(results)))
    print(f"\nkept in {out}; the same command goes on there and samples nothing twice")
    print(f"next: erpo compare OTHER {out} -o compare.html", flush=True)


def _tell_reviews(suite: str, path: Path) -> None:
    """Where the answers are listed that judges disagree about, of a suite with several judges."""
    count = sum(1 for _ in read_rows(path, Review)) if path.exists() else 0
    if count:
        _note(f"{suite}: the judges disagree about {count} {'answer' if count == 1 else 'answers'}: {path}")


def place(model: str, found: Path, decode: DecodeName = "plain") -> Path:
    """Where an evaluation is kept without -o: in the run, under the stage of its policy, else in ./evaluations.

    With a defence or a search its name is added: `base-rose`, `03-prefer-beam`.
    """
    ending = "" if decode == "plain" else f"-{decode}"
    run = run_of(model)
    if run:
        stage = found.parent
        return run / "evaluations" / f"{stage.name if stage.parent.name == 'stages' else 'base'}{ending}"
    return Path("evaluations") / f"{suites.file_name(Path(model).name) or 'model'}{ending}"


def _config(model: str, path: Path | None, data_root: Path | None, decode: DecodeName | None) -> Config:
    run = run_of(model)
    if path is not None:
        config = read_config(path, [])
    else:
        config = run_config(run) if run else Config()
    changes: dict[str, object] = {}
    if run is None:
        changes["model"] = config.model.model_copy(update={"path": model})
    if data_root is not None:
        changes["data"] = config.data.model_copy(update={"root": str(data_root)})
    if decode is not None:
        changes["evaluate"] = config.evaluate.model_copy(update={"decode": _named(config.evaluate.decode, decode)})
    return config.model_copy(update=changes)


def _named(settings: Decode, name: DecodeName) -> Decode:
    try:
        return Decode.model_validate(settings.model_dump() | {"name": name})
    except ValidationError as error:
        said = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise UsageError(f"--decode {name}: evaluate.decode: {said}") from error


def _asked(words: Sequence[str], files: Sequence[Path], config: Config) -> list[tuple[Suite, list[Question]]]:
    """Every suite with its prompts, read before anything boots."""
    if not words and not files:
        raise UsageError(f"nothing to evaluate on; give --suite NAME or files. Suites: {', '.join(suites.names())}")
    # Files of the command line are where it is typed, those of a suite under data.root.
    found = [(suites.find(word), config.data.root) for word in words] + [(suites.of_file(file), "") for file in files]
    twice = [name for name, count in Counter(suite.name for suite, _ in found).items() if count > 1]
    if twice:
        raise UsageError(f"two suites or files are called {twice[0]}; rename one, or give them to two commands")
    categories = tuple(rules.load(config.rules.path).categories)
    limit = config.evaluate.per_source
    return [(suite, suites.questions(suite, root, categories, config.seed, limit)) for suite, root in found]


def _note(message: str) -> None:
    print(clean(message), file=sys.stderr)
