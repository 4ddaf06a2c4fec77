"""What comes from outside is shown, never obeyed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from freezegun import freeze_time

from api.cli import show


def test_control_characters_are_shown_and_not_obeyed() -> None:
    assert show.clean("web\x1b[31m\nfake line\x07") == "web\\x1b[31m\\nfake line\\x07"


def test_right_to_left_overrides_are_shown() -> None:
    assert "\u202e" not in show.clean("gnp\u202eexe")


NOW = datetime(2026, 11, 21, 14, 5, tzinfo=UTC)


@freeze_time(NOW)
@pytest.mark.parametrize(("seconds", "text"), [(0, "now"), (59, "59s"), (60, "1m"), (7200, "2h"), (200_000, "2d")])
def test_ages_are_rounded_down_to_one_unit(seconds: int, text: str) -> None:
    assert show.ago((NOW - timedelta(seconds=seconds)).isoformat()) == text


@freeze_time(NOW)
def test_a_time_to_come_says_so() -> None:
    assert show.ago((NOW + timedelta(seconds=90)).isoformat()) == "in 1m"


def test_columns_are_as_wide_as_their_widest_cell(capsys: pytest.CaptureFixture[str]) -> None:
    show.columns(("a", "b"), [("long cell", 1), ("x", None)])
    assert capsys.readouterr().out == "A          B\nlong cell  1\nx\n"


def test_colours_take_no_width(capsys: pytest.CaptureFixture[str]) -> None:
    show.columns(("a", "b"), [("\x1b[32mok\x1b[0m", "1"), ("long", "2")])
    assert capsys.readouterr().out.splitlines()[1].endswith("ok\x1b[0m    1")


def test_what_is_wrong_is_counted_first() -> None:
    assert show.counts({"in sync": 3, "lying": 1}) == "1 lying, 3 in sync"
