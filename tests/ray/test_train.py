"""Training on a tiny model through TRL: what is learned, what is written, what survives a kill."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from queue import Empty
from typing import Any

import pytest
import ranks
import tiny
import torch
import torch.multiprocessing
from ports import reserved
from torch.multiprocessing.spawn import ProcessException
from transformers import AutoModelForCausalLM, AutoTokenizer

from erpo_ray import environment
from erpo_ray.errors import RunFailed
from erpo_ray.objectives import Objective, Training
from erpo_ray.rundir import failpoints
from erpo_ray.rundir.lines import plain_rows
from erpo_ray.telemetry import STEPS, Step
from erpo_ray.train import canary, checkpoints, dpo, models, reference
from erpo_ray.train.dpo import prefer
from erpo_ray.train.forward import sequence_logps
from erpo_ray.train.rows import Sequences, pairs
from erpo_ray.train.sft import imitate
from erpo_ray.train.weights import version
from erpo_ray.types import Example, Pair

PLAIN = Training(learning_rate=1e-2, epochs=1, batch_size=8, micro_batch_size=4, max_length=64, bf16=False)
PREFER = Objective(beta=0.1, nll=0.1)


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.policy(tmp_path_factory.mktemp("policy"))


def weights(path: Path) -> dict[str, torch.Tensor]:
    return dict(AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).state_dict())


def same(left: Path, right: Path, atol: float = 0.0) -> bool:
    ours, theirs = weights(left), weights(right)
    return all(torch.allclose(ours[name], theirs[name], rtol=0, atol=atol) for name in ours)


def by_hand(path: Path, rows: list[Example]) -> float:
    """Mean negative log-probability of all completion tokens, one row at a time, in float32."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    total, tokens = 0.0, 0
    for row in rows:
        with torch.no_grad():
            logits = model(torch.tensor([row.prompt_ids + row.completion_ids])).logits[0, len(row.prompt_ids) - 1 : -1]
        total -= logits.log_softmax(-1)[range(len(row.completion_ids)), list(row.completion_ids)].sum().item()
        tokens += len(row.completion_ids)
    return total / tokens


def test_the_first_loss_is_the_mean_over_completion_tokens(policy: Path, tmp_path: Path) -> None:
    rows = tiny.examples(8)
    found = imitate(policy, rows, PLAIN, tmp_path / "out")
    assert found["loss_first"] == pytest.approx(by_hand(policy, rows), abs=1e-4)
    assert found["steps"] == 1


def test_token_weights_weigh_the_loss(policy: Path, tmp_path: Path) -> None:
    rows = tiny.examples(8)
    halved = [replace(row, weights=(0.5,) * len(row.completion_ids)) for row in rows]
    found = imitate(policy, halved, PLAIN, tmp_path / "halved")
    assert found["loss_first"] == pytest.approx(0.5 * by_hand(policy, rows), abs=1e-4)
    first = [replace(row, weights=(1.0,) + (0.0,) * (len(row.completion_ids) - 1)) for row in rows]
    cut = [replace(row, completion_ids=row.completion_ids[:1]) for row in rows]
    tokens = sum(len(row.completion_ids) for row in rows)
    found = imitate(policy, first, PLAIN, tmp_path / "first")
    assert found["loss_first"] == pytest.approx(by_hand(policy, cut) * len(rows) / tokens, abs=1e-4)


def test_imitating_learns_and_writes_a_whole_model_directory(policy: Path, tmp_path: Path) -> None:
    rows, seen = tiny.examples(16), []
    found = imitate(
        policy, rows, replace(PLAIN, epochs=10), tmp_path / "out", report=lambda *step: seen.append(step[:2])
    )
    assert found["loss_last"] < 0.7 * found["loss_first"]
    assert seen == [(step, 20) for step in range(1, 21)]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    assert model.dtype == torch.bfloat16
    assert by_hand(tmp_path / "out", rows) < 0.7 * by_hand(policy, rows)
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template == tiny.TEMPLATE
    for name in {path.name for path in policy.iterdir()} - {"model.safetensors", "config.json"}:
        assert (tmp_path / "out" / name).read_bytes() == (policy / name).read_bytes()
    assert json.loads((tmp_path / "out/config.json").read_text()) == json.loads((policy / "config.json").read_text())
    assert {path.name for path in (tmp_path / "out").iterdir()} == {path.name for path in policy.iterdir()}
    assert version(tmp_path / "out") != version(policy)


