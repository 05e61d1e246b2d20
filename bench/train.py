"""What a training step takes beside TRL's own trainers as shipped, and beside the plain pass over as many tokens.

python bench/train.py MODEL [--turns 5] [--steps 3] [--case pairs --case groups --case sft]

Cases, at the demo's lengths, 8 rows a step: `pairs`, each over a prompt of its own; `groups` of 4 pairs over one
prompt; `sft`. The contestants take turns, each with a trainer made anew; a turn counts its steps but the first.
`floor` is forward, backward and optimiser step over as many tokens without padding, with as many of them projected, in
the faster of two arrangements.
Printed are medians over the turns, and the median of the ratios within a turn.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from datasets import Dataset
from table import Measure, end
from transformers import TrainerCallback
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from erpo_ray import environment, rules
from erpo_ray.objectives import Objective, Training
from erpo_ray.prompts import loaders
from erpo_ray.teachers import TemplateTeacher
from erpo_ray.traces import render
from erpo_ray.types import Example, Pair, Prompt

ROWS = 8
"""Rows of a step."""
GROUP = 4
BF16 = environment.bf16(torch.cuda.is_available())
GOALS = {
    ("pairs", "trl"): 0.6, ("groups", "trl"): 0.45, ("sft", "trl"): 0.7, ("pairs", "floor"): 1.25,
    ("groups", "floor"): 1.25, ("sft", "floor"): 1.25,
}  # fmt: skip
Texts = list[tuple[str, str, str]]
"""Prompt, chosen and rejected completion."""


class Clock(TrainerCallback):
    """The moments at which steps end."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.ends.append(time.monotonic())


def seconds(ends: Sequence[float]) -> float:
    """A step's, the first left out."""
    return (ends[-1] - ends[0]) / (len(ends) - 1)


