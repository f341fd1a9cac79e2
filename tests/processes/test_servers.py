"""Real server processes: workers, preloading and reloading need nothing from the user."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.support.backends import Backend

START_TIMEOUT = 30.0  # seconds
POLL = 0.05  # seconds between two looks at a server that starts

APPLICATION = """
    import os

    from fastapi import FastAPI
    from sqlalchemy import String, func, select, text
    from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

    from sessionlocal import Database, SessionDep, SyncSessionDep

    VERSION = 1


    class Base(DeclarativeBase):
        pass


    class Visit(Base):
        __tablename__ = "visits"

        id: Mapped[int] = mapped_column(primary_key=True)
        page: Mapped[str] = mapped_column(String(20))


    database = Database()
    database.create_all_sync(Base)          # a connection before any fork
    with database.sync_session() as db:
        db.scalar(select(func.count()).select_from(Visit))

    app = FastAPI()
    database.install(app)


    @app.post("/visits", status_code=201)
    async def visit(db: SessionDep) -> int:
        db.add(Visit(page="/"))
        await db.flush()
        return os.getpid()


    @app.post("/sync-visits", status_code=201)
    def sync_visit(db: SyncSessionDep) -> int:
        db.add(Visit(page="/"))
        db.flush()
        return os.getpid()


    @app.get("/version")
    async def version(db: SessionDep) -> int:
        return VERSION * await db.scalar(text("SELECT 1"))
"""

Start = Callable[..., "Process"]


class Process:
    """A server in a process group of its own, and what it printed."""

    def __init__(self, command: list[str], folder: Path, environment: dict[str, str]) -> None:
        self.log = folder / "server.log"
        with self.log.open("w") as output:
            self.popen = subprocess.Popen(
                command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )

    def wait_for(self, url: str, accept: Callable[[httpx.Response], bool] = lambda response: True) -> httpx.Response:
        """Return the first answer of ``url`` that ``accept`` takes."""
        end = time.monotonic() + START_TIMEOUT
        while time.monotonic() < end and self.popen.poll() is None:
            try:
                response = httpx.get(url)
            except httpx.TransportError:
                response = None
            if response is not None and response.is_success and accept(response):
                return response
            time.sleep(POLL)
        raise AssertionError(f"no acceptable answer of {url}:\n{self.log.read_text()}")

    def stop(self) -> int:
        """Ask the server to end, as an operator does, and return its exit status."""
        self.popen.send_signal(signal.SIGTERM)
        try:
            return self.popen.wait(timeout=START_TIMEOUT)
        finally:
            if self.popen.poll() is None:
                os.killpg(self.popen.pid, signal.SIGKILL)
                self.popen.wait()


@pytest.fixture
def address() -> str:
    """A free address of this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the application."""
    (tmp_path / "main.py").write_text(textwrap.dedent(APPLICATION))
    return tmp_path


@pytest.fixture
def start(folder: Path, async_backend: Backend, address: str) -> Start:
    """Return a function that starts a module with arguments, in the application's folder."""

    @contextmanager
    def run(*command: str) -> Iterator[Process]:
        environment = {**os.environ, "DATABASE_URL": async_backend.url, "PYTHONPATH": os.pathsep.join(sys.path)}
        process = Process([sys.executable, "-m", *command], folder, environment)
        try:
            process.wait_for(f"http://{address}/version")
            yield process
        finally:
            status = process.stop()
        assert status in (0, -signal.SIGTERM), process.log.read_text()

    return run


@pytest.mark.slow
@pytest.mark.backends("postgresql-asyncpg", "sqlite-aiosqlite", "mariadb-aiomysql")
def test_each_worker_of_uvicorn_has_connections_of_its_own(start: Start, address: str) -> None:
    """Two workers answer, async and sync, and nothing in their log speaks of a broken connection."""
    host, port = address.split(":")
    with start("uvicorn", "main:app", "--host", host, "--port", port, "--workers", "2") as process:
        answers = [httpx.post(f"http://{address}{path}") for _ in range(20) for path in ("/visits", "/sync-visits")]

        assert {201} == {answer.status_code for answer in answers}
        assert "Traceback" not in process.log.read_text()


@pytest.mark.slow
@pytest.mark.backends("postgresql-asyncpg", "postgresql-psycopg-async", "sqlite-aiosqlite", "mariadb-aiomysql")
def test_gunicorn_may_load_the_application_before_it_forks(start: Start, address: str) -> None:
    """With --preload the parent has used its sync engine already; the children never touch its connections."""
    options = ("--preload", "--workers", "2", "--worker-class", "uvicorn_worker.UvicornWorker", "--bind", address)
    with start("gunicorn", "main:app", *options) as process:
        answers = [httpx.post(f"http://{address}{path}") for _ in range(20) for path in ("/visits", "/sync-visits")]

        assert {201} == {answer.status_code for answer in answers}
        assert "Traceback" not in process.log.read_text()


@pytest.mark.slow
@pytest.mark.backends("postgresql-asyncpg", "sqlite-aiosqlite")
def test_a_reload_serves_the_changed_code(start: Start, folder: Path, address: str) -> None:
    """Under --reload a change of the source is served, with working sessions."""
    host, port = address.split(":")
    with start("uvicorn", "main:app", "--host", host, "--port", port, "--reload") as process:
        source = (folder / "main.py").read_text()
        (folder / "main.py").write_text(source.replace("VERSION = 1", "VERSION = 22"))

        process.wait_for(f"http://{address}/version", lambda response: "22" == response.text)

        assert 201 == httpx.post(f"http://{address}/visits").status_code
