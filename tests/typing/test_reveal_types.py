"""What type checkers say about ``sample.py``, word by word."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SAMPLE = Path(__file__).with_name("sample.py")
MYPY_NAMES = re.compile(r"\b(?:\w+\.)+(?=\w)")  # mypy says sqlalchemy.orm.session.Session


def expected() -> dict[int, str]:
    """Return what stands behind each ``reveal_type``, by line number."""
    lines = SAMPLE.read_text().splitlines()
    marked = {n: line.split("  # ")[1] for n, line in enumerate(lines, start=1) if "reveal_type(" in line}
    assert len(marked) > 10
    return marked


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a type checker in the repository."""
    return subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)


def test_pyright_shows_the_types_and_no_error() -> None:
    """An editor built on pyright shows sessions, rows and results, and underlines nothing."""
    finished = run("pyright", "--pythonpath", sys.executable, "--outputjson", str(SAMPLE))
    said = json.loads(finished.stdout)["generalDiagnostics"]
    shown = {
        entry["range"]["start"]["line"] + 1: entry["message"].split(" is ", 1)[1].strip('"')
        for entry in said
        if entry["severity"] == "information"
    }

    assert [] == [entry["message"] for entry in said if entry["severity"] != "information"]
    assert expected() == shown


def test_mypy_shows_the_types_and_no_error() -> None:
    """mypy --strict agrees."""
    finished = run("mypy", "--strict", "--no-error-summary", "--no-pretty", str(SAMPLE))
    notes = re.findall(r":(\d+): note: Revealed type is \"(.*)\"", finished.stdout)
    shown = {int(line): MYPY_NAMES.sub("", text) for line, text in notes}

    assert "error:" not in finished.stdout, finished.stdout
    assert expected() == shown
