"""A service as in FastAPI's tutorial on SQL databases, written in ten minutes: SQLModel and synchronous routes."""

import os
from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Query
from sqlmodel import Field, Session, SQLModel, create_engine, select


class TaskCreate(SQLModel):
    title: str = Field(min_length=1, max_length=200)
    description: str | None = None
    status: str = "todo"
    priority: str = "normal"
    due_date: date | None = None


class Task(TaskCreate, table=True):
    __tablename__ = "tasks"

    id: int | None = Field(default=None, primary_key=True)
    created_at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    updated_at: datetime = Field(default_factory=lambda: datetime.now(UTC))


url = os.environ["DATABASE_URL"].replace("postgresql://", "postgresql+psycopg://")
engine = create_engine(url, connect_args={"check_same_thread": False} if url.startswith("sqlite") else {})


def get_session() -> Iterator[Session]:
    with Session(engine) as session:
        yield session


SessionDep = Annotated[Session, Depends(get_session)]

app = FastAPI()


@app.get("/health")
def health() -> dict[str, str]:
    return {"status": "healthy"}


@app.post("/tasks", status_code=201)
def create_task(data: TaskCreate, session: SessionDep) -> Task:
    task = Task.model_validate(data)
    session.add(task)
    session.commit()
    session.refresh(task)
    return task


@app.get("/tasks")
def list_tasks(session: SessionDep, offset: int = 0, limit: Annotated[int, Query(le=100)] = 50) -> list[Task]:
    return list(session.exec(select(Task).order_by(Task.id.desc()).offset(offset).limit(limit)))


@app.get("/tasks/{task_id}")
def get_task(task_id: int, session: SessionDep) -> Task:
    task = session.get(Task, task_id)
    if task is None:
        raise HTTPException(404, "Task not found")
    return task


if __name__ == "__main__":
    SQLModel.metadata.create_all(engine)
