"""One vLLM engine in the calling process, behind a few verbs: begin, advance, load, sleep, logprobs."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from erpo_ray import environment
from erpo_ray.engines.renderer import Renderer
from erpo_ray.types import Request, Sampling

GIB = 2**30
BUDGET_S = 2.0
"""Seconds of one call of `advance` at most: between two calls an engine rests."""
SOON_S, SOON_SHARE = 0.5, 8
"""Seconds after which a call ends once this part of what runs at once is finished, and its slots want to be filled."""


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """What an engine needs besides its model. `max_length` in tokens, `kv_cache_gib` counts on CPU only."""

    max_length: int
    in_flight: int
    kv_cache_gib: float
    gpu: bool = False
    gpu_memory_utilization: float = 0.85
    sleep: bool = False


@dataclass(frozen=True, slots=True)
class Finished:
    """One completion: the `given` tokens it had to begin with, and those drawn.

    `finish` is `stop`, `length`, `step` (a text of `Sampling.stop` ended it, which is in it), or `error` (no tokens;
    `error` says why). `seconds` passed from its request to its last token.
    """

    prompt_id: str
    sample: int
    token_ids: tuple[int, ...]
    text: str
    finish: str
    policy: str
    error: str = ""
    seconds: float = 0.0
    given: int = 0


class Engine:
    """vLLM with one policy loaded, batching continuously over calls of `advance`.

    The engine runs in this process: one thing to place, kill and measure, and faster on few cores.
    """

    def __init__(self, model_dir: Path | str, version: str, settings: EngineSettings) -> None:
        self.version = version
        self.renderer = Renderer(model_dir)
        self._llm: Any = start(model_dir, settings)
        self._gpu, self._can_sleep, self._asleep = settings.gpu, settings.sleep, False
        self._open: dict[str, tuple[Request, int, float]] = {}
        self._names = itertools.count()
        self._many = max(1, settings.in_flight // SOON_SHARE)
        self._drawn = 0

    @property
    def pending(self) -> int:
        """Completions asked for and not yet returned."""
        return len(self._open)

    @property
    def drawn(self) -> int:
        """Tokens drawn since `begin`, those of pending completions among them: it grows while the engine gets on."""
        states = self._llm.llm_engine.output_processor.request_states.values()
        return self._drawn + sum(state.detokenizer.num_output_tokens() for state in states)

    def begin(self, seed: int) -> None:
        """Drop what is pending and seed the sampler (the engine, never a request: vLLM's CPU build dies of that)."""
        import numpy as np
        import torch

        self._wake()
        if self._open:
            self._llm.llm_engine.abort_request(list(self._open))
            self._open.clear()
        self._drawn = 0
        torch.manual_seed(seed)
        # On GPU each request without a seed of its own draws one from here.
        np.random.seed(seed % 2**32)

    def advance(self, new: Sequence[Request], budget_s: float = BUDGET_S) -> list[Finished]:
        """Take up `new` and compute for about `budget_s` seconds, less once many are complete; return what is complete
        (possibly nothing).

        A request that vLLM refuses or loses comes back with finish `error`; it does not raise.
        """
        done = [failed for request in new for failed in self._add(request)]
        begun = time.monotonic()
        while self._open and (taken := time.monotonic() - begun) < budget_s:
            if taken > SOON_S and len(done) >= self._many:
                break
            outputs = self._llm.llm_engine.step()
            done += [self._finished(output) for output in outputs if output.request_id in self._open]
        return done

    def load(self, model_dir: Path | str, version: str) -> None:
        """Serve the weights in `model_dir` from now on, in place; forget every cached prefix of the old ones."""
        self._wake()
        self._llm.collective_rpc("reload_weights", kwargs={"weights_path": str(model_dir)})
        if not self._gpu:
            self._llm.apply_model(_pack_embeddings)
        self._llm.reset_prefix_cache()
        self.version = version

    def sleep(self) -> None:
        """Give the GPU to someone else (weights to host memory, KV cache dropped) until the next `begin`, `load` or
        `logprobs`. Nothing on CPU, or when the settings do not ask for it."""
        if self._can_sleep and not self._asleep:
            self._llm.sleep(level=1)
            self._asleep = True

    def logprobs(self, prompt_ids: Sequence[int], completion_ids: Sequence[int]) -> list[float]:
        """Log-probability, in nats, of each completion token after the prompt. Call with nothing pending."""
        from vllm import SamplingParams

        self._wake()
        both = [*prompt_ids, *completion_ids]
        params = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0, detokenize=False)
        (output,) = self._llm.generate([{"prompt_token_ids": both}], params, use_tqdm=False)
        start = len(prompt_ids)
        return [output.prompt_logprobs[i][both[i]].logprob for i in range(start, len(both))]

    def close(self) -> None:
        """Stop the engine and free its memory."""
        self._llm.llm_engine.engine_core.shutdown()
        del self._llm

    def _wake(self) -> None:
        if self._asleep:
            self._llm.wake_up()
            self._asleep = False

    def _add(self, request: Request) -> list[Finished]:
        """Queue each sample as a request of its own, so that each returns as soon as it is done."""
        from vllm.exceptions import VLLMClientError

        params = _params(request.sampling, self.renderer.stop_ids)
        # Cached prefixes of one policy never serve another, even if a reset was missed.
        prompt = {"prompt_token_ids": [*request.prompt_ids, *request.prefix_ids], "cache_salt": self.version}
        failed: list[Finished] = []
        for sample in request.samples:
            name = str(next(self._names))
            try:
                self._llm.llm_engine.add_request(name, prompt, params)
            except (VLLMClientError, ValueError) as error:
                failed.append(Finished(request.prompt.id, sample, (), "", "error", self.version, str(error)))
            else:
                self._open[name] = (request, sample, time.monotonic())
        return failed

    def _finished(self, output: Any) -> Finished:
        request, sample, begun = self._open.pop(output.request_id)
        prompt_id, given = request.prompt.id, request.prefix_ids
        (drawn,) = output.outputs
        if drawn.finish_reason not in ("stop", "length"):
            why = f"the engine ended it with {drawn.finish_reason}"
            return Finished(prompt_id, sample, (), "", "error", self.version, why)
        self._drawn += len(drawn.token_ids)
        ids = (*given, *drawn.token_ids)
        seconds = round(time.monotonic() - begun, 3)
        text = self.renderer.decode(ids)
        finish = "step" if isinstance(drawn.stop_reason, str) else drawn.finish_reason
        return Finished(prompt_id, sample, ids, text, finish, self.version, "", seconds, len(given))


