"""The reasoning parser inside the parser that vLLM's server builds around it, with the embedded model's tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.parser.parser_manager import ParserManager
from vllm.reasoning import ReasoningParserManager

TRACE = "<think>\nAssessment: a wish. Harmful.\nPath: Refuse.\n</think>\nI cannot  help.\n"
REQUEST = ChatCompletionRequest(model="smol", messages=[{"role": "user", "content": "hi"}])


@pytest.fixture(scope="module")
def tokenizer(smol: Path) -> Any:
    return AutoTokenizer.from_pretrained(smol)


@pytest.fixture(scope="module")
def parser(tokenizer: Any) -> Any:
    """Makes the parser of one completion, loaded as the server loads it."""
    ReasoningParserManager.import_reasoning_parser("erpo_ray.engines.reasoning_parser")
    built: Any = ParserManager.get_parser(reasoning_parser_name="erpo", tokenizer=tokenizer)
    return lambda: built(tokenizer)


def ids_of(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def streamed(parser: Any, tokenizer: Any, text: str, step: int) -> tuple[str | None, str | None]:
    ids, one, before = ids_of(tokenizer, text), parser(), ""
    deltas: list[Any] = []
    for end in range(step, len(ids) + step, step):
        now, done = tokenizer.decode(ids[:end]), end >= len(ids)
        new = ids[end - step : end]
        deltas.append(one.parse_delta(now[len(before) :], new, REQUEST, prompt_token_ids=[1, 2], finished=done))
        before = now
    said = [delta for delta in deltas if delta is not None]
    parts = ("".join(getattr(delta, name) or "" for delta in said) for name in ("reasoning", "content"))
    return tuple(part or None for part in parts)  # pyright: ignore[reportReturnType]  always two


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (TRACE, ("Assessment: a wish. Harmful.\nPath: Refuse.", "I cannot  help.")),
        ("plain < think", (None, "plain < think")),
        ("<think>\nopen </thi", ("open </thi", None)),
        ("<think>a</think>", ("a", None)),
    ],
)
def test_whole_and_streamed_completions_have_the_same_parts(
    parser: Any, tokenizer: Any, text: str, parts: tuple[str | None, str | None]
) -> None:
    assert parser().parse(text, REQUEST) == (*parts, [])
    assert [streamed(parser, tokenizer, text, step) for step in (1, 2, 5)] == [parts] * 3


def test_the_tags_are_no_tokens_of_their_own_which_others_ask_for(tokenizer: Any) -> None:
    assert len(ids_of(tokenizer, "</think>")) > 1
    with pytest.raises(TypeError, match="could not locate think start/end tokens"):
        ParserManager.get_parser(reasoning_parser_name="deepseek_r1", tokenizer=tokenizer)


def test_tokens_are_told_apart_where_the_trace_closes(parser: Any, tokenizer: Any) -> None:
    ids, reader = ids_of(tokenizer, TRACE), parser().reasoning_parser
    ends = [end for end in range(1, len(ids) + 1) if reader.is_reasoning_end_streaming(ids[:end], ids[end - 1 : end])]
    assert len(ends) == 1 and tokenizer.decode(ids[: ends[0]]).endswith("</think>")
    assert tokenizer.decode(reader.extract_content_ids(ids)).strip() == "I cannot  help."
    tags = len(ids_of(tokenizer, "<think>")) + len(ids_of(tokenizer, "</think>"))
    assert parser().count_reasoning_tokens(ids) == ends[0] - tags
    assert not reader.is_reasoning_end(ids)
