"""Which options there are, where each of them goes, and what is said about one that nobody knows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Query, Session, sessionmaker
from sqlalchemy.pool import AsyncAdaptedQueuePool, NullPool, QueuePool, StaticPool

from sessionlocal.config import Arguments, Config, load
from sessionlocal.errors import ConfigurationError

POSTGRESQL = "postgresql://app@db/shop"


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in an empty directory, so that no .env and no pyproject.toml is found."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("pool_sise", "unknown option 'pool_sise': did you mean 'pool_size'?"),
        ("max_overlow", "unknown option 'max_overlow': did you mean 'max_overflow'?"),
        ("expire_on_comit", "unknown option 'expire_on_comit': did you mean 'expire_on_commit'?"),
        ("json_serialiser", "unknown option 'json_serialiser': did you mean 'json_serializer'?"),
        ("statment_timeout", "unknown option 'statment_timeout': did you mean 'statement_timeout'?"),
        ("class_", "unknown option 'class_': did you mean 'session_class' or 'sync_session_class'?"),
        ("max_connections", "unknown option 'max_connections': did you mean 'pool_size'?"),
        ("bind", "unknown option 'bind': a Database makes its engines from its URL"),
        ("autocommit", "unknown option 'autocommit': a session commits when"),
        ("sslmode", "unknown option 'sslmode': write it into the URL"),
        ("url_file", "unknown option 'url_file'"),
        ("xyzzy", "unknown option 'xyzzy'"),
        ("dbapi", "unknown option 'dbapi'"),
    ],
)
def test_a_misspelt_option_is_refused_with_a_suggestion(option: str, message: str) -> None:
    """A typing error never silently leaves a default in place."""
    with pytest.raises(ConfigurationError) as caught:
        load(POSTGRESQL, default=None, **{option: 1})

    assert str(caught.value).startswith(message)


ENGINE_OPTIONS: dict[str, Any] = {
    "echo": True,
    "echo_pool": "debug",
    "execution_options": {"schema_translate_map": {None: "tenant"}},
    "hide_parameters": False,
    "insertmanyvalues_page_size": 50,
    "json_deserializer": int,
    "json_serializer": str,
    "label_length": 20,
    "logging_name": "shop",
    "max_overflow": 3,
    "pool_logging_name": "pool",
    "pool_pre_ping": True,
    "pool_recycle": 60,
    "pool_reset_on_return": None,
    "pool_size": 7,
    "pool_timeout": 1.5,
    "pool_use_lifo": True,
    "query_cache_size": 100,
}


@pytest.mark.parametrize("url", [POSTGRESQL, "mysql://app@db/shop", "sqlite:///a.db", "sqlite://"])
def test_every_engine_option_reaches_both_engines(url: str) -> None:
    """What create_engine takes is passed untouched, and SQLAlchemy accepts the whole."""
    config = load(url, **ENGINE_OPTIONS)

    assert ENGINE_OPTIONS == {name: config.engine_options[name] for name in ENGINE_OPTIONS}
    assert ENGINE_OPTIONS == {name: config.sync_engine_options[name] for name in ENGINE_OPTIONS}
    assert (7, 7) == (make_async(config).pool.size(), make_sync(config).pool.size())


def make_async(config: Config) -> Any:
    """Make the async engine as a Database does."""
    return create_async_engine(config.url, connect_args=config.async_connect_args, **config.engine_options)


def make_sync(config: Config) -> Any:
    """Make the sync engine as a Database does."""
    return create_engine(config.sync_url, connect_args=config.sync_connect_args, **config.sync_engine_options)


def test_an_option_of_one_driver_reaches_its_engine_only() -> None:
    """psycopg's dialect knows use_native_hstore, asyncpg's does not; neither engine is given what it would refuse."""
    config = load("postgresql+asyncpg://app@db/shop", use_native_hstore=False)

    assert "use_native_hstore" not in config.engine_options
    assert config.sync_engine_options["use_native_hstore"] is False


def test_creators_go_to_the_engine_they_are_for() -> None:
    """creator= makes sync connections and async_creator= async ones."""
    config = load(POSTGRESQL, creator=int, async_creator=str)

    assert (str, "creator" in config.engine_options) == (config.engine_options["async_creator"], False)
    assert (int, "async_creator" in config.sync_engine_options) == (config.sync_engine_options["creator"], False)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (QueuePool, (AsyncAdaptedQueuePool, QueuePool)),
        (NullPool, (NullPool, NullPool)),
        (StaticPool, (StaticPool, StaticPool)),
        (AsyncAdaptedQueuePool, (AsyncAdaptedQueuePool, None)),
    ],
)
def test_a_pool_class_is_fitted_to_each_engine(asked: type, expected: tuple[type | None, type | None]) -> None:
    """A queue pool has an async face; a class that fits one engine only leaves the other its own."""
    config = load("sqlite:///a.db", poolclass=asked)

    assert expected == (config.engine_options.get("poolclass"), config.sync_engine_options.get("poolclass"))
    assert expected[0] is None or isinstance(make_async(config).pool, expected[0])
    assert expected[1] is None or isinstance(make_sync(config).pool, expected[1])


def test_defaults_that_a_pool_class_does_not_know_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """NullPool has no size, so neither our default nor one from the environment is passed to it."""
    monkeypatch.setenv("DATABASE_POOL_SIZE", "7")

    config = load(POSTGRESQL, poolclass=NullPool)

    assert set() == {"pool_size", "max_overflow", "pool_timeout"} & config.engine_options.keys()


def test_a_keyword_that_the_pool_class_does_not_know_is_refused() -> None:
    """Two keywords that contradict each other are a mistake."""
    with pytest.raises(ConfigurationError, match="pool_size means nothing to NullPool; leave one of them out"):
        load(POSTGRESQL, poolclass=NullPool, pool_size=3)


def test_a_plugin_may_bring_options_of_its_own() -> None:
    """Which options a plugin takes cannot be known here; SQLAlchemy asks it."""
    config = load(POSTGRESQL, plugins=["shard"], shard_key=4)

    assert 4 == config.engine_options["shard_key"]


def test_session_options_reach_the_factories() -> None:
    """What Session takes is passed untouched, and expire_on_commit is off unless it is asked for."""
    options: dict[str, Any] = {
        "autoflush": False,
        "info": {"a": 1},
        "query_cls": Query,
        "join_transaction_mode": "control_fully",
    }

    config = load("sqlite://", **options)

    assert {"expire_on_commit": False, **options} == dict(config.session_options)
    assert set() == options.keys() & config.engine_options.keys()
    assert async_sessionmaker(**config.session_options)().sync_session.autoflush is False
    assert sessionmaker(**config.session_options)().autoflush is False


class TenantSession(Session):
    """A session with an option of its own."""

    def __init__(self, *args: Any, tenant: str = "", **kw: Any) -> None:
        super().__init__(*args, **kw)
        self.tenant = tenant


class AsyncTenantSession(AsyncSession):
    """Its async face."""

    sync_session_class = TenantSession


def test_the_sync_session_class_follows_from_the_async_one() -> None:
    """A library that gives an AsyncSession class says there which Session it drives."""
    config = load("sqlite://", session_class=AsyncTenantSession, tenant="a")

    assert (AsyncTenantSession, TenantSession) == (config.session_class, config.sync_session_class)
    assert "a" == config.session_options["tenant"]


def test_session_classes_default_to_sqlalchemy_s_own() -> None:
    """Without a wish sessions are plain."""
    config = load("sqlite://")

    assert (AsyncSession, Session) == (config.session_class, config.sync_session_class)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"session_class": Session}, "session_class must be a subclass of .*; did you mean 'sync_session_class'"),
        ({"session_class": AsyncSession()}, "session_class must be a subclass of"),
        ({"sync_session_class": AsyncSession}, "sync_session_class must be a subclass of sqlalchemy.orm.Session"),
        ({"connect_args": ["timeout"]}, "connect_args and sync_connect_args must be mappings"),
    ],
)
def test_a_wrong_kind_of_object_is_refused(options: dict[str, Any], message: str) -> None:
    """A class in the wrong place is named before anything is built from it."""
    with pytest.raises(ConfigurationError, match=message):
        load("sqlite://", **options)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, None),
        ({"isolation_level": "serializable"}, "SERIALIZABLE"),
        ({"isolation_level": "REPEATABLE_READ"}, "REPEATABLE READ"),
        ({"execution_options": {"isolation_level": "AUTOCOMMIT"}}, "AUTOCOMMIT"),
        ({"isolation_level": "SERIALIZABLE", "execution_options": {"isolation_level": "AUTOCOMMIT"}}, "SERIALIZABLE"),
    ],
)
def test_the_isolation_level_is_taken_out_of_the_engine_options(options: dict[str, Any], expected: str | None) -> None:
    """Wherever SQLAlchemy takes it, there is one value, in one spelling."""
    config = load(POSTGRESQL, **options)

    assert expected == config.isolation_level
    assert "isolation_level" not in config.engine_options
    assert "isolation_level" not in config.engine_options.get("execution_options", {})


@pytest.mark.parametrize(
    ("url", "level", "legal"),
    [
        (POSTGRESQL, "SNAPSHOT", "READ UNCOMMITTED, READ COMMITTED, REPEATABLE READ, SERIALIZABLE, AUTOCOMMIT"),
        ("sqlite://", "REPEATABLE READ", "READ UNCOMMITTED, SERIALIZABLE, AUTOCOMMIT"),
    ],
)
def test_an_isolation_level_that_the_database_lacks_is_refused(url: str, level: str, legal: str) -> None:
    """The error lists what there is."""
    with pytest.raises(ConfigurationError, match=f"isolation_level must be one of {legal} on"):
        load(url, isolation_level=level)


def test_arguments_show_their_names_only() -> None:
    """A mapping that may hold a password has a repr that holds none, and cannot be changed."""
    arguments = Arguments({"password": "hunter22"})

    assert "<Arguments password>" == repr(arguments)
    with pytest.raises(TypeError):
        arguments["password"] = ""  # type: ignore[index]


def test_the_repr_of_a_config_shows_what_was_decided() -> None:
    """Logs and failures show the masked URL, the drivers and what begins a transaction."""
    config = load("postgresql://app:hunter22@db/shop")

    assert "<Config postgresql://app:***@db/shop drivers=asyncpg+psycopg begin=first-write>" == repr(config)


@pytest.mark.parametrize(
    ("url", "expected"),
    [(POSTGRESQL, "shop"), ("sqlite:///a.db", "a.db"), ("sqlite://", "in memory"), ("postgresql://", "postgresql")],
)
def test_a_database_has_a_name_for_messages(url: str, expected: str) -> None:
    """The name tells databases apart and shows no credential."""
    assert expected == load(url).name
