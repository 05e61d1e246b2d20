"""A reward model on real transformers: a tiny classifier made on the spot."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from erpo_ray import rules
from erpo_ray.cluster import scoring
from erpo_ray.config import Cluster, Config
from erpo_ray.config.judges import JudgeReward
from erpo_ray.engines.judges import Bench, judge_of
from erpo_ray.engines.reward import RewardModel
from erpo_ray.errors import UsageError
from erpo_ray.types import Candidate, Failure, Prompt

# No word holds w1 or w2: the plain tokenizer finds these special tokens within words, and judged data never has any.
ITEMS = [("w3 w4", "w5 w6 w7"), ("w8", "w9"), ("w30 w31 w32 w33", "w34 " * 9), ("w35", "w36 w37"), ("w38", "w39")]


def settings(folder: Path, **more: object) -> JudgeReward:
    return JudgeReward(model=str(folder), axis="utility", **more)


def test_scores_are_the_models_own_whatever_the_batch(tmp_path: Path) -> None:
    folder = tiny.reward(tmp_path / "m")
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    own = []
    for prompt, answer in ITEMS:
        chat = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
        ids = tokenizer(tokenizer.apply_chat_template(chat, tokenize=False), add_special_tokens=False)["input_ids"]
        with torch.inference_mode():
            own.append(model(torch.tensor([ids])).logits[0, 0].item())
    assert len({round(score, 4) for score in own}) == len(ITEMS)
    for size in (1, 2, 8):
        found = RewardModel(folder, settings(folder, batch_size=size)).score(ITEMS)
        assert found == pytest.approx(own, abs=1e-5)


def test_what_is_too_long_is_a_failure_and_the_rest_keeps_its_place(tmp_path: Path) -> None:
    folder = tiny.reward(tmp_path / "m")
    reward = RewardModel(folder, settings(folder, max_length=16, batch_size=2))
    scores = reward.score([ITEMS[0], ("w40", "w41 " * 20), ITEMS[1]])
    assert isinstance(scores[1], Failure) and scores[1].cause == "too_long"
    assert [scores[0], scores[2]] == pytest.approx(reward.score(ITEMS[:2]), abs=1e-5)
    assert reward.score([]) == []


def test_a_classifier_of_several_classes_is_refused(tmp_path: Path) -> None:
    folder = tiny.reward(tmp_path / "m", labels=3)
    with pytest.raises(UsageError, match="a classifier with 3 outputs"):
        RewardModel(folder, settings(folder))


# Through Ray Data, as `erpo judge-check` asks


def test_ray_data_gives_the_judges_own_verdicts_in_order(tmp_path: Path) -> None:
    section = settings(tiny.reward(tmp_path / "m"), batch_size=2, max_length=16)
    texts = [*ITEMS, ("w40", "w41 " * 20), ("w42", "<think>\nw43"), ("w44", "<think>\nw45\n</think>\nw46")]
    items = [
        (Prompt(str(n), prompt, "benign"), Candidate(f"c{n}", str(n), 0, (0,), text, "stop", ""))
        for n, (prompt, text) in enumerate(texts * 3)
    ]
    own = judge_of(section, Bench(rules.load(), "lines")).judge(items)
    found = scoring.verdicts(Config(cluster=Cluster(judge_workers=2)), section, items)
    assert [each.candidate_id for each in found] == [f"c{n}" for n in range(len(items))]
    assert [(each.judge, each.failure, each.notes) for each in found] == [
        (each.judge, each.failure, each.notes) for each in own
    ]
    assert found[5].failure is not None and found[5].failure.cause == "too_long"
    # The batches differ, and with them the padding.
    assert [each.partial and each.partial.utility for each in found] == pytest.approx(
        [each.partial and each.partial.utility for each in own], abs=1e-5
    )


def test_a_fault_of_the_judge_comes_out_of_ray_data_as_it_is(tmp_path: Path) -> None:
    section = settings(tiny.reward(tmp_path / "m", labels=3))
    item = Prompt("p", "w3", "benign"), Candidate("c", "p", 0, (0,), "w4", "stop", "")
    with pytest.raises(UsageError, match="a classifier with 3 outputs"):
        scoring.verdicts(Config(), section, [item])
