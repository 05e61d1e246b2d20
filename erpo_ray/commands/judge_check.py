"""`erpo judge-check`: how far a judge can be trusted, on labelled texts or on preferences."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from erpo_ray import disk, preflight, rules, settings
from erpo_ray.commands.common import read_config, require_prompts
from erpo_ray.config import Config, Source
from erpo_ray.config.judges import AnyJudge, JudgeEnsemble, JudgeGuard, JudgeLLM, JudgeReward, JudgeRules, has_model
from erpo_ray.errors import UsageError
from erpo_ray.judging import pleas, search
from erpo_ray.judging.asking import Usage
from erpo_ray.judging.llm_judge import LLMJudge
from erpo_ray.judging.pleas import Resistance
from erpo_ray.judging.search import Search, Turned
from erpo_ray.prompts import files, loaders
from erpo_ray.prompts.labelled import Labelled, Preferred, rows
from erpo_ray.terminal import say
from erpo_ray.types import Candidate, Prompt, Rate, Verdict, encode

if TYPE_CHECKING:
    from erpo_ray.engines.embeddings import Embedder
    from erpo_ray.judging.agreement import PairwiseCard, Preference
    from erpo_ray.judging.calibration import Card, Judgement

JUDGES = ("rules", "classifier")
_UNSAFE = 0.5
"""Probability of harm from which the classifier says unsafe."""
_QUERIES = 500
"""Queries an answer of the search, unless told, of rules: seconds for all. No other judge is searched unasked."""
_SHOWN = 160
"""Characters of a found text that the terminal shows."""

Texts = Sequence[tuple[str, str]]
"""Each a prompt (empty where there is none) and the text to judge."""
Harm = list[float | None]
"""How harmful each text is: a probability, or any number that rises with harm; None when it is invalid."""

JudgeAll = Callable[[Sequence[tuple[Prompt, Candidate]]], Sequence[Verdict]]


@dataclass(frozen=True, slots=True)
class Gauge:
    """A judge as a measure of harm. `probabilities`: that is what its scores are.

    `measure` also says how it stands pleas, None for what judges no answers, as `search` does, which takes the queries
    an answer; `after` gives further lines, when all is judged.
    """

    measure: Callable[[Texts], tuple[Harm, Resistance | None]]
    probabilities: bool
    search: Callable[[int], Search | None] = lambda queries: None
    after: Callable[[], list[str]] = list


def check(names: str, file: Path, config_path: Path | None, output: Path | None, queries: int | None = None) -> int:
    """Print a card for each judge (and how two agree); with `output`, a folder, write each as JSON there.

    `names`, with commas between: rules, classifier, or YAML files with a judge's section or a configuration. `queries`
    an answer are what the search may ask: 0 is no search, None what the kind of judge can bear.
    """
    config = read_config(config_path, []) if config_path else Config()
    words = names.split(",")
    judges = {_stem(word): _settings(word, config) for word in words}
    if len(judges) < len(words):
        raise UsageError(f"{names}: two judges have one name, and so would their cards; rename a file")
    require_prompts([file])
    if output is not None:
        preflight.writable(output, "-o")
    found = rows(files.rows(Source(path=str(file)), ""))
    measured: dict[str, list[Judgement] | list[Preference]] = {}
    for name, section in judges.items():
        gauge = _gauge(section, config)
        scores, resistance = gauge.measure(_texts(found))
        measured[name] = _measured(found, scores)
        asked = _queries(section) if queries is None else queries
        searched = gauge.search(asked) if asked else None
        card = _plain(_card(measured[name], gauge.probabilities)) | _plain(resistance) | _plain(searched)
        say(f"{name} on {file.name}")
        say("\n".join([*_lines(card), *gauge.after()]))
        if output is not None:
            path = output / f"{name}-{loaders.name_of(Source(path=str(file)))}.json"
            with disk.writing(path, "name another folder with -o"):
                output.mkdir(parents=True, exist_ok=True)
                path.write_bytes(encode({"judge": name, "data": file.name, **_guidance(section), **card}) + b"\n")
            print(f"written to {path}")
    if len(judges) == 2 and isinstance(found[0], Labelled):
        _print_agreement([*judges], measured)
    return 0


def _stem(name: str) -> str:
    """What cards call a judge: its name, or that of its file."""
    return Path(name).stem if name not in JUDGES else name


def _settings(name: str, config: Config) -> AnyJudge | None:
    """The section of the judge that is meant; None for the classifier."""
    if name == "classifier":
        return None
    if name == "rules":
        return config.judge if isinstance(config.judge, JudgeRules) else JudgeRules()
    if Path(name).suffix not in (".yaml", ".yml"):
        raise UsageError(
            f"found the judge {name!r}; known judges: {', '.join(JUDGES)}, and YAML files with a judge's section"
        )
    return settings.judge(Path(name))


def _guidance(section: AnyJudge | None) -> dict[str, str]:
    """The words of a configuration's own that the judge was measured with, if it has some."""
    return {"guidance": section.guidance} if isinstance(section, JudgeLLM) and section.guidance else {}


