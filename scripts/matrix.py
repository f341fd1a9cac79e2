"""Run the suite on the ends of what is supported: oldest and newest FastAPI, SQLAlchemy and Python.

Each cell has an environment of its own below `.matrix/`, made from a constraints file with some pins replaced, and
kept until its requirements change. Promises: a version that differs from the plan, a cell without tests and a failed
cell all end in exit status 1; the versions that ran are printed from the cells' environments.

    python scripts/matrix.py [--reduced] [--list] [CELL ...]
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / ".matrix"
MIN_PYTHON = (3, 11)
PYTHON_NAMES = ("python3", "python3.14", "python3.13", "python3.12", "python3.11")
REPORTED = ("fastapi", "starlette", "SQLAlchemy", "pydantic", "aiosqlite", "asyncpg", "psycopg")

# What depends on the versions that differ. Types, documentation and neighbours run once, in `make test`.
SELECTION = ("tests/core", "tests/cases", "tests/fastapi", "tests/counts", "tests/faults")
REDUCED = ("tests/cases", "tests/fastapi")
SQLALCHEMY_20_ONLY = "tests/ecosystem/sqlalchemy20"

Version = tuple[int, ...]


NEWEST = ""  # instead of a version: the pin of constraints.txt
NEWEST_SQLALCHEMY = ("SQLAlchemy", "alembic", "sqlmodel", "pydantic", "pydantic_core", "aiosqlite")  # go together


@dataclass(frozen=True, slots=True)
class Cell:
    """One combination: where its pins come from, which are replaced, and what is installed and run besides."""

    name: str
    python: str  # "oldest" or "newest"
    constraints: str
    pins: dict[str, str] = field(default_factory=dict)
    groups: tuple[str, ...] = ("test",)
    also: tuple[str, ...] = ()
    # What old versions of others deprecate is nobody's task; in the newest cell every warning is an error.
    strict_warnings: bool = False


CELLS = (
    Cell("oldest", "oldest", "constraints-oldest.txt"),
    Cell(
        "old-fastapi",
        "oldest",
        "constraints-oldest.txt",
        pins=dict.fromkeys(NEWEST_SQLALCHEMY, NEWEST),
    ),
    Cell(
        "old-sqlalchemy",
        "oldest",
        "constraints.txt",
        pins={"SQLAlchemy": "2.0.40"},
        groups=("test", "neighbours-sqlalchemy20"),
        also=(SQLALCHEMY_20_ONLY,),
    ),
    Cell("newest", "newest", "constraints.txt", strict_warnings=True),
)


def parse_pins(text: str) -> dict[str, str]:
    """Return name and version of each `name==version` line."""
    return dict(line.split("==", 1) for line in text.splitlines() if "==" in line and not line.startswith("#"))


def cell_pins(cell: Cell) -> dict[str, str]:
    """Return the pins of a cell; a replaced pin without a version takes that of constraints.txt."""
    newest = parse_pins((ROOT / "constraints.txt").read_text())
    replaced = {name: newest[name] if version == NEWEST else version for name, version in cell.pins.items()}
    return {**parse_pins((ROOT / cell.constraints).read_text()), **replaced}


def pythons() -> dict[Version, str]:
    """Return the interpreters that start and are new enough, by version, also those that pyenv keeps off PATH."""
    kept = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    on_path = [path for name in PYTHON_NAMES if (path := shutil.which(name))]
    found: dict[Version, str] = {}
    for candidate in (*on_path, *map(str, kept.glob("*/bin/python"))):
        version = python_version(candidate)
        if version >= MIN_PYTHON:
            found.setdefault(version, candidate)
    return found


def python_version(python: str) -> Version:
    """Return the version of an interpreter, or () when it does not start."""
    code = "import sys, venv; print(*sys.version_info[:3])"
    asked = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    return tuple(int(part) for part in asked.stdout.split()) if asked.returncode == 0 else ()


class Environment:
    """A cell's virtual environment."""

    def __init__(self, cell: Cell, python: str) -> None:
        self.cell = cell
        self.base = python
        self.home = HOME / cell.name
        self.python = str(self.home / "bin" / "python")

    def prepare(self) -> None:
        """Install what the cell asks for, from scratch unless the very same was installed before."""
        constraints = "".join(f"{name}=={version}\n" for name, version in cell_pins(self.cell).items())
        wanted = f"{self.base}\n{self.cell.groups}\n{constraints}\n{(ROOT / 'pyproject.toml').read_text()}"
        stamp, digest = self.home / "installed", hashlib.sha256(wanted.encode()).hexdigest()
        if stamp.is_file() and stamp.read_text() == digest:
            return
        shutil.rmtree(self.home, ignore_errors=True)
        subprocess.run([self.base, "-m", "venv", str(self.home)], check=True)
        pinned = self.home / "constraints.txt"
        pinned.write_text(constraints)
        self.pip("install", "--quiet", "--constraint", str(pinned), "--upgrade", "pip")
        groups = [part for group in self.cell.groups for part in ("--group", group)]
        self.pip("install", "--quiet", "--constraint", str(pinned), "--editable", ".", *groups)
        stamp.write_text(digest)

    def pip(self, *arguments: str) -> None:
        subprocess.run([self.python, "-m", "pip", "--disable-pip-version-check", *arguments], cwd=ROOT, check=True)

    def versions(self) -> dict[str, str]:
        """Return what is really installed."""
        code = f"from importlib.metadata import version; [print(n, version(n)) for n in {REPORTED!r}]"
        asked = subprocess.run([self.python, "-c", code], capture_output=True, text=True, check=True)
        return dict(line.split(maxsplit=1) for line in asked.stdout.splitlines())

    def run_tests(self, *, reduced: bool) -> int:
        """Run the cell's part of the suite and return pytest's exit status."""
        paths = [path for path in (*(REDUCED if reduced else SELECTION), *self.cell.also) if (ROOT / path).exists()]
        if not paths:
            return 5  # pytest's own status for a run without tests
        options = ["-q", "-rs", "-p", "no:cacheprovider", "--numprocesses", "auto", "--dist", "worksteal"]
        if reduced:
            options += ["-m", "not slow"]
        if not self.cell.strict_warnings:
            options += ["-W", "default", "--disable-warnings"]
        environment = {name: value for name, value in os.environ.items() if name != "SESSIONLOCAL_WHOLE_SUITE"}
        command = [self.python, "-m", "pytest", *options, *paths]
        return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


