"""The two machines: whole, closed, and drawn from their tables."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import pytest

from reconciler.core.machine import (
    JOB,
    JOB_ACTIVE,
    JOB_TERMINAL,
    TASK,
    TASK_TERMINAL,
    IllegalTransition,
    JobEvent,
    JobState,
    Table,
    TaskEvent,
    TaskState,
    advance,
    diagram,
    terminal,
)

MACHINES = pytest.mark.parametrize(
    ("table", "states", "events", "first"),
    [(JOB, JobState, JobEvent, JobState.PENDING), (TASK, TaskState, TaskEvent, TaskState.PENDING)],
    ids=["job", "task"],
)


@MACHINES
def test_every_state_is_reached(table: Table[Any, Any], states: type[StrEnum], events: object, first: StrEnum) -> None:
    reached = {first}
    while more := {table[state, event] for state, event in table if state in reached} - reached:
        reached |= more
    assert reached == set(states)


@MACHINES
def test_every_event_is_used(table: Table[Any, Any], states: object, events: type[StrEnum], first: object) -> None:
    assert {event for _, event in table} == set(events)


@MACHINES
def test_every_state_leads_to_an_end(
    table: Table[Any, Any], states: type[StrEnum], events: object, first: object
) -> None:
    ending = set(terminal(table))
    while more := {state for (state, _), following in table.items() if following in ending} - ending:
        ending |= more
    assert ending == set(states)


@MACHINES
def test_nothing_leaves_a_terminal_state(
    table: Table[Any, Any], states: object, events: type[StrEnum], first: object
) -> None:
    for state in terminal(table):
        for event in events:
            with pytest.raises(IllegalTransition):
                advance(table, state, event)


@MACHINES
def test_what_the_table_does_not_list_names_state_and_event(
    table: Table[Any, Any], states: type[StrEnum], events: type[StrEnum], first: object
) -> None:
    for state in states:
        for event in events:
            if (state, event) not in table:
                with pytest.raises(IllegalTransition, match=f"{state} does not take {event}"):
                    advance(table, state, event)


def test_the_ends_are_the_known_ones() -> None:
    assert {
        JobState.COMPLETED,
        JobState.ROLLED_BACK,
        JobState.SUPERSEDED,
        JobState.CANCELLED,
        JobState.FAILED,
    } == JOB_TERMINAL
    assert {TaskState.SUCCEEDED, TaskState.SKIPPED, TaskState.FAILED, TaskState.CANCELLED} == TASK_TERMINAL


def test_active_is_every_state_that_is_not_terminal() -> None:
    assert set(JobState) == JOB_ACTIVE | JOB_TERMINAL
    assert not JOB_ACTIVE & JOB_TERMINAL


def test_a_rolling_back_job_stays_active_until_it_is_restored() -> None:
    assert JobState.ROLLING_BACK in JOB_ACTIVE
    assert advance(JOB, JobState.ROLLING_BACK, JobEvent.RESTORED) is JobState.ROLLED_BACK
    with pytest.raises(IllegalTransition):
        advance(JOB, JobState.ROLLING_BACK, JobEvent.CONTINUE)


def test_a_running_task_is_never_cancelled_but_lost() -> None:
    for state in (TaskState.DISPATCHED, TaskState.RUNNING, TaskState.VERIFYING):
        with pytest.raises(IllegalTransition):
            advance(TASK, state, TaskEvent.CANCEL)
        assert advance(TASK, state, TaskEvent.LOSE) is TaskState.LOST


def test_a_lost_task_stays_lost_while_nothing_is_known() -> None:
    assert advance(TASK, TaskState.LOST, TaskEvent.LOSE) is TaskState.LOST


def test_what_was_untouched_is_skipped_after_the_look() -> None:
    assert advance(TASK, TaskState.VERIFYING, TaskEvent.SKIP) is TaskState.SKIPPED


@MACHINES
def test_the_diagram_shows_the_whole_table(
    table: Table[Any, Any], states: type[StrEnum], events: object, first: StrEnum
) -> None:
    lines = diagram(table).splitlines()
    assert lines[:2] == ["stateDiagram-v2", f"    [*] --> {first}"]
    shown = set()
    for line in lines[2:]:
        arrow, _, names = line.strip().partition(": ")
        state, _, following = arrow.partition(" --> ")
        shown |= {(state, event, following) for event in names.split(", ") if following != "[*]"}
    assert shown == {(state.value, event.value, following.value) for (state, event), following in table.items()}
    assert {line.split()[0] for line in lines if line.endswith("--> [*]")} == terminal(table)
