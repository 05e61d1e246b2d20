"""A training that is asked to stop ends with the step that it is in, behind a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed
from transformers import TrainerCallback

from erpo_ray import stopping


class Halt(TrainerCallback):
    """Rank 0 looks at each step whether it is asked, and all ranks do as it says: `halted` tells that they did.

    Without a folder for checkpoints there is nothing to stop for, and behind the last step nothing to stop.
    """

    def __init__(self, work: Path | None) -> None:
        self._work = work
        self.halted = False

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._work is None or state.global_step >= state.max_steps:
            return
        asked = torch.tensor(state.is_world_process_zero and stopping.left(self._work), device=args.device)
        if torch.distributed.is_initialized():
            torch.distributed.broadcast(asked, 0)
        if asked.item():
            self.halted = control.should_save = control.should_training_stop = True
