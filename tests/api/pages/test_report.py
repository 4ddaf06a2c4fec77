"""The drift report outside of any page: complete, and harmless in a spreadsheet and in a mail."""

from __future__ import annotations

import csv
import io
import re
from datetime import UTC, datetime
from typing import Any

import pytest

from api.cli import fleet as cli
from api.pages import report
from api.pages.words import MARKS, Tone
from reconciler.core.drift import Verdict
from reconciler.store.overview import GRAVITY

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


def row(**given: Any) -> dict[str, Any]:
    return {
        "environment": "default/prod",
        "target": "default/web-1",
        "component": "api",
        "slot": "live",
        "verdict": "stopped",
        "release": "shop@1.0.0",
        "since": "2026-11-21T11:00:00+00:00",
        "trust": "valid",
        "rule": "it is stopped",
        "reason": "",
        "differences": ["LOG_LEVEL: debug instead of info"],
        "blocked": None,
    } | given


def test_a_table_has_a_line_for_each_placement_the_gravest_first() -> None:
    text = report.as_csv([row(verdict="unlabelled"), row(target="default/web-10"), row(target="default/web-9")])
    lines = list(csv.DictReader(io.StringIO(text)))
    assert [line["target"] for line in lines] == ["default/web-9", "default/web-10", "default/web-1"]
    assert lines[0]["differences"] == "LOG_LEVEL: debug instead of info"


@pytest.mark.parametrize("attack", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_a_spreadsheet_computes_nothing_that_a_host_wrote(attack: str) -> None:
    line = next(csv.DictReader(io.StringIO(report.as_csv([row(reason=attack)]))))
    assert not line["reason"].lstrip(" ").startswith(("=", "+", "-", "@")) or line["reason"].startswith(" ")
    assert "\r" not in line["reason"]


def test_the_file_for_mail_needs_nothing_beside_it_and_runs_nothing() -> None:
    text = report.as_html([row(reason="<script>alert(1)</script>")], now=NOW)
    assert "&lt;script&gt;alert(1)" in text
    assert not re.search(r"<script|<img|<link|https?://|url\(", text)
    assert "1 placement not in sync" in text


def test_an_empty_report_says_that_everything_is_in_sync() -> None:
    assert "Everything is in sync" in report.as_html([], now=NOW)
    assert len(report.as_csv([]).splitlines()) == 1


def test_the_command_line_makes_the_same_report() -> None:
    assert cli._report([row()], "csv") == report.as_csv([row()])
    assert "1 placement not in sync" in cli._report([row()], "html")


def test_every_verdict_has_one_mark_and_no_two_share_a_symbol() -> None:
    assert set(MARKS) == set(Verdict)
    assert len({mark.symbol for mark in MARKS.values()}) == len(MARKS)


def test_nothing_but_in_sync_is_green() -> None:
    assert [verdict for verdict, mark in MARKS.items() if mark.tone is Tone.GOOD] == [Verdict.IN_SYNC]


def test_marks_are_in_the_order_of_gravity() -> None:
    assert tuple(MARKS) == GRAVITY
