"""The base class of all tables, and the column types that SQLite and PostgreSQL share."""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, ClassVar

from sqlalchemy import BigInteger, DateTime, Dialect, Enum, Integer, Table, TypeDecorator
from sqlalchemy.orm import DeclarativeBase


class UtcDateTime(TypeDecorator[datetime]):
    """A timestamp in UTC on every database: SQLite stores no time zone, so plain DateTime would return naive values."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value.replace(tzinfo=UTC) if value is not None and value.tzinfo is None else value


def utc_now() -> datetime:
    return datetime.now(UTC)


def enum_of(values: type[StrEnum]) -> Enum:
    """Store the enum's values rather than its names, in a column that needs no migration when a value is added."""
    return Enum(values, native_enum=False, length=20, values_callable=lambda members: [m.value for m in members])


# SQLite generates ids only for columns of type INTEGER.
Id = BigInteger().with_variant(Integer, "sqlite")


class Base(DeclarativeBase):
    __table__: ClassVar[Table]
    type_annotation_map = {datetime: UtcDateTime}  # noqa: RUF012
    # Without this, SQLite may reuse the id of a deleted row.
    __table_args__: Any = {"sqlite_autoincrement": True}  # noqa: RUF012
