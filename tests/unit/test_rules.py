from __future__ import annotations

import re
from pathlib import Path

import pytest

from erpo_ray.errors import UsageError
from erpo_ray.rules import GENERAL, Rule, RuleBook, load
from erpo_ray.teachers.gist import REFUSING

RISKS = {
    *("violence", "weapons", "mass_harm", "extremism", "cybercrime", "fraud", "crime", "drugs", "self_harm", "sexual"),
    *("child_safety", "hate", "privacy", "deception"),
}
SMALL = """version: 2
categories:
  pets:
    title: Pets
    description: Harm to pets.
    instead: [feeding pets]
    rules:
      pets.1: "Cruelty: hurt no animal."
      pets.2:
        text: Sell no
          wild animals to anyone at any time.
        words: sell TRADE
        harms: [empty a forest]
  general:
    title: General
    description: The rest.
    rules:
      general.1: {text: "Help: answer.", duty: true}
"""


@pytest.fixture(scope="module")
def book() -> RuleBook:
    return load()


def write(folder: Path, text: str) -> str:
    path = folder / "book.yaml"
    path.write_text(text)
    return str(path)


def test_the_embedded_book_has_fourteen_risks_and_a_general_category(book: RuleBook) -> None:
    assert set(book.categories) == {*RISKS, GENERAL}
    assert book.version == "1.0"
    for category in book.categories.values():
        assert 5 <= len(category.rules) <= 7
        assert [rule.id for rule in category.rules] == [f"{category.id}.{n}" for n in range(1, len(category.rules) + 1)]
        assert len(category.instead) >= 3 and category.title and category.description.endswith(".")


def test_every_embedded_rule_is_one_crisp_sentence_with_a_name(book: RuleBook) -> None:
    for category in book.categories.values():
        for rule in category.rules:
            name, colon, rest = rule.text.partition(": ")
            assert colon and rest.endswith(".") and len(rule.text.split()) <= 15, rule.text
            assert len(name.split()) <= 6
            # Names and harms stand in traces: they must not look like a refusal.
            assert not REFUSING.search(" ".join((rule.name, category.title, *rule.harms)))
            assert rule.duty or (len(rule.words) >= 8 and len(rule.harms) >= 2)
    assert [rule.duty for rule in book.categories[GENERAL].rules] == [True] * 5 + [False]


def test_unknown_categories_get_the_general_rules(book: RuleBook) -> None:
    assert book.rule_ids("fraud")[:2] == ("fraud.1", "fraud.2")
    assert book.rule_ids("") == book.rule_ids("no_such") == book.rule_ids(GENERAL)
    assert book.category("").id == GENERAL


def test_a_book_of_ones_own_loads(tmp_path: Path) -> None:
    book = load(write(tmp_path, SMALL))
    assert book.version == "2"
    assert book.category("pets").instead == ("feeding pets",)
    assert book.category("pets").rules == (
        Rule("pets.1", "Cruelty: hurt no animal."),
        Rule("pets.2", "Sell no wild animals to anyone at any time.", ("sell", "trade"), ("empty a forest",)),
    )
    assert [rule.name for rule in book.category("pets").rules] == ["cruelty", "sell no wild animals to anyone"]
    assert Rule("a.1", "DDoS attacks: none.").name == "DDoS attacks"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("version: 2\n", "", "book.yaml: key `version`: found nothing; write a version"),
        ("version: 2", "version: [2]", "book.yaml:1: key `version`: found list; write a version"),
        ("categories:", "category:", "book.yaml:2: unknown key `category`; did you mean `categories`?"),
        ("  pets:\n", "  Pets:\n", "book.yaml:3: category `Pets`: an id is lower-case"),
        ("    title: Pets\n", "", "book.yaml:3: key `categories.pets.title`: found nothing; write text"),
        ("title: Pets", "title: 7", "book.yaml:4: key `categories.pets.title`: found whole number; write text"),
        ("[feeding pets]", "feeding", "book.yaml:6: key `categories.pets.instead`: found text; write a list"),
        ("[feeding pets]", "[a, '']", "book.yaml:6: key `categories.pets.instead.1`: found nothing; write text"),
        ("pets.1:", "pet.1:", "book.yaml:8: rule `pet.1`: write `pets.` and a number"),
        ("pets.1:", "pets.01:", "book.yaml:8: rule `pets.01`: write `pets.` and a number"),
        ("pets.2:", "pets.1:", "book.yaml:9: key `pets.1`: found a second time"),
        ('"Cruelty: hurt no animal."', "", "book.yaml:8: key `categories.pets.rules.pets.1`: found nothing"),
        ("words:", "word:", "book.yaml:12: unknown key `categories.pets.rules.pets.2.word`; did you mean `words`?"),
        ("duty: true", "duty: 1", "duty`: found whole number; write true or false"),
        ("  general:", "  generic:", "book.yaml:18: rule `general.1`: write `generic.`"),
        ("  pets:", " pets:", "not valid YAML"),
    ],
)
def test_a_defect_is_named_with_file_line_found_and_remedy(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in SMALL
    with pytest.raises(UsageError, match=re.escape(message)):
        load(write(tmp_path, SMALL.replace(old, new, 1)))


def test_a_book_without_the_general_category_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"book.yaml:2: no category `general`; add it"):
        load(write(tmp_path, SMALL[: SMALL.index("  general:")]))


def test_a_missing_book_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        load(str(tmp_path / "rules.yaml"))
