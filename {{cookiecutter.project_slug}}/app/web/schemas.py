"""Building blocks of requests and responses, with the same rules for REST and MCP."""

import re
from collections.abc import Sequence
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

MAX_ID = 2**63 - 1
"""The largest id that the databases can store."""
MAX_PAGE_CHARACTERS = 250_000
"""A page of long texts ends early, because responses take memory in the service and in its callers."""


def _only_digits(value: object) -> object:
    """Reject spellings of integers that only Python or Pydantic accepts, such as `1_0`, `+1` and `1.0`."""
    if isinstance(value, str) and not re.fullmatch("-?[0-9]+", value):
        raise ValueError("must be an integer")
    return value


ONLY_DIGITS = BeforeValidator(_only_digits)
"""For integers in paths and queries. Put it last: limits that follow it would be missing from the schema."""

PageSize = Annotated[int, Field(ge=1, le=200, description="Items per page", examples=[50]), ONLY_DIGITS]
Cursor = Annotated[
    int,
    Field(ge=1, le=MAX_ID, description="`next_cursor` of the page before; omit it for the first page", examples=[41]),
    ONLY_DIGITS,
]
Query = Annotated[
    str,
    Field(
        min_length=1,
        max_length=200,
        pattern=r"^[^\x00]*$",
        description="Only those whose text contains this; case does not matter",
        examples=["invoice"],
    ),
]


class Input(BaseModel):
    """Rejects unknown fields: otherwise a mistyped name would be silently ignored."""

    model_config = ConfigDict(extra="forbid")


def _without_default(schema: dict[str, Any]) -> None:
    del schema["default"]


def not_sent() -> Any:
    """Default of a field that may be left out. It is never read, and the schema does not show it."""
    return Field(default=None, json_schema_extra=_without_default)


class Page[Item: BaseModel](BaseModel):
    items: list[Item]
    next_cursor: int | None = Field(description="`cursor` of the next page; null on the last one", examples=[41])

    @classmethod
    def of(cls, items: Sequence[Item], limit: int) -> Self:
        """A page of the first `limit` items, or of as many as fit into `MAX_PAGE_CHARACTERS`. Each needs an `id`.

        Query for one item more than the limit, which shows whether there is another page.
        """
        characters = 0
        for count, item in enumerate(items[:limit]):
            characters += sum(len(value) for value in vars(item).values() if isinstance(value, str))
            if characters > MAX_PAGE_CHARACTERS and count > 0:
                limit = count
                break
        page = list(items[:limit])
        return cls(items=page, next_cursor=page[-1].id if len(items) > limit else None)  # type: ignore[attr-defined]
