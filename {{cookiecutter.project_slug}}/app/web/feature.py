"""What a feature consists of."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from prometheus_client import Metric

from app.db.database import ReadSession
from app.web.routes import FeatureRouter
from app.web.tools import ToolServer


@dataclass(frozen=True)
class Feature:
    router: FeatureRouter
    add_tools: Callable[[ToolServer], None]
    instructions: str
    """What an assistant should know before it calls one of the tools."""
    read_metrics: Callable[[ReadSession], Iterable[Metric]] | None = None
    """Queries for further metrics; they run on each request of `/metrics`."""
