{% from 'quoting.jinja' import python_string %}
"""Settings, read from the environment or `.env` and validated at startup; `python -m app.settings` validates only."""

import os
import re
import secrets
import socket
import sys
import tomllib
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from socket import AF_INET, AF_INET6
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, ValidatorFunctionWrapHandler, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from app.database_url import asks_for_pooler_mode, is_sqlite, parse_url
from app.files import create_private

TITLE = {{ python_string(cookiecutter.project_name) }}
ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
VERSION: str = PROJECT["version"]
DESCRIPTION: str = PROJECT["description"]

DEFAULT_DATABASE_URL = "{{ cookiecutter.__database_url }}"
DEVELOPMENT_SECRET = "development-only-secret-never-use-it-in-production"
MAKE_SECRET = "create one with `openssl rand -hex 32`"

_HOST_NAME = re.compile(r"[a-z0-9_.-]+|\[[0-9a-f:]+\]")
_ORIGIN = re.compile(r"https?://([a-z0-9.-]+|\[([0-9a-f:.]+)\])(:[0-9]{1,5})?")
_OTLP_URL = re.compile(r"https?://[^/?#@\s]+(/[^?#\s]*)?")
_OTLP_HEADERS = re.compile(r"[^=,\s]+=[^,]*(,[^=,\s]+=[^,]*)*")
_PUBLIC_URL = re.compile(r"https?://([a-z0-9.-]+|\[[0-9a-f:]+\])(:[0-9]{1,5})?(/[!$-.0-~]*)*")
_SCOPE = r"^[!#-\[\]-~]+$"  # RFC 6749
{% if cookiecutter.gpu %}
_VALKEY_URL = re.compile(r"rediss?://[^/?#\s]+")
{% endif %}

CommaSeparated = Annotated[tuple[str, ...], NoDecode]
{% if cookiecutter.gpu %}
Device = Literal["auto", "cpu", "cuda"]
{% endif %}
Port = Annotated[int, Field(ge=1, le=65535)]


@dataclass(frozen=True)
class OAuth:
    """Which access tokens are accepted."""

    issuer: str
    resource: str
    audience: str
    read_scope: str
    write_scope: str


class Settings(BaseSettings):
    """One attribute per environment variable of the same name; `.env.example` explains each."""

    model_config = SettingsConfigDict(
        env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True, hide_input_in_errors=True
    )

    environment: Literal["development", "production"] = "development"
    host: str = "127.0.0.1"
    port: Port = {{ cookiecutter.api_port }}
    one_port: bool = False
    mcp_port: Port = {{ cookiecutter.mcp_port }}
    web_concurrency: Annotated[int, Field(ge=1, le=64)] = 2
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    request_timeout: Annotated[float, Field(gt=0, le=25)] = 25
    max_body_bytes: Annotated[int, Field(ge=1024)] = 1_048_576

    database_url: SecretStr = SecretStr(DEFAULT_DATABASE_URL)
    database_pool_size: Annotated[int, Field(ge=1, le=100)] = 10
    database_pooler: Literal["none", "transaction"] = "none"
    migration_database_url: SecretStr | None = None
    migrate_on_start: bool | None = None

    api_key_secret_file: Path | None = None
    api_key_secret: SecretStr | None = None
    admin_api_key: SecretStr | None = None
    cors_origins: CommaSeparated = ()
    mcp_allowed_hosts: CommaSeparated = ("localhost", "127.0.0.1", "[::1]")

    oauth_issuer: str | None = None
    mcp_public_url: str | None = None
    oauth_audience: str | None = None
    oauth_read_scope: Annotated[str, Field(pattern=_SCOPE)] = "read"
    oauth_write_scope: Annotated[str, Field(pattern=_SCOPE)] = "write"

    otel_exporter_otlp_endpoint: str | None = None
    otel_exporter_otlp_headers: SecretStr | None = None
    otel_service_name: str = PROJECT["name"]

{% if cookiecutter.gpu %}
    valkey_url: SecretStr = SecretStr("redis://localhost:6379/0")
    device: Device = "auto"
    job_time_limit: Annotated[float, Field(ge=1, le=3000)] = 600

