"""A small feature of the tests' own, so that those of the platform work whatever features the service has.

`Server(app=NOTES_APP)` serves it, and `create_notes_table` makes its table, which no migration knows.
"""

import asyncio
import logging
import time
from collections.abc import Iterable
from typing import Annotated

from fastapi import Response
from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from sqlalchemy import Connection, String, func, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from starlette.types import ASGIApp

from app import main
from app.db.columns import Id
from app.db.database import Database, ReadSession, WriteSession, run_on_connection
from app.errors import NotFound
from app.features import create_features
from app.settings import Settings, load_settings
from app.web.feature import Feature
from app.web.openapi import error_response
from app.web.routes import FeatureRouter
from app.web.schemas import MAX_ID, Cursor, Input, Page, PageSize, Query, not_sent
from app.web.tools import ADDS, READS, ToolServer, compact

NOTES_APP = "tests.notes:create_app()"
SLOW_REQUEST_STARTED = "a slow request started"
BROKEN = "this note is broken"
"""What an error says that nobody expected."""
PRIVATE = "nobody should read this in a log"

logger = logging.getLogger(__name__)


class Notes(DeclarativeBase):
    """A base class of its own, for Alembic compares the tables of the service's with the database."""


class Note(Notes):
    __tablename__ = "notes"
    __table_args__ = {"sqlite_autoincrement": True}  # noqa: RUF012

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    title: Mapped[str] = mapped_column(String(200))
    content: Mapped[str | None]
    author: Mapped[str | None]
    language: Mapped[str | None]
    source: Mapped[str | None]


NoteId = Annotated[int, Field(ge=1, le=MAX_ID, description="The note's id", examples=[3])]
Title = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=200, pattern=r"^[^\x00]*[^\s\x00][^\x00]*$"),
    Field(description="What it is about", examples=["Opening hours"]),
]
Text = Annotated[
    str,
    StringConstraints(max_length=10_000, pattern=r"^[^\x00]*$"),
    Field(description="Any text", examples=["From nine to five"]),
]


class NoteCreate(Input):
    title: Title
    content: Text | None = None
    author: Text | None = None
    language: Text | None = None
    source: Text | None = None


class NoteUpdate(Input):
    title: Title = not_sent()
    content: Text | None = not_sent()
    author: Text | None = not_sent()
    language: Text | None = not_sent()
    source: Text | None = not_sent()


class NoteRead(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: NoteId
    title: Title
    content: Text | None
    author: Text | None
    language: Text | None
    source: Text | None


class NotePage(Page[NoteRead]):
    pass


def create_note(session: WriteSession, data: NoteCreate) -> NoteRead:
    note = Note(**data.model_dump())
    session.add(note)
    session.flush()
    return NoteRead.model_validate(note)


def get_note(session: ReadSession, note_id: int) -> NoteRead:
    note = session.get(Note, note_id)
    if note is None:
        raise NotFound(f"There is no note {note_id}.")
    return NoteRead.model_validate(note)


def list_notes(session: ReadSession, query: str | None, limit: int, cursor: int | None) -> NotePage:
    notes = select(Note).order_by(Note.id.desc()).limit(limit + 1)
    if query is not None:
        notes = notes.where(Note.title.icontains(query, autoescape=True))
    if cursor is not None:
        notes = notes.where(Note.id < cursor)
    return NotePage.of([NoteRead.model_validate(note) for note in session.scalars(notes)], limit)


def update_note(session: WriteSession, note_id: int, data: NoteUpdate) -> NoteRead:
    note = session.get(Note, note_id, with_for_update=True)
    if note is None:
        raise NotFound(f"There is no note {note_id}.")
    for name, value in data.model_dump(exclude_unset=True).items():
        setattr(note, name, value)
    session.flush()
    return NoteRead.model_validate(note)


def keep_busy(session: ReadSession, seconds: float) -> None:
    """Let the database work for this long, until somebody interrupts it."""
    logger.info(SLOW_REQUEST_STARTED)
    session.scalar(select(func.count()).select_from(Note))
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("SELECT pg_sleep(:seconds)"), {"seconds": seconds})
        return
    # One statement, of more rows than any machine counts in that time.
    session.execute(text(COUNT), {"rows": int(seconds * 100_000_000)})


