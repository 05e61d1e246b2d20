"""Sampling and judging into a stage's ledgers, and reading them back as groups. Nothing is lost or sampled twice."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain

from erpo_ray import stopping
from erpo_ray.backend import Ahead, Backend
from erpo_ray.errors import RunFailed, UsageError
from erpo_ray.faults import check_failures, to_judge_again
from erpo_ray.groups import Groups
from erpo_ray.judging import canaries
from erpo_ray.rundir import Ledger, StageDir
from erpo_ray.types import Candidate, Group, Policy, Prompt, Request, Verdict, identity

Phase = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""Opens a progress bar: name and total in, a context manager that yields `tick(n)` out."""


def explore(
    s: StageDir,
    requests: Sequence[Request],
    policy: Policy,
    backend: Backend,
    run: str,
    phase: Phase,
    max_failure_rate: float,
    prefix: str = "",
    ahead: Ahead | None = None,
) -> Sequence[Group]:
    """All samples asked for, judged: those in the ledgers already, and the rest drawn from `policy` now.

    RunFailed when more than `max_failure_rate` of the verdicts are failures. The next start asks for these again.
    """
    (part,) = sample([Part.of(s, requests, run, max_failure_rate, prefix)], policy, backend, run, phase, ahead)
    check_failures(groups := part.groups(run), max_failure_rate)
    return groups


@dataclass(frozen=True, slots=True)
class Part:
    """What one stage asks in a pass, and the two ledgers that its answers and verdicts go into."""

    stage: str
    requests: Sequence[Request]
    candidates: Ledger[Candidate]
    verdicts: Ledger[Verdict]

    @classmethod
    def of(cls, s: StageDir, requests: Sequence[Request], run: str, max_failure_rate: float, prefix: str = "") -> Part:
        """The ledgers as they are; where so many verdicts failed that the stage had to stop, without those."""
        candidates = s.ledger(f"{prefix}candidates.jsonl", Candidate)
        verdicts = s.ledger(f"{prefix}verdicts.jsonl", Verdict, after=candidates)
        part = cls(f"{s.path.name}/{prefix}", requests, candidates, verdicts)
        again = set() if s.sealed else to_judge_again(verdicts, part.asked(run), part.wanted, max_failure_rate)
        if not again:
            return part
        _take_out(s, verdicts, again)
        return replace(part, verdicts=s.ledger(verdicts.path.name, Verdict, after=candidates))

    @property
    def title(self) -> str:
        stage, _, prefix = self.stage.partition("/")
        return f"{stage} {prefix.strip('_') or 'rollout'}"

    @property
    def wanted(self) -> int:
        """Samples asked for, those that are there among them."""
        return sum(len(request.samples) for request in self.requests)

    def asked(self, run: str) -> Iterator[str]:
        """Ids of all samples asked for."""
        for request in self.requests:
            yield from (identity(run, self.stage, request.prompt.id, k) for k in request.samples)

    def lacking(self, run: str) -> int:
        """Samples asked for that have no verdict yet."""
        return sum(id not in self.verdicts for id in self.asked(run))

    def unjudged(self) -> list[tuple[Prompt, Candidate]]:
        """Samples of an earlier start that still want a verdict.

        The ledgers may hold more than this pass asks for: a later pass of the stage, cut off, asked for that.
        """
        prompts = {(request.prompt.id, k): request.prompt for request in self.requests for k in request.samples}
        open_ = (c for c in self.candidates if c.id not in self.verdicts)
        return [(prompts[key], c) for c in open_ if (key := (c.prompt_id, c.sample)) in prompts]

    def groups(self, run: str) -> Groups:
        """What was asked for and is judged: to be called when the part is whole."""
        name = partial(identity, run, self.stage)
        return Groups(self.requests, name, self.candidates.reader(), self.verdicts.reader())

    def require(self, policy: Policy) -> None:
        """UsageError when an earlier start drew from another policy: no stage mixes two."""
        for candidate in self.candidates:
            if not policy.drew(candidate.policy):
                path = self.candidates.path
                raise UsageError(
                    f"{path}: candidate {candidate.id} was drawn from policy {candidate.policy}, but this stage draws "
                    f"from {policy.version} ({policy.path}). Bring the weights back that were there, or move "
                    f"{path.parent} and the stages after it away and start the same command again"
                )


