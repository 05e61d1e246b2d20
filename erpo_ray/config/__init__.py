"""The configuration tree. Every default of the project lives in this package and nowhere else; YAML files hold
differences only.

Reading a file, overrides and error texts are in `erpo_ray.settings`; this package is the tree itself: the sections of
judges, of training, of single methods and of decoding have files of their own.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from erpo_ray.config.decoding import Decode
from erpo_ray.config.judges import JudgeRules, TopJudge, require_no_secrets
from erpo_ray.config.methods import Constraint, Evolution, Pivots, Reflection, Search, Steps, Transitions
from erpo_ray.config.reinforce import Reinforce
from erpo_ray.config.section import Guidance, Section
from erpo_ray.config.training import Imitate, Prefer, Rounds
from erpo_ray.types import Label

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
    """Root of an OpenAI-compatible endpoint, for example http://127.0.0.1:8000/v1. Its key is sent nowhere else."""
    model: str = ""
    api_key_env: str = "OPENAI_API_KEY"
    """Name of the environment variable that holds the key; the key itself is never stored."""
    temperature: float = Field(default=0.7, ge=0)
    max_tokens: int = Field(default=400, ge=16)
    timeout_s: float = Field(default=60.0, gt=0)
    """Longest wait for the endpoint; a request and its two retries have three times as long in all."""
    concurrency: int = Field(default=8, ge=1)
    max_failure_rate: float = Field(default=0.02, ge=0, le=1)
    """Share of prompts without a reply (`openai`) above which the stage stops. A reply that the filters turn down is
    one."""
    guidance: Guidance = ""
    """Said to the model (`openai`) in front of what it is to write. `erpo tune teacher` looks for one."""

    @model_validator(mode="after")
    def _no_secrets(self) -> Teacher:
        if self.base_url:
            require_no_secrets("teacher", self.base_url, self.api_key_env)
        return self


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
    per_source: int | None = Field(default=None, ge=1)
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
        if self.prefer.section_weights and self.method != "erpo":
            raise ValueError(
                f"prefer.section_weights is on, but method is {self.method}: only erpo's pairs are weighed by section; "
                "set method to erpo, or drop it"
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
        if self.method == "sos" and self.sos.mutate == "policy":
            longest["sos.rewrite.max_tokens"] = self.sos.rewrite.max_tokens
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
