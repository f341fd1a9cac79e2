"""Every page's Python is run: what the README and docs/ show is what works.

The blocks of a page run top to bottom in one fresh interpreter, as one module, in an empty working directory, with
``DATABASE_URL`` naming a new SQLite file. ``await`` is allowed outside functions; the whole page shares one event loop.
A fence says in braces what is special about it::

    ```python {file="app/main.py"}             written to that file instead of run; later blocks import it, and the
                                               end of the page imports every such file that nobody imported
    ```python {raises="IntegrityError"}        must raise that error, or one derived from it
    ```python {run="no" reason="a fragment"}   only parsed (may also carry file=, then it is written and not imported)

Promises: a misspelt attribute or an unknown language fails the page, as does a page that runs less than 70 % of its
Python blocks; a failing block is reported by the page's own line numbers.
"""

from __future__ import annotations

import ast
import asyncio
import importlib
import inspect
import os
import re
import subprocess
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "README.md", *ROOT.glob("docs/**/*.md")))

NOT_RUN = {"bash", "console", "diff", "html", "http", "ini", "json", "mermaid", "sql", "text", "toml", "yaml"}
ATTRIBUTES = {"file", "raises", "run", "reason"}
RENDERING = {"title", "hl_lines", "linenums"}  # for the eye only; mkdocs-material knows them
MAX_NOT_RUN_SHARE = 0.3
PAGE_TIMEOUT = 100  # seconds; below pytest's own limit, so that the page's output is shown

FENCE = re.compile(r"^(?P<indent>[ \t]*)(?P<ticks>`{3,})(?P<info>[^`]*)$")
INFO = re.compile(r"^(?P<language>[\w+.-]+)(?:[ \t]+\{(?P<attributes>.*)\})?$")
ATTRIBUTE = re.compile(r'\s*(\w+)="([^"]*)"\s*')


class BadFence(ValueError):
    """A fence that says something this module does not know."""


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block: ``line`` is that of its first line of content, counted from 1."""

    line: int
    language: str
    attributes: dict[str, str]
    source: str

    @property
    def is_python(self) -> bool:
        return self.language == "python"

    @property
    def is_run(self) -> bool:
        return self.attributes.get("run") != "no"


def parse_info(info: str, *, line: int) -> tuple[str, dict[str, str]]:
    """Return the language and the attributes of a fence's first line."""
    match = INFO.match(info.strip())
    if match is None:
        raise BadFence(f'line {line}: a fence is written as ```language or ```language {{name="value"}}, not {info!r}')
    language, inside = match["language"], match["attributes"] or ""
    attributes = dict(ATTRIBUTE.findall(inside))
    if ATTRIBUTE.sub("", inside):
        raise BadFence(f'line {line}: attributes are written as name="value", not {inside!r}')
    if language != "python" and language not in NOT_RUN:
        raise BadFence(f"line {line}: language {language!r} is neither python nor one of {sorted(NOT_RUN)}")
    if unknown := attributes.keys() - ATTRIBUTES - RENDERING:
        raise BadFence(f"line {line}: unknown attribute {sorted(unknown)}; there are {sorted(ATTRIBUTES | RENDERING)}")
    if attributes.get("run", "no") != "no":
        raise BadFence(f'line {line}: run="no" is the only value of run')
    if ("run" in attributes) != bool(attributes.get("reason")):
        raise BadFence(f'line {line}: run="no" and a reason go together')
    if {"file", "raises"} <= attributes.keys():
        raise BadFence(f"line {line}: a block is either written (file=) or run (raises=)")
    return language, attributes


def parse(text: str) -> list[Block]:
    """Return the fenced blocks of a page, also those indented inside lists, tabs and admonitions."""
    blocks: list[Block] = []
    opening: re.Match[str] | None = None
    start, content = 0, list[str]()
    for number, line in enumerate(text.splitlines(), start=1):
        fence = FENCE.match(line)
        if opening is None:
            opening, start, content = fence, number + 1, []
        elif fence and not fence["info"].strip() and len(fence["ticks"]) >= len(opening["ticks"]):
            language, attributes = parse_info(opening["info"], line=start - 1)
            blocks.append(Block(start, language, attributes, "".join(content)))
            opening = None
        else:
            content.append(line.removeprefix(opening["indent"]) + "\n")
    if opening is not None:
        raise BadFence(f"line {start - 1}: this fence is never closed")
    return blocks


def not_run_share(blocks: list[Block]) -> float:
    """Return which part of a page's Python blocks is shown without being run."""
    python = [block for block in blocks if block.is_python]
    return sum(not block.is_run for block in python) / max(1, len(python))


