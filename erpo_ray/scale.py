"""What a run takes on GPUs, on paper: memory, seconds and money from a model's dimensions and data sheets alone.

Nothing here was measured on the GPUs it speaks of. The shares of peak that are reached are assumptions with names. The
formulas are the usual ones:

- sampling reads all weights and the cache of every sequence once a step (memory-bound), or multiplies by all weights
  (compute-bound), whichever takes longer; prompts are short and shared by their samples, and left out;
- training costs 6 floating-point operations a parameter and token (Kaplan et al. 2020), 4 where the weights are frozen;
- activations of a decoder layer take 34 bytes a token and hidden unit without recomputation (Korthikanti et al. 2022).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from erpo_ray.config import Config
from erpo_ray.config.training import Fit
from erpo_ray.errors import UsageError
from erpo_ray.estimate import GIB, TRAINING_BYTES, Cost, sides
from erpo_ray.placement import Node

BANDWIDTH_SHARE = 0.6
"""Of the memory bandwidth, while sampling."""
SAMPLING_FLOPS_SHARE = 0.5
STEP_S = 0.005
"""What a step of an engine takes at least, however small the model."""
TRAINING_FLOPS_SHARE = 0.35
"""Of the dense bf16 peak."""
STORAGE_BYTES_S = 2e9
"""What the shared folder gives to all nodes together."""
START_S = 180.0
"""Start of engines and trainers, once a run."""
RUNTIME_GIB = 2.0
"""CUDA context, graphs and workspace of a process."""
LAYER_BYTES = 34
LEDGER_BYTES = 14.0
"""Bytes a sampled token takes in candidates and verdicts: 2,070,719 bytes for 146,574 tokens in a run of the demo."""


@dataclass(frozen=True, slots=True)
class Dims:
    """A decoder's dimensions. `head_dim * kv_heads` values are cached for each of K and V, a layer and token."""

    parameters: float
    layers: int
    hidden: int
    intermediate: int
    kv_heads: int
    head_dim: int
    vocabulary: int

    @property
    def weights(self) -> float:
        """Bytes in bf16."""
        return 2.0 * self.parameters

    @property
    def kv_bytes(self) -> int:
        """Of one token, in bf16."""
        return 2 * 2 * self.layers * self.kv_heads * self.head_dim

    def adapters(self, fit: Fit) -> int:
        """Parameters of a LoRA: rank times (inputs + outputs) of every matrix it stands beside."""
        kv = self.kv_heads * self.head_dim
        outputs = {"k_proj": kv, "v_proj": kv, "gate_proj": self.intermediate, "up_proj": self.intermediate}
        inputs = {"down_proj": self.intermediate}
        sides = (inputs.get(name, self.hidden) + outputs.get(name, self.hidden) for name in fit.lora_targets)
        return fit.lora_rank * self.layers * sum(sides)


@dataclass(frozen=True, slots=True)
class Gpu:
    """A data sheet: memory in GB, dense bf16 peak in operations a second, memory bandwidth in bytes a second."""

    name: str
    memory_gb: int
    flops: float
    bandwidth: float

    @property
    def memory_gib(self) -> float:
        return self.memory_gb * 1e9 / GIB


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("L4", 24, 121e12, 0.30e12),
        Gpu("L40S", 48, 362e12, 0.864e12),
        Gpu("A100", 80, 312e12, 2.04e12),
        Gpu("H100", 80, 989e12, 3.35e12),
        Gpu("H200", 141, 989e12, 4.8e12),
        Gpu("B200", 180, 2250e12, 8.0e12),
    )
}


@dataclass(frozen=True, slots=True)
class Machines:
    """`count` machines with `gpus` GPUs each, at `price` a GPU and hour; `role` is their label `erpo-role`, if any."""

    count: int
    gpus: int
    gpu: Gpu
    price: float
    role: str = ""


