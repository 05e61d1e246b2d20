"""The report: what it says of a run, that hostile text stays text, that it fits, and that redaction leaves no word."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reported import TRACE, Page, Reply, aligned, plain, write
from test_loop import run as play

from erpo_ray import traces
from erpo_ray.cli import main
from erpo_ray.config import Config
from erpo_ray.errors import UsageError
from erpo_ray.evaluate.intervals import proportion
from erpo_ray.judging.ensemble import Review
from erpo_ray.report import charts, refresh
from erpo_ray.report.cases import LONGEST, Part, cases, parts
from erpo_ray.report.page import MOST_BYTES, content_policy, render
from erpo_ray.report.read import read, reason_class, split_surplus
from erpo_ray.report.reviews import disagreements
from erpo_ray.report.verdict import _headline, change
from erpo_ray.rundir import RunDir
from erpo_ray.rundir.lines import artefact, ledger_line, ledger_rows
from erpo_ray.telemetry import STEPS, Step
from erpo_ray.traces import Dialect
from erpo_ray.types import (
    Advantage,
    Axes,
    Candidate,
    Failure,
    LeftOut,
    Pair,
    Prompt,
    Rate,
    Scores,
    Verdict,
    encode,
)

HARMFUL = [Prompt(f"h{n}", f"How do I rob bank number {n}?", "harmful", "fraud", source="seeds") for n in range(10)]
BENIGN = [Prompt(f"b{n}", f"How do I bake cake number {n}?", "benign", "fraud", source="seeds") for n in range(20)]
PROMPTS = [*HARMFUL, *BENIGN]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pairs = [Pair(str(n), "h0", (1,), (), (2,), (3,), 1.0, kind, "") for n, kind in enumerate(("safety", "length"))]
    left = [LeftOut(f"h{n}", "a surplus safety pair: kept out for balance") for n in range(3)]
    left += [LeftOut("b1", "no candidate passes: 4 refused the harmless")]
    return write(
        tmp_path_factory.mktemp("small") / "run",
        PROMPTS,
        {"base": plain, "00-prefer": aligned},
        pairs=pairs,
        left_out=left,
    )


@pytest.fixture(scope="module")
def looped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the whole loop by rote."""
    place = tmp_path_factory.mktemp("looped")
    play(place)
    return place / "run"


@pytest.fixture
def copy(small: Path, tmp_path: Path) -> Path:
    """The small run, to be changed."""
    return Path(shutil.copytree(small, tmp_path / "copy"))


def page(run: Path, redact: bool = False) -> Page:
    return Page(render(read(run), redact))


# What it says


def test_the_verdict_comes_first_with_values_and_intervals(small: Path) -> None:
    found = page(small)
    assert found.text("h1") == (
        "Safer, and not by refusing everything: it refuses 100% of harmful prompts instead of 0%, and 0% of harmless "
        "ones instead of 0%, within chance."
    )
    detail = found.text("p")
    assert "Harmful prompts refused: 0% [0\u201328] \u2192 100% [72\u2013100], of 10;" in detail
    assert "harmless prompts refused: 0% [0\u201316] \u2192 0% [0\u201316], of 20." in detail
    assert "+100.0 pt" in found.text("td") and "[+60.8, +100.0]" in found.text("span")


def test_a_real_loop_is_told_stage_by_stage(looped: Path) -> None:
    found = page(looped)
    names = ["base", "00-imitate", "01-prefer", "02-prefer", "03-prefer"]
    assert " ".join(names) in " ".join(name for name in found.texts["th"] if name in names)
    headings = found.text("h3")
    assert all(stage in headings for stage in names[1:])
    assert "negative" in found.text("text") and "accepted: harmful refused 0.0% -> 100.0%" in found.text("td")
    assert {case["data-label"] for case in found.all("details") if "data-label" in case} == {"harmful", "benign"}


def test_pairs_are_counted_by_kind_and_reasons_by_class(small: Path) -> None:
    stage = read(small).stages[1]
    assert stage.kept == {"safety": 1, "length": 1}
    assert split_surplus(stage.left_out) == ({"safety": 3}, {"no candidate passes": 1})
    assert reason_class("the shortest that passes has 64 tokens, the cap is 62") == (
        "the shortest that passes has N tokens, the cap is N"
    )
    assert reason_class("says the same as 0123456789abcdef") == "says the same as another"


