"""The door to worker threads: its limit, its deadline, and what it never gives up waiting for."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta

import anyio
import pytest

from drivers.blocking import Threads
from drivers.errors import Busy, OutcomeUnknown, Refused, Unreachable

SHORT = timedelta(milliseconds=20)
PATIENCE = 60.0  # seconds after which a thread of a failing test ends by itself


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """What a hanging call waits for; opened when the test ends."""
    event = threading.Event()
    yield event
    event.set()


async def test_a_call_answers_from_another_thread() -> None:
    assert await Threads("engine").run(threading.get_ident) != threading.get_ident()


async def test_no_more_calls_than_the_limit_are_under_way() -> None:
    threads, lock, now, most = Threads("engine", limit=2), threading.Lock(), [0], [0]

    def call() -> None:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        threading.Event().wait(0.01)
        with lock:
            now[0] -= 1

    async with anyio.create_task_group() as group:
        for _ in range(8):
            group.start_soon(threads.run, call)
    assert most == [2]


async def test_one_connection_that_hangs_does_not_take_the_threads_of_another(gate: threading.Event) -> None:
    hanging, other = Threads("hangs", limit=1), Threads("other", limit=1)
    async with anyio.create_task_group() as group:
        group.start_soon(hanging.run, lambda: gate.wait(PATIENCE))
        with anyio.fail_after(30):
            assert await other.run(lambda: 1) == 1
        gate.set()


async def test_a_late_read_is_unreachable_and_not_waited_for(gate: threading.Event) -> None:
    with pytest.raises(Unreachable, match=r"engine did not answer within 0\.02 s"):
        await Threads("engine").run(lambda: gate.wait(PATIENCE), abandon=True, within=SHORT)
    assert not gate.is_set()


async def test_an_abandoned_read_keeps_its_place_until_it_ends(gate: threading.Event) -> None:
    threads = Threads("engine", limit=1)
    with pytest.raises(Unreachable):
        await threads.run(lambda: gate.wait(PATIENCE), abandon=True, within=SHORT)
    with pytest.raises(Unreachable, match="1 calls are under way"):
        await threads.run(lambda: None, abandon=True, within=SHORT)
    gate.set()
    with anyio.fail_after(30):
        assert await threads.run(lambda: 7) == 7


async def test_a_change_that_finds_no_thread_is_busy_and_never_begun(gate: threading.Event) -> None:
    threads, begun = Threads("engine", limit=1), threading.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(threads.run, lambda: gate.wait(PATIENCE))
        await anyio.lowlevel.checkpoint()
        await anyio.sleep(0.01)
        with pytest.raises(Busy):
            await threads.run(begun.set, within=SHORT)
        gate.set()
    assert not begun.is_set()


async def test_a_cancelled_change_is_seen_to_its_end() -> None:
    ended = threading.Event()

    def change() -> None:
        threading.Event().wait(0.05)
        ended.set()

    with anyio.move_on_after(0.01) as scope:
        await Threads("engine").run(change)
    assert scope.cancel_called
    assert ended.is_set()


async def test_a_change_is_not_given_up_at_its_deadline() -> None:
    def change() -> str:
        threading.Event().wait(0.05)
        return "done"

    assert await Threads("engine").run(change, within=SHORT) == "done"


async def test_a_cancelled_call_that_waits_for_a_thread_is_never_begun(gate: threading.Event) -> None:
    threads, begun = Threads("engine", limit=1), threading.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(threads.run, lambda: gate.wait(PATIENCE))
        await anyio.sleep(0.01)
        with anyio.move_on_after(0.02):
            await threads.run(begun.set)
        gate.set()
    assert await threads.run(lambda: 1) == 1
    assert not begun.is_set()


async def test_foreign_errors_are_translated_and_keep_their_cause() -> None:
    def translate(error: Exception) -> Exception:
        return OutcomeUnknown(f"lost: {error}") if isinstance(error, ConnectionError) else error

    def lose() -> None:
        raise ConnectionResetError("reset")

    with pytest.raises(OutcomeUnknown, match="lost: reset") as caught:
        await Threads("engine", translate=translate).run(lose)
    assert isinstance(caught.value.__cause__, ConnectionResetError)


async def test_our_own_errors_are_not_translated_again() -> None:
    def refuse() -> None:
        raise Refused("no")

    with pytest.raises(Refused, match="no"):
        await Threads("engine", translate=lambda error: Unreachable("wrong")).run(refuse)


async def test_what_the_translation_does_not_know_comes_through_as_it_is() -> None:
    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await Threads("engine").run(fail)


async def test_a_failed_call_gives_its_place_back() -> None:
    def fail() -> None:
        raise ZeroDivisionError

    threads = Threads("engine", limit=1)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            await threads.run(fail)
    with anyio.fail_after(30):
        assert await threads.run(lambda: 1) == 1
