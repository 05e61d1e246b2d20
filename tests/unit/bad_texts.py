"""Wrong configurations, command lines, prompts and rule books: how to come by each, and what is to be said of it."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

from bad_inputs import BOOK, PROMPTS, RUN, Bad, book, prompts, rows, settings

CONFIG = {
    "unknown key": settings(
        "prefer:\n  sampels: 4\n", "run.yaml:6: key `prefer.sampels`: found 4", "did you mean `prefer.samples`?"
    ),
    "duplicate key": settings("seed: 1\nseed: 2\n", "run.yaml:6: key `seed`: found a second time", "remove one"),
    "wrong type": settings("seed: many\n", "run.yaml:5: key `seed`: found 'many' (text)", "write a whole number"),
    "K below 2": settings(
        "prefer: {samples: 1}\n", "run.yaml:5: key `prefer.samples`: found 1 (whole number)", "use 2 or more"
    ),
    "unknown method": settings("method: erop\n", "run.yaml:5: key `method`: found 'erop' (text)", "did you mean erpo?"),
    "not YAML": settings("seed: [\n", "run.yaml:6: not valid YAML", "check indentation"),
    "missing": Bad(
        lambda patch: Path("run.yaml").rename("runs.yaml"), ("run.yaml: no such file", "did you mean runs.yaml?")
    ),
    "key with a dot": settings(
        "prefer.samples: 4\n",
        "run.yaml:5: key `prefer.samples`: found 4",
        "unknown key, write `prefer: {samples: ...}`",
    ),
    "a list": Bad(
        lambda patch: Path("run.yaml").write_text("- 1\n"), ("run.yaml:1: found list at the top", "write a mapping")
    ),
    "a tag": settings("name: !!python/name:os.system x\n", "run.yaml:5", "found tag", "tags are not read"),
    "an alias bomb": settings(
        "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
        + "".join(f"{y}: &{y} [{', '.join([f'*{x}'] * 9)}]\n" for x, y in zip("abcdef", "bcdefg", strict=True)),
        "run.yaml: more than 20000 values once aliases",
        "write it out plainly",
    ),
    "Latin-1": Bad(
        lambda patch: Path("run.yaml").write_bytes(b"seed: 1\nname: caf\xe9\n"),
        ("run.yaml:2: byte 0xe9 is not UTF-8", "save the file as UTF-8"),
    ),
    "no number": settings(
        "prefer: {fit: {learning_rate: .nan}}\n",
        "run.yaml:5: key `prefer.fit.learning_rate`: found nan (number)",
        "write a finite number",
    ),
    "a value for a section": settings(
        "prefer: 4\n", "run.yaml:5: key `prefer`: found 4 (whole number)", "write a section with keys of"
    ),
    "a word that is none of those": settings(
        "overlap: always\n", "run.yaml:5: key `overlap`: found 'always' (text)", "use one of 'none' or 'next_round'"
    ),
    "half a teacher": settings(
        "teacher: {type: openai}\n",
        "run.yaml:5: key `teacher.type`",
        "teacher.base_url or teacher.model is empty",
        "set both",
    ),
    "a folder": Bad(
        lambda patch: (Path("run.yaml").unlink(), Path("run.yaml").mkdir()),
        ("run.yaml: is a folder", "give a YAML file"),
    ),
    "no room for a prompt": settings(
        "evaluate: {max_tokens: 1024}\n",
        "run.yaml:5: key `evaluate.max_tokens`: evaluate.max_tokens (1024) leaves no",
    ),
}

GOOD = '{"prompt": "a", "label": "harmful"}\n'
FILES_OF_PROMPTS = {
    "missing": Bad(
        lambda patch: Path("train.jsonl").rename("trian.jsonl"),
        ("train.jsonl: no such file", "did you mean trian.jsonl?", "data.root"),
    ),
    "a cut line": prompts(
        GOOD + '{"prompt": \n', "train.jsonl:2: found '{\"prompt\":', which is not JSON", "write one object a line"
    ),
    "an empty prompt": rows(
        [{"prompt": " "}], "train.jsonl:3: prompt: found an empty prompt", "fill it in or remove the row"
    ),
    "an id twice": rows([PROMPTS[0]], "train.jsonl:3: id: found 'h' again (first at train.jsonl:1)", "ids are unique"),
    "a wrong label": rows(
        [{"prompt": "a", "label": 1}], "train.jsonl:3: label: found 1 (whole number)", "use harmful, benign or unknown"
    ),
    "a wrong column": prompts('{"text": "a"}\n', "train.jsonl:1: found the columns 'text'", "columns: {prompt: ...}"),
    "one label only": prompts(
        GOOD, "key `data.train`: found no benign prompts (there are 1 harmful)", "add a source with some"
    ),
    "empty": prompts("", "train.jsonl: holds no rows", "give a file with one prompt a line"),
    "a byte order mark": prompts(
        b"\xef\xbb\xbf" + GOOD.encode(), "train.jsonl:1: found a byte order mark", "save the file as UTF-8 without one"
    ),
    "Latin-1": prompts(
        GOOD.encode() + b'{"prompt": "caf\xe9"}\n',
        "train.jsonl:2: found byte 0xe9 at column 16",
        "save the file as UTF-8",
    ),
    "a line of ten megabytes": prompts(
        GOOD + '{"prompt": "' + "x" * 10_000_000 + '"}\n',
        "train.jsonl:2: found a line of more than 1048576 bytes",
        "put each prompt on a line of its own",
    ),
    "a list in a line": prompts("[1]\n", "train.jsonl:1: found a JSON list, not an object", "write one {...} a line"),
    "a number for a text": rows(
        [{"prompt": 5}],
        "train.jsonl:3: prompt: found whole number, no text of a user",
        "write the user's message there",
    ),
    "another ending": Bad(
        lambda patch: (shutil.copy("train.jsonl", "train.csv"), _train("train.csv")),
        ("train.csv: found the ending '.csv'", "prompt files end in .jsonl"),
    ),
    "a cut gzip": Bad(
        lambda patch: (
            Path("train.jsonl.gz").write_bytes(gzip.compress(GOOD.encode() * 9)[:30]),
            _train("train.jsonl.gz"),
        ),
        ("train.jsonl.gz:1: the gzip stream is damaged or cut short", "copy the file again"),
    ),
    "no Parquet": Bad(
        lambda patch: (Path("train.parquet").write_bytes(b"PAR1"), _train("train.parquet")),
        ("train.parquet: not a whole Parquet file", "write it again"),
    ),
    "a pattern without a match": Bad(
        lambda patch: _train("more/*.jsonl"), ("more/*.jsonl: no file matches", "check the pattern, or data.root")
    ),
    "a folder": Bad(lambda patch: _train("model"), ("model: is a folder", "name its files, for example")),
}


def _train(path: str) -> None:
    """The configuration with this path of training prompts."""
    Path("run.yaml").write_text(
        f"model: {{path: model}}\ndata: {{train: [{{path: '{path}'}}], evaluate: [{{path: held.jsonl}}]}}\n"
    )


BOOKS = {
    "missing": settings("rules: {path: book.yaml}\n", "book.yaml: no such file", "check the path"),
    "not YAML": book(
        "title: General", "title: [General", "book.yaml:5: not valid YAML", "check indentation, quotes and brackets"
    ),
    "no categories": book(
        BOOK[BOOK.index("categories") :], "", "book.yaml: key `categories`: found nothing", "write a mapping"
    ),
    "no general": book(
        "general", "fraud", "book.yaml:2: no category `general`", "add it for prompts without a known risk"
    ),
    "an id of a category": book("  general:", "  General X:", "book.yaml:3: category `General X`", "rename it"),
    "an id of a rule": book("general.1", "rule 1", "book.yaml:7: rule `rule 1`", "write `general.` and a number"),
    "an unknown key": book(
        "description", "descripton", "unknown key `categories.general.descripton`", "did you mean `description`?"
    ),
    "an empty rule": book(
        '"Care: do no harm."', '""', "book.yaml:7: key `categories.general.rules.general.1`: found", "write"
    ),
    "rules as a list": book(
        'general.1: "Care: do no harm."',
        "- care",
        "book.yaml:6: key `categories.general.rules`: found list",
        "write a mapping",
    ),
    "no rules": book(
        'rules:\n      general.1: "Care: do no harm."',
        "rules: {}",
        "book.yaml:6: key `categories.general.rules`: found nothing",
    ),
    "a duty in words": book(
        '"Care: do no harm."', "{text: a, duty: always}", "general.1.duty`: found text", "write true or false"
    ),
    "no version": book('version: "1"', "version: {}", "book.yaml:1: key `version`: found nothing", "write a version"),
    "a tag": book("Anything.", "!!python/name:os.system", "book.yaml:5", "found tag", "tags are not read"),
}

LINES = {
    "no command": settings("", "No such command 'nothing'", words=("nothing",)),
    "no configuration": settings("", "Missing argument 'CONFIG'", words=("run",)),
    "an option that is none": settings("", "No such option: --fast", words=("run", "run.yaml", "--fast")),
    "an override without a value": settings("", "found 'seed'", "write overrides as key=value", words=(*RUN, "seed")),
    "an override of no key": settings(
        "",
        "command line: key `prefer.sampels`: found 3 (whole number)",
        "did you mean `prefer.samples`?",
        words=(*RUN, "prefer.sampels=3"),
    ),
    "a name that leads out": settings(
        "", "key `name`: found '../x' (text)", "use letters, digits", words=("run", "run.yaml", "name=../x")
    ),
    "two suites of a name": settings(
        "",
        "two suites or files are called harmful",
        "rename one",
        words=("eval", "model", "--suite", "harmful,harmful"),
    ),
    "nothing to compare": settings("", "nothing to compare model with", "give two runs", words=("compare", "model")),
    "no form of a page": settings(
        "", "found the ending '.pdf'", "use one of .html, .md, .json", words=("compare", "a", "b", "-o", "c.pdf")
    ),
}
