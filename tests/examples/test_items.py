"""The items example does what its routes say, on each database."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.support.backends import Backend

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "items"
TEA = {"name": "tea", "price": "3.50", "stock": 5}


@pytest.fixture
def client(async_backend: Backend, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """A client of the example, started on an empty database."""
    monkeypatch.setenv("DATABASE_URL", async_backend.url)
    monkeypatch.syspath_prepend(str(EXAMPLE))
    for name in ("main", "models"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    names: dict[str, Any] = runpy.run_path(str(EXAMPLE / "main.py"))
    with TestClient(names["app"]) as opened:
        yield opened
    for name in ("main", "models"):
        sys.modules.pop(name, None)


def test_an_item_can_be_stored_read_and_deleted(client: TestClient) -> None:
    """What is posted can be read back, listed and deleted."""
    item = client.post("/items", json=TEA).json()

    assert item == client.get(f"/items/{item['id']}").json()
    assert [item] == client.get("/items").json()
    assert 204 == client.delete(f"/items/{item['id']}").status_code
    assert 404 == client.get(f"/items/{item['id']}").status_code


def test_a_taken_name_is_a_conflict(client: TestClient) -> None:
    """A second item of the same name is a 409 problem, and is not stored."""
    client.post("/items", json=TEA)

    refused = client.post("/items", json=TEA)

    assert (409, "application/problem+json") == (refused.status_code, refused.headers["content-type"])
    assert 1 == len(client.get("/items").json())


def test_stock_never_falls_below_nothing(client: TestClient) -> None:
    """A change that would sell more than there is changes nothing."""
    item = client.post("/items", json=TEA).json()

    assert 2 == client.post(f"/items/{item['id']}/stock", json={"by": -3}).json()["stock"]
    assert 409 == client.post(f"/items/{item['id']}/stock", json={"by": -3}).status_code
    assert 2 == client.get(f"/items/{item['id']}").json()["stock"]


def test_the_documentation_is_served(client: TestClient) -> None:
    """The start page leads to the OpenAPI documentation."""
    assert "Items" in client.get("/").text
    assert {"/items", "/items/{item_id}", "/items/{item_id}/stock"} == set(client.get("/openapi.json").json()["paths"])
