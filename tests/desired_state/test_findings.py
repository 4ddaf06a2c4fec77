from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from desired_state import findings
from desired_state.findings import Finding, Notes, escaped, is_hidden, key_text, path_text, shown


def finding(**changes: object) -> Finding:
    made = Finding(
        code="C",
        file="a.yaml",
        line=3,
        column=7,
        path="sync.mode",
        found="'auto'",
        expected="one of automatic, ask",
        nearest="automatic",
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def test_a_finding_is_one_line_that_says_everything() -> None:
    line = "a.yaml:3:7: sync.mode: found 'auto'; expected one of automatic, ask; did you mean automatic?"
    assert str(finding()) == line


def test_a_finding_without_path_or_nearest_word_leaves_both_out() -> None:
    assert str(finding(path="", nearest=None)) == "a.yaml:3:7: found 'auto'; expected one of automatic, ask"


@given(st.text())
@settings(deadline=None)
def test_escaped_text_is_one_printable_line(text: str) -> None:
    assert escaped(text).isprintable()


@given(st.one_of(st.text(), st.integers(), st.floats(), st.none(), st.booleans()))
@settings(deadline=None)
def test_what_is_shown_is_short_and_printable(value: object) -> None:
    text = shown(value, ("name",))
    assert text.isprintable()
    assert len(text) <= findings.SHOWN


def test_long_values_are_cut() -> None:
    assert shown("x" * 500, ("name",)) == "'" + "x" * 78 + "…"


@pytest.mark.parametrize(
    "path",
    [
        ("components", "api", "environment", "DB"),
        ("components", "api", "environment"),
        ("components", "api", "environment", "DB", "secret"),
        ("components", "api", "registry_credentials", "secret"),
        ("components", "api", "command"),
        ("components", "api", "command", 3),
        ("connection", "password"),
        ("connection", "api_token"),
    ],
)
def test_values_that_may_be_secret_are_not_shown(path: findings.Path) -> None:
    assert is_hidden(path)
    assert shown("hunter2", path) == "a text"
    assert shown(42, path) == "a number"
    assert shown(True, path) == "true or false"


@pytest.mark.parametrize("path", [("environment",), ("name",), ("components", "api", "ports", 0), ("driver",)])
def test_other_values_are_shown(path: findings.Path) -> None:
    assert shown("web", path) == "'web'"


def test_credentials_in_an_address_are_not_shown() -> None:
    assert shown("tcp://me:hunter2@host:1/x", ("connection", "engine")) == "'tcp://…@host:1/x'"


def test_a_key_below_environment_is_cut_where_a_value_may_begin() -> None:
    assert key_text("PASSWORD=hunter2", ("components", "api", "environment")) == "PASSWORD…"
    assert key_text("PASSWORD", ("components", "api", "environment")) == "PASSWORD"


def test_a_path_reads_like_its_document() -> None:
    assert path_text(("components", "api", "ports", 0)) == "components.api.ports[0]"
    assert path_text(("labels", "a b", "\x1b")) == 'labels."a b"."\\x1b"'


def test_notes_keep_each_finding_once_and_give_them_in_order_of_place() -> None:
    notes = Notes()
    for line in (9, 2, 9):
        notes.add(finding(line=line))
    assert [found.line for found in notes.sorted()] == [2, 9]


def test_the_nearest_word_is_the_one_that_was_probably_meant() -> None:
    assert Notes().nearest("automtic", ["automatic", "ask", "report"]) == "automatic"
    assert Notes().nearest("zebra", ["automatic", "ask", "report"]) is None
    assert Notes().nearest(5, ["automatic"]) is None


def test_looking_for_nearest_words_ends_before_it_takes_long() -> None:
    notes = Notes()
    known = [f"target-{number}" for number in range(1000)]
    answers = [notes.nearest("targett-1", known) for _ in range(findings.COMPARISONS // 1000 + 1)]
    assert answers[0] == "target-1"
    assert answers[-1] is None
