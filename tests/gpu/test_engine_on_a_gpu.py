"""The engine on the GPU: what sleep gives back, what it serves after it, weights in place. Beside it, the judges."""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from erpo_ray.cluster import canary as proof
from erpo_ray.config.judges import JudgeReward
from erpo_ray.engines.embeddings import Embedder
from erpo_ray.engines.reward import RewardModel
from erpo_ray.engines.vllm import Engine, EngineSettings, Finished
from erpo_ray.train import canary
from erpo_ray.types import Policy, Prompt, Request, Sampling

GREEDY = Sampling(temperature=0.0, max_tokens=24)
UTILISATION = 0.3
TOLERANCE = 0.15


@pytest.fixture(scope="module")
def engine(smol: Path) -> Iterator[Engine]:
    settings = EngineSettings(512, 64, 0, gpu=True, gpu_memory_utilization=UTILISATION, sleep=True)
    engine = Engine(smol, "base", settings)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def shifted(smol: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model with its last layer's output changed."""
    out = tmp_path_factory.mktemp("models") / "shifted"
    shutil.copytree(smol, out)
    weights = load_file(out / "model.safetensors")
    name = "model.layers.29.mlp.down_proj.weight"
    weights[name] = weights[name] * -0.5
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    return out


def answer(engine: Engine) -> str:
    engine.begin(0)
    ids = engine.renderer.render("How do I kill a process?")
    done: list[Finished] = engine.advance([Request(Prompt("p", "p"), ids, (0,), GREEDY)])
    while engine.pending:
        done += engine.advance(())
    return done[0].text


def taken() -> int:
    """Bytes of the device that are in use, by whomever."""
    free, whole = torch.cuda.mem_get_info()
    return whole - free


def test_sleep_gives_the_memory_back_and_the_same_text_follows(engine: Engine) -> None:
    text, awake = answer(engine), taken()
    engine.sleep()
    asleep = taken()
    assert awake - asleep > 0.8 * UTILISATION * torch.cuda.mem_get_info()[1] - 2**31
    assert answer(engine) == text
    assert taken() > asleep + 0.8 * (awake - asleep)


def test_weights_in_place_pass_the_canary(engine: Engine, smol: Path, shifted: Path) -> None:
    prompt = engine.renderer.render(proof.PROMPT)
    completion = engine.renderer.encode_completion(proof.COMPLETION)
    before = None
    for version, folder in (("base", smol), ("shifted", shifted), ("base", smol)):
        engine.sleep()
        engine.load(folder, version)
        found = engine.logprobs(prompt, completion)
        own = canary.logprobs(folder, prompt, completion, bf16=True)
        served = proof.Served(version, tuple(found))
        before = proof.prove(Policy(folder, version), served, own, before, TOLERANCE)
        assert before.difference <= TOLERANCE


def test_a_reward_model_scores_as_it_does_on_a_cpu(tmp_path: Path) -> None:
    folder = tiny.reward(tmp_path / "m")
    items = [("w3 w4", "w5 w6 w7"), ("w8", "w9"), ("w30 w31 w32 w33", "w34 " * 9)]
    settings = JudgeReward(model=str(folder), axis="utility")
    there = RewardModel(folder, settings, gpu=True).score(items)
    assert there == pytest.approx(RewardModel(folder, settings).score(items), abs=0.05)


def test_embeddings_stay_off_the_gpu() -> None:
    """Judges with rules stand beside engines that share the device: not even a context of theirs is on it."""
    code = (
        "import torch\nfrom erpo_ray.engines.embeddings import Embedder\n"
        "Embedder().embed(['a'])\nassert not torch.cuda.is_initialized()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert math.isclose(float((Embedder().embed(["How does a lock work?"]) ** 2).sum()), 1.0, abs_tol=1e-4)
