"""Puts the service together: two ASGI apps, one for each port, over one database."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from app import health, modules_named, openapi, rest
from app.auth import ApiKeys, RequireKey
from app.database import Database
from app.mcp import PATH as MCP_PATH
from app.mcp import create_mcp_app, create_mcp_server
from app.middleware import DispatchByPort, Envelope, LimitBody
from app.problems import add_problem_handlers
from app.settings import DESCRIPTION, TITLE, VERSION, Settings, load_settings
from app.tasks import Tasks

OPEN_PATHS = frozenset({"/live", "/ready", "/health", "/metrics", "/docs", "/redoc", "/openapi.json"})


def create_app(settings: Settings | None = None) -> ASGIApp:
    settings = settings or load_settings()
    database = Database(
        settings.database_url.get_secret_value(),
        pool_size=settings.database_pool_size,
        through_pooler=settings.uses_pooler,
    )
    tasks = Tasks(database)
    api_keys = ApiKeys(database, settings.key_secret())
    mcp_server = create_mcp_server(tasks)
    mcp_app = create_mcp_app(mcp_server, settings)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with mcp_server.session_manager.run():
            yield
        await database.close()

    rest_app = FastAPI(
        title=TITLE,
        description=DESCRIPTION,
        version=VERSION,
        lifespan=lifespan,
        generate_unique_id_function=lambda route: route.name,  # `create_task`, as in generated clients
        swagger_ui_oauth2_redirect_url=None,
    )
    rest_app.state.database = database
    rest_app.state.tasks = tasks
    rest_app.state.api_keys = api_keys
    rest_app.include_router(rest.tasks_router)
    rest_app.include_router(rest.admin_router)
    rest_app.include_router(health.router)
    for module in modules_named("*_doors"):
        module.open_doors(rest_app, mcp_server, database, settings)
    add_problem_handlers(rest_app)
    openapi.describe(rest_app)

    timeout = settings.request_timeout
    admin_key = settings.admin_api_key.get_secret_value() if settings.admin_api_key else None
    rest_door: ASGIApp = LimitBody(rest_app, limit=settings.max_body_bytes)
    rest_door = RequireKey(rest_door, api_keys, open_paths=OPEN_PATHS, admin_path="/admin", admin_key=admin_key)
    rest_door = Envelope(rest_door, door="rest", timeout=timeout, plain_paths=OPEN_PATHS)
    if settings.cors_origins:
        # Around the envelope, so that a web page can read its 500 and 504 as well.
        rest_door = CORSMiddleware(
            rest_door,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST", "PATCH", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "X-API-Key", "X-Request-ID"],
            expose_headers=["Location", "Retry-After", "X-Request-ID"],
        )
    mcp_door: ASGIApp = RequireKey(mcp_app, api_keys, open_paths=frozenset({"/health"}))
    mcp_door = Envelope(mcp_door, door="mcp", timeout=timeout, plain_paths=frozenset({"/health", MCP_PATH}))
    return DispatchByPort(rest_door, mcp_door, mcp_port=settings.mcp_port)
