"""What the service does with tasks. REST and MCP both call this: one behaviour, two doors."""

from sqlalchemy import delete, select, update

from app.database import Database
from app.errors import NotFound
from app.models import Status, Task
from app.schemas import TaskCreate, TaskPage, TaskRead, TaskUpdate


class TaskNotFound(NotFound):
    def __init__(self, task_id: int) -> None:
        super().__init__(f"There is no task {task_id}.")


class Tasks:
    """Every method may raise `app.errors.DatabaseUnavailable`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, data: TaskCreate) -> TaskRead:
        async with self._database.write() as session:
            task = Task(**data.model_dump())
            session.add(task)
        return TaskRead.model_validate(task)

    async def get(self, task_id: int) -> TaskRead:
        """Raises: TaskNotFound."""
        async with self._database.read() as session:
            task = await session.get(Task, task_id)
        return self._found(task, task_id)

    async def list(self, *, status: Status | None = None, limit: int = 50, cursor: int | None = None) -> TaskPage:
        """Newest first. A page begins below the id `cursor`, so tasks created meanwhile neither shift nor repeat any."""
        query = select(Task).order_by(Task.id.desc()).limit(limit + 1)
        if status is not None:
            query = query.where(Task.status == status)
        if cursor is not None:
            query = query.where(Task.id < cursor)
        async with self._database.read() as session:
            tasks = (await session.scalars(query)).all()
        items = [TaskRead.model_validate(task) for task in tasks[:limit]]
        return TaskPage(items=items, next_cursor=items[-1].id if len(tasks) > limit else None)

    async def update(self, task_id: int, data: TaskUpdate) -> TaskRead:
        """Write only what was sent, in one statement: concurrent updates of different fields all survive.

        Raises: TaskNotFound.
        """
        changes = data.changes()
        if not changes:
            return await self.get(task_id)
        async with self._database.write() as session:
            task = await session.scalar(update(Task).where(Task.id == task_id).values(**changes).returning(Task))
        return self._found(task, task_id)

    async def complete(self, task_id: int) -> TaskRead:
        """Raises: TaskNotFound."""
        return await self.update(task_id, TaskUpdate(status=Status.DONE))

    async def delete(self, task_id: int) -> None:
        """Raises: TaskNotFound."""
        async with self._database.write() as session:
            found = await session.scalar(delete(Task).where(Task.id == task_id).returning(Task.id))
        if found is None:
            raise TaskNotFound(task_id)

    @staticmethod
    def _found(task: Task | None, task_id: int) -> TaskRead:
        if task is None:
            raise TaskNotFound(task_id)
        return TaskRead.model_validate(task)
