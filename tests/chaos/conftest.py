"""Scale of the chaos tests, and the line that each leaves for its promise.

`pytest tests/chaos` is the short form, `--long` (`make chaos`) the long one. `--seed` moves all random choices; each
failure names the seed that repeats it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parents[1] / room) for room in ("unit", "ray")]

Promise = Callable[[str], None]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="chaos: the long form, hours in place of minutes")
    parser.addoption("--seed", type=int, default=0, help="chaos: first seed of all random choices")


@pytest.fixture
def scale(request: pytest.FixtureRequest) -> Callable[[int, int], int]:
    """Of two counts the one for this form: `scale(short, long)`."""
    long = request.config.getoption("--long", default=False)
    return lambda short, many: many if long else short


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    return request.config.getoption("--seed", default=0)


@pytest.fixture
def promise(record_property: Callable[[str, object], None]) -> Promise:
    """Tell what a test has counted; it stands in the summary, which workers of xdist could not print to."""
    return lambda line: record_property("promise", line)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--long", default=False):
        for item in items:
            item.add_marker(pytest.mark.timeout(7200))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    lines = [
        line
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", "") == "call"
        for name, line in report.user_properties
        if name == "promise"
    ]
    if lines:
        terminalreporter.section("promises")
        for line in sorted(map(str, lines)):
            terminalreporter.write_line(line)
