"""Where a setting comes from, which source wins, and what is said when none has it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from pydantic import PostgresDsn, SecretStr
from sqlalchemy import make_url

from sessionlocal.config import load
from sessionlocal.errors import ConfigurationError


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run in an empty directory with no setting in the environment."""
    for name in ("DATABASE_URL", "DATABASE_URL_FILE", "POSTGRES_URL", "MYSQL_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


SOURCES = ["keyword", "environment", "file", "dotenv", "pyproject"]


def put(source: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write a URL that names its source there."""
    url = f"sqlite:///{source}.db"
    if source == "environment":
        monkeypatch.setenv("DATABASE_URL", url)
    elif source == "file":
        (place / "secret").write_text(f"{url}\n")
        monkeypatch.setenv("DATABASE_URL_FILE", str(place / "secret"))
    elif source == "dotenv":
        (place / ".env").write_text(f"DATABASE_URL={url}\n")
    elif source == "pyproject":
        (place / "pyproject.toml").write_text(f'[tool.sessionlocal]\nurl = "{url}"\n')


@pytest.mark.parametrize("winner", SOURCES)
def test_the_first_source_that_has_the_url_wins(winner: str, nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keyword, environment, secret file, .env, pyproject: each beats all that come after it."""
    for source in SOURCES[SOURCES.index(winner) :]:
        put(source, nowhere, monkeypatch)

    config = load("sqlite:///keyword.db" if winner == "keyword" else None)

    assert f"{winner}.db" == config.url.database


@pytest.mark.parametrize(
    ("keyword", "environment", "dotenv", "pyproject", "expected"),
    [
        (1, "2", "3", 4, 1),
        (None, "2", "3", 4, 2),
        (None, None, "3", 4, 3),
        (None, None, None, 4, 4),
        (None, None, None, None, 5),
    ],
)
def test_each_setting_has_its_own_winner(
    keyword: int | None,
    environment: str | None,
    dotenv: str | None,
    pyproject: int | None,
    expected: int,
    nowhere: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A pool size is looked for in the same order as the URL, wherever the URL came from; last comes a default."""
    options: dict[str, Any] = {} if keyword is None else {"pool_size": keyword}
    if environment is not None:
        monkeypatch.setenv("DATABASE_POOL_SIZE", environment)
    if dotenv is not None:
        (nowhere / ".env").write_text(f"DATABASE_POOL_SIZE={dotenv}\n")
    if pyproject is not None:
        (nowhere / "pyproject.toml").write_text(f"[tool.sessionlocal]\npool-size = {pyproject}\n")

    config = load("sqlite:///a.db", **options)

    assert expected == config.engine_options["pool_size"]


def test_the_nearest_pyproject_counts(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pyproject.toml is searched from the working directory upwards, and the search ends at the first."""
    (nowhere / "pyproject.toml").write_text('[tool.sessionlocal]\nurl = "sqlite:///far.db"\n')
    below = nowhere / "a" / "b"
    below.mkdir(parents=True)
    (nowhere / "a" / "pyproject.toml").write_text('[tool.sessionlocal]\nurl = "sqlite:///near.db"\n')
    monkeypatch.chdir(below)

    assert "near.db" == load().url.database


def test_a_dotenv_file_may_name_the_secret_file(nowhere: Path, caplog: pytest.LogCaptureFixture) -> None:
    """DATABASE_URL_FILE works from .env as well, and the line break that ends every file is no reason to warn."""
    (nowhere / "secret").write_text("sqlite:///secret.db\r\n")
    (nowhere / ".env").write_text(f"DATABASE_URL_FILE={nowhere / 'secret'}\n")

    assert "secret.db" == load().url.database
    assert [] == caplog.records


def test_values_are_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Text from the environment becomes what the option takes; none and 0 are time limits of their own."""
    for name, value in {
        "POOL_TIMEOUT": "2.5",
        "POOL_PRE_PING": "yes",
        "ECHO": "debug",
        "EXPIRE_ON_COMMIT": "true",
        "STATEMENT_TIMEOUT": "none",
        "LOCK_TIMEOUT": "0",
        "ISOLATION_LEVEL": "repeatable_read",
        "BEGIN": "first-statement",
    }.items():
        monkeypatch.setenv(f"DATABASE_{name}", value)

    config = load("postgresql://localhost/shop")

    assert (2.5, True, "debug") == tuple(config.engine_options[n] for n in ("pool_timeout", "pool_pre_ping", "echo"))
    assert config.session_options["expire_on_commit"] is True
    assert (None, 0.0) == (config.statement_timeout, config.lock_timeout)
    assert ("REPEATABLE READ", "first-statement") == (config.isolation_level, config.begin)


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("DATABASE_POOL_SIZE", "hunter22", "DATABASE_POOL_SIZE: input should be a valid integer"),
        ("DATABASE_POOL_SIZE", "-3", "DATABASE_POOL_SIZE: input should be greater than or equal to 0"),
        ("DATABASE_STATEMENT_TIMEOUT", "30s", "DATABASE_STATEMENT_TIMEOUT: input should be a valid number"),
        ("DATABASE_BEGIN", "hunter22", "DATABASE_BEGIN: input should be 'first-write' or 'first-statement'"),
        ("DATABASE_CLEANUP_TIMEOUT", "0", "DATABASE_CLEANUP_TIMEOUT: input should be greater than 0"),
    ],
)
def test_a_wrong_value_names_its_variable_and_kind(
    variable: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says which variable must be what, and never what it is."""
    monkeypatch.setenv(variable, value)

    with pytest.raises(ConfigurationError) as caught:
        load("sqlite://")

    assert str(caught.value).startswith(message)
    assert "hunter22" not in str(caught.value)


def test_a_wrong_keyword_is_named_as_one() -> None:
    """A keyword is not blamed on the environment."""
    with pytest.raises(ConfigurationError, match=r"^pool_size=: input should be a valid integer"):
        load("sqlite://", pool_size="many")


def test_a_wrong_value_in_a_file_names_both_files(nowhere: Path) -> None:
    """What is in no variable of the environment is in .env or in pyproject.toml."""
    (nowhere / ".env").write_text("DATABASE_POOL_SIZE=many\n")

    with pytest.raises(
        ConfigurationError, match=r"DATABASE_POOL_SIZE in \.env, or pool_size in \[tool\.sessionlocal\]"
    ):
        load("sqlite://")


def test_an_unset_url_is_named_with_the_places_and_a_line_for_development(nowhere: Path) -> None:
    """Whoever reads the error knows what to set, where it was looked for, and what to write to start."""
    (nowhere / "pyproject.toml").write_text("[project]\n")

    with pytest.raises(ConfigurationError) as caught:
        load()

    message = str(caught.value)
    assert message.startswith("DATABASE_URL is not set.")
    assert "DATABASE_URL_FILE" in message
    assert f"{nowhere / '.env'} (no such file)" in message
    assert f"[tool.sessionlocal] in {nowhere / 'pyproject.toml'} (no url)" in message
    assert "DATABASE_URL=sqlite:///./app.db" in message


def test_the_line_for_development_works(nowhere: Path) -> None:
    """What the error recommends is accepted."""
    (nowhere / ".env").write_text("DATABASE_URL=sqlite:///./app.db\n")

    assert "sqlite" == load().dialect


@pytest.mark.parametrize("name", ["SQLALCHEMY_DATABASE_URI", "POSTGRES_URL", "DATABASE_URI"])
def test_a_url_under_another_name_is_pointed_out(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The names of other libraries and hosts are recognised, not read."""
    monkeypatch.setenv(name, "postgresql://app:hunter22@db/shop")

    with pytest.raises(ConfigurationError, match=f"{name} is set: rename it") as caught:
        load()

    assert "hunter22" not in str(caught.value)


@pytest.mark.parametrize("default", [None, "sqlite:///./dev.db"])
@pytest.mark.parametrize("value", ["", "  "])
def test_an_empty_variable_is_an_error_and_no_wish_for_the_default(
    value: str, default: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A secret that arrived empty never starts the application on another database."""
    monkeypatch.setenv("DATABASE_URL", value)

    with pytest.raises(ConfigurationError, match="DATABASE_URL is set but empty"):
        load(default=default)


def test_a_default_is_used_with_a_warning_and_an_absolute_path(nowhere: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody wonders later which file the data went to."""
    config = load(default="sqlite:///./dev.db")

    assert str(nowhere / "dev.db") == config.url.database
    assert [("WARNING", f"DATABASE_URL is not set: using default=sqlite:///{nowhere / 'dev.db'}")] == [
        (record.levelname, record.getMessage().replace("%2F", "/")) for record in caplog.records
    ]


def test_a_default_gives_way_to_a_setting(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """With a URL set there is no fallback and no warning."""
    monkeypatch.setenv("DATABASE_URL", "sqlite:///real.db")

    assert "real.db" == load(default="sqlite:///./dev.db").url.database
    assert [] == caplog.records


def test_the_password_of_a_default_is_masked(caplog: pytest.LogCaptureFixture) -> None:
    """The warning shows where, not how to get in."""
    load(default="postgresql://app:hunter22@db/shop")

    assert "postgresql://app:***@db/shop" in caplog.text
    assert "hunter22" not in caplog.text


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://app:pw@db/shop",
        make_url("postgresql://app:pw@db/shop"),
        SecretStr("postgresql://app:pw@db/shop"),
        PostgresDsn("postgresql://app:pw@db/shop"),
    ],
    ids=["text", "URL", "SecretStr", "PostgresDsn"],
)
def test_a_url_may_be_text_or_an_object(url: object) -> None:
    """SQLAlchemy's URL and pydantic's types are taken as they are."""
    config = load(url)

    assert ("db", "shop", "pw") == (config.url.host, config.url.database, config.url.password)


def test_a_url_of_another_type_is_refused() -> None:
    """The error names the type, since the value may be a secret."""
    with pytest.raises(ConfigurationError, match="url must be text or a SQLAlchemy URL, not bytes"):
        load(b"sqlite://")


def test_a_misspelt_variable_is_warned_about(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A near miss is pointed out; variables of other programs are left alone."""
    monkeypatch.setenv("DATABASE_POOL_SISE", "3")
    monkeypatch.setenv("DATABASE_HOST", "db")
    monkeypatch.setenv("DATABASE_PASSWORD", "hunter22")

    load("sqlite://")

    assert ["DATABASE_POOL_SISE is no setting and is ignored; did you mean DATABASE_POOL_SIZE?"] == [
        record.getMessage() for record in caplog.records if record.levelno == logging.WARNING
    ]


def test_a_misspelt_key_in_pyproject_is_refused(nowhere: Path) -> None:
    """The table is ours alone, so a name that we do not know is a mistake."""
    (nowhere / "pyproject.toml").write_text("[tool.sessionlocal]\npool_sise = 3\n")

    with pytest.raises(ConfigurationError, match="unknown option 'pool_sise': did you mean 'pool_size'"):
        load("sqlite://")


def test_sub_tables_in_pyproject_belong_to_tools(nowhere: Path) -> None:
    """[tool.sessionlocal.anything] is not read as settings."""
    (nowhere / "pyproject.toml").write_text('[tool.sessionlocal]\nurl = "sqlite://"\n[tool.sessionlocal.lint]\nx = 1\n')

    assert "sqlite" == load().dialect


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("pyproject.toml", b"[tool", "is not valid TOML"),
        ("pyproject.toml", b"\xff", "is not a text file in UTF-8"),
        (".env", b"\xff\xfe", "is not a text file in UTF-8"),
    ],
)
def test_a_broken_file_is_named(file: str, content: bytes, message: str, nowhere: Path) -> None:
    """A file that cannot be read is an error with its path, not a setting that is silently missing."""
    (nowhere / file).write_bytes(content)

    with pytest.raises(ConfigurationError, match=message) as caught:
        load("sqlite://")

    assert str(nowhere / file) in str(caught.value)


def test_a_missing_secret_file_is_named(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A secret that was not mounted is an error with its path."""
    monkeypatch.setenv("DATABASE_URL_FILE", str(nowhere / "nothing"))

    with pytest.raises(ConfigurationError, match=r"DATABASE_URL_FILE: .*nothing cannot be read: No such file"):
        load()
