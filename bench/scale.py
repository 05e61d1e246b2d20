"""What a run of an 8B and of a 70B model takes on 8 to 512 GPUs, on paper: the tables of docs/scale.md.

python bench/scale.py
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from erpo_ray import estimate, scale, settings
from erpo_ray.config import Config
from erpo_ray.estimate import GIB, Cost, Shape
from erpo_ray.methods import METHODS
from erpo_ray.scale import GPUS, Dims, Memory

CONFIG = Path(__file__).parents[1] / "configs" / "full_8gpu.yaml"
ROUND = ("prefer.prompts=20000", "prefer.samples=4", "prefer.max_pairs=20000", "prefer.fit.micro_batch_size=2")
MODELS = {
    "8B": Dims(8.03e9, 32, 4096, 14336, 8, 128, 128256),
    "70B": Dims(70.6e9, 80, 8192, 28672, 8, 128, 128256),
}
"""As in the config.json of Llama 3.1."""
PROMPTS, EVALUATED, PROMPT_TOKENS = 20_000, 2_000, 100.0
GPU, PRICE = GPUS["H100"], 2.5
COUNTS = (8, 16, 32, 64, 128, 256, 512)


def main() -> None:
    config = settings.load(CONFIG, ROUND)
    for name, model in MODELS.items():
        costs = phases(config, model)
        print(f"\n{name}, {total(costs)}\n")
        print(table(("GiB of a GPU", "weights", "KV", "optimiser", "activations", "total"), memory(config, model)))
        print()
        head = ("GPUs", "engines", "sampling h", "training h", "sync h", "total h", "of linear", "money", "storage TiB")
        print(table(head, times(config, model, costs)))


def phases(config: Config, model: Dims) -> list[Cost]:
    """Counts of a run's phases; their seconds are those of a CPU and not used."""
    stages: list[tuple[str, estimate.Kind]] = [(stage.name, stage.kind) for stage in METHODS[config.method](config)]
    shape = Shape(int(model.parameters), model.vocabulary)
    return estimate.costs(config, stages, PROMPTS, PROMPTS, EVALUATED, PROMPT_TOKENS, shape, 1)


def total(costs: Sequence[Cost]) -> str:
    sampled, trained = sum(c.sampled_tokens for c in costs), sum(c.trained_tokens for c in costs)
    return f"{sampled / 1e6:,.0f} M tokens sampled and {trained / 1e6:,.0f} M trained on at most"


def memory(config: Config, model: Dims) -> list[tuple[str, ...]]:
    """An engine on as few GPUs as hold it, and the trainer cut over none to many."""
    length = PROMPT_TOKENS + config.prefer.draw.max_tokens
    cut = scale.engine_gpus(model, GPU, config.cluster.in_flight, length)
    rows = [_memory(f"engine on {cut}", scale.rollout_memory(model, config.cluster.in_flight, length, cut))]
    lora = config.prefer.fit.model_copy(update={"lora_rank": 64})
    rows.append(_memory("LoRA, whole", scale.train_memory(model, lora, length, pairs=True)))
    for shards in (1, 8, 64):
        found = scale.train_memory(model, config.prefer.fit, length, pairs=True, shards=shards)
        rows.append(_memory(f"all weights, cut by {shards}", found))
    return rows


def times(config: Config, model: Dims, costs: Sequence[Cost]) -> list[tuple[str, ...]]:
    """A run on so many GPUs that take turns at sampling and training, all weights trained, cut over all of them."""
    length = PROMPT_TOKENS + config.prefer.draw.max_tokens
    cut = scale.engine_gpus(model, GPU, config.cluster.in_flight, length)
    filled = PROMPT_TOKENS + config.prefer.draw.max_tokens / 2
    rows, least = [], 0.0
    for gpus in COUNTS:
        if scale.train_memory(model, config.prefer.fit, length, pairs=True, shards=gpus).total > GPU.memory_gib:
            rows.append((str(gpus), "does not fit", *["-"] * 7))
            continue
        engines = gpus // cut
        rate = engines * scale.sampling_rate(model, GPU, config.cluster.in_flight, filled, cut)
        sampling = sum(c.sampled_tokens for c in costs) / rate
        training = sum(c.trained_tokens for c in costs) / (gpus * scale.training_rate(model, GPU))
        sync = scale.sync_seconds(model, engines) * sum(c.kind != "evaluate" for c in costs)
        took = scale.START_S + sampling + training + sync
        least = least or took * gpus
        hours = (f"{seconds / 3600:.2f}" for seconds in (sampling, training, sync, took))
        money = f"{gpus * PRICE * took / 3600:,.0f}"
        kept = f"{scale.storage_bytes(model, costs) / GIB / 1024:.2f}"
        rows.append((str(gpus), str(engines), *hours, f"{least / (took * gpus):.0%}", money, kept))
    return rows


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """As Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] + ["---:"] * (len(head) - 1), *rows))


def _memory(name: str, found: Memory) -> tuple[str, ...]:
    values = (found.weights, found.kv, found.optimiser, found.activations, found.total)
    return name, *(f"{value:,.1f}" for value in values)


if __name__ == "__main__":
    main()
