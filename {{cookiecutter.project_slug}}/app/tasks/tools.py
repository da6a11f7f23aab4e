"""Tasks over MCP: the same operations as tools for AI assistants."""

from app.db.database import Database
from app.tasks import service
from app.tasks.models import Priority, Status
from app.tasks.schemas import Description, DueDate, TaskCreate, TaskId, TaskUpdate, Title
from app.web.schemas import Cursor, PageSize, Query
from app.web.tools import ADDS, NOT_SENT, READS, REPLACES, SETS, ToolServer, compact, sent

INSTRUCTIONS = "Tasks: ids come from list_tasks or create_task; due dates are days such as 2030-12-31."

# A list is for choosing: get_task returns the rest.
DETAILS = {"items": {"__all__": {"description", "created_at", "updated_at"}}}


def add_task_tools(server: ToolServer, database: Database) -> None:
    @server.tool(title="Create a task", annotations=ADDS)
    async def create_task(
        title: Title,
        description: Description | None = None,
        status: Status = Status.TODO,
        priority: Priority = Priority.NORMAL,
        due_date: DueDate | None = None,
    ) -> str:
        """Create a task; only its title is required. Look with list_tasks first whether there is one already."""
        data = TaskCreate(title=title, description=description, status=status, priority=priority, due_date=due_date)
        return compact(await database.write(service.create_task, data))

    @server.tool(title="Read a task", annotations=READS)
    async def get_task(task_id: TaskId) -> str:
        """Read the whole of one task: its description and times too, which list_tasks leaves out."""
        return compact(await database.read(service.get_task, task_id))

    @server.tool(title="List tasks", annotations=READS)
    async def list_tasks(
        status: Status | None = None, query: Query | None = None, limit: PageSize = 20, cursor: Cursor | None = None
    ) -> str:
        """Find tasks, newest first: all, those of one status, or those whose title or description contains `query`.

        Descriptions are left out; get_task has them. Pass `next_cursor` as `cursor` to read on.
        """
        page = await database.read(service.list_tasks, status=status, query=query, limit=limit, cursor=cursor)
        return compact(page, exclude=DETAILS)

    @server.tool(title="Change a task", annotations=REPLACES)
    async def update_task(
        task_id: TaskId,
        title: Title = NOT_SENT,
        description: Description | None = NOT_SENT,
        status: Status = NOT_SENT,
        priority: Priority = NOT_SENT,
        due_date: DueDate | None = NOT_SENT,
    ) -> str:
        """Change fields of a task. Those left out keep their values; null clears the description or the due date."""
        changes = sent(title=title, description=description, status=status, priority=priority, due_date=due_date)
        return compact(await database.write(service.update_task, task_id, TaskUpdate(**changes)))

    @server.tool(title="Complete a task", annotations=SETS)
    async def complete_task(task_id: TaskId) -> str:
        """Mark a task as done, and leave the rest of it as it is. To give it any other status, use update_task."""
        return compact(await database.write(service.complete_task, task_id))

    @server.tool(title="Delete a task", annotations=REPLACES)
    async def delete_task(task_id: TaskId) -> str:
        """Delete a task for good. To keep it but be done with it, use complete_task."""
        await database.write(service.delete_task, task_id)
        return f"Task {task_id} is deleted."
