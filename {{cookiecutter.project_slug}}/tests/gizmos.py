"""A small feature for tests, so that those of the platform do not depend on the features of the service.

`Server(app=GIZMOS_APP)` serves it, and `create_gizmos_table` creates its table, which is not in the migrations.
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

GIZMOS_APP = "tests.gizmos:create_app()"
SLOW_REQUEST_STARTED = "a slow request started"
BROKEN = "this gizmo is broken"
"""The text of an unexpected error."""
PRIVATE = "nobody should read this in a log"

logger = logging.getLogger(__name__)


class Gizmos(DeclarativeBase):
    """A separate base class, because Alembic compares the tables of the service's own with the database."""


class Gizmo(Gizmos):
    __tablename__ = "gizmos"
    __table_args__ = {"sqlite_autoincrement": True}  # noqa: RUF012

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    title: Mapped[str] = mapped_column(String(200))
    content: Mapped[str | None]
    author: Mapped[str | None]
    language: Mapped[str | None]
    source: Mapped[str | None]


GizmoId = Annotated[int, Field(ge=1, le=MAX_ID, description="The gizmo's id", examples=[3])]
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


class GizmoCreate(Input):
    title: Title
    content: Text | None = None
    author: Text | None = None
    language: Text | None = None
    source: Text | None = None


class GizmoUpdate(Input):
    title: Title = not_sent()
    content: Text | None = not_sent()
    author: Text | None = not_sent()
    language: Text | None = not_sent()
    source: Text | None = not_sent()


class GizmoRead(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: GizmoId
    title: Title
    content: Text | None
    author: Text | None
    language: Text | None
    source: Text | None


class GizmoPage(Page[GizmoRead]):
    pass


def create_gizmo(session: WriteSession, data: GizmoCreate) -> GizmoRead:
    gizmo = Gizmo(**data.model_dump())
    session.add(gizmo)
    session.flush()
    return GizmoRead.model_validate(gizmo)


def get_gizmo(session: ReadSession, gizmo_id: int) -> GizmoRead:
    gizmo = session.get(Gizmo, gizmo_id)
    if gizmo is None:
        raise NotFound(f"There is no gizmo {gizmo_id}.")
    return GizmoRead.model_validate(gizmo)


def list_gizmos(session: ReadSession, query: str | None, limit: int, cursor: int | None) -> GizmoPage:
    gizmos = select(Gizmo).order_by(Gizmo.id.desc()).limit(limit + 1)
    if query is not None:
        gizmos = gizmos.where(Gizmo.title.icontains(query, autoescape=True))
    if cursor is not None:
        gizmos = gizmos.where(Gizmo.id < cursor)
    return GizmoPage.of([GizmoRead.model_validate(gizmo) for gizmo in session.scalars(gizmos)], limit)


def update_gizmo(session: WriteSession, gizmo_id: int, data: GizmoUpdate) -> GizmoRead:
    gizmo = session.get(Gizmo, gizmo_id, with_for_update=True)
    if gizmo is None:
        raise NotFound(f"There is no gizmo {gizmo_id}.")
    for name, value in data.model_dump(exclude_unset=True).items():
        setattr(gizmo, name, value)
    session.flush()
    return GizmoRead.model_validate(gizmo)


def keep_busy(session: ReadSession, seconds: float) -> None:
    """Keep the database busy for this long, or until it is interrupted."""
    logger.info(SLOW_REQUEST_STARTED)
    session.scalar(select(func.count()).select_from(Gizmo))
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("SELECT pg_sleep(:seconds)"), {"seconds": seconds})
        return
    # One statement, with more rows than any machine can count in that time.
    session.execute(text(COUNT), {"rows": int(seconds * 100_000_000)})


COUNT = """
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)
    SELECT count(*) FROM (SELECT i FROM n LIMIT :rows)
"""