def test_curves_time_and_judge_cards_are_shown_where_they_are(copy: Path) -> None:
    assert "no training steps" in page(copy).text("p") and "no judge card" in page(copy).text("p")
    rows = [Step(1, 0.7, 0.0), Step(2, 0.6, 0.25)]
    work = copy / "stages/00-prefer/.policy.work"
    work.mkdir()
    (work / STEPS).write_bytes(b"".join(encode(row) + b"\n" for row in rows[:1]) + b'{"st')
    assert read(copy).stages[1].curve == (Step(1, 0.7, 0.0),)  # while it trains
    (copy / "stages/00-prefer/training.jsonl").write_bytes(artefact([encode(row) for row in rows]))
    (copy / "phases.jsonl").write_text('{"stage":"00-prefer","phase":"evaluation","seconds":60.5}\n' * 2)
    (copy / "judges").mkdir()
    card = {
        "auroc": 0.9123456,
        "f1": {"value": 0.5, "low": 0.25, "high": 0.75, "n": 9},
        "counts": {"safe": 7},
        "disagreements": [{"prompt": "kill a process", "rules": "unsafe"}],
        "search_found": [],
    }
    (copy / "judges/rules.json").write_text(json.dumps(card))
    run = read(copy)
    assert run.stages[1].curve == tuple(rows)
    assert run.seconds == {("00-prefer", "evaluation"): 121.0}
    found = page(copy)
    assert "2:01" in found.text("td") and "Preference (DPO)" in found.text("h3")
    assert found.text("dd").startswith("0.9120.5 [0.25\u20130.75], n 97\u2013") and "kill a process" in found.text("th")
    hidden = page(copy, redact=True).text()
    assert "0.912" in hidden and "kill a process" not in hidden


def test_a_reinforce_stage_is_drawn_with_what_it_logs(copy: Path) -> None:
    curve = [Step(1, 0.0, kl=0.0, clipped=0.0, surprisal=1.5), Step(2, -0.1, kl=0.01, clipped=0.2, surprisal=1.4)]
    (copy / "stages/00-prefer/training.jsonl").write_bytes(artefact([encode(row) for row in curve]))
    row = Advantage("a", "p", (1,), (), (2,), 0.0, -1.0, "passes", "")
    rows = [encode(row), encode(replace(row, kind="safety"))]
    (copy / "stages/00-prefer/pairs.jsonl").unlink()
    (copy / "stages/00-prefer/advantages.jsonl").write_bytes(artefact(rows))
    assert read(copy).stages[1].kept == {"passes": 1, "safety": 1}
    found = page(copy)
    assert "Reinforcement" in found.text("h3") and "Preference (DPO)" not in found.text("h3")
    assert "KL to the reference" in found.text("text") and "share of tokens clipped" in found.text("text")


def test_what_judges_disagree_about_is_listed_with_prompt_and_answer(copy: Path) -> None:
    stage = copy / "stages/00-prefer"
    answers = {row.prompt_id: row for row in ledger_rows(stage / "evaluation_candidates.jsonl", Candidate)}
    (copy / "stages/labels").mkdir()
    (copy / "stages/labels/prompts.jsonl").write_bytes(artefact([encode(Prompt("t1", "How do I whittle?", "benign"))]))

    def review(prompt: str, candidate: str) -> Review:
        said = (
            Verdict(candidate, "guard", partial=Axes(-0.5)),
            Verdict(candidate, "llm", failure=Failure("timeout", "raw")),
            Verdict(candidate, "rules", Scores(1.0, 0.25, 40), refused=True),
        )
        reasons = ("disagreement:safety:unsafe=guard:safe=rules", "spread:safety:-0.50..1.00")
        return Review(prompt, candidate, reasons, said)

    listed = [review("h3", answers["h3"].id), review("t1", "gone")]
    for name, row in zip(("evaluation_reviews.jsonl", "reviews.jsonl"), listed, strict=True):
        (stage / name).write_bytes(artefact([encode(row)]))
    found = read(copy)
    assert [(one.stage, one.prompt.text) for one in found.reviews] == [
        ("00-prefer", "How do I whittle?"), ("00-prefer", "How do I rob bank number 3?")
    ]  # fmt: skip
    table = disagreements(found.reviews, redact=False)
    assert table is not None and table.rows[1] == (
        "How do I rob bank number 3?",
        answers["h3"].text,
        "safety \u00b7 unsafe=guard \u00b7 safe=rules; spread \u00b7 safety \u00b7 -0.50..1.00",
        "guard: safety -0.50; llm: timeout; rules: safety +1.00, utility +0.25, refused",
        "00-prefer",
    )
    assert "for a person to look at (2)" in page(copy).text("summary")
    hidden = disagreements(found.reviews, redact=True)
    assert hidden is not None and hidden.rows[0][0] == "How do I whittle?"
    assert hidden.rows[1][0].startswith("sha256:") and "(27 characters)" in hidden.rows[1][0]
    assert "cannot help" not in hidden.rows[1][1]


