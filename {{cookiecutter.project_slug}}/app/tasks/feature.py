"""The feature: its routes and tools."""

from app.db.database import Database
from app.tasks.rest import tasks_router
from app.tasks.tools import INSTRUCTIONS, add_task_tools
from app.web.feature import Feature


def tasks_feature(database: Database) -> Feature:
    return Feature(
        router=tasks_router(database),
        add_tools=lambda server: add_task_tools(server, database),
        instructions=INSTRUCTIONS,
    )
