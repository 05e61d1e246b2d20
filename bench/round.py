"""One prefer round of the demo beside the same round as people script it, and beside TRL's online DPO trainer.

python bench/round.py MODEL [--turns 5] [--prompts N] [--policy DIR] [--held 30]

All start from the demo's policy after its imitate stage, trained first unless `--policy` has one, and sample the same
prompts, and write a model. The contestants take turns, each in fresh processes:

- `erpo`: what `erpo run` does from the end of what came before a round until the round's model is on disk, judge,
  ledgers, pages and canary included, the evaluation at the gate not. The goals are about a `later` round, of a run
  whose workers are up; `first` has their start in it (Python, Ray, engine, Ray Train), which a run pays once.
- `scripted`: a process each for vLLM, with the demo's engine settings and else as shipped; for the demo's judge and
  pairing; and for `DPOTrainer` as shipped, with its reference precomputed and the same loss, precision, optimiser
  settings and frozen layers. Whole processes count, as they are started in each round.
- `online`: `OnlineDPOTrainer` as shipped, in one process, rewarded by the demo's judge. It draws two samples a prompt
  and pairs them: each prompt comes as often as makes the same number of samples, in as many updates as erpo's.

What the models are worth is measured at the end of the last turn: erpo's evaluation of each, on prompts held apart.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

from processes import alone
from rounds import Round, demo, evaluated, explored, play, round_of, standing
from table import Measure, end

from erpo_ray import environment, pairs
from erpo_ray.config import Config
from erpo_ray.evaluate.metrics import balanced, table
from erpo_ray.types import Candidate, Evaluation, Group, Prompt, identity, seed_of

GOAL_SCRIPTED, GOAL_ONLINE, GOAL_PAIRS, GOAL_GOOD = 2.5, 4.0, 0.9, 0.95
MOST_ROWS = 8
"""Prompts of a pass of the online trainer, two completions each: more need memory that a small machine lacks."""
T = TypeVar("T")
Row = dict[str, list[dict[str, str]]]
"""`prompt`, `chosen` and `rejected` as messages."""


@dataclass(frozen=True, slots=True)
class Ours:
    """`first` has no start of engine in it: that is in `starts`, in seconds from the process on."""

    starts: float
    first: Round
    later: Round
    prompts: list[Prompt]


def ours(start: Path, config: Config, folder: Path, begun: float) -> Ours:
    """Two rounds from the same policy, in two runs on the same workers."""
    with standing(config) as backend:
        backend.prepare(backend.policy(start))
        starts = time.time() - begun
        first, later = (play(config, "prefer", folder / name) for name in ("first", "later"))
    return Ours(starts, round_of(first), round_of(later), explored(later))


def generated(start: Path, config: Config, prompts: Sequence[Prompt]) -> list[Candidate]:
    """The script's first step."""
    # As shipped: the engine in a process of its own.
    os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    from vllm import LLM, SamplingParams

    draw, cluster = config.prefer.draw, config.cluster
    dtype = "bfloat16" if environment.bf16(environment.gpu_present()) else "float32"
    device: dict[str, Any] = {"enforce_eager": True, "kv_cache_memory_bytes": int(cluster.kv_cache_gib * 2**30)}
    engine = LLM(
        model=str(start), dtype=dtype, max_model_len=config.model.max_length, max_num_seqs=cluster.in_flight,
        **({} if environment.gpu_present() else device),
    )  # fmt: skip
    sampling = SamplingParams(
        n=config.prefer.samples, temperature=draw.temperature, top_k=draw.top_k, top_p=draw.top_p, min_p=draw.min_p,
        max_tokens=draw.max_tokens,
    )  # fmt: skip
    messages: Any = [_message("user", prompt.text) for prompt in prompts]
    outputs: Any = engine.chat(messages, sampling, use_tqdm=False)
    # Left to itself it outlives the function, and a child of a process pool then waits for it for ever.
    engine.llm_engine.engine_core.shutdown()
    return [
        Candidate(identity(prompt.id, k), prompt.id, k, tuple(one.token_ids), one.text, one.finish_reason, "scripted")
        for prompt, output in zip(prompts, outputs, strict=True)
        for k, one in enumerate(output.outputs)
    ]


