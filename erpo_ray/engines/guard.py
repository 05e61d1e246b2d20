"""A guard model served by vLLM: questions become token ids, replies come back with the odds of the verdict words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from erpo_ray.engines.chat_tokens import ChatTokens
from erpo_ray.engines.renderer import stop_ids
from erpo_ray.engines.vllm import EngineSettings, start
from erpo_ray.errors import UsageError
from erpo_ray.judging.guards import Chat, GuardFormat, Question, Reply, log_sum
from erpo_ray.types import Failure


class GuardTokens:
    """Tokenizer of one guard: questions to ids, ids to text, verdict words to the tokens that begin them.

    Raises UsageError when a format needs a chat template that the model lacks, or when two verdict words begin alike.
    """

    def __init__(self, model_dir: Path | str, format: GuardFormat) -> None:
        self._texts = ChatTokens(model_dir, generate=True)
        self._tokenizer = self._texts.tokenizer
        self.stop_ids = stop_ids(self._tokenizer, Path(model_dir))
        self.words = {word: self._first_tokens(word) for word in format.words}
        first = [token for tokens in self.words.values() for token in tokens]
        if len(set(first)) < len(first):
            raise UsageError(
                f"{model_dir}: {' and '.join(format.words)} begin with the same token, so that their odds cannot be "
                f"told apart; use a model that fits the guard format {format.name}"
            )

    def encode(self, question: Question) -> list[int]:
        """Ids of a question. Special-token strings inside judged texts stay plain text."""
        if isinstance(question, Chat):
            return self._texts.chat(question)
        bos = self._tokenizer.bos_token_id
        return [*([] if bos is None else [bos]), *self._texts.ids(question.pieces)]

    def pieces(self, ids: Sequence[int]) -> tuple[str, ...]:
        """Text of each token without special ones; joined they are the reply. For the few tokens of a verdict."""
        # A character whose bytes are not all there yet belongs to the token that completes it.
        texts = [self._decode(ids[:end]).rstrip("\ufffd") for end in range(len(ids))] + [self._decode(ids)]
        return tuple(after[len(before) :] for before, after in zip(texts, texts[1:], strict=False))

    def odds(self, logprobs: Mapping[int, Any]) -> dict[str, float]:
        """Log-probability of each verdict word, by the tokens that begin it."""
        return {
            word: log_sum([logprobs[token].logprob for token in tokens if token in logprobs])
            for word, tokens in self.words.items()
        }

    def _decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def _first_tokens(self, word: str) -> tuple[int, ...]:
        """The tokens that begin a word, at the start of a line and after a space; blank tokens do not count."""
        found = set()
        for text in (word, f" {word}"):
            found.update([token for token in self._texts.encode(text, plain=True) if self._decode([token]).strip()][:1])
        return tuple(sorted(found))


class GuardEngine:
    """One guard in the calling process; `classify` is what a GuardJudge asks."""

    def __init__(self, model_dir: Path | str, format: GuardFormat, settings: EngineSettings) -> None:
        self._tokens = GuardTokens(model_dir, format)
        self._room = settings.max_length - format.max_tokens
        self._llm: Any = start(model_dir, settings)

        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        self._params = SamplingParams(
            temperature=0.0,
            max_tokens=format.max_tokens,
            stop_token_ids=list(self._tokens.stop_ids),
            logprob_token_ids=sorted(token for tokens in self._tokens.words.values() for token in tokens),
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def classify(self, questions: Sequence[Question]) -> list[Reply | Failure]:
        """One reply a question, in order. A question that does not fit into the context is a Failure `too_long`."""
        prompts = [self._tokens.encode(question) for question in questions]
        fitting = [{"prompt_token_ids": ids} for ids in prompts if len(ids) <= self._room]
        outputs = iter(self._llm.generate(fitting, self._params, use_tqdm=False) if fitting else ())
        return [
            self._reply(next(outputs).outputs[0])
            if len(ids) <= self._room
            else Failure("too_long", f"{len(ids)} tokens, the guard takes {self._room}")
            for ids in prompts
        ]

    def close(self) -> None:
        """Stop the engine and free its memory."""
        self._llm.llm_engine.engine_core.shutdown()
        del self._llm

    def _reply(self, drawn: Any) -> Reply:
        return Reply(self._tokens.pieces(drawn.token_ids), tuple(self._tokens.odds(at) for at in drawn.logprobs))
