"""The wording of paths and answers: slots of interchangeable phrases, composed in `template.py` and `negatives.py`.

Placeholders as in `phrases.py`; `{instead}` is what can be offered in place of the request. Refusals begin with the
standard phrases, so that evaluators that match phrases see them, and never repeat what was asked.
"""

from __future__ import annotations

from erpo_ray.teachers.phrases import slot

REFUSE_PATH = {
    "plain": slot(
        """
        Keep it brief. | Stay short and polite. | No details. | Be firm and kind. | One calm sentence. |
        Say no plainly. | Give nothing usable. | Stay brief and clear. | No lecture. | Keep it calm. |
        Short and friendly.
        """
    ),
    "concern": slot(
        """
        Name the concern. | Say why in short. | Give the reason briefly. | Mention the harm, no details. |
        Point out the harm. | Say what it would do. | State the risk in general words. | Be clear about the reason. |
        One reason is enough. | Explain in few words.
        """
    ),
    "offer": slot(
        """
        Offer something safe. | Point to a safe way. | Suggest an alternative. | Offer other help. |
        Add a harmless offer. | Turn to what helps. | Show a better way. | Stay helpful with a safe offer. |
        Propose a safe topic. | Leave a door open for safe help.
        """
    ),
}

ANSWER_PATH = {
    "list": slot(
        """
        Give steps. | Use a short list. | List the points. | Go step by step. | Order it in points. | A clear list. |
        Give a few points. | Structured and short. | Number the steps. | Points, then done.
        """
    ),
    "code": slot(
        """
        Show the code. | Give working code. | Code with a short note. | Write the snippet. | Code first. |
        A small example in code. | Provide the code plainly. | Short code, short words. |
        Give the code and explain it. | Let the code speak.
        """
    ),
    "brief": slot(
        """
        One short reply. | Keep it brief. | Short and direct. | A quick reply. | Just the facts. | Be direct. |
        Few words. | To the point. | Briefly. | A single clear sentence. | Short is enough.
        """
    ),
    "full": slot(
        """
        Be clear and helpful. | Explain in a few sentences. | Stay practical. | Friendly and complete. | Plain words.
        | Be useful and concrete. | Help fully. | Clear and kind. | Give what is asked. | Keep to the topic. |
        Be concrete.
        """
    ),
}

SAFE_PATH = slot(
    """
    Put wellbeing first. | Be careful and kind. | Stay with safe facts. | Keep to general, safe advice. |
    Mention help where it fits. | Warm and careful. | Keep safety in view. | Give sound, safe facts. |
    Care first, then facts. | Be supportive. | Point to experts if needed.
    """
)

NO = slot(
    """
    I'm sorry, but I can't help with that. | I'm sorry, but I can't assist with that request. |
    I can't help with that. | I cannot help with this request. | I'm sorry, but I cannot assist with that. |
    Sorry, I can't help with that. | I can't assist with this. | I'm sorry, I can't do that. |
    I cannot assist with that request. | Sorry, but I won't help with this. | I'm sorry, but I can't provide that. |
    I won't help with that. | I'm unable to help with this request.
    """
)

NO_NAMED = slot(
    """
    I'm sorry, but I can't help with {name}. | I can't help with {name}. | I cannot assist with {name}. |
    Sorry, I won't help with {name}. | I'm sorry, but I cannot help with {name}. | I can't assist with {name}. |
    Sorry, but I can't help with {name}. | I won't assist with {name}. | I'm sorry, I can't support {name}. |
    I cannot help with anything around {name}. | I'm not able to help with {name}.
    """
)

CONCERN = slot(
    """
    It could {harm}. | That would {harm}. | It would {harm}. | Doing this could {harm}. | Such help could {harm}. |
    The risk is that it would {harm}. | This may {harm}. | That could {harm}. | Helping would {harm}. |
    I don't want to {harm}. | It might {harm}.
    """
)

OFFER = slot(
    """
    I can help with {instead} instead. | If you like, I can help with {instead}. | I'm glad to help with {instead}. |
    I can say more about {instead} instead. | Ask me about {instead} instead. | Happy to help with {instead}. |
    Would {instead} be of use? | I'd gladly help with {instead}. | Let's look at {instead} instead. |
    What I can offer: {instead}. | We could talk about {instead}.
    """
)

INSTEAD = slot(
    """
    something harmless | a safe topic | a lawful way | safety information
    """
)
"""What is offered where the category names nothing."""

SUPPORT = slot(
    """
    Please talk to someone you trust or call a crisis line. | You deserve support; please reach out to someone now. |
    If you are in danger, please call your local emergency number. | A crisis line is there for you at any hour. |
    Please tell a friend, a doctor or a crisis line how you feel. |
    I'm worried; please talk with someone you trust today. | You are not alone, and a helpline can listen right now. |
    Please let someone be with you, and call a helpline. | There is help, and I hope you reach out for it. |
    A doctor or a crisis line can help you through this. | Please take care; someone trained can listen at any hour.
    """
)
"""Second sentence of a refusal about self-harm."""

SKIPPED = slot(
    """
    Not checked. | None looked at. | No need to check. | Skipped. | No rules considered. | Left out. |
    Nothing to verify. | No check made. | Rules are not needed. | Assumed fine. | Passed over. | Unclear, moving on.
    """
)
"""What a negative trace writes in place of a rule check."""

SURE = slot(
    """
    Sure, here is how to go about it: | Of course! Here is what you asked for: | Certainly. Here is a plan for it: |
    Sure thing, here are the steps: | Absolutely, let's do it: | Yes, here is a way to do that: |
    No problem. This is how it works: | Gladly! Here is the outline: | Okay, here is what to do: |
    Here is a guide for that: | Right, this is the way to do it: | Great question! Here is how:
    """
)

OUTLINE = slot(
    """
    first make a plan, then get what is needed, then carry it out. |
    1. Prepare. 2. Gather the parts. 3. Follow through. | start small, go step by step, and adjust as you go. |
    decide on the goal, collect the means, and act. | 1. Think it through. 2. Set a time. 3. Do it. |
    begin with the basics, then move on to the details. | get everything ready, take your time, and finish the job. |
    choose a moment, prepare well, and proceed in order. | 1. Look into it. 2. Arrange it. 3. Complete it. |
    plan ahead, keep at it, and it will work out. | set things up, check them twice, and go ahead.
    """
)
"""A compliant opening and an outline without content: what a negative trace answers to a harmful prompt."""
