"""SQLModel: its classes, its sessions and their ``exec``, as the tutorial of SQLModel shows."""

from typing import Annotated, Any

import httpx
import pytest
from fastapi import Depends, FastAPI, HTTPException
from sqlalchemy import Column, ForeignKey, Integer
from sqlmodel import Field, Session, SQLModel, select
from sqlmodel.ext.asyncio.session import AsyncSession

from sessionlocal import Database, get_db, get_sync_db
from tests.support.observer import Observer

from .shop import MISSING

pytestmark = [pytest.mark.backends("postgresql-asyncpg", "sqlite-aiosqlite"), pytest.mark.usefixtures("no_leftovers")]

HeroSession = Annotated[AsyncSession, Depends(get_db)]
SyncHeroSession = Annotated[Session, Depends(get_sync_db)]


class Team(SQLModel, table=True):
    """What heroes belong to."""

    __tablename__ = "sqlmodel_teams"

    id: int | None = Field(default=None, primary_key=True)


class HeroIn(SQLModel):
    """What makes a hero."""

    name: str = Field(max_length=80, unique=True)


class Hero(HeroIn, table=True):
    """A hero; the team is checked at COMMIT."""

    __tablename__ = "sqlmodel_heroes"

    id: int | None = Field(default=None, primary_key=True)
    team_id: int | None = Field(
        default=None,
        sa_column=Column(Integer, ForeignKey("sqlmodel_teams.id", deferrable=True, initially="DEFERRED")),
    )


class HeroWithTeam(HeroIn):
    """What makes a hero of a team."""

    team_id: int | None = None


@pytest.fixture(params=["both named", "sync follows async"])
async def client(request: pytest.FixtureRequest, open_database: Any, tables: Any, browse: Any) -> httpx.AsyncClient:
    """An application of async and sync routes."""
    tables(SQLModel.metadata)
    sync = {"sync_session_class": Session} if request.param == "both named" else {}
    database: Database = open_database(session_class=AsyncSession, **sync)
    app = FastAPI()
    database.install(app)

    @app.post("/heroes", status_code=201)
    async def create(body: HeroWithTeam, db: HeroSession) -> Hero:
        hero = Hero.model_validate(body)
        db.add(hero)
        await db.flush()
        return hero

    @app.get("/heroes")
    async def heroes(db: HeroSession) -> list[Hero]:
        return list((await db.exec(select(Hero).order_by(Hero.name))).all())

    @app.post("/heroes/tutorial", status_code=201)
    async def create_as_in_the_tutorial(body: HeroWithTeam, db: HeroSession) -> Hero:
        hero = Hero.model_validate(body)
        db.add(hero)
        await db.commit()
        await db.refresh(hero)
        return hero

    @app.post("/sync/heroes", status_code=201)
    def create_sync(body: HeroWithTeam, db: SyncHeroSession) -> Hero:
        hero = Hero.model_validate(body)
        db.add(hero)
        db.flush()
        return hero

    @app.get("/sync/heroes/{name}")
    def hero(name: str, db: SyncHeroSession) -> Hero:
        found = db.exec(select(Hero).where(Hero.name == name)).first()
        if found is None:
            raise HTTPException(404)
        return found

    return browse(app)


@pytest.mark.parametrize("path", ["/heroes", "/heroes/tutorial", "/sync/heroes"])
async def test_a_hero_is_stored(client: httpx.AsyncClient, observer: Observer, path: str) -> None:
    """Async and sync routes store what they answer with."""
    made = await client.post(path, json={"name": "Deadpond"})

    assert 201 == made.status_code
    assert made.json()["id"] == observer.scalar("SELECT id FROM sqlmodel_heroes WHERE name = 'Deadpond'")


async def test_exec_gives_models(client: httpx.AsyncClient) -> None:
    """exec() of both sessions returns heroes, not rows."""
    await client.post("/heroes", json={"name": "Deadpond"})

    assert ["Deadpond"] == [hero["name"] for hero in (await client.get("/heroes")).json()]
    assert "Deadpond" == (await client.get("/sync/heroes/Deadpond")).json()["name"]
    assert 404 == (await client.get("/sync/heroes/Rusty-Man")).status_code


@pytest.mark.parametrize("path", ["/heroes", "/heroes/tutorial", "/sync/heroes"])
async def test_a_failed_commit_is_an_error(client: httpx.AsyncClient, observer: Observer, path: str) -> None:
    """A commit that the database refuses is 409, whoever commits."""
    refused = await client.post(path, json={"name": "Deadpond", "team_id": MISSING})

    assert 409 == refused.status_code
    assert 0 == observer.scalar("SELECT count(*) FROM sqlmodel_heroes")


async def test_the_sessions_are_sqlmodels(open_database: Any) -> None:
    """What a Database hands out is SQLModel's class, async and sync."""
    database: Database = open_database(session_class=AsyncSession)

    async with database.session() as db:
        assert AsyncSession is type(db)
        assert isinstance(db.sync_session, Session)
    with database.sync_session() as sync_db:
        assert isinstance(sync_db, Session)
    async with database.read() as reading:
        assert isinstance(reading, AsyncSession)
