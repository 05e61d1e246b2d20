"""From a judge's section to the judge, with the models that it needs loaded into this process."""

from __future__ import annotations

from dataclasses import dataclass

from erpo_ray import traces
from erpo_ray.config.judges import AnyJudge, JudgeEnsemble, JudgeGuard, JudgeLLM, JudgeMember, JudgeReward
from erpo_ray.engines.guard import GuardEngine
from erpo_ray.engines.models import materialise
from erpo_ray.engines.reward import RewardModel
from erpo_ray.engines.vllm import EngineSettings
from erpo_ray.judging.ensemble import Ensemble, Judge, Named, committee_of
from erpo_ray.judging.guard_formats import guard_format
from erpo_ray.judging.guards import GuardJudge
from erpo_ray.judging.llm_judge import LLMJudge
from erpo_ray.judging.reward_judge import RewardJudge
from erpo_ray.judging.rules_judge import RulesJudge
from erpo_ray.rules import RuleBook


@dataclass(frozen=True, slots=True)
class Bench:
    """What judges are made with."""

    book: RuleBook
    dialect: traces.Dialect
    gpu: bool = False


def judge_of(settings: AnyJudge, bench: Bench) -> Judge:
    """The judge a section names. Raises UsageError when its model, key or cache is not what it takes."""
    if isinstance(settings, JudgeEnsemble):
        return Ensemble([_member(each, bench) for each in settings.members], committee_of(settings))
    if isinstance(settings, JudgeLLM):
        return LLMJudge(settings, bench.book, bench.dialect)
    if isinstance(settings, JudgeGuard):
        return _guard(settings, bench)
    if isinstance(settings, JudgeReward):
        model = RewardModel(materialise(settings.model, "judge.model"), settings, bench.gpu)
        return RewardJudge(settings, model.score)
    # numpy takes a while to load, and a plan asks no judge.
    from erpo_ray.engines.embeddings import Embedder

    return RulesJudge(settings, bench.book, bench.dialect, Embedder(rough=True).similarity)


def _member(member: JudgeMember, bench: Bench) -> Judge:
    judge = judge_of(member.judge, bench)
    return judge if judge.name == member.called else Named(judge, member.called)


def _guard(settings: JudgeGuard, bench: Bench) -> Judge:
    format = guard_format(settings.format, bench.book)
    engine = EngineSettings(
        max_length=settings.max_length,
        in_flight=settings.in_flight,
        kv_cache_gib=settings.kv_cache_gib,
        gpu=bench.gpu,
        gpu_memory_utilization=settings.gpu_memory_utilization,
    )
    model = GuardEngine(materialise(settings.model, "judge.model"), format, engine)
    return GuardJudge(format, model.classify)
