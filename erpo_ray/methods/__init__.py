"""The methods: one file a paper, one dict that lists them."""

from __future__ import annotations

from collections.abc import Callable

from erpo_ray.config import Config
from erpo_ray.methods import cdpo, derta, dpo, erpo, grpo, r2d, safer, saro, sft, sos, stair
from erpo_ray.methods.base import Stage

METHODS: dict[str, Callable[[Config], tuple[Stage, ...]]] = {
    "erpo": erpo.stages,
    "sft": sft.stages,
    "dpo": dpo.stages,
    "cdpo": cdpo.stages,
    "derta": derta.stages,
    "grpo": grpo.stages,
    "r2d": r2d.stages,
    "safer": safer.stages,
    "saro": saro.stages,
    "stair": stair.stages,
    "sos": sos.stages,
}
