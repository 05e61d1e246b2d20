"""What stages that train are told: how to draw samples, how to optimise, and the sections of ERPO's three stages."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from erpo_ray.config.objective import Objectives
from erpo_ray.config.section import Section
from erpo_ray.types import Sampling, Training

CompositionName = Literal["lexicographic", "stair", "lagrangian", "gate"]


class Draw(Section):
    """How completions are sampled. On CPU use top-k or min-p: top-p halves vLLM's speed there."""

    temperature: float = Field(default=1.0, ge=0)
    top_k: int = Field(default=50, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    min_p: float = Field(default=0.0, ge=0, le=1)
    max_tokens: int = Field(default=160, ge=8)

    def sampling(self) -> Sampling:
        return Sampling(self.temperature, self.max_tokens, self.top_k, self.min_p, self.top_p)


class Fit(Section):
    """Optimiser settings of one stage."""

    learning_rate: float = Field(default=1e-4, gt=0)
    epochs: float = Field(default=1.0, gt=0)
    batch_size: int = Field(default=16, ge=1)
    """Rows an optimiser step, over all workers; in prefer stages pairs, in reinforce stages prompts with all of their
    samples."""
    micro_batch_size: int = Field(default=8, ge=1)
    """Of these in a forward pass on one worker."""
    max_steps: int = -1
    warmup_ratio: float = Field(default=0.05, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    schedule: str = "cosine"
    save_steps: int = Field(default=0, ge=0)
    """Optimiser steps between resumable checkpoints; 0 keeps none."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass instead of holding them: about a third more time."""
    shard: bool = False
    """Split weights, gradients and optimiser state over the training workers (FSDP2), for a model that fits no GPU of
    theirs as a whole while it trains."""
    freeze_layers: int = Field(default=0, ge=0)
    """Lowest decoder layers left as they are, and the embeddings with them: their backward pass is saved."""
    lora_rank: int = Field(default=0, ge=0)
    """0 trains all weights; otherwise a PEFT LoRA of this rank, merged when the stage ends."""
    lora_alpha: int = Field(default=32, ge=1)
    lora_targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    lora_whole: tuple[str, ...] = ()
    """Modules trained whole beside the LoRA, as `embed_tokens` and `lm_head` for a model that was given new tokens."""

    @model_validator(mode="after")
    def _fits(self) -> Fit:
        if self.lora_rank and self.freeze_layers:
            raise ValueError(
                "lora_rank and freeze_layers are both set, but a LoRA freezes the model's own weights anyway; drop one"
            )
        return self

    def training(self, max_length: int, seed: int) -> Training:
        return Training(max_length=max_length, seed=seed, **self.model_dump())


class Imitate(Section):
    """Stage 1: supervised ex-ante reasoning."""

    traces: bool = True
    """Examples reason before they answer. Off: refusals and answers alone, as in ordinary safety fine-tuning."""
    harmful: int | None = None
    """Harmful prompts used (all when empty); prompts are chosen by hash, balanced over categories."""
    benign: int | None = None
    """Benign prompts used (all when empty)."""
    answers: int = Field(default=2, ge=1)
    """Answers sampled from the policy for each benign prompt; the best is kept."""
    answer_hint: str = "Answer helpfully in one to three short sentences."
    """Added to benign prompts while sampling answers, absent from the training row (context distillation)."""
    draw: Draw = Draw(temperature=0.7, max_tokens=96)
    min_utility: float = Field(default=-0.5, ge=-1, le=1)
    """Answers below this are not imitated. Too strict a bar leaves more refusals than answers to learn from."""
    trace_cap: int = Field(default=160, ge=16)
    """Longest trace kept, in tokens."""
    decision_weight: float = Field(default=8.0, gt=0)
    """Loss weight of the tokens that decide (harmful or harmless, the verdict, how the answer begins), against 1 for
    the others."""
    harmful_intents: int = Field(default=0, ge=0)
    """Further harmful prompts that teach the intent alone: the trace ends with it, in the embedded teacher's words.
    Such a row takes a third of the time of a whole one."""
    benign_intents: int = Field(default=0, ge=0)
    """Further benign ones; they need no answer."""
    fit: Fit = Fit(learning_rate=2e-4, epochs=2, batch_size=16, micro_batch_size=8)


class Prefer(Objectives):
    """Stage 2 (and the base of stage 3): on-policy preference optimisation."""

    prompts: int = Field(default=240, ge=1)
    """Prompts explored in a round."""
    benign_share: float = Field(default=0.5, gt=0, lt=1)
    """Share of benign ones among them. More than half evens out the pairs where fewer answers pass than refusals."""
    samples: int = Field(default=4, ge=2)
    """K, candidates a prompt. Fewer than 2 leave nothing to compare."""
    draw: Draw = Draw()
    pairs_per_prompt: int = Field(default=1, ge=1)
    max_pairs: int = Field(default=160, ge=1)
    negatives: int = Field(default=80, ge=0)
    """Off-policy pairs added: teacher trace over a negative trace."""
    margin_tokens: int = Field(default=12, ge=1)
    """Least difference in length for a short-over-long pair."""
    min_utility: float = Field(default=0.0, ge=-1, le=1)
    """Benign answers below this are not useful enough to be chosen."""
    section_weights: bool = False
    """Blame reasoning and answer of a rejected candidate apart (AW-DPO), as far as it can be told which went wrong."""
    composition: CompositionName = "lexicographic"
    """How safety, utility and length decide which of the candidates that pass is chosen. `lexicographic`: the shortest
    of those about as useful as the best. `stair`, `lagrangian`, `gate`: the highest reward of that name, less a little
    for length."""
    lagrange_multiplier: float = Field(default=2.0, ge=0)
    """Lambda of `lagrangian`: the utility that certain harm costs. No other composition reads it; method `cdpo` starts
    from it."""
    fit: Fit = Fit(learning_rate=2e-5, epochs=1, batch_size=8, micro_batch_size=4)

    @property
    def explored(self) -> tuple[int, int]:
        """Harmful and benign prompts of a round."""
        benign = round(self.prompts * self.benign_share)
        return self.prompts - benign, benign


class Rounds(Section):
    """Stage 3: length-controlled rounds. Everything not named here is as in `prefer`."""

    count: int = Field(default=2, ge=0)
    kind: Literal["prefer", "reinforce"] = "prefer"
    """What ERPO's rounds learn from: pairs, or the rewards of all samples (`reinforce`), by policy gradient."""
    cap_ratio: float = Field(default=0.8, gt=0, le=1)
    """A round's length cap is this share of the last round's median length of passing candidates."""
    cap_min: int = Field(default=24, ge=8)
    """The cap never falls below this many tokens."""
    gamma: float = Field(default=0.01, ge=0)
    """Weight of the length term in the loss, in nats a token (R-DPO)."""
