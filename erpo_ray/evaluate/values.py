"""The process reward model of STAIR (arXiv 2502.02384), V(prompt, steps so far): what it learns from, its regression.

A run's rounds of preference and of reinforcement keep whatever they drew. The completions of a prompt make a tree
(`steps`), and the value of a node is the mean of R = S*H + 2S over the completions through it. V is linear in the
policy's own hidden state at the end of the step: ridge regression, weighed by visits, since a mean over n completions
has a variance of 1/n. The penalty is the one that foretells best what prompts lead to that it has not seen.

Assumption: what the policy is about to say stands in its last hidden state. Edge case: where every node has the same
value there is nothing to learn, and V is that value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from erpo_ray import traces
from erpo_ray.errors import UsageError
from erpo_ray.judging.composition import stair
from erpo_ray.rundir.lines import ledger_rows
from erpo_ray.steps import Drawn, grow
from erpo_ray.types import Candidate, Prompt, Verdict, seed_of

Ids = tuple[int, ...]
PENALTIES = (1.0, 10.0, 100.0, 1e3, 1e4, 1e5)
FOLDS = 5


@dataclass(frozen=True, slots=True)
class Valued:
    """A node: the prompt it belongs to, the ids from the begin of the prompt to the end of the step, value, visits."""

    prompt_id: str
    ids: Ids
    value: float
    visits: int


@dataclass(frozen=True, slots=True)
class Head:
    """V = weights * (state - mean) / scale + bias. All arrays are float32 of shape (width,).

    `correlation` is Pearson's, of V and the values of prompts that were held out, over `nodes` nodes; 0 without spread.
    """

    weights: np.ndarray
    mean: np.ndarray
    scale: np.ndarray
    bias: float
    correlation: float
    nodes: int

    def __call__(self, states: np.ndarray) -> np.ndarray:
        """Values of hidden states, (n,) of (n, width)."""
        return (states - self.mean) / self.scale @ self.weights + self.bias


def nodes(
    run: Path,
    prompts: Iterable[Prompt],
    render: Callable[[str], Ids],
    pieces: Callable[[Sequence[int]], list[str]],
    dialect: traces.Dialect,
) -> list[Valued]:
    """All nodes of the trees that a run's rounds kept, of preference or reinforcement. UsageError when it has none.

    `prompts` are those it trained on, `render` and `pieces` those of its renderer.
    """
    by_id = {prompt.id: prompt for prompt in prompts}
    found: list[Valued] = []
    for learnt in sorted([*run.glob("stages/*/pairs.jsonl"), *run.glob("stages/*/advantages.jsonl")]):
        verdicts = {row.candidate_id: row for row in ledger_rows(learnt.with_name("verdicts.jsonl"), Verdict)}
        drawn: dict[str, list[Drawn]] = {}
        for one in ledger_rows(learnt.with_name("candidates.jsonl"), Candidate):
            verdict = verdicts.get(one.id)
            if verdict and verdict.scores and one.token_ids:
                steps = traces.steps(pieces(one.token_ids), dialect)
                drawn.setdefault(one.prompt_id, []).append(Drawn(one.token_ids, steps, stair(verdict.scores)))
        for id, completions in drawn.items():
            asked = render(by_id[id].text)
            for node in grow(completions).nodes():
                if node.prefix:
                    found.append(Valued(id, (*asked, *node.prefix), node.value, node.visits))
    if not found:
        raise UsageError(
            f"{run}: has no round of preference or reinforcement whose completions a process reward model could learn "
            "from; set evaluate.decode.search.value to judge (best-of-n), or take a run with such rounds"
        )
    return found


def regress(states: np.ndarray, rows: Sequence[Valued]) -> Head:
    """The head of hidden states (n, width) on the values of these nodes."""
    values = np.array([row.value for row in rows])
    visits = np.array([row.visits for row in rows], dtype=np.float64)
    folds = np.array([seed_of("fold", row.prompt_id) % FOLDS for row in rows])
    mean, scale = states.mean(0), states.std(0)
    plain = (states - mean) / np.where(scale > 0, scale, 1.0)
    foretold = [_held_out(plain, values, visits, folds, penalty) for penalty in PENALTIES]
    errors = [float(visits @ (each - values) ** 2) for each in foretold]
    at = int(np.argmin(errors))
    weights, bias = ridge(plain, values, visits, PENALTIES[at])
    spread = min(foretold[at].std(), values.std())
    correlation = float(np.corrcoef(foretold[at], values)[0, 1]) if spread > 0 else 0.0
    weights, mean, scale = (each.astype(np.float32) for each in (weights, mean, np.where(scale > 0, scale, 1.0)))
    return Head(weights, mean, scale, bias, correlation, len(rows))


def ridge(states: np.ndarray, values: np.ndarray, visits: np.ndarray, penalty: float) -> tuple[np.ndarray, float]:
    """(w, b) that minimise sum of visits * (states w + b - values)^2 + penalty * |w|^2; b is not penalised."""
    share = visits / visits.sum()
    centre, level = share @ states, float(share @ values)
    apart = states - centre
    square = apart.T @ (visits[:, None] * apart) + penalty * np.eye(states.shape[1])
    weights = np.linalg.solve(square, apart.T @ (visits * (values - level)))
    return weights, level - float(centre @ weights)


def _held_out(
    states: np.ndarray, values: np.ndarray, visits: np.ndarray, folds: np.ndarray, penalty: float
) -> np.ndarray:
    """The value of each row as foretold from the prompts of the other folds; the mean where there are none."""
    found = np.full(len(values), np.average(values, weights=visits))
    for fold in np.unique(folds):
        rest = folds != fold
        if rest.any():
            weights, bias = ridge(states[rest], values[rest], visits[rest], penalty)
            found[~rest] = states[~rest] @ weights + bias
    return found