@dataclass(frozen=True, slots=True)
class Memory:
    """Of one GPU, in GiB, at its fullest moment."""

    weights: float
    kv: float = 0.0
    optimiser: float = 0.0
    activations: float = 0.0

    @property
    def total(self) -> float:
        return self.weights + self.kv + self.optimiser + self.activations + RUNTIME_GIB


def dims(model_dir: Path, parameters: int) -> Dims:
    """From the model's config.json; `parameters` as the weights' headers say."""
    found = json.loads((model_dir / "config.json").read_text())
    heads = found["num_attention_heads"]
    return Dims(
        parameters,
        found["num_hidden_layers"],
        found["hidden_size"],
        found.get("intermediate_size") or 4 * found["hidden_size"],
        found.get("num_key_value_heads") or heads,
        found.get("head_dim") or found["hidden_size"] // heads,
        found["vocab_size"],
    )


def machines(text: str) -> list[Machines]:
    """`2x8xH100@2.50,rollout:8x1xL40S@0.90`: role if any, machines, GPUs in each, kind, price of a GPU for an hour."""
    out = []
    for part in text.split(","):
        found = re.fullmatch(r"(?:(\w+):)?([1-9]\d*)x([1-9]\d*)x(\w+)(?:@(\d+(?:\.\d+)?))?", part.strip())
        if not found or found[4] not in GPUS:
            raise UsageError(
                f"--nodes: found {part!r}; write MACHINESxGPUSxKIND@PRICE, as in 2x8xH100@2.50, with a kind of "
                f"{', '.join(GPUS)} and the price of a GPU for an hour"
            )
        role, count, gpus, kind, price = found.groups()
        out.append(Machines(int(count), int(gpus), GPUS[kind], float(price or 0), role or ""))
    return out


def nodes(fleet: Sequence[Machines]) -> dict[str, tuple[Node, Machines]]:
    """Every machine by its name, as a node to place workers on."""
    out = {}
    for kind in fleet:
        for _ in range(kind.count):
            name = f"{kind.role or 'node'}-{len(out) + 1} ({kind.gpus} {kind.gpu.name})"
            out[name] = Node(name, kind.gpus, {"erpo-role": kind.role} if kind.role else {}), kind
    return out


def rollout_memory(model: Dims, sequences: int, length: float, gpus: int = 1) -> Memory:
    """Of an engine that holds so many sequences of that length, weights and cache cut over `gpus` (tensor parallel)."""
    return Memory(model.weights / gpus / GIB, kv=sequences * length * model.kv_bytes / gpus / GIB)


def train_memory(model: Dims, fit: Fit, length: float, sides: int, shards: int = 1) -> Memory:
    """Of a trainer. `length` tokens a side, `sides` of a row (2 of a pair), weights and optimiser cut over `shards`.

    Weights are float32. Under a LoRA only the adapters have gradients and moments. Logits count with their gradient.
    """
    tokens = fit.micro_batch_size * length * sides
    trained = model.adapters(fit) if fit.lora_rank else model.parameters
    recomputed = tokens * model.hidden * (2 * model.layers + LAYER_BYTES)
    kept = tokens * model.hidden * LAYER_BYTES * model.layers
    logits = 2 * 4 * tokens * model.vocabulary
    return Memory(
        4 * model.parameters / shards / GIB,
        optimiser=(TRAINING_BYTES - 4) * trained / shards / GIB,
        activations=((recomputed if fit.gradient_checkpointing else kept) + logits) / GIB,
    )


def sampling_rate(model: Dims, gpu: Gpu, sequences: int, length: float, gpus: int = 1) -> float:
    """Tokens a second of an engine on `gpus` GPUs with so many sequences of that mean length."""
    read = (model.weights + sequences * length * model.kv_bytes) / (gpus * gpu.bandwidth * BANDWIDTH_SHARE)
    multiplied = 2 * model.parameters * sequences / (gpus * gpu.flops * SAMPLING_FLOPS_SHARE)
    return sequences / max(read, multiplied, STEP_S)


