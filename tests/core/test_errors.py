"""Errors of this library: codes, pages, and what they are to code that catches SQLAlchemy's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from sqlalchemy.exc import InvalidRequestError, SQLAlchemyError

from sessionlocal import errors

PAGES = Path(__file__).resolve().parents[2] / "docs" / "pitfalls"
KINDS = [getattr(errors, name) for name in errors.__all__ if getattr(errors, name).pitfall]


def test_no_two_errors_share_a_code() -> None:
    """A code leads to one error."""
    codes = [kind.pitfall for kind in KINDS]

    assert len(codes) == len(set(codes))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_each_error_has_a_page(kind: type[errors.SessionLocalError]) -> None:
    """The code of an error names a page, which is listed and which shows the error."""
    pages = list(PAGES.glob(f"{kind.pitfall}-*.md"))

    assert 1 == len(pages)
    assert kind.__name__ in pages[0].read_text()
    assert pages[0].name in (PAGES / "index.md").read_text()


@pytest.mark.parametrize(
    "kind", [errors.SessionClosed, errors.ReadOnlySession, errors.MixedSessions, errors.IsolationConflict]
)
def test_the_misuse_of_a_session_is_an_error_of_sqlalchemy_too(kind: type[errors.SessionMisuse]) -> None:
    """Code that catches SQLAlchemyError catches it, and its text ends with the code, not with a link to SQLAlchemy's
    pages."""
    error = kind("what happened")

    assert isinstance(error, InvalidRequestError)
    assert f"what happened [{kind.pitfall}]" == str(error)


def test_concurrent_use_carries_both_places() -> None:
    """The two call sites are attributes, for whoever reports them."""
    error = errors.ConcurrentUse("both", first="a.py:1", second="b.py:2")

    assert ("a.py:1", "b.py:2") == (error.first, error.second)
    assert isinstance(error, SQLAlchemyError)


def test_the_index_lists_no_page_that_does_not_exist() -> None:
    """Every link of the index leads to a page."""
    linked = re.findall(r"\((DBS[^)]+\.md)\)", (PAGES / "index.md").read_text())

    assert {page.name for page in PAGES.glob("DBS*.md")} == set(linked)
