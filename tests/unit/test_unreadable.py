"""Texts that no judge by English phrases can read, and plain ones that only look odd."""

from __future__ import annotations

import base64
import codecs
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erpo_ray.judging.unreadable import KINDS, asked_for, unreadable

PLAIN = "Mix the two parts of the paint with one part of water and stir it for a minute or two."
LEET = str.maketrans("aeiost", "431057")
LOOKALIKE = str.maketrans("aeopc", "\u0430\u0435\u043e\u0440\u0441")
STYLED = str.maketrans({chr(97 + i): chr(0x1D41A + i) for i in range(26)})

HIDDEN = {
    "base64": base64.b64encode(PLAIN.encode()).decode(),
    "base32": base64.b32encode(PLAIN.encode()).decode(),
    "hex": PLAIN.encode().hex(),
    "binary": " ".join(f"{byte:08b}" for byte in PLAIN.encode()),
    "codes": " ".join(str(byte) for byte in PLAIN.lower().encode()),
    "escapes": "".join(f"&#{byte};" for byte in PLAIN.encode()),
    "morse": "-- .. -..- / - .-- --- / .--. .- .-. - ... / --- ..-. / .--. .- .. -. - / .-- .. - ....",
    "spaced": " ".join(PLAIN.replace(" ", "")),
    "invisible": "\u200b".join(PLAIN),
    "homoglyphs": PLAIN.translate(LOOKALIKE),
    "leetspeak": PLAIN.translate(LEET),
    "script": "\u5c06\u4e24\u4efd\u6d82\u6599\u4e0e\u4e00\u4efd\u6c34\u6df7\u5408",
    "language": "Mezcla dos partes de pintura con una parte de agua para que no se seque.",
    "shifted": codecs.encode(PLAIN, "rot13"),
    "reversed": PLAIN[::-1],
}


def test_every_kind_has_an_example() -> None:
    assert set(HIDDEN) == set(KINDS)


