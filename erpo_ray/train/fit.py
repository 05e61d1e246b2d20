"""What the trainers of all stages share: trainer arguments, row order, checkpoints, progress, the watch for NaN."""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed
from torch import Tensor
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.utils import is_torch_tf32_available

from erpo_ray import environment
from erpo_ray.errors import Interrupted, RunFailed, UsageError
from erpo_ray.objectives import Training
from erpo_ray.rundir.failpoints import failpoint
from erpo_ray.telemetry import STEPS, Step, step
from erpo_ray.train import checkpoints, models, signs, spares
from erpo_ray.train.forward import completion_logits, per_token, summed
from erpo_ray.train.halt import Halt
from erpo_ray.train.packed import Batch
from erpo_ray.train.rows import Order, Sequences, micro_batch
from erpo_ray.types import encode, seed_of

T = TypeVar("T")
Report = Callable[[int, int, dict[str, float]], None]


def workers() -> tuple[int, int]:
    """(rank, world size) of the process group that the caller set up; (0, 1) without one."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def of_first(read: Callable[[], T]) -> T:
    """What rank 0 reads, for all: two ranks that read for themselves could disagree on what is there."""
    rank, world = workers()
    told: list[Any] = [read() if rank == 0 else None]
    if world > 1:
        torch.distributed.broadcast_object_list(told, src=0)
    return told[0]


def able(training: Training) -> Training:
    """`training` as this machine can do it: in float32 throughout where bfloat16 is slower."""
    return replace(training, bf16=training.bf16 and environment.bf16(torch.cuda.is_available()))


def arguments(training: Training, directory: Path, keep: bool) -> dict[str, Any]:
    """Keyword arguments of SFTConfig and DPOConfig for `training`. `keep` writes checkpoints into `directory`."""
    size, passes = micro_batch(training.batch_size, training.micro_batch_size, workers()[1])
    # accelerate sets it for good, and the next training of this process would be sharded too.
    os.environ.pop("ACCELERATE_USE_FSDP", None)
    return dict(
        output_dir=str(directory),
        learning_rate=training.learning_rate,
        num_train_epochs=training.epochs,
        max_steps=training.max_steps,
        per_device_train_batch_size=size,
        gradient_accumulation_steps=passes,
        warmup_steps=training.warmup_ratio,
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
        lr_scheduler_type=training.schedule,
        seed=training.seed,
        # FSDP would gather the weights once more for the one that is not its own.
        gradient_checkpointing=training.gradient_checkpointing and not training.shard,
        fsdp=training.shard,
        fsdp_config={"activation_checkpointing": training.gradient_checkpointing},
        bf16=training.bf16,
        tf32=is_torch_tf32_available() or None,
        use_cpu=not torch.cuda.is_available(),
        optim="adamw_torch_fused",
        max_length=None,
        save_strategy="steps" if keep else "no",
        save_steps=training.save_steps or 500,
        report_to="none",
        logging_steps=1,
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        remove_unused_columns=False,
        ddp_find_unused_parameters=False,
    )


def alone(args: TrainingArguments) -> None:
    """One GPU for this process, however many it sees: transformers would put a replica on each, which TRL refuses."""
    args._n_gpu = min(args.n_gpu, 1)


@contextmanager
def directory(work: Path | None) -> Iterator[Path]:
    """`work`, or a folder that is gone afterwards: the trainer insists on one even when it keeps nothing."""
    if work:
        work.mkdir(parents=True, exist_ok=True)
        yield work
    else:
        with tempfile.TemporaryDirectory() as empty:
            yield Path(empty)


@contextmanager
def all_cores() -> Iterator[None]:
    """Inside, torch uses this worker's share of its cores, whatever OMP_NUM_THREADS an actor inherited."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def order(rows: Sequence[Sequences], training: Training) -> Order:
    """The order of the rows, whatever the number of workers, and as many spare ones as these need."""
    world = workers()[1]
    size, each = (micro_batch(training.batch_size, training.micro_batch_size, of)[0] for of in (1, world))
    # One worker takes fewer in its last pass.
    together = each * world if world > 1 else 1
    return Order([row.longest for row in rows], training.batch_size, size, training.seed, together)


