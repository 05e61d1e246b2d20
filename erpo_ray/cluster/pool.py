"""The rollout loop: keep every worker busy, judge as samples arrive, survive lost workers. Knows no Ray.

Workers pull: each holds a bounded number of samples and is topped up whenever it reports, so that nothing is split
beforehand and nothing waits for the slowest. Judges take whatever has been sampled as soon as they are free.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from erpo_ray.cluster.pace import Pace
from erpo_ray.cluster.protocol import Crew, Drawn, Item, WorkerLost
from erpo_ray.cluster.sense import ANY, IN_A_ROW, Sense, tokens_of, verdicts_of
from erpo_ray.engines.vllm import Finished
from erpo_ray.errors import RunFailed
from erpo_ray.types import Candidate, Failure, Prompt, Request, Verdict

JUDGE_BATCH = 32
BACKLOG = 64 * JUDGE_BATCH
"""Candidates that may wait for each judge worker: beyond that, rollout workers get nothing new."""
SPARE = 0.25
"""Share of samples a worker holds beyond what its engine runs at once, so that a finished one is followed at once."""
LOSSES_IN_A_ROW = 3
"""Losses of one worker, without a result of anyone in between, after which the run stops. A node takes all of its
workers with it at once, which says nothing of any of them."""
CALL_DEADLINE_S = 1800.0
"""A call that takes longer is lost: engine start and the slowest judge are minutes even for large models. Rollout
workers that are up are held to their `Pace`."""
LAST_LOOK_S = 2.0
"""An answer may lie there, unread by a driver that was itself stopped for a while."""


@dataclass(frozen=True, slots=True)
class _Call:
    kind: Literal["rollout", "judge"]
    worker: int
    since: float


class Pool:
    """One pass over requests: samples them, yields every candidate before a judge sees it, then its verdict.

    A request is a sample of one prompt; (prompt id, sample) occurs once in a pass. `unjudged` are candidates of an
    earlier start that still want a verdict. `candidate_id` names a sample. Workers in `absent` have yet to come up, as
    have those that take the place of lost ones: they get samples when they are there. So do judges, each of which is
    asked first whether it is up: its node may be gone. `note` hears of each loss.
    `asks`: engines ask others between two tokens, and may wait for them as long as any call may take. What they answer
    is believed as far as `sense` finds it possible.
    Once `stop` says so nothing more is asked of engines; the pass ends when what they hold is drawn and judged.
    """

    def __init__(
        self,
        crew: Crew,
        requests: Iterable[Request],
        unjudged: Sequence[Item],
        candidate_id: Callable[[str, int], str],
        in_flight: int,
        clock: Callable[[], float] = time.monotonic,
        absent: Collection[int] = (),
        note: Callable[[str], None] = lambda line: None,
        asks: bool = False,
        sense: Sense = ANY,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self._crew, self._name, self._clock, self._note = crew, candidate_id, clock, note
        self._absent = absent
        self._source = iter(requests)
        self._again: deque[Request] = deque()
        self._room = in_flight + max(1, int(in_flight * SPARE))
        self._held: list[dict[tuple[str, int], Request]] = [{} for _ in range(crew.rollout_workers)]
        self._unjudged: deque[Item] = deque(unjudged)
        self._judging: list[list[Item]] = [[] for _ in range(crew.judge_workers)]
        self._judges_up: set[int] = set()
        self._calls: dict[Any, _Call] = {}
        self._losses: Counter[tuple[str, int]] = Counter()
        self._down: set[int] = set()
        self._pace = Pace(crew.rollout_workers)
        self._asks, self._sense, self._stop = asks, sense, stop
        self._asked: Counter[int] = Counter()
        self._nonsense: Counter[int] = Counter()

    def run(self) -> Iterator[Candidate | Verdict]:
        """Until every request has a candidate, or it is to stop, and every candidate a verdict."""
        for worker in range(self._crew.rollout_workers):
            if worker in self._absent:
                self._await(worker)
            else:
                self._advance(worker)
        for worker in range(self._crew.judge_workers):
            self._call("judge", worker, self._crew.judge(worker, ()))
        while self._going():
            ready = self._crew.wait(list(self._calls), 1.0)
            calls = [(self._calls[ticket], ticket) for ticket in [*ready, *self._overdue(ready)]]
            # All workers go on before the caller stores what is yielded here, and judges between one and the next.
            sampled = [(call, self._sampled(call, ticket)) for call, ticket in calls if call.kind == "rollout"]
            # Results first: they say that not every worker is lost.
            for call, done in sorted(sampled, key=lambda each: isinstance(each[1], WorkerLost)):
                yield from self._given(call, done)
                yield from self._meanwhile()
            for call, ticket in calls:
                if call.kind == "judge" and ticket in self._calls:
                    yield from self._judged(call, ticket)

    def _going(self) -> bool:
        """Something is being drawn or judged, or waits to be. A worker that has yet to come up is no work by itself."""
        if any(self._judging) or any(self._held):
            return True
        if self._stop():
            return bool(self._unjudged and self._calls)
        if not self._again and (request := next(self._source, None)):
            self._again.append(request)
        return bool((self._again or self._unjudged) and self._calls)

    def _meanwhile(self) -> Iterator[Verdict]:
        """What judges have to say by now."""
        judging = {ticket: call for ticket, call in self._calls.items() if call.kind == "judge"}
        for ticket in self._crew.wait(list(judging), 0.0) if judging else ():
            yield from self._judged(judging[ticket], ticket)

    def _sampled(self, call: _Call, ticket: Any) -> list[tuple[Prompt, Finished]] | WorkerLost:
        """What the worker has finished; it goes on at once, unless it is lost."""
        del self._calls[ticket]
        held = self._held[call.worker]
        try:
            news = self._sense.news(call.worker, self._result(call, ticket))
            finished = [one for one in news if isinstance(one, Finished)]
            _require_asked(call, [(one.prompt_id, one.sample) for one in finished], held)
            finished = [self._sound(call.worker, one, held[one.prompt_id, one.sample]) for one in finished]
            if held:
                self._got_on(call.worker, news)
        except WorkerLost as error:
            self._down.add(call.worker)
            return error
        done = [(held.pop((one.prompt_id, one.sample)).prompt, one) for one in finished]
        self._advance(call.worker)
        return done

    def _given(self, call: _Call, done: list[tuple[Prompt, Finished]] | WorkerLost) -> Iterator[Candidate | Verdict]:
        if isinstance(done, WorkerLost):
            held = self._held[call.worker]
            self._again.extendleft(reversed(_outstanding(held)))
            self._lost(call, done, f"{len(held)} samples are drawn again")
            held.clear()
            self._crew.replace_rollout(call.worker)
            self._down.remove(call.worker)
            del self._asked[call.worker], self._nonsense[call.worker]
            self._pace.replaced(call.worker, self._clock())
            self._await(call.worker)
            self._wake()
            return
        if done:
            self._losses.clear()
        for prompt, one in done:
            name = self._name(prompt.id, one.sample)
            candidate = Candidate(
                name, prompt.id, one.sample, one.token_ids, one.text, one.finish, one.policy, one.seconds, one.given
            )
            yield candidate
            if one.finish == "error":
                yield Verdict(candidate.id, "engine", failure=Failure("not_sampled", one.error))
            else:
                self._unjudged.append((prompt, candidate))
        self._judge()

    def _judged(self, call: _Call, ticket: Any) -> Iterator[Verdict]:
        del self._calls[ticket]
        items, self._judging[call.worker] = self._judging[call.worker], []
        try:
            verdicts = verdicts_of(call.worker, self._result(call, ticket))
            told = [verdict.candidate_id for verdict in verdicts]
            _require_asked(call, told, asked := {candidate.id for _, candidate in items})
            if len(told) < len(asked):
                raise WorkerLost(
                    f"judge worker {call.worker} left out {len(asked) - len(told)} of {len(asked)} verdicts"
                )
            self._judges_up.add(call.worker)
        except WorkerLost as error:
            self._unjudged.extendleft(reversed(items))
            self._judges_up.discard(call.worker)
            self._lost(call, error, f"{len(items)} candidates are judged again")
            self._crew.replace_judge(call.worker)
            self._call("judge", call.worker, self._crew.judge(call.worker, ()))
            verdicts = []
        if verdicts:
            self._losses.clear()
        self._judge()
        self._wake()
        yield from verdicts

    def _advance(self, worker: int) -> None:
        """Top the worker up and let it go on; without anything to do it rests."""
        held = self._held[worker]
        if not held:
            self._pace.asked(worker, self._clock())
        new: list[Request] = []
        full = len(self._unjudged) >= BACKLOG * self._crew.judge_workers
        while not full and (room := self._room - len(held)) > 0 and (request := self._next(room)):
            held.update({(request.prompt.id, sample): request for sample in request.samples})
            new.append(request)
        self._asked[worker] += tokens_of(new)
        if held:
            self._call("rollout", worker, self._crew.advance(worker, new))

    def _await(self, worker: int) -> None:
        """Nothing is given to it before it is up: of a machine that never comes back nobody waits for samples."""
        self._call("rollout", worker, self._crew.advance(worker, ()))

    def _wake(self) -> None:
        """Workers at rest get what there is to do; not those that are lost and have yet to be replaced."""
        busy = self._down | {call.worker for call in self._calls.values() if call.kind == "rollout"}
        for worker in range(self._crew.rollout_workers):
            if worker not in busy:
                self._advance(worker)

    def _next(self, room: int) -> Request | None:
        """The next request, cut to `room` samples."""
        if self._stop():
            return None
        request = self._again.popleft() if self._again else next(self._source, None)
        if request is None or len(request.samples) <= room:
            return request
        self._again.appendleft(replace(request, samples=request.samples[room:]))
        return replace(request, samples=request.samples[:room])

    def _judge(self) -> None:
        for worker in sorted(self._judges_up):
            items = self._judging[worker]
            if self._unjudged and not items:
                items += [self._unjudged.popleft() for _ in range(min(JUDGE_BATCH, len(self._unjudged)))]
                self._call("judge", worker, self._crew.judge(worker, items))

    def _call(self, kind: Literal["rollout", "judge"], worker: int, ticket: Any) -> None:
        self._calls[ticket] = _Call(kind, worker, self._clock())

    def _overdue(self, ready: Sequence[Any]) -> list[Any]:
        now = self._clock()
        return [t for t, call in self._calls.items() if t not in ready and self._silent(call, now)]

    def _silent(self, call: _Call, now: float) -> float:
        """Seconds without a sign from the worker of a call, when they are too many; 0 otherwise."""
        if call.kind == "rollout" and self._held[call.worker] and not self._asks:
            return self._pace.stands(call.worker, now)
        return now - call.since if now - call.since > CALL_DEADLINE_S else 0.0

    def _result(self, call: _Call, ticket: Any) -> list[Any]:
        seconds = self._silent(call, self._clock())
        if seconds and not self._crew.wait([ticket], LAST_LOOK_S):
            drawn = f" after {self._pace.tokens(call.worker)} tokens" if call.kind == "rollout" else ""
            raise WorkerLost(f"{call.kind} worker {call.worker} gave no sign for {seconds:.0f} s{drawn}")
        return self._crew.result(ticket)

    def _got_on(self, worker: int, news: Sequence[Finished | Drawn]) -> None:
        """WorkerLost when the worker answers, but has drawn no token for too long."""
        now = self._clock()
        tokens = next((one.tokens for one in news if isinstance(one, Drawn)), None)
        self._sense.require_end(worker, tokens or 0, self._asked[worker])
        self._pace.told(worker, tokens, any(isinstance(one, Finished) for one in news), now)
        if not self._asks and (seconds := self._pace.stands(worker, now)):
            raise WorkerLost(f"rollout worker {worker} answers, but has drawn no token for {seconds:.0f} s")

    def _sound(self, worker: int, one: Finished, request: Request) -> Finished:
        """As `sense` finds it. WorkerLost when it is one too many of this worker that cannot be."""
        found = self._sense.sound(one, request)
        self._nonsense[worker] = self._nonsense[worker] + 1 if found is not one else 0
        if self._nonsense[worker] >= IN_A_ROW:
            raise WorkerLost(f"rollout worker {worker} answered nonsense {IN_A_ROW} times in a row: {found.error}")
        return found

    def _lost(self, call: _Call, error: WorkerLost, next_: str) -> None:
        """Tell of it; RunFailed when it was one too many. Losses that no worker can be blamed for count for nothing."""
        with_node = " with its node" if error.with_node else ""
        self._note(f"{call.kind} worker {call.worker} was lost{with_node}, {next_}: {error}")
        self._losses[call.kind, call.worker] += not error.with_node
        if self._losses[call.kind, call.worker] >= LOSSES_IN_A_ROW:
            raise RunFailed(
                f"{call.kind} worker {call.worker} was lost {LOSSES_IN_A_ROW} times in a row without a result of any; "
                f"the last: {error}. "
                "Look for memory (cluster.kv_cache_gib, cluster.in_flight) and start the same command again"
            ) from error


def _require_asked(call: _Call, told: Sequence[object], asked: Container[object]) -> None:
    """WorkerLost when a worker tells of what it was not asked for, or twice of the same: it is not in its senses."""
    if strange := next((one for one in told if one not in asked), None):
        raise WorkerLost(f"{call.kind} worker {call.worker} answered {strange}, which it was not asked for")
    if len(set(told)) < len(told):
        raise WorkerLost(f"{call.kind} worker {call.worker} answered twice for the same")


def _outstanding(held: dict[tuple[str, int], Request]) -> list[Request]:
    """The held samples as requests again, those that came together still together."""
    samples: dict[int, list[int]] = {}
    for (_, sample), request in held.items():
        samples.setdefault(id(request), []).append(sample)
    whole = {id(request): request for request in held.values()}
    return [replace(whole[key], samples=tuple(left)) for key, left in samples.items()]
