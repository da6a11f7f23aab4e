"""The base class of all tables, and the column types that SQLite and PostgreSQL share."""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, ClassVar

from sqlalchemy import BigInteger, DateTime, Dialect, Enum, Integer, Table, TypeDecorator
from sqlalchemy.orm import DeclarativeBase


class UtcDateTime(TypeDecorator[datetime]):
    """A point in time, in UTC on every database: SQLite stores no time zone and would return it without one."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value.replace(tzinfo=UTC) if value is not None and value.tzinfo is None else value


def utc_now() -> datetime:
    return datetime.now(UTC)


def enum_of(values: type[StrEnum]) -> Enum:
    """Store the values, not Python's names, in a column that needs no migration when a value is added."""
    return Enum(values, native_enum=False, length=20, values_callable=lambda members: [m.value for m in members])


# SQLite numbers rows only in a column whose type is INTEGER.
Id = BigInteger().with_variant(Integer, "sqlite")


class Base(DeclarativeBase):
    __table__: ClassVar[Table]
    type_annotation_map = {datetime: UtcDateTime}  # noqa: RUF012
    # SQLite would otherwise give the id of a deleted row to the next one.
    __table_args__: Any = {"sqlite_autoincrement": True}  # noqa: RUF012
