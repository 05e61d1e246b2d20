"""The sections of the judges. Which one a section is says its `type`; without one it is the rule judge's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from erpo_ray.config.section import Guidance, Section

GuardFormatName = Literal[
    "llama_guard_3",
    "llama_guard_3_1b",
    "llama_guard_4",
    "wild_guard",
    "shield_gemma",
    "qwen3guard",
    "md_judge",
    "generic",
]


def require_no_secrets(section: str, base_url: str, api_key_env: str) -> None:
    """ValueError unless these are an address without a user and the name of a variable."""
    # No message names what was found: it may be a key.
    if not re.fullmatch(r"https?://[^/?#\s]+([/?#]\S*)?", base_url):
        raise ValueError(f"{section}.base_url is no address; write one such as http://127.0.0.1:8000/v1")
    if "@" in base_url:
        raise ValueError(
            f"{section}.base_url holds a user name or password, which would be stored; "
            f"take it out and put the key into the variable that {section}.api_key_env names"
        )
    if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", api_key_env):
        raise ValueError(f"{section}.api_key_env is no name of a variable; write the variable's name, never the key")


class Judging(Section):
    """What every judge has that can judge alone."""

    max_failure_rate: float = Field(default=0.02, ge=0, le=1)
    """Share of failed verdicts above which the stage stops. Not read of a member of an ensemble."""


class JudgeRules(Judging):
    """The rule judge and its limits."""

    type: Literal["rules"] = "rules"
    min_answer_tokens: int = Field(default=5, ge=1)
    """Shorter benign answers are empty."""
    relevance_floor: float = Field(default=0.15, ge=-1, le=1)
    """Cosine between prompt and answer embeddings at which utility is -1."""
    relevance_full: float = Field(default=0.6, ge=-1, le=1)
    """Cosine at which relevance earns full utility."""

    @model_validator(mode="after")
    def _has_a_scale(self) -> JudgeRules:
        if self.relevance_full <= self.relevance_floor:
            raise ValueError(
                f"judge.relevance_full ({self.relevance_full}) must be above judge.relevance_floor "
                f"({self.relevance_floor}): raise the one or lower the other"
            )
        return self


class JudgeLLM(Judging):
    """A model behind an OpenAI-compatible endpoint as judge."""

    type: Literal["llm"] = "llm"
    base_url: str
    """Root of the endpoint, for example http://127.0.0.1:8000/v1. Its key is sent nowhere else."""
    model: str = Field(min_length=1)
    api_key_env: str = "OPENAI_API_KEY"
    """Name of the environment variable that holds the key; the key itself is never stored."""
    temperature: float | None = Field(default=0.0, ge=0)
    """Left out of requests when empty, for models that take none."""
    max_reply_tokens: int = Field(default=400, ge=32)
    """Reasoning of the judge's own counts too: raise it for a model that reasons."""
    reply_limit: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """What the endpoint calls the limit on the reply."""
    max_text_chars: int = Field(default=12000, ge=200)
    """Longest judged text, in characters; of a longer one the middle is left out, and the verdict notes it."""
    timeout_s: float = Field(default=60.0, gt=0)
    """From the request to the whole reply."""
    concurrency: int = Field(default=8, ge=1)
    """Requests under way at once, for each judge worker."""
    requests_per_minute: float | None = Field(default=None, gt=0)
    """Pace of each judge worker; as fast as replies come when empty."""
    retry_budget: float = Field(default=0.2, ge=0)
    """Retries for each request that is made, pooled over the whole judge, so that a failing endpoint is not asked over
    and over."""
    prompt_price: float | None = Field(default=None, ge=0)
    """Price of a million prompt tokens. No cost is told unless both prices are given."""
    completion_price: float | None = Field(default=None, ge=0)
    """Price of a million tokens of replies."""
    cache: str = ""
    """SQLite file that keeps verdicts by their content, for this run and others; none is kept when empty."""
    guidance: Guidance = ""
    """Said to the model in front of the rubric of safety, and nowhere else. `erpo tune judge` looks for one."""

    @model_validator(mode="after")
    def _no_secrets(self) -> JudgeLLM:
        require_no_secrets("judge", self.base_url, self.api_key_env)
        return self


class JudgeGuard(Section):
    """A safety classifier served by vLLM, within each judge worker. Measures safety, and some of them refusal."""

    type: Literal["guard"] = "guard"
    model: str = Field(min_length=1)
    """A local directory, or a Hugging Face id."""
    format: GuardFormatName
    """How this family of guards is asked and read; `generic` is for any chat model."""
    max_length: int = Field(default=4096, ge=64)
    """Context in tokens. A longer question is a failed verdict."""
    in_flight: int = Field(default=32, ge=1)
    """Questions the engine runs at once."""
    kv_cache_gib: float = Field(default=1.0, gt=0)
    """Memory for the engine's KV cache on CPU."""
    gpu_memory_utilization: float = Field(default=0.85, gt=0, le=1)
    """Share of its GPU's memory that the engine takes; on a cluster the GPU is its own."""


