"""Settings, URLs and engine defaults: everything that is decided before the first connection.

Three things are owned here. Where a setting comes from: keyword, environment, file, ``.env``, ``pyproject.toml``. What
a pasted URL means, and which driver serves it. Which arguments each driver gets, so that time limits are set once per
connection and never per request.

Promises: the result is one frozen value, and no server is talked to. A URL is made to work, or refused with the reason
and the way out. An option that nobody knows is refused with a suggestion. No password, and no text that could be one,
is in a message, a log line or a repr.
"""

from __future__ import annotations

import difflib
import importlib.util
import inspect
import logging
import math
import os
import re
import secrets
import sqlite3
import ssl
import tomllib
import uuid
import weakref
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias, cast
from urllib.parse import urlencode

from pydantic import Field, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from sqlalchemy import exc
from sqlalchemy.engine import URL, Dialect, Engine, make_url
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session
from sqlalchemy.pool import AsyncAdaptedQueuePool, QueuePool, SingletonThreadPool, StaticPool
from sqlalchemy.util import get_cls_kwargs

from .errors import ConfigurationError

__all__ = [
    "SQLITE_PRAGMAS",
    "Arguments",
    "Config",
    "Normalised",
    "Target",
    "load",
    "mask",
    "normalise",
    "sqlite_pragmas",
]

log = logging.getLogger(__name__)

Begin: TypeAlias = Literal["first-write", "first-statement"]
Pooler: TypeAlias = Literal["transaction"]

DEVELOPMENT_LINE = "DATABASE_URL=sqlite:///./app.db"
EXAMPLE = "postgresql://user:password@host:5432/name"

# -- defaults; docs/configuration.md gives the reasons to users

STATEMENT_TIMEOUT = 30.0  # seconds. Proxies give up on a request after 30 to 60: what comes later reaches nobody.
LOCK_TIMEOUT = 10.0  # seconds. Below STATEMENT_TIMEOUT, so that the error says "lock" and not "slow".
IDLE_IN_TRANSACTION_TIMEOUT = (
    60.0  # seconds. Frees the locks of a worker that hangs; no request idles so long on purpose.
)
CONNECT_TIMEOUT = 10.0  # seconds. TCP repeats a lost SYN after 1, 3 and 7 seconds; a host that is silent then is down.
LATE_UNIT_TIMEOUT = 30.0  # seconds. What a response still writes once it has started, nobody waits for.
CLEANUP_TIMEOUT = 5.0  # seconds. A rollback that takes longer has lost its server; the connection is closed instead.

# Four workers of ten connections, twice while a new release starts beside the old one: 80 of PostgreSQL's default 100.
SERVER_ENGINE_OPTIONS: Mapping[str, Any] = {
    "pool_size": 10,
    "max_overflow": 0,  # a burst waits for a query to end, which is shorter than connecting
    "pool_timeout": 10.0,  # seconds. Ends before the proxy in front gives up, so that the client gets an answer
    "pool_recycle": 1800,  # seconds. Follows a failed-over DNS name, and ends before MySQL's wait_timeout
    "hide_parameters": True,  # row values stay out of logs and error messages, also with echo=True
}
# Each aiosqlite connection is a thread, and SQLite has one writer whatever the pool: five readers are plenty.
SQLITE_ENGINE_OPTIONS: Mapping[str, Any] = {**SERVER_ENGINE_OPTIONS, "pool_size": 5, "pool_recycle": -1}
SQLITE_PRAGMAS: Mapping[str, str] = {
    "journal_mode": "WAL",  # readers and the writer do not wait for each other
    "synchronous": "NORMAL",  # safe under WAL when the process dies; one fsync per checkpoint, not one per commit
    "foreign_keys": "ON",  # SQLite ignores them otherwise
}
SHARED_MEMORY_SINCE = (3, 36, 0)  # the SQLite whose in-memory databases connections can share with ordinary locks
LONGEST = 31_536_000  # seconds, a year: the longest connect_timeout that PyMySQL accepts, and good enough for "none"


# -- the result


class Arguments(Mapping[str, Any]):
    """Keyword arguments, read-only. Their repr names them and shows no value, since one may be a password."""

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = dict(values)

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"<Arguments {' '.join(self._values) or 'none'}>"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Target:
    """What one engine is made of: a URL that names its driver, what the driver gets, what ``create_engine`` gets."""

    url: URL
    connect_args: Arguments
    engine_options: Arguments
    begin: Begin

    def __repr__(self) -> str:
        return f"<Target {mask(self.url)} begin={self.begin}>"


@dataclass(frozen=True, slots=True, eq=False, repr=False, kw_only=True, weakref_slot=True)
class Config:
    """Every setting of one database, decided. Names without ``sync`` belong to the async engine and its sessions.

    An in-memory SQLite database lives as long as its Config: keep a reference.

    Attributes:
        address: the URL as it may be shown, password masked. Unlike ``url`` it exists whatever drivers are installed.
        name: what messages call the database: its name on the server, its file, or ``in memory``.
        dialect: ``postgresql``, ``mysql``, ``mariadb``, ``sqlite``, or another of SQLAlchemy's names.
        isolation_level: what was asked for, in SQLAlchemy's spelling; it is not among the engine options.
        pooler: ``"transaction"`` behind a pooler that may change the server connection after each transaction.
        cleanup_timeout: seconds that the rollback or close of a cancelled request may take.
        late_unit_timeout: seconds that a unit may stay open which began after the response had started.
    """

    address: str
    name: str
    dialect: str
    targets: tuple[Target | ConfigurationError, Target | ConfigurationError]
    session_class: type[AsyncSession]
    sync_session_class: type[Session]
    session_options: Arguments
    isolation_level: str | None
    pooler: Pooler | None
    statement_timeout: float | None
    lock_timeout: float | None
    idle_in_transaction_timeout: float | None
    connect_timeout: float | None
    cleanup_timeout: float
    late_unit_timeout: float
    application_name: str

    def target(self, *, sync: bool) -> Target:
        """Return what the async or the sync engine is made of.

        Raises:
            ConfigurationError: there is no driver of that kind, or it cannot do what the URL asks for.
        """
        found = self.targets[sync]
        if isinstance(found, ConfigurationError):
            raise found.with_traceback(None)
        return found

    @property
    def url(self) -> URL:
        """The URL for ``create_async_engine``."""
        return self.target(sync=False).url

    @property
    def sync_url(self) -> URL:
        """The URL for ``create_engine``."""
        return self.target(sync=True).url

    @property
    def async_connect_args(self) -> Arguments:
        """What the async driver gets besides the URL."""
        return self.target(sync=False).connect_args

    @property
    def sync_connect_args(self) -> Arguments:
        """What the sync driver gets besides the URL."""
        return self.target(sync=True).connect_args

    @property
    def engine_options(self) -> Arguments:
        """The other arguments of ``create_async_engine``."""
        return self.target(sync=False).engine_options

    @property
    def sync_engine_options(self) -> Arguments:
        """The other arguments of ``create_engine``."""
        return self.target(sync=True).engine_options

    @property
    def begin(self) -> Begin:
        """What begins a transaction of an async session."""
        return self.target(sync=False).begin

    @property
    def sync_begin(self) -> Begin:
        """What begins a transaction of a sync session, whose driver may be able to promise less."""
        return self.target(sync=True).begin

    def __repr__(self) -> str:
        found = [target for target in self.targets if isinstance(target, Target)]
        drivers = "+".join(dict.fromkeys(_driver(target.url) for target in found))
        return f"<Config {self.address} drivers={drivers} begin={found[0].begin}>"


def load(url: object = None, *, default: str | URL | None = None, **options: Any) -> Config:
    """Read the settings and decide everything that an engine and its sessions need.

    Each setting is the first of: keyword, ``DATABASE_*`` in the environment, ``.env``, ``[tool.sessionlocal]`` in the
    nearest pyproject.toml. For the URL, the file named by ``DATABASE_URL_FILE`` comes after the environment.

    Args:
        url: a URL as text, as SQLAlchemy's or pydantic's object, or as a ``SecretStr``.
        default: the URL to use when no setting names one; a warning says so.
        options: those of this library, of ``create_engine`` and of ``Session``. ``None`` as a time limit leaves it to
            the server, 0 means no limit.

    Raises:
        ConfigurationError: a setting is missing, misspelt or impossible, or no driver is installed.
    """
    settings = _settings(options)
    chosen, name = _chosen_url(url, settings.pop("url", None), default)
    parsed = _read(chosen, name)
    shared = _share_memory(parsed)
    config = _decide(parsed, shared, name, settings, options)
    _keep_memory(config, shared)
    return config


# -- where settings come from

Seconds: TypeAlias = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Echo: TypeAlias = bool | Literal["debug"]


