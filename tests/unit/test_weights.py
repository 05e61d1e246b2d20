"""The proof that a trainer leaves beside its weights: when it speaks of them, and when it does not."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from erpo_ray.errors import UsageError
from erpo_ray.train.weights import PROOF, Proof, dress, leave, proof_of, version
from erpo_ray.types import Policy

PROMPT, COMPLETION = (1, 2), (3, 4, 5)


@pytest.fixture
def policy(tmp_path: Path) -> Policy:
    folder = tmp_path / "policy"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "config.json").write_text("{}")
    leave(Proof(version(folder), PROMPT, COMPLETION, (-0.5, -1.0, -0.25)), folder)
    return Policy(folder, version(folder))


def test_a_proof_comes_back_for_its_own_weights_and_tokens(policy: Policy) -> None:
    found = proof_of(policy, PROMPT, COMPLETION)
    assert found and found.logprobs == (-0.5, -1.0, -0.25)


def test_a_proof_says_nothing_of_other_tokens_or_weights(policy: Policy) -> None:
    assert proof_of(policy, (1, 9), COMPLETION) is None
    assert proof_of(policy, PROMPT, COMPLETION[:2]) is None
    (policy.path / "model.safetensors").write_bytes(b"trained further")
    assert proof_of(replace(policy, version=version(policy.path)), PROMPT, COMPLETION) is None


def test_a_proof_of_too_few_tokens_is_none(policy: Policy) -> None:
    leave(Proof(policy.version, PROMPT, COMPLETION, (-0.5,)), policy.path)
    assert proof_of(policy, PROMPT, COMPLETION) is None


def test_without_a_file_there_is_no_proof(policy: Policy) -> None:
    (policy.path / PROOF).unlink()
    assert proof_of(policy, PROMPT, COMPLETION) is None


def test_a_damaged_proof_is_named_with_its_remedy(policy: Policy) -> None:
    (policy.path / PROOF).write_text('{"version": 3}')
    with pytest.raises(UsageError, match=r"canary\.json: .*delete the file"):
        proof_of(policy, PROMPT, COMPLETION)


def test_a_model_made_from_another_does_not_inherit_its_proof(policy: Policy, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    shutil.copy(policy.path / "model.safetensors", out)
    dress(out, policy.path, "bfloat16")
    assert (out / "config.json").exists() and not (out / PROOF).exists()
