"""Assembles the service: two ASGI apps, one per port, with one database."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext

from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from app.api_keys.rest import api_keys_router
from app.api_keys.service import ApiKeyVerifier
from app.db.database import Database, open_database
from app.features import create_features
from app.settings import DESCRIPTION, TITLE, VERSION, Settings, load_settings
from app.web.authentication import AuthenticationMiddleware
from app.web.docs import DOCS_PATHS, docs_router
from app.web.feature import Feature
from app.web.mcp import PATH as MCP_PATH
from app.web.mcp import create_mcp_app, create_mcp_server
from app.web.metrics import publishing
from app.web.middleware import (
    AccessLogMiddleware,
    BodySizeLimitMiddleware,
    DispatchByPath,
    DispatchByPort,
    ErrorMiddleware,
    RequestIdMiddleware,
    TimeoutMiddleware,
    with_middleware,
)
from app.web.oauth import TokenVerifier, challenge, metadata_paths
from app.web.openapi import RestApi
from app.web.probes import PROBE_PATHS, probes_router
from app.web.problems import add_problem_handlers, for_mcp_clients
from app.web.traces import TraceMiddleware


def create_app(
    settings: Settings | None = None,
    *,
    create_features: Callable[[Database, Settings], list[Feature]] = create_features,
) -> ASGIApp:
    settings = settings or load_settings()
    database = open_database(
        settings.database_url.get_secret_value(),
        pool_size=settings.database_pool_size,
        through_pooler=settings.through_pooler,
    )
    keys = ApiKeyVerifier(database, settings.key_secret())
    tokens = TokenVerifier(settings.oauth) if settings.oauth else None
    features = create_features(database, settings)
    mcp_server = create_mcp_server(features)
    mcp_app = create_mcp_app(mcp_server, settings)

    traces: AbstractContextManager[object] = nullcontext()
    if settings.otel_exporter_otlp_endpoint:
        from app.traces import Traces

        traces = Traces(settings)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        with traces:
            async with mcp_server.session_manager.run(), publishing(database.pools):
                yield
            await database.close()

    rest_app = RestApi(
        title=TITLE,
        description=DESCRIPTION,
        version=VERSION,
        lifespan=lifespan,
        middleware=middleware_of("rest", keys, tokens, settings),
        redirect_slashes=False,  # behind a proxy that ends TLS, the redirect would lead to http://
        docs_url=None,  # replaced by app/web/docs.py
        redoc_url=None,
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},  # see app/web/traces.py
    )
    for router in (
        probes_router(database, features),
        *(feature.router for feature in features),
        api_keys_router(database, keys, settings.key_secret()),
        docs_router(TITLE),
    ):
        rest_app.router.routes += router.routes  # `include_router` would match each path twice
    add_problem_handlers(rest_app)
    mcp_app = with_middleware(mcp_app, middleware_of("mcp", keys, tokens, settings))
    if settings.one_port:
        return DispatchByPath(rest_app, mcp_app, mcp_paths={MCP_PATH} | metadata_paths(settings.oauth))
    return DispatchByPort(rest_app, mcp_app, mcp_port=settings.mcp_port)


def middleware_of(
    interface: str, keys: ApiKeyVerifier, tokens: TokenVerifier | None, settings: Settings
) -> list[Middleware]:
    """The middleware of one port, outermost first."""
    is_rest = interface == "rest"
    public_paths = PROBE_PATHS | DOCS_PATHS if is_rest else frozenset({"/health"}) | metadata_paths(settings.oauth)
    known_paths = public_paths if is_rest else public_paths | {MCP_PATH}
    admin_key = settings.admin_api_key.get_secret_value() if settings.admin_api_key else None
    return [
        *(
            [Middleware(TraceMiddleware, known_paths=known_paths, quiet_paths=PROBE_PATHS)]
            if settings.otel_exporter_otlp_endpoint
            else []
        ),
        Middleware(RequestIdMiddleware),
        Middleware(AccessLogMiddleware, interface=interface, known_paths=known_paths, quiet_paths=PROBE_PATHS),
        # Outside the error handling, so that web pages can read errors too.
        *([cors(settings)] if settings.cors_origins else []),
        Middleware(ErrorMiddleware) if is_rest else Middleware(ErrorMiddleware, form=for_mcp_clients),
        Middleware(TimeoutMiddleware, seconds=settings.request_timeout),
        Middleware(
            AuthenticationMiddleware,
            keys,
            tokens,
            public_paths=public_paths,
            checks_methods=is_rest,
            challenge=challenge(settings.oauth, names_metadata=not is_rest) if settings.oauth else None,
            admin_path="/admin" if is_rest else None,
            admin_key=admin_key,
        ),
        Middleware(BodySizeLimitMiddleware, limit=settings.max_body_bytes),
    ]


def cors(settings: Settings) -> Middleware:
    return Middleware(
        CORSMiddleware,
        allow_origins=settings.cors_origins,
        allow_methods=["GET", "POST", "PATCH", "DELETE"],
        allow_headers=[
            "Authorization",
            "Content-Type",
            "Last-Event-ID",
            "MCP-Protocol-Version",
            "MCP-Session-ID",
            "X-API-Key",
            "X-Request-ID",
        ],
        expose_headers=["Location", "Retry-After", "WWW-Authenticate", "X-Request-ID"],
    )