class _Settings(BaseSettings):
    """The settings that are plain values, and the types that they are checked against.

    A default that is written as a number or a truth only satisfies the type: whether somebody set it is what counts.
    """

    model_config = SettingsConfigDict(
        env_prefix="DATABASE_",
        env_file=".env",
        env_file_encoding="utf-8",
        env_ignore_empty=True,
        env_parse_none_str="none",
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
    )

    url: str | None = None
    url_file: str | None = None
    begin: Begin | None = None
    pooler: Pooler | None = None
    statement_timeout: Seconds | None = STATEMENT_TIMEOUT
    lock_timeout: Seconds | None = LOCK_TIMEOUT
    idle_in_transaction_timeout: Seconds | None = IDLE_IN_TRANSACTION_TIMEOUT
    connect_timeout: Seconds | None = CONNECT_TIMEOUT
    cleanup_timeout: Annotated[float, Field(gt=0, allow_inf_nan=False)] = CLEANUP_TIMEOUT
    late_unit_timeout: Annotated[float, Field(gt=0, allow_inf_nan=False)] = LATE_UNIT_TIMEOUT
    application_name: str = "sessionlocal"
    isolation_level: str | None = None
    pool_size: Annotated[int, Field(ge=0)] = 0
    max_overflow: Annotated[int, Field(ge=-1)] = 0
    pool_timeout: Seconds = 0
    pool_recycle: Annotated[int, Field(ge=-1)] = 0
    pool_pre_ping: bool = False
    pool_use_lifo: bool = False
    echo: Echo = False
    echo_pool: Echo = False
    hide_parameters: bool = True
    expire_on_commit: bool = False
    autoflush: bool = True

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the sources, first wins. A file that one of them names counts right after it."""
        return (
            init_settings,
            env_settings,
            _UrlFile(settings_cls),
            dotenv_settings,
            _UrlFile(settings_cls),
            _Pyproject(settings_cls),
            _UrlFile(settings_cls),
        )


class _Source(PydanticBaseSettingsSource):
    """A source that gives all it has at once."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return None, field_name, False


class _UrlFile(_Source):
    """The file that ``DATABASE_URL_FILE`` names, such as a Docker secret; read if no earlier source gave the URL."""

    def __call__(self) -> dict[str, Any]:
        path = self.current_state.get("url_file")
        if not path or self.current_state.get("url") is not None:
            return {}
        return {"url": _read_file(path, "DATABASE_URL_FILE").rstrip("\r\n")}


class _Pyproject(_Source):
    """The table ``[tool.sessionlocal]`` of the nearest pyproject.toml. Its sub-tables belong to tools."""

    def __call__(self) -> dict[str, Any]:
        path = _nearest_pyproject()
        if path is None:
            return {}
        try:
            document = tomllib.loads(_read_file(path, "pyproject.toml"))
        except tomllib.TOMLDecodeError as error:
            raise ConfigurationError(f"{path} is not valid TOML: {error}") from None
        table = document.get("tool", {}).get("sessionlocal", {})
        found = {key.replace("-", "_"): value for key, value in table.items() if not isinstance(value, dict)}
        for key in found.keys() - _Settings.model_fields.keys():
            raise ConfigurationError(f"[tool.sessionlocal] in {path}: {_unknown(key, _Settings.model_fields)}")
        return found


def _nearest_pyproject() -> Path | None:
    here = Path.cwd()
    candidates = (folder / "pyproject.toml" for folder in (here, *here.parents))
    return next((path for path in candidates if path.is_file()), None)


def _read_file(path: str | Path, name: str) -> str:
    try:
        return Path(path).expanduser().read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"{name}: {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{name}: {path} is not a text file in UTF-8") from None


