"""One request to an OpenAI-compatible endpoint. No retries here: `asking` has one budget for all."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Protocol

from erpo_ray.config.judges import JudgeLLM
from erpo_ray.judging.endpoint import Completion, Denied, Endpoint
from erpo_ray.judging.replies import Form
from erpo_ray.judging.rubrics import Question

if TYPE_CHECKING:
    import openai


class Model(Protocol):
    """Answers questions; with a form, by its JSON schema."""

    async def complete(self, question: Question, form: Form | None) -> Completion | Denied: ...


@asynccontextmanager
async def connect(settings: JudgeLLM) -> AsyncIterator[Model]:
    """The configured endpoint, closed at the end. Raises UsageError for a key or an address that cannot be one."""
    endpoint = Endpoint("judge", settings)
    async with endpoint.client(settings.concurrency, retries=0) as client:
        yield ChatClient(endpoint, client, settings)


class ChatClient:
    """A Model over HTTP. Raises UsageError as `Endpoint` does."""

    def __init__(self, endpoint: Endpoint, client: openai.AsyncOpenAI, settings: JudgeLLM) -> None:
        self._endpoint, self._client, self._settings = endpoint, client, settings

    async def complete(self, question: Question, form: Form | None) -> Completion | Denied:
        """One attempt."""
        request = self._client.chat.completions.with_raw_response.create(**self._body(question, form))
        timeout_s = self._settings.timeout_s
        return await self._endpoint.exchange(request, timeout_s, f"no whole reply within {timeout_s:g} s")

    def _body(self, question: Question, form: Form | None) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._settings.model,
            "messages": [
                {"role": "system", "content": question.system},
                {"role": "user", "content": question.user},
            ],
            self._settings.reply_limit: self._settings.max_reply_tokens,
        }
        if self._settings.temperature is not None:
            body["temperature"] = self._settings.temperature
        if form:
            schema = {"name": form.name, "strict": True, "schema": form.schema()}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return body
