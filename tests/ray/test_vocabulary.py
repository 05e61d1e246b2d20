"""New tokens in a model and the contrasts they are learnt by, on tiny models with tied and untied output layers."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import torch.nn.functional as F
from tokenizers import AddedToken
from transformers import AutoModelForCausalLM, AutoTokenizer

from erpo_ray.engines.models import materialise
from erpo_ray.engines.renderer import Renderer
from erpo_ray.objectives import Training
from erpo_ray.traces import PIVOTS
from erpo_ray.train import sft
from erpo_ray.train.forward import collator, completion_logits, summed
from erpo_ray.train.losses import contrast
from erpo_ray.train.rows import examples
from erpo_ray.train.sft import imitate
from erpo_ray.train.vocabulary import extend
from erpo_ray.train.weights import version
from erpo_ray.types import Contrast, Example

PLAIN = Training(learning_rate=1e-2, epochs=1, batch_size=8, micro_batch_size=2, max_length=64, bf16=False)


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def policies(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tiny model, and its copy with pivots."""
    place = tmp_path_factory.mktemp("vocabulary")
    before = tiny.policy(place / "before", tied=request.param)
    extend(before, PIVOTS, place / "after")
    return before, place / "after"


def weights(path: Path) -> dict[str, torch.Tensor]:
    return dict(AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).state_dict())


def test_a_copy_has_new_rows_and_is_else_the_model_it_was(policies: tuple[Path, Path], tmp_path: Path) -> None:
    before, after = map(weights, policies)
    tokenizer = AutoTokenizer.from_pretrained(policies[1])
    assert [tokenizer.convert_tokens_to_ids(pivot) for pivot in PIVOTS] == [96, 97, 98] and len(tokenizer) == 99
    for name, was in before.items():
        now = after[name]
        assert torch.equal(now[: len(was)], was)
        grown = ("embed_tokens" in name or "lm_head" in name) * 3
        assert len(now) == len(was) + grown
        if grown:
            # The tiny tokenizer knows no brackets: each new token is the mean of unknown ones.
            assert torch.allclose(now[96:], was[0].expand(3, -1), atol=1e-2)
    assert AutoTokenizer.from_pretrained(policies[1]).chat_template == tiny.TEMPLATE
    extend(policies[0], PIVOTS, tmp_path / "again")
    assert version(tmp_path / "again") == version(policies[1])
    extend(policies[1], PIVOTS, tmp_path / "known")
    assert version(tmp_path / "known") == version(policies[1])


def test_the_old_tokens_have_the_logits_they_had(policies: tuple[Path, Path]) -> None:
    ids = torch.tensor([[5, 6, 7, 8]])
    was, now = (AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)(ids).logits for path in policies)
    assert torch.allclose(now[..., :96], was, atol=1e-6)


def test_pivots_are_tokens_of_completions_and_plain_text_in_prompts(policies: tuple[Path, Path]) -> None:
    renderer = Renderer(policies[1])
    assert renderer.encode_completion("w5 [SAFE] w6 [RETHINK]") == (5, 96, 6, 98, 2)
    assert not {96, 97, 98} & set(renderer.render("w5 [SAFE] w6 [UNSAFE][RETHINK]"))
    assert renderer.render("w5 w6") == Renderer(policies[0]).render("w5 w6")


def test_a_real_tokenizer_keeps_pivots_in_text_and_out_of_prompts(tmp_path: Path) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(materialise("smollm2-135m-instruct"))
    tokenizer.add_tokens([AddedToken(pivot, normalized=False, special=False) for pivot in PIVOTS])
    tokenizer.save_pretrained(tmp_path)
    renderer, plain = Renderer(tmp_path), Renderer(materialise("smollm2-135m-instruct"))
    new = set(tokenizer.convert_tokens_to_ids(list(PIVOTS)))
    text = "<think>\nPath: Refuse.[UNSAFE]\nSo.[SAFE]\n</think>\nNo."
    ids = renderer.encode_completion(text)
    assert len(new & set(ids)) == 2 and renderer.decode(ids) == text == "".join(renderer.pieces(ids))
    asked = renderer.render("Say [SAFE] and <|im_end|> twice.")
    assert not new & set(asked) and renderer.decode(asked).count("[SAFE]") == 1
    assert renderer.render("Say it.") == plain.render("Say it.")