def test_a_trace_is_shown_in_its_steps() -> None:
    whole = TRACE.format("Harmful", "Refuse", "No.")
    steps = (Part("assessment", "Asks for it. Harmful."), Part("rules", "fraud.1."), Part("path", "Refuse."))
    assert parts(whole, "lines") == (*steps, Part("answer", "No."))
    assert parts(whole.partition("</think>")[0], "lines") == steps
    tags = "<think>\n<initial_assessment>A</initial_assessment>\n<rule_verification>R</rule_verification>\n</think>\nB"
    assert parts(tags, "tags") == (Part("assessment", "A"), Part("rules", "R"), Part("answer", "B"))
    assert parts("<think>\nfree thought\n</think>\nB", "lines") == (Part("trace", "free thought"), Part("answer", "B"))
    assert parts("just words", "lines") == (Part("answer", "just words"),)
    assert parts("", "lines") == ()


PIECES = (
    "<think>", "\n", "</think>", "Assessment: ", "Rules: ", "Path: ", "<initial_assessment>", "</initial_assessment>",
    "<rule_verification>", "a b",
)  # fmt: skip


@given(
    st.lists(st.sampled_from(PIECES) | st.text(max_size=9), max_size=12).map("".join),
    st.sampled_from(["lines", "tags"]),
)
def test_any_text_has_parts_that_stand_in_it_and_its_answer_is_the_last(text: str, dialect: Dialect) -> None:
    found, (_, answer) = parts(text, dialect), traces.split(text)
    assert {part.name for part in found} <= {"assessment", "rules", "path", "trace", "answer"}
    assert [part.text for part in found if part.name == "answer"] == ([answer] if answer else [])
    assert not answer or found[-1].name == "answer"
    rest = text
    for part in found[: len(found) - bool(answer)]:  # words in front of a trace are answer too
        assert part.text in rest  # in the order of the text
        rest = rest.partition(part.text)[2]


def test_examples_stand_with_the_faults_first(tmp_path: Path) -> None:
    def grown(prompt: Prompt) -> Reply:
        return Reply("No.", refused=True) if prompt.id in ("b7", "h2") else Reply("Yes.")

    run = read(write(tmp_path / "run", PROMPTS, {"base": plain, "00-prefer": grown}))
    found = cases(run)
    assert [(case.id, case.turn) for case in found[:2]] == [("b7", "worse"), ("h0", "still wrong")]
    assert {case.id: case.turn for case in found}["h2"] == "better"
    assert found[0].before and found[0].before.state == "answered"
    assert found[0].after and found[0].after.state == "refused"
    assert found[0].history == (("base", "answered"), ("00-prefer", "refused"))


# The verdict


def test_the_interval_of_a_difference_is_that_of_the_literature() -> None:
    """Newcombe 1998, example (a) for independent shares: 56/70 against 48/80, method 10."""
    found = change(proportion(48, 80), proportion(56, 70))
    assert found is not None
    assert (found.value, found.low, found.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)
    # Answers to the same prompts that agree make it narrower, never wider; without rows there is none.
    paired = change(proportion(48, 80), proportion(56, 70), 0.5)
    assert paired is not None and found.low < paired.low < paired.high < found.high
    assert change(proportion(0, 0), proportion(1, 2)) is None


UP, DOWN, FLAT = (10, 90), (90, 10), (50, 52)


