"""docs/requirements.md and tests/ecosystem/test_requirements.py say the same."""

from __future__ import annotations

import ast
import re
from pathlib import Path

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "requirements.md"
NUMBERS = range(1, 29)


def rows() -> list[list[str]]:
    """Return the cells of each numbered row of the page."""
    lines = [line for line in PAGE.read_text().splitlines() if re.match(r"\| \d+ \|", line)]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def written() -> list[str]:
    """Return the names of the tests of the requirements."""
    module = ast.parse((HERE / "test_requirements.py").read_text())
    functions = [node for node in module.body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    return [function.name for function in functions if function.name.startswith("test_")]


def test_each_test_is_named_by_one_requirement() -> None:
    """The page names every test of the requirements, once, and none that does not exist."""
    named = [name for row in rows() for name in re.findall(r"`(test_\w+)`", row[-1])]

    assert sorted(written()) == sorted(named)


def test_each_requirement_is_tested_or_later() -> None:
    """The page lists all 28; what no test shows is marked as later work."""
    assert [str(number) for number in NUMBERS] == [row[0] for row in rows()]
    assert [] == [row[0] for row in rows() if not re.search(r"`test_\w+`|later", row[-1])]