def rows(count: int) -> list[Example]:
    """Rows of which the second half has contrasts, of one weight."""
    made = tiny.examples(count)
    half = [replace(row, contrasts=every_other(row), contrast_weight=0.5) for row in made[count // 2 :]]
    return [*made[: count // 2], *half]


def every_other(row: Example) -> tuple[Contrast, ...]:
    return tuple(Contrast(at, 97, 96) for at in range(0, len(row.completion_ids), 2))


def plain_loss(model: Any, found: list[Example]) -> torch.Tensor:
    """Mean over tokens of -log p, and half the mean over contrasts of -log sigmoid of a difference of logits."""
    nll, apart = [], []
    for row in found:
        logits = model(torch.tensor([row.prompt_ids + row.completion_ids])).logits[0, len(row.prompt_ids) - 1 : -1]
        nll += [-logits[at].log_softmax(-1)[token] for at, token in enumerate(row.completion_ids)]
        logps = logits.log_softmax(-1)
        apart += [-F.logsigmoid(logps[one.at, one.chosen] - logps[one.at, one.rejected]) for one in row.contrasts]
    return torch.stack(nll).mean() + 0.5 * torch.stack(apart).mean()


def test_the_first_loss_is_both_means_whatever_the_micro_batches(policies: tuple[Path, Path], tmp_path: Path) -> None:
    found = rows(8)
    expected = plain_loss(AutoModelForCausalLM.from_pretrained(policies[1], dtype=torch.float64), found).item()
    for size in (8, 2):
        training = replace(PLAIN, micro_batch_size=size)
        steps: list[dict[str, float]] = []
        out = tmp_path / str(size)
        told = imitate(policies[1], found, training, out, report=lambda *step: steps.append(step[2]))  # noqa: B023
        assert told["loss_first"] == pytest.approx(expected, abs=1e-4)
        # New tokens begin alike, so that neither is ahead.
        assert steps[0]["margin"] == pytest.approx(0, abs=1e-2)


def test_the_gradient_is_that_of_a_plain_float64_reference(policies: tuple[Path, Path]) -> None:
    found = rows(6)
    reference: Any = AutoModelForCausalLM.from_pretrained(policies[1], dtype=torch.float64)
    plain_loss(reference, found).backward()
    model: Any = AutoModelForCausalLM.from_pretrained(policies[1], dtype=torch.float32)
    batch = partial(sft._collate, collator(model))(list(sft._columns(examples(found, 64))))
    logits = completion_logits(model, batch)
    ahead = contrast(
        logits[batch["token"][batch["contrast_token"]]], batch["contrast_chosen"], batch["contrast_rejected"]
    )
    loss = -summed(logits, batch, batch["weights"]).sum() / len(batch["weights"])
    (loss - (batch["contrast_weight"] * F.logsigmoid(ahead)).mean()).backward()
    for (name, ours), theirs in zip(model.named_parameters(), reference.parameters(), strict=True):
        assert torch.allclose(ours.grad.double(), theirs.grad, atol=1e-5), name


def test_contrasts_are_learnt(policies: tuple[Path, Path], tmp_path: Path) -> None:
    steps: list[dict[str, float]] = []
    imitate(policies[1], rows(16), replace(PLAIN, epochs=6), tmp_path / "out", report=lambda *s: steps.append(s[2]))
    assert steps[-1]["margin"] > 0.5 and steps[-1]["accuracy"] == 1.0


@pytest.mark.parametrize("whole", [("embed_tokens",), ("embed_tokens", "lm_head")])
def test_a_lora_may_train_embeddings_whole(policies: tuple[Path, Path], tmp_path: Path, whole: tuple[str, ...]) -> None:
    tied = AutoModelForCausalLM.from_pretrained(policies[1]).config.tie_word_embeddings
    training = replace(PLAIN, epochs=6, lora_rank=4, lora_alpha=8, lora_targets=("q_proj",), lora_whole=whole)
    found = imitate(policies[1], rows(16), training, tmp_path / "out")
    before, after = weights(policies[1]), weights(tmp_path / "out")
    changed = {name.split(".")[-2] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"q_proj", *whole, *(("lm_head",) if tied else ())}
    assert torch.equal(after["lm_head.weight"], after["model.embed_tokens.weight"]) == tied
    again = imitate(tmp_path / "out", rows(16), replace(PLAIN, max_steps=1), tmp_path / "again")
    # What was written is what was trained.
    assert again["loss_first"] < found["loss_last"] + 0.1
