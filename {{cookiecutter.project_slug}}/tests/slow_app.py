"""The service with routes that take as long as they are told: `Server(app=SLOW_APP)`.

Tests do not import this: it adds the routes to the service's own.
"""

import asyncio
import logging
import time

from fastapi import Request
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from app.database import Database
from app.health import router
from app.main import create_app
from tests.server import SLOW_REQUEST_STARTED

__all__ = ["create_app"]

logger = logging.getLogger(__name__)


@router.get("/slow/wait")
async def wait(seconds: float) -> None:
    logger.info(SLOW_REQUEST_STARTED)
    await asyncio.sleep(seconds)


@router.get("/slow/block")
async def block(seconds: float) -> None:
    """What no code should do: nothing else in the process gets a turn."""
    logger.info(SLOW_REQUEST_STARTED)
    time.sleep(seconds)  # noqa: ASYNC251


@router.get("/slow/read")
async def read(request: Request, seconds: float) -> None:
    database: Database = request.app.state.database
    async with database.read() as session:
        await _keep_busy(session, seconds)


@router.get("/slow/write")
async def write(request: Request, seconds: float) -> None:
    database: Database = request.app.state.database
    async with database.write() as session:
        await _keep_busy(session, seconds)


async def _keep_busy(session: AsyncSession, seconds: float) -> None:
    await session.execute(text("SELECT count(*) FROM tasks"))
    if session.get_bind().dialect.name == "postgresql":
        await session.execute(text("SELECT pg_sleep(:seconds)"), {"seconds": seconds})
    else:
        await asyncio.sleep(seconds)