def _gauge(section: AnyJudge | None, config: Config) -> Gauge:
    if section is None:
        from erpo_ray.engines.harm import HarmModel

        model = HarmModel.fit(_embedder(), loaders.embedded())
        print(f"classifier: AUROC {model.auroc:.3f} on {model.n} embedded prompts (cross-validated by topic)")
        return Gauge(lambda texts: ([*model.predict([text for _, text in texts])], None), True)
    from erpo_ray.engines.judges import Bench, judge_of

    book = rules.load(config.rules.path)
    preflight.judge(section, book)
    if isinstance(section, JudgeReward) and section.axis != "safety":
        raise UsageError("a reward_model of utility says nothing of harm; check one with `axis: safety`")
    # A guard's safety is 1 - 2 p(unsafe); no other judge means a probability.
    probabilities = isinstance(section, JudgeGuard)
    bench = Bench(book, config.model.dialect, _gpu(config))
    if has_model(section) and config.backend == "ray":
        from erpo_ray.cluster import scoring

        return Gauge(
            partial(_measure, lambda items: scoring.verdicts(config, section, items)),
            probabilities,
            # Each of its questions follows from the answers before: nothing to share out.
            lambda queries: search.search(judge_of(section, bench), queries),
        )
    judge = judge_of(section, bench)
    return Gauge(
        partial(_measure, judge.judge),
        probabilities,
        lambda queries: search.search(judge, queries),
        lambda: usage_lines(judge.usage()) if isinstance(judge, LLMJudge) else [],
    )


def _measure(judge: JudgeAll, texts: Texts) -> tuple[Harm, Resistance]:
    """Texts and pleas go to the judge together: it may be loaded for them anew."""
    answers = [_answer(prompt or text, text, n) for n, (prompt, text) in enumerate(texts)]
    verdicts = judge([*answers, *pleas.cases()])
    return [_cost(verdict) for verdict in verdicts[: len(answers)]], pleas.resistance(verdicts[len(answers) :])


def _queries(section: AnyJudge | None) -> int:
    """Queries an answer that cost little time and no money; of an ensemble what each of its members can bear."""
    if isinstance(section, JudgeEnsemble):
        return min(_queries(member.judge) for member in section.members)
    return _QUERIES if isinstance(section, JudgeRules) else 0


def _gpu(config: Config) -> bool:
    from erpo_ray.engines.devices import cuda_names

    return bool(cuda_names()) if config.cluster.gpu is None else config.cluster.gpu


def _cost(verdict: Verdict) -> float | None:
    """What safety lacks, in [0, 1]; None where the judge does not say."""
    axes = verdict.scores or verdict.partial
    return None if axes is None or axes.safety is None else (1 - axes.safety) / 2


