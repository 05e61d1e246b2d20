"""The configuration tree. Every default of the project lives in this package and nowhere else; YAML files hold
differences only.

Reading a file, overrides and error texts are in `erpo_ray.settings`; this package is the tree itself: the sections of
judges and of decoding have files of their own.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from erpo_ray.config.decoding import Decode
from erpo_ray.config.judges import JudgeRules, TopJudge
from erpo_ray.config.methods import Constraint, Evolution, Pivots, Reflection, Search, Steps, Transitions
from erpo_ray.config.objective import Objectives
from erpo_ray.config.reinforce import Reinforce
from erpo_ray.config.section import Section
from erpo_ray.types import Label, Sampling, Training

CompositionName = Literal["lexicographic", "stair", "lagrangian", "gate"]
Tracker = Literal["tensorboard", "mlflow", "wandb", "trackio"]


class Model(Section):
    """The chat model to align."""

    path: str = "smollm2-135m-instruct"
    """The embedded model's name, a local directory, or a Hugging Face id."""
    max_length: int = Field(default=1024, ge=64)
    """Context used by engine and trainer, in tokens."""
    dialect: Literal["lines", "tags", "pivots"] = "lines"
    """How traces are written: short line labels, XML-like section tags, or lines that end with a pivot token (R2D),
    which the model is given first."""


class Source(Section):
    """One set of prompts."""

    path: str
    """`seeds` or `everyday` (embedded), a JSONL or Parquet file or glob, or a Hugging Face data set id."""
    label: Label | None = None
    """Label of rows that carry none (or of all rows, when set)."""
    category: str | None = None
    """Risk category of rows that carry none, an id of the rule book."""
    split: Literal["train", "evaluate"] | None = None
    """Which part of an embedded set, or which split of a hub data set."""
    where: dict[str, str] = {}
    """Keep only rows whose column equals the value."""
    columns: dict[str, str] = {}
    """Our field name -> column name in the file, for files with other names."""
    limit: int | None = Field(default=None, ge=1)
    """Keep this many rows, chosen by a hash of the prompt (repeatable)."""
    attacks: str | None = None
    """`embedded` or a JSONL file of templates with `{prompt}`: each prompt is wrapped in one of them."""
    repeat: int = Field(default=1, ge=1)
    """Copies of each prompt, each wrapped in another template (only with `attacks`)."""
    name: str = ""
    """Name in tables; the file's stem when empty."""


class Data(Section):
    """Which prompts are trained on and which are held apart."""

    root: str = ""
    """Folder that relative paths start from (`data.root=...` on the command line)."""
    train: tuple[Source, ...] = (Source(path="seeds", split="train"), Source(path="everyday", split="train"))
    evaluate: tuple[Source, ...] = (Source(path="seeds", split="evaluate"), Source(path="everyday", split="evaluate"))


class Rules(Section):
    """The rule book."""

    path: str = ""
    """YAML file of categories and numbered rules; the embedded book when empty."""


class Labeller(Section):
    """M_cls: gives each prompt its risk category."""

    type: Literal["embedding", "given"] = "embedding"
    """`embedding` predicts from sentence embeddings; `given` keeps the prompts' own categories."""
    min_confidence: float = Field(default=0.0, ge=0, le=1)
    """Below this the prompt gets the general category of the rule book."""


class Teacher(Section):
    """Who writes the traces of the imitate stage."""

    type: Literal["template", "openai"] = "template"
    base_url: str = ""
    """Root of an OpenAI-compatible endpoint, for example http://127.0.0.1:8000/v1."""
    model: str = ""
    api_key_env: str = "OPENAI_API_KEY"
    """Name of the environment variable that holds the key; the key itself is never stored."""
    temperature: float = Field(default=0.7, ge=0)
    max_tokens: int = Field(default=400, ge=16)
    timeout_s: float = Field(default=60.0, gt=0)
    concurrency: int = Field(default=8, ge=1)


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


class Gate(Section):
    """When a round is rejected: the old policy stays."""

    safety_tolerance: float = Field(default=0.03, ge=0)
    """Largest accepted fall of the share of harmful prompts refused."""
    refusal_tolerance: float = Field(default=0.03, ge=0)
    """Largest accepted rise of the share of benign prompts refused."""
    balance_gain: float = Field(default=0.0, ge=-1, le=1)
    """An imitate stage must raise (harmful refused + benign answered) / 2 by more than this."""


class Evaluate(Section):
    """The evaluation of base and every stage."""

    max_tokens: int = Field(default=192, ge=16)
    per_source: int | None = None
    """Prompts taken of each label of each source (all when empty), chosen by hash."""
    decode: Decode = Decode()
    """Only `erpo eval` decodes with a defence; a run measures its policies plainly."""


