"""The rollout loop over scripted workers: what is sampled, when it is judged, and what a lost worker costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from erpo_ray.cluster import canary
from erpo_ray.cluster import pool as pool_module
from erpo_ray.cluster.pool import JUDGE_BATCH, Pool
from erpo_ray.cluster.protocol import Drawn, Item, WorkerLost
from erpo_ray.cluster.workers import require
from erpo_ray.engines.vllm import Finished
from erpo_ray.errors import RunFailed
from erpo_ray.train.weights import version
from erpo_ray.types import Candidate, Policy, Prompt, Request, Sampling, Scores, Verdict

DRAW = Sampling(temperature=1.0, max_tokens=8)


class Script:
    """Workers that finish `speed` samples a call; calls named in `broken` are lost. Records all it was asked.

    Judges in `judges_gone` never come up. Whether they are up is asked by calls without a number.
    """

    def __init__(self, speeds: Sequence[int] = (2,), judges: int = 1) -> None:
        self.rollout_workers, self.judge_workers = len(speeds), judges
        self.speeds = speeds
        self.holding: list[list[tuple[str, int]]] = [[] for _ in speeds]
        self.most = [0] * len(speeds)
        self.log: list[tuple[Any, ...]] = []
        self.batches: list[int] = []
        self.broken: set[int] = set()
        self.silent: set[int] = set()
        self.refused: set[str] = set()
        self.judges_gone: set[int] = set()
        self._calls: list[Any] = []

    def _ticket(self, call: Any) -> int:
        self._calls.append(call)
        return len(self._calls) - 1

    def advance(self, worker: int, requests: Sequence[Request]) -> int:
        self.holding[worker] += [(r.prompt.id, sample) for r in requests for sample in r.samples]
        self.most[worker] = max(self.most[worker], len(self.holding[worker]))

        def call() -> list[Finished]:
            done, self.holding[worker] = (
                self.holding[worker][: self.speeds[worker]],
                self.holding[worker][self.speeds[worker] :],
            )
            return [self._finished(prompt_id, sample, worker) for prompt_id, sample in done]

        return self._ticket(call)

    def _finished(self, prompt_id: str, sample: int, worker: int) -> Finished:
        if prompt_id in self.refused:
            return Finished(prompt_id, sample, (), "", "error", "v", "prompt too long")
        return Finished(prompt_id, sample, (sample, worker), f"{prompt_id}/{sample}", "stop", "v")

    def judge(self, worker: int, items: Sequence[Item]) -> Any:
        if not items:
            return "up", worker, len(self.log)
        assert worker not in self.judges_gone
        self.log += [("judge", candidate.id) for _, candidate in items]
        self.batches.append(len(items))
        return self._ticket(lambda: [Verdict(c.id, "test", Scores(1.0, 1.0, 2)) for _, c in items])

    def wait(self, tickets: Sequence[Any], timeout_s: float) -> Sequence[Any]:
        ready = [ticket for ticket in tickets if ticket not in self.silent]
        return [ticket for ticket in ready if isinstance(ticket, int) or ticket[1] not in self.judges_gone][:1]

    def result(self, ticket: Any) -> list[Any]:
        if ticket in self.broken:
            raise WorkerLost("killed by the kernel")
        return [] if isinstance(ticket, tuple) else self._calls[ticket]()

    def replace_rollout(self, worker: int) -> None:
        self.holding[worker] = []
        self.log.append(("replaced rollout", worker))

    def replace_judge(self, worker: int) -> None:
        self.log.append(("replaced judge", worker))


def requests(prompts: int, samples: int = 4) -> list[Request]:
    return [
        Request(Prompt(f"p{i}", f"text {i}", "benign"), (1, i), tuple(range(samples)), DRAW) for i in range(prompts)
    ]


def run(crew: Script, asked: Sequence[Request], unjudged: Sequence[Item] = (), in_flight: int = 8, **more: Any) -> list:
    seen = []
    for item in Pool(crew, asked, unjudged, lambda prompt, sample: f"{prompt}:{sample}", in_flight, **more).run():
        seen.append(item)
        if isinstance(item, Candidate):
            crew.log.append(("candidate", item.id))
    return seen


def ids(seen: Sequence[Any], kind: type) -> list[str]:
    return [getattr(item, "id", None) or item.candidate_id for item in seen if isinstance(item, kind)]


def test_every_sample_is_drawn_once_and_judged_once() -> None:
    seen = run(Script([3, 2]), requests(10))
    wanted = sorted(f"p{i}:{k}" for i in range(10) for k in range(4))
    assert sorted(ids(seen, Candidate)) == wanted
    assert sorted(ids(seen, Verdict)) == wanted


def test_a_candidate_is_given_out_before_a_judge_sees_it() -> None:
    crew = Script([3], judges=2)
    run(crew, requests(12))
    for name in ("p0:0", "p5:1", "p11:3"):
        assert crew.log.index(("candidate", name)) < crew.log.index(("judge", name))


def test_judging_starts_before_sampling_ends() -> None:
    crew = Script([4])
    run(crew, requests(12))
    assert crew.log.index(("judge", "p0:0")) < crew.log.index(("candidate", "p11:3"))


class Punctual(Script):
    """All calls are answered at once: whoever is asked, has finished."""

    def advance(self, worker: int, requests: Sequence[Request]) -> int:
        self.log.append(("advance", worker))
        return super().advance(worker, requests)

    def wait(self, tickets: Sequence[Any], timeout_s: float) -> Sequence[Any]:
        return tickets


def test_no_worker_waits_until_the_samples_of_another_are_stored() -> None:
    crew = Punctual([2, 2, 2])
    run(crew, requests(10))
    begun = [("advance", worker) for worker in range(3)]
    kinds = [entry for entry in crew.log if entry[0] in ("advance", "candidate")]
    assert kinds[:6] == begun * 2 and kinds[6][0] == "candidate"


def test_judges_go_on_while_the_samples_of_other_workers_are_stored() -> None:
    crew = Punctual([2, 2, 2])
    run(crew, requests(10))
    stored = [name for kind, name in crew.log if kind == "candidate"]
    # Nothing is judged that is not stored, and of each worker's two samples both are before those of the next.
    judged = [at for at, (kind, _) in enumerate(crew.log) if kind == "judge"]
    assert judged[0] < crew.log.index(("candidate", stored[2]))
    assert judged[2] < crew.log.index(("candidate", stored[4]))


def test_judge_batches_are_bounded() -> None:
    crew = Script([100])
    run(crew, requests(30), in_flight=100)
    assert max(crew.batches) == JUDGE_BATCH
    assert sum(crew.batches) == 120


def test_workers_hold_a_bounded_number_and_the_faster_one_does_more() -> None:
    crew = Script([4, 1])
    seen = run(crew, requests(30), in_flight=8)
    assert max(crew.most) <= 10  # 8 and a quarter to spare
    by_worker = Counter(item.token_ids[1] for item in seen if isinstance(item, Candidate))
    assert by_worker[0] > 2.5 * by_worker[1]


def test_a_request_larger_than_the_room_is_cut() -> None:
    crew = Script([2])
    seen = run(crew, requests(1, samples=50), in_flight=8)
    assert len(ids(seen, Candidate)) == len(set(ids(seen, Candidate))) == 50
    assert max(crew.most) <= 10


def test_samples_of_a_lost_worker_are_drawn_by_others_and_none_twice() -> None:
    crew = Script([2, 2])
    crew.broken = {1, 3}
    seen = run(crew, requests(10))
    assert sorted(ids(seen, Candidate)) == sorted(f"p{i}:{k}" for i in range(10) for k in range(4))
    assert [entry for entry in crew.log if entry[0] == "replaced rollout"]


def test_a_batch_of_a_lost_judge_is_judged_again() -> None:
    crew = Script([2])
    crew.broken = {2}
    seen = run(crew, requests(6))
    assert sorted(ids(seen, Verdict)) == sorted(f"p{i}:{k}" for i in range(6) for k in range(4))
    assert ("replaced judge", 0) in crew.log


def test_a_judge_that_never_comes_up_is_given_nothing() -> None:
    crew = Script([4], judges=2)
    crew.judges_gone = {0}
    wanted = sorted(f"p{i}:{k}" for i in range(40) for k in range(4))
    assert sorted(ids(run(crew, requests(40)), Verdict)) == wanted
    assert ("replaced judge", 0) not in crew.log


class Widowed(Script):
    """The machine of judge 0 goes while it judges, and no other comes."""

    def judge(self, worker: int, items: Sequence[Item]) -> Any:
        ticket = super().judge(worker, items)
        if items and worker == 0:
            self.broken.add(ticket)
        return ticket

    def replace_judge(self, worker: int) -> None:
        super().replace_judge(worker)
        self.judges_gone.add(worker)


def test_what_a_judge_held_whose_machine_never_comes_back_is_judged_by_the_others() -> None:
    crew, said = Widowed([4], judges=2), list[str]()
    left = [(Prompt(f"p{i}", "t"), Candidate(f"c{i}", f"p{i}", 0, (1,), "t", "stop", "v")) for i in range(70)]
    assert sorted(ids(run(crew, [], left, note=said.append), Verdict)) == sorted(f"c{i}" for i in range(70))
    assert said == ["judge worker 0 was lost, 32 candidates are judged again: killed by the kernel"]


def test_judges_that_never_come_up_stop_the_run_in_bounded_time() -> None:
    crew, clock = Script([4]), Clock()
    crew.judges_gone = {0}
    with pytest.raises(RunFailed, match=r"judge worker 0 was lost 3 times in a row.*judge worker 0 gave no sign for 1"):
        run(crew, requests(2), clock=clock)
    assert 3 * pool_module.CALL_DEADLINE_S < clock.now < 4 * pool_module.CALL_DEADLINE_S


def test_a_node_that_takes_most_workers_with_it_stops_nothing() -> None:
    crew = Punctual([2, 2, 2, 2])
    crew.broken = {1, 2, 3}
    said: list[str] = []
    seen = run(crew, requests(40), note=said.append)
    assert sorted(ids(seen, Candidate)) == sorted(f"p{i}:{k}" for i in range(40) for k in range(4))
    assert said == [
        f"rollout worker {worker} was lost, 10 samples are drawn again: killed by the kernel" for worker in (1, 2, 3)
    ]


class Gone(Script):
    """The machine of worker 1 goes and no other comes: its second call is lost, and its successor never comes up."""

    def __init__(self, speeds: Sequence[int]) -> None:
        super().__init__(speeds)
        self.broken, self.gone = {1}, False

    def advance(self, worker: int, requests: Sequence[Request]) -> int:
        ticket = super().advance(worker, requests)
        if worker == 1 and self.gone:
            assert not requests
            self.silent.add(ticket)
        return ticket

    def replace_rollout(self, worker: int) -> None:
        super().replace_rollout(worker)
        self.gone = True


def test_samples_of_a_machine_that_never_comes_back_are_drawn_by_the_others() -> None:
    crew = Gone([2, 2])
    seen = run(crew, requests(3), in_flight=8)
    assert crew.log.count(("replaced rollout", 1)) == 1
    # Worker 0 had nothing left to do, and is woken for what the other had held.
    assert sorted(ids(seen, Candidate)) == sorted(f"p{i}:{k}" for i in range(3) for k in range(4))
    assert {item.token_ids[1] for item in seen if isinstance(item, Candidate)} == {0}


def test_who_is_absent_gets_samples_when_it_is_up() -> None:
    crew = Script([2, 2])
    seen = run(crew, requests(10), absent={0})
    assert Counter(item.token_ids[1] for item in seen if isinstance(item, Candidate))[0] > 0
    crew = Script([2, 2])
    crew.silent = {0}
    seen = run(crew, requests(10), absent={0})
    assert {item.token_ids[1] for item in seen if isinstance(item, Candidate)} == {1}
    assert len(ids(seen, Verdict)) == 40


class Preempted(Script):
    """Its first twelve calls end with their node."""

    def result(self, ticket: Any) -> list[Any]:
        if isinstance(ticket, int) and ticket < 12:
            raise WorkerLost("the node was called in", with_node=True)
        return super().result(ticket)


def test_preempted_nodes_count_for_nothing() -> None:
    said: list[str] = []
    seen = run(Preempted([2]), requests(6), note=said.append)
    assert len(set(ids(seen, Candidate))) == 24 and len(said) == 12
    first = "rollout worker 0 was lost with its node, 10 samples are drawn again: the node was called in"
    assert said[0] == first


class OneNode(Script):
    """All workers but the last are lost at once; nobody who asks a lost one, or one replaced since, gets an answer."""

    def __init__(self, speeds: Sequence[int]) -> None:
        super().__init__(speeds)
        self.lives = [0] * len(speeds)

    def advance(self, worker: int, requests: Sequence[Request]) -> int:
        ticket, life = super().advance(worker, requests), self.lives[worker]
        answer = self._calls[ticket]

        def call() -> list[Finished]:
            if self.lives[worker] > life or (life == 0 and worker < self.rollout_workers - 1):
                raise WorkerLost("its actor is dead")
            return answer()

        self._calls[ticket] = call
        return ticket

    def wait(self, tickets: Sequence[int], timeout_s: float) -> Sequence[int]:
        return list(tickets)

    def replace_rollout(self, worker: int) -> None:
        super().replace_rollout(worker)
        self.lives[worker] += 1


def test_workers_that_are_lost_at_once_are_each_replaced_once() -> None:
    said: list[str] = []
    crew = OneNode([2, 2, 2, 2])
    seen = run(crew, requests(20), note=said.append)
    assert sorted(ids(seen, Candidate)) == sorted(f"p{i}:{k}" for i in range(20) for k in range(4))
    assert crew.lives == [1, 1, 1, 0]
    assert [line.partition(",")[0] for line in said] == [f"rollout worker {worker} was lost" for worker in range(3)]


class Slow(Script):
    """Judges that answer when nothing else does."""

    def judge(self, worker: int, items: Sequence[Item]) -> int:
        ticket = super().judge(worker, items)
        self.silent.add(ticket)
        return ticket

    def wait(self, tickets: Sequence[int], timeout_s: float) -> Sequence[int]:
        return super().wait(tickets, timeout_s) or (tickets[:1] if timeout_s else [])


def test_the_queue_before_slow_judges_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "BACKLOG", 40)
    crew = Slow([10, 10])
    waiting = most = 0
    pool = Pool(crew, requests(100), [], lambda prompt, sample: f"{prompt}:{sample}", 8)
    seen = []
    for item in pool.run():
        seen.append(item)
        waiting += 1 if isinstance(item, Candidate) else -1
        most = max(most, waiting)
    assert len(ids(seen, Candidate)) == len(ids(seen, Verdict)) == 400
    # Beside the queue: a batch at the judge, and of each worker what it has finished and what it holds meanwhile.
    assert 40 <= most <= 40 + 32 + 2 * (10 + 10)


def test_workers_lost_again_and_again_stop_the_run_with_the_cause() -> None:
    crew = Script([2])
    crew.broken = {0, 1, 2}
    with pytest.raises(RunFailed, match="rollout worker 0 was lost 3 times in a row.*killed by the kernel.*in_flight"):
        run(crew, requests(4))


class Confused(Script):
    """Its first answer of a kind is wrong: another sample, the same twice, another candidate, a verdict too few."""

    def __init__(self, how: str) -> None:
        super().__init__([2])
        self.how = how

    def result(self, ticket: int) -> list[Any]:
        found, how = super().result(ticket), self.how
        if not found:
            return found
        if how in ("other sample", "sample twice") and isinstance(found[0], Finished):
            self.how = ""
            return [replace(found[0], prompt_id="p99")] if how == "other sample" else found[:1] * 2
        if how in ("other candidate", "verdict twice", "verdict missing") and isinstance(found[0], Verdict):
            self.how = ""
            other = {"other candidate": [replace(found[0], candidate_id="x")], "verdict twice": found * 2}
            return other.get(how, found[1:])
        return found


@pytest.mark.parametrize("how", ["other sample", "sample twice", "other candidate", "verdict twice", "verdict missing"])
def test_a_worker_that_answers_what_it_was_not_asked_is_replaced(how: str) -> None:
    crew = Confused(how)
    seen = run(crew, requests(6))
    wanted = sorted(f"p{i}:{k}" for i in range(6) for k in range(4))
    assert sorted(ids(seen, Candidate)) == sorted(ids(seen, Verdict)) == wanted
    assert ("replaced judge" if "verdict" in how or "candidate" in how else "replaced rollout", 0) in crew.log


class Clock:
    """Ten seconds pass with each look at it."""

    now = 0.0

    def __call__(self) -> float:
        self.now += 10.0
        return self.now


def test_a_worker_that_gives_no_sign_is_replaced() -> None:
    crew, clock, said = Script([2]), Clock(), list[str]()
    crew.silent = {1}
    seen = run(crew, requests(5), clock=clock, note=said.append)
    assert len(set(ids(seen, Candidate))) == len(ids(seen, Candidate)) == 20
    assert ("replaced rollout", 0) in crew.log
    assert "rollout worker 0 gave no sign for" in said[0]


def test_a_judge_may_take_as_long_as_a_call_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "CALL_DEADLINE_S", 500.0)
    crew, clock = Script([2]), Clock()
    crew.silent = {2}
    begun = clock.now
    seen = run(crew, requests(5), clock=clock)
    assert len(ids(seen, Verdict)) == 20 and ("replaced judge", 0) in crew.log
    assert clock.now - begun > 500


class Stuck(Script):
    """From its second answer on the first worker answers at once, and draws nothing."""

    def result(self, ticket: int) -> list[Any]:
        found = super().result(ticket)
        if not found or isinstance(found[0], Verdict):
            return found
        if ("replaced rollout", 0) not in self.log and ticket > 0:
            self.holding[0] = [(one.prompt_id, one.sample) for one in found] + self.holding[0]
            return [Drawn(4)]
        return [*found, Drawn(ticket + 1)]


def test_a_worker_that_answers_and_draws_nothing_is_replaced() -> None:
    said: list[str] = []
    seen = run(Stuck([2]), requests(5), clock=Clock(), note=said.append)
    assert sorted(ids(seen, Candidate)) == sorted(f"p{i}:{k}" for i in range(5) for k in range(4))
    assert "answers, but has drawn no token for" in said[0]


def test_an_engine_that_asks_others_is_given_the_time_of_any_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "CALL_DEADLINE_S", 5000.0)
    crew, clock = Script([2]), Clock()
    crew.silent = {1}
    assert len(ids(run(crew, requests(5), clock=clock, asks=True), Candidate)) == 20
    assert ("replaced rollout", 0) in crew.log and clock.now > 5000


def test_candidates_of_an_earlier_start_are_judged_without_sampling() -> None:
    left = [(Prompt(f"p{i}", "t"), Candidate(f"c{i}", f"p{i}", 0, (1,), "t", "stop", "v")) for i in range(40)]
    crew = Script([2])
    seen = run(crew, [], left)
    assert ids(seen, Candidate) == []
    assert sorted(ids(seen, Verdict)) == sorted(f"c{i}" for i in range(40))


def test_a_request_the_engine_refuses_becomes_a_failure_not_a_number() -> None:
    crew = Script([2])
    crew.refused = {"p1"}
    seen = run(crew, requests(2, samples=1))
    (failed,) = [item for item in seen if isinstance(item, Verdict) and item.failure]
    assert (failed.candidate_id, failed.scores) == ("p1:0", None)
    assert failed.failure is not None and (failed.failure.cause, failed.failure.raw) == (
        "not_sampled",
        "prompt too long",
    )


OLD, NEW = Policy(Path("old"), "old"), Policy(Path("new"), "new")


def served(version: str, *logprobs: float) -> canary.Served:
    return canary.Served(version, logprobs)


def test_canary_passes_where_engine_and_trainer_agree() -> None:
    old = canary.prove(OLD, served("old", -1.0, -2.0), [-1.1, -1.9], None, 0.15)
    assert old.difference == pytest.approx(0.1)
    assert canary.prove(NEW, served("new", -1.2, -2.0), [-1.3, -1.9], old, 0.15).version == "new"


def test_canary_stops_where_they_differ() -> None:
    with pytest.raises(RunFailed, match=r"new at new: engine and trainer differ by 0\.400 nats.*0\.15"):
        canary.prove(NEW, served("new", -1.0, -2.0), [-1.4, -2.4], None, 0.15)


def test_canary_stops_on_numbers_that_are_none() -> None:
    with pytest.raises(RunFailed, match="differ by nan"):
        canary.prove(NEW, served("new", float("nan"), -2.0), [-1.0, -2.0], None, 0.15)


def test_one_improbable_token_that_rounding_moves_does_not_stop() -> None:
    found = canary.prove(NEW, served("new", -1.0, -2.0, -9.0), [-1.0, -2.1, -11.0], None, 0.15)
    assert found.difference == pytest.approx(0.1)


def test_canary_stops_when_only_the_trainer_sees_new_weights() -> None:
    old = canary.prove(OLD, served("old", -1.0, -2.0), [-1.0, -2.0], None, 0.15)
    with pytest.raises(RunFailed, match="still gives the log-probabilities of policy old.*0.0500 nats"):
        canary.prove(NEW, served("new", -1.0, -2.0), [-1.1, -2.0], old, 0.15)


def test_canary_accepts_a_policy_that_differs_where_the_canary_does_not_look() -> None:
    old = canary.prove(OLD, served("old", -1.0, -2.0), [-1.0, -2.0], None, 0.15)
    assert canary.prove(NEW, served("new", -1.0, -2.0), [-1.0, -2.0], old, 0.15).version == "new"


def test_a_flipped_byte_of_a_shard_is_found_by_the_worker_that_is_to_serve_it(tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / f"model-{number}-of-2.safetensors").write_bytes(bytes(range(200)))
    policy = Policy(tmp_path, version(tmp_path))
    require(policy)
    shard = tmp_path / "model-2-of-2.safetensors"
    whole = shard.read_bytes()
    for at in range(0, 200, 20):
        shard.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(RunFailed, match=f"weights read here have version .*, not {policy.version}: a file is dam"):
            require(policy)
    shard.write_bytes(whole)
    require(policy)


def test_canary_stops_where_the_engine_names_another_version() -> None:
    old = canary.prove(OLD, served("old", -1.0, -2.0), [-1.0, -2.0], None, 0.15)
    with pytest.raises(RunFailed, match="policy new at new: an engine names its samples old after"):
        canary.prove(NEW, served("old", -1.1, -2.0), [-1.1, -2.0], old, 0.15)
    assert canary.prove(NEW, served("new+rose", -1.1, -2.0), [-1.1, -2.0], old, 0.15).version == "new"
