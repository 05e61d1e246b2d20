"""Why a text is not plain English: what a judge by English phrases cannot read, and must not take for harmless.

| kind | what gives it away |
|---|---|
| `base64`, `base32`, `hex`, `binary`, `codes` | a run in that alphabet that decodes to letters |
| `escapes` | a run of numeric character references |
| `morse`, `spaced` | runs of dots and dashes; of single letters |
| `invisible`, `homoglyphs` | zero-width characters and piled marks; look-alikes from other blocks inside words |
| `leetspeak` | digits for letters in a fifth of the words |
| `script`, `language` | letters of another script; the small words of another language in place of English ones |
| `shifted`, `reversed` | small English words that appear only when letters are moved on (rot13) or read backwards |

Encodings are told by decoding them, so hashes, links and identifiers are no false alarm. A list of names without any
small word is plain. Short or clever disguises (a few words of slang, an acrostic, a cipher with a key) are not found.
Linear in the length of the text.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Sequence
from itertools import islice

KINDS = (
    *("base64", "base32", "hex", "binary", "codes", "escapes", "morse", "spaced", "invisible", "homoglyphs"),
    *("leetspeak", "script", "language", "shifted", "reversed"),
)

_DECODED = 64
"""Characters of a run that are decoded: enough to tell."""
_RUNS = 1000
"""Runs of one alphabet that are decoded."""
_SAMPLE = 300
"""Words at either end that are read for shifted or reversed English."""

_ENGLISH = frozenset(
    "the of and to that it for you are with be your this have not or can from by at they which when what if but there"
    " would could should we an is i my then will into about how as one two its their".split()
)
"""Small words that make a quarter of English prose."""
_PERSONAL = frozenset("he she his her him me us who has had was were in on as so do did no out up get got".split())
"""Further small words of English; some are words of other languages too."""
_FOREIGN = frozenset(
    (
        # Spanish, French, Italian, Portuguese
        "el los las una unos del que por con para como más pero sus este esta esto muy sin sobre también puedo lo su es"
        " hay cuando donde porque se le la les des du et est un pour dans qui sur pas vous je ne nous avec ce cette"
        " mais au aux il elle sont votre di che non sono della gli anche più nel posso não uma um em os você isso ou"
        " seu sua dos das foi ao"
        # German, Dutch, Scandinavian
        " der das und ist nicht ein eine einen zu den dem mit auf für sich ich sie auch werden wird kann von bei sind"
        " oder wenn wie aus nach het een van en dat niet te op voor met zijn ik je kan maar ook naar deze och att det"
        " som är inte på med av jag till og ikke er til jeg"
        # Turkish, Indonesian, Polish, Vietnamese, Tagalog, Swahili, Finnish, Czech
        " ve bir bu için ile çok gibi daha olarak yang dan di untuk dengan ini itu tidak dari pada anda saya akan nie"
        " się na jest że jak ale mogę và của là không có cho một trong các ang ng mga sa ay ya wa kwa ni ja ei että je"
    ).split()
)
"""Small words of other languages that are no English words."""

_ASKED = re.compile(
    r"\b(?:translat\w*|languages?|encod\w*|decod\w*|encrypt\w*|decrypt\w*|cipher\w*|base ?(?:64|32)|hex\w*|binary|ascii"
    r"|unicode|morse|leet\w*|rot ?-?13|caesar|alphabets?|spell\w*|anagrams?|backwards?|revers\w*|spanish|french|german"
    r"|italian|portuguese|dutch|swedish|danish|norwegian|finnish|polish|czech|russian|ukrainian|greek|latin|turkish"
    r"|arabic|hebrew|persian|farsi|hindi|urdu|bengali|tamil|chinese|mandarin|cantonese|japanese|korean|thai|vietnamese"
    r"|indonesian|tagalog|filipino|swahili)\b"
)

_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{20,}")
_BASE32 = re.compile(r"[A-Z2-7]{24,}")
_HEX = re.compile(r"(?:(?:\\x|0x|%|&#x)?[0-9A-Fa-f]{2}[\s,;:]?){10,}")
_HEX_MARKS = re.compile(r"\\x|0x|%|&#x|[\s,;:]")
_BINARY = re.compile(r"(?:[01]{8}[\s,]?){6,}")
_CODES = re.compile(r"(?:\b\d{2,3}\b[\s,]{1,2}){10,}")
_ESCAPES = re.compile(r"(?:\\u00[0-9A-Fa-f]{2}|&#\d{2,3};){6,}")
_MORSE = re.compile(r"(?:[.\u00b7\u2022\-\u2212\u2013]{1,6}[ /|]{1,3}){12,}")
_BLANK = re.compile(r"[ /|]")
_SPACED = re.compile(r"(?:(?<![A-Za-z])[A-Za-z][ ._*|/~\n-]{1,2}){12,}")
_INVISIBLE = re.compile("[\u200b\u200c\u2060-\u2064\ufeff\u00ad\U000e0000-\U000e007f]")
_MARK = re.compile("[\u0300-\u036f]")
_STYLED = re.compile("[\u249c-\u24e9\uff21-\uff5a\U0001d400-\U0001d7ff\U0001f130-\U0001f189]+")
_MIXED = re.compile("(?<=[A-Za-z])[\u0400-\u052f]|[\u0400-\u052f](?=[A-Za-z])|(?<=[A-Za-z])[\u0370-\u03ff](?=[A-Za-z])")
_LATIN = re.compile("[A-Za-z\u00c0-\u024f\u1e00-\u1eff]+")
_OTHER = re.compile("[\u0370-\u1dff\u2c00-\u2dff\u3040-\ud7ff\uf900-\ufdff\ufe70-\ufefe]+")
_ACCENTED = re.compile("[\u00c0-\u024f\u1e00-\u1eff]")
_TOKEN = re.compile(r"[a-z0-9@$]+")
_LEET = re.compile(r"[a-z][013457@$]+[a-z]|^[013457@$]+[a-z]+[013457@$]")
_DIGIT_INSIDE = re.compile(r"[a-z][013457@$]+[a-z]")
_WORD = re.compile(r"[^\W\d_]+")
_LETTERS = bytes(range(65, 91)) + bytes(range(97, 123)) + b" "


def unreadable(text: str) -> str:
    """The kind (`KINDS`) of disguise or language that keeps this text from being read as English; empty for plain."""
    found = next((kind for kind, decode in _DECODERS if decode(text)), "")
    if not found and _ESCAPES.search(text):
        return "escapes"
    return found or _by_marks(text) or _by_letters(text) or _by_words(_WORD.findall(text.lower()))


def asked_for(prompt: str) -> bool:
    """Whether a prompt speaks of languages or encodings, or is itself in one: then such an answer may be right."""
    return bool(_ASKED.search(prompt.lower()) or unreadable(prompt))


def _spells(data: bytes) -> bool:
    """Whether bytes are mostly letters and spaces: by chance they are one time in five."""
    return len(data.translate(None, _LETTERS)) <= len(data) // 4


def _base64(text: str) -> bool:
    return any(
        _spells(_unpacked(run[0][:_DECODED], base64.urlsafe_b64decode, 4))
        for run in islice(_BASE64.finditer(text), _RUNS)
    )


def _base32(text: str) -> bool:
    return any(
        _spells(_unpacked(run[0][:_DECODED], base64.b32decode, 8)) for run in islice(_BASE32.finditer(text), _RUNS)
    )


def _unpacked(run: str, decode: Callable[[str], bytes], group: int) -> bytes:
    return decode(run[: len(run) // group * group].replace("+", "-").replace("/", "_"))


def _hex(text: str) -> bool:
    """Without any of a to f it is a row of numbers."""
    runs = (_HEX_MARKS.sub("", run[0][: 4 * _DECODED]) for run in islice(_HEX.finditer(text), _RUNS))
    return any(not run.isdecimal() and _spells(binascii.unhexlify(run[: len(run) // 2 * 2])) for run in runs)


def _binary(text: str) -> bool:
    runs = (re.findall("[01]{8}", run[0][: 8 * _DECODED]) for run in islice(_BINARY.finditer(text), _RUNS))
    return any(_spells(bytes(int(bits, 2) for bits in run)) for run in runs)


def _codes(text: str) -> bool:
    """Decimal character codes; lists of ages and prices hold few between 97 and 122."""
    runs = (
        [int(code) for code in re.findall(r"\d+", run[0][: 4 * _DECODED])]
        for run in islice(_CODES.finditer(text), _RUNS)
    )
    return any(sum(97 <= code <= 122 or code == 32 for code in run) >= 0.75 * len(run) for run in runs)


_DECODERS: tuple[tuple[str, Callable[[str], bool]], ...] = (
    ("base64", _base64),
    ("base32", _base32),
    ("hex", _hex),
    ("binary", _binary),
    ("codes", _codes),
)


def _by_marks(text: str) -> str:
    for run in _MORSE.finditer(text):
        dots = sum(run[0].count(dot) for dot in ".\u00b7\u2022")
        if dots >= 6 and len(_BLANK.sub("", run[0])) - dots >= 6:
            return "morse"
    if _SPACED.search(text):
        return "spaced"
    piled = len(_MARK.findall(text))
    if len(_INVISIBLE.findall(text)) >= 10 or (piled >= 20 and piled > 0.3 * _count(_LATIN, text)):
        return "invisible"
    digits = _DIGIT_INSIDE.findall(lower := text.lower())
    if len(digits) < 3:
        return ""
    tokens = _TOKEN.findall(lower)
    leet = sum(1 for token in tokens if _LEET.search(token[:40]))
    return "leetspeak" if leet >= 5 and leet >= 0.2 * len(tokens) else ""


def _by_letters(text: str) -> str:
    if text.isascii():
        return ""
    latin, other, styled = (_count(kind, text) for kind in (_LATIN, _OTHER, _STYLED))
    if len(_MIXED.findall(text)) >= 3 or (styled >= 8 and styled >= 0.2 * (latin + styled)):
        return "homoglyphs"
    return "script" if other >= 4 and other >= 0.2 * (latin + other) else ""


def _count(runs: re.Pattern[str], text: str) -> int:
    """Characters in all runs of a kind."""
    return sum(map(len, runs.findall(text)))


def _by_words(words: Sequence[str]) -> str:
    english = _share(words, _ENGLISH)
    if len(words) < 4 or english >= 0.1:
        return ""
    accented = sum(1 for word in words if _ACCENTED.search(word)) / len(words)
    # One word of a short answer may be a name, or English too: "pour".
    foreign = _share(words, _FOREIGN) if len(_FOREIGN.intersection(words)) >= _TELLING else 0.0
    if max(foreign, accented) >= max(0.2, 2 * english):
        return "language"
    ends = (*words[:_SAMPLE], *words[_SAMPLE:][-_SAMPLE:])
    sample = [word for word in ends if len(word) > 1 and word.isascii()]
    if len(sample) < 5 or _share(sample, _PERSONAL) >= 0.1:
        return ""
    if _hidden([word[::-1] for word in sample]):
        return "reversed"
    whole = " ".join(sample)
    return "shifted" if any(_hidden(whole.translate(shift).split()) for shift in _SHIFTS) else ""


_TELLING = 2
"""Different foreign words that tell a language."""
_ALPHABET = "abcdefghijklmnopqrstuvwxyz"
_SHIFTS = tuple(str.maketrans(_ALPHABET, _ALPHABET[n:] + _ALPHABET[:n]) for n in range(1, 26))


def _share(words: Sequence[str], known: frozenset[str]) -> float:
    return sum(1 for word in words if word in known) / len(words) if words else 0.0


def _hidden(words: Sequence[str]) -> bool:
    """Whether these are English: three different small words, and a fifth of all."""
    small = [word for word in words if word in _ENGLISH]
    return len(set(small)) >= 3 and len(small) >= 0.2 * len(words)
