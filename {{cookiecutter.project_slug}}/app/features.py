"""The features of the service. A new one is an import and a line here: `make feature NAME=book` adds both."""

from app.db.database import Database
{% if cookiecutter.gpu %}
from app.duplicates.feature import duplicates_feature
from app.jobs.feature import jobs_feature
from app.jobs.queue import Queue
{% endif %}
from app.settings import Settings
from app.tasks.feature import tasks_feature
from app.web.feature import Feature


def create_features(database: Database, settings: Settings) -> list[Feature]:
    return [
        tasks_feature(database),
{% if cookiecutter.gpu %}
        jobs_feature(database),
        duplicates_feature(database, Queue(settings)),
{% endif %}
    ]
