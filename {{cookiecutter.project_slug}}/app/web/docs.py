"""The pages /docs and /redoc with all their files: they work offline and run no scripts from elsewhere."""

from base64 import b64encode
from hashlib import sha256
from html import escape
from mimetypes import guess_type
from pathlib import Path

import fastapi_offline
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.staticfiles import StaticFiles

# URLs are relative, because a proxy may serve the pages below any path.
SWAGGER_UI = """
<link rel="stylesheet" href="docs/swagger-ui.css">
<div id="swagger-ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
"""
REDOC = """
<link rel="stylesheet" href="docs/redoc.css">
<redoc spec-url="openapi.json" native-scrollbars></redoc>
<script src="docs/redoc.standalone.js"></script>
"""
OWN_FILES = {
    # The validator is an online service.
    "/docs/start.js": """
SwaggerUIBundle({url: "openapi.json", dom_id: "#swagger-ui", deepLinking: true, validatorUrl: null});
""",
    # ReDoc's logo would be loaded from the internet.
    "/docs/redoc.css": """
body { margin: 0 }
img[src^="https://cdn.redoc.ly/"] { display: none }
""",
}
PACKAGED_FILES = Path(fastapi_offline.__file__).parent / "static"
PACKAGED = {f"/docs/{file.name}" for file in PACKAGED_FILES.iterdir()}
DOCS_PATHS = frozenset({"/docs", "/redoc", "/openapi.json", *OWN_FILES, *PACKAGED})

POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "worker-src": "blob:",  # for ReDoc's search
    # ReDoc adds style elements that are empty at first, of which this is the hash. The styles of its scrollbars are not
    # empty, and are blocked.
    "style-src": f"'self' 'sha256-{b64encode(sha256().digest()).decode()}'",
    "img-src": "'self' data:",
    "connect-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
}
HEADERS = {
    "Content-Security-Policy": "; ".join(f"{directive} {sources}" for directive, sources in POLICY.items()),
    "Cache-Control": "no-cache",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def docs_router(title: str) -> APIRouter:
    packaged_files = StaticFiles(directory=PACKAGED_FILES)  # answers 304 if the browser has the file

    async def swagger_ui(_request: Request) -> Response:
        return _page(title, SWAGGER_UI)

    async def redoc(_request: Request) -> Response:
        return _page(title, REDOC)

    async def own_file(request: Request) -> Response:
        path = request.scope["path"]
        return Response(OWN_FILES[path], media_type=guess_type(path)[0], headers=HEADERS)

    async def packaged_file(request: Request) -> Response:
        response = await packaged_files.get_response(Path(request.scope["path"]).name, request.scope)
        response.headers.update(HEADERS)
        return response

    router = APIRouter()
    router.add_route("/docs", swagger_ui, include_in_schema=False)
    router.add_route("/redoc", redoc, include_in_schema=False)
    for path in OWN_FILES:
        router.add_route(path, own_file, include_in_schema=False)
    for path in PACKAGED:
        router.add_route(path, packaged_file, include_in_schema=False)
    return router


def _page(title: str, body: str) -> HTMLResponse:
    head = f"""<!DOCTYPE html>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<link rel="icon" href="docs/favicon.png">"""
    return HTMLResponse(head + body, headers=HEADERS)
