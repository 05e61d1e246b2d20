"""The backends on real parts: Ray actors with vLLM and the judge, Ray Train with TRL, and the same in one process."""

from __future__ import annotations

import asyncio
import math
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from safetensors.torch import load_file, save_file

from erpo_ray.backend import Ahead
from erpo_ray.cluster import canary, data, ranks, start, training
from erpo_ray.cluster.backend import RayBackend
from erpo_ray.cluster.desk import Desk
from erpo_ray.cluster.pooled import PooledBackend
from erpo_ray.cluster.start import join
from erpo_ray.config import Cluster, Config, Data, Source
from erpo_ray.engines.renderer import Renderer
from erpo_ray.errors import EnvironmentFault, RunFailed, UsageError
from erpo_ray.local import InProcessBackend
from erpo_ray.objectives import Objective, Surrogate, Training
from erpo_ray.prompts import mixing
from erpo_ray.rundir.lines import artefact
from erpo_ray.train import canary as trainer_canary
from erpo_ray.train.weights import leave, proof_of
from erpo_ray.types import (
    Advantage,
    Candidate,
    Example,
    Pair,
    Policy,
    Prompt,
    Request,
    Sampling,
    Verdict,
    encode,
    identity,
)

NAME = partial(identity, "run", "stage")
CONFIG = Config.model_validate(
    {"model": {"max_length": 256}, "cluster": {"in_flight": 8, "kv_cache_gib": 0.25, "train_workers": 2}}
)
FIT = Training(
    learning_rate=1e-4, epochs=1, batch_size=4, micro_batch_size=2, max_length=256, warmup_ratio=0.0, max_steps=2
)
DRAW = Sampling(temperature=1.0, max_tokens=24, top_k=50)


@pytest.fixture(scope="module")
def renderer(smol: Path) -> Renderer:
    return Renderer(smol)


@pytest.fixture(scope="module")
def backend() -> Iterator[RayBackend]:
    before = signal.getsignal(signal.SIGTERM)
    backend = RayBackend(CONFIG)
    # Ray takes the signal for itself, and a run must be able to say that it was stopped.
    assert signal.getsignal(signal.SIGTERM) == before
    yield backend
    backend.close()


def requests(renderer: Renderer, count: int, samples: int = 2) -> list[Request]:
    prompts = [Prompt(f"p{i}", f"Name {i + 2} animals.", "benign") for i in range(count)]
    return [Request(prompt, renderer.render(prompt.text), tuple(range(samples)), DRAW) for prompt in prompts]


def rows_file(path: Path, rows: Sequence[Any]) -> Path:
    path.write_bytes(artefact([encode(row) for row in rows]))
    return path


def examples(renderer: Renderer) -> list[Example]:
    text = "<think>\nAssessment: fine\u2028indeed.\n</think>\nYes."
    prompt, completion = renderer.render("Is it so?"), renderer.encode_completion(text)
    return [Example(f"e{i}", f"p{i}", "t", prompt, completion, text) for i in range(8)]


def pairs(renderer: Renderer) -> list[Pair]:
    prompt = renderer.render("Is it so?")
    chosen, rejected = renderer.encode_completion("Yes, it is so."), renderer.encode_completion("No.")
    return [Pair(f"q{i}", f"p{i}", prompt, (), chosen, rejected, 1.0, "safety", "t") for i in range(8)]


def advantages(renderer: Renderer) -> list[Advantage]:
    prompts = [renderer.render(f"Is it {i}?") for i in range(8)]
    good, bad = renderer.encode_completion("Yes, it is so."), renderer.encode_completion("No.")
    return [
        Advantage(f"a{i}{value}", f"p{i}", prompt, (), ids, value, value, "passes", "t")
        for i, prompt in enumerate(prompts)
        for ids, value in ((good, 1.0), (bad, -1.0))
    ]


def check(seen: Sequence[Candidate | Verdict], wanted: int, policy: Policy, renderer: Renderer) -> None:
    """Every sample once, before its verdict, with ids that are its text and the name that the run gives it."""
    candidates = [item for item in seen if isinstance(item, Candidate)]
    verdicts = [item for item in seen if isinstance(item, Verdict)]
    assert len(candidates) == len({c.id for c in candidates}) == wanted
    assert sorted(v.candidate_id for v in verdicts) == sorted(c.id for c in candidates)
    at = {getattr(item, "id", ""): n for n, item in enumerate(seen)}
    assert all(at[item.candidate_id] < n for n, item in enumerate(seen) if isinstance(item, Verdict))
    for candidate in candidates:
        assert candidate.id == identity("run", "stage", candidate.prompt_id, candidate.sample)
        assert candidate.text == renderer.decode(candidate.token_ids)
        assert candidate.policy == policy.version
    assert all(v.scores is not None and v.judge == "rules" for v in verdicts)


