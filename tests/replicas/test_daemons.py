"""Two real daemons on one PostgreSQL: one is killed, or halted and woken, in the middle of a deployment."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.replicas.daemons import LEASE, Estate, estate


@pytest.fixture
def held(tmp_path: Path, postgresql: str) -> Iterator[Estate]:
    with estate(tmp_path, postgresql) as made:
        yield made


def token(held: Estate) -> int:
    return int(held.asked("select token from lease where environment = 'default/fleet'")[0][0])


def first_holds(held: Estate, failpoint: str) -> None:
    """The first release stands; the first replica holds it, and will come to a failpoint with the next."""
    held.declare("1.0.0")
    held.first.start()
    held.wait("the first release", lambda: held.settled("1.0.0"))
    held.first.kill()
    held.declare("2.0.0")
    taken = held.first.log.count("environment=default/fleet token=")
    held.first.start(failpoint)
    held.wait("its lease", lambda: held.first.log.count("environment=default/fleet token=") > taken)


@pytest.mark.parametrize("point", ["after_intent", "step_start", "step_prove", "before_task_end"])
def test_a_holder_that_is_killed_in_mid_deploy_is_followed_and_nothing_is_done_twice(held: Estate, point: str) -> None:
    first_holds(held, f"{point}:kill")
    before = token(held)
    held.second.start()
    assert held.first.died(), held.first.log
    held.wait("the next release", lambda: held.settled("2.0.0"))
    assert token(held) > before
    assert held.asked("select state from job order by number") == [("completed",), ("completed",)]
    assert set(held.instances().values()) == {1}
    assert held.asked("select count(*) from (select key from task group by key having count(*) > 1) twice") == [(0,)]


def test_a_holder_that_was_halted_and_wakes_after_a_newer_release_changes_nothing(held: Estate) -> None:
    first_holds(held, "before_effect:stop")
    held.wait("the halt", held.first.stopped)
    held.second.start()
    held.wait("the next release", lambda: held.settled("2.0.0"))
    held.declare("3.0.0")
    held.wait("the newest release", lambda: held.settled("3.0.0"))
    held.first.go_on()
    until = time.monotonic() + 2 * LEASE
    while time.monotonic() < until:
        assert held.served == {"3.0.0"}
        time.sleep(0.05)
    assert set(held.instances().values()) == {1}
    assert "lease_lost" in held.first.log or "STALE_FENCE" in held.first.log or "LostLease" in held.first.log
    assert held.first.process is not None
    assert held.first.process.poll() is None  # it follows now