class TokenExact(Trainer):
    """Mixed in before a TRL trainer: our row order, whole checkpoints, no model card, no telemetry."""

    order: Order
    fingerprint: str
    """What a checkpoint must belong to; both are set before training starts."""
    tokens = 0
    rows = 0
    """Of the optimiser step, over all workers."""
    _metrics: Any
    """TRL's: of each mode the values of a step by name."""

    def logps(self, model: Any, batch: Batch, weights: Tensor | None = None) -> Tensor:
        """`completion_logps`, from `logits`."""
        return summed(self.logits(model, batch), batch, weights)

    def token_logps(self, model: Any, batch: Batch) -> Tensor:
        """`forward.token_logps`, from `logits`."""
        return per_token(self.logits(model, batch), batch)

    def logits(self, model: Any, batch: Batch) -> Tensor:
        """`completion_logits` with the weights cast to bf16 once, however many forward passes it takes."""
        if not self.is_fsdp_enabled:
            # accelerate's wrapper copies the logits of the whole batch to float32: it goes, in place.
            bare = self.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
            model = bare if self.accelerator.num_processes == 1 else model
        signs.mark("step", self.state.global_step)
        failpoint(f"forward:rank{self.args.process_index}")
        with self.accelerator.autocast():
            return completion_logits(model, batch)

    def _build_accelerator_args(self, **kwargs: Any) -> dict[str, Any]:
        """As transformers', with gradients that lie in the buckets they are averaged in: else they are held twice."""
        args = super()._build_accelerator_args(**kwargs)
        args["kwargs_handlers"][0].gradient_as_bucket_view = True
        return args

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> tuple[list[Any], Any]:
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        everyones: Any = self.accelerator.gather(torch.tensor(sum(int(b["rows"]) for b in batches), device=device))
        self.rows = int(everyones.sum())
        return batches, items

    def evenly(self, mean: Tensor, batch: Batch) -> Tensor:
        """A pass's mean over its rows, so weighed that each of the step counts the same, and a spare one nothing."""
        passes = self.current_gradient_accumulation_steps * self.accelerator.num_processes
        return mean * (int(batch["rows"]) * passes / self.rows)

    def note(self, values: dict[str, Tensor]) -> None:
        """Keep each value's mean over the workers until TRL's `log` averages the step."""
        everyones: Any = self.accelerator.gather(torch.stack([value.mean() for value in values.values()])[None])
        for name, mean in zip(values, everyones.mean(0).tolist(), strict=True):
            self._metrics["train"][name].append(mean)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """As transformers', its share of warm-up steps rounded down: up, a short stage would waste a step at rate 0."""
        if self.args.warmup_steps < 1:
            self.args.warmup_steps = int(self.args.warmup_steps * num_training_steps)
        return super().create_scheduler(num_training_steps, optimizer)

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """As transformers', which does not find the order of rows behind batches that are both skipped and shared."""
        self.order.set_epoch(kwargs["epoch"])
        super()._run_epoch(*args, **kwargs)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return self.order

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        signs.mark("save", self.state.global_step)
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            checkpoints.seal(Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}", self.fingerprint)
        signs.mark("step", self.state.global_step)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self.is_world_process_zero():
            failpoint("checkpoint:half")
        super()._save_optimizer_and_scheduler(output_dir)

    def _send_telemetry(self) -> None:
        return

    def create_model_card(self, *_: Any, **__: Any) -> None:
        return


@dataclass
class Watch(TrainerCallback):
    """Stops on a loss that is not a number; rank 0 keeps the steps in a file and tells (step, steps, metrics).

    The file begins with the steps that the checkpoint knows, so that a training that goes on has each once.
    """

    learning_rate: float
    steps: Path
    report: Report | None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            self.steps.write_bytes(b"".join(map(_line, _steps(state.log_history))))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        signs.mark("step", state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if not logs or "loss" not in logs:
            return
        for name in ("loss", "grad_norm"):
            if not math.isfinite(logs[name]):
                raise RunFailed(diverged(name, logs[name], state.global_step, state.max_steps, self.learning_rate))
        if not state.is_world_process_zero:
            return
        with self.steps.open("ab") as stream:
            stream.writelines(map(_line, _steps(state.log_history[-1:])))
        if self.report:
            self.report(state.global_step, state.max_steps, {k: v for k, v in logs.items() if k != "epoch"})


def _steps(history: Sequence[dict[str, Any]]) -> list[Step]:
    return [row for row in map(step, history) if row]


def _line(row: Step) -> bytes:
    return encode(row) + b"\n"


def diverged(name: str, value: float, step: int, steps: int, learning_rate: float) -> str:
    """The sentence a user reads when training blows up, with its likely cause: known from when it happened."""
    found = f"training stopped: {name} is {value} at step {step} of {steps}"
    if step <= 1:
        return f"{found}, before any update; the likely cause is weights of the starting policy that are not finite"
    return f"{found}; the likely cause is a learning rate too high ({learning_rate:g}); lower it in its fit"


def run(trainer: TokenExact, work: Path | None, training: Training, report: Report | None) -> dict[str, float]:
    """Train to the end, from the furthest whole checkpoint in `work`, if there is one. Interrupted when asked to stop.

    Rank 0 leaves the steps in the file `STEPS` of `work`. Returns `steps`, `seconds` and `tokens_per_second` of this
    call (prompts included, padding not, over all workers), and the loss of the first and the last step.
    """
    if training.shard and not trainer.is_fsdp_enabled:
        raise UsageError("fit.shard splits a model over GPUs, and these training workers have none; set it to false")
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Watch(training.learning_rate, Path(str(trainer.args.output_dir)) / STEPS, report))
    rows: Any = trainer.train_dataset
    trainer.train_dataset = spares.Spared(rows)
    trainer.data_collator = partial(spares.without, trainer.data_collator, rows[0])
    halt = Halt(work)
    trainer.add_callback(halt)
    # The ranks could find different ones on a disk that they share.
    resume = of_first(lambda: checkpoints.latest(work, trainer.fingerprint, signs.tell))
    start = time.perf_counter()
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    seconds = time.perf_counter() - start
    if halt.halted:
        raise Interrupted(f"training stopped as asked, behind step {trainer.state.global_step}")
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {
        "steps": float(trainer.state.global_step),
        "seconds": seconds,
        "tokens_per_second": trainer.tokens * workers()[1] / seconds,
        "loss_first": losses[0],
        "loss_last": losses[-1],
    }


def finish(trainer: TokenExact, source: Path, out: Path, start: str) -> None:
    """Rank 0 writes the trained policy into `out`; every rank returns when it is there.

    `start`: the version that was trained. The chances of rounding follow from it alone, so that trainings that come to
    the same, in other micro-batches or sharded, are saved the same.
    """
    signs.mark("save", trainer.state.global_step)
    model: Any = trainer.accelerator.unwrap_model(trainer.model)
    if trainer.is_fsdp_enabled:
        weights = trainer.accelerator.get_state_dict(model)
        model = models.whole(model, weights, source) if trainer.is_world_process_zero() else None
    if trainer.is_world_process_zero():
        models.save(model, source, out, seed_of(start))
    trainer.accelerator.wait_for_everyone()
