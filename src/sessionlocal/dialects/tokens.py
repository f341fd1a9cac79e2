r"""The tokens of a SQL statement, as its server will read them.

Promises: one pass, in time that grows with the length of the text; it never raises. Where this scanner, a driver and a
server could disagree about the end of a string, a comment or a name, there is no answer (``None``) rather than a guess:
``'\'`` ends in one mode of PostgreSQL and MySQL and goes on in the other, ``/*! */`` is code on MySQL, a comment within
a comment nests on PostgreSQL only, and a placeholder within a string is filled in by the driver on MySQL.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

Token = tuple[str, str]
"""A kind (``word``, ``quoted``, ``string``, ``number``, ``parameter``, ``punctuation``, ``operator``) and the text.
Words are in upper case; those that are not ASCII stay as they are, since no keyword is among them."""

NOTHING: Token = ("", "")


def _scanner(
    *, percent: str, line: str, block: str, string: str, quoted: str, parameter: str, operator: str, marks: str = ""
) -> re.Pattern[str]:
    """Build a scanner. ``percent`` is how a percent sign may stand inside of a string, a quoted name or a comment;
    ``line`` and ``block`` start the two kinds of comment."""
    return re.compile(
        rf"""
          (?P<space>[ \t\n\r\f]++)
        | (?P<comment>{line}(?:[^\r\n%]|{percent})*+(?=\r?\n|\Z)|{block}(?:[^*/%]|{percent}|\*(?!/)|/(?!\*))*+\*/)
        | (?P<string>{string})
        | (?P<quoted>{quoted})
        | (?P<number>(?:0[xX][0-9a-fA-F]++|[0-9]++(?:\.[0-9]*+)?+(?:[eE][-+]?[0-9]++)?+)(?![\w$.]))
        | (?P<parameter>{parameter})
        | (?P<word>[^\W\d][\w$]*+)
        | (?P<cast>::)
        | (?P<punctuation>[(),.;{marks}])
        | (?P<operator>(?!--|/\*|\*/(?!\*))(?:{operator}))
        | (?P<unknown>.)
        """,
        re.VERBOSE | re.DOTALL,
    )


def _enclosed(quote: str, percent: str) -> str:
    """What both modes of a server, backslashes escape and backslashes are letters, end at the same quote."""
    return rf"{quote}(?:[^{quote}\\%]|{quote}{quote}|{percent}|\\(?:[^{quote}%]|{percent}))*+{quote}"


FORMAT = r"%\(\w+\)s(?![\w$])|%s(?![\w$])"
OUTSIDE_PLACEHOLDERS = r"%(?!\()"  # psycopg takes "%(" for the start of a placeholder, wherever it stands.
DOUBLED = "%%"  # A single "%" is a placeholder on MySQL, and a value would land in the middle of a token.

POSTGRESQL = _scanner(
    percent=OUTSIDE_PLACEHOLDERS,
    line="--",
    block=r"/\*",
    string=_enclosed("'", OUTSIDE_PLACEHOLDERS),
    quoted=rf'"(?:[^"%]|""|{OUTSIDE_PLACEHOLDERS})*+"',
    parameter=rf"{FORMAT}|\$[0-9]++(?![\w$])",
    operator=r"[-+*/<>=~!@\#^&|?:]|%%|%(?![sbt(])",
    marks=r"\[\]",
)
MYSQL = _scanner(
    percent=DOUBLED,
    line=r"(?:--(?=[ \t\r\n]|\Z)|\#)",
    block=r"/\*(?!M?!)",
    string=f"{_enclosed(chr(39), DOUBLED)}|{_enclosed(chr(34), DOUBLED)}",
    quoted=rf"`(?:[^`%]|``|{DOUBLED})*+`",
    parameter=FORMAT,
    operator="[-+*/<>=~!@^&|:]|%%",
)
SQLITE = _scanner(
    percent="%",
    line="--",
    block=r"/\*",
    string="'(?:[^']|'')*+'",
    quoted=r'"(?:[^"]|"")*+"|`(?:[^`]|``)*+`|\[[^\]]*+\]',
    parameter=r"\?[0-9]*+(?![\w$])|[:@][^\W\d]\w*+",
    operator="[-+*/<>=~!&|%]",
)
SCANNERS = {"postgresql": POSTGRESQL, "mysql": MYSQL, "mariadb": MYSQL, "sqlite": SQLITE}


def scan(sql: str, dialect: str) -> Iterator[Token | None]:
    """Yield the tokens that matter to a server; ``None``, and then no more, at the first thing that is not certain."""
    for match in SCANNERS[dialect].finditer(sql):
        kind = match.lastgroup or "unknown"
        if kind == "unknown":
            yield None
            return
        if kind not in ("space", "comment"):
            text = match.group()
            yield (kind, text.upper() if kind == "word" and text.isascii() else text)


def first_word(sql: str, dialect: str) -> str:
    """Return the word that a statement begins with, parentheses aside, or an empty string. Reads no further."""
    for token in scan(sql, dialect):
        if token is None or token[0] == "word":
            return "" if token is None else token[1]
        if token[1] != "(":
            return ""
    return ""


def read(sql: str, dialect: str) -> Statement | None:
    """Return the tokens of one statement, or ``None`` where they are not certain or the parentheses do not match."""
    tokens: list[Token] = []
    for token in scan(sql, dialect):
        if token is None:
            return None
        tokens.append(token)
    while tokens and tokens[-1] == ("punctuation", ";"):
        tokens.pop()
    pairs = _pairs(tokens)
    return None if pairs is None else Statement(tokens, pairs)


def _pairs(tokens: Sequence[Token]) -> dict[int, int] | None:
    """Return the place of each parenthesis's partner."""
    pairs: dict[int, int] = {}
    opened: list[int] = []
    for place, (_, text) in enumerate(tokens):
        if text == "(":
            opened.append(place)
        elif text == ")":
            if not opened:
                return None
            opening = opened.pop()
            pairs[opening], pairs[place] = place, opening
    return None if opened else pairs


class Statement:
    """The tokens of one statement. A place before the first or after the last holds ``NOTHING``."""

    __slots__ = ("pairs", "tokens")

    def __init__(self, tokens: Sequence[Token], pairs: dict[int, int]) -> None:
        self.tokens = tokens
        self.pairs = pairs

    def __repr__(self) -> str:
        return f"<Statement {' '.join(text for _, text in self.tokens)}>"

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, place: int) -> Token:
        return self.tokens[place] if 0 <= place < len(self.tokens) else NOTHING

    def word(self, place: int) -> str:
        """Return the word at a place, in upper case; an empty string if something else is there."""
        kind, text = self[place]
        return text if kind == "word" else ""

    def mark(self, place: int) -> str:
        """Return the punctuation mark at a place; an empty string if something else is there."""
        kind, text = self[place]
        return text if kind == "punctuation" else ""

    def words(self) -> Iterator[tuple[int, str]]:
        """Yield the place and the text of each word."""
        return ((place, text) for place, (kind, text) in enumerate(self.tokens) if kind == "word")
