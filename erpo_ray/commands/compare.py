"""`erpo compare`: runs or evaluations side by side, prompt by prompt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from erpo_ray import disk
from erpo_ray.errors import UsageError


def compare(words: Sequence[str], output: Path | None) -> int:
    """Compare every side with the first one. The ending of `output` chooses the form: .html, .md or .json."""
    from erpo_ray.evaluate import render, sides
    from erpo_ray.evaluate.compare import compare

    forms = {".html": render.html, ".md": render.markdown, ".json": render.json}
    if len(words) < 2:
        raise UsageError(f"nothing to compare {words[0]} with; give two runs or evaluations, the baseline first")
    if output is not None and output.suffix not in forms:
        raise UsageError(f"-o {output}: found the ending {output.suffix!r}; use one of {', '.join(forms)}")
    if output is not None and not output.absolute().parent.is_dir():
        raise UsageError(f"{output}: no folder {output.parent}; create it first")
    pairings = compare([sides.read(word) for word in words])
    print(render.text(pairings))
    if output is not None:
        with disk.writing(output, "name another file with -o"):
            output.write_text(forms[output.suffix](pairings), "utf-8")
        print(f"\nwritten to {output}")
    return 0
