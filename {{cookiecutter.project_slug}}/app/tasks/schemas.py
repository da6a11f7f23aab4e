"""Requests and responses, with the same rules for REST and MCP."""

import re
from datetime import date, datetime
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from app.tasks.models import Priority, Status
from app.web.schemas import MAX_ID, ONLY_DIGITS, Input, Page, not_sent

# PostgreSQL cannot store NUL characters.
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
    """Reject numbers and timestamps, which Pydantic would convert to dates."""
    if type(value) is date:  # already validated, as the argument of a tool
        return value
    if not isinstance(value, str) or not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", value):
        raise ValueError("must be a day such as 2030-12-31")
    return value


DueDate = Annotated[
    date,
    BeforeValidator(_only_iso, json_schema_input_type=date),
    Field(description="Day by which it should be done", examples=["2030-12-31"]),
]
TaskId = Annotated[int, Field(ge=1, le=MAX_ID, description="The task's id", examples=[42]), ONLY_DIGITS]


class TaskCreate(Input):
    title: Title
    description: Description | None = None
    status: Status = Status.TODO
    priority: Priority = Priority.NORMAL
    due_date: DueDate | None = None


class TaskUpdate(Input):
    """The fields to change; the others keep their values. `null` clears the description or the due date."""

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


class TaskPage(Page[TaskRead]):
    pass
