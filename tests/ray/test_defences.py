"""ROSE and SCANS on a tiny real model: identity without weight, contrast and shift themselves, files, padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from erpo_ray.config import Config
from erpo_ray.config.decoding import Decode, Rose, Scans
from erpo_ray.engines.defences import vectors as files
from erpo_ray.engines.defences.batch import choose
from erpo_ray.engines.defences.engine import DefendedEngine, Plain, start
from erpo_ray.engines.defences.rose import Rose as RoseDefence
from erpo_ray.engines.defences.scans import Scans as ScansDefence
from erpo_ray.engines.defences.streams import Stream, states
from erpo_ray.engines.defences.vectors import Vectors, extract
from erpo_ray.engines.renderer import Renderer, SystemRenderer
from erpo_ray.engines.vllm import Finished
from erpo_ray.errors import UsageError
from erpo_ray.local import InProcessBackend
from erpo_ray.train.weights import version
from erpo_ray.types import Candidate, Policy, Prompt, Request, Sampling, Verdict, identity

GREEDY = Sampling(temperature=0.0, max_tokens=12)
WARM = Sampling(temperature=1.0, max_tokens=12, top_k=40, min_p=0.01, top_p=0.95)
REVERSE = "w9 w8 w7 w6 w5 w4"
TEXTS = ("w11 w12", "w20 w21 w22 w23 w24 w25 w26", "w30", "w40 w41 w42", "w50 w51 w52 w53 w54", "w60 w61 w62")


@pytest.fixture(scope="module")
def policy_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.policy(tmp_path_factory.mktemp("defences") / "model")


@pytest.fixture(scope="module")
def model(policy_dir: Path) -> Any:
    """In float32, so that batches of another shape round to the same tokens."""
    return AutoModelForCausalLM.from_pretrained(policy_dir, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def renderer(policy_dir: Path) -> Renderer:
    """With many tokens that end a completion, so that rows of one batch end at different steps."""
    found = Renderer(policy_dir)
    found.stop_ids = tuple(range(2, tiny.VOCABULARY, 9))
    return found


@pytest.fixture(scope="module")
def vectors(model: Any) -> Vectors:
    return made(model)


def made(model: Any, name: str = "v1") -> Vectors:
    """Harmful prompts use the lower half of the vocabulary, harmless ones the upper half."""
    rng = np.random.default_rng(0)
    sets = [
        [tuple(rng.integers(low, high, size=rng.integers(2, 9)).tolist()) for _ in range(20)]
        for low, high in ((3, 48), (48, 96), (3, 48), (48, 96))
    ]
    return extract(model, name, (70,), *sets)


@pytest.fixture
def rose(renderer: Renderer) -> Any:
    return lambda alpha: RoseDefence(renderer, Rose(alpha=alpha, reverse=REVERSE))


@pytest.fixture
def scans(vectors: Vectors) -> Any:
    return lambda alpha: ScansDefence(vectors, Scans(alpha=alpha, layers=(0, 1)))


def ask(renderer: Renderer, text: str, sampling: Sampling = GREEDY, samples: int = 1) -> Request:
    return Request(Prompt(text, text), renderer.render(text), tuple(range(samples)), sampling)


def asked(renderer: Renderer, sampling: Sampling = GREEDY, samples: int = 1) -> list[Request]:
    return [ask(renderer, text, sampling, samples) for text in TEXTS]


def drain(engine: DefendedEngine, requests: Sequence[Request], seed: int = 0) -> dict[tuple[str, int], Finished]:
    engine.begin(seed)
    done = engine.advance(requests)
    while engine.pending:
        done += engine.advance(())
    return {(one.prompt_id, one.sample): one for one in done}


def drawn(
    model: Any, renderer: Renderer, defence: Any, sampling: Sampling, batch_size: int = 4, seed: int = 0
) -> dict[tuple[str, int], tuple[int, ...]]:
    engine = DefendedEngine(model, renderer, defence, "v1", max_length=100, batch_size=batch_size)
    return {key: one.token_ids for key, one in drain(engine, asked(renderer, sampling, 2), seed).items()}


@pytest.mark.parametrize("sampling", [GREEDY, WARM])
@pytest.mark.parametrize("kind", ["rose", "scans"])
def test_without_weight_a_defence_decodes_plainly_token_for_token(
    model: Any, renderer: Renderer, request: pytest.FixtureRequest, kind: str, sampling: Sampling
) -> None:
    defence = request.getfixturevalue(kind)
    plain = drawn(model, renderer, Plain(), sampling)
    assert len(plain) == 2 * len(TEXTS)
    assert drawn(model, renderer, defence(0.0), sampling) == plain
    # And the weight does count.
    assert drawn(model, renderer, defence(2.0), sampling) != plain


def test_plain_decoding_is_that_of_transformers(model: Any, renderer: Renderer) -> None:
    found = drawn(model, renderer, Plain(), GREEDY)
    for request in asked(renderer):
        ids = torch.tensor([request.prompt_ids])
        own = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=12,
            eos_token_id=list(renderer.stop_ids),
            pad_token_id=0,
        )
        assert found[request.prompt.id, 0] == tuple(own[0, ids.shape[1] :].tolist())


@pytest.mark.parametrize("sampling", [GREEDY, WARM])
@pytest.mark.parametrize("kind", ["plain", "rose", "scans"])
def test_neighbours_and_padding_in_a_batch_change_nothing(
    model: Any, renderer: Renderer, request: pytest.FixtureRequest, kind: str, sampling: Sampling
) -> None:
    defence = Plain() if kind == "plain" else request.getfixturevalue(kind)(1.0)
    alone = drawn(model, renderer, defence, sampling, batch_size=1)
    assert drawn(model, renderer, defence, sampling, batch_size=12) == alone
    assert len({len(ids) for ids in alone.values()}) > 1


def test_padding_moves_no_position_of_a_model_that_has_learned_them() -> None:
    torch.manual_seed(0)
    learned = GPT2LMHeadModel(GPT2Config(vocab_size=96, n_embd=32, n_layer=2, n_head=4, n_positions=32)).eval()
    short, long, more = [5, 6], [7, 8, 9, 10, 11], [12, 13]
    with torch.inference_mode():
        stream = Stream(learned, [short, long])
        stream.feed(torch.tensor(more))
    for row, ids in enumerate((short, long)):
        assert torch.allclose(stream.logits[row].double(), full_logits(learned, [*ids, more[row]]), atol=1e-5)


def test_samples_follow_from_the_seed(model: Any, renderer: Renderer) -> None:
    first, again, other = (drawn(model, renderer, Plain(), WARM, seed=seed) for seed in (1, 1, 2))
    assert first == again != other
    assert any(first[text, 0] != first[text, 1] for text in TEXTS)


def full_logits(model: Any, ids: Sequence[int]) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=torch.tensor([list(ids)])).logits[0, -1].double()


def test_the_contrast_is_that_of_two_whole_passes(model: Any, renderer: Renderer, rose: Any) -> None:
    requests = asked(renderer)
    with torch.inference_mode():
        lane = rose(0.6).lane(model, requests)
        lane.feed(torch.tensor([31, 32, 33, 34, 35, 36]))
        kept = [4, 1, 2]
        lane.keep(torch.tensor(kept))
        lane.feed(torch.tensor([51, 52, 53]))
        found = lane.logits.double().log_softmax(-1)
    for at, row in enumerate(kept):
        more = (31 + row, 51 + at)
        plain = full_logits(model, (*renderer.render(TEXTS[row]), *more)).log_softmax(-1)
        reverse = full_logits(model, (*renderer.render(f"{REVERSE} w0 {TEXTS[row]}"), *more)).log_softmax(-1)
        expected = (plain - 0.6 * reverse).log_softmax(-1)
        assert torch.allclose(found[at], expected, atol=1e-4)
        assert not torch.allclose(found[at], plain, atol=0.05)


def entering(model: Any, layer: int, run: Any) -> list[torch.Tensor]:
    """The states that a decoder layer is given, in each forward pass of `run`."""
    seen: list[torch.Tensor] = []
    hook = model.get_decoder().layers[layer].register_forward_pre_hook(lambda m, given: seen.append(given[0].clone()))
    with torch.inference_mode():
        run()
    hook.remove()
    return seen


def test_steering_moves_the_projection_by_alpha_and_only_from_the_last_prompt_token_on(
    model: Any, renderer: Renderer, vectors: Vectors
) -> None:
    requests = asked(renderer)
    defence = ScansDefence(vectors, Scans(alpha=1.5, layers=(0,)))
    scores = defence.scores(model, requests)
    defence.threshold = float(np.median(scores))
    sign = np.where(scores >= defence.threshold, 1.0, -1.0)
    assert set(sign) == {1.0, -1.0}

    def decode(start: Any) -> None:
        start().feed(torch.tensor([31, 32, 33, 34, 35, 36]))

    # What a pass gives layer 1 depends on layer 0 alone, whose own input is not steered: the shift shows as it is.
    plain = entering(model, 1, lambda: decode(lambda: Stream(model, [request.prompt_ids for request in requests])))
    steered = entering(model, 1, lambda: decode(lambda: defence.lane(model, requests)))[1:]
    assert [tuple(states.shape[:2]) for states in steered] == [(6, 8), (6, 1)]
    direction = torch.tensor(vectors.directions[0])
    for before, after in zip(plain, steered, strict=True):
        moved = (after - before)[:, -1]
        assert (moved @ direction).tolist() == pytest.approx((1.5 * sign).tolist(), abs=1e-5)
        assert moved.norm(dim=-1).tolist() == pytest.approx([1.5] * len(requests), abs=1e-5)
        assert torch.equal(after[:, :-1], before[:, :-1])


def test_states_are_those_at_the_end_of_the_prompt_and_of_the_opener(model: Any, renderer: Renderer) -> None:
    prompts = [renderer.render(text) for text in TEXTS]
    ends, openers = states(model, prompts, (70, 71))
    assert ends.shape == openers.shape == (6, 2, 32)
    for at, prompt in enumerate(prompts):
        with torch.inference_mode():
            hidden = model(input_ids=torch.tensor([[*prompt, 70, 71]]), output_hidden_states=True).hidden_states
        assert np.allclose(ends[at, 0], hidden[1][0, -3].numpy(), atol=1e-5)
        assert np.allclose(openers[at, 0], hidden[1][0, -1].numpy(), atol=1e-5)


def test_directions_and_scores_tell_two_kinds_of_prompts_apart(model: Any, vectors: Vectors) -> None:
    assert np.linalg.norm(vectors.directions, axis=-1) == pytest.approx([1.0, 1.0], abs=1e-5)
    assert (vectors.harmful_cosines.shape, vectors.harmless_cosines.shape) == ((20, 2), (20, 2))
    found = vectors.boundary(0)
    assert 0.5 < found.accuracy <= 1.0
    harmful = states(model, [(5, 6, 7)], ())[0][0, 0]
    harmless = states(model, [(90, 91, 92)], ())[0][0, 0]
    assert (harmful - harmless) @ vectors.directions[0] > 0


def test_the_threshold_is_the_fitted_one_unless_given(vectors: Vectors) -> None:
    fitted = ScansDefence(vectors, Scans(layers=(1,)))
    assert fitted.threshold == vectors.boundary(1).threshold
    given = ScansDefence(vectors, Scans(layers=(1,), threshold=0.25))
    assert given.threshold == 0.25
    assert fitted.name != given.name
    assert ScansDefence(vectors, Scans()).layers == (0,)
    with pytest.raises(UsageError, match="scans.layers: found 2, but the model has layers 0 to 1"):
        ScansDefence(vectors, Scans(layers=(0, 2)))


def test_vectors_are_read_back_as_they_were_and_for_their_model_only(vectors: Vectors, tmp_path: Path) -> None:
    path = tmp_path / "new" / "v.safetensors"
    files.save(path, vectors)
    found = files.load(path, "v1")
    assert (found.model, found.opener, found.digest) == (vectors.model, vectors.opener, vectors.digest)
    assert np.array_equal(found.directions, vectors.directions)
    with pytest.raises(UsageError, match=r"v.safetensors: holds steering vectors of model v1, not of v2; remove"):
        files.load(path, "v2")


def test_a_file_of_another_kind_holds_no_vectors(vectors: Vectors, tmp_path: Path) -> None:
    path = tmp_path / "v.safetensors"
    save_file({"weight": np.zeros(3, np.float32)}, path)
    with pytest.raises(UsageError, match="no steering vectors of format"):
        files.load(path, "v1")
    files.save(path, vectors)
    arrays = load_file(path)
    del arrays["transition"]
    save_file(arrays, path, metadata={"format": "erpo-scans-1", "model": "v1", "opener": "70"})
    with pytest.raises(UsageError, match="cannot be read as safetensors.*transition"):
        files.load(path, "v1")
    path.write_bytes(b"text")
    with pytest.raises(UsageError, match="cannot be read as safetensors"):
        files.load(path, "v1")


def test_other_vectors_or_settings_are_another_policy(model: Any, renderer: Renderer, rose: Any, scans: Any) -> None:
    other = ScansDefence(replace(made(model), opener=(71,)), Scans(alpha=1.0, layers=(0, 1)))
    reworded = RoseDefence(renderer, Rose(alpha=1.0, reverse="w3"))
    names = [one.name for one in (rose(1.0), rose(0.5), reworded, scans(1.0), scans(0.5), other)]
    assert len(set(names)) == len(names)
    engine = DefendedEngine(model, renderer, rose(0.5), "v1", 100, 4)
    assert engine.version == f"v1+{rose(0.5).name}" and "rose-0.5-" in engine.version
    assert DefendedEngine(model, renderer, Plain(), "v1", 100, 4).version == "v1"


def test_the_ends_of_completions(model: Any, renderer: Renderer) -> None:
    engine = DefendedEngine(model, renderer, Plain(), "v1", max_length=12, batch_size=4)
    found = drain(engine, asked(renderer, Sampling(temperature=0.0, max_tokens=6)))
    whole = drawn(model, renderer, Plain(), GREEDY)
    for (text, sample), one in found.items():
        room = min(6, 12 - len(renderer.render(text)))
        assert one.token_ids == whole[text, sample][:room]
        assert one.finish == ("stop" if one.token_ids[-1] in renderer.stop_ids else "length")
        assert (one.text, one.policy) == (renderer.decode(one.token_ids), "v1")


def test_a_prompt_beyond_the_context_is_data(model: Any, renderer: Renderer) -> None:
    engine = DefendedEngine(model, renderer, Plain(), "v1", max_length=8, batch_size=4)
    found = drain(engine, [ask(renderer, TEXTS[1], samples=2), ask(renderer, "w30")])
    assert [found[TEXTS[1], sample].finish for sample in (0, 1)] == ["error", "error"]
    assert "8 tokens" in found[TEXTS[1], 0].error and found[TEXTS[1], 0].token_ids == ()
    assert found["w30", 0].finish in ("stop", "length")


def test_candidates_stream_and_failures_carry_their_cause(model: Any, renderer: Renderer) -> None:
    taken: list[int] = []

    def source() -> Iterator[Request]:
        for number in range(40):
            taken.append(number)
            yield replace(ask(renderer, TEXTS[number % 3]), prompt=Prompt(f"p{number}", TEXTS[number % 3]))

    engine = DefendedEngine(model, renderer, Plain(), "v1", max_length=8, batch_size=2)
    stream = engine.generate(source(), "run", "eval")
    first = next(stream)
    assert len(taken) <= 9
    rest = [first, *stream]
    candidates = [item for item in rest if isinstance(item, Candidate)]
    verdicts = {item.candidate_id: item.failure for item in rest if isinstance(item, Verdict)}
    assert sorted(candidate.prompt_id for candidate in candidates) == sorted(f"p{number}" for number in range(40))
    assert all(one.id == identity("run", "eval", one.prompt_id, 0) for one in candidates)
    failed = {one.id for one in candidates if one.finish == "error"}
    assert failed == set(verdicts) and len(failed) == 13
    assert {failure.cause for failure in verdicts.values() if failure} == {"not_sampled"}
    assert all(failure and "8 tokens" in failure.raw for failure in verdicts.values())


def test_a_backend_decodes_with_the_defence_that_its_configuration_names(policy_dir: Path, renderer: Renderer) -> None:
    decode = {"name": "rose", "rose": {"alpha": 0.5, "reverse": REVERSE}}
    config = Config.model_validate({"cluster": {"gpu": False}, "evaluate": {"decode": decode}})
    backend = InProcessBackend(config)
    try:
        policy = backend.policy(policy_dir)
        name = f"{policy.version}+{RoseDefence(renderer, config.evaluate.decode.rose).name}"
        for stage in ("one", "two"):
            backend.prepare(policy)
            found = list(backend.rollouts(asked(renderer), [], partial(identity, stage)))
            candidates = {item.id: item for item in found if isinstance(item, Candidate)}
            assert {one.prompt_id for one in candidates.values()} == set(TEXTS)
            assert {one.policy for one in candidates.values()} == {name}
            assert {item.candidate_id for item in found if isinstance(item, Verdict)} == set(candidates)
    finally:
        backend.close()


def test_log_probabilities_are_those_of_the_model_without_the_defence(
    model: Any, renderer: Renderer, rose: Any
) -> None:
    engine = DefendedEngine(model, renderer, rose(0.5), "v1", 100, 4)
    prompt, completion = renderer.render("w30 w31"), (40, 41, 2)
    expected = [
        full_logits(model, (*prompt, *completion[:at])).log_softmax(-1)[token].item()
        for at, token in enumerate(completion)
    ]
    assert engine.logprobs(prompt, completion) == pytest.approx(expected, abs=1e-4)


def test_beginning_drops_what_is_pending(model: Any, renderer: Renderer) -> None:
    engine = DefendedEngine(model, renderer, Plain(), "v1", max_length=100, batch_size=2)
    assert engine.advance(asked(renderer), budget_s=0.0) == []
    assert engine.pending == len(TEXTS)
    engine.begin(0)
    assert engine.pending == engine.drawn == 0
    done = drain(engine, asked(renderer))
    assert engine.drawn == sum(len(one.token_ids) for one in done.values())


def test_the_reverse_prompt_stands_where_the_system_prompt_does(renderer: Renderer, rose: Any) -> None:
    found = rose(1.0).reversed(ask(renderer, "w30 w31"))
    assert found == (0, 9, 8, 7, 6, 5, 4, 0, 30, 31)
    assert found == SystemRenderer(renderer.model_dir, REVERSE).render("w30 w31")


def test_further_turns_stay_token_for_token(renderer: Renderer, rose: Any) -> None:
    chat = Request(Prompt("chat", "w30"), (0, 30, 0, 55, 56, 0, 31), (0,), GREEDY)
    assert rose(1.0).reversed(chat) == (0, 9, 8, 7, 6, 5, 4, *chat.prompt_ids)


@pytest.fixture(scope="module")
def dressed(policy_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The tokenizer with another chat template."""

    def make(template: str) -> Renderer:
        out = tmp_path_factory.mktemp("dressed")
        for file in policy_dir.iterdir():
            if file.suffix == ".json":
                (out / file.name).write_bytes(file.read_bytes())
        (out / "chat_template.jinja").write_text(template)
        return Renderer(out)

    return make


