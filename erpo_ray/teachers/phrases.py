"""The wording of assessments and rule checks: slots of interchangeable phrases, composed in `template.py`.

Placeholders: `{g}` the gist and `{G}` the same with a capital, `{harm}` completes "it would ...", `{topic}` a
category's title, `{rule}` and `{name}` a rule's id and what it is about, `{why}` why a look-alike is harmless.

Openings are shared by harmful and benign prompts: a trace must not give the verdict away before the intent is named.
No phrase about benign prompts reads like a refusal to an evaluator that matches phrases (`gist.REFUSING`).
"""

from __future__ import annotations


def slot(text: str) -> tuple[str, ...]:
    """The phrases of a slot, parted by `|`."""
    return tuple(" ".join(phrase.split()) for phrase in text.split("|"))


OPENINGS = {
    "any": slot(
        """
        {G}. | Asked: {g}. | Request: {g}. | The request: {g}. | The user asks: {g}. | Wanted: {g}. | In short: {g}. |
        The core: {g}. | Asked here: {g}. | At heart: {g}. | Subject: {g}. | The message: {g}. | What is asked: {g}. |
        Boiled down: {g}.
        """
    ),
    "act": slot(
        """
        {G}. | The user wants to {g}. | They want to {g}. | A request to {g}. | Help is asked to {g}. |
        This is about a way to {g}. | Someone wants to {g}. | The goal is to {g}. | The user would like to {g}. |
        Asked: how to {g}. | The wish: to {g}. | It asks for help to {g}.
        """
    ),
    "ask": slot(
        """
        {G}? | The question: {g}? | The user asks: {g}? | Asked: {g}? | A question: {g}? | In short: {g}? |
        To be answered: {g}? | The user wonders: {g}? | What is asked: {g}? | They ask: {g}? | The core question: {g}?
        """
    ),
}

HARM = {
    "medium": slot(
        """
        It would {harm}. | The intent is harmful, it would {harm}. | Harm is likely: it could {harm}. |
        This would {harm}, so harm is likely. | The aim is {name}; it would {harm}. | Intent: {name}. Harm is likely.
        | That is {name} and would {harm}. | Answering could {harm}. | A real risk: help here would {harm}. |
        The intent is bad; it would {harm}. | It means {name}, which would {harm}. | Helping would {harm}. |
        Clear harm: it would {harm}. | Not harmless: it would {harm}.
        """
    ),
    "long": slot(
        """
        The intent is harmful, since following it would {harm}. | The aim is {name}, and a useful answer would {harm}.
        | Harm is very likely: acting on this would {harm}. | Read plainly, it seeks {name}, and that would {harm}. |
        The intent shows: {name}. Helping would {harm}. | No harmless reading fits; it would {harm}. |
        The purpose is {name}. Real people could suffer, as it would {harm}. |
        What is meant is {name}; help would {harm}, so harm is likely. |
        The wording leaves no doubt about {name}, and it would {harm}. |
        Giving this help would {harm}; the intent is harmful. |
        The target is real and the aim is {name}; it would {harm}.
        """
    ),
}

COVERED = slot(
    """
    The story is only a cover. | The role play changes nothing. | The frame is fiction, the harm is real. |
    Wrapped in a pretext. | The setting does not make it safe. | The pretext does not alter the aim. |
    Take away the frame and the aim stays. | The role is a wrapper. | A made-up frame, a real aim. |
    The cover does not matter. | Same aim without the frame.
    """
)

ALIKE = {
    "medium": slot(
        """
        It touches on {topic}, but {why}. | The words recall {topic}, yet {why}. | Sounds like {topic}, but {why}. |
        Near {topic} in words only: {why}. | It looks like {topic}, yet {why}. Harm is unlikely. |
        Close to {topic}, but {why}. | The intent is harmless: {why}. | Harm is unlikely, as {why}. |
        Not {name}: {why}. | The topic is {topic}, but {why}. | No harm is meant: {why}. |
        Only touches {topic}; {why}.
        """
    ),
    "long": slot(
        """
        It sounds like {topic}, but {why}, so harm is unlikely. |
        The words may recall {name}, yet {why} and the intent is harmless. |
        At first sight it is near {topic}; read with care, {why}. |
        It shares words with {topic}. Still, {why}, and no one gets hurt. |
        One could think of {name}, but {why}. The intent is harmless. |
        A nearby request would mean {name}; here {why}. | Some words point to {topic}, the meaning does not: {why}. |
        It is not {name}, since {why}. Harm is unlikely. |
        The topic is sensitive, {topic}, but {why}, so help is right. |
        Only the surface recalls {topic}: {why}, and no harm follows. |
        Checked against {topic}: {why}, so there is nothing to fear.
        """
    ),
}

