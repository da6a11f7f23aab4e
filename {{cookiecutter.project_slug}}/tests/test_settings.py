"""Settings are validated at startup: which are accepted, which are rejected, and the messages."""

import os
import re
import stat
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from pydantic import SecretStr

from app.__main__ import main
from app.database_url import asks_for_pooler_mode, is_sqlite, parse_url
from app.settings import DEFAULT_DATABASE_URL, DEVELOPMENT_SECRET, ROOT, OAuth, Settings, load_settings

NAMES = {name.upper() for name in Settings.model_fields}
USES_SQLITE = is_sqlite(DEFAULT_DATABASE_URL)
SECRET = "a-secret-for-tests-0123456789abc"
"""The shortest secret allowed."""
DATABASE_URL = "sqlite:////srv/service.db" if USES_SQLITE else "postgresql://service:hunter2@db.example.com/service"
PRODUCTION = {"ENVIRONMENT": "production", "API_KEY_SECRET": SECRET, "DATABASE_URL": DATABASE_URL}


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No settings from the machine that runs the tests: neither a `.env` nor environment variables."""
    monkeypatch.chdir(tmp_path)
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


def load(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> Settings:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return load_settings()


def refuse(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> str:
    """The message with which the service refuses to start."""
    with pytest.raises(SystemExit) as caught:
        load(monkeypatch, environment)
    assert isinstance(caught.value.code, str)
    return caught.value.code


def faults(message: str) -> set[str]:
    """The variables that the message names, each at the start of a line."""
    return set(re.findall(r"^  ([A-Z_]+): ", message, re.MULTILINE))


def test_development_needs_no_settings() -> None:
    settings = load_settings()
    assert settings.environment == "development"
    assert settings.database_url.get_secret_value() == DEFAULT_DATABASE_URL
    assert settings.key_secret() == DEVELOPMENT_SECRET.encode()
    assert settings.admin_api_key is None
    assert settings.cors_origins == ()
    assert settings.migrates_on_start
    assert settings.host == "127.0.0.1"


def test_production_starts_with_explicit_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(monkeypatch, {**PRODUCTION, "CORS_ORIGINS": "https://a.example.com,https://b.example.com:8443"})
    assert settings.key_secret() == SECRET.encode()
    assert settings.cors_origins == ("https://a.example.com", "https://b.example.com:8443")
    assert settings.migrates_on_start == USES_SQLITE


@pytest.mark.slow
def test_gunicorn_names_every_bad_variable_at_once_and_shows_no_secret() -> None:
    bad = {
        "ENVIRONMENT": "production",
        "PORT": "http",
        "MCP_PORT": "99999",
        "WEB_CONCURRENCY": "0",
        "LOG_LEVEL": "LOUD",
        "REQUEST_TIMEOUT": "-1",
        "DATABASE_URL": "oracle://scott:hunter2@db/service",
        "MIGRATION_DATABASE_URL": "hunter2",
        "MIGRATE_ON_START": "hunter2?",
        "API_KEY_SECRET": "hunter2",
        "ADMIN_API_KEY": "hunter2",
        "CORS_ORIGINS": "*",
        "MCP_ALLOWED_HOSTS": "https://mcp.example.com/",
    }
    command = [sys.executable, "-m", "gunicorn"]
    environment = {**os.environ, **bad}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode not in (0, None)
    assert run.stderr.splitlines()[0] == "The service cannot start with these settings:"
    assert faults(run.stderr) == bad.keys() - {"ENVIRONMENT"}
    assert len(run.stderr.splitlines()) == len(bad)
    assert "hunter2" not in run.stdout + run.stderr


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"API_KEY_SECRET": ""}, "API_KEY_SECRET: required in production"),
        ({"API_KEY_SECRET": DEVELOPMENT_SECRET}, "API_KEY_SECRET: is the secret for development"),
        ({"API_KEY_SECRET": SECRET[:31]}, "API_KEY_SECRET: must have at least 32 characters"),
        ({"DATABASE_URL": "postgresql://postgres:@database/service"}, "DATABASE_URL: has an empty password"),
        ({"ADMIN_API_KEY": SECRET[:31]}, "ADMIN_API_KEY: must have at least 32 characters"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4318"}, "OTEL_EXPORTER_OTLP_ENDPOINT: must look like http://"),
        ({"OTEL_EXPORTER_OTLP_HEADERS": "hunter2"}, "OTEL_EXPORTER_OTLP_HEADERS: must look like authorization="),
        ({"ENVIRONMENT": "staging"}, "ENVIRONMENT: Input should be 'development' or 'production'"),
        ({"PORT": "9000", "MCP_PORT": "9000"}, "MCP_PORT: must differ from PORT"),
        ({"MCP_ALLOWED_HOSTS": "mcp.example.com:8051"}, "MCP_ALLOWED_HOSTS: 'mcp.example.com:8051' is not a host name"),
    ],
)
def test_production_rejects_unsafe_settings(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, str], fault: str
) -> None:
    message = refuse(monkeypatch, {**PRODUCTION, **changes})
    assert f"  {fault}" in message
    assert len(faults(message)) == 1


@pytest.mark.parametrize(
    "origin",
    [
        "*",
        "http://app.example.com",
        "HTTP://APP.EXAMPLE.COM",
        "https://localhost",
        "https://LocalHost:3000",
        "https://localhost.",
        "https://app.localhost",
        "https://127.0.0.1",
        "https://127.8.9.10:443",
        "https://127.1",
        "https://2130706433",
        "https://0x7f000001",
        "https://0.0.0.0",
        "https://0",
        "https://[::1]",
        "https://[::1]:8443",
        "https://[0:0:0:0:0:0:0:1]",
        "https://[::]",
        "https://[::FFFF:127.0.0.1]",
        "https://[::ffff:7f00:1]",
    ],
)
def test_production_rejects_local_and_unencrypted_origins(monkeypatch: pytest.MonkeyPatch, origin: str) -> None:
    message = refuse(monkeypatch, {**PRODUCTION, "CORS_ORIGINS": f"https://app.example.com, {origin}"})
    assert f"  CORS_ORIGINS: {origin.lower()} is not allowed in production" in message
    load(monkeypatch, {"ENVIRONMENT": "development"})


@pytest.mark.parametrize(
    "origin", ["app.example.com", "https://app.example.com/", "https://*.example.com", "null", "ftp://example.com"]
)
def test_an_invalid_origin_is_always_rejected(monkeypatch: pytest.MonkeyPatch, origin: str) -> None:
    assert f"  CORS_ORIGINS: '{origin}' is not an origin" in refuse(monkeypatch, {"CORS_ORIGINS": origin})


@pytest.mark.parametrize("origin", ["https://localhost.example.com", "https://128.0.0.1", "https://[2001:db8::1]"])
def test_origins_that_only_look_local_are_accepted(monkeypatch: pytest.MonkeyPatch, origin: str) -> None:
    assert load(monkeypatch, {**PRODUCTION, "CORS_ORIGINS": origin}).cors_origins == (origin,)


OAUTH = {"OAUTH_ISSUER": "https://login.example.com/realms/a", "MCP_PUBLIC_URL": "https://mcp.example.com/mcp"}


def test_by_default_the_audience_of_tokens_is_the_public_url(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    issuer, resource = OAUTH.values()
    assert load(monkeypatch, {"MCP_PUBLIC_URL": resource}).oauth is None
    assert load(monkeypatch, {**PRODUCTION, **OAUTH}).oauth == OAuth(issuer, resource, resource, "read", "write")
    entra = {
        "OAUTH_AUDIENCE": "api://gizmos",
        "OAUTH_READ_SCOPE": "api://gizmos/r",
        "OAUTH_WRITE_SCOPE": "api://gizmos/w",
    }
    expected = OAuth(issuer, resource, "api://gizmos", "api://gizmos/r", "api://gizmos/w")
    assert load(monkeypatch, entra).oauth == expected


def test_in_development_the_issuer_may_be_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    local = {"OAUTH_ISSUER": "http://localhost:9000", "MCP_PUBLIC_URL": "http://[::1]:8051/mcp"}
    assert load(monkeypatch, local).oauth is not None


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"MCP_PUBLIC_URL": ""}, "MCP_PUBLIC_URL: required with OAUTH_ISSUER"),
        ({"OAUTH_ISSUER": "http://login.example.com"}, "OAUTH_ISSUER: must start with https:// in production"),
        ({"MCP_PUBLIC_URL": "http://mcp.example.com/mcp"}, "MCP_PUBLIC_URL: must start with https:// in production"),
        ({"OAUTH_ISSUER": "login.example.com"}, "OAUTH_ISSUER: must look like https://"),
        ({"OAUTH_ISSUER": "https://login.example.com?x=y"}, "OAUTH_ISSUER: must look like https://"),
        ({"OAUTH_ISSUER": "https://ann:secret@login.example.com"}, "OAUTH_ISSUER: must look like https://"),
        ({"MCP_PUBLIC_URL": 'https://mcp.example.com/"'}, "MCP_PUBLIC_URL: must look like https://"),
        ({"OAUTH_READ_SCOPE": "two words"}, "OAUTH_READ_SCOPE: "),
        ({"OAUTH_WRITE_SCOPE": 'quoted"'}, "OAUTH_WRITE_SCOPE: "),
    ],
)
def test_an_invalid_issuer_is_rejected(monkeypatch: pytest.MonkeyPatch, changes: dict[str, str], fault: str) -> None:
    message = refuse(monkeypatch, {**PRODUCTION, **OAUTH, **changes})
    assert f"  {fault}" in message
    assert len(faults(message)) == 1
    assert "secret@" not in message


LIMITS = [
    ("PORT", ["1", "65535"], ["0", "65536"]),
    ("WEB_CONCURRENCY", ["1", "64"], ["0", "65"]),
    ("REQUEST_TIMEOUT", ["0.1", "25"], ["0", "25.1"]),
    ("MAX_BODY_BYTES", ["1024"], ["1023"]),
    ("DATABASE_POOL_SIZE", ["1", "100"], ["0", "101"]),
    ("JOB_TIME_LIMIT", ["1", "3000"], ["0", "3001"]),
]


@pytest.mark.parametrize(("name", "good", "bad"), [limit for limit in LIMITS if limit[0] in NAMES])
def test_numbers_have_limits(monkeypatch: pytest.MonkeyPatch, name: str, good: list[str], bad: list[str]) -> None:
    for value in good:
        assert getattr(load(monkeypatch, {name: value}), name.lower()) == float(value)
    for value in bad:
        assert faults(refuse(monkeypatch, {name: value})) == {name}


def test_production_needs_an_explicit_database_unless_it_is_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {**PRODUCTION, "DATABASE_URL": ""}
    if USES_SQLITE:
        assert load(monkeypatch, environment).uses_sqlite
    else:
        assert "  DATABASE_URL: required in production" in refuse(monkeypatch, environment)


@pytest.mark.parametrize(
    ("url", "driver"),
    [
        ("postgres://u:p@h:5432/d", "asyncpg"),
        ("postgresql://u:p@h/d?sslmode=require", "asyncpg"),
        ("postgresql+psycopg2://u:p@h/d", "asyncpg"),
        ("sqlite:///data/service.db", "pysqlite"),
        ("sqlite+pysqlite:////srv/service.db", "pysqlite"),
    ],
)
def test_common_forms_of_urls_are_accepted(url: str, driver: str) -> None:
    parsed = parse_url(url)
    assert parsed.get_driver_name() == driver
    assert parsed.render_as_string(hide_password=False).partition("://")[2] == url.partition("://")[2]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("ssl=require", {"sslmode": "require"}),
        ("ssl=true", {"sslmode": "require"}),
        ("ssl=false", {"sslmode": "disable"}),
        ("schema=app", {"search_path": "app"}),
        ("sslmode=verify-full&sslrootcert=/ca.pem", {"sslmode": "verify-full", "sslrootcert": "/ca.pem"}),
        ("application_name=a&statement_timeout=5s", {"application_name": "a", "statement_timeout": "5s"}),
        ("pgbouncer=true&connection_limit=5&channel_binding=require&keepalives_idle=30", {}),
    ],
)
def test_parameters_of_other_programs_are_accepted(written: str, meant: dict[str, str]) -> None:
    assert parse_url(f"postgresql://u:p@h/d?{written}").query == meant


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("postgresql://u:p@h/d?sslmod=require", "has the unknown parameter sslmod."),
        ("postgresql://u:p@h/d?sslmode=require&sslmode=disable", "has the parameter sslmode twice"),
        ("postgresql://u:p@one:5432,two:5432/d", "lists several hosts"),
        ("sqlite:///data/service.db?timeout=5", "must not have parameters for SQLite: timeout"),
    ],
)
def test_a_parameter_without_effect_is_rejected_by_name(url: str, fault: str) -> None:
    with pytest.raises(ValueError, match=re.escape(fault)):
        parse_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://",
        "sqlite:///",
        "sqlite:///:memory:",
        "sqlite:///file::memory:?cache=shared&uri=true",
        "mysql://u:hunter2@h/d",
        "hunter2",
        "postgresql://u:hunter2@h:port/d",
    ],
)
@pytest.mark.parametrize("name", ["DATABASE_URL", "MIGRATION_DATABASE_URL"])
def test_an_invalid_url_is_rejected_but_not_shown(monkeypatch: pytest.MonkeyPatch, name: str, url: str) -> None:
    message = refuse(monkeypatch, {name: url})
    assert faults(message) == {name}
    assert "hunter2" not in message


def test_a_database_without_its_driver_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.settings.find_spec", lambda _name: None)
    url = "postgresql://u:hunter2@h/d"
    assert "  DATABASE_URL: needs the package asyncpg" in refuse(monkeypatch, {"DATABASE_URL": url})


def test_gunicorn_only_gets_validated_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[dict[str, str]] = []
    monkeypatch.setattr("gunicorn.app.wsgiapp.run", lambda prog: started.append(dict(os.environ)))
    for name in ("WEB_CONCURRENCY", "FORWARDED_ALLOW_IPS", "GUNICORN_CMD_ARGS", "SENDFILE"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(sys, "argv", ["app"])
    main()
    [environment] = started
    assert environment["WEB_CONCURRENCY"] == str(Settings().web_concurrency)
    assert not environment.keys() & {"FORWARDED_ALLOW_IPS", "GUNICORN_CMD_ARGS", "SENDFILE"}


def test_empty_values_count_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(monkeypatch, dict.fromkeys(NAMES, "")) == Settings()


def test_empty_variables_of_libpq_count_as_unset_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """asyncpg reads them, and rejects empty ones."""
    load(monkeypatch, {"PGSSLMODE": "", "PGTARGETSESSIONATTRS": "", "PGSSLROOTCERT": "ca.pem"})
    assert os.environ.keys().isdisjoint({"PGSSLMODE", "PGTARGETSESSIONATTRS"})
    assert os.environ["PGSSLROOTCERT"] == "ca.pem"


def test_lists_and_levels_are_read_as_people_write_them(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(monkeypatch, {"MCP_ALLOWED_HOSTS": " MCP.Example.com ,localhost, ", "LOG_LEVEL": "debug"})
    assert settings.mcp_allowed_hosts == ("mcp.example.com", "localhost")
    assert settings.log_level == "DEBUG"


def test_the_environment_takes_precedence_over_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("PORT=9001\nMCP_PORT=9002\n", encoding="utf-8")
    settings = load(monkeypatch, {"MCP_PORT": "9003"})
    assert (settings.port, settings.mcp_port) == (9001, 9003)


def test_a_file_in_another_encoding_is_rejected() -> None:
    Path(".env").write_bytes("ADMIN_API_KEY=Schlüssel".encode("latin-1"))
    with pytest.raises(SystemExit, match=r"^\.env cannot be read: 'utf-8' codec can't decode byte 0xfc"):
        load_settings()


def test_migrations_can_bypass_a_pooler(monkeypatch: pytest.MonkeyPatch) -> None:
    direct = DATABASE_URL.replace("service", "direct")
    assert load(monkeypatch, PRODUCTION).migration_url == DATABASE_URL
    assert load(monkeypatch, {"MIGRATION_DATABASE_URL": direct}).migration_url == direct


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, False),
        ({"DATABASE_POOLER": "none"}, False),
        ({"DATABASE_POOLER": "transaction"}, True),
    ],
)
def test_a_setting_declares_a_pooler(monkeypatch: pytest.MonkeyPatch, changes: dict[str, str], expected: bool) -> None:
    assert load(monkeypatch, {**PRODUCTION, **changes}).through_pooler is expected


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ("pgbouncer=true", True),
        ("pgbouncer=false", False),
        ("statement_cache_size=0", True),
        ("prepared_statement_cache_size=0", True),
        ("prepared_statement_cache_size=100", False),
        ("sslmode=require", False),
    ],
)
def test_a_url_declares_a_pooler(parameters: str, expected: bool) -> None:
    assert asks_for_pooler_mode(f"postgresql://u:p@h/d?{parameters}") is expected


def test_the_target_of_migrations_is_shown_without_its_password() -> None:
    settings = Settings.model_construct(migration_database_url=SecretStr("postgresql://service:hunter2@db/service"))
    assert settings.migration_target == "postgresql+asyncpg://service:***@db/service"


def test_a_missing_secret_file_is_created_once(tmp_path: Path) -> None:
    file = tmp_path / "one" / "another" / "secret"
    settings = Settings(api_key_secret_file=file)
    secret = settings.key_secret()
    assert len(secret) >= 32
    assert secret == settings.key_secret() == file.read_bytes()
    assert list(file.parent.iterdir()) == [file]
    assert Settings(api_key_secret_file=tmp_path / "another").key_secret() != secret


@pytest.mark.parametrize(
    ("folder_mode", "umask", "mode"), [(0o755, 0o022, 0o600), (0o700, 0, 0o600), (0o770, 0o077, 0o660)]
)
def test_a_secret_file_is_private_to_its_owner_or_the_group_of_its_folder(
    tmp_path: Path, folder_mode: int, umask: int, mode: int
) -> None:
    tmp_path.chmod(folder_mode)
    previous = os.umask(umask)
    try:
        Settings(api_key_secret_file=tmp_path / "secret").key_secret()
    finally:
        os.umask(previous)
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == mode


def test_a_secret_in_a_file_has_the_same_minimum_length(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(f"{SECRET}\n", encoding="ascii")
    assert Settings(api_key_secret_file=tmp_path / "secret").key_secret() == SECRET.encode()


def test_a_secret_takes_precedence_over_a_secret_file(tmp_path: Path) -> None:
    settings = Settings(api_key_secret=SecretStr(SECRET), api_key_secret_file=tmp_path / "secret")
    assert settings.key_secret() == SECRET.encode()
    assert list(tmp_path.iterdir()) == []


RACE = """
import os, sys
from pathlib import Path
from app.settings import Settings
for number in range(20):
    settings = Settings(api_key_secret_file=Path(sys.argv[1]) / str(number))
    start, go = os.pipe()
    for _ in range(6):
        if os.fork() == 0:
            os.close(go)
            os.read(start, 1)  # until the parent closes its end: all at once
            os.write(1, f"{number} {settings.key_secret().decode()}\\n".encode())
            os._exit(0)
    os.close(go)
    os.close(start)
    assert all(os.wait()[1] == 0 for _ in range(6))
