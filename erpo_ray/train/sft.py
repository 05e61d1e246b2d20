"""Imitate stages: supervised fine-tuning on rows that are already token ids."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from datasets import Dataset
from torch import Tensor
from trl import SFTConfig, SFTTrainer

from erpo_ray.objectives import Training
from erpo_ray.train import fit, models
from erpo_ray.train.forward import Collate, collator, summed, tokens_of
from erpo_ray.train.losses import contrast
from erpo_ray.train.packed import Batch
from erpo_ray.train.rows import Row, Sequences, examples, fingerprint
from erpo_ray.train.weights import version
from erpo_ray.types import identity


class ImitateTrainer(fit.TokenExact, SFTTrainer):
    """SFTTrainer whose loss projects completion positions only: on CPU, TRL's own projects all of them in float32.

    It has a second term, of contrasts between two tokens, in rows that have some.
    """

    contrasts = 0
    """Those of the optimiser step, over all workers."""

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Tensor]], device: torch.device) -> Any:
        counts = [len(batch["contrast_token"]) for batch in batch_samples if batch["rows"]]
        counted = torch.tensor(sum(counts), device=device)
        everyones: Any = self.accelerator.gather(counted)
        self.contrasts = int(everyones.sum())
        return super()._get_num_items_in_batch(batch_samples, device)

    def compute_loss(
        self, model: Any, inputs: dict[str, Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        self.tokens += tokens_of(inputs)
        logits = self.logits(model, inputs)
        loss = -summed(logits, inputs, inputs["weights"]).sum() / num_items_in_batch
        if self.contrasts:
            at = inputs["token"][inputs["contrast_token"]]
            ahead = contrast(logits[at], inputs["contrast_chosen"], inputs["contrast_rejected"])
            loss = loss - (inputs["contrast_weight"] * F.logsigmoid(ahead)).sum() / self.contrasts
            self._note(ahead.detach())
        return loss * self.accelerator.num_processes * (inputs["rows"] > 0)

    def _note(self, ahead: Tensor) -> None:
        """Keep margin and accuracy of the contrasts of all workers until TRL's `log` averages the step."""
        sums = torch.stack([ahead.sum(), (ahead > 0).float().sum(), torch.ones_like(ahead).sum()])
        margin, right, count = self.accelerator.gather(sums[None]).sum(0).tolist()  # pyright: ignore[reportAttributeAccessIssue]
        if count:
            self._metrics["train"]["margin"].append(margin / count)
            self._metrics["train"]["accuracy"].append(right / count)


def imitate(
    policy_dir: Path,
    rows: Iterable[Row] | Dataset,
    training: Training,
    out: Path,
    work: Path | None = None,
    report: fit.Report | None = None,
) -> dict[str, float]:
    """Fine-tune the policy in `policy_dir` on `rows` and write the new one into `out` (rank 0 writes).

    rows: `Example`s, or mappings with their fields. Loss falls on completions: the weighted sum over a step's tokens
    by their number, and beside it the weighted sum over its contrasts by theirs. The ids are trained on as they are: no
    template, no cut, no end-of-sequence added.
    work: folder for checkpoints, kept every `training.save_steps` steps and continued when the same rows and settings
    come again. report: called with (step, steps, metrics) after each step.
    Runs alone or in every process of an initialised torch.distributed group.

    Returns what `fit.run` returns. Raises UsageError for bad rows, RunFailed when the loss is not a number.
    """
    training = fit.able(training)
    data = examples(rows, training.max_length)
    with fit.all_cores(), fit.directory(work) as folder:
        args = SFTConfig(
            **fit.arguments(training, folder, keep=bool(work and training.save_steps)),
            dataset_kwargs={"skip_prepare_dataset": True},
        )
        fit.alone(args)
        model = models.freeze(models.load(policy_dir, device=args.device), training.freeze_layers)
        trainer = ImitateTrainer(
            model,
            args,
            train_dataset=_columns(data),
            data_collator=partial(_collate, collator(model)),
            processing_class=models.tokenizer(policy_dir),
            peft_config=models.adapter(training, model),
        )
        trainer.order = fit.order(data, training)
        start = version(policy_dir)
        trainer.fingerprint = identity("imitate", start, training, fingerprint(data))
        metrics = fit.run(trainer, work, training, report)
        fit.finish(trainer, policy_dir, out, start)
    return metrics


def _columns(rows: Sequence[Sequences]) -> Dataset:
    return Dataset.from_list(
        [
            {
                "context": row.context,
                "completion": row.completions[0],
                "weights": row.token_weights or (1.0,) * len(row.completions[0]),
                "contrasts": [(c.at, c.chosen, c.rejected) for c in row.contrasts],
                "contrast_weight": row.contrast_weight,
            }
            for row in rows
        ]
    )


def _collate(collate: Collate, found: list[dict[str, Any]]) -> Batch:
    """The rows, the loss weight of each completion token, and `labels`: the trainer counts a step's tokens by them.

    contrast_token, contrast_chosen, contrast_rejected, contrast_weight: of each contrast which of the completion
    tokens, all rows one after the other, stands there; the two ids; its weight.
    """
    batch = collate([(row["context"], row["completion"]) for row in found])
    # It leaves out the first, which nothing predicts.
    labels = [-100, *(token for row in found for token in row["completion"])]
    weights = [weight for row in found for weight in row["weights"]]
    before = accumulate((len(row["completion"]) for row in found), initial=0)
    contrasts = [(start + at, *ids) for start, row in zip(before, found, strict=False) for at, *ids in row["contrasts"]]
    token, chosen, rejected = torch.tensor(contrasts, dtype=torch.long).reshape(-1, 3).unbind(1)
    factors = [row["contrast_weight"] for row in found for _ in row["contrasts"]]
    return batch | {
        "weights": torch.tensor(weights),
        "labels": torch.tensor(labels),
        "contrast_token": token,
        "contrast_chosen": chosen,
        "contrast_rejected": rejected,
        "contrast_weight": torch.tensor(factors, dtype=torch.float32),
    }
