"""Probes for orchestrators and monitoring; none needs a key."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Literal

from fastapi import APIRouter, Response
from prometheus_client import Metric
from pydantic import BaseModel
from starlette.responses import PlainTextResponse

from app.db.database import Database
from app.errors import DatabaseUnavailable
from app.web import metrics
from app.web.feature import Feature

PROBE_PATHS = frozenset({"/live", "/ready", "/health", "/metrics"})


class Health(BaseModel):
    status: Literal["healthy"] = "healthy"


def probes_router(database: Database, features: Sequence[Feature]) -> APIRouter:
    router = APIRouter(tags=["probes"], generate_unique_id_function=lambda route: route.name)

    # Some load balancers and monitors send HEAD.
    @router.head("/live", include_in_schema=False)
    @router.get("/live")
    async def live() -> Health:
        """The process runs. Restart it if this fails."""
        return Health()

    @router.head("/health", include_in_schema=False)
    @router.get("/health")
    async def health() -> Health:
        """The service answers. Asks nothing of the database, so a database outage restarts nobody."""
        return Health()

    @router.head("/ready", include_in_schema=False)
    @router.get("/ready")
    async def ready() -> Health:
        """The service can work: the database answers and is migrated. Send no requests here while this fails."""
        await database.ping()
        return Health()

    @router.get(
        "/metrics",
        response_class=PlainTextResponse,
        responses={200: {"content": {"text/plain": {"example": 'http_requests_total{interface="rest",...} 1027.0'}}}},
    )
    async def prometheus_metrics() -> Response:
        """Request counts, durations and errors of all workers, for Prometheus."""
        metrics.publish(database.pools)
        from_database: list[Metric] = []
        with suppress(DatabaseUnavailable):  # logged; the other metrics are still shown
            for feature in features:
                if feature.read_metrics is not None:
                    from_database += await database.read_at_once(feature.read_metrics)
        text = await asyncio.to_thread(metrics.render, from_database)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    return router