def run_cell(cell: Cell, python: str, *, reduced: bool) -> str:
    """Prepare and run one cell; return the line of the summary that tells how it went."""
    started = time.monotonic()
    environment = Environment(cell, python)
    print(f"--- matrix cell {cell.name}", flush=True)
    environment.prepare()
    versions = environment.versions()
    shown = " ".join(f"{name} {version}" for name, version in versions.items())
    running = ".".join(map(str, python_version(python)))
    print(f"Python {running} {shown}", flush=True)
    wrong = {name for name, version in versions.items() if cell_pins(cell).get(name, version) != version}
    if wrong:
        return f"FAILED {cell.name}: {sorted(wrong)} not at the version of the plan"
    status = environment.run_tests(reduced=reduced)
    outcome = "ok    " if status == 0 else "FAILED"
    seconds = time.monotonic() - started
    return (
        f"{outcome} {cell.name}: Python {running}, FastAPI {versions['fastapi']}, "
        f"SQLAlchemy {versions['SQLAlchemy']}, pytest exit status {status}, {seconds:.0f} s"
    )


def parse_arguments(arguments: Iterable[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Run the suite on the ends of what is supported.")
    parser.add_argument("--reduced", action="store_true", help="fewer tests for each cell, for CI")
    parser.add_argument("--list", action="store_true", help="only show the cells and the interpreters found")
    parser.add_argument("cells", nargs="*", metavar="CELL", help="only these: " + ", ".join(c.name for c in CELLS))
    options = parser.parse_args(list(arguments))
    if unknown := set(options.cells) - {cell.name for cell in CELLS}:
        parser.error(f"no such cell: {', '.join(sorted(unknown))}")
    return options


def main(arguments: Iterable[str]) -> int:
    """Run the cells that were asked for and sum them up."""
    options = parse_arguments(arguments)
    found = pythons()
    if not found:
        sys.exit(f"no Python of at least {'.'.join(map(str, MIN_PYTHON))} was found")
    by_age = {"oldest": found[min(found)], "newest": found[max(found)]}
    cells = [cell for cell in CELLS if not options.cells or cell.name in options.cells]
    if options.list:
        print(*(f"{cell.name}: {by_age[cell.python]} {cell.constraints} {cell.pins}" for cell in cells), sep="\n")
        return 0
    if by_age["oldest"] == by_age["newest"]:
        print(f"only one Python was found: {by_age['newest']}", flush=True)
    lines = [run_cell(cell, by_age[cell.python], reduced=options.reduced) for cell in cells]
    print("--- matrix", *lines, sep="\n", flush=True)
    return int(any(line.startswith("FAILED") for line in lines))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