def make_mistake(session: ReadSession) -> None:
    session.execute(text("SELECT * FROM no_such_table WHERE title = :title"), {"title": PRIVATE})


def read_gizmo_metrics(session: ReadSession) -> Iterable[Metric]:
    count = session.scalar(select(func.count()).select_from(Gizmo))
    return [GaugeMetricFamily("gizmos", "Gizmos that there are", value=count)]


def gizmos_router(database: Database) -> FeatureRouter:
    router = FeatureRouter(prefix="/gizmos", tags=["gizmos"])
    not_found = error_response(404, "There is no gizmo 3.")

    @router.post("", status_code=201, name="create_gizmo")
    async def create(data: GizmoCreate, response: Response) -> GizmoRead:
        """Only the title is required."""
        gizmo = await database.write(create_gizmo, data)
        response.headers["Location"] = f"/gizmos/{gizmo.id}"
        return gizmo

    @router.get("", name="list_gizmos")
    async def find(query: Query | None = None, limit: PageSize = 50, cursor: Cursor | None = None) -> GizmoPage:
        """Newest first."""
        return await database.read(list_gizmos, query, limit, cursor)

    @router.get("/{gizmo_id}", responses=not_found, name="get_gizmo")
    async def get(gizmo_id: GizmoId) -> GizmoRead:
        """Read one gizmo."""
        return await database.read(get_gizmo, gizmo_id)

    @router.patch("/{gizmo_id}", responses=not_found, name="update_gizmo")
    async def update(gizmo_id: GizmoId, data: GizmoUpdate) -> GizmoRead:
        """Change the fields that are sent and no others."""
        return await database.write(update_gizmo, gizmo_id, data)

    @router.get("/slow/wait", include_in_schema=False)
    async def wait(seconds: float) -> None:
        logger.info(SLOW_REQUEST_STARTED)
        await asyncio.sleep(seconds)

    @router.get("/slow/block", include_in_schema=False)
    async def block(seconds: float) -> None:
        """Block the event loop, which no code should do."""
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


def add_gizmo_tools(server: ToolServer, database: Database) -> None:
    @server.tool(name="create_gizmo", title="Create a gizmo", annotations=ADDS)
    async def create(title: Title, content: Text | None = None) -> str:
        """Create a gizmo; only its title is required."""
        return compact(await database.write(create_gizmo, GizmoCreate(title=title, content=content)))

    @server.tool(name="get_gizmo", title="Read a gizmo", annotations=READS)
    async def get(gizmo_id: GizmoId) -> str:
        """Read one gizmo."""
        return compact(await database.read(get_gizmo, gizmo_id))

    @server.tool(name="list_gizmos", title="List gizmos", annotations=READS)
    async def find(query: Query | None = None, limit: PageSize = 20, cursor: Cursor | None = None) -> str:
        """Find gizmos, newest first."""
        return compact(await database.read(list_gizmos, query, limit, cursor))

    @server.tool(name="break_gizmo", title="Fail", annotations=READS)
    async def fail() -> str:
        """Fail with an unexpected error."""
        raise RuntimeError(BROKEN)


def gizmos_feature(database: Database) -> Feature:
    return Feature(
        router=gizmos_router(database),
        add_tools=lambda server: add_gizmo_tools(server, database),
        instructions="Gizmos: ids come from list_gizmos or create_gizmo.",
        read_metrics=read_gizmo_metrics,
    )


def create_gizmos_table(url: str) -> None:
    def create(connection: Connection) -> None:
        Gizmos.metadata.create_all(connection)
        connection.commit()

    run_on_connection(url, create)


def create_app(settings: Settings | None = None) -> ASGIApp:
    """The service with all its features and gizmos. Without settings, as for gunicorn, it creates their table."""
    if settings is None:
        settings = load_settings()
        create_gizmos_table(settings.migration_url)
    return main.create_app(
        settings,
        create_features=lambda database, settings: [*create_features(database, settings), gizmos_feature(database)],
    )
