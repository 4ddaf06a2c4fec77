"""From a request to the job it led to: spans of the real SDK, by the `traceparent` that was handed in."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from api.settings import Settings
from api.telemetry.asking import asking
from api.telemetry.traces import Traces
from desired_state.model import Policy, Sync
from reconciler import correlation, loop
from tests.api.http.doors import door
from tests.harness import virtual_time
from tests.reconciler.rig import declared, rig

anyio_backend = virtual_time.backend()

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"00-{TRACE}-{SPAN}-01"
ASKS = Sync(mode=Policy.ASK, heal=Policy.ASK)
SYNC = "/api/v1/environments/default/prod/sync"


@dataclass(frozen=True)
class Told:
    sink: Traces
    kept: InMemorySpanExporter

    def one(self, name: str) -> ReadableSpan:
        [span] = [span for span in self.kept.get_finished_spans() if span.name == name]
        return span

    def has(self, name: str) -> bool:
        return any(span.name == name for span in self.kept.get_finished_spans())


@pytest.fixture
def told() -> Told:
    kept, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    return Told(Traces(provider.get_tracer("test")), kept)


def ids(span: ReadableSpan) -> tuple[str, str]:
    """Its trace, and the span it is below."""
    assert span.context is not None
    return f"{span.context.trace_id:032x}", f"{span.parent.span_id:016x}" if span.parent else ""


async def test_a_request_is_a_span_below_that_of_whoever_asked(told: Told) -> None:
    async with door(declared("1.0.0", sync=ASKS), tracing=told.sink, sink=told.sink) as made:
        await made.get("/api/v1/environments", headers={"traceparent": PARENT})
        await made.get("/livez")
        await made.get("/api/v1/environments/default/nowhere")
    asked = told.one("GET /api/v1/environments")
    assert ids(asked) == (TRACE, SPAN)
    assert asked.kind is SpanKind.SERVER
    assert asked.attributes is not None
    assert asked.attributes["http.response.status_code"] == 200
    assert len(told.kept.get_finished_spans()) == 2, "probes are no requests of anybody's"
    [other] = [span for span in told.kept.get_finished_spans() if span is not asked]
    assert other.attributes is not None
    assert other.attributes["http.response.status_code"] == 404
    assert "nowhere" not in other.name


async def test_the_job_that_a_request_led_to_is_below_the_request(told: Told) -> None:
    async with door(declared("1.0.0", targets=1, sync=ASKS), tracing=told.sink, sink=told.sink) as made:
        await made.rig.until(lambda: made.rig.reconciler.held)
        answer = await made.post(SYNC, headers={"traceparent": PARENT}, json={})
        assert answer.status_code < 300, answer.text
        await made.rig.until(lambda: told.has("deployment.execute"))
    asked = next(span for span in told.kept.get_finished_spans() if span.kind is SpanKind.SERVER)
    assert asked.context is not None
    assert ids(told.one("deployment.execute")) == (TRACE, f"{asked.context.span_id:016x}")


async def test_the_job_that_follows_from_a_source_that_was_asked_to_be_read_is_below_who_asked(told: Told) -> None:
    async with rig(declared("1.0.0", targets=1), sink=told.sink) as made:
        await made.rested("1.0.0", 1)
        told.kept.clear()
        made.shelf.resolved = made.shelf.resolved.__class__(
            revision="pushed", environments={"default/prod": declared("2.0.0", targets=1)}, documents=1
        )
        with correlation.caused_by(PARENT):
            made.reconciler.request(loop.DOCUMENTS)
        await made.until(lambda: told.has("deployment.execute"))
    assert ids(told.one("deployment.execute")) == (TRACE, SPAN)


async def test_what_nobody_asked_for_is_below_nothing(told: Told) -> None:
    async with rig(declared("1.0.0", targets=1), sink=told.sink) as made:
        await made.rested("1.0.0", 1)
    assert told.one("deployment.execute").parent is None


@pytest.mark.parametrize("text", ["", "00-0-0-01", f"00-{'0' * 32}-{SPAN}-01", f"ff-{TRACE}-{SPAN}-01", 7, None])
def test_what_is_no_traceparent_is_dropped(text: object) -> None:
    assert correlation.checked(text) is None


# -- the command line -------------------------------------------------------------------------------------------------


@contextmanager
def collector() -> Iterator[tuple[str, list[ExportTraceServiceRequest]]]:
    """One that takes whatever it is sent."""
    taken: list[ExportTraceServiceRequest] = []

    class Taking(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                import gzip

                body = gzip.decompress(body)
            taken.append(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Taking)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", taken
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_command_is_a_span_and_the_server_is_told_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACEPARENT", PARENT)
    with collector() as (address, taken):
        with asking(Settings(otlp=address), "sync") as headers:
            pass
        [span] = taken[0].resource_spans[0].scope_spans[0].spans
    assert span.name == "holdfast sync"
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, SPAN)
    assert headers["traceparent"] == f"00-{TRACE}-{span.span_id.hex()}-01"


def test_without_a_collector_the_span_of_whoever_runs_the_command_is_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACEPARENT", PARENT)
    with asking(Settings(), "sync") as headers:
        assert headers == {"traceparent": PARENT}
    monkeypatch.setenv("TRACEPARENT", "something else\r\nX-Evil: 1")
    with asking(Settings(), "sync") as headers:
        assert headers == {}


def test_without_a_collector_nothing_of_the_sdk_is_imported() -> None:
    code = (
        "import sys, api.client, api.wiring\n"
        "assert not [name for name in sys.modules if name.startswith('opentelemetry')]\n"
        "import api.http.app, api.cli.daemon\n"  # FastAPI itself looks for the API, where it is installed
        "assert not [name for name in sys.modules if name.startswith(('opentelemetry.sdk', 'opentelemetry.exporter'))]"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
