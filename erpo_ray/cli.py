"""The `erpo` command. Commands only name their arguments; the work is in `erpo_ray.commands`, loaded when needed."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from erpo_ray import environment
from erpo_ray.commands.guarded import guarded

app = typer.Typer(
    name="erpo",
    help="From a chat model, a rule book and prompts to a model that reasons about safety before it answers.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
config_app = typer.Typer(help="Look at configurations.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(config_app, name="config")

Config = Annotated[Path, typer.Argument(metavar="CONFIG", help="Configuration (YAML): differences from the defaults.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Values laid over the file, as in prefer.samples=8."),
]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="Run directory.")]
Where = Annotated[str, typer.Argument(metavar="RUN", help="Run directory; with --address that of a submitted run.")]
Address = Annotated[
    str, typer.Option(help="Dashboard of the cluster that the run was submitted to, as in http://127.0.0.1:8265.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def run(
    config: Config,
    overrides: Overrides = None,
    run_dir: Annotated[Path | None, typer.Option(help="Where everything is kept; runs/NAME when left out.")] = None,
) -> int:
    """Run a method, or continue the run that is in the directory."""
    from erpo_ray.commands import run

    return run.run(config, overrides or [], run_dir)


@app.command()
def synthesize(
    config: Config,
    overrides: Overrides = None,
    run_dir: Annotated[Path | None, typer.Option(help="Where everything is kept; runs/NAME when left out.")] = None,
) -> int:
    """Write the examples that a run imitates first, and stop; `erpo run` with the same arguments goes on from there."""
    from erpo_ray.commands import run

    return run.synthesize(config, overrides or [], run_dir)


@app.command()
def plan(
    config: Config,
    overrides: Overrides = None,
    nodes: Annotated[
        str,
        typer.Option(
            metavar="NxGxKIND@PRICE", help="Who runs where, time and money on such machines, as 2x8xH100@2.50."
        ),
    ] = "",
    json: Json = False,
) -> int:
    """Show what a run would do and need: stages, prompts, tokens, memory, time. Boots nothing."""
    from erpo_ray.commands import plan

    return plan.plan(config, overrides or [], nodes, json)


@app.command()
def chat(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Run directory, model directory, or name of a model.")],
    prompt: Annotated[str | None, typer.Option(help="Answer this one message and stop.")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest completion.")] = 256,
) -> int:
    """Talk to a policy; its trace is shown apart from its answer."""
    from erpo_ray.commands import chat

    return chat.chat(model, prompt, max_tokens)


@app.command()
def serve(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Run directory, model directory, or name of a model.")],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    name: Annotated[str | None, typer.Option(help="Name that requests ask for; the run's or the model's own.")] = None,
    key_file: Annotated[
        Path | None, typer.Option(help="File of mode 0600 with the key that requests have to show; else VLLM_API_KEY.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens of a completion at most.")] = 4096,
    max_requests: Annotated[int, typer.Option(min=1, help="Requests at once; to more the answer is 429.")] = 256,
) -> int:
    """Serve a policy as an OpenAI-compatible endpoint; its trace comes as `reasoning`, apart from the answer."""
    from erpo_ray.commands import serve

    return serve.serve(model, host, port, name, key_file, max_tokens, max_requests)


@app.command()
def export(
    run: Run,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="New directory for what is exported.")],
    to: Annotated[
        Literal["hf", "trl", "inspect"],
        typer.Option(help="hf: model and card; trl: pairs as Parquet; inspect: evaluations as Inspect logs."),
    ] = "hf",
) -> int:
    """Copy what a run made for other tools: its policy with a model card, its pairs, or its evaluations."""
    from erpo_ray.commands import export

    return export.export(run, folder, to)


@app.command("eval")
def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Run directory, model directory, or name of a model.")],
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="FILE", help="JSONL or Parquet files of labelled prompts.")
    ] = None,
    suite: Annotated[
        list[str] | None,
        typer.Option(help="Suites by name, with commas between, the path of a YAML file, or lm-eval:TASK,..."),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="Configuration for judge and engine; for a run, its own.")] = None,
    data_root: Annotated[Path | None, typer.Option(help="Folder with the files of public suites (data.root).")] = None,
    decode: Annotated[
        Literal["plain", "rose", "scans", "best-of-n", "beam"] | None,
        typer.Option(help="Decoding-time defence or search; as the configuration says when left out."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Directory of the evaluation; the same one continues it.")
    ] = None,
    json: Json = False,
) -> int:
    """Measure a model on suites: safety, over-refusal, usefulness, traces, length. Resumes where it was stopped."""
    from erpo_ray.commands import evaluate

    return evaluate.evaluate(model, suite or [], files or [], config, data_root, decode, output, json)


@app.command()
def compare(
    sides: Annotated[
        list[str],
        typer.Argument(metavar="A B...", help="Runs (RUN or RUN@STAGE) or evaluation directories; A is the baseline."),
    ],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write to a file: .html, .md or .json.")] = None,
) -> int:
    """Compare runs or evaluations prompt by prompt: differences with intervals, and every prompt that flipped."""
    from erpo_ray.commands import compare

    return compare.compare(sides, output)


@app.command()
def sweep(
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG", help="YAML: what all rows share, a budget, and the rows.")
    ],
    overrides: Overrides = None,
    run_dir: Annotated[Path | None, typer.Option(help="Where everything is kept; runs/NAME when left out.")] = None,
    adopt: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="A run or another sweep: rows take its sealed stages where all is equal."),
    ] = None,
) -> int:
    """Run several methods on one model, prompts, judge and budget, and put them in one table. Resumes."""
    from erpo_ray.commands import sweep

    return sweep.sweep(config, overrides or [], run_dir, adopt or ())


@app.command("judge-check")
def judge_check(
    judge: Annotated[
        str, typer.Argument(metavar="JUDGE", help="rules, classifier, or a YAML file with a judge; several by comma.")
    ],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="JSONL or Parquet: labelled texts or preferences.")],
    config: Annotated[Path | None, typer.Option(help="Configuration of the judge.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder for the judge cards, as JSON.")] = None,
    search: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="QUERIES",
            help="Queries an answer of a random search for words that turn the judge; 0 for none. Without: 500 for "
            "rules, 0 for other judges.",
        ),
    ] = None,
) -> int:
    """Measure a judge against labels."""
    from erpo_ray.commands import judge_check

    return judge_check.check(judge, file, config, output, search)


@app.command()
def tune(
    what: Annotated[Literal["judge", "teacher"], typer.Argument(metavar="judge|teacher", help="Whose prompt.")],
    config: Config,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="JSONL or Parquet: labelled cases.")],
    overrides: Overrides = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Directory of the search; the same one continues it.")
    ] = None,
) -> int:
    """Search for words in front of the prompt of an endpoint's judge or teacher, and measure them on cases held apart.

    Resumes where it was stopped.
    """
    from erpo_ray.commands import tune

    return tune.tune(what, config, file, overrides or [], output)


@app.command()
def report(
    run: Run,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Page to write; RUN/report.html.")] = None,
    redact: Annotated[bool, typer.Option("--redact", help="Hide harmful prompts and all answers to them.")] = False,
) -> int:
    """Write one HTML page that shows what became of the policy, with figures and examples."""
    from erpo_ray.commands import report

    return report.report(run, output, redact)


@app.command()
def submit(
    config: Config,
    run_dir: Annotated[str, typer.Option(help="Where everything is kept: the whole path of a shared folder.")],
    overrides: Overrides = None,
    address: Address = "",
) -> int:
    """Hand a run to a Ray cluster as a job; the same run is never there twice."""
    from erpo_ray.commands import submit

    return submit.submit(config, overrides or [], run_dir, address)


@app.command()
def status(run: Where, address: Address = "", json: Json = False) -> int:
    """Show where a run stands: phase, rate, time left, workers, failures, measures."""
    from erpo_ray.commands import status

    return status.status(run, address, json)


@app.command()
def tail(run: Where, address: Address = "") -> int:
    """Follow a run until it ends, and return its exit code."""
    from erpo_ray.commands import status

    return status.tail(run, address)


@app.command()
def doctor(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Run directory, model directory, or name of a model.")
    ] = "",
) -> int:
    """Check the machine: packages, devices, model, space, telemetry. With MODEL also what its chat template says."""
    from erpo_ray.commands import doctor

    return doctor.doctor(model)


@config_app.command("show")
def config_show(config: Config, overrides: Overrides = None) -> int:
    """Print every resolved value with the place it came from."""
    from erpo_ray.commands import config as commands

    return commands.show(config, overrides or [])


@config_app.command("schema")
def config_schema() -> int:
    """Print the JSON schema of configuration files, for editors."""
    from erpo_ray.commands import config as commands

    return commands.schema()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code. The arguments are those of the process when None."""
    environment.apply()
    words = list(sys.argv[1:] if arguments is None else arguments)
    return guarded(lambda: app(words, "erpo", standalone_mode=False), shlex.join(["erpo", *words]))
