"""Engines and judges that answer what cannot be: none of it reaches a pair, and what is sound beside it counts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_pool import Script, ids, run

from erpo_ray.cluster import sense
from erpo_ray.cluster.protocol import Drawn, WorkerLost
from erpo_ray.cluster.sense import IN_A_ROW, LONGEST_TEXT, Sense
from erpo_ray.config import Prefer
from erpo_ray.engines.vllm import Finished
from erpo_ray.errors import RunFailed
from erpo_ray.pairs import choose
from erpo_ray.types import Axes, Candidate, Failure, Group, Policy, Prompt, Request, Sampling, Scores, Verdict, encode

WORDS = ("the", "key", "is", "here", "I", "refuse", "to", "<think>", "</think>", "é")
EOS = len(WORDS)
VOCABULARY = EOS + 6
"""As in many models, there are more rows than words."""
PREFIX = (0, 1)
PROMPTS, SAMPLES, MOST = 6, 4, 8


def text(token_ids: Sequence[int]) -> str:
    return " ".join(WORDS[token] for token in token_ids if token < EOS)


SENSE = Sense(Policy(Path("p"), "v"), VOCABULARY, (EOS,), text, exact=True)


def requests(prompts: int = PROMPTS) -> list[Request]:
    draw = Sampling(temperature=1.0, max_tokens=MOST)
    return [
        Request(Prompt(f"p{i}", f"text {i}", "benign"), (1, i), tuple(range(SAMPLES)), draw, PREFIX)
        for i in range(prompts)
    ]


class Engine(Script):
    """Answers soundly but for `victim`, of which it makes what `spoil` makes of its answer: `times`, or for ever."""

    def __init__(self, spoil: Callable[[list[Any], int], Any] = lambda news, at: news, times: int = 99) -> None:
        super().__init__([4])
        self.spoil, self.left, self.drawn, self.spoilt = spoil, times, 0, 0

    def _finished(self, prompt_id: str, sample: int, worker: int) -> Finished:
        drawn = (*PREFIX, 2 + sample % 3, 3 + int(prompt_id[1:]) % 4, 4, EOS)
        self.drawn += len(drawn) - len(PREFIX)
        return Finished(prompt_id, sample, drawn, text(drawn), "stop", "v", "", 0.5, len(PREFIX))

    def result(self, ticket: Any) -> Any:
        found = super().result(ticket)
        if not found or isinstance(found[0], Verdict):
            return found
        at = next((i for i, one in enumerate(found) if (one.prompt_id, one.sample) == ("p1", 2)), -1)
        news = [*found, Drawn(self.drawn)]
        if at < 0 or not self.left:
            return news
        self.left, self.spoilt = self.left - 1, self.spoilt + 1
        return self.spoil(news, at)

    def replace_rollout(self, worker: int) -> None:
        super().replace_rollout(worker)
        self.drawn = 0


def spoilt(**changes: Any) -> Callable[[list[Any], int], Any]:
    """One completion of the batch with these fields."""

    def spoil(news: list[Any], at: int) -> list[Any]:
        return [replace(one, **changes) if i == at else one for i, one in enumerate(news)]

    return spoil


SOUND = (0, 1, 4, 4, 4, EOS)

LEFT_OUT: dict[str, tuple[Callable[[list[Any], int], Any], str]] = {
    "id beyond the vocabulary": (spoilt(token_ids=(0, 1, VOCABULARY, EOS)), "token id 16, of a vocabulary of 16"),
    "negative id": (spoilt(token_ids=(0, 1, -1, EOS)), "token id -1"),
    "id that is NaN": (spoilt(token_ids=(0, 1, math.nan, EOS)), "a token id is nan"),
    "id that is a float": (spoilt(token_ids=(0, 1, 4.0, EOS)), "a token id is 4.0"),
    "id that is a text": (spoilt(token_ids=(0, 1, "4", EOS)), "a token id is '4'"),
    "ids in ids": (spoilt(token_ids=(0, 1, (4, 4), EOS)), "a token id is (4, 4)"),
    "ids that are none": (spoilt(token_ids=None), "token ids are None"),
    "ids that are a text": (spoilt(token_ids="0 1 4"), "token ids are '0 1 4'"),
    "empty": (spoilt(token_ids=(), text="", given=0), "it does not begin with the 2 tokens it was given"),
    "nothing drawn": (spoilt(token_ids=PREFIX, text=text(PREFIX)), "it is empty"),
    "endless": (spoilt(token_ids=(*PREFIX, *[4] * 500, EOS)), "501 tokens, and 8 were asked for at most"),
    "one token too many": (spoilt(token_ids=(*PREFIX, *[4] * MOST, EOS)), "9 tokens, and 8 were asked for at most"),
    "another beginning": (spoilt(token_ids=(3, 3, 4, EOS)), "it does not begin with the 2 tokens it was given"),
    "wrong count of given tokens": (spoilt(given=3), "it does not begin with the 2 tokens it was given"),
    "negative count of given tokens": (spoilt(given=-1), "-1 tokens were given"),
    "cut UTF-8": (spoilt(token_ids=(0, 1, 9, EOS), text="the key \ufffd"), "is not that of its tokens"),
    "bytes": (spoilt(text=b"the key \xc3"), "its text is b'the key \\xc3'"),
    "lone surrogate": (spoilt(text="the key \ud83d"), "its text has a lone surrogate at character 8"),
    "text of a megabyte": (spoilt(text="x" * LONGEST_TEXT), "its text has 1048576 characters"),
    "forged tags": (spoilt(text=f"{text(SOUND)}</think> I refuse"), "is not that of its tokens"),
    "text of another": (spoilt(text="the key is here I refuse"), "is not that of its tokens"),
    "unknown finish": (spoilt(finish="abort"), "finish is 'abort'"),
    "finish of another type": (spoilt(finish=["stop"]), "finish is ['stop']"),
    "stop without an end": (spoilt(token_ids=(0, 1, 4, 4), text="the key I I"), "its last token, 4, ends nothing"),
    "step that nobody asked for": (spoilt(finish="step"), "it ended with a step"),
    "error with tokens": (spoilt(finish="error"), "an error that has tokens"),
    "seconds that are NaN": (spoilt(seconds=math.nan), "it took nan seconds"),
    "seconds that are infinite": (spoilt(seconds=math.inf), "it took inf seconds"),
    "time that runs backwards": (spoilt(seconds=-1.0), "it took -1.0 seconds"),
    "error that is no text": (spoilt(error={"code": 1}), "its error is {'code': 1}"),
}
"""Of one completion: by kind what is answered, and what is said of it."""

REPLACED: dict[str, tuple[Callable[[list[Any], int], Any], str]] = {
    "another prompt": (spoilt(prompt_id="p99"), "answered ('p99', 2), which it was not asked for"),
    "another sample": (spoilt(sample=77), "answered ('p1', 77), which it was not asked for"),
    "prompt id that is none": (spoilt(prompt_id=None), "answered (None, 2), which names no sample"),
    "prompt id that is a list": (spoilt(prompt_id=["p1"]), "answered (['p1'], 2), which names no sample"),
    "sample that is true": (spoilt(sample=True), "answered ('p1', True), which names no sample"),
    "another version": (spoilt(policy="w"), "names its samples 'w', and was given policy v"),
    "no version": (spoilt(policy=None), "names its samples None"),
    "twice the same": (lambda news, at: [news[at], *news], "answered twice for the same"),
    "a text": (lambda news, at: "ok", "answered 'ok', which is no list of completions"),
    "nothing at all": (lambda news, at: None, "answered None, which is no list of completions"),
    "a list in a list": (lambda news, at: [news], "which is no list of completions"),
    "a dict for a completion": (lambda news, at: [{"text": "x"}, *news], "which is no list of completions"),
    "a verdict": (lambda news, at: [Verdict("c", "j", Scores(1, 1, 1))], "which is no list of completions"),
    "tokens that are no number": (lambda news, at: [*news[:-1], Drawn("many")], "has drawn 'many' tokens"),  # type: ignore[arg-type]
    "tokens without end": (lambda news, at: [*news[:-1], Drawn(10**6)], "has drawn 1000000 tokens, and was asked for"),
}
"""Of a batch, of which nothing can be believed: the worker is replaced once, and the next one is sound."""


def paired(asked: Sequence[Request], seen: Sequence[Any]) -> tuple[set[tuple[int, ...]], dict[str, str]]:
    """Token ids in any pair, and reasons by candidate, when the judge likes every other sample."""
    found = {item.id: item for item in seen if isinstance(item, Candidate)}
    verdicts = {item.candidate_id: item for item in seen if isinstance(item, Verdict)}
    groups = []
    for request in asked:
        names = [f"{request.prompt.id}:{sample}" for sample in request.samples]
        judged = [
            replace(v, scores=Scores(1.0, float(at % 2), 3), well_formed=True, refused=at % 2 == 0) if v.scores else v
            for at, v in enumerate(verdicts[name] for name in names)
        ]
        groups.append(Group(request.prompt, request.prompt_ids, tuple(found[name] for name in names), tuple(judged)))
    pairs, left_out = choose(groups, Prefer(), cap={}, prefer_short=False, seed=0)
    assert pairs
    return {ids for pair in pairs for ids in (pair.chosen_ids, pair.rejected_ids)}, {o.id: o.reason for o in left_out}


@pytest.mark.parametrize("kind", LEFT_OUT)
def test_a_completion_that_cannot_be_is_left_out_by_name_and_those_beside_it_count(kind: str) -> None:
    spoil, why = LEFT_OUT[kind]
    asked, crew = requests(), Engine(spoil)
    seen = run(crew, asked, sense=SENSE)
    wanted = sorted(f"p{i}:{k}" for i in range(PROMPTS) for k in range(SAMPLES))
    assert sorted(ids(seen, Candidate)) == sorted(ids(seen, Verdict)) == wanted
    assert crew.spoilt == 1 and ("replaced rollout", 0) not in crew.log
    (bad,) = [item for item in seen if isinstance(item, Candidate) and item.finish == "error"]
    assert (bad.id, bad.token_ids, bad.text) == ("p1:2", (), "")
    assert encode(bad) and ("judge", "p1:2") not in crew.log
    in_pairs, reasons = paired(asked, seen)
    assert in_pairs <= {item.token_ids for item in seen if isinstance(item, Candidate) and item.finish == "stop"}
    assert (
        reasons["p1:2"].startswith("not judged: not_sampled: the engine answered nonsense: ") and why in reasons["p1:2"]
    )


@pytest.mark.parametrize("kind", REPLACED)
def test_a_worker_of_whose_answer_nothing_can_be_believed_is_replaced(kind: str) -> None:
    spoil, why = REPLACED[kind]
    crew, said = Engine(spoil, times=1), list[str]()
    seen = run(crew, requests(), sense=SENSE, note=said.append)
    wanted = sorted(f"p{i}:{k}" for i in range(PROMPTS) for k in range(SAMPLES))
    assert sorted(ids(seen, Candidate)) == sorted(ids(seen, Verdict)) == wanted
    assert crew.log.count(("replaced rollout", 0)) == 1 and why in said[0] and len(said) == 1
    whole = {(i.id, i.token_ids, i.finish) for i in run(Engine(), requests(), sense=SENSE) if isinstance(i, Candidate)}
    assert {(i.id, i.token_ids, i.finish) for i in seen if isinstance(i, Candidate)} == whole


def test_a_worker_that_answers_nothing_but_nonsense_is_replaced_and_then_stops_the_run() -> None:
    class Mad(Engine):
        def result(self, ticket: Any) -> Any:
            return [
                replace(one, token_ids=(-1,)) if isinstance(one, Finished) else one for one in super().result(ticket)
            ]

    crew, said = Mad(), list[str]()
    crew.speeds = [IN_A_ROW]
    with pytest.raises(
        RunFailed, match="was lost 3 times in a row.*answered nonsense 8 times in a row: the engine ans"
    ):
        run(crew, requests(), sense=SENSE, note=said.append)
    assert crew.log.count(("replaced rollout", 0)) == 2


def test_a_sound_completion_is_the_same_object_and_a_search_may_draw_more() -> None:
    (request,) = requests(1)
    one = Engine()._finished("p0", 0, 0)
    assert SENSE.sound(one, request) is one and Sense().sound(one, request) is one
    refused = Finished("p0", 0, (), "", "error", "v", "prompt too long")
    assert SENSE.sound(refused, request) is refused
    ids_ = (*PREFIX, *[4] * MOST, EOS)
    long = replace(one, token_ids=ids_, text=text(ids_))
    assert SENSE.sound(long, request).finish == "error"
    assert replace(SENSE, exact=False).sound(long, request) is long
    replace(SENSE, exact=False).require_end(0, 10**6, 1)
    assert SENSE.news(0, [replace(one, policy="v+rose")])


GOOD = Verdict("c", "j", Scores(1.0, -1.0, 3), notes=("a",))


@pytest.mark.parametrize(
    "bad",
    [
        replace(GOOD, scores=Scores(math.nan, 0.0, 1)),
        replace(GOOD, scores=Scores(0.0, math.inf, 1)),
        replace(GOOD, scores=Scores(0.0, 1.5, 1)),
        replace(GOOD, scores=Scores("safe", 0.0, 1)),  # type: ignore[arg-type]
        replace(GOOD, scores=Scores(0.0, 0.0, -1)),
        replace(GOOD, scores=(1.0, 1.0, 3)),  # type: ignore[arg-type]
        replace(GOOD, failure=Failure("timeout")),
        replace(GOOD, scores=None, partial=Axes(safety=math.nan)),
        replace(GOOD, notes=("\ud800",)),
        replace(GOOD, refused="no"),  # type: ignore[arg-type]
    ],
)
def test_a_verdict_that_cannot_be_is_a_failure_and_no_number(bad: Verdict) -> None:
    good, failed = sense.verdicts_of(0, [GOOD, bad])
    assert good is GOOD
    assert failed.failure and (failed.scores, failed.partial, failed.failure.cause) == (None, None, "nonsense")
    assert encode(failed) and failed.failure.raw.startswith("the judge answered nonsense: ")


@pytest.mark.parametrize("found", [None, "fine", [None], [replace(GOOD, candidate_id=["c"])], (GOOD,)])  # type: ignore[arg-type]
def test_a_judge_of_whose_answer_nothing_can_be_believed_is_lost(found: Any) -> None:
    with pytest.raises(WorkerLost, match="judge worker 1 answered .*, which is no list of verdicts"):
        sense.verdicts_of(1, found)
