"""What was tried, what survived and what was lost: counted over all tests of this folder, shown at the end."""

from collections import Counter
from collections.abc import Generator, Iterable
from typing import Any, Protocol, cast

import pytest

PROPERTY = "tally"
LOST = "lost"


class Tally(Protocol):
    """Count things that were tried."""

    def __call__(self, kind: str, outcome: str = "survived", count: int = 1) -> None:
        """Count.

        Args:
            kind: the row of the table, such as `hostile bundles`.
            outcome: `lost`, or any other word for how it survived, such as `refused` or `loads`.
            count: how many.
        """
        ...


def counts_of(properties: Iterable[tuple[str, object]]) -> list[tuple[str, str, int]]:
    """What one test counted: kind, outcome, how many."""
    return [cast("tuple[str, str, int]", value) for name, value in properties if name == PROPERTY]


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Generator[Tally]:
    """Count what was tried; a test that fails counts as one more lost thing, and what is lost fails the test."""
    properties: list[tuple[str, object]] = request.node.user_properties

    def record(kind: str, outcome: str = "survived", count: int = 1) -> None:
        properties.append((PROPERTY, (kind, outcome, count)))

    yield record
    lost = [each for each in counts_of(properties) if each[1] == LOST]
    assert lost == []


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed and "tally" in getattr(item, "fixturenames", ()):
        counts = counts_of(item.user_properties)
        if not any(outcome == LOST for _, outcome, _ in counts):
            kind = counts[-1][0] if counts else item.path.stem
            report.user_properties.append((PROPERTY, (kind, LOST, 1)))
    return report


def counted(reports: Iterable[pytest.TestReport]) -> dict[str, Counter[str]]:
    """Sum what the tests counted: kind to outcome to how many."""
    kinds: dict[str, Counter[str]] = {}
    for report in reports:
        for kind, outcome, count in counts_of(report.user_properties):
            kinds.setdefault(kind, Counter())[outcome] += count
    return kinds


def table(kinds: dict[str, Counter[str]]) -> list[str]:
    """Lay the counts out, a line a kind."""
    lines = [f"{'kind':<36}{'tried':>8}{'survived':>10}{'lost':>6}  how"]
    for kind, outcomes in sorted(kinds.items()):
        lost, tried = outcomes[LOST], outcomes.total()
        words = {word: count for word, count in sorted(outcomes.items()) if word not in {"survived", LOST} and count}
        how = ", ".join(f"{count} {word}" for word, count in words.items())
        lines.append(f"{kind:<36}{tried:>8}{tried - lost:>10}{lost:>6}  {how}".rstrip())
    return lines


def pytest_terminal_summary(terminalreporter: Any) -> None:
    # A test is reported three times (set-up, call, tear-down), the last time with everything that it counted.
    reports: dict[str, pytest.TestReport] = {}
    for report in [each for group in terminalreporter.stats.values() for each in group]:
        if isinstance(report, pytest.TestReport):
            known = reports.get(report.nodeid)
            if known is None or len(report.user_properties) > len(known.user_properties):
                reports[report.nodeid] = report
    kinds = counted(reports.values())
    if kinds:
        terminalreporter.section("robustness")
        for line in table(kinds):
            terminalreporter.write_line(line)
