"""The floor under the suite: in CI, a whole run that executed too few tests, or skipped any, is a failed run.

A suite that silently loses a folder, a database or a driver stays green; this plugin turns it red. It wakes only when
``CI`` and ``SESSIONLOCAL_WHOLE_SUITE`` (set by ``make test``) are both set, so a part of the suite runs undisturbed.
Promises: every executed test counts once, also under xdist; a skip is accepted only for a reason in ``ALLOWED_SKIPS``.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

FLOOR_FILE = Path(__file__).parent.parent / "floor.txt"
ALLOWED_SKIPS = ("MySQL is run only when MYSQL_URL",)
OFF = ("", "0", "false", "no")


def wanted(environment: dict[str, str]) -> bool:
    """Say whether this is a whole run under CI."""
    return all(environment.get(name, "").strip().lower() not in OFF for name in ("CI", "SESSIONLOCAL_WHOLE_SUITE"))


def read_floor(text: str) -> int:
    """Return the number in the floor file, whose other lines are comments."""
    (number,) = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return int(number)


def complaints(*, executed: int, floor: int, skips: list[tuple[str, str]]) -> list[str]:
    """Return what is wrong with a finished run, one line each."""
    found = [f"skipped under CI: {where}: {reason}" for where, reason in skips if not reason.startswith(ALLOWED_SKIPS)]
    if executed < floor:
        found.append(f"executed {executed} tests, fewer than the floor of {floor} in tests/{FLOOR_FILE.name}")
    return found


def skip_reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    """Return the reason of a skip without pytest's own prefix."""
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return text.removeprefix("Skipped: ")


class Floor:
    """Counts what ran and what did not, and judges it when the run ends."""

    def __init__(self, floor: int) -> None:
        self.floor = floor
        self.executed = 0
        self.skips: list[tuple[str, str]] = []

    @property
    def complaints(self) -> list[str]:
        return complaints(executed=self.executed, floor=self.floor, skips=self.skips)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.skipped and not hasattr(report, "wasxfail"):
            self.skips.append((report.nodeid, skip_reason(report)))
        elif report.when == "call":
            self.executed += 1

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.skipped:
            self.skips.append((report.nodeid, skip_reason(report)))

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.complaints and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        terminalreporter.section("floor")
        terminalreporter.line(f"floor: executed {self.executed}, at least {self.floor} expected")
        for line in self.complaints:
            terminalreporter.line(f"floor: {line}", red=True)


def pytest_configure(config: pytest.Config) -> None:
    """Take part where the whole run is seen: not in a worker of xdist, which sees its share only."""
    if wanted(dict(os.environ)) and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Floor(read_floor(FLOOR_FILE.read_text())), "sessionlocal-floor")
