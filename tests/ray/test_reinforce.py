"""Policy gradient on a tiny model: its first gradient, what several steps do, what is scored and kept."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ranks
import tiny
import torch
from test_train import two_ranks
from transformers import AutoModelForCausalLM

from erpo_ray.errors import RunFailed, UsageError
from erpo_ray.objectives import Normaliser, Surrogate, Training
from erpo_ray.rundir.lines import plain_rows
from erpo_ray.telemetry import STEPS, Step
from erpo_ray.train import losses, models, reference
from erpo_ray.train import reinforce as module
from erpo_ray.train.forward import collator, sequence_logps, sequence_token_logps, token_logps
from erpo_ray.train.reinforce import reinforce
from erpo_ray.train.rows import groups, shares
from erpo_ray.types import Advantage

PLAIN = Training(learning_rate=3e-3, epochs=1, batch_size=4, micro_batch_size=2, max_length=64, bf16=False)
GRPO = Surrogate(clip=0.2, kl=0.04)


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.policy(tmp_path_factory.mktemp("policy"))


def summed(path: Path, rows: list[Advantage]) -> dict[str, float]:
    """log p of each completion, by its id."""
    found = groups(rows, 64)
    logps = sequence_logps(models.load(path), found, 4, bf16=False)
    return dict(zip((row.id for row in rows), (logp for group in logps for logp in group), strict=True))


def weights(path: Path) -> dict[str, torch.Tensor]:
    return dict(AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).state_dict())


def same(left: Path, right: Path, atol: float = 0.0) -> bool:
    ours, theirs = weights(left), weights(right)
    return all(torch.allclose(ours[name], theirs[name], rtol=0, atol=atol) for name in ours)


@pytest.mark.parametrize("normalise", ["sequence", "token"])
def test_the_gradient_of_a_packed_batch_is_that_of_plain_float64(policy: Path, normalise: Normaliser) -> None:
    """Row by row, whole logits, torch's own log-softmax and autograd; from log-probabilities that are a step old."""
    found, objective = groups(tiny.advantages(4), 64), replace(GRPO, kl=0.3, normalise=normalise)
    torch.manual_seed(1)
    old = [[[0.3 * torch.randn(()).item() - 3 for _ in ids] for ids in row.completions] for row in found]
    ref = [[[0.3 * torch.randn(()).item() - 3 for _ in ids] for ids in row.completions] for row in found]
    packed = models.load(policy, torch.float64)
    columns: list[dict[str, Any]] = [
        {"context": row.context, "completions": row.completions, "advantages": row.advantages}
        | {"shares": shares(row, normalise), "old": before, "reference": fixed}
        for row, before, fixed in zip(found, old, ref, strict=True)
    ]
    batch = module._collate(collator(packed), columns)
    terms = losses.policy_gradient(
        token_logps(packed, batch), *(batch[name] for name in ("old", "reference", "advantages", "weights")), objective
    )
    terms.loss.backward()

    plain = models.load(policy, torch.float64)
    total = torch.zeros((), dtype=torch.float64)
    for row, olds, refs in zip(found, old, ref, strict=True):
        tokens = sum(map(len, row.completions))
        for ids, advantage, was, fixed in zip(row.completions, row.advantages, olds, refs, strict=True):
            logits = plain(torch.tensor([row.context + ids])).logits[0, len(row.context) - 1 : -1]
            logps = logits.log_softmax(-1)[range(len(ids)), list(ids)]
            ratio, away = (logps - torch.tensor(was)).exp(), torch.tensor(fixed) - logps
            loss = -torch.minimum(ratio * advantage, ratio.clip(0.8, 1.2) * advantage)
            loss = loss + 0.3 * (away.exp() - away - 1)
            total = total + (loss.mean() / len(row.completions) if normalise == "sequence" else loss.sum() / tokens)
    total = total / len(found)
    total.backward()
    assert terms.loss.item() == pytest.approx(total.item(), rel=1e-5)
    for (name, one), two in zip(packed.named_parameters(), plain.parameters(), strict=True):
        assert one.grad is not None and two.grad is not None
        assert torch.allclose(one.grad, two.grad, rtol=1e-3, atol=1e-5), name


