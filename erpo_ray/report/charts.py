"""The figures of a report: pure functions from data to SVG elements, narrow enough to be read on a phone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, PercentFormatter

from erpo_ray.report import svg
from erpo_ray.report.records import Counts
from erpo_ray.report.svg import COLOURS
from erpo_ray.telemetry import Step
from erpo_ray.terminal import clean
from erpo_ray.types import Rate

WIDTH = 345.0
"""Points. A phone shows about as many pixels, so that letters keep their size there."""
_LINES = ("c0", "c1", "c2", "c3", "c4", "c5")
_MOST_POINTS = 300
"""Points of a curve; a longer one is thinned, its last point kept."""
_LONGEST_NAME = 20


@dataclass(frozen=True, slots=True)
class Point:
    """A stage in the Pareto plot: shares of prompts refused, mean length of its completions in tokens."""

    name: str
    benign: Rate
    harmful: Rate
    tokens: float
    accepted: bool


@dataclass(frozen=True, slots=True)
class Curve:
    """The logged training steps of one stage."""

    name: str
    steps: Sequence[Step]


@contextmanager
def canvas(height: float) -> Iterator[Figure]:
    """An empty figure of the page's width to draw in, as all figures are drawn."""
    with matplotlib.rc_context(svg.RC):
        yield svg.figure(WIDTH, height)


def short(name: str, longest: int = _LONGEST_NAME) -> str:
    """A name as it fits into a figure, on one line, without control characters."""
    name = " ".join(clean(name).split())
    return name if len(name) <= longest else f"{name[: longest - 1]}\u2026"


def pareto(points: Sequence[Point]) -> str:
    """Harmful refused against benign refused, each stage a point with its intervals, its area by tokens.

    A line joins the policies that were accepted, base model first; a rejected one is hollow. Stages that lie close
    together and far above the base model are shown once more, larger.
    """
    with canvas(285) as figure:
        axes = figure.subplots()
        close = _crowd(points)
        hovers = {f"point-{number}": _told(point) for number, point in enumerate(points)}
        _plane(axes, points, [point for point in points if point not in close])
        axes.set(xlabel="harmless prompts refused (less is better)", ylabel="harmful prompts refused")
        axes.grid(axis="y")
        if close:
            low, high = axes.get_ylim()
            # Its own ticks and the name of the base model have to fit below it.
            bottom = max(0.1, (points[0].harmful.value - low) / (high - low) + 0.13)
            inset = axes.inset_axes((0.34, bottom, 0.65, 0.7 - bottom))
            _plane(inset, close, close)
            inset.tick_params(labelsize=8)
            title = inset.set_title("the upper points, enlarged", fontsize=8.5, loc="left", color=COLOURS["soft"])
            # The line from the base model may run behind them.
            for label in (*inset.get_xticklabels(), *inset.get_yticklabels(), title):
                label.set_bbox({"facecolor": COLOURS["paper"], "edgecolor": "none", "pad": 1})
        return svg.element(figure, "pareto", "Harmful against harmless prompts refused, by stage", hovers)


def _told(point: Point) -> str:
    return (
        f"{clean(point.name)}: {point.harmful.value:.1%} of harmful and {point.benign.value:.1%} of harmless prompts "
        f"refused, {point.tokens:.0f} tokens{'' if point.accepted else ', rejected'}"
    )


def _crowd(points: Sequence[Point]) -> list[Point]:
    """The stages after the base model, if they would lie on top of each other beside it; else none."""
    trained = list(points[1:])
    if len(trained) < 2:
        return []
    heights = [point.harmful.value for point in trained]
    spread = max(heights) - min(heights)
    return trained if min(heights) - points[0].harmful.value > max(0.4, 2 * spread) else []


def _plane(axes: Axes, points: Sequence[Point], named: Sequence[Point]) -> None:
    """Points with their intervals, limits that hold them all, and names beside them."""
    line = [point for point in points if point.accepted]
    x, y = [point.benign.value for point in line], [point.harmful.value for point in line]
    axes.plot(x, y, color=COLOURS["soft"], lw=1)
    most = max([1.0, *(point.tokens for point in points)])
    for number, point in enumerate(points):
        dot(axes, point, 150 * point.tokens / most, f"point-{number}")
    sides = [value for point in points for value in (point.benign.low, point.benign.high)]
    levels = [value for point in points for value in (point.harmful.low, point.harmful.high)]
    left, right = min(sides), max([*sides, min(sides) + 0.05])
    low, high = min(levels), max([*levels, min(levels) + 0.05])
    # The names stand in a column of their own, right of every interval.
    axes.set_xlim(left - 0.04 * (right - left), right + (right - left) * (0.75 if named else 0.05))
    axes.set_ylim(low - 0.07 * (high - low), high + 0.07 * (high - low))
    ticks = MaxNLocator(nbins=4, steps=[1, 2, 5, 10]).tick_values(left, right)
    axes.set_xticks([tick for tick in ticks if left - 1e-9 <= tick <= right + 1e-9])
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    name_points(axes, named, right, low, high)