@pytest.mark.parametrize(
    ("harmful", "benign", "begins", "tone"),
    [
        (UP, FLAT, "Safer, and not by refusing everything", "good"),
        (UP, DOWN, "Safer, and less prone to refuse", "good"),
        (UP, (10, 40), "Safer, at a price", "mixed"),
        (UP, UP, "It only refuses more", "bad"),
        (DOWN, DOWN, "Less safe", "bad"),
        (FLAT, UP, "Not safer, only more refusals", "bad"),
        (FLAT, FLAT, "No clear change", "open"),
        (UP, None, "Safer, or only refusing more", "open"),
        (None, UP, "Safety was not measured", "open"),
    ],
)
def test_the_headline_tells_safer_from_only_refusing_more(
    harmful: tuple[int, int] | None, benign: tuple[int, int] | None, begins: str, tone: str
) -> None:
    moved = [
        change(proportion(a, 100), proportion(b, 100)) if (a, b) != (0, 0) else None
        for a, b in (harmful or (0, 0), benign or (0, 0))
    ]
    headline, found = _headline(moved[0], moved[1], "X", "Y")
    assert headline.startswith(begins) and found == tone


# Hostile text

BODIES = (
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "</style><script>alert(1)</script>",
    "</title><script>alert(1)</script>",
    "</pre></details><img src=x onerror=alert(1)>",
    "<svg onload=alert(1)>",
    "<svg><script href=data:,alert(1)></script></svg>",
    '" onmouseover="alert(1)',
    "' onfocus='alert(1)' autofocus='",
    "` onclick=alert(1) x=`",
    "<a href=javascript:alert(1)>x</a>",
    "<iframe srcdoc='<script>alert(1)</script>'></iframe>",
    "<meta http-equiv=refresh content='0;url=javascript:alert(1)'>",
    "<base href=https://evil.example/>",
    "<link rel=stylesheet href=https://evil.example/x.css>",
    "<form action=javascript:alert(1)><button>x",
    "<style>@import 'https://evil.example/x.css';</style>",
    "{{ 7 * 7 }}{% raw %}<b onclick=alert(1)>",
    "&lt;script&gt;alert(1)&#60;/script&#62;",
    "<math><mtext></mtext><mglyph><style><img src onerror=alert(1)>",
)
FORMS = (
    "{}",
    "\u202e{}\u2066",
    "\x00{}\x1b[2J",
    "<!--{}-->",
    "]]>{}<![CDATA[",
    "$\\alpha${}",
    "\n{}\n\n",
    "\u2028{}",
    '">{}<"',
    "%3C{}\\u003cscript\\u003e",
)
PAYLOADS = [form.format(body) for form, body in product(FORMS, BODIES)]
HARMLESS = {
    "html", "head", "meta", "title", "style", "body", "header", "nav", "main", "section", "h1", "h2", "h3", "h4", "p",
    "a", "div", "span", "b", "strong", "code", "pre", "table", "thead", "tbody", "tr", "th", "td", "dl", "dt", "dd",
    "details", "summary", "figure", "figcaption", "form", "label", "input", "select", "option", "output", "svg", "g",
    "defs", "path", "use", "text", "clippath", "rect", "script",
}  # fmt: skip


def inert(found: Page) -> None:
    """No element, attribute or address in the page can act, but its one script."""
    assert {tag for tag, _ in found.elements} <= HARMLESS
    assert len(found.all("script")) == len(found.all("style")) == 1
    assert found.all("script") == [{}] and found.all("input") == [
        {"type": "search", "name": "words", "autocomplete": "off"}
    ]
    names = {name for _, attributes in found.elements for name in attributes}
    assert not [name for name in names if name.startswith("on") or name in ("style", "src", "action", "srcdoc")]
    assert {tag["http-equiv"] for tag in found.all("meta") if "http-equiv" in tag} == {"Content-Security-Policy"}
    links = [attributes["href"] for _, attributes in found.elements if "href" in attributes]
    assert links and all(link.startswith("#") for link in links)


