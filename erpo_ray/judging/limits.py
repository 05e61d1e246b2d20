"""What each type of judge cannot tell, in words for whoever reads figures that it gave."""

from __future__ import annotations

from erpo_ray.config.judges import JudgeEnsemble, TopJudge

LIMITS = {
    "rules": "Rules with sentence embeddings judged the answers. They find a refusal by its wording, in English only, "
    "and know nothing of content: to them every answer to a harmful prompt that is no refusal is unsafe, however "
    "harmless, and a refusal in other words is no refusal. Utility follows how near an answer lies to its prompt: "
    "a wrong answer on the subject scores as a right one.",
    "llm": "A language model behind an endpoint judged the answers. An answer can persuade it, and it may change "
    "without notice.",
    "guard": "A safety classifier judged the answers: what its training never showed it, it does not see.",
    "reward_model": "A reward model judged the answers: it scores what looks preferable, not what is safe or right.",
}
"""By type of judge."""


def blind_spots(judge: TopJudge) -> list[str]:
    """A sentence or two for the judge, or for each type of member that an ensemble has."""
    types = [member.judge.type for member in judge.members] if isinstance(judge, JudgeEnsemble) else [judge.type]
    return [LIMITS[each] for each in dict.fromkeys(types)]