def dot(axes: Axes, point: Point, area: float, gid: str) -> None:
    """A policy as a disc between its intervals, hollow where the gate rejected it."""
    x, y = point.benign.value, point.harmful.value
    axes.hlines(y, point.benign.low, point.benign.high, color=COLOURS["rule"], lw=1.2)
    axes.vlines(x, point.harmful.low, point.harmful.high, color=COLOURS["rule"], lw=1.2)
    colour = COLOURS["benign"]
    face = colour if point.accepted else "none"
    axes.scatter(x, y, s=max(area, 12), facecolor=face, edgecolor=colour, alpha=0.55, zorder=3, gid=gid)


def name_points(axes: Axes, points: Sequence[Point], x: float, low: float, high: float) -> None:
    """Names in a column that begins at `x`, each led to its point, at least a line apart."""
    order = sorted(points, key=lambda point: (-point.harmful.value, -point.benign.value))
    gap = min(0.14, 1 / max(len(order), 1)) * (high - low)
    place = high
    for number, point in enumerate(order):
        place = max(min(place, point.harmful.value), low + gap * (len(order) - 1 - number))
        axes.annotate(
            f"{short(point.name, 14)}, {point.tokens:.0f} tok",
            xy=(point.benign.value, point.harmful.value),
            xytext=(x, place),
            va="center",
            fontsize=8.5,
            # From the middle of its left side, so that no line runs through another name.
            arrowprops={
                "arrowstyle": "-",
                "color": COLOURS["soft"],
                "lw": 0.5,
                "shrinkA": 1,
                "shrinkB": 0,
                "relpos": (0, 0.5),
            },
        )
        place -= gap


def lengths(rows: Sequence[tuple[str, str, Sequence[int]]]) -> str:
    """Box plots of lengths in tokens: (stage, label, lengths); whiskers from the 5th to the 95th percentile."""
    with canvas(54 + 19 * len(rows)) as figure:
        axes = figure.subplots()
        hovers: dict[str, str] = {}
        for number, (stage, label, values) in enumerate(rows):
            low, first, middle, third, high = np.percentile(values, (5, 25, 50, 75, 95))
            colour = COLOURS[label if label in ("harmful", "benign") else "soft"]
            axes.hlines(number, low, high, color=colour, lw=1)
            box = Rectangle((first, number - 0.32), max(third - first, 0.4), 0.64, facecolor=colour, alpha=0.45)
            box.set_gid(f"box-{number}")
            axes.add_patch(box)
            axes.vlines(middle, number - 0.32, number + 0.32, color=colour, lw=2.2)
            hovers[f"box-{number}"] = (
                f"{clean(stage)}, {label}: median {middle:.0f}, middle half {first:.0f} to {third:.0f}, "
                f"5th to 95th percentile {low:.0f} to {high:.0f} tokens, {len(values)} prompts"
            )
        names = [f"{short(stage, 14)} {label}" for stage, label, _ in rows]
        axes.set_yticks(range(len(rows)), names)
        axes.set(xlabel="tokens of trace and answer", ylim=(len(rows) - 0.4, -0.6))
        axes.set_xlim(left=0)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x")
        return svg.element(figure, "lengths", "Length of completions by stage and label", hovers)


def heat_map(
    name: str, title: str, colour: str, stages: Sequence[str], rows: Sequence[tuple[str, Sequence[Rate | None]]]
) -> str:
    """Shares by category (rows) and stage (columns), the stronger the tint the higher; a cell without prompts is empty.

    `name` sets the figure apart from others in the page, `colour` is one of `svg.NAMES`.
    """
    with canvas(46 + 17.5 * len(rows)) as figure:
        axes = figure.subplots()
        hovers: dict[str, str] = {}
        for y, (category, cells) in enumerate(rows):
            for x, rate in enumerate(cells):
                if rate is None or not rate.n:
                    continue
                cell = Rectangle(
                    (x + 0.02, y + 0.04), 0.96, 0.92, facecolor=COLOURS[colour], alpha=0.04 + 0.56 * rate.value
                )
                cell.set_gid(f"cell-{y}-{x}")
                axes.add_patch(cell)
                told = f"{100 * rate.value:.0f}"
                axes.text(x + 0.5, y + 0.53, told, ha="center", va="center", fontsize=9, in_layout=False)
                hovers[f"cell-{y}-{x}"] = (
                    f"{clean(category)}, {clean(stages[x])}: {rate.value:.0%} of {rate.n} prompts "
                    f"(95% interval {rate.low:.0%} to {rate.high:.0%})"
                )
        counts = [max((rate.n for rate in cells if rate), default=0) for _, cells in rows]
        labels = [f"{short(category)} ({count})" for (category, _), count in zip(rows, counts, strict=True)]
        axes.set_yticks(np.arange(len(rows)) + 0.5, labels)
        axes.set_xticks(np.arange(len(stages)) + 0.5, [short(stage, 11) for stage in stages])
        axes.xaxis.tick_top()
        axes.tick_params(length=0, labelsize=9)
        axes.set(xlim=(0, max(len(stages), 1)), ylim=(max(len(rows), 1), 0))
        axes.spines[:].set_visible(False)
        return svg.element(figure, name, title, hovers)


