"""Imitate stages: supervised fine-tuning on rows that are already token ids."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from trl import SFTConfig, SFTTrainer

from erpo_ray.train import fit, models
from erpo_ray.train.forward import Collate, collator, tokens_of
from erpo_ray.train.packed import Batch
from erpo_ray.train.rows import Row, Sequences, examples, fingerprint
from erpo_ray.train.weights import version
from erpo_ray.types import Training, identity


class ImitateTrainer(fit.TokenExact, SFTTrainer):
    """SFTTrainer whose loss projects completion positions only: on CPU, TRL's own projects all of them in float32."""

    def compute_loss(
        self, model: Any, inputs: dict[str, Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        self.tokens += tokens_of(inputs)
        workers = self.accelerator.num_processes
        return -self.logps(model, inputs, inputs["weights"]).sum() / num_items_in_batch * workers


def imitate(
    policy_dir: Path,
    rows: Iterable[Row] | Dataset,
    training: Training,
    out: Path,
    work: Path | None = None,
    report: fit.Report | None = None,
) -> dict[str, float]:
    """Fine-tune the policy in `policy_dir` on `rows` and write the new one into `out` (rank 0 writes).

    rows: `Example`s, or mappings with `id`, `prompt_ids`, `completion_ids`, `weights`; loss falls on completions: the
    weighted sum over the tokens of a step by their number. The ids are trained on as they are: no template, no cut, no
    end-of-sequence added.
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
        model = models.freeze(models.load(policy_dir, device=args.device), training.freeze_layers)
        trainer = ImitateTrainer(
            model,
            args,
            train_dataset=_columns(data),
            data_collator=partial(_collate, collator(model)),
            processing_class=models.tokenizer(policy_dir),
            peft_config=models.adapter(training),
        )
        trainer.order = fit.order(data, training)
        trainer.fingerprint = identity("imitate", version(policy_dir), training, fingerprint(data))
        metrics = fit.run(trainer, work, training, report)
        fit.finish(trainer, policy_dir, out)
    return metrics


def _columns(rows: Sequence[Sequences]) -> Dataset:
    return Dataset.from_list(
        [
            {
                "context": row.context,
                "completion": row.completions[0],
                "weights": row.token_weights or (1.0,) * len(row.completions[0]),
            }
            for row in rows
        ]
    )


def _collate(collate: Collate, found: list[dict[str, Any]]) -> Batch:
    """The rows, the loss weight of each completion token, and `labels`: the trainer counts a step's tokens by them."""
    batch = collate([(row["context"], row["completion"]) for row in found])
    # It leaves out the first, which nothing predicts.
    labels = [-100, *(token for row in found for token in row["completion"])]
    weights = [weight for row in found for weight in row["weights"]]
    return batch | {"weights": torch.tensor(weights), "labels": torch.tensor(labels)}