def test_log_probabilities_of_tokens_add_up_to_those_of_completions(policy: Path) -> None:
    rows, model = groups(tiny.advantages(5), 64), models.load(policy)
    sums, tokens = sequence_logps(model, rows, 2, bf16=False), sequence_token_logps(model, rows, 2, bf16=False)
    for row, whole, parts in zip(rows, sums, tokens, strict=True):
        assert [len(part) for part in parts] == [len(ids) for ids in row.completions]
        assert [math.fsum(part) for part in parts] == pytest.approx(whole, abs=1e-4)


@pytest.mark.parametrize("bf16", [False, True])
def test_what_was_better_than_its_group_becomes_more_probable(policy: Path, tmp_path: Path, bf16: bool) -> None:
    rows, steps = tiny.advantages(8), []
    training = replace(PLAIN, epochs=4, bf16=bf16)
    found = reinforce(
        policy, policy, rows, GRPO, training, tmp_path / "out", tmp_path / "work", lambda *step: steps.append(step[2])
    )
    before, after = summed(policy, rows), summed(tmp_path / "out", rows)
    better = [after[row.id] - before[row.id] for row in rows if row.advantage > 0]
    worse = [after[row.id] - before[row.id] for row in rows if row.advantage < 0]
    assert sum(better) / len(better) > 0.5 > -0.5 > sum(worse) / len(worse)
    # Advantages of a group add up to nothing, and before any update every ratio is 1.
    assert steps[0]["loss"] == pytest.approx(0, abs=2e-2 if bf16 else 1e-5)
    assert (steps[0]["kl"], steps[0]["clipped"]) == pytest.approx((0, 0), abs=1e-2 if bf16 else 1e-6)
    assert steps[-1]["kl"] > 0 and found["loss_last"] < -0.01
    assert found["steps"] == 8 and found["kl"] == steps[-1]["kl"] and found["surprisal"] > 0
    kept = list(plain_rows(tmp_path / "work" / STEPS, Step))
    assert [row.clipped for row in kept] == [step["clipped"] for step in steps]
    assert kept[-1].margin is None and kept[-1].surprisal == found["surprisal"]


def test_groups_of_equal_rewards_move_nothing(policy: Path, tmp_path: Path) -> None:
    rows = [replace(row, advantage=0.0) for row in tiny.advantages(8)]
    reinforce(policy, policy, rows, GRPO, replace(PLAIN, epochs=2), tmp_path / "out")
    assert same(policy, tmp_path / "out")


def test_clipping_and_kl_hold_a_policy_back(policy: Path, tmp_path: Path) -> None:
    rows, training = tiny.advantages(8), replace(PLAIN, epochs=8)

    def moved(name: str, objective: Surrogate) -> float:
        reinforce(policy, policy, rows, objective, training, tmp_path / name)
        before, after = summed(policy, rows), summed(tmp_path / name, rows)
        return sum(abs(after[row.id] - before[row.id]) for row in rows)

    free = moved("free", Surrogate(clip=0.9))
    assert moved("clipped", Surrogate(clip=0.05)) < 0.8 * free
    assert moved("anchored", Surrogate(clip=0.9, kl=5.0)) < 0.8 * free


def test_a_reference_of_its_own_is_scored_by_its_weights(policy: Path, tmp_path: Path) -> None:
    other, rows = tiny.policy(tmp_path / "other", seed=1), tiny.advantages(4)
    found = reinforce(policy, other, rows, GRPO, PLAIN, tmp_path / "out")
    data = groups(rows, 64)
    ours, theirs = (sequence_token_logps(models.load(path), data, 4, bf16=False) for path in (policy, other))
    kls = []
    for group, anchor in zip(ours, theirs, strict=True):
        for logps, refs in zip(group, anchor, strict=True):
            away = [ref - logp for logp, ref in zip(logps, refs, strict=True)]
            kls.append(sum(math.exp(one) - one - 1 for one in away) / len(away))
    # 12 completions in groups of one size weigh the same; one step, before whose update this is.
    assert found["steps"] == 1
    assert found["kl"] == pytest.approx(sum(kls) / len(kls), rel=1e-3)
    assert found["loss_first"] == pytest.approx(0.04 * found["kl"], abs=1e-4)


