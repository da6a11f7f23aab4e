"""The database's tables."""

from datetime import UTC, date, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import BigInteger, DateTime, Dialect, Enum, Index, Integer, String, Text, TypeDecorator
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Status(StrEnum):
    TODO = "todo"
    IN_PROGRESS = "in_progress"
    DONE = "done"


class Priority(StrEnum):
    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"
    URGENT = "urgent"


class UtcDateTime(TypeDecorator[datetime]):
    """A point in time, in UTC on every database: SQLite stores no time zone and would give it back without one."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value.replace(tzinfo=UTC) if value is not None and value.tzinfo is None else value


def utc_now() -> datetime:
    return datetime.now(UTC)


def enum_of(values: type[StrEnum]) -> Enum:
    """Store the values, not Python's names, in a column that needs no migration when a value is added."""
    return Enum(values, native_enum=False, length=20, values_callable=lambda members: [m.value for m in members])


# SQLite numbers rows only in a column that it calls INTEGER.
Id = BigInteger().with_variant(Integer, "sqlite")


class Base(DeclarativeBase):
    type_annotation_map = {  # noqa: RUF012
        datetime: UtcDateTime,
        Status: enum_of(Status),
        Priority: enum_of(Priority),
    }
    # SQLite would otherwise give the id of a deleted row to the next one.
    __table_args__: Any = {"sqlite_autoincrement": True}  # noqa: RUF012


class Task(Base):
    __tablename__ = "tasks"
    __table_args__ = (Index("ix_tasks_status_id", "status", "id"), Base.__table_args__)

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    title: Mapped[str] = mapped_column(String(200))
    description: Mapped[str | None] = mapped_column(Text)
    status: Mapped[Status] = mapped_column(default=Status.TODO)
    priority: Mapped[Priority] = mapped_column(default=Priority.NORMAL)
    due_date: Mapped[date | None]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    updated_at: Mapped[datetime] = mapped_column(default=utc_now, onupdate=utc_now)


class ApiKey(Base):
    __tablename__ = "api_keys"
    id: Mapped[int] = mapped_column(Id, primary_key=True)
    name: Mapped[str] = mapped_column(String(100))
    digest: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    revoked_at: Mapped[datetime | None]


# A name is free again once its key is revoked.
Index(
    "uq_api_keys_active_name",
    ApiKey.name,
    unique=True,
    postgresql_where=ApiKey.revoked_at.is_(None),
    sqlite_where=ApiKey.revoked_at.is_(None),
)
