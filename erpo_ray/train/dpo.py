"""Prefer stages: preference optimisation on pairs that are already token ids, after any `Objective`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from trl import DPOConfig, DPOTrainer

from erpo_ray.errors import RunFailed
from erpo_ray.objectives import Objective, Training
from erpo_ray.train import fit, models, reference
from erpo_ray.train.forward import Collate, collator, tokens_of
from erpo_ray.train.losses import LN2, preference
from erpo_ray.train.packed import Batch
from erpo_ray.train.reference import Load, Logps
from erpo_ray.train.rows import Row, Sequences, bearing, fingerprint, pairs, with_skipped
from erpo_ray.train.weights import version
from erpo_ray.types import identity

SIDES = ("chosen", "rejected")

ZERO_MARGIN_TOLERANCE = 0.5
"""Largest mean difference of log-ratios, in nats a completion, that bf16 arithmetic explains at step 0."""


class PreferTrainer(fit.TokenExact, DPOTrainer):
    """DPOTrainer on token-exact pairs that bring their reference log-probabilities; the loss is `losses.preference`.

    TRL's own loss has no length term and no pair weights, and its reference cache breaks with more than one worker.
    """

    objective: Objective
    starts_at_reference: bool
    """The policy starts as its own reference, so that the first margins are zero and the preference term is ln 2."""

    def _prepare_dataset(self, dataset: Dataset, *_: Any, **__: Any) -> Dataset:
        return dataset

    def _precompute_ref_logps(self, dataset: Dataset, *_: Any, **__: Any) -> Dataset:
        return dataset

    def compute_loss(
        self, model: Any, inputs: dict[str, Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        self.tokens += tokens_of(inputs)
        chosen_tokens, rejected_tokens = inputs["loss_tokens"].chunk(2)
        chosen, rejected = self.logps(model, inputs, inputs["token_weights"]).chunk(2)
        terms = preference(
            chosen,
            rejected,
            inputs["ref_chosen"],
            inputs["ref_rejected"],
            chosen_tokens,
            rejected_tokens,
            inputs["weight"],
            inputs["length_weight"],
            self.objective,
        )
        if self.starts_at_reference and self.state.global_step == 0:
            self._check_zero_margin(terms.sigmoid)
        self.note(
            {
                "sigmoid": terms.sigmoid,
                "nll": terms.nll,
                "margin": terms.margin,
                "accuracy": (terms.margin > 0).float(),
                "logps_chosen": chosen.detach(),
                "logps_rejected": rejected.detach(),
            }
        )
        return self.evenly(terms.loss, inputs)

    def _check_zero_margin(self, sigmoid: Tensor) -> None:
        found = sigmoid.mean().item()
        if abs(found - LN2) > self.objective.beta * ZERO_MARGIN_TOLERANCE / 2:
            raise RunFailed(
                f"the preference loss before any update is {found:.4f}, not ln 2 = {LN2:.4f}: the reference "
                "log-probabilities do not belong to the starting policy; check that its directory did not change"
            )


def prefer(
    policy_dir: Path,
    reference_dir: Path,
    rows: Iterable[Row] | Dataset,
    objective: Objective,
    training: Training,
    out: Path,
    work: Path | None = None,
    report: fit.Report | None = None,
    kept: Path | None = None,
) -> dict[str, float]:
    """Optimise the policy in `policy_dir` for `objective` against `reference_dir` and write the new one into `out`.

    rows: `Pair`s, or mappings with their fields. `work`, `report` and worker processes: as in `sft.imitate`.
    The reference is scored once, before training, and is not in memory afterwards; what the folder `kept` has of it is
    not scored at all. Where it is the starting policy itself, no second model is ever loaded and the step-0 preference
    loss is checked to be ln 2. An objective without reference reads none of this.

    Returns what `fit.run` returns and, of the last step, `sigmoid`, `nll`, `margin` (times beta), `accuracy`,
    `logps_chosen`, `logps_rejected`. Raises UsageError for bad rows, RunFailed when the loss is not a number.
    """
    training = fit.able(training)
    data = pairs(rows, training.max_length)
    start = version(policy_dir)
    behind = start if reference_dir == policy_dir else version(reference_dir)
    with fit.all_cores(), fit.directory(work) as folder:
        args = DPOConfig(
            **fit.arguments(training, folder, keep=bool(work and training.save_steps)),
            precompute_ref_log_probs=not training.shard,
        )
        fit.alone(args)
        model = models.load(policy_dir, device=args.device)
        free = objective.reference == "none"
        frozen = (lambda: model) if start == behind else partial(models.load, reference_dir, device=args.device)
        scored = [(0.0, 0.0)] * len(data) if free else _scored(data, frozen, behind, training, kept)
        trainer = PreferTrainer(
            models.freeze(model, training.freeze_layers),
            # Under FSDP TRL would load a second model to score rows with that are scored already.
            models.hollow(model) if training.shard and not training.lora_rank else None,
            args,
            train_dataset=_columns(data, scored),
            data_collator=partial(_collate, collator(model)),
            processing_class=models.tokenizer(policy_dir),
            peft_config=models.adapter(training, model),
        )
        trainer.order = fit.order(data, training)
        trainer.objective, trainer.starts_at_reference = objective, start == behind and not free
        trainer.fingerprint = identity("prefer", start, behind, objective, training, fingerprint(data))
        metrics = fit.run(trainer, work, training, report)
        last = next(entry for entry in reversed(trainer.state.log_history) if "sigmoid" in entry)
        fit.finish(trainer, policy_dir, out, start)
    names = ("sigmoid", "nll", "margin", "accuracy", "logps_chosen", "logps_rejected")
    return metrics | {name: last[name] for name in names}


def _scored(rows: Sequence[Sequences], frozen: Load, behind: str, training: Training, kept: Path | None) -> list[Logps]:
    """Of each row's sides under the reference, without the tokens that a side skips."""
    whole = reference.logps(frozen, behind, [with_skipped(row) for row in rows], training, kept)
    return [bearing(row, logps) for row, logps in zip(rows, whole, strict=True)]


def _columns(rows: Sequence[Sequences], behind: Sequence[Logps]) -> Dataset:
    return Dataset.from_list(
        [
            {"context": row.context, "chosen": row.completions[0], "rejected": row.completions[1]}
            | {"weight": row.weight, "length_weight": row.length_weight, "skips": row.skips}
            | {"ref_chosen": chosen, "ref_rejected": rejected}
            for row, (chosen, rejected) in zip(rows, behind, strict=True)
        ]
    )


def _collate(collate: Collate, found: list[dict[str, Any]]) -> Batch:
    """All chosen rows, then all rejected ones, and one number a pair in each of the scalars.

    token_weights: of all completion tokens, 0 where a side skips them. loss_tokens: how many each row has left.
    """
    sides = [(pair["context"], pair[side], pair["skips"][at]) for at, side in enumerate(SIDES) for pair in found]
    batch = collate([(context, completion) for context, completion, _ in sides])
    batch["token_weights"] = torch.tensor([float(i >= skip) for _, ids, skip in sides for i in range(len(ids))])
    batch["loss_tokens"] = torch.tensor([len(ids) - skip for _, ids, skip in sides])
    scalars = ("weight", "length_weight", "ref_chosen", "ref_rejected")
    return batch | {name: torch.tensor([pair[name] for pair in found], dtype=torch.float32) for name in scalars}
