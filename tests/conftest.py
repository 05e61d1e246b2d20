"""What all tests share: the scale of those that have a long form, and the line that each leaves for its promise.

Without options a test has its short form, with `--long` (`make chaos`) the long one. `--seed` moves all random choices;
each failure names the seed that repeats it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Protocol

import pytest
from hypothesis import settings

# A busy machine is no fault of the code.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


class Promise(Protocol):
    def __call__(self, line: str, **counts: int) -> None: ...


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="chaos: the long form, hours in place of minutes")
    parser.addoption("--seed", type=int, default=0, help="chaos: first seed of all random choices")


@pytest.fixture
def scale(request: pytest.FixtureRequest) -> Callable[[int, int], int]:
    """Of two counts the one for this form: `scale(short, long)`."""
    long = request.config.getoption("--long")
    return lambda short, many: many if long else short


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    return request.config.getoption("--seed")


@pytest.fixture
def promise(record_property: Callable[[str, object], None]) -> Promise:
    """Tell what a test has counted; it stands in the summary, which workers of xdist could not print to.

    `counts` fill the gaps of the line; those of tests with the same line are added up.
    """
    return lambda line, **counts: record_property("promise", (line, counts))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--long"):
        for item in items:
            item.add_marker(pytest.mark.timeout(7200))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    found: dict[str, Counter[str]] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "when", "") == "call":
                for name, told in report.user_properties:
                    if name == "promise":
                        line, counts = told
                        found.setdefault(line, Counter()).update(counts)
    if found:
        terminalreporter.section("promises")
        for line in sorted(line.format(**counts) if counts else line for line, counts in found.items()):
            terminalreporter.write_line(line)
