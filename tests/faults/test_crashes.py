"""Killed with `kill -9` at any of its failpoints while it deploys to a real engine, the daemon finishes when it is
started again: one container to each action key, a service that answers every probe, nothing left over or to plan."""

from __future__ import annotations

from typing import Final

import pytest

from drivers.docker import render
from reconciler import failpoints
from tests.faults.harbour import APPS, TARGETS, Harbour

BEFORE: Final = (
    "before_accept",
    "after_accept",
    "before_lease",
    "after_lease",
    "before_look",
    "after_look",
    "before_job",
    "after_job",
    "before_begin",
    "after_begin",
)  # nothing has been done to the engine yet, so one deployment can be killed at all of them in turn
BACK: Final = ("before_roll_back", "after_roll_back", "step_put_back")  # where a bad release is taken back
REMOVAL: Final = "step_remove"
AGAIN: Final = "before_retry"
FORWARD: Final = tuple(name for name in failpoints.NAMES if name not in {*BEFORE, *BACK, REMOVAL, AGAIN})
IN_PLACE: Final = ("step_start", "step_prove")  # on both sides of the gap that a fixed port has


def test_a_deployment_that_was_killed_at_each_point_before_its_first_effect_is_carried_out_once(
    harbour: Harbour,
) -> None:
    harbour.hold("1.0.0")
    harbour.declare("2.0.0")
    with harbour.serving():
        for name in BEFORE:
            crash(harbour, name)
        goes_on(harbour)
    must_be_whole(harbour, "2.0.0")
    must_have_made_one_to_a_key(harbour)


@pytest.mark.parametrize("name", FORWARD)
def test_a_deployment_is_finished_wherever_the_daemon_was_killed(harbour: Harbour, name: str) -> None:
    harbour.hold("1.0.0")
    harbour.declare("2.0.0")
    with harbour.serving():
        crash(harbour, name)
        goes_on(harbour)
    must_be_whole(harbour, "2.0.0")
    must_have_made_one_to_a_key(harbour)


@pytest.mark.parametrize("name", IN_PLACE)
def test_with_a_fixed_port_it_is_finished_too_and_serves_again(harbour: Harbour, name: str) -> None:
    harbour.fix_ports()
    harbour.hold("1.0.0")
    harbour.declare("2.0.0")
    crash(harbour, name)
    goes_on(harbour)
    assert {ask() for ask in harbour.asks.values()} == {"two"}
    must_be_whole(harbour, "2.0.0")
    must_have_made_one_to_a_key(harbour)


def test_a_crash_while_going_on_after_a_crash_is_gone_on_from(harbour: Harbour) -> None:
    harbour.hold("1.0.0")
    harbour.declare("2.0.0")
    with harbour.serving():
        crash(harbour, "step_prove")
        crash(harbour, AGAIN)
        goes_on(harbour)
    must_be_whole(harbour, "2.0.0")
    must_have_made_one_to_a_key(harbour)


@pytest.mark.parametrize("name", BACK)
def test_a_bad_release_is_taken_back_wherever_the_daemon_was_killed(harbour: Harbour, name: str) -> None:
    harbour.hold("1.0.0")
    harbour.declare("3.0.0")
    with harbour.serving():
        crash(harbour, name)
        harbour.held.start()
        harbour.held.wait("the way back", lambda: harbour.newest_job() == "rolled_back")
        harbour.held.wait("last good", lambda: harbour.held.in_sync("1.0.0", len(TARGETS)))
    must_be_whole(harbour, "1.0.0", kept=0, state="rolled_back")


def test_a_removal_is_finished_and_touches_nothing_else(harbour: Harbour) -> None:
    harbour.hold("1.0.0")
    gone, stays = TARGETS
    before = [one["Id"] for one in harbour.workloads(stays)]
    harbour.declare("1.0.0", [stays])
    crash(harbour, REMOVAL)
    harbour.held.start()
    harbour.held.wait("the removal", lambda: harbour.held.in_sync("1.0.0", 1))
    assert (harbour.workloads(gone), harbour.holders(gone)) == ([], [])
    assert [one["Id"] for one in harbour.workloads(stays)] == before
    assert [job["state"] for job in harbour.held.jobs()] == ["completed", "completed"]


def crash(harbour: Harbour, name: str) -> None:
    """A daemon that dies there; a failpoint that is not visited is a failure of the test."""
    harbour.held.start(f"{name}:kill")
    assert harbour.held.died(), f"{name} was not reached: {harbour.held.log}"


def goes_on(harbour: Harbour) -> None:
    """Started again without a failpoint, the daemon finishes what it began."""
    harbour.held.start()
    harbour.held.wait("the next release", lambda: harbour.held.in_sync("2.0.0", len(TARGETS)))


def must_be_whole(harbour: Harbour, version: str, *, kept: int = 1, state: str = "completed") -> None:
    """One container runs to each target and the one before is kept, one proven sticker is worn, and all is done."""
    image = str(harbour.yard.artifact(APPS[version]))
    for target in TARGETS:
        serving, holders = harbour.workloads(target, running=True), harbour.holders(target)
        assert [one["Image"] for one in serving] == [image]
        assert len(harbour.workloads(target)) == kept + 1
        assert [one["Labels"][render.PHASE] for one in holders] == ["proven"]
    assert [job["state"] for job in harbour.held.jobs()] == [state, "completed"]
    assert harbour.held.ask("plan", environment="fleet")["waves"] == []


def must_have_made_one_to_a_key(harbour: Harbour) -> None:
    """By what the engine tells of all that was ever created, and by what is there, stopped ones included."""
    there = [one["Labels"][render.KEY] for target in TARGETS for one in harbour.workloads(target)]
    assert len(there) == len(set(there))
    serving = [one["Labels"][render.KEY] for target in TARGETS for one in harbour.workloads(target, running=True)]
    assert harbour.created() == dict.fromkeys(serving, 1)
