"""What is checked before any engine boots. Every fault is a UsageError with what was found and what to do."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from erpo_ray import rules, tracking
from erpo_ray.config import Cluster, Config, Teacher
from erpo_ray.config.judges import AnyJudge, JudgeEnsemble, JudgeGuard, JudgeLLM, JudgeReward
from erpo_ray.documents import near
from erpo_ray.errors import EnvironmentFault, UsageError
from erpo_ray.judging.cache import Cache
from erpo_ray.judging.guard_formats import guard_format
from erpo_ray.judging.guards import Chat
from erpo_ray.methods import METHODS
from erpo_ray.prompts import mixing
from erpo_ray.rules import RuleBook
from erpo_ray.traces import vocabulary
from erpo_ray.types import Prompt

if TYPE_CHECKING:
    from erpo_ray.engines.renderer import Renderer


@dataclass(frozen=True, slots=True)
class Ready:
    """What the checks read on their way, for the run to use. `template` is the sha256 of the model's chat template,
    `disk_bytes` what the run will write at most."""

    book: RuleBook
    mix: mixing.Mix
    model_dir: Path
    template: str
    disk_bytes: int


def check(config: Config, run_dir: Path | None = None) -> Ready:
    """All checks, the cheap ones first. `run_dir` None (plan, evaluation) skips what concerns the directory."""
    from erpo_ray.engines import templates

    method(config)
    plainly(config)
    tracking.require(config.tracking)
    book = rules.load(config.rules.path)
    judge(config.judge, book)
    mix = mixing.gather(config.data, tuple(book.categories), config.seed)
    both_labels(mix)
    if run_dir is not None:
        writable(run_dir)
    model_dir = model(config)
    prompts = (*mix.train, *mix.evaluate)
    lengths(prompts, prompt_room(config), model_dir)
    needed = disk(config, model_dir)
    if run_dir is not None:
        space(run_dir, needed)
        gpus(config.cluster)
    return Ready(book, mix, model_dir, templates.identity(model_dir), needed)


def method(config: Config) -> None:
    if config.method not in METHODS:
        guess = near(config.method, METHODS)
        remedy = f"did you mean {guess}?" if guess else f"known methods: {', '.join(sorted(METHODS))}"
        raise UsageError(f"key `method`: found {config.method!r} (text); {remedy}")


def plainly(config: Config) -> None:
    """A run samples and measures its policies as they are: gate and report would else tell of a defence."""
    name = config.evaluate.decode.name
    if name != "plain":
        raise UsageError(
            f"key `evaluate.decode.name`: found {name!r} (text), but a run decodes plainly; leave it out, "
            f"and measure what the run made with erpo eval RUN --decode {name}"
        )


def both_labels(mix: mixing.Mix) -> None:
    """Training and evaluation each need harmful and benign prompts: one kind alone teaches and measures nothing."""
    for key, prompts in (("data.train", mix.train), ("data.evaluate", mix.evaluate)):
        found = Counter(prompt.label for prompt in prompts)
        for label in ("harmful", "benign"):
            if not found[label]:
                counts = ", ".join(f"{count} {name}" for name, count in found.items()) or "none"
                raise UsageError(f"key `{key}`: found no {label} prompts (there are {counts}); add a source with some")


def writable(run_dir: Path, option: str = "--run-dir") -> None:
    """The directory that `option` names, or the nearest folder above it that exists, takes files."""
    if run_dir.exists() and not run_dir.is_dir():
        raise UsageError(f"{run_dir}: is a file; give a folder as {option}")
    place = _existing(run_dir)
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise UsageError(
            f"{run_dir}: cannot be written ({place}: {error.strerror}); make it writable or give another {option}"
        ) from error


def space(run_dir: Path, needed: int) -> None:
    """Room for what the run has yet to write: weights that it holds from an earlier start are there already."""
    left = needed - sum(path.stat().st_size for path in run_dir.rglob("*.safetensors"))
    free = shutil.disk_usage(_existing(run_dir)).free
    if free < left:
        raise UsageError(
            f"{run_dir}: found {free / 2**20:.0f} MiB free, the run needs {left / 2**20:.0f} MiB; "
            "free some or give another --run-dir"
        )


def gpus(cluster: Cluster) -> None:
    """EnvironmentFault where others use so much of a GPU of this machine that an engine would not start on it."""
    from erpo_ray.engines import devices

    elsewhere = cluster.address or os.environ.get("RAY_ADDRESS")
    if cluster.gpu is False or elsewhere:
        return
    share = cluster.gpu_memory_utilization
    if tight := devices.crowded(devices.gpu_used(), share):
        raise EnvironmentFault(
            f"{tight}: an engine takes {share:.0%} of a GPU (cluster.gpu_memory_utilization); end what uses it "
            "(nvidia-smi lists it), leave it out with CUDA_VISIBLE_DEVICES, or lower that share"
        )


def model(config: Config) -> Path:
    """The model's directory, with weights, a chat template, and a context as long as `model.max_length`."""
    from erpo_ray.engines import templates
    from erpo_ray.engines.models import materialise

    given = Path(config.model.path).expanduser()
    for name in ("config.json", "tokenizer_config.json"):
        _json(given / name)
    found = materialise(config.model.path)
    if not templates.read(found):
        raise UsageError(
            f"{found}: the model has no chat template; use its instruct or chat variant, "
            "or put a chat_template.jinja beside its tokenizer"
        )
    templates.check(found, strict=True)
    _fits("model.max_length", config.model.max_length, found)
    return found


