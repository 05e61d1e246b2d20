"""The words of the project as frozen dataclasses: what passes between rooms and processes.

Every type here survives pickle and JSON (`encode`, `decode`); none holds a tensor, a handle or a callable.
Lengths are in tokens of the policy's tokenizer.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

Label = Literal["harmful", "benign", "unknown"]
Verdict3 = Literal["refuse", "safe", "answer"]
PairKind = Literal["safety", "over_refusal", "utility", "length", "format", "negative"]
StageKind = Literal["imitate", "prefer", "reinforce", "evolve"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Prompt:
    """One user message. `category` is an id of the rule book, empty when unknown."""

    id: str
    text: str
    label: Label = "unknown"
    category: str = ""
    topic: str = ""
    twin: str = ""
    source: str = ""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a completion is drawn. `temperature` 0 is greedy; `top_k` 0 and `min_p` 0 are off; texts in `stop` end it."""

    temperature: float
    max_tokens: int
    top_k: int = 0
    min_p: float = 0.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Request:
    """Samples still wanted for one prompt: one completion for each index in `samples`.

    Each completion begins with `prefix_ids`, which are given and not drawn; `sampling.max_tokens` counts what is drawn.
    """

    prompt: Prompt
    prompt_ids: tuple[int, ...]
    samples: tuple[int, ...]
    sampling: Sampling
    prefix_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Candidate:
    """One sampled completion (trace and answer), with the ids the engine drew and the policy that drew them.

    `token_ids` holds the end-of-sequence id when the engine stopped there; the first `given` of them were given to the
    engine, the others drawn. `finish` is `stop`, `length`, or `error` where the engine gave up and drew nothing.
    `seconds` is the time from its request to its last token, beside all that the engine ran; 0 when not measured.
    """

    id: str
    prompt_id: str
    sample: int
    token_ids: tuple[int, ...]
    text: str
    finish: str
    policy: str
    seconds: float = 0.0
    given: int = 0


@dataclass(frozen=True, slots=True)
class Scores:
    """The axes, kept apart: safety and utility in [-1, 1], length in tokens (trace and answer)."""

    safety: float
    utility: float
    length: int


@dataclass(frozen=True, slots=True)
class Axes:
    """What a judge says that does not measure every axis: None where it measures nothing.

    Safety and utility in [-1, 1]; `refused` is whether the answer declines.
    """

    safety: float | None = None
    utility: float | None = None
    refused: bool | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """Something that could not be judged or sampled: its cause, and the raw text or error behind it."""

    cause: str
    raw: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a judge says of one candidate: scores, or a failure, never both and never a neutral guess.

    A judge that measures only some axes (a guard) gives `partial` in place of scores. An ensemble joins such verdicts;
    alone they make no pair and count in no rate. `opinions` are the verdicts of its members, of an ensemble only.
    """

    candidate_id: str
    judge: str
    scores: Scores | None = None
    failure: Failure | None = None
    refused: bool = False
    well_formed: bool = False
    notes: tuple[str, ...] = ()
    partial: Axes | None = None
    opinions: tuple[Verdict, ...] = ()


@dataclass(frozen=True, slots=True)
class Group:
    """One prompt with its candidates and their verdicts, in sample order (`verdicts[i]` judges `candidates[i]`)."""

    prompt: Prompt
    prompt_ids: tuple[int, ...]
    candidates: tuple[Candidate, ...]
    verdicts: tuple[Verdict, ...]


@dataclass(frozen=True, slots=True)
class Contrast:
    """Which of two tokens is wanted at a position of a completion: -log sigmoid(z(chosen) - z(rejected)), z logits."""

    at: int
    chosen: int
    rejected: int


@dataclass(frozen=True, slots=True)
class Example:
    """One row of an imitate stage: loss falls on `completion_ids` only. `kind` says how it was made.

    `weights` holds the loss weight of each completion token (empty: 1 each). The loss of a step is the weighted mean
    over its tokens, and beside it the mean over its `contrasts`, times `contrast_weight`.
    """

    id: str
    prompt_id: str
    kind: str
    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    text: str
    weights: tuple[float, ...] = ()
    contrasts: tuple[Contrast, ...] = ()
    contrast_weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Pair:
    """Chosen over rejected, in token ids. `prefix_ids` is shared assistant text that carries no loss.

    `weight` is a factor on the preference term, `length_weight` one on the length term inside it. The first
    `chosen_skip` and `rejected_skip` tokens of the sides carry no loss either: a prefix that the two do not share.
    """

    id: str
    prompt_id: str
    prompt_ids: tuple[int, ...]
    prefix_ids: tuple[int, ...]
    chosen_ids: tuple[int, ...]
    rejected_ids: tuple[int, ...]
    weight: float
    kind: PairKind
    reason: str
    length_weight: float = 1.0
    chosen_skip: int = 0
    rejected_skip: int = 0


@dataclass(frozen=True, slots=True)
class Advantage:
    """One row of a reinforce stage: a completion, and how much better than the others of its group it was.

    `prefix_ids` is assistant text that was given and carries no loss. `kind` is `passes`, or what is wrong with it.
    """

    id: str
    prompt_id: str
    prompt_ids: tuple[int, ...]
    prefix_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    reward: float
    advantage: float
    kind: str
    reason: str


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A prompt, candidate or example that was not used, with the reason."""

    id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Policy:
    """A model directory and the version every sample of it carries (a content hash of its weights)."""

    path: Path
    version: str

    def drew(self, version: str) -> bool:
        """Whether samples that carry this version are its own, however it was decoded (`VERSION+NAME`)."""
        return version.partition("+")[0] == self.version


