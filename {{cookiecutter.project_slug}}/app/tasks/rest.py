"""Tasks over REST: thin routes that call the service."""

from fastapi import Response

from app.db.database import Database
from app.tasks import service
from app.tasks.models import Status
from app.tasks.schemas import TaskCreate, TaskId, TaskPage, TaskRead, TaskUpdate
from app.web.openapi import error_response
from app.web.routes import FeatureRouter
from app.web.schemas import Cursor, PageSize, Query

NOT_FOUND = error_response(404, "There is no task 42.")


def tasks_router(database: Database) -> FeatureRouter:
    router = FeatureRouter(prefix="/tasks", tags=["tasks"])

    @router.post("", status_code=201)
    async def create_task(data: TaskCreate, response: Response) -> TaskRead:
        """Only the title is required. The answer's `Location` is the new task's path."""
        task = await database.write(service.create_task, data)
        response.headers["Location"] = f"/tasks/{task.id}"
        return task

    @router.get("")
    async def list_tasks(
        status: Status | None = None, query: Query | None = None, limit: PageSize = 50, cursor: Cursor | None = None
    ) -> TaskPage:
        """Newest first. Read on with `cursor` set to the page's `next_cursor` until that is null."""
        return await database.read(service.list_tasks, status=status, query=query, limit=limit, cursor=cursor)

    @router.get("/{task_id}", responses=NOT_FOUND)
    async def get_task(task_id: TaskId) -> TaskRead:
        """Read one task."""
        return await database.read(service.get_task, task_id)

    @router.patch("/{task_id}", responses=NOT_FOUND)
    async def update_task(task_id: TaskId, data: TaskUpdate) -> TaskRead:
        """Change the fields that are sent and no others; null clears `description` or `due_date`."""
        return await database.write(service.update_task, task_id, data)

    @router.post("/{task_id}/complete", responses=NOT_FOUND)
    async def complete_task(task_id: TaskId) -> TaskRead:
        """Mark a task as done; one that is done already stays so."""
        return await database.write(service.complete_task, task_id)

    @router.delete("/{task_id}", status_code=204, response_class=Response, responses=NOT_FOUND)
    async def delete_task(task_id: TaskId) -> None:
        """Delete a task for good."""
        await database.write(service.delete_task, task_id)

    return router
