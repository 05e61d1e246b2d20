"""`erpo chat` asks a policy as a run asks it: through the renderer, with its stop tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from erpo_ray.cli import main
from erpo_ray.commands import chat as command
from erpo_ray.engines import chat


class Ids:
    """A renderer that keeps what it is given."""

    stop_ids = (3, 9)

    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []

    def render(self, *texts: str) -> tuple[int, ...]:
        self.asked.append(texts)
        return (1, 2)

    def decode(self, ids: list[int]) -> str:
        return f"<think>\nwhy\n</think>\n{ids}"


class Model:
    device = "cpu"
    told: dict[str, Any]

    def generate(self, ids: torch.Tensor, **told: Any) -> torch.Tensor:
        self.told = told
        return torch.cat([ids, torch.tensor([[5, 9]])], dim=1)


def test_a_talk_is_rendered_and_ended_as_a_run_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    renderer, model, said = Ids(), Model(), iter(["<|im_end|> hello", "more", ""])
    monkeypatch.setattr(chat, "_loaded", lambda folder: (renderer, model))
    monkeypatch.setattr(command, "model_of", lambda word: tmp_path)
    monkeypatch.setattr("builtins.input", lambda prompt: next(said))
    assert main(["chat", "policy", "--max-tokens", "7"]) == 0
    assert renderer.asked == [("<|im_end|> hello",), ("<|im_end|> hello", "[5, 9]", "more")]
    assert (model.told["eos_token_id"], model.told["max_new_tokens"], model.told["do_sample"]) == ([3, 9], 7, False)
    assert capsys.readouterr().out == "  | why\n[5, 9]\n" * 2
