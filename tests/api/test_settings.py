"""Settings are read strictly: what cannot be meant is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from api.settings import BadSetting, Settings, read


def test_defaults_need_no_environment() -> None:
    assert read({}) == Settings()


def test_the_command_line_wins_over_the_environment() -> None:
    assert read({"HOLDFAST_STATE": "/a"}, state=Path("/b")).state == Path("/b")


def test_what_is_not_given_on_the_command_line_is_taken_from_the_environment() -> None:
    assert read({"HOLDFAST_STATE": "/a"}, state=None).state == Path("/a")


def test_a_misspelt_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(BadSetting, match="did you mean HOLDFAST_DOCUMENTS"):
        read({"HOLDFAST_DOCUMENT": "/a"})


def test_names_of_other_programs_are_left_alone() -> None:
    assert read({"HOLDFASTER": "1", "PATH": "/bin", "HOLDFAST_TEST_ENGINE": "x"}) == Settings()


@pytest.mark.parametrize("text", ["", "0", "-1", "10001", "1e3", "٣", "many"])
def test_a_concurrency_that_is_no_number_in_range_is_refused(text: str) -> None:
    with pytest.raises(BadSetting, match="HOLDFAST_CONCURRENCY"):
        read({"HOLDFAST_CONCURRENCY": text})


def test_a_level_that_nobody_knows_is_refused_with_those_that_are() -> None:
    with pytest.raises(BadSetting, match="debug, info, warning, error"):
        read({"HOLDFAST_LOG_LEVEL": "loud"})


def test_without_a_database_the_state_directory_has_one() -> None:
    assert read({"HOLDFAST_STATE": "/var/lib/h"}).database_url == "sqlite:////var/lib/h/holdfast.db"


def test_another_database_is_taken_as_it_is() -> None:
    url = "postgresql+psycopg://h@/db"
    assert read({"HOLDFAST_DATABASE": url}).database_url == url


def test_hooks_are_off_on_or_of_targets_alone() -> None:
    assert [read({"HOLDFAST_HOOKS": text}).hooks for text in ("off", "target", "on")] == ["off", "target", "on"]
    with pytest.raises(BadSetting, match="off, target, on"):
        read({"HOLDFAST_HOOKS": "yes"})
