"""How a rendered project names its modules, files and tasks, as far as tests call or change these."""

MIGRATE = ["python", "-m", "app.migrate"]
ISSUE_KEY = ["python", "-m", "app.auth", "issue"]
HEALTHCHECK = ["python", "-m", "app.healthcheck"]
FIND_DEVICE = ["python", "-m", "app.duplicates"]
WITH_POSTGRES = ["-m", "tests.postgres"]
"""What Python is told to run a command on a PostgreSQL of the project's own."""

PROBES = "app/health.py"
MCP = "app/mcp.py"
SMOKE_TEST = "tests/smoke.sh"
CUDA_CHECK = "tests/cuda.py"

QUICK_TESTS = ["test", "ARGS=-n0 tests/test_rest.py"]
"""What `make` is told to run the tests that take seconds."""
ALL_TESTS = ["test", "ARGS=--numprocesses=2"]
POOLER_TEST = ["test", "ARGS=tests/test_postgres.py -k pooler"]
"""The one that needs PgBouncer, which images do not have."""

# More than a second of work for a worker on any machine.
ADD_MANY_TASKS = """
import asyncio
from sqlalchemy import text
from app.database import Database
from app.settings import load_settings

async def main():
    async with Database(load_settings().database_url.get_secret_value(), pool_size=1).write() as session:
        await session.execute(text('''
            WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 60000)
            INSERT INTO tasks (title, status, priority, created_at, updated_at)
            SELECT 'Task ' || (n * 7919) || ' of ' || (n * 10477), 'todo', 'low', '2030-01-01', '2030-01-01' FROM numbers
        '''))

asyncio.run(main())
"""

# Two tasks and a revoked key in a SQLite database, as they were before a project moved to PostgreSQL.
FILL_SQLITE = """
import sys
from sqlalchemy import create_engine, insert
from app.models import ApiKey, Base, Priority, Status, Task, utc_now

engine = create_engine("sqlite:///tasks.backup")
Base.metadata.create_all(engine)
with engine.begin() as connection:
    for title, status in (("It's \\u4efb\\u52a1", Status.DONE), ("", Status.TODO)):
        connection.execute(insert(Task).values(title=title, description=title, status=status, priority=Priority.HIGH))
    connection.execute(insert(ApiKey).values(name="ann", digest="d", revoked_at=utc_now()))
"""

# Prints the tasks in PostgreSQL, the id that a new one gets, and the number of revoked keys.
READ_POSTGRES = """
import asyncio, json
from sqlalchemy import func, insert, select
from app.database import create_engine
from app.models import ApiKey, Task
from app.settings import load_settings

async def main():
    async with create_engine(load_settings().migration_url).begin() as database:
        columns = (Task.id, Task.title, Task.description, Task.status, Task.priority)
        print(json.dumps([list(row) for row in await database.execute(select(*columns).order_by(Task.id))]))
        print((await database.execute(insert(Task).values(title="next").returning(Task.id))).scalar_one())
        print((await database.execute(select(func.count(ApiKey.revoked_at)))).scalar_one())

asyncio.run(main())
"""
