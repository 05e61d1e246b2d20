"""From a matplotlib figure to an SVG element that may stand in a page: no style attribute, no link, colours by class.

A figure is drawn in the signal colours of `COLOURS`; here each becomes a class (`f-NAME` fills, `s-NAME` strokes) that
the page's style sheet colours for a light and a dark screen.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree

import matplotlib
from matplotlib.figure import Figure

NAMES = ("ink", "soft", "rule", "paper", "harmful", "benign", "good", "bad", "c0", "c1", "c2", "c3", "c4", "c5")
COLOURS: Mapping[str, str] = {name: f"#0101{number:02x}" for number, name in enumerate(NAMES, 1)}
"""Colours to draw with, by what they mean; none of them reaches the page."""

RC: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "erpo_ray",
    "text.parse_math": False,
    "font.size": 10.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": COLOURS["paper"],
    "axes.edgecolor": COLOURS["rule"],
    "axes.labelcolor": COLOURS["soft"],
    "text.color": COLOURS["ink"],
    "xtick.color": COLOURS["rule"],
    "ytick.color": COLOURS["rule"],
    "xtick.labelcolor": COLOURS["soft"],
    "ytick.labelcolor": COLOURS["soft"],
    "grid.color": COLOURS["rule"],
    "grid.linewidth": 0.6,
}
"""How figures are drawn: text stays text, `$` is no formula, and the same figure has the same ids."""

_CLASS = {colour: name for name, colour in COLOURS.items()}
_NAMESPACE = re.compile(r"\{[^}]*\}")
_SIZE = re.compile(r"([0-9.]+)px")
_KEPT = {
    "stroke-width", "stroke-dasharray", "stroke-dashoffset", "stroke-linecap", "stroke-linejoin", "stroke-opacity",
    "fill-opacity", "opacity", "text-anchor", "font-size", "font-weight",
}  # fmt: skip


def figure(width: float, height: float) -> Figure:
    """An empty figure of this size in points, its background clear. Draw inside `matplotlib.rc_context(RC)`."""
    made = Figure(figsize=(width / 72, height / 72), layout="constrained")
    made.patch.set_visible(False)
    return made


def element(drawn: Figure, name: str, title: str, hovers: Mapping[str, str]) -> str:
    """The SVG element of a figure, the same bytes for the same figure.

    `name` sets its ids apart from those of other figures in the page; `hovers` gives marks, by gid, a text to show.
    """
    for axes in drawn.axes:
        axes.patch.set_visible(False)
    buffer = io.StringIO()
    with matplotlib.rc_context(RC), warnings.catch_warnings():
        # Only widths are guessed without a glyph; the reader's browser has fonts of its own.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        drawn.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    root = ElementTree.fromstring(buffer.getvalue())
    used = set(re.findall(r'(?:url\(|href=")#([^)"]+)', buffer.getvalue()))
    _tidy(root, name, hovers, used)
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.attrib |= {"class": "chart", "role": "img", "aria-labelledby": f"{name}-title"}
    heading = ElementTree.Element("title", {"id": f"{name}-title"})
    heading.text = title
    root.insert(0, heading)
    return ElementTree.tostring(root, encoding="unicode")


def _tidy(node: ElementTree.Element, name: str, hovers: Mapping[str, str], used: set[str]) -> None:
    node.tag = _NAMESPACE.sub("", node.tag)
    node.text, node.tail = (node.text or "").strip("\n "), ""
    attributes = {_NAMESPACE.sub("", key): value for key, value in node.attrib.items()}
    style = attributes.pop("style", "")
    own = attributes.pop("id", "")
    node.attrib.clear()
    if own in used:
        node.set("id", f"{name}-{own}")
    for key, value in attributes.items():
        node.set(key, re.sub(r"(url\(#|^#)", rf"\g<1>{name}-", value) if key in ("clip-path", "href") else value)
    _restyle(node, style)
    for child in list(node):
        if _NAMESPACE.sub("", str(child.tag)) in ("metadata", "style"):
            node.remove(child)
        else:
            _tidy(child, name, hovers, used)
    if own in hovers:
        tip = ElementTree.Element("title")
        tip.text = hovers[own]
        node.insert(0, tip)


def _restyle(node: ElementTree.Element, style: str) -> None:
    """Declarations as attributes, signal colours as classes, the font left to the page."""
    classes = []
    for declaration in style.split(";"):
        key, _, value = (part.strip() for part in declaration.partition(":"))
        if key in ("fill", "stroke"):
            if value in _CLASS:
                classes.append(f"{key[0]}-{_CLASS[value]}")
            else:
                node.set(key, value)
        elif key == "font":
            size = _SIZE.search(value)
            node.set("font-size", size[1] if size else "10")
            if "bold" in value or "700" in value:
                node.set("font-weight", "700")
        elif key in _KEPT:
            node.set(key, value.removesuffix("px"))
    if classes:
        node.set("class", " ".join(classes))
