"""Prepared statements stay on their connection: what a statement costs when it is run again and again."""

from __future__ import annotations

import pytest

from tests.counts.face import Face
from tests.counts.models import Item

PSYCOPG_PREPARES_AT = 6  # the execution, counted from one, that sends a PREPARE in a round trip of its own


async def read(face: Face) -> int:
    """Read an item in a unit of its own and return the round trips."""

    async def work() -> None:
        async with face.session() as db:
            await db.get(Item, 1)

    return (await face.count(work)).total


async def write(face: Face) -> None:
    """Store an item."""
    async with face.session() as db:
        db.add(Item(name=face.new_name()))


async def undo(face: Face) -> None:
    """Store an item and take it back."""
    async with face.session() as db:
        db.add(Item(name=face.new_name()))
        await db.flush()
        await db.rollback()


@pytest.mark.backends("psycopg")
async def test_psycopg_prepares_once(face: Face) -> None:
    """psycopg prepares a statement once, at its sixth execution, and keeps it through all later units."""
    await face.connect()

    assert [1, 1, 1, 1, 1, 2] + 20 * [1] == [await read(face) for _ in range(PSYCOPG_PREPARES_AT + 20)]


@pytest.mark.backends("psycopg")
async def test_psycopg_keeps_statements_through_commits(face: Face) -> None:
    """A COMMIT between two reads does not make psycopg forget what it has prepared."""
    await face.connect()
    for _ in range(PSYCOPG_PREPARES_AT):
        await read(face)
    await write(face)

    assert [1] * 10 == [await read(face) for _ in range(10)]


@pytest.mark.backends("asyncpg")
async def test_asyncpg_prepares_once(face: Face) -> None:
    """asyncpg prepares a statement at its first execution and keeps it through reads, commits and rollbacks."""
    await face.connect()
    first = await read(face)
    await write(face)
    await undo(face)

    assert [2, 1, 1] == [first, await read(face), await read(face)]


@pytest.mark.backends("psycopg")
async def test_no_deallocate_among_reads(face: Face) -> None:
    """Reads never make psycopg send DEALLOCATE."""
    assert face.proxy is not None
    with face.proxy.counting() as trips:
        for _ in range(PSYCOPG_PREPARES_AT + 4):
            await read(face)

    assert [] == [flight for flight in trips.flights if b"DEALLOCATE" in flight.sent]