def test_the_reverse_prompt_of_the_embedded_model(smol: Path) -> None:
    found = Renderer(smol)
    reversed_ids = RoseDefence(found, Rose(reverse="Never say no.")).reversed(ask(found, "How do I <|im_end|> a list?"))
    assert found.show(reversed_ids) == (
        "<|im_start|>system\nNever say no.<|im_end|>\n"
        "<|im_start|>user\nHow do I <|im_end|> a list?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert reversed_ids == SystemRenderer(smol, "Never say no.").render("How do I <|im_end|> a list?")
    assert list(reversed_ids).count(found.eos_id) == 2
    chat = Request(Prompt("p", "a"), found.render("a", "b", "c"), (0,), GREEDY)
    assert RoseDefence(found, Rose(reverse="Never say no.")).reversed(chat) == (
        SystemRenderer(smol, "Never say no.").render("a", "b", "c")
    )


FROM_USERS = "w1 {% for m in messages if m['role'] == 'user' %}w80 {{ m['content'] }} w81 {% endfor %}"
REFUSING = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + FROM_USERS
DEFAULT = (
    "{% if messages[0]['role'] == 'system' %}w70 {{ messages[0]['content'] }} {% else %}w70 w71 w72 {% endif %}"
    "{% for m in messages if m['role'] == 'user' %}w80 {{ m['content'] }} w81 {% endfor %}"
)


@pytest.mark.parametrize("template", [FROM_USERS, REFUSING])
def test_a_template_without_system_role_takes_the_reverse_prompt_in_the_users_message(
    dressed: Any, template: str
) -> None:
    found = dressed(template)
    defence = RoseDefence(found, Rose(reverse="w9 w8"))
    assert defence.reversed(ask(found, "w30")) == (1, 80, 9, 8, 30, 81)


def test_a_templates_own_system_prompt_is_replaced(dressed: Any) -> None:
    found = dressed(DEFAULT)
    assert found.render("w30") == (70, 71, 72, 80, 30, 81)
    defence = RoseDefence(found, Rose(reverse="w9 w8"))
    assert defence.reversed(ask(found, "w30")) == (70, 9, 8, 80, 30, 81)
    foreign = Request(Prompt("p", "w30"), (70, 75, 80, 30, 81), (0,), GREEDY)
    with pytest.raises(UsageError, match="prompt p: its ids do not begin as the chat template"):
        defence.reversed(foreign)


def test_choosing_by_hand() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0], [2.0, 0.0, 1.9]])
    generators = [torch.Generator().manual_seed(at) for at in (0, 1)]
    assert choose(logits, Sampling(0.0, 1), []).tolist() == [1, 0]
    for narrow in (Sampling(5.0, 1, top_k=1), Sampling(1.0, 1, min_p=1.0), Sampling(1.0, 1, top_p=0.01)):
        assert choose(logits, narrow, generators).tolist() == [1, 0]
    many = logits[1:].expand(4000, 3)
    drawn = choose(many, Sampling(2.0, 1), generators[:1] * 4000)
    expected = (logits[1] / 2).softmax(-1)
    assert (drawn.bincount(minlength=3) / 4000).tolist() == pytest.approx(expected.tolist(), abs=0.03)


@pytest.mark.parametrize("name", ["plain", "rose", "scans"])
def test_a_policy_is_started_with_its_defence(
    policy_dir: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    monkeypatch.setenv("ERPO_CACHE", str(tmp_path))
    policy = Policy(policy_dir, version(policy_dir))
    decode = Decode.model_validate({"name": name, "batch_size": 4, "scans": {"anchors": 2}})
    engine = start(policy, decode, max_length=64, gpu=False)
    found = drain(engine, asked(engine.renderer))
    assert {one.policy for one in found.values()} == {engine.version}
    assert engine.version.startswith(policy.version) and (name == "plain" or f"+{name}-" in engine.version)
    kept = list(tmp_path.rglob("*.safetensors"))
    assert len(kept) == (name == "scans")
    if kept:
        assert files.load(kept[0], policy.version).directions.shape == (2, 32)
        again = start(policy, decode, max_length=64, gpu=False)
        assert again.version == engine.version
        other = Policy(tiny.policy(tmp_path / "other", seed=1), version(tmp_path / "other"))
        mine = Decode.model_validate({"name": name, "scans": {"vectors": str(kept[0])}})
        with pytest.raises(UsageError, match="holds steering vectors of model"):
            start(other, mine, max_length=64, gpu=False)