def test_micro_batches_do_not_change_the_step(policy: Path, tmp_path: Path) -> None:
    rows, training = tiny.examples(8), replace(PLAIN, epochs=2)
    imitate(policy, rows, training, tmp_path / "four")
    imitate(policy, rows, replace(training, micro_batch_size=1), tmp_path / "one")
    assert same(tmp_path / "four", tmp_path / "one", atol=2e-3)
    assert not same(tmp_path / "four", policy, atol=2e-3)


@pytest.mark.parametrize(("native", "product"), [(True, torch.bfloat16), (False, torch.float32)])
def test_master_weights_are_float32_and_products_bf16_where_they_are_fast(
    policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, native: bool, product: torch.dtype
) -> None:
    monkeypatch.setattr(environment, "bf16", lambda gpu: native)
    products, masters = set(), set()

    def load(path: Path, **where: Any):
        model = models_load(path, **where)

        def watch(module, inputs, output):
            products.add(output.dtype)
            masters.update({weight.dtype for weight in model.parameters()})
            masters.update({weight.grad.dtype for weight in model.parameters() if weight.grad is not None})

        model.model.layers[0].mlp.up_proj.register_forward_hook(watch)
        return model

    models_load = models.load
    monkeypatch.setattr(models, "load", load)
    imitate(policy, tiny.examples(16), replace(PLAIN, bf16=True), tmp_path / "out")
    assert products == {product}
    assert masters == {torch.float32}


def test_small_updates_survive_in_bf16_training(policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "bf16", lambda gpu: True)
    rows = tiny.examples(16)
    found = imitate(policy, rows, replace(PLAIN, bf16=True, epochs=20, learning_rate=1e-4), tmp_path / "out")
    assert found["loss_last"] < found["loss_first"] - 0.01


@pytest.mark.parametrize("bf16", [False, True])
def test_preferring_starts_at_ln_2_and_widens_the_margin(policy: Path, tmp_path: Path, bf16: bool) -> None:
    steps: list[dict[str, float]] = []
    training = replace(PLAIN, epochs=6, bf16=bf16, learning_rate=3e-3)
    found = prefer(
        policy, policy, tiny.pairs(16), PREFER, training, tmp_path / "out", None, lambda *step: steps.append(step[2])
    )
    assert steps[0]["sigmoid"] == pytest.approx(math.log(2), abs=1e-2 if bf16 else 1e-6)
    assert steps[0]["margin"] == pytest.approx(0, abs=1e-2 if bf16 else 1e-5)
    assert found["margin"] > 0.1
    assert found["accuracy"] > 0.8
    assert found["sigmoid"] < 0.65
    assert found["loss_first"] == pytest.approx(steps[0]["sigmoid"] + 0.1 * steps[0]["nll"], abs=1e-4)
    assert not same(policy, tmp_path / "out")


def test_another_reference_is_scored_by_its_own_weights(policy: Path, tmp_path: Path) -> None:
    other, rows = tiny.policy(tmp_path / "other", seed=1), tiny.pairs(8)
    found = prefer(policy, other, rows, PREFER, PLAIN, tmp_path / "out")

    def summed(path: Path, side: str) -> torch.Tensor:
        of = [canary.logprobs(path, row.prompt_ids + row.prefix_ids, getattr(row, side)) for row in rows]
        return torch.tensor([sum(tokens) for tokens in of])

    ratio = {side: summed(policy, side) - summed(other, side) for side in ("chosen_ids", "rejected_ids")}
    expected = 0.1 * (ratio["chosen_ids"] - ratio["rejected_ids"]).mean().item()
    assert abs(expected) > 0.05
    assert found["margin"] == pytest.approx(expected, abs=1e-3)


def test_a_step_behind_its_prefix_has_the_margin_of_the_whole(policy: Path) -> None:
    model, steps = models.load(policy), pairs(tiny.pairs(6), 64)
    wholes = [
        replace(row, context=row.context[:-1], completions=tuple((row.context[-1], *side) for side in row.completions))
        for row in steps
    ]
    masked, whole = (sequence_logps(model, rows, 4, bf16=False) for rows in (steps, wholes))
    assert any(abs(one[0] - other[0]) > 0.1 for one, other in zip(masked, whole, strict=True))
    for one, other in zip(masked, whole, strict=True):
        assert one[0] - one[1] == pytest.approx(other[0] - other[1], abs=1e-4)


