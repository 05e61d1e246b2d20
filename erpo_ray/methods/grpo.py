"""GRPO: group-relative policy optimisation (arXiv 2402.03300), with SCPO's gate in the reward (arXiv 2311.00880).

Draw K completions y_1 .. y_K of each prompt from the policy that the round starts from, p_old, and judge them. The
reward of one is r = (1 + utility) where it is safe and 0 where it is not, less a little for length; its advantage is
A_i = (r_i - mean of the group) / standard deviation of the group. With q = p(token) / p_old(token), the mean over all
tokens of a completion, all completions of a group and all groups of

    -min(q * A, clip(q, 1 - eps, 1 + eps) * A) + beta * KL(p || p_ref)

is minimised, in several steps; clipping keeps the later ones near to what was sampled. p_ref is the policy at the
round's start. No value model, no pairs: every completion of a group that differs in reward is learnt from.

Here p_old and p_ref are scored by the trainer before its first step, once. Samples are drawn at `prefer.draw`
(temperature, top-k), and both probabilities are those of the model itself.

RLOO (arXiv 2402.14740) is this with `reinforce.advantage: rloo`, and with tokens of equal weight by `normalise: token`;
there the KL is part of the reward and whole completions are weighed against p_old, here it is a term of the loss, and
tokens are. Dr. GRPO's advantage is `advantage: mean`; any reward of `judging.composition` goes.

`rounds.kind: reinforce` makes such rounds of the last stage of `erpo`.

Assumption: the reward says what is wanted. A policy gradient finds whatever the judge overlooks sooner than a
preference within a group does. Edge case: a group of equal rewards moves nothing and is left out; where all groups
are, the run stops.
"""

from __future__ import annotations

from erpo_ray.config import Config
from erpo_ray.methods import erpo, reinforced
from erpo_ray.methods.base import Stage


def stages(config: Config) -> tuple[Stage, ...]:
    """GRPO = imitate, reinforce x (1 + N)."""
    return (
        erpo.Imitate(config.imitate.fit.training(config.model.max_length, config.seed)),
        *reinforced.rounds(config, range(1 + config.rounds.count)),
    )
