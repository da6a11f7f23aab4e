"""The table of API keys."""

from datetime import datetime

from sqlalchemy import Index, String
from sqlalchemy.orm import Mapped, mapped_column

from app.db.columns import Base, Id, utc_now


class ApiKey(Base):
    __tablename__ = "api_keys"

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    name: Mapped[str] = mapped_column(String(100))
    digest: Mapped[str] = mapped_column(String(64))
    read_only: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


# Revoking a key frees its name.
Index(
    "uq_api_keys_active_name",
    ApiKey.name,
    unique=True,
    postgresql_where=ApiKey.revoked_at.is_(None),
    sqlite_where=ApiKey.revoked_at.is_(None),
)