def texts(case: str) -> Texts:
    """Traces of the embedded teacher over embedded prompts, as stage 2 of the demo has them."""
    book, teacher = rules.load(), TemplateTeacher()
    prompts = [prompt for prompt in loaders.embedded() if prompt.label == "harmful"]

    def write(prompt: Prompt, seed: int) -> str:
        trace: Any = teacher.write(prompt, book.category(prompt.category), None, seed)
        return render(trace, "lines")

    each = GROUP if case == "groups" else 1
    asked = [prompt for prompt in prompts[:: len(prompts) // ROWS][: ROWS // each] for _ in range(each)]
    return [(prompt.text, write(prompt, 2 * at), write(prompt, 2 * at + 1)) for at, prompt in enumerate(asked)]


def training(steps: int) -> Training:
    return Training(
        learning_rate=1e-5, epochs=100, batch_size=ROWS, micro_batch_size=ROWS, max_length=512, max_steps=steps
    )


def ours(model: Path, case: str, steps: int) -> float:
    """This project's trainer, from rows to steps."""
    from erpo_ray.engines.renderer import Renderer
    from erpo_ray.train import dpo, sft

    renderer, ends = Renderer(model), []

    def told(*_: Any) -> None:
        ends.append(time.monotonic())

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        rows = [
            (str(at), renderer.render(prompt), renderer.encode_completion(good), renderer.encode_completion(bad))
            for at, (prompt, good, bad) in enumerate(texts(case))
        ]
        if case == "sft":
            examples = [Example(id, id, "bench", prompt, good, "") for id, prompt, good, _ in rows]
            sft.imitate(model, examples, training(steps), out, None, told)
        else:
            pairs = [Pair(id, id, prompt, (), good, bad, 1.0, "safety", "") for id, prompt, good, bad in rows]
            dpo.prefer(model, model, pairs, Objective(beta=0.1), training(steps), out, None, told)
    return seconds(ends)


def shipped(model: Path, case: str, steps: int) -> float:
    """TRL's trainer with its own loss, on the same texts under the same template."""
    from erpo_ray.train import models

    clock = Clock()

    def message(role: str, text: str) -> list[dict[str, str]]:
        return [{"role": role, "content": text}]

    rows = [
        {"prompt": message("user", prompt), "chosen": message("assistant", good), "rejected": message("assistant", bad)}
        for prompt, good, bad in texts(case)
    ]
    with tempfile.TemporaryDirectory() as folder:
        common: dict[str, Any] = dict(
            output_dir=folder, max_steps=steps, per_device_train_batch_size=ROWS, learning_rate=1e-5, bf16=BF16,
            use_cpu=not torch.cuda.is_available(), report_to="none", save_strategy="no", disable_tqdm=True,
            logging_strategy="no", gradient_checkpointing=False,
        )  # fmt: skip
        if case == "sft":
            data = Dataset.from_list([{"prompt": row["prompt"], "completion": row["chosen"]} for row in rows])
            trainer: Any = SFTTrainer(
                models.load(model), SFTConfig(**common, completion_only_loss=True), train_dataset=data,
                processing_class=models.tokenizer(model), callbacks=[clock],
            )  # fmt: skip
        else:
            trainer = DPOTrainer(
                models.load(model), args=DPOConfig(**common, precompute_ref_log_probs=True),
                train_dataset=Dataset.from_list(rows), processing_class=models.tokenizer(model), callbacks=[clock],
            )  # fmt: skip
        trainer.train()
    return seconds(clock.ends)


def floor(model: Path, case: str, steps: int) -> float:
    """As many tokens without padding, with as many of them projected, as our pass over the case has, in rows of one
    length: those of the case, or four. Which is the faster depends on the machine."""
    from erpo_ray.engines.renderer import Renderer
    from erpo_ray.train import packed

    renderer = Renderer(model)
    rows = [
        (renderer.render(prompt), renderer.encode_completion(each))
        for prompt, good, bad in texts(case)
        for each in ((good,) if case == "sft" else (good, bad))
    ]
    batch = packed.pack(rows)
    count, projected = batch["input_ids"].numel(), len(batch["predicts"])
    return min(plain(model, many, count // many, projected, steps) for many in (len(rows), 4))


def plain(model: Path, rows: int, length: int, projected: int, steps: int) -> float:
    """Seconds of a step on so many rows of so many tokens, all of them seen."""
    from erpo_ray.train import models
    from erpo_ray.train.losses import target_logps

    device = "cuda" if torch.cuda.is_available() else "cpu"
    policy: Any = models.load(model, device=device)
    optimiser = torch.optim.AdamW(policy.parameters(), lr=1e-5, fused=True)
    ids = torch.randint(0, 1000, (rows, length), device=device)
    ends = []
    for _ in range(steps):
        with torch.autocast(device, torch.bfloat16, enabled=BF16):
            hidden = policy.model(input_ids=ids, use_cache=False).last_hidden_state.flatten(0, 1)[:projected]
            logits = policy.lm_head(hidden)
        (-target_logps(logits, ids.flatten()[:projected])).mean().backward()
        optimiser.step()
        optimiser.zero_grad()
        if device == "cuda":
            torch.cuda.synchronize()
        ends.append(time.monotonic())
    return seconds(ends)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--case", action="append", choices=("pairs", "groups", "sft"))
    given = parser.parse_args()
    environment.apply()
    from erpo_ray.engines.models import materialise

    model = materialise(given.model)
    contestants: dict[str, Callable[[Path, str, int], float]] = {"erpo": ours, "trl": shipped, "floor": floor}
    measures: list[Measure] = []
    print(f"{'case':8}{'erpo s':>9}{'trl s':>9}{'floor s':>9}")
    for case in given.case or ("pairs", "groups", "sft"):
        found: dict[str, list[float]] = {name: [] for name in contestants}
        for _ in range(given.turns):
            for name, run in contestants.items():
                found[name].append(run(model, case, given.steps))
        print(f"{case:8}" + "".join(f"{median(found[name]):9.2f}" for name in contestants), flush=True)
        for name in ("trl", "floor"):
            ratio = median(a / b for a, b in zip(found["erpo"], found[name], strict=True))
            measures.append(Measure(f"train {case}: to {name}", ratio, "<=", GOALS[case, name]))
    end(measures)


if __name__ == "__main__":
    main()
