"""What goes over the wire: the same shapes and the same rules for REST and MCP."""

import re
from datetime import date, datetime
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from app.models import Priority, Status

# PostgreSQL cannot store NUL in a text.
Title = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=200, pattern=r"^[^\x00]*[^\s\x00][^\x00]*$"),
    Field(description="What is to be done, in one line", examples=["Send the invoice"]),
]
Description = Annotated[
    str,
    StringConstraints(max_length=10_000, pattern=r"^[^\x00]*$"),
    Field(description="Details, in Markdown if you like", examples=["To accounting, with the March receipts"]),
]


def _only_iso(value: object) -> object:
    """Without this, numbers and points in time would pass for days."""
    if not isinstance(value, str) or not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", value):
        raise ValueError("must be a day such as 2030-12-31")
    return value


DueDate = Annotated[
    date,
    BeforeValidator(_only_iso, json_schema_input_type=date),
    Field(description="Day by which it should be done", examples=["2030-12-31"]),
]
TaskId = Annotated[int, Field(ge=1, le=2**63 - 1, description="The task's id", examples=[42])]
ApiKeyId = Annotated[int, Field(ge=1, le=2**63 - 1, description="The key's id", examples=[7])]
PageSize = Annotated[int, Field(ge=1, le=200, description="Tasks to a page")]
Cursor = Annotated[
    int,
    Field(ge=1, le=2**63 - 1, description="`next_cursor` of the page before; none for the first", examples=[41]),
]


def _without_default(schema: dict[str, Any]) -> None:
    del schema["default"]


def not_sent() -> Any:
    """Default of a field that may be left out: nothing that is ever read, or shown in the schema."""
    return Field(default=None, json_schema_extra=_without_default)


class Input(BaseModel):
    """Unknown names are refused: a mistyped one would otherwise be lost in silence."""

    model_config = ConfigDict(extra="forbid")


class TaskCreate(Input):
    title: Title
    description: Description | None = None
    status: Status = Status.TODO
    priority: Priority = Priority.NORMAL
    due_date: DueDate | None = None


class TaskUpdate(Input):
    """The fields to change; the others keep their values. `null` empties description and due date."""

    title: Title = not_sent()
    description: Description | None = not_sent()
    status: Status = not_sent()
    priority: Priority = not_sent()
    due_date: DueDate | None = not_sent()

    def changes(self) -> dict[str, Any]:
        return self.model_dump(exclude_unset=True)


class TaskRead(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: int = Field(examples=[42])
    title: str = Field(examples=["Send the invoice"])
    description: str | None = Field(examples=["To accounting, with the March receipts"])
    status: Status
    priority: Priority
    due_date: date | None = Field(examples=["2030-12-31"])
    created_at: datetime = Field(examples=["2030-12-01T09:30:00.123456Z"])
    updated_at: datetime = Field(examples=["2030-12-02T17:45:00.654321Z"])


class TaskPage(BaseModel):
    items: list[TaskRead]
    next_cursor: int | None = Field(description="`cursor` of the next page; null on the last one", examples=[41])


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


class Problem(BaseModel):
    """An error, as RFC 9457 has it."""

    type: str = Field(default="about:blank")
    title: str = Field(examples=["Not Found"])
    status: int = Field(examples=[404])
    detail: str = Field(examples=["There is no task 42."])
    request_id: str | None = Field(default=None, description="Find it in the logs", examples=["0f8fad5bd9cb469fa165"])


class FieldError(BaseModel):
    pointer: str = Field(description="Where: `body/title`, `query/limit`", examples=["body/title"])
    detail: str = Field(examples=["String should have at least 1 character"])


class ValidationProblem(Problem):
    errors: list[FieldError]
