"""The ledger remembers over restarts, and shows where somebody has written in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from api.signer import ledger
from api.signer.ledger import Broken, Ledger, verified
from stickers.names import TargetId

WEB, DB = TargetId("default/web-1"), TargetId("default/db-1")


def sign(book: Ledger, target: TargetId = WEB, fence: int = 1) -> int:
    return book.signed((target, fence), {"target": target, "fence": fence, "fenced": True})


def test_the_sequence_rises_over_restarts(tmp_path: Path) -> None:
    assert [sign(Ledger(tmp_path)) for _ in range(3)] == [1, 2, 3]


def test_the_highest_fence_of_each_target_is_known_after_a_restart(tmp_path: Path) -> None:
    book = Ledger(tmp_path)
    for target, fence in ((WEB, 7), (DB, 2), (WEB, 7)):
        sign(book, target, fence)
    assert Ledger(tmp_path).state.fences == {WEB: 7, DB: 2}


def test_what_has_no_fence_leaves_none(tmp_path: Path) -> None:
    Ledger(tmp_path).signed(None, {"target": WEB, "fence": 0, "fenced": False})
    assert Ledger(tmp_path).state.fences == {}


def test_what_is_refused_is_in_the_chain(tmp_path: Path) -> None:
    book = Ledger(tmp_path)
    book.refused({"target": WEB, "reason": "undeclared"})
    sign(book)
    assert [line["outcome"] for line in ledger.lines(tmp_path)] == ["opened", "refused", "signed"]
    assert verified(tmp_path)[0] == 3


def test_a_full_file_is_followed_by_one_that_opens_with_what_it_came_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "LINES", 4)
    book = Ledger(tmp_path)
    for fence in range(1, 11):
        sign(book, fence=fence)
    assert len(list(tmp_path.iterdir())) == 4
    again = Ledger(tmp_path)
    assert (again.state.sequence, again.state.fences) == (10, {WEB: 10})
    count, state = verified(tmp_path)
    assert (count, state.sequence, state.head) == (14, 10, again.state.head)


def test_a_line_that_was_cut_off_is_taken_away(tmp_path: Path) -> None:
    sign(Ledger(tmp_path))
    file = next(tmp_path.iterdir())
    whole = file.read_text()
    file.write_text(whole + '{"outcome": "sig')
    assert sign(Ledger(tmp_path)) == 2
    assert file.read_text().startswith(whole)
    assert verified(tmp_path)[0] == 3


def _changed(lines: list[str]) -> list[str]:
    return [line.replace('"fence":2', '"fence":9') for line in lines]


def _dropped(lines: list[str]) -> list[str]:
    return lines[:2] + lines[3:]


def _swapped(lines: list[str]) -> list[str]:
    return [lines[0], lines[2], lines[1], *lines[3:]]


@pytest.mark.parametrize("by", [_changed, _dropped, _swapped])
def test_whoever_writes_in_it_is_found_out(tmp_path: Path, by: Callable[[list[str]], list[str]]) -> None:
    book = Ledger(tmp_path)
    for fence in (1, 2, 3, 4):
        sign(book, fence=fence)
    file = next(tmp_path.iterdir())
    file.write_text("\n".join(by(file.read_text().splitlines())) + "\n")
    with pytest.raises(Broken, match="does not follow"):
        verified(tmp_path)
    with pytest.raises(Broken):
        Ledger(tmp_path)


def test_a_file_that_is_gone_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "LINES", 3)
    book = Ledger(tmp_path)
    for fence in range(1, 8):
        sign(book, fence=fence)
    sorted(tmp_path.iterdir())[1].unlink()
    with pytest.raises(Broken):
        verified(tmp_path)
