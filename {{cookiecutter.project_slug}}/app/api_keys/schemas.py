"""Requests and responses."""

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from app.db.columns import utc_now
from app.web.schemas import MAX_ID, ONLY_DIGITS, Input


def _in_future(value: datetime) -> datetime:
    if value <= utc_now():
        raise ValueError("must be in the future")
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError("must be before the year 10000") from None


ApiKeyId = Annotated[int, Field(ge=1, le=MAX_ID, description="The key's id", examples=[7]), ONLY_DIGITS]


class ApiKeyCreate(Input):
    name: Annotated[
        str,
        StringConstraints(strip_whitespace=True, min_length=1, max_length=100, pattern=r"^[^\x00]*[^\s\x00][^\x00]*$"),
        Field(description="Who or what will use the key", examples=["reporting-job"]),
    ]
    read_only: bool = Field(default=False, description="Whether it may change nothing")
    expires_at: Annotated[AwareDatetime, AfterValidator(_in_future)] | None = Field(
        default=None, description="When it stops working; null for never", examples=["2130-12-31T00:00:00Z"]
    )


class ApiKeyRead(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: int = Field(examples=[7])
    name: str = Field(examples=["reporting-job"])
    read_only: bool = Field(examples=[False])
    created_at: datetime = Field(examples=["2030-12-01T09:30:00.123456Z"])
    expires_at: datetime | None = Field(examples=["2130-12-31T00:00:00Z"])
    revoked_at: datetime | None = Field(description="null while the key is in use", examples=[None])


class ApiKeyIssued(ApiKeyRead):
    key: str = Field(description="Shown this once: the service keeps only a hash of it", examples=["key_7_Zk3..."])
