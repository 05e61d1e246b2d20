"""How every bench ends: one line a measure, with its goal and whether it is met."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NoReturn

LENIENCE = 0.1
"""Share by which a measure may miss its goal before the bench fails."""


@dataclass(frozen=True, slots=True)
class Measure:
    """A figure and the bound it is held to: at most or at least `goal`."""

    name: str
    value: float
    bound: Literal["<=", ">="]
    goal: float

    def meets(self, lenience: float = 0.0) -> bool:
        """Whether the goal is met, or missed by no more than this share of it."""
        if self.bound == "<=":
            return self.value <= self.goal * (1 + lenience)
        return self.value >= self.goal * (1 - lenience)

    @property
    def verdict(self) -> Literal["pass", "short"]:
        return "pass" if self.meets() else "short"


def end(measures: Sequence[Measure], held: bool = True) -> NoReturn:
    """Print a line for each measure and exit: 1 when one misses its goal by too much. Unless `held`, none counts."""
    print(f"\n{'measure':48}{'ratio':>8}" + (f"   {'goal':11}" if held else ""))
    for measure in measures:
        goal = f"   {measure.bound} {_shown(measure.goal):8}{measure.verdict}" if held else ""
        print(f"{measure.name:48}{_shown(measure.value):>8}{goal}")
    sys.exit(int(held and not all(measure.meets(LENIENCE) for measure in measures)))


def _shown(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
