"""Facts that the library states; whoever wants them subscribes.

A fact is a frozen dataclass. With no subscriber, stating one costs one attribute read; a subscriber that raises is
logged and does not disturb the work that the fact is about.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Committed:
    """A session's work was committed by the library. ``unit`` names the request or the block."""

    unit: str
    database: str


@dataclass(frozen=True, slots=True)
class RolledBack:
    """Work that a session had written, or was about to write, was rolled back by the library."""

    unit: str
    database: str
    reason: str


@dataclass(frozen=True, slots=True)
class CommitFailed:
    """The commit at the end of a request or block failed; nothing of it is stored."""

    unit: str
    database: str
    error: BaseException


Fact: TypeAlias = Committed | RolledBack | CommitFailed
Subscriber: TypeAlias = Callable[[Any], None]


class Facts:
    """The subscribers of one Database."""

    __slots__ = ("subscribers",)

    def __init__(self) -> None:
        self.subscribers: tuple[Subscriber, ...] = ()

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        """Call ``subscriber`` with each fact from now on; return a function that ends the subscription."""
        self.subscribers = (*self.subscribers, subscriber)

        def unsubscribe() -> None:
            self.subscribers = tuple(other for other in self.subscribers if other is not subscriber)

        return unsubscribe

    def state(self, fact: Fact) -> None:
        """Tell every subscriber."""
        for subscriber in self.subscribers:
            try:
                subscriber(fact)
            except Exception:
                log.exception("a subscriber failed on %s", type(fact).__name__)