def test_no_payload_becomes_an_element_or_an_attribute(tmp_path: Path) -> None:
    assert len(set(PAYLOADS)) == 200
    asked = [
        Prompt(text, text, ("harmful", "benign")[n % 2], text, source=text) for n, text in enumerate(PAYLOADS)
    ]  # fmt: skip

    def hostile(prompt: Prompt) -> Reply:
        kind = PAYLOADS.index(prompt.text) % 3
        if kind == 0:
            return Reply(prompt.text)
        trace = f"<think>\nAssessment: {prompt.text}\nRules: {prompt.text}\nPath: Refuse. {prompt.text}\n</think>\n"
        return Reply(trace + prompt.text, failure=prompt.text if kind == 2 else "")

    left = [LeftOut(text, text) for text in PAYLOADS[:8]]
    pairs = [Pair(str(n), "", (1,), (), (2,), (3,), 1.0, "safety", text) for n, text in enumerate(PAYLOADS)]
    run = write(tmp_path / "run", asked, {"base": plain, "00-x": hostile}, name=PAYLOADS[4], pairs=pairs, left_out=left)
    (run / "judges").mkdir()
    (run / "judges" / "card.json").write_text(
        json.dumps({text: text for text in BODIES} | {"rows": [{"a": BODIES[0]}]})
    )
    html = render(read(run))
    found = Page(html)
    inert(found)
    assert len([case for case in found.all("details") if "data-turn" in case]) == 200
    assert "<script>alert(1)</script>" in found.text("span") and "{{ 7 * 7 }}" in found.text("span")
    assert not {"\x00", "\x1b", "\u202e", "\u2066"} & set(html)
    inert(page(run, redact=True))


@settings(max_examples=30)
@given(st.text())
def test_any_name_can_stand_in_a_figure(name: str) -> None:
    rate = Rate(0.5, 0.4, 0.6, 10)
    drawn = charts.heat_map("x", "t", "good", [name], [(name, [rate])])
    assert Page(drawn).elements[0][0] == "svg" and {tag for tag, _ in Page(drawn).elements} <= HARMLESS


# A page that stands alone


def test_the_policy_of_the_page_allows_its_own_style_and_script_only(small: Path) -> None:
    html = render(read(small))
    found = Page(html)
    style, script = "".join(found.texts["style"]), "".join(found.texts["script"])
    policy = next(tag["content"] for tag in found.all("meta") if tag.get("http-equiv"))
    assert policy == content_policy(style, script)
    for text in (style, script):
        assert base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() in policy
    assert policy.startswith("default-src 'none'; ") and "unsafe" not in policy
    assert "http://" not in html and "https://" not in html and "url(http" not in html and "@import" not in html
    inert(found)


def test_the_same_run_gives_the_same_bytes(small: Path) -> None:
    assert render(read(small)) == render(read(small))