def test_what_was_scored_is_kept_and_read(policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, scored = tiny.advantages(8), []

    def counted(score: Callable[..., Any]) -> Callable[..., Any]:
        return lambda model, rows, *more: scored.append(len(rows)) or score(model, rows, *more)

    monkeypatch.setattr(reference, "sequence_token_logps", counted(reference.sequence_token_logps))
    alone = reinforce(policy, policy, rows, GRPO, PLAIN, tmp_path / "alone")
    first = reinforce(policy, policy, rows, GRPO, PLAIN, tmp_path / "first", kept=tmp_path / "kept")
    again = reinforce(policy, policy, rows, GRPO, PLAIN, tmp_path / "again", kept=tmp_path / "kept")
    assert scored == [8, 8]
    assert again["loss_last"] == first["loss_last"] == pytest.approx(alone["loss_last"], abs=1e-6)
    assert same(tmp_path / "first", tmp_path / "again")


def test_log_probabilities_of_another_policy_stop_the_run(
    policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(load: Any, version: str, rows: Any, *_: Any) -> list[Any]:
        return [tuple((-9.0,) * len(ids) for ids in row.completions) for row in rows]

    monkeypatch.setattr(module.reference, "token_logps", wrong)
    with pytest.raises(RunFailed, match="before any update are .* nats a token off those of the starting policy"):
        reinforce(policy, policy, tiny.advantages(4), GRPO, PLAIN, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_killed_training_goes_on_and_ends_with_the_same_weights(policy: Path, tmp_path: Path) -> None:
    rows, training = tiny.advantages(8), replace(PLAIN, epochs=3, save_steps=2)

    class Killed(Exception):
        pass

    def kill(step: int, *_: Any) -> None:
        if step == 5:
            raise Killed

    reinforce(policy, policy, rows, GRPO, training, tmp_path / "whole")
    with pytest.raises(Killed):
        reinforce(policy, policy, rows, GRPO, training, tmp_path / "out", tmp_path / "work", kill)
    found = reinforce(policy, policy, rows, GRPO, training, tmp_path / "out", tmp_path / "work")
    assert found["steps"] == 6
    assert same(tmp_path / "whole", tmp_path / "out")


def test_two_workers_end_where_one_does(policy: Path, tmp_path: Path) -> None:
    rows, training = tiny.advantages(8), replace(PLAIN, epochs=2)
    alone = reinforce(policy, policy, rows, GRPO, training, tmp_path / "alone")
    (_, found), (_, found_too) = two_ranks(ranks.gradient, policy, rows, GRPO, training, tmp_path / "two")
    assert found["loss_last"] == found_too["loss_last"] == pytest.approx(alone["loss_last"], abs=2e-2)
    assert found["kl"] == pytest.approx(alone["kl"], abs=2e-2)
    assert same(tmp_path / "alone", tmp_path / "two/policy", atol=5e-3)
    (kept,) = (tmp_path / "two/kept").iterdir()
    assert len(kept.read_bytes().splitlines()) == len(rows)


def test_a_lora_is_merged(policy: Path, tmp_path: Path) -> None:
    training = replace(PLAIN, epochs=2, lora_rank=4, lora_alpha=8, lora_targets=("q_proj",))
    reinforce(policy, policy, tiny.advantages(8), GRPO, training, tmp_path / "out")
    before, after = weights(policy), weights(tmp_path / "out")
    changed = {name.split(".")[-2] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"q_proj"}


def test_a_row_over_the_limit_is_refused(policy: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"the limit is 8.*model\.max_length"):
        reinforce(policy, policy, tiny.advantages(4), GRPO, replace(PLAIN, max_length=8), tmp_path / "out")
