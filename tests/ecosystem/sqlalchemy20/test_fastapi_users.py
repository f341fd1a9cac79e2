"""fastapi-users, as its documentation shows and as the page of this library shows it.

Its storage package refuses SQLAlchemy 2.1 still, so this folder is run by one cell of ``make matrix`` only. The
application is the block of docs/integrations/index.md, taken from there.
"""

from __future__ import annotations

import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest

from sessionlocal import Database
from tests.support.backends import Backend
from tests.support.observer import Observer

PAGE = Path(__file__).parents[3] / "docs" / "integrations" / "index.md"
BLOCK = re.compile(r'```python \{file="accounts.py"[^}]*\}\n(.*?)```', re.DOTALL)
ANN = {"email": "ann@example.com", "password": "correct horse"}

pytestmark = pytest.mark.backends("postgresql-asyncpg", "sqlite-aiosqlite")


@pytest.fixture
async def page(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Any]:
    """The application of the page, as a module, with its tables."""
    monkeypatch.setenv("DATABASE_URL", backend.url)
    found = BLOCK.search(PAGE.read_text())
    assert found is not None
    module: Any = ModuleType("accounts")
    monkeypatch.setitem(sys.modules, "accounts", module)  # SQLAlchemy looks annotations up there
    exec(compile(found[1], str(PAGE), "exec", dont_inherit=True), module.__dict__)
    database: Database = module.database
    await database.create_all(module.Base)
    yield module
    await database.dispose()


@pytest.fixture
async def client(page: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A browser."""
    transport = httpx.ASGITransport(page.app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as client:
        yield client


async def test_a_user_registers_logs_in_and_is_known(client: httpx.AsyncClient, observer: Observer) -> None:
    """Registration is stored, the token that a login gives opens the protected route, and a wrong one does not."""
    assert 201 == (await client.post("/auth/register", json=ANN)).status_code
    assert [("ann@example.com",)] == observer.all("SELECT email FROM users")

    form = {"username": ANN["email"], "password": ANN["password"]}
    token = (await client.post("/auth/login", data=form)).json()["access_token"]
    me = await client.get("/notes/mine", headers={"Authorization": f"Bearer {token}"})
    assert [200, []] == [me.status_code, me.json()]
    assert 401 == (await client.get("/notes/mine", headers={"Authorization": "Bearer x"})).status_code


async def test_a_second_registration_is_refused(client: httpx.AsyncClient, observer: Observer) -> None:
    """fastapi-users answers 400 itself when the address is taken."""
    await client.post("/auth/register", json=ANN)

    assert 400 == (await client.post("/auth/register", json=ANN)).status_code
    assert 1 == observer.scalar("SELECT count(*) FROM users")


async def test_the_route_and_the_login_check_share_a_session(
    client: httpx.AsyncClient, page: Any, observer: Observer
) -> None:
    """A note that a logged-in user writes is stored by the session that found the user."""
    await client.post("/auth/register", json=ANN)
    form = {"username": ANN["email"], "password": ANN["password"]}
    token = (await client.post("/auth/login", data=form)).json()["access_token"]
    headers = {"Authorization": f"Bearer {token}"}

    assert 201 == (await client.post("/notes", params={"body": "hello"}, headers=headers)).status_code
    assert ["hello"] == (await client.get("/notes/mine", headers=headers)).json()
    assert 1 == observer.scalar("SELECT count(*) FROM notes")


async def test_a_failed_commit_of_a_registration_is_an_error(
    client: httpx.AsyncClient, page: Any, observer: Observer
) -> None:
    """A registration whose commit the database refuses is 409, and stores nothing."""
    from sqlalchemy import event

    @event.listens_for(page.User, "after_insert")
    def orphan(mapper: object, connection: Any, user: object) -> None:
        connection.execute(page.Note.__table__.insert().values(body="of nobody", user_id=page.uuid.uuid4()))

    try:
        refused = await client.post("/auth/register", json=ANN)
    finally:
        event.remove(page.User, "after_insert", orphan)

    assert 409 == refused.status_code
    assert 0 == observer.scalar("SELECT count(*) FROM users")