def anatomy(name: str, title: str, kept: Counts, surplus: Counts, reasons: Counts) -> str:
    """Bars of what a stage trains on by kind, with the surplus of that kind, and of why the rest was left out."""
    kinds = sorted({*kept, *surplus}, key=lambda kind: (-kept.get(kind, 0), kind))
    others = sorted(reasons, key=lambda reason: (-reasons[reason], reason))
    bars = [(kind, kept.get(kind, 0), surplus.get(kind, 0)) for kind in kinds]
    bars += [(reason, 0, reasons[reason]) for reason in others]
    with canvas(40 + 27 * len(bars)) as figure:
        axes = figure.subplots()
        most = max([1, *(used + left for _, used, left in bars)])
        hovers: dict[str, str] = {}
        for y, (text, used, left) in enumerate(bars):
            axes.text(0, y - 0.1, short(text, 52), ha="left", va="bottom", fontsize=9)
            for width, start, colour, alpha in ((used, 0, "benign", 0.8), (left, used, "soft", 0.35)):
                if width:
                    bar = Rectangle((start, y), width, 0.42, facecolor=COLOURS[colour], alpha=alpha)
                    bar.set_gid(f"bar-{y}-{colour}")
                    axes.add_patch(bar)
            hovers[f"bar-{y}-benign"] = f"{clean(text)}: {used} kept"
            hovers[f"bar-{y}-soft"] = f"{clean(text)}: {left} left out"
            told = f"{used} + {left}" if used and left else str(used or left)
            axes.text(used + left + 0.012 * most, y + 0.21, told, va="center", fontsize=9, color=COLOURS["soft"])
        axes.set(xlim=(0, 1.14 * most), ylim=(len(bars) - 0.35, -0.75))
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        return svg.element(figure, name, title, hovers)


def curves(name: str, title: str, stages: Sequence[Curve]) -> str:
    """Loss, and what else the kind of training logs, against the training step."""
    panels: list[tuple[str, tuple[str, ...]]] = [("loss", ("loss",))]
    if any(step.margin is not None for curve in stages for step in curve.steps):
        panels += [
            ("reward margin", ("margin",)),
            ("accuracy", ("accuracy",)),
            ("log-prob., chosen \u2013 / rejected ..", ("logps_chosen", "logps_rejected")),
        ]
    if any(step.clipped is not None for curve in stages for step in curve.steps):
        panels += [
            ("KL to the reference", ("kl",)),
            ("share of tokens clipped", ("clipped",)),
            ("nats a token, of samples", ("surprisal",)),
        ]
    rows = (len(panels) + 1) // 2
    with canvas(30 + (150 if rows == 1 else 125) * rows) as figure:
        grid = figure.subplots(rows, 1 if rows == 1 else 2, squeeze=False)
        for axes, (heading, measures) in zip(grid.flat, panels, strict=True):
            for number, curve in enumerate(stages):
                _lines(axes, curve, measures, COLOURS[_LINES[number % len(_LINES)]])
            axes.set_title(heading, fontsize=9, loc="left")
            axes.grid()
            axes.tick_params(labelsize=8)
            axes.xaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
            axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
        if len(stages) > 1:
            handles = [handle for handle in grid.flat[0].get_lines()]
            figure.legend(
                handles, [short(curve.name) for curve in stages], loc="outside lower center", ncols=3, frameon=False,
                fontsize=9,
            )  # fmt: skip
        return svg.element(figure, name, title, {})


def _lines(axes: Axes, curve: Curve, measures: Sequence[str], colour: str) -> None:
    for measure, style in zip(measures, ("-", ":"), strict=False):
        found = [(step.step, getattr(step, measure)) for step in _thinned(curve.steps)]
        known = [(step, value) for step, value in found if value is not None]
        marker = "o" if len(known) == 1 else ""
        axes.plot(
            [step for step, _ in known], [value for _, value in known], style, color=colour, lw=1.4, marker=marker
        )


def _thinned(steps: Sequence[Step]) -> list[Step]:
    stride = -(-len(steps) // _MOST_POINTS) or 1
    return [step for at, step in enumerate(steps) if at % stride == 0 or at == len(steps) - 1]