{% endif %}
    # A validator sees only the fields above its own, so a rule that spans several fields belongs to the last of them.
    # As every rule is a field validator, one start reports all faults.

    @field_validator("cors_origins", "mcp_allowed_hosts", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return [item.strip().lower() for item in value.split(",") if item.strip()] if isinstance(value, str) else value

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value

    @field_validator("port", "mcp_port", mode="wrap")
    @classmethod
    def _ignore_links(cls, value: object, check: ValidatorFunctionWrapHandler, info: ValidationInfo) -> object:
        """Kubernetes sets `MCP_PORT=tcp://10.43.0.1:8051` if there is a Service named mcp: use the default then."""
        if isinstance(value, str) and value.startswith("tcp://") and info.field_name:
            return cls.model_fields[info.field_name].default
        return check(value)

    @field_validator("host")
    @classmethod
    def _check_host(cls, value: str) -> str:
        try:
            family = AF_INET6 if ":" in value else AF_INET
            socket.create_server((value, 0), family=family).close()
        except OSError as error:
            reason = str(error.strerror).partition(" (while")[0]
            raise ValueError(f"{value!r} is not an address of this machine: {reason}") from None
        return value

    @field_validator("mcp_port")
    @classmethod
    def _check_ports(cls, value: int, info: ValidationInfo) -> int:
        if value == info.data.get("port") and not info.data.get("one_port"):
            raise ValueError("must differ from PORT; with ONE_PORT=true, both are served on PORT")
        return value

    @field_validator("database_url", "migration_database_url")
    @classmethod
    def _check_url(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if value is None:
            return None
        url = value.get_secret_value()
        if _in_production(info) and url == DEFAULT_DATABASE_URL and not is_sqlite(url):
            raise ValueError("required in production, for example postgresql://user:password@host:5432/name")
        parsed = parse_url(url)
        if _in_production(info) and parsed.password == "":
            raise ValueError("has an empty password; if the URL contains ${DATABASE_PASSWORD}, set that variable")
        if not is_sqlite(url) and find_spec("asyncpg") is None:
            raise ValueError("needs the package asyncpg, which is not installed")
        return value

{% if cookiecutter.gpu %}
    @field_validator("valkey_url")
    @classmethod
    def _check_valkey_url(cls, value: SecretStr) -> SecretStr:
        if not _VALKEY_URL.match(value.get_secret_value()):
            raise ValueError("must look like redis://host:6379/0, or rediss:// for TLS")
        return value

{% endif %}
    @field_validator("api_key_secret", "admin_api_key")
    @classmethod
    def _check_length(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value()) < 32:
            raise ValueError(f"must have at least 32 characters: {MAKE_SECRET}")
        return value

    @field_validator("api_key_secret")
    @classmethod
    def _check_secret(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if _in_production(info):
            if value is None and info.data["api_key_secret_file"] is None:
                raise ValueError(f"required in production: {MAKE_SECRET}")
            if value is not None and value.get_secret_value() == DEVELOPMENT_SECRET:
                raise ValueError(f"is the secret for development: {MAKE_SECRET}")
        return value

    @field_validator("cors_origins")
    @classmethod
    def _check_origins(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        for origin in value:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ValueError(f"{origin!r} is not an origin such as https://app.example.com (no final slash)")
            if _in_production(info) and (origin == "*" or origin.startswith("http://") or _is_local(origin)):
                raise ValueError(f"{origin} is not allowed in production: list each https:// origin")
        return value

    @field_validator("mcp_allowed_hosts")
    @classmethod
    def _check_hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for host in value:
            if not _HOST_NAME.fullmatch(host):
                raise ValueError(f"{host!r} is not a host name such as api.example.com (no scheme, no port)")
        return value

    @field_validator("otel_exporter_otlp_endpoint")
    @classmethod
    def _check_endpoint(cls, value: str | None) -> str | None:
        if value is not None and not _OTLP_URL.fullmatch(value):
            raise ValueError("must look like http://localhost:4318 (no user, no query)")
        return value.rstrip("/") if value else None

    @field_validator("otel_exporter_otlp_headers")
    @classmethod
    def _check_headers(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not _OTLP_HEADERS.fullmatch(value.get_secret_value()):
            raise ValueError("must look like authorization=Basic%20abc,x-tenant=1 (name=value, separated by commas)")
        return value

    @field_validator("oauth_issuer", "mcp_public_url")
    @classmethod
    def _check_public_url(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and not _PUBLIC_URL.fullmatch(value):
            raise ValueError("must look like https://login.example.com/realm (no user, no query, lower-case host)")
        if value is not None and value.startswith("http://") and _in_production(info):
            raise ValueError("must start with https:// in production")
        return value

    @field_validator("mcp_public_url")
    @classmethod
    def _check_resource(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None and info.data.get("oauth_issuer") is not None:
            raise ValueError("required with OAUTH_ISSUER: the address of MCP, for example https://mcp.example.com/mcp")
        return value

    @property
    def oauth(self) -> OAuth | None:
        if self.oauth_issuer is None or self.mcp_public_url is None:
            return None
        return OAuth(
            issuer=self.oauth_issuer,
            resource=self.mcp_public_url,
            audience=self.oauth_audience or self.mcp_public_url,
            read_scope=self.oauth_read_scope,
            write_scope=self.oauth_write_scope,
        )

    @property
    def bind(self) -> list[str]:
        """The addresses to listen on, for gunicorn."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return [f"{host}:{port}" for port in ([self.port] if self.one_port else [self.port, self.mcp_port])]

    @property
    def uses_sqlite(self) -> bool:
        return is_sqlite(self.database_url.get_secret_value())

    @property
    def through_pooler(self) -> bool:
        """Whether PostgreSQL is behind a pooler in transaction mode, by `DATABASE_POOLER` or, say, `?pgbouncer=true`."""
        return self.database_pooler == "transaction" or asks_for_pooler_mode(self.database_url.get_secret_value())

    @property
    def migration_url(self) -> str:
        return (self.migration_database_url or self.database_url).get_secret_value()

    @property
    def migration_target(self) -> str:
        """The URL that migrations use, without its password, for messages."""
        return parse_url(self.migration_url).render_as_string(hide_password=True)

    @property
    def migrates_on_start(self) -> bool:
        """By default, always with SQLite, but with PostgreSQL only in development: production has a separate step."""
        if self.migrate_on_start is None:
            return self.uses_sqlite or self.environment == "development"
        return self.migrate_on_start

    def key_secret(self) -> bytes:
        """Return the secret for hashing API keys.

        Raises:
            SystemExit: `API_KEY_SECRET_FILE` can neither be read nor created, or contains fewer than 32 characters.
        """
        if self.api_key_secret is not None:
            return self.api_key_secret.get_secret_value().encode()
        if self.api_key_secret_file is None:
            return DEVELOPMENT_SECRET.encode()
        try:
            secret = _read_or_make(self.api_key_secret_file)
        except OSError as error:
            sys.exit(f"API_KEY_SECRET_FILE: {self.api_key_secret_file}: {error.strerror} (user id {os.getuid()})")
        if len(secret) < 32:
            sys.exit(f"API_KEY_SECRET_FILE: {self.api_key_secret_file} has fewer than 32 characters; {MAKE_SECRET}")
        return secret


def _in_production(info: ValidationInfo) -> bool:
    return info.data.get("environment") == "production"


def _is_local(origin: str) -> bool:
    """Whether this is the browser's own machine, in any spelling: `127.1`, `[::ffff:7f00:1]`, `localhost.`"""
    try:
        host = (urlsplit(origin).hostname or "").removesuffix(".")
        if host == "localhost" or host.endswith(".localhost"):
            return True
        address: IPv4Address | IPv6Address
        address = ip_address(host) if ":" in host else IPv4Address(socket.inet_aton(host))
    except (OSError, ValueError):
        return False
    address = getattr(address, "ipv4_mapped", None) or address
    return address.is_loopback or address.is_unspecified


def _read_or_make(path: Path) -> bytes:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):  # another process created it first
            create_private(path, secrets.token_hex(32).encode())
    return path.read_bytes().strip()


def load_settings() -> Settings:
    """Read and validate the settings.

    Raises:
        SystemExit: settings are invalid, and the message names all of them; or `.env` cannot be read.
    """
    # asyncpg reads PGSSLMODE and others, as libpq does, but fails if one is set to an empty value.
    for name in [name for name, value in os.environ.items() if name.startswith("PG") and not value]:
        del os.environ[name]
    try:
        return Settings()
    except (OSError, UnicodeDecodeError) as error:
        sys.exit(f".env cannot be read: {error}. Save it as UTF-8, readable by this user.")
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False)
        lines = [f"  {str(fault['loc'][0]).upper()}: {fault['msg'].removeprefix('Value error, ')}" for fault in faults]
        sys.exit("\n".join(["The service cannot start with these settings:", *lines]))


if __name__ == "__main__":
    load_settings()
