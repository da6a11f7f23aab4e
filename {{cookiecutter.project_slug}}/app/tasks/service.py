"""What the service does with tasks. REST and MCP both call this, so that both behave the same."""

from sqlalchemy import delete, select, update

from app.db.database import ReadSession, WriteSession
from app.db.search import contains
from app.errors import NotFound
from app.tasks.models import Status, Task
from app.tasks.schemas import TaskCreate, TaskPage, TaskRead, TaskUpdate


class TaskNotFound(NotFound):
    def __init__(self, task_id: int) -> None:
        super().__init__(f"There is no task {task_id}.")


def create_task(session: WriteSession, data: TaskCreate) -> TaskRead:
    task = Task(**data.model_dump())
    session.add(task)
    session.flush()
    return TaskRead.model_validate(task)


def get_task(session: ReadSession, task_id: int) -> TaskRead:
    """Raises: TaskNotFound."""
    task = session.get(Task, task_id)
    if task is None:
        raise TaskNotFound(task_id)
    return TaskRead.model_validate(task)


def list_tasks(
    session: ReadSession,
    *,
    status: Status | None = None,
    query: str | None = None,
    limit: int = 50,
    cursor: int | None = None,
) -> TaskPage:
    """Newest first. A page begins below the id `cursor`, so tasks created meanwhile neither shift nor repeat any."""
    statement = select(Task).order_by(Task.id.desc()).limit(limit + 1)
    if status is not None:
        statement = statement.where(Task.status == status)
    if query is not None:
        statement = statement.where(contains(query, Task.title, Task.description))
    if cursor is not None:
        statement = statement.where(Task.id < cursor)
    return TaskPage.of([TaskRead.model_validate(task) for task in session.scalars(statement)], limit)


def update_task(session: WriteSession, task_id: int, data: TaskUpdate) -> TaskRead:
    """Write only what was sent, in one statement: concurrent updates of different fields all survive.

    Raises: TaskNotFound.
    """
    changes = data.changes()
    if not changes:
        return get_task(session, task_id)
    task = session.scalar(update(Task).where(Task.id == task_id).values(**changes).returning(Task))
    if task is None:
        raise TaskNotFound(task_id)
    return TaskRead.model_validate(task)


def complete_task(session: WriteSession, task_id: int) -> TaskRead:
    """Raises: TaskNotFound."""
    return update_task(session, task_id, TaskUpdate(status=Status.DONE))


def delete_task(session: WriteSession, task_id: int) -> None:
    """Raises: TaskNotFound."""
    if session.scalar(delete(Task).where(Task.id == task_id).returning(Task.id)) is None:
        raise TaskNotFound(task_id)
