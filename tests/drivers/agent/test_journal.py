"""The journal: whole entries or none, nothing of them secret, and one that cannot be read keeps nobody from working."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from desired_state.model import Target
from drivers.agent import protocol
from drivers.agent.duty import journal as journals
from drivers.agent.duty.clock import Moment
from drivers.agent.duty.journal import Entry, Full, Journal, Kept, State, Trusted, Trusts
from drivers.agent.protocol import Answer, Code, Task, Verb, Welcome
from drivers.process import host as files
from stickers import names
from stickers.names import ActionKey, EnvironmentId
from stickers.signature import Envelope
from tests.drivers.agent.scene import AGENT, SIGNER

TARGET = Target(id=names.target_id("default", "t1"), environment=EnvironmentId("default/staging"), driver="docker")
DUE = Moment(boot="b", at=5)


def entry(number: int = 1, **said: Any) -> Entry:
    plain: dict[str, Any] = {
        "id": f"t-{number}",
        "key": ActionKey(f"{number:064x}"),
        "agent": AGENT,
        "generation": 1,
        "epoch": "e",
        "target": TARGET.id,
        "environment": TARGET.environment,
        "verb": Verb.DEPLOY,
        "content": protocol.content("{}"),
        "fence": 7,
        "not_after": 1,
        "within": timedelta(seconds=1),
    }
    return Entry(envelope=protocol.sealed(Task(**plain | said), SIGNER.sign), body="{}", due=DUE)


def kept(one: Entry) -> Kept:
    task = one.task
    answer = Answer(task=task.id, envelope=Envelope("an envelope"), body="{}", log="a log")
    return Kept(id=task.id, key=task.key, verb=task.verb, content=task.content, code=Code.DONE, answer=answer)


@pytest.fixture
def journal(tmp_path: Path) -> Any:
    found = Journal(tmp_path)
    yield found
    found.close()


def again(journal: Journal) -> Journal:
    """As the next run finds it."""
    os.close(journal._lock)
    journal.__init__(journal.folder)  # type: ignore[misc]
    return journal


def test_a_task_is_there_for_the_next_run_as_far_as_it_was(journal: Journal) -> None:
    journal.accept(entry())
    journal.begin("t-1")
    journal.attach("t-1", entry(2, key=entry().task.key, fence=9).envelope)
    found = again(journal).unfinished["t-1"]
    assert (found.state, found.due, [task.id for task in found.tasks]) == (State.BEGUN, DUE, ["t-1", "t-2"])
    assert journal.fence(TARGET.id) == 9


def test_tasks_are_carried_on_in_the_order_in_which_they_came(journal: Journal) -> None:
    for number in (3, 1, 2):
        journal.accept(entry(number))
    assert list(again(journal).unfinished) == ["t-3", "t-1", "t-2"]


def test_an_answer_takes_the_place_of_its_task(journal: Journal) -> None:
    journal.accept(entry())
    journal.finish("t-1", (kept(entry()),))
    assert not again(journal).unfinished
    assert journal.unacknowledged() == ("t-1",)
    assert journal.answer("t-1") == kept(entry()).answer


def test_a_task_that_was_answered_when_the_power_went_is_not_done_again(journal: Journal) -> None:
    journal.accept(entry())
    journal.keep(kept(entry()))
    assert not again(journal).unfinished


def test_an_answer_that_was_acknowledged_is_kept_for_a_while(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journals, "ANSWERED", 3)
    for number in range(5):
        journal.keep(kept(entry(number)))
        os.utime(journal.folder / "results" / journals._name(f"t-{number}"), (1e9 + number, 1e9 + number))
        monkeypatch.setattr(journal, "_wall", lambda: 1e9 + 100)
        journal.acknowledge(f"t-{number}")
    assert journal.unacknowledged() == ()
    assert sorted(journal.known) == ["t-2", "t-3", "t-4"]
    assert journal.answer("t-4") is not None
    assert journal.answer("t-0") is None
    assert sorted(again(journal).known) == ["t-2", "t-3", "t-4"]


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"format": "holdfast.agent-journal/v9", "entry": {}}', b"\xff", b"{}" * 10]
)
def test_an_entry_that_cannot_be_read_is_set_aside_and_said(
    journal: Journal, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    journal.accept(entry(1))
    journal.accept(entry(2))
    path = journal.folder / "tasks" / journals._name("t-1")
    path.write_bytes(content)
    with caplog.at_level(logging.ERROR):
        assert list(again(journal).unfinished) == ["t-2"]
    assert str(path) in caplog.text
    assert [one.read_bytes() for one in (journal.folder / "aside").iterdir()] == [content]


def test_a_link_among_the_entries_is_not_followed(journal: Journal, tmp_path: Path) -> None:
    journal.accept(entry())
    path = journal.folder / "tasks" / journals._name("t-1")
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert not again(journal).unfinished


@pytest.mark.parametrize("at", [0, 1])
def test_where_there_is_no_room_nothing_has_changed(journal: Journal, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """At the fence, and at the task itself."""
    written = files.write_file
    left = [at]

    def full(path: str, content: bytes, mode: int, *, durable: bool = True) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device", path)
        written(path, content, mode, durable=durable)

    monkeypatch.setattr(files, "write_file", full)
    with pytest.raises(Full, match="No space left"):
        journal.accept(entry())
    assert not journal.unfinished
    monkeypatch.undo()
    assert not again(journal).unfinished


def test_numbers_go_on_over_runs_and_none_comes_twice(journal: Journal) -> None:
    first = [journal.number() for _ in range(2 * journals.NUMBERS)]
    second = [again(journal).number() for _ in range(3)]
    assert first + second == sorted({*first, *second})


def test_all_of_it_is_for_its_owner_alone(journal: Journal) -> None:
    journal.accept(entry())
    journal.welcomed(Welcome(protocol=1, targets=(TARGET.id,)))
    journal.trust(Trusts(keys=(Trusted(public="00"),)))
    modes = {path.stat().st_mode & 0o077 for path in journal.folder.rglob("*")}
    assert modes == {0}
    assert again(journal).welcome() == Welcome(protocol=1, targets=(TARGET.id,))
    assert journal.trusts().keys == (Trusted(public="00"),)


def test_a_file_that_was_being_written_when_the_power_went_is_passed_over(journal: Journal) -> None:
    journal.accept(entry())
    (journal.folder / "tasks" / ".half.json").write_text(json.dumps({"format": journals.FORMAT})[:10])
    assert list(again(journal).unfinished) == ["t-1"]


def test_a_fence_never_falls(journal: Journal) -> None:
    journal.raise_fence(TARGET.id, 5)
    journal.raise_fence(TARGET.id, 3)
    assert again(journal).fence(TARGET.id) == 5
    assert journal.fence(replace(TARGET, id=names.target_id("default", "t2")).id) == 0
