"""Measures in a process of their own: nothing that was loaded or held before weighs on them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeVar

T = TypeVar("T")


def alone(measure: Callable[..., T], *arguments: object) -> T:
    """What the measure returns, in a fresh process."""
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        return process.submit(measure, *arguments).result()
