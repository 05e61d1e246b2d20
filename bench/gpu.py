"""One GPU: the share of its arithmetic that a DPO step uses, peak memory, seconds of sleep and wake of the engine.

python bench/gpu.py MODEL [--billion] [--tokens 2048] [--groups 1] [--steps 8] [--checkpoint] [--peak TERA]

A step trains on groups of 4 pairs over one prompt, a quarter of each row, with random tokens: rows differ behind it.
Operations are counted as `flops.py` says, on the tokens that are computed. `--billion` takes the tokenizer of MODEL and
random weights of the shape of a 1B model, for a machine that has none.

The other benches run on a GPU as they are: `rollout.py` beside bare vLLM, `train.py` beside TRL's trainers.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flops
from processes import alone
from table import Measure, end

from erpo_ray import environment
from erpo_ray.objectives import Objective, Training
from erpo_ray.train.tree import plant
from erpo_ray.types import Pair

GROUP = 4
GOAL = 0.45
GIB = 2**30
BILLION: dict[str, Any] = dict(
    hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32, num_key_value_heads=8,
    max_position_embeddings=8192, tie_word_embeddings=True,
)  # fmt: skip
SEQUENCES = 128
"""The engine's, while it is timed."""


@dataclass(frozen=True, slots=True)
class Trained:
    """Seconds and operations of a step, tokens it computes, the most bytes it held."""

    seconds: float
    operations: int
    tokens: int
    peak: int


@dataclass(frozen=True, slots=True)
class Slept:
    """Seconds of falling asleep and of waking, bytes of the device in use before, between and after."""

    sleep: float
    wake: float
    awake: int
    asleep: int
    again: int


def pairs(groups: int, tokens: int, vocabulary: int) -> list[Pair]:
    """Groups of pairs over one prompt each, every row of so many tokens."""
    rng = random.Random(0)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(rng.randrange(vocabulary) for _ in range(count))

    prompt, completion = tokens // 4, tokens - tokens // 4
    asked = [ids(prompt) for _ in range(groups)]
    return [
        Pair(f"{at}.{number}", str(at), each, (), ids(completion), ids(completion), 1.0, "safety", "")
        for at, each in enumerate(asked)
        for number in range(GROUP)
    ]


def billion(model: Path, out: Path) -> None:
    """Random weights of the shape of a 1B model beside the tokenizer of `model`."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from erpo_ray.train import models

    policy: Any = LlamaForCausalLM(LlamaConfig(vocab_size=len(models.tokenizer(model)), **BILLION))
    policy.to(torch.bfloat16).save_pretrained(out)
    models.tokenizer(model).save_pretrained(out)


def trained(model: Path, rows: list[Pair], length: int, steps: int, checkpoint: bool) -> Trained:
    """A step of `prefer` on these rows in one pass, the first left out."""
    import torch

    from erpo_ray.train import dpo, models

    settings = Training(
        learning_rate=1e-6, epochs=float(steps), batch_size=len(rows), micro_batch_size=len(rows), max_length=length,
        max_steps=steps, gradient_checkpointing=checkpoint,
    )  # fmt: skip
    ends: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        dpo.prefer(
            model, model, rows, Objective(beta=0.1), settings, Path(folder), None,
            lambda *_: ends.append(time.monotonic()),
        )  # fmt: skip
    most = torch.cuda.max_memory_allocated()
    tree = plant([(row.prompt_ids, side) for row in rows for side in (row.chosen_ids, row.rejected_ids)])
    operations = flops.step([tree], flops.shape(models.load(model)))
    return Trained((ends[-1] - ends[0]) / (len(ends) - 1), operations, tree.tokens, most)


def slept(model: Path) -> Slept:
    """One engine that falls asleep and wakes."""
    import torch

    from erpo_ray.config import Cluster
    from erpo_ray.engines.vllm import Engine, EngineSettings

    def taken() -> int:
        free, whole = torch.cuda.mem_get_info()
        return whole - free

    share = Cluster().gpu_memory_utilization
    settings = EngineSettings(1024, SEQUENCES, 0, gpu=True, gpu_memory_utilization=share, sleep=True)
    engine = Engine(model, "bench", settings)
    awake, begun = taken(), time.monotonic()
    engine.sleep()
    sleep, asleep, begun = time.monotonic() - begun, taken(), time.monotonic()
    engine.begin(0)
    found = Slept(sleep, time.monotonic() - begun, awake, asleep, taken())
    engine.close()
    return found


def device() -> str:
    """The name of the first CUDA device, empty without one."""
    from erpo_ray.engines.devices import cuda_names

    return next(iter(cuda_names()), "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--billion", action="store_true", help="random weights of a 1B model's shape")
    parser.add_argument("--tokens", type=int, default=2048, help="of each row, prompt and completion")
    parser.add_argument("--groups", type=int, default=1, help="of 4 pairs each, in a step")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--checkpoint", action="store_true", help="compute activations again")
    parser.add_argument("--peak", type=int, help="bf16 operations a second of the device, times 10^12")
    given = parser.parse_args()
    environment.apply()
    name = alone(device)
    if not name:
        print("bench/gpu.py measures a CUDA device, and torch finds none on this machine.", file=sys.stderr)
        sys.exit(2)
    peak = given.peak * flops.TERA if given.peak else flops.peak(name)
    if peak is None:
        print(f"bench/gpu.py does not know what {name} can do; give its data sheet's figure: --peak", file=sys.stderr)
        sys.exit(2)
    from erpo_ray.engines.models import materialise

    with tempfile.TemporaryDirectory() as folder:
        model = materialise(given.model)
        if given.billion:
            alone(billion, model, Path(folder))
            model = Path(folder)
        vocabulary = json.loads((model / "config.json").read_text())["vocab_size"]
        rows = pairs(given.groups, given.tokens, vocabulary)
        step: Trained = alone(trained, model, rows, given.tokens, given.steps, given.checkpoint)
        engine: Slept = alone(slept, model)
    used = step.operations / step.seconds / peak
    print(
        f"{name}: a step of {step.tokens} tokens {step.seconds:.3f} s, {step.tokens / step.seconds:.0f} tokens/s, "
        f"{step.operations / step.seconds / flops.TERA:.0f} of {peak / flops.TERA:.0f} TFLOP/s, "
        f"peak {step.peak / GIB:.1f} GiB\n"
        f"engine: asleep in {engine.sleep:.2f} s, awake in {engine.wake:.2f} s; device in use "
        f"{engine.awake / GIB:.1f} GiB awake, {engine.asleep / GIB:.1f} asleep, {engine.again / GIB:.1f} awake again"
    )
    end([Measure("DPO: model-FLOPs utilisation", used, ">=", GOAL)])


if __name__ == "__main__":
    main()
