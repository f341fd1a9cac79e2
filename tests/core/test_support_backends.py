"""A test runs on the drivers that it asks for, on an empty database, and is told when it leaves something open."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Column, Integer, MetaData, Table, make_url

from tests.support.backends import DRIVERS, MYSQL_DRIVERS, Backend, choose
from tests.support.observer import Observer
from tests.support.servers import MYSQL_NOT_GIVEN

ROOT = Path(__file__).parents[2]
CONFTEST = "from tests.conftest import *\n"
SETTINGS = """
[pytest]
asyncio_mode = auto
asyncio_default_fixture_loop_scope = function
addopts = --strict-markers -p no:cacheprovider
"""

metadata = MetaData()
Table("parents", metadata, Column("id", Integer, primary_key=True))


def ids(*fixtures: str, marks: tuple[tuple[str, ...], ...] = (), mysql: bool = False) -> list[str]:
    """Return the ids of the drivers that a test with these fixtures and marks runs on."""
    return [driver.id for driver in choose(fixtures, marks, mysql=mysql)]


def run_suite(folder: Path, suite: str, **environment: str) -> tuple[dict[str, int], str]:
    """Run a small suite of its own with these fixtures; return the counts of its outcomes, and its output."""
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "pytest.ini").write_text(SETTINGS)
    (folder / "test_suite.py").write_text(suite)
    unset = ("CI", "MYSQL_URL", "SESSIONLOCAL_WHOLE_SUITE", "PYTEST_XDIST_WORKER", "PYTEST_ADDOPTS")
    inherited = {name: value for name, value in os.environ.items() if name not in unset}
    finished = subprocess.run(
        [sys.executable, "-m", "pytest", "-rA", "-q", str(folder)],
        env={**inherited, "PYTHONPATH": str(ROOT), **environment},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    summary = finished.stdout.strip().rpartition("\n")[2]
    counts = {kind.removesuffix("s"): int(number) for number, kind in re.findall(r"(\d+) ([a-z]+)", summary)}
    return counts, finished.stdout + finished.stderr


def test_every_driver_is_chosen_without_a_wish() -> None:
    """Eight drivers cover three databases, async and sync; MySQL joins where it is given."""
    assert [driver.id for driver in DRIVERS] == ids()
    assert 8 == len(ids())
    assert [driver.id for driver in (*DRIVERS, *MYSQL_DRIVERS)] == ids(mysql=True)


@pytest.mark.parametrize(
    ("fixtures", "expected"),
    [
        (
            ["async_backend"],
            [
                "sqlite-aiosqlite",
                "postgresql-asyncpg",
                "postgresql-psycopg-async",
                "mariadb-aiomysql",
                "mariadb-asyncmy",
            ],
        ),
        (["sync_backend"], ["sqlite-pysqlite", "postgresql-psycopg", "mariadb-pymysql"]),
        (["sync_backend", "wire_backend"], ["postgresql-psycopg", "mariadb-pymysql"]),
        (["sync_backend", "proxy"], ["postgresql-psycopg", "mariadb-pymysql"]),
        (["sqlite_backend"], ["sqlite-aiosqlite", "sqlite-pysqlite"]),
        (["async_backend", "postgresql_backend"], ["postgresql-asyncpg", "postgresql-psycopg-async"]),
        (["mysql_backend"], ["mariadb-aiomysql", "mariadb-asyncmy", "mariadb-pymysql"]),
    ],
)
def test_fixtures_narrow_the_drivers(fixtures: list[str], expected: list[str]) -> None:
    """Each fixture is a wish, and all of them hold."""
    assert expected == ids(*fixtures)


def test_marks_narrow_the_drivers() -> None:
    """A mark names ids, dialects or drivers; several names are alternatives, several marks are conditions."""
    assert ["postgresql-asyncpg"] == ids(marks=(("asyncpg",),))
    assert ["sqlite-aiosqlite", "mariadb-asyncmy"] == ids(marks=(("asyncmy", "sqlite-aiosqlite"),))
    assert ["sqlite-aiosqlite"] == ids("async_backend", marks=(("sqlite", "mariadb-pymysql"),))
    assert ["postgresql-asyncpg"] == ids(marks=(("postgresql",), ("asyncpg",)))


def test_wishes_that_cannot_be_granted_are_errors() -> None:
    """A name that nothing has, and wishes that exclude each other, are refused instead of running nothing."""
    with pytest.raises(LookupError, match="no driver is called"):
        ids(marks=(("postgres",),))
    with pytest.raises(LookupError, match="no driver fits"):
        ids("sync_backend", marks=(("asyncpg",),))


def test_a_backend_tells_what_it_is(backend: Backend) -> None:
    """Id, URL, dialect, driver and kind of a backend agree with each other."""
    url = make_url(backend.url)

    assert backend.id.startswith(f"{backend.dialect}-{backend.driver}")
    assert url.drivername.endswith(f"+{backend.driver}")
    assert backend.is_async == (
        backend.id.endswith("-async") or backend.driver in {"asyncpg", "aiosqlite", "aiomysql", "asyncmy"}
    )
    assert url.database == make_url(backend.sync_url).database


def test_tables_are_created_for_the_test(
    backend: Backend, tables: Callable[[MetaData], None], observer: Observer
) -> None:
    """``tables`` creates the tables of a metadata, empty, in the test's own database."""
    tables(metadata)

    assert 0 == observer.scalar("select count(*) from parents")