class Page:
    """Runs the blocks of one page, in the interpreter and working directory that are its own."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.module = ModuleType("page")
        self.imports_at_end: dict[str, None] = {}  # an ordered set of module names

    def run(self, blocks: list[Block]) -> None:
        sys.modules["page"] = self.module  # annotations are looked up there
        with asyncio.Runner() as runner:
            for block in blocks:
                self.do(block, runner)
            for name in self.imports_at_end:
                importlib.import_module(name)

    def do(self, block: Block, runner: asyncio.Runner) -> None:
        if "file" in block.attributes:
            self.write(block)
        if not block.is_python:
            return
        if not block.is_run:
            compile(block.source, self.name, "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        elif "file" not in block.attributes:
            self.execute(block, runner)

    def write(self, block: Block) -> None:
        path = Path(block.attributes["file"])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.source)
        forget_modules_under(Path.cwd())
        if block.is_python and block.is_run:
            self.imports_at_end[".".join(path.with_suffix("").parts).removesuffix(".__init__")] = None

    def execute(self, block: Block, runner: asyncio.Runner) -> None:
        expected = block.attributes.get("raises")
        try:
            self.evaluate(block, runner)
        except Exception as error:
            if expected not in [kind.__name__ for kind in type(error).__mro__]:
                raise
        else:
            if expected is not None:
                raise AssertionError(f"{self.name}:{block.line}: this block must raise {expected}, and raised nothing")

    def evaluate(self, block: Block, runner: asyncio.Runner) -> None:
        padded = "\n" * (block.line - 1) + block.source  # so that a traceback shows the page's line
        code = compile(padded, self.name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        result: Any = eval(code, self.module.__dict__)
        if inspect.iscoroutine(result):
            runner.run(result)


def forget_modules_under(folder: Path) -> None:
    """Let a file that was written anew be imported anew, and whatever imported its former text."""
    importlib.invalidate_caches()
    for name, module in list(sys.modules.items()):
        places = [getattr(module, "__file__", None) or "", *getattr(module, "__path__", [])]
        if any(Path(place).is_relative_to(folder) for place in places if place):
            del sys.modules[name]


def main(page: str) -> int:
    """Run one page here and now; its failure is told by its own lines."""
    sys.path[0] = os.getcwd()
    sys.dont_write_bytecode = True  # a file rewritten within a second would be taken from the cache
    try:
        Page(page).run(parse((ROOT / page).read_text()))
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def run_page(page: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run one page in an interpreter of its own."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DATABASE_")}
    environment["DATABASE_URL"] = f"sqlite+aiosqlite:///{folder}/app.db"
    return subprocess.run(
        [sys.executable, __file__, page],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PAGE_TIMEOUT,
        check=False,
    )


@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_a_page_runs(page: str, tmp_path: Path) -> None:
    """Every Python block of the README and of docs/ runs, and at most 30 % of a page's blocks are only shown."""
    blocks = parse((ROOT / page).read_text())

    finished = run_page(page, tmp_path)

    assert 0 == finished.returncode, finished.stdout + finished.stderr
    assert MAX_NOT_RUN_SHARE >= not_run_share(blocks), f"too many blocks of {page} are not run"


PAGE = """
```python {file="shop.py"}
price = 1
```

!!! note
    ```python
    import asyncio, os, shop

    loop = asyncio.get_running_loop() if await asyncio.sleep(0, True) else None
    assert os.environ["DATABASE_URL"].endswith("app.db")
    ```

```python {file="shop.py"}
price = 2
```

```python {raises="ArithmeticError"}
import shop

shop.price / 0
```

```python
assert 2 == shop.price
assert loop is (await asyncio.sleep(0, asyncio.get_running_loop()))
```
"""


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """A place for a page of the test's own."""
    return tmp_path / "page.md"


def test_a_page_is_one_module_on_one_loop(page: Path, tmp_path: Path) -> None:
    """Later blocks see names and the newest files of earlier ones, and await on the same loop."""
    page.write_text(PAGE)

    finished = run_page(str(page), tmp_path)

    assert 0 == finished.returncode, finished.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("```python\n1 / 0\n```\n", "line 2, in <module>"),
        ('```python {raises="TypeError"}\n1\n```\n', "must raise TypeError"),
        ('```python {raises="TypeError"}\n1 / 0\n```\n', "ZeroDivisionError"),
        ('```python {run="no" reason="shown"}\nthis is no python\n```\n', "SyntaxError"),
        ('```python {file="broken.py"}\n1 / 0\n```\n', "ZeroDivisionError"),
        ("```python\nraise SystemExit(0)\n```\n", "SystemExit"),
        ('```python {run="no"}\n1\n```\n', "a reason go together"),
        ('```python {rises="TypeError"}\n1\n```\n', "unknown attribute"),
        ("```python {raises=TypeError}\n1\n```\n", 'name="value"'),
        ('```python {file="a.py" raises="TypeError"}\n1\n```\n', "either written"),
        ("```pyhton\n1\n```\n", "neither python nor"),
        ("```\n1\n```\n", "a fence is written as"),
        ("```python\n1\n", "never closed"),
    ],
)
def test_a_wrong_block_fails_its_page(text: str, message: str, page: Path, tmp_path: Path) -> None:
    """A block that fails, does not fail as announced, or is announced wrongly is an error that says so."""
    page.write_text(text)

    finished = run_page(str(page), tmp_path)

    assert 1 == finished.returncode
    assert message in finished.stderr


def test_what_is_not_run_is_counted() -> None:
    """The share of blocks that are only shown counts Python alone."""
    blocks = parse('```python {run="no" reason="shown"}\n1\n```\n```python\n1\n```\n```bash\nls\n```\n')

    assert 0.5 == not_run_share(blocks)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
