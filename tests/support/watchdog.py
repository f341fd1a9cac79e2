"""The last will of a test run: what it started is stopped, however the run ends.

A run has one watchdog, a child process that reads orders from a pipe, one JSON object per line. Servers are started at
once, as children of the watchdog. When the pipe closes, because the run closed it or because it was killed, everything
is undone, newest first.

Promises: there is no second clean-up path, so every run exercises the one that a killed run needs; an order that fails
does not keep the others from being undone; passwords travel through the pipe, never through a command line.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import IO, Any

STOP_TIMEOUT = 20.0  # seconds: a server that has not stopped by then is killed


class Watchdog:
    """The run's end of the pipe. The child process starts with the first order."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def start(self, argv: list[str], *, log: str, user: str | None = None, stop: signal.Signals) -> None:
        """Run a server until the end, then send it the signal ``stop``."""
        self._order({"order": "server", "argv": argv, "log": log, "user": user, "stop": int(stop)})

    def remove(self, folder: str) -> None:
        """Remove a folder at the end."""
        self._order({"order": "remove", "folder": folder})

    def drop_database(self, kind: str, name: str, connect: dict[str, Any]) -> None:
        """Drop a database at the end, together with the sessions that still use it."""
        self._order({"order": f"drop_{kind}", "name": name, "connect": connect})

    def close(self) -> None:
        """Undo everything now and wait for it."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        process.stdin.close()
        process.wait(timeout=4 * STOP_TIMEOUT)

    def _order(self, order: dict[str, Any]) -> None:
        if self._process is None:
            # A session of its own: Ctrl-C and a kill of the run's process group must not reach it.
            self._process = subprocess.Popen(
                [sys.executable, os.path.abspath(__file__)], stdin=subprocess.PIPE, text=True, start_new_session=True
            )
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()


Undo = Callable[[], None]


def server(argv: list[str], log: str, user: str | None, stop: int) -> Undo:
    """Start a server; undone by stopping it."""
    with open(log, "ab") as output:
        process = subprocess.Popen(
            argv, user=user, cwd="/", stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )

    def undo() -> None:
        process.send_signal(stop)
        try:
            process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    return undo


def remove(folder: str) -> Undo:
    """Nothing now; undone by removing the folder."""
    return lambda: shutil.rmtree(folder, ignore_errors=True)


def drop_postgresql(name: str, connect: dict[str, Any]) -> Undo:
    """Nothing now; undone by dropping the PostgreSQL database."""

    def undo() -> None:
        import psycopg

        with psycopg.connect(**connect, autocommit=True, connect_timeout=5) as connection:
            connection.execute("SET statement_timeout = '15s'")
            connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'.encode())

    return undo


def drop_mysql(name: str, connect: dict[str, Any]) -> Undo:
    """Nothing now; undone by dropping the MySQL or MariaDB database."""

    def undo() -> None:
        import pymysql

        with pymysql.connect(**connect, autocommit=True, connect_timeout=5, read_timeout=15) as connection:
            cursor = connection.cursor()
            cursor.execute("SET SESSION lock_wait_timeout = 5")
            # There is no FORCE here, and a session that holds a table would keep the drop waiting.
            cursor.execute("SELECT id FROM information_schema.processlist WHERE db = %s", (name,))
            for (session,) in cursor.fetchall():
                with contextlib.suppress(pymysql.err.OperationalError):  # it ended by itself in the meantime
                    cursor.execute(f"KILL {int(session)}")
            cursor.execute(f"DROP DATABASE IF EXISTS `{name}`")

    return undo


ORDERS: dict[str, Callable[..., Undo]] = {
    "server": server,
    "remove": remove,
    "drop_postgresql": drop_postgresql,
    "drop_mysql": drop_mysql,
}


def watch(pipe: IO[str]) -> None:
    """Carry out orders until the pipe closes, then undo them, newest first."""
    undoings: list[tuple[str, Undo]] = []
    for line in iter(pipe.readline, ""):
        arguments = json.loads(line)
        order = arguments.pop("order")
        with _complaint(f"carry out {order}"):
            undoings.append((order, ORDERS[order](**arguments)))
    for order, undo in reversed(undoings):
        with _complaint(f"undo {order}"):
            undo()


@contextlib.contextmanager
def _complaint(what: str) -> Iterator[None]:
    """Say what failed and go on: nobody waits for this process any more."""
    try:
        yield
    except Exception as error:
        sys.stderr.write(f"tests: could not {what}: {error}\n")


if __name__ == "__main__":
    # Handlers, not SIG_IGN: an ignored signal would stay ignored in the servers started from here.
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.signal(signal.SIGTERM, lambda *_: None)
    watch(sys.stdin)
