"""Configurations from files and command lines."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as trials
from hypothesis import strategies as st

from erpo_ray import documents, settings
from erpo_ray.config import Config
from erpo_ray.errors import UsageError
from erpo_ray.rundir.fingerprint import config_yaml


def written(folder: Path, text: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(text)
    return path


def complaint(folder: Path, text: str, *overrides: str, methods: tuple[str, ...] = ()) -> str:
    """What is said of a file, its folder left out."""
    with pytest.raises(UsageError) as caught:
        settings.load(written(folder, text), overrides, methods)
    return str(caught.value).replace(f"{folder}/", "")


def test_an_empty_file_is_all_defaults(tmp_path: Path) -> None:
    assert settings.load(written(tmp_path, "# nothing yet\n")) == Config()


def test_values_are_typed_as_yaml_types_them(tmp_path: Path) -> None:
    config = settings.load(
        written(tmp_path, "seed: 0x10\nprefer:\n  fit: {learning_rate: 1e-6}\ncluster: {gpu: true}\n")
    )
    assert (config.seed, config.prefer.fit.learning_rate, config.cluster.gpu) == (16, 1e-6, True)


def test_naming_one_key_of_a_section_keeps_its_other_defaults(tmp_path: Path) -> None:
    config = settings.load(written(tmp_path, "imitate: {draw: {max_tokens: 50}}\n"), ["prefer.fit.epochs=2"])
    assert (config.imitate.draw.max_tokens, config.imitate.draw.temperature) == (50, 0.7)
    assert (config.prefer.fit.epochs, config.prefer.fit.batch_size) == (2, Config().prefer.fit.batch_size)


def test_an_override_wins_over_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, "seed: 1\nprefer: {samples: 3}\n")
    config = settings.load(path, ["seed=2", "data.train.0.limit=5", "imitate.harmful=null", "prefer.draw={top_k: 7}"])
    assert (config.seed, config.prefer.samples, config.prefer.draw.top_k) == (2, 3, 7)
    assert config.data.train[0].limit == 5 and config.data.train[0].path == "seeds"


def test_an_override_of_text_needs_no_quotes(tmp_path: Path) -> None:
    path = written(tmp_path, "")
    config = settings.load(path, ["name=2024", "model.path=a: [b", "data.root=", "teacher.base_url=http://x/v1?a=b"])
    assert (config.name, config.model.path, config.data.root) == ("2024", "a: [b", "")
    assert config.teacher.base_url == "http://x/v1?a=b"


@pytest.mark.parametrize(
    ("text", "place", "rest"),
    [
        ("prefer:\n  beat: 4\n", "2: key `prefer.beat`", "4 (whole number); unknown key, did you mean `prefer.beta`?"),
        ("beta: 4\n", "1: key `beta`", "4 (whole number); unknown key, did you mean `prefer.beta`?"),
        ("seed: 1.5\n", "1: key `seed`", "1.5 (number); write a whole number"),
        ("seed: '1'\n", "1: key `seed`", "'1' (text); write a whole number"),
        ("seed: true\n", "1: key `seed`", "True (true/false); write a whole number"),
        ("seed:\n", "1: key `seed`", "None (empty); write a whole number"),
        ("name: 7\n", "1: key `name`", "7 (whole number); write text, in quotes where it looks like something else"),
        ("backend: rya\n", "1: key `backend`", "'rya' (text); use one of 'ray' or 'inprocess'"),
        ("\nrounds:\n  count: -1\n", "3: key `rounds.count`", "-1 (whole number); use 0 or more"),
        ("seed: .nan\n", "1: key `seed`", "nan (number); write a finite number"),
        ("seed: !x 1\n", "1: key `seed`", "tag !x; tags are not read"),
        ("seed.x: 1\n", "1: key `seed.x`", "1 (whole number); unknown key, did you mean `seed`?"),
        ("prefer.beta: 1\n", "1: key `prefer.beta`", "1 (whole number); unknown key, write `prefer: {beta: ...}`"),
    ],
)
def test_a_fault_names_place_key_value_and_remedy(tmp_path: Path, text: str, place: str, rest: str) -> None:
    assert complaint(tmp_path, text) == f"run.yaml:{place}: found {rest}"


def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path) -> None:
    assert complaint(tmp_path, "- a\n") == "run.yaml:1: found list at the top; write a mapping of `key: value` lines"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("prefer:\n  samples: 1\n", ("run.yaml:2: key `prefer.samples`: found 1", "use 2 or more", "K, candidates")),
        ("seed: 1\nprefer:\n  beta: 1\n  beta: 2\n", ("run.yaml:4: key `beta`: found a second time", "remove one")),
        ("a: [1\n", ("run.yaml:2: not valid YAML", "brackets")),
        ("a: 1\n---\nb: 2\n", ("run.yaml:2: not valid YAML", "another document")),
        ("model: x\n", ("run.yaml:1: key `model`: found 'x' (text)", "keys of path, max_length")),
        ("zzzqqq: 1\n", ("run.yaml:1: key `zzzqqq`", "known here: name, method, seed")),
        ("data:\n  train:\n  - path: x\n  - limit: 2\n", ("run.yaml:4: key `data.train.1.path`: missing", "JSONL")),
        ("prefer: {draw: {max_tokens: 2000}}\n", ("run.yaml:1: key `prefer.draw.max_tokens`", "no room for a prompt")),
        ("prefer: {fit: {shard: true}}\n", ("run.yaml:1: key `prefer.fit.shard`", "raise cluster.train_workers")),
        (
            "cluster: {train_workers: 4, train_workers_min: 1}\nprefer: {fit: {shard: true}}\n",
            ("run.yaml:2: key `prefer.fit.shard`", "raise cluster.train_workers_min above 1"),
        ),
        (
            "cluster: {train_workers: 4, train_workers_min: 8}\n",
            ("key `cluster.train_workers_min`", "(8) is above cluster.train_workers (4)", "swap them"),
        ),
        (
            "cluster: {train_workers: 8, train_workers_min: 3}\n",
            ("key `cluster.train_workers_min`", "(3) does not divide a batch of 16"),
        ),
    ],
)
def test_a_fault_says_what_is_known_of_the_key(tmp_path: Path, text: str, parts: tuple[str, ...]) -> None:
    said = complaint(tmp_path, text)
    assert [part for part in parts if part not in said] == []


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    lines = complaint(tmp_path, "seed: x\nprefer:\n  beta: 0\n").splitlines()
    assert [line.split(": found")[0] for line in lines] == ["run.yaml:1: key `seed`", "run.yaml:3: key `prefer.beta`"]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("seed=x", "key `seed`: found 'x' (text); write a whole number"),
        ("seed", "found 'seed'; write overrides as key=value, for example seed=1"),
        ("prefer.beat=4", "key `prefer.beat`: found 4 (whole number); unknown key, did you mean `prefer.beta`?"),
        ("seed.x=1", "key `seed.x`: found 1 (whole number); `seed` is a value, not a section"),
        ("seed=[", "key `seed`: not valid YAML: expected the node content, but found '<stream end>'; check "),
        ("data.train.7.limit=1", "key `data.train.7.limit`: found a list of 2 at `data.train`; give the index of one "),
    ],
)
def test_a_fault_of_an_override_is_placed_on_the_command_line(tmp_path: Path, override: str, expected: str) -> None:
    assert complaint(tmp_path, "", override).startswith(f"command line: {expected}")


def test_an_unknown_method_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    said = complaint(tmp_path, "method: erop\n", methods=("erpo", "saro"))
    assert said == "run.yaml:1: key `method`: found 'erop' (text); did you mean erpo? known methods: erpo, saro"


def test_a_missing_file_is_guessed_at(tmp_path: Path) -> None:
    written(tmp_path, "")
    with pytest.raises(UsageError, match=r"rum\.yaml: no such file; did you mean .*run\.yaml\?"):
        settings.load(tmp_path / "rum.yaml")


def test_an_alias_bomb_is_refused_at_once(tmp_path: Path) -> None:
    levels = "".join(f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(9))
    assert "aliases" in complaint(tmp_path, "a: &a [x,x,x,x,x,x,x,x,x]\n" + levels)
    assert "nested deeper than 32 levels" in complaint(tmp_path, "a: " + "[" * 3000)
    assert f"at most {documents.MAX_BYTES}" in complaint(tmp_path, "# " + "x" * documents.MAX_BYTES)


def test_a_file_that_is_not_utf8_is_refused_with_the_line(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(b"seed: 1\nname: caf\xe9\n")
    with pytest.raises(UsageError, match=r"run\.yaml:2: byte 0xe9 is not UTF-8"):
        settings.load(path)


def test_what_a_run_keeps_loads_to_the_same_configuration(tmp_path: Path) -> None:
    config = settings.load(written(tmp_path, "name: '07'\nprefer: {fit: {learning_rate: 1.0e-07}}\n"))
    assert settings.load(written(tmp_path, config_yaml(config).decode())) == config


@trials(max_examples=30)
@given(
    name=st.text(st.characters(exclude_categories=("C", "Zl", "Zp")), max_size=20),
    rate=st.floats(1e-12, 1.0),
    seed=st.integers(),
)
def test_what_a_run_keeps_holds_any_text_and_number(
    tmp_path_factory: pytest.TempPathFactory, name: str, rate: float, seed: int
) -> None:
    config = Config(name=name, seed=seed)
    config = config.model_copy(update={"gate": config.gate.model_copy(update={"safety_tolerance": rate})})
    assert settings.load(written(tmp_path_factory.getbasetemp(), config_yaml(config).decode())) == config


def test_sources_say_where_each_value_came_from(tmp_path: Path) -> None:
    path = written(tmp_path, "prefer:\n  samples: 8\ndata:\n  evaluate:\n  - path: x.jsonl\n")
    found = {row.key: (row.value, row.source) for row in settings.sources(path, ["seed=4"])}
    assert found["seed"] == (4, "command line")
    assert found["prefer.samples"] == (8, f"{path}:2")
    assert found["data.evaluate.0.path"] == ("x.jsonl", f"{path}:5")
    assert found["data.evaluate.0.limit"] == (None, "default")
    assert found["prefer.beta"] == (Config().prefer.beta, "default")


def test_one_process_overlaps_nothing(tmp_path: Path) -> None:
    path = written(tmp_path, "overlap: next_round\n")
    assert settings.load(path).overlap == "next_round"
    with pytest.raises(UsageError, match="backend is inprocess, which does one thing after the other; set backend=ray"):
        settings.load(path, ["backend=inprocess"])


def test_the_schema_describes_every_documented_key() -> None:
    schema = settings.schema()
    assert schema["$defs"]["Prefer"]["properties"]["samples"]["minimum"] == 2
    assert schema["$defs"]["Prefer"]["properties"]["samples"]["description"].startswith("K, candidates a prompt")
    assert schema["additionalProperties"] is False