COUNT = """
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)
    SELECT count(*) FROM (SELECT i FROM n LIMIT :rows)
"""


def make_mistake(session: ReadSession) -> None:
    session.execute(text("SELECT * FROM no_such_table WHERE title = :title"), {"title": PRIVATE})


def read_note_metrics(session: ReadSession) -> Iterable[Metric]:
    count = session.scalar(select(func.count()).select_from(Note))
    return [GaugeMetricFamily("notes", "Notes that there are", value=count)]


def notes_router(database: Database) -> FeatureRouter:
    router = FeatureRouter(prefix="/notes", tags=["notes"])
    not_found = error_response(404, "There is no note 3.")

    @router.post("", status_code=201, name="create_note")
    async def create(data: NoteCreate, response: Response) -> NoteRead:
        """Only the title is required."""
        note = await database.write(create_note, data)
        response.headers["Location"] = f"/notes/{note.id}"
        return note

    @router.get("", name="list_notes")
    async def find(query: Query | None = None, limit: PageSize = 50, cursor: Cursor | None = None) -> NotePage:
        """Newest first."""
        return await database.read(list_notes, query, limit, cursor)

    @router.get("/{note_id}", responses=not_found, name="get_note")
    async def get(note_id: NoteId) -> NoteRead:
        """Read one note."""
        return await database.read(get_note, note_id)

    @router.patch("/{note_id}", responses=not_found, name="update_note")
    async def update(note_id: NoteId, data: NoteUpdate) -> NoteRead:
        """Change the fields that are sent and no others."""
        return await database.write(update_note, note_id, data)

    @router.get("/slow/wait", include_in_schema=False)
    async def wait(seconds: float) -> None:
        logger.info(SLOW_REQUEST_STARTED)
        await asyncio.sleep(seconds)

    @router.get("/slow/block", include_in_schema=False)
    async def block(seconds: float) -> None:
        """What no code should do: nothing else in the process gets a turn."""
        logger.info(SLOW_REQUEST_STARTED)
        time.sleep(seconds)  # noqa: ASYNC251

    @router.get("/slow/read", include_in_schema=False)
    async def read(seconds: float) -> None:
        await database.read(keep_busy, seconds)

    @router.get("/slow/write", include_in_schema=False)
    async def write(seconds: float) -> None:
        await database.write(keep_busy, seconds)

    @router.get("/broken/code", include_in_schema=False)
    async def code() -> None:
        raise RuntimeError(BROKEN)

    @router.get("/broken/statement", include_in_schema=False)
    async def statement() -> None:
        await database.read(make_mistake)

    return router


def add_note_tools(server: ToolServer, database: Database) -> None:
    @server.tool(name="create_note", title="Create a note", annotations=ADDS)
    async def create(title: Title, content: Text | None = None) -> str:
        """Create a note; only its title is required."""
        return compact(await database.write(create_note, NoteCreate(title=title, content=content)))

    @server.tool(name="get_note", title="Read a note", annotations=READS)
    async def get(note_id: NoteId) -> str:
        """Read one note."""
        return compact(await database.read(get_note, note_id))

    @server.tool(name="list_notes", title="List notes", annotations=READS)
    async def find(query: Query | None = None, limit: PageSize = 20, cursor: Cursor | None = None) -> str:
        """Find notes, newest first."""
        return compact(await database.read(list_notes, query, limit, cursor))

    @server.tool(name="break_note", title="Fail", annotations=READS)
    async def fail() -> str:
        """Fail in a way that nobody expects."""
        raise RuntimeError(BROKEN)


def notes_feature(database: Database) -> Feature:
    return Feature(
        router=notes_router(database),
        add_tools=lambda server: add_note_tools(server, database),
        instructions="Notes: ids come from list_notes or create_note.",
        read_metrics=read_note_metrics,
    )


def create_notes_table(url: str) -> None:
    def create(connection: Connection) -> None:
        Notes.metadata.create_all(connection)
        connection.commit()

    run_on_connection(url, create)


def create_app(settings: Settings | None = None) -> ASGIApp:
    """The service with all its features and notes; without settings, as gunicorn calls it, with the table of the notes."""
    if settings is None:
        settings = load_settings()
        create_notes_table(settings.migration_url)
    return main.create_app(
        settings,
        create_features=lambda database, settings: [*create_features(database, settings), notes_feature(database)],
    )