class JudgeReward(Section):
    """A reward or cost model (sequence classifier with one output) through transformers. Measures one axis:
    tanh((score - midpoint) / scale), with its sign turned for a cost model."""

    type: Literal["reward_model"] = "reward_model"
    model: str = Field(min_length=1)
    """A local directory, or a Hugging Face id."""
    axis: Literal["utility", "safety"]
    cost: bool = False
    """A higher score is worse, as of a cost model."""
    midpoint: float = 0.0
    """The raw score that is neither good nor bad."""
    scale: float = Field(default=1.0, gt=0)
    """Raw score above the midpoint at which the axis is 0.76 (tanh 1)."""
    batch_size: int = Field(default=8, ge=1)
    max_length: int = Field(default=2048, ge=16)
    """Longest prompt with its answer, in tokens. A longer one is a failed verdict."""


def _tag(given: Any) -> str:
    """The type a section names; that of the rule judge for a section without one, and for what is no section."""
    named = given.get("type", "rules") if isinstance(given, Mapping) else getattr(given, "type", "rules")
    return str(named)


def _by_type(remedy: str) -> Discriminator:
    return Discriminator(_tag, custom_error_type="judge_type", custom_error_message=remedy)


_Rules = Annotated[JudgeRules, Tag("rules")]
_LLM = Annotated[JudgeLLM, Tag("llm")]
_Guard = Annotated[JudgeGuard, Tag("guard")]
_Reward = Annotated[JudgeReward, Tag("reward_model")]

MemberJudge = Annotated[_Rules | _LLM | _Guard | _Reward, _by_type("use one of rules, llm, guard, reward_model")]
"""A judge that an ensemble may have."""


class JudgeMember(Section):
    """A judge in an ensemble."""

    judge: MemberJudge
    name: str = Field(default="", pattern="^[a-z0-9_]*$")
    """Its name in verdicts. When empty: rules, llm, the format of a guard, reward_utility or reward_safety."""
    safety: float = Field(default=1.0, ge=0)
    """Weight of what it says of safety, against those of the other members."""
    utility: float = Field(default=1.0, ge=0)
    """Weight of what it says of utility."""
    veto: bool = False
    """What it calls unsafe is unsafe, whatever the others say."""

    @property
    def called(self) -> str:
        """Its name in verdicts."""
        if self.name:
            return self.name
        if isinstance(self.judge, JudgeGuard):
            return self.judge.format
        return f"reward_{self.judge.axis}" if isinstance(self.judge, JudgeReward) else self.judge.type

    def measures(self, axis: Literal["safety", "utility"]) -> bool:
        """Whether its word on this axis counts."""
        only = "safety" if isinstance(self.judge, JudgeGuard) else getattr(self.judge, "axis", axis)
        return only == axis and getattr(self, axis) > 0


class JudgeEnsemble(Judging):
    """Several judges and one verdict of them all."""

    type: Literal["ensemble"] = "ensemble"
    members: tuple[JudgeMember, ...]
    quorum: int = Field(default=1, ge=1)
    """Fewer valid verdicts than this are a failed verdict."""
    spread: float = Field(default=1.0, ge=0, le=2)
    """Where scores of members lie further apart than this on any axis, a person should look."""

    @model_validator(mode="after")
    def _decides(self) -> JudgeEnsemble:
        names = [member.called for member in self.members]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"judge.members: {', '.join(twice)} stands there twice; give one of them another `name`")
        if self.quorum > len(names):
            raise ValueError(f"judge.quorum ({self.quorum}) is more than the number of members ({len(names)})")
        for axis in ("safety", "utility"):
            if not any(member.measures(axis) for member in self.members):
                raise ValueError(f"judge.members: none measures {axis}; add rules or llm, with a weight on {axis}")
        if not any(isinstance(member.judge, JudgeRules | JudgeLLM) for member in self.members):
            raise ValueError("judge.members: none reads traces; add rules or llm, with weights of 0 if it has no vote")
        return self


_Ensemble = Annotated[JudgeEnsemble, Tag("ensemble")]

TopJudge = Annotated[
    _Rules | _LLM | _Ensemble,
    _by_type(
        "use one of rules, llm, ensemble; a guard or a reward_model does not measure every axis: make it a member of "
        "an ensemble, beside rules or llm"
    ),
]
"""A judge of a run: it measures every axis."""

AnyJudge = Annotated[
    _Rules | _LLM | _Guard | _Reward | _Ensemble, _by_type("use one of rules, llm, guard, reward_model, ensemble")
]
"""Any judge there is."""


def has_model(settings: AnyJudge) -> bool:
    """Whether it loads a guard or a reward model: on a cluster with GPUs its worker gets one."""
    if isinstance(settings, JudgeEnsemble):
        return any(has_model(member.judge) for member in settings.members)
    return isinstance(settings, JudgeGuard | JudgeReward)


class JudgeFile(Section):
    """A judge's section alone, as `erpo judge-check` takes it."""

    judge: AnyJudge