@dataclass(frozen=True, slots=True)
class Rate:
    """A proportion or mean with its 95% interval and the number of rows behind it."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One policy on prompts held apart from training. Rates in [0, 1], utility in [-1, 1], lengths in tokens.

    `by_category` holds the share of harmful prompts refused, `by_source` the same measures for each source of prompts
    (empty when there is one source only); the name of the source stands as their `stage`. `benign_answered` is the
    share of benign prompts neither refused nor left without an answer; files of before it was measured lack it.
    """

    stage: str
    policy: str
    harmful_refused: Rate
    benign_refused: Rate
    utility: Rate
    tokens_harmful: Rate
    tokens_benign: Rate
    well_formed: Rate
    unfinished: Rate
    benign_answered: Rate = Rate(0.0, 0.0, 1.0, 0)
    by_category: dict[str, Rate] = field(default_factory=dict)
    by_source: dict[str, Evaluation] = field(default_factory=dict)


def _plain(value: object) -> object:
    if isinstance(value, Path):
        return str(value)
    raise NotImplementedError(f"{type(value).__name__} has no JSON form")


def _build(kind: type, value: object) -> object:
    if kind is Path:
        return Path(str(value))
    raise NotImplementedError(f"{kind} has no JSON form")


def encode(value: object) -> bytes:
    """One line of JSON with fields in declared order: equal values give equal bytes."""
    return msgspec.json.encode(value, enc_hook=_plain)


UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What `decode` raises when bytes are not what they should be: damaged, of another version, or made to do harm."""


def decode(data: bytes | str, kind: type[T]) -> T:
    """Inverse of `encode`. Raises one of `UNREADABLE`, which names the field when only the data does not fit."""
    return _decoder(kind).decode(data)


@cache
def _decoder(kind: type[T]) -> msgspec.json.Decoder[T]:
    return msgspec.json.Decoder(kind, dec_hook=_build)


def identity(*parts: object) -> str:
    """A short stable id for its parts: candidate ids, pair ids, derived names."""
    return hashlib.sha256("\x1f".join(map(str, parts)).encode()).hexdigest()[:16]


def seed_of(*parts: object) -> int:
    """A 63-bit seed that depends on its parts alone, never on worker count or order."""
    return int.from_bytes(hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()[:8], "big") >> 1