def judge(settings: AnyJudge, book: RuleBook) -> None:
    """What the judge needs is there: key, cache, models with what the judge reads of them."""
    if isinstance(settings, JudgeEnsemble):
        for member in settings.members:
            judge(member.judge, book)
    elif isinstance(settings, JudgeLLM):
        endpoint_key("judge", settings)
        if settings.cache:
            Cache(Path(settings.cache)).close()
    elif isinstance(settings, JudgeGuard | JudgeReward):
        _judge_model(settings, book)


def endpoint_key(section: str, settings: JudgeLLM | Teacher) -> None:
    """An endpoint that will want a key has one."""
    name = settings.api_key_env
    if settings.base_url.startswith("https:") and not os.environ.get(name, "").strip():
        raise UsageError(
            f"{section}.api_key_env: found ${name} empty, and {settings.base_url} will want a key; "
            f"export {name} before the start (any word where the server needs none), on a cluster on every node"
        )


def _judge_model(settings: JudgeGuard | JudgeReward, book: RuleBook) -> None:
    from erpo_ray.engines import templates
    from erpo_ray.engines.models import materialise

    found = materialise(settings.model, "judge.model")
    _fits("judge.max_length", settings.max_length, found)
    chats = True
    if isinstance(settings, JudgeGuard):
        questions = guard_format(settings.format, book).ask("", "")
        chats = any(isinstance(question, Chat) for _, question in questions)
    elif not any(str(name).endswith("ForSequenceClassification") for name in _architectures(found)):
        raise UsageError(f"judge.model: {found} is no sequence classifier ({_architectures(found)}); name one that is")
    if chats and not templates.read(found):
        raise UsageError(
            f"judge.model: {found} has no chat template, which writes what it is asked; "
            "put the model's own chat_template.jinja beside its tokenizer"
        )


def _architectures(model_dir: Path) -> list[object]:
    found = _json(model_dir / "config.json").get("architectures")
    return found if isinstance(found, list) else []


def _fits(key: str, length: int, model_dir: Path) -> None:
    context = _json(model_dir / "config.json").get("max_position_embeddings")
    if isinstance(context, int) and length > context:
        raise UsageError(
            f"key `{key}`: found {length} (whole number), "
            f"but {model_dir} has a context of {context} tokens; use {context} or less"
        )


def prompt_room(config: Config) -> int:
    """Tokens that a rendered prompt may have, so that the longest completion asked for still fits."""
    longest = max(config.imitate.draw.max_tokens, config.prefer.draw.max_tokens, config.evaluate.max_tokens)
    return config.model.max_length - longest


def lengths(prompts: Sequence[Prompt], room: int, model_dir: Path) -> None:
    """No prompt has more than `room` tokens, with the model's chat template around it.

    A token is at least one byte of text: tokens are counted only where there are more bytes than that, and by the
    model's renderer, whose imports take longer than all other checks, only where there may be too many.
    """
    from erpo_ray.engines import counting, templates

    around = templates.around(model_dir)
    for prompt in prompts:
        if len(prompt.text.encode()) + around <= room:
            continue
        if counting.at_most(prompt.text, model_dir) + around <= room:
            continue
        tokens = len(renderer(model_dir).render(prompt.text))
        if tokens > room:
            raise UsageError(
                f"{prompt.source}: prompt {prompt.id}: found {tokens} tokens, but model.max_length leaves {room} "
                "beside the longest completion; shorten the prompt, raise model.max_length or lower max_tokens"
            )


def disk(config: Config, model_dir: Path) -> int:
    """Bytes that a run writes at most: a policy for each stage, one being written, ledgers, and a copy of a model that
    is given tokens."""
    weights = sum(path.stat().st_size for path in model_dir.glob("*.safetensors"))
    copies = len(METHODS[config.method](config)) + 1 + bool(vocabulary(config.model.dialect))
    return weights * copies + 64 * 2**20


@cache
def renderer(model_dir: Path) -> Renderer:
    """The model's renderer, loaded once."""
    from erpo_ray.engines.renderer import Renderer

    return Renderer(model_dir)


def _json(path: Path) -> dict[str, object]:
    from erpo_ray.engines.vetting import read_json

    return read_json(path) if path.exists() else {}


def _existing(path: Path) -> Path:
    return next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())
