"""What differs between databases and drivers, behind one protocol (``protocol.Edge``)."""

from __future__ import annotations

from sqlalchemy.engine import Dialect

from .generic import GenericEdge
from .mysql import MySQLEdge
from .postgresql import AsyncpgEdge, PsycopgEdge
from .protocol import DBAPIConnection, Edge, Terms
from .sqlite import SQLiteEdge

__all__ = ["DBAPIConnection", "Edge", "Terms", "edge_for"]


def edge_for(dialect: Dialect) -> Edge:
    """Return the driver edge for a SQLAlchemy dialect; a driver that is not known gets the generic one."""
    driver = dialect.driver
    if driver == "asyncpg":
        return AsyncpgEdge()
    if driver in ("psycopg", "psycopg_async"):
        return PsycopgEdge()
    if driver in ("aiosqlite", "pysqlite"):
        return SQLiteEdge(rows_buffered=driver == "aiosqlite")
    if driver in ("aiomysql", "asyncmy", "pymysql"):
        return MySQLEdge("mariadb" if getattr(dialect, "is_mariadb", False) else "mysql")
    return GenericEdge()