def test_what_is_saved_is_rounded_by_chance_to_a_neighbour_and_right_on_average() -> None:
    """Of 1 and the next bf16 number, 2^-7 above it."""
    step = 2.0**-7
    exact = torch.tensor([1.0, 1.0 + step, -3.0, 0.0])
    assert torch.equal(models.rounded(exact, torch.Generator()).float(), exact)
    between = torch.cat([torch.full((40_000,), 1 + step / 8), torch.full((40_000,), -1 - step * 3 / 4)])
    found = models.rounded(between, torch.Generator().manual_seed(1))
    assert found.dtype == torch.bfloat16
    up, down = found.float().split(40_000)
    assert set(up.tolist()) == {1.0, 1 + step} and set(down.tolist()) == {-1.0, -1 - step}
    assert (up.mean().item() - 1) / step == pytest.approx(1 / 8, abs=0.01)
    assert (-down.mean().item() - 1) / step == pytest.approx(3 / 4, abs=0.01)
    assert torch.equal(found, models.rounded(between, torch.Generator().manual_seed(1)))
    assert not torch.equal(found, models.rounded(between, torch.Generator().manual_seed(2)))


def test_a_large_weight_is_rounded_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "_AT_ONCE", 8)
    weight = torch.arange(1, 36).reshape(7, 5).T * 1.001
    found = models.rounded(weight, torch.Generator().manual_seed(1))
    assert found.shape == (5, 7) and found.is_contiguous()
    assert ((found.float() / weight - 1).abs() < 2.0**-7).all()
    assert not torch.equal(found, weight.to(torch.bfloat16))


def test_a_training_too_short_to_reach_the_next_bf16_number_is_not_lost(policy: Path, tmp_path: Path) -> None:
    """Rounded to the nearest, less than a tenth of the margin is left."""
    rows, steps = tiny.pairs(8), []
    training = replace(PLAIN, learning_rate=2e-5, epochs=6)
    prefer(policy, policy, rows, Objective(beta=1.0), training, tmp_path / "out", None, lambda *s: steps.append(s[2]))
    gained = mean_margin(tmp_path / "out", rows) - mean_margin(policy, rows)
    assert gained == pytest.approx(steps[-1]["margin"], rel=0.35)


def test_the_first_step_of_a_short_training_learns_though_a_share_warms_up(policy: Path, tmp_path: Path) -> None:
    rows, steps = tiny.pairs(8), []
    training = replace(PLAIN, batch_size=8, warmup_ratio=0.05)
    prefer(policy, policy, rows, Objective(beta=1.0), training, tmp_path / "out", None, lambda *s: steps.append(s[2]))
    assert len(steps) == 1
    assert mean_margin(tmp_path / "out", rows) > mean_margin(policy, rows) + 0.01


def mean_margin(path: Path, rows: Sequence[Pair]) -> float:
    found = sequence_logps(models.load(path), pairs(rows, 64), 8, bf16=False)
    return sum(chosen - rejected for chosen, rejected in found) / len(found)


def test_an_objective_without_reference_starts_at_a_margin_of_its_own(policy: Path, tmp_path: Path) -> None:
    rows, steps = tiny.pairs(8), []
    simpo = Objective(beta=2.0, reference="none", per_token=True, target=0.5)
    training = replace(PLAIN, epochs=4)
    prefer(policy, policy, rows, simpo, training, tmp_path / "out", None, lambda *step: steps.append(step[2]))
    logps = sequence_logps(models.load(policy), pairs(rows, 64), 4, bf16=False)
    margins = [
        2 * (chosen / len(row.chosen_ids) - rejected / len(row.rejected_ids))
        for row, (chosen, rejected) in zip(rows, logps, strict=True)
    ]
    assert abs(sum(margins)) > 0.1
    assert steps[0]["margin"] == pytest.approx(sum(margins) / 8, abs=1e-3)
    assert steps[-1]["margin"] > steps[0]["margin"]


