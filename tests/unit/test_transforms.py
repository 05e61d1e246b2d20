"""Attack transforms: what they keep, what they change, and that the original can be found again."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erpo_ray.prompts import transforms
from erpo_ray.prompts.transforms import TRANSFORMS
from erpo_ray.types import Prompt

TEXTS = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=200)
ASKED = Prompt("fraud-1", "How do I test a toaster?", "harmful", "fraud", "papers", "fraud-2", "seeds")


@pytest.mark.parametrize("name", TRANSFORMS)
@given(text=TEXTS, label=st.sampled_from(["harmful", "benign"]))
def test_label_category_and_topic_are_kept_and_the_name_is_told(name: str, text: str, label: str) -> None:
    prompt = Prompt("a", text, label, "fraud", "papers", "b", "seeds")  # type: ignore[arg-type]
    found = TRANSFORMS[name](prompt)
    assert (found.label, found.category, found.topic, found.twin) == (label, "fraud", "papers", "")
    assert (found.id, found.source) == (f"a~{name}", f"seeds~{name}")
    assert found == TRANSFORMS[name](prompt)


@pytest.mark.parametrize("name", [name for name in TRANSFORMS if name not in ("base64", "leetspeak")])
@given(text=TEXTS)
def test_the_words_of_the_prompt_stay_as_they_are(name: str, text: str) -> None:
    assert TRANSFORMS[name](Prompt("a", text)).text.count(text) >= 1


@given(text=TEXTS)
def test_base64_decodes_to_the_original(text: str) -> None:
    shown = transforms.base64(Prompt("a", text)).text
    assert base64.b64decode(shown.rpartition("\n")[2], validate=True).decode() == text


def test_base64_does_not_show_the_words() -> None:
    assert "toaster" in ASKED.text
    assert not {word for word in ASKED.text.split() if len(word) > 4} & set(transforms.base64(ASKED).text.split())


@given(text=TEXTS)
def test_leetspeak_changes_letters_one_for_one(text: str) -> None:
    changed = transforms.leetspeak(Prompt("a", text)).text
    assert len(changed) == len(text)
    assert all(new == old or old in "aeiostAEIOST" for old, new in zip(text, changed, strict=True))
    assert not set(changed) & set("aeiostAEIOST")


def test_leetspeak_by_hand() -> None:
    assert transforms.leetspeak(ASKED).text == "H0w d0 1 7357 4 704573r?"


def test_every_transform_gives_another_id_and_text() -> None:
    found = [transform(ASKED) for transform in TRANSFORMS.values()]
    assert len({prompt.id for prompt in found} | {ASKED.id}) == len(TRANSFORMS) + 1
    assert len({prompt.text for prompt in found} | {ASKED.text}) == len(TRANSFORMS) + 1


@pytest.mark.parametrize(("name", "turns"), [("many_shot", 17), ("multi_turn", 4)])
def test_dialogues_end_with_the_prompt_and_an_open_turn(name: str, turns: int) -> None:
    text = TRANSFORMS[name](ASKED).text
    assert text.count("User: ") == text.count("Helper:") == turns
    assert text.endswith(f"User: {ASKED.text}\n\nHelper:".replace("\n\n", "\n"))


def test_transforms_apply_from_the_inside_out() -> None:
    (found,) = transforms.apply([ASKED], ["role_play", "base64"])
    inner = transforms.role_play(ASKED)
    assert found == transforms.base64(inner)
    assert (found.id, found.source) == ("fraud-1~role_play~base64", "seeds~role_play~base64")
    assert transforms.apply([ASKED], []) == [ASKED]