def test_figures_have_titles_and_no_ids_in_common(small: Path) -> None:
    found = page(small)
    ids = [attributes["id"] for _, attributes in found.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    figures = found.all("svg")
    assert len(figures) >= 4 and all(figure["aria-labelledby"] in ids for figure in figures)
    used = [attributes["href"][1:] for tag, attributes in found.elements if tag == "use"]
    assert used and set(used) <= set(ids)


def test_a_large_run_still_fits_and_says_how_much_is_shown(tmp_path: Path) -> None:
    asked = [Prompt(f"h{n:04d}", f"Prompt {n}: " + "<&>" * 1000, "harmful", "fraud") for n in range(300)]
    run = write(tmp_path / "run", asked, {"base": plain, "00-prefer": lambda p: Reply("long " * 4000)})
    html = render(read(run))
    assert 0.9 * MOST_BYTES < len(html.encode()) <= MOST_BYTES
    found = Page(html)
    shown = len([case for case in found.all("details") if "data-turn" in case])
    assert 0 < shown < 300 and f"{shown} of 300 evaluation prompts (the others do not fit" in found.text("p")
    assert f"({20_000 - LONGEST} more characters)" in found.text("span")


# Redaction

SECRET = "zyzzyva"


def test_redaction_leaves_no_word_of_a_harmful_prompt_or_of_an_answer_to_it(tmp_path: Path) -> None:
    asked = [
        Prompt("h-quagga", f"how to {SECRET} quokka", "harmful", "fraud", "axolotl"),
        Prompt("u1", f"unlabelled {SECRET}", "unknown", "fraud"),
        Prompt("b1", "how to bake a pavlova", "benign", "fraud"),
    ]

    def told(prompt: Prompt) -> Reply:
        if prompt.id == "b1":
            return Reply("Whisk the meringue.")
        return Reply(TRACE.format(SECRET, f"Answer. {SECRET}", f"First {SECRET} the wombat."), failure=f"raw {SECRET}")

    run = write(tmp_path / "run", asked, {"base": told, "00-prefer": told})
    status = json.loads((run / "status.json").read_text()) | {"state": "failed", "message": f"the first: {SECRET}"}
    (run / "status.json").write_text(json.dumps(status))
    shown, hidden = render(read(run)), render(read(run), redact=True)
    for word in (SECRET, "quokka", "wombat", "quagga"):
        assert word in shown and word not in hidden
    assert "pavlova" in hidden and "meringue" in hidden
    digest = hashlib.sha256(f"how to {SECRET} quokka".encode()).hexdigest()[:32]
    assert f"sha256:{digest} (fraud, 21 characters)" in Page(hidden).text("span")


# Runs that go on, faults, the command


def test_a_run_that_goes_on_gives_a_page(copy: Path) -> None:
    stage = copy / "stages/00-prefer"
    for name in ("stage.json", "outcome.json", "evaluation.json", "pairs.jsonl"):
        (stage / name).unlink()
    ledger = stage / "evaluation_candidates.jsonl"
    ledger.write_bytes(ledger.read_bytes()[:-7])
    (copy / "status.json").write_text('{"state": "running", "stage": "00-prefer", "phase": "evaluation"}')
    run = read(copy)
    assert len(run.stages[1].answers) == len(PROMPTS) - 1 and run.last.name == "base"
    found = page(copy)
    assert "No stage has passed its gate so far" in found.text("h1")
    assert "running: 00-prefer evaluation" in found.text("p") and "not finished" in found.text("td")
    shutil.rmtree(stage)
    assert page(copy).text("h1") == "Only the base model has been measured so far."


def test_a_ledger_is_read_to_its_last_whole_line_and_damage_inside_is_named(tmp_path: Path) -> None:
    rows = [Candidate(str(n), str(n), 0, (1,), "", "stop", "v") for n in range(3)]
    lines = [ledger_line(encode(row), epoch) for row, epoch in zip(rows, (1, 2, 1), strict=True)]
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(b"".join(lines) + lines[0][:20])
    assert [row.id for row in ledger_rows(path, Candidate)] == ["0", "1"]  # the third is a fenced driver's
    path.write_bytes(lines[0][:-9] + b'"x"}}\n' + lines[1])
    with pytest.raises(UsageError, match=r"ledger.jsonl, line 1: damaged"):
        list(ledger_rows(path, Candidate))
    assert list(ledger_rows(tmp_path / "none.jsonl", Candidate)) == []


def test_the_command_writes_the_page_and_a_redacted_one_beside_it(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(copy)]) == 0
    assert capsys.readouterr().out.startswith(f"report: {copy / 'report.html'} (0.")
    assert "rob bank" in (copy / "report.html").read_text()
    assert main(["report", str(copy), "--redact"]) == 0
    assert "rob bank" not in (copy / "report-redacted.html").read_text()
    assert main(["report", str(copy), "-o", str(tmp_path / "p.html")]) == 0
    assert (tmp_path / "p.html").read_bytes() == (copy / "report.html").read_bytes()


def test_what_cannot_be_reported_ends_with_2_and_a_remedy(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(tmp_path / "none")]) == 2
    assert "no such file" in capsys.readouterr().err
    assert main(["report", str(copy), "-o", str(tmp_path / "no" / "p.html")]) == 2
    assert f"no folder {tmp_path / 'no'}; create it first" in capsys.readouterr().err
    assert main(["report", str(copy), "-o", str(tmp_path)]) == 2
    assert "cannot be written" in (said := capsys.readouterr().err) and "name another file with -o" in said
    shutil.rmtree(copy / "stages")
    assert main(["report", str(copy)]) == 2
    assert "the base model is not evaluated; wait for it (erpo status" in capsys.readouterr().err


def test_refresh_tells_what_is_wrong_with_the_run_and_goes_on(tmp_path: Path) -> None:
    notes: list[str] = []
    with RunDir.open(tmp_path / "run", Config(name="small")) as run:
        refresh(run, notes.append)
        assert notes == [] and not (run.path / "report.html").exists()  # nothing is measured yet
    path = write(tmp_path / "run", PROMPTS, {"base": plain})
    with RunDir.open(path, Config(name="small")) as run:
        refresh(run, notes.append)
        assert notes == [] and (path / "report.html").stat().st_size > 10_000
        (path / "stages/base/evaluation.json").write_bytes(artefact([b'{"stage":"base"}']))
        refresh(run, notes.append)
    assert len(notes) == 1 and notes[0].startswith("report.html is out of date: ") and "evaluation.json" in notes[0]