def test_samples_stream_through_actors_into_verdicts(backend: RayBackend, renderer: Renderer, smol: Path) -> None:
    policy = backend.policy(smol)
    backend.prepare(policy)
    check(list(backend.rollouts(requests(renderer, 12), (), NAME)), 24, policy, renderer)


def test_a_killed_rollout_actor_costs_nothing_but_time(backend: RayBackend, renderer: Renderer, smol: Path) -> None:
    policy = backend.policy(smol)
    backend.prepare(policy)
    seen: list[Candidate | Verdict] = []
    killed = 0
    for item in backend.rollouts(requests(renderer, 12), (), NAME):
        seen.append(item)
        if not killed:
            killed = _pid(backend._workers._rollout[0])
            os.kill(killed, signal.SIGKILL)
    check(seen, 24, policy, renderer)
    assert _pid(backend._workers._rollout[0]) != killed


def test_a_killed_judge_is_replaced(backend: RayBackend, renderer: Renderer, smol: Path) -> None:
    policy = backend.policy(smol)
    os.kill(_pid(backend._workers._judge[0]), signal.SIGKILL)
    backend.prepare(policy)
    check(list(backend.rollouts(requests(renderer, 4), (), NAME)), 8, policy, renderer)


def test_a_worker_that_has_grown_is_replaced_between_stages_and_all_are_proved_anew(
    backend: RayBackend, smol: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = backend.policy(smol)
    backend.prepare(policy)
    before = backend.upkeep()
    assert {"rollout-0", "judge-0"} <= before.held.keys() and before.replaced == ()
    assert before.held["rollout-0"].pid == _pid(backend._workers._rollout[0])
    assert min(one.rss for one in before.held.values()) > 20 * 2**20
    assert min(min(one.fds, one.threads) for one in before.held.values()) > 1
    monkeypatch.setattr(backend._growth, "beyond", lambda held: ("judge-0",))
    assert backend.upkeep().replaced == ("judge-0",)
    after = backend._workers.usage()
    assert after["judge-0"].pid != before.held["judge-0"].pid
    assert after["rollout-0"].pid == before.held["rollout-0"].pid
    proved = backend._proved
    backend.prepare(policy)
    assert backend._proved is not proved and not backend._renewed


def test_candidates_left_unjudged_are_judged_alone(backend: RayBackend, renderer: Renderer) -> None:
    ids = renderer.encode_completion("Cats and dogs are animals that many people keep.")
    left = (Prompt("p", "Name animals.", "benign"), Candidate("c", "p", 0, ids, renderer.decode(ids), "stop", "old"))
    (verdict,) = backend.rollouts([], [left], NAME)
    assert isinstance(verdict, Verdict) and verdict.candidate_id == "c"
    assert verdict.scores and verdict.scores.length == len(ids)


def test_trainers_start_and_score_closed_groups_while_rollouts_are_drawn(
    backend: RayBackend, renderer: Renderer, smol: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    base, kept = backend.policy(smol), tmp_path / "kept"
    backend.prepare(base)
    assert backend._trainers._group is None
    # On CPU they would not score: here it is done all the same.
    monkeypatch.setattr(backend, "_apart", True)
    work = tmp_path / "work"
    seen = list(backend.rollouts(requests(renderer, 12), (), NAME, Ahead(FIT, work, kept, base)))
    check(seen, 24, base, renderer)
    group = backend._trainers._group
    assert group and group._scored is not None
    first, second = [item for item in seen if isinstance(item, Candidate) and item.prompt_id == _first_closed(seen)]
    prompt = renderer.render(f"Name {int(first.prompt_id[1:]) + 2} animals.")
    pair = Pair("q", first.prompt_id, prompt, (), first.token_ids, second.token_ids, 1.0, "safety", "t")
    file, out = rows_file(tmp_path / "pairs.jsonl", [replace(pair, id=f"q{i}") for i in range(8)]), tmp_path / "policy"
    out.mkdir()
    assert ray.get(group._scored)["scored"] >= 2
    lines = (kept / f"{base.version}.jsonl").read_bytes().splitlines()
    metrics = backend.prefer(base, base, file, Objective(beta=0.1), FIT, out, work, kept)
    assert metrics["loss_first"] == pytest.approx(math.log(2), abs=1e-3)
    # Both sides of all pairs were there already, from the group that closed first: training has scored nothing.
    assert (kept / f"{base.version}.jsonl").read_bytes().splitlines() == lines
    assert backend._trainers._group is group and not group.ended


def _first_closed(seen: Sequence[Candidate | Verdict]) -> str:
    drawn = [item.prompt_id for item in seen if isinstance(item, Candidate)]
    return next(name for at, name in enumerate(drawn) if name in drawn[:at])


def test_two_gloo_workers_train_and_the_engine_takes_the_weights_in_place(
    backend: RayBackend, renderer: Renderer, smol: Path, tmp_path: Path
) -> None:
    told: list[tuple[int, int]] = []
    backend._progress = lambda step, steps, metrics: told.append((step, steps))
    base = backend.policy(smol)
    backend.prepare(base)
    engine = _pid(backend._workers._rollout[0])
    file = rows_file(tmp_path / "pairs.jsonl", pairs(renderer))
    out, work = tmp_path / "policy", tmp_path / "work"
    for path in (out, work):
        path.mkdir()
    metrics = backend.prefer(base, base, file, Objective(beta=0.1), FIT, out, work, tmp_path / "kept")
    assert metrics["steps"] == 2
    assert metrics["loss_first"] == pytest.approx(math.log(2), abs=1e-3)
    assert metrics["loss_last"] < metrics["loss_first"]
    assert told[-1] == (2, 2)
    trained = backend.policy(out)
    assert trained.version != base.version
    before = backend._proved
    backend.prepare(trained)
    after = backend._proved
    assert before and after and (before.version, after.version) == (base.version, trained.version)
    assert after.difference < CONFIG.cluster.canary_tolerance
    assert canary.distance(after.engine, after.trainer) < canary.distance(after.engine, before.trainer)
    assert _pid(backend._workers._rollout[0]) == engine
    check(list(backend.rollouts(requests(renderer, 4), (), NAME)), 8, trained, renderer)


def test_advantages_train_on_the_same_workers(
    backend: RayBackend, renderer: Renderer, smol: Path, tmp_path: Path
) -> None:
    group, base, kept = backend._trainers._group, backend.policy(smol), tmp_path / "kept"
    out, work = tmp_path / "policy", tmp_path / "work"
    for path in (out, work):
        path.mkdir()
    file = rows_file(tmp_path / "advantages.jsonl", advantages(renderer))
    metrics = backend.reinforce(base, base, file, Surrogate(clip=0.2, kl=0.04), FIT, out, work, kept)
    assert metrics["steps"] == 2
    assert metrics["loss_first"] == pytest.approx(0, abs=0.02)
    assert metrics["kl"] > 0 and backend.policy(out).version != base.version
    (found,) = kept.iterdir()
    assert len(found.read_bytes().splitlines()) == 16
    assert backend._trainers._group is group


def test_a_damaged_row_stops_training_with_its_line(
    backend: RayBackend, renderer: Renderer, smol: Path, tmp_path: Path
) -> None:
    file = rows_file(tmp_path / "pairs.jsonl", pairs(renderer))
    file.write_bytes(file.read_bytes().replace(b'"q3"', b'"q9"'))
    (tmp_path / "work").mkdir()
    policy, group = backend.policy(smol), backend._trainers._group
    assert group and not group.ended
    places = tmp_path / "policy", tmp_path / "work", tmp_path / "kept"
    with pytest.raises(RunFailed, match=r"training failed: .*pairs\.jsonl, line 4: damaged"):
        backend.prefer(policy, policy, file, Objective(beta=0.1), FIT, *places)
    # The workers of the training before were given this one too.
    assert backend._trainers._group is group and group.ended


def test_examples_train_too_in_a_new_group_where_the_last_one_failed(
    backend: RayBackend, renderer: Renderer, smol: Path, tmp_path: Path
) -> None:
    failed = backend._trainers._group
    file = rows_file(tmp_path / "examples.jsonl", examples(renderer))
    out, work = tmp_path / "policy", tmp_path / "work"
    for path in (out, work):
        path.mkdir()
    metrics = backend.imitate(backend.policy(smol), file, FIT, out, work)
    assert metrics["loss_last"] < metrics["loss_first"]
    group = backend._trainers._group
    assert group and group is not failed and not group.ended
    assert Renderer(out).render("x") == renderer.render("x")


def test_new_weights_are_proved_by_what_their_trainer_left(
    backend: RayBackend, smol: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    backend.prepare(backend.policy(smol))
    out, tokens = tmp_path / "policy", backend._tokens
    assert tokens
    shutil.copytree(smol, out)
    trainer_canary.sign(out, *tokens)
    same = backend.policy(out)
    proof = proof_of(same, *tokens)
    assert proof
    monkeypatch.setattr(backend._workers, "trainer_logprobs", None)
    monkeypatch.setattr(backend, "_proved", None)
    backend.prepare(same)
    assert backend._proved and backend._proved.trainer == proof.logprobs
    leave(replace(proof, logprobs=tuple(value - 1 for value in proof.logprobs)), out)
    monkeypatch.setattr(backend, "_proved", None)
    with pytest.raises(RunFailed, match="engine and trainer differ by 1.0"):
        backend.prepare(same)


def test_weights_other_than_the_policys_stop_the_run(backend: RayBackend, smol: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(backend, "_proved", None)
    monkeypatch.setattr(
        backend._workers, "trainer_logprobs", lambda policy, prompt, completion: lambda: [-9.0] * len(completion)
    )
    with pytest.raises(RunFailed, match="engine and trainer differ by"):
        backend.prepare(backend.policy(smol))


@pytest.fixture
def trained(smol: Path, tmp_path: Path) -> Path:
    """The model with its last norm scaled: weights that every token tells from the base's, if not by much."""
    out = tmp_path / "trained"
    shutil.copytree(smol, out)
    weights = load_file(out / "model.safetensors")
    weights["model.norm.weight"] *= 1.02
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    return out


def _load(right: bool) -> Callable[[Any, Path, str], None]:
    """What an engine does in place of a reload: nothing, or all but to take the name."""

    def load(engine: Any, path: Path, version: str) -> None:
        before = engine.version
        if right:
            type(engine).load(engine, path, version)
        engine.version = before if right else version

    return load


@pytest.mark.parametrize(
    ("right", "said"),
    [
        (False, "still gives the log-probabilities of policy {old}|engine and trainer differ by"),
        (True, "policy {new} at .*: an engine names its samples {old}"),
    ],
)
def test_wrong_weights_are_caught_before_the_first_sample(
    backend: RayBackend, smol: Path, trained: Path, right: bool, said: str
) -> None:
    """A reload that was skipped; the right one, under the version of the weights before it."""
    base, new = backend.policy(smol), backend.policy(trained)
    backend.prepare(base)
    worker, load = backend._workers._rollout[0], _load(right)
    ray.get(worker.__ray_call__.remote(lambda self: setattr(self._engine, "load", partial(load, self._engine))))
    with pytest.raises(RunFailed, match=said.format(old=base.version, new=new.version)):
        backend.prepare(new)
    ray.get(worker.__ray_call__.remote(lambda self: delattr(self._engine, "load")))
    backend._workers._policy = base
    backend.prepare(new)
    assert backend._proved and backend._proved.version == new.version


def test_a_flipped_byte_of_the_weights_is_caught_before_the_first_sample(
    backend: RayBackend, smol: Path, trained: Path
) -> None:
    backend.prepare(backend.policy(smol))
    new, shard = backend.policy(trained), trained / "model.safetensors"
    whole = shard.read_bytes()
    # The lowest bit of one number: no log-probability would tell.
    shard.write_bytes(whole[:-2] + bytes([whole[-2] ^ 1]) + whole[-1:])
    with pytest.raises(RunFailed, match=f"the weights read here have version .*, not {new.version}: a file is damaged"):
        backend.prepare(new)
    shard.write_bytes(whole)
    # The one that took its place met the same byte.
    backend._workers.replace_rollout(0)
    backend.prepare(new)
    assert backend._proved and backend._proved.version == new.version


def test_ray_data_gives_a_trainer_its_rows_in_order(backend: RayBackend, renderer: Renderer, tmp_path: Path) -> None:
    rows = examples(renderer)
    file = rows_file(tmp_path / "examples.jsonl", rows)
    assert list(data.rows(file, Example)) == rows


def test_ray_data_reads_prompts_as_this_process_would(backend: RayBackend, tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text('{"prompt": "How do I fold a shirt?"}\n{"prompt": "Fold a\\u2028shirt, how?"}\n')
    sources = Data(train=(Source(path="seeds", split="train"), Source(path=str(file), label="benign")))
    mine, theirs = mixing.gather(sources, ("fraud",), 3), data.read_prompts(sources, ("fraud",), 3)
    assert theirs == mine
    assert sum(prompt.source == "mine" for prompt in theirs.train) == 2


def test_a_fault_in_a_prompt_file_keeps_its_line_over_ray_data(backend: RayBackend, tmp_path: Path) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_text('{"prompt": "fine"}\n{"prompt": \n')
    with pytest.raises(UsageError, match=r"bad\.jsonl:2: found"):
        data.read_prompts(Data(train=(Source(path=str(file)),)))


def test_a_machine_too_busy_for_ray_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def late(**_: Any) -> None:
        raise Exception("The current node timed out during startup.")

    made: list[Path] = []
    mkdtemp = start.tempfile.mkdtemp
    monkeypatch.setattr(start.tempfile, "mkdtemp", lambda **_: made.append(Path(mkdtemp(dir=tmp_path))) or made[-1])
    monkeypatch.setattr(start.ray, "init", late)
    monkeypatch.setattr(start.ray, "is_initialized", lambda: False)
    with pytest.raises(EnvironmentFault, match="timed out during startup. If other work keeps it busy"):
        join(Cluster())
    assert made and not made[0].exists()


def test_gpus_that_are_not_there_are_named(backend: RayBackend) -> None:
    with pytest.raises(
        EnvironmentFault, match=r"cluster.rollout_workers=2: room for 0 on the nodes \(1 node of 0 GPUs\)"
    ):
        join(Cluster(gpu=True, share_gpu=False, rollout_workers=2))
    with pytest.raises(EnvironmentFault, match=r"no node has the label role=x \(cluster.train_labels\) after 1 s"):
        join(Cluster(train_labels={"role": "x"}, wait_s=1))


def test_turns_on_one_gpu_overlap_nothing(monkeypatch: Any) -> None:
    left: list[object] = []
    monkeypatch.setattr("erpo_ray.cluster.backend.join", lambda *_: start.Joined(True, 1, None))
    monkeypatch.setattr("erpo_ray.cluster.backend.leave", left.append)
    with pytest.raises(UsageError, match="take turns on the same GPUs; set cluster.share_gpu=false or overlap=none"):
        RayBackend(Config(overlap="next_round"))
    with pytest.raises(UsageError, match=r"train_workers \(2\) exceeds cluster.rollout_workers \(1\), and they share"):
        RayBackend(Config(cluster=Cluster(rollout_workers=1, train_workers=2)))
    assert len(left) == 2


def test_no_two_groups_share_a_ray_train_name(backend: RayBackend, tmp_path: Path) -> None:
    made = [training.trainer(CONFIG.cluster, backend._joined, tmp_path, None) for _ in range(2)]
    assert made[0].run_config.name != made[1].run_config.name


def test_workers_of_a_preempted_node_go_on_with_the_job_in_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray Train starts them again by itself: of five jobs two are done, and theirs are the metrics that stand."""
    taken: list[int] = []
    desk = Desk()
    desk._results = [{}, {}]
    monkeypatch.setattr(ranks, "_enrol", lambda desk, rank: None)
    monkeypatch.setattr(ranks, "_begun", lambda desk: asyncio.run(desk.begin()))
    monkeypatch.setattr(ranks, "_taken", lambda desk, number, rank, ranks: taken.append(number))
    context = SimpleNamespace(get_world_rank=lambda: 0, get_world_size=lambda: 1)
    monkeypatch.setattr("ray.train.get_context", lambda: context)
    monkeypatch.setattr("ray.train.collective.broadcast_from_rank_zero", lambda number: number)
    ranks.loop({"desk": desk})
    assert taken == [2]


def test_everything_in_one_process(renderer: Renderer, smol: Path, tmp_path: Path) -> None:
    """Comes last: an engine in this process keeps its memory."""
    backend: PooledBackend = InProcessBackend(CONFIG)
    base = backend.policy(smol)
    backend.prepare(base)
    check(list(backend.rollouts(requests(renderer, 6), (), NAME)), 12, base, renderer)
    file = rows_file(tmp_path / "pairs.jsonl", pairs(renderer))
    out, work = tmp_path / "policy", tmp_path / "work"
    for path in (out, work):
        path.mkdir()
    metrics = backend.prefer(base, base, file, Objective(beta=0.1), FIT, out, work, tmp_path / "kept")
    assert metrics["loss_first"] == pytest.approx(math.log(2), abs=1e-3)
    trained = backend.policy(out)
    backend.prepare(trained)
    check(list(backend.rollouts(requests(renderer, 2), (), NAME)), 4, trained, renderer)
    backend.close()


def _pid(actor: Any) -> int:
    return ray.get(actor.__ray_call__.remote(lambda self: os.getpid()))