"""


@pytest.mark.slow
def test_processes_that_start_at_once_create_one_secret(tmp_path: Path) -> None:
    run = subprocess.run([sys.executable, "-c", RACE, tmp_path], cwd=ROOT, capture_output=True, text=True, check=True)
    lines = run.stdout.splitlines()
    assert len(lines) == 120
    assert len(set(lines)) == 20


@pytest.mark.parametrize(
    ("content", "fault"),
    [(f"{SECRET[:31]}\n", "has fewer than 32 characters"), (None, "Not a directory (user id ")],
)
def test_an_invalid_secret_file_ends_the_start(tmp_path: Path, content: str | None, fault: str) -> None:
    file = tmp_path / "secret"
    file.write_text(content or "", encoding="ascii")
    settings = Settings(api_key_secret_file=file if content else file / "folder" / "below-a-file")
    with pytest.raises(SystemExit, match=re.escape(fault)):
        settings.key_secret()


def examples(file: str) -> dict[str, str]:
    """The settings in the file, commented out or not; fails unless each has a comment above it."""
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    found = {}
    for above, line in pairwise(lines):
        if match := re.fullmatch(r"(?:# )?([A-Z_]+)=(.*)", line):
            assert re.match(r"# \S+ ", above), f"{file}: nothing explains {match[1]}"
            found[match[1]] = match[2]
    return found


@pytest.mark.parametrize("file", [".env.example", ".env.prod.example"])
def test_the_example_files_explain_exactly_the_settings(file: str) -> None:
    found = examples(file)
    parts = set(re.findall(r"\$\{(\w+)\}", " ".join(found.values())))
    assert found.keys() - {"POSTGRES_PASSWORD"} == NAMES | parts  # read by the database container


def test_the_example_for_development_shows_the_defaults() -> None:
    default = Settings()
    Path(".env").write_text("\n".join(f"{name}={value}" for name, value in examples(".env.example").items()))
    assert load_settings() == default


def test_the_example_for_production_asks_for_secrets_and_then_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / ".env.prod.example").read_text(encoding="utf-8")
    Path(".env").write_text(text, encoding="utf-8")
    missing = faults(refuse(monkeypatch, {}))
    assert missing == {"API_KEY_SECRET"} if USES_SQLITE else {"API_KEY_SECRET", "DATABASE_URL"}
    Path(".env").write_text(re.sub(r"^# (?=[A-Z_]+=)", "", text, flags=re.MULTILINE), encoding="utf-8")
    settings = load(monkeypatch, {name: PRODUCTION[name] for name in missing})
    assert settings.environment == "production"
    assert settings.admin_api_key is None


def test_with_one_port_the_other_port_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(monkeypatch, {"PORT": "9000", "MCP_PORT": "9000", "ONE_PORT": "true"})
    assert settings.bind == ["127.0.0.1:9000"]


@pytest.mark.parametrize("name", ["PORT", "MCP_PORT"])
def test_variables_that_kubernetes_sets_for_services_are_ignored(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    settings = load(monkeypatch, {name: "tcp://10.43.0.1:8051"})
    assert (settings.port, settings.mcp_port) == (Settings().port, Settings().mcp_port)


def test_an_ipv6_address_is_bound_in_brackets() -> None:
    """Without validation, as a container may have no IPv6."""
    settings = Settings.model_construct(host="::", port=9000, mcp_port=9001)
    assert settings.bind == ["[::]:9000", "[::]:9001"]


@pytest.mark.parametrize("host", ["x86_64-pc-linux-gnu", "192.0.2.1", "2001:db8::1", "my laptop"])
def test_a_host_that_is_not_this_machine_is_rejected_by_name(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    message = refuse(monkeypatch, {"HOST": host})
    assert re.search(rf"^  HOST: '{host}' is not an address of this machine: [^()]+$", message, re.MULTILINE)
