"""C-DPO: constrained DPO by dual gradient descent (arXiv 2403.02475).

Maximise the reward, E[r] - beta KL, subject to E[c] <= C. The Lagrangian has the reward r_lambda = r - lambda c, so the
inner problem is DPO on preferences after r_lambda, p*(y1 over y2) = sigmoid(r_lambda(y1) - r_lambda(y2)), and the outer
one a step on lambda between rounds: lambda <- max(0, lambda + eta (E[c] - C)), with E[c] over what the policy that was
trained for lambda says. Reward and cost are judged apart: r is utility, c = (1 - safety) / 2.

Here: the first round has lambda_0; each later one estimates E[c] from its own samples, which the last round's policy
wrote, steps, and pairs the best with the worst of each group after r_lambda. Of two candidates the more probable order
is taken; `prefer.smoothing` puts the noise of p* back. The prompts of a round are drawn without regard to what went
wrong before, or the estimate would be biased. Lambda, cost and the share of prompts above the limit are in the stage's
`outcome.json`. The method ends when what a policy says meets the constraint and that is tight, or lambda was 0 for it
(complementary slackness, within `constraint.tolerance`), at the latest after 1 + `rounds.count` rounds. After a round
that the gate rejected lambda stays: no policy shows what it is worth.

C, eta and the paper's number of steps are not known here and are config fields. The paper starts from a model that was
fine-tuned before; so does this, with ERPO's imitate stage. Chosen sides bear an NLL term too (`prefer.nll`). What a
round trained is measured by the next one's samples: the criterion can hold from the third round on, and the policy of
that round, one step of training behind the one that met it, is handed on.

Assumption: r and c are two opinions. Where a judge gives harm the lowest utility too, as the rule judge does, lambda
changes the size of a difference and seldom its sign. Edge case: with a small lambda an unsafe completion of great use
can be chosen; no other method here allows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import fmean

from erpo_ray import pairs as pairing
from erpo_ray.config import Config
from erpo_ray.config.methods import Constraint
from erpo_ray.errors import UsageError
from erpo_ray.items import Item, alike
from erpo_ray.judging import UNFINISHED
from erpo_ray.judging.composition import cost, lagrangian
from erpo_ray.methods import erpo
from erpo_ray.methods.base import History, Stage, Task
from erpo_ray.methods.rounds import Round, in_rounds
from erpo_ray.types import Group, LeftOut, Pair

MULTIPLIER, COST, VIOLATIONS = "multiplier", "cost", "violations"
"""Names in a round's state: lambda, the mean cost, and the share of prompts whose own mean is above the limit."""


def stages(config: Config) -> tuple[Stage, ...]:
    """C-DPO = imitate, prefer x (1 + N), fewer when it converges. UsageError where samples would be drawn ahead."""
    if config.overlap != "none":
        raise UsageError(
            f"overlap is {config.overlap}, but a step on lambda follows on what the policy trained for it says; "
            "set overlap=none"
        )
    make = partial(
        Prefer,
        traced=config.imitate.traces,
        constraint=config.constraint,
        start=config.prefer.lagrange_multiplier,
    )
    return erpo.Imitate.of(config), *in_rounds(config, make)


@dataclass(frozen=True, slots=True)
class Prefer(Round):
    """DPO for one multiplier."""

    constraint: Constraint = field(default_factory=Constraint)
    start: float = 0.0

    def first(self, history: History) -> frozenset[str]:
        """No prompts come first."""
        return frozenset()

    def pairs(self, task: Task, history: History, groups: Sequence[Group]) -> tuple[list[Pair], list[LeftOut]]:
        """The best over the worst of each group after r - lambda c."""
        multiplier, margin = self.multiplier(history, groups), self.constraint.margin

        def rule(group: Group, items: Sequence[Item]) -> list[Pair] | str:
            return extremes(group, items, multiplier, margin)

        settings = task.config.prefer
        return pairing.collect(groups, rule, settings, prefer_short=False, seed=self.seed(task), traced=self.traced)

    def state(self, history: History, groups: Sequence[Group]) -> dict[str, float]:
        """The multiplier of this round, and what was measured for it."""
        means = list(costs(groups).values())
        state = {MULTIPLIER: self.multiplier(history, groups)}
        if means:
            above = sum(mean > self.constraint.cost_limit for mean in means)
            state |= {COST: fmean(means), VIOLATIONS: above / len(means)}
        return state

    def over(self, history: History) -> bool:
        """Whether the policy of the round before the last met the constraint, at a multiplier at rest.

        A round measures the policy that it starts from: its cost belongs to the multiplier of the round before.
        """
        if len(history.outcomes) < 2 or COST not in history.last.state:
            return False
        before, cost = history.outcomes[-2], history.last.state[COST]
        return (
            before.accepted
            and MULTIPLIER in before.state
            and converged(before.state[MULTIPLIER], cost, self.constraint)
        )

    def multiplier(self, history: History, groups: Sequence[Group]) -> float:
        """Lambda of this round: a step from the last round's, by the cost of what its policy says.

        No step follows on a round that was rejected: what is measured is not the policy of its lambda.
        """
        last = history.last.state.get(MULTIPLIER)
        means = list(costs(groups).values())
        if last is None:
            return self.start
        return dual_step(last, fmean(means), self.constraint) if means and history.last.accepted else last


def dual_step(multiplier: float, mean_cost: float, constraint: Constraint) -> float:
    """lambda + eta (E[c] - C), in [0, `max_multiplier`]."""
    stepped = multiplier + constraint.rate * (mean_cost - constraint.cost_limit)
    return min(constraint.max_multiplier, max(0.0, stepped))


def converged(multiplier: float, mean_cost: float, constraint: Constraint) -> bool:
    """The constraint holds, and is tight unless the multiplier is 0; both within the tolerance."""
    excess = mean_cost - constraint.cost_limit
    return excess <= constraint.tolerance and (multiplier == 0 or excess >= -constraint.tolerance)


def costs(groups: Sequence[Group]) -> dict[str, float]:
    """Mean cost of each prompt's candidates, by prompt id.

    One that was not judged, or did not come to an answer, is neither safe nor unsafe and does not count.
    """
    found: dict[str, list[float]] = {}
    for group in groups:
        for verdict in group.verdicts:
            if verdict.scores and UNFINISHED not in verdict.notes:
                found.setdefault(group.prompt.id, []).append(cost(verdict.scores))
    return {id: fmean(values) for id, values in found.items()}


def extremes(group: Group, items: Sequence[Item], multiplier: float, margin: float) -> list[Pair] | str:
    """The pair of the highest and the lowest r - lambda c, `margin` or more apart; or why there is none.

    Only a candidate that ended in due form is chosen. Of equals the first, which is the shortest.
    """

    def reward(item: Item) -> float:
        return lagrangian(item.scores, multiplier)

    whole = [item for item in items if item.whole]
    if not whole:
        return "no candidate ended in due form"
    chosen = max(whole, key=reward)
    worse = [item for item in items if reward(chosen) - reward(item) >= margin and not alike(chosen, item)]
    if not worse:
        return f"no two candidates are {margin:g} apart in reward - {multiplier:g} * cost"
    rejected = min(worse, key=reward)
    kind = "utility" if rejected.kind == "length" else rejected.kind
    fault = f"reward - {multiplier:.2f} * cost is {reward(rejected):.2f} against {reward(chosen):.2f}"
    return [pairing.pair(group, chosen, rejected, kind, fault)]
