"""The REST door: thin routes that call `app.tasks` and `app.auth`."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from app.auth import ApiKeys
from app.models import Status
from app.schemas import (
    ApiKeyCreate,
    ApiKeyId,
    ApiKeyIssued,
    ApiKeyRead,
    Cursor,
    PageSize,
    TaskCreate,
    TaskId,
    TaskPage,
    TaskRead,
    TaskUpdate,
)
from app.tasks import Tasks


async def get_tasks(request: Request) -> Tasks:
    return request.app.state.tasks  # type: ignore[no-any-return]


async def get_api_keys(request: Request) -> ApiKeys:
    return request.app.state.api_keys  # type: ignore[no-any-return]


NAME_TAKEN: dict[int | str, dict[str, Any]] = {
    409: {"description": "An API key named 'reporting-job' is in use; revoke it or choose another name."}
}
TasksDep = Annotated[Tasks, Depends(get_tasks)]
ApiKeysDep = Annotated[ApiKeys, Depends(get_api_keys)]

tasks_router = APIRouter(prefix="/tasks", tags=["tasks"])
admin_router = APIRouter(prefix="/admin/api-keys", tags=["admin"])


@tasks_router.post("", status_code=201)
async def create_task(data: TaskCreate, tasks: TasksDep, response: Response) -> TaskRead:
    """Only the title is required. The answer's `Location` is the new task's path."""
    task = await tasks.create(data)
    response.headers["Location"] = f"/tasks/{task.id}"
    return task


@tasks_router.get("")
async def list_tasks(
    tasks: TasksDep, status: Status | None = None, limit: PageSize = 50, cursor: Cursor | None = None
) -> TaskPage:
    """Newest first. Read on with `cursor` set to the page's `next_cursor` until that is null."""
    return await tasks.list(status=status, limit=limit, cursor=cursor)


@tasks_router.get("/{task_id}")
async def get_task(task_id: TaskId, tasks: TasksDep) -> TaskRead:
    """Read one task."""
    return await tasks.get(task_id)


@tasks_router.patch("/{task_id}")
async def update_task(task_id: TaskId, data: TaskUpdate, tasks: TasksDep) -> TaskRead:
    """Change the fields that are sent and no others; null empties `description` or `due_date`."""
    return await tasks.update(task_id, data)


@tasks_router.post("/{task_id}/complete")
async def complete_task(task_id: TaskId, tasks: TasksDep) -> TaskRead:
    """Mark a task as done; one that is done already stays so."""
    return await tasks.complete(task_id)


@tasks_router.delete("/{task_id}", status_code=204)
async def delete_task(task_id: TaskId, tasks: TasksDep) -> None:
    """Delete a task for good."""
    await tasks.delete(task_id)


@admin_router.post("", status_code=201, responses=NAME_TAKEN)
async def issue_api_key(data: ApiKeyCreate, api_keys: ApiKeysDep, response: Response) -> ApiKeyIssued:
    """Issue a service key. The answer is the only place where it can be read."""
    issued = await api_keys.issue(data)
    response.headers["Location"] = f"/admin/api-keys/{issued.id}"
    return issued


@admin_router.get("")
async def list_api_keys(api_keys: ApiKeysDep) -> list[ApiKeyRead]:
    """All keys, newest first, the revoked ones too."""
    return await api_keys.list()


@admin_router.get("/{key_id}")
async def get_api_key(key_id: ApiKeyId, api_keys: ApiKeysDep) -> ApiKeyRead:
    """Whose key it is, and whether it was revoked; never the key itself."""
    return await api_keys.get(key_id)


@admin_router.post("/{key_id}/revoke")
async def revoke_api_key(key_id: ApiKeyId, api_keys: ApiKeysDep) -> ApiKeyRead:
    """Revoke a key. Within five seconds it stops working everywhere."""
    return await api_keys.revoke(key_id)