WHY = {
    "protect": slot(
        """
        it serves protection | it is meant to prevent harm | the user wants to stay safe | it guards people |
        the aim is prevention | it is about safety | it helps to keep harm away | it works against harm |
        it protects rather than hurts | the purpose is security
        """
    ),
    "learn": slot(
        """
        it only asks for knowledge | it is a factual question | it asks to understand | it is general knowledge |
        it seeks an explanation | it is a question of fact | learning is the aim | it asks what is known |
        it wants to be informed | it is about understanding
        """
    ),
    "law": slot(
        """
        it asks for the lawful way | it is a legal question | it stays within the law | it asks about rules and rights
        | the law is asked about, not dodged | it follows the rules | it concerns lawful action | rights are the topic
        | it goes through official ways | it asks what is allowed
        """
    ),
    "play": slot(
        """
        it is play or fiction | it is a creative task | nothing real is harmed | it is make-believe | it is for fun |
        it belongs to a story or game | it is art, without usable harm | the scene is harmless | it is entertainment |
        it is imagined and mild
        """
    ),
    "support": slot(
        """
        the user seeks help | it asks for support | it is about care | it wants to help someone |
        it is about getting well | someone needs kind advice | it is about health and support | it looks for comfort |
        it is a call for good advice | it is meant to heal
        """
    ),
    "teach": slot(
        """
        it informs the public | it is for teaching | it is honest work | it raises awareness | it is for a class |
        it is normal professional work | it serves education | it belongs to an ordinary job |
        it is reporting or schooling | it is a useful text for others
        """
    ),
    "technical": slot(
        """
        the words are technical | it concerns software or tools | it is a technical task |
        machines are meant, not people | it is ordinary computing | it deals with the user's own system |
        the term is technical | it is everyday engineering | only a program or device is meant |
        it is plain technical work
        """
    ),
    "home": slot(
        """
        it is a household matter | it is cooking or craft | it is about home and garden | it is an everyday task |
        it concerns food or things | it is plain handiwork | it is a domestic question | it is simple daily life |
        only things are meant | it is a hobby
        """
    ),
    "plain": slot(
        """
        the aim is ordinary | nobody is harmed | the target is harmless | the meaning is innocent |
        the purpose is kind | it is done openly and with consent | no one is deceived or hurt |
        it concerns the user's own things | it is an ordinary wish | nothing bad is sought | the intent is friendly
        """
    ),
}

LOADED = frozenset(
    """
    kill killing kills killed killer murder shoot shooting shot shots bomb bombs blow explode explosive attack attacks
    attacking hack hacking hacks steal stealing stolen poison toxic drug drugs gun guns weapon weapons knife knives
    punch punching beat beating stab stabbing burn burning crash destroy destroying smuggle terror terrorist hate
    virus exploit exploits fake forge forged cheat cheating scam fraud crack cracking break breaking hijack kidnap
    torture strangle rob robbery spy spying stalk stalking track tracking abuse abusing threat threaten threatening
    dead die death suicide cut cutting hurt hurting naked nude assault harass bully bullying blackmail launder bribe
    trap trick lie lies manipulate radical sniper execute slaughter dope spike spiking
    """.split()
)
"""Words that sound worse than they may be meant."""

SENSE = slot(
    """
    "{word}" is meant innocently | "{word}" has a harmless sense here | the word "{word}" misleads |
    "{word}" is used in another sense | "{word}" hurts no one here | here "{word}" is harmless |
    "{word}" only sounds bad | "{word}" is not meant that way | the sense of "{word}" is mild |
    only the word "{word}" is loaded
    """
)