def paired(config: Config, prompts: Sequence[Prompt], candidates: Sequence[Candidate]) -> list[Row]:
    """The second: the rule judge, and pairs as erpo makes them."""
    from erpo_ray.cluster.workers import JudgeWorker

    asked = {prompt.id: prompt for prompt in prompts}
    verdicts = JudgeWorker(config).judge([(asked[one.prompt_id], one) for one in candidates])
    judged = list(zip(candidates, verdicts, strict=True))

    def group(prompt: Prompt) -> Group:
        mine = [both for both in judged if both[0].prompt_id == prompt.id]
        return Group(prompt, (), tuple(one for one, _ in mine), tuple(verdict for _, verdict in mine))

    seed = seed_of(config.seed, "pairs", 0)
    found, _ = pairs.choose([group(prompt) for prompt in prompts], config.prefer, cap={}, prefer_short=False, seed=seed)
    texts = {(one.prompt_id, one.token_ids): one.text for one in candidates}
    return [
        {
            "prompt": _message("user", asked[pair.prompt_id].text),
            "chosen": _message("assistant", texts[pair.prompt_id, pair.chosen_ids]),
            "rejected": _message("assistant", texts[pair.prompt_id, pair.rejected_ids]),
        }
        for pair in found
    ]


def trained(start: Path, config: Config, rows: Sequence[Row], out: Path) -> None:
    """The third."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    from erpo_ray.train import models

    fit, prefer = config.prefer.fit, config.prefer
    loss: dict[str, Any] = {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, prefer.nll]} if prefer.nll else {}
    args = DPOConfig(
        **_common(config, out), **loss, num_train_epochs=fit.epochs, per_device_train_batch_size=fit.micro_batch_size,
        gradient_accumulation_steps=fit.batch_size // fit.micro_batch_size, precompute_ref_log_probs=True,
    )  # fmt: skip
    trainer = DPOTrainer(
        models.freeze(models.load(start), fit.freeze_layers), args=args, train_dataset=Dataset.from_list(list(rows)),
        processing_class=models.tokenizer(start),
    )  # fmt: skip
    trainer.train()
    trainer.save_model(str(out))


def online(start: Path, config: Config, prompts: Sequence[Prompt], updates: int, out: Path) -> int:
    """TRL's online DPO. Returns how many samples it drew."""
    from datasets import Dataset
    from trl.experimental.online_dpo import OnlineDPOConfig, OnlineDPOTrainer

    from erpo_ray.cluster.workers import JudgeWorker
    from erpo_ray.judging.composition import stair
    from erpo_ray.train import models

    fit, draw = config.prefer.fit, config.prefer.draw
    judge, asked = JudgeWorker(config), {prompt.id: prompt for prompt in prompts}

    def reward(completions: list[list[dict[str, str]]], completion_ids: list[list[int]], id: list[str], **_: Any):
        items = [
            (asked[name], Candidate(str(at), name, at, tuple(ids), message[0]["content"], "stop", "online"))
            for at, (name, message, ids) in enumerate(zip(id, completions, completion_ids, strict=True))
        ]
        return [stair(verdict.scores) if verdict.scores else None for verdict in judge.judge(items)]

    again = config.prefer.samples // 2
    rows = [{"prompt": _message("user", prompt.text), "id": prompt.id} for _ in range(again) for prompt in prompts]
    size, passes = split(len(rows), updates, MOST_ROWS)
    args = OnlineDPOConfig(
        **_common(config, out), max_steps=updates, per_device_train_batch_size=size, gradient_accumulation_steps=passes,
        max_new_tokens=draw.max_tokens, max_length=config.model.max_length, temperature=draw.temperature,
        top_k=draw.top_k, top_p=draw.top_p,
    )  # fmt: skip
    trainer = OnlineDPOTrainer(
        models.freeze(models.load(start), fit.freeze_layers), reward_funcs=reward, args=args,
        train_dataset=Dataset.from_list(rows), processing_class=models.tokenizer(start),
    )  # fmt: skip
    trainer.train()
    trainer.save_model(str(out))
    return 2 * size * passes * updates


