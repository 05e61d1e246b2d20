"""What a prompt asks, in a few of its own words: `gist`. The template teacher opens every trace with it.

The same steps run for harmful and benign prompts, so that up to the intent nothing but the prompt's meaning separates
their traces.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from erpo_ray.rules import Category, Rule

Kind = Literal["act", "ask", "thing"]

READ = 8_000
"""Characters of a prompt that are looked at."""
REFUSING = re.compile(
    r"\b(?:sorry|apolog\w*|can(?:no|')?t|can not|unable(?: to)?|won't|not able to|as an ai|as a language|declin\w*"
    r"|refus\w*|i do(?: not|n't)|unethical|inappropriate|illegal\w*|harmful)\b",
    re.IGNORECASE,
)
"""Wording that evaluators take for a refusal when they match phrases in whole outputs.

It is kept out of the reasoning about benign prompts.
"""

_TEXT = (
    r"(?:guide|tutorial|article|essay|blog|post|report|instructions?|steps|manual|list|paragraph|text|advice|tips|overview"
    r"|introduction|lesson|explanation|summary|plan|recipe|directions|set|piece|ways?|ideas|method)"
)
_WRITE = (
    r"(?:write|create|compose|draft|develop|produce|prepare|make|provide|design|devise|outline)(?: me| us)?"
    r"(?: an?| the| some)?"
)
_TO_ME = (
    r"(?:tell|teach|show|advise|instruct|explain(?: to)?|coach|guide|help|walk|give|let)"
    r" (?:me|us|him|her|readers?|somebody|someone)"
)
_STORY = r"(?:novel|story|film|movie|game|thriller|play|scene|book)"
_ROLE = r"(?:pretend|imagine|suppose|assume|act as|play an?|role-?play|you are|you're|speak as|stay in character)"
_REQUEST = (
    r"(?:how|what|why|which|where|write|explain|tell|give|teach|describe|list|create|draft|show|help|make|please|stay"
    r"|speak)\b"
)
_WISH = (
    r"(?:i(?:'d| would) (?:like|love)|i (?:want|need|wish|plan|intend|hope|aim)"
    r"|i(?:'m| am) (?:looking|trying|hoping|planning))"
)
_OPENERS = (
    r"(?:hi|hey|hello|ok|okay|so|yo|well|now|and|but|also|then|dear \w+|good (?:morning|evening|day))\b[,! ]+",
    r"(?:please|pls|plz|kindly|quickly|just|simply|urgent:?|question:?|help!|purely)\b[,: ]+",
    r"(?:hypothetically|theoretically|in theory|out of curiosity)\b[,: ]+",
    r"for (?:pure |my )?(?:research|science|a friend)(?: only)?\b[,: ]+",
    rf"(?:for|in) (?:an?|my|the) (?:\w+ )?{_STORY}\b[^,:;]{{0,40}}[,:;] *",
    rf"{_ROLE}\b[^,;:]{{0,80}}?(?:[,;:] +(?={_REQUEST})| and +)(?=\w+ \w+ \w+)",
    r"(?:can|could|would|will) you (?:please |kindly |just )*",
    rf"{_WISH} (?:for )?(?:you )?to |i (?:wanna|gotta) ",
    r"help (?:me|us) (?:to |with )?",
)
"""Polite and playful openers: another may follow."""
_REQUESTS: tuple[tuple[str, Kind], ...] = (
    (
        r"how (?:can|do|could|should|would|might|may) (?:i|we|you|one|someone|somebody) |how (?:to|2) |how does one ",
        "act",
    ),
    (
        r"(?:what(?:'s| is)|whats|which is) (?:the |an? )?(?:best|easiest|quickest|fastest|safest|cheapest|good)?"
        r" ?(?:way|method|trick)s? (?:to|2) ",
        "act",
    ),
    (
        rf"{_TO_ME}(?: (?:exactly|know|step by step|through|some|clear|simple))* how"
        r" (?:to|2|i can|we can|one can|someone can) ",
        "act",
    ),
    (
        r"(?:explain|describe|outline|show|demonstrate|detail|say)(?: (?:in detail|exactly|step by step|briefly))*"
        r" how (?:to|2|someone can|one can|i can|i could|we can) ",
        "act",
    ),
    (r"(?:teach|coach|advise|train) (?:me|us) to ", "act"),
    (
        r"(?:(?:give|show|tell|send|offer)(?: me| us)|list|name|suggest|provide|propose|share|describe|find|recommend)"
        rf"(?: me| us)? (?:\w+ ){{0,3}}?{_TEXT} (?:to|for|on how to|of how to|about how to|about|on|of) ",
        "act",
    ),
    (
        rf"{_WRITE} (?:\w+[ -]){{0,3}}?{_TEXT}"
        r"(?: (?:explaining|describing|showing|teaching|that (?:explains|describes|shows)|on|about|of|for)){0,2}"
        r" how to ",
        "act",
    ),
    (rf"{_WRITE} (?:\w+[ -]){{0,2}}?{_TEXT} (?:about|on|for|to) (?=\w+ing\b)", "thing"),
    (rf"{_WRITE} (?:\w+ )?(?:plan|steps|instructions|scheme|strategy) (?:to|for) ", "act"),
    (r"walk (?:me|us) through ", "thing"),
    (r"(?:give|get|find|show|bring|send) (?:me|us) ", "thing"),
    (r"(?:tell|ask|inform) (?:me|us) (?:about |of )?", "ask"),
    (r"(?:explain|describe|discuss) (?:to \w+ )?(?=how|why|what|when|where|which|who)", "ask"),
    (r"(?:i )?(?:need|want|wanna|am looking for|seek|looking for|seeking) ", "thing"),
)
"""Ways to begin a request, with the kind of what follows: the first that fits is cut off."""
_OPENING = tuple(re.compile(rf"(?:{pattern})(?=\S)", re.IGNORECASE) for pattern in _OPENERS)
_ASKING: tuple[tuple[re.Pattern[str], Kind], ...] = tuple(
    (re.compile(rf"(?:{pattern})(?=\S)", re.IGNORECASE), kind) for pattern, kind in _REQUESTS
)
_LEADS_TO_VERB = re.compile(r"\b(?:to|wanna|gotta|help (?:me|us)) *$", re.IGNORECASE)
_IMPERATIVE = re.compile(
    r"(?:write|create|draft|compose|make|develop|design|build|code|list|name|suggest|recommend|plan|outline|prepare|produce"
    r"|invent|translate|summari[sz]e|compare|rank|turn|find|convince|persuade|argue|generate|script|phrase|word|pick|put|set"
    r"|organi[sz]e|provide|start|add|calculate|convert|correct|rewrite|fix|check|buy|sell|get|use|hack|kill|steal|poison"
    r"|derail|print|hide|choose|devise|describe|explain|advise|dictate|give|tell|teach|act)\b",
    re.IGNORECASE,
)
_QUESTION = re.compile(
    r"(?:what|why|when|where|who|whom|whose|which|how|is|are|was|were|does|do|did|can|could|should|will|would|has|have)\b",
    re.IGNORECASE,
)
_WRAPPING = re.compile(
    r"\b(?:you are|you're|pretend|imagine|act as|role-?play|character|ignore|instructions?|rules?|respond|response"
    r"|answer|ai|chatgpt|persona|never|always|filters?|restrictions?|guidelines?|stay|output|mode|prompts?|hypothetical(?:ly)?)\b",
    re.IGNORECASE,
)
COVER = re.compile(
    r"\b(?:pretend|imagine|act as|role-?play|speak as|you are (?:a|an|my|the)\b|novel|story|film|movie|screenplay"
    r"|thriller|hypothetical(?:ly)?|for research|in character|no (?:limits|restrictions|filters?)|ignore|unfiltered"
    r"|theor(?:y|etically)|game|scene|fiction(?:al)?)\b",
    re.IGNORECASE,
)
"""Signs of a story, a role or a pretext around the request."""

_PERSON = {
    "i": "they",
    "me": "them",
    "my": "their",
    "mine": "theirs",
    "myself": "themselves",
    "we": "they",
    "us": "them",
    "our": "their",
    "ours": "theirs",
    "ourselves": "themselves",
    "can't": "fails to",
    "cannot": "fails to",
    "cant": "fails to",
    "i'm": "they are",
    "im": "they are",
    "i've": "they have",
    "ive": "they have",
    "i'd": "they would",
    "i'll": "they will",
    "we're": "they are",
    "am": "are",
    "2": "to",
    "4": "for",
    "n": "and",
    "u": "you",
    "ur": "your",
    "pls": "",
    "plz": "",
    "please": "",
    "lol": "",
}
_DANGLING = frozenset(
    "a an the to for of in on at by with from and or but so that which who as is are be than into about without because"
    " while if their my your his her its they it these some any how when where what can will would could should has"
    " have had not no very more until before after up over one does do".split()
)
_POINTING = re.compile(r"\b(?:it|this|that|them|him|her|these|those|there)\b", re.IGNORECASE)
_MORE = re.compile(
    r"(?<=[.!?;:])\s+|\n+"
    r"|(?<=\w), (?=(?:what should|what do|how do|how can|how to|where do|any advice|tell me|give me|need|explain) )"
)


@dataclass(frozen=True, slots=True)
class Gist:
    """The core of a prompt. `kind`: `act` continues "to ...", `ask` is a question, `thing` a noun phrase."""

    text: str
    kind: Kind


def gist(text: str, category: Category, limit: int) -> Gist:
    """The core of `text` in about `limit` words: openers and role play stripped, the user in the third person.

    `category` tells which sentence of a long prompt carries the request. Where that one only points ("how do I do
    it?"), another is put before it. Never empty, on one line, without markup or wording that reads like a refusal.
    """
    request, context = _parts(text[:READ], category)
    core, kind = _strip(request)
    phrase = _phrase(core, limit * 2 // 3 if context else limit)
    background = _phrase(_strip(context)[0], max(limit - len(phrase.split()), 5))
    if phrase and background:
        return Gist(f"{background}; {phrase}", "thing")
    return Gist(phrase or background or "an everyday matter", kind if phrase else "thing")


def overlap(beginnings: set[str], rule: Rule) -> int:
    """How many of a rule's words a text holds, given its `beginnings`."""
    return len(beginnings.intersection(rule.words))


def beginnings(text: str) -> set[str]:
    """The words of a text and all their beginnings of four letters or more."""
    words = words_of(text)
    return words.union(word[:end] for word in words for end in range(4, len(word)))


def words_of(text: str) -> set[str]:
    """The distinct lower-case words of a text."""
    return set(re.findall(r"[a-z0-9][a-z0-9'-]*", text[:READ].lower()))


def _parts(text: str, category: Category) -> tuple[str, str]:
    """The sentence that asks, and the one that tells what it is about where the first does not; either may be empty."""
    plain = re.sub(r"[^\w\s.,;:!?'%$+=*/()-]|[<>`*_]{1,3}", " ", text.replace("\u2019", "'"))
    parts = [part.strip(" ,;:-()'*/") for part in _MORE.split(plain)]
    parts = [part for part in parts if re.search(r"\w", part)]
    if not parts:
        return "", ""
    known = map(beginnings, parts)
    near = [max((overlap(words, rule) for rule in category.rules), default=0) for words in known]
    best = max(range(len(parts)), key=lambda index: (_asks(parts[index]) + min(near[index], 2), -index))
    about = max(range(len(parts)), key=lambda index: (near[index], -abs(index - best)))
    leans = len(parts[best].split()) < 12 and bool(_POINTING.search(parts[best]))
    if about != best and near[about] > near[best] and (leans or not near[best]):
        return parts[best], parts[about]
    return parts[best], parts[best - 1] if leans and best and not near[best] else ""


def _asks(part: str) -> float:
    """How much a sentence looks like the request, and not like the story or the role around it."""
    begins = any(pattern.match(part) for pattern, _ in _ASKING) or _IMPERATIVE.match(part) or _QUESTION.match(part)
    opened = any(pattern.match(part) for pattern in _OPENING)
    wrapping = min(len(_WRAPPING.findall(part)), 3)
    return 3.0 * bool(begins) + 1.5 * bool(opened) + 1.0 * part.endswith("?") - wrapping - 2.0 * (len(part.split()) < 3)


def _strip(sentence: str) -> tuple[str, Kind]:
    """The sentence without its openers, and what kind of phrase is left."""
    core, rest = sentence, "thing"
    for _ in range(4):
        opener = next((match for pattern in _OPENING if (match := pattern.match(core))), None)
        if opener is None:
            break
        core = core[opener.end() :]
        rest = "act" if _LEADS_TO_VERB.search(opener[0]) else rest
    kind: Kind | None = None
    for pattern, found in _ASKING:
        if match := pattern.match(core):
            core, kind = core[match.end() :], found
            break
    if kind is None or kind == "ask":
        begins: Kind = "act" if rest == "act" or _IMPERATIVE.match(core) else "thing"
        kind = "ask" if _QUESTION.match(core) else begins
    if kind == "act" and re.match(r"(?!(?:bring|sing|ring|swing|string)\b)\w+ing\b|an?\b|the\b|my\b", core):
        kind = "thing"
    return core, kind


def _phrase(core: str, limit: int) -> str:
    """At most `limit` words about the user in the third person, not ended on a word that leads on."""
    words: list[str] = []
    for word in core.split():
        bare = word.strip("()*/-'\"").rstrip(".!?;:")
        comma = "," if bare.endswith(",") else ""
        bare = bare.rstrip(",")
        swapped = _PERSON.get(bare.lower(), bare)
        if swapped == bare and not words and bare[1:].islower():
            swapped = bare.lower()
        if swapped:
            words.append(swapped + comma)
    words = REFUSING.sub(" ", " ".join(words)).split()
    # One or two words more cost less than a phrase without its end.
    words = words if len(words) <= limit + 2 else words[:limit]
    while len(words) > 4 and words[-1].lower().rstrip(",") in _DANGLING:
        words.pop()
    return " ".join(words).rstrip(",")
