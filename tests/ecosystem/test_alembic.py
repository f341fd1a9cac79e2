"""Alembic on an existing application: its own templates, three lines of which name the Database."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import create_engine, inspect

from sessionlocal import Database, SchemaManaged
from tests.support.backends import Backend
from tests.support.observer import Observer

from .shop import Base

pytestmark = pytest.mark.backends("postgresql-asyncpg", "sqlite-aiosqlite")

APPLICATION = """
from sqlalchemy import String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sessionlocal import Database

class Base(DeclarativeBase):
    pass

class Item(Base):
    __tablename__ = "items"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(80))
    # later: price: Mapped[int] = mapped_column(server_default="0")

database = Database()
"""
FROM_ALEMBIC = "from alembic import context\n"
METADATA = "target_metadata = None\n"


class Project:
    """A folder with an application, Alembic's own files and a shell in it."""

    def __init__(self, folder: Path, backend: Backend, template: str) -> None:
        self.folder = folder
        self.url = backend.url
        (folder / "application.py").write_text(APPLICATION)
        self.alembic("init", "--template", template, "migrations")
        env = folder / "migrations" / "env.py"
        env.write_text(with_three_lines(env.read_text(), "engine" if template == "async" else "sync_engine"))

    def alembic(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run an Alembic command as a user would."""
        return self.run("-m", "alembic", *arguments, check=check)

    def python(self, code: str) -> None:
        """Run a piece of code beside the application."""
        self.run("-c", code)

    def run(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run Python in the folder."""
        environment = {**os.environ, "DATABASE_URL": self.url, "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(
            [sys.executable, *arguments], cwd=self.folder, env=environment, capture_output=True, text=True, check=False
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def revise(self, message: str) -> Path:
        """Write a revision from the difference between models and database, and return its file."""
        before = set(self.revisions())
        self.alembic("revision", "--autogenerate", "-m", message)
        (made,) = set(self.revisions()) - before
        return made

    def revisions(self) -> list[Path]:
        """Return the files of all revisions."""
        return list((self.folder / "migrations" / "versions").glob("*.py"))

    def add_price(self) -> None:
        """Give the model another column."""
        application = self.folder / "application.py"
        application.write_text(application.read_text().replace("# later: ", ""))


def with_three_lines(env: str, engine: str) -> str:
    """Put the three lines into an env.py that Alembic wrote."""
    start = env.index("    connectable = ")
    end = env.index("    )\n", start) + len("    )\n")
    env = f"{env[:start]}    connectable = database.{engine}\n{env[end:]}"
    assert FROM_ALEMBIC in env
    assert METADATA in env
    env = env.replace(FROM_ALEMBIC, f"{FROM_ALEMBIC}from application import Base, database\n")
    return env.replace(METADATA, "target_metadata = Base.metadata\n")


@pytest.fixture(params=["async", "generic"])
def project(request: pytest.FixtureRequest, backend: Backend, tmp_path: Path) -> Project:
    """An application that gets Alembic, with its async and its sync template."""
    folder = tmp_path / "project"
    folder.mkdir()
    return Project(folder, backend, request.param)


def tables(backend: Backend) -> set[str]:
    """Return the tables that there are."""
    engine = create_engine(backend.sync_url)
    try:
        return set(inspect(engine).get_table_names())
    finally:
        engine.dispose()


def test_models_become_tables_and_go_again(project: Project, backend: Backend, observer: Observer) -> None:
    """autogenerate writes what the models say; upgrade makes it, a second revision changes it, downgrade removes it."""
    project.revise("items")
    project.alembic("upgrade", "head")
    assert {"items", "alembic_version"} == tables(backend)

    project.add_price()
    project.revise("price")
    project.alembic("upgrade", "head")
    observer.execute("INSERT INTO items (id, name) VALUES (1, 'pen')")
    assert 0 == observer.scalar("SELECT price FROM items")

    project.alembic("downgrade", "base")
    assert {"alembic_version"} == tables(backend)


def test_an_existing_schema_is_taken_over(project: Project, backend: Backend) -> None:
    """Where create_all() made the tables, the first revision is empty, and Alembic finds nothing to do after it."""
    project.python("from application import *; database.create_all_sync(Base)")
    first = project.revise("baseline")
    project.alembic("upgrade", "head")

    assert "op.create_table" not in first.read_text()
    assert "No new upgrade operations detected" in project.alembic("check").stdout


def test_a_failed_migration_is_not_recorded(project: Project, backend: Backend, observer: Observer) -> None:
    """An upgrade that raises exits with an error and leaves the version where it was."""
    revision = project.revise("items")
    revision.write_text(
        revision.read_text().replace("def upgrade() -> None:", "def upgrade() -> None:\n    raise ZeroDivisionError")
    )

    failed = project.alembic("upgrade", "head", check=False)

    assert 0 != failed.returncode
    assert "ZeroDivisionError" in failed.stderr
    assert "items" not in tables(backend)
    assert 0 == observer.scalar("SELECT count(*) FROM alembic_version")


async def test_create_all_is_refused_where_alembic_rules(
    database: Database, backend: Backend, observer: Observer
) -> None:
    """A database with an Alembic version table keeps its schema; the error names the command."""
    observer.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")

    with pytest.raises(SchemaManaged, match="alembic upgrade head"):
        await database.create_all(Base)
    with pytest.raises(SchemaManaged, match="alembic upgrade head"):
        database.create_all_sync(Base)

    assert {"alembic_version"} == tables(backend)
