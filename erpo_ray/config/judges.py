"""The sections of the judges."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, model_validator

from erpo_ray.config.section import Section


class Judge(Section):
    """The rule judge and its limits."""

    min_answer_tokens: int = Field(default=5, ge=1)
    """Shorter benign answers are empty."""
    relevance_floor: float = Field(default=0.15, ge=-1, le=1)
    """Cosine between prompt and answer embeddings at which utility is -1."""
    relevance_full: float = Field(default=0.6, ge=-1, le=1)
    """Cosine at which relevance earns full utility."""
    max_failure_rate: float = Field(default=0.02, ge=0, le=1)
    """Share of failed verdicts above which the stage stops."""


class JudgeLLM(Section):
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

    @model_validator(mode="after")
    def _no_secrets(self) -> JudgeLLM:
        # No message names what was found: it may be a key.
        if not re.fullmatch(r"https?://[^/?#\s]+([/?#]\S*)?", self.base_url):
            raise ValueError("judge.base_url is no address; write one such as http://127.0.0.1:8000/v1")
        if "@" in self.base_url:
            raise ValueError(
                "judge.base_url holds a user name or password, which would be stored; "
                "take it out and put the key into the variable that judge.api_key_env names"
            )
        if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", self.api_key_env):
            raise ValueError("judge.api_key_env is no name of a variable; write the variable's name, never the key")
        return self