def _pack_embeddings(model: Any) -> None:
    """On CPU vLLM multiplies by a packed copy of an embedding that serves as output layer; a reload leaves it stale."""
    from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding

    for module in model.modules():
        if isinstance(module, VocabParallelEmbedding):
            module.quant_method.process_weights_after_loading(module)


def _params(sampling: Sampling, stop_ids: tuple[int, ...]) -> Any:
    """Every value explicit: a model's generation_config must not change how it is sampled."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    greedy = sampling.temperature == 0
    return SamplingParams(
        temperature=sampling.temperature,
        top_k=0 if greedy else sampling.top_k,
        top_p=1.0 if greedy else sampling.top_p,
        min_p=0.0 if greedy else sampling.min_p,
        max_tokens=sampling.max_tokens,
        stop_token_ids=list(stop_ids),
        stop=list(sampling.stop) or None,
        detokenize=bool(sampling.stop),
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def start(model_dir: Path | str, settings: EngineSettings) -> Any:
    """vLLM's `LLM` over a model directory, in this process."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ["VLLM_NO_USAGE_STATS"] = "1"
    os.environ |= environment.ON_LOOPBACK
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    from vllm import LLM

    device: dict[str, Any] = (
        {"gpu_memory_utilization": settings.gpu_memory_utilization, "enable_sleep_mode": settings.sleep}
        if settings.gpu
        # Reloaded weights are packed anew on CPU; a compiled graph could keep the old ones.
        else {"kv_cache_memory_bytes": int(settings.kv_cache_gib * GIB), "enforce_eager": True, "block_size": 32}
    )
    return LLM(
        model=str(model_dir),
        dtype="bfloat16" if environment.bf16(settings.gpu) else "float32",
        max_model_len=settings.max_length,
        max_num_seqs=settings.in_flight,
        generation_config="vllm",
        load_format="safetensors",
        use_tqdm_on_load=False,
        disable_log_stats=True,
        **device,
    )
