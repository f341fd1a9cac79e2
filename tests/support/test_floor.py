"""The floor under the suite turns a run red that lost tests, and leaves every other run alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import floor

ROOT = Path(__file__).parents[2]
WHOLE_RUN_IN_CI = {"CI": "true", "SESSIONLOCAL_WHOLE_SUITE": "1"}

CONFTEST = """
from pathlib import Path
from tests.support import floor

floor.FLOOR_FILE = Path(__file__).with_name("floor.txt")
pytest_plugins = ["tests.support.floor"]
"""
SUITE = """
import pytest

def test_one(): pass

@pytest.mark.parametrize("number", range(2))
def test_two(number): pass
"""


def run(folder: Path, *arguments: str, environment: dict[str, str], at_least: int = 3) -> tuple[int, str]:
    """Run a small suite of its own under the plugin; return its exit status and output."""
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "floor.txt").write_text(f"# a comment\n{at_least}\n")
    (folder / "test_suite.py").write_text(SUITE)
    quiet = {name: value for name, value in os.environ.items() if name not in WHOLE_RUN_IN_CI}
    finished = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"--rootdir={folder}", *arguments, str(folder)],
        cwd=folder,
        env={**quiet, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return finished.returncode, finished.stdout + finished.stderr


@pytest.mark.parametrize("workers", [(), ("-p", "xdist", "-n", "2")], ids=["alone", "xdist"])
def test_a_run_at_the_floor_passes(workers: tuple[str, ...], tmp_path: Path) -> None:
    """Every executed test is counted once, whether one process or several run them."""
    status, output = run(tmp_path, *workers, environment=WHOLE_RUN_IN_CI)

    assert 0 == status, output
    assert "executed 3, at least 3 expected" in output


@pytest.mark.parametrize("workers", [(), ("-p", "xdist", "-n", "2")], ids=["alone", "xdist"])
def test_a_run_below_the_floor_fails(workers: tuple[str, ...], tmp_path: Path) -> None:
    """A whole run in CI that executed fewer tests than the floor fails although each of them passed."""
    status, output = run(tmp_path, *workers, at_least=4, environment=WHOLE_RUN_IN_CI)

    assert 1 == status
    assert "executed 3 tests, fewer than the floor of 4" in output


@pytest.mark.parametrize(
    "skipping",
    [
        "import pytest\ndef test_it(): pytest.skip('no server')\ndef test_other(): pass\n",
        "import pytest\npytest.skip('no server', allow_module_level=True)\n",
        "import pytest\n@pytest.mark.skip('no server')\ndef test_it(): pass\n",
    ],
    ids=["in a test", "of a module", "by a mark"],
)
@pytest.mark.parametrize("workers", [(), ("-p", "xdist", "-n", "2")], ids=["alone", "xdist"])
def test_a_skip_fails_a_run_in_ci(skipping: str, workers: tuple[str, ...], tmp_path: Path) -> None:
    """A whole run in CI that skipped a test or a module fails and repeats the reason."""
    (tmp_path / "test_skipping.py").write_text(skipping)

    status, output = run(tmp_path, *workers, environment=WHOLE_RUN_IN_CI)

    assert 1 == status
    assert "floor: skipped under CI" in output
    assert "no server" in output


def test_the_skip_of_mysql_is_accepted(tmp_path: Path) -> None:
    """MySQL itself is not part of CI, so a skip for its reason leaves the run green."""
    reason = f"{floor.ALLOWED_SKIPS[0]} is given"
    (tmp_path / "test_mysql.py").write_text(f"import pytest\ndef test_it(): pytest.skip({reason!r})\n")

    status, output = run(tmp_path, environment=WHOLE_RUN_IN_CI)

    assert 0 == status, output


@pytest.mark.parametrize("environment", [{}, {"CI": "true"}, {"CI": "false", "SESSIONLOCAL_WHOLE_SUITE": "1"}], ids=str)
def test_a_part_of_the_suite_has_no_floor(environment: dict[str, str], tmp_path: Path) -> None:
    """Outside CI, and for a part of the suite, nothing is counted and nothing fails."""
    status, output = run(tmp_path, at_least=100, environment=environment)

    assert 0 == status, output
    assert "floor:" not in output


def test_the_floor_of_this_suite_is_a_number() -> None:
    """The checked-in floor can be read and is not zero."""
    assert 0 < floor.read_floor(floor.FLOOR_FILE.read_text())
