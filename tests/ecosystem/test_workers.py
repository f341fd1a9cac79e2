"""Celery, ARQ, APScheduler, typer, scripts and threads: the modules of docs/workers.md, run by their own tools."""

from __future__ import annotations

import asyncio
import importlib
import os
import re
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from arq import ArqRedis, create_pool
from arq.connections import RedisSettings
from arq.worker import Worker
from celery.contrib.testing.worker import start_worker
from typer.testing import CliRunner

from sessionlocal import Database
from tests.conftest import missing
from tests.support.backends import Backend
from tests.support.observer import Observer

PAGE = Path(__file__).parents[2] / "docs" / "workers.md"
BLOCK = re.compile(r'```python \{file="(\w+)\.py"\}\n(.*?)```', re.DOTALL)
SENT = "SELECT count(*) FROM reminders WHERE sent"
TEXTS = "SELECT text FROM reminders ORDER BY id"

pytestmark = pytest.mark.backends("postgresql-asyncpg", "sqlite-aiosqlite")


@pytest.fixture
def modules(
    backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tables: Callable[[Any], None]
) -> Iterator[Callable[[str], Any]]:
    """Write the page's modules and their tables; return the function that imports one."""
    blocks = dict(BLOCK.findall(PAGE.read_text()))
    for name, source in blocks.items():
        (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.setenv("DATABASE_URL", backend.url)
    monkeypatch.syspath_prepend(tmp_path)
    # Celery gives each application the tasks of all others, also of those that another test imported.
    monkeypatch.setattr("celery._state._on_app_finalizers", set())
    tables(importlib.import_module("shop").Base)
    yield importlib.import_module
    for name in blocks:
        sys.modules.pop(name, None)


@pytest.fixture
async def database(modules: Callable[[str], Any]) -> AsyncIterator[Database]:
    """The Database of the page's modules."""
    database: Database = modules("shop").database
    yield database
    await database.dispose()


@pytest.fixture
async def reminder(modules: Callable[[str], Any], database: Database) -> int:
    """The id of a reminder that waits to be sent."""
    async with database.session() as db:
        made = modules("shop").Reminder(text="call home")
        db.add(made)
    number: int = made.id
    return number


@pytest.fixture
async def queue() -> AsyncIterator[ArqRedis]:
    """A Redis: ``REDIS_URL``, or the one at 127.0.0.1:6379."""
    settings = RedisSettings.from_dsn(os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/9"))
    try:
        socket.create_connection((str(settings.host), settings.port), timeout=5).close()
    except OSError:
        missing(f"no Redis at {settings.host}:{settings.port}; REDIS_URL names one")
    pool = await create_pool(settings, default_queue_name=f"sessionlocal-{os.getpid()}")
    yield pool
    await pool.delete(pool.default_queue_name)
    await pool.aclose()


def test_a_script_stores_what_it_commits(modules: Callable[[str], Any], tmp_path: Path, observer: Observer) -> None:
    """A script in a process of its own commits, and ends without a word."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONWARNINGS": "always"}
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )

    assert [0, "", ""] == [done.returncode, done.stdout, done.stderr]
    assert [("from a script",)] == observer.all(TEXTS)


def test_commands_use_sync_sessions(modules: Callable[[str], Any], observer: Observer) -> None:
    """A typer command stores, and another one counts."""
    app = modules("commands").app

    assert 0 == CliRunner().invoke(app, ["add", "from a command"]).exit_code
    assert "1\n" == CliRunner().invoke(app, ["count"]).stdout
    assert [("from a command",)] == observer.all(TEXTS)
    modules("shop").database.dispose_sync()


def test_a_celery_worker_commits_each_task(modules: Callable[[str], Any], observer: Observer) -> None:
    """A task that a worker takes from its queue is stored when its result is there; done twice, it works once."""
    tasks, database = modules("celery_tasks"), modules("shop").database
    with database.sync_session() as db:
        made = modules("shop").Reminder(text="call home")
        db.add(made)
    tasks.celery.conf.update(broker_url="memory://", result_backend="cache+memory://", task_ignore_result=False)
    with start_worker(tasks.celery, pool="solo", perform_ping_check=False):
        tasks.send.delay(made.id).get(timeout=30)
        assert 1 == observer.scalar(SENT)
        tasks.send.delay(made.id).get(timeout=30)
    database.dispose_sync()

    assert 1 == observer.scalar(SENT)


async def test_a_task_is_enqueued_after_the_commit(
    modules: Callable[[str], Any], database: Database, observer: Observer, asgi: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reminder is there for everybody when the task is given away."""
    api, seen = modules("api"), list[Any]()
    monkeypatch.setattr(api.send, "delay", lambda number: seen.append((number, observer.scalar(TEXTS))))

    async with asgi(api.app) as client:
        answer = await client.post("/reminders?text=call%20home")

    assert [(answer.json(), "call home")] == seen


async def test_an_arq_worker_commits_each_job(
    modules: Callable[[str], Any], database: Database, reminder: int, queue: ArqRedis, observer: Observer
) -> None:
    """Of two jobs for the same reminder one does the work; both end well."""
    settings = modules("arq_worker").WorkerSettings
    jobs = [await queue.enqueue_job("send", reminder) for _ in range(2)]
    worker = Worker(
        settings.functions,
        redis_pool=queue,
        queue_name=queue.default_queue_name,
        burst=True,
        handle_signals=False,
        max_jobs=settings.max_jobs,
    )

    await worker.main()
    results = [await job.result(timeout=10) for job in jobs if job is not None]
    await settings.on_shutdown({})

    assert [False, True] == sorted(results)
    assert 1 == observer.scalar(SENT)


async def test_a_scheduled_job_commits(
    modules: Callable[[str], Any], database: Database, reminder: int, observer: Observer
) -> None:
    """A job that APScheduler starts is stored when it reports the job as executed."""
    from apscheduler.events import EVENT_JOB_ERROR, EVENT_JOB_EXECUTED

    scheduler = modules("scheduler").scheduler
    finished: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    scheduler.add_listener(finished.set_result, EVENT_JOB_EXECUTED | EVENT_JOB_ERROR)
    scheduler.start(paused=True)
    try:
        job = scheduler.get_job("send-all")
        job.modify(next_run_time=job.trigger.start_date.now(job.trigger.timezone))
        scheduler.resume()
        event = await asyncio.wait_for(finished, 30)
    finally:
        scheduler.shutdown()

    assert event.exception is None
    assert 1 == observer.scalar(SENT)


async def test_threads_have_sessions_of_their_own(
    modules: Callable[[str], Any], database: Database, observer: Observer
) -> None:
    """Eight units in four threads are all stored."""
    await asyncio.to_thread(modules("threads").store_all)

    assert 8 == observer.scalar("SELECT count(*) FROM reminders")
