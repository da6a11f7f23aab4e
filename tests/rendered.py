"""Names in a rendered project that tests depend on: modules, files and commands."""

MIGRATE = ["python", "-m", "app.db.migrate"]
ISSUE_KEY = ["python", "-m", "app.api_keys", "issue"]
HEALTHCHECK = ["python", "-m", "app.web.healthcheck", "8000", "8051"]
FIND_DEVICE = ["python", "-m", "app.duplicates.computation"]
WITH_POSTGRES = ["-m", "dev.postgres"]
"""Arguments of Python that run a command with the project's own PostgreSQL."""

PROBES = "app/web/probes.py"
MCP = "app/web/mcp.py"
SMOKE_TEST = "scripts/smoke.sh"
CUDA_CHECK = "scripts/check_cuda.py"

QUICK_TESTS = ["test"]
"""Arguments of make that run the quick tests."""
ALL_TESTS = ["test-all"]
POOLER_TEST = ["test-all", "ARGS=tests/test_postgres.py -k pooler"]
"""Runs the test that needs PgBouncer, which images do not have."""

# More than a second of work for a worker, on any machine.
ADD_MANY_TASKS = """
from sqlalchemy import text
from app.db.database import run_on_connection
from app.settings import load_settings

def add(connection):
    connection.execute(text('''
        WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 60000)
        INSERT INTO tasks (title, status, priority, created_at, updated_at)
        SELECT 'Task ' || (n * 7919) || ' of ' || (n * 10477), 'todo', 'low', '2030-01-01', '2030-01-01' FROM numbers
    '''))
    connection.commit()

run_on_connection(load_settings().database_url.get_secret_value(), add)
"""

# Creates a SQLite database with two tasks and a revoked key, as before a project moves to PostgreSQL.
FILL_SQLITE = """
import sys
from sqlalchemy import create_engine, insert
from app.api_keys.models import ApiKey
from app.db.columns import Base, utc_now
from app.tasks.models import Priority, Status, Task

engine = create_engine("sqlite:///app.backup")
Base.metadata.create_all(engine)
with engine.begin() as connection:
    for title, status in (("It's \\u4efb\\u52a1", Status.DONE), ("", Status.TODO)):
        connection.execute(insert(Task).values(title=title, description=title, status=status, priority=Priority.HIGH))
    connection.execute(insert(ApiKey).values(name="ann", digest="d", revoked_at=utc_now()))
"""

# Prints the tasks in PostgreSQL, the id of a new one, and the number of revoked keys.
READ_POSTGRES = """
import json
from sqlalchemy import func, insert, select
from app.api_keys.models import ApiKey
from app.db.database import run_on_connection
from app.settings import load_settings
from app.tasks.models import Task

def query(database):
    columns = (Task.id, Task.title, Task.description, Task.status, Task.priority)
    print(json.dumps([list(row) for row in database.execute(select(*columns).order_by(Task.id))]))
    print(database.execute(insert(Task).values(title="next").returning(Task.id)).scalar_one())
    print(database.execute(select(func.count(ApiKey.revoked_at))).scalar_one())

run_on_connection(load_settings().migration_url, query)
"""
