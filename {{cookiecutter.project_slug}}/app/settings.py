{% from 'quoting.jinja' import python_string %}
"""Settings, read from the environment or `.env` and checked once, at start."""

import os
import re
import secrets
import sys
import tomllib
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from app.database import is_sqlite, parse_url

TITLE = {{ python_string(cookiecutter.project_name) }}
ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
VERSION: str = PROJECT["version"]
DESCRIPTION: str = PROJECT["description"]

DEFAULT_DATABASE_URL = "{{ cookiecutter.__database_url }}"
DEVELOPMENT_SECRET = "development-only-secret-never-use-it-in-production"

_HOST_NAME = re.compile(r"[a-z0-9_.-]+|\[[0-9a-f:]+\]", re.IGNORECASE)
_ORIGIN = re.compile(r"https?://([a-z0-9.-]+|\[[0-9a-f:]+\])(:\d{1,5})?", re.IGNORECASE)
_LOCAL_ORIGIN = re.compile(
    r"https?://(localhost|[^/:]+\.localhost|127\.[\d.]+|0\.0\.0\.0|\[::1?\])(:|$)", re.IGNORECASE
)

CommaSeparated = Annotated[tuple[str, ...], NoDecode]
Port = Annotated[int, Field(ge=1, le=65535)]


class Settings(BaseSettings):
    """One attribute per environment variable of the same name; `.env.example` explains each."""

    model_config = SettingsConfigDict(
        env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True, hide_input_in_errors=True
    )

    environment: Literal["development", "production"] = "development"
    host: str = "0.0.0.0"
    port: Port = {{ cookiecutter.api_port }}
    mcp_port: Port = {{ cookiecutter.mcp_port }}
    reload: bool = False
    web_concurrency: Annotated[int, Field(ge=1, le=64)] = 2
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    request_timeout: Annotated[float, Field(gt=0, le=25)] = 25
    max_body_bytes: Annotated[int, Field(ge=1024)] = 1_048_576

    database_url: SecretStr = SecretStr(DEFAULT_DATABASE_URL)
    database_pool_size: Annotated[int, Field(ge=1, le=100)] = 10
    migration_database_url: SecretStr | None = None
    migrate_on_start: bool | None = None

    api_key_secret: SecretStr | None = None
    api_key_secret_file: Path | None = None
    admin_api_key: SecretStr | None = None
    cors_origins: CommaSeparated = ()
    mcp_allowed_hosts: CommaSeparated = ("localhost", "127.0.0.1", "[::1]")

    @field_validator("cors_origins", "mcp_allowed_hosts", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return [item.strip() for item in value.split(",") if item.strip()] if isinstance(value, str) else value

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value

    @field_validator("database_url", "migration_database_url")
    @classmethod
    def _check_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            parse_url(value.get_secret_value())
        return value

    @field_validator("api_key_secret", "admin_api_key")
    @classmethod
    def _check_length(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value()) < 32:
            raise ValueError("must have at least 32 characters: make one with `openssl rand -hex 32`")
        return value

    @field_validator("cors_origins")
    @classmethod
    def _check_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ValueError(f"{origin!r} is not an origin, such as https://app.example.com (no final slash)")
        return value

    @field_validator("mcp_allowed_hosts")
    @classmethod
    def _check_hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for host in value:
            if not _HOST_NAME.fullmatch(host):
                raise ValueError(f"{host!r} is not a host name such as tasks.example.com (no scheme, no port)")
        return value

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        faults = self._production_faults() if self.environment == "production" else []
        if self.port == self.mcp_port:
            faults.append("MCP_PORT: must differ from PORT")
        if self.api_key_secret and self.api_key_secret_file:
            faults.append("API_KEY_SECRET_FILE: API_KEY_SECRET is set as well; keep one of the two")
        if faults:
            raise ValueError("\n".join(faults))
        return self

    def _production_faults(self) -> list[str]:
        faults = []
        if self.api_key_secret is None and self.api_key_secret_file is None:
            faults.append("API_KEY_SECRET: required in production: make one with `openssl rand -hex 32`")
        elif self.api_key_secret and self.api_key_secret.get_secret_value() == DEVELOPMENT_SECRET:
            faults.append("API_KEY_SECRET: is the development default: make one with `openssl rand -hex 32`")
        if "database_url" not in self.model_fields_set and not self.uses_sqlite:
            faults.append("DATABASE_URL: required in production, such as postgresql://user:password@host:5432/name")
        faults += [
            f"CORS_ORIGINS: {origin} is refused in production: name each https:// origin"
            for origin in self.cors_origins
            if origin == "*" or origin.lower().startswith("http://") or _LOCAL_ORIGIN.match(origin)
        ]
        return faults

    @property
    def uses_sqlite(self) -> bool:
        return is_sqlite(self.database_url.get_secret_value())

    @property
    def uses_pooler(self) -> bool:
        """Whether the app reaches Postgres through a pooler: migrations then have an address of their own."""
        return self.migration_database_url is not None

    @property
    def migration_url(self) -> str:
        return (self.migration_database_url or self.database_url).get_secret_value()

    @property
    def migration_target(self) -> str:
        """Where migrations go, fit to be shown: no password."""
        return parse_url(self.migration_url).render_as_string(hide_password=True)

    @property
    def migrates_on_start(self) -> bool:
        """By default SQLite always does; Postgres in development only (in production a job of its own does)."""
        if self.migrate_on_start is None:
            return self.uses_sqlite or self.environment == "development"
        return self.migrate_on_start

    def key_secret(self) -> bytes:
        """The secret under which API keys are hashed.

        Raises:
            SystemExit: `API_KEY_SECRET_FILE` can neither be read nor made, or holds fewer than 32 characters.
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
            sys.exit(f"API_KEY_SECRET_FILE: {self.api_key_secret_file} holds fewer than 32 characters")
        return secret


def _read_or_make(path: Path) -> bytes:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f"{path.name}.{os.getpid()}")
        draft.touch(mode=0o600)
        draft.write_text(secrets.token_hex(32), encoding="ascii")
        try:
            path.hardlink_to(draft)  # fails, and replaces nothing, where another process was faster
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    return path.read_bytes().strip()


def load_settings() -> Settings:
    """Read and check the settings.

    Raises:
        SystemExit: at least one is wrong; the message names every one of them.
    """
    try:
        return Settings()
    except ValidationError as error:
        lines = []
        for fault in error.errors(include_url=False, include_input=False):
            message = fault["msg"].removeprefix("Value error, ")
            name = str(fault["loc"][0]).upper() if fault["loc"] else ""
            lines += [f"{name}: {message}"] if name else message.splitlines()
        sys.exit("The service cannot start with these settings:\n" + "\n".join(f"  {line}" for line in lines))
