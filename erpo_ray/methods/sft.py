"""SFT alone: what imitation gives before any preference is learnt, the plainest baseline of the family.

The objective is the log-likelihood of the completion, log p(z, y | x), over the examples of ERPO's first stage: the
teacher's refusals of harmful prompts, and the policy's own answers to benign ones. With `imitate.traces` (the default)
each begins with its thought z, so that what the prefer stages of ERPO add can be read off; without, it is the safety
fine-tuning that SaRO (arXiv 2504.09420) and others compare with, on the answers y alone.

Assumption: the teacher's refusals are worth copying. Edge case: a benign prompt whose every answer is useless is left
out, so that a weak policy learns from more refusals than answers, and refuses too much.
"""

from __future__ import annotations

from erpo_ray.config import Config
from erpo_ray.methods import erpo
from erpo_ray.methods.base import Stage


def stages(config: Config) -> tuple[Stage, ...]:
    """SFT = imitate."""
    return (erpo.Imitate.of(config),)
