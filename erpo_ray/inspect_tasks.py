"""Our suites and judge as tasks of Inspect: `inspect eval erpo_ray/safety --model ...` scores any model with them.

Found by Inspect through the entry point in pyproject.toml; nothing else imports this module, which needs the extra
`inspect`.
"""

# The type checker runs without the extra.
# pyright: reportMissingImports=false

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from anyio import CapacityLimiter, to_thread
from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import ContentReasoning, GenerateConfig
from inspect_ai.scorer import Score, mean, scorer, stderr
from inspect_ai.solver import generate

from erpo_ray import preflight, rules
from erpo_ray.commands.common import read_config
from erpo_ray.commands.export_inspect import Judged, explanation, scores
from erpo_ray.config import Config
from erpo_ray.evaluate import suite as suites
from erpo_ray.traces import CLOSE, THINK
from erpo_ray.types import Candidate, Prompt, identity

AXES = ("safety", "utility", "over_refusal")


@task
def safety(config: str = "") -> Any:
    """Harmful seed prompts and their benign look-alikes, of the half that is not trained on."""
    return _task(("harmful", "over_refusal"), config)


@task
def suite(name: str, config: str = "") -> Any:
    """One suite, by its name or its YAML file. `config` is a configuration: judge, data.root and limits."""
    return _task((name,), config)


@scorer(metrics={axis: [mean(), stderr()] for axis in AXES})
def axes(name: str, config: str = "") -> Any:
    """The verdict of the suite's judge (that of the configuration without one): an axis it does not measure is open."""
    from erpo_ray.engines.judges import Bench, judge_of

    read = _config(config)
    section, book = suites.find(name).judge or read.judge, rules.load(read.rules.path)
    preflight.judge(section, book)
    judge = judge_of(section, Bench(book, read.model.dialect, bool(read.cluster.gpu)))
    alone = CapacityLimiter(1)

    async def score(state: Any, target: Any) -> Any:
        prompt = Prompt(str(state.sample_id), state.input_text, **state.metadata)
        candidate = _candidate(prompt, state)
        (verdict,) = await to_thread.run_sync(judge.judge, [(prompt, candidate)], limiter=alone)
        told, failure = scores(Judged(prompt, candidate, verdict)), verdict.failure
        return Score(
            value={axis: told.get(axis, math.nan) for axis in AXES},
            answer=state.output.completion,
            explanation=explanation(verdict),
            metadata={
                "judge": verdict.judge,
                "refused": verdict.refused,
                "well_formed": verdict.well_formed,
                **({"failure": failure.cause, "failure_raw": failure.raw} if failure else {}),
            },
        )

    return score


def completion(content: Any) -> str:
    """A reply with its reasoning put back before the answer. A trace without an answer behind it did not end."""
    if isinstance(content, str):
        return content
    thought = "\n".join(part.reasoning for part in content if isinstance(part, ContentReasoning))
    answer = "\n".join(part.text for part in content if part.type == "text")
    if not thought:
        return answer
    return f"{THINK}\n{thought}\n{CLOSE}\n{answer}" if answer.strip() else f"{THINK}\n{thought}"


def _task(names: tuple[str, ...], config: str) -> Any:
    read = _config(config)
    found = [suites.find(name) for name in names]
    categories = tuple(rules.load(read.rules.path).categories)
    samples = [
        _sample(question.prompt)
        for each in found
        for question in suites.questions(each, read.data.root, categories, read.seed, read.evaluate.per_source)
    ]
    limits = [each.max_tokens or read.evaluate.max_tokens for each in found]
    return Task(
        dataset=MemoryDataset(samples, name="+".join(each.name for each in found)),
        solver=generate(),
        scorer=axes(names[0], config),
        config=GenerateConfig(temperature=0.0, max_tokens=max(limits)),
    )


def _sample(prompt: Prompt) -> Any:
    return Sample(
        id=prompt.id,
        input=prompt.text,
        target="refuse" if prompt.label == "harmful" else "answer",
        metadata={"label": prompt.label, "category": prompt.category, "source": prompt.source},
    )


def _candidate(prompt: Prompt, state: Any) -> Candidate:
    output = state.output
    finish = "length" if output.stop_reason == "max_tokens" else "stop"
    text = completion(output.message.content)
    # Inspect keeps no token ids, and a candidate without any is malformed.
    return Candidate(identity(prompt.id, state.epoch), prompt.id, state.epoch - 1, (0,), text, finish, str(state.model))


def _config(path: str) -> Config:
    return read_config(Path(path), []) if path else Config()
