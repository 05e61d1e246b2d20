"""The reasoning parser `erpo` of vLLM's server: `--reasoning-parser erpo --reasoning-parser-plugin MODULE`.

A policy of this project writes `<think>` and `</think>` as plain text, in several tokens, and not in every completion.
None of vLLM's own parsers fits: those built on `BaseThinkingReasoningParser` (deepseek_r1) refuse a tokenizer without
the two ids, qwen3 takes a completion without a trace for a trace, olmo3 an unclosed trace for the answer. This one
reads text. It streams through the interface of vLLM's engine-based parsers, which are handed each new piece of text
once and asked at the end for what they still hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from vllm.entrypoints.generate.base.protocol import DeltaMessage
from vllm.reasoning import ReasoningParser, ReasoningParserManager

from erpo_ray import traces
from erpo_ray.engines.splitting import Splitter, answer_ids, closes, reasoning_tokens

if TYPE_CHECKING:
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.entrypoints.openai.responses.protocol import ResponsesRequest
    from vllm.tokenizers import TokenizerLike

NAME = "erpo"


class ErpoReasoningParser(ReasoningParser):
    """Trace as `reasoning`, answer as `content`. An unclosed trace is no answer: `content` is null.

    One instance serves one completion.
    """

    engine_based_streaming = True

    def __init__(self, tokenizer: TokenizerLike, *args: Any, **kwargs: Any) -> None:
        super().__init__(tokenizer, *args, **kwargs)
        self._splitter = Splitter()

    @property
    def reasoning_start_str(self) -> str:
        return traces.THINK

    @property
    def reasoning_end_str(self) -> str:
        return traces.CLOSE

    def extract_reasoning(
        self, model_output: str, request: ChatCompletionRequest | ResponsesRequest
    ) -> tuple[str | None, str | None]:
        """Both parts of a whole completion, None for one that is empty."""
        reasoning, answer = traces.split(model_output)
        return reasoning or None, (answer or "").strip() or None

    def extract_reasoning_streaming(
        self,
        previous_text: str,
        current_text: str,
        delta_text: str,
        previous_token_ids: Sequence[int],
        current_token_ids: Sequence[int],
        delta_token_ids: Sequence[int],
    ) -> DeltaMessage | None:
        """What `delta_text` adds to either part."""
        return _message(*self._splitter.feed(delta_text))

    def finish_streaming(self) -> DeltaMessage | None:
        """What is left when the completion ends."""
        return _message(*self._splitter.finish())

    def has_engine_confirmed_reasoning_end(self) -> bool:
        """Never: behind the trace vLLM would pass text on as it is, white space at the ends of the answer too."""
        return False

    def is_reasoning_end(self, input_ids: Sequence[int]) -> bool:
        """vLLM asks this of prompts only. The trace of an answer is in the answer, so no prompt ends it."""
        return False

    def is_reasoning_end_streaming(self, input_ids: Sequence[int], delta_ids: Iterable[int]) -> bool:
        """Whether the last tokens close the trace: from there on a grammar binds the answer."""
        return closes(input_ids, len(list(delta_ids)), self._decode)

    def extract_content_ids(self, input_ids: list[int]) -> list[int]:
        return answer_ids(input_ids, self._decode)

    def count_reasoning_tokens(self, token_ids: Sequence[int]) -> int:
        """For `usage.completion_tokens_details.reasoning_tokens`."""
        return reasoning_tokens(token_ids, self._decode)

    def _decode(self, ids: Sequence[int]) -> str:
        return self.model_tokenizer.decode(list(ids), skip_special_tokens=True)


def _message(reasoning: str, content: str) -> DeltaMessage | None:
    if not reasoning and not content:
        return None
    return DeltaMessage(reasoning=reasoning or None, content=content or None)


ReasoningParserManager.register_module(NAME, module=ErpoReasoningParser)
