"""SaRO: Safety-oriented Reasoning Optimization (arXiv 2504.09420).

(1) RW, reasoning-style warm-up: supervised on long chains of thought by a strong teacher (RIT-D). (2) SRPO,
safety-oriented reasoning process optimisation: DPO on two kinds of pairs,

    OP-COT, outcome: whole chains, the safe and useful end over the unsafe or useless one;
    PP-COT, process: behind one beginning, the chain that reflects on safety earlier, and rightly, over one that does
    so later, wrongly or never.

Shortest rejection sampling keeps chains short: of the samples that are correct and safe the shortest is learnt from.
The paper's body could not be read: names and aims are from its abstract and from reviews, and how pairs are built, and
every number, is this project's.

Here: the warm-up is ERPO's imitate stage; longer chains are a matter of teacher and `imitate.trace_cap`. A chain
reflects where it first names the intent of the request, `Harmful` or `Harmless`. K completions a prompt give the
outcome pairs, whose chosen side is the shortest of those about as useful as the best. Then, behind the beginning of the
chain that reflects last (`reflection.share` of the tokens before it does), K more are drawn, which give the process
pairs. Half of `prefer.max_pairs` are kept of either. Chosen sides bear an NLL term too (`prefer.nll`).

Assumption: to reflect early is to be safe at fewer tokens. Edge case: where all chains reflect at once, there is
nothing to share and no process pair; `left_out.jsonl` says so.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate

from erpo_ray import pairs as pairing
from erpo_ray import traces
from erpo_ray.config import Config
from erpo_ray.config.methods import Reflection
from erpo_ray.items import Item, usable
from erpo_ray.methods import erpo
from erpo_ray.methods.base import History, Stage, Task
from erpo_ray.methods.rounds import Round, by_prompt, in_rounds
from erpo_ray.types import Group, Label, LeftOut, Pair, Request, identity


def stages(config: Config) -> tuple[Stage, ...]:
    """SaRO = imitate, prefer x (1 + N)."""
    return erpo.Imitate.of(config), *in_rounds(config, partial(Prefer, reflection=config.reflection))


@dataclass(frozen=True, slots=True)
class Prefer(Round):
    """SRPO: outcome and process pairs of one round."""

    reflection: Reflection = field(default_factory=Reflection)

    def follow(self, task: Task, history: History, groups: Sequence[Group]) -> list[Request]:
        """Once, K more behind the beginning of each prompt's chain that reflects last."""
        found = []
        for group, passes in by_prompt(groups):
            prefix = self._beginning(task, group) if passes == 1 else ()
            if prefix:
                found.append(self.behind(task, group, prefix, task.config.prefer.samples))
        return found

    def pairs(self, task: Task, history: History, groups: Sequence[Group]) -> tuple[list[Pair], list[LeftOut]]:
        """OP-COT on whole chains, PP-COT behind shared beginnings."""
        prefer, seed = task.config.prefer, self.seed(task)
        half = prefer.model_copy(update={"max_pairs": max(1, prefer.max_pairs // 2)})
        first = [group for group in groups if not _given(group)]
        second = [group for group in groups if _given(group)]

        def earlier(group: Group, items: Sequence[Item]) -> list[Pair] | str:
            chains = [(item, self._reflects(task, group.prompt.label, item.candidate.token_ids)) for item in items]
            return process_pairs(group, chains, _given(group), self.reflection.margin)

        outcome, left_out = pairing.choose(first, half, cap={}, prefer_short=False, seed=seed)
        process, unused = pairing.collect(second, earlier, half, prefer_short=False, seed=seed)
        return [*outcome, *process], [*left_out, *unused]

    def _beginning(self, task: Task, group: Group) -> tuple[int, ...]:
        """Ids that continuations share; empty where no chain reflects, or all do at once."""
        items, _ = usable(group, task.config.prefer, None, self.traced)
        chains = [
            (at, item.candidate.token_ids)
            for item in items
            if (at := self._reflects(task, group.prompt.label, item.candidate.token_ids)) is not None
        ]
        if not chains:
            return ()
        at, ids = max(chains)
        return ids[: int(at * self.reflection.share)]

    def _reflects(self, task: Task, label: Label, ids: Sequence[int]) -> int | None:
        return reflects(task.renderer.pieces(ids), label)


def reflects(pieces: Sequence[str], label: Label) -> int | None:
    """The token with which a chain first names the intent that its prompt has; None where it names none or the other.

    pieces: the text that each token adds.
    """
    text = "".join(pieces)
    at = traces.intent(text)
    if at is None or not text[: at + 1].endswith("Harmful" if label == "harmful" else "Harmless"):
        return None
    return bisect_right([*accumulate(map(len, pieces))], at)


def process_pairs(group: Group, chains: Sequence[tuple[Item, int | None]], given: int, margin: int) -> list[Pair] | str:
    """The chain that passes and reflects first, over the one that reflects last, `margin` tokens later at least.

    One that never reflects, or wrongly, counts as the last of all. `given` tokens are shared by all.
    """
    good = [(at, item) for item, at in chains if item.kind == "length" and at is not None]
    if not good:
        return "no chain behind the beginning reflects and passes"
    first, chosen = min(good, key=lambda each: (each[0], each[1].scores.length))
    late = [(item, at) for item, at in chains if at is None or at >= first + margin]
    if not late:
        return f"no chain behind the beginning reflects {margin} tokens later"
    # Never before late, and what went wrong before what passes.
    rejected, at = max(late, key=lambda each: (each[1] is None, each[0].kind != "length", each[1] or 0))
    told = "never reflects rightly" if at is None else f"reflects {at - first} tokens later"
    return [
        Pair(
            id=identity("process", chosen.candidate.id, rejected.candidate.id),
            prompt_id=group.prompt.id,
            prompt_ids=group.prompt_ids,
            prefix_ids=chosen.candidate.token_ids[:given],
            chosen_ids=chosen.candidate.token_ids[given:],
            rejected_ids=rejected.candidate.token_ids[given:],
            weight=1.0,
            kind=rejected.kind,
            reason=f"process: rejected {told}",
            length_weight=float(rejected.kind == "length"),
        )
    ]


def _given(group: Group) -> int:
    return group.candidates[0].given if group.candidates else 0
