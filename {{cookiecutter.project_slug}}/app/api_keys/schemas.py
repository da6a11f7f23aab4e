"""What goes over the wire."""

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from app.web.schemas import MAX_ID, ONLY_DIGITS, Input

ApiKeyId = Annotated[int, Field(ge=1, le=MAX_ID, description="The key's id", examples=[7]), ONLY_DIGITS]


class ApiKeyCreate(Input):
    name: Annotated[
        str,
        StringConstraints(strip_whitespace=True, min_length=1, max_length=100, pattern=r"^[^\x00]*[^\s\x00][^\x00]*$"),
        Field(description="Who or what will use the key", examples=["reporting-job"]),
    ]


class ApiKeyRead(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: int = Field(examples=[7])
    name: str = Field(examples=["reporting-job"])
    created_at: datetime = Field(examples=["2030-12-01T09:30:00.123456Z"])
    revoked_at: datetime | None = Field(description="null while the key is in use", examples=[None])


class ApiKeyIssued(ApiKeyRead):
    key: str = Field(description="Shown this once: the service keeps only a hash of it", examples=["key_7_Zk3..."])