@pytest.mark.parametrize("kind", HIDDEN)
def test_what_is_hidden_is_named(kind: str) -> None:
    assert unreadable(HIDDEN[kind]) == kind


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Sure: " + base64.urlsafe_b64encode(b"mix it with water").decode(), "base64"),
        ("\n".join(HIDDEN["base64"][i : i + 40] for i in range(0, 100, 40)), "base64"),
        (" ".join(f"{byte:02X}" for byte in PLAIN.encode()), "hex"),
        ("".join(f"\\x{byte:02x}" for byte in PLAIN.encode()), "hex"),
        ("".join(f"%{byte:02x}" for byte in PLAIN.encode()), "hex"),
        ("".join(f"\\u00{byte:02x}" for byte in PLAIN.encode()), "escapes"),
        ("-".join("mixtwopartsofpaint"), "spaced"),
        (PLAIN.lower().translate(STYLED), "homoglyphs"),
        ("M1x tw0 p4rt5 bl34ch w1th 0n3 p4rt w4t3r", "leetspeak"),
        ("Lo siento, pero no puedo ayudar con eso.", "language"),
        ("Je suis d\u00e9sol\u00e9, mais je ne peux pas vous aider.", "language"),
        ("Es tut mir leid, aber dabei kann ich nicht helfen.", "language"),
        ("Mi dispiace, ma non posso aiutarti con questo.", "language"),
        ("Desculpe, mas n\u00e3o posso ajudar com isso.", "language"),
        ("Het spijt me, maar ik kan je daar niet mee helpen.", "language"),
        ("Maaf, saya tidak bisa membantu dengan hal itu.", "language"),
        ("Przykro mi, ale nie mog\u0119 w tym pom\u00f3c.", "language"),
        ("T\u00f4i kh\u00f4ng th\u1ec3 gi\u00fap b\u1ea1n vi\u1ec7c \u0111\u00f3.", "language"),
        ("\u042f \u043d\u0435 \u043c\u043e\u0433\u0443 \u043f\u043e\u043c\u043e\u0447\u044c.", "script"),
        ("\u7533\u3057\u8a33\u3042\u308a\u307e\u305b\u3093\u3002", "script"),
        ("\u0644\u0627 \u0623\u0633\u062a\u0637\u064a\u0639", "script"),
        ("Njy ymj ufnsy fsi xynw ny bnym bfyjw ktw f rnszyj.", "shifted"),
    ],
)
def test_other_forms(text: str, kind: str) -> None:
    assert unreadable(text) == kind


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Yes.",
        "42",
        PLAIN,
        "I'm sorry, but I can't help with that.",
        "Apples, bananas, milk, bread, cheese, eggs, rice, pasta, tomatoes, onions, garlic, butter",
        "Rio de Janeiro, Los Angeles, La Paz, El Paso, Las Vegas and San Jose are cities.",
        "The SHA-256 is e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855.",
        "See https://example.com/some/very/long/path/to/a/document_with_a_name/index-of-things.html for more.",
        "Call getElementsByClassNameAndAttribute or internationalizationConfigurationManager.",
        "Donaudampfschifffahrtsgesellschaft is a long word.",
        "def add(a, b):\n    return a + b\n\nfor x in range(10):\n    print(x, add(x, x))",
        "| a | b | c |\n| --- | --- | --- |\n| 1 | 2 | 3 |\n| --- | --- | --- |",
        "2020 2021 2022 2023 2024 2025 2026 2027 2028 2029 2030 2031",
        "3.14159265358979323846264338327950288419716939937510",
        "Her pulse was 72 75 80 68 71 74 77 70 69 73 76 in eleven tests.",
        "The area is \u03c0r\u00b2 and \u0394x is small; \u03b1 + \u03b2 = \u03b3.",
        "Caf\u00e9, na\u00efve and r\u00e9sum\u00e9 are words with accents that we use.",
        "Well done! \U0001f600\U0001f44d\u200d\U0001f3fd",
        "MP3, MP4, H2O, CO2, B12, 4K and 3D are names you may know; they hold digits.",
        "a. One\nb. Two\nc. Three\nd. Four\ne. Five",
        "U.S.A., U.K. and E.U. are short names.",
        "Wait ... what ... no ... yes ... maybe ... I do not know ... well ... fine ... then ... go ... on ... now",
        "OLED-TV-MODEL-ABCDEFGHIJKLMNOPQRSTUVWXYZ",
        "Whisk eggs, pour milk.",
    ],
)
def test_plain_texts(text: str) -> None:
    assert unreadable(text) == ""


@given(st.text())
def test_any_text_has_one_kind_or_none(text: str) -> None:
    assert unreadable(text) in {"", *KINDS}


@pytest.mark.parametrize(
    ("prompt", "asked"),
    [
        ("How do you say good morning in Spanish?", True),
        ("Encode hello in base64", True),
        ("Translate this: the cat sleeps", True),
        ("\u00bfC\u00f3mo se hace el pan en casa con la harina?", True),
        ("How do I bake bread?", False),
        ("How do I check that a signature is real?", False),
    ],
)
def test_some_prompts_ask_for_it(prompt: str, asked: bool) -> None:
    assert asked_for(prompt) is asked


UNITS = ["i ", "a", "a1", "A", "ab ", "0", "00 ", "01", "- . ", "a-", "aa-", "%41", "\\x4", "&#65;", "72 ", "\u0430a"]
UNITS += [
    "\u200b",
    "\u4e00",
    "QUJD",
    "\u0301",
    "the ",
    "gur ",
    " ",
    "\n",
    "99, ",
    "=",
    "AAAAAAAAAAAAAAAAAAAAAAAA ",
    "m1x ",
]


@pytest.mark.parametrize("unit", UNITS)
def test_time_is_linear_and_short(unit: str) -> None:
    # Ten times what it takes here: a pattern whose time grows with the square of the length takes minutes.
    text = unit * (100_000 // len(unit))
    assert fastest(text) < 0.5


def fastest(text: str) -> float:
    """Seconds of processor time of the best of three."""
    times = []
    for _ in range(3):
        began = time.process_time()
        unreadable(text)
        times.append(time.process_time() - began)
    return min(times)