def usage_lines(used: Usage) -> list[str]:
    """What an endpoint was asked, and what it cost."""
    cost = "not known (judge.prompt_price and judge.completion_price)" if used.cost is None else f"{used.cost:.4f}"
    return [
        f"  requests           {used.requests}, of them {used.retries} retries; {used.cached} verdicts from the cache",
        f"  invalid replies    {used.invalid}",
        f"  tokens             {used.prompt_tokens} asked, {used.completion_tokens} replied",
        f"  cost               {cost}",
    ]


@cache
def _embedder() -> Embedder:
    from erpo_ray.engines.embeddings import Embedder

    return Embedder()


def _answer(prompt: str, text: str, number: int) -> tuple[Prompt, Candidate]:
    """A text as an answer to a harmful prompt: what the rule judge can say is whether it refuses."""
    return pleas.case(str(number), "harmful", prompt, text)


def _texts(found: list[Labelled] | list[Preferred]) -> list[tuple[str, str]]:
    """What is judged: of preferences all that are preferred, then all that are not."""
    pairs = [row for row in found if isinstance(row, Preferred)]
    return [
        *((row.prompt, row.text) for row in found if isinstance(row, Labelled)),
        *((row.prompt, row.preferred) for row in pairs),
        *((row.prompt, row.rejected) for row in pairs),
    ]


def _measured(found: list[Labelled] | list[Preferred], scores: Harm) -> list[Judgement] | list[Preference]:
    """The rows with the scores of their `_texts`."""
    from erpo_ray.judging.agreement import Preference
    from erpo_ray.judging.calibration import Judgement

    labelled = [row for row in found if isinstance(row, Labelled)]
    if labelled:
        return [
            Judgement(row.id, row.harmful, _said(score), score) for row, score in zip(labelled, scores, strict=True)
        ]
    good, bad = scores[: len(found)], scores[len(found) :]
    return [Preference(row.id, "first", _choice(a, b)) for row, a, b in zip(found, good, bad, strict=True)]


def _said(score: float | None) -> Literal["unsafe", "safe", "invalid"]:
    if score is None:
        return "invalid"
    return "unsafe" if score >= _UNSAFE else "safe"


def _choice(first: float | None, second: float | None) -> Literal["first", "second", "tie", "invalid"]:
    """The answer of less harm."""
    if first is None or second is None:
        return "invalid"
    if first == second:
        return "tie"
    return "first" if first < second else "second"


def _card(measured: Sequence[Any], probabilities: bool) -> Card | PairwiseCard:
    from erpo_ray.judging.agreement import Preference, pairwise
    from erpo_ray.judging.calibration import card

    try:
        if isinstance(measured[0], Preference):
            return pairwise(measured)
        return card(measured, probabilities=probabilities)
    except ValueError as error:
        raise UsageError(f"{error}; ids are unique in a file") from error


def _plain(card: Card | PairwiseCard | Resistance | Search | None) -> dict[str, Any]:
    return {name: getattr(card, name) for name in card.__slots__} if card else {}


def _lines(card: Mapping[str, Any]) -> list[str]:
    lines = []
    for name, value in card.items():
        if isinstance(value, Rate):
            shown = f"{value.value:.3f} [{value.low:.3f} to {value.high:.3f}]   over {value.n}"
        elif name == "confusion":
            shown = ", ".join(f"{cell.replace('_', ' ')} {getattr(value, cell)}" for cell in value.__slots__)
        elif name == "search_found":
            shown = _found(value)
        else:
            shown = "not defined here" if value is None else str(value)
        lines.append(f"  {name.replace('_', ' '):<18} {shown}")
    return lines


def _found(texts: Sequence[Turned]) -> str:
    """The shortest, on one line."""
    if not texts:
        return "nothing"
    shown = ascii(min((each.text for each in texts), key=len))
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."


def _print_agreement(judges: Sequence[str], measured: dict[str, Any]) -> None:
    from erpo_ray.judging.agreement import agreement

    both = agreement(*(measured[name] for name in judges))
    print(f"{judges[0]} and {judges[1]}")
    for name, rate in (("same verdict", both.agreed), ("Cohen's kappa", both.kappa)):
        print(f"  {name:<18} {'not defined here' if rate is None else f'{rate.value:.3f} over {rate.n}'}")
