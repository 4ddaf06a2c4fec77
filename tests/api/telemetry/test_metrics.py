"""What is counted, as a scrape shows it."""

from __future__ import annotations

from datetime import timedelta

from api.telemetry.metrics import Metrics
from drivers.contract import Progress, Step
from reconciler import events
from reconciler.core.judge import Verdict
from reconciler.core.known import Trust
from reconciler.core.machine import JobState, TaskState
from reconciler.core.plan import JobKind
from reconciler.events import Event
from stickers.names import ActionKey, JobId, ReleaseName, TaskId
from tests.harness import virtual_time
from tests.reconciler.core.builders import NOW, PROD, place
from tests.reconciler.rig import declared, rig

anyio_backend = virtual_time.backend()
JOB = JobId(f"{PROD}:1")
TASK = TaskId(f"{JOB}/1")


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def _job(state: JobState, seconds: float | None = None) -> Event:
    ended = None if seconds is None else NOW + timedelta(seconds=seconds)
    release = ReleaseName("shop@1.0.0")
    return events.JobMoved(
        environment=PROD,
        job=JOB,
        release=release,
        kind=JobKind.DEPLOY,
        state=state,
        message="",
        created_at=NOW,
        ended_at=ended,
    )


def _verdict(before: Verdict | None, after: Verdict) -> Event:
    return events.VerdictChanged(
        environment=PROD, id=place("web-1"), before=before, after=after, trust=Trust.VALID, reason=""
    )


def _looked() -> Event:
    return events.Looked(environment=PROD, placements=1, drifted=0, took=0.01)


def _sample(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics._registry.get_sample_value(name, labels)


def test_a_deployment_is_as_long_as_the_store_says() -> None:
    metrics = Metrics()
    for event in (_job(JobState.RUNNING), _job(JobState.COMPLETED, 42)):
        metrics(event)
    labels = {"environment": PROD, "kind": "deploy", "outcome": "completed"}
    assert _sample(metrics, "release_deployments_duration_seconds_sum", **labels) == 42
    assert _sample(metrics, "release_deployments_duration_seconds_count", **labels) == 1


def test_a_step_lasts_until_the_next_one_or_the_end() -> None:
    clock = Clock()
    metrics = Metrics(clock)

    def progressed(step: Step) -> Event:
        progress = Progress(id=place("web-1"), step=step, message="")
        release = ReleaseName("shop@1.0.0")
        return events.Progressed(environment=PROD, job=JOB, release=release, task=TASK, progress=progress)

    metrics(progressed(Step.PREPARE))
    clock.now += 3
    metrics(progressed(Step.START))
    clock.now += 4
    metrics(
        events.TaskMoved(
            environment=PROD,
            job=JOB,
            release=ReleaseName("shop@1.0.0"),
            task=TASK,
            key=ActionKey("k1"),
            target=place("web-1").target,
            state=TaskState.SUCCEEDED,
            attempt=1,
            code=None,
            detail="",
        )
    )
    assert _sample(metrics, "release_workflow_steps_duration_seconds_sum", step="prepare") == 3
    assert _sample(metrics, "release_workflow_steps_duration_seconds_sum", step="start") == 4
    assert _sample(metrics, "holdfast_tasks_total", environment=PROD, outcome="succeeded") == 1


def test_drift_is_detected_since_the_look_before_and_healed_when_in_sync() -> None:
    clock = Clock()
    metrics = Metrics(clock)
    metrics(_looked())
    clock.now += 2
    metrics(_verdict(Verdict.IN_SYNC, Verdict.LYING))
    metrics(_looked())
    clock.now += 5
    metrics(_verdict(Verdict.LYING, Verdict.IN_TRANSIT))
    metrics(_verdict(Verdict.IN_TRANSIT, Verdict.IN_SYNC))
    assert _sample(metrics, "holdfast_time_to_detect_seconds_sum", environment=PROD) == 2
    assert _sample(metrics, "holdfast_time_to_heal_seconds_sum", environment=PROD) == 5


def test_what_becomes_unknown_is_not_counted_as_drift() -> None:
    metrics = Metrics()
    metrics(_looked())
    metrics(_verdict(Verdict.IN_SYNC, Verdict.UNKNOWN))
    metrics(_verdict(Verdict.UNKNOWN, Verdict.IN_SYNC))
    assert _sample(metrics, "holdfast_time_to_detect_seconds_count", environment=PROD) is None
    assert _sample(metrics, "holdfast_time_to_heal_seconds_count", environment=PROD) is None


async def test_a_scrape_says_how_placements_stand_and_how_old_the_look_is() -> None:
    metrics = Metrics()
    async with rig(declared("1.0.0", targets=2), sink=metrics) as made:
        await made.rested("1.0.0", 2)
        now = virtual_time.now() + timedelta(seconds=7)
        text = (await metrics.text(made.store, made.reconciler, now)).decode()
    assert f'holdfast_placements{{environment="{PROD}",verdict="in sync"}} 2.0' in text
    assert f'holdfast_look_age_seconds{{environment="{PROD}"}}' in text
    assert 'holdfast_queue_depth{wheel="reconcile"}' in text
    assert "release_agents_online 0.0" in text
    assert (
        f'release_deployments_duration_seconds_count{{environment="{PROD}",kind="deploy",outcome="completed"}}' in text
    )
    assert "web-1" not in text


def test_labels_hold_no_target() -> None:
    metrics = Metrics()
    for event in (_looked(), _verdict(None, Verdict.MISSING), _job(JobState.FAILED, 1)):
        metrics(event)
    labels = {name for family in metrics._registry.collect() for sample in family.samples for name in sample.labels}
    assert labels <= {"environment", "kind", "outcome", "step", "le", "terminal", "change", "trust", "reason"}
