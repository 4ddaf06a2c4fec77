"""OpenTelemetry traces: one `deployment.execute` for each job, a `deployment.task` below it for each action, and the
steps of an action as its events; an `agent.task` for what an agent was asked, below the action that asked it; one span
for each request, above the job that it led to, whichever replica made it.

Where nobody configures an exporter nothing is made, since the API alone makes spans that are not recorded.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.datastructures import Headers

from api.problem import Problem
from api.telemetry.requests import Answered
from drivers.agent.protocol import Code
from reconciler import correlation, events
from reconciler.core.machine import JOB_TERMINAL, TASK_TERMINAL, JobState, TaskState
from reconciler.events import Event
from stickers.names import ActionKey, JobId, TaskId

OPEN: Final = 10_000  # spans that are open together
FLUSH: Final = 2_000  # milliseconds that the end of the daemon waits for a collector
_PROPAGATOR: Final = TraceContextTextMapPropagator()
WELL: Final = (JobState.COMPLETED, TaskState.SUCCEEDED, TaskState.SKIPPED)


class Traces:
    """A sink of events, and whoever traces requests."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._jobs: dict[JobId, Span] = {}
        self._tasks: dict[TaskId, Span] = {}
        self._asked: dict[ActionKey, Span] = {}

    def __call__(self, event: Event) -> None:
        match event:
            case events.JobMoved():
                self._job(event)
            case events.TaskMoved():
                self._task(event)
            case events.AgentAnswered():
                self._answered(event)
            case events.Progressed(task=task, progress=progress):
                if task in self._tasks:
                    self._tasks[task].add_event(progress.step.value, {"message": progress.message})
            case _:
                pass

    @contextmanager
    def request(self, method: str, headers: Headers) -> Iterator[Answered]:
        above = _PROPAGATOR.extract({name: headers[name] for name in _PROPAGATOR.fields if name in headers}, Context())
        about = {"http.request.method": method}
        span = self._tracer.start_span(method, context=above, kind=SpanKind.SERVER, attributes=about)

        def answered(route: str | None, status: int) -> None:
            span.set_attribute("http.response.status_code", status)
            if route is not None:
                span.update_name(f"{method} {route}")
                span.set_attribute("http.route", route)
            if status >= 500:
                span.set_status(StatusCode.ERROR)

        try:
            with correlation.caused_by(_traceparent(span)):
                yield answered
        finally:
            span.end()

    @contextmanager
    def asking(self, command: str, above: str | None) -> Iterator[str]:
        """A span around a command that is asked of a server; its `traceparent`."""
        span = self._tracer.start_span(f"holdfast {command}", context=_above(above), kind=SpanKind.CLIENT)
        try:
            yield _traceparent(span)
        except Exception as error:
            span.set_status(StatusCode.ERROR, getattr(error, "code", type(error).__name__))
            raise
        finally:
            span.end()

    def _job(self, event: events.JobMoved) -> None:
        span = self._jobs.get(event.job)
        if span is None and len(self._jobs) < OPEN:
            about = {"environment": event.environment, "job": event.job, "kind": event.kind, "release": event.release}
            span = self._jobs[event.job] = self._tracer.start_span(
                "deployment.execute",
                context=_above(correlation.cause()),
                kind=SpanKind.INTERNAL,
                attributes=about,
                start_time=_nanoseconds(event.created_at),
            )
        if span is not None and event.state in JOB_TERMINAL:
            self._end(self._jobs.pop(event.job), event.state, event.message)

    def _task(self, event: events.TaskMoved) -> None:
        job, span = self._jobs.get(event.job), self._tasks.get(event.task)
        if span is None and job is not None and len(self._tasks) < OPEN:
            about = {"environment": event.environment, "job": event.job, "target": event.target, "task": event.task}
            span = self._tasks[event.task] = self._tracer.start_span(
                "deployment.task", context=trace.set_span_in_context(job), attributes=about
            )
            self._asked[event.key] = span
        if span is not None and event.state in TASK_TERMINAL:
            self._end(self._tasks.pop(event.task), event.state, event.detail)
            self._asked.pop(event.key, None)

    def _answered(self, event: events.AgentAnswered) -> None:
        asked = self._asked.get(event.key)
        about = {"environment": event.environment, "target": event.target, "agent": event.agent, "verb": event.verb}
        span = self._tracer.start_span(
            "agent.task",
            context=_above(correlation.cause()) if asked is None else trace.set_span_in_context(asked),
            kind=SpanKind.CLIENT,
            attributes=about | {f"{part}.ms": took for part, took in event.milliseconds.items()},
            start_time=_nanoseconds(event.began_at),
        )
        well = event.code == Code.DONE
        span.set_attribute("code", event.code or "")
        span.set_status(StatusCode.OK if well else StatusCode.ERROR, None if well else event.detail)
        span.end()

    def _end(self, span: Span, state: JobState | TaskState, message: str) -> None:
        span.set_attribute("state", state.value)
        span.set_status(StatusCode.OK if state in WELL else StatusCode.ERROR, None if state in WELL else message)
        span.end()


def _above(traceparent: str | None) -> Context:
    """The context of a span elsewhere; an empty one when there is none."""
    return _PROPAGATOR.extract({"traceparent": traceparent} if traceparent else {}, Context())


def _traceparent(span: Span) -> str:
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier, trace.set_span_in_context(span, Context()))
    return carrier.get("traceparent", "")


def _nanoseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1e9)


@contextmanager
def sending(endpoint: str) -> Iterator[Traces]:
    """Traces sent to an OTLP collector over HTTP. What cannot be sent when the daemon ends is given up soon."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise Problem("NO_OTLP", "HOLDFAST_OTLP needs the extra `otlp`: install holdfast[otlp]") from None
    provider = TracerProvider(resource=Resource.create({"service.name": "holdfast"}), shutdown_on_exit=False)
    processor = BatchSpanProcessor(OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces", timeout=5))
    provider.add_span_processor(processor)
    try:
        yield Traces(provider.get_tracer("holdfast"))
    finally:
        processor.force_flush(FLUSH)