def split(rows: int, updates: int, most: int) -> tuple[int, int]:
    """(rows of a pass, passes of an update) that use up at most `rows` in all, no pass more than `most`."""
    each = max(1, rows // updates)
    passes = math.ceil(each / most)
    return each // passes, passes


def _common(config: Config, out: Path) -> dict[str, Any]:
    fit, gpu = config.prefer.fit, environment.gpu_present()
    return dict(
        output_dir=str(out), learning_rate=fit.learning_rate, warmup_steps=fit.warmup_ratio,
        lr_scheduler_type=fit.schedule, max_grad_norm=fit.max_grad_norm, beta=config.prefer.beta,
        bf16=environment.bf16(gpu), use_cpu=not gpu, gradient_checkpointing=False, report_to="none",
        save_strategy="no", disable_tqdm=True, logging_strategy="no", seed=config.seed,
    )  # fmt: skip


def _message(role: str, text: str) -> list[dict[str, str]]:
    return [{"role": role, "content": text}]


def figures(name: str, model: Path, held: int, folder: Path) -> Evaluation:
    """erpo's evaluation of a model directory."""
    return replace(evaluated(play(demo(model, held=held), "base", folder)), stage=name)


def timed(measure: Callable[..., T], *arguments: object) -> tuple[T, float]:
    """The measure in a fresh process, and the seconds that the process took."""
    begun = time.monotonic()
    return alone(measure, *arguments), time.monotonic() - begun


@dataclass(frozen=True, slots=True)
class Turn:
    """Seconds, and what came of it."""

    first: float
    later: float
    scripted: float
    online: float
    pairs: int
    scripted_pairs: int
    models: dict[str, Path]


def turn(start: Path, config: Config, folder: Path) -> Turn:
    """Each contestant once, a line for each of them. What the last turn left in `folder` goes."""
    shutil.rmtree(folder, ignore_errors=True)
    mine: Ours = alone(ours, start, config, folder, time.time())
    first = mine.starts + mine.first.seconds
    print(
        f"erpo      first {first:.0f} s (workers {mine.starts:.0f}), later {mine.later.seconds:.0f} s; "
        f"{mine.first.pairs} and {mine.later.pairs} pairs in {mine.later.steps} steps",
        flush=True,
    )
    candidates, generating = timed(generated, start, config, mine.prompts)
    rows, judging = timed(paired, config, mine.prompts, candidates)
    _, training = timed(trained, start, config, rows, folder / "scripted")
    scripted = generating + judging + training
    print(
        f"scripted  {scripted:.0f} s: generate {generating:.0f}, judge {judging:.0f}, train {training:.0f}; "
        f"{len(rows)} pairs of {len(candidates)} samples",
        flush=True,
    )
    samples, trl = timed(online, start, config, mine.prompts, mine.later.steps, folder / "online")
    print(f"online    {trl:.0f} s: {samples} samples in {mine.later.steps} updates", flush=True)
    made = {"erpo": mine.later.policy, "scripted": folder / "scripted", "online": folder / "online"}
    return Turn(first, mine.later.seconds, scripted, trl, mine.later.pairs, len(rows), made)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--prompts", type=int, help="of a round, in place of the demo's")
    parser.add_argument("--policy", type=Path, help="model directory that the demo's imitate stage made")
    parser.add_argument("--held", type=int, default=30, help="evaluation prompts of each label and source")
    given = parser.parse_args()
    environment.apply()
    from erpo_ray.engines.models import materialise

    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        imitated = given.policy or alone(play, demo(materialise(given.model)), "imitate", root / "start") / "policy"
        start = imitated.resolve()
        config = demo(start, given.prompts)
        prefer = config.prefer
        print(f"{prefer.prompts} prompts, {prefer.samples} samples each, at most {prefer.max_pairs} pairs")
        turns = [turn(start, config, root / "turn") for _ in range(given.turns)]
        ends = {"start": start, **turns[-1].models}
        found = {each: alone(figures, each, model, given.held, root / f"of-{each}") for each, model in ends.items()}
    good = {each: balanced(measured).value for each, measured in found.items()}
    print(f"\n{table(found.values())}\n")
    for each in ("scripted", "online"):
        including = median(getattr(one, each) / one.first for one in turns)
        print(f"with the start of our own workers: {including:.2f} times as fast as {each}")
    end(
        [
            Measure("round: scripted to erpo", median(t.scripted / t.later for t in turns), ">=", GOAL_SCRIPTED),
            Measure("round: online DPO to erpo", median(t.online / t.later for t in turns), ">=", GOAL_ONLINE),
            Measure("round: pairs to scripted", median(t.pairs / t.scripted_pairs for t in turns), ">=", GOAL_PAIRS),
            Measure("round: balance to scripted", good["erpo"] / good["scripted"], ">=", GOAL_GOOD),
        ]
    )


if __name__ == "__main__":
    main()
