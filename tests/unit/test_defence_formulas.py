"""ROSE's contrast and SCANS's directions, classification and anchors: against hand calculation, without a model."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from erpo_ray.config.decoding import Decode
from erpo_ray.errors import UsageError
from erpo_ray.evaluate.defences import Boundary, boundary, contrast, cosines, directions, middle, seed_anchors
from erpo_ray.prompts import seeds

scores = st.lists(st.floats(-1, 1, allow_subnormal=False), min_size=1, max_size=20)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def test_the_contrast_of_logits_by_hand() -> None:
    plain, reverse = np.array([[2.0, 1.0, 0.0]]), np.array([[4.0, 0.0, 1.0]])
    assert contrast(plain, reverse, 0.5).tolist() == [[0.0, 1.0, -0.5]]
    assert plain.argmax() == 0 and contrast(plain, reverse, 0.5).argmax() == 1


def test_the_contrast_is_that_of_log_probabilities_but_for_a_constant() -> None:
    rng = np.random.default_rng(0)
    plain, reverse = rng.normal(size=(2, 3, 7)) * 5
    published = log_softmax(plain) - 0.7 * log_softmax(reverse)
    assert np.allclose(log_softmax(contrast(plain, reverse, 0.7)), log_softmax(published), atol=1e-12)


@given(st.lists(st.floats(-1e4, 1e4), min_size=2, max_size=8), st.floats(-1e4, 1e4))
def test_without_weight_the_reverse_branch_is_not_seen(plain: list[float], reverse: float) -> None:
    assert contrast(np.array(plain), np.full(len(plain), reverse), 0.0).tolist() == plain


@pytest.mark.parametrize(
    ("layers", "expected"), [(32, range(10, 20)), (30, range(10, 20)), (3, range(1, 2)), (2, range(1)), (1, range(1))]
)
def test_the_middle_third_of_the_layers(layers: int, expected: range) -> None:
    assert middle(layers) == expected


def test_directions_are_unit_differences_of_means() -> None:
    harmful = np.array([[[4.0, 5.0], [1.0, 1.0]], [[2.0, 3.0], [1.0, 1.0]]], dtype=np.float32)
    harmless = np.array([[[0.0, 0.0], [1.0, 1.0]]], dtype=np.float32)
    assert directions(harmful, harmless).tolist() == pytest.approx(np.array([[0.6, 0.8], [0.0, 0.0]]))
    assert directions(harmful, harmless).dtype == np.float32


def test_cosines_by_layer() -> None:
    states = np.array([[[1.0, 0.0], [3.0, 4.0]], [[0.0, 0.0], [-2.0, 0.0]]], dtype=np.float32)
    reference = np.array([[2.0, 2.0], [1.0, 0.0]], dtype=np.float32)
    assert cosines(states, reference) == pytest.approx(np.array([[math.sqrt(0.5), 0.6], [0.0, -1.0]]))


def test_a_threshold_between_two_labels() -> None:
    assert (boundary([0.8, 0.6], [0.2, 0.4]).threshold, boundary([0.8, 0.6], [0.2, 0.4]).accuracy) == (0.5, 1.0)
    # 0.3 is lost either way: a cut at 0.55 finds two of three harmful and lets both others pass.
    overlapping = boundary([0.3, 0.6, 0.9], [0.1, 0.5])
    assert (overlapping.threshold, overlapping.accuracy) == (pytest.approx(0.55), pytest.approx((2 / 3 + 1) / 2))


def test_a_threshold_between_neighbouring_numbers() -> None:
    low = 0.5
    high = math.nextafter(low, 1)
    assert boundary([high], [low]) == Boundary(high, 1.0)


def test_scores_that_tell_nothing_have_the_accuracy_of_chance() -> None:
    assert boundary([0.4, 0.4], [0.4]).accuracy == 0.5
    assert boundary([0.1], [0.9]).accuracy == 0.5


@given(scores, scores)
def test_a_threshold_classifies_as_well_as_it_says_and_no_other_better(
    harmful: list[float], harmless: list[float]
) -> None:
    def accuracy(cut: float) -> float:
        return (np.mean(np.array(harmful) >= cut) + np.mean(np.array(harmless) < cut)) / 2

    found = boundary(harmful, harmless)
    assert found.accuracy == pytest.approx(accuracy(found.threshold))
    assert all(found.accuracy >= accuracy(cut) - 1e-12 for cut in (*harmful, *harmless, -1.0, 1.1))


def test_anchors_are_training_prompts_of_all_categories_used_once() -> None:
    fit, held = seed_anchors(28)
    groups = (fit.harmful, fit.harmless, held.harmful, held.harmless)
    assert [len(group) for group in groups] == [28] * 4
    assert [{prompt.label for prompt in group} for group in groups] == [{"harmful"}, {"benign"}] * 2
    ids = [prompt.id for group in groups for prompt in group]
    assert len(set(ids)) == len(ids)
    splits = {row["id"]: row["split"] for name in seeds.NAMES for _, row in seeds.rows(name)}
    assert {splits[id] for id in ids} == {"train"}
    both = (*fit.harmful, *held.harmful)
    assert {sum(prompt.category == name for prompt in both) for name in {p.category for p in both}} == {4}
    assert seed_anchors(28) == (fit, held)


def test_more_anchors_than_seeds_are_refused() -> None:
    with pytest.raises(UsageError, match=r"scans.anchors: found 5000, but the seeds hold prompts for \d+; use fewer"):
        seed_anchors(5000)


def test_the_settings_of_a_defence() -> None:
    found = Decode.model_validate({"name": "scans", "scans": {"alpha": 2, "layers": [3, 4]}})
    assert (found.scans.alpha, found.scans.layers, found.scans.threshold) == (2.0, (3, 4), None)
    assert (Decode().name, Decode().rose.alpha, Decode().scans.alpha) == ("plain", 0.5, 3.5)
    for wrong in ({"name": "other"}, {"rose": {"alpha": -1}}, {"rose": {"reverse": ""}}, {"scans": {"threshold": 2}}):
        with pytest.raises(ValidationError):
            Decode.model_validate(wrong)
