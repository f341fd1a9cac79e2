"""What can be imported from ``sessionlocal``, when it is loaded, and what may be passed by position."""

from __future__ import annotations

import inspect
import subprocess
import sys
from typing import Any, get_args

import pytest
from fastapi.params import Depends

import sessionlocal
from sessionlocal import errors


def loaded_after(statement: str) -> set[str]:
    """Return which big packages a fresh interpreter has loaded after a statement."""
    watched = ("sqlalchemy", "fastapi", "starlette", "pydantic", "anyio", "asyncio")
    code = f"import sys; {statement}; print(*(name for name in {watched!r} if name in sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


@pytest.mark.parametrize("name", sessionlocal.__all__)
def test_each_public_name_can_be_imported(name: str) -> None:
    """What ``__all__`` promises is there, and is found again without being loaded twice."""
    found = getattr(sessionlocal, name)

    assert found is getattr(sessionlocal, name)


def test_the_names_are_listed_once_and_in_order() -> None:
    """``__all__``, ``dir()`` and the table of homes hold the same names."""
    assert sorted(set(sessionlocal.__all__)) == sorted(sessionlocal.__all__) == sorted(dir(sessionlocal))
    assert set(sessionlocal.HOMES) == set(sessionlocal.__all__)


def test_each_error_is_public() -> None:
    """Every error that the library raises can be caught by a name imported from ``sessionlocal``."""
    assert set(errors.__all__) <= set(sessionlocal.__all__)


def test_nothing_private_is_public() -> None:
    """No public name begins with an underscore."""
    assert [] == [name for name in sessionlocal.__all__ if name.startswith("_")]


def test_an_unknown_name_is_an_attribute_error() -> None:
    """A misspelt import says which name is missing."""
    with pytest.raises(AttributeError, match="has no attribute 'Databse'"):
        sessionlocal.__getattr__("Databse")


def test_importing_loads_neither_sqlalchemy_nor_fastapi() -> None:
    """Until a name is used, the package costs its own file only."""
    assert set() == loaded_after("import sessionlocal")


def test_the_errors_load_no_web_framework() -> None:
    """Code that only catches errors does not pull FastAPI in."""
    assert not {"fastapi", "starlette"} & loaded_after("from sessionlocal import SessionClosed")


@pytest.mark.parametrize("name", ["SessionDep", "SyncSessionDep", "ReadSessionDep"])
def test_an_alias_is_an_annotated_session(name: str) -> None:
    """The aliases are ``Annotated[<SQLAlchemy's class>, Depends(<ours>)]``."""
    session, depends = get_args(getattr(sessionlocal, name))

    assert session.__module__.startswith("sqlalchemy.")
    assert isinstance(depends, Depends)


def public_calls() -> list[Any]:
    """Return every public method of a Database, and every public function."""
    methods = [
        pytest.param(function, id=f"Database.{name}")
        for name, function in inspect.getmembers(sessionlocal.Database, inspect.isfunction)
        if not name.startswith("_")
    ]
    functions = [
        pytest.param(found, id=name)
        for name in sessionlocal.__all__
        if inspect.isfunction(found := getattr(sessionlocal, name))
    ]
    return [*methods, *functions]


@pytest.mark.parametrize("function", public_calls())
def test_options_are_keyword_only(function: Any) -> None:
    """What has a default cannot be passed by position."""
    parameters = inspect.signature(function).parameters.values()

    assert [] == [p.name for p in parameters if p.default is not p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]


def test_a_database_takes_its_url_by_position_only() -> None:
    """``Database(url)`` is the one positional argument; everything else has a name."""
    with pytest.raises(TypeError, match="positional"):
        sessionlocal.Database("sqlite:///:memory:", "sqlite:///other.db")  # type: ignore[call-arg]
