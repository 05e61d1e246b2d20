"""Seed prompts, loaders, attack wrappers and mixing."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from erpo_ray import rules
from erpo_ray.config import Data, Source
from erpo_ray.errors import UsageError
from erpo_ray.prompts import attacks, files, loaders, mixing, seeds, similar
from erpo_ray.prompts.mixing import choose_balanced, gather, per_source
from erpo_ray.types import Prompt

BOOK = tuple(rules.load().categories)
RISKS = tuple(name for name in BOOK if name != rules.GENERAL)


def source(path: str, **fields: Any) -> Source:
    return Source.model_validate({"path": path, **fields})


def stored(folder: Path, rows: list[dict[str, Any]], name: str = "p.jsonl") -> str:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def prompt(name: str, label: str = "harmful", category: str = "", twin: str = "", origin: str = "s") -> Prompt:
    return Prompt(name, f"text of {name}", label, category, "", twin, origin)  # type: ignore[arg-type]


# The embedded sets


def seed_rows() -> list[dict[str, Any]]:
    return [row for name in seeds.NAMES for _, row in seeds.rows(name)]


def test_every_risk_category_has_at_least_forty_of_each_label_and_everyday_300() -> None:
    counts = Counter((row["category"], row["label"]) for _, row in seeds.rows("seeds"))
    assert {category for category, _ in counts} == set(RISKS) and len(RISKS) == 14
    assert min(counts.values()) >= 40
    everyday = [row for _, row in seeds.rows("everyday")]
    assert len(everyday) >= 300 and {(row["category"], row["label"]) for row in everyday} == {("general", "benign")}


def test_seed_ids_are_unique_and_twins_name_each_other_across_labels() -> None:
    by_id = {row["id"]: row for row in seed_rows()}
    assert len(by_id) == len(seed_rows())
    twins = [row for row in by_id.values() if row["twin"]]
    assert len(twins) >= 14 * 80
    for row in twins:
        other = by_id[row["twin"]]
        assert (other["twin"], other["topic"], other["split"]) == (row["id"], row["topic"], row["split"])
        assert {row["label"], other["label"]} == {"harmful", "benign"}


def test_seed_prompts_are_plain_text_of_a_sensible_length() -> None:
    texts = [row["prompt"] for row in seed_rows()]
    assert all(text == text.strip() and text.isascii() and 2 <= len(text.split()) <= 80 for text in texts)
    assert len({text.casefold() for text in texts}) == len(texts)


def test_topics_are_whole_in_one_split_and_evaluation_is_a_fifth() -> None:
    splits: dict[tuple[str, str], set[str]] = {}
    for row in seed_rows():
        splits.setdefault((row["category"], row["topic"]), set()).add(row["split"])
    assert all(len(found) == 1 for found in splits.values())
    held = Counter(category for (category, _), found in splits.items() if found == {"evaluate"})
    assert held == {**dict.fromkeys(RISKS, 6), "violence": 7, "general": 6}


def test_no_evaluation_prompt_resembles_a_training_prompt() -> None:
    rows = seed_rows()
    index = similar.Index((row["prompt"] for row in rows), 0.7)
    for row in rows:
        if row["split"] == "train":
            index.add(row["id"], row["prompt"])
    assert [
        (row["id"], found) for row in rows if row["split"] == "evaluate" and (found := index.find(row["prompt"]))
    ] == []


# Similarity


@given(st.lists(st.text("abcdef ", min_size=1, max_size=30), min_size=2, max_size=12), st.sampled_from((0.5, 0.7, 0.8)))
def test_the_index_finds_what_comparing_all_pairs_finds(texts: list[str], threshold: float) -> None:
    index = similar.Index(texts, threshold)
    for number, text in enumerate(texts):
        alike = [
            str(other)
            for other in range(number)
            if similar.jaccard(similar.tokens(texts[other]), similar.tokens(text)) >= threshold
        ]
        assert index.find(text) == (alike[0] if alike else None)
        index.add(str(number), text)


# Loaders


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"prompt": " Hello there "}, "Hello there"),
        ({"prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "Hi"}]}, "Hi"),
        ({"messages": [{"role": "user", "content": "one"}, {"role": "user", "content": "two"}]}, "one"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "part"}]}]}, "part"),
        ({"conversations": [{"from": "human", "value": "ask"}, {"from": "gpt", "value": "say"}]}, "ask"),
        ({"instruction": "Sum up", "input": "the text", "output": "x"}, "Sum up\n\nthe text"),
        ({"instruction": "Sum up", "input": ""}, "Sum up"),
        ({"question": "Why?", "response": "x"}, "Why?"),
    ],
)
def test_every_known_shape_of_row_gives_the_user_message(tmp_path: Path, row: dict[str, Any], text: str) -> None:
    (found,) = loaders.read(source(stored(tmp_path, [row])))
    assert (found.text, found.label, found.category, found.source) == (text, "unknown", "", "p")


def test_plain_gzip_and_parquet_hold_the_same_prompts(tmp_path: Path) -> None:
    rows = [{"id": str(n), "prompt": f"prompt {n}", "label": "benign"} for n in range(3)]
    plain = loaders.read(source(stored(tmp_path, rows)))
    (tmp_path / "p.jsonl.gz").write_bytes(gzip.compress((tmp_path / "p.jsonl").read_bytes()))
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "p.parquet")
    assert loaders.read(source("p.jsonl.gz"), str(tmp_path)) == plain
    assert loaders.read(source("p.parquet"), str(tmp_path)) == plain
    assert [found.id for found in plain] == ["0", "1", "2"]


def test_a_glob_reads_its_files_in_order(tmp_path: Path) -> None:
    stored(tmp_path, [{"prompt": "b"}], "2.jsonl")
    stored(tmp_path, [{"prompt": "a"}], "1.jsonl")
    assert [found.text for found in loaders.read(source("*.jsonl"), str(tmp_path))] == ["a", "b"]


def test_label_and_category_of_the_source_fill_in_or_overrule(tmp_path: Path) -> None:
    path = stored(
        tmp_path, [{"prompt": "a", "category": "fraud"}, {"prompt": "b", "category": "S7", "label": "benign"}]
    )
    kept = loaders.read(source(path, category="drugs"), "", BOOK)
    assert [(p.label, p.category) for p in kept] == [("unknown", "fraud"), ("benign", "drugs")]
    overruled = loaders.read(source(path, label="harmful"), "", BOOK)
    assert [(p.label, p.category) for p in overruled] == [("harmful", "fraud"), ("harmful", "")]


def test_where_columns_and_limit_select(tmp_path: Path) -> None:
    rows = [{"q": f"text {n}", "kind": "x" if n % 2 else "y", "toxic": n > 3} for n in range(20)]
    chosen = source(stored(tmp_path, rows), columns={"prompt": "q"}, where={"kind": "x", "toxic": "true"}, limit=4)
    found = loaders.read(chosen)
    assert len(found) == 4 and {int(p.text[5:]) for p in found} <= {5, 7, 9, 11, 13, 15, 17, 19}
    assert loaders.read(chosen) == found


def test_rows_without_id_get_one_from_their_text(tmp_path: Path) -> None:
    first, again, other = loaders.read(source(stored(tmp_path, [{"prompt": "a"}, {"prompt": "a"}, {"prompt": "b"}])))
    assert again.id == f"{first.id}-2" and len({first.id, other.id}) == 2
    assert loaders.read(source(stored(tmp_path, [{"prompt": "a"}], "q.jsonl")))[0].id == first.id


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b'{"prompt": "a"}\n{"prompt": "b"\n', 'p.jsonl:2: found \'{"prompt": "b"\', which is not JSON'),
        (b"[1]\n", "p.jsonl:1: found a JSON list, not an object; write one {...} a line"),
        (b'{"prompt": "a"}\n\n{"prompt": "  "}\n', "p.jsonl:3: prompt: found an empty prompt; fill it in"),
        (b'{"prompt": 5}\n', "p.jsonl:1: prompt: found whole number, no text of a user"),
        (b'{"messages": []}\n', "p.jsonl:1: messages: found list, no text of a user"),
        (b'{"text": "a", "tag": 1}\n', "p.jsonl:1: found the columns 'text', 'tag' but not any of prompt, messages"),
        (b'{"id": 1, "prompt": "a"}\n{"id": "1", "prompt": "b"}\n', "p.jsonl:2: id: found '1' again (first at "),
        (b'{"prompt": "a", "label": "toxic"}\n', "p.jsonl:1: label: found 'toxic' (text); use harmful, "),
        (b'\xef\xbb\xbf{"prompt": "a"}\n', "p.jsonl:1: found a byte order mark at the start; save the file as UTF-8"),
        (b"\xff\xfe{\x00", "p.jsonl:1: found a byte order mark at the start"),
        (b'{"prompt": "caf\xe9"}\n', "p.jsonl:1: found byte 0xe9 at column 16, which is not UTF-8"),
        (b'{"prompt": "' + b"x" * files.MAX_LINE + b'"}\n', "p.jsonl:1: found a line of more than 1048576 bytes"),
        (b'{"prompt": ' + b"[" * 100_000 + b"\n", "p.jsonl:1: found "),
        (b"", "p.jsonl: holds no rows"),
    ],
)
def test_a_bad_row_is_named_with_file_line_and_remedy(tmp_path: Path, data: bytes, expected: str) -> None:
    (tmp_path / "p.jsonl").write_bytes(data)
    with pytest.raises(UsageError) as caught:
        loaders.read(source("p.jsonl"), str(tmp_path))
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("q.jsonl", "q.jsonl: no such file; did you mean"),
        ("no/where.jsonl", "no/where.jsonl: no such file, and no folder"),
        ("*.parquet", "*.parquet: no file matches"),
        (".", "is a folder; name its files"),
        ("p.csv", "p.csv: found the ending '.csv'"),
        ("cut.jsonl.gz", "cut.jsonl.gz:4: the gzip stream is damaged or cut short"),
        ("no.parquet", "no.parquet: not a whole Parquet file"),
    ],
)
def test_a_bad_file_is_named_with_the_remedy(tmp_path: Path, path: str, expected: str) -> None:
    stored(tmp_path, [{"prompt": "a"}])
    (tmp_path / "p.csv").write_text("prompt\n")
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b'{"prompt": "a"}\n' * 3)[:-9])
    (tmp_path / "no.parquet").write_bytes(b"nothing")
    wanted = source(path)
    if path.startswith("*"):
        (tmp_path / "no.parquet").unlink()
    with pytest.raises(UsageError) as caught:
        loaders.read(wanted, str(tmp_path))
    assert expected in str(caught.value)


def test_a_where_that_keeps_nothing_shows_the_columns(tmp_path: Path) -> None:
    path = stored(tmp_path, [{"prompt": "a", "kind": "x"}])
    with pytest.raises(UsageError, match=r"none of 1 rows has kind=z; columns found: prompt, kind"):
        loaders.read(source(path, where={"kind": "z"}))


# Attacks


def test_the_embedded_templates_are_many_of_both_kinds_and_split_in_halves() -> None:
    halves = {split: attacks.load("embedded", "", split) for split in ("train", "evaluate")}
    counts = {split: Counter(template.label for template in found) for split, found in halves.items()}
    assert counts == {"train": {"harmful": 20, "benign": 10}, "evaluate": {"harmful": 20, "benign": 10}}
    assert not {template.text for template in halves["train"]} & {template.text for template in halves["evaluate"]}
    assert all(template.text.count(attacks.SLOT) == 1 for found in halves.values() for template in found)


def test_a_prompt_is_put_into_different_templates_of_its_label() -> None:
    templates = attacks.load("embedded")
    found = attacks.wrap([prompt("a"), prompt("b", "benign")], templates, seed=1, repeat=3)
    assert len({each.text for each in found}) == len({each.id for each in found}) == 6
    by_id = {template.id: template for template in templates}
    for each in found:
        base, _, name = each.id.partition("~")
        assert each.text == by_id[name].text.replace("{prompt}", f"text of {base}")
        assert (each.label, each.twin) == (by_id[name].label, "")
    assert attacks.wrap([prompt("b", "benign")], templates, seed=1, repeat=3) == found[3:]


def test_braces_in_prompts_and_templates_stay(tmp_path: Path) -> None:
    path = stored(tmp_path, [{"id": "t", "prompt": 'f"{x}" {prompt} {0}'}])
    asked = Prompt("a", "{prompt} {y}")
    assert attacks.wrap([asked], attacks.load(path), 0)[0].text == 'f"{x}" {prompt} {y} {0}'


def test_templates_without_slot_and_too_few_templates_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"p\.jsonl:1: prompt: found no \{prompt\} in the template"):
        attacks.load(stored(tmp_path, [{"prompt": "no slot"}]))
    with pytest.raises(UsageError, match="repeat: found 2, but only 1 templates fit harmful prompts"):
        attacks.wrap([prompt("a")], [attacks.Template("t", "{prompt}")], 0, repeat=2)


# Mixing


def test_the_default_data_has_no_copies_and_keeps_twins_together() -> None:
    mix = gather(Data(), BOOK)
    assert mix.left_out == ()
    assert len(mix.train) + len(mix.evaluate) == len(seed_rows())
    train = {each.id for each in mix.train}
    assert all(each.twin in train for each in mix.train if each.twin)


def test_training_prompts_that_repeat_evaluation_or_each_other_are_dropped_and_told(tmp_path: Path) -> None:
    words = "one two three four five six seven eight nine ten"
    train = [
        {"id": "copy", "prompt": "What IS a kettle  good for?", "label": "benign"},
        {"id": "near", "prompt": f"{words} eleven", "label": "harmful"},
        {"id": "first", "prompt": f"{words} x y z v", "label": "harmful"},
        {"id": "again", "prompt": f"{words} x y z", "label": "harmful"},
        {"id": "twin", "prompt": f"{words} x y z q", "label": "benign"},
    ]
    held = [
        {"id": "e1", "prompt": "What is a kettle good for?", "label": "benign"},
        {"id": "e2", "prompt": words, "label": "harmful"},
        {"id": "e3", "prompt": words.upper(), "label": "harmful"},
    ]
    data = Data(train=(source(stored(tmp_path, train)),), evaluate=(source(stored(tmp_path, held, "h.jsonl")),))
    mix = gather(data)
    assert {each.id for each in mix.train} == {"first", "twin"} and {each.id for each in mix.evaluate} == {"e1", "e2"}
    assert {left.id: left.reason for left in mix.left_out} == {
        "e3": "repeats evaluation prompt e2",
        "copy": "repeats evaluation prompt e1",
        "near": "repeats evaluation prompt e2",
        "again": "repeats training prompt first",
    }


def test_a_source_may_be_used_plain_and_wrapped(tmp_path: Path) -> None:
    path = stored(tmp_path, [{"id": str(n), "prompt": f"w{n} x{n} y{n}", "label": "harmful"} for n in range(5)])
    data = Data(train=(source(path), source(path, attacks="embedded", repeat=2, name="attacked")), evaluate=())
    found = Counter(each.source for each in gather(data).train)
    assert found == {"p": 5, "attacked": 10}


def test_ids_that_two_sources_share_are_told_apart(tmp_path: Path) -> None:
    first = stored(tmp_path, [{"id": "0", "prompt": "alpha", "label": "benign"}])
    second = stored(tmp_path, [{"id": "0", "prompt": "omega", "label": "benign"}], "q.jsonl")
    mix = gather(Data(train=(source(first), source(second)), evaluate=()))
    assert {each.id: each.text for each in mix.train} == {"0": "alpha", "q:0": "omega"}


def test_the_order_depends_on_the_seed_alone() -> None:
    prompts = [prompt(str(n)) for n in range(50)]
    assert mixing.ordered(prompts, 3) == mixing.ordered(reversed(prompts), 3) != mixing.ordered(prompts, 4)


def test_a_balanced_choice_spreads_over_categories_and_takes_twins_along() -> None:
    train = gather(Data(), BOOK).train
    chosen = choose_balanced(train, 28, 45, seed=5)
    counts = Counter((each.label, each.category) for each in chosen)
    assert {counts["harmful", name] for name in RISKS} == {2} and {counts["benign", name] for name in BOOK} == {3}
    ids = {each.id for each in chosen}
    paired = [each for each in chosen if each.label == "harmful" and each.twin]
    assert paired and all(each.twin in ids for each in paired)
    assert choose_balanced(tuple(reversed(train)), 28, 45, seed=5) == chosen


def test_a_balanced_choice_begins_with_the_prompts_asked_for_and_their_twins() -> None:
    train = gather(Data(), BOOK).train
    wanted = [each for each in train if each.label == "harmful" and each.category == "fraud" and each.twin][:6]
    ids = {each.id for each in choose_balanced(train, 8, 8, seed=1, first={each.id for each in wanted})}
    assert {each.id for each in wanted} | {each.twin for each in wanted} <= ids


def test_a_choice_without_counts_takes_all_of_known_label() -> None:
    prompts = [prompt("a"), prompt("b", "benign"), prompt("c", "unknown")]
    assert {each.id for each in choose_balanced(prompts, None, None, 0)} == {"a", "b"}


def test_per_source_caps_each_label_of_each_source() -> None:
    prompts = [
        prompt(f"{o}{n}{label}", label, origin=o) for o in "xy" for n in range(9) for label in ("harmful", "benign")
    ]
    kept = per_source(prompts, 4)
    assert Counter((each.source, each.label) for each in kept) == {
        (o, lab): 4 for o in "xy" for lab in ("harmful", "benign")
    }
    assert per_source(prompts, None) == mixing.ordered(prompts, 0)
