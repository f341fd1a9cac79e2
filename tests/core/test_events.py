"""Facts reach their subscribers, and nobody depends on there being one."""

from __future__ import annotations

import pytest

from sessionlocal.events import Committed, Facts


def test_a_subscriber_hears_until_it_leaves() -> None:
    """A subscriber gets each fact, in order, until it ends its subscription."""
    facts, heard = Facts(), []
    leave = facts.subscribe(heard.append)

    facts.state(Committed("POST /items", "shop"))
    leave()
    facts.state(Committed("POST /orders", "shop"))

    assert [Committed("POST /items", "shop")] == heard


def test_a_failing_subscriber_disturbs_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """Its error is logged; the others hear the fact, and so does whoever stated it go on."""
    facts, heard = Facts(), []

    def fail(fact: object) -> None:
        raise RuntimeError("broken listener")

    facts.subscribe(fail)
    facts.subscribe(heard.append)

    facts.state(Committed("POST /items", "shop"))

    assert 1 == len(heard)
    assert "a subscriber failed on Committed" in caplog.text