def engine_gpus(model: Dims, gpu: Gpu, sequences: int, length: float, share: float = 0.85) -> int:
    """The least power of two of GPUs over which an engine has to be cut to fit into that share of their memory."""
    gpus = 1
    while rollout_memory(model, sequences, length, gpus).total > share * gpu.memory_gib:
        gpus *= 2
    return gpus


def training_rate(model: Dims, gpu: Gpu, frozen: bool = False) -> float:
    """Tokens a second of one GPU; `frozen` weights get no gradient."""
    return gpu.flops * TRAINING_FLOPS_SHARE / ((4 if frozen else 6) * model.parameters)


def sync_seconds(model: Dims, engines: int) -> float:
    """For a new policy: one worker writes it to the shared folder, every engine reads it from there."""
    return model.weights * (1 + engines) / STORAGE_BYTES_S


def storage_bytes(model: Dims, costs: Sequence[Cost]) -> float:
    """Of a run directory: a policy for each stage and one being written, and the ledgers."""
    stages = sum(cost.kind != "evaluate" for cost in costs)
    return model.weights * (stages + 1) + LEDGER_BYTES * sum(cost.sampled_tokens for cost in costs)


def seconds(cost: Cost, model: Dims, sampled_per_s: float, trained_per_s: float, engines: int) -> float:
    """Of a phase, with the rates of all engines and of all trainers together."""
    sync = sync_seconds(model, engines) if cost.kind != "evaluate" else 0.0
    return cost.sampled_tokens / sampled_per_s + cost.trained_tokens / trained_per_s + sync


@dataclass(frozen=True, slots=True)
class Paper:
    """A run on given machines: who is where, memory of a GPU by role, seconds of each phase, money, bytes kept."""

    placed: Mapping[str, Mapping[str, int]]
    memory: Mapping[str, Memory]
    room_gib: Mapping[str, float]
    phases: tuple[float, ...]
    money: float
    storage_gib: float

    @property
    def seconds(self) -> float:
        return START_S + sum(self.phases)


def on_paper(
    config: Config,
    model: Dims,
    costs: Sequence[Cost],
    prompt_tokens: float,
    fleet: Sequence[Machines],
    placed: Mapping[str, Mapping[str, int]],
) -> Paper:
    """A run with its workers as they were placed on the `nodes` of the fleet, one GPU for each.

    Where GPUs are of several kinds, rollouts add up and training goes at the pace of the slowest.
    """
    known = nodes(fleet)
    length = prompt_tokens + config.prefer.draw.max_tokens
    sequences = config.cluster.in_flight
    engines = [known[name][1].gpu for name, count in placed["rollout"].items() for _ in range(count)]
    trainers = [known[name][1].gpu for name, count in placed["train"].items() for _ in range(count)]
    # Half of a completion is there on average while it is sampled.
    sampled = sum(
        sampling_rate(model, gpu, sequences, prompt_tokens + config.prefer.draw.max_tokens / 2) for gpu in engines
    )
    frozen = bool(config.prefer.fit.lora_rank)
    trained = len(trainers) * min(training_rate(model, gpu, frozen) for gpu in trainers)
    phases = tuple(seconds(cost, model, sampled, trained, len(engines)) for cost in costs)
    hours = (START_S + sum(phases)) / 3600
    imitate = train_memory(model, config.imitate.fit, length, sides=1)
    prefer = train_memory(model, config.prefer.fit, length, sides(config))
    return Paper(
        placed,
        {"rollout": rollout_memory(model, sequences, length), "train": max(imitate, prefer, key=lambda m: m.total)},
        {"rollout": min(gpu.memory_gib for gpu in engines), "train": min(gpu.memory_gib for gpu in trainers)},
        phases,
        hours * sum(kind.count * kind.gpus * kind.price for kind in fleet),
        storage_bytes(model, costs) / GIB,
    )
