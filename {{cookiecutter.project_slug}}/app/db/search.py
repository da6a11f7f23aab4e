"""Case-insensitive text search. Wildcards in the text have no special meaning."""

from typing import Any

from sqlalchemy import ColumnElement, SQLColumnExpression, or_, text


def contains(query: str, *columns: SQLColumnExpression[Any]) -> ColumnElement[bool]:
    """Whether at least one of the columns contains the text."""
    return or_(*(column.icontains(query, autoescape=True) for column in columns))


def create_search_index(table: str, *columns: str) -> None:
    """For migrations: index the columns so that PostgreSQL finds rows by trigrams instead of reading all of them.

    Needs the extension pg_trgm, which every distribution and provider has; without it, no index is created.
    """
    from alembic import op  # imported here because the service, which only searches, does not need Alembic

    connection = op.get_bind()
    if connection.dialect.name != "postgresql":
        return
    if not connection.scalar(text("SELECT true FROM pg_available_extensions WHERE name = 'pg_trgm'")):
        return
    op.execute("CREATE EXTENSION IF NOT EXISTS pg_trgm")
    for column in columns:
        op.create_index(
            f"ix_{table}_{column}_search",
            table,
            [column],
            postgresql_using="gin",
            postgresql_ops={column: "gin_trgm_ops"},
        )
