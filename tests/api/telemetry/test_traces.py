"""Jobs and their actions as spans, made by the real SDK and kept in memory."""

from __future__ import annotations

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from api.problem import Problem
from api.telemetry import traces
from api.telemetry.traces import Traces
from drivers.memory import scripts
from reconciler.events import AgentAnswered, Event, Progressed, TaskMoved
from stickers.names import ActionKey, AgentName, EnvironmentId, TargetId, TaskId
from tests.harness import virtual_time
from tests.reconciler.rig import artifact, declared, rig

anyio_backend = virtual_time.backend()


@pytest.fixture
def told() -> tuple[Traces, InMemorySpanExporter]:
    kept, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    return Traces(provider.get_tracer("test")), kept


def _named(kept: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    return [span for span in kept.get_finished_spans() if span.name == name]


async def test_a_job_is_a_span_with_its_actions_below_and_their_steps_in_them(
    told: tuple[Traces, InMemorySpanExporter],
) -> None:
    sink, kept = told
    async with rig(declared("1.0.0", targets=2), sink=sink) as made:
        await made.rested("1.0.0", 2)
    [job] = _named(kept, "deployment.execute")
    tasks = _named(kept, "deployment.task")
    assert job.context is not None
    assert job.attributes is not None
    assert (job.attributes["environment"], job.attributes["release"]) == ("default/prod", "shop@1.0.0")
    assert [span.parent.span_id for span in tasks if span.parent] == [job.context.span_id] * 2
    assert {"look", "start", "prove"} <= {event.name for event in tasks[0].events}
    assert job.status.status_code is StatusCode.OK


async def test_a_job_that_was_rolled_back_is_an_error_with_its_sentence(
    told: tuple[Traces, InMemorySpanExporter],
) -> None:
    sink, kept = told
    async with rig(declared("1.0.0", targets=1), sink=sink) as made:
        made.world.scripts[artifact("api", "1.0.0").digest] = scripts.NEVER
        await made.until(lambda: bool(_named(kept, "deployment.execute")))
    job = _named(kept, "deployment.execute")[0]
    assert job.status.status_code is StatusCode.ERROR
    assert job.status.description


async def test_what_an_agent_was_asked_is_a_span_below_the_action_that_asked_it(
    told: tuple[Traces, InMemorySpanExporter],
) -> None:
    sink, kept = told
    keys: dict[TaskId, ActionKey] = {}
    asking: list[TaskId] = []

    def heard(event: Event) -> None:
        if isinstance(event, TaskMoved):
            keys[event.task] = event.key
        if isinstance(event, Progressed) and len(keys) == 2 and not asking:
            asking.append(event.task)
            sink(_answered(keys[event.task], "FAILED"))
        sink(event)

    async with rig(declared("1.0.0", targets=2), sink=heard) as made:
        await made.rested("1.0.0", 2)
    [asked] = _named(kept, "agent.task")
    [task] = [
        each for each in _named(kept, "deployment.task") if each.attributes and each.attributes["task"] == asking[0]
    ]
    assert asked.parent is not None
    assert task.context is not None
    assert asked.parent.span_id == task.context.span_id
    assert asked.attributes is not None
    assert (asked.attributes["agent"], asked.attributes["verb"], asked.attributes["pull.ms"]) == ("web-1", "deploy", 12)
    assert (asked.status.status_code, asked.status.description) == (StatusCode.ERROR, "no such image")


def test_what_a_person_asked_of_an_agent_is_a_span_of_its_own(told: tuple[Traces, InMemorySpanExporter]) -> None:
    sink, kept = told
    sink(_answered(ActionKey("k1"), "DONE"))
    [asked] = _named(kept, "agent.task")
    assert asked.parent is None
    assert asked.status.status_code is StatusCode.OK


def _answered(key: ActionKey, code: str) -> AgentAnswered:
    return AgentAnswered(
        environment=EnvironmentId("default/prod"),
        target=TargetId("default/web-1"),
        agent=AgentName("web-1"),
        task="t1",
        key=key,
        verb="deploy",
        code=code,
        detail="no such image",
        began_at=virtual_time.EPOCH,
        milliseconds={"pull": 12},
    )


def test_an_end_with_a_collector_that_is_gone_does_not_wait_long() -> None:
    with traces.sending("http://127.0.0.1:9"):
        pass


def test_without_the_extra_the_setting_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "opentelemetry.sdk.trace.export", None)
    with pytest.raises(Problem, match="otlp"), traces.sending("http://127.0.0.1:9"):
        pass