PLAIN = {
    "medium": slot(
        """
        An ordinary wish without risk. | The intent is friendly and harmless. | Everyday help, no harm likely. |
        Nobody could be hurt. | It is plain daily life. | Simple and harmless. | No risk topic is touched. |
        The intent is ordinary; harm is unlikely. | A useful, harmless request. | Harmless curiosity. |
        A common question without danger. | There is no sign of harm.
        """
    ),
    "long": slot(
        """
        It is an everyday request, and nobody could come to harm. |
        The intent is ordinary and friendly, so there is no risk. |
        Nothing in it points to danger; plain help is wanted. | A common request that touches no risk topic at all. |
        It is simple, useful and harmless to everyone. | There is no hidden aim, just an everyday wish. |
        The user wants practical help, and harm is very unlikely. | No rule on risks is near; it is daily life. |
        An honest question with a plain, safe answer. | Neither the words nor the aim hold any danger.
        """
    ),
}

HARMS = slot(
    """
    hurt people | do serious damage | harm someone | put people at risk | leave victims behind | cause real harm |
    endanger others | harm innocent people | do harm that lasts | make someone suffer
    """
)
"""Complete "it would ..." beside the harms that a rule names."""

BROKEN = {
    "short": slot(
        """
        {rule}: violated. | {rule} is violated. | Violates {rule}. | {rule} is broken. | Breaks {rule}. |
        {rule}: not met. | Against {rule}. | {rule} forbids this. | {rule} rules it out. | Forbidden by {rule}. |
        {rule} applies: violated.
        """
    ),
    "medium": slot(
        """
        {rule} forbids {name}: violated. | {rule} ({name}): violated. | Violates {rule}, {name}. |
        {rule} on {name} is violated. | This breaks {rule} ({name}). | {rule} rules out {name}: violated. |
        {rule} bans {name}, and this is it. | {rule}, {name}: not met. | Against {rule}: {name}. |
        {rule} covers {name}; violated. | {rule} allows no {name}. Violated. | Forbidden by {rule}, {name}.
        """
    ),
}

BROKEN_TOO = slot(
    """
    {rule} too. | Also {rule}. | {rule} ({name}) as well. | {rule} is violated too. | Also against {rule}, {name}. |
    {rule}, {name}: violated too. | And {rule}. | The same holds for {rule}. | {rule} speaks against it too. |
    It also breaks {rule}.
    """
)

KEPT = {
    "short": slot(
        """
        {rule} does not apply. | {rule}: met. | {rule} is met. | {rule} is kept. | No breach of {rule}. |
        {rule}: not touched. | {rule} stays met. | {rule} is respected. | {rule}: no conflict. | Within {rule}. |
        {rule} allows it.
        """
    ),
    "medium": slot(
        """
        {rule} does not apply: {why}. | {rule} forbids {name}; this is not it: met. | {rule} ({name}) does not apply.
        | {rule}: met, no {name} here. | {rule} bans {name}, which is not asked: met. | {rule} on {name} is met. |
        No {name}, so {rule} is met. | {rule} would cover {name}; not the case. | {rule} ({name}): met, {why}. |
        {rule}, {name}: no breach. | {rule} is met, since {why}. | {rule} is about {name} and stays untouched.
        """
    ),
}

DUTY = {
    "short": slot(
        """
        {rule}: {name}. | {rule} applies. | Only {rule}. | {rule} is met. | {rule}: met. | As {rule} says. |
        {rule} asks for help. | Just {rule}. | Following {rule}. | {rule} holds.
        """
    ),
    "medium": slot(
        """
        {rule} calls for {name}. | {rule} ({name}) applies. | No risk rule applies; {rule}: {name}. |
        {rule} asks for {name}: met by helping. | Only {rule} matters: {name}. | {rule} leads: {name}. |
        Nothing forbidden; {rule} asks for {name}. | All rules met; {rule} wants {name}. |
        {rule}, {name}, is the guide. | The rule is {rule}: {name}. | {rule} wants {name} here.
        """
    ),
}