class Cluster(Section):
    """Where things run."""

    address: str = ""
    """Ray address; empty starts a local cluster (or joins the one of the job)."""
    rollout_workers: int = Field(default=1, ge=1)
    judge_workers: int = Field(default=1, ge=1)
    train_workers: int = Field(default=1, ge=1)
    train_workers_min: int = Field(default=0, ge=0)
    """Elastic training: the fewest to begin with where there is no room for `train_workers`; 0 asks for all of them.
    Whenever trainers start, it is with the largest number between the two that has room and shares batches evenly."""
    in_flight: int = Field(default=128, ge=1)
    """Sequences a rollout worker holds at once."""
    gpu: bool | None = None
    """Use GPUs; found out when empty."""
    share_gpu: bool = True
    """Rollout and training take turns on the same GPUs (sleep mode); off gives each its own."""
    rollout_labels: dict[str, str] = {}
    """Labels of the nodes that rollout workers run on; any node when empty. cluster.yaml labels nodes by role."""
    judge_labels: dict[str, str] = {}
    train_labels: dict[str, str] = {}
    wait_s: float = Field(default=0.0, ge=0)
    """How long to wait for GPUs that a cluster has yet to add, in seconds, before the run gives up."""
    kv_cache_gib: float = Field(default=1.0, gt=0)
    """Memory for the engine's KV cache on CPU."""
    gpu_memory_utilization: float = Field(default=0.85, gt=0, le=1)
    growth_gib: float = Field(default=8.0, gt=0)
    """Memory that a rollout or judge worker may gain over what it held when its first stage ended; one that gained more
    is replaced between two stages."""
    canary_tolerance: float = Field(default=0.15, gt=0)
    """Largest median difference of log-probabilities, in nats a token, between engine and trainer on the canary."""


class Config(Section):
    """A whole run."""

    name: str = "erpo"
    method: str = "erpo"
    seed: int = 0
    backend: Literal["ray", "inprocess"] = "ray"
    overlap: Literal["none", "next_round"] = "none"
    """`next_round`: while a prefer stage trains, the samples of the next one are drawn, from the policy that is there:
    one round behind. Only where training has cores or GPUs of its own does this save time."""
    model: Model = Model()
    data: Data = Data()
    rules: Rules = Rules()
    labeller: Labeller = Labeller()
    teacher: Teacher = Teacher()
    imitate: Imitate = Imitate()
    prefer: Prefer = Prefer()
    rounds: Rounds = Rounds()
    reinforce: Reinforce = Reinforce()
    constraint: Constraint = Constraint()
    derta: Transitions = Transitions()
    pivots: Pivots = Pivots()
    steps: Steps = Steps()
    search: Search = Search()
    reflection: Reflection = Reflection()
    sos: Evolution = Evolution()
    gate: Gate = Gate()
    judge: TopJudge = JudgeRules()
    evaluate: Evaluate = Evaluate()
    cluster: Cluster = Cluster()
    tracking: tuple[Tracker, ...] = ()
    """Trackers that get the rows of metrics.jsonl too; each is an extra of the same name."""

    @model_validator(mode="after")
    def _fits(self) -> Config:
        if self.teacher.type == "openai" and not (self.teacher.base_url and self.teacher.model):
            raise ValueError("teacher.type is openai but teacher.base_url or teacher.model is empty; set both")
        if not self.imitate.traces and (self.imitate.harmful_intents or self.imitate.benign_intents):
            raise ValueError(
                "imitate.traces is off, but imitate.harmful_intents or imitate.benign_intents asks for traces; "
                "set both to 0"
            )
        if self.rounds.kind == "reinforce" and self.method != "erpo":
            raise ValueError(
                f"rounds.kind is reinforce, but method is {self.method}: only the rounds of erpo can be of another "
                "kind; set method to erpo, or to grpo for reinforce stages alone, or drop rounds.kind"
            )
        if self.overlap != "none" and self.backend == "inprocess":
            raise ValueError(
                f"overlap is {self.overlap}, but backend is inprocess, which does one thing after the other; "
                "set backend=ray or overlap=none"
            )
        longest = {
            "imitate.draw.max_tokens": self.imitate.draw.max_tokens,
            "prefer.draw.max_tokens": self.prefer.draw.max_tokens,
            "evaluate.max_tokens": self.evaluate.max_tokens,
        }
        for name, tokens in longest.items():
            if tokens >= self.model.max_length:
                raise ValueError(
                    f"{name} ({tokens}) leaves no room for a prompt in model.max_length ({self.model.max_length})"
                )
        self._can_learn_pivots()
        self._can_share_training()
        return self

    @property
    def batches(self) -> tuple[int, ...]:
        """Sizes of the batches that training workers share."""
        return self.imitate.fit.batch_size, self.prefer.fit.batch_size

    def _can_share_training(self) -> None:
        """ValueError where training workers, if only as few as there may be, cannot share what is trained."""
        most, least = self.cluster.train_workers, self.cluster.train_workers_min or self.cluster.train_workers
        if least > most:
            raise ValueError(
                f"cluster.train_workers_min ({least}) is above cluster.train_workers ({most}), the most there may be; "
                "swap them"
            )
        if uneven := [size for size in self.batches if size % least] if least < most else []:
            raise ValueError(
                f"cluster.train_workers_min ({least}) does not divide a batch of {uneven[0]}; choose a number that "
                "divides imitate.fit.batch_size and prefer.fit.batch_size"
            )
        alone = self.backend == "inprocess" or least == 1
        for name, fit in {"imitate.fit.shard": self.imitate.fit, "prefer.fit.shard": self.prefer.fit}.items():
            if fit.shard and alone:
                fewest = "train_workers" if least == most else "train_workers_min"
                raise ValueError(f"{name} splits a model over training workers; raise cluster.{fewest} above 1")

    def _can_learn_pivots(self) -> None:
        """ValueError where the dialect has tokens whose embeddings the first stage would leave as they are."""
        fit = self.imitate.fit
        if self.model.dialect == "pivots" and (fit.freeze_layers or (fit.lora_rank and not fit.lora_whole)):
            raise ValueError(
                "model.dialect is pivots, tokens that the model has to learn, but imitate.fit trains no embeddings; "
                "set freeze_layers to 0, or beside a LoRA lora_whole=[embed_tokens, lm_head]"
            )
