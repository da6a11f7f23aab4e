"""OpenTelemetry traces, sent over OTLP. Imported only if `OTEL_EXPORTER_OTLP_ENDPOINT` is set.

Spans of SQL statements are created here, those of requests in `app.web.traces`, and those of tool calls by the MCP
library. They contain no data: no parameters of statements, no query strings, no exception messages.
"""

import logging
import re
from collections.abc import Sequence
from threading import Thread
from time import time_ns
from typing import Any, Self

from opentelemetry import trace
from opentelemetry.exporter.otlp.json.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.util.re import parse_env_headers
from sqlalchemy import Engine, event

from app.settings import VERSION, Settings

FLUSH_TIMEOUT = 1.0
"""Seconds to send the last spans of a process, before whoever waits for its end kills it."""
MAX_STATEMENT = 2_000
"""Characters of a statement: one that inserts a thousand rows has thousands of placeholders."""

_TABLE = re.compile(r"\b(?:FROM|INTO|UPDATE)\s+(\w+)", re.IGNORECASE)

logger = logging.getLogger(__name__)


class Traces:
    """A context manager within which a thread sends spans. Enter it after a fork, as threads do not survive one."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def __enter__(self) -> Self:
        resource = {"service.name": self._settings.otel_service_name, "service.version": VERSION}
        # The SDK reads the sampler and the limits from environment variables.
        self._provider = TracerProvider(resource=Resource.create(resource), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(Exporter(self._settings)))
        trace.set_tracer_provider(self._provider)
        trace_statements()
        add_ids_to_logs()
        return self

    def __exit__(self, *_error: object) -> None:
        # The SDK's default is 30 s.
        flush = Thread(target=self._provider.shutdown, daemon=True)
        flush.start()
        flush.join(FLUSH_TIMEOUT)


class Exporter(OTLPSpanExporter):
    """Logs one line when delivery starts to fail and one when it works again, instead of several per batch."""

    def __init__(self, settings: Settings) -> None:
        headers = settings.otel_exporter_otlp_headers
        super().__init__(
            endpoint=f"{settings.otel_exporter_otlp_endpoint}/v1/traces",
            headers=parse_env_headers(headers.get_secret_value(), liberal=True) if headers else None,
        )
        self._is_failing = False
        # The second of these reports that its queue is full.
        for name in (OTLPSpanExporter.__module__, "opentelemetry.sdk._shared_internal"):
            logging.getLogger(name).addFilter(self._is_first)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = super().export(spans)
        if self._is_failing and result is SpanExportResult.SUCCESS:
            self._is_failing = False
            logger.info("spans are delivered again")
        return result

    def _is_first(self, _record: logging.LogRecord) -> bool:
        is_first = not self._is_failing
        self._is_failing = True
        return is_first


def trace_statements() -> None:
    """Create a span for each SQL statement of a traced request or job."""
    tracer = trace.get_tracer(__name__)

    @event.listens_for(Engine, "before_cursor_execute")
    def begin(_connection: Any, _cursor: Any, _statement: str, _parameters: Any, context: Any, _many: bool) -> None:
        context.began_at = time_ns() if trace.get_current_span().is_recording() else None

    @event.listens_for(Engine, "after_cursor_execute")
    def end(connection: Any, _cursor: Any, statement: str, _parameters: Any, context: Any, _many: bool) -> None:
        record(connection.dialect.name, statement, context)

    @event.listens_for(Engine, "handle_error")
    def fail(failure: Any) -> None:
        record(failure.dialect.name, failure.statement, failure.execution_context, failure.original_exception)

    def record(dialect: str, statement: str | None, context: Any, error: BaseException | None = None) -> None:
        began_at = getattr(context, "began_at", None)
        if began_at is None or statement is None:
            return
        context.began_at = None
        operation = statement.split(maxsplit=1)[0].upper()
        table = _TABLE.search(statement)
        name = f"{operation} {table[1]}" if table else operation
        attributes = {"db.system.name": dialect, "db.query.text": statement[:MAX_STATEMENT]}
        span = tracer.start_span(name, kind=SpanKind.CLIENT, attributes=attributes, start_time=began_at)
        if error is not None:
            span.set_attribute("error.type", type(error).__name__)
            span.set_status(StatusCode.ERROR)
        span.end()


def add_ids_to_logs() -> None:
    """Add the ids of the current trace and span to log records."""
    make_record = logging.getLogRecordFactory()

    def make_record_with_ids(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make_record(*args, **kwargs)
        context = trace.get_current_span().get_span_context()
        if context.is_valid:
            record.trace_id = trace.format_trace_id(context.trace_id)
            record.span_id = trace.format_span_id(context.span_id)
        return record

    logging.setLogRecordFactory(make_record_with_ids)
