"""Arguments of commands are read strictly, and a bare name means the default project."""

from __future__ import annotations

import pytest

from api.commands.given import Given
from api.people.principal import owner
from api.problem import Problem


def given(**arguments: object) -> Given:
    return Given(arguments, owner("a person"))


def test_a_bare_name_is_of_the_default_project() -> None:
    assert given(environment="staging").environment() == "default/staging"


def test_a_qualified_name_is_taken_as_it_is() -> None:
    assert given(target="shop/web-1").target() == "shop/web-1"


@pytest.mark.parametrize("text", ["Staging", "a/b/c", "../etc", "", "a b", "-o"])
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(Problem) as refused:
        given(environment=text).environment()
    assert refused.value.code == "BAD_ARGUMENT"


def test_a_job_is_named_by_environment_and_number() -> None:
    assert given(job="staging:12").job() == "default/staging:12"


@pytest.mark.parametrize("text", ["staging", "staging:", "staging:x", "staging:-1", ":3", "staging:٣"])
def test_what_is_no_job_is_refused(text: str) -> None:
    with pytest.raises(Problem):
        given(job=text).job()


@pytest.mark.parametrize("text", ["tomorrow", "2026-11-21", "2026-11-21T14:05:00"])
def test_a_moment_without_a_zone_is_refused(text: str) -> None:
    with pytest.raises(Problem, match="with a zone"):
        given(at=text).moment("at")


@pytest.mark.parametrize("value", [0, -1, 501, True, "5", 1.0])
def test_a_count_out_of_range_is_refused(value: object) -> None:
    with pytest.raises(Problem, match="from 1 to 500"):
        given(limit=value).count("limit", 20, 500)


def test_a_count_that_is_not_given_is_its_default() -> None:
    assert given().count("limit", 20, 500) == 20


def test_only_true_is_a_flag() -> None:
    assert [given(wait=value).flag("wait") for value in (True, "true", 1, None)] == [True, False, False, False]
