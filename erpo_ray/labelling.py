"""M_cls: every training prompt gets its risk category before a trace is written for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from erpo_ray.config import Config
from erpo_ray.prompts import loaders
from erpo_ray.rules import GENERAL, RuleBook
from erpo_ray.rundir import RunDir
from erpo_ray.types import Prompt


@dataclass(frozen=True, slots=True)
class Labelling:
    """How good the labeller is (cross-validated over topics, on `n` prompts) and how many prompts it labelled; zeros
    where every prompt came with its category."""

    accuracy: float
    n: int
    labelled: int


def label(
    config: Config, book: RuleBook, read: Callable[[], Sequence[Prompt]], run: RunDir, say: Callable[[str], None]
) -> tuple[Prompt, ...]:
    """The training prompts that `read` gives, each with a category of the rule book; kept in the run directory.

    A category that came with the prompt stays. `labeller.type=given` leaves the rest to the general category.
    """
    with run.stage("labels") as s:

        def make() -> Sequence[Prompt]:
            prompts, facts = _labelled(config, read(), book)
            s.value("labeller.json", Labelling, lambda: facts)
            return prompts

        prompts = s.once("prompts.jsonl", Prompt, make)
        facts = s.value("labeller.json", Labelling, lambda: Labelling(0.0, 0, 0))
        if not s.sealed:
            s.seal({"accuracy": facts.accuracy, "n": facts.n, "labelled": facts.labelled})
    if facts.n:
        say(
            f"labeller: {facts.accuracy:.1%} right on {facts.n} prompts (cross-validated by topic), "
            f"labelled {facts.labelled}"
        )
    return prompts


def _labelled(config: Config, prompts: Sequence[Prompt], book: RuleBook) -> tuple[list[Prompt], Labelling]:
    blank = [prompt for prompt in prompts if not prompt.category]
    if config.labeller.type == "given" or not blank:
        return [replace(p, category=p.category or GENERAL) for p in prompts], Labelling(0.0, 0, 0)
    from erpo_ray.engines.embeddings import CategoryModel, Embedder

    # The labeller learns from the embedded prompts and the user's own.
    known = {p.text: p for p in (*loaders.embedded(book.categories), *prompts) if p.category}
    model = CategoryModel.fit(Embedder(), list(known.values()), book)
    named = dict[str, str]()
    for harmful in (True, False):
        mine = [p for p in blank if (p.label == "harmful") == harmful]
        # A harmful prompt breaks some rule: the general category has none to cite.
        guesses = model.predict([p.text for p in mine], without=GENERAL if harmful else "")
        for prompt, (category, confidence) in zip(mine, guesses, strict=True):
            named[prompt.id] = category if confidence >= config.labeller.min_confidence else GENERAL
    labelled = [replace(p, category=p.category or named[p.id]) for p in prompts]
    return labelled, Labelling(model.accuracy, model.n, len(blank))