def test_a_margin_behind_skipped_tokens_is_that_of_what_follows_them(policy: Path, tmp_path: Path) -> None:
    other = tiny.policy(tmp_path / "other", seed=1)
    rows = [
        replace(row, chosen_skip=len(row.chosen_ids) // 2, rejected_skip=len(row.rejected_ids) // 3)
        for row in tiny.pairs(8)
    ]

    def after(path: Path, side: str) -> list[float]:
        """log p(the rest | prompt, prefix, skipped), with what is skipped as context."""
        parts = []
        for row in rows:
            ids, skip = getattr(row, f"{side}_ids"), getattr(row, f"{side}_skip")
            parts.append(Sequences(row.id, (*row.prompt_ids, *row.prefix_ids, *ids[:skip]), (ids[skip:],)))
        return [logp for (logp,) in sequence_logps(models.load(path), parts, 4, bf16=False)]

    found = prefer(policy, other, rows, Objective(beta=0.1), PLAIN, tmp_path / "out")
    chosen, rejected = after(policy, "chosen"), after(policy, "rejected")
    behind = sum(after(other, "chosen")) - sum(after(other, "rejected"))
    assert found["margin"] == pytest.approx(0.1 * (sum(chosen) - sum(rejected) - behind) / 8, abs=1e-3)
    assert found["logps_chosen"] == pytest.approx(sum(chosen) / 8, abs=1e-3)
    means = [-logp / (len(row.chosen_ids) - row.chosen_skip) for logp, row in zip(chosen, rows, strict=True)]
    assert found["nll"] == pytest.approx(sum(means) / 8, abs=1e-3)
    assert any(row.chosen_skip for row in rows)


def test_a_reference_that_is_not_the_start_stops_the_run(
    policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dpo.reference, "logps", lambda load, version, rows, *_: [(0.0, -50.0)] * len(rows))
    with pytest.raises(RunFailed, match="preference loss before any update is .* not ln 2"):
        prefer(policy, policy, tiny.pairs(8), PREFER, PLAIN, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_second_training_with_the_same_reference_scores_only_what_is_new(
    policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, rows, scored = tiny.policy(tmp_path / "other", seed=1), tiny.pairs(12), []

    def logps(model, rows, *settings):
        scored.append(sum(len(row.completions) for row in rows))
        return sequence_logps(model, rows, *settings)

    sequence_logps = reference.sequence_logps
    monkeypatch.setattr(reference, "sequence_logps", logps)

    def train(out: str, count: int, kept: str | None) -> dict[str, float]:
        return prefer(policy, other, rows[:count], PREFER, PLAIN, tmp_path / out, kept=kept and tmp_path / kept)

    alone = train("alone", 8, None)
    first = train("first", 8, "kept")
    loaded = []
    monkeypatch.setattr(models, "load", lambda path, **more: loaded.append(path) or models_load(path, **more))
    again = train("again", 8, "kept")
    assert scored == [16, 16] and loaded == [policy]
    for name in ("margin", "sigmoid", "loss_first", "loss_last"):
        assert again[name] == first[name] == pytest.approx(alone[name], abs=1e-5)
    assert same(tmp_path / "first", tmp_path / "again")
    train("more", 12, "kept")
    assert scored == [16, 16, 8] and loaded == [policy, policy, other]
    (tmp_path / "kept" / f"{version(other)}.jsonl").write_bytes(b"torn")
    assert train("torn", 12, "kept")["margin"] == pytest.approx(train("whole", 12, None)["margin"], abs=1e-5)


models_load = models.load


@pytest.mark.parametrize("stage", ["imitate", "prefer"])
def test_a_lora_is_merged_into_a_plain_model(policy: Path, tmp_path: Path, stage: str) -> None:
    training = replace(PLAIN, epochs=4, lora_rank=4, lora_alpha=8, lora_targets=("q_proj", "up_proj"))
    if stage == "imitate":
        found = imitate(policy, tiny.examples(16), training, tmp_path / "out")
    else:
        found = prefer(policy, policy, tiny.pairs(16), PREFER, training, tmp_path / "out")
    assert found["loss_last"] < found["loss_first"]
    before, after = weights(policy), weights(tmp_path / "out")
    assert before.keys() == after.keys()
    changed = {name.split(".")[-2] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"q_proj", "up_proj"}


class Killed(Exception):
    pass


@pytest.mark.parametrize("stage", ["imitate", "prefer"])
def test_a_killed_run_goes_on_and_ends_with_the_same_weights(policy: Path, tmp_path: Path, stage: str) -> None:
    training = replace(PLAIN, epochs=3, save_steps=2)

    def train(out: str, work: Path | None, report=None) -> dict[str, float]:
        if stage == "imitate":
            return imitate(policy, tiny.examples(16), training, tmp_path / out, work, report)
        return prefer(policy, policy, tiny.pairs(16), PREFER, training, tmp_path / out, work, report)

    def kill_at_five(step: int, steps: int, metrics: dict) -> None:
        if step == 5:
            raise Killed

    steps: list[int] = []
    train("whole", None)
    work = tmp_path / "work"
    with pytest.raises(Killed):
        train("out", work, kill_at_five)
    assert sorted(path.name for path in work.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-4"]
    assert [row.step for row in plain_rows(work / STEPS, Step)] == [1, 2, 3, 4, 5]
    found = train("out", work, lambda step, *_: steps.append(step))
    assert steps == [5, 6]
    assert found["steps"] == 6
    kept = list(plain_rows(work / STEPS, Step))
    assert [row.step for row in kept] == [1, 2, 3, 4, 5, 6]
    assert (kept[0].loss, kept[-1].loss) == (found["loss_first"], found["loss_last"])
    last = Step(6, found["loss_last"], *map(found.get, ("margin", "accuracy", "logps_chosen", "logps_rejected")))
    assert kept[-1] == last and (last.margin is None) == (stage == "imitate")
    assert same(tmp_path / "whole", tmp_path / "out")


@pytest.mark.parametrize("name", [checkpoints.MARKER, "optimizer.pt", "model.safetensors"])
def test_training_goes_on_from_the_checkpoint_before_one_that_is_damaged(
    policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    training, steps, work = replace(PLAIN, epochs=2, save_steps=2), [], tmp_path / "work"
    imitate(policy, tiny.examples(16), training, tmp_path / "whole", work)
    spoilt = bytearray((work / "checkpoint-4" / name).read_bytes())
    spoilt[len(spoilt) // 2] ^= 1
    (work / "checkpoint-4" / name).write_bytes(spoilt)
    imitate(policy, tiny.examples(16), training, tmp_path / "out", work, lambda at, *_: steps.append(at))
    assert steps == [3, 4] and same(tmp_path / "whole", tmp_path / "out")
    assert f"{work}/checkpoint-4 is passed over: " in capsys.readouterr().out
    fingerprint = json.loads((work / "checkpoint-4" / checkpoints.MARKER).read_text())["fingerprint"]
    assert checkpoints.latest(work, fingerprint) == work / "checkpoint-4"


def test_divergence_names_the_learning_rate(policy: Path, tmp_path: Path) -> None:
    training = replace(PLAIN, learning_rate=1e38, epochs=4)
    with pytest.raises(RunFailed, match="the likely cause is a learning rate too high"):
        imitate(policy, tiny.examples(16), training, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_broken_starting_weights_are_named(policy: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(policy, dtype=torch.bfloat16)
    model.model.norm.weight.data[0] = float("nan")
    model.save_pretrained(tmp_path / "broken")
    AutoTokenizer.from_pretrained(policy).save_pretrained(tmp_path / "broken")
    with pytest.raises(RunFailed, match="loss is nan at step 1 of 1, before any update.*starting policy"):
        imitate(tmp_path / "broken", tiny.examples(8), PLAIN, tmp_path / "out")


def test_the_canary_reads_the_weights_on_disk(policy: Path, tmp_path: Path) -> None:
    def of(path: Path, bf16: bool = False) -> list[list[float]]:
        return [canary.logprobs(path, row.prompt_ids, row.completion_ids, bf16) for row in rows]

    rows = tiny.examples(3)
    found = of(policy)
    for row, tokens in zip(rows, found, strict=True):
        assert sum(tokens) / len(row.completion_ids) == pytest.approx(-by_hand(policy, [row]), abs=1e-5)
    rounded = of(policy, bf16=True)
    assert sum(rounded, []) == pytest.approx(sum(found, []), abs=0.1)
    imitate(policy, tiny.examples(16), replace(PLAIN, epochs=5), tmp_path / "out")
    apart = [abs(new - old) for new, old in zip(sum(of(tmp_path / "out"), []), sum(found, []), strict=True)]
    assert max(apart) > 0.1


def two_ranks(work: Callable[..., None], *arguments: Any) -> list[tuple]:
    """What both processes put into the queue they are given last, by rank."""
    results = torch.multiprocessing.get_context("spawn").Queue()
    with reserved() as port:
        processes = torch.multiprocessing.spawn(work, (2, port, *arguments, results), nprocs=2, join=False)
        found: list[tuple] = []
        while len(found) < 2:
            processes.join(timeout=0.1)  # raises what a process died of
            with suppress(Empty):
                found.append(results.get(timeout=1))
        while not processes.join(timeout=60):
            pass
    return sorted(found, key=lambda result: result[0])


def test_two_workers_end_where_one_does(policy: Path, tmp_path: Path) -> None:
    training = replace(PLAIN, epochs=2, save_steps=3)
    rows = tiny.examples(16), tiny.pairs(16)
    alone = imitate(policy, rows[0], training, tmp_path / "alone/imitate")
    alone_preferred = prefer(policy, policy, rows[1], PREFER, training, tmp_path / "alone/prefer")
    found = two_ranks(ranks.work, policy, rows, training, tmp_path / "two")
    (_, imitated, preferred, steps), (_, imitated_too, preferred_too, silent) = found
    assert steps[0]["sigmoid"] == pytest.approx(math.log(2), abs=1e-6)
    assert len(steps) == 4 and silent == []
    for one, two, too in ((alone, imitated, imitated_too), (alone_preferred, preferred, preferred_too)):
        assert two["loss_last"] == too["loss_last"] == pytest.approx(one["loss_last"], abs=2e-2)
        assert two["loss_first"] == pytest.approx(one["loss_first"], abs=1e-4)
    for stage in ("imitate", "prefer"):
        assert same(tmp_path / "alone" / stage, tmp_path / "two" / stage, atol=5e-3)
    assert (tmp_path / "two" / "work" / "checkpoint-4" / checkpoints.MARKER).is_file()
    # The first keeps what both have scored, each once.
    (kept,) = (tmp_path / "two" / "kept").iterdir()
    assert len(kept.read_bytes().splitlines()) == 2 * len(rows[1])


@pytest.fixture(scope="module")
def whole(policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two ranks make of `KILLED`, undisturbed."""
    out = tmp_path_factory.mktemp("whole")
    two_ranks(ranks.preferring, policy, tiny.pairs(16), KILLED, out)
    return out


KILLED = replace(PLAIN, epochs=3, save_steps=2)
"""Six steps, a checkpoint behind each second one."""


@pytest.mark.parametrize(
    ("failpoint", "left"), [("forward:rank1:4", {2: True}), ("checkpoint:half:2", {2: True, 4: False})]
)
def test_a_training_whose_worker_is_killed_goes_on_to_the_weights_of_a_whole_one(
    policy: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failpoint: str, left: dict[int, bool]
) -> None:
    """Rank 1 in the forward pass of the fourth step; rank 0 while it saves behind it."""
    assert failpoint.rpartition(":")[0] in failpoints.TRAINING
    rows, work = tiny.pairs(16), tmp_path / "killed/work"
    with monkeypatch.context() as armed, pytest.raises(ProcessException):
        armed.setenv("ERPO_FAILPOINT", failpoint)
        two_ranks(ranks.preferring, policy, rows, KILLED, tmp_path / "killed")
    found = {int(path.name.split("-")[1]): (path / checkpoints.MARKER).exists() for path in work.glob("checkpoint-*")}
    assert found == left
    shutil.copytree(tmp_path / "killed", tmp_path / "alone")
    (_, steps), _ = two_ranks(ranks.preferring, policy, rows, KILLED, tmp_path / "killed")
    assert steps == [3, 4, 5, 6]
    weights_of = "policy/model.safetensors"
    assert (tmp_path / "killed" / weights_of).read_bytes() == (whole / weights_of).read_bytes()
    # And with one worker less.
    alone, steps = tmp_path / "alone", []
    prefer(policy, policy, rows, PREFER, KILLED, alone / "policy", alone / "work", lambda step, *_: steps.append(step))
    assert steps == [3, 4, 5, 6] and same(whole / "policy", alone / "policy", atol=5e-3)


def test_sharded_weights_end_where_whole_ones_do(policy: Path, tmp_path: Path) -> None:
    training = replace(PLAIN, epochs=2, save_steps=3)
    rows = tiny.examples(16), tiny.pairs(16)
    (_, held, steps, refused), (_, held_too, *_) = two_ranks(ranks.shard, policy, rows, training, tmp_path)
    for (local, whole), (local_too, _) in zip(held, held_too, strict=True):
        assert local + local_too == whole and local < 0.6 * whole
    assert len(held) == 4
    assert "fit.shard splits a model over GPUs" in refused
    for stage in ("imitate", "prefer", "lora"):
        assert same(tmp_path / "ddp" / stage, tmp_path / "fsdp" / stage, atol=5e-3)
        assert not same(tmp_path / "ddp" / stage, policy, atol=5e-3)
    assert steps == [] and same(tmp_path / "fsdp/imitate", tmp_path / "again")
    assert same(tmp_path / "ddp/imitate", tmp_path / "after")
