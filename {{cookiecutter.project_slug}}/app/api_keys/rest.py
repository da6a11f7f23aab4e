"""API keys over REST, for holders of the admin key."""

from fastapi import Response

from app.api_keys import service
from app.api_keys.schemas import ApiKeyCreate, ApiKeyId, ApiKeyIssued, ApiKeyRead
from app.api_keys.service import ApiKeyVerifier
from app.db.database import Database
from app.web.openapi import error_response
from app.web.routes import FeatureRouter

PATH = "/admin/api-keys"
NOT_FOUND = error_response(404, "There is no API key 7.")
NAME_IN_USE = error_response(409, "An API key named 'reporting-job' is in use; revoke it or choose another name.")


def api_keys_router(database: Database, verifier: ApiKeyVerifier, secret: bytes) -> FeatureRouter:
    router = FeatureRouter(prefix=PATH, tags=["admin"], responses=error_response(403, "This needs the admin key."))

    @router.post("", status_code=201, responses=NAME_IN_USE)
    async def issue_api_key(data: ApiKeyCreate, response: Response) -> ApiKeyIssued:
        """Issue a service key. The answer is the only place where it can be read."""
        issued = await database.write(service.issue_api_key, data, secret)
        response.headers["Location"] = f"{PATH}/{issued.id}"
        return issued

    @router.get("")
    async def list_api_keys() -> list[ApiKeyRead]:
        """All keys, newest first, including revoked ones."""
        return await database.read(service.list_api_keys)

    @router.get("/{key_id}", responses=NOT_FOUND)
    async def get_api_key(key_id: ApiKeyId) -> ApiKeyRead:
        """Whose key it is, and whether it was revoked; never the key itself."""
        return await database.read(service.get_api_key, key_id)

    @router.post("/{key_id}/revoke", responses=NOT_FOUND)
    async def revoke_api_key(key_id: ApiKeyId) -> ApiKeyRead:
        """Revoke a key. Within five seconds it stops working everywhere."""
        revoked = await database.write(service.revoke_api_key, key_id)
        verifier.forget(key_id)
        return revoked

    return router
