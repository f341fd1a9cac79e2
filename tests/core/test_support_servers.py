"""Servers are found or started, each process has its own database, and nothing is left however the run ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pymysql
import pytest
from sqlalchemy import URL, make_url

from tests.support import servers as ground
from tests.support.servers import Servers, Unavailable
from tests.support.watchdog import Watchdog

ROOT = Path(__file__).parents[2]


@pytest.fixture
def watchdog() -> Iterator[Watchdog]:
    """A watchdog of the test's own."""
    watchdog = Watchdog()
    yield watchdog
    watchdog.close()


@pytest.fixture
def given(servers: Servers) -> Callable[[str], URL]:
    """Return a function from a dialect to the URL of the server of this run; without one it skips."""

    def url(dialect: str) -> URL:
        try:
            return servers.server(dialect).url
        except Unavailable as reason:
            pytest.skip(str(reason))

    return url


def databases(url: URL) -> set[str]:
    """Return the names of the databases on a server."""
    if url.get_backend_name() == "postgresql":
        with psycopg.connect(**ground.postgresql_connect_arguments(url)) as connection:
            return {name for (name,) in connection.execute("select datname from pg_database")}
    with pymysql.connect(**ground.mysql_connect_arguments(url)) as connection:
        cursor = connection.cursor()
        cursor.execute("show databases")
        return {name for (name,) in cursor.fetchall()}


@pytest.mark.parametrize("dialect", ["postgresql", "mariadb"])
def test_a_database_lives_as_long_as_its_run(given: Callable[[str], URL], dialect: str) -> None:
    """Each run creates a database named after its process and worker, and drops it though a session is still in it."""
    server = given(dialect)
    run = Servers(label="gw7", environ={ground.NAMED_BY[dialect]: server.render_as_string(hide_password=False)})
    first, again, other = run.database(dialect), run.database(dialect), run.new_database(dialect)
    names = {first.database, other.database}
    assert first == again != other
    assert names <= databases(server)
    assert f"sessionlocal_{os.getpid()}_gw7_" in str(first.database)

    if dialect == "postgresql":
        lingering = psycopg.connect(**ground.postgresql_connect_arguments(first))
        lingering.execute("create table held (id int)")
    else:
        lingering = pymysql.connect(**ground.mysql_connect_arguments(first))
        lingering.cursor().execute("create table held (id int)")
        lingering.cursor().execute("select * from held")
    run.close()
    lingering.close()

    assert not names & databases(server)


def test_a_named_server_that_does_not_answer_is_an_error() -> None:
    """A server named in the environment is never replaced by another one in silence."""
    nobody = f"postgresql://postgres@127.0.0.1:{ground.free_port()}/postgres"

    with pytest.raises(RuntimeError, match=r"POSTGRES_URL names .* which does not answer"):
        Servers(environ={"POSTGRES_URL": nobody}).server("postgresql")


def test_mysql_has_to_be_given() -> None:
    """MySQL is looked for in its variable only, and its absence is a reason to skip."""
    with pytest.raises(Unavailable, match=r"^MySQL is run only when MYSQL_URL"):
        Servers(environ={}).server("mysql")


def test_mariadb_is_not_mysql(monkeypatch: pytest.MonkeyPatch) -> None:
    """A MySQL server at MariaDB's address is not taken for one."""
    monkeypatch.setattr(ground, "mysql_version", lambda url: "8.4.2")

    with pytest.raises(Unavailable, match=r"is MySQL 8\.4\.2"):
        ground.mariadb_version(URL.create("mariadb", host="127.0.0.1", port=3306))


def test_servers_are_shared_by_naming_them(given: Callable[[str], URL]) -> None:
    """The variables that workers inherit name the servers that the run has found."""
    server = given("postgresql").render_as_string(hide_password=False)
    run = Servers(environ={"POSTGRES_URL": server, "MARIADB_URL": "", "PATH": ""})
    environment: dict[str, str] = {}
    run.share(environment)
    run.close()

    assert server == environment["POSTGRES_URL"]


def test_binaries_on_path_come_first(tmp_path: Path) -> None:
    """A PostgreSQL on PATH is preferred to packages and to the wheel."""
    for name in ("initdb", "postgres"):
        (tmp_path / name).touch(mode=0o755)

    assert tmp_path == ground.postgresql_binaries({"PATH": str(tmp_path)})


def test_the_wheel_carries_a_postgresql(watchdog: Watchdog) -> None:
    """Where no PostgreSQL is installed the wheel's answers, also for root, and stops with the run."""
    binaries = ground.wheel_binaries()
    assert binaries is not None
    url = ground.start_postgresql(binaries, watchdog)
    version = int(ground.postgresql_version(url))
    watchdog.close()

    assert version >= 180000
    with pytest.raises(psycopg.OperationalError):
        ground.postgresql_version(url)


def test_binaries_in_a_private_folder_are_no_obstacle(watchdog: Watchdog, tmp_path: Path) -> None:
    """Where root keeps its environment private, the unprivileged user that PostgreSQL runs as gets a copy."""
    binaries = ground.wheel_binaries()
    assert binaries is not None
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    package = binaries.parent.parent
    (private / package.name).symlink_to(package)
    (private / f"{package.name}.libs").symlink_to(f"{package}.libs")
    url = ground.start_postgresql(private / package.name / binaries.parent.name / "bin", watchdog)

    assert int(ground.postgresql_version(url)) >= 180000


def test_a_mariadb_is_started_where_none_runs(watchdog: Watchdog) -> None:
    """With mariadbd installed a server of the run's own answers, and stops with the run."""
    try:
        url = ground.start_mariadb(os.environ, watchdog)
    except Unavailable as reason:
        assert "is not on PATH" in str(reason)  # noqa: PT017 - a machine without MariaDB, which tests may have as well
        return
    version = ground.mariadb_version(url)
    watchdog.close()

    assert "MariaDB" in version
    with pytest.raises(pymysql.err.OperationalError):
        ground.mariadb_version(url)


KILLED = """
import os, sys, time
from tests.support import servers
from tests.support.watchdog import Watchdog

watchdog = Watchdog()
url = servers.start_postgresql(servers.postgresql_binaries(os.environ), watchdog)
run = servers.Servers(environ={"POSTGRES_URL": sys.argv[1]})
print(url.render_as_string(hide_password=False), run.database("postgresql").database, flush=True)
time.sleep(600)
"""


def test_a_killed_run_leaves_nothing(given: Callable[[str], URL], shared_folder: Path) -> None:
    """After SIGKILL the server that the run started is stopped, its folder removed, and its database dropped."""
    server = given("postgresql")
    run = subprocess.Popen(
        [sys.executable, "-c", KILLED, server.render_as_string(hide_password=False)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(shared_folder)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert run.stdout is not None
    started, database = run.stdout.readline().split()
    assert database in databases(server)
    assert [] != list(shared_folder.iterdir())
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    run.stdout.read()  # the watchdogs hold the other end until they have finished
    run.stdout.close()

    assert database not in databases(server)
    assert [] == list(shared_folder.iterdir())
    with pytest.raises(psycopg.OperationalError):
        ground.postgresql_version(make_url(started))


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    """A folder that the unprivileged user of PostgreSQL can reach, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)