def _settings(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that somebody set, checked; ``options`` are the keywords."""
    _warn_about_near_misses()
    keywords = {name: options[name] for name in options.keys() & (_Settings.model_fields.keys() - {"url_file"})}
    try:
        found = _Settings(**keywords)
    except ValidationError as error:
        raise ConfigurationError("; ".join(_complaints(error, keywords))) from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{Path('.env').absolute()} is not a text file in UTF-8") from None
    except OSError as error:
        raise ConfigurationError(f"{Path('.env').absolute()} cannot be read: {error.strerror}") from None
    return found.model_dump(exclude_unset=True, exclude={"url_file"})


def _complaints(error: ValidationError, keywords: Mapping[str, Any]) -> Iterator[str]:
    """Say which setting has the wrong kind of value, never the value."""
    entries = {str(entry["loc"][0]): entry["msg"] for entry in error.errors()}
    for field, message in entries.items():
        yield f"{_where(field, keywords)}: {message[:1].lower()}{message[1:]}"


def _where(field: str, keywords: Mapping[str, Any]) -> str:
    variable = f"DATABASE_{field.upper()}"
    if field in keywords:
        return f"{field}="
    if variable in {name.upper() for name in os.environ}:
        return variable
    return f"{variable} in .env, or {field} in [tool.sessionlocal]"


def _warn_about_near_misses() -> None:
    """Warn about ``DATABASE_POOL_SISE``. Other ``DATABASE_*`` variables belong to somebody else and are left alone."""
    known = [name.upper() for name in _Settings.model_fields]
    for variable in os.environ:
        prefix, _, suffix = variable.upper().partition("_")
        if prefix != "DATABASE" or suffix in known or len(suffix) <= len("URLS"):
            continue
        if close := difflib.get_close_matches(suffix, known, n=1, cutoff=0.8):
            log.warning("%s is no setting and is ignored; did you mean DATABASE_%s?", variable, close[0])


# What other libraries and hosts call it.
OTHER_NAMES = (
    "DATABASE_URI DB_URL DB_URI POSTGRES_URL POSTGRESQL_URL MYSQL_URL "
    "SQLALCHEMY_DATABASE_URL SQLALCHEMY_DATABASE_URI SQLALCHEMY_URL"
).split()


def _chosen_url(keyword: object, setting: str | None, default: str | URL | None) -> tuple[str | URL, str]:
    """Return the URL to use, and how messages call it."""
    if keyword is not None:
        return _text_or_url(keyword), "url"
    if setting is not None and setting.strip():
        return setting, "DATABASE_URL"
    # An empty variable is a broken deployment, not a wish for the default.
    if setting is not None or "DATABASE_URL" in os.environ:
        raise ConfigurationError(f"DATABASE_URL is set but empty; give it a value. For development: {DEVELOPMENT_LINE}")
    if default is None:
        raise ConfigurationError(_unset())
    return _absolute(_read(default, "default")), "default"


def _text_or_url(url: object) -> str | URL:
    if isinstance(url, SecretStr):
        return url.get_secret_value()
    if isinstance(url, (str, URL)):
        return url
    if "unicode_string" in dir(url):  # PostgresDsn and the other URL types of pydantic
        return str(url)
    raise ConfigurationError(f"url must be text or a SQLAlchemy URL, not {type(url).__name__}")


def _unset() -> str:
    dotenv, pyproject = Path(".env").absolute(), _nearest_pyproject()
    places = [
        "the first argument of Database()",
        "DATABASE_URL and DATABASE_URL_FILE in the environment",
        f"{dotenv} ({'no such line' if dotenv.is_file() else 'no such file'})",
        f"[tool.sessionlocal] in {pyproject} (no url)" if pyproject else "pyproject.toml (no such file)",
    ]
    others = [name for name in OTHER_NAMES if name in os.environ]
    hint = f" {others[0]} is set: rename it, or write Database(os.environ[{others[0]!r}])." if others else ""
    return f"DATABASE_URL is not set. Looked in: {'; '.join(places)}.{hint} For development: {DEVELOPMENT_LINE}"


def _absolute(url: URL) -> URL:
    """Return the default URL, a SQLite file by its absolute path, and say in the log what is used."""
    if url.get_backend_name() == "sqlite" and not _is_memory(url) and not str(url.database).startswith("file:"):
        url = url.set(database=os.path.abspath(str(url.database)))
    log.warning("DATABASE_URL is not set: using default=%s", mask(url))
    return url


# -- options

# What this library interprets itself. The rest goes to create_engine or to the sessions.
OWN_OPTIONS = frozenset(
    "application_name begin cleanup_timeout connect_args connect_timeout idle_in_transaction_timeout isolation_level "
    "late_unit_timeout lock_timeout pooler session_class statement_timeout sync_connect_args sync_session_class".split()
)
# What create_engine takes besides the parameters of its dialect, pool and engine classes.
ENGINE_OPTIONS = frozenset(
    "async_creator creator enable_from_linting execution_options future module plugins pool poolclass".split()
)
NOT_FOR_USERS = frozenset("_dispatch compiler_linting dbapi dialect events url".split())
# What the parameters of pool classes are called in create_engine.
POOL_NAMES: Mapping[str, str] = {
    "echo": "echo_pool",
    "logging_name": "pool_logging_name",
    "pre_ping": "pool_pre_ping",
    "recycle": "pool_recycle",
    "reset_on_return": "pool_reset_on_return",
    "timeout": "pool_timeout",
    "use_lifo": "pool_use_lifo",
}
POOL_OPTIONS = frozenset({"pool_size", "max_overflow", *POOL_NAMES.values()})
ADVICE: Mapping[str, str] = {
    "autocommit": "a session commits when you call commit(), or when its request succeeds",
    "bind": "a Database makes its engines from its URL; for an engine of your own use SQLAlchemy's sessionmaker",
    "class_": "did you mean 'session_class' or 'sync_session_class'?",
    "max_connections": "did you mean 'pool_size'?",
    "max_size": "did you mean 'pool_size'?",
    "ssl": "write it into the URL (?sslmode=require) or into connect_args",
    "sslmode": "write it into the URL (?sslmode=require) or into connect_args",
}
SERVER_ISOLATION_LEVELS = ("READ UNCOMMITTED", "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE", "AUTOCOMMIT")
SQLITE_ISOLATION_LEVELS = ("READ UNCOMMITTED", "SERIALIZABLE", "AUTOCOMMIT")


@dataclass(frozen=True, slots=True)
class Limits:
    """What every connection is told when it is opened. ``None`` leaves a limit to the server, 0 means no limit."""

    statement: float | None
    lock: float | None
    idle_in_transaction: float | None
    connect: float | None
    application_name: str


@dataclass(frozen=True, slots=True)
class Wish:
    """One URL with what was asked of its connections and engines, before drivers are chosen."""

    url: URL
    source: str
    connect_args: tuple[Mapping[str, Any], Mapping[str, Any]]
    engine_options: Mapping[str, Any]
    limits: Limits
    pooler: Pooler | None
    begin: Begin | None


def _decide(parsed: URL, url: URL, source: str, settings: Mapping[str, Any], options: Mapping[str, Any]) -> Config:
    """Turn the URL, the checked settings and the keywords into the Config."""
    given = {**options, **settings}
    own = {**_Settings.model_construct().model_dump(), **given}
    session_class, sync_session_class = _session_classes(own)
    session_names = _session_option_names(session_class, sync_session_class)
    for_engines = {name: given[name] for name in given if name not in OWN_OPTIONS | session_names}
    isolation_level, for_engines = _isolation_level(own["isolation_level"], for_engines, url)
    wish = Wish(
        url=url,
        source=source,
        connect_args=_user_connect_args(own),
        engine_options=for_engines,
        limits=Limits(
            own["statement_timeout"],
            own["lock_timeout"],
            own["idle_in_transaction_timeout"],
            own["connect_timeout"],
            own["application_name"],
        ),
        pooler=own["pooler"] if "pooler" in settings else _hinted_pooler(url, source),
        begin=own["begin"],
    )
    targets = _targets(wish)
    _refuse_unknown_options(options, targets, session_names)
    _say_what_is_lost(wish, targets, settings)
    return Config(
        address=mask(parsed),
        name="in memory" if _is_memory(url) else (url.database or url.get_backend_name()),
        dialect=url.get_backend_name(),
        targets=targets,
        session_class=session_class,
        sync_session_class=sync_session_class,
        session_options=Arguments({"expire_on_commit": False} | {n: given[n] for n in given if n in session_names}),
        isolation_level=isolation_level,
        pooler=wish.pooler,
        statement_timeout=wish.limits.statement,
        lock_timeout=wish.limits.lock,
        idle_in_transaction_timeout=wish.limits.idle_in_transaction,
        connect_timeout=wish.limits.connect,
        cleanup_timeout=own["cleanup_timeout"],
        late_unit_timeout=own["late_unit_timeout"],
        application_name=wish.limits.application_name,
    )


def _targets(wish: Wish) -> tuple[Target | ConfigurationError, Target | ConfigurationError]:
    """Return what both engines are made of. What only the URL's other side cannot do is told when that is used."""
    asynchronous, synchronous = (_target(wish, sync=sync) for sync in (False, True))
    main, other = (synchronous, asynchronous) if _names_sync_driver(wish.url) else (asynchronous, synchronous)
    if isinstance(main, ConfigurationError):
        is_optional = isinstance(main, _NoDriver) and not main.named
        if not is_optional or isinstance(other, ConfigurationError):
            raise main.with_traceback(None)
    return asynchronous, synchronous


def _target(wish: Wish, *, sync: bool) -> Target | ConfigurationError:
    try:
        url = _with_driver(wish.url, wish.source, sync=sync, pooler=wish.pooler)
        address, connect_args = _translate(url, wish.connect_args[sync], wish.limits, wish.pooler, wish.source)
        return Target(
            url=address,
            connect_args=Arguments(connect_args),
            engine_options=Arguments(_engine_options(address, wish.engine_options, sync=sync)),
            begin=_begin(_driver(address), wish),
        )
    except ConfigurationError as error:
        return error


def _begin(driver: str, wish: Wish) -> Begin:
    if driver not in PROMISED_DRIVERS:
        return "first-statement"
    if wish.begin is not None:
        return wish.begin
    # Under asyncpg a statement is prepared in one flight and run in the next. Outside a transaction the pooler may send
    # the second one to another server connection, which has never heard of the statement.
    return "first-statement" if wish.pooler == "transaction" and driver == "asyncpg" else "first-write"


def _user_connect_args(own: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return the connect arguments for the async and the sync driver; one mapping serves both unless there are two."""
    shared = own.get("connect_args") or {}
    for_sync = own.get("sync_connect_args", shared)
    if not isinstance(shared, Mapping) or not isinstance(for_sync, Mapping):
        raise ConfigurationError("connect_args and sync_connect_args must be mappings")
    return shared, for_sync


def _session_classes(own: Mapping[str, Any]) -> tuple[type[AsyncSession], type[Session]]:
    """Return the session classes. The sync one follows from the async one, as it does in SQLModel."""
    asked = own.get("session_class") or AsyncSession
    if not (isinstance(asked, type) and issubclass(asked, AsyncSession)):
        is_sync = isinstance(asked, type) and issubclass(asked, Session)
        advice = "; did you mean 'sync_session_class'?" if is_sync else ""
        raise ConfigurationError(f"session_class must be a subclass of sqlalchemy.ext.asyncio.AsyncSession{advice}")
    sync = own.get("sync_session_class") or asked.sync_session_class
    if not (isinstance(sync, type) and issubclass(sync, Session)):
        raise ConfigurationError("sync_session_class must be a subclass of sqlalchemy.orm.Session")
    return asked, sync


def _session_option_names(*classes: type) -> set[str]:
    """Return what the constructors of session classes take, each passing its ``**kw`` on to its bases."""
    names: set[str] = set()
    for base in (base for cls in classes for base in cls.__mro__ if base is not object and "__init__" in vars(base)):
        names |= inspect.signature(vars(base)["__init__"]).parameters.keys()
    # execution_options reach every statement through the engine; the others are no options of a session that we make.
    return names - set("self args kw kwargs bind autocommit future execution_options sync_session_class".split())


def _isolation_level(level: str | None, options: dict[str, Any], url: URL) -> tuple[str | None, dict[str, Any]]:
    """Return the isolation level that was asked for, in SQLAlchemy's spelling, and the engine options without it."""
    execution_options = dict(options.get("execution_options") or {})
    if "isolation_level" in execution_options:
        inherited = execution_options.pop("isolation_level")
        level, options = level or inherited, {**options, "execution_options": execution_options}
    if level is None:
        return None, options
    level, backend = level.upper().replace("_", " "), url.get_backend_name()
    legal = SQLITE_ISOLATION_LEVELS if backend == "sqlite" else SERVER_ISOLATION_LEVELS
    if backend in FAMILIES and level not in legal:
        raise ConfigurationError(f"isolation_level must be one of {', '.join(legal)} on {backend}")
    return level, options


def _engine_options(url: URL, given: Mapping[str, Any], *, sync: bool) -> dict[str, Any]:
    """Return the arguments for one side's ``create_engine``: our defaults, then those of the user's it knows."""
    asked = {name: value for name, value in given.items() if _is_for_side(name, value, sync=sync)}
    defaults = dict(SQLITE_ENGINE_OPTIONS if url.get_backend_name() == "sqlite" else SERVER_ENGINE_OPTIONS)
    if _needs_one_connection(url):
        defaults["poolclass"] = StaticPool
    options = {**defaults, **asked}
    legal = _engine_option_names(url, options)
    if "plugins" in asked:  # a plugin takes options of its own
        legal |= asked.keys()
    if options.get("poolclass") is QueuePool and not sync:
        options["poolclass"] = AsyncAdaptedQueuePool
    return {name: value for name, value in options.items() if name in legal}


def _is_for_side(option: str, value: object, *, sync: bool) -> bool:
    """Tell whether an engine option is meant for this side, where it cannot be meant for both."""
    if option in ("creator", "module"):
        return sync
    if option == "async_creator":
        return not sync
    if option == "poolclass" and isinstance(value, type):
        return value is QueuePool or _serves(value, sync=sync)
    if option == "pool":
        return _serves(type(value), sync=sync)
    return True


def _serves(poolclass: type, *, sync: bool) -> bool:
    """Tell whether a pool class works under this side's engine; each queue pool is made for one of them."""
    if issubclass(poolclass, AsyncAdaptedQueuePool):
        return not sync
    return sync or not issubclass(poolclass, (QueuePool, SingletonThreadPool))


def _engine_option_names(url: URL, options: Mapping[str, Any]) -> set[str]:
    """Return the names that ``create_engine`` takes for this dialect and pool."""
    dialect = url.get_dialect()
    names = set(get_cls_kwargs(dialect)) | set(get_cls_kwargs(Engine)) | ENGINE_OPTIONS
    if "pool" not in options:
        poolclass = options.get("poolclass") or cast(type[DefaultDialect], dialect).get_pool_class(url)
        names |= {POOL_NAMES.get(parameter, parameter) for parameter in get_cls_kwargs(poolclass)}
    return names - NOT_FOR_USERS


def _refuse_unknown_options(
    options: Mapping[str, Any], targets: Iterable[Target | ConfigurationError], session_names: set[str]
) -> None:
    """Refuse a keyword that neither this library, nor either engine, nor a session takes."""
    legal = OWN_OPTIONS | session_names | ENGINE_OPTIONS
    for target in targets:
        if isinstance(target, Target):
            legal |= _engine_option_names(target.url, target.engine_options)
    for option in options.keys() - legal:
        if option in POOL_OPTIONS:
            kind = options.get("poolclass") or type(options.get("pool"))
            raise ConfigurationError(f"{option} means nothing to {kind.__name__}; leave one of them out")
        if "plugins" not in options:
            raise ConfigurationError(_unknown(option, legal | POOL_OPTIONS))


def _unknown(name: str, legal: Iterable[str], *, kind: str = "option", otherwise: str = "") -> str:
    """Say that nobody knows a name, and which one was probably meant."""
    if kind == "option" and name in ADVICE:
        return f"unknown option '{name}': {ADVICE[name]}"
    close = difflib.get_close_matches(name, sorted(legal), n=1)
    return f"unknown {kind} '{name}'" + (f": did you mean '{close[0]}'?" if close else otherwise)


LOST_PROMISES = (
    "a transaction begins with the first statement and keeps its connection to its end; the server is told no time "
    "limits; constraint errors are told apart only as far as SQLAlchemy does"
)


def _say_what_is_lost(wish: Wish, targets: Iterable[Target | ConfigurationError], settings: Mapping[str, Any]) -> None:
    """Log what this database or driver cannot promise: a warning where somebody chose it, else a note."""
    for target in (target for target in targets if isinstance(target, Target)):
        driver = _driver(target.url)
        if driver not in PROMISED_DRIVERS:
            chosen = wish.url.get_backend_name() not in FAMILIES or _driver(wish.url) == driver
            level = logging.WARNING if chosen else logging.INFO
            log.log(level, "we do not know the driver of %s well: %s", target.url.drivername, LOST_PROMISES)
        elif target.begin == "first-statement" and wish.begin is None:
            log.info("asyncpg behind a transaction pooler begins with the first statement; psycopg need not")
    if wish.url.get_backend_name() == "sqlite" and settings.get("statement_timeout"):
        log.warning("SQLite has no server that could end a statement: statement_timeout is ignored")
    unsettable = settings.keys() & {"statement_timeout", "lock_timeout", "idle_in_transaction_timeout"}
    if wish.pooler == "transaction" and unsettable:
        log.warning("%s: not set behind a transaction pooler; use ALTER ROLE ... SET", ", ".join(sorted(unsettable)))


# -- reading a URL

SCHEMES: Mapping[str, str] = {"mysql2": "mysql", "pgsql": "postgresql", "postgres": "postgresql", "sqlite3": "sqlite"}
OPENING, CLOSING = "[\"'`\u201c\u2018]", "[\"'`\u201d\u2019]"
WRAPPINGS = (
    (rf"^(?:(?:export|set)\s+|\$env:)?[A-Za-z_]\w*\s*=\s*(?={OPENING}?[A-Za-z][\w+]*://)", "a name"),
    (r"^psql\s+(?=[\"']?postgres)", "the psql command"),
    (rf"^{OPENING}+|{CLOSING}+$", "quotes"),
    (r"^\s+|\s+$", "white space"),
)
FOREIGN = (
    (r"^jdbc:", f"is a JDBC URL; remove 'jdbc:' and put user and password before the host: {EXAMPLE}"),
    (r"^https?://", f"is a web address; the connection string of a database looks like {EXAMPLE}"),
    (r"^prisma(\+\w+)?://", "leads to Prisma's own proxy; use the direct URL of the database"),
    (r"^(mongodb|redis|rediss|amqp)(\+\w+)?://", "is no SQL database, and SQLAlchemy knows no other"),
    (r"^[A-Za-z]:[\\/]", "is a path; for a SQLite file write sqlite:///C:/path/app.db"),
    (r"^(file:|~|\.{0,2}/)", "is a path; for a SQLite file write sqlite:///./app.db or sqlite:////srv/app.db"),
    (r"^sqlite3?(\+\w+)?:(?!//)", "lacks slashes; write sqlite:///./app.db"),
    (
        r"^(?!\S*://).*\b(host|dbname|user|server|data source)\s*=",
        f"is a list of names and values; write it as a URL: {EXAMPLE}",
    ),
)
SHAPE = re.compile(r"(?P<scheme>[A-Za-z]\w*(?:\+\w+)?)://(?P<authority>[^/?]*)(?P<tail>.*)")
PLACEHOLDER = re.compile(
    r"""
    <[A-Za-z][\w .-]*> | \[[A-Za-z][A-Za-z _-]*\]               # <password>, [YOUR-PASSWORD]
    | \$\{[^}]*\} | \$\([^)]*\) | \{\{.*?\}\} | %\(\w+\)s       # ${VAR}, $(VAR), {{ var }}, %(var)s
    | ^\$[A-Z_][A-Z0-9_]*$ | ^\{\w+\}$                          # $VAR, {var}
    | ^your[-_ ]?((db|database|postgres|mysql)[-_ ]?)?(password|pass|user(name)?|host(name)?|name|db|database)$
    | ^YOUR[-_][A-Z_-]+$
    """,
    re.VERBOSE | re.IGNORECASE,
)
MASKED = re.compile(r"\*{3,}|\u2022{3,}|\u2026|\.{3}")
SECRET_PARAMETER = re.compile(r"pass|pwd|secret|token|credential|(api|private)_?key", re.IGNORECASE)
ENCODE = "; urllib.parse.quote(password, safe='') does it"


def _read(url: str | URL, name: str) -> URL:
    """Return a URL whose scheme SQLAlchemy knows, or raise the reason why it cannot be right."""
    parsed = _parse(_unwrap(url, name), name) if isinstance(url, str) else url
    scheme, plus, driver = parsed.drivername.lower().partition("+")
    driver = "psycopg" if driver == "psycopg_async" else driver
    if (parsed.username, parsed.password) == ("user", "password"):
        log.warning("%s has the user and the password of a tutorial, user:password", name)
    return parsed.set(drivername=SCHEMES.get(scheme, scheme) + plus + driver)


def _unwrap(text: str, name: str) -> str:
    """Return the URL inside what was pasted, and say what was around it."""
    removed: dict[str, None] = {}
    before = None
    while before != text:
        before = text
        for pattern, what in WRAPPINGS:
            text, times = re.subn(pattern, "", text)
            removed |= {what: None} if times else {}
    if not text:
        raise ConfigurationError(f"{name} is empty. For development: {DEVELOPMENT_LINE}")
    if removed:
        log.warning("%s: ignored %s around the URL; correct the setting", name, " and ".join(removed))
    return text


def _parse(text: str, name: str) -> URL:
    """Take a URL apart, refusing what SQLAlchemy would misread. The text is never quoted: it may be the password."""
    if re.search(r"[\"'`]\s", text):
        raise ConfigurationError(f"{name} contains more than a URL; leave only the part that looks like {EXAMPLE}")
    if re.search(r"[\x00-\x1f\x7f]", text):
        raise ConfigurationError(f"{name} contains a line break or control character; put the whole URL on one line")
    for pattern, reason in FOREIGN:
        if re.search(pattern, text, re.IGNORECASE):
            raise ConfigurationError(f"{name} {reason}")
    shape = SHAPE.fullmatch(text)
    if shape is None:
        raise ConfigurationError(f"{name} is not a URL; it must look like {EXAMPLE} or sqlite:///./app.db")
    scheme, authority, tail = shape["scheme"], shape["authority"], shape["tail"]
    if scheme.lower().startswith("sqlite"):
        _check_sqlite(authority, name)
    else:
        authority, tail = _check_authority(authority, tail, name)
    try:
        return make_url(f"{scheme}://{authority}{tail}")
    except (exc.ArgumentError, ValueError):
        raise ConfigurationError(f"{name} is not a URL that SQLAlchemy reads; it must look like {EXAMPLE}") from None


def _check_sqlite(authority: str, name: str) -> None:
    if authority:
        raise ConfigurationError(
            f"{name}: a SQLite URL has no host: after 'sqlite:' come three slashes and a relative path "
            "(sqlite:///./app.db), or four and an absolute one (sqlite:////srv/app.db); in memory it is sqlite://"
        )


def _check_authority(authority: str, tail: str, name: str) -> tuple[str, str]:
    """Check what is between ``://`` and the path; return it and the tail, several hosts as SQLAlchemy spells them."""
    userinfo, at, hosts = authority.rpartition("@")
    if "@" in userinfo:
        raise ConfigurationError(f"{name}: an '@' in the user or the password must be written %40{ENCODE}")
    if not at and "@" in tail and (":" in authority or not tail.startswith("/")):
        raise ConfigurationError(
            f"{name}: write '/' as %2F and '?' as %3F in the password, or '@' as %40 if it is after the host{ENCODE}"
        )
    username, _, password = userinfo.partition(":")
    for part in (username, password, *re.split(r"[:,]", hosts), tail.partition("?")[0].strip("/")):
        _refuse_placeholder(part, name)
    if "#" in password or ":" in password:
        log.warning("%s: write ':' as %%3A and '#' as %%23 in the password; other programs cut it there", name)
    found = [_host_and_port(host, name) for host in hosts.split(",")]
    if len(found) == 1:
        return authority, tail
    path, mark, query = tail.partition("?")
    several = urlencode([("host", f"{host}:{port or 5432}") for host, port in found])
    return userinfo + at, f"{path or '/'}?{several}{mark and '&'}{query}"


def _refuse_placeholder(part: str, name: str) -> None:
    if MASKED.fullmatch(part):
        raise ConfigurationError(f"{name} was copied from where its password is masked; copy it from where it is shown")
    if PLACEHOLDER.search(part):
        raise ConfigurationError(
            f"{name} still has a placeholder, such as <password>, ${{VARIABLE}} or your-password; put the real value "
            "there. If it is the real value, percent-encode its punctuation"
        )


def _host_and_port(text: str, name: str) -> tuple[str, str]:
    """Return host and port as they are written, with the brackets of IPv6."""
    match = re.fullmatch(r"(?P<host>\[[^\[\]]*\]|[^:\[\]]*)(:(?P<port>.*))?", text)
    bare_ipv6 = text.count(":") > 1 and re.fullmatch(r"[0-9A-Fa-f:]+", text)
    if match is None or bare_ipv6:
        raise ConfigurationError(f"{name}: the host is malformed; IPv6 addresses have brackets, as in [::1]:5432")
    host, port = match["host"], match["port"] or ""
    if host.lower() in ("host", "hostname") or port.lower() == "port":
        raise ConfigurationError(
            f"{name} still has the placeholder 'host' or 'port'; put the host and the number there"
        )
    # The port is not quoted: in postgresql://user:secret, its host forgotten, it is the password.
    if port and not (port.isascii() and port.isdigit() and 0 < int(port) <= 65535):
        raise ConfigurationError(
            f"{name}: what stands after the host and ':' is not a port number. If it belongs to the password, the URL "
            f"lacks '@' and a host, or the password has an '@' that must be written %40{ENCODE}"
        )
    return host, port


def mask(url: str | URL) -> str:
    """Return a URL as it may be shown: its password, and parameters that may hold one, are ``***``. Never raises."""
    if isinstance(url, str):
        try:
            # With a second '@' nobody can tell where the password ends.
            url = make_url(url if url.count("@") <= 1 else "")
        except (exc.ArgumentError, ValueError):
            return "***"
    query = {key: "***" if SECRET_PARAMETER.search(f"{key}={value}") else value for key, value in url.query.items()}
    return url.set(query=query).render_as_string(hide_password=True).replace("%2A%2A%2A", "***")


# -- drivers


class Family(NamedTuple):
    """The drivers of one kind of server, best first."""

    title: str
    install: str
    asynchronous: tuple[str, ...]
    synchronous: tuple[str, ...]

    def drivers(self, *, sync: bool) -> tuple[str, ...]:
        """Return those of one kind."""
        return self.synchronous if sync else self.asynchronous


_MYSQL = Family("MySQL and MariaDB", '"sessionlocal[mysql]"', ("aiomysql", "asyncmy"), ("pymysql", "mysqldb"))
FAMILIES: Mapping[str, Family] = {
    "postgresql": Family("PostgreSQL", '"sessionlocal[postgresql]"', ("asyncpg", "psycopg"), ("psycopg", "psycopg2")),
    "mysql": _MYSQL,
    "mariadb": _MYSQL,
    "sqlite": Family("SQLite", "aiosqlite", ("aiosqlite",), ("pysqlite",)),
}
# Those whose transaction status we can ask, on which everything stands that is promised about transactions.
PROMISED_DRIVERS = frozenset("asyncpg psycopg aiomysql asyncmy pymysql aiosqlite pysqlite".split())
MODULES: Mapping[str, str] = {"mysqldb": "MySQLdb", "pysqlite": "sqlite3"}
INSTALL: Mapping[str, str] = {
    "aiomysql": '"sessionlocal[mysql]"',
    "asyncmy": '"sessionlocal[asyncmy]"',
    "asyncpg": '"sessionlocal[asyncpg]"',
    "mysqldb": "mysqlclient",
    "psycopg": '"sessionlocal[psycopg]"',
    "psycopg2": "psycopg2-binary",
    "pymysql": '"sessionlocal[mysql]"',
}


class _NoDriver(ConfigurationError):
    """There is no driver of one kind. ``named`` says that the URL asks for exactly this one."""

    def __init__(self, message: str, *, named: bool) -> None:
        super().__init__(message)
        self.named = named


def _driver(url: URL) -> str:
    return url.drivername.partition("+")[2]


def _is_installed(driver: str) -> bool:
    return importlib.util.find_spec(MODULES.get(driver, driver)) is not None


def _names_sync_driver(url: URL) -> bool:
    """Tell whether a URL names a driver for sync code only."""
    driver, family = _driver(url), FAMILIES.get(url.get_backend_name())
    return bool(driver) and family is not None and driver not in family.asynchronous


def _with_driver(url: URL, name: str, *, sync: bool, pooler: Pooler | None) -> URL:
    """Return the URL with the driver that serves one side: the one that it names, or the best that is installed."""
    backend, named = url.get_backend_name(), _driver(url)
    family = FAMILIES.get(backend)
    if family is None:
        return _foreign(url, name, sync=sync)
    if named and named not in family.asynchronous + family.synchronous and _dialect(url, name).is_async is not sync:
        return url
    candidates = family.drivers(sync=sync)
    if named in candidates:
        if not _is_installed(named):
            raise _NoDriver(f"{name}: {named} is not installed; pip install {INSTALL.get(named, named)}", named=True)
        return url
    for driver in _in_order(candidates, url, pooler, name):
        if _is_installed(driver):
            return url.set(drivername=f"{backend}+{driver}")
    kind = f"{'sync' if sync else 'async'} driver for {family.title}"
    raise _NoDriver(
        f"{name}: no {kind} is installed ({' or '.join(candidates)}); pip install {family.install}", named=False
    )


def _in_order(candidates: tuple[str, ...], url: URL, pooler: Pooler | None, name: str) -> list[str]:
    """Return drivers in the order in which they are tried for this URL."""
    best = ""
    if pooler == "transaction":  # psycopg sends a statement in one flight, which no pooler can tear apart
        best = "psycopg"
    elif "asyncmy" in candidates and _mysql_ssl_mode(_mysql_query(url), name) in MYSQL_SSL_MODES[2:]:
        best = "asyncmy"  # aiomysql cannot insist on TLS
    return sorted(candidates, key=lambda driver: driver != best)


def _dialect(url: URL, name: str) -> type[Dialect]:
    try:
        return url.get_dialect()
    except exc.NoSuchModuleError:
        problem = f"{name}: no SQLAlchemy dialect named '{url.drivername}' is installed"
    close = difflib.get_close_matches(url.get_backend_name(), FAMILIES, n=1)
    raise ConfigurationError(problem + (f"; did you mean '{close[0]}'?" if close else ""))


def _foreign(url: URL, name: str, *, sync: bool) -> URL:
    """Return the URL of a database that we know nothing about, as it is, if its dialect has this kind of driver."""
    dialect = _dialect(url, name)
    if not sync:
        dialect = dialect.get_async_dialect_cls(url)
    if dialect.is_async is sync:
        kind = "async" if dialect.is_async else "sync"
        raise _NoDriver(f"{name}: {url.drivername} serves {kind} sessions only; the others need a URL", named=False)
    return url


# -- what drivers are told


class Normalised(NamedTuple):
    """A URL that names its driver, what the driver gets besides, and which kind of pooler the URL gives away."""

    url: URL
    connect_args: dict[str, Any]
    pooler: Pooler | None


def normalise(url: str | URL, *, sync: bool) -> Normalised:
    """Return what a URL means to the async or the sync driver. Time limits are not part of it: :func:`load` adds them.

    Raises:
        ConfigurationError: the URL cannot be right, or no driver for it is installed.
    """
    parsed = _read(url, "url")
    pooler = _hinted_pooler(parsed, "url")
    with_driver = _with_driver(parsed, "url", sync=sync, pooler=pooler)
    return Normalised(*_translate(with_driver, {}, None, pooler, "url"), pooler)


def _hinted_pooler(url: URL, name: str) -> Pooler | None:
    """Tell whether a URL leads to a pooler in transaction mode: it says so, or its host is known for it."""
    if "pgbouncer" in url.query:
        return "transaction" if _truth(_query(url)["pgbouncer"], "pgbouncer", name) else None
    host = (url.host or "").lower()
    supabase = host.endswith(".pooler.supabase.com") and url.port != 5432  # on 5432 it pools sessions
    neon = host.endswith(".neon.tech") and "-pooler." in host
    if supabase or neon:
        log.info("%s pools transactions; pass pooler=None if it does not", host)
    return "transaction" if supabase or neon else None


def _translate(
    url: URL, extra: Mapping[str, Any], limits: Limits | None, pooler: Pooler | None, name: str
) -> tuple[URL, dict[str, Any]]:
    """Return a URL and connect arguments in the words of its driver, from its parameters and the user's connect_args.

    ``limits`` is None where only the translation is asked for.
    """
    family, driver = FAMILIES.get(url.get_backend_name()), _driver(url)
    if family is None or driver not in family.asynchronous + family.synchronous:
        return url, dict(extra)
    if url.get_backend_name() == "sqlite":
        return _sqlite(url, extra, limits, name)
    if family is _MYSQL:
        return _mysql(url, extra, limits, name)
    return _postgresql(url, extra, limits, pooler, name)


def _query(url: URL) -> dict[str, str]:
    """Return the parameters of a URL; of a repeated one the last counts, as in libpq."""
    return {key: value if isinstance(value, str) else value[-1] for key, value in url.query.items()}


def _lift(url: URL, parameters: dict[str, Any], **names: str) -> URL:
    """Move user, password and database from the parameters to their places in the URL, where secrets are masked."""
    for parameter, component in names.items():
        value = parameters.pop(parameter, None)
        if value is not None and not getattr(url, component):
            url = url.set(**{component: value})
    return url


def _number(value: object, parameter: str, name: str) -> float:
    try:
        number = float(str(value))
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or number < 0:
        raise ConfigurationError(f"{name}: {parameter} must be a number, not a negative one")
    return number


def _truth(value: object, parameter: str, name: str) -> bool:
    text = str(value).lower()
    if text not in ("true", "1", "yes", "on", "false", "0", "no", "off"):
        raise ConfigurationError(f"{name}: {parameter} must be true or false")
    return text in ("true", "1", "yes", "on")


def _existing_file(path: object, parameter: str, name: str) -> str:
    found = Path(str(path)).expanduser()
    if not found.is_file():
        raise ConfigurationError(f"{name}: {parameter} names {found}, which is not a file")
    return str(found)


# -- PostgreSQL: libpq's vocabulary in the middle, asyncpg and psycopg at the ends

SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
SSL_MODE_NAMES: Mapping[str, str] = {
    **dict.fromkeys(("true", "1", "on", "yes", "no-verify"), "require"),
    **dict.fromkeys(("false", "0", "off", "no"), "disable"),
}
SSL_FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl")
# asyncpg takes these from a DSN only; it builds an SSLContext from them as libpq would.
ASYNCPG_IN_DSN = (*SSL_FILES, "sslpassword", "sslnegotiation", "ssl_min_protocol_version", "ssl_max_protocol_version")
ASYNCPG_SAME = ("passfile", "service", "target_session_attrs", "krbsrvname", "gsslib")
# What asyncpg lacks and nobody misses: hints for libpq's own sockets and handshakes.
ASYNCPG_NEEDLESS = frozenset(
    "client_encoding gssdelegation gssencmode keepalives keepalives_count keepalives_idle keepalives_interval "
    "load_balance_hosts max_protocol_version min_protocol_version sslcertmode sslcompression sslsni "
    "tcp_user_timeout".split()
)
ASYNCPG_COUNTS = (
    "statement_cache_size prepared_statement_cache_size max_cacheable_statement_size max_cached_statement_lifetime"
).split()
ASYNCPG_ONLY = frozenset(
    {*ASYNCPG_COUNTS, *"command_timeout prepared_statement_name_func server_settings connection_class dsn loop".split()}
)
LIBPQ = ASYNCPG_NEEDLESS.union(
    ASYNCPG_IN_DSN,
    ASYNCPG_SAME,
    "application_name channel_binding connect_timeout fallback_application_name hostaddr options replication "
    "require_auth requirepeer scram_client_key scram_server_key sslcrldir sslkeylogfile sslmode".split(),
)
SYNONYMS = frozenset({"ssl", "timeout", "direct_tls"})  # what asyncpg calls sslmode, connect_timeout, sslnegotiation
PSYCOPG_ONLY = frozenset(
    "autocommit context cursor_factory prepare_threshold row_factory server_cursor_factory".split()
)
POSTGRESQL_ADVICE: Mapping[str, str] = {
    "connection_limit": "belongs to Prisma; remove it and use pool_size=",
    "currentSchema": "belongs to JDBC; write options=-csearch_path%3Dname",
    "pool_timeout": "belongs to Prisma; remove it and use pool_timeout= or DATABASE_POOL_TIMEOUT",
    "schema": "belongs to Prisma; write options=-csearch_path%3Dname",
    "search_path": "is a setting of the server; write options=-csearch_path%3Dname",
    "socket_timeout": "belongs to Prisma; remove it and use statement_timeout=",
    "sslaccept": "belongs to Prisma; write sslmode=require or sslmode=verify-full",
    "statement_timeout": "is a setting of the server; use statement_timeout= or DATABASE_STATEMENT_TIMEOUT, in seconds",
}
SERVER_OPTION = re.compile(r"(?:-c\s*|--)(?P<name>[\w.-]+)=(?P<value>(?:\\.|[^\s\\])*)(?:\s+|$)")


@dataclass(slots=True)
class Libpq:
    """A connection to PostgreSQL in libpq's words. ``rest`` is for one of the drivers, as it is."""

    parameters: dict[str, Any]
    settings: dict[str, str]
    rest: dict[str, Any]


def _postgresql(
    url: URL, extra: Mapping[str, Any], limits: Limits | None, pooler: Pooler | None, name: str
) -> tuple[URL, dict[str, Any]]:
    hosts = {key: value for key, value in url.query.items() if key in ("host", "port")}
    # Supabase adds supa= for its own statistics.
    parameters: dict[str, Any] = {key: value for key, value in _query(url).items() if key not in ("pgbouncer", "supa")}
    for key in hosts:
        del parameters[key]
    url = _lift(url.set(query=hosts), parameters, user="username", username="username", password="password")
    url = _lift(url, parameters, dbname="database", database="database")
    for key in parameters.keys() - LIBPQ - ASYNCPG_ONLY - PSYCOPG_ONLY - SYNONYMS:
        raise ConfigurationError(f"{name}: {_unknown_to_postgresql(key)}")
    wanted = _in_libpq_words({**parameters, **extra}, name)
    _add_limits(wanted, limits, pooler)
    if _driver(url) == "asyncpg":
        return url, _for_asyncpg(wanted, pooler, name)
    return url, _for_psycopg(wanted, pooler, name, is_psycopg2=_driver(url) == "psycopg2")


def _unknown_to_postgresql(key: str) -> str:
    if key in POSTGRESQL_ADVICE:
        return f"the parameter '{key}' {POSTGRESQL_ADVICE[key]}"
    server_setting = f"; if it is a setting of the server, write options=-c{key}%3Dvalue"
    return _unknown(key, LIBPQ, kind="parameter", otherwise=server_setting)


def _in_libpq_words(given: Mapping[str, Any], name: str) -> Libpq:
    """Sort what the URL and connect_args say, in whichever driver's words, into what libpq would call it."""
    parameters = {key: value for key, value in given.items() if key in LIBPQ | SYNONYMS}
    rest = {key: value for key, value in given.items() if key not in parameters}
    if "timeout" in parameters:
        parameters.setdefault("connect_timeout", parameters.pop("timeout"))
    if "direct_tls" in parameters:
        direct = _truth(parameters.pop("direct_tls"), "direct_tls", name)
        parameters["sslnegotiation"] = "direct" if direct else "postgres"
    if "fallback_application_name" in parameters:
        parameters.setdefault("application_name", parameters.pop("fallback_application_name"))
    for key in rest.keys() & set(ASYNCPG_COUNTS):
        rest[key] = int(_number(rest[key], key, name))
    for key in rest.keys() & {"command_timeout"}:
        rest[key] = _number(rest[key], key, name)
    _unify_ssl(parameters, name)
    settings, left = _server_options(str(parameters.pop("options", os.environ.get("PGOPTIONS", ""))))
    parameters |= {"options": left} if left else {}
    settings |= {key: str(value) for key, value in rest.pop("server_settings", {}).items()}
    parameters |= {key: settings.pop(key) for key in ("application_name",) if key in settings}
    return Libpq(parameters, settings, rest)


def _unify_ssl(parameters: dict[str, Any], name: str) -> None:
    """Give ``sslmode`` libpq's names, or ``system`` for asyncpg's ``ssl=True``; an SSLContext is left as it is."""
    mode = parameters.pop("ssl", None)
    mode = parameters.pop("sslmode", mode)
    if mode is True:
        mode = "system"
    elif isinstance(mode, (str, bool)):
        text = str(mode).lower().replace("_", "-")
        mode = SSL_MODE_NAMES.get(text, text)
        if mode not in SSL_MODES:
            raise ConfigurationError(f"{name}: sslmode must be one of {', '.join(SSL_MODES)}")
    if parameters.get("sslrootcert") == "system":
        if mode not in ("verify-full", "system", None):
            raise ConfigurationError(f"{name}: sslrootcert=system goes with sslmode=verify-full only")
        mode = "system"
        del parameters["sslrootcert"]
    for parameter in parameters.keys() & set(SSL_FILES):
        parameters[parameter] = _existing_file(parameters[parameter], parameter, name)
    if mode is not None:
        parameters["sslmode"] = mode


def _server_options(text: str) -> tuple[dict[str, str], str]:
    """Take libpq's ``options`` apart: settings of the server, and what else there may be (Neon's ``endpoint=``)."""
    settings = {
        match["name"].replace("-", "_"): re.sub(r"\\(.)", r"\1", match["value"])
        for match in SERVER_OPTION.finditer(text)
    }
    return settings, SERVER_OPTION.sub("", text).strip()


def _add_limits(wanted: Libpq, limits: Limits | None, pooler: Pooler | None) -> None:
    """Add our limits where the user said nothing. They travel in the start-up packet and cost no round trip."""
    if limits is None:
        return
    if limits.connect is not None:
        wanted.parameters.setdefault("connect_timeout", limits.connect)
    # PgBouncer and its like carry this one over to the server; the others they refuse, or leave to the next client.
    wanted.parameters.setdefault("application_name", limits.application_name)
    if pooler == "transaction":
        return
    seconds = {
        "statement_timeout": limits.statement,
        "lock_timeout": limits.lock,
        "idle_in_transaction_session_timeout": limits.idle_in_transaction,
    }
    ours = {key: str(math.ceil(value * 1000)) for key, value in seconds.items() if value is not None}
    wanted.settings = ours | wanted.settings


def _for_asyncpg(wanted: Libpq, pooler: Pooler | None, name: str) -> dict[str, Any]:
    parameters = dict(wanted.parameters)
    args: dict[str, Any] = {}
    if pooler == "transaction":
        args |= {"statement_cache_size": 0, "prepared_statement_cache_size": 0}
        args["prepared_statement_name_func"] = _statement_name
    args |= {key: value for key, value in wanted.rest.items() if key not in PSYCOPG_ONLY}
    args |= {key: parameters.pop(key) for key in ASYNCPG_SAME if key in parameters}
    if "connect_timeout" in parameters:
        args["timeout"] = _number(parameters.pop("connect_timeout"), "connect_timeout", name) or None
    if parameters.pop("channel_binding", None) == "require":
        log.info("%s: asyncpg has no channel binding; TLS alone protects the login. psycopg has it", name)
    args |= _asyncpg_ssl(parameters, name)
    in_packet = {key: str(parameters.pop(key)) for key in ("application_name", "options") if key in parameters}
    if wanted.settings or in_packet:
        args["server_settings"] = {**wanted.settings, **in_packet}
    missing = (parameters.keys() - ASYNCPG_NEEDLESS) | (
        {"gssencmode"} if parameters.get("gssencmode") == "require" else set()
    )
    for parameter in sorted(missing):
        raise ConfigurationError(f"{name}: asyncpg has no '{parameter}'; remove it, or write postgresql+psycopg://")
    return args


def _asyncpg_ssl(parameters: dict[str, Any], name: str) -> dict[str, Any]:
    """Take what concerns TLS out of the parameters and return it in asyncpg's words."""
    mode = parameters.pop("sslmode", None)
    in_dsn = {key: str(parameters.pop(key)) for key in ASYNCPG_IN_DSN if key in parameters}
    if mode == "system":
        context = ssl.create_default_context()
        if "sslcert" in in_dsn:
            context.load_cert_chain(in_dsn["sslcert"], in_dsn.get("sslkey"), in_dsn.get("sslpassword"))
        return {"ssl": context}
    if not isinstance(mode, (str, type(None))):
        if in_dsn:
            raise ConfigurationError(f"{name}: an SSLContext says it all; remove {', '.join(in_dsn)}")
        return {"ssl": mode}
    if in_dsn:
        return {"dsn": "postgresql://?" + urlencode({"sslmode": mode or "prefer", **in_dsn})}
    return {"ssl": mode} if mode else {}


def _statement_name() -> str:
    """Return a name that no other connection uses: behind a pooler they share server connections, and so names."""
    return f"__sessionlocal_{uuid.uuid4().hex}__"


def _for_psycopg(wanted: Libpq, pooler: Pooler | None, name: str, *, is_psycopg2: bool) -> dict[str, Any]:
    args = dict(wanted.parameters)
    if "connect_timeout" in args:
        args["connect_timeout"] = math.ceil(_number(args["connect_timeout"], "connect_timeout", name))
    if args.get("sslmode") == "system":
        args |= {"sslmode": "verify-full", "sslrootcert": "system"}
    elif not isinstance(args.get("sslmode", ""), str):
        raise ConfigurationError(f"{name}: only asyncpg takes an SSLContext; pass sync_connect_args={{'sslmode': ...}}")
    words = [f"-c {key}={_escape(value)}" for key, value in wanted.settings.items()]
    if options := " ".join([*words, *filter(None, [args.pop("options", "")])]):
        args["options"] = options
    args |= {key: value for key, value in wanted.rest.items() if key not in ASYNCPG_ONLY}
    if is_psycopg2:
        return {key: value for key, value in args.items() if key not in PSYCOPG_ONLY}
    if isinstance(args.get("prepare_threshold"), str):
        args["prepare_threshold"] = int(_number(args["prepare_threshold"], "prepare_threshold", name))
    caches_off = 0 in (wanted.rest.get("statement_cache_size"), wanted.rest.get("prepared_statement_cache_size"))
    if pooler == "transaction" or caches_off:
        args.setdefault("prepare_threshold", None)
    return args


def _escape(value: str) -> str:
    """Write a value for libpq's ``options``, where a space would end it."""
    return re.sub(r"([\\\s])", r"\\\1", value)


# -- MySQL and MariaDB

MYSQL_NUMBERS = frozenset("client_flag connect_timeout max_allowed_packet read_timeout write_timeout".split())
MYSQL_TRUTHS = frozenset(
    "binary_prefix local_infile ssl_check_hostname ssl_disabled ssl_verify_cert ssl_verify_identity use_unicode".split()
)
MYSQL_SSL_FILES = ("ssl_ca", "ssl_cert", "ssl_key")
MYSQL_PARAMETERS = (MYSQL_NUMBERS | MYSQL_TRUTHS).union(
    MYSQL_SSL_FILES,
    "auth_plugin bind_address charset collation init_command program_name read_default_file read_default_group "
    "server_public_key sql_mode ssl ssl_capath ssl_cipher ssl_mode sslaccept sslmode unix_socket".split(),
)
# What a driver has no name for; the other driver of the same Database may.
MYSQL_LACKS: Mapping[str, frozenset[str]] = {
    "aiomysql": frozenset("bind_address binary_prefix collation max_allowed_packet read_timeout write_timeout".split()),
    "asyncmy": frozenset("auth_plugin bind_address collation write_timeout".split()),
    "pymysql": frozenset({"auth_plugin"}),
    "mysqldb": frozenset("auth_plugin binary_prefix max_allowed_packet program_name server_public_key".split()),
}
MYSQL_SSL_MODES = ("disabled", "preferred", "required", "verify-ca", "verify-identity")
MYSQL_SSL_MODE_NAMES: Mapping[str, str] = {
    **dict.fromkeys(("disable", "false", "0"), "disabled"),
    "prefer": "preferred",
    **dict.fromkeys(("require", "true", "1", "accept-invalid-certs", '{"rejectunauthorized":false}'), "required"),
    **dict.fromkeys(("strict", "verify-full", '{"rejectunauthorized":true}'), "verify-identity"),
}
LONGEST_LOCK_WAIT = 1_073_741_824  # seconds; the most that innodb_lock_wait_timeout takes, whose 0 is not "no limit"


def _mysql(url: URL, extra: Mapping[str, Any], limits: Limits | None, name: str) -> tuple[URL, dict[str, Any]]:
    parameters = _mysql_query(url)
    url = _lift(url.set(query={}), parameters, user="username", password="password", database="database", db="database")
    for key in parameters.keys() - MYSQL_PARAMETERS:
        raise ConfigurationError(f"{name}: {_unknown(key, MYSQL_PARAMETERS, kind='parameter')}")
    for key in parameters.keys() & MYSQL_NUMBERS:
        parameters[key] = int(_number(parameters[key], key, name))
    for key in parameters.keys() & MYSQL_TRUTHS:
        parameters[key] = _truth(parameters[key], key, name)
    driver = _driver(url)
    for key in MYSQL_LACKS[driver]:
        parameters.pop(key, None)
    args = {**parameters, **extra}
    _unify_mysql_ssl(args, driver, name)
    if limits is None:
        return url, args
    if "init_command" in args:
        log.warning("%s: your init_command replaces ours: no time limits and no strict mode are set", name)
    return url, {**_mysql_defaults(limits, driver, sets_mode="sql_mode" not in args), **args}


def _mysql_query(url: URL) -> dict[str, Any]:
    return {key.replace("-", "_"): value for key, value in _query(url).items()}


def _mysql_defaults(limits: Limits, driver: str, *, sets_mode: bool) -> dict[str, Any]:
    args: dict[str, Any] = {"charset": "utf8mb4"}
    if limits.connect is not None:
        args["connect_timeout"] = math.ceil(limits.connect) or LONGEST
    if command := _mysql_init_command(limits, sets_mode=sets_mode):
        args["init_command"] = command
    if driver in PROMISED_DRIVERS:
        # Connections rest in autocommit; a transaction is an explicit START TRANSACTION.
        args |= {"autocommit": True, "program_name": limits.application_name}
    return args


def _mysql_init_command(limits: Limits, *, sets_mode: bool) -> str | None:
    """Return one statement for both servers, each of which runs only the comments that are meant for it."""
    settings: list[str] = []
    if limits.idle_in_transaction is not None:
        settings.append(f"/*M!100300 idle_transaction_timeout={math.ceil(limits.idle_in_transaction)}, */")
    if limits.statement is not None:
        settings.append(f"/*M!100101 max_statement_time={limits.statement:.3f}, */")
        settings.append(f"/*!50708 max_execution_time={math.ceil(limits.statement * 1000)}, */")
    if limits.lock is not None:
        settings.append(f"innodb_lock_wait_timeout={math.ceil(limits.lock) or LONGEST_LOCK_WAIT},")
    if sets_mode:
        settings.append("sql_mode=CONCAT_WS(',', NULLIF(@@sql_mode, ''), 'STRICT_TRANS_TABLES'),")
    # A variable of the session's own ends the list, so that each comment can bring its comma.
    return f"SET SESSION {' '.join(settings)} @sessionlocal=1" if settings else None


def _unify_mysql_ssl(args: dict[str, Any], driver: str, name: str) -> None:
    """Replace the many spellings of TLS by one SSLContext, the only thing that every driver understands."""
    mode = _mysql_ssl_mode(args, name)
    parts = {key: args.pop(key) for key in list(args) if key.startswith("ssl") and key != "ssl"}
    if isinstance(args.get("ssl"), (str, bool)):
        del args["ssl"]
    if mode in MYSQL_SSL_MODES[2:] and _may_go_on_in_plain_text(driver):
        raise ConfigurationError(
            f"{name}: this {driver} goes on in plain text when the server offers no TLS, which ssl_mode={mode.upper()} "
            f"forbids; {_insisting_instead_of(driver)}"
        )
    if mode in MYSQL_SSL_MODES[1:]:
        args["ssl"] = _mysql_ssl_context(mode, parts, name)


def _mysql_ssl_mode(args: Mapping[str, Any], name: str) -> str:
    """Return how much TLS is asked for, as one of ``MYSQL_SSL_MODES``, or nothing where nobody said anything."""

    def is_on(key: str) -> bool:
        return key in args and _truth(args[key], key, name)

    if is_on("ssl_disabled"):
        return "disabled"
    said = [args[key] for key in ("ssl_mode", "sslmode", "sslaccept", "ssl") if isinstance(args.get(key), (str, bool))]
    if not said:
        is_verified = is_on("ssl_verify_cert") or any(key in args for key in (*MYSQL_SSL_FILES, "ssl_capath"))
        is_identified = is_on("ssl_verify_identity") or is_on("ssl_check_hostname")
        return "verify-identity" if is_identified else "verify-ca" if is_verified else ""
    mode = str(said[0]).lower().replace("_", "-").replace(" ", "")
    mode = MYSQL_SSL_MODE_NAMES.get(mode, mode)
    if mode not in MYSQL_SSL_MODES:
        modes = ", ".join(mode.upper().replace("-", "_") for mode in MYSQL_SSL_MODES)
        raise ConfigurationError(f"{name}: ssl_mode must be one of {modes}")
    return mode


def _may_go_on_in_plain_text(driver: str) -> bool:
    """Tell whether a driver that was given an SSLContext still logs in to a server that offers no TLS."""
    if driver == "pymysql" and _is_installed(driver):
        return tuple(map(int, version("PyMySQL").split(".")[:2])) < (1, 2)
    return driver == "aiomysql"


def _insisting_instead_of(driver: str) -> str:
    if driver == "pymysql":
        return 'pip install "PyMySQL>=1.2"'
    return f"asyncmy does not: pip install {INSTALL['asyncmy']}, and write mysql:// or mysql+asyncmy://"


def _mysql_ssl_context(mode: str, parts: Mapping[str, Any], name: str) -> ssl.SSLContext:
    files = {key: _existing_file(parts[key], key, name) for key in MYSQL_SSL_FILES if key in parts}
    context = ssl.create_default_context(cafile=files.get("ssl_ca"), capath=parts.get("ssl_capath"))
    context.check_hostname = mode == "verify-identity"
    if mode in ("preferred", "required") and "ssl_ca" not in files:
        context.verify_mode = ssl.CERT_NONE
    if "ssl_cert" in files:
        context.load_cert_chain(files["ssl_cert"], files.get("ssl_key"))
    if "ssl_cipher" in parts:
        context.set_ciphers(parts["ssl_cipher"])
    return context


# -- SQLite

SQLITE_URI_PARAMETERS = frozenset("cache immutable mode nolock psow vfs".split())
SQLITE_PARAMETERS = SQLITE_URI_PARAMETERS.union("cached_statements check_same_thread detect_types timeout uri".split())
LONGEST_BUSY_WAIT = 2_000_000.0  # seconds; SQLite counts milliseconds in 31 bits


def _sqlite(url: URL, extra: Mapping[str, Any], limits: Limits | None, name: str) -> tuple[URL, dict[str, Any]]:
    parameters: dict[str, Any] = _query(url)
    if "isolation_level" in parameters or "isolation_level" in extra:
        raise ConfigurationError(f"{name}: isolation_level makes the driver begin transactions by itself; remove it")
    for key in parameters.keys() - SQLITE_PARAMETERS:
        pragma = "; a PRAGMA is run in a listener for SQLAlchemy's 'connect' event"
        raise ConfigurationError(f"{name}: {_unknown(key, SQLITE_PARAMETERS, kind='parameter', otherwise=pragma)}")
    args: dict[str, Any] = {}
    if limits is not None and limits.lock is not None:
        args["timeout"] = limits.lock or LONGEST_BUSY_WAIT
    if "timeout" in parameters:
        args["timeout"] = _number(parameters.pop("timeout"), "timeout", name)
    database = url.database
    if parameters.keys() & SQLITE_URI_PARAMETERS and "uri" not in parameters and not _is_memory(url):
        # Without uri=true the driver ignores mode=ro and its like.
        escaped = str(database).replace("?", "%3f").replace("#", "%23")
        database = escaped if escaped.startswith("file:") else f"file:{escaped}"
        parameters["uri"] = "true"
    return url.set(query=parameters, database=database), {**args, **extra}


def _is_memory(url: URL) -> bool:
    """Tell whether a URL means a SQLite database in memory, of whatever kind."""
    if url.get_backend_name() != "sqlite":
        return False
    database = url.database or ":memory:"
    in_uri = ":memory:" in database or "mode=memory" in database
    return in_uri or url.query.get("mode") == "memory" or url.query.get("vfs") == "memdb"


def _needs_one_connection(url: URL) -> bool:
    """Tell whether all sessions must use one connection, since another would see another, empty database.

    In shared-cache mode it would see the same one, but there a lock is an error at once, whatever the timeout.
    """
    return _is_memory(url) and url.query.get("vfs") != "memdb"


def _share_memory(url: URL) -> URL:
    """Give a private in-memory database a name, by which both engines find it, in every thread and event loop."""
    is_named = url.query.get("vfs") == "memdb" or url.query.get("cache") == "shared" or "=shared" in str(url.database)
    if not _is_memory(url) or is_named or sqlite3.sqlite_version_info < SHARED_MEMORY_SINCE:
        return url
    rest = {key: value for key, value in url.query.items() if key not in SQLITE_URI_PARAMETERS}
    return url.set(database=f"file:/sessionlocal-{secrets.token_hex(4)}", query={**rest, "vfs": "memdb", "uri": "true"})


def _keep_memory(config: Config, url: URL) -> None:
    """Hold one connection to a named in-memory database, which vanishes with its last one, until the Config goes."""
    if _is_memory(url) and url.query.get("vfs") == "memdb":
        anchor = sqlite3.connect(f"{url.database}?vfs=memdb", uri=True, check_same_thread=False)
        weakref.finalize(config, anchor.close)


def sqlite_pragmas(url: URL) -> Mapping[str, str]:
    """Return the pragmas that every connection to this SQLite database is opened with."""
    if _is_memory(url):  # there is no file to keep a journal of
        return {"foreign_keys": SQLITE_PRAGMAS["foreign_keys"]}
    if url.query.get("mode") == "ro" or "immutable" in url.query:  # the journal mode is written into the file
        return {name: value for name, value in SQLITE_PRAGMAS.items() if name != "journal_mode"}
    return SQLITE_PRAGMAS
