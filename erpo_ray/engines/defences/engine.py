"""A policy with a defence in the calling process, behind the verbs of `engines/vllm.py`."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from erpo_ray import environment
from erpo_ray.config.decoding import Decode
from erpo_ray.engines.defences.batch import Batch, Row
from erpo_ray.engines.defences.rose import Rose
from erpo_ray.engines.defences.scans import Scans, vectors_of
from erpo_ray.engines.defences.streams import Lane, Stream
from erpo_ray.engines.renderer import Renderer
from erpo_ray.engines.vllm import Finished
from erpo_ray.types import Candidate, Failure, Policy, Request, Verdict, identity, seed_of

_AHEAD = 4
"""Batches of requests that `generate` holds at once: enough to put rows of like length together."""


class Defence(Protocol):
    """What changes the decoding. `name` goes into the policy version of every sample."""

    @property
    def name(self) -> str: ...

    def lane(self, model: Any, requests: Sequence[Request]) -> Lane:
        """A batch with one row for each request, its prompts read."""
        ...


class Plain:
    """No defence: the same engine, to compare with."""

    name = ""

    def lane(self, model: Any, requests: Sequence[Request]) -> Stream:
        return Stream(model, [request.prompt_ids for request in requests])


class DefendedEngine:
    """Decodes batch after batch through transformers: prompt ids in, the ids that were drawn out.

    `max_length` bounds prompt and completion as it does in the other engine. Every row draws from random numbers of
    its own, so samples depend on the seed and not on the batch.
    """

    def __init__(
        self, model: Any, renderer: Renderer, defence: Defence, version: str, max_length: int, batch_size: int
    ) -> None:
        self.version = f"{version}+{defence.name}" if defence.name else version
        self.renderer = renderer
        self._model: Any = model
        self._defence = defence
        self._max_length, self._batch_size = max_length, batch_size
        self._seed = 0
        self._waiting: list[Row] = []
        self._batch: Batch | None = None
        self._drawn = 0

    @property
    def pending(self) -> int:
        """Completions asked for and not yet returned."""
        return len(self._waiting) + (len(self._batch.rows) if self._batch else 0)

    @property
    def drawn(self) -> int:
        """Tokens drawn since `begin`."""
        return self._drawn

    def begin(self, seed: int) -> None:
        """Drop what is pending; what is asked for from now on is drawn from `seed`."""
        self._seed, self._waiting, self._batch, self._drawn = seed, [], None, 0

    @torch.inference_mode()
    def advance(self, new: Sequence[Request], budget_s: float = 0.5) -> list[Finished]:
        """Take up `new` and compute for about `budget_s` seconds; return what is complete (possibly nothing).

        A prompt that leaves no room comes back with finish `error`; it does not raise.
        """
        done = [failed for request in new for failed in self._add(request)]
        end = time.monotonic() + budget_s
        while self.pending and time.monotonic() < end:
            if self._batch is None:
                self._batch = self._next()
            self._drawn += len(self._batch.rows)
            done += [self._finished(row) for row in self._batch.step()]
            if not self._batch.rows:
                self._batch = None
        return done

    def generate(
        self, requests: Iterable[Request], run: str, stage: str, seed: int = 0
    ) -> Iterator[Candidate | Verdict]:
        """Candidates as they are complete, with the ids that `Backend.rollouts` gives; requests are taken as needed.

        A prompt that could not be sampled is a candidate with finish `error`, and its verdict with the cause follows.
        """
        self.begin(seed)
        source = iter(requests)
        room = _AHEAD * self._batch_size
        while True:
            new: list[Request] = []
            while self.pending + sum(len(request.samples) for request in new) < room:
                request = next(source, None)
                if request is None:
                    break
                new.append(request)
            if not (new or self.pending):
                return
            for one in self.advance(new):
                name = identity(run, stage, one.prompt_id, one.sample)
                yield Candidate(name, one.prompt_id, one.sample, one.token_ids, one.text, one.finish, one.policy)
                if one.finish == "error":
                    yield Verdict(name, "engine", failure=Failure("not_sampled", one.error))

    def load(self, model_dir: Path | str, version: str) -> None:
        """Never: a defence belongs to one policy, another policy gets an engine of its own."""
        raise AssertionError(f"{self.version} cannot serve {version}")

    def sleep(self) -> None:
        """Nothing: no training takes turns with an evaluation."""

    @torch.inference_mode()
    def logprobs(self, prompt_ids: Sequence[int], completion_ids: Sequence[int]) -> list[float]:
        """Log-probability, in nats, of each completion token after the prompt, by the model without its defence."""
        both = torch.tensor([[*prompt_ids, *completion_ids]], device=self._model.device)
        logits = self._model(input_ids=both).logits[0, len(prompt_ids) - 1 : -1].float()
        return logits.log_softmax(-1).gather(1, both[0, len(prompt_ids) :, None])[:, 0].tolist()

    def close(self) -> None:
        """Let the model go."""
        self.begin(0)
        self._model = None

    def _add(self, request: Request) -> list[Finished]:
        room = self._max_length - len(request.prompt_ids)
        if room < 1:
            why = f"the prompt has {len(request.prompt_ids)} tokens, the context {self._max_length}; no room is left"
            return [
                Finished(request.prompt.id, sample, (), "", "error", self.version, why) for sample in request.samples
            ]
        for sample in request.samples:
            generator = torch.Generator(self._model.device).manual_seed(seed_of(self._seed, request.prompt.id, sample))
            self._waiting.append(Row(request, sample, min(room, request.sampling.max_tokens), generator))
        return []

    def _next(self) -> Batch:
        """The next batch: rows sampled as the first one waiting is, of like length, so that little is padded."""
        sampling = self._waiting[0].request.sampling
        alike = [row for row in self._waiting if row.request.sampling == sampling]
        rows = sorted(alike, key=lambda row: len(row.request.prompt_ids))[: self._batch_size]
        taken = set(map(id, rows))
        self._waiting = [row for row in self._waiting if id(row) not in taken]
        lane = self._defence.lane(self._model, [row.request for row in rows])
        return Batch(lane, rows, self.renderer.stop_ids)

    def _finished(self, row: Row) -> Finished:
        ids, finish = tuple(row.drawn), row.finish(self.renderer.stop_ids)
        return Finished(row.request.prompt.id, row.sample, ids, self.renderer.decode(ids), finish, self.version)


def start(policy: Policy, decode: Decode, max_length: int, gpu: bool) -> DefendedEngine:
    """The policy as vLLM would serve it, on the GPU if `gpu` says so, with the defence that `decode` names.

    Raises UsageError for settings or steering vectors that do not fit the model.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    renderer = Renderer(policy.path)
    dtype = torch.bfloat16 if environment.bf16(gpu) else torch.float32
    loaded: Any = AutoModelForCausalLM.from_pretrained(policy.path, dtype=dtype, use_safetensors=True)
    model = loaded.to("cuda" if gpu else "cpu").eval()
    return DefendedEngine(
        model, renderer, _defence(model, renderer, policy, decode), policy.version, max_length, decode.batch_size
    )


def _defence(model: Any, renderer: Renderer, policy: Policy, decode: Decode) -> Defence:
    if decode.name == "rose":
        return Rose(renderer, decode.rose)
    if decode.name == "scans":
        return Scans(vectors_of(model, renderer, policy.version, decode.scans), decode.scans)
    return Plain()
