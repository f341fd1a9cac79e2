"""The states of a lease: every pair of state and operation, by the table and on a real lease."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine
from sqlalchemy.exc import PendingRollbackError, ResourceClosedError

from sessionlocal.connection import MOVES, Lease, SessionEngine, State
from sessionlocal.dialects import edge_for

OPERATIONS = sorted({operation for _, operation in MOVES})


@pytest.fixture
def face(tmp_path: Path) -> Iterator[SessionEngine]:
    """The face of a SQLite engine towards sessions."""
    engine = create_engine(f"sqlite:///{tmp_path}/test.sqlite3", connect_args={"isolation_level": None})
    edge = edge_for(engine.dialect)
    yield SessionEngine(engine, edge=edge, begins_at_once=False, never_begins=False)
    assert 0 == engine.pool.checkedout()  # type: ignore[attr-defined]
    engine.dispose()


def lost(lease: Lease) -> None:
    """Take a lease to LOST: its connection breaks in the middle of a transaction."""
    lease.begin()
    lease.invalidate()


INTO: dict[State, Callable[[Lease], object]] = {
    State.IDLE: lambda lease: None,
    State.HELD: lambda lease: lease.checkout(),
    State.OPEN: lambda lease: lease.begin(),
    State.LOST: lost,
    State.CLOSED: lambda lease: lease.close(),
}
CALLS: dict[str, Callable[[Lease], object]] = {
    "checkout": lambda lease: lease.checkout(),
    "begin": lambda lease: lease.begin(),
    "commit": lambda lease: lease.commit(),
    "rollback": lambda lease: lease.rollback(),
    "invalidate": lambda lease: lease.invalidate(),
    "close": lambda lease: lease.close(),
}
LEADS_TO: dict[tuple[State, str], State | type[Exception]] = {
    (State.IDLE, "checkout"): State.HELD,
    (State.IDLE, "begin"): State.OPEN,
    (State.IDLE, "commit"): State.IDLE,
    (State.IDLE, "rollback"): State.IDLE,
    (State.IDLE, "invalidate"): State.IDLE,
    (State.IDLE, "close"): State.CLOSED,
    (State.HELD, "checkout"): State.HELD,
    (State.HELD, "begin"): State.OPEN,
    (State.HELD, "commit"): State.IDLE,
    (State.HELD, "rollback"): State.IDLE,
    (State.HELD, "invalidate"): State.IDLE,
    (State.HELD, "close"): State.CLOSED,
    (State.OPEN, "checkout"): State.OPEN,
    (State.OPEN, "begin"): State.OPEN,
    (State.OPEN, "commit"): State.IDLE,
    (State.OPEN, "rollback"): State.IDLE,
    (State.OPEN, "invalidate"): State.LOST,
    (State.OPEN, "close"): State.CLOSED,
    (State.LOST, "checkout"): PendingRollbackError,
    (State.LOST, "begin"): PendingRollbackError,
    (State.LOST, "commit"): PendingRollbackError,
    (State.LOST, "rollback"): State.LOST,  # the session asks for another lease
    (State.LOST, "invalidate"): State.LOST,
    (State.LOST, "close"): State.CLOSED,
    (State.CLOSED, "checkout"): ResourceClosedError,
    (State.CLOSED, "begin"): ResourceClosedError,
    (State.CLOSED, "commit"): State.CLOSED,
    (State.CLOSED, "rollback"): State.CLOSED,
    (State.CLOSED, "invalidate"): State.CLOSED,
    (State.CLOSED, "close"): State.CLOSED,
}


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_lease_moves_by_the_table_only(state: State, operation: str, face: SessionEngine) -> None:
    """A move that the table does not list is refused and changes nothing."""
    lease = Lease(face)
    lease.state = state
    if (state, operation) in MOVES:
        lease._move(operation)
        assert MOVES[state, operation] is lease.state
    else:
        with pytest.raises(KeyError):
            lease._move(operation)
        assert state is lease.state


def test_every_pair_is_listed() -> None:
    """The expectations below cover each state and each call."""
    assert {(state, call) for state in State for call in CALLS} == set(LEADS_TO)


@pytest.mark.parametrize(("state", "call"), LEADS_TO, ids=lambda value: getattr(value, "name", value))
def test_a_call_in_a_state(state: State, call: str, face: SessionEngine) -> None:
    """Each call, in each state, leads to one state or is refused; closing afterwards leaves nothing lent."""
    lease = Lease(face)
    INTO[state](lease)
    assert state is lease.state
    expected = LEADS_TO[state, call]
    if isinstance(expected, State):
        CALLS[call](lease)
        assert expected is lease.state
    else:
        with pytest.raises(expected):
            CALLS[call](lease)
        assert state is lease.state
    lease.close()


def test_closed_is_final() -> None:
    """No move leads out of CLOSED, and every state can be closed."""
    assert {State.CLOSED} == {end for (state, _), end in MOVES.items() if state is State.CLOSED}
    assert all((state, "close") in MOVES for state in State)