@pytest.mark.parametrize("run", [1, 2])
def test_the_database_is_empty_at_the_start(backend: Backend, observer: Observer, run: int) -> None:
    """Whatever the test before made, by whatever means, is gone."""
    for statement in LITTER[backend.dialect]:
        observer.execute(statement)  # fails in the second run if anything is left


LITTER = {
    "sqlite": ["create table litter (id int)"],
    "postgresql": [
        "create table litter (id int primary key)",
        "create table more (id int references litter)",
        "create view seen as select * from litter",
        "create type mood as enum ('fine')",
        "create sequence numbers",
        "create function one() returns int language sql as 'select 1'",
        "create schema tenant",
        "create table tenant.litter (id int)",
    ],
    "mariadb": [
        "create table litter (id int primary key)",
        "create table more (id int, foreign key (id) references litter (id))",
        "create view seen as select * from litter",
        "create sequence numbers",
    ],
}

LEAVES_OPEN = """
from sqlalchemy import Column, Integer, MetaData, Table, create_engine, text
import pytest

from tests.support import schema

schema.SETTLE_TIMEOUT = 0.2
metadata = MetaData()
Table("parents", metadata, Column("id", Integer, primary_key=True))
kept = []

@pytest.mark.parametrize("with_tables", [True, False])
def test_one(sync_backend, observer, tables, with_tables):
    if with_tables:
        tables(metadata)
    else:
        observer.execute("create table parents (id int primary key)")
    engine = create_engine(sync_backend.url)
    connection = engine.connect()
    connection.execute(text("insert into parents values (1)"))
    kept.append(connection)

def test_two(sync_backend, tables):
    for connection in kept:
        connection.invalidate()
        connection.close()
    kept.clear()
    tables(metadata)
"""


def test_a_transaction_left_open_fails_the_test_that_left_it(tmp_path: Path) -> None:
    """A test that ends inside a transaction is an error that names the session; the next one is not disturbed."""
    counts, output = run_suite(tmp_path, LEAVES_OPEN)

    drivers = 3
    assert drivers * 3 == counts["passed"], output
    assert drivers * 2 == counts["error"], output
    for driver in ("sqlite-pysqlite", "postgresql-psycopg", "mariadb-pymysql"):
        assert f"the test left a transaction open on {driver}" in output
    assert "(idle in transaction): insert into parents values (1)" in output


SKIPS = """
import pytest

@pytest.mark.backends("mysql-pymysql")
def test_mysql(backend): pass

@pytest.mark.backends("mariadb-pymysql")
def test_mariadb(backend): pass
"""


def test_mysql_is_run_only_when_it_is_given(tmp_path: Path) -> None:
    """A test for MySQL alone is skipped with the reason, under CI as well."""
    counts, output = run_suite(tmp_path, SKIPS.partition('@pytest.mark.backends("mariadb')[0], CI="true")

    assert {"skipped": 1} == counts, output
    assert MYSQL_NOT_GIVEN in output


NO_SERVERS = """
import tests.conftest
from tests.support import servers

def nowhere(environ, watchdog):
    raise servers.Unavailable("no MariaDB: set MARIADB_URL or install its server")

servers.LOOK_FOR["mariadb"] = nowhere
"""


@pytest.mark.parametrize(("ci", "outcome"), [("", "skipped"), ("true", "error")])
def test_a_missing_server_is_a_skip_here_and_a_failure_in_ci(tmp_path: Path, ci: str, outcome: str) -> None:
    """Without a server the reason says how to get one; a CI run that lacks one fails."""
    counts, output = run_suite(tmp_path, NO_SERVERS + SKIPS, CI=ci)

    assert 1 == counts[outcome] - (outcome == "skipped"), output  # the MySQL test is skipped in both runs
    assert "no MariaDB: set MARIADB_URL or install its server" in output


def test_parallel_workers_have_databases_of_their_own(tmp_path: Path) -> None:
    """Two workers that create the same table at the same time do not meet."""
    suite = """
import pytest

@pytest.mark.backends("postgresql-psycopg", "mariadb-pymysql")
@pytest.mark.parametrize("number", range(4))
def test_one(backend, observer, number, worker_id):
    observer.execute("create table litter (id int)")
    assert worker_id in backend.url
"""
    (tmp_path / "pytest.ini").write_text(SETTINGS)
    counts, output = run_suite(tmp_path, suite, PYTEST_ADDOPTS="-n 2")

    assert 8 == counts["passed"], output
