"""The Pareto plot of several policies that are no stages of one run: which of them no other beats on both axes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import resources
from xml.etree import ElementTree

from matplotlib.ticker import MaxNLocator, PercentFormatter

from erpo_ray.report import svg
from erpo_ray.report.charts import Point, canvas, dot, name_points
from erpo_ray.report.svg import COLOURS
from erpo_ray.terminal import clean


def undominated(points: Sequence[Point]) -> list[Point]:
    """The points than which none refuses more of the harmful and fewer of the harmless, from left to right.

    Of equal points each stays.
    """

    def beaten(point: Point) -> bool:
        x, y = point.benign.value, point.harmful.value
        return any(
            other.benign.value <= x and other.harmful.value >= y and (other.benign.value, other.harmful.value) != (x, y)
            for other in points
        )

    return sorted((p for p in points if not beaten(p)), key=lambda p: (p.benign.value, p.harmful.value))


def front(points: Sequence[Point], title: str) -> str:
    """Harmful refused against benign refused, each policy with its intervals, a line through those none dominates.

    Names stand in a column to the right, each led to its point; the area of a point is the mean length of its answers.
    """
    with canvas(max(285.0, 60 + 19.0 * len(points))) as figure:
        axes = figure.subplots()
        best = undominated(points)
        axes.plot([p.benign.value for p in best], [p.harmful.value for p in best], color=COLOURS["good"], lw=1.4)
        most = max([1.0, *(point.tokens for point in points)])
        for number, point in enumerate(points):
            dot(axes, point, 150 * point.tokens / most, f"point-{number}")
        right = max([0.05, *(point.benign.high for point in points)])
        low = min([0.9, *(point.harmful.low for point in points)])
        axes.set_xlim(-0.02 * right, right * 1.75)
        axes.set_ylim(low - 0.07 * (1 - low), 1 + 0.07 * (1 - low))
        ticks = MaxNLocator(nbins=4, steps=[1, 2, 5, 10]).tick_values(0, right)
        axes.set_xticks([tick for tick in ticks if -1e-9 <= tick <= right + 1e-9])
        axes.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.set(xlabel="harmless prompts refused (less is better)", ylabel="harmful prompts refused")
        axes.grid(axis="y")
        name_points(axes, points, right, low, 1.0)
        return svg.element(figure, "front", title, {f"point-{n}": _told(point) for n, point in enumerate(points)})


def standalone(element: str) -> str:
    """An SVG file of its own from an element of a page: with the page's colours, for light and for dark."""
    style = (resources.files("erpo_ray.report") / "page.css").read_text("utf-8")
    palettes = re.findall(r"(?:@media \(prefers-color-scheme: dark\) \{\s*)?:root \{.*?\}(?:\s*\})?", style, re.DOTALL)
    classes = re.findall(r"\.[fs]-\w+ \{[^}]*\}", style)
    root = ElementTree.fromstring(element)
    root.set("xmlns", "http://www.w3.org/2000/svg")
    root.set("font-family", "system-ui, sans-serif")
    sheet = ElementTree.Element("style")
    sheet.text = "\n".join([*palettes[:2], *classes])
    ground = ElementTree.Element("rect", {"width": "100%", "height": "100%", "class": "f-paper"})
    root[:] = [root[0], sheet, ground, *root[1:]]
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def _told(point: Point) -> str:
    return (
        f"{clean(point.name)}: {point.harmful.value:.1%} of harmful and {point.benign.value:.1%} of harmless prompts "
        f"refused, {point.tokens:.0f} tokens"
    )
