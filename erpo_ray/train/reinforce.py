"""Reinforce stages: policy gradient on groups of completions that bring their advantages, after any `Surrogate`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from trl import SFTConfig, SFTTrainer

from erpo_ray.errors import RunFailed
from erpo_ray.objectives import Normaliser, Surrogate, Training
from erpo_ray.train import fit, models, reference
from erpo_ray.train.forward import Collate, collator, tokens_of
from erpo_ray.train.losses import policy_gradient
from erpo_ray.train.packed import Batch
from erpo_ray.train.reference import Logps
from erpo_ray.train.rows import Row, Sequences, fingerprint, groups, shares
from erpo_ray.train.weights import version
from erpo_ray.types import identity

DRIFT_TOLERANCE = 0.1
"""Largest mean difference of log-probabilities, in nats a token, that bf16 arithmetic explains before any update."""


class ReinforceTrainer(fit.TokenExact, SFTTrainer):
    """A plain trainer whose loss is `losses.policy_gradient`; a row is a group, which shares its prompt in the pass.

    TRL's GRPOTrainer samples and asks for rewards itself, and scores what it sampled padded.
    """

    objective: Surrogate
    loss_is_scaled_for_ga = False

    def compute_loss(
        self, model: Any, inputs: dict[str, Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        self.tokens += tokens_of(inputs)
        terms = policy_gradient(
            self.token_logps(model, inputs),
            inputs["old"],
            inputs["reference"],
            inputs["advantages"],
            inputs["weights"],
            self.objective,
        )
        if self.state.global_step == 0 and terms.drift > DRIFT_TOLERANCE:
            raise RunFailed(
                f"log-probabilities before any update are {terms.drift.item():.2f} nats a token off those of the "
                "starting policy: they do not belong to it; check that its directory did not change"
            )
        self.note({"kl": terms.kl, "clipped": terms.clipped, "surprisal": terms.surprisal})
        return self.evenly(terms.loss, inputs)


def reinforce(
    policy_dir: Path,
    reference_dir: Path,
    rows: Iterable[Row] | Dataset,
    objective: Surrogate,
    training: Training,
    out: Path,
    work: Path | None = None,
    report: fit.Report | None = None,
    kept: Path | None = None,
) -> dict[str, float]:
    """Optimise the policy in `policy_dir` for `objective` on what it sampled and write the new one into `out`.

    rows: `Advantage`s, or mappings with their fields; those of one prompt are one row of `training.batch_size`. `work`,
    `report` and worker processes: as in `sft.imitate`; `kept`: as in `dpo.prefer`.
    The policy as it is and the reference are scored token by token before training; where they are the same, or there
    is no KL term, once.

    Returns what `fit.run` returns and, of the last step, `kl`, `clipped` and `surprisal` (`losses.PolicyGradient`).
    Raises UsageError for bad rows, RunFailed when the loss is not a number.
    """
    training = fit.able(training)
    data = groups(rows, training.max_length)
    start, behind = version(policy_dir), version(reference_dir)
    with fit.all_cores(), fit.directory(work) as folder:
        args = SFTConfig(
            **fit.arguments(training, folder, keep=bool(work and training.save_steps)),
            dataset_kwargs={"skip_prepare_dataset": True},
        )
        fit.alone(args)
        model = models.load(policy_dir, device=args.device)
        old = reference.token_logps(lambda: model, start, data, training, kept)
        frozen = partial(models.load, reference_dir, device=args.device)
        apart = objective.kl and behind != start
        anchor = reference.token_logps(frozen, behind, data, training, kept) if apart else old
        trainer = ReinforceTrainer(
            models.freeze(model, training.freeze_layers),
            args,
            train_dataset=_columns(data, old, anchor, objective.normalise),
            data_collator=partial(_collate, collator(model)),
            processing_class=models.tokenizer(policy_dir),
            peft_config=models.adapter(training, model),
        )
        trainer.order = fit.order(data, training)
        trainer.objective = objective
        trainer.fingerprint = identity("reinforce", start, behind, objective, training, fingerprint(data))
        metrics = fit.run(trainer, work, training, report)
        last = next(entry for entry in reversed(trainer.state.log_history) if "kl" in entry)
        fit.finish(trainer, policy_dir, out, start)
    return metrics | {name: last[name] for name in ("kl", "clipped", "surprisal")}


def _columns(
    rows: Sequence[Sequences], old: Sequence[tuple[Logps, ...]], anchor: Sequence[tuple[Logps, ...]], by: Normaliser
) -> Dataset:
    return Dataset.from_list(
        [
            {"context": row.context, "completions": row.completions, "advantages": row.advantages}
            | {"shares": shares(row, by), "old": before, "reference": fixed}
            for row, before, fixed in zip(rows, old, anchor, strict=True)
        ]
    )


def _collate(collate: Collate, found: list[dict[str, Any]]) -> Batch:
    """All completions of all groups, and one number a completion token in each of the others."""
    batch = collate([(group["context"], ids) for group in found for ids in group["completions"]])
    lengths = batch["completion_tokens"]
    for name, column in (("advantages", "advantages"), ("weights", "shares")):
        values = torch.tensor([value for group in found for value in group[column]], dtype=torch.float32)
        batch[name] = values.repeat_interleave(lengths)
    for name in ("old", "reference"):
        logps = [logp for group in found for completion in group[name] for logp in completion]
        batch[name] = torch.tensor(logps, dtype=torch.float32)
    return batch