def sample(
    parts: Sequence[Part],
    policy: Policy,
    backend: Backend,
    run: str,
    phase: Phase,
    ahead: Ahead | None = None,
) -> Iterator[Part]:
    """Draw and judge in one pass what the parts lack, and yield each as soon as it is whole.

    No part waits for the last completions of the one before it. What was sampled stays in the ledgers: their rows can
    be read one by one. Asked to stop, it is Interrupted once all that was drawn is there with its verdict.
    """
    for part in parts:
        part.require(policy)
    lacking = {part.stage: part.lacking(run) for part in parts}
    yield from (part for part in parts if not lacking[part.stage])
    parts = [part for part in parts if lacking[part.stage]]
    if not parts:
        return
    todo = [list(_missing(part.requests, part.candidates, run, part.stage)) for part in parts]
    if any(todo):
        backend.prepare(policy)
    title = parts[0].title if len(parts) == 1 else f"{parts[0].title} and {len(parts) - 1} more"
    with stopping.patiently(), phase(title, sum(part.wanted for part in parts)) as tick:
        tick(sum(part.wanted - lacking[part.stage] for part in parts))
        for part, item in _drawn(parts, todo, backend, run, ahead):
            if isinstance(item, Candidate):
                if not policy.drew(item.policy):
                    raise RunFailed(
                        f"a worker drew candidate {item.id} from policy {item.policy}, but {policy.version} is asked; "
                        "nothing of it is kept. Start the same command again"
                    )
                part.candidates.append(item)
                continue
            part.verdicts.append(item)
            tick(1)
            lacking[part.stage] -= 1
            if not lacking[part.stage]:
                part.candidates.sync()
                part.verdicts.sync()
                yield part


def _drawn(
    parts: Sequence[Part],
    todo: Sequence[Sequence[Request]],
    backend: Backend,
    run: str,
    ahead: Ahead | None,
) -> Iterator[tuple[Part, Candidate | Verdict]]:
    """What the backend gives, each with the part it belongs to."""
    if len(parts) == 1:
        found = backend.rollouts(todo[0], parts[0].unjudged(), partial(identity, run, parts[0].stage), ahead)
        yield from ((parts[0], item) for item in found)
        return
    unjudged = [part.unjudged() for part in parts]
    parts_of = {c.id: part for part, items in zip(parts, unjudged, strict=True) for _, c in items}
    # Two parts may ask the same prompt: within the pass its id carries the number of its part.
    requests = (
        replace(request, prompt=replace(request.prompt, id=f"{number}/{request.prompt.id}"))
        for number, missing in enumerate(todo)
        for request in missing
    )

    def home(key: str) -> tuple[Part, str]:
        number, _, prompt_id = key.partition("/")
        return parts[int(number)], prompt_id

    def name(key: str, sample: int) -> str:
        part, prompt_id = home(key)
        return identity(run, part.stage, prompt_id, sample)

    for item in backend.rollouts(requests, [*chain(*unjudged)], name):
        if isinstance(item, Candidate):
            part, prompt_id = home(item.prompt_id)
            parts_of[item.id] = part
            yield part, replace(item, prompt_id=prompt_id)
        else:
            yield parts_of.pop(item.candidate_id), item


def prove_judge(s: StageDir, backend: Backend, run: str) -> None:
    """Put the canaries to the judge, once a stage. RunFailed when a verdict is not the known one; then none is kept."""

    def ask() -> list[Verdict]:
        found = backend.rollouts((), canaries.cases(), partial(identity, run, s.path.name))
        verdicts = [item for item in found if isinstance(item, Verdict)]
        if wrong := canaries.misses(verdicts):
            raise RunFailed(
                f"stage {s.path.name}: the judge misses cases with known verdicts: {'; '.join(wrong)}. "
                "Mend or change the judge (`erpo judge-check` measures it) and start the same command again"
            )
        return verdicts

    s.once("canaries.jsonl", Verdict, ask)


def _take_out(s: StageDir, verdicts: Ledger[Verdict], gone: Container[str]) -> None:
    """Give the ledger's name to one without these rows, which grows beside it: after a crash either is whole."""
    name = f"{verdicts.path.stem}_kept.jsonl"
    if s.files.exists(s.path / name):
        s.files.remove(s.path / name)  # of a start that was cut off in here
    kept = s.ledger(name, Verdict)
    for verdict in verdicts:
        if verdict.candidate_id not in gone:
            kept.append(verdict)
    for ledger in (kept, verdicts):
        ledger.close()
    s.files.rename(kept.path, verdicts.path)
    s.files.syncdir(s.path)


def _missing(requests: Iterable[Request], have: Container[str], run: str, stage: str) -> Iterator[Request]:
    for request in requests:
        wanted = tuple(k for k in request.samples if identity(run, stage, request.prompt.id, k) not in have)
        if wanted:
            yield request if wanted == request.samples else replace(request, samples=wanted)
