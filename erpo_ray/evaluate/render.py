"""A comparison as a table for the terminal, as Markdown, JSON or a page of HTML that needs nothing from outside."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from importlib import resources

from erpo_ray.evaluate.compare import Block, Change, Flip, Pairing
from erpo_ray.evaluate.measures import MEASURES, shown
from erpo_ray.terminal import clean
from erpo_ray.types import encode

SHOWN = 200
"""Flips written out in each direction of a suite by Markdown and HTML; JSON has them all."""

_SURE = 0.05
_STYLE = """
:root { color-scheme: light dark; --line: #8886; --better: #17803d; --worse: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --better: #6fd08c; --worse: #ff8a80; } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: auto; padding: 1rem; }
h1 { font-size: 1.4rem; overflow-wrap: anywhere; } h2 { font-size: 1.2rem; margin-top: 2rem; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .8rem .2rem 0; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
.better { color: var(--better); } .worse { color: var(--worse); }
details { border-bottom: 1px solid var(--line); padding: .4rem 0; }
summary { cursor: pointer; overflow-wrap: anywhere; }
.both { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)); gap: 1rem; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: .3rem 0; font-size: .85rem; }
""".strip()


def json(pairings: Sequence[Pairing]) -> str:
    return encode(list(pairings)).decode() + "\n"


def text(pairings: Sequence[Pairing]) -> str:
    """Tables of all changes, the number of flips and the settings that differ; for a terminal."""
    return clean("\n\n".join("\n".join(_lines(pairing)) for pairing in pairings))


def markdown(pairings: Sequence[Pairing]) -> str:
    return clean("\n\n".join("\n".join(_markdown(pairing)) for pairing in pairings)) + "\n"


def html(pairings: Sequence[Pairing]) -> str:
    """One page. Every text of a model or a file is escaped; the content-security policy allows its own style only."""
    from jinja2 import Environment, StrictUndefined

    source = (resources.files("erpo_ray.evaluate") / "compare.html").read_text("utf-8")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_visible
    )
    digest = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    functions = {"cells": cells, "kind": kind, "first": _first, "counts": _counts}
    return environment.from_string(source).render(pairings=pairings, style=_STYLE, digest=digest, **functions)


def cells(change: Change) -> tuple[str, ...]:
    """Measure, before, after, difference, its interval, number of prompts, p, adjusted p."""
    name, found = change.measure, change.difference
    return (
        MEASURES[name].title,
        shown(name, change.before),
        shown(name, change.after),
        shown(name, found.value, signed=True),
        f"[{shown(name, found.low, signed=True)}, {shown(name, found.high, signed=True)}]",
        str(found.n),
        _p(change.p),
        _p(change.p_adjusted),
    )


def kind(change: Change) -> str:
    """`better` or `worse` when the change is sure (adjusted p below 5%) and its direction means something."""
    sign = MEASURES[change.measure].better * change.difference.value
    if change.p_adjusted >= _SURE or not sign:
        return ""
    return "better" if sign > 0 else "worse"


_HEADS = ("measure", "before", "after", "difference", "95% interval", "n", "p", "p (Holm)")


def _lines(pairing: Pairing) -> list[str]:
    lines = [_head(pairing)]
    for block in pairing.blocks:
        rows = [(*_HEADS, ""), *((*cells(change), kind(change)) for change in block.changes)]
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines += ["", _counts(block)]
        lines += [
            "  ".join(
                cell.ljust(width) if i in (0, len(widths) - 1) else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]
    return [*lines, "", *_settings(pairing)]


def _markdown(pairing: Pairing) -> list[str]:
    lines = [f"# {_inline(_head(pairing))}"]
    for block in pairing.blocks:
        lines += ["", f"## {_inline(_counts(block))}", "", "| " + " | ".join((*_HEADS, "")) + " |"]
        lines.append("|---|" + "---:|" * (len(_HEADS) - 1) + "---|")
        lines += ["| " + " | ".join((*cells(change), kind(change))) + " |" for change in block.changes]
        for better in (False, True):
            flips, more = _first(block, better)
            for flip in flips:
                lines += ["", f"### {'Better' if better else 'Worse'}: {_inline(flip.prompt_id)} ({flip.label})", ""]
                for title, said in (("Prompt", flip.prompt), ("Before", flip.before), ("After", flip.after)):
                    lines += [f"{title}:", *_fenced(said)]
            lines += ["", f"{more} more {'better' if better else 'worse'} ones are not shown."] if more else []
    return [*lines, "", *(f"- {_inline(line)}" for line in _settings(pairing))]


def _head(pairing: Pairing) -> str:
    return f"{pairing.before} ({pairing.before_policy}) against {pairing.after} ({pairing.after_policy})"


def _counts(block: Block) -> str:
    better = sum(flip.better for flip in block.flips)
    line = f"{block.suite or 'evaluation'}: {block.prompts} prompts on both sides, "
    line += f"{better} got better, {len(block.flips) - better} got worse"
    if block.only_before or block.only_after:
        line += f" ({block.only_before} only before, {block.only_after} only after)"
    return line


def _settings(pairing: Pairing) -> list[str]:
    if not pairing.settings:
        return ["settings: no difference"]
    return ["settings that differ:", *(f"  {line}" for line in pairing.settings)]


def _first(block: Block, better: bool) -> tuple[list[Flip], int]:
    """The flips of one direction that are written out, and how many are not."""
    flips = [flip for flip in block.flips if flip.better == better]
    return flips[:SHOWN], max(0, len(flips) - SHOWN)


def _p(value: float) -> str:
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def _visible(value: object) -> object:
    """Text without characters that move the cursor or turn the direction of writing."""
    return clean(value) if type(value) is str else value


def _inline(words: str) -> str:
    """Text on one line in which nothing is Markdown."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(words.split()))


def _fenced(said: str) -> list[str]:
    """Text in a code fence longer than any run of backticks inside it."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", said)), default=0))
    return ["", f"{fence}text", said, fence, ""]
